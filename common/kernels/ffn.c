// SPDX-License-Identifier: Apache-2.0
// Owns: setting up and checking expert calls, and which of two ways a call is spread over the team: fused for
// few tokens (ffn_fused.c), phased for many (ffn_phased.c). Same bits, because parts are fixed point.
#include "common/base/mem.h"
#include "common/kernels/ffn_impl.h"
#include "common/model/model.h"

#include <math.h>
#include <string.h>

// How many tokens a member keeps sums for.
static uint32_t fused_tokens(const tc_store_info *info, uint32_t tokens_max)
{
    uint32_t n = (uint32_t)(TC_FFN_FUSED_SUM_BYTES / (info->hidden * sizeof(int64_t)));
    if (n > TC_FFN_FUSED_TOKENS_MAX) n = TC_FFN_FUSED_TOKENS_MAX;
    if (n < 1) n = 1;
    return n < tokens_max ? n : tokens_max;
}

static uint32_t chosen_of(const tc_store_info *info)
{
    return info->top_k < info->experts ? info->top_k : info->experts;
}

// One entry a scratch buffer: where its pointer lies and what it holds.
typedef struct scratch_block {
    size_t offset, count, size;
} scratch_block;

enum { SCRATCH_BLOCKS = 17 };

static uint32_t list_scratch(const tc_store_info *info, uint32_t members, uint32_t tokens_max, bool tiles,
                             scratch_block ret[SCRATCH_BLOCKS])
{
    const size_t pairs = (size_t)tokens_max * chosen_of(info), rows = (size_t)members * tokens_max;
    const size_t fused = fused_tokens(info, tokens_max);
    const scratch_block all[] = {
        {offsetof(tc_ffn, groups), pairs, sizeof(tc_ffn_group)},
        {offsetof(tc_ffn, x), pairs, sizeof(float *)},
        {offsetof(tc_ffn, weight), pairs, sizeof(float)},
        {offsetof(tc_ffn, act), pairs * info->width, sizeof(float)},
        {offsetof(tc_ffn, member_act), rows * 2 * info->unit, sizeof(float)},
        {offsetof(tc_ffn, member_sum), members * fused * info->hidden, sizeof(int64_t)},
        {offsetof(tc_ffn, touched), members, TC_ALIGN_BYTES},
        {offsetof(tc_ffn, run_begin), fused * chosen_of(info) * info->units + 1, sizeof(uint32_t)},
        {offsetof(tc_ffn, rows), rows * 2, sizeof(float *)},
        {offsetof(tc_ffn, sums), rows, sizeof(int64_t *)},
        {offsetof(tc_ffn, x_rounded_memory), tiles ? pairs : tokens_max, tc_rounded_bytes(info->hidden)},
        {offsetof(tc_ffn, act_rounded_memory), pairs * info->units, tc_rounded_bytes(info->unit)},
        {offsetof(tc_ffn, x_rounded), pairs, sizeof(tc_rounded_row)},
        {offsetof(tc_ffn, member_rounded), rows, sizeof(tc_rounded_row)},
        {offsetof(tc_ffn, down), (size_t)members * info->units, sizeof(tc_matrix)},
        {offsetof(tc_ffn, down_x), (size_t)members * info->units, sizeof(tc_rows)},
        {offsetof(tc_ffn, down_rounded), (size_t)members * info->units * TC_FFN_DOWN_TOKENS,
         sizeof(tc_rounded_row)},
    };
    _Static_assert(sizeof all / sizeof *all == SCRATCH_BLOCKS, "scratch list");
    memcpy(ret, all, sizeof all);
    return SCRATCH_BLOCKS;
}

static void **slot_of(tc_ffn *f, const scratch_block *block)
{
    return (void **)((char *)f + block->offset);
}

uint64_t tc_ffn_scratch_bytes(const tc_store_info *info, uint32_t members, uint32_t tokens_max)
{
    scratch_block blocks[SCRATCH_BLOCKS];
    uint64_t sum = sizeof(tc_ffn);
    for (uint32_t i = 0, n = list_scratch(info, members, tokens_max, true, blocks); i < n; i++)
        sum += (uint64_t)blocks[i].count * blocks[i].size;
    return sum;
}

tc_status tc_ffn_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                        tc_ffn **ret, tc_error *e)
{
    tc_status status;
    scratch_block blocks[SCRATCH_BLOCKS];
    const tc_store_info *info = tc_store_get_info(store);
    tc_ffn *f = tc_alloc(TC_MEM_SCRATCH, 1, sizeof *f);
    if (!f) return tc_fail(e, TC_NOMEM, "out of memory for the expert computation");
    f->store = store;
    f->info = info;
    f->team = team;
    f->tokens_max = tokens_max;
    f->pairs_max = tokens_max * chosen_of(info);
    f->members = tc_team_size(team);
    f->fused_tokens_max = fused_tokens(info, tokens_max);
    for (int precision = TC_EXACT; precision <= TC_FAST; precision++)
        TC_GOTO(tc_kernels_get((tc_precision)precision, isa, &f->kernels[precision], e));
    for (uint32_t i = 0, n = list_scratch(info, f->members, tokens_max, f->kernels[TC_FAST]->tiles, blocks);
         i < n; i++) {
        void *block = tc_alloc(TC_MEM_SCRATCH, blocks[i].count, blocks[i].size);
        if (!block) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for expert calls of %u tokens", tokens_max));
        *slot_of(f, &blocks[i]) = block;
    }
    *ret = f;
    return TC_OK;
out:
    tc_ffn_free(f);
    return status;
}

void tc_ffn_take_units(tc_ffn *f, tc_ffn_unit *unit_of, void *arg)
{
    f->unit_of = unit_of;
    f->unit_arg = arg;
}

