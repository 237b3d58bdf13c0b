// SPDX-License-Identifier: Apache-2.0
// Owns: the operators of dev.h as launches in one stream, or in the one beside it, and the tables that name
// them. Refuses: experts (experts.c), batches and passes (device.c), arithmetic (the .cu files).
#include "gpu-core/dev/cuda/device.h"

#include "gpu-core/dev/cpu/dense.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

_Static_assert((int)TC_GPU_FEW_MAX == (int)TC_FEW_MAX, "one size");

// ---- matrices ----

tc_gpu_q4 tc_cuda_q4(const tc_matrix *w)
{
    const uint8_t *data = w->data;
    tc_gpu_q4 q = {.tiles = data + tc_matrix_tiles_at(&w->form, w->rows, w->cols),
                   .step = w->fast_step,
                   .rows = w->rows,
                   .spans = w->cols / TC_SPAN_COLS,
                   .stride = w->form.nested_stride};
    memcpy(q.book, w->fast, sizeof q.book);
    if (q.stride) {
        q.codes = data + tc_matrix_codes_at(&w->form, w->rows, w->cols);
        q.nested = (const float *)(data + offsetof(tc_nested_table, nested));
        q.offset = w->nested_offset;
        q.phase = w->nested_phase;
    } else {
        q.scales = (const float *)data;
    }
    return q;
}

static tc_gpu_job job_of(const tc_matmul_job *j)
{
    static const tc_gpu_type types[TC_M_TYPES] = {[TC_M_Q4] = TC_GPU_Q4,
                                                  [TC_M_Q8] = TC_GPU_Q8,
                                                  [TC_M_BF16] = TC_GPU_BF16,
                                                  [TC_M_F16] = TC_GPU_F16,
                                                  [TC_M_F32] = TC_GPU_F32};
    tc_gpu_job job = {.type = types[j->w->form.type],
                      .data = j->w->data,
                      .rows = j->w->rows,
                      .cols = j->w->cols,
                      .y = j->y,
                      .ldy = j->ldy,
                      .bias = j->bias,
                      .x = j->x};
    if (job.type == TC_GPU_Q4) job.q4 = tc_cuda_q4(j->w);
    if (job.type == TC_GPU_Q8) {
        job.scales = j->w->data;
        job.data = (const uint8_t *)j->w->data + tc_matrix_tiles_at(&j->w->form, j->w->rows, j->w->cols);
    }
    return job;
}

static void matmul_q4(tc_dev_cuda *c, const tc_gpu_jobs *jobs, const float *x, const float *up, uint32_t ldx,
                      uint32_t n)
{
    uint32_t spans = jobs->job[0].q4.spans;
    if (n == 1 && spans <= TC_GPU_ONE_SPANS_MAX) {
        CHECK(c, tc_gpu_matmul_one(c->stream, &c->tables, jobs, x, up));
        return;
    }
    CHECK(c, tc_gpu_round(c->stream, x, up, ldx, n, spans, c->x_rounded, c->x_scale));
    CHECK(c, tc_gpu_matmul_many(c->stream, &c->tables, jobs, c->x_rounded, c->x_scale, n));
}

// Matrices of 8 bits and more that read another input of the same shape go along.
static bool same_launch(const tc_matmul_job *a, const tc_matmul_job *b)
{
    const bool other = b->w->form.type != TC_M_Q4 && a->w->form.type != TC_M_Q4 && !a->up && !b->up;
    return (a->x == b->x || other) && a->ldx == b->ldx && a->w->cols == b->w->cols && a->up == b->up;
}

