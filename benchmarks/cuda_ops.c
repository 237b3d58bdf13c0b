// SPDX-License-Identifier: Apache-2.0
// Owns: thermocline-bench-cuda: how long each operator of the cuda device takes at the shapes of
// qwen3-next-80b, alone, against the bytes it reads or the products it makes. Random inputs.
#include "common/base/clock.h"
#include "common/base/log.h"
#include "gpu-core/dev/cuda_library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 2048, TOKENS = 4096, CONTEXT = 8192, EXPERTS = 512, TOP_K = 10 };

typedef struct bench {
    tc_dev *dev;
    uint32_t n, position;
    tc_matrix qkvz, out, router, head, gate;
    float *x, *y, *z, *norm, *weight, *k, *v;
    uint32_t *expert;
    int64_t *sum;
} bench;

static void fail(const char *what, const tc_error *e)
{
    fprintf(stderr, "%s: %s\n", what, e->text);
    exit(1);
}

static void *take(bench *b, size_t bytes)
{
    void *memory = b->dev->ops->alloc(b->dev, TC_MEM_SCRATCH, bytes);
    uint32_t *host = malloc(bytes);
    if (!memory || !host) exit(1);
    for (size_t i = 0; i < bytes / 4; i++) {
        float v = (float)rand() / (float)RAND_MAX - 0.5f;
        memcpy(&host[i], &v, 4);
    }
    b->dev->ops->upload(b->dev, memory, host, bytes);
    free(host);
    return memory;
}

static tc_matrix matrix(bench *b, uint32_t rows, uint32_t cols, bool four)
{
    tc_error e;
    tc_matrix m;
    tc_weight w = {.rows = rows, .cols = cols, .dtype = four ? TC_F32 : TC_BF16};
    w.data = tc_alloc(TC_MEM_OTHER, (size_t)rows * cols, four ? 4 : 2);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        if (four)
            ((float *)w.data)[i] = (float)(i * 2654435761u % 1000) / 1000.0f - 0.5f;
        else
            ((uint16_t *)w.data)[i] = (uint16_t)(0x3c00 + i * 2654435761u % 256 + (i & 1) * 0x8000);
    if (four && tc_weight_quantise_nf4(&w, &e) != TC_OK) fail("quantise", &e);
    if (b->dev->ops->matrix(b->dev, &w, NULL, &m, &e) != TC_OK) fail("matrix", &e);
    tc_weight_free(&w);
    return m;
}

static void begin(bench *b, uint32_t n, uint32_t position)
{
    static uint32_t ids[TOKENS], at[TOKENS], segment[TOKENS], pages[CONTEXT / TC_KV_PAGE_POSITIONS];
    for (uint32_t i = 0; i < CONTEXT / TC_KV_PAGE_POSITIONS; i++) pages[i] = i;
    for (uint32_t i = 0; i < n; i++) at[i] = position + i;
    const tc_segment one = {0, n, position, pages, 0};
    const tc_batch batch = {n, 1, ids, at, segment, &one};
    b->n = n;
    b->position = position;
    b->dev->ops->batch_begin(b->dev, &batch);
}

static void run_matmul(bench *b, const tc_matrix *m, const float *x)
{
    const tc_matmul_job job = {m, x, m->cols, b->y, m->rows, NULL};
    b->dev->ops->matmul(b->dev, &job, 1, b->n);
}
static void run_qkvz(bench *b)
{
    run_matmul(b, &b->qkvz, b->x);
}
static void run_out(bench *b)
{
    run_matmul(b, &b->out, b->x);
}
static void run_router(bench *b)
{
    run_matmul(b, &b->router, b->x);
}
static void run_gate(bench *b)
{
    run_matmul(b, &b->gate, b->x);
}
static void run_head(bench *b)
{
    run_matmul(b, &b->head, b->x);
}
static void run_delta(bench *b)
{
    tc_delta_args a = {.qkvz = b->z,
                       .ba = b->x,
                       .conv = b->norm,
                       .neg_exp_a = b->norm,
                       .dt_bias = b->norm,
                       .norm = b->norm,
                       .out = b->y};
    tc_delta_spans(&b->dev->geometry, false, &a);
    b->dev->ops->delta(b->dev, &a);
}
static void run_attention(bench *b)
{
    const tc_attention_args a = {
        .q = b->z, .k = b->k, .v = b->v, .q_norm = b->norm, .k_norm = b->norm, .gated = true, .out = b->y};
    b->dev->ops->attention(b->dev, &a);
}
static void run_add(bench *b)
{
    b->dev->ops->add(b->dev, b->y, b->x, b->n, HIDDEN, b->norm, b->z);
}
static void run_combine(bench *b)
{
    b->dev->ops->combine(b->dev, b->y, b->sum, b->x, b->norm, 0, b->n, HIDDEN, b->norm, b->z);
}
static void run_route(bench *b)
{
    const tc_route_args args = {.logits = b->x,
                                .n = b->n,
                                .experts = EXPERTS,
                                .top_k = TOP_K,
                                .renormalise = true,
                                .scale = 1,
                                .expert = b->expert,
                                .weight = b->weight};
    b->dev->ops->route(b->dev, &args);
}
static void run_silu(bench *b)
{
    b->dev->ops->silu_mul(b->dev, b->x, b->z, b->n, 512, b->y);
}

