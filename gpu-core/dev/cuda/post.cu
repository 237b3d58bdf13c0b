// SPDX-License-Identifier: Apache-2.0
// Owns: dealing out the pairs of a batch of few tokens: those whose expert lies in VRAM stay here, of the
// cold experts some are fetched over the link for this step, the others go to the workers' mailboxes; and
// fetching what the next layer is expected to choose while the link has nothing else to do. Which ones
// changes no result: sums are exact. Refuses: to choose how many are fetched (link.c), and what is expected
// (route.cu).
#include "gpu-core/dev/cuda/q4.cuh"

#include "proto/shm_layout.h"

enum { POST_THREADS = 512, FETCH_BLOCKS = 64, FETCH_THREADS = 256, FETCH_AHEAD = 4, BESIDE_AHEAD = 2 };

// What becomes of a batch's pairs. Every block of post_kernel finds it out for itself.
static constexpr uint32_t NOT_COLD = 0xffffffffu;                       // as a key: sorts last
static constexpr uint16_t NOT_FETCHED = 0xffff, FETCHED_AHEAD = 0xff00; // and its place there

struct dealt_pairs { // in shared memory
    uint32_t *key;   // [pairs] of a cold one its expert, then its token
    uint16_t *stage; // [pairs] where its expert is fetched to, or was
    uint8_t *first;  // [pairs] whether it is its expert's first
    uint32_t pairs, distinct, quota;
};

// What was fetched ahead of the layer, or is on its way.
struct ahead_places { // in shared memory
    uint32_t there, expert[TC_GPU_AHEAD_MAX];
};

// By a warp that has no pairs to look up meanwhile.
static __device__ __forceinline__ void read_ahead(ahead_places &a, const tc_gpu_ahead *from)
{
    const uint32_t lane = threadIdx.x & 31;
    if (threadIdx.x < POST_THREADS - 32) return;
    if (lane < TC_GPU_AHEAD_MAX) a.expert[lane] = from ? from->expert[lane] : 0;
    if (lane == TC_GPU_AHEAD_MAX)
        a.there = from ? (from->there | 1u << from->pending) & ((1u << TC_GPU_AHEAD_MAX) - 1) : 0;
}

// Its place among them; TC_GPU_AHEAD_MAX: none.
static __device__ __forceinline__ uint32_t ahead_of(const ahead_places &a, uint32_t expert)
{
    for (uint32_t i = 0; a.there >> i; i++)
        if ((a.there >> i & 1) && a.expert[i] == expert) return i;
    return TC_GPU_AHEAD_MAX;
}

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

static __device__ void deal_pairs(dealt_pairs &d, const tc_gpu_pairs_in &in, const tc_gpu_fetch &fetch,
                                  uint32_t *distinct)
{
    __shared__ ahead_places ahead;
    if (threadIdx.x == 0) *distinct = 0;
    read_ahead(ahead, fetch.ahead);
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        const uint32_t e = in.expert[i];
        d.key[i] = in.place && in.place[e] ? NOT_COLD : e << 12 | i / in.top_k;
        d.stage[i] = NOT_FETCHED;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; ahead.there && i < d.pairs; i += POST_THREADS) {
        const uint32_t place = d.key[i] == NOT_COLD ? TC_GPU_AHEAD_MAX : ahead_of(ahead, expert_of(d.key[i]));
        if (place == TC_GPU_AHEAD_MAX) continue;
        d.key[i] = NOT_COLD;
        d.stage[i] = FETCHED_AHEAD + place;
    }
    __syncthreads();
    if (!fetch.quota) return;
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        bool first = d.key[i] != NOT_COLD;
        if (in.n > 1) // one token's experts differ
            for (uint32_t j = 0; first && j < i; j++) first = expert_of(d.key[j]) != expert_of(d.key[i]);
        d.first[i] = first;
        if (first) atomicAdd(distinct, 1u);
    }
    __syncthreads();
    d.distinct = *distinct;
    d.quota = quota_of(fetch.quota, d.distinct);
    if (!d.quota) return;
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS)
        if (d.key[i] != NOT_COLD) d.stage[i] = stage_of(d, i);
    __syncthreads();
}

// What the next layer is expected to choose and does not hold: the tokens' first choices first. By threads
// that have no pairs to look up meanwhile.
static __device__ void find_missing(const tc_gpu_pairs_in &in, const tc_gpu_fetch &fetch, uint32_t *missing)
{
    const uint32_t i = threadIdx.x - TC_GPU_AHEAD_PAIRS_MAX;
    if (i < in.n * in.top_k) {
        const uint32_t e = fetch.next_expert[(size_t)(i % in.n) * in.top_k + i / in.n];
        missing[i] = fetch.next_place[e] ? NOT_COLD : e;
    }
}

static __device__ void list_ahead(tc_gpu_ahead *to, const uint32_t *missing, uint32_t pairs, bool distinct)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < pairs && count < TC_GPU_AHEAD_MAX; i++) {
        bool known = missing[i] == NOT_COLD;
        for (uint32_t j = 0; !distinct && j < i && !known; j++) known = missing[j] == missing[i];
        if (!known) to->expert[count++] = missing[i];
    }
    to->wanted = count;
    __threadfence();
    *(volatile uint32_t *)&to->listed = 1;
}

