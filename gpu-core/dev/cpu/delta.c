// SPDX-License-Identifier: Apache-2.0
// Owns: the Gated DeltaNet operator of the cpu device: causal convolution, recurrence and gated norm.
// Equations: docs/MODEL.md; why tokens are taken one by one in prompts too: docs/ARCHITECTURE.md.
//
// An item is one key head of one segment with some of the value heads that use it. It takes tokens in runs of
// 16: convolution, norms and gates of the run, then one strip of 16 state columns after the other goes
// through all tokens of the run while it stays in the first cache. So a prompt reads and writes its state
// once a run, and a token's arithmetic is the same wherever a prompt is cut.
//
// A layer's state: [value heads][strips][dk padded][16], then the convolution's inputs, a ring [taps -
// 1][channels] by position (and a row to spare, so that a slot has the same size on every device).
#include "common/model/model.h"
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { RUN = 16 };
_Static_assert((int)TC_CONV_MAX <= (int)TC_DENSE_TAPS_MAX, "taps");
_Static_assert(TC_DENSE_PAD % TC_DENSE_ROW_STEP == 0 && TC_DENSE_PAD % TC_DENSE_STRIP == 0, "padding");

typedef struct delta_job {
    tc_dev_cpu *cpu;
    const tc_delta_args *args;
    uint32_t parts; // items a key head
} delta_job;

static uint32_t channels_of(const tc_dev_geometry *g)
{
    return 2 * g->dn_key_heads * g->dn_key_dim + g->dn_value_heads * g->dn_value_dim;
}

static uint32_t key_floats(const tc_dev_geometry *g)
{
    return tc_dense_padded(g->dn_key_dim); // a multiple of TC_DENSE_ROW_STEP too
}

static size_t head_floats(const tc_dev_geometry *g)
{
    return (size_t)tc_dense_padded(g->dn_value_dim) * key_floats(g);
}

// One member's memory for a run: q, k [RUN][dk padded]; v, o [RUN][dv padded]; five numbers a token.
typedef struct run_memory {
    float *q, *k, *v, *o, *kq, *a, *b, *decay, *beta;
} run_memory;

size_t tc_cpu_delta_floats(const tc_dev_geometry *g)
{
    return RUN * (2 * (size_t)key_floats(g) + 2 * tc_dense_padded(g->dn_value_dim) + 5);
}

static run_memory memory_of(const tc_dev_cpu *cpu, uint32_t member)
{
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t dk = key_floats(g), dv = tc_dense_padded(g->dn_value_dim);
    float *q = cpu->delta_scratch + member * tc_cpu_delta_floats(g), *k = q + RUN * dk, *v = k + RUN * dk;
    float *o = v + RUN * dv, *kq = o + RUN * dv;
    return (run_memory){q, k, v, o, kq, kq + RUN, kq + 2 * RUN, kq + 3 * RUN, kq + 4 * RUN};
}

// A span of convolution channels: where it lies in a token's qkvz row and in the flat channel order.
typedef struct conv_span {
    uint32_t source, channel, length;
} conv_span;

// What an item works on.
typedef struct delta_item_view {
    const tc_segment *segment;
    uint32_t head, row_floats;
    const float *rows; // qkvz of the segment's first token
    float *state;
    const float *history;
} delta_item_view;

// Token t's convolution: the input of the tap that lies `back` tokens before it comes from the batch or,
// before the segment, from the ring. y is filled up with zeros to a padded row.
static uint32_t span_at(tc_span_at span, uint32_t head)
{
    return span.first + head * span.step;
}

static void convolve_token(const delta_job *job, const delta_item_view *v, uint32_t t, const conv_span *span,
                           float *y)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    const float *in[TC_DENSE_TAPS_MAX], *tap[TC_DENSE_TAPS_MAX];
    uint32_t taps = g->dn_conv, channels = channels_of(g);
    for (uint32_t j = 0; j < taps; j++) {
        uint32_t back = taps - 1 - j;
        tap[j] = job->args->conv + (size_t)j * channels + span->channel;
        if (t >= back) {
            in[j] = v->rows + (size_t)(t - back) * v->row_floats + span->source;
        } else { // position + t - back, shifted up by a multiple of the ring's length so that it is not
                 // negative
            uint32_t at = (v->segment->position + t + (taps - 1) - back) % (taps - 1);
            in[j] = v->history + (size_t)at * channels + span->channel;
        }
    }
    job->cpu->dense->convolve(in, tap, taps, span->length, y);
    memset(y + span->length, 0, (tc_dense_padded(span->length) - span->length) * sizeof *y);
}

