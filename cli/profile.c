// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `profile`: runs a workload through a model and keeps which experts it used; `profile show`
// tells the skew, and draws layers by experts. Refuses: to interpret texts.
#include "common/placement/profile.h"
#include "cli/cli.h"
#include "cli/run.h"
#include "cli/svg.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPTS_BYTES_MAX = 16 << 20 };

// ---- running ----

typedef struct workload {
    char *text; // prompts, each ended by NUL
    uint32_t count;
} workload;

// Prompts stand between lines of "---"; a file without one holds one a line.
static tc_status read_workload(const char *path, workload *ret, tc_error *e)
{
    size_t bytes, out = 0;
    char *text;
    TC_TRY(tc_read_file(path, PROMPTS_BYTES_MAX, &text, &bytes, e));
    bool fenced = strncmp(text, "---\n", 4) == 0 || strstr(text, "\n---\n");
    bool empty = true;
    for (char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        bool more = line[n] == '\n', ends = fenced ? n == 3 && !memcmp(line, "---", 3) : true;
        if (!(fenced && ends)) {
            memmove(text + out, line, n);
            out += n;
            if (n) empty = false;
            if (fenced && more) text[out++] = '\n';
        }
        line += n + more;
        if (!ends && *line) continue;
        while (out && text[out - 1] == '\n') out--;
        if (!empty) {
            if (line > text + out) text[out++] = 0;
            ret->count++;
        }
        empty = true;
        if (!*line) break;
    }
    ret->text = text;
    return ret->count ? TC_OK : tc_fail(e, TC_FORMAT, "%s: no prompts", path);
}

static tc_status run_prompt(tc_local *local, const tc_ids *ids, uint64_t id, uint32_t tokens, tc_error *e)
{
    tc_engine_event event;
    const tc_generate request = {
        .id = id,
        .prompt = ids->data,
        .prompt_count = (uint32_t)ids->count,
        .max_tokens = tokens,
        .ignore_eos = true,
        .optimize_experts = true,
        .no_cache = true,
        .sampling = {.temperature = 0.8f, .top_p = 1, .repetition_penalty = 1, .seeded = true, .seed = id}};
    TC_TRY(tc_engine_client_generate(local->client, &request, e));
    do TC_TRY(tc_local_next(local, id, &event, e));
    while (event.kind != TC_ENGINE_FINISHED);
    return TC_OK;
}

// Each prompt in turn, again and again, until so many tokens were generated.
static tc_status run_workload(tc_local *local, const tc_tokenizer *tokenizer, const workload *w,
                              uint64_t samples, uint64_t length, tc_error *e)
{
    uint64_t done = 0;
    const char *prompt = w->text;
    for (uint32_t i = 0; done < samples; i++) {
        tc_ids ids = {0};
        if (i % w->count == 0) prompt = w->text;
        TC_TRY(tc_tokenizer_encode(tokenizer, prompt, strlen(prompt), TC_SPECIAL_AS_TEXT, &ids, e));
        prompt += strlen(prompt) + 1;
        uint32_t tokens = (uint32_t)(samples - done < length ? samples - done : length);
        tc_status status = TC_OK;
        if (ids.count && ids.count + tokens < local->info.context)
            status = run_prompt(local, &ids, i + 1, tokens, e);
        tc_ids_free(&ids);
        if (status != TC_OK) return status;
        done += tokens;
        fprintf(stderr, "\rthermocline: %llu of %llu tokens", (unsigned long long)done,
                (unsigned long long)samples);
    }
    fputc('\n', stderr);
    return TC_OK;
}

// ---- showing ----

