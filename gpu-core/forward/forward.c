// SPDX-License-Identifier: Apache-2.0
// Owns: the loop over layers, and the head.
#include "common/base/clock.h"
#include "common/base/trace.h"
#include "gpu-core/forward/forward_impl.h"

#include <string.h>

static void **slot_of(tc_forward *f, const tc_scratch_size *size)
{
    return (void **)((char *)f + size->offset);
}

tc_status tc_forward_create(tc_weights *weights, tc_dev *dev, tc_expert_source *source,
                            tc_precision precision, tc_forward **ret, tc_error *e)
{
    tc_scratch_size sizes[TC_SCRATCH_BUFFERS];
    tc_forward *f = tc_alloc(TC_MEM_OTHER, 1, sizeof *f);
    if (!f) return tc_fail(e, TC_NOMEM, "out of memory for the forward pass");
    f->weights = weights;
    f->desc = weights->desc;
    f->dev = dev;
    f->source = source;
    f->precision = precision;
    for (uint32_t i = 0, n = tc_forward_list_scratch(f->desc, f->dev->tokens_max, sizes); i < n; i++) {
        void *block = dev->ops->alloc(dev, TC_MEM_SCRATCH, sizes[i].bytes);
        if (!block) {
            tc_forward_free(f);
            return tc_fail(e, TC_NOMEM, "out of memory for scratch: %zu bytes", sizes[i].bytes);
        }
        *slot_of(f, &sizes[i]) = block;
    }
    tc_status status = dev->queue ? tc_forward_queued_create(f, e) : TC_OK;
    if (status != TC_OK) {
        tc_forward_free(f);
        return status;
    }
    *ret = f;
    return TC_OK;
}

void tc_forward_free(tc_forward *f)
{
    if (!f) return;
    if (f->dev->queue) tc_forward_queued_free(f);
    tc_scratch_size sizes[TC_SCRATCH_BUFFERS];
    for (uint32_t i = 0, n = tc_forward_list_scratch(f->desc, f->dev->tokens_max, sizes); i < n; i++)
        f->dev->ops->release(f->dev, *slot_of(f, &sizes[i]));
    tc_free(f);
}

// f->normed holds the layer's normed input: from the layer before, or, for the first, from here.
void tc_forward_mix(tc_forward *f, uint32_t index, uint32_t n)
{
    const tc_layer_weights *layer = &f->weights->layer[index];
    const tc_dev_ops *ops = f->dev->ops;
    uint32_t hidden = f->desc->hidden;
    if (index == 0) ops->rmsnorm(f->dev, f->x, layer->input_norm, n, hidden, f->desc->rms_eps, f->normed);
    if (layer->kind == TC_LAYER_DELTA)
        tc_forward_delta(f, layer, n);
    else
        tc_forward_attention(f, layer, n);
    const tc_layer_weights *next = tc_forward_next(f, index); // its norm into what the add has read
    if (next) f->dev->queue->also_norm(f->dev, next->post_norm, f->projected);
    ops->add(f->dev, f->x, f->projected, n, hidden, layer->post_norm, f->normed);
}

static tc_status run_layer(tc_forward *f, uint32_t index, uint32_t n, int32_t *chosen, tc_error *e)
{
    uint64_t start = tc_stage_now_us();
    tc_forward_mix(f, index, n);
    uint64_t end = tc_stage_now_us();
    f->times.attention_us += end - start;
    if (tc_trace_on) tc_trace_span("attention", start, end, "\"layer\":%u", index);
    return tc_forward_mlp(f, &f->weights->layer[index], index, n, chosen, e);
}

tc_status tc_forward_check(tc_forward *f, tc_error *e)
{
    if (f->broken) return tc_fail(e, TC_CLOSED, "%s: a fault test broke it", f->dev->ops->name);
    return f->dev->ops->check ? f->dev->ops->check(f->dev, e) : TC_OK;
}

void tc_forward_break(tc_forward *f, uint64_t passes, bool in_head)
{
    f->break_in = passes;
    f->break_in_head = in_head;
}

