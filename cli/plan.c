// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `plan`: one budget for VRAM, one for RAM; what goes where, what is left, what speed to
// expect, or why it cannot be and the nearest setting that can. Refuses: to start anything.
#include "common/placement/plan.h"
#include "cli/cli.h"
#include "cli/footprint.h"
#include "cli/options.h"
#include "cli/run.h"
#include "gpu-core/budget.h"

#include <stdio.h>
#include <string.h>

// What a driver takes of VRAM once the kernels are loaded: 530 MiB were seen on an H200.
#define DRIVER_BYTES (576ull << 20)

static void row(const char *what, uint64_t bytes)
{
    char text[TC_BYTES_TEXT];
    printf("  %-26s %12s\n", what, tc_cli_bytes(bytes, text));
}

static void print_plan(const tc_plan_input *in, const tc_memory_plan *p)
{
    char text[TC_BYTES_TEXT];
    printf("%u user%s of %u positions\n", in->users, in->users == 1 ? "" : "s", in->context);
    if (in->vram_bytes) printf("VRAM, %s\n", tc_cli_bytes(in->vram_bytes, text));
    if (!in->vram_bytes) printf("RAM, %s\n", tc_cli_bytes(in->ram_bytes, text));
    row("dense weights", p->dense_bytes);
    row("keys and values", p->needs.kv_bytes);
    row("recurrent states", p->needs.state_bytes);
    printf("  scratch, %-5u tokens      %12s\n", p->needs.batch_tokens,
           tc_cli_bytes(p->needs.scratch_bytes, text));
    if (in->vram_bytes) {
        row("driver", p->needs.driver_bytes);
        row("hot experts", p->hot_bytes);
        row("left", p->vram_left_bytes);
        printf("RAM, %s\n", tc_cli_bytes(in->ram_bytes, text));
    }
    row("experts", p->experts_bytes);
    if (in->embedding_bytes) row("embedding", in->embedding_bytes);
    if (in->vram_bytes) row("scratch", p->needs.host_scratch_bytes);
    row("constraints, up to", p->needs.constraints_bytes);
    row("programs", p->programs_bytes);
    row("prefix cache, up to", p->prefix_bytes);
    row("left", p->ram_left_bytes);
    if (in->vram_bytes && in->cold_only)
        printf("hot: none: a GPU holds experts of 4 bits with a scale for 64 columns, which convert "
               "makes\n");
    else if (in->vram_bytes)
        printf("hot: %llu of %llu experts (%.1f %%), about %.0f %% of what is routed is found there\n",
               (unsigned long long)p->hot_experts, (unsigned long long)in->experts,
               in->experts ? 100.0 * (double)p->hot_experts / (double)in->experts : 0, 100 * p->hit_rate);
    printf("expected: %.1f tokens/s for one user (memories of %.0f and %.0f GB/s, %.0f us a step beside "
           "reading)\n",
           1e6 / p->token_us, in->vram_speed / 1000, in->ram_speed / 1000, in->step_us);
}

static void print_json(const tc_plan_input *in, const tc_memory_plan *p)
{
    printf(
        "{\"fits\":%s,\"vram_bytes\":%llu,\"ram_bytes\":%llu,\"context\":%u,\"users\":%u,\"dense_bytes\":%"
        "llu,\"embedding_bytes\":%llu,"
        "\"kv_bytes\":%llu,\"state_bytes\":%llu,\"scratch_bytes\":%llu,\"batch_tokens\":%u,"
        "\"driver_bytes\":%llu,\"host_scratch_bytes\":%llu,\"constraints_bytes\":%llu,\"hot_bytes\":%llu,"
        "\"hot_experts\":%llu,"
        "\"vram_left_bytes\":%llu,\"experts_bytes\":%llu,\"programs_bytes\":%llu,\"prefix_cache_bytes\":%llu,"
        "\"ram_left_bytes\":%llu,\"hit_rate\":%.4f,\"tokens_per_s\":%.3f,\"reason\":\"%s\",\"nearest\":\"%"
        "s\"}\n",
        p->fits ? "true" : "false", (unsigned long long)in->vram_bytes, (unsigned long long)in->ram_bytes,
        in->context, in->users, (unsigned long long)p->dense_bytes, (unsigned long long)in->embedding_bytes,
        (unsigned long long)p->needs.kv_bytes, (unsigned long long)p->needs.state_bytes,
        (unsigned long long)p->needs.scratch_bytes, p->needs.batch_tokens,
        (unsigned long long)p->needs.driver_bytes, (unsigned long long)p->needs.host_scratch_bytes,
        (unsigned long long)p->needs.constraints_bytes, (unsigned long long)p->hot_bytes,
        (unsigned long long)p->hot_experts, (unsigned long long)p->vram_left_bytes,
        (unsigned long long)p->experts_bytes, (unsigned long long)p->programs_bytes,
        (unsigned long long)p->prefix_bytes, (unsigned long long)p->ram_left_bytes, p->hit_rate,
        p->token_us > 0 ? 1e6 / p->token_us : 0, p->reason, p->nearest);
}

