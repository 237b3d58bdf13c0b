// SPDX-License-Identifier: Apache-2.0
// Owns: what a thread does between two looks at what it waits for, before it gives up and sleeps: it pauses,
// and every few looks it gives its CPU away. Where the awaited one shares the CPU (core and workers on a
// small machine) that hands over in about a microsecond, where waking a sleeper takes tens of them and a
// spinner that keeps the CPU would keep it from whom it waits for. Where nobody else wants the CPU it costs
// one short system call.
#pragma once

#include <sched.h>

enum {
    TC_SPIN_LOOKS = 16, // looks between two yields
    // How long to look before sleeping, unless told otherwise: so long that waking a sleeper is lost in it.
    TC_SPIN_US = 5000,
};

static inline void tc_spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

static inline void tc_spin_yield(void)
{
    (void)sched_yield();
}
