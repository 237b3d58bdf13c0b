// SPDX-License-Identifier: Apache-2.0
// Owns: a pass on a device whose operators only queue work: recorded passes are replayed as a whole, routed
// experts are the device's own business where it can reach them, and the host computes a layer's experts
// through the expert source where it cannot, or where a join failed: then from that layer on, nothing is
// lost.
//
//   begin -> lend the workers' mailboxes -> replay | queue layers -> wait
//     of a prompt that workers share, a layer waits for its routes and the workers' answers (experts_deal)
//     join of layer l failed: settle, layer l's experts by the source, combine, layers l + 1 .. by the source
#include "common/base/clock.h"
#include "gpu-core/experts/plan.h"
#include "gpu-core/forward/forward_impl.h"

#include <string.h>

tc_status tc_forward_queued_create(tc_forward *f, tc_error *e)
{
    const tc_dev_queue_ops *queue = f->dev->queue;
    const size_t n = f->dev->tokens_max, k = f->desc->top_k ? f->desc->top_k : 1;
    f->host_x = queue->host_alloc(f->dev, n * f->desc->hidden * sizeof *f->host_x);
    f->host_sum = queue->host_alloc(f->dev, n * f->desc->hidden * sizeof *f->host_sum);
    f->host_expert = queue->host_alloc(f->dev, n * f->desc->layers * k * sizeof *f->host_expert);
    f->host_weight = queue->host_alloc(f->dev, n * k * sizeof *f->host_weight);
    f->host_logits = queue->host_alloc(f->dev, (size_t)TC_LOGIT_ROWS_MAX * f->desc->vocab * sizeof(float));
    f->host_counts = tc_alloc(TC_MEM_SCRATCH, f->desc->experts + 1, sizeof *f->host_counts);
    f->host_pairs = tc_alloc(TC_MEM_SCRATCH, TC_QUEUED_TOKENS_MAX * k, sizeof *f->host_pairs);
    if (f->host_x && f->host_sum && f->host_expert && f->host_weight && f->host_logits && f->host_counts &&
        f->host_pairs)
        return TC_OK;
    return tc_fail(e, TC_NOMEM, "out of memory for the host's part of a pass");
}

void tc_forward_queued_free(tc_forward *f)
{
    const tc_dev_queue_ops *queue = f->dev->queue;
    queue->host_release(f->dev, f->host_x);
    queue->host_release(f->dev, f->host_sum);
    queue->host_release(f->dev, f->host_expert);
    queue->host_release(f->dev, f->host_weight);
    queue->host_release(f->dev, f->host_logits);
    queue->host_release(f->dev, f->forced);
    tc_free(f->host_counts);
    tc_free(f->host_pairs);
}

// Whether all lent mailboxes are still there; keeps their workers awake.
static bool stands(void *arg)
{
    tc_forward *f = arg;
    return !f->source->ops->nudge || f->source->ops->nudge(f->source);
}

static void turn(void *arg)
{
    (void)stands(arg);
}

// Tokens of a batch for which mailboxes are of use.
static uint32_t lent_tokens(const tc_forward *f)
{
    const uint32_t most = f->dev->queue->lent_tokens(f->dev);
    return most > TC_QUEUED_TOKENS_MAX ? most : TC_QUEUED_TOKENS_MAX;
}

// Tokens [first, first + n) of the layer through the source.
static tc_status call_source(tc_forward *f, uint32_t layer, uint32_t first, uint32_t n, tc_error *e)
{
    const tc_model_desc *desc = f->desc;
    const size_t at = (size_t)first * desc->top_k;
    tc_plan_pairs(f->host_expert + at, f->host_weight + at, n, desc->top_k, desc->experts, f->host_counts,
                  f->host_pairs);
    const tc_expert_call call = {
        .layer = layer,
        .precision = f->precision,
        .tokens = n,
        .hidden = desc->hidden,
        .x = f->host_x + (size_t)first * desc->hidden,
        .pair_count = n * desc->top_k,
        .pairs = f->host_pairs,
    };
    TC_TRY(f->source->ops->post(f->source, &call, e));
    return f->source->ops->join(f->source, f->host_sum + (size_t)first * desc->hidden, e);
}

