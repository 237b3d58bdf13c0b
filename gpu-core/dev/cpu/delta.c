// SPDX-License-Identifier: Apache-2.0
// Owns: the Gated DeltaNet operator of the cpu device: causal convolution, recurrence and gated norm. One
// item is one key head of one segment with the value heads that use it; its tokens run in order, because the
// state does. Equations: docs/MODEL.md. The state is float32 and is updated token by token, in prompts too.
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct delta_job {
    tc_dev_cpu *cpu;
    const tc_delta_args *args;
} delta_job;

// A span of convolution channels of one key head: where it lies in a token's qkvz row and in the flat channel
// order.
typedef struct conv_span {
    uint32_t source, channel, length;
} conv_span;

// out[i] = silu(sum over taps). Tap j sees the raw input of token t - (taps - 1) + j; inputs from before the
// segment are in the history (oldest first).
static void conv_token(const tc_dev_geometry *g, const tc_delta_args *args, const float *rows,
                       uint32_t row_floats, uint32_t t, const float *history, const conv_span *span,
                       float *out)
{
    uint32_t taps = g->dn_conv, channels = tc_cpu_conv_channels(g);
    memset(out, 0, span->length * sizeof(float));
    for (uint32_t j = 0; j < taps; j++) {
        uint32_t back = taps - 1 - j;
        const float *in = t >= back ? rows + (size_t)(t - back) * row_floats + span->source
                                    : history + (size_t)(t + j) * channels + span->channel;
        const float *tap = args->conv + (size_t)j * channels + span->channel;
        for (uint32_t i = 0; i < span->length; i++) out[i] += tap[i] * in[i];
    }
    for (uint32_t i = 0; i < span->length; i++) out[i] = out[i] / (1.0f + expf(-out[i]));
}

// History after the segment: the raw inputs of its last taps-1 tokens (older history moves up when it is
// shorter).
static void conv_keep(const tc_dev_geometry *g, const float *rows, uint32_t row_floats, uint32_t tokens,
                      float *history, const conv_span *span)
{
    uint32_t keep = g->dn_conv - 1, channels = tc_cpu_conv_channels(g);
    for (uint32_t j = 0; j < keep; j++) {
        const float *in = tokens + j >= keep ? rows + (size_t)(tokens + j - keep) * row_floats + span->source
                                             : history + (size_t)(tokens + j) * channels + span->channel;
        memmove(history + (size_t)j * channels + span->channel, in, span->length * sizeof(float));
    }
}

static void l2_normalise(float *x, uint32_t n, float scale)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = 1.0f / sqrtf((float)sum + 1e-6f) * scale;
    for (uint32_t i = 0; i < n; i++) x[i] *= factor;
}

// One token of one value head. state [dk][dv]: S *= decay; delta = beta (v - S^T k); S += k delta^T; o = S^T
// q.
__attribute__((target_clones("avx512f", "avx2", "default"))) static void
recurrence(float *restrict state, const float *restrict q, const float *restrict k, const float *restrict v,
           float decay, float beta, uint32_t dk, uint32_t dv, float *restrict delta, float *restrict o)
{
    memset(delta, 0, dv * sizeof(float));
    memset(o, 0, dv * sizeof(float));
    for (uint32_t i = 0; i < dk; i++) {
        float *restrict row = state + (size_t)i * dv;
        for (uint32_t j = 0; j < dv; j++) {
            row[j] *= decay;
            delta[j] += k[i] * row[j];
        }
    }
    for (uint32_t j = 0; j < dv; j++) delta[j] = beta * (v[j] - delta[j]);
    for (uint32_t i = 0; i < dk; i++) {
        float *restrict row = state + (size_t)i * dv;
        for (uint32_t j = 0; j < dv; j++) {
            row[j] += k[i] * delta[j];
            o[j] += q[i] * row[j];
        }
    }
}

static float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x)); // the reference's threshold
}

// out = norm(o) * w * silu(z)
static void gated_norm(const float *o, const float *z, const float *w, uint32_t n, float eps, float *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)o[i] * o[i];
    float scale = 1.0f / sqrtf((float)(sum / n) + eps);
    for (uint32_t i = 0; i < n; i++) out[i] = w[i] * (o[i] * scale) * (z[i] / (1.0f + expf(-z[i])));
}

static void delta_item(void *arg, uint32_t item, uint32_t member)
{
    const delta_job *job = arg;
    tc_dev_cpu *cpu = job->cpu;
    const tc_delta_args *args = job->args;
    const tc_dev_geometry *g = &cpu->dev.geometry;
    const tc_segment *segment = &cpu->batch.segment_list[item / g->dn_key_heads];
    uint32_t head = item % g->dn_key_heads, ratio = g->dn_value_heads / g->dn_key_heads;
    uint32_t dk = g->dn_key_dim, dv = g->dn_value_dim, vspan = ratio * dv;
    uint32_t head_floats = 2 * dk + 2 * vspan, row_floats = g->dn_key_heads * head_floats;
    uint32_t keys = g->dn_key_heads * dk, base = head * head_floats;
    const float *rows = args->qkvz + (size_t)segment->first * row_floats;
    float *state =
        cpu->states + ((size_t)segment->slot * g->dn_layers + args->dn_layer) * tc_cpu_state_floats(g);
    float *history = state + (size_t)g->dn_value_heads * dk * dv;
    const conv_span spans[3] = {{base, head * dk, dk},
                                {base + dk, keys + head * dk, dk},
                                {base + 2 * dk, 2 * keys + head * vspan, vspan}};
    float *q = cpu->delta_scratch + (size_t)member * cpu->delta_scratch_floats;
    float *k = q + dk, *v = k + dk, *delta = v + vspan, *o = delta + dv;
    float *outputs[3] = {q, k, v};
    for (uint32_t t = 0; t < segment->tokens; t++) {
        for (int s = 0; s < 3; s++) conv_token(g, args, rows, row_floats, t, history, &spans[s], outputs[s]);
        l2_normalise(q, dk, 1.0f / sqrtf((float)dk));
        l2_normalise(k, dk, 1.0f);
        size_t token = segment->first + t;
        const float *b = args->ba + token * 2 * g->dn_value_heads + (size_t)head * 2 * ratio, *a = b + ratio;
        for (uint32_t i = 0; i < ratio; i++) {
            uint32_t value_head = head * ratio + i;
            float beta = 1.0f / (1.0f + expf(-b[i]));
            float decay = expf(args->neg_exp_a[value_head] * softplus(a[i] + args->dt_bias[value_head]));
            recurrence(state + (size_t)value_head * dk * dv, q, k, v + i * dv, decay, beta, dk, dv, delta, o);
            const float *z = rows + (size_t)t * row_floats + base + 2 * dk + vspan + i * dv;
            gated_norm(o, z, args->norm, dv, g->rms_eps,
                       args->out + (token * g->dn_value_heads + value_head) * dv);
        }
    }
    for (int s = 0; s < 3; s++) conv_keep(g, rows, row_floats, segment->tokens, history, &spans[s]);
}

void tc_cpu_delta(tc_dev *dev, const tc_delta_args *args)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    delta_job job = {cpu, args};
    const tc_dev_geometry *g = &dev->geometry;
    uint64_t work = (uint64_t)cpu->batch.tokens * g->dn_value_heads * g->dn_key_dim * g->dn_value_dim;
    tc_cpu_each(cpu, cpu->batch.segments * g->dn_key_heads, 4 * work, delta_item, &job);
}