// A GPU holds some forms otherwise, a head of its own even where embeddings are tied, and leaves the table in
// RAM.
static tc_status beside_gpu(const tc_checkpoint *checkpoint, const char *quantise, const tc_footprint *f,
                            tc_plan_input *in, tc_error *e)
{
    const tc_dense_options options = {.keep = tc_quantise_named(quantise) == TC_QUANTISE_KEEP, .gpu = true};
    tc_dense_bytes bytes;
    TC_TRY(tc_dense_bytes_of(checkpoint, &options, &bytes, e));
    in->dense_bytes = bytes.rest + (bytes.head ? bytes.head : bytes.embedding);
    in->token_dense_bytes = in->dense_bytes;
    in->embedding_bytes = bytes.embedding;
    in->cold_only = !f->expert_on_gpu;
    return TC_OK;
}

typedef struct wish {
    tc_budget_wish budget;
    tc_store_info experts;
} wish;

// As the core sums up when it starts with these settings. RAM is all that it finds: at the start some of it
// is in use, and batches are no larger for that.
static void needs(const void *arg, uint32_t context, uint32_t users, uint64_t vram_bytes, uint64_t ram_bytes,
                  tc_plan_needs *ret)
{
    tc_budget_wish w = ((const wish *)arg)->budget;
    tc_budget b;
    tc_error e;
    w.context = context;
    w.sessions = users;
    w.vram_bytes = vram_bytes;
    w.available_bytes = ram_bytes;
    *ret = (tc_plan_needs){.scratch_bytes = UINT64_MAX / 4};
    if (tc_budget_of(&w, &b, &e) != TC_OK) return; // a context of no page
    *ret = (tc_plan_needs){.kv_bytes = b.kv_bytes,
                           .state_bytes = b.state_bytes,
                           .scratch_bytes = w.gpu ? b.device_scratch_bytes : b.scratch_bytes,
                           .driver_bytes = w.gpu ? DRIVER_BYTES + b.device_reserve_bytes : 0,
                           .host_scratch_bytes = w.gpu ? b.scratch_bytes : 0,
                           .constraints_bytes = b.constraints_bytes,
                           .batch_tokens = b.batch_tokens};
}

// As `serve` would start it here: workers for each NUMA node, threads for each CPU.
static void begin_wish(const tc_model_desc *desc, const tc_footprint *f, const tc_plan_input *in, wish *ret)
{
    ret->experts = (tc_store_info){.layers = desc->layers,
                                   .experts = desc->experts,
                                   .top_k = desc->top_k,
                                   .hidden = desc->hidden,
                                   .width = desc->expert_width,
                                   .unit = f->unit,
                                   .units = f->unit ? desc->expert_width / f->unit : 0,
                                   .activation = desc->expert_activation,
                                   .expert_bytes = f->expert_bytes};
    ret->budget = (tc_budget_wish){.desc = desc,
                                   .experts = &ret->experts,
                                   .kv_type = TC_KV_F16,
                                   .threads = tc_run_threads(),
                                   .workers = tc_run_workers(),
                                   .kv_budget_bytes = UINT64_MAX,
                                   .keeps_states = true,
                                   .gpu = in->vram_bytes > 0,
                                   .shares_prompts = true, // as a core does by default
                                   .cold_only = in->cold_only};
}

