// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `eval`: what a model computes, for comparison with another implementation. Prompts come as
// token ids; out go float32 logits [T, vocab], chosen experts int32 [layers, T, top_k] (prompts one after
// another along T), and greedy tokens with their top-2 gaps as one JSON object on stdout. Refuses: text, and
// sampling.
#include "cli/cli.h"
#include "cli/npy.h"
#include "cli/run.h"
#include "common/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_FILE_BYTES_MAX = 64 << 20, PROMPTS_MAX = 4096, DEPTH_MAX = 4 };

typedef struct prompt {
    uint32_t *ids, count;
} prompt;

typedef struct evaluation {
    prompt *prompts;
    uint32_t count;
    bool many; // the file held a list of prompts: so does the answer
    uint64_t positions, greedy;
    uint32_t longest;
    const char *ids_path, *logits_path, *experts_path;
    tc_npy *logits, *experts;
    uint32_t *tokens; // of one prompt: greedy of them
    float *gaps;
} evaluation;

static tc_status read_prompt(evaluation *v, yyjson_val *list, const char *place, tc_error *e)
{
    prompt *p = &v->prompts[v->count];
    size_t index, count;
    yyjson_val *item;
    uint64_t id;
    if (!yyjson_is_arr(list))
        return tc_fail(e, TC_FORMAT, "%s: %s is not a list of token ids", v->ids_path, place);
    if (yyjson_arr_size(list) < 1 || yyjson_arr_size(list) > TC_PROMPT_TOKENS_MAX)
        return tc_fail(e, TC_LIMIT, "%s: %s has %zu tokens, expected 1 to %d", v->ids_path, place,
                       yyjson_arr_size(list), TC_PROMPT_TOKENS_MAX);
    p->ids = calloc(yyjson_arr_size(list), sizeof *p->ids);
    if (!p->ids) return tc_fail(e, TC_NOMEM, "out of memory");
    v->count++;
    yyjson_arr_foreach(list, index, count, item)
    {
        TC_TRY(tc_json_value_u64(item, v->ids_path, place, 0, TC_VOCAB_MAX - 1, &id, e));
        p->ids[p->count++] = (uint32_t)id;
    }
    v->positions += p->count;
    if (p->count > v->longest) v->longest = p->count;
    return TC_OK;
}

