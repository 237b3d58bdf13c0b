// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the expert computation share: the state of a call, and the pieces that both ways of
// spreading it over a team use. ffn.c sets up, checks and chooses; ffn_fused.c and ffn_phased.c compute.
#pragma once

#include "common/base/mem.h"
#include "common/kernels/ffn.h"

#include <stdatomic.h>

enum {
    TC_FFN_FUSED_TOKENS_MAX = 16,
    TC_FFN_FUSED_SUM_BYTES = 256 << 10, // a member's own sums: they stay in its second cache
    TC_FFN_PARTS = 4,                   // of a unit at the end of a fused call
    TC_FFN_TAIL_MAX = 2 * TC_TEAM_THREADS_MAX,
    TC_FFN_DOWN_TOKENS = 256, // of an expert, whose down projections of all units are added up at once
};

typedef struct tc_ffn_group {
    uint32_t expert, first, count; // pairs [first, first + count)
} tc_ffn_group;

// A unit that several members compute together: all rows of its activations, then the down projection.
typedef struct tc_ffn_shared_unit {
    _Alignas(TC_ALIGN_BYTES) _Atomic uint32_t parts; // of gate and up that are done
    _Atomic uint32_t ready;                          // activations are there, rounded
} tc_ffn_shared_unit;

struct tc_ffn {
    const tc_store *store;
    tc_ffn_unit *unit_of; // NULL: the store's
    void *unit_arg;
    const tc_store_info *info;
    tc_team *team;
    const tc_kernels *kernels[3]; // by tc_precision
    uint32_t tokens_max, pairs_max, members, fused_tokens_max;
    tc_ffn_group *groups;
    const float **x;   // [pairs_max] the pair's input row
    float *weight;     // [pairs_max]
    float *act;        // [pairs_max][width]; fused: of shared units
    float *member_act; // [members][2][tokens_max][unit]
    // rounded, where the kernels want them so
    uint8_t *x_rounded_memory, *act_rounded_memory; // [tokens_max, or pairs_max with tiles] rows of hidden;
                                                    // [pairs_max][units] rows of unit
    tc_rounded_row *x_rounded;                      // [pairs_max] the pair's input row
    tc_rounded_row *member_rounded;                 // [members][tokens_max]
    int64_t *member_sum;                            // [members][fused_tokens_max][hidden]
    uint32_t *touched; // [members] tokens whose sums a member has begun, a bit each
    // per member, so that no item builds pointer lists on its stack
    float **rows;   // [members][2][tokens_max]
    int64_t **sums; // [members][tokens_max]
    // of all units of an expert
    tc_matrix *down;              // [members][units]
    tc_rows *down_x;              // [members][units]
    tc_rounded_row *down_rounded; // [members][units][TC_FFN_DOWN_TOKENS]
    // the call being run
    const tc_expert_call *call;
    int64_t *sum;
    uint32_t group_count;
    // fused: units that a member computes alone, in runs, and the shared ones after them
    uint32_t whole, shared, run_count;
    uint32_t *run_begin; // [run_count + 1]
    bool x_wants_rounded, act_wants_rounded, x_by_pair;
    _Atomic uint32_t next[3];
    _Atomic bool broken;
    tc_ffn_shared_unit shared_units[TC_FFN_TAIL_MAX];
};

// Team jobs; the argument is the tc_ffn.
void tc_ffn_fused_job(void *arg, uint32_t member);
void tc_ffn_phased_job(void *arg, uint32_t member);
// Before a fused job, by its caller: how its units are dealt out.
void tc_ffn_fused_deal(tc_ffn *f);

// Rounds one row of x: a pair's where x_by_pair, else a token's.
void tc_ffn_round_x(const tc_ffn *f, uint32_t row);

static inline const tc_kernels *tc_ffn_kernels(const tc_ffn *f)
{
    return f->kernels[f->call->precision];
}

static inline void tc_ffn_get_unit(const tc_ffn *f, uint32_t expert, uint32_t unit, tc_store_unit *ret)
{
    if (f->unit_of)
        f->unit_of(f->unit_arg, f->call->layer, expert, unit, ret);
    else
        tc_store_get_unit(f->store, f->call->layer, expert, unit, ret);
}

