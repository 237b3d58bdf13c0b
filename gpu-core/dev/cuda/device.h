// SPDX-License-Identifier: Apache-2.0
// Owns: what the host files of the cuda device share. Refuses: to be included outside gpu-core/dev/cuda.
#pragma once

#include "gpu-core/dev/cuda/cuda.h"
#include "gpu-core/dev/cuda/sizes.h"
#include "gpu-core/dev/prompt_call.h"
#include "gpu-core/dev/prompt_share.h"
#include "gpu-core/dev/prompt_way.h"
#include "gpu-core/dev/share.h"
#include "gpu-core/experts/source.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

enum {
    GRAPHS = TC_BATCH_SEGMENTS_MAX + 1,
    SLOT_PARTS = 8, // in which the slots of hot experts are given back
    STAGES = TC_CUDA_STAGES,
    STAGE_EXPERTS = TC_CUDA_STAGE_EXPERTS,
    FILLS = 256,      // fills under way
    STREAM_FROM = 65, // tokens of a batch from which cold experts are streamed, where they cannot be shared
    GROUP_FROM = 65,  // tokens from which pairs are sorted by expert
    RESERVE_BYTES = TC_CUDA_RESERVE_BYTES,
};

typedef struct expert_range { // one layer's bytes in one place of the store
    const uint8_t *base;
    size_t bytes;
    bool registered;
} expert_range;

// Cold experts that the card fetches itself (link.c).
enum { LINK_CLASSES = 9 };

typedef struct link_share {
    const uint8_t **from, **from_dev;   // [layers][experts] in host memory
    bool on, known;                     // wanted, and the table is with the device
    tc_share_rates rates[LINK_CLASSES]; // by log2 of a batch's tokens
    uint8_t quota[LINK_CLASSES][TC_SHARE_QUOTAS], *quota_dev;
    bool dirty;
    tc_gpu_sums sums; // up to the last batch
    tc_gpu_fetch_list *list;
    const uint8_t **at;
    // looking ahead
    bool ahead_on;
    tc_gpu_ahead *ahead; // [layers]
    cudaStream_t beside;
    uint64_t *bytes_dev; // [layers]
    cudaEvent_t fork, join;
} link_share;

typedef struct hot_experts {
    const tc_store *store;
    const tc_store_info *info;
    tc_gpu_expert_layout *layout; // [layers]
    uint8_t *slots[SLOT_PARTS];   // part_slots each; NULL: given back
    uint64_t slot_bytes;
    uint32_t slot_count, part_slots;    // slot_count: of all parts
    const uint8_t **place, **place_dev; // [layers][experts]
    uint32_t *placed;                   // [layers] how many are hot
    uint8_t *dirty;                     // [layers]
    bool any_dirty;
    // registration, in a thread of its own
    expert_range *ranges;
    uint32_t range_count;
    pthread_t thread;
    bool thread_on;
    _Atomic bool settled, failed, stop;
    // fills under way, first in first out
    cudaStream_t copies;
    cudaEvent_t fill_event[FILLS];
    uint32_t fill_slot[FILLS], fill_head, fill_tail;
    // streaming
    uint8_t *stage; // STAGES of them, each of STAGE_EXPERTS
    cudaEvent_t stage_full[STAGES], stage_free[STAGES];
    uint32_t next_stage;
    tc_gpu_pairs pairs;
    uint8_t *h_rounded;
    float *h_scale;
    link_share link;
} hot_experts;

// The workers' share of a prompt (prompt.c).
enum { PROMPT_CLASSES = 5, PROMPT_AHEAD = STAGES / 2 };

typedef struct staged_chunk { // experts on their way to a staging buffer, or there
    uint32_t stage, first, count;
    bool any;
} staged_chunk;