// Nobody waits for it.
static __device__ __forceinline__ void add_to(uint64_t *sum, uint32_t more)
{
    if (more) atomicAdd((unsigned long long *)sum, (unsigned long long)more);
}

// What came of this layer's: once each, and its pairs. One that is under way is fetched whole if it is used.
static __device__ void end_ahead(const tc_gpu_fetch &fetch, uint32_t used, uint32_t pairs)
{
    const bool ends = used >> fetch.ahead->pending & 1;
    fetch.ahead->also = fetch.beside ? fetch.list->count : 0;
    fetch.ahead->called_ns = fetch.list->called_ns;
    __threadfence();
    *(volatile uint32_t *)&fetch.ahead->decided = ends ? TC_GPU_AHEAD_END : TC_GPU_AHEAD_DROP;
    add_to(&fetch.sums->ahead_fetched, __popc(fetch.ahead->there) + ends);
    add_to(&fetch.sums->ahead_used, __popc(used));
    add_to(&fetch.sums->ahead_pairs, pairs);
}

// The last block: where each pair's expert lies for the kernels here, and what has to be fetched.
static __device__ void keep_here(const dealt_pairs &d, const tc_gpu_pairs_in &in, const tc_gpu_fetch &fetch,
                                 const uint32_t *missing)
{
    __shared__ uint32_t used, used_pairs;
    if (threadIdx.x == 0) used = used_pairs = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < d.pairs; i += POST_THREADS) {
        const uint16_t stage = d.stage[i];
        const uint8_t *at = NULL;
        if (stage != NOT_FETCHED && stage >= FETCHED_AHEAD) {
            const uint32_t place = stage - FETCHED_AHEAD;
            at = fetch.ahead_stage + place * fetch.bytes;
            atomicOr(&used, 1u << place);
            atomicAdd(&used_pairs, 1u);
        } else if (d.key[i] == NOT_COLD) {
            at = in.place[in.expert[i]];
        } else if (stage != NOT_FETCHED) {
            at = fetch.stage + (size_t)stage * fetch.bytes;
            if (d.first[i] && fetch.beside)
                fetch.ahead->also_expert[stage] = in.expert[i];
            else if (d.first[i])
                fetch.list->from[stage] = fetch.from[in.expert[i]];
        }
        fetch.at[in.expert[i]] = at;
    }
    __syncthreads();
    if (threadIdx.x == 32 && fetch.next_ahead) list_ahead(fetch.next_ahead, missing, d.pairs, in.n == 1);
    if (threadIdx.x) return;
    fetch.list->count = d.quota;
    fetch.list->blocks_done = 0;
    fetch.list->asked = d.distinct - d.quota;
    fetch.list->called_ns = now_ns();
    add_to(&fetch.sums->fetched, d.quota);
    if (fetch.ahead) end_ahead(fetch, used, used_pairs);
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
    __shared__ uint32_t distinct, posted,
        missing[TC_GPU_AHEAD_PAIRS_MAX]; // two: the first is read until late
    const uint32_t pairs = in.n * in.top_k;
    uint16_t *stage = (uint16_t *)(memory + pairs);
    dealt_pairs d = {memory, stage, (uint8_t *)(stage + pairs), pairs, 0, 0};
    let_next_start();
    follow_previous();
    if (*(volatile uint32_t *)tables.failed) return;
    if (blockIdx.x == boxes.count && fetch.next_ahead) find_missing(in, fetch, missing);
    deal_pairs(d, in, fetch, &distinct);
    if (blockIdx.x == boxes.count) {
        keep_here(d, in, fetch, missing);
        return;
    }
    const uint32_t count = keep_posted(d, boxes.box[blockIdx.x], &posted);
    if (threadIdx.x == 0) boxes.posted[blockIdx.x] = count != 0;
    if (count) write_call(d, boxes, boxes.box[blockIdx.x], in, count);
}