static void print_profile(const tc_profile *p)
{
    static const uint32_t tops[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    printf("model %s: %u layers of %u experts, %.0f tokens\n", p->model_hash, p->layers, p->experts,
           p->tokens / p->scale);
    for (size_t i = 0; i < sizeof tops / sizeof *tops && tops[i] < p->experts; i++)
        printf("the %3u most used of each layer have %5.1f %% of all uses (evenly spread: %.1f %%)\n",
               tops[i], 100 * tc_profile_coverage(p, tops[i]), 100.0 * tops[i] / p->experts);
    uint32_t quarter = p->experts / 4;
    printf("a quarter of all experts (%u a layer): %.1f %%\n", quarter,
           100 * tc_profile_coverage(p, quarter));
}

static tc_status draw(const tc_profile *p, const char *path, tc_error *e)
{
    size_t n = (size_t)p->layers * p->experts;
    float *cells = calloc(n, sizeof *cells);
    if (!cells) return tc_fail(e, TC_NOMEM, "out of memory");
    tc_profile_rates(p, cells);
    for (uint32_t layer = 0; layer < p->layers; layer++) { // dark: the most used of its layer
        float *row = cells + (size_t)layer * p->experts, most = 0;
        for (uint32_t i = 0; i < p->experts; i++) most = row[i] > most ? row[i] : most;
        for (uint32_t i = 0; i < p->experts; i++) row[i] = most > 0 ? sqrtf(row[i] / most) : 0;
    }
    tc_status status =
        tc_svg_heat(path, "uses of experts", "layers", "experts", p->layers, p->experts, cells, e);
    free(cells);
    return status;
}

static tc_status show(const char *path, const char *svg, tc_error *e)
{
    tc_profile *profile = NULL;
    TC_TRY(tc_profile_load(path, NULL, &profile, e));
    print_profile(profile);
    tc_status status = svg ? draw(profile, svg, e) : TC_OK;
    tc_profile_free(profile);
    return status;
}

static tc_status make(const char *model, const char *prompts, uint64_t samples, uint64_t length,
                      tc_run_options *o, const char *svg, tc_error *e)
{
    tc_tokenizer *tokenizer = NULL;
    tc_local local = {0};
    workload w = {0};
    tc_status status;
    TC_GOTO(tc_run_tokenizer(model, &tokenizer, e));
    TC_GOTO(read_workload(prompts, &w, e));
    TC_GOTO(tc_local_open(o, model, &local, e));
    TC_GOTO(run_workload(&local, tokenizer, &w, samples, length, e));
    tc_local_close(&local); // the core saves what it learned
    TC_GOTO(show(o->profile, svg, e));
    printf("saved in %s\n", o->profile);
out:
    tc_local_close(&local);
    free(w.text);
    tc_tokenizer_free(tokenizer);
    return status;
}

int tc_cli_profile(int argc, char **argv)
{
    tc_run_options o = {.sessions = 1};
    const char *prompts = NULL, *svg = NULL;
    uint64_t samples = 4096, length = 256;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--prompts",
         .kind = TC_OPTION_TEXT,
         .target = &prompts,
         .choices = "FILE",
         .help = "one a line, or between lines of ---"},
        {.name = "--samples",
         .kind = TC_OPTION_NUMBER,
         .target = &samples,
         .min = 1,
         .max = 1e9,
         .help = "tokens to generate in all (default 4096)"},
        {.name = "--length",
         .kind = TC_OPTION_NUMBER,
         .target = &length,
         .min = 1,
         .max = 1 << 20,
         .help = "of one answer (default 256)"},
        {.name = "--svg",
         .kind = TC_OPTION_TEXT,
         .target = &svg,
         .choices = "FILE",
         .help = "a heat map, layers by experts"},
        TC_RUN_OPTIONS(o),
        {0},
    };
    int code =
        tc_options_parse(table, "profile MODEL --prompts FILE --profile OUT [options] | profile show FILE", 1,
                         2, argc, argv, &arguments);
    if (code >= 0) return code;
    bool shows = arguments.count == 2 && !strcmp(arguments.positional[0], "show");
    if (!shows && (arguments.count != 1 || !prompts || !o.profile)) {
        tc_fail(&e, TC_ARGUMENT, "profile: a model with --prompts and --profile, or `show` and a profile");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    tc_status status = shows ? show(arguments.positional[1], svg, &e)
                             : make(arguments.positional[0], prompts, samples, length, &o, svg, &e);
    return status == TC_OK ? 0 : tc_cli_fail(&e);
}