static void cuda_matmul(tc_dev *dev, const tc_matmul_job *jobs, uint32_t count, uint32_t n)
{
    tc_dev_cuda *c = cuda_of(dev);
    for (uint32_t begin = 0, end; begin < count; begin = end) {
        const tc_matmul_job *first = &jobs[begin];
        tc_gpu_jobs q4 = {.count = 0}, other = {.count = 0};
        for (end = begin; end < count && same_launch(first, &jobs[end]); end++) {
            tc_gpu_job job = job_of(&jobs[end]);
            tc_gpu_jobs *list = job.type == TC_GPU_Q4 ? &q4 : &other;
            list->job[list->count++] = job;
        }
        if (other.count && first->up) // in place, for all that follows: x is nobody else's
            CHECK(c,
                  tc_gpu_silu_mul(c->stream, first->x, first->up, (size_t)n * first->ldx, (float *)first->x));
        if (q4.count) matmul_q4(c, &q4, first->x, other.count ? NULL : first->up, first->ldx, n);
        if (other.count) CHECK(c, tc_gpu_matmul_float(c->stream, &other, first->x, first->ldx, n));
    }
}

static void cuda_rmsnorm(tc_dev *dev, const float *x, const float *multiplier, uint32_t n, uint32_t dim,
                         float eps, float *y)
{
    tc_dev_cuda *c = cuda_of(dev);
    CHECK(c, tc_gpu_rmsnorm(c->stream, x, multiplier, n, dim, eps, y));
}

static void cuda_heads(tc_dev *dev, const tc_heads_args *a, uint32_t n)
{
    tc_dev_cuda *c = cuda_of(dev);
    const tc_gpu_heads args = {.type = a->w->form.type == TC_M_BF16 ? TC_GPU_BF16 : TC_GPU_F32,
                               .data = a->w->data,
                               .heads = a->heads,
                               .rows = a->rows,
                               .cols = a->w->cols,
                               .copied = a->copied,
                               .x = a->x,
                               .ldx = a->ldx,
                               .head_x = a->head_x,
                               .y = a->y,
                               .ldy = a->ldy,
                               .head_y = a->head_y};
    CHECK(c, tc_gpu_heads_run(c->stream, &args, n));
}

static void cuda_expert_bias(tc_dev *dev, const float *bias, const uint32_t *expert, const float *weight,
                             uint32_t n, uint32_t top_k, uint32_t dim, float *out)
{
    tc_dev_cuda *c = cuda_of(dev);
    CHECK(c, tc_gpu_expert_bias(c->stream, bias, expert, weight, n, top_k, dim, out));
}

static void cuda_attention(tc_dev *dev, const tc_attention_args *a)
{
    tc_dev_cuda *c = cuda_of(dev);
    const tc_dev_geometry *g = &dev->geometry;
    tc_gpu_attention args = {
        .q = a->q,
        .k = a->k,
        .v = a->v,
        .q_stride = g->head_dim * (a->gated ? 2 : 1),
        .gated = a->gated,
        .q_norm = a->q_norm,
        .k_norm = a->k_norm,
        .out = a->out,
        .heads = g->heads,
        .kv_heads = g->kv_heads,
        .dim = g->head_dim,
        .padded = tc_dense_padded(g->head_dim),
        .rotary = g->rotary_dim,
        .rotary_at = g->rotary_at,
        .kv_layer = a->kv_layer,
        .kv_layers = g->kv_layers,
        .value_dim = tc_dev_value_dim(g),
        .latent = g->value_dim != 0,
        .interleaved = g->rope.interleaved,
        .window = a->window,
        .sinks = a->sinks,
        .inverse_frequency = c->inverse_frequency,
        .eps = g->rms_eps,
        .k_eps = g->value_dim ? g->latent_eps : g->rms_eps,
        .amplitude = tc_rope_amplitude(&g->rope),
        .clip = a->clip,
        .scale = g->attn_scale != 0 ? g->attn_scale : 1.0f / sqrtf((float)g->head_dim),
        .kv = c->kv,
        .q_half = c->q_half,
        .partial = c->partial,
        .state = c->partial_state,
        .chunks_max = c->chunks_max,
        .split = c->one_each && c->partial,
        .blocks = c->attention_blocks,
        .block_segment = (const uint32_t *)(c->batch_dev + c->layout.block_segment),
        .block_row = (const uint32_t *)(c->batch_dev + c->layout.block_row),
    };
    CHECK(c, (tc_cuda_is_wide(g) ? tc_gpu_attention_wide : tc_gpu_attention_run)(c->stream, &c->gpu_batch,
                                                                                 &args));
}

