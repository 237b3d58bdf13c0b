// SPDX-License-Identifier: Apache-2.0
// Owns: a fork-join team of threads: pinned, spinning briefly for the next job, then parked on a futex.
// The caller of tc_team_run is member 0, so a team of 1 starts no thread. One job runs at a time.
// Refuses: nesting, and use from two callers at once.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum { TC_TEAM_THREADS_MAX = 256 };

typedef struct tc_team tc_team;

typedef struct tc_team_options {
    uint32_t threads;     // 1..TC_TEAM_THREADS_MAX
    const uint32_t *cpus; // CPU of each member, or NULL: not pinned (member 0 is pinned too)
    uint32_t spin_us; // how long a member looks for the next job before it parks (spin.h); 0 = park at once
} tc_team_options;

tc_status tc_team_create(const tc_team_options *options, tc_team **ret, tc_error *e);
void tc_team_free(tc_team *team); // NULL is legal
uint32_t tc_team_size(const tc_team *team);

// Runs job(arg, member) on every member, member = 0..size-1, and returns when all have returned.
// Allocates nothing. Everything written by the members is visible to the caller afterwards.
typedef void tc_team_job(void *arg, uint32_t member);
void tc_team_run(tc_team *team, tc_team_job *job, void *arg);

// Runs item(arg, i, member) for every i in [0, items), handed out one by one through a shared counter, so a
// slow core does not stall the rest.
typedef void tc_team_item(void *arg, uint32_t i, uint32_t member);
void tc_team_each(tc_team *team, uint32_t items, tc_team_item *item, void *arg);

// How many of `left` items are dealt out to one of `members` at once: a part of its share that is smaller
// where there are more who would wait for one that is slow. All for one member, three quarters for two, half
// for many.
static inline uint32_t tc_team_share(uint32_t left, uint32_t members)
{
    return (uint32_t)((uint64_t)left * (members + 1) / (2ull * members * members));
}

// Runs range(arg, begin, end, member) over [0, total): ranges are shares of what is left, at last `least`
// items, so that the members end together.
typedef void tc_team_range(void *arg, uint32_t begin, uint32_t end, uint32_t member);
void tc_team_ranges(tc_team *team, uint32_t total, uint32_t least, tc_team_range *range, void *arg);

// Inside a job: waits until every member has arrived.
void tc_team_barrier(tc_team *team);
