// SPDX-License-Identifier: Apache-2.0
// Owns: what is remembered of a worker process across its connections: how often it broke its word (an answer
// of another shape, to another call, twice, none within the deadline, or none where another worker had one),
// and until when it is therefore left alone. Refuses: to cut anybody off, and to count deaths: who dies has
// said nothing wrong.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    TC_CONDUCTS_MAX = 128,         // processes remembered; the one that was quiet longest is forgotten first
    TC_QUARANTINE_MIN_US = 500000, // after the first strike, doubling with each
    TC_QUARANTINE_MAX_US = 60000000,          // at most
    TC_CONDUCT_MEMORY_US = 10 * 60 * 1000000, // without a strike for so long: as if there had been none
};

typedef struct tc_conduct {
    uint64_t pid;
    uint32_t index, strikes;
    uint64_t last_us, until_us;
    char reason[160]; // of the last strike
} tc_conduct;

typedef struct tc_conducts {
    tc_conduct of[TC_CONDUCTS_MAX];
    uint32_t count; // 0 where nobody ever did wrong: that costs nothing
} tc_conducts;

// NULL: nothing is held against it.
const tc_conduct *tc_conduct_find(const tc_conducts *all, uint32_t index, uint64_t pid);
// One strike; returns how long its quarantine is, from now on.
uint64_t tc_conduct_strike(tc_conducts *all, uint32_t index, uint64_t pid, uint64_t now_us,
                           const char *reason);
bool tc_conduct_quarantined(const tc_conducts *all, uint32_t index, uint64_t pid, uint64_t now_us);