static void cuda_delta(tc_dev *dev, const tc_delta_args *a)
{
    tc_dev_cuda *c = cuda_of(dev);
    const tc_dev_geometry *g = &dev->geometry;
    tc_gpu_delta args = {
        .q_at = {a->q.first, a->q.step},
        .k_at = {a->k.first, a->k.step},
        .v_at = {a->v.first, a->v.step},
        .z_at = {a->z.first, a->z.step},
        .b_at = {a->b.first, a->b.step},
        .a_at = {a->a.first, a->a.step},
        .qkvz = a->qkvz,
        .ba = a->ba,
        .conv = a->conv,
        .neg_exp_a = a->neg_exp_a,
        .dt_bias = a->dt_bias,
        .norm = a->norm,
        .out = a->out,
        .states = c->states,
        .slot_floats = tc_dev_slot_bytes(g) / sizeof(float),
        .layer_at = a->dn_layer * tc_dev_state_floats(g),
        .key_heads = g->dn_key_heads,
        .value_heads = g->dn_value_heads,
        .dk = g->dn_key_dim,
        .dv = g->dn_value_dim,
        .taps = g->dn_conv,
        .eps = g->rms_eps,
        .q = c->delta_q,
        .k = c->delta_k,
        .v = c->delta_v,
        .scalars = c->delta_scalars,
        .one_each = c->one_each,
    };
    CHECK(c, tc_gpu_delta_run(c->stream, &c->tables, &c->gpu_batch, &args));
}

static void cuda_route(tc_dev *dev, const tc_route_args *a)
{
    tc_dev_cuda *c = cuda_of(dev);
    size_t pairs = (size_t)a->n * a->top_k, at = c->layer_routes++ * pairs;
    const tc_gpu_routes args = {.logits = a->logits,
                                .n = a->n,
                                .experts = a->experts,
                                .top_k = a->top_k,
                                .sigmoid = a->scoring == TC_SCORE_SIGMOID,
                                .renormalise = a->renormalise,
                                .correction = a->correction,
                                .groups = a->scoring == TC_SCORE_SIGMOID ? a->groups : 0,
                                .top_groups = a->top_groups,
                                .scale = a->scale,
                                .forced = c->forced && at + pairs <= c->forced_count ? c->forced + at : NULL,
                                .expert = a->expert,
                                .weight = a->weight,
                                .next_logits = a->next_logits,
                                .next_correction = a->next_correction,
                                .next_forced = c->forced && at + 2 * pairs <= c->forced_count
                                                   ? c->forced + c->forced_count + at + pairs
                                                   : NULL,
                                .next_expert = a->next_expert,
                                .guess = a->guess,
                                .ahead = a->guess ? c->hot.link.ahead + a->layer : NULL,
                                .sums = c->sums};
    c->guessed = a->guess != NULL;
    c->next_expert = a->next_logits ? a->next_expert : NULL;
    CHECK(c, tc_gpu_route(c->stream, &c->tables, &args));
}

static void cuda_silu_mul(tc_dev *dev, const float *gate, const float *up, uint32_t n, uint32_t dim,
                          float *out)
{
    tc_dev_cuda *c = cuda_of(dev);
    CHECK(c, tc_gpu_silu_mul(c->stream, gate, up, (size_t)n * dim, out));
}