static inline bool tc_ffn_take(tc_ffn *f, int phase, uint32_t items, uint32_t *ret)
{
    *ret = atomic_fetch_add_explicit(&f->next[phase], 1, memory_order_relaxed);
    return *ret < items;
}

// A unit of a pair's activations, rounded. A fused call has as many pairs as it likes in turn: each member
// uses the rows of the pairs it computes.
static inline tc_rounded_row tc_ffn_act_rounded(const tc_ffn *f, uint32_t pair, uint32_t unit)
{
    size_t row = (size_t)pair * f->info->units + unit;
    return tc_rounded_at(f->act_rounded_memory + row * tc_rounded_bytes(f->info->unit), f->info->unit);
}

// act rows of a pair: [width of the call's slice], unit after unit.
static inline float *tc_ffn_pair_act(const tc_ffn *f, uint32_t pair, uint32_t unit_offset)
{
    return f->act + (size_t)pair * f->info->width + (size_t)unit_offset * f->info->unit;
}

// The member's pointer lists: two of tokens_max rows.
static inline float **tc_ffn_member_rows(const tc_ffn *f, uint32_t member, uint32_t which)
{
    return f->rows + ((size_t)member * 2 + which) * f->tokens_max;
}

static inline float *tc_ffn_member_act(const tc_ffn *f, uint32_t member, uint32_t which, uint32_t row)
{
    return f->member_act + (((size_t)member * 2 + which) * f->tokens_max + row) * f->info->unit;
}

// Rows [begin, end) of a unit's activations: the biases that it may have, then what its store names.
static inline void tc_ffn_activate(const tc_ffn *f, const tc_store_unit *unit, uint32_t begin, uint32_t end,
                                   float *gate, float *up)
{
    const tc_store_info *info = f->info;
    for (uint32_t r = begin; unit->bias && r < end; r++) {
        gate[r] += unit->bias[r];
        up[r] += unit->bias[unit->gate.rows + r];
    }
    if (info->activation == TC_ACT_CLAMPED)
        tc_clamped_mul(gate + begin, up + begin, info->act_alpha, info->act_limit, gate + begin, end - begin);
    else
        tc_ffn_kernels(f)->silu_mul(gate + begin, up + begin, gate + begin, end - begin);
}

// gate, up and activation of panels [p0, p1) of a unit for a group's tokens, into the same columns of out[i].
// up: scratch rows of the member.
static inline void tc_ffn_gate_up(const tc_ffn *f, const tc_store_unit *unit, uint32_t p0, uint32_t p1,
                                  const tc_ffn_group *g, float *const *out, float *const *up)
{
    const tc_kernels *k = tc_ffn_kernels(f);
    const tc_rows x = {f->x + g->first, f->x_rounded + g->first};
    const uint32_t width = unit->gate.rows, begin = p0 * TC_PANEL_ROWS,
                   end = p1 * TC_PANEL_ROWS < width ? p1 * TC_PANEL_ROWS : width;
    tc_matmul(k, &unit->gate, p0, p1, &x, g->count, out);
    tc_matmul(k, &unit->up, p0, p1, &x, g->count, up);
    for (uint32_t i = 0; i < g->count; i++) tc_ffn_activate(f, unit, begin, end, out[i], up[i]);
}

// Rounds a group's activations of a unit, where the down projection wants them so.
static inline void tc_ffn_round_act(const tc_ffn *f, const tc_ffn_group *g, float *const *act,
                                    const tc_rounded_row *rounded)
{
    if (!f->act_wants_rounded) return;
    for (uint32_t i = 0; i < g->count; i++) tc_ffn_kernels(f)->round(act[i], f->info->unit, &rounded[i]);
}

// Panels [p0, p1) of a unit's down projection, added to sums[i] in fixed point.
static inline void tc_ffn_down(tc_ffn *f, const tc_store_unit *unit, uint32_t p0, uint32_t p1,
                               const tc_ffn_group *g, float *const *act, const tc_rounded_row *rounded,
                               int64_t *const *sums)
{
    const tc_rows x = {(const float *const *)act, rounded};
    if (!tc_ffn_kernels(f)->matmul_fixed[unit->down.form.type](&unit->down, p0, p1, &x, f->weight + g->first,
                                                               g->count, sums))
        atomic_store_explicit(&f->broken, true, memory_order_relaxed);
}