static void l2_normalise(const tc_dense *dense, float *x, uint32_t n, float factor)
{
    dense->scale(x, 1.0f / sqrtf(dense->squares(x, n) + 1e-6f) * factor, NULL, n, x);
}

static void prepare_keys(const delta_job *job, const delta_item_view *v, uint32_t first, uint32_t count,
                         const run_memory *m)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    const tc_dense *dense = job->cpu->dense;
    uint32_t dk = g->dn_key_dim, padded = key_floats(g), keys = g->dn_key_heads * dk;
    const tc_delta_args *a = job->args;
    const conv_span q = {span_at(a->q, v->head), v->head * dk, dk},
                    k = {span_at(a->k, v->head), keys + v->head * dk, dk};
    for (uint32_t i = 0; i < count; i++) {
        float *to_q = m->q + (size_t)i * padded, *to_k = m->k + (size_t)i * padded;
        convolve_token(job, v, first + i, &q, to_q);
        convolve_token(job, v, first + i, &k, to_k);
        l2_normalise(dense, to_q, dk, 1.0f / sqrtf((float)dk));
        l2_normalise(dense, to_k, dk, 1.0f);
        m->kq[i] = dense->dot(to_k, to_q, padded);
    }
}

// One value head over a run whose keys are prepared. `index`: among the value heads of the key head.
static void run_value_head(const delta_job *job, const delta_item_view *v, uint32_t first, uint32_t count,
                           uint32_t index, const run_memory *m)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    const tc_delta_args *args = job->args;
    const tc_dense *dense = job->cpu->dense;
    uint32_t ratio = g->dn_value_heads / g->dn_key_heads, dk = g->dn_key_dim, dv = g->dn_value_dim;
    uint32_t value_head = v->head * ratio + index, padded = tc_dense_padded(dv), keys = g->dn_key_heads * dk;
    const conv_span span = {span_at(args->v, v->head) + index * dv, 2 * keys + value_head * dv, dv};
    for (uint32_t i = 0; i < count; i++) {
        const float *ba = args->ba + (size_t)(v->segment->first + first + i) * 2 * g->dn_value_heads;
        m->b[i] = ba[span_at(args->b, v->head) + index];
        m->a[i] = ba[span_at(args->a, v->head) + index];
        convolve_token(job, v, first + i, &span, m->v + (size_t)i * padded);
    }
    dense->gates(m->a, m->b, args->neg_exp_a[value_head], args->dt_bias[value_head], count, m->decay,
                 m->beta);
    for (uint32_t c = 0; c < padded; c += TC_DENSE_STRIP) {
        const tc_dense_strip strip = {.state =
                                          v->state + value_head * head_floats(g) + (size_t)c * key_floats(g),
                                      .k = m->k,
                                      .q = m->q,
                                      .kq = m->kq,
                                      .v = m->v + c,
                                      .decay = m->decay,
                                      .beta = m->beta,
                                      .o = m->o + c,
                                      .tokens = count,
                                      .dk = key_floats(g),
                                      .ld = padded};
        dense->strip(&strip);
    }
    for (uint32_t i = 0; i < count; i++) {
        const float *o = m->o + (size_t)i * padded;
        const float *z =
            v->rows + (size_t)(first + i) * v->row_floats + span_at(args->z, v->head) + index * dv;
        float mean = dense->squares(o, dv) / (float)dv;
        size_t at = (size_t)(v->segment->first + first + i) * g->dn_value_heads + value_head;
        dense->gated_norm(o, 1.0f / sqrtf(mean + g->rms_eps), args->norm, z, dv, args->out + at * dv);
    }
}

static float *layer_state(const delta_job *job, uint32_t slot)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    return job->cpu->states + ((size_t)slot * g->dn_layers + job->args->dn_layer) * tc_dev_state_floats(g);
}

// The segment's tokens up to where its state is kept next, or all.
static uint32_t stop_behind(const tc_segment *segment, uint32_t t)
{
    for (uint32_t i = 0; i < TC_KEEPS_MAX; i++)
        if (segment->keep[i].after > t) return segment->keep[i].after;
    return segment->tokens;
}

