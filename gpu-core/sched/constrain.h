// SPDX-License-Identifier: Apache-2.0
// Owns: the constraints of running requests: compiled once each (and kept, by their text), and the mask for
// each request's next token, made by a thread of its own while the device computes the step that needs it.
//
//   begin -> COMPILING -> mask -> take(token) -> [thread: next mask] -> mask -> take -> ... -> end
//
// The inference thread calls everything here; the helper thread compiles and makes masks, the vocabulary
// first of all. Refuses: sampling (forward/sample.h), what ends a request (sched.c).
#pragma once

#include "common/text/grammar.h"

enum {
    TC_CONSTRAINTS_MAX = 64,      // different ones in use at once
    TC_CONSTRAINTS_KEPT_MAX = 16, // compiled ones kept for later, beyond those in use
    // Tables and masks of all of them: beyond it nothing is kept for later, and no further one begins.
    TC_CONSTRAINTS_BYTES_MAX = 128 << 20,
    TC_VOCABULARY_TOKEN_BYTES = 64, // what laying out the vocabulary takes for each of its tokens, about
};

// What constraints may hold altogether: for the budget at start-up.
static inline uint64_t tc_constraints_budget_bytes(uint32_t vocab)
{
    return TC_CONSTRAINTS_BYTES_MAX + (uint64_t)vocab * TC_VOCABULARY_TOKEN_BYTES;
}

typedef struct tc_constrainer tc_constrainer;
typedef struct tc_constrained tc_constrained; // of one request

// Starts the thread, which reads the tokenizer's file. Without one (or a bad one) constraints are refused,
// with the reason; nothing else is affected.
tc_status tc_constrainer_create(const char *model, uint32_t vocab, tc_constrainer **ret, tc_error *e);
void tc_constrainer_free(tc_constrainer *c);                          // every request has ended
void tc_constrainer_set_bytes_max(tc_constrainer *c, uint64_t bytes); // instead of TC_CONSTRAINTS_BYTES_MAX

// end_tokens (copied): what may be drawn where the text may end. after: 0, or the id + 1 of the token behind
// which the constraint begins. BUSY: too many different constraints are in use, or their tables are too
// large.
tc_status tc_constrained_begin(tc_constrainer *c, const tc_constraint *constraint, uint32_t after,
                               const uint32_t *end_tokens, uint32_t end_count, tc_constrained **ret,
                               tc_error *e);
void tc_constrained_end(tc_constrained *r); // NULL is legal

// BUSY: still compiling. Else OK, or why there will be no answer.
tc_status tc_constrained_ready(tc_constrained *r, tc_error *e);
// The mask of the next token, waited for if need be; *ret NULL: anything goes (the constraint has not begun).
tc_status tc_constrained_mask(tc_constrained *r, const uint32_t **ret, tc_error *e);
// The token was drawn (and is no end token). *ret_complete: the text can only end here.
tc_status tc_constrained_take(tc_constrained *r, uint32_t token, bool *ret_complete, tc_error *e);

typedef struct tc_constrainer_stats {
    uint64_t masks, mask_us, mask_us_most; // made by the thread
    uint64_t waits, wait_us;               // of the inference thread for a mask
    uint64_t compiled, compile_us;
    uint64_t bytes; // tables and masks of all of them
} tc_constrainer_stats;
tc_constrainer_stats tc_constrainer_get_stats(tc_constrainer *c);
