// SPDX-License-Identifier: Apache-2.0
// Owns: calls of many tokens: gate, up, SiLU for all (expert, unit), a barrier, then each member owns rows of
// the output and walks all down matrices for them. Needs no sums of its own, however many tokens there are.
#include "common/kernels/ffn_impl.h"

#include <string.h>

// Of the output, dealt out at once: few for many members, but a piece of a down matrix should be long enough
// to read.
enum { PANELS_MIN = 4, PANELS_MAX = 32, ITEMS_A_MEMBER = 4 };

static void activations(tc_ffn *f, uint32_t member, uint32_t units)
{
    float **act = tc_ffn_member_rows(f, member, 0), **up = tc_ffn_member_rows(f, member, 1);
    tc_rounded_row *rounded = f->member_rounded + (size_t)member * f->tokens_max;
    uint32_t item;
    for (uint32_t i = 0; i < f->tokens_max; i++) up[i] = tc_ffn_member_act(f, member, 1, i);
    while (tc_ffn_take(f, 0, f->group_count * units, &item)) {
        const tc_ffn_group *g = &f->groups[item / units];
        tc_store_unit unit;
        tc_ffn_get_unit(f, g->expert, f->call->unit_begin + item % units, &unit);
        for (uint32_t i = 0; i < g->count; i++) {
            act[i] = tc_ffn_pair_act(f, g->first + i, item % units);
            rounded[i] = tc_ffn_act_rounded(f, g->first + i, item % units);
        }
        tc_ffn_gate_up(f, &unit, 0, tc_panels(unit.gate.rows), g, act, up);
        tc_ffn_round_act(f, g, act, rounded);
    }
}

// Units of a group's expert together, where the kernels add them up before they touch a token's sum.
static void add_units(tc_ffn *f, uint32_t member, const tc_ffn_group *g, uint32_t units, uint32_t p0,
                      uint32_t p1)
{
    const uint32_t hidden = f->info->hidden, room = f->info->units;
    tc_matrix *down = f->down + (size_t)member * room;
    tc_rows *x = f->down_x + (size_t)member * room;
    tc_rounded_row *rounded = f->down_rounded + (size_t)member * room * TC_FFN_DOWN_TOKENS;
    int64_t **sums = f->sums + (size_t)member * f->tokens_max;
    for (uint32_t u = 0; u < units; u++) {
        tc_store_unit unit;
        tc_ffn_get_unit(f, g->expert, f->call->unit_begin + u, &unit);
        down[u] = unit.down;
        x[u].rounded = rounded + (size_t)u * TC_FFN_DOWN_TOKENS;
    }
    for (uint32_t first = 0, n; first < g->count; first += n) {
        n = g->count - first < TC_FFN_DOWN_TOKENS ? g->count - first : TC_FFN_DOWN_TOKENS;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t pair = g->first + first + i;
            sums[i] = f->sum + (size_t)f->call->pairs[pair].token * hidden;
            for (uint32_t u = 0; u < units; u++)
                rounded[u * TC_FFN_DOWN_TOKENS + i] = tc_ffn_act_rounded(f, pair, u);
        }
        if (!tc_matmul_fixed_sum(tc_ffn_kernels(f), down, units, p0, p1, x, f->weight + g->first + first, n,
                                 sums))
            atomic_store_explicit(&f->broken, true, memory_order_relaxed);
    }
}

// Whether the kernels gain by that.
static bool adds_units(const tc_ffn *f)
{
    tc_store_unit unit;
    if (!f->call->pair_count) return false;
    tc_ffn_get_unit(f, f->call->pairs[0].expert, f->call->unit_begin, &unit);
    return f->act_wants_rounded && tc_ffn_kernels(f)->matmul_fixed_sum[unit.down.form.type];
}

// All experts' parts of panels [p0, p1) of the output.
static void outputs(tc_ffn *f, uint32_t member, uint32_t units, uint32_t p0, uint32_t p1)
{
    const tc_expert_call *call = f->call;
    const uint32_t hidden = f->info->hidden, begin = p0 * TC_PANEL_ROWS,
                   end = p1 * TC_PANEL_ROWS < hidden ? p1 * TC_PANEL_ROWS : hidden;
    float **act = tc_ffn_member_rows(f, member, 0);
    int64_t **sums = f->sums + (size_t)member * f->tokens_max;
    tc_rounded_row *rounded = f->member_rounded + (size_t)member * f->tokens_max;
    for (uint32_t t = 0; t < call->tokens; t++)
        memset(f->sum + (size_t)t * hidden + begin, 0, (end - begin) * sizeof *f->sum);
    if (adds_units(f)) {
        for (uint32_t g = 0; g < f->group_count; g++) add_units(f, member, &f->groups[g], units, p0, p1);
        return;
    }
    for (uint32_t n = 0; n < f->group_count * units; n++) {
        const tc_ffn_group *g = &f->groups[n / units];
        tc_store_unit unit;
        tc_ffn_get_unit(f, g->expert, call->unit_begin + n % units, &unit);
        for (uint32_t i = 0; i < g->count; i++) {
            act[i] = tc_ffn_pair_act(f, g->first + i, n % units);
            rounded[i] = tc_ffn_act_rounded(f, g->first + i, n % units);
            sums[i] = f->sum + (size_t)call->pairs[g->first + i].token * hidden;
        }
        tc_ffn_down(f, &unit, p0, p1, g, act, rounded, sums);
    }
}

void tc_ffn_phased_job(void *arg, uint32_t member)
{
    tc_ffn *f = arg;
    const tc_expert_call *call = f->call;
    const uint32_t units = call->unit_end - call->unit_begin, panels = tc_panels(f->info->hidden);
    uint32_t item, size = panels / (ITEMS_A_MEMBER * f->members);
    size = size < PANELS_MIN ? PANELS_MIN : size > PANELS_MAX ? PANELS_MAX : size;
    if (f->x_wants_rounded) {
        uint32_t rows = f->x_by_pair ? call->pair_count : call->tokens;
        while (tc_ffn_take(f, 2, rows, &item)) tc_ffn_round_x(f, item);
        tc_team_barrier(f->team);
    }
    activations(f, member, units);
    tc_team_barrier(f->team);
    while (tc_ffn_take(f, 1, (panels + size - 1) / size, &item)) {
        uint32_t p0 = item * size, p1 = p0 + size < panels ? p0 + size : panels;
        outputs(f, member, units, p0, p1);
    }
}