// Value heads [begin, end), behind the segment's first `done` tokens.
static void keep_heads(const delta_job *job, const delta_item_view *v, uint32_t done, uint32_t begin,
                       uint32_t end)
{
    const size_t at = begin * head_floats(&job->cpu->dev.geometry),
                 bytes = (end - begin) * head_floats(&job->cpu->dev.geometry) * sizeof(float);
    for (uint32_t i = 0; i < TC_KEEPS_MAX; i++)
        if (v->segment->keep[i].after == done)
            memcpy(layer_state(job, v->segment->keep[i].slot) + at, v->state + at, bytes);
}

static void delta_item(void *arg, uint32_t item, uint32_t member)
{
    const delta_job *job = arg;
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t part = item % job->parts, head = item / job->parts % g->dn_key_heads;
    const tc_segment *segment = &job->cpu->batch.segment_list[item / job->parts / g->dn_key_heads];
    uint32_t ratio = g->dn_value_heads / g->dn_key_heads, share = (ratio + job->parts - 1) / job->parts;
    uint32_t span = 2 * g->dn_key_dim + 2 * ratio * g->dn_value_dim;
    delta_item_view v = {.segment = segment, .head = head};
    v.row_floats = g->dn_key_heads * span;
    v.rows = job->args->qkvz + (size_t)segment->first * v.row_floats;
    v.state = layer_state(job, segment->slot);
    v.history = v.state + g->dn_value_heads * head_floats(g);
    run_memory m = memory_of(job->cpu, member);
    const uint32_t begin = part * share, end = begin + share < ratio ? begin + share : ratio;
    for (uint32_t t = 0, count; t < segment->tokens; t += count) {
        count = stop_behind(segment, t) - t;
        if (count > RUN) count = RUN;
        prepare_keys(job, &v, t, count, &m);
        for (uint32_t i = begin; i < end; i++) run_value_head(job, &v, t, count, i, &m);
        if (begin < end) keep_heads(job, &v, t + count, head * ratio + begin, head * ratio + end);
    }
}

// The raw inputs of the last taps - 1 of the segment's first `tokens` into the ring of a slot that has those
// before the segment, channels in their flat order.
static void keep_history(const delta_job *job, const tc_segment *segment, uint32_t tokens, uint32_t slot)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t ring = g->dn_conv - 1, dk = g->dn_key_dim, keys = g->dn_key_heads * dk;
    uint32_t vspan = g->dn_value_heads / g->dn_key_heads * g->dn_value_dim, span = 2 * dk + 2 * vspan;
    float *history = layer_state(job, slot) + g->dn_value_heads * head_floats(g);
    for (uint32_t t = tokens > ring ? tokens - ring : 0; t < tokens; t++) {
        const float *row = job->args->qkvz + (size_t)(segment->first + t) * g->dn_key_heads * span;
        float *to = history + (size_t)((segment->position + t) % ring) * channels_of(g);
        for (uint32_t h = 0; h < g->dn_key_heads; h++) {
            memcpy(to + h * dk, row + span_at(job->args->q, h), dk * sizeof *to);
            memcpy(to + keys + h * dk, row + span_at(job->args->k, h), dk * sizeof *to);
            memcpy(to + 2 * keys + h * vspan, row + span_at(job->args->v, h), vspan * sizeof *to);
        }
    }
}

static void keep_histories(const delta_job *job, const tc_segment *segment)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    const size_t at = g->dn_value_heads * head_floats(g),
                 bytes = (size_t)(g->dn_conv - 1) * channels_of(g) * sizeof(float);
    for (uint32_t i = 0; i < TC_KEEPS_MAX && segment->keep[i].after; i++) {
        const tc_keep *keep = &segment->keep[i];
        memcpy(layer_state(job, keep->slot) + at, layer_state(job, segment->slot) + at, bytes);
        keep_history(job, segment, keep->after, keep->slot);
    }
    keep_history(job, segment, segment->tokens, segment->slot);
}

void tc_cpu_delta(tc_dev *dev, const tc_delta_args *args)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    const tc_dev_geometry *g = &dev->geometry;
    uint32_t ratio = g->dn_value_heads / g->dn_key_heads, heads = cpu->batch.segments * g->dn_key_heads;
    // keys are prepared again for each part, so parts are for members that would have nothing to do
    delta_job job = {cpu, args, heads < 2 * tc_team_size(cpu->team) ? ratio : 1};
    uint64_t work = (uint64_t)cpu->batch.tokens * g->dn_value_heads * g->dn_key_dim * g->dn_value_dim;
    tc_cpu_each(cpu, heads * job.parts, 4 * work, delta_item, &job);
    for (uint32_t s = 0; s < cpu->batch.segments; s++) keep_histories(&job, &cpu->batch.segment_list[s]);
}
