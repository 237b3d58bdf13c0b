// SPDX-License-Identifier: Apache-2.0
// Owns: the monotonic clock. Wall-clock time is never used for deadlines: it jumps.
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t tc_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t tc_now_us(void)
{
    return tc_now_ns() / 1000u;
}
