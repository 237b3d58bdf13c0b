// SPDX-License-Identifier: Apache-2.0
// Owns: the device interface: the operators of a forward pass over one batch of tokens. `cpu` implements it
// in plain C and is the oracle; any other device is held to the same contract tests. Refuses: to know layers,
// sessions or scheduling. It sees buffers, a batch description and weights.
//
// Buffers are float32, row-major, one row a token of the batch, in device memory (tc_dev_alloc). A token's
// result never depends on the other tokens of its batch, only on its own session's past.
#pragma once

#include "common/base/mem.h"
#include "common/kernels/kernels.h"

enum {
    TC_KV_PAGE_POSITIONS = 64,
    TC_BATCH_TOKENS_MAX = 2048, // of the cpu device; tc_dev.tokens_max says what a device takes
    TC_STEP_TOKENS_MAX = 8192,  // of any device
    TC_BATCH_SEGMENTS_MAX = 64,
    TC_AHEAD_TOKENS_MAX = 8, // of a batch that is looked ahead for
    TC_MATMUL_JOBS_MAX = 8,
    TC_KEEPS_MAX = 2, // of a segment
};

// Where the recurrent state goes, too: what it is behind the first `after` tokens of its segment.
typedef struct tc_keep {
    uint32_t after, slot; // after: fewer than the segment has; 0: none
} tc_keep;

// A run of consecutive tokens of one session. Page i holds positions [64 i, 64 i + 64).
typedef struct tc_segment {
    uint32_t first;        // index of its first token in the batch
    uint32_t tokens;       // >= 1
    uint32_t position;     // of its first token in the session
    const uint32_t *pages; // page numbers in the KV pool, enough for position + tokens
    uint32_t slot;         // recurrent-state slot
    // By rising `after`, none behind one that is none. Their slots are nobody's in this batch.
    tc_keep keep[TC_KEEPS_MAX];
} tc_segment;

typedef struct tc_batch {
    uint32_t tokens, segments;
    const uint32_t *ids;      // [tokens]
    const uint32_t *position; // [tokens] position in its session
    const uint32_t *segment;  // [tokens] index of its segment
    const tc_segment *segment_list;
    uint64_t step; // the scheduler's number of it, for logs and traces
} tc_batch;

// How keys and values are kept. F16 saturates at +-65504 and is converted where it is read.
typedef enum tc_kv_type { TC_KV_F32, TC_KV_F16 } tc_kv_type;

// Geometry fixed for the life of the device.
typedef struct tc_dev_geometry {
    uint32_t heads, kv_heads, head_dim, rotary_dim, kv_layers; // kv_layers: full-attention layers
    uint32_t rotary_at;                                        // first dimension of a head that is rotated
    tc_kv_type kv_type;
    tc_rope rope;
    float attn_scale; // of the scores; 0: 1 / sqrt(head_dim)
    // Latent keys: the first value_dim dimensions of a key are its value, too, and nothing else is kept of a
    // position. k_norm is over them, with latent_eps. 0: values are their own, of head_dim.
    uint32_t value_dim;
    float latent_eps;
    uint32_t dn_key_heads, dn_value_heads, dn_key_dim, dn_value_dim, dn_conv, dn_layers;
    float rms_eps;
    uint32_t matmul_cols_max; // widest input of a matrix
    uint32_t positions_max;   // longest session
    uint32_t pages;           // KV pool
    uint32_t slots;           // recurrent-state slots
    uint32_t spare_slots;     // the last of them, which are no session's: for states that are kept
    // Of a batch of the cpu device, TC_BATCH_SEGMENTS_MAX..TC_BATCH_TOKENS_MAX; 0: that.
    uint32_t tokens_max;
} tc_dev_geometry;

typedef struct tc_dev tc_dev;
typedef struct tc_lent_mailbox tc_lent_mailbox; // experts/source.h

// y = W x (+ bias) for every token. y is [tokens][ldy]; rows of W go to columns [0, rows).
typedef struct tc_matmul_job {
    const tc_matrix *w;
    const float *x;
    uint32_t ldx;
    float *y;
    uint32_t ldy;
    const float *bias; // [rows] or NULL
    const float *up;   // devices that queue: the input is silu(x) * up, as x; NULL: x
} tc_matmul_job;

