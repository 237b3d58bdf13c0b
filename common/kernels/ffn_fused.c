// SPDX-License-Identifier: Apache-2.0
// Owns: calls of few tokens. A member takes a run of (expert, unit) and computes one after another, gate, up,
// SiLU, down, into its own sums, which are added up at the end. Their weights are contiguous and read once,
// with no barrier in between. Runs get shorter towards the end; where a run is an expert, a member meets few
// tokens, and so few sums.
//
// Members are not equally fast, so the last units would end up to a unit apart. Where there are few units for
// each member they are therefore shared: their gate and up in parts, then their down projections in parts. A
// member that finds activations not ready waits for parts that others are computing, which were dealt out
// before.
#include "common/base/spin.h"
#include "common/kernels/ffn_impl.h"

#include <string.h>

// Units a member from which on waiting for the last one costs less than sharing it: each part begins with
// memory that nobody has asked for yet.
enum { UNITS_MANY = 16 };

// What the member at work computes: one unit, alone or a part of it.
typedef struct task {
    const tc_ffn_group *group;
    tc_store_unit unit;
    uint32_t offset; // of the unit in the call's slice
    float **act;     // [group's tokens] rows of a unit
    float **up;
    int64_t **sums;
    tc_rounded_row *rounded;
} task;

void tc_ffn_fused_deal(tc_ffn *f)
{
    const uint32_t units = f->group_count * (f->call->unit_end - f->call->unit_begin), members = f->members;
    if (f->x_wants_rounded && f->call->tokens == 1) tc_ffn_round_x(f, 0);
    const bool many = members == 1 || units >= UNITS_MANY * members;
    f->whole = many ? units : units < 2 * members ? 0 : (units / members - 1) * members;
    f->shared = units - f->whole;
    f->run_count = 0;
    for (uint32_t at = 0, n; at < f->whole; at += n) {
        n = tc_team_share(f->whole - at, members);
        if (n < 1) n = 1;
        f->run_begin[f->run_count++] = at;
    }
    f->run_begin[f->run_count] = f->whole;
    for (uint32_t i = 0; i < f->shared; i++) {
        atomic_store_explicit(&f->shared_units[i].parts, 0, memory_order_relaxed);
        atomic_store_explicit(&f->shared_units[i].ready, 0, memory_order_relaxed);
    }
}

// Row of the member's sums for a token, zero when it is first asked for.
static int64_t *own_sum(tc_ffn *f, uint32_t member, uint32_t token)
{
    const uint32_t hidden = f->info->hidden;
    int64_t *row = f->member_sum + ((size_t)member * f->fused_tokens_max + token) * hidden;
    uint32_t *touched = f->touched + (size_t)member * TC_ALIGN_BYTES / sizeof *f->touched;
    if (!(*touched >> token & 1)) memset(row, 0, hidden * sizeof *row);
    *touched |= 1u << token;
    return row;
}

static void set_task(tc_ffn *f, uint32_t member, uint32_t n, bool shared, bool down, task *t)
{
    const tc_expert_call *call = f->call;
    const uint32_t units = call->unit_end - call->unit_begin;
    const tc_ffn_group *g = t->group = &f->groups[n / units];
    t->offset = n % units;
    tc_ffn_get_unit(f, g->expert, call->unit_begin + t->offset, &t->unit);
    for (uint32_t i = 0; i < g->count; i++) {
        t->act[i] = shared ? tc_ffn_pair_act(f, g->first + i, t->offset) : tc_ffn_member_act(f, member, 0, i);
        t->rounded[i] = tc_ffn_act_rounded(f, g->first + i, t->offset);
        if (down) t->sums[i] = own_sum(f, member, call->pairs[g->first + i].token);
    }
}

static void run_whole(tc_ffn *f, uint32_t member, uint32_t run, task *t)
{
    for (uint32_t n = f->run_begin[run]; n < f->run_begin[run + 1]; n++) {
        set_task(f, member, n, false, true, t);
        tc_ffn_gate_up(f, &t->unit, 0, tc_panels(t->unit.gate.rows), t->group, t->act, t->up);
        tc_ffn_round_act(f, t->group, t->act, t->rounded);
        tc_ffn_down(f, &t->unit, 0, tc_panels(f->info->hidden), t->group, t->act, t->rounded, t->sums);
    }
}

static void wait_ready(const tc_ffn_shared_unit *s)
{
    while (!atomic_load_explicit(&s->ready, memory_order_acquire)) {
        for (int i = 0; i < TC_SPIN_LOOKS; i++) {
            if (atomic_load_explicit(&s->ready, memory_order_acquire)) return;
            tc_spin_pause();
        }
        tc_spin_yield();
    }
}