// A layer's first add keeps x, so that the combination behind it can be done again after a failed join.
static void cuda_add(tc_dev *dev, float *x, const float *y, uint32_t n, uint32_t dim, const float *norm,
                     float *normed)
{
    tc_dev_cuda *c = cuda_of(dev);
    tc_gpu_row_args args = {.x = x, .y = y, .n = n, .dim = dim, .norm = norm, .normed = normed};
    args.eps = dev->geometry.rms_eps;
    if (dim == c->o.hidden) args.residual = c->residual;
    args.ahead_norm = c->also_norm;
    args.ahead_normed = c->also_normed;
    c->also_norm = NULL;
    CHECK(c, tc_gpu_add(c->stream, &c->tables, &args));
}

static void cuda_combine(tc_dev *dev, float *x, const int64_t *sum, const float *shared,
                         const float *shared_gate, uint32_t ld_gate, uint32_t n, uint32_t dim,
                         const float *norm, float *normed)
{
    tc_dev_cuda *c = cuda_of(dev);
    tc_gpu_row_args args = {.x = x,
                            .sum = sum,
                            .shared = shared,
                            .gate = shared_gate,
                            .ld_gate = ld_gate,
                            .n = n,
                            .dim = dim,
                            .norm = norm,
                            .normed = normed,
                            .eps = dev->geometry.rms_eps};
    if (dim == c->o.hidden) args.residual = c->residual; // what the add before it kept
    if (c->pending) args.sum = c->pending_sum;
    bool boxes = c->pending && c->boxes.count && (!c->streaming || c->prompt.joins);
    if (c->aside_open) CHECK(c, cudaStreamWaitEvent(c->stream, c->aside_join, 0));
    c->aside_open = false;
    CHECK(c, tc_gpu_combine(c->stream, &c->tables, &args, boxes ? &c->boxes : NULL));
    c->pending = false;
}

static uint64_t cuda_join_us(tc_dev *dev)
{
    return tc_cuda_result_sums(cuda_of(dev))->wait_ns / 1000;
}

static uint64_t cuda_fetched(tc_dev *dev)
{
    return tc_cuda_result_sums(cuda_of(dev))->fetched;
}

static uint64_t cuda_ahead_pairs(tc_dev *dev)
{
    return tc_cuda_result_sums(cuda_of(dev))->ahead_pairs;
}

// One token: its matrices need no scratch that main stream and this one would share.
static bool cuda_aside(tc_dev *dev, bool begins)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (begins) {
        if (!c->recording || c->batch.tokens > 1) return false;
        CHECK(c, cudaEventRecord(c->aside_fork, c->main_stream));
        CHECK(c, cudaStreamWaitEvent(c->aside_stream, c->aside_fork, 0));
        c->stream = c->aside_stream;
    } else {
        CHECK(c, cudaEventRecord(c->aside_join, c->aside_stream));
        c->stream = c->main_stream;
        c->aside_open = true;
    }
    return true;
}

static uint32_t cuda_ahead_tokens(tc_dev *dev)
{
    return cuda_of(dev)->looks_ahead ? cuda_of(dev)->batch.tokens : 0;
}

static void cuda_also_norm(tc_dev *dev, const float *multiplier, float *normed)
{
    tc_dev_cuda *c = cuda_of(dev);
    c->also_norm = multiplier;
    c->also_normed = normed;
}

static void *cuda_host_alloc(tc_dev *dev, size_t bytes)
{
    void *memory = NULL;
    return CHECK(cuda_of(dev), cudaHostAlloc(&memory, bytes, cudaHostAllocDefault)) ? memory : NULL;
}

static void cuda_host_release(tc_dev *dev, void *memory)
{
    if (memory) CHECK(cuda_of(dev), cudaFreeHost(memory));
}

static void cuda_force_routes(tc_dev *dev, const uint32_t *expert, size_t count)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (count > c->forced_count) {
        tc_cuda_drop_graphs(c);
        tc_cuda_give(c, c->forced);
        c->forced = tc_cuda_take(c, TC_MEM_SCRATCH, 2 * count * sizeof *expert);
    }
    c->forced_count = c->forced ? count : 0;
    if (c->forced && count) tc_cuda_upload(dev, c->forced, expert, 2 * count * sizeof *expert);
}

