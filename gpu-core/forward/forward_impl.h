// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of gpu-core/forward share: the scratch buffers of a pass. Refuses: to be included
// elsewhere.
#pragma once

#include "gpu-core/forward/forward.h"

// Rows are tokens of the batch. Buffers that are never alive together still have their own memory: scratch is
// small beside the weights, and reading the code is worth more.
struct tc_forward {
    tc_weights *weights;
    const tc_model_desc *desc;
    tc_dev *dev;
    tc_expert_source *source;
    tc_precision precision;
    tc_forward_times times;
    float *x, *normed; // [hidden]
    float *wide;       // attention: q and gates; delta: qkvz
    float *k, *v, *ba; // attention; delta
    float *latent_q, *latent,
        *latent_out;        // latent attention: [q_rank], [heads * (kv_rank + rotary)], [heads * kv_rank]
    float *mixed;           // [heads * head_dim] or [value_heads * value_dim]
    float *projected;       // [hidden]
    float *router;          // [experts]
    float *shared_gate;     // [1]
    uint32_t *expert;       // [top_k]
    float *weight;          // [top_k]
    uint32_t *expected;     // [top_k] of the layer to come; two of them by turns where the device looks ahead
    float *next_router;     // [experts] its logits there
    float *expected_weight; // [top_k]
    uint32_t *counts;
    tc_expert_pair *pairs;
    int64_t *sum;              // [hidden]
    float *gate, *up, *shared; // [dense or shared width]; [hidden]
    float *logits_in, *logits;
    tc_forward_watch watch; // routed NULL: nobody watches
    bool looks_ahead;       // in this pass
    bool device_ahead;      // the device does, in this pass
    // Devices that only queue (queued.c): the host's copies, and whether they get their experts by themselves
    bool by_device;
    float *host_x, *host_weight, *host_logits;
    uint32_t *host_expert, *host_counts;
    tc_expert_pair *host_pairs;
    int64_t *host_sum;
    tc_forward_force_fn *force; // NULL: routers decide
    uint32_t *forced;           // what it said
    void *force_arg;
    uint64_t break_in; // fault tests: passes until the device is taken for failed; 0: never
    bool break_in_head, broken;
};

// One entry a scratch buffer: where its pointer lies and how many bytes it has.
typedef struct tc_scratch_size {
    size_t offset, bytes;
} tc_scratch_size;

enum { TC_SCRATCH_BUFFERS = 26 };

// Of batches of n tokens (sizes.c). Returns how many.
uint32_t tc_forward_list_scratch(const tc_model_desc *desc, size_t n,
                                 tc_scratch_size ret[TC_SCRATCH_BUFFERS]);

// Experts of a layer: of the pass's own place where they are looked at after the pass only.
static inline uint32_t *tc_forward_experts(const tc_forward *f, uint32_t layer, uint32_t n)
{
    return f->expert + (f->dev->queue ? (size_t)layer * n * f->desc->top_k : 0);
}

void tc_forward_attention(tc_forward *f, const tc_layer_weights *layer, uint32_t n);
void tc_forward_delta(tc_forward *f, const tc_layer_weights *layer, uint32_t n);
// Adds the MLP of the layer (one of weights->layer) to x, and norms x for the next one. chosen: see
// tc_forward_run, already at this layer's place, stride layers * top_k.
// Attention or DeltaNet, its add and norm: the first half of a layer.
void tc_forward_mix(tc_forward *f, uint32_t index, uint32_t n);
// The MLP on a device that only queues.
tc_status tc_forward_mlp_queued(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index,
                                uint32_t n, tc_error *e);
// What goes with a layer's routed experts: the shared expert's output or the experts' biases (NULL: neither),
// and what it is multiplied by (NULL: 1).
static inline const float *tc_forward_beside(const tc_forward *f, const float **ret_gate)
{
    *ret_gate = f->desc->shared_gate ? f->shared_gate : NULL;
    return f->desc->shared_width || f->desc->expert_bias ? f->shared : NULL;
}
void tc_forward_expert_bias(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n);
// The layer behind this one whose router is asked early for the device's sake; NULL: none is.
const tc_layer_weights *tc_forward_next(const tc_forward *f, uint32_t index);
// aside: the shared expert is computed already, or beside this.
void tc_forward_route(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n,
                      bool aside);
// All of the shared expert beside what follows; false: the device does not do that.
bool tc_forward_shared_aside(tc_forward *f, const tc_mlp *mlp, uint32_t n);
// Tells the watch what the layer's router says of the tokens as they are now.
void tc_forward_expect(tc_forward *f, uint32_t layer, uint32_t n);
// The dense MLP, and the second half of the shared expert (route did the first), into f->shared.
void tc_forward_dense(tc_forward *f, const tc_mlp *mlp, uint32_t n);
void tc_forward_shared_down(tc_forward *f, const tc_mlp *mlp, uint32_t n);
tc_status tc_forward_queued_create(tc_forward *f, tc_error *e);
void tc_forward_queued_free(tc_forward *f);
tc_status tc_forward_run_queued(tc_forward *f, const tc_batch *batch, int32_t *chosen, tc_error *e);
tc_status tc_forward_mlp(tc_forward *f, const tc_layer_weights *layer, uint32_t layer_index, uint32_t n,
                         int32_t *chosen, tc_error *e);