// Part `n` of all parts: those of gate and up first, unit after unit, then those of down.
static void run_part(tc_ffn *f, uint32_t member, uint32_t n, task *t)
{
    const bool down = n >= f->shared * TC_FFN_PARTS;
    if (down) n -= f->shared * TC_FFN_PARTS;
    const uint32_t part = n % TC_FFN_PARTS;
    tc_ffn_shared_unit *s = &f->shared_units[n / TC_FFN_PARTS];
    set_task(f, member, f->whole + n / TC_FFN_PARTS, true, down, t);
    const uint32_t panels = tc_panels(down ? f->info->hidden : t->unit.gate.rows),
                   p0 = panels * part / TC_FFN_PARTS, p1 = panels * (part + 1) / TC_FFN_PARTS;
    if (down) {
        wait_ready(s);
        tc_ffn_down(f, &t->unit, p0, p1, t->group, t->act, t->rounded, t->sums);
        return;
    }
    tc_ffn_gate_up(f, &t->unit, p0, p1, t->group, t->act, t->up);
    if (atomic_fetch_add(&s->parts, 1) + 1 < TC_FFN_PARTS) return;
    tc_ffn_round_act(f, t->group, t->act, t->rounded);
    atomic_store_explicit(&s->ready, 1, memory_order_release);
}

// What a member has summed for a token; NULL: nothing.
static const int64_t *member_sum(const tc_ffn *f, uint32_t member, uint32_t token)
{
    if (!(f->touched[(size_t)member * TC_ALIGN_BYTES / sizeof *f->touched] >> token & 1)) return NULL;
    return f->member_sum + ((size_t)member * f->fused_tokens_max + token) * f->info->hidden;
}

// The lines lie in other cores' caches: asked for one by one they would take longer than all additions.
static void fetch_sums(const tc_ffn *f, uint32_t token, uint32_t begin, uint32_t end)
{
    for (uint32_t m = 0; m < f->members; m++) {
        const int64_t *in = member_sum(f, m, token);
        for (uint32_t c = begin; in && c < end; c += TC_ALIGN_BYTES / sizeof *in) __builtin_prefetch(in + c);
    }
}

// Adds the members' sums for a run of columns.
static void reduce(tc_ffn *f, uint32_t begin, uint32_t end)
{
    const uint32_t hidden = f->info->hidden, tokens = f->call->tokens;
    fetch_sums(f, 0, begin, end);
    for (uint32_t t = 0; t < tokens; t++) {
        int64_t *out = f->sum + (size_t)t * hidden;
        bool first = true;
        if (t + 1 < tokens) fetch_sums(f, t + 1, begin, end);
        for (uint32_t m = 0; m < f->members; m++) {
            const int64_t *in = member_sum(f, m, t);
            if (!in) continue;
            if (first)
                memcpy(out + begin, in + begin, (end - begin) * sizeof *out);
            else
                for (uint32_t c = begin; c < end; c++) out[c] = tc_fixed_add(out[c], in[c]);
            first = false;
        }
        if (first) memset(out + begin, 0, (end - begin) * sizeof *out);
    }
}

// One row takes as long as a barrier: then the caller has done it.
static void round_inputs(tc_ffn *f)
{
    uint32_t row;
    if (!f->x_wants_rounded || f->call->tokens == 1) return;
    while (tc_ffn_take(f, 2, f->call->tokens, &row)) tc_ffn_round_x(f, row);
    tc_team_barrier(f->team);
}

void tc_ffn_fused_job(void *arg, uint32_t member)
{
    tc_ffn *f = arg;
    const uint32_t hidden = f->info->hidden, tasks = f->run_count + 2 * TC_FFN_PARTS * f->shared;
    task t = {.act = tc_ffn_member_rows(f, member, 0),
              .up = tc_ffn_member_rows(f, member, 1),
              .sums = f->sums + (size_t)member * f->tokens_max,
              .rounded = f->member_rounded + (size_t)member * f->tokens_max};
    uint32_t item;
    f->touched[(size_t)member * TC_ALIGN_BYTES / sizeof *f->touched] = 0;
    for (uint32_t i = 0; i < f->call->tokens; i++) t.up[i] = tc_ffn_member_act(f, member, 1, i);
    round_inputs(f);
    while (tc_ffn_take(f, 0, tasks, &item))
        if (item < f->run_count)
            run_whole(f, member, item, &t);
        else
            run_part(f, member, item - f->run_count, &t);
    tc_team_barrier(f->team);
    reduce(f, (uint32_t)((uint64_t)hidden * member / f->members),
           (uint32_t)((uint64_t)hidden * (member + 1) / f->members));
}