static void cuda_few(tc_dev *dev, const float *logits, uint32_t rows, uint32_t vocab,
                     const float *temperature, tc_few *ret)
{
    tc_dev_cuda *c = cuda_of(dev);
    const tc_gpu_few args = {.logits = logits,
                             .rows = rows,
                             .vocab = vocab,
                             .temperature = c->few_temperature,
                             .top2 = c->few_top2,
                             .sums = c->few_sums,
                             .buckets = c->few_buckets,
                             .out = c->few};
    bool warm = false;
    for (uint32_t i = 0; i < rows; i++) {
        c->few_temperature_host[i] = temperature[i];
        warm |= temperature[i] > 0;
    }
    CHECK(c, cudaMemcpyAsync(c->few_temperature, c->few_temperature_host, rows * sizeof(float),
                             cudaMemcpyHostToDevice, c->stream));
    CHECK(c, tc_gpu_few_run(c->stream, &args, warm));
    CHECK(c, cudaMemcpy2DAsync(c->few_host, sizeof *c->few, c->few, sizeof *c->few,
                               warm ? sizeof *c->few : offsetof(tc_gpu_few_row, token), rows,
                               cudaMemcpyDeviceToHost, c->stream));
    CHECK(c, cudaStreamSynchronize(c->stream));
    for (uint32_t i = 0; i < rows; i++) {
        const tc_gpu_few_row *row = &c->few_host[i];
        ret[i] = (tc_few){.best = row->best,
                          .gap = row->gap,
                          .max = row->max,
                          .sum = row->sum,
                          .count = row->count < TC_FEW_MAX ? row->count : TC_FEW_MAX,
                          .token = (const tc_few_token *)(const void *)row->token};
    }
}

// ---- the tables ----

const tc_dev_ops tc_cuda_ops = {
    .name = "cuda",
    .free = tc_cuda_free,
    .alloc = tc_cuda_alloc,
    .release = tc_cuda_release,
    .matrix = tc_cuda_matrix,
    .table = tc_cuda_table,
    .upload = tc_cuda_upload,
    .download = tc_cuda_download,
    .slot_reset = tc_cuda_slot_reset,
    .check = tc_cuda_state,
    .page_copy = tc_cuda_page_copy,
    .page_save = tc_cuda_page_save,
    .page_load = tc_cuda_page_load,
    .pages_back = tc_cuda_kv_back,
    .slot_copy = tc_cuda_slot_copy,
    .slot_save = tc_cuda_slot_save,
    .slot_load = tc_cuda_slot_load,
    .batch_begin = tc_cuda_batch_begin,
    .embed = tc_cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .matmul = cuda_matmul,
    .attention = cuda_attention,
    .delta = cuda_delta,
    .heads = cuda_heads,
    .route = cuda_route,
    .expert_bias = cuda_expert_bias,
    .silu_mul = cuda_silu_mul,
    .add = cuda_add,
    .combine = cuda_combine,
    .few = cuda_few,
};

const tc_dev_queue_ops tc_cuda_queue_ops = {
    .replay = tc_cuda_replay,
    .record_end = tc_cuda_record_end,
    .wait = tc_cuda_wait,
    .experts_begin = tc_cuda_experts_begin,
    .experts = tc_cuda_experts,
    .lent_tokens = tc_cuda_prompt_tokens,
    .experts_deal = tc_cuda_prompt_deal,
    .given = tc_cuda_prompt_given,
    .force_routes = cuda_force_routes,
    .aside = cuda_aside,
    .ahead_tokens = cuda_ahead_tokens,
    .also_norm = cuda_also_norm,
    .join_us = cuda_join_us,
    .fetched = cuda_fetched,
    .ahead_pairs = cuda_ahead_pairs,
    .host_alloc = cuda_host_alloc,
    .host_release = cuda_host_release,
};
