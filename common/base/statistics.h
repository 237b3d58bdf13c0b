// SPDX-License-Identifier: Apache-2.0
// Owns: what processes count about themselves, in words of 64 bits that travel as they are: histograms of
// durations over one list of bounds, and the account of one expert worker. Refuses: rates and averages:
// whoever reads two states of a counter makes them.
#pragma once

#include "common/base/clock.h"
#include <stdint.h>

// 0, by meson's -Dcounting=false: nothing is counted and no stage is timed, so that benchmarks/counting.py
// can say what that costs. Not for use: metrics, budgets that follow from them and traces are void.
#ifndef TC_COUNTS
#define TC_COUNTS 1
#endif

// The clock, for what is timed only to be told.
static inline uint64_t tc_stage_now_us(void)
{
    return TC_COUNTS ? tc_now_us() : 0;
}

// Upper bounds of the buckets, in microseconds; one more bucket is above all of them.
#define TC_HISTOGRAM_BOUNDS_US                                                                               \
    50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000,      \
        5000000, 10000000, 30000000, 60000000
enum { TC_HISTOGRAM_BOUNDS = 19 };

typedef struct tc_histogram {
    uint64_t count[TC_HISTOGRAM_BOUNDS + 1]; // not cumulative
    uint64_t sum_us;
} tc_histogram;

static inline void tc_histogram_add(tc_histogram *h, uint64_t us)
{
    static const uint64_t bounds[] = {TC_HISTOGRAM_BOUNDS_US};
    _Static_assert(sizeof bounds / sizeof *bounds == TC_HISTOGRAM_BOUNDS, "the list of bounds");
    unsigned at = 0;
    if (!TC_COUNTS) return;
    while (at < TC_HISTOGRAM_BOUNDS && us > bounds[at]) at++;
    h->count[at]++;
    h->sum_us += us;
}

// One worker index, over all processes that had it. Times by the core's clock, but for compute_us, an
// interval of the worker's own.
typedef struct tc_worker_stats {
    uint64_t up;        // processes of this index that are connected
    uint64_t starts;    // that have been
    uint64_t in_flight; // calls it computes now
    uint64_t calls, failures;
    uint64_t retries;              // calls that had been given to it and were given out again
    uint64_t quarantines;          // times that it was left alone for breaking its word
    uint64_t hedges;               // calls that were given to another worker too, because this one was late
    uint64_t shm_bytes, nng_bytes; // of calls and answers, by carrier
    uint64_t expert_bytes;         // of packed experts that its calls read
    uint64_t compute_us;
    uint64_t wait_us; // of the calls' latency, what was not computing: carrying, queueing, waking
    tc_histogram latency;
} tc_worker_stats;
