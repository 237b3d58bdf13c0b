// SPDX-License-Identifier: Apache-2.0
// Owns: the sums of a memory plan.
#include "common/placement/plan.h"

#include <stdio.h>
#include <string.h>

#define MIB (1ull << 20)
#define PROGRAMS_BYTES (640 * MIB) // core, workers and gateway themselves, beside what they hold
#define PREFIX_MAX_BYTES (4096 * MIB)

double tc_plan_hit_rate(double share)
{
    static const struct {
        double share, hits;
    } known[] = {{0, 0},          {0.03125, 0.45}, {0.0625, 0.63}, {0.125, 0.78},
                 {0.1875, 0.865}, {0.25, 0.905},   {0.5, 0.96},    {1, 1}};
    enum { KNOWN = sizeof known / sizeof *known };
    if (!(share > 0)) return 0;
    for (int i = 1; i < KNOWN; i++)
        if (share <= known[i].share)
            return known[i - 1].hits + (known[i].hits - known[i - 1].hits) * (share - known[i - 1].share) /
                                           (known[i].share - known[i - 1].share);
    return 1;
}

typedef struct setting {
    uint32_t context, users;
    uint64_t vram, ram;
} setting;

typedef struct sums {
    tc_plan_needs needs;
    uint64_t device, host; // device: what must be where the dense weights are
} sums;

static setting wished(const tc_plan_input *in, uint32_t context, uint32_t users)
{
    return (setting){context, users, in->vram_bytes, in->ram_bytes};
}

static sums add_up(const tc_plan_input *in, setting at)
{
    sums s = {.device = 0};
    in->needs(in->arg, at.context, at.users, at.vram, at.ram, &s.needs);
    s.device = in->dense_bytes + s.needs.kv_bytes + s.needs.state_bytes + s.needs.scratch_bytes +
               s.needs.driver_bytes;
    s.host = in->expert_bytes * in->experts + in->embedding_bytes + s.needs.host_scratch_bytes +
             s.needs.constraints_bytes + PROGRAMS_BYTES;
    if (!in->vram_bytes) {
        s.host += s.device;
        s.device = 0;
    }
    return s;
}

static bool fits(const tc_plan_input *in, uint32_t context, uint32_t users)
{
    sums s = add_up(in, wished(in, context, users));
    return s.device <= in->vram_bytes && s.host <= in->ram_bytes;
}