void tc_ffn_free(tc_ffn *f)
{
    if (!f) return;
    scratch_block blocks[SCRATCH_BLOCKS];
    for (uint32_t i = 0, n = list_scratch(f->info, f->members, f->tokens_max, false, blocks); i < n; i++)
        tc_free(*slot_of(f, &blocks[i]));
    tc_free(f);
}

tc_status tc_expert_call_check(const tc_store *store, const tc_expert_call *call, tc_error *e)
{
    const tc_store_info *info = tc_store_get_info(store);
    uint32_t top_k = info->top_k < info->experts ? info->top_k : info->experts;
    if (call->layer >= info->layers || !tc_store_layer_has_experts(store, call->layer))
        return tc_fail(e, TC_ARGUMENT, "layer %u has no experts", call->layer);
    if (call->unit_begin >= call->unit_end || call->unit_end > info->units)
        return tc_fail(e, TC_ARGUMENT, "units %u..%u of %u", call->unit_begin, call->unit_end, info->units);
    if ((uint32_t)call->precision > TC_FAST)
        return tc_fail(e, TC_ARGUMENT, "precision %d", (int)call->precision);
    if (call->tokens < 1 || call->tokens > TC_CALL_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "%u tokens, the limit is %d", call->tokens, TC_CALL_TOKENS_MAX);
    if (call->hidden != info->hidden)
        return tc_fail(e, TC_ARGUMENT, "hidden size %u, the model's is %u", call->hidden, info->hidden);
    if (call->pair_count > call->tokens * top_k)
        return tc_fail(e, TC_ARGUMENT, "%u pairs for %u tokens of %u experts", call->pair_count, call->tokens,
                       top_k);
    for (uint32_t i = 0; i < call->pair_count; i++) {
        const tc_expert_pair *pair = &call->pairs[i], *last = pair - 1;
        if (pair->expert >= info->experts)
            return tc_fail(e, TC_ARGUMENT, "pair %u: expert %u of %u", i, pair->expert, info->experts);
        if (pair->token >= call->tokens)
            return tc_fail(e, TC_ARGUMENT, "pair %u: token %u of %u", i, pair->token, call->tokens);
        if (i &&
            (last->expert > pair->expert || (last->expert == pair->expert && last->token >= pair->token)))
            return tc_fail(e, TC_ARGUMENT, "pair %u is out of order", i);
    }
    return TC_OK;
}

// A pair's input. Tiles want the rows of a group one after another, so each pair has its own; else pairs of a
// token share one.
static tc_rounded_row x_rounded_row(const tc_ffn *f, uint32_t pair)
{
    size_t row = f->x_by_pair ? pair : f->call->pairs[pair].token;
    return tc_rounded_at(f->x_rounded_memory + row * tc_rounded_bytes(f->info->hidden), f->info->hidden);
}

// Whether the layer's matrices want their inputs rounded.
static void wants_rounded(const tc_ffn *f, bool *ret_x, bool *ret_act)
{
    tc_store_unit unit;
    tc_ffn_get_unit(f, f->call->pair_count ? f->call->pairs[0].expert : 0, 0, &unit);
    *ret_x = tc_wants_rounded(tc_ffn_kernels(f), unit.gate.form.type) ||
             tc_wants_rounded(tc_ffn_kernels(f), unit.up.form.type);
    *ret_act = tc_wants_rounded(tc_ffn_kernels(f), unit.down.form.type);
}

static void list_groups(tc_ffn *f)
{
    const tc_expert_call *call = f->call;
    f->group_count = 0;
    for (uint32_t i = 0; i < call->pair_count; i++) {
        const tc_expert_pair *pair = &call->pairs[i];
        f->x[i] = call->x + (size_t)pair->token * call->hidden;
        f->x_rounded[i] = x_rounded_row(f, i);
        f->weight[i] = pair->weight;
        if (i == 0 || pair->expert != pair[-1].expert)
            f->groups[f->group_count++] = (tc_ffn_group){pair->expert, i, 0};
        f->groups[f->group_count - 1].count++;
    }
}

void tc_ffn_round_x(const tc_ffn *f, uint32_t row)
{
    uint32_t hidden = f->info->hidden, token = f->x_by_pair ? f->call->pairs[row].token : row;
    tc_rounded_row to = tc_rounded_at(f->x_rounded_memory + row * tc_rounded_bytes(hidden), hidden);
    tc_ffn_kernels(f)->round(f->call->x + (size_t)token * hidden, hidden, &to);
}

tc_status tc_ffn_run(tc_ffn *f, const tc_expert_call *call, int64_t *sum, tc_error *e)
{
    if (call->tokens > f->tokens_max || call->pair_count > f->pairs_max)
        return tc_fail(e, TC_LIMIT, "%u tokens and %u pairs, room for %u and %u", call->tokens,
                       call->pair_count, f->tokens_max, f->pairs_max);
    f->call = call;
    f->sum = sum;
    bool fused = call->tokens <= f->fused_tokens_max;
    f->x_by_pair = !fused && tc_ffn_kernels(f)->tiles;
    list_groups(f);
    wants_rounded(f, &f->x_wants_rounded, &f->act_wants_rounded);
    for (int i = 0; i < 3; i++) atomic_store_explicit(&f->next[i], 0, memory_order_relaxed);
    atomic_store_explicit(&f->broken, false, memory_order_relaxed);
    if (fused) tc_ffn_fused_deal(f);
    tc_team_run(f->team, fused ? tc_ffn_fused_job : tc_ffn_phased_job, f);
    if (atomic_load_explicit(&f->broken, memory_order_relaxed))
        return tc_fail(e, TC_INTERNAL, "layer %u: an expert's output is not finite or out of range",
                       call->layer);
    return TC_OK;
}
