// SPDX-License-Identifier: Apache-2.0
// Owns: one forward pass of a batch through all layers: embed -> [norm -> attention | delta -> norm -> router
// -> experts] x layers -> head. One file an operator group; this is the order in which to read them. Refuses:
// choosing what runs (sched), sampling policy (sample.h).
#pragma once

#include "gpu-core/experts/source.h"
#include "gpu-core/forward/weights.h"

enum { TC_LOGIT_ROWS_MAX = 64 };

// Time by stage since creation, and the experts read: one a (step, layer, expert) however many tokens chose
// it.
typedef struct tc_forward_times {
    uint64_t attention_us, router_us, expert_us, head_us;
    uint64_t expert_reads;
    uint64_t experts_fetched; // of them, by a device that read cold ones by itself for one step
    uint64_t ahead_pairs;     // of experts that it had read a layer ahead
    uint64_t device_us; // whole passes of a device that only queues; the stages are not told apart there
    uint64_t join_us;   // of them, waiting for workers
    uint64_t resumed;   // passes that went on through the source after a join had failed
} tc_forward_times;

typedef struct tc_forward tc_forward;

// Who looks at routes while a pass runs, on a device whose operators are done when they return.
typedef struct tc_forward_watch {
    void *arg;
    bool (*begins)(void *arg, uint32_t tokens); // a pass; whether it is to look ahead
    // The layer's routes are known; of its experts nothing was asked of the source yet.
    void (*routed)(void *arg, uint32_t layer);
    // What the router of `layer` says of every token's state before the MLP of the layer before it (of the
    // first: of its embedding): [n][top_k]. routed(layer) comes later. While looking ahead only.
    void (*expects)(void *arg, uint32_t layer, uint32_t n, const uint32_t *experts);
} tc_forward_watch;

// Scratch for batches of dev->tokens_max tokens, allocated here; a pass allocates nothing.
tc_status tc_forward_create(tc_weights *weights, tc_dev *dev, tc_expert_source *source,
                            tc_precision precision, tc_forward **ret, tc_error *e);
void tc_forward_free(tc_forward *forward);
// Of the device, for batches of `tokens`.
uint64_t tc_forward_scratch_bytes(const tc_model_desc *desc, uint32_t tokens);
// Of the host, beside a device that only queues.
uint64_t tc_forward_host_bytes(const tc_model_desc *desc, uint32_t tokens);

// Runs the batch. `chosen` (may be NULL): [tokens][layers][top_k] experts of each token, -1 where a layer has
// none.
tc_status tc_forward_run(tc_forward *forward, const tc_batch *batch, int32_t *chosen, tc_error *e);
// Logits of `rows` tokens of the batch last run (their indices in it), rows <= TC_LOGIT_ROWS_MAX.
// Returns [rows][vocab], valid until the next call. NULL: the device failed.
const float *tc_forward_logits(tc_forward *forward, const uint32_t *tokens, uint32_t rows);
// The same without bringing the rows to the host: what draws at these temperatures need of them. False: the
// device failed; nothing is known.
bool tc_forward_few(tc_forward *forward, const uint32_t *tokens, uint32_t rows, const float *temperature,
                    tc_few *ret);
// One of those rows after all; valid until the head is asked again. NULL: the device failed.
const float *tc_forward_row(tc_forward *forward, uint32_t row);
// Benchmarks, on such a device: before each pass `fill` says which experts every token is routed to, whatever
// the router says: [layers][tokens][top_k], distinct in a token; and behind them, as many again, what was
// expected of each layer.
typedef void tc_forward_force_fn(void *arg, uint32_t *experts, uint32_t tokens);
tc_status tc_forward_force(tc_forward *forward, tc_forward_force_fn *fill, void *arg, tc_error *e);
// Whether the device still works (tc_dev_ops.check). Once it does not, passes fail with TC_CLOSED and this
// text, and only a new process helps.
#define TC_FORWARD_DEVICE_FAILED "the device failed while it was generating; try again"
tc_status tc_forward_check(tc_forward *forward, tc_error *e);
// Fault tests: the device fails in its passes-th pass, or behind the layers of that one, in the head.
void tc_forward_break(tc_forward *forward, uint64_t passes, bool in_head);
// False: the device queues its work, nobody can look. watch is copied.
bool tc_forward_watched(tc_forward *forward, const tc_forward_watch *watch);
const tc_forward_times *tc_forward_get_times(const tc_forward *forward);