typedef struct prompt_share {
    bool there; // what follows was opened
    // of this pass
    bool on, gave_up;
    tc_lent_mailbox box[TC_LENT_MAX];
    uint32_t boxes, class;
    uint64_t sequence;
    uint32_t ahead_layer, ahead_count; // whose first experts are on their way; UINT32_MAX: nobody's
    staged_chunk ahead[PROMPT_AHEAD];
    bool timed, timed_copies; // the events of the layer before were recorded
    uint32_t copied;
    double units, compute_us; // of the layer before
    // of this layer
    uint32_t layer;
    bool asked, joins;
    tc_gpu_grouped grouped;
    // for good
    cudaStream_t out;
    cudaEvent_t routed, lead[2], copies[2];
    sem_t arrived;
    uint32_t *expert; // [TC_CALL_TOKENS_MAX][top_k] host copies, pinned as all that the card reads or writes
    float *weight;
    const uint8_t **skip, **skip_dev; // [experts] not NULL: not streamed
    uint32_t posted;                  // a bit a mailbox that was asked
    uint32_t *tokens, *begin;         // [experts], [experts + 1]
    uint16_t *order;
    uint8_t *given, *box_of;
    tc_prompt_rates rates[PROMPT_CLASSES];
    uint64_t passes, experts_given, experts_streamed; // since creation
} prompt_share;

// The KV pool (kv.c): a range of addresses, memory behind its first parts.
enum { KV_PARTS = 16 };

typedef struct kv_range {
    uint64_t base, bytes, part_bytes; // bytes: of the whole range; every part but the last has part_bytes
    uint64_t backed_bytes;
    uint64_t handle[KV_PARTS];
    uint32_t parts, backed; // parts that have memory, the first ones; parts 0: the pool is one block
} kv_range;

typedef struct tc_dev_cuda {
    tc_dev dev;
    tc_cuda_options o;
    cudaStream_t stream;
    cudaStream_t main_stream, aside_stream; // stream is one of the two
    cudaEvent_t aside_fork, aside_join;
    bool aside_open; // something may still run there
    uint32_t multiprocessors;
    tc_gpu_tables tables;
    uint32_t *broken;  // beside tables.failed
    tc_gpu_sums *sums; // behind them
    uint64_t *joined;  // as tc_gpu_mailboxes; the mailboxes' `posted` lie behind it
    // memory
    uint64_t budget, context, used[TC_MEM_TAGS], peak;
    pthread_mutex_t lock; // weights are loaded by several threads
    struct tc_cuda_block *blocks;
    kv_range kv_range;
    void *kv;
    float *states;
    // batch
    tc_cuda_batch_layout layout;
    uint8_t *batch_host, *batch_dev;
    tc_batch batch;
    tc_gpu_batch gpu_batch;
    uint32_t attention_blocks;
    bool one_each;
    float *embed_host;
    // scratch
    float *inverse_frequency, *partial, *partial_state, *delta_q, *delta_k, *delta_v, *delta_scalars;
    void *q_half;
    uint32_t chunks_max;
    uint8_t *x_rounded;
    float *x_scale;
    uint32_t *forced;
    size_t forced_count;
    // rows of logits
    float *few_temperature; // behind them in host memory: few_temperature_host
    tc_gpu_top2 *few_top2;
    double *few_sums;
    uint32_t *few_buckets;
    tc_gpu_few_row *few, *few_host;
    float *few_temperature_host;
    // graphs
    cudaGraphExec_t graph[GRAPHS];
    sem_t ended; // posted when the stream has come to a batch's end
    bool recording;
    uint32_t layer_routes;  // routes queued in this pass: the layer among those with experts
    bool looks_ahead;       // this pass, which is recorded
    const float *also_norm; // of the next add
    float *also_normed;
    bool guessed;                // the last route's layer: something was expected of it
    const uint32_t *next_expert; // what the last route expects of the layer behind it; NULL: nothing
    // experts
    bool direct, pending, streaming;
    tc_prompt_ways ways;
    tc_prompt_way way; // of this batch
    bool timed_way;    // there was a choice
    uint64_t way_begin_us;
    tc_gpu_mailboxes boxes;
    void *box_memory[TC_LENT_MAX];
    uint64_t box_id[TC_LENT_MAX];
    int64_t *pending_sum;
    float *residual;
    hot_experts hot;
    prompt_share prompt;
    uint32_t *result_host; // failed, broken
    char error[400];
} tc_dev_cuda;

