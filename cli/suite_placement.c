// SPDX-License-Identifier: Apache-2.0
// Owns: the section `placement`: policies at several budgets over the same prompts. What a policy may know
// beforehand is a profile of other parts of the same texts. Refuses: to choose a policy.
#include "cli/suite.h"

#include <stdlib.h>

enum { PIECE_TOKENS = 40, PIECES_MAX = 32 };

typedef struct pieces {
    tc_ids ids[TC_TEXTS];
    const uint32_t *learn[PIECES_MAX], *measure[PIECES_MAX];
    uint32_t count, tokens; // pieces of each kind; tokens of an answer
} pieces;

typedef struct strategy {
    const char *name, *policy;
    uint32_t percent; // of all experts
} strategy;

typedef struct pass {
    tc_samples speed, hits, moved;
} pass;

// Pieces of all texts by turns: even ones to learn from, odd ones to measure.
static tc_status cut(tc_suite *s, uint32_t most, pieces *ret, tc_error *e)
{
    for (int i = 0; i < TC_TEXTS; i++)
        TC_TRY(tc_suite_encode(s, (const char *)tc_suite_texts[i].text, *tc_suite_texts[i].bytes,
                               &ret->ids[i], e));
    for (uint32_t at = 0; ret->count < most; at += 2 * PIECE_TOKENS) {
        uint32_t before = ret->count;
        for (int i = 0; i < TC_TEXTS && ret->count < most; i++) {
            if (at + 2 * PIECE_TOKENS > ret->ids[i].count) continue;
            ret->learn[ret->count] = ret->ids[i].data + at;
            ret->measure[ret->count++] = ret->ids[i].data + at + PIECE_TOKENS;
        }
        if (ret->count == before) break;
    }
    return ret->count ? TC_OK : tc_fail(e, TC_INTERNAL, "the texts have too few tokens");
}

static tc_status answer_all(tc_suite *s, tc_local *local, const pieces *p, const uint32_t *const *prompts,
                            pass *ret, tc_error *e)
{
    uint64_t decode_us = 0, tokens = 0, hits = 0, pairs = 0;
    TC_TRY(tc_local_ask_status(local, e));
    uint64_t before = local->status.detail ? local->status.detail->moved_bytes : 0;
    for (uint32_t i = 0; i < p->count; i++) {
        tc_answer a = {0};
        TC_TRY(tc_suite_generate(s, local, prompts[i], PIECE_TOKENS, p->tokens, &a, e));
        decode_us += a.usage.decode_us;
        tokens += a.count ? a.count - 1 : 0; // the first comes with the prompt
        hits += a.usage.expert_hits;
        pairs += a.usage.expert_hits + a.usage.expert_misses;
    }
    TC_TRY(tc_local_ask_status(local, e));
    uint64_t after = local->status.detail ? local->status.detail->moved_bytes : 0;
    if (!ret) return TC_OK;
    tc_samples_add(&ret->speed, decode_us ? (double)tokens * 1e6 / (double)decode_us : 0);
    tc_samples_add(&ret->hits, pairs ? 100 * (double)hits / (double)pairs : 0);
    tc_samples_add(&ret->moved, (double)(after - before) / (double)(p->count * (PIECE_TOKENS + p->tokens)));
    return TC_OK;
}

