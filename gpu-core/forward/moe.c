// SPDX-License-Identifier: Apache-2.0
// Owns: a layer's MLP: dense, or router -> routed experts (posted, then joined) with the shared expert
// computed in between.
#include "common/base/clock.h"
#include "common/base/trace.h"
#include "gpu-core/experts/plan.h"
#include "gpu-core/forward/forward_impl.h"

// The first half of an MLP, as jobs beside others on the same input.
static uint32_t add_gate_up(const tc_forward *f, const tc_mlp *mlp, tc_matmul_job *jobs)
{
    uint32_t hidden = f->desc->hidden, width = mlp->gate.rows;
    jobs[0] = (tc_matmul_job){&mlp->gate, f->normed, hidden, f->gate, width, NULL};
    jobs[1] = (tc_matmul_job){&mlp->up, f->normed, hidden, f->up, width, NULL};
    return 2;
}

static void run_gate_up(tc_forward *f, const tc_mlp *mlp, uint32_t n)
{
    tc_matmul_job jobs[2];
    f->dev->ops->matmul(f->dev, jobs, add_gate_up(f, mlp, jobs), n);
}

static void run_down(tc_forward *f, const tc_mlp *mlp, uint32_t n, float *out)
{
    uint32_t hidden = f->desc->hidden, width = mlp->gate.rows;
    if (!f->dev->queue) f->dev->ops->silu_mul(f->dev, f->gate, f->up, n, width, f->gate);
    const tc_matmul_job down = {.w = &mlp->down,
                                .x = f->gate,
                                .ldx = width,
                                .y = out,
                                .ldy = hidden,
                                .up = f->dev->queue ? f->up : NULL};
    f->dev->ops->matmul(f->dev, &down, 1, n);
}

static void note_chosen(const tc_forward *f, uint32_t n, int32_t *chosen)
{
    uint32_t top_k = f->desc->top_k, stride = f->desc->layers * top_k;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < top_k; k++)
            chosen[(size_t)t * stride + k] = (int32_t)f->expert[t * top_k + k];
}

static void note_dense(const tc_forward *f, uint32_t n, int32_t *chosen)
{
    uint32_t top_k = f->desc->top_k, stride = f->desc->layers * top_k;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < top_k; k++) chosen[(size_t)t * stride + k] = -1;
}

// The experts that the logits in f->router choose.
static tc_route_args choice(const tc_forward *f, const tc_layer_weights *layer, uint32_t n, uint32_t *expert,
                            float *weight)
{
    const tc_model_desc *d = f->desc;
    return (tc_route_args){.logits = f->router,
                           .n = n,
                           .experts = d->experts,
                           .top_k = d->top_k,
                           .scoring = d->router_scoring,
                           .renormalise = d->norm_top_k,
                           .correction = layer->router_correction,
                           .groups = d->router_groups,
                           .top_groups = d->router_top_groups,
                           .scale = d->router_scale != 0 ? d->router_scale : 1.0f,
                           .expert = expert,
                           .weight = weight};
}

const tc_layer_weights *tc_forward_next(const tc_forward *f, uint32_t index)
{
    const tc_layer_weights *layer = &f->weights->layer[index];
    if (!f->device_ahead || !layer->moe || index + 1 >= f->desc->layers || !layer[1].moe) return NULL;
    return layer + 1;
}

// The shared expert's first half goes with the router where that delays nobody: one round over the team less.
void tc_forward_route(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n,
                      bool aside)
{
    const tc_layer_weights *next = tc_forward_next(f, layer_index);
    uint32_t hidden = f->desc->hidden, count = 1;
    tc_matmul_job jobs[5] = {
        {&layer->router, f->normed, hidden, f->router, layer->router.rows, layer->router_bias}};
    if (next)
        jobs[count++] = (tc_matmul_job){&next->router,  f->projected,      hidden,
                                        f->next_router, next->router.rows, next->router_bias};
    if (f->desc->shared_width) {
        if (f->desc->shared_gate)
            jobs[count++] =
                (tc_matmul_job){&layer->shared_router, f->normed, hidden, f->shared_gate, 1, NULL};
        if (!aside && (f->source->ops->in_process || f->dev->queue))
            count += add_gate_up(f, &layer->mlp, jobs + count);
    }
    f->dev->ops->matmul(f->dev, jobs, count, n);
    tc_route_args args = choice(f, layer, n, tc_forward_experts(f, layer_index, n), f->weight);
    uint32_t *expected[2] = {f->expected, f->expected + (size_t)n * f->desc->top_k};
    args.layer = layer_index;
    if (next) {
        args.next_logits = f->next_router;
        args.next_correction = next->router_correction;
        args.next_expert = expected[(layer_index + 1) % 2];
    }
    if (layer_index && tc_forward_next(f, layer_index - 1)) args.guess = expected[layer_index % 2];
    f->dev->ops->route(f->dev, &args);
}

