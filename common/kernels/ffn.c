// SPDX-License-Identifier: Apache-2.0
// Owns: how a call's work is spread over the team. Two ways, same bits, because parts are fixed point:
//   fused (few tokens):   an item is one (expert, unit): gate, up, SiLU, down, into the member's own sums,
//   added up at the
//                         end. The weights of an item are one contiguous run, read once, with no barrier in
//                         between.
//   phased (many tokens): gate, up, SiLU for all (expert, unit), a barrier, then each member owns rows of the
//   output and
//                         walks all down matrices for them. Needs no sums of its own, however many tokens
//                         there are.
#include "common/kernels/ffn.h"
#include "common/base/mem.h"
#include "common/model/model.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { FUSED_TOKENS_MAX = 4, PANELS_AN_ITEM = 4 };

typedef struct group {
    uint32_t expert, first, count; // pairs [first, first + count)
} group;

struct tc_ffn {
    const tc_store *store;
    tc_ffn_unit *unit_of; // NULL: the store's
    void *unit_arg;
    const tc_store_info *info;
    tc_team *team;
    const tc_kernels *kernels[3]; // by tc_precision
    uint32_t tokens_max, pairs_max, members;
    group *groups;
    const float **x;   // [pairs_max] the pair's input row
    float *weight;     // [pairs_max]
    float *act;        // [pairs_max][width]; fused: unused
    float *member_act; // [members][2][tokens_max][unit]
    // rounded, where the kernels want them so
    uint8_t *x_rounded_memory, *act_rounded_memory; // [tokens_max, or pairs_max with tiles] rows of hidden;
                                                    // [pairs_max][units] rows of unit
    tc_rounded_row *x_rounded;                      // [pairs_max] the pair's input row
    tc_rounded_row *member_rounded;                 // [members][tokens_max]
    int64_t *member_sum;                            // [members][FUSED_TOKENS_MAX][hidden]
    // per member, so that no item builds pointer lists on its stack
    float **rows;   // [members][2][tokens_max]
    int64_t **sums; // [members][tokens_max]
    // the call being run
    const tc_expert_call *call;
    int64_t *sum;
    uint32_t group_count;
    bool x_wants_rounded, act_wants_rounded, x_by_pair;
    _Atomic uint32_t next[3];
    _Atomic bool broken;
};