static tc_status read_prompts(evaluation *v, yyjson_val *root, tc_error *e)
{
    yyjson_val *ids = yyjson_obj_get(root, "ids"), *list = yyjson_obj_get(root, "prompts"), *item;
    size_t index, count;
    char place[32];
    if (yyjson_is_arr(root)) {
        list = yyjson_is_arr(yyjson_arr_get_first(root)) ? root : NULL;
        ids = list ? NULL : root;
    }
    v->many = list != NULL;
    v->prompts = calloc(PROMPTS_MAX, sizeof *v->prompts);
    if (!v->prompts) return tc_fail(e, TC_NOMEM, "out of memory");
    if (ids && !list) return read_prompt(v, ids, "\"ids\"", e);
    if (!yyjson_is_arr(list) || !yyjson_arr_size(list))
        return tc_fail(e, TC_FORMAT, "%s: expected {\"ids\": [...]} or {\"prompts\": [[...], ...]}",
                       v->ids_path);
    if (yyjson_arr_size(list) > PROMPTS_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %d prompts", v->ids_path, PROMPTS_MAX);
    yyjson_arr_foreach(list, index, count, item)
    {
        snprintf(place, sizeof place, "prompts[%zu]", index);
        TC_TRY(read_prompt(v, item, place, e));
    }
    return TC_OK;
}

static tc_status load_prompts(evaluation *v, tc_error *e)
{
    yyjson_doc *doc = NULL;
    TC_TRY(tc_json_load(v->ids_path, IDS_FILE_BYTES_MAX, DEPTH_MAX, &doc, e));
    tc_status status = read_prompts(v, yyjson_doc_get_root(doc), e);
    yyjson_doc_free(doc);
    return status;
}

static tc_status open_outputs(evaluation *v, const tc_model_info *info, tc_error *e)
{
    uint64_t logits[] = {v->positions, info->vocab}, experts[] = {info->layers, v->positions, info->top_k};
    for (uint32_t i = 0; i < v->count; i++)
        for (uint32_t k = 0; k < v->prompts[i].count; k++)
            if (v->prompts[i].ids[k] >= info->vocab)
                return tc_fail(e, TC_FORMAT, "%s: token %u is not in the vocabulary of %u", v->ids_path,
                               v->prompts[i].ids[k], info->vocab);
    if (v->logits_path) TC_TRY(tc_npy_create(v->logits_path, "<f4", logits, 2, &v->logits, e));
    if (v->experts_path) TC_TRY(tc_npy_create(v->experts_path, "<i4", experts, 3, &v->experts, e));
    return TC_OK;
}

// One chunk of prompt positions; `first` is where its prompt begins on the T axis.
static tc_status take_chunk(evaluation *v, const tc_model_info *info, uint64_t first, const prompt *p,
                            const tc_engine_event *event, tc_error *e)
{
    if (event->position >= p->count) return TC_OK; // experts of generated tokens
    if (event->positions > p->count - event->position)
        return tc_fail(e, TC_PEER, "core: evaluated positions beyond the prompt");
    first += event->position;
    if (v->logits && event->logits)
        TC_TRY(tc_npy_write(v->logits, first * info->vocab, event->logits,
                            (uint64_t)event->positions * info->vocab, e));
    if (!v->experts || !event->experts) return TC_OK;
    for (uint32_t i = 0; i < event->positions;
         i++) // the event has [position][layer], the file [layer][position]
        for (uint32_t layer = 0; layer < info->layers; layer++)
            TC_TRY(tc_npy_write(v->experts, (layer * v->positions + first + i) * info->top_k,
                                event->experts + ((uint64_t)i * info->layers + layer) * info->top_k,
                                info->top_k, e));
    return TC_OK;
}

static tc_status run_prompt(evaluation *v, tc_local *local, uint64_t id, uint64_t first, const prompt *p,
                            tc_error *e)
{
    uint32_t tokens = 0;
    tc_engine_event event;
    tc_generate request = {
        .id = id,
        .prompt = p->ids,
        .prompt_count = p->count,
        .max_tokens = (uint32_t)v->greedy,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .ignore_eos = true,
        .optimize_experts = true,
        .want_logits = v->logits_path != NULL,
        .want_experts = v->experts_path != NULL,
        .want_gaps = true,
    };
    TC_TRY(tc_engine_client_generate(local->client, &request, e));
    do {
        TC_TRY(tc_local_next(local, id, &event, e));
        if (event.kind == TC_ENGINE_EVALUATED) TC_TRY(take_chunk(v, &local->info, first, p, &event, e));
        if (event.kind == TC_ENGINE_TOKEN && tokens < v->greedy) {
            v->tokens[tokens] = event.token;
            v->gaps[tokens++] = event.gap;
        }
    } while (event.kind != TC_ENGINE_FINISHED);
    if (tokens != v->greedy)
        return tc_fail(e, TC_PEER, "core: %u of %llu tokens came (does prompt + greedy fit --context?)",
                       tokens, (unsigned long long)v->greedy);
    return TC_OK;
}

// Into a buffer first: stdout gets the whole answer or nothing.
static void put_answer(FILE *out, const evaluation *v, const prompt *p)
{
    fprintf(out, "{\"prompt_tokens\":%u,\"ids\":[", p->count);
    for (uint64_t i = 0; i < v->greedy; i++) fprintf(out, "%s%u", i ? "," : "", v->tokens[i]);
    fputs("],\"gaps\":[", out);
    for (uint64_t i = 0; i < v->greedy; i++)
        isfinite(v->gaps[i]) ? fprintf(out, "%s%.9g", i ? "," : "", (double)v->gaps[i])
                             : fprintf(out, "%snull", i ? "," : "");
    fputs("]}", out);
}

static tc_status run_all(evaluation *v, tc_local *local, FILE *out, tc_error *e)
{
    uint64_t first = 0;
    TC_TRY(open_outputs(v, &local->info, e));
    if (v->many) fputs("{\"prompts\":[", out);
    for (uint32_t i = 0; i < v->count; i++) {
        tc_status status = run_prompt(v, local, i + 1, first, &v->prompts[i], e);
        if (status != TC_OK && v->many) tc_error_prefix(e, "prompt %u", i);
        TC_TRY(status);
        if (i) fputc(',', out);
        put_answer(out, v, &v->prompts[i]);
        first += v->prompts[i].count;
    }
    fputs(v->many ? "]}\n" : "\n", out);
    if (v->logits) TC_TRY(tc_npy_finish(v->logits, e));
    return v->experts ? tc_npy_finish(v->experts, e) : TC_OK;
}

static tc_status evaluate(evaluation *v, tc_run_options *o, const char *model, tc_error *e)
{
    tc_local local = {0};
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = NULL;
    tc_status status;
    TC_GOTO(load_prompts(v, e));
    v->tokens = calloc(v->greedy + 1, sizeof *v->tokens);
    v->gaps = calloc(v->greedy + 1, sizeof *v->gaps);
    out = open_memstream(&text, &bytes);
    if (!v->tokens || !v->gaps || !out) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    uint64_t need = v->longest + v->greedy;
    if (!o->context) o->context = need < 16 ? 16 : need;
    TC_GOTO(tc_local_open(o, model, &local, e));
    TC_GOTO(run_all(v, &local, out, e));
    fflush(out);
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)
        status = tc_fail_errno(e, TC_IO, "standard output");
out:
    tc_local_close(&local);
    tc_npy_free(v->logits);
    tc_npy_free(v->experts);
    if (out) fclose(out);
    free(text);
    for (uint32_t i = 0; i < v->count; i++) free(v->prompts[i].ids);
    free(v->prompts);
    free(v->tokens);
    free(v->gaps);
    return status;
}

int tc_cli_eval(int argc, char **argv)
{
    tc_run_options o = {.sessions = 1, .precision = "exact"};
    evaluation v = {0};
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--ids",
         .kind = TC_OPTION_TEXT,
         .target = &v.ids_path,
         .choices = "FILE.json",
         .help = "{\"ids\": [...]} or {\"prompts\": [[...], ...]}"},
        {.name = "--greedy",
         .kind = TC_OPTION_NUMBER,
         .target = &v.greedy,
         .max = TC_GENERATE_TOKENS_MAX,
         .help = "tokens to generate after each prompt (default 0)"},
        {.name = "--logits",
         .kind = TC_OPTION_TEXT,
         .target = &v.logits_path,
         .choices = "OUT.npy",
         .help = "float32 [T, vocab] of every prompt position"},
        {.name = "--experts",
         .kind = TC_OPTION_TEXT,
         .target = &v.experts_path,
         .choices = "OUT.npy",
         .help = "int32 [layers, T, top_k], -1 in layers without experts"},
        TC_RUN_OPTIONS(o),
        {0},
    };
    int code = tc_options_parse(table, "eval MODEL --ids FILE.json [options]", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if (!v.ids_path) {
        tc_fail(&e, TC_ARGUMENT, "eval: --ids is missing");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    return evaluate(&v, &o, arguments.positional[0], &e) == TC_OK ? 0 : tc_cli_fail(&e);
}
