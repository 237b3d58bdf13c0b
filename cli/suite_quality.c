// SPDX-License-Identifier: Apache-2.0
// Owns: the section `quality`, but for determinism: perplexity and divergence of precisions on held-out text,
// and greedy agreement with answers that the reference implementation left behind. Refuses: bounds. It tells.
#include "cli/suite.h"
#include "common/base/json.h"
#include "common/model/convert.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

enum {
    WINDOW = 512,
    QUICK_POSITIONS = 2048,
    FULL_POSITIONS = 16384,
    WINDOWS_MAX = 64,
    VARIANTS = 4,
    EXPECTED_BYTES_MAX = 64 << 20,
    EXPECTED_DEPTH = 8,
    FIXTURES_MAX = 64,
    STEPS_MAX = 256,
    PROMPTS_MAX = 64,
};
#define LOGITS_BYTES_MAX (1ull << 30) // of all windows of the reference variant

// ---- perplexity ----

typedef struct windows {
    tc_ids ids;
    uint32_t start[WINDOWS_MAX], count, length, vocab;
    float *logits; // [count][length][vocab] of the exact variant
} windows;

typedef struct variant {
    const char *name, *precision;
    bool dense; // of a copy of the model with weights of 16 bits
} variant;
static const variant variants[VARIANTS] = {{"NF4, exact", "exact", false},
                                           {"NF4, float", "float", false},
                                           {"NF4, fast", "fast", false},
                                           {"bf16", "fast", true}};

// A GPU computes `fast` only: the CPU beside it does the others.
static void off_the_gpu(const tc_suite *s, tc_run_options *o)
{
    if (!s->on_gpu) return;
    o->device = "cpu";
    o->vram = 0;
}

// Spread evenly over the text.
static tc_status cut_windows(tc_suite *s, windows *w, tc_error *e)
{
    uint32_t positions = s->full ? FULL_POSITIONS : QUICK_POSITIONS;
    w->vocab = s->b.desc.vocab;
    w->length = tc_suite_positions(s, WINDOW);
    uint64_t room = LOGITS_BYTES_MAX / ((uint64_t)w->vocab * sizeof(float));
    if (positions > room) positions = (uint32_t)room;
    TC_TRY(tc_suite_encode(s, s->heldout, strlen(s->heldout), &w->ids, e));
    uint32_t there = (uint32_t)(w->ids.count / w->length);
    w->count = positions / w->length;
    if (w->count > there) w->count = there;
    if (w->count > WINDOWS_MAX) w->count = WINDOWS_MAX;
    if (!w->count) return tc_suite_skip(s, e, "the held-out text has %zu tokens: too few", w->ids.count);
    for (uint32_t i = 0; i < w->count; i++)
        w->start[i] = (uint32_t)((uint64_t)i * there / w->count) * w->length;
    w->logits = malloc((size_t)w->count * w->length * w->vocab * sizeof *w->logits);
    return w->logits ? TC_OK
                     : tc_fail(e, TC_NOMEM, "no memory for the logits of %u positions", w->count * w->length);
}

// Logits to log-probabilities; returns the place of the greatest.
static uint32_t log_softmax(const float *logits, uint32_t n, double *ret)
{
    uint32_t best = 0;
    double sum = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    for (uint32_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)logits[best]);
    double all = (double)logits[best] + log(sum);
    for (uint32_t i = 0; i < n; i++) ret[i] = (double)logits[i] - all;
    return best;
}

typedef struct sums {
    double nll, kl;
    uint64_t positions, agree;
    double *kls; // [positions]
} sums;

// One window against the exact one; its last position predicts nothing that is known.
static void compare(const windows *w, uint32_t window, const float *own, double *a, double *b, sums *sum)
{
    const float *reference = w->logits + (size_t)window * w->length * w->vocab;
    for (uint32_t p = 0; p + 1 < w->length; p++) {
        uint32_t next = w->ids.data[w->start[window] + p + 1];
        uint32_t x = log_softmax(reference + (size_t)p * w->vocab, w->vocab, a);
        uint32_t y = log_softmax(own + (size_t)p * w->vocab, w->vocab, b);
        double kl = 0;
        for (uint32_t i = 0; i < w->vocab; i++) kl += exp(a[i]) * (a[i] - b[i]);
        sum->nll -= b[next];
        sum->kl += kl;
        sum->kls[sum->positions++] = kl > 0 ? kl : 0; // rounding may leave it a little below
        sum->agree += x == y;
    }
}

