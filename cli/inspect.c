// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `inspect`: what a model directory holds, what a token reads, and what fits where.
// Refuses: reading weights (one expert is read, to learn how packing will hold it).
#include "cli/cli.h"
#include "cli/footprint.h"
#include "cli/options.h"
#include "cli/pull.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_attention(const tc_model_desc *d)
{
    uint32_t sliding = 0;
    for (uint32_t i = 0; i < d->layers; i++) sliding += d->layer[i].sliding;
    if (d->kv_rank)
        printf("attention  %u query heads of %u on latent keys of %u", d->heads, d->head_dim, d->kv_rank);
    else
        printf("attention  %u query and %u key-value heads of %u", d->heads, d->kv_heads, d->head_dim);
    printf(", rotary over %u, theta %g%s%s%s", d->rotary_dim, d->rope.theta,
           d->rope.factor != 0 ? " (YaRN)" : "", d->attn_gate ? ", output gate" : "",
           d->attn_sinks ? ", sinks" : "");
    if (sliding) printf(", %u layers over a window of %u", sliding, d->sliding_window);
    printf("\n");
}

static void print_shape(const tc_model_desc *d, const char *hash)
{
    uint32_t full = 0;
    for (uint32_t i = 0; i < d->layers; i++) full += d->layer[i].kind == TC_LAYER_FULL_ATTENTION;
    printf("family     %s (%s)\n", d->family, hash);
    printf("layers     %u: %u full attention, %u Gated DeltaNet; hidden %u, vocabulary %u, at most %u "
           "positions\n",
           d->layers, full, d->layers - full, d->hidden, d->vocab, d->max_positions);
    print_attention(d);
    if (full < d->layers)
        printf("DeltaNet   %u key heads of %u, %u value heads of %u, convolution of %u\n", d->dn_key_heads,
               d->dn_key_dim, d->dn_value_heads, d->dn_value_dim, d->dn_conv);
    if (d->experts) {
        printf("experts    %u of width %u, top %u%s", d->experts, d->expert_width, d->top_k,
               d->norm_top_k ? ", weights renormalised" : "");
        if (d->router_scoring == TC_SCORE_SIGMOID) printf(", by sigmoids");
        if (d->router_groups) printf(" in %u of %u groups", d->router_top_groups, d->router_groups);
        d->shared_width ? printf("; shared expert of %u\n", d->shared_width) : printf("\n");
    }
}

static void print_parts(const tc_footprint *f)
{
    char bytes[TC_BYTES_TEXT];
    printf("\n%-16s %10s %12s\n", "stored", "tensors", "bytes");
    for (int p = 0; p < TC_PARTS; p++)
        if (f->tensors[p])
            printf("%-16s %10llu %12s\n", tc_part_names[p], (unsigned long long)f->tensors[p],
                   tc_cli_bytes(f->bytes[p], bytes));
    printf("%llu linears are quantised to 4 bits\n", (unsigned long long)f->quantised_tensors);
}

static void print_costs(const tc_footprint *f)
{
    char a[TC_BYTES_TEXT], b[TC_BYTES_TEXT];
    printf("\npacked experts   %s in all, %s each (%s)\n", tc_cli_bytes(f->experts_bytes, a),
           tc_cli_bytes(f->expert_bytes, b), f->expert_type);
    printf("a token reads    %s of experts, %s of dense weights\n", tc_cli_bytes(f->token_experts_bytes, a),
           tc_cli_bytes(f->token_dense_bytes, b));
    printf("a session holds  %s of KV for 1024 positions, %s of state\n",
           tc_cli_bytes(f->kv_position_bytes * 1024, a), tc_cli_bytes(f->state_bytes, b));
}