static tc_status plan(const char *model, tc_plan_input *in, const char *quantise, bool json, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    tc_footprint f;
    tc_memory_plan p;
    wish w;
    TC_TRY(tc_checkpoint_open(model, &checkpoint, e));
    tc_status status = tc_footprint_of(checkpoint, tc_quantise_named(quantise), &f, e);
    const tc_model_desc *desc = tc_checkpoint_desc(checkpoint);
    if (status != TC_OK) goto out;
    in->dense_bytes = f.dense_bytes;
    in->expert_bytes = f.expert_bytes;
    in->experts = (uint64_t)f.moe_layers * desc->experts;
    in->token_dense_bytes = f.token_dense_bytes;
    in->token_expert_bytes = f.token_experts_bytes;
    in->max_positions = desc->max_positions;
    if (in->vram_bytes) TC_GOTO(beside_gpu(checkpoint, quantise, &f, in, e));
    begin_wish(desc, &f, in, &w);
    in->needs = needs;
    in->arg = &w;
    TC_GOTO(tc_plan_memory(in, &p, e));
    if (json)
        print_json(in, &p);
    else if (p.fits)
        print_plan(in, &p);
    if (!p.fits) status = tc_fail(e, TC_BUDGET, "%s; %s", p.reason, p.nearest);
out:
    tc_checkpoint_free(checkpoint);
    return status;
}

int tc_cli_plan(int argc, char **argv)
{
    tc_plan_input in = {0};
    uint64_t context = 4096, users = 1, vram = 0, ram = 0;
    double vram_gbps = 800, ram_gbps = 80;
    const char *quantise = NULL;
    bool json = false;
    tc_arguments arguments;
    tc_error e;
    in.step_us = 1200;
    const tc_option table[] = {
        {.name = "--vram",
         .kind = TC_OPTION_BYTES,
         .target = &vram,
         .choices = "BYTES",
         .max = 1e18,
         .help = "of the GPU that may be used; none: no GPU"},
        {.name = "--ram",
         .kind = TC_OPTION_BYTES,
         .target = &ram,
         .choices = "BYTES",
         .min = 1,
         .max = 1e18,
         .help = "that may be used"},
        {.name = "--context",
         .kind = TC_OPTION_NUMBER,
         .target = &context,
         .min = 1,
         .max = 1 << 20,
         .help = "positions of a user (default 4096)"},
        {.name = "--users",
         .kind = TC_OPTION_NUMBER,
         .target = &users,
         .min = 1,
         .max = 64,
         .help = "at once (default 1)"},
        {.name = "--vram-gbps",
         .kind = TC_OPTION_REAL,
         .target = &vram_gbps,
         .min = 0.001,
         .max = 1e6,
         .help = "bandwidth of VRAM (default 800)"},
        {.name = "--ram-gbps",
         .kind = TC_OPTION_REAL,
         .target = &ram_gbps,
         .min = 0.001,
         .max = 1e6,
         .help = "bandwidth of RAM (default 80; `bench machine` measures it)"},
        {.name = "--step-us",
         .kind = TC_OPTION_REAL,
         .target = &in.step_us,
         .min = 0,
         .max = 1e9,
         .help = "what a token costs beside reading (default 1200)"},
        {.name = "--quantise",
         .kind = TC_OPTION_CHOICE,
         .target = &quantise,
         .choices = "nf4|int8|keep",
         .help = "as packing with that option would make the experts"},
        {.name = "--json", .kind = TC_OPTION_FLAG, .target = &json, .help = "one object"},
        {0},
    };
    int code = tc_options_parse(table, "plan MODEL --ram BYTES [--vram BYTES] [options]", 1, 1, argc, argv,
                                &arguments);
    if (code >= 0) return code;
    if (!ram) {
        tc_fail(&e, TC_ARGUMENT, "plan: --ram is missing");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    in.vram_bytes = vram;
    in.ram_bytes = ram;
    in.context = (uint32_t)context;
    in.users = (uint32_t)users;
    in.vram_speed = vram_gbps * 1000;
    in.ram_speed = ram_gbps * 1000;
    return plan(arguments.positional[0], &in, quantise, json, &e) == TC_OK ? 0 : tc_cli_fail(&e);
}
