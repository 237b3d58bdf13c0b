// SPDX-License-Identifier: Apache-2.0
// Owns: the section `inputs`, and the texts that stand for kinds of input. Refuses: to judge answers.
#include "cli/suite.h"

#include <stdlib.h>
#include <string.h>

#define EMBEDDED(name)                                                                                       \
    extern const unsigned char tc_embedded_##name##_txt[];                                                   \
    extern const unsigned long tc_embedded_##name##_txt_bytes;
EMBEDDED(prose)
EMBEDDED(code)
EMBEDDED(manual)
EMBEDDED(list)
EMBEDDED(foreign)

#define TEXT(title, name)                                                                                    \
    {                                                                                                        \
        title, tc_embedded_##name##_txt, &tc_embedded_##name##_txt_bytes                                     \
    }
const tc_text tc_suite_texts[TC_TEXTS] = {
    TEXT("prose", prose),
    TEXT("code", code),
    TEXT("manual pages", manual),
    TEXT("lists", list),
    TEXT("other languages", foreign),
};

enum {
    KINDS = TC_TEXTS + 2,
    SHORT_TOKENS = 2,
    USUAL_TOKENS = 160,
    LONG_TOKENS = 8192,
    HOT_PERCENT = 25,
};

typedef struct kind {
    const char *name;
    tc_ids ids; // of all its text
    uint32_t prompt;
} kind;

static tc_status push_all(tc_ids *to, const tc_ids *from, uint32_t most, tc_error *e)
{
    for (size_t i = 0; i < from->count && to->count < most; i++)
        if (tc_ids_push(to, from->data[i]) != TC_OK) return tc_fail(e, TC_NOMEM, "out of memory");
    return TC_OK;
}

// The five texts, the beginning of one, and all of them again and again.
static tc_status make_kinds(tc_suite *s, uint32_t long_tokens, kind kinds[KINDS], tc_error *e)
{
    kind *brief = &kinds[TC_TEXTS], *lengthy = &kinds[TC_TEXTS + 1];
    for (int i = 0; i < TC_TEXTS; i++) {
        kinds[i].name = tc_suite_texts[i].name;
        TC_TRY(tc_suite_encode(s, (const char *)tc_suite_texts[i].text, *tc_suite_texts[i].bytes,
                               &kinds[i].ids, e));
        kinds[i].prompt = kinds[i].ids.count < USUAL_TOKENS ? (uint32_t)kinds[i].ids.count : USUAL_TOKENS;
        if (!kinds[i].prompt) return tc_fail(e, TC_INTERNAL, "%s: no tokens", kinds[i].name);
    }
    brief->name = "very short";
    TC_TRY(push_all(&brief->ids, &kinds[0].ids, SHORT_TOKENS, e));
    lengthy->name = "very long";
    while (lengthy->ids.count < long_tokens)
        for (int i = 0; i < TC_TEXTS; i++) TC_TRY(push_all(&lengthy->ids, &kinds[i].ids, long_tokens, e));
    brief->prompt = (uint32_t)brief->ids.count;
    lengthy->prompt = (uint32_t)lengthy->ids.count;
    return TC_OK;
}

typedef struct seen {
    tc_samples decode, prompt, first, hits;
    uint64_t *uses; // [layers][experts]
} seen;

static tc_status empty_tier(tc_local *local, tc_error *e)
{
    yyjson_doc *answer = NULL;
    TC_TRY(tc_suite_ask(local, TC_ASK_EXPERT_OPTIMIZATION, "{\"enable\":false}", &answer, e));
    yyjson_doc_free(answer);
    TC_TRY(tc_suite_ask(local, TC_ASK_EXPERT_OPTIMIZATION, "{\"enable\":true}", &answer, e));
    yyjson_doc_free(answer);
    return TC_OK;
}

static tc_status measure(tc_suite *s, tc_local *local, const kind *k, uint32_t tokens, bool hot, seen *ret,
                         tc_error *e)
{
    if (hot) TC_TRY(empty_tier(local, e));
    for (uint64_t r = 0; r < s->repetitions; r++) {
        tc_answer a = {.uses = r ? NULL : ret->uses}; // greedy: they would be the same again
        TC_TRY(tc_suite_generate(s, local, k->ids.data, k->prompt, tokens, &a, e));
        double pairs = (double)(a.usage.expert_hits + a.usage.expert_misses);
        tc_samples_add(&ret->first, a.first_us * 1e-3);
        if (a.usage.decode_us && a.count > 1) // the first token comes with the prompt
            tc_samples_add(&ret->decode, (a.count - 1) * 1e6 / (double)a.usage.decode_us);
        if (a.usage.prefill_us) tc_samples_add(&ret->prompt, k->prompt * 1e6 / (double)a.usage.prefill_us);
        if (hot && pairs > 0) tc_samples_add(&ret->hits, 100 * (double)a.usage.expert_hits / pairs);
    }
    return TC_OK;
}

