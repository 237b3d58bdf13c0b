// SPDX-License-Identifier: Apache-2.0
// Owns: which tokens may follow: one acceptor per grammar and vocabulary, shared by every answer that the
// grammar constrains, and a matcher per answer. Masks are kept by state. Calls on one acceptor and its
// matchers may come from several threads: they take turns. Nothing is allocated after creation.
#pragma once

#include "common/text/grammar.h"
#include "common/text/grammar_vocabulary.h"

enum { TC_MATCHERS_MAX = 1024 }; // of one acceptor

typedef struct tc_acceptor tc_acceptor;

// Both are borrowed and outlive the acceptor.
tc_status tc_acceptor_create(const tc_grammar *grammar, const tc_vocabulary *vocabulary, tc_acceptor **ret,
                             tc_error *e);
void tc_acceptor_free(tc_acceptor *acceptor); // its matchers have ended

typedef struct tc_matcher {
    tc_acceptor *acceptor;
    uint32_t state;
    struct tc_matcher *previous, *next; // of the acceptor
} tc_matcher;

// At the beginning of the text. LIMIT: too many ways to read the constraint, or too many matchers.
tc_status tc_matcher_begin(tc_matcher *matcher, tc_acceptor *acceptor, tc_error *e);
void tc_matcher_end(tc_matcher *matcher); // legal on a zeroed matcher

// mask: [vocabulary->words], bit id & 31 of word id / 32 set where the token may follow. *ret_may_end: the
// text may end here. LIMIT as above.
tc_status tc_matcher_mask(tc_matcher *matcher, uint32_t *mask, bool *ret_may_end, tc_error *e);
// The token follows. ARGUMENT: it may not; the matcher stays where it was. *ret_must_end: nothing can follow
// any more.
tc_status tc_matcher_take(tc_matcher *matcher, uint32_t token, bool *ret_must_end, tc_error *e);
// Whether the text may end here.
bool tc_matcher_may_end(const tc_matcher *matcher);

typedef struct tc_acceptor_stats {
    uint64_t masks, computed; // asked for; not found among those kept
    uint64_t states, collections;
} tc_acceptor_stats;
tc_acceptor_stats tc_acceptor_get_stats(tc_acceptor *acceptor);
size_t tc_acceptor_bytes(tc_acceptor *acceptor); // memory written to so far: tables and masks
