// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `plan`: one budget for VRAM, one for RAM; what goes where, what is left, what speed to
// expect, or why it cannot be and the nearest setting that can. Refuses: to start anything.
#include "common/placement/plan.h"
#include "cli/cli.h"
#include "cli/footprint.h"
#include "cli/options.h"

#include <stdio.h>
#include <string.h>

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
    row("keys and values", p->kv_bytes);
    row("recurrent states", p->state_bytes);
    row("scratch", p->scratch_bytes);
    if (in->vram_bytes) {
        row("hot experts", p->hot_bytes);
        row("left", p->vram_left_bytes);
        printf("RAM, %s\n", tc_cli_bytes(in->ram_bytes, text));
    }
    row("experts", p->experts_bytes);
    if (in->embedding_bytes) row("embedding", in->embedding_bytes);
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
        "\"kv_bytes\":%llu,\"state_bytes\":%llu,\"scratch_bytes\":%llu,\"hot_bytes\":%llu,\"hot_experts\":%"
        "llu,"
        "\"vram_left_bytes\":%llu,\"experts_bytes\":%llu,\"programs_bytes\":%llu,\"prefix_cache_bytes\":%llu,"
        "\"ram_left_bytes\":%llu,\"hit_rate\":%.4f,\"tokens_per_s\":%.3f,\"reason\":\"%s\",\"nearest\":\"%"
        "s\"}\n",
        p->fits ? "true" : "false", (unsigned long long)in->vram_bytes, (unsigned long long)in->ram_bytes,
        in->context, in->users, (unsigned long long)p->dense_bytes, (unsigned long long)in->embedding_bytes,
        (unsigned long long)p->kv_bytes, (unsigned long long)p->state_bytes,
        (unsigned long long)p->scratch_bytes, (unsigned long long)p->hot_bytes,
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

static tc_status plan(const char *model, tc_plan_input *in, const char *quantise, bool json, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    tc_footprint f;
    tc_memory_plan p;
    TC_TRY(tc_checkpoint_open(model, &checkpoint, e));
    tc_status status = tc_footprint_of(checkpoint, tc_quantise_named(quantise), &f, e);
    const tc_model_desc *desc = tc_checkpoint_desc(checkpoint);
    if (status != TC_OK) goto out;
    in->dense_bytes = f.dense_bytes;
    in->expert_bytes = f.expert_bytes;
    in->experts = (uint64_t)f.moe_layers * desc->experts;
    in->kv_position_bytes = f.kv_position_bytes;
    in->state_bytes = f.state_bytes;
    in->token_dense_bytes = f.token_dense_bytes;
    in->token_expert_bytes = f.token_experts_bytes;
    in->max_positions = desc->max_positions;
    if (in->vram_bytes) TC_GOTO(beside_gpu(checkpoint, quantise, &f, in, e));
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
         .max = 1 << 24,
         .help = "positions of a user (default 4096)"},
        {.name = "--users",
         .kind = TC_OPTION_NUMBER,
         .target = &users,
         .min = 1,
         .max = 4096,
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