static double measure(bench *b, void (*run)(bench *b))
{
    tc_error e;
    uint32_t none;
    double best = 1e9;
    for (int r = 0; r < 4; r++) {
        int times = b->n >= 512 ? 3 : 200;
        run(b);
        if (b->dev->queue->wait(b->dev, NULL, NULL, &none, &e) != TC_OK) fail("wait", &e);
        uint64_t start = tc_now_ns();
        for (int i = 0; i < times; i++) run(b);
        if (b->dev->queue->wait(b->dev, NULL, NULL, &none, &e) != TC_OK) fail("wait", &e);
        double us = (double)(tc_now_ns() - start) * 1e-3 / times;
        if (r && us < best) best = us;
    }
    return best;
}

static const struct {
    const char *name;
    void (*run)(bench *b);
    double megabytes, megaproducts; // read whatever n is; a token
} ops[] = {{"qkvz 12288x2048 nf4", run_qkvz, 13.0, 25.2},
           {"out 2048x4096 nf4", run_out, 4.3, 8.4},
           {"gate+up 1024x2048 nf4", run_gate, 1.08, 2.1},
           {"router 512x2048 bf16", run_router, 2.1, 1.05},
           {"head 151936x2048 nf4", run_head, 160, 311},
           {"delta", run_delta, 4.2, 1.6},
           {"attention", run_attention, 0, 0},
           {"add+norm", run_add, 0, 0},
           {"combine+norm", run_combine, 0, 0},
           {"route", run_route, 0, 0},
           {"silu_mul", run_silu, 0, 0}};

static void set_up(bench *b, char card[128])
{
    const tc_cuda_library *cuda;
    tc_error e = {0};
    tc_cuda_options o = {.geometry = {.heads = 16,
                                      .kv_heads = 2,
                                      .head_dim = 256,
                                      .rotary_dim = 64,
                                      .kv_layers = 1,
                                      .kv_type = TC_KV_F16,
                                      .rope = {.theta = 1e7},
                                      .dn_key_heads = 16,
                                      .dn_value_heads = 32,
                                      .dn_key_dim = 128,
                                      .dn_value_dim = 128,
                                      .dn_conv = 4,
                                      .dn_layers = 1,
                                      .rms_eps = 1e-6f,
                                      .matmul_cols_max = 4096,
                                      .positions_max = CONTEXT,
                                      .pages = CONTEXT / TC_KV_PAGE_POSITIONS,
                                      .slots = 1},
                         .hidden = HIDDEN,
                         .experts = EXPERTS,
                         .top_k = TOP_K,
                         .tokens_max = TOKENS};
    if (tc_cuda_library_load(0, &cuda, card, &e) != TC_OK || cuda->create(&o, &b->dev, &e) != TC_OK)
        fail("cuda", &e);
    b->qkvz = matrix(b, 12288, HIDDEN, true);
    b->out = matrix(b, HIDDEN, 4096, true);
    b->gate = matrix(b, 1024, HIDDEN, true);
    b->router = matrix(b, EXPERTS, HIDDEN, false);
    b->head = matrix(b, 151936, HIDDEN, true);
    b->x = take(b, (size_t)TOKENS * 4096 * 4);
    b->y = take(b, (size_t)TOKENS * 12288 * 4);
    b->z = take(b, (size_t)TOKENS * 12288 * 4);
    b->k = take(b, (size_t)TOKENS * 512 * 4);
    b->v = take(b, (size_t)TOKENS * 512 * 4);
    b->norm = take(b, 40000 * 4);
    b->weight = take(b, (size_t)TOKENS * TOP_K * 4);
    b->expert = take(b, (size_t)TOKENS * TOP_K * 4);
    b->sum = take(b, (size_t)TOKENS * HIDDEN * 8);
}

int main(int argc, char **argv) // an operator's first letters: only those
{
    char card[128];
    bench b = {0};
    set_up(&b, card);
    static const uint32_t counts[] = {1, 2, 4, 8, 16, 64, 512, 2048, 4096};
    printf("%s; us a call\n%-24s", card, "tokens");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) printf("%10u", counts[i]);
    printf("  GB/s at 1, Tproducts/s at 4096\n");
    for (size_t k = 0; k < sizeof ops / sizeof *ops; k++) {
        double first = 0, last = 0;
        if (argc > 1 && strncmp(ops[k].name, argv[1], strlen(argv[1])) != 0) continue;
        printf("%-24s", ops[k].name);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            if (ops[k].run == run_head && counts[i] > 64) break;
            begin(&b, counts[i], 4096);
            last = measure(&b, ops[k].run);
            if (!i) first = last;
            printf("%10.1f", last);
            fflush(stdout);
        }
        if (ops[k].megabytes > 0)
            printf("  %7.0f %9.0f", ops[k].megabytes / first * 1e3, ops[k].megaproducts * TOKENS / last);
        printf("\n");
    }
    tc_dev_free(b.dev);
    return 0;
}