tc_status tc_ffn_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                        tc_ffn **ret, tc_error *e)
{
    tc_status status;
    const tc_store_info *info = tc_store_get_info(store);
    tc_ffn *f = tc_alloc(TC_MEM_SCRATCH, 1, sizeof *f);
    if (!f) return tc_fail(e, TC_NOMEM, "out of memory for the expert computation");
    f->store = store;
    f->info = info;
    f->team = team;
    f->tokens_max = tokens_max;
    f->pairs_max = tokens_max * (info->top_k < info->experts ? info->top_k : info->experts);
    f->members = tc_team_size(team);
    for (int precision = TC_EXACT; precision <= TC_FAST; precision++)
        TC_GOTO(tc_kernels_get((tc_precision)precision, isa, &f->kernels[precision], e));
    f->groups = tc_alloc(TC_MEM_SCRATCH, f->pairs_max, sizeof *f->groups);
    f->x = tc_alloc(TC_MEM_SCRATCH, f->pairs_max, sizeof *f->x);
    f->weight = tc_alloc(TC_MEM_SCRATCH, f->pairs_max, sizeof *f->weight);
    f->act = tc_alloc(TC_MEM_SCRATCH, (size_t)f->pairs_max * info->width, sizeof *f->act);
    f->member_act = tc_alloc(TC_MEM_SCRATCH, (size_t)f->members * 2 * tokens_max * info->unit, sizeof(float));
    f->member_sum =
        tc_alloc(TC_MEM_SCRATCH, (size_t)f->members * FUSED_TOKENS_MAX * info->hidden, sizeof(int64_t));
    f->rows = tc_alloc(TC_MEM_SCRATCH, (size_t)f->members * 2 * tokens_max, sizeof *f->rows);
    f->sums = tc_alloc(TC_MEM_SCRATCH, (size_t)f->members * tokens_max, sizeof *f->sums);
    f->x_rounded_memory = tc_alloc(TC_MEM_SCRATCH, f->kernels[TC_FAST]->tiles ? f->pairs_max : tokens_max,
                                   tc_rounded_bytes(info->hidden));
    f->act_rounded_memory =
        tc_alloc(TC_MEM_SCRATCH, (size_t)f->pairs_max * info->units, tc_rounded_bytes(info->unit));
    f->x_rounded = tc_alloc(TC_MEM_SCRATCH, f->pairs_max, sizeof *f->x_rounded);
    f->member_rounded = tc_alloc(TC_MEM_SCRATCH, (size_t)f->members * tokens_max, sizeof *f->member_rounded);
    if (!f->groups || !f->x || !f->weight || !f->act || !f->member_act || !f->member_sum || !f->rows ||
        !f->sums || !f->x_rounded_memory || !f->act_rounded_memory || !f->x_rounded || !f->member_rounded)
        TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for expert calls of %u tokens", tokens_max));
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
    tc_free(f->groups);
    tc_free(f->x);
    tc_free(f->weight);
    tc_free(f->act);
    tc_free(f->member_act);
    tc_free(f->member_sum);
    tc_free(f->rows);
    tc_free(f->sums);
    tc_free(f->x_rounded_memory);
    tc_free(f->act_rounded_memory);
    tc_free(f->x_rounded);
    tc_free(f->member_rounded);
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

// A unit of a pair's activations. A fused call has as many pairs as it likes in turn: each member uses the
// rows of the pairs it computes.
static tc_rounded_row act_rounded_row(const tc_ffn *f, uint32_t pair, uint32_t unit)
{
    size_t row = (size_t)pair * f->info->units + unit;
    return tc_rounded_at(f->act_rounded_memory + row * tc_rounded_bytes(f->info->unit), f->info->unit);
}

static const tc_kernels *kernels_of(const tc_ffn *f)
{
    return f->kernels[f->call->precision];
}

static void get_unit(const tc_ffn *f, uint32_t expert, uint32_t unit, tc_store_unit *ret)
{
    if (f->unit_of)
        f->unit_of(f->unit_arg, f->call->layer, expert, unit, ret);
    else
        tc_store_get_unit(f->store, f->call->layer, expert, unit, ret);
}

// Whether the layer's matrices want their inputs rounded.
static void wants_rounded(const tc_ffn *f, bool *ret_x, bool *ret_act)
{
    tc_store_unit unit;
    get_unit(f, f->call->pair_count ? f->call->pairs[0].expert : 0, 0, &unit);
    *ret_x = tc_wants_rounded(kernels_of(f), unit.gate.form.type) ||
             tc_wants_rounded(kernels_of(f), unit.up.form.type);
    *ret_act = tc_wants_rounded(kernels_of(f), unit.down.form.type);
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
            f->groups[f->group_count++] = (group){pair->expert, i, 0};
        f->groups[f->group_count - 1].count++;
    }
}

// gate, up and SiLU of one unit for a group's tokens: out[i] gets `unit` floats, and rounded[i] the same
// rounded where the down projection wants it. up_rows: scratch of the member.
static void activate(const tc_ffn *f, const tc_store_unit *unit, const group *g, float *const *out,
                     float *const *up_rows, const tc_rounded_row *rounded)
{
    const tc_kernels *k = kernels_of(f);
    const tc_rows x = {f->x + g->first, f->x_rounded + g->first};
    uint32_t width = unit->gate.rows, panels = tc_panels(width);
    tc_matmul(k, &unit->gate, 0, panels, &x, g->count, out);
    tc_matmul(k, &unit->up, 0, panels, &x, g->count, up_rows);
    for (uint32_t i = 0; i < g->count; i++) {
        k->silu_mul(out[i], up_rows[i], out[i], width);
        if (f->act_wants_rounded) k->round(out[i], width, &rounded[i]);
    }
}