static tc_status put_skew(tc_suite *s, const kind *k, const seen *m, tc_error *e)
{
    uint32_t layers = s->b.desc.layers, experts = s->b.desc.experts;
    char figure[64];
    double *share = calloc((size_t)layers * experts + 1, sizeof *share);
    if (!share) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t l = 0; l < layers; l++) {
        uint64_t sum = 0;
        for (uint32_t x = 0; x < experts; x++) sum += m->uses[(size_t)l * experts + x];
        for (uint32_t x = 0; sum && x < experts; x++)
            share[(size_t)l * experts + x] = (double)m->uses[(size_t)l * experts + x] / (double)sum;
    }
    snprintf(figure, sizeof figure, "skew, %s", k->name);
    tc_suite_matrix(s, figure, "layer", "expert", "share of uses", share, layers, experts);
    free(share);
    return TC_OK;
}

static void put_kind(tc_suite *s, const kind *k, const seen *m)
{
    const struct {
        const char *figure, *unit, *better;
        const tc_samples *values;
    } all[] = {
        {"input-decode", "tokens/s", "higher", &m->decode},
        {"input-prompt", "tokens/s", "higher", &m->prompt},
        {"input-first-token", "ms", "lower", &m->first},
        {"input-hits", "%", "higher", &m->hits},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].values->count)
            tc_suite_figure(s, &(tc_figure){.figure = all[i].figure,
                                            .series = "inputs",
                                            .x_text = k->name,
                                            .unit = all[i].unit,
                                            .better = all[i].better,
                                            .values = all[i].values,
                                            .lines = i ? NULL : tc_plan_lines});
}

static tc_status run_kinds(tc_suite *s, tc_local *local, const kind kinds[KINDS], uint32_t tokens,
                           tc_error *e)
{
    size_t n = (size_t)s->b.desc.layers * s->b.desc.experts;
    bool hot = local->status.detail && local->status.detail->hot_slots > 0;
    tc_answer warm = {0};
    TC_TRY(tc_suite_generate(s, local, kinds[0].ids.data, SHORT_TOKENS, 8, &warm, e));
    for (uint32_t i = 0; i < KINDS; i++) {
        seen m = {.uses = calloc(n + 1, sizeof *m.uses)};
        if (!m.uses) return tc_fail(e, TC_NOMEM, "out of memory");
        tc_status status = tc_suite_step(s, i, KINDS, e);
        if (status == TC_OK) status = measure(s, local, &kinds[i], tokens, hot, &m, e);
        if (status == TC_OK) status = put_skew(s, &kinds[i], &m, e);
        if (status == TC_OK) put_kind(s, &kinds[i], &m);
        free(m.uses);
        if (status != TC_OK) return status;
    }
    return TC_OK;
}

tc_status tc_suite_inputs(tc_suite *s, tc_error *e)
{
    kind kinds[KINDS] = {0};
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    uint32_t tokens = s->full ? 128 : 48, most = tc_suite_positions(s, LONG_TOKENS + tokens + 64);
    uint32_t longest = most > tokens + 64 ? most - tokens - 64 : 0;
    tc_status status;
    if (longest < USUAL_TOKENS) return tc_suite_skip(s, e, "the model has %u positions: too few", most);
    TC_GOTO(make_kinds(s, longest, kinds, e));
    o.sessions = 1;
    o.context = most;
    if (tc_suite_expert_bytes(s)) tc_suite_hot(s, HOT_PERCENT, &o);
    tc_suite_note(s, "Prompts of %d tokens (very short %d, very long %u), answers of %u. Hot tier: %llu %s.",
                  USUAL_TOKENS, SHORT_TOKENS, kinds[KINDS - 1].prompt, tokens,
                  (unsigned long long)(o.hot_experts_given ? o.hot_experts : o.hot_budget),
                  o.hot_experts_given ? "experts" : "bytes");
    TC_GOTO(tc_suite_open(s, &o, &local, e));
    TC_GOTO(tc_local_ask_status(&local, e));
    TC_GOTO(run_kinds(s, &local, kinds, tokens, e));
out:
    tc_local_close(&local);
    for (int i = 0; i < KINDS; i++) tc_ids_free(&kinds[i].ids);
    return status;
}