static void put_one(tc_suite *s, const char *figure, const char *name, double value, const char *unit,
                    const char *better)
{
    tc_samples v = {0};
    tc_samples_add(&v, value);
    tc_suite_figure(s, &(tc_figure){.figure = figure,
                                    .series = "held-out text",
                                    .x_text = name,
                                    .unit = unit,
                                    .better = better,
                                    .values = &v});
}

static void put_variant(tc_suite *s, const variant *v, const sums *sum, double exact_nll)
{
    double n = (double)sum->positions, perplexity = exp(sum->nll / n);
    put_one(s, "perplexity", v->name, perplexity, "perplexity", "lower");
    if (v == &variants[0]) return;
    put_one(s, "perplexity-change", v->name, 100 * expm1((sum->nll - exact_nll) / n), "% of exact", "none");
    put_one(s, "divergence", v->name, sum->kl / n, "nats, mean KL", "lower");
    put_one(s, "greedy-agreement", v->name, 100 * (double)sum->agree / n, "% of positions", "higher");
    for (uint64_t i = 0; i < sum->positions; i++) sum->kls[i] *= 1e6;
    tc_suite_distribution(s, "divergence-distribution", v->name, "micronats", sum->kls, sum->positions);
}

// A copy of the model whose weights are what the quantised ones stand for, 16 bits each.
static tc_status make_dense(tc_suite *s, char folder[TC_STORE_PATH_BYTES], bool *ret_made, tc_error *e)
{
    struct statvfs disk;
    tc_checkpoint *checkpoint = NULL;
    *ret_made = false;
    TC_TRY(tc_suite_place(s, "bf16", folder, e));
    uint64_t need = 4 * s->parameters + (1ull << 30); // the copy, and its packed store
    if (statvfs(s->output, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < need) {
        tc_suite_note(s, "No room on the disk for a copy in bf16: its row is missing.");
        return TC_OK;
    }
    TC_TRY(tc_checkpoint_open(s->b.model, &checkpoint, e));
    tc_status status =
        tc_convert_nf4(checkpoint, s->b.model, folder, &(tc_convert_options){.dense = true}, e);
    tc_checkpoint_free(checkpoint);
    *ret_made = status == TC_OK;
    if (status != TC_UNSUPPORTED) return status;
    tc_suite_note(s, "A copy in bf16 cannot be made (%.120s): its row is missing.", e ? e->text : "");
    return TC_OK;
}

static tc_status run_windows(tc_suite *s, const variant *v, uint32_t number, tc_local *local, windows *w,
                             sums *sum, tc_error *e)
{
    size_t window_logits = (size_t)w->length * w->vocab;
    double *a = malloc(w->vocab * sizeof *a), *b = malloc(w->vocab * sizeof *b);
    float *own = malloc(window_logits * sizeof *own);
    tc_status status = TC_OK;
    if (!a || !b || !own) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    for (uint32_t i = 0; i < w->count; i++) {
        float *into = v == &variants[0] ? w->logits + i * window_logits : own;
        tc_answer answer = {.logits = into};
        TC_GOTO(tc_suite_step(s, number * w->count + i, VARIANTS * w->count, e));
        TC_GOTO(tc_suite_generate(s, local, w->ids.data + w->start[i], w->length, 0, &answer, e));
        compare(w, i, into, a, b, sum);
    }
out:
    free(a);
    free(b);
    free(own);
    return status;
}

static tc_status run_variant(tc_suite *s, const variant *v, windows *w, double *exact_nll, tc_error *e)
{
    char folder[TC_STORE_PATH_BYTES], cache[TC_STORE_PATH_BYTES];
    const char *model = s->b.model;
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    sums sum = {.kls = calloc((size_t)w->count * w->length, sizeof *sum.kls)};
    tc_status status = TC_OK;
    bool made = true;
    if (!sum.kls) return tc_fail(e, TC_NOMEM, "out of memory");
    if (v->dense) {
        TC_GOTO(make_dense(s, folder, &made, e));
        TC_GOTO(tc_suite_place(s, "cache", cache, e));
        model = folder;
        o.cache_dir = cache;
        o.quantise = "keep";
    }
    if (!made) goto out;
    o.precision = v->precision;
    if (v->dense || strcmp(v->precision, "fast") != 0) off_the_gpu(s, &o);
    o.sessions = 1;
    o.context = w->length + 16;
    tc_progress_clear(&s->bar);
    TC_GOTO(tc_local_open(&o, model, &local, e));
    if (local.info.vocab != w->vocab) TC_GOTO(tc_fail(e, TC_INTERNAL, "the core tells another vocabulary"));
    TC_GOTO(run_windows(s, v, (uint32_t)(v - variants), &local, w, &sum, e));
    if (v == &variants[0]) *exact_nll = sum.nll;
    put_variant(s, v, &sum, *exact_nll);
out:
    tc_local_close(&local);
    if (v->dense) tc_suite_drop_arenas(s, local.store);
    free(sum.kls);
    return status;
}

tc_status tc_suite_perplexity(tc_suite *s, tc_error *e)
{
    windows w = {0};
    double exact_nll = 0;
    tc_status status;
    if (!s->heldout) return tc_suite_skip(s, e, "%s", s->heldout_reason);
    TC_GOTO(cut_windows(s, &w, e));
    tc_suite_note(s,
                  "%u windows of %u tokens, spread over the text. `bf16` is the same model with its weights "
                  "written out in "
                  "16 bits: weights from before quantising are not part of a checkpoint.",
                  w.count, w.length);
    for (int i = 0; i < VARIANTS; i++) TC_GOTO(run_variant(s, &variants[i], &w, &exact_nll, e));
out:
    tc_ids_free(&w.ids);
    free(w.logits);
    return status;
}

// ---- agreement with stored answers ----

typedef struct agreement {
    uint64_t same, steps; // tokens before the first that differs; of all
    uint32_t prompts, whole;
} agreement;

static tc_status read_ids(yyjson_val *list, uint32_t most, uint32_t *ret, uint32_t *ret_count,
                          const char *what, tc_error *e)
{
    size_t index, count;
    yyjson_val *item;
    uint64_t id;
    *ret_count = 0;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) > most)
        return tc_fail(e, TC_FORMAT, "%s: not a list of at most %u token ids", what, most);
    yyjson_arr_foreach(list, index, count, item)
    {
        TC_TRY(tc_json_value_u64(item, what, "a token id", 0, TC_VOCAB_MAX - 1, &id, e));
        ret[(*ret_count)++] = (uint32_t)id;
    }
    return TC_OK;
}