typedef struct tc_attention_args {
    uint32_t kv_layer;            // index among full-attention layers
    float *q;                     // [n][heads][gated ? 2 head_dim : head_dim]: q, then gate; changed in place
    float *k, *v;                 // [n][kv_heads][head_dim]; k changed in place
    const float *q_norm, *k_norm; // [head_dim] multipliers, or NULL: no norm
    bool gated;
    float clip;         // what is normed is then cut to +- clip, v too; 0: not
    uint32_t window;    // positions a token sees, its own included; 0: all
    const float *sinks; // [heads] logits beside the scores that have no value, or NULL
    float *out;         // [n][heads][head_dim, or value_dim]
} tc_attention_args;

// One matrix a head: y[t][h] = W_h x[t][h], then y[t][h][rows ..] = x[t][h][cols ..] for `copied` more.
typedef struct tc_heads_args {
    const tc_matrix *w; // [heads * rows][cols], rows % 16 == 0; not TC_M_Q4, not TC_M_Q8
    uint32_t heads, rows, copied;
    const float *x;
    uint32_t ldx, head_x; // floats from token to token, from head to head
    float *y;
    uint32_t ldy, head_y;
} tc_heads_args;

typedef struct tc_route_args {
    const float *logits; // [n][experts]
    uint32_t n, experts, top_k;
    tc_scoring scoring;
    bool renormalise;            // chosen weights are divided by their sum (sigmoid: + 1e-20)
    const float *correction;     // [experts] added to the sigmoids for the choice, or NULL
    uint32_t groups, top_groups; // sigmoid: the top_groups groups whose two best sum highest; 0: all
    float scale;                 // of the weights
    uint32_t *expert;            // [n][top_k] in falling order of what was chosen by
    float *weight;
    // Devices that look ahead (tc_dev_queue_ops.ahead_tokens): the next layer's router on the same tokens,
    // and what it would choose; logits NULL: not. What the last layer's route expected of this one, or NULL.
    const float *next_logits, *next_correction;
    uint32_t *next_expert;
    const uint32_t *guess;
    uint32_t layer;
} tc_route_args;

// Where a key head's numbers lie in a row: its first, and floats to the next key head's.
typedef struct tc_span_at {
    uint32_t first, step;
} tc_span_at;

typedef struct tc_delta_args {
    uint32_t dn_layer; // index among DeltaNet layers
    const float *qkvz; // [n][2 key_heads dk + 2 value_heads dv]
    const float *ba;   // [n][2 value_heads]
    tc_span_at q, k, v,
        z; // in a row of qkvz: dk, dk, r*dv, r*dv numbers of a key head, r = value heads / key heads
    tc_span_at b, a;        // in a row of ba: r numbers each
    const float *conv;      // [conv][channels], taps oldest first; channels: all q, all k, all v
    const float *neg_exp_a; // [value_heads] -exp(A_log)
    const float *dt_bias;   // [value_heads]
    const float *norm;      // [value_dim]
    float *out;             // [n][value_heads][value_dim]
} tc_delta_args;

// Rows as [key_heads][q | k | v | z] and [key_heads][b | a], or, flat, as [q | k | v | z] and [b | a] each
// over all heads.
void tc_delta_spans(const tc_dev_geometry *geometry, bool flat, tc_delta_args *ret);

// What a draw needs of a row of logits.
enum { TC_FEW_MAX = 1024, TC_FEW_ROWS_MAX = 64 };
typedef struct tc_few_token {
    float logit;
    uint32_t id;
} tc_few_token;
typedef struct tc_few {
    uint32_t best; // token of the largest logit, the first of equal ones; and how far the next is behind
    float gap, max;
    double sum;     // of all weights e^((logit - max) / temperature); 0 where that is not above 0
    uint32_t count; // <= TC_FEW_MAX tokens, in any order, whose logits are above those of all others; 0 where
                    // too many are alike, or nothing is to be drawn
    const tc_few_token *token;
} tc_few;