static void down(tc_ffn *f, const tc_store_unit *unit, uint32_t p0, uint32_t p1, const group *g,
                 float *const *act, const tc_rounded_row *rounded, int64_t *const *sums)
{
    const tc_rows x = {(const float *const *)act, rounded};
    if (!kernels_of(f)->matmul_fixed[unit->down.form.type](&unit->down, p0, p1, &x, f->weight + g->first,
                                                           g->count, sums))
        atomic_store_explicit(&f->broken, true, memory_order_relaxed);
}

// The member's pointer lists: two of tokens_max rows.
static float **member_rows(const tc_ffn *f, uint32_t member, uint32_t which)
{
    return f->rows + ((size_t)member * 2 + which) * f->tokens_max;
}

static void fill_member_rows(tc_ffn *f, uint32_t member)
{
    for (uint32_t which = 0; which < 2; which++)
        for (uint32_t i = 0; i < f->tokens_max; i++)
            member_rows(f, member, which)[i] =
                f->member_act + (((size_t)member * 2 + which) * f->tokens_max + i) * f->info->unit;
}

// Row of a pair (tiles), or of a token.
static void round_x(const tc_ffn *f, uint32_t row)
{
    uint32_t hidden = f->info->hidden, token = f->x_by_pair ? f->call->pairs[row].token : row;
    tc_rounded_row to = tc_rounded_at(f->x_rounded_memory + row * tc_rounded_bytes(hidden), hidden);
    kernels_of(f)->round(f->call->x + (size_t)token * hidden, hidden, &to);
}

static bool take_item(tc_ffn *f, int phase, uint32_t items, uint32_t *ret)
{
    *ret = atomic_fetch_add_explicit(&f->next[phase], 1, memory_order_relaxed);
    return *ret < items;
}

// Adds the members' sums for a run of columns.
static void reduce(tc_ffn *f, uint32_t begin, uint32_t end)
{
    uint32_t hidden = f->info->hidden;
    for (uint32_t t = 0; t < f->call->tokens; t++) {
        int64_t *out = f->sum + (size_t)t * hidden;
        memcpy(out + begin, f->member_sum + (size_t)t * hidden + begin, (end - begin) * sizeof *out);
        for (uint32_t m = 1; m < f->members; m++) {
            const int64_t *in = f->member_sum + ((size_t)m * FUSED_TOKENS_MAX + t) * hidden;
            for (uint32_t c = begin; c < end; c++) out[c] = tc_fixed_add(out[c], in[c]);
        }
    }
}

static void fused_job(void *arg, uint32_t member)
{
    tc_ffn *f = arg;
    const tc_expert_call *call = f->call;
    uint32_t units = call->unit_end - call->unit_begin, hidden = f->info->hidden, item;
    int64_t *own = f->member_sum + (size_t)member * FUSED_TOKENS_MAX * hidden;
    int64_t **sums = f->sums + (size_t)member * f->tokens_max;
    float **act = member_rows(f, member, 0), **up = member_rows(f, member, 1);
    tc_rounded_row *rounded = f->member_rounded + (size_t)member * f->tokens_max;
    memset(own, 0, (size_t)call->tokens * hidden * sizeof *own);
    fill_member_rows(f, member);
    while (take_item(f, 0, f->group_count * units, &item)) {
        const group *g = &f->groups[item / units];
        tc_store_unit unit;
        get_unit(f, g->expert, call->unit_begin + item % units, &unit);
        for (uint32_t i = 0; i < g->count; i++) {
            sums[i] = own + (size_t)call->pairs[g->first + i].token * hidden;
            rounded[i] = act_rounded_row(f, g->first + i, item % units);
        }
        activate(f, &unit, g, act, up, rounded);
        down(f, &unit, 0, tc_panels(hidden), g, act, rounded, sums);
    }
    tc_team_barrier(f->team);
    reduce(f, (uint32_t)((uint64_t)hidden * member / f->members),
           (uint32_t)((uint64_t)hidden * (member + 1) / f->members));
}