static tc_status ask_prompt(tc_suite *s, tc_local *local, yyjson_val *prompt, const char *what,
                            agreement *ret, tc_error *e)
{
    uint32_t ids[4096], greedy[STEPS_MAX], own[STEPS_MAX], count, steps, same = 0;
    tc_answer answer = {.tokens = own, .room = STEPS_MAX};
    TC_TRY(read_ids(yyjson_obj_get(prompt, "ids"), 4096, ids, &count, what, e));
    TC_TRY(read_ids(yyjson_obj_get(prompt, "greedy"), STEPS_MAX, greedy, &steps, what, e));
    if (!count || !steps || count + steps > local->info.context) return TC_OK;
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= local->info.vocab)
            return tc_fail(e, TC_FORMAT, "%s: token %u is not in the vocabulary", what, ids[i]);
    TC_TRY(tc_suite_generate(s, local, ids, count, steps, &answer, e));
    while (same < steps && same < answer.count && own[same] == greedy[same]) same++;
    ret->same += same;
    ret->steps += steps;
    ret->prompts++;
    ret->whole += same == steps;
    return TC_OK;
}

static tc_status ask_fixture(tc_suite *s, const char *folder, yyjson_val *prompts, const char *precision,
                             agreement *ret, tc_error *e)
{
    char model[TC_STORE_PATH_BYTES], cache[TC_STORE_PATH_BYTES];
    tc_local local = {0};
    size_t index, count;
    yyjson_val *prompt;
    tc_run_options o = tc_suite_options(s);
    tc_status status;
    snprintf(model, sizeof model, "%.*s/model", (int)sizeof model - 8, folder);
    TC_TRY(tc_suite_place(s, "cache", cache, e));
    o.cache_dir = cache;
    o.precision = precision;
    if (strcmp(precision, "fast") != 0) off_the_gpu(s, &o);
    o.sessions = 1;
    o.context = 512;
    o.head = NULL;
    o.quantise = NULL;
    TC_TRY(tc_local_open(&o, model, &local, e));
    TC_GOTO(tc_suite_step(s, 0, 1, e));
    yyjson_arr_foreach(prompts, index, count, prompt) TC_GOTO(ask_prompt(s, &local, prompt, folder, ret, e));
out:
    tc_local_close(&local);
    tc_suite_drop_arenas(s, local.store);
    return status;
}