// Until the expert that was under way is there, if it is used. It is being fetched, or will be: this thread
// takes nobody's place.
static __device__ void wait_for_pending(const tc_gpu_ahead *ahead)
{
    if (ahead->decided != TC_GPU_AHEAD_END) return;
    while (*(const volatile uint32_t *)&ahead->done[ahead->pending] != TC_GPU_AHEAD_BLOCKS) continue;
    __threadfence();
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
    if (blockIdx.x == 0 && threadIdx.x == 0 && fetch.ahead) wait_for_pending(fetch.ahead);
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

// What post has decided; 0: the pass has failed.
static __device__ uint32_t wait_for_decision(const tc_gpu_tables &tables, const tc_gpu_ahead *ahead)
{
    uint32_t decided;
    while (!(decided = *(const volatile uint32_t *)&ahead->decided))
        if (*(volatile uint32_t *)tables.failed) return 0;
    return decided;
}

// One layer of what the beside kernel does.
struct layer_ahead {
    tc_gpu_ahead *ahead;
    uint64_t bytes; // of an expert
};

// One block's part of an expert. The layer's routes may become known meanwhile: false then, if it is not
// wanted.
static __device__ bool bring(const tc_gpu_tables &tables, const layer_ahead &l, const uint8_t *source,
                             uint8_t *target, uint32_t e, bool *known)
{
    const uint32_t words = (uint32_t)(l.bytes / 16), stride = gridDim.x * FETCH_THREADS;
    const uint4 *from = (const uint4 *)source;
    uint4 *to = (uint4 *)target;
    for (uint32_t i = blockIdx.x * FETCH_THREADS + threadIdx.x; i < words; i += stride * BESIDE_AHEAD) {
        uint4 word[BESIDE_AHEAD];
        if (!*known && *(volatile uint32_t *)&l.ahead->routed) {
            *known = true;
            if (wait_for_decision(tables, l.ahead) != TC_GPU_AHEAD_END ||
                *(const volatile uint32_t *)&l.ahead->pending != e)
                return false;
        }
#pragma unroll
        for (int k = 0; k < BESIDE_AHEAD; k++)
            if (i + k * stride < words) word[k] = __ldcs(from + i + k * stride);
#pragma unroll
        for (int k = 0; k < BESIDE_AHEAD; k++)
            if (i + k * stride < words) to[i + k * stride] = word[k];
    }
    __threadfence();
    return true;
}

// What is expected, an expert after the other, each by all blocks, until the layer's routes are known. The
// whole block.
static __device__ void bring_expected(const tc_gpu_tables &tables, const tc_gpu_beside &b,
                                      const layer_ahead &l, const uint8_t *const *from, uint8_t *stage)
{
    const uint32_t wanted = *(volatile uint32_t *)&l.ahead->wanted;
    bool known = false;
    for (uint32_t e = 0; e < wanted && !known; e++) {
        const uint32_t expert = *(volatile uint32_t *)&l.ahead->expert[e];
        const bool brought = bring(tables, l, from[expert], stage + e * l.bytes, e, &known);
        if (!__syncthreads_and(brought)) return;
        if (threadIdx.x == 0) atomicAdd(&l.ahead->done[e], 1u);
        known = __syncthreads_or(known);
    }
}

// The layer's quota, once that is known. The whole block; the last one tells the time.
static __device__ void bring_also(const tc_gpu_tables &tables, const tc_gpu_beside &b, const layer_ahead &l,
                                  const uint8_t *const *from)
{
    __shared__ uint32_t count;
    bool known = true;
    if (threadIdx.x == 0)
        count = wait_for_decision(tables, l.ahead) ? *(volatile uint32_t *)&l.ahead->also : 0;
    __syncthreads();
    __threadfence();
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t expert = *(volatile uint32_t *)&l.ahead->also_expert[i];
        (void)bring(tables, l, from[expert], b.also_stage + i * l.bytes, 0, &known);
        __syncthreads();
        if (threadIdx.x == 0) atomicAdd(&l.ahead->also_done[i], 1u);
    }
    if (count && threadIdx.x == 0 && atomicAdd(&l.ahead->blocks_done, 1u) == gridDim.x - 1)
        b.sums->fetch_ns += now_ns() - *(volatile uint64_t *)&l.ahead->called_ns;
}

// Whether the list of the layer is there; false: the pass has failed. The whole block.
static __device__ bool wait_for_list(const tc_gpu_tables &tables, const tc_gpu_ahead *ahead)
{
    __shared__ uint32_t listed;
    __syncthreads();
    if (threadIdx.x == 0) {
        while (!(listed = *(const volatile uint32_t *)&ahead->listed))
            if (*(volatile uint32_t *)tables.failed) break;
        __threadfence();
    }
    __syncthreads();
    return listed != 0;
}

__global__ void __launch_bounds__(FETCH_THREADS)
    beside_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_beside b)
{
    for (uint32_t n = 0; n < b.layers; n++) {
        const layer_ahead l = {b.ahead + n, b.bytes[n]};
        const uint8_t *const *from = b.from + (size_t)n * b.experts;
        if (!l.bytes) continue;
        if (!wait_for_list(tables, l.ahead)) return;
        bring_expected(tables, b, l, from, b.stage[n % 2]);
        if (b.also_stage) bring_also(tables, b, l, from);
    }
}

int tc_gpu_beside_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_beside *args)
{
    beside_kernel<<<TC_GPU_AHEAD_BLOCKS, FETCH_THREADS, 0, stream>>>(*tables, *args);
    return launched();
}

int tc_gpu_post(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_mailboxes *boxes,
                const tc_gpu_fetch *fetch, const tc_gpu_pairs_in *pairs)
{
    const uint32_t blocks = boxes->count + (fetch->list != NULL);
    int code = launch_chained(post_kernel, blocks, POST_THREADS, (size_t)pairs->n * pairs->top_k * 7, stream,
                              *tables, *boxes, *fetch, *pairs);
    if (code || !fetch->quota || fetch->beside) return code;
    return launch_chained(fetch_kernel, FETCH_BLOCKS, FETCH_THREADS, 0, stream, *tables, *fetch);
}