// act rows of a pair: [width of the call's slice], unit after unit.
static float *pair_act(const tc_ffn *f, uint32_t pair, uint32_t unit_offset)
{
    return f->act + (size_t)pair * f->info->width + (size_t)unit_offset * f->info->unit;
}

static void phased_job(void *arg, uint32_t member)
{
    tc_ffn *f = arg;
    const tc_expert_call *call = f->call;
    uint32_t units = call->unit_end - call->unit_begin, hidden = f->info->hidden, item;
    uint32_t panels = tc_panels(hidden), ranges = (panels + PANELS_AN_ITEM - 1) / PANELS_AN_ITEM;
    float **act = member_rows(f, member, 0), **up = member_rows(f, member, 1);
    int64_t **sums = f->sums + (size_t)member * f->tokens_max;
    tc_rounded_row *rounded = f->member_rounded + (size_t)member * f->tokens_max;
    tc_store_unit unit;
    fill_member_rows(f, member);
    if (f->x_wants_rounded) {
        uint32_t rows = f->x_by_pair ? call->pair_count : call->tokens;
        while (take_item(f, 2, rows, &item)) round_x(f, item);
        tc_team_barrier(f->team);
    }
    while (take_item(f, 0, f->group_count * units, &item)) {
        const group *g = &f->groups[item / units];
        get_unit(f, g->expert, call->unit_begin + item % units, &unit);
        for (uint32_t i = 0; i < g->count; i++) {
            act[i] = pair_act(f, g->first + i, item % units);
            rounded[i] = act_rounded_row(f, g->first + i, item % units);
        }
        activate(f, &unit, g, act, up, rounded);
    }
    tc_team_barrier(f->team);
    while (take_item(f, 1, ranges, &item)) {
        uint32_t p0 = item * PANELS_AN_ITEM, p1 = p0 + PANELS_AN_ITEM < panels ? p0 + PANELS_AN_ITEM : panels;
        uint32_t begin = p0 * TC_PANEL_ROWS, end = p1 * TC_PANEL_ROWS < hidden ? p1 * TC_PANEL_ROWS : hidden;
        for (uint32_t t = 0; t < call->tokens; t++)
            memset(f->sum + (size_t)t * hidden + begin, 0, (end - begin) * sizeof *f->sum);
        for (uint32_t n = 0; n < f->group_count * units; n++) {
            const group *g = &f->groups[n / units];
            get_unit(f, g->expert, call->unit_begin + n % units, &unit);
            for (uint32_t i = 0; i < g->count; i++) {
                act[i] = pair_act(f, g->first + i, n % units);
                rounded[i] = act_rounded_row(f, g->first + i, n % units);
                sums[i] = f->sum + (size_t)call->pairs[g->first + i].token * hidden;
            }
            down(f, &unit, p0, p1, g, act, rounded, sums);
        }
    }
}

tc_status tc_ffn_run(tc_ffn *f, const tc_expert_call *call, int64_t *sum, tc_error *e)
{
    if (call->tokens > f->tokens_max || call->pair_count > f->pairs_max)
        return tc_fail(e, TC_LIMIT, "%u tokens and %u pairs, room for %u and %u", call->tokens,
                       call->pair_count, f->tokens_max, f->pairs_max);
    f->call = call;
    f->sum = sum;
    bool fused = call->tokens <= FUSED_TOKENS_MAX;
    f->x_by_pair = !fused && kernels_of(f)->tiles;
    list_groups(f);
    wants_rounded(f, &f->x_wants_rounded, &f->act_wants_rounded);
    for (int i = 0; i < 3; i++) atomic_store_explicit(&f->next[i], 0, memory_order_relaxed);
    atomic_store_explicit(&f->broken, false, memory_order_relaxed);
    for (uint32_t t = 0; fused && f->x_wants_rounded && t < call->tokens; t++) round_x(f, t);
    tc_team_run(f->team, fused ? fused_job : phased_job, f);
    if (atomic_load_explicit(&f->broken, memory_order_relaxed))
        return tc_fail(e, TC_INTERNAL, "layer %u: an expert's output is not finite or out of range",
                       call->layer);
    return TC_OK;
}