// Between post and join, while others compute: the buffers of the mixer and the router are free.
void tc_forward_expect(tc_forward *f, uint32_t layer_index, uint32_t n)
{
    if (layer_index >= f->desc->layers || !f->weights->layer[layer_index].moe) return;
    const tc_layer_weights *layer = &f->weights->layer[layer_index];
    const uint32_t hidden = f->desc->hidden;
    f->dev->ops->rmsnorm(f->dev, f->x, layer->post_norm, n, hidden, f->desc->rms_eps, f->projected);
    const tc_matmul_job job = {&layer->router, f->projected,       hidden,
                               f->router,      layer->router.rows, layer->router_bias};
    f->dev->ops->matmul(f->dev, &job, 1, n);
    const tc_route_args args = choice(f, layer, n, f->expected, f->expected_weight);
    f->dev->ops->route(f->dev, &args);
    f->watch.expects(f->watch.arg, layer_index, n, f->expected);
}

// Biases of the down projections do not depend on what an expert computes: they are added here.
void tc_forward_expert_bias(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n)
{
    if (!f->desc->expert_bias) return;
    f->dev->ops->expert_bias(f->dev, layer->expert_bias, tc_forward_experts(f, layer_index, n), f->weight, n,
                             f->desc->top_k, f->desc->hidden, f->shared);
}

void tc_forward_dense(tc_forward *f, const tc_mlp *mlp, uint32_t n)
{
    run_gate_up(f, mlp, n);
    run_down(f, mlp, n, f->shared);
}

void tc_forward_shared_down(tc_forward *f, const tc_mlp *mlp, uint32_t n)
{
    run_down(f, mlp, n, f->shared);
}

bool tc_forward_shared_aside(tc_forward *f, const tc_mlp *mlp, uint32_t n)
{
    const tc_dev_queue_ops *queue = f->dev->queue;
    if (!f->desc->shared_width || !queue->aside(f->dev, true)) return false;
    run_gate_up(f, mlp, n);
    run_down(f, mlp, n, f->shared);
    queue->aside(f->dev, false);
    return true;
}

tc_status tc_forward_mlp(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n,
                         int32_t *chosen, tc_error *e)
{
    const tc_model_desc *desc = f->desc;
    const float *next_norm = layer_index + 1 < desc->layers ? layer[1].input_norm : NULL;
    if (!layer->moe) {
        run_gate_up(f, &layer->mlp, n);
        run_down(f, &layer->mlp, n, f->shared);
        f->dev->ops->add(f->dev, f->x, f->shared, n, desc->hidden, next_norm, f->normed);
        if (chosen) note_dense(f, n, chosen);
        if (f->looks_ahead) tc_forward_expect(f, layer_index + 1, n);
        return TC_OK;
    }
    uint64_t start = tc_stage_now_us();
    tc_forward_route(f, layer, layer_index, n, false);
    f->times.expert_reads +=
        tc_plan_pairs(f->expert, f->weight, n, desc->top_k, desc->experts, f->counts, f->pairs);
    if (chosen) note_chosen(f, n, chosen);
    uint64_t routed = tc_stage_now_us();
    f->times.router_us += routed - start;
    const tc_expert_call call = {
        .layer = layer_index,
        .precision = f->precision,
        .tokens = n,
        .hidden = desc->hidden,
        .x = f->normed,
        .pair_count = n * desc->top_k,
        .pairs = f->pairs,
        .step = f->source->step,
    };
    if (f->watch.routed) f->watch.routed(f->watch.arg, layer_index);
    TC_TRY(f->source->ops->post(f->source, &call, e));
    if (f->looks_ahead) tc_forward_expect(f, layer_index + 1, n);
    if (desc->shared_width) {
        if (!f->source->ops->in_process) run_gate_up(f, &layer->mlp, n);
        run_down(f, &layer->mlp, n, f->shared);
    }
    tc_forward_expert_bias(f, layer, layer_index, n);
    tc_status status = f->source->ops->join(f->source, f->sum, e);
    if (status != TC_OK) return status;
    const float *gate, *beside = tc_forward_beside(f, &gate);
    f->dev->ops->combine(f->dev, f->x, f->sum, beside, gate, 1, n, desc->hidden, next_norm, f->normed);
    uint64_t end = tc_stage_now_us();
    f->times.expert_us += end - routed;
    if (tc_trace_on) {
        tc_trace_span("router", start, routed, "\"layer\":%u", layer_index);
        tc_trace_span("experts", routed, end, "\"layer\":%u", layer_index);
    }
    return TC_OK;
}