// All experts of a layer whose input and routes lie in the device: the sums into f->sum.
static tc_status experts_by_host(tc_forward *f, uint32_t layer, uint32_t n, tc_error *e)
{
    const tc_dev_ops *ops = f->dev->ops;
    const size_t pairs = (size_t)n * f->desc->top_k, row = f->desc->hidden;
    ops->download(f->dev, f->host_x, f->normed, n * row * sizeof *f->host_x);
    ops->download(f->dev, f->host_expert, tc_forward_experts(f, layer, n), pairs * sizeof *f->host_expert);
    ops->download(f->dev, f->host_weight, f->weight, pairs * sizeof *f->host_weight);
    for (size_t i = 0; i < pairs; i++) // a device in error may have left anything there
        if (f->host_expert[i] >= f->desc->experts)
            return tc_fail(e, TC_INTERNAL, "layer %u: no routes", layer);
    for (uint32_t t = 0; t < n; t += TC_QUEUED_TOKENS_MAX)
        TC_TRY(call_source(f, layer, t, n - t < TC_QUEUED_TOKENS_MAX ? n - t : TC_QUEUED_TOKENS_MAX, e));
    ops->upload(f->dev, f->sum, f->host_sum, n * row * sizeof *f->host_sum);
    return TC_OK;
}

static void combine(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n)
{
    const tc_model_desc *desc = f->desc;
    const float *next_norm = layer_index + 1 < desc->layers ? layer[1].input_norm : NULL;
    const float *gate, *beside = tc_forward_beside(f, &gate);
    f->dev->ops->combine(f->dev, f->x, f->sum, beside, gate, 1, n, desc->hidden, next_norm, f->normed);
}

tc_status tc_forward_mlp_queued(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index,
                                uint32_t n, tc_error *e)
{
    const tc_model_desc *desc = f->desc;
    if (!layer->moe) {
        const float *next_norm = layer_index + 1 < desc->layers ? layer[1].input_norm : NULL;
        tc_forward_dense(f, &layer->mlp, n);
        f->dev->ops->add(f->dev, f->x, f->shared, n, desc->hidden, next_norm, f->normed);
        return TC_OK;
    }
    const bool aside = f->by_device && tc_forward_shared_aside(f, &layer->mlp, n);
    tc_forward_route(f, layer, layer_index, n, aside);
    if (f->by_device) {
        f->dev->queue->experts(f->dev, layer_index, f->normed, n, tc_forward_experts(f, layer_index, n),
                               f->weight, f->sum);
        f->dev->queue->experts_deal(f->dev, stands, f);
    }
    if (desc->shared_width && !aside) tc_forward_shared_down(f, &layer->mlp, n);
    tc_forward_expert_bias(f, layer, layer_index, n);
    if (!f->by_device) TC_TRY(experts_by_host(f, layer_index, n, e));
    combine(f, layer, layer_index, n);
    return TC_OK;
}

static tc_status run_layers(tc_forward *f, uint32_t from, uint32_t n, tc_error *e)
{
    for (uint32_t i = from; i < f->desc->layers; i++) {
        tc_forward_mix(f, i, n);
        TC_TRY(tc_forward_mlp_queued(f, &f->weights->layer[i], i, n, e));
    }
    return TC_OK;
}

// A join of this layer failed; what it was given lies there still.
static tc_status go_on_from(tc_forward *f, uint32_t layer, uint32_t n, tc_error *e)
{
    uint32_t none;
    f->by_device = false;
    TC_TRY(experts_by_host(f, layer, n, e));
    combine(f, &f->weights->layer[layer], layer, n);
    TC_TRY(run_layers(f, layer + 1, n, e));
    TC_TRY(f->dev->queue->wait(f->dev, NULL, NULL, &none, e));
    f->times.resumed++;
    return TC_OK;
}

