// SPDX-License-Identifier: Apache-2.0
// Owns: dealing out the pairs of a batch of few tokens: those whose expert lies in VRAM stay here, of the
// cold experts some are fetched over the link for this step, the others go to the workers' mailboxes. Which
// ones changes no result: sums are exact. Refuses: to choose how many are fetched (link.c).
#include "gpu-core/dev/cuda/q4.cuh"

#include "proto/shm_layout.h"

enum { POST_THREADS = 512, FETCH_BLOCKS = 64, FETCH_THREADS = 256, FETCH_AHEAD = 4 };

// What becomes of a batch's pairs. Every block of post_kernel finds it out for itself.
static constexpr uint32_t NOT_COLD = 0xffffffffu; // as a key: sorts last
static constexpr uint16_t NOT_FETCHED = 0xffff;

struct dealt_pairs { // in shared memory
    uint32_t *key;   // [pairs] of a cold one its expert, then its token
    uint16_t *stage; // [pairs] where its expert is fetched to
    uint8_t *first;  // [pairs] whether it is its expert's first
    uint32_t pairs, distinct, quota;
};

static __device__ __forceinline__ uint32_t expert_of(uint32_t key)
{
    return key >> 12;
}

// Of the distinct cold experts, by their number, `quota` are fetched, evenly spread.
static __device__ __forceinline__ uint16_t stage_of(const dealt_pairs &d, uint32_t i)
{
    uint32_t smaller = 0;
    for (uint32_t j = 0; j < d.pairs; j++) smaller += d.first[j] && expert_of(d.key[j]) < expert_of(d.key[i]);
    const uint32_t at = smaller * d.quota / d.distinct;
    return (smaller + 1) * d.quota / d.distinct > at ? (uint16_t)at : NOT_FETCHED;
}

static __device__ __forceinline__ uint32_t quota_of(const uint8_t *quota, uint32_t distinct)
{
    const uint32_t most = TC_GPU_FETCH_DISTINCT_MAX;
    if (distinct <= most) return quota[distinct];
    return min(quota[most] * distinct / most, (uint32_t)TC_GPU_FETCH_MAX);
}

static __device__ void deal_pairs(dealt_pairs &d, const tc_gpu_pairs_in &in, const uint8_t *quota,
                                  uint32_t *distinct)
{
    if (threadIdx.x == 0) *distinct = 0;
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        const uint32_t e = in.expert[i];
        d.key[i] = in.place && in.place[e] ? NOT_COLD : e << 12 | i / in.top_k;
        d.stage[i] = NOT_FETCHED;
    }
    __syncthreads();
    if (!quota) return;
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        bool first = d.key[i] != NOT_COLD;
        if (in.n > 1) // one token's experts differ
            for (uint32_t j = 0; first && j < i; j++) first = expert_of(d.key[j]) != expert_of(d.key[i]);
        d.first[i] = first;
        if (first) atomicAdd(distinct, 1u);
    }
    __syncthreads();
    d.distinct = *distinct;
    d.quota = quota_of(quota, d.distinct);
    if (!d.quota) return;
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS)
        if (d.key[i] != NOT_COLD) d.stage[i] = stage_of(d, i);
    __syncthreads();
}

// The last block: where each pair's expert lies for the kernels here, and what has to be fetched.
static __device__ void keep_here(const dealt_pairs &d, const tc_gpu_pairs_in &in, const tc_gpu_fetch &fetch)
{
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        const uint16_t stage = d.stage[i];
        const uint8_t *at = d.key[i] == NOT_COLD ? in.place[in.expert[i]] : NULL;
        if (stage != NOT_FETCHED) {
            at = fetch.stage + (size_t)stage * fetch.bytes;
            if (d.first[i]) fetch.list->from[stage] = fetch.from[in.expert[i]];
        }
        fetch.at[in.expert[i]] = at;
    }
    if (threadIdx.x) return;
    fetch.list->count = d.quota;
    fetch.list->blocks_done = 0;
    fetch.list->asked = d.distinct - d.quota;
    fetch.list->called_ns = now_ns();
    fetch.sums->fetched += d.quota;
}

// What this mailbox's worker does not compute is taken out of the keys. Returns what is left.
static __device__ uint32_t keep_posted(dealt_pairs &d, const tc_gpu_mailbox &box, uint32_t *count)
{
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        const uint32_t e = expert_of(d.key[i]);
        const bool mine =
            d.key[i] != NOT_COLD && d.stage[i] == NOT_FETCHED && e >= box.expert_begin && e < box.expert_end;
        if (!mine) d.key[i] = NOT_COLD;
        if (mine) atomicAdd(count, 1u);
    }
    __syncthreads();
    return *count;
}

struct wire_pair { // tc_expert_pair
    uint32_t expert, token;
    float weight;
};

