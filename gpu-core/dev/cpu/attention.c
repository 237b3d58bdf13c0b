// SPDX-License-Identifier: Apache-2.0
// Owns: full attention of the cpu device over the paged KV pool: per-head norm, rotary, append, attend, gate.
// Equations: docs/MODEL.md. Two rounds over the team, because every key of the batch must be in its page
// before any query looks at it.
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct attention_job {
    tc_dev_cpu *cpu;
    const tc_attention_args *args;
    uint32_t q_stride; // floats from one query head to the next
} attention_job;

static float *page_head(const tc_dev_cpu *cpu, uint32_t page, uint32_t kv_layer, bool value, uint32_t head)
{
    const tc_dev_geometry *g = &cpu->dev.geometry;
    size_t at = ((((size_t)page * g->kv_layers + kv_layer) * 2 + value) * g->kv_heads + head) *
                TC_KV_PAGE_POSITIONS * g->head_dim;
    return cpu->kv + at;
}

static void norm_head(float *x, const float *multiplier, uint32_t dim, float eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) sum += (double)x[i] * x[i];
    float scale = 1.0f / sqrtf((float)(sum / dim) + eps);
    for (uint32_t i = 0; i < dim; i++) x[i] = x[i] * scale * multiplier[i];
}

// Half-split rotation: dimension i is paired with i + half.
static void rotate_head(float *x, const float *cosine, const float *sine, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void prepare_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const attention_job *job = arg;
    tc_dev_cpu *cpu = job->cpu;
    const tc_attention_args *args = job->args;
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t half = g->rotary_dim / 2, dim = g->head_dim;
    const float *cosine = cpu->rotary + (size_t)t * 2 * half, *sine = cosine + half;
    for (uint32_t h = 0; h < g->heads; h++) {
        float *q = args->q + ((size_t)t * g->heads + h) * job->q_stride;
        if (args->q_norm) norm_head(q, args->q_norm, dim, g->rms_eps);
        rotate_head(q, cosine, sine, half);
    }
    const tc_segment *segment = &cpu->batch.segment_list[cpu->batch.segment[t]];
    uint32_t position = cpu->batch.position[t];
    uint32_t page = segment->pages[position / TC_KV_PAGE_POSITIONS], row = position % TC_KV_PAGE_POSITIONS;
    for (uint32_t h = 0; h < g->kv_heads; h++) {
        float *k = args->k + ((size_t)t * g->kv_heads + h) * dim;
        const float *v = args->v + ((size_t)t * g->kv_heads + h) * dim;
        if (args->k_norm) norm_head(k, args->k_norm, dim, g->rms_eps);
        rotate_head(k, cosine, sine, half);
        memcpy(page_head(cpu, page, args->kv_layer, false, h) + (size_t)row * dim, k, dim * sizeof(float));
        memcpy(page_head(cpu, page, args->kv_layer, true, h) + (size_t)row * dim, v, dim * sizeof(float));
    }
}

// Softmax in place over n scores; returns nothing: the sum is divided out at once.
static void softmax(float *s, uint32_t n, float max)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[i] = expf(s[i] - max);
        sum += s[i];
    }
    float inverse = 1.0f / sum;
    for (uint32_t i = 0; i < n; i++) s[i] *= inverse;
}

static void attend_item(void *arg, uint32_t item, uint32_t member)
{
    const attention_job *job = arg;
    tc_dev_cpu *cpu = job->cpu;
    const tc_attention_args *args = job->args;
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t t = item / g->heads, h = item % g->heads, dim = g->head_dim;
    uint32_t kv_head = h / (g->heads / g->kv_heads), n = cpu->batch.position[t] + 1;
    const uint32_t *pages = cpu->batch.segment_list[cpu->batch.segment[t]].pages;
    const float *q = args->q + ((size_t)t * g->heads + h) * job->q_stride;
    float *out = args->out + ((size_t)t * g->heads + h) * dim;
    float *scores = cpu->scores + (size_t)member * g->positions_max;
    float scale = 1.0f / sqrtf((float)dim), max = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        const float *keys = page_head(cpu, pages[i / TC_KV_PAGE_POSITIONS], args->kv_layer, false, kv_head);
        scores[i] = scale * cpu->kernels->dot(q, keys + (size_t)(i % TC_KV_PAGE_POSITIONS) * dim, dim);
        if (scores[i] > max) max = scores[i];
    }
    softmax(scores, n, max);
    memset(out, 0, dim * sizeof(float));
    for (uint32_t i = 0; i < n; i++) {
        const float *values = page_head(cpu, pages[i / TC_KV_PAGE_POSITIONS], args->kv_layer, true, kv_head);
        cpu->kernels->axpy(scores[i], values + (size_t)(i % TC_KV_PAGE_POSITIONS) * dim, out, dim);
    }
    if (!args->gated) return;
    for (uint32_t i = 0; i < dim; i++) out[i] *= 1.0f / (1.0f + expf(-q[dim + i]));
}

void tc_cpu_attention(tc_dev *dev, const tc_attention_args *args)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    attention_job job = {cpu, args, args->gated ? 2 * dev->geometry.head_dim : dev->geometry.head_dim};
    uint32_t n = cpu->batch.tokens;
    uint64_t heads = dev->geometry.heads + dev->geometry.kv_heads, work = 0;
    for (uint32_t t = 0; t < n; t++)
        work += (uint64_t)(cpu->batch.position[t] + 1) * dev->geometry.heads * dev->geometry.head_dim;
    tc_cpu_each(cpu, n, n * heads * dev->geometry.head_dim * 4, prepare_item, &job);
    tc_cpu_each(cpu, n * dev->geometry.heads, 2 * work, attend_item, &job);
}
