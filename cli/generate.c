// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `generate`: a prompt in, text on stdout as it comes, tokens per second on stderr at the end.
#include "cli/cli.h"
#include "cli/pull.h"
#include "cli/run.h"
#include "common/base/clock.h"
#include "common/text/stream.h"

#include <stdio.h>
#include <string.h>

enum { REQUEST_ID = 1 };

typedef struct settings {
    uint64_t max_tokens, top_k, seed;
    double temperature, top_p, min_p, repetition, presence, frequency;
    bool temperature_given, top_p_given, top_k_given, min_p_given, repetition_given, seed_given, raw,
        ignore_eos;
    const char *stop;
} settings;

static void fill_sampling(const settings *s, const tc_model_info *info, tc_sampling *ret)
{
    *ret = (tc_sampling){
        .temperature = s->temperature_given ? (float)s->temperature
                       : info->do_sample    ? info->temperature
                                            : 0,
        .top_p = s->top_p_given ? (float)s->top_p : info->top_p,
        .min_p = s->min_p_given ? (float)s->min_p : info->min_p,
        .top_k = s->top_k_given ? (uint32_t)s->top_k : info->default_top_k,
        .repetition_penalty = s->repetition_given ? (float)s->repetition : info->repetition_penalty,
        .presence_penalty = (float)s->presence,
        .frequency_penalty = (float)s->frequency,
        .seeded = s->seed_given,
        .seed = s->seed,
    };
}

static bool show(const char *text, size_t bytes)
{
    return fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0;
}

// Prints the text of the tokens until the request has ended.
static tc_status stream_out(tc_local *local, tc_text_stream *stream, tc_usage *ret_usage, tc_error *e)
{
    tc_engine_event event;
    const char *text;
    size_t bytes;
    bool stopped = false;
    for (;;) {
        TC_TRY(tc_local_next(local, REQUEST_ID, &event, e));
        if (event.kind == TC_ENGINE_FINISHED) break;
        if (event.kind != TC_ENGINE_TOKEN || stopped) continue;
        TC_TRY(tc_text_stream_push(stream, event.token, &text, &bytes, &stopped));
        if (!show(text, bytes)) return tc_fail_errno(e, TC_IO, "standard output");
        if (stopped) tc_engine_client_cancel(local->client, REQUEST_ID);
    }
    *ret_usage = event.usage;
    if (stopped) return TC_OK;
    TC_TRY(tc_text_stream_finish(stream, &text, &bytes));
    return show(text, bytes) ? TC_OK : tc_fail_errno(e, TC_IO, "standard output");
}

static tc_status run(const tc_tokenizer *tokenizer, const tc_ids *prompt, const settings *s,
                     tc_run_options *o, const char *model, tc_error *e)
{
    tc_local local = {0};
    tc_text_stream *stream = NULL;
    tc_usage usage = {0};
    tc_status status;
    TC_GOTO(tc_text_stream_create(tokenizer, &s->stop, s->stop ? 1 : 0, !s->raw, &stream, e));
    TC_GOTO(tc_local_open(o, model, &local, e));
    tc_generate request = {
        .id = REQUEST_ID,
        .prompt = prompt->data,
        .prompt_count = (uint32_t)prompt->count,
        .max_tokens = (uint32_t)s->max_tokens,
        .ignore_eos = s->ignore_eos,
        .optimize_experts = true,
    };
    fill_sampling(s, &local.info, &request.sampling);
    TC_GOTO(tc_engine_client_generate(local.client, &request, e));
    TC_GOTO(stream_out(&local, stream, &usage, e));
    printf("\n");
    fflush(stdout);
    fprintf(stderr, "%u prompt tokens in %.0f ms, %u tokens at %.1f tokens/s\n", usage.prompt_tokens,
            (double)usage.prefill_us / 1e3, usage.generated_tokens,
            usage.decode_us ? usage.generated_tokens * 1e6 / (double)usage.decode_us : 0);
out:
    tc_local_close(&local);
    tc_text_stream_free(stream);
    return status;
}