// A value in [1, most] that fits, the largest or near it (batches grow with what there is); 0: none.
static uint32_t largest(const tc_plan_input *in, uint32_t most, uint32_t other, bool is_context)
{
    uint32_t low = 0, high = most;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (is_context ? fits(in, middle, other) : fits(in, other, middle))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// Budgets under which the wish fits: more memory allows larger batches, which take more, until they are as
// large as they get.
static void enlarge(const tc_plan_input *in, tc_memory_plan *p)
{
    enum { ROUNDS = 32 };
    for (int i = 0; i < ROUNDS; i++) {
        sums s = add_up(in, (setting){p->context, p->users, p->vram_bytes, p->ram_bytes});
        if (s.device <= p->vram_bytes && s.host <= p->ram_bytes) return;
        if (p->vram_bytes < s.device) p->vram_bytes = (s.device + MIB - 1) / MIB * MIB;
        if (p->ram_bytes < s.host) p->ram_bytes = (s.host + MIB - 1) / MIB * MIB;
    }
}

static void suggest(const tc_plan_input *in, tc_memory_plan *p)
{
    uint32_t context = largest(in, in->context, in->users, true),
             users = largest(in, in->users, in->context, false);
    p->vram_bytes = in->vram_bytes;
    p->ram_bytes = in->ram_bytes;
    if (context >= 256 || (context && !users)) {
        const uint32_t whole = context / 64 * 64;
        p->context = whole && fits(in, whole, in->users) ? whole : context;
        p->users = in->users;
        snprintf(p->nearest, sizeof p->nearest, "--context %u with %u user%s fits", p->context, p->users,
                 p->users == 1 ? "" : "s");
    } else if (users) {
        p->context = in->context;
        p->users = users;
        snprintf(p->nearest, sizeof p->nearest, "--users %u with a context of %u fits", users, in->context);
    } else { // the model itself does not
        p->context = in->context;
        p->users = in->users;
        enlarge(in, p);
        if (in->vram_bytes)
            snprintf(p->nearest, sizeof p->nearest, "--vram %lluM --ram %lluM fits", p->vram_bytes / MIB,
                     p->ram_bytes / MIB);
        else
            snprintf(p->nearest, sizeof p->nearest, "--ram %lluM fits", p->ram_bytes / MIB);
    }
}

static void refuse(const tc_plan_input *in, const sums *s, tc_memory_plan *p)
{
    const tc_plan_needs *n = &s->needs;
    uint64_t experts = in->expert_bytes * in->experts;
    if (in->vram_bytes && s->device > in->vram_bytes)
        snprintf(p->reason, sizeof p->reason,
                 "VRAM: dense weights %llu + KV %llu (%u users x %u positions) + states %llu + scratch %llu "
                 "(batches of %u tokens) + driver %llu = %llu MiB, %llu MiB may be used",
                 in->dense_bytes / MIB, n->kv_bytes / MIB, in->users, in->context, n->state_bytes / MIB,
                 n->scratch_bytes / MIB, n->batch_tokens, n->driver_bytes / MIB, s->device / MIB,
                 in->vram_bytes / MIB);
    else if (in->vram_bytes)
        snprintf(p->reason, sizeof p->reason,
                 "RAM: experts %llu + embedding %llu + scratch %llu + constraints %llu + programs %llu = "
                 "%llu MiB, %llu MiB may be used",
                 experts / MIB, in->embedding_bytes / MIB, n->host_scratch_bytes / MIB,
                 n->constraints_bytes / MIB, PROGRAMS_BYTES / MIB, s->host / MIB, in->ram_bytes / MIB);
    else
        snprintf(p->reason, sizeof p->reason,
                 "RAM: experts %llu + dense weights %llu + KV %llu (%u users x %u positions) + "
                 "states %llu + scratch %llu (batches of %u tokens) + constraints %llu + programs %llu = "
                 "%llu MiB, %llu MiB may be used",
                 experts / MIB, in->dense_bytes / MIB, n->kv_bytes / MIB, in->users, in->context,
                 n->state_bytes / MIB, n->scratch_bytes / MIB, n->batch_tokens, n->constraints_bytes / MIB,
                 PROGRAMS_BYTES / MIB, s->host / MIB, in->ram_bytes / MIB);
    suggest(in, p);
}

static void expect_speed(const tc_plan_input *in, tc_memory_plan *p)
{
    double dense = in->vram_bytes ? in->vram_speed : in->ram_speed;
    p->hit_rate = tc_plan_hit_rate(in->experts ? (double)p->hot_experts / (double)in->experts : 0);
    double hot = (double)in->token_expert_bytes * p->hit_rate, cold = (double)in->token_expert_bytes - hot;
    double hot_us = in->vram_speed > 0 ? hot / in->vram_speed : 0, cold_us = cold / in->ram_speed;
    p->token_us = in->step_us + (double)in->token_dense_bytes / dense + (hot_us > cold_us ? hot_us : cold_us);
}

tc_status tc_plan_memory(const tc_plan_input *in, tc_memory_plan *ret, tc_error *e)
{
    if (in->context < 1 || in->users < 1 || in->users > 4096 || in->context > 1u << 24)
        return tc_fail(e, TC_ARGUMENT, "plan for %u users of %u positions", in->users, in->context);
    if (!(in->ram_speed > 0) || (in->vram_bytes && !(in->vram_speed > 0)) || !(in->step_us >= 0))
        return tc_fail(e, TC_ARGUMENT, "plan without the speeds of the memories");
    if (in->context > in->max_positions)
        return tc_fail(e, TC_ARGUMENT, "a context of %u: the model was made for at most %u positions",
                       in->context, in->max_positions);
    tc_memory_plan p = {
        .context = in->context, .users = in->users, .vram_bytes = in->vram_bytes, .ram_bytes = in->ram_bytes};
    sums s = add_up(in, wished(in, in->context, in->users));
    p.dense_bytes = in->dense_bytes;
    p.needs = s.needs;
    p.experts_bytes = in->expert_bytes * in->experts;
    p.programs_bytes = PROGRAMS_BYTES;
    p.fits = fits(in, in->context, in->users);
    if (!p.fits) {
        refuse(in, &s, &p);
        *ret = p;
        return TC_OK;
    }
    if (in->vram_bytes && in->expert_bytes && !in->cold_only) {
        p.hot_experts = (in->vram_bytes - s.device) / in->expert_bytes;
        if (p.hot_experts > in->experts) p.hot_experts = in->experts;
        p.hot_bytes = p.hot_experts * in->expert_bytes;
    }
    p.vram_left_bytes = in->vram_bytes ? in->vram_bytes - s.device - p.hot_bytes : 0;
    uint64_t left = in->ram_bytes - s.host;
    p.prefix_bytes = left / 4 < PREFIX_MAX_BYTES ? left / 4 : PREFIX_MAX_BYTES;
    p.ram_left_bytes = left - p.prefix_bytes;
    expect_speed(in, &p);
    *ret = p;
    return TC_OK;
}