static tc_status run_pass(tc_forward *f, const tc_batch *batch, int32_t *chosen, tc_error *e)
{
    if (f->dev->queue) return tc_forward_run_queued(f, batch, chosen, e);
    f->dev->ops->batch_begin(f->dev, batch);
    f->dev->ops->embed(f->dev, &f->weights->embed, f->x, f->desc->hidden);
    f->looks_ahead = f->watch.routed && f->watch.begins(f->watch.arg, batch->tokens);
    if (f->looks_ahead) tc_forward_expect(f, 0, batch->tokens);
    for (uint32_t i = 0; i < f->desc->layers; i++)
        TC_TRY(run_layer(f, i, batch->tokens, chosen ? chosen + (size_t)i * f->desc->top_k : NULL, e));
    return TC_OK;
}

tc_status tc_forward_run(tc_forward *f, const tc_batch *batch, int32_t *chosen, tc_error *e)
{
    bool breaks = f->break_in && --f->break_in == 0;
    f->source->step = batch->step;
    tc_status status = run_pass(f, batch, chosen, e);
    if (breaks && !f->break_in_head) f->broken = true;
    if (tc_forward_check(f, NULL) != TC_OK) status = tc_fail(e, TC_CLOSED, TC_FORWARD_DEVICE_FAILED);
    f->broken |= breaks;
    return status;
}

_Static_assert((int)TC_FEW_ROWS_MAX >= (int)TC_LOGIT_ROWS_MAX, "all rows of a head");

static void run_head(tc_forward *f, const uint32_t *tokens, uint32_t rows)
{
    uint32_t hidden = f->desc->hidden;
    for (uint32_t r = 0; r < rows; r++)
        f->dev->ops->rmsnorm(f->dev, f->x + (size_t)tokens[r] * hidden, f->weights->final_norm, 1, hidden,
                             f->desc->rms_eps, f->logits_in + (size_t)r * hidden);
    const tc_matmul_job job = {&f->weights->head, f->logits_in, hidden, f->logits, f->desc->vocab, NULL};
    f->dev->ops->matmul(f->dev, &job, 1, rows);
}

const float *tc_forward_logits(tc_forward *f, const uint32_t *tokens, uint32_t rows)
{
    uint64_t start = tc_stage_now_us();
    run_head(f, tokens, rows);
    if (f->host_logits)
        f->dev->ops->download(f->dev, f->host_logits, f->logits,
                              (size_t)rows * f->desc->vocab * sizeof(float));
    f->times.head_us += tc_stage_now_us() - start;
    if (tc_forward_check(f, NULL) != TC_OK) return NULL;
    return f->host_logits ? f->host_logits : f->logits;
}

bool tc_forward_few(tc_forward *f, const uint32_t *tokens, uint32_t rows, const float *temperature,
                    tc_few *ret)
{
    uint64_t start = tc_stage_now_us();
    run_head(f, tokens, rows);
    f->dev->ops->few(f->dev, f->logits, rows, f->desc->vocab, temperature, ret);
    f->times.head_us += tc_stage_now_us() - start;
    return tc_forward_check(f, NULL) == TC_OK;
}

const float *tc_forward_row(tc_forward *f, uint32_t row)
{
    const size_t vocab = f->desc->vocab;
    uint64_t start = tc_stage_now_us();
    if (!f->host_logits) return f->logits + row * vocab;
    f->dev->ops->download(f->dev, f->host_logits + row * vocab, f->logits + row * vocab,
                          vocab * sizeof(float));
    f->times.head_us += tc_stage_now_us() - start;
    return tc_forward_check(f, NULL) == TC_OK ? f->host_logits + row * vocab : NULL;
}

bool tc_forward_watched(tc_forward *f, const tc_forward_watch *watch)
{
    if (f->dev->queue) return false;
    f->watch = *watch;
    return true;
}

const tc_forward_times *tc_forward_get_times(const tc_forward *f)
{
    return &f->times;
}
