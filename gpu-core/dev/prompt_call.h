// SPDX-License-Identifier: Apache-2.0
// Owns: a call written by the host into a mailbox that was lent to a device (proto/shm_layout.h), and looking
// at its answer. Refuses: to wait, and to believe the answer further than the device does.
//
//   who writes what, when                                                        by
//   1  x [tokens][hidden] at x_at       before 3, and seen by this CPU: the copy the card's copy engine
//                                       has ended
//   2  pairs, request record            tc_prompt_call_write                     this thread
//   3  request flag = sequence          the same, release                        this thread
//   4  sum, reply record                                                         the worker
//   5  reply flag = sequence            release                                  the worker
//   6  tc_prompt_call_look              acquire: 4 is seen                       this thread
//   7  sums are read                    by a kernel launched behind 6            the card
//   8  1 of the next call               in the stream behind 7
//
// The payload is the core's up to 3 and from 5 on, the worker's between: what shm_layout.h says.
#pragma once

#include "gpu-core/experts/source.h"

typedef struct tc_prompt_call {
    uint64_t sequence;
    uint32_t layer, tokens, hidden, top_k, experts;
    const uint32_t *expert; // [tokens][top_k]
    const float *weight;
    const uint8_t *given; // [experts] whether workers compute it
    uint32_t *begin;      // [experts + 1] scratch
} tc_prompt_call;

typedef enum tc_prompt_answer {
    TC_PROMPT_WAITS,
    TC_PROMPT_ANSWERED,
    TC_PROMPT_ABORTED, // either side has given up
    TC_PROMPT_WRONG,   // an answer, but not to this call
    TC_PROMPT_REFUSED,
} tc_prompt_answer;

// Pairs of given experts in the mailbox's share, sorted as a call's must be, then the record, then the flag.
// Returns their number; 0: nothing was written.
uint32_t tc_prompt_call_write(const tc_lent_mailbox *box, const tc_prompt_call *call);
// ret_compute_us: what the worker says it took.
tc_prompt_answer tc_prompt_call_look(const tc_lent_mailbox *box, const tc_prompt_call *call,
                                     uint64_t *ret_compute_us);
