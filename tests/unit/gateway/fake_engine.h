// SPDX-License-Identifier: Apache-2.0
// Owns: a stand-in for the core: the client functions of proto/engine.h, linked instead of the real ones, and
// what a test does to it. By default it answers each generation at once with the reply set; held, it does
// what it is told.
#pragma once

#include "proto/engine.h"

void fake_reset(void); // down, no replies, nothing recorded
void fake_up(void);
void fake_down(const char *reason);
void fake_status(bool ready, uint32_t workers, const char *reason); // answer to every status question
void fake_waiting(uint32_t count);                                  // requests that wait for a place, in it
void fake_mute_status(bool mute);                                   // does not answer them
void fake_reply(const char *text);                                  // one token for each byte, then its end
void fake_hold(bool hold);                                          // generations wait for the calls below
void fake_busy(bool busy);                                          // generate and cancel say TC_BUSY

typedef struct fake_ask {
    uint64_t id;
    tc_generate generate; // prompt copied
    char constraint[512]; // its text, cut
    uint32_t choice;      // which of its prompt's choices; 0: the first
    bool cancelled, held;
    uint32_t holds;                // how often it was held
    uint32_t tokens_before_cancel; // tokens sent before the cancel came
} fake_ask;

// Waits (5 s at most) until `count` generations were asked for; the last one. NULL: it did not happen.
const fake_ask *fake_wait_asks(uint32_t count);
uint32_t fake_asks(void);
const fake_ask *fake_ask_at(uint32_t i);
bool fake_wait_cancel(uint64_t id);
bool fake_wait_held(uint64_t id, bool held);
void fake_queue(uint32_t requests, uint64_t tokens); // bounds that it tells; before it is up
void fake_text(uint64_t id, const char *text);
void fake_bytes(uint64_t id, const void *data, size_t bytes);
void fake_finish(uint64_t id, tc_finish finish);
void fake_fail(uint64_t id, tc_status status, const char *reason);