typedef struct tc_dev_ops {
    const char *name;
    void (*free)(tc_dev *dev);
    void *(*alloc)(tc_dev *dev, tc_mem_tag tag, size_t bytes); // zeroed; NULL: out of memory
    void (*release)(tc_dev *dev, void *block);
    // Packs a weight into device memory. Owner of ret->data: the caller, release().
    // form: what tc_matrix_pack may be asked for; NULL: as it can be kept without losing a bit.
    tc_status (*matrix)(tc_dev *dev, const tc_weight *weight, const tc_matrix_form *form, tc_matrix *ret,
                        tc_error *e);
    // The same for one of which single rows are read (embed): where its memory is nobody else's business.
    // NULL: `matrix` serves.
    tc_status (*table)(tc_dev *dev, const tc_weight *weight, tc_matrix *ret, tc_error *e);
    // Copies to and from the device's memory, after everything asked of it before; they return when it is
    // done.
    void (*upload)(tc_dev *dev, void *to, const void *host, size_t bytes);
    void (*download)(tc_dev *dev, void *host, const void *from, size_t bytes);
    void (*slot_reset)(tc_dev *dev, uint32_t slot);
    // Fails for good once the device has failed: nothing it computed since can be believed. NULL: it cannot.
    tc_status (*check)(tc_dev *dev, tc_error *e);

    // What is kept of a session: whole KV pages (tc_dev_page_bytes) and recurrent states (tc_dev_slot_bytes),
    // copied inside the device or to and from host memory, bit for bit. Between batches only.
    void (*page_copy)(tc_dev *dev, uint32_t from, uint32_t to);
    void (*page_save)(tc_dev *dev, uint32_t page, void *host);
    void (*page_load)(tc_dev *dev, uint32_t page, const void *host);
    void (*slot_copy)(tc_dev *dev, uint32_t from, uint32_t to);
    void (*slot_save)(tc_dev *dev, uint32_t slot, void *host);
    void (*slot_load)(tc_dev *dev, uint32_t slot, const void *host);
    // Memory behind the first `pages` pages, as the device cuts it, and none behind what follows: pages that
    // come are zeroed, those that go hold nothing anybody needs. Returns how many have memory now, fewer than
    // asked where there is no room. Between batches only. All of them have until this is called; NULL:
    // always.
    uint32_t (*pages_back)(tc_dev *dev, uint32_t pages);

    // Operators on the batch last given to batch_begin.
    void (*batch_begin)(tc_dev *dev, const tc_batch *batch);
    void (*embed)(tc_dev *dev, const tc_matrix *table, float *x, uint32_t ldx);
    void (*rmsnorm)(tc_dev *dev, const float *x, const float *multiplier, uint32_t n, uint32_t dim, float eps,
                    float *y); // y may be x
    void (*matmul)(tc_dev *dev, const tc_matmul_job *jobs, uint32_t count, uint32_t n);
    void (*attention)(tc_dev *dev, const tc_attention_args *args);
    void (*delta)(tc_dev *dev, const tc_delta_args *args);
    void (*heads)(tc_dev *dev, const tc_heads_args *args, uint32_t n);
    // The top_k experts of each token, and their weights.
    void (*route)(tc_dev *dev, const tc_route_args *args);
    // out[t] = sum over k of weight[t][k] * bias[expert[t][k]]; bias [experts][dim]
    void (*expert_bias)(tc_dev *dev, const float *bias, const uint32_t *expert, const float *weight,
                        uint32_t n, uint32_t top_k, uint32_t dim, float *out);
    void (*silu_mul)(tc_dev *dev, const float *gate, const float *up, uint32_t n, uint32_t dim, float *out);
    // x += y, then normed = rmsnorm(x) where `norm`, the multiplier, is not NULL
    void (*add)(tc_dev *dev, float *x, const float *y, uint32_t n, uint32_t dim, const float *norm,
                float *normed);
    // x += sum (fixed point; NULL: none) + sigmoid(shared_gate[t * ld_gate]) * shared (NULL: none), then as
    // add; shared_gate NULL: shared as it is
    void (*combine)(tc_dev *dev, float *x, const int64_t *sum, const float *shared, const float *shared_gate,
                    uint32_t ld_gate, uint32_t n, uint32_t dim, const float *norm, float *normed);
    // What draws at these temperatures need of rows of logits, rows <= TC_FEW_ROWS_MAX; waits for it. The
    // tokens are valid until the next call.
    void (*few)(tc_dev *dev, const float *logits, uint32_t rows, uint32_t vocab, const float *temperature,
                tc_few *ret);
} tc_dev_ops;

// What looking ahead came to, since creation: pairs expected and those that came true, experts that lay there
// before their layer was looked up and those of them that were used, and the pairs they served.
typedef struct tc_ahead_stats {
    uint64_t expected, expected_true, fills, used, pairs;
} tc_ahead_stats;

