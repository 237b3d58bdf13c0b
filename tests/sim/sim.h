// SPDX-License-Identifier: Apache-2.0
// Owns: what the parts of the simulation know of each other: the virtual clock and its events (network.c),
// the links between core and workers with their faults (network.c), and the run of one seed (sim.c).
#pragma once

#include "proto/link.h"
#include <stdbool.h>
#include <stdint.h>

// What goes wrong in one seed; chances in a thousand, of a message or of a worker's call.
typedef struct sim_faults {
    uint32_t delay, lose, duplicate, reorder; // of messages
    uint32_t crash, stall, lie;               // of workers, by call
    uint32_t partition;                       // of workers, by call: the way to the core is cut for a while
    uint32_t slow_workers;                    // of all workers
    uint64_t latency_us, jitter_us;
} sim_faults;

typedef void sim_action(void *arg, uint64_t number);

void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void sim_say(const char *format, ...) __attribute__((format(printf, 1, 2))); // with --verbose

// ---- time and chance ----
extern uint64_t sim_now_us;
void sim_begin(uint64_t seed, const sim_faults *faults); // everything from before is gone
void sim_end(void);
void sim_calm(void); // no new fault from here on; partitions heal
uint64_t sim_random(uint64_t below);
bool sim_chance(uint32_t in_a_thousand);
void sim_at(uint64_t at_us, sim_action *action, void *arg, uint64_t number);
// The next event, if it is not after `until_us`: the clock goes there and it is run. False: the clock is at
// until_us.
bool sim_next_event(uint64_t until_us);
uint64_t sim_next_event_us(void); // UINT64_MAX: there is none

// ---- links ----
// Called when an item came to a dialling link.
void sim_on_item(tc_link *link, sim_action *action, void *arg, uint64_t number);
tc_link *sim_dialler(uint32_t number); // the number-th that was opened and lives
void sim_kill(tc_link *link);          // its process: no goodbye, and nothing more is heard of it
void sim_cut_off(tc_link *link, uint64_t for_us);
