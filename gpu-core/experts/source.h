// SPDX-License-Identifier: Apache-2.0
// Owns: the interface by which a forward pass gets its routed experts computed, wherever they are. Calls are
// posted, other work is done, then joined. Contract (tests/contract): every source gives the same bits.
// Refuses: routing (dev) and the choice of what is hot (plan, cache).
#pragma once

#include "common/base/statistics.h"
#include "common/kernels/ffn.h"
#include "common/model/share.h"

typedef struct tc_expert_source tc_expert_source;

typedef struct tc_source_stats {
    uint64_t calls, pairs, retries, workers_lost, wait_us;
    uint32_t workers_up, workers_expected;
    char reason[256];               // why not every expert can be computed now; empty: ready
    char degraded[256];             // why it is slower than it should be, or one more loss from the end
    const tc_worker_stats *workers; // [worker_count] by index, the source's; NULL: it has none
    uint32_t worker_count;
} tc_source_stats;

// A worker's segment (proto/shm_layout.h) that a device posts to by itself between lend and settle.
enum { TC_LENT_MAX = 8 };
struct tc_lent_mailbox {
    uint64_t id; // never the same for another segment: memory may be mapped where another one was
    void *memory;
    size_t bytes;
    tc_share share; // of experts and units
    uint64_t x_at, pairs_at, sum_at;
};
typedef struct tc_lent_mailbox tc_lent_mailbox;

// A device that queues gets no mailboxes for more tokens than this, but where workers share its prompts
// (tc_dev_queue_ops.lent_tokens), and asks the source in pieces of it: its own larger batches stream their
// experts, and segments beside it stay small.
enum { TC_QUEUED_TOKENS_MAX = 256 };

typedef struct tc_source_ops {
    void (*free)(tc_expert_source *source);
    // Starts one call (layer, tokens, pairs sorted by (expert, token)); x and pairs must stay valid until
    // join. Not nestable. unit_begin and unit_end of the call are ignored: the whole width is meant.
    tc_status (*post)(tc_expert_source *source, const tc_expert_call *call, tc_error *e);
    // Waits for the posted call. sum [tokens][hidden] is overwritten.
    tc_status (*join)(tc_expert_source *source, int64_t *sum, tc_error *e);
    // Handles arrivals and losses between steps, without waiting.
    void (*poll)(tc_expert_source *source);
    void (*stats)(tc_expert_source *source, tc_source_stats *ret);
    int (*fd)(tc_expert_source *source); // readable when poll has something to do; -1: never
    // Lends the mailboxes of all shares to a device for one batch of up to `tokens` tokens: their number, or
    // 0 where that cannot be now. Calls take the numbers *ret_sequence + layer. The workers are awake when
    // this returns; nudge keeps them so, and says whether all of them are still there: the memory of one that
    // is not may be gone. Until settle nothing else may be asked of the source. NULL: never.
    uint32_t (*lend)(tc_expert_source *source, uint32_t tokens, tc_lent_mailbox ret[TC_LENT_MAX],
                     uint64_t *ret_sequence);
    bool (*nudge)(tc_expert_source *source);
    // fine false: a call was not answered, or not well: whose it was is cut off.
    void (*settle)(tc_expert_source *source, bool fine);
    bool in_process; // nobody computes between post and join: nothing is gained by posting early
} tc_source_ops;

struct tc_expert_source {
    const tc_source_ops *ops;
    uint64_t step; // which one calls are for: set by the forward pass, told to workers for logs and traces
};

// Computes on the core's own team: the oracle, and the all-in-one mode.
tc_status tc_source_local_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                                 tc_expert_source **ret, tc_error *e);

typedef struct tc_expert_hub tc_expert_hub;
typedef struct tc_workers_options {
    uint32_t expected;         // shares the work is cut into
    uint32_t shard;            // tc_shard
    uint64_t call_deadline_us; // a worker that takes longer is cut off and its share computed elsewhere
    uint64_t no_worker_us;     // how long a call waits for any worker before it fails
    void (*log)(void *arg, bool warning, const char *text); // arrivals, losses, retries; may be NULL
    void *arg;
} tc_workers_options;

// Computes in worker processes behind the hub (borrowed). store: its shape, for the share arithmetic.
tc_status tc_source_workers_create(tc_expert_hub *hub, const tc_store *store,
                                   const tc_workers_options *options, tc_expert_source **ret, tc_error *e);
// New limits, from the next call on.
void tc_source_workers_tune(tc_expert_source *source, uint64_t call_deadline_us, uint64_t no_worker_us);