static inline tc_dev_cuda *cuda_of(tc_dev *dev)
{
    return (tc_dev_cuda *)dev;
}

// As of the last wait.
static inline const tc_gpu_sums *tc_cuda_result_sums(const tc_dev_cuda *c)
{
    return (const tc_gpu_sums *)(const void *)(c->result_host + 2);
}

// Keeps the first failure: what, why and where.
bool tc_cuda_check(tc_dev_cuda *c, int code, const char *expression, const char *file, int line);
#define CHECK(c, expression) tc_cuda_check(c, (int)(expression), #expression, __FILE__, __LINE__)

bool tc_cuda_settled(tc_dev_cuda *c);
// Device memory under the budget, beside a KV pool grown to its full size; NULL: it does not fit, or the card
// refuses.
void *tc_cuda_take(tc_dev_cuda *c, tc_mem_tag tag, size_t bytes);
// The same for what can be given back when the KV pool grows: beside the pool as it is.
void *tc_cuda_take_spare(tc_dev_cuda *c, tc_mem_tag tag, size_t bytes);
void tc_cuda_give(tc_dev_cuda *c, void *block);
uint64_t tc_cuda_used_bytes(const tc_dev_cuda *c);
size_t tc_cuda_round_up(size_t bytes);
void *tc_cuda_alloc(tc_dev *dev, tc_mem_tag tag, size_t bytes);
void tc_cuda_release(tc_dev *dev, void *memory);
void tc_cuda_upload(tc_dev *dev, void *to, const void *host, size_t bytes);
void tc_cuda_download(tc_dev *dev, void *host, const void *from, size_t bytes);
tc_status tc_cuda_matrix(tc_dev *dev, const tc_weight *weight, const tc_matrix_form *wanted, tc_matrix *ret,
                         tc_error *e);
tc_status tc_cuda_table(tc_dev *dev, const tc_weight *weight, tc_matrix *ret, tc_error *e);
void tc_cuda_slot_reset(tc_dev *dev, uint32_t slot);
void tc_cuda_page_copy(tc_dev *dev, uint32_t from, uint32_t to);
void tc_cuda_page_save(tc_dev *dev, uint32_t page, void *host);
void tc_cuda_page_load(tc_dev *dev, uint32_t page, const void *host);
void tc_cuda_slot_copy(tc_dev *dev, uint32_t from, uint32_t to);
void tc_cuda_slot_save(tc_dev *dev, uint32_t slot, void *host);
void tc_cuda_slot_load(tc_dev *dev, uint32_t slot, const void *host);
// The KV pool: its range, all of it; memory for so many pages (tc_dev_ops.pages_back); all of it away; bytes
// that it may still take.
tc_status tc_cuda_kv_open(tc_dev_cuda *c, tc_error *e);
uint32_t tc_cuda_kv_back(tc_dev *dev, uint32_t pages);
void tc_cuda_kv_close(tc_dev_cuda *c);
uint64_t tc_cuda_kv_owed_bytes(const tc_dev_cuda *c);
// Gives back everything.
void tc_cuda_give_all(tc_dev_cuda *c);
void tc_cuda_drop_graphs(tc_dev_cuda *c);
tc_gpu_q4 tc_cuda_q4(const tc_matrix *w);

