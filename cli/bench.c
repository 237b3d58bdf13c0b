// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `bench`: how fast decoding and loading are, beside the read bandwidth measured in the same
// run, and how much memory is held beside what should be. Refuses: targets. It prints what it saw.
#include "cli/cli.h"
#include "cli/footprint.h"
#include "cli/run.h"
#include "common/base/clock.h"
#include "common/base/spin.h"
#include "common/kernels/bandwidth.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

enum { REQUEST_ID = 1, BANDWIDTH_BYTES = 512 << 20, WARM_UP_TOKENS = 8 };

typedef struct bench {
    const char *model, *what;
    uint64_t tokens, prompt_tokens;
    bool json;
    double machine_gb_s;
    tc_footprint footprint;
    tc_run_options o;
} bench;

typedef struct figures {
    double tokens_per_s, prefill_tokens_per_s, gb_s, load_s, load_gb_s;
    double attention_us, router_us, expert_us, wait_us, head_us; // a layer of a step; head: a step
    uint64_t resident_bytes, budget_bytes, decode_allocations, retries;
    bool cold;
} figures;

static tc_status measure_machine(bench *b, tc_error *e)
{
    tc_team *team = NULL;
    tc_team_options options = {
        .threads = (uint32_t)(b->o.threads ? b->o.threads : (uint64_t)sysconf(_SC_NPROCESSORS_ONLN)),
        .spin_us = TC_SPIN_US};
    TC_TRY(tc_team_create(&options, &team, e));
    tc_status status = tc_measure_read_bandwidth(team, BANDWIDTH_BYTES, &b->machine_gb_s, e);
    tc_team_free(team);
    return status;
}

static tc_status measure_model(bench *b, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    TC_TRY(tc_checkpoint_open(b->model, &checkpoint, e));
    tc_status status = tc_footprint_of(checkpoint, b->o.quantise != NULL, &b->footprint, e);
    if (status == TC_OK) tc_footprint_head(&b->footprint, tc_checkpoint_desc(checkpoint), b->o.head);
    tc_checkpoint_free(checkpoint);
    return status;
}

static tc_status run_request(const bench *b, tc_local *local, uint64_t id, uint64_t tokens, tc_usage *ret,
                             tc_error *e)
{
    tc_engine_event event;
    uint32_t *prompt = calloc(b->prompt_tokens, sizeof *prompt);
    if (!prompt) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint64_t i = 0; i < b->prompt_tokens; i++)
        prompt[i] = (uint32_t)((i * 7919 + 17 * id) % local->info.vocab);
    tc_generate request = {
        .id = id,
        .prompt = prompt,
        .prompt_count = (uint32_t)b->prompt_tokens,
        .max_tokens = (uint32_t)tokens,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .ignore_eos = true,
    };
    tc_status status = tc_engine_client_generate(local->client, &request, e);
    do
        if (status == TC_OK) status = tc_local_next(local, id, &event, e);
    while (status == TC_OK && event.kind != TC_ENGINE_FINISHED);
    free(prompt);
    if (status == TC_OK) *ret = event.usage;
    return status;
}

static void fill_memory(const tc_local *local, figures *f)
{
    f->resident_bytes = tc_supervisor_resident_bytes(local->supervisor);
    f->budget_bytes = local->info.weights_bytes + local->info.experts_bytes + local->info.kv_budget_bytes;
    f->decode_allocations = local->status.decode_allocations;
    f->retries = local->status.expert_retries;
}

static void fill_stages(const tc_local *local, const tc_engine_status *before, figures *f)
{
    const tc_engine_status *after = &local->status;
    double steps = (double)(after->steps - before->steps), layers = steps * local->info.layers;
    if (steps <= 0) return;
    f->attention_us = (double)(after->attention_us - before->attention_us) / layers;
    f->router_us = (double)(after->router_us - before->router_us) / layers;
    f->expert_us = (double)(after->expert_us - before->expert_us) / layers;
    f->wait_us = (double)(after->wait_us - before->wait_us) / layers;
    f->head_us = (double)(after->head_us - before->head_us) / steps;
}

static void put_real(yyjson_mut_doc *doc, yyjson_mut_val *o, const char *name, double value)
{
    yyjson_mut_obj_add_real(doc, o, name, value);
}