static void put_strategy(tc_suite *s, const strategy *t, double share, const pass *m, double roofline)
{
    const struct {
        const char *figure, *unit, *better;
        const tc_samples *values;
    } all[] = {
        {"placement-speed", "tokens/s", "higher", &m->speed},
        {"placement-hits", "%", "higher", &m->hits},
        {"placement-moved", "bytes a token", "lower", &m->moved},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tc_suite_figure(s, &(tc_figure){.figure = all[i].figure,
                                        .series = t->name,
                                        .x = share,
                                        .x_unit = "% of experts hot",
                                        .unit = all[i].unit,
                                        .better = all[i].better,
                                        .values = all[i].values,
                                        .roofline = i ? 0 : roofline,
                                        .lines = i ? NULL : tc_plan_lines});
}

static tc_status run_strategy(tc_suite *s, const strategy *t, const pieces *p, const char *learned,
                              tc_error *e)
{
    char profile[TC_STORE_PATH_BYTES];
    pass m = {0};
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    tc_status status;
    o.sessions = 1;
    o.context = 4 * PIECE_TOKENS + p->tokens;
    if (learned) {
        TC_TRY(tc_suite_copy(s, learned, "policy.profile", profile, e)); // the core writes into it
        o.profile = profile;
    }
    o.hot_budget = 0;
    o.hot_experts_given = false;
    o.hot_policy = t->policy;
    tc_suite_hot(s, t->percent, &o);
    TC_TRY(tc_suite_open(s, &o, &local, e));
    TC_GOTO(answer_all(s, &local, p, p->learn, NULL, e));
    for (uint64_t r = 0; r < s->repetitions; r++) TC_GOTO(answer_all(s, &local, p, p->measure, &m, e));
    uint64_t all = (uint64_t)s->b.footprint.moe_layers * s->b.desc.experts;
    uint64_t slots = local.status.detail ? local.status.detail->hot_slots : 0;
    if (slots > all) slots = all; // layers without experts are counted too
    double bytes =
        (double)tc_bench_step_bytes(&s->b, &local, (double)tc_bench_token_reads(&s->b), 1, PIECE_TOKENS);
    put_strategy(s, t, all ? 100 * (double)slots / (double)all : 0, &m,
                 s->on_gpu ? 0 : tc_samples_median(&s->b.machine.read_gb_per_s) * 1e9 / bytes);
out:
    tc_local_close(&local);
    return status;
}

// What the core learned from the pieces to learn from, as it leaves it behind.
static tc_status learn(tc_suite *s, const pieces *p, char profile[TC_STORE_PATH_BYTES], tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    TC_TRY(tc_suite_place(s, "learned.profile", profile, e));
    o.sessions = 1;
    o.context = 4 * PIECE_TOKENS + p->tokens;
    o.profile = profile;
    TC_TRY(tc_suite_open(s, &o, &local, e));
    tc_status status = answer_all(s, &local, p, p->learn, NULL, e);
    tc_local_close(&local);
    return status;
}

static tc_status run_all(tc_suite *s, const pieces *p, tc_error *e)
{
    static const char *const policies[] = {"static", "lru", "decayed", "predictive"};
    static const char *const names[] = {"static top-k", "lru", "decayed", "predictive"};
    static const uint32_t quick[] = {12, 25, 50}, fuller[] = {6, 12, 25, 50};
    const uint32_t *budgets = s->full ? fuller : quick;
    uint32_t count = s->full ? 4 : 3, done = 0;
    char learned[TC_STORE_PATH_BYTES];
    const strategy cold = {"all cold", NULL, 0}, hot = {"all hot", "static", 100};
    TC_TRY(learn(s, p, learned, e));
    TC_TRY(run_strategy(s, &cold, p, NULL, e));
    for (uint32_t b = 0; b < count; b++)
        for (uint32_t i = 0; i < 4; i++) {
            const strategy t = {names[i], policies[i], budgets[b]};
            TC_TRY(tc_suite_step(s, ++done, count * 4 + 2, e));
            TC_TRY(run_strategy(s, &t, p, learned, e));
        }
    tc_status status = run_strategy(s, &hot, p, learned, e);
    if (status == TC_OK || status == TC_CANCELLED) return status;
    tc_suite_note(s, "All hot did not fit: %.160s.", e ? e->text : "");
    return TC_OK;
}

tc_status tc_suite_strategies(tc_suite *s, tc_error *e)
{
    pieces p = {.tokens = s->full ? 64 : 24};
    if (!s->b.footprint.moe_layers) return tc_suite_skip(s, e, "the model has no experts");
    tc_status status = cut(s, s->full ? PIECES_MAX : 8, &p, e);
    tc_suite_note(s,
                  "%u prompts of %d tokens (prose, code, manual pages, lists, other languages by turns), "
                  "answers of %u. Every "
                  "policy starts with one profile, learned from other parts of the same texts. The roofline "
                  "is that of the "
                  "CPU's memory.",
                  p.count, PIECE_TOKENS, p.tokens);
    if (status == TC_OK) status = run_all(s, &p, e);
    for (int i = 0; i < TC_TEXTS; i++) tc_ids_free(&p.ids[i]);
    return status;
}