// The share of cold experts that come over the link: before a batch, and after one.
tc_status tc_cuda_link_open(tc_dev_cuda *c, tc_error *e);
void tc_cuda_link_flush(tc_dev_cuda *c);
void tc_cuda_link_learn(tc_dev_cuda *c, const tc_gpu_sums *sums);
void tc_cuda_link_close(tc_dev_cuda *c);
uint32_t
tc_cuda_link_tokens_max(const tc_dev_cuda *c); // of a batch whose cold experts are shared; 0: none are
tc_gpu_fetch tc_cuda_link_of(tc_dev_cuda *c, uint32_t layer, uint32_t tokens);
// Looking ahead: tokens of a batch up to which it is done now; at a recorded pass's begin and end, the kernel
// beside it.
uint32_t tc_cuda_ahead_tokens(const tc_dev_cuda *c);
void tc_cuda_ahead_begin(tc_dev_cuda *c);                                   // before a batch
void tc_cuda_ahead_of(tc_dev_cuda *c, uint32_t layer, tc_gpu_fetch *fetch); // what post has to know of it
void tc_cuda_ahead_fork(tc_dev_cuda *c);
void tc_cuda_ahead_join(tc_dev_cuda *c);
void tc_cuda_look_ahead(tc_dev *dev, bool on);
tc_ahead_stats tc_cuda_ahead_sums(tc_dev *dev);
const uint8_t *tc_cuda_expert_whole(const hot_experts *h, uint32_t layer, uint32_t expert);

// experts.c, for what streams: one layer's experts [first, first + count) to a stage, but for those that
// `skip` has something of; and their products, once they are there.
staged_chunk tc_cuda_copy_chunk(tc_dev_cuda *c, uint32_t layer, const uint8_t *const *skip, uint32_t first,
                                uint32_t count);
void tc_cuda_run_chunk(tc_dev_cuda *c, const staged_chunk *chunk, tc_gpu_grouped *g);
tc_gpu_grouped tc_cuda_group_pairs(tc_dev_cuda *c, uint32_t layer, const tc_gpu_pairs_in *in,
                                   const uint8_t *const *place, int64_t *sum);
bool tc_cuda_attach(tc_dev_cuda *c, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence);
bool tc_cuda_is_known(const hot_experts *h); // their memory, to the card

// The workers' share of a prompt: when its batch begins (nothing happens where it is not wanted, or nobody is
// lent); a layer's first half, and the second; the pass is done. prompt.c.
tc_status tc_cuda_prompt_open(tc_dev_cuda *c, tc_error *e);
void tc_cuda_prompt_close(tc_dev_cuda *c);
uint32_t tc_cuda_prompt_tokens(tc_dev *dev); // tc_dev_queue_ops.lent_tokens
void tc_cuda_prompt_begin(tc_dev_cuda *c, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence);
void tc_cuda_prompt_layer(tc_dev_cuda *c, uint32_t layer, const tc_gpu_pairs_in *in, int64_t *sum);
void tc_cuda_prompt_deal(tc_dev *dev, bool (*stands)(void *arg), void *arg); // tc_dev_queue_ops.experts_deal
void tc_cuda_prompt_done(tc_dev_cuda *c);
uint64_t tc_cuda_prompt_given(tc_dev *dev); // tc_dev_queue_ops.given

extern const tc_cuda_hot_ops tc_cuda_hot;
uint64_t tc_cuda_slot_bytes(const tc_dev_cuda *c); // that have memory now
void tc_cuda_hot_close(tc_dev_cuda *c);
void tc_cuda_hot_flush(tc_dev_cuda *c); // the table's changes, before a batch
void tc_cuda_way_learn(tc_dev_cuda *c);
bool tc_cuda_experts_begin(tc_dev *dev, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence);
void tc_cuda_experts(tc_dev *dev, uint32_t layer, const float *x, uint32_t n, const uint32_t *expert,
                     const float *weight, int64_t *sum);

// device.c's part of the tables.
extern const tc_dev_ops tc_cuda_ops;
extern const tc_dev_queue_ops tc_cuda_queue_ops;
void tc_cuda_free(tc_dev *dev);
tc_status tc_cuda_state(tc_dev *dev, tc_error *e); // tc_dev_ops.check
void tc_cuda_batch_begin(tc_dev *dev, const tc_batch *batch);
void tc_cuda_embed(tc_dev *dev, const tc_matrix *table, float *x, uint32_t ldx);
bool tc_cuda_replay(tc_dev *dev);
void tc_cuda_record_end(tc_dev *dev);
tc_status tc_cuda_wait(tc_dev *dev, void (*turn)(void *arg), void *arg, uint32_t *ret_layer, tc_error *e);