static void print_json(const bench *b, const tc_local *local, const figures *f)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *o = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, o);
    yyjson_mut_obj_add_str(doc, o, "bench", b->what);
    yyjson_mut_obj_add_str(doc, o, "family", local->info.family);
    yyjson_mut_obj_add_str(doc, o, "model_hash", local->info.model_hash);
    yyjson_mut_obj_add_str(doc, o, "isa", local->info.isa);
    yyjson_mut_obj_add_str(doc, o, "precision", local->info.precision);
    yyjson_mut_obj_add_uint(doc, o, "workers", b->o.workers);
    yyjson_mut_obj_add_uint(doc, o, "threads", b->o.threads);
    yyjson_mut_obj_add_uint(doc, o, "worker_threads", b->o.worker_threads);
    put_real(doc, o, "machine_read_gb_per_s", b->machine_gb_s);
    if (!strcmp(b->what, "decode")) {
        put_real(doc, o, "tokens_per_s", f->tokens_per_s);
        put_real(doc, o, "prefill_tokens_per_s", f->prefill_tokens_per_s);
        put_real(doc, o, "attention_us_per_layer", f->attention_us);
        put_real(doc, o, "router_us_per_layer", f->router_us);
        put_real(doc, o, "expert_call_us_per_layer", f->expert_us);
        put_real(doc, o, "wait_us_per_layer", f->wait_us);
        put_real(doc, o, "head_us_per_step", f->head_us);
        yyjson_mut_obj_add_uint(doc, o, "bytes_per_token",
                                b->footprint.token_dense_bytes + b->footprint.token_experts_bytes);
        put_real(doc, o, "read_gb_per_s", f->gb_s);
        put_real(doc, o, "read_fraction", f->gb_s / b->machine_gb_s);
        yyjson_mut_obj_add_uint(doc, o, "decode_allocations", f->decode_allocations);
        yyjson_mut_obj_add_uint(doc, o, "expert_retries", f->retries);
    } else {
        yyjson_mut_obj_add_bool(doc, o, "cold", f->cold);
        put_real(doc, o, "load_s", f->load_s);
        put_real(doc, o, "read_gb_per_s", f->load_gb_s);
        put_real(doc, o, "read_fraction", f->load_gb_s / b->machine_gb_s);
    }
    yyjson_mut_obj_add_uint(doc, o, "resident_bytes", f->resident_bytes);
    yyjson_mut_obj_add_uint(doc, o, "weights_and_kv_bytes", f->budget_bytes);
    put_real(doc, o, "resident_ratio", (double)f->resident_bytes / (double)f->budget_bytes);
    yyjson_mut_write_fp(stdout, doc, YYJSON_WRITE_NEWLINE_AT_END, NULL, NULL);
    fflush(stdout);
    yyjson_mut_doc_free(doc);
}

static void print_memory(const figures *f)
{
    char a[TC_BYTES_TEXT], c[TC_BYTES_TEXT];
    printf("%-28s %s held, %s packed weights + KV budget: %.2f times\n", "memory",
           tc_cli_bytes(f->resident_bytes, a), tc_cli_bytes(f->budget_bytes, c),
           (double)f->resident_bytes / (double)f->budget_bytes);
}

static void print_decode(const bench *b, const tc_local *local, const figures *f)
{
    char a[TC_BYTES_TEXT];
    printf("%-28s %s, %s kernels, %s precision, %llu workers x %llu threads, core %llu threads\n", b->model,
           local->info.family, local->info.isa, local->info.precision, (unsigned long long)b->o.workers,
           (unsigned long long)b->o.worker_threads, (unsigned long long)b->o.threads);
    printf("%-28s %.1f tokens/s (prompt: %.1f tokens/s)\n", "decode", f->tokens_per_s,
           f->prefill_tokens_per_s);
    printf("%-28s attention %.1f, router %.1f, expert call %.1f, wait %.1f; head %.1f a step\n", "us a layer",
           f->attention_us, f->router_us, f->expert_us, f->wait_us, f->head_us);
    printf("%-28s %s a token: %.2f GB/s of %.2f GB/s measured (%.0f %%)\n", "weights read",
           tc_cli_bytes(b->footprint.token_dense_bytes + b->footprint.token_experts_bytes, a), f->gb_s,
           b->machine_gb_s, 100 * f->gb_s / b->machine_gb_s);
    print_memory(f);
    printf("%-28s %llu\n", "allocations while decoding", (unsigned long long)f->decode_allocations);
}