// Of a device whose operators only queue work: how a pass over the layers is recorded, replayed and waited
// for, and how it gets its routed experts without the host. NULL where operators are done when they return.
typedef struct tc_dev_queue_ops {
    // After batch_begin and embed: true when a pass recorded earlier was queued for this batch. Else the
    // operators that follow, up to record_end, may be recorded for batches of the same shape.
    bool (*replay)(tc_dev *dev);
    void (*record_end)(tc_dev *dev);
    // Waits for all that was queued. ret_layer: the layer whose experts were not answered (everything before
    // its combine is done, nothing after it changed any state), UINT32_MAX: none. Fails when the device did.
    // turn: called each millisecond of the wait; may be NULL.
    tc_status (*wait)(tc_dev *dev, void (*turn)(void *arg), void *arg, uint32_t *ret_layer, tc_error *e);
    uint64_t (*join_us)(
        tc_dev *dev); // spent waiting for workers' answers, since creation, as of the last wait
    uint64_t (*fetched)(tc_dev *dev); // cold experts it read for one step by itself, since creation, as above
    uint64_t (*ahead_pairs)(tc_dev *dev); // pairs of experts it had read a layer ahead, as above
    // Host memory that copies to and from the device run fastest with. NULL: out of memory.
    void *(*host_alloc)(tc_dev *dev, size_t bytes);
    void (*host_release)(tc_dev *dev, void *memory); // NULL is legal

    // Whose mailboxes the cold experts of this batch go to. count 0: to nobody. Returns false when it cannot
    // compute this batch's routed experts by itself: the caller asks the expert source then.
    bool (*experts_begin)(tc_dev *dev, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence);
    // What is queued between aside(true) and aside(false) may run beside what follows, up to the next
    // combine. False: the device does not want that in this pass, and nothing has begun.
    bool (*aside)(tc_dev *dev, bool begins);
    // Of this pass: batches up to so many tokens tell the device what the next layer's router says one layer
    // early, so that it can fetch cold experts meanwhile. 0: it does not want to know.
    uint32_t (*ahead_tokens)(tc_dev *dev);
    // The next add norms its sum by this multiplier too.
    void (*also_norm)(tc_dev *dev, const float *multiplier, float *normed);
    // Queues a layer's experts: hot ones out of device memory, the rest in the mailboxes or streamed. The
    // next combine waits for them; its sum is the one given here. What route expected of layer + 1 is fetched
    // beside what follows.
    void (*experts)(tc_dev *dev, uint32_t layer, const float *x, uint32_t n, const uint32_t *expert,
                    const float *weight, int64_t *sum);
    // Prompts of which workers take a share, chosen when a layer's routes are known. Tokens of a batch for
    // which mailboxes are of use, where that is more than TC_QUEUED_TOKENS_MAX; 0: not so. Right
    // behind `experts`, whose scratch it goes on using: waits for the routes, posts the workers'
    // part, queues the rest and waits for the answers; at once where nothing is shared. What workers do not
    // answer is queued too, so this cannot fail. stands: called each millisecond of both waits; false: a
    // mailbox's memory may be gone. And how many experts workers have computed so, since creation.
    uint32_t (*lent_tokens)(tc_dev *dev);
    void (*experts_deal)(tc_dev *dev, bool (*stands)(void *arg), void *arg);
    uint64_t (*given)(tc_dev *dev);
    // Benchmarks: every route takes these experts [layers][tokens][top_k] instead of the largest, and expects
    // those that follow as many numbers later; NULL: none. count: of one of the two.
    void (*force_routes)(tc_dev *dev, const uint32_t *expert, size_t count);
} tc_dev_queue_ops;

struct tc_dev {
    const tc_dev_ops *ops;
    const tc_dev_queue_ops *queue; // NULL: operators are done when they return
    tc_dev_geometry geometry;
    uint32_t tokens_max; // of a batch
};

typedef struct tc_team tc_team;

// KV pool, state slots and scratch are taken here; TC_NOMEM/TC_BUDGET when they do not fit.
// team: borrowed, outlives the device.
tc_status tc_dev_cpu_create(const tc_dev_geometry *geometry, tc_team *team, const tc_kernels *kernels,
                            tc_dev **ret, tc_error *e);
void tc_dev_free(tc_dev *dev); // NULL is legal

// Bytes that a device with this geometry takes for the KV pool (a page), for recurrent states (a slot), and
// for its own scratch with a team of `threads`.
uint64_t tc_dev_page_bytes(const tc_dev_geometry *geometry);
uint64_t tc_dev_slot_bytes(const tc_dev_geometry *geometry);
uint32_t tc_dev_value_dim(const tc_dev_geometry *geometry);  // of a head's output
size_t tc_dev_state_floats(const tc_dev_geometry *geometry); // of a slot's DeltaNet layer
uint64_t tc_dev_scratch_bytes(const tc_dev_geometry *geometry, uint32_t threads);