// True when the sum fits. Every line shows the sum, not only the verdict.
static void print_sum(const char *where, uint64_t have, uint64_t need, const char *of)
{
    char a[TC_BYTES_TEXT], b[TC_BYTES_TEXT];
    printf("%-16s %s: needs %s of %s (%s)\n", where, need <= have ? "fits" : "does not fit",
           tc_cli_bytes(need, a), tc_cli_bytes(have, b), of);
}

static void print_fit(const tc_footprint *f, uint64_t ram, uint64_t vram, uint64_t context, uint64_t sessions)
{
    char a[TC_BYTES_TEXT];
    uint64_t sessions_bytes = sessions * (f->kv_position_bytes * context + f->state_bytes);
    printf("\nwith %llu session%s of %llu positions (%s):\n", (unsigned long long)sessions,
           sessions == 1 ? "" : "s", (unsigned long long)context, tc_cli_bytes(sessions_bytes, a));
    print_sum("CPU only", ram, f->dense_bytes + f->experts_bytes + sessions_bytes,
              "dense + experts + sessions");
    if (!vram) return;
    uint64_t dense = f->dense_bytes + sessions_bytes,
             count = f->expert_bytes ? f->experts_bytes / f->expert_bytes : 0;
    print_sum("GPU", vram, dense, "dense + sessions");
    print_sum("RAM beside it", ram, f->experts_bytes, "all experts");
    if (dense > vram || !count) return;
    uint64_t slots = (vram - dense) / f->expert_bytes;
    if (slots > count) slots = count;
    printf("%-16s %llu of %llu experts (%.0f %%)\n", "hot on the GPU", (unsigned long long)slots,
           (unsigned long long)count, 100.0 * (double)slots / (double)count);
}

static tc_status inspect(const char *model, tc_quantise quantise, uint64_t ram, uint64_t vram,
                         uint64_t context, uint64_t sessions, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    tc_footprint footprint;
    char pulled[TC_HUB_PATH_BYTES];
    TC_TRY(tc_pull_model(model, pulled, e));
    TC_TRY(tc_checkpoint_open(pulled, &checkpoint, e));
    tc_status status = tc_footprint_of(checkpoint, quantise, &footprint, e);
    if (status == TC_OK) {
        const tc_model_desc *desc = tc_checkpoint_desc(checkpoint);
        if (context > desc->max_positions) context = desc->max_positions;
        print_shape(desc, tc_checkpoint_hash(checkpoint));
        print_parts(&footprint);
        print_costs(&footprint);
        print_fit(&footprint, ram, vram, context, sessions);
    }
    tc_checkpoint_free(checkpoint);
    return status;
}

int tc_cli_inspect(int argc, char **argv)
{
    uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), vram = 0,
             context = 4096, sessions = 1;
    const char *quantise = NULL;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--ram",
         .kind = TC_OPTION_BYTES,
         .target = &ram,
         .choices = "BYTES",
         .max = 1e18,
         .help = "default: this machine's (K, M, G, T may follow)"},
        {.name = "--vram",
         .kind = TC_OPTION_BYTES,
         .target = &vram,
         .choices = "BYTES",
         .max = 1e18,
         .help = "of the GPU to plan for"},
        {.name = "--context",
         .kind = TC_OPTION_NUMBER,
         .target = &context,
         .min = 1,
         .max = TC_POSITIONS_MAX,
         .help = "positions of a session (default 4096)"},
        {.name = "--sessions",
         .kind = TC_OPTION_NUMBER,
         .target = &sessions,
         .min = 1,
         .max = 64,
         .help = "sessions at once (default 1)"},
        {.name = "--quantise",
         .kind = TC_OPTION_CHOICE,
         .target = &quantise,
         .choices = "nf4|int8|keep",
         .help = "as packing with that option would make the experts"},
        {0},
    };
    int code = tc_options_parse(table, "inspect MODEL [options]", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    return inspect(arguments.positional[0], tc_quantise_named(quantise), ram, vram, context, sessions, &e) ==
                   TC_OK
               ? 0
               : tc_cli_fail(&e);
}
