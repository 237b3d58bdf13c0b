// SPDX-License-Identifier: Apache-2.0
// Owns: what is expected of workers that are not equally near: how long each takes, into how many parts a
// call is cut, and when an answer is so late that another worker is asked too. Numbers only. Refuses:
// sockets, calls and clocks; a choice here changes times and never a result (sums are fixed point, so any cut
// and any worker gives the same bits).
//
//   expected time = overhead + carried KiB * carry + work * pace        all four moving averages of one
//   worker
//
// Overhead is what a small call takes beyond its computing: 20 us by shared memory, a round trip elsewhere. A
// far worker is so given nothing of a single token where its round trip alone takes longer than the near ones
// need for all of it, and its part of a prompt where that is worth the way.
#pragma once

#include "common/kernels/ffn.h"

enum {
    TC_HEDGE_MIN_US = 5000,      // no answer is late before
    TC_HEDGE_UNKNOWN_US = 50000, // of a worker of whom nothing is known
    TC_PACE_STALE_US = 2000000,  // what was seen longer ago counts less: half with each
    TC_PACE_SMALL_KIB = 64,      // calls that carry less tell of overhead, those with more of carrying
};

typedef struct tc_pace {
    double overhead_us, carry_us, work_us;
    double miss_us; // by how much expectations missed
    uint32_t samples;
    uint64_t noted_us;
} tc_pace;

typedef struct tc_call_size {
    double carried_kib; // to the worker and back
    double work;        // units of experts read, and a share for every pair computed with them
} tc_call_size;

tc_call_size tc_call_size_of(const tc_expert_call *call);

void tc_pace_note(tc_pace *pace, const tc_call_size *size, uint64_t latency_us, uint64_t compute_us,
                  uint64_t now_us);
// 0 where nothing is known: so it is tried. What is known grows old, so that who was slow once is tried
// again.
double tc_pace_expect_us(const tc_pace *pace, const tc_call_size *size, uint64_t now_us);
// How long after it was sent a call to this worker is late.
double tc_pace_late_us(const tc_pace *pace, const tc_call_size *size);

typedef struct tc_fleet_member {
    uint32_t group; // which of the `groups` shares it is the owner of
    const tc_pace *pace;
} tc_fleet_member;

// Into how many parts, 1..most, each of the groups' shares of a call is cut so that it takes the least time;
// each group has at least one member for each part.
uint32_t tc_fleet_cut(const tc_fleet_member *members, uint32_t count, uint32_t groups, uint32_t most,
                      const tc_call_size *whole, uint64_t now_us);