static void put_agreement(tc_suite *s, const char *name, const char *precision, const agreement *a)
{
    tc_samples share = {0};
    if (!a->steps) return;
    tc_samples_add(&share, 100 * (double)a->same / (double)a->steps);
    tc_suite_figure(s, &(tc_figure){.figure = "reference-agreement",
                                    .series = precision,
                                    .x_text = name,
                                    .unit = "% of tokens",
                                    .better = "higher",
                                    .values = &share});
}

static tc_status run_fixture(tc_suite *s, const char *name, uint32_t *ret_count, tc_error *e)
{
    static const char *const precisions[] = {"exact", "fast"};
    char folder[TC_STORE_PATH_BYTES], path[TC_STORE_PATH_BYTES];
    yyjson_doc *doc = NULL;
    snprintf(folder, sizeof folder, "%s/%s", s->golden, name);
    snprintf(path, sizeof path, "%.*s/expected.json", (int)sizeof path - 16, folder);
    tc_status status = tc_json_load(path, EXPECTED_BYTES_MAX, EXPECTED_DEPTH, &doc, e);
    if (status == TC_NOT_FOUND) return TC_OK; // another kind of fixture
    if (status != TC_OK) return status;
    yyjson_val *root = yyjson_doc_get_root(doc);
    const char *type = yyjson_get_str(yyjson_obj_get(root, "model_type"));
    if (!s->full && (!type || strcmp(type, s->family) != 0)) goto out; // quick: the model's own family
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
        agreement a = {0};
        TC_GOTO(ask_fixture(s, folder, yyjson_obj_get(root, "prompts"), precisions[i], &a, e));
        put_agreement(s, name, precisions[i], &a);
        *ret_count += a.prompts;
    }
out:
    yyjson_doc_free(doc);
    return status;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

tc_status tc_suite_agreement(tc_suite *s, tc_error *e)
{
    struct dirent **names = NULL;
    uint32_t asked = 0;
    if (!s->golden)
        return tc_suite_skip(s, e,
                             "no stored answers of the reference: name tests/golden/fixtures with --golden");
    int count = scandir(s->golden, &names, NULL, by_name);
    if (count < 0) return tc_fail_errno(e, TC_IO, "%s", s->golden);
    tc_status status = TC_OK;
    for (int i = 0; i < count; i++) {
        if (status == TC_OK && names[i]->d_name[0] != '.') {
            status = tc_suite_step(s, i, count, e);
            tc_progress_clear(&s->bar);
            if (status == TC_OK) status = run_fixture(s, names[i]->d_name, &asked, e);
        }
        free(names[i]);
    }
    free(names);
    if (status == TC_OK && !asked)
        return tc_suite_skip(s, e, "%s has no answers for models of this family", s->golden);
    tc_suite_note(s, "%s models; %u prompts in all, asked in exact arithmetic and fast.",
                  s->full ? "All" : "This family's", asked);
    return status;
}