static tc_status generate(const char *model, const char *text, const settings *s, tc_run_options *o,
                          tc_error *e)
{
    tc_tokenizer *tokenizer = NULL;
    tc_ids prompt = {0};
    tc_status status;
    e->text[0] = 0;
    char pulled[TC_HUB_PATH_BYTES];
    TC_GOTO(tc_pull_model(model, pulled, e));
    model = pulled;
    TC_GOTO(tc_run_tokenizer(model, &tokenizer, e));
    // What a user types never becomes a special token unless asked.
    TC_GOTO(tc_tokenizer_encode(tokenizer, text, strlen(text), s->raw ? TC_SPECIAL_PARSE : TC_SPECIAL_AS_TEXT,
                                &prompt, e));
    if (!prompt.count)
        status = tc_fail(e, TC_ARGUMENT, "the prompt is empty");
    else
        status = run(tokenizer, &prompt, s, o, model, e);
out:
    if (status != TC_OK && !e->text[0]) tc_fail(e, status, "%s", tc_status_text(status));
    tc_ids_free(&prompt);
    tc_tokenizer_free(tokenizer);
    return status;
}

#define REAL(option, field, low, high, text)                                                                 \
    {                                                                                                        \
        .name = option, .kind = TC_OPTION_REAL, .target = &s.field, .min = low, .max = high, .help = text    \
    }
#define REAL_GIVEN(option, field, low, high, text)                                                           \
    {                                                                                                        \
        .name = option, .kind = TC_OPTION_REAL, .target = &s.field, .min = low, .max = high,                 \
        .given = &s.field##_given, .help = text                                                              \
    }

int tc_cli_generate(int argc, char **argv)
{
    tc_run_options o = {.sessions = 1};
    settings s = {.max_tokens = 128};
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--max-tokens",
         .kind = TC_OPTION_NUMBER,
         .target = &s.max_tokens,
         .min = 1,
         .max = TC_GENERATE_TOKENS_MAX,
         .help = "default 128"},
        REAL_GIVEN("--temperature", temperature, 0, 100, "0: greedy (default: the model's)"),
        REAL_GIVEN("--top-p", top_p, 0, 1, "smallest set of tokens with this probability"),
        {.name = "--top-k",
         .kind = TC_OPTION_NUMBER,
         .target = &s.top_k,
         .max = TC_GENERATE_TOKENS_MAX,
         .given = &s.top_k_given,
         .help = "the k likeliest tokens; 0: off"},
        REAL_GIVEN("--min-p", min_p, 0, 1, "tokens at least this likely, relative to the likeliest"),
        REAL_GIVEN("--repetition-penalty", repetition, 0.01, 100, "1: off"),
        REAL("--presence-penalty", presence, -100, 100, "0: off"),
        REAL("--frequency-penalty", frequency, -100, 100, "0: off"),
        {.name = "--seed",
         .kind = TC_OPTION_NUMBER,
         .target = &s.seed,
         .max = 9e15,
         .given = &s.seed_given,
         .help = "the same text again"},
        {.name = "--stop",
         .kind = TC_OPTION_TEXT,
         .target = &s.stop,
         .choices = "TEXT",
         .help = "end before this text"},
        {.name = "--ignore-eos",
         .kind = TC_OPTION_FLAG,
         .target = &s.ignore_eos,
         .help = "go on after the end token"},
        {.name = "--raw",
         .kind = TC_OPTION_FLAG,
         .target = &s.raw,
         .help = "special tokens are read in the prompt and shown in the text"},
        TC_RUN_OPTIONS(o),
        {0},
    };
    int code = tc_options_parse(table, "generate MODEL \"prompt\" [options]", 2, 2, argc, argv, &arguments);
    if (code >= 0) return code;
    return generate(arguments.positional[0], arguments.positional[1], &s, &o, &e) == TC_OK ? 0
                                                                                           : tc_cli_fail(&e);
}
