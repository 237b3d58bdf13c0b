// SPDX-License-Identifier: Apache-2.0
// Owns: waiting across processes: spin for a while, then sleep on a futex; and the bell, a small shared
// segment on which the hub sleeps for many causes at once (replies of several workers, events of its own nng
// threads). Refuses: to carry news. What is awaited lies elsewhere (a flag, a queue); a ring only says "look
// again", may be spurious, and may be missed when a peer misbehaves or dies between its store and its ring:
// so every wait is given a timeout by a caller who looks again.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

// Where one waiter sleeps; lies in memory that several processes share, alone on its 128 bytes. Any number
// may ring, one thread at a time waits. Zeroed is ready for use.
typedef struct tc_wait_line {
    uint32_t word;     // the futex; grows with every ring that finds a sleeper
    uint32_t sleeping; // 1: the waiter is in, or about to enter, the kernel
} tc_wait_line;

// Has what is awaited happened? Called often while spinning: cheap, and without side effects.
typedef bool tc_ready(void *arg);

// TC_OK once ready(arg); TC_TIMEOUT after timeout_us (0: only look; UINT64_MAX: never). Spins for spin_us
// before each sleep (spin.h). Nothing is lost if ready() can see its cause at
// the latest when the cause's ring begins.
tc_status tc_line_wait(tc_wait_line *line, tc_ready *ready, void *arg, uint64_t spin_us, uint64_t timeout_us);
// Called after the cause was stored. A system call only when the waiter sleeps. Async-signal-safe.
void tc_line_ring(tc_wait_line *line);

typedef struct tc_bell tc_bell;

tc_status tc_bell_create(tc_bell **ret, tc_error *e);                 // hub
const char *tc_bell_name(const tc_bell *bell);                        // what to tell the workers
tc_status tc_bell_open(const char *name, tc_bell **ret, tc_error *e); // worker; errors as tc_segment_open
void tc_bell_close(tc_bell *bell); // NULL is legal. The maker's close also unlinks the name.
void tc_bell_ring(tc_bell *bell);
tc_status tc_bell_wait(tc_bell *bell, tc_ready *ready, void *arg, uint64_t spin_us, uint64_t timeout_us);
