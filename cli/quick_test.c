// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `quick-test`: one prompt through every part, each stage reported with its time, then PASS or
// FAIL.
#include "cli/cli.h"
#include "cli/run.h"
#include "common/base/clock.h"
#include "common/text/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKENS = 32, REQUEST_ID = 1 };

static void report(const char *stage, uint64_t us, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void report(const char *stage, uint64_t us, const char *format, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    printf("  %-10s %10.1f ms  %s\n", stage, (double)us / 1e3, text);
    fflush(stdout);
}

static tc_status test_open(const char *model, tc_error *e)
{
    uint64_t begin_us = tc_now_us();
    tc_checkpoint *checkpoint = NULL;
    TC_TRY(tc_checkpoint_open(model, &checkpoint, e));
    const tc_model_desc *d = tc_checkpoint_desc(checkpoint);
    report("open", tc_now_us() - begin_us, "%s, %u layers, %u experts, top %u", d->family, d->layers,
           d->experts, d->top_k);
    tc_checkpoint_free(checkpoint);
    return TC_OK;
}

// Ids of the prompt; models without a tokenizer get the first few ids.
static tc_status make_prompt(const char *model, const char *text, tc_tokenizer **ret_tokenizer, tc_ids *ids,
                             tc_error *e)
{
    uint64_t begin_us = tc_now_us();
    tc_status status = tc_run_tokenizer(model, ret_tokenizer, e);
    if (status == TC_NOT_FOUND) {
        for (uint32_t i = 1; i <= 5; i++) TC_TRY(tc_ids_push(ids, i));
        report("tokenize", 0, "no tokenizer.json: ids 1 to 5 stand in");
        return TC_OK;
    }
    if (status != TC_OK) return status;
    TC_TRY(tc_tokenizer_encode(*ret_tokenizer, text, strlen(text), TC_SPECIAL_AS_TEXT, ids, e));
    if (!ids->count) return tc_fail(e, TC_ARGUMENT, "the prompt is empty");
    report("tokenize", tc_now_us() - begin_us, "%zu tokens", ids->count);
    return TC_OK;
}

static tc_status run_prompt(tc_local *local, const tc_ids *ids, uint32_t *tokens, tc_usage *ret_usage,
                            tc_error *e)
{
    tc_engine_event event;
    uint32_t count = 0;
    tc_generate request = {
        .id = REQUEST_ID,
        .prompt = ids->data,
        .prompt_count = (uint32_t)ids->count,
        .max_tokens = TOKENS,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .ignore_eos = true,
        .optimize_experts = true,
        .want_gaps = true,
    };
    TC_TRY(tc_engine_client_generate(local->client, &request, e));
    do {
        TC_TRY(tc_local_next(local, REQUEST_ID, &event, e));
        if (event.kind == TC_ENGINE_TOKEN && !isfinite(event.gap))
            return tc_fail(e, TC_INTERNAL, "a logit is not finite");
        if (event.kind == TC_ENGINE_TOKEN && count < TOKENS) tokens[count++] = event.token;
    } while (event.kind != TC_ENGINE_FINISHED);
    if (count != TOKENS) return tc_fail(e, TC_INTERNAL, "%u of %d tokens came", count, TOKENS);
    *ret_usage = event.usage;
    return TC_OK;
}

static void report_stages(const tc_local *local, const tc_usage *usage)
{
    const tc_engine_status *s = &local->status;
    double steps = s->steps ? (double)s->steps : 1;
    report("prefill", usage->prefill_us, "%u tokens", usage->prompt_tokens);
    report("decode", usage->decode_us, "%u tokens, %.1f tokens/s", usage->generated_tokens,
           usage->decode_us ? usage->generated_tokens * 1e6 / (double)usage->decode_us : 0);
    printf("  us a step: attention %.0f, router %.0f, experts %.0f, wait %.0f, head %.0f\n",
           (double)s->attention_us / steps, (double)s->router_us / steps, (double)s->expert_us / steps,
           (double)s->wait_us / steps, (double)s->head_us / steps);
    printf("  expert calls %llu, retries %llu, allocations while decoding %llu\n",
           (unsigned long long)s->expert_calls, (unsigned long long)s->expert_retries,
           (unsigned long long)s->decode_allocations);
}

static tc_status quick_test(const char *model, const char *text, tc_run_options *o, tc_error *e)
{
    tc_local local = {0};
    tc_tokenizer *tokenizer = NULL;
    tc_ids ids = {0};
    uint32_t tokens[TOKENS];
    tc_usage usage = {0};
    tc_status status;
    char *answer = NULL;
    size_t bytes;
    TC_GOTO(test_open(model, e));
    TC_GOTO(make_prompt(model, text, &tokenizer, &ids, e));
    TC_GOTO(tc_local_open(o, model, &local, e));
    report("pack", local.pack_us, "%s", local.packed ? "packed now" : "was packed before");
    report("start", local.start_us, "core answers (%s, %s, %s)", local.info.device, local.info.isa,
           local.info.precision);
    report("load", local.load_us - local.start_us, "%u of %u workers", local.status.workers_up,
           local.status.workers_expected);
    TC_GOTO(run_prompt(&local, &ids, tokens, &usage, e));
    TC_GOTO(tc_local_ask_status(&local, e));
    report_stages(&local, &usage);
    if (tokenizer) {
        TC_GOTO(tc_tokenizer_decode(tokenizer, tokens, TOKENS, true, &answer, &bytes, e));
        printf("  text: %s|%.*s\n", text, (int)bytes, answer);
    }
    if (local.status.decode_allocations)
        status = tc_fail(e, TC_INTERNAL, "decoding allocated memory %llu times",
                         (unsigned long long)local.status.decode_allocations);
out:
    tc_local_close(&local);
    tc_ids_free(&ids);
    tc_tokenizer_free(tokenizer);
    free(answer);
    puts(status == TC_OK ? "PASS" : "FAIL");
    return status;
}

int tc_cli_quick_test(int argc, char **argv)
{
    tc_run_options o = {.sessions = 1};
    const char *text = "In the beginning";
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--prompt",
         .kind = TC_OPTION_TEXT,
         .target = &text,
         .choices = "TEXT",
         .help = "instead of our own"},
        TC_RUN_OPTIONS(o),
        {0},
    };
    int code = tc_options_parse(table, "quick-test MODEL [options]", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    return quick_test(arguments.positional[0], text, &o, &e) == TC_OK ? 0 : tc_cli_fail(&e);
}