static __device__ __forceinline__ void store_release_system(void *at, uint64_t v)
{
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(at), "l"(v) : "memory");
}

// A pair's place in the mailbox is the number of smaller keys.
static __device__ void write_call(const dealt_pairs &d, const tc_gpu_mailboxes &boxes,
                                  const tc_gpu_mailbox &box, const tc_gpu_pairs_in &in, uint32_t count)
{
    wire_pair *to = (wire_pair *)(box.memory + box.pairs_at);
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        uint32_t own = d.key[i], at = 0;
        if (own == NOT_COLD) continue;
        for (uint32_t j = 0; j < d.pairs; j++) at += d.key[j] < own;
        to[at].expert = expert_of(own);
        to[at].token = own & 4095;
        to[at].weight = in.weight[i];
    }
    float4 *to_x = (float4 *)(box.memory + box.x_at);
    const float4 *from = (const float4 *)in.x;
    for (uint32_t i = threadIdx.x; i < in.n * in.hidden / 4; i += POST_THREADS) to_x[i] = from[i];
    const uint64_t sequence = *boxes.sequence + boxes.layer;
    if (threadIdx.x == 0) {
        tc_shm_request_record *record = (tc_shm_request_record *)(box.memory + TC_SHM_REQUEST_AT);
        record->seq = sequence;
        record->layer = boxes.layer;
        record->unit_begin = box.unit_begin;
        record->unit_end = box.unit_end;
        record->precision = boxes.precision;
        record->tokens = in.n;
        record->hidden = in.hidden;
        record->pair_count = count;
        record->reserved = 0;
    }
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) store_release_system(box.memory + TC_SHM_REQUEST_FLAG_AT, sequence);
}

// One block a mailbox, and a last one for what is computed here.
__global__ void __launch_bounds__(POST_THREADS)
    post_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_mailboxes boxes,
                const __grid_constant__ tc_gpu_fetch fetch, const __grid_constant__ tc_gpu_pairs_in in)
{
    extern __shared__ uint32_t memory[]; // [n * top_k] keys, then stages, then firsts
    __shared__ uint32_t counter;
    const uint32_t pairs = in.n * in.top_k;
    uint16_t *stage = (uint16_t *)(memory + pairs);
    dealt_pairs d = {memory, stage, (uint8_t *)(stage + pairs), pairs, 0, 0};
    let_next_start();
    follow_previous();
    if (*(volatile uint32_t *)tables.failed) return;
    deal_pairs(d, in, fetch.quota, &counter);
    if (blockIdx.x == boxes.count) {
        keep_here(d, in, fetch);
        return;
    }
    const uint32_t count = keep_posted(d, boxes.box[blockIdx.x], &counter);
    if (threadIdx.x == 0) boxes.posted[blockIdx.x] = count != 0;
    if (count) write_call(d, boxes, boxes.box[blockIdx.x], in, count);
}

// Whole words of 128 bytes a quarter warp: what the link carries best. An expert's bytes are a multiple
// of 16.
__global__ void __launch_bounds__(FETCH_THREADS)
    fetch_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_fetch fetch)
{
    const uint32_t words = (uint32_t)(fetch.bytes / 16), stride = gridDim.x * FETCH_THREADS;
    let_next_start();
    follow_previous();
    if (*(volatile uint32_t *)tables.failed) return;
    const uint32_t all = fetch.list->count * words;
    if (!all) return;
    for (uint32_t i = blockIdx.x * FETCH_THREADS + threadIdx.x; i < all; i += stride * FETCH_AHEAD) {
        uint4 word[FETCH_AHEAD];
#pragma unroll
        for (int k = 0; k < FETCH_AHEAD; k++) {
            const uint32_t at = i + k * stride;
            if (at < all) word[k] = __ldcs((const uint4 *)fetch.list->from[at / words] + at % words);
        }
#pragma unroll
        for (int k = 0; k < FETCH_AHEAD; k++)
            if (i + k * stride < all) ((uint4 *)fetch.stage)[i + k * stride] = word[k];
    }
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(&fetch.list->blocks_done, 1u) == gridDim.x - 1)
        fetch.sums->fetch_ns += now_ns() - fetch.list->called_ns;
}

int tc_gpu_post(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_mailboxes *boxes,
                const tc_gpu_fetch *fetch, const tc_gpu_pairs_in *pairs)
{
    const uint32_t blocks = boxes->count + (fetch->list != NULL);
    int code = launch_chained(post_kernel, blocks, POST_THREADS, (size_t)pairs->n * pairs->top_k * 7, stream,
                              *tables, *boxes, *fetch, *pairs);
    if (code || !fetch->quota) return code;
    return launch_chained(fetch_kernel, FETCH_BLOCKS, FETCH_THREADS, 0, stream, *tables, *fetch);
}
