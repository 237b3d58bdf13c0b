// SPDX-License-Identifier: Apache-2.0
// Owns: the part `quality.determinism`: the same prompts under every way of sharing the work out, held
// against the core alone, bit for bit. Refuses: tolerances.
#include "cli/suite.h"

#include <stdlib.h>
#include <string.h>

enum { PROMPT_TOKENS = 48, ANSWER_TOKENS = 24, LOGITS_PROMPTS = 2 };

typedef struct way {
    const char *name;
    uint64_t workers;
    const char *shard, *plane, *policy;
    bool hot; // a quarter of the experts may be
} way;

static const way ways[] = {
    {"experts in the core", 0, NULL, NULL, NULL, false},
    {"1 worker", 1, "partition", "shm", NULL, false},
    {"2 workers, whole experts", 2, "partition", "shm", NULL, false},
    {"2 workers, slices", 2, "slice", "shm", NULL, false},
    {"4 workers, whole experts", 4, "partition", "shm", NULL, false},
    {"2 workers, messages", 2, "partition", "nng", NULL, false},
    {"lru", 1, NULL, "shm", "lru", true},
    {"decayed", 1, NULL, "shm", "decayed", true},
    {"predictive", 1, NULL, "shm", "predictive", true},
};
enum { WAYS = sizeof ways / sizeof *ways };

// What one way says: tokens, and the logits of some prompts.
typedef struct said {
    uint32_t tokens[TC_TEXTS][ANSWER_TOKENS];
    float *logits; // [LOGITS_PROMPTS][PROMPT_TOKENS][vocab]
} said;

static tc_status ask(tc_suite *s, const way *w, const tc_ids *ids, said *ret, tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    size_t one = (size_t)PROMPT_TOKENS * s->b.desc.vocab;
    tc_status status;
    o.workers = w->workers;
    o.workers_given = true;
    o.worker_threads = 1;
    o.shard = w->shard;
    o.data_plane = w->plane;
    o.hot_policy = w->policy;
    o.hot_budget = 0;
    o.hot_experts_given = false;
    tc_suite_hot(s, w->hot ? 25 : 0, &o);
    o.sessions = 1;
    o.context = PROMPT_TOKENS + ANSWER_TOKENS + 16;
    TC_TRY(tc_suite_open(s, &o, &local, e));
    for (uint32_t i = 0; i < TC_TEXTS; i++) {
        tc_answer a = {.tokens = ret->tokens[i], .room = ANSWER_TOKENS};
        if (i < LOGITS_PROMPTS) a.logits = ret->logits + i * one;
        TC_GOTO(tc_suite_generate(s, &local, ids[i].data, PROMPT_TOKENS, ANSWER_TOKENS, &a, e));
    }
out:
    tc_local_close(&local);
    tc_suite_drop_arenas(s, local.store); // each way of sharing out has arenas of its own
    return status;
}

static void put(tc_suite *s, const char *series, const char *name, double percent)
{
    tc_samples v = {0};
    tc_samples_add(&v, percent);
    tc_suite_figure(s, &(tc_figure){.figure = "determinism",
                                    .series = series,
                                    .x_text = name,
                                    .unit = "% equal",
                                    .better = "higher",
                                    .values = &v});
}

static void compare(tc_suite *s, const way *w, const said *first, const said *own)
{
    size_t logits = (size_t)LOGITS_PROMPTS * PROMPT_TOKENS * s->b.desc.vocab, same_logits = 0,
           same_tokens = 0;
    for (size_t i = 0; i < logits; i++)
        same_logits += !memcmp(&first->logits[i], &own->logits[i], sizeof(float));
    for (size_t i = 0; i < TC_TEXTS; i++)
        for (size_t k = 0; k < ANSWER_TOKENS; k++) same_tokens += first->tokens[i][k] == own->tokens[i][k];
    put(s, "tokens", w->name, 100.0 * (double)same_tokens / (TC_TEXTS * ANSWER_TOKENS));
    put(s, "logits", w->name, 100.0 * (double)same_logits / (double)logits);
}

tc_status tc_suite_determinism(tc_suite *s, tc_error *e)
{
    tc_ids ids[TC_TEXTS] = {0};
    said *all = calloc(2, sizeof *all); // the first way's; the one under way's
    size_t bytes = (size_t)LOGITS_PROMPTS * PROMPT_TOKENS * s->b.desc.vocab * sizeof(float);
    tc_status status = TC_OK;
    if (!all) return tc_fail(e, TC_NOMEM, "out of memory");
    for (int i = 0; i < 2; i++)
        if (!(all[i].logits = calloc(1, bytes))) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    for (int i = 0; i < TC_TEXTS; i++) {
        TC_GOTO(
            tc_suite_encode(s, (const char *)tc_suite_texts[i].text, *tc_suite_texts[i].bytes, &ids[i], e));
        if (ids[i].count < PROMPT_TOKENS) TC_GOTO(tc_fail(e, TC_INTERNAL, "a text has too few tokens"));
    }
    for (int i = 0; i < WAYS; i++) {
        if (i && !s->b.footprint.moe_layers) break; // nothing is shared out
        TC_GOTO(tc_suite_step(s, i, WAYS, e));
        TC_GOTO(ask(s, &ways[i], ids, &all[i > 0], e));
        if (i) compare(s, &ways[i], &all[0], &all[1]);
    }
    tc_suite_note(s, "%d prompts of %d tokens, greedy answers of %d, all logits of %d prompts.", TC_TEXTS,
                  PROMPT_TOKENS, ANSWER_TOKENS, LOGITS_PROMPTS);
out:
    for (int i = 0; i < 2; i++) free(all[i].logits);
    free(all);
    for (int i = 0; i < TC_TEXTS; i++) tc_ids_free(&ids[i]);
    return status;
}