static tc_status bench_decode(bench *b, tc_error *e)
{
    tc_local local = {0};
    tc_usage usage = {0};
    figures f = {0};
    tc_status status;
    if (!b->o.context) b->o.context = b->prompt_tokens + b->tokens + 64;
    TC_TRY(measure_machine(b, e));
    TC_TRY(measure_model(b, e));
    TC_TRY(tc_local_open(&b->o, b->model, &local, e));
    TC_GOTO(run_request(b, &local, REQUEST_ID, WARM_UP_TOKENS, &usage, e));
    TC_GOTO(tc_local_ask_status(&local, e));
    tc_engine_status before = local.status;
    TC_GOTO(run_request(b, &local, REQUEST_ID + 1, b->tokens, &usage, e));
    TC_GOTO(tc_local_ask_status(&local, e));
    fill_stages(&local, &before, &f);
    fill_memory(&local, &f);
    f.tokens_per_s = usage.decode_us ? usage.generated_tokens * 1e6 / (double)usage.decode_us : 0;
    f.prefill_tokens_per_s = usage.prefill_us ? usage.prompt_tokens * 1e6 / (double)usage.prefill_us : 0;
    f.gb_s =
        f.tokens_per_s * (double)(b->footprint.token_dense_bytes + b->footprint.token_experts_bytes) / 1e9;
    b->json ? print_json(b, &local, &f) : print_decode(b, &local, &f);
out:
    tc_local_close(&local);
    return status;
}

// Asks the kernel to drop the store's cached pages; the checkpoint's dense part stays as it is.
static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static tc_status load_once(bench *b, bool cold, char store[TC_STORE_PATH_BYTES], tc_error *e)
{
    tc_local local = {0};
    figures f = {.cold = cold};
    if (cold) drop_cache(store);
    TC_TRY(tc_local_open(&b->o, b->model, &local, e));
    f.load_s = (double)local.load_us / 1e6;
    f.load_gb_s = (double)(b->footprint.dense_bytes + local.info.experts_bytes) / 1e9 / f.load_s;
    tc_status status = tc_local_ask_status(&local, e);
    fill_memory(&local, &f);
    if (status == TC_OK && b->json) print_json(b, &local, &f);
    if (status == TC_OK && !b->json) {
        printf("%-28s %.3f s until ready, %.2f GB/s of %.2f GB/s measured\n",
               cold ? "load, store not cached" : "load, store cached", f.load_s, f.load_gb_s,
               b->machine_gb_s);
        print_memory(&f);
    }
    tc_local_close(&local);
    return status;
}

static tc_status bench_load(bench *b, tc_error *e)
{
    char store[TC_STORE_PATH_BYTES];
    bool packed;
    TC_TRY(measure_machine(b, e));
    TC_TRY(measure_model(b, e));
    TC_TRY(tc_run_prepare(b->model, b->o.cache_dir, b->o.quantise, false, &packed, store, e));
    TC_TRY(load_once(b, true, store, e));
    return load_once(b, false, store, e);
}

int tc_cli_bench(int argc, char **argv)
{
    bench b = {.tokens = 128, .prompt_tokens = 64, .o = {.sessions = 1}};
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--model",
         .kind = TC_OPTION_TEXT,
         .target = &b.model,
         .choices = "MODEL",
         .help = "instead of the second argument"},
        {.name = "--tokens",
         .kind = TC_OPTION_NUMBER,
         .target = &b.tokens,
         .min = 1,
         .max = TC_GENERATE_TOKENS_MAX,
         .help = "to decode (default 128)"},
        {.name = "--prompt-tokens",
         .kind = TC_OPTION_NUMBER,
         .target = &b.prompt_tokens,
         .min = 1,
         .max = TC_PROMPT_TOKENS_MAX,
         .help = "default 64"},
        {.name = "--json", .kind = TC_OPTION_FLAG, .target = &b.json, .help = "one JSON object a line"},
        TC_RUN_OPTIONS(b.o),
        {0},
    };
    int code = tc_options_parse(table, "bench decode|load MODEL [options]", 1, 2, argc, argv, &arguments);
    if (code >= 0) return code;
    b.what = arguments.positional[0];
    if (arguments.count == 2) b.model = arguments.positional[1];
    bool decode = !strcmp(b.what, "decode");
    if ((!decode && strcmp(b.what, "load")) || !b.model) {
        tc_fail(&e, TC_ARGUMENT, "usage: thermocline bench decode|load MODEL [options]");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    return (decode ? bench_decode(&b, &e) : bench_load(&b, &e)) == TC_OK ? 0 : tc_cli_fail(&e);
}
