// SPDX-License-Identifier: Apache-2.0
// Owns: the expert computation shared by workers and by the in-process source: one call's (token, expert,
// weight) pairs in, one fixed-point sum per token out.
//
//   sum[t] = over the call's pairs (t, e, g) and its units u:  fixed(g * down_eu(silu(gate_eu x_t) * up_eu
//   x_t))
//
// (or the activation that the store names, gate and up with its biases; the bias of down is not added here).
// A unit is a slice of an expert's width (store.h), small enough that a worker's width slice is a run of
// units. One (expert, unit) is the canonical part: it is rounded to fixed point once, so any grouping of
// experts and units over workers and threads gives the same bits. Refuses: to know where weights come from or
// where results go.
#pragma once

#include "common/base/team.h"
#include "common/kernels/kernels.h"
#include "common/model/store.h"

enum { TC_CALL_TOKENS_MAX = 2048 }; // many tokens an expert: its weights are read and unpacked once for all

typedef struct tc_expert_pair {
    uint32_t expert, token;
    float weight;
} tc_expert_pair;

typedef struct tc_expert_call {
    uint32_t layer;
    uint32_t unit_begin, unit_end; // width slice, in units
    tc_precision precision;
    uint32_t tokens, hidden;     // tokens <= TC_CALL_TOKENS_MAX
    const float *x;              // [tokens][hidden]
    uint32_t pair_count;         // <= tokens * TC_TOP_K_MAX
    const tc_expert_pair *pairs; // sorted by (expert, token), no duplicates
    uint64_t step;               // of the core that asks, for logs and traces only; 0: none
} tc_expert_call;

typedef struct tc_ffn tc_ffn;

// Scratch for calls of up to `tokens_max` tokens on this store, allocated here once. `isa` as in
// tc_kernels_get.
tc_status tc_ffn_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                        tc_ffn **ret, tc_error *e);
void tc_ffn_free(tc_ffn *ffn);
// Bytes of that scratch for a team of `members`. They become resident as calls come.
uint64_t tc_ffn_scratch_bytes(const tc_store_info *info, uint32_t members, uint32_t tokens_max);
// From now on weights come from here instead of the store: of the same forms, and the same for every call.
// Called by any member of the team.
typedef void tc_ffn_unit(void *arg, uint32_t layer, uint32_t expert, uint32_t unit, tc_store_unit *ret);
void tc_ffn_take_units(tc_ffn *ffn, tc_ffn_unit *unit_of, void *arg);

// Checks every field of a call against the store (it may come from a peer): TC_ARGUMENT with the reason.
tc_status tc_expert_call_check(const tc_store *store, const tc_expert_call *call, tc_error *e);

// sum: [tokens][hidden], overwritten. Allocates nothing. TC_INTERNAL when a part is not finite. `call` was
// checked.
tc_status tc_ffn_run(tc_ffn *ffn, const tc_expert_call *call, int64_t *sum, tc_error *e);