// What was routed where: told to whoever asked, and counted: an expert read once, however many tokens chose
// it.
static void note_routes(tc_forward *f, uint32_t n, int32_t *chosen)
{
    const tc_model_desc *desc = f->desc;
    const uint32_t k = desc->top_k;
    if (!k) return;
    f->dev->ops->download(f->dev, f->host_expert, f->expert,
                          (size_t)desc->layers * n * k * sizeof *f->host_expert);
    for (uint32_t l = 0; l < desc->layers; l++) {
        const uint32_t *expert = f->host_expert + (size_t)l * n * k;
        const bool moe = f->weights->layer[l].moe;
        if (moe) memset(f->host_counts, 0, desc->experts * sizeof *f->host_counts);
        for (uint32_t i = 0; i < n * k; i++) {
            if (moe && expert[i] < desc->experts && !f->host_counts[expert[i]]++) f->times.expert_reads++;
            if (chosen)
                chosen[((size_t)(i / k) * desc->layers + l) * k + i % k] = moe ? (int32_t)expert[i] : -1;
        }
    }
}

tc_status tc_forward_run_queued(tc_forward *f, const tc_batch *batch, int32_t *chosen, tc_error *e)
{
    const tc_dev_queue_ops *queue = f->dev->queue;
    const uint32_t n = batch->tokens;
    tc_lent_mailbox boxes[TC_LENT_MAX];
    uint64_t sequence = 0, start = tc_now_us();
    uint32_t failed = UINT32_MAX, lent = 0;
    f->dev->ops->batch_begin(f->dev, batch);
    f->dev->ops->embed(f->dev, &f->weights->embed, f->x, f->desc->hidden);
    if (f->force) {
        f->force(f->force_arg, f->forced, n);
        queue->force_routes(f->dev, f->forced, (size_t)f->desc->layers * n * f->desc->top_k);
    }
    if (f->source->ops->lend && n <= lent_tokens(f) && f->precision == TC_FAST)
        lent = f->source->ops->lend(f->source, n, boxes, &sequence);
    f->by_device = f->precision == TC_FAST && queue->experts_begin(f->dev, boxes, lent, sequence);
    if (!f->by_device && lent) { // the source is asked for each layer instead
        f->source->ops->settle(f->source, true);
        lent = 0;
    }
    tc_status status = TC_OK;
    f->device_ahead = false;
    if (!queue->replay(f->dev)) {
        f->device_ahead = f->by_device && n <= queue->ahead_tokens(f->dev);
        status = run_layers(f, 0, n, e);
        queue->record_end(f->dev);
        f->device_ahead = false;
    }
    if (status == TC_OK) status = queue->wait(f->dev, lent ? turn : NULL, f, &failed, e);
    if (lent) f->source->ops->settle(f->source, status == TC_OK && failed == UINT32_MAX);
    if (status == TC_OK && failed != UINT32_MAX) status = go_on_from(f, failed, n, e);
    TC_TRY(status);
    note_routes(f, n, chosen);
    f->times.join_us = queue->join_us(f->dev);
    f->times.experts_fetched = queue->fetched(f->dev);
    f->times.ahead_pairs = queue->ahead_pairs(f->dev);
    f->times.device_us += tc_now_us() - start;
    return TC_OK;
}

tc_status tc_forward_force(tc_forward *f, tc_forward_force_fn *fill, void *arg, tc_error *e)
{
    const size_t routes = (size_t)f->dev->tokens_max * f->desc->layers * f->desc->top_k;
    f->forced = f->dev->queue->host_alloc(f->dev, 2 * routes * sizeof *f->forced);
    if (!f->forced) return tc_fail(e, TC_NOMEM, "out of memory for dialled routes");
    f->force = fill;
    f->force_arg = arg;
    return TC_OK;
}
