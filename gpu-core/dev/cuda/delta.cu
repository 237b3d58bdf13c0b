// SPDX-License-Identifier: Apache-2.0
// Owns: Gated DeltaNet: causal convolution, normalised keys and queries, the recurrence, the gated norm.
// Equations: docs/MODEL.md. The recurrence goes token by token: its columns are independent, eight lanes
// share one, and the state stays in registers, so a prompt costs a few hundred cycles a token however long it
// is. A step of single tokens is one kernel; anything else is three that do the same operations in the same
// order.
//
// State of a layer: [value head][column][key index], key indices in groups of 16 of which lane p of a
// column's eight holds 2p and 2p + 1; then the last inputs of the convolution, [taps][channels], at position
// modulo taps.
#include "gpu-core/dev/cuda/q4.cuh"

enum { STRIP = 32, STAGE = 16, KEY_MAX = 128, PARTS = 8 };

struct delta_shape {
    uint32_t ratio, row_floats, keys, channels, dkp;
};

static __device__ __forceinline__ delta_shape shape_of(const tc_gpu_delta &a)
{
    delta_shape s;
    s.ratio = a.value_heads / a.key_heads;
    s.row_floats = 2 * a.key_heads * a.dk + 2 * a.value_heads * a.dv;
    s.keys = a.key_heads * a.dk;
    s.channels = 2 * s.keys + a.value_heads * a.dv;
    s.dkp = (a.dk + 15) & ~15u;
    return s;
}

static __device__ __forceinline__ uint32_t at(const tc_gpu_span &span, uint32_t key_head)
{
    return span.first + key_head * span.step;
}

static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static __device__ __forceinline__ float *state_of(const tc_gpu_delta &a, uint32_t slot)
{
    return a.states + slot * a.slot_floats + a.layer_at;
}

static __device__ __forceinline__ float *ring_of(const tc_gpu_delta &a, const delta_shape &s, float *state)
{
    return state + (size_t)a.value_heads * a.dv * s.dkp;
}

// Token t of the segment (counted in it), one channel; `source`: where the channel's input is in a qkvz row.
static __device__ __forceinline__ float convolved(const tc_gpu_delta &a, const delta_shape &s,
                                                  const tc_gpu_segment &g, const float *ring, uint32_t t,
                                                  uint32_t channel, uint32_t source)
{
    float sum = 0;
    for (uint32_t j = 0; j < a.taps; j++) {
        uint32_t back = a.taps - 1 - j;
        float in = t >= back
                       ? a.qkvz[(size_t)(g.first + t - back) * s.row_floats + source]
                       : ring[(size_t)((g.position + t + a.taps - back) % a.taps) * s.channels + channel];
        sum = fmaf(a.conv[(size_t)j * s.channels + channel], in, sum);
    }
    return sum * sigmoid(sum);
}

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
    return v;
}

// q and k in place, dk values each, to unit length (q also by 1/sqrt(dk)); returns k . q. One warp.
static __device__ __forceinline__ float normalise_keys(float *q, float *k, uint32_t dk)
{
    const uint32_t lane = threadIdx.x & 31;
    float qq = 0, kk = 0, kq = 0;
    for (uint32_t i = lane; i < dk; i += 32) {
        qq = fmaf(q[i], q[i], qq);
        kk = fmaf(k[i], k[i], kk);
    }
    float fq = 1.0f / sqrtf(warp_sum(qq) + 1e-6f) * (1.0f / sqrtf((float)dk)),
          fk = 1.0f / sqrtf(warp_sum(kk) + 1e-6f);
    for (uint32_t i = lane; i < dk; i += 32) {
        q[i] *= fq;
        k[i] *= fk;
        kq = fmaf(q[i], k[i], kq);
    }
    return warp_sum(kq);
}

static __device__ __forceinline__ void gates_of(const tc_gpu_delta &a, const delta_shape &s, uint32_t token,
                                                uint32_t value_head, float *decay, float *beta)
{
    uint32_t key_head = value_head / s.ratio, index = value_head % s.ratio;
    const float *ba = a.ba + (size_t)token * 2 * a.value_heads;
    float x = ba[at(a.a_at, key_head) + index] + a.dt_bias[value_head];
    float softplus = x > 20.0f ? x : log1pf(expf(x));
    *decay = expf(a.neg_exp_a[value_head] * softplus);
    *beta = sigmoid(ba[at(a.b_at, key_head) + index]);
}

// One token, one column, this lane's share of it; returns the column's output in all eight lanes. KP: key
// indices of a lane.
template <int KP>
static __device__ __forceinline__ float advance(float S[KP], const float *q, const float *k, uint32_t part,
                                                float v, float kq, float decay, float beta)
{
    float past[4] = {0, 0, 0, 0}, out[4] = {0, 0, 0, 0};
    float2 key[KP / 2];
#pragma unroll
    for (int i = 0; i < KP / 2; i++) {
        key[i] = *(const float2 *)(k + i * 16 + part * 2);
        const float2 query = *(const float2 *)(q + i * 16 + part * 2);
        S[i * 2] *= decay;
        S[i * 2 + 1] *= decay;
        const int a = (i & 1) * 2;
        past[a] = fmaf(S[i * 2], key[i].x, past[a]);
        past[a + 1] = fmaf(S[i * 2 + 1], key[i].y, past[a + 1]);
        out[a] = fmaf(S[i * 2], query.x, out[a]);
        out[a + 1] = fmaf(S[i * 2 + 1], query.y, out[a + 1]);
    }
    float p = (past[0] + past[1]) + (past[2] + past[3]), o = (out[0] + out[1]) + (out[2] + out[3]);
#pragma unroll
    for (int m = 1; m < PARTS; m *= 2) {
        p += __shfl_xor_sync(0xffffffffu, p, m);
        o += __shfl_xor_sync(0xffffffffu, o, m);
    }
    const float delta = (v - p) * beta;
#pragma unroll
    for (int i = 0; i < KP / 2; i++) {
        S[i * 2] = fmaf(key[i].x, delta, S[i * 2]);
        S[i * 2 + 1] = fmaf(key[i].y, delta, S[i * 2 + 1]);
    }
    return fmaf(kq, delta, o);
}

template <int KP>
static __device__ __forceinline__ void load_state(float S[KP], const float *column, uint32_t part)
{
#pragma unroll
    for (int i = 0; i < KP / 2; i++) {
        const float2 v = *(const float2 *)(column + i * 16 + part * 2);
        S[i * 2] = v.x, S[i * 2 + 1] = v.y;
    }
}

template <int KP>
static __device__ __forceinline__ void store_state(const float S[KP], float *column, uint32_t part)
{
#pragma unroll
    for (int i = 0; i < KP / 2; i++)
        *(float2 *)(column + i * 16 + part * 2) = make_float2(S[i * 2], S[i * 2 + 1]);
}

// o: dv outputs of a value head, read by every warp; thread i writes element i, i + step ..
static __device__ __forceinline__ void gated_norm(const tc_gpu_delta &a, const delta_shape &s, uint32_t token,
                                                  uint32_t value_head, const float *o, uint32_t thread,
                                                  uint32_t step)
{
    const uint32_t lane = thread & 31, key_head = value_head / s.ratio, index = value_head % s.ratio;
    const float *z = a.qkvz + (size_t)token * s.row_floats + at(a.z_at, key_head) + index * a.dv;
    float *to = a.out + ((size_t)token * a.value_heads + value_head) * a.dv;
    float sum = 0;
    for (uint32_t i = lane; i < a.dv; i += 32) sum = fmaf(o[i], o[i], sum);
    float factor = 1.0f / sqrtf(warp_sum(sum) / (float)a.dv + a.eps);
    for (uint32_t i = thread; i < a.dv; i += step) to[i] = o[i] * factor * a.norm[i] * (z[i] * sigmoid(z[i]));
}

// The raw inputs of token t (in the segment) into the ring: the value head's own channels; the first value
// head of a key head also those of queries and keys.
static __device__ __forceinline__ void keep_inputs(const tc_gpu_delta &a, const delta_shape &s,
                                                   const tc_gpu_segment &g, float *ring, uint32_t t,
                                                   uint32_t value_head, uint32_t thread, uint32_t step)
{
    const uint32_t key_head = value_head / s.ratio, index = value_head % s.ratio;
    const float *row = a.qkvz + (size_t)(g.first + t) * s.row_floats;
    float *to = ring + (size_t)((g.position + t) % a.taps) * s.channels;
    for (uint32_t i = thread; i < a.dv; i += step)
        to[2 * s.keys + value_head * a.dv + i] = row[at(a.v_at, key_head) + index * a.dv + i];
    if (index) return;
    for (uint32_t i = thread; i < a.dk; i += step) {
        to[key_head * a.dk + i] = row[at(a.q_at, key_head) + i];
        to[s.keys + key_head * a.dk + i] = row[at(a.k_at, key_head) + i];
    }
}

// ---- single tokens: block (value head, segment), eight threads a column ----

template <int KP>
__global__ void __launch_bounds__(1024)
    step_kernel(tc_gpu_tables tables, tc_gpu_batch batch, const __grid_constant__ tc_gpu_delta a)
{
    extern __shared__ __align__(16) float row[]; // q [dkp] | k [dkp] | v [dv] | o [dv] | kq
    const delta_shape s = shape_of(a);
    let_next_start();
    const tc_gpu_segment g =
        batch.segments[blockIdx.y]; // the host's, as the state: no kernel before this writes it
    const uint32_t value_head = blockIdx.x, key_head = value_head / s.ratio, index = value_head % s.ratio;
    const uint32_t column = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    float *q = row, *k = q + s.dkp, *v = k + s.dkp, *o = v + a.dv, *kq = o + a.dv;
    float *state = state_of(a, g.slot), *ring = ring_of(a, s, state), S[KP], decay, beta;
    float *own = state + ((size_t)value_head * a.dv + (column < a.dv ? column : 0)) * s.dkp;
    load_state<KP>(S, own, part);
    follow_previous();
    if (*(volatile uint32_t *)tables.failed) return;
    for (uint32_t i = threadIdx.x; i < 2 * s.dkp + a.dv; i += blockDim.x) {
        if (i < 2 * s.dkp) {
            const uint32_t which = i / s.dkp, k = i % s.dkp;
            row[i] = k < a.dk ? convolved(a, s, g, ring, 0, which * s.keys + key_head * a.dk + k,
                                          at(which ? a.k_at : a.q_at, key_head) + k)
                              : 0.0f;
        } else {
            const uint32_t c = i - 2 * s.dkp;
            row[i] = convolved(a, s, g, ring, 0, 2 * s.keys + value_head * a.dv + c,
                               at(a.v_at, key_head) + index * a.dv + c);
        }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        float dot = normalise_keys(q, k, a.dk);
        if (threadIdx.x == 0) *kq = dot;
    }
    gates_of(a, s, g.first, value_head, &decay, &beta);
    __syncthreads();
    float out = advance<KP>(S, q, k, part, v[column < a.dv ? column : 0], *kq, decay, beta);
    if (column < a.dv) {
        store_state<KP>(S, own, part);
        if (part == 0) o[column] = out;
    }
    __syncthreads();
    gated_norm(a, s, g.first, value_head, o, threadIdx.x, blockDim.x);
    keep_inputs(a, s, g, ring, 0, value_head, threadIdx.x, blockDim.x);
}

// ---- many tokens ----

// What the ring holds from before the segment, of a key head's channels, to where a state is kept so early
// that some of it still counts. One block.
static __device__ __forceinline__ void keep_ring(const tc_gpu_delta &a, const delta_shape &s,
                                                 const tc_gpu_segment &g, uint32_t key_head)
{
    const float *ring = ring_of(a, s, state_of(a, g.slot));
    const uint32_t values = s.ratio * a.dv, own = 2 * a.dk + values;
    for (int n = 0; n < 2; n++) {
        if (!g.keep_after[n] || g.keep_after[n] >= a.taps) continue;
        float *to = ring_of(a, s, state_of(a, g.keep_slot[n]));
        for (uint32_t i = threadIdx.x; i < a.taps * own; i += blockDim.x) {
            const uint32_t c = i % own;
            const uint32_t channel = c < a.dk     ? key_head * a.dk + c
                                     : c < 2 * a.dk ? s.keys + key_head * a.dk + c - a.dk
                                                    : 2 * s.keys + key_head * values + c - 2 * a.dk;
            to[(size_t)(i / own) * s.channels + channel] = ring[(size_t)(i / own) * s.channels + channel];
        }
    }
}

// Block (token, key head).
__global__ void __launch_bounds__(256) keys_kernel(tc_gpu_batch batch, const __grid_constant__ tc_gpu_delta a)
{
    __shared__ float row[2][KEY_MAX];
    __shared__ float kq;
    const delta_shape s = shape_of(a);
    const uint32_t token = blockIdx.x, key_head = blockIdx.y;
    const tc_gpu_segment g = batch.segments[batch.segment[token]];
    const uint32_t t = token - g.first;
    const float *ring = ring_of(a, s, state_of(a, g.slot));
    if (t == 0) keep_ring(a, s, g, key_head);
    for (uint32_t i = threadIdx.x; i < 2 * a.dk; i += blockDim.x) {
        const uint32_t which = i / a.dk, k = i % a.dk;
        row[which][k] = convolved(a, s, g, ring, t, which * s.keys + key_head * a.dk + k,
                                  at(which ? a.k_at : a.q_at, key_head) + k);
    }
    for (uint32_t i = threadIdx.x; i < s.ratio * a.dv; i += blockDim.x)
        a.v[((size_t)token * a.value_heads + key_head * s.ratio) * a.dv + i] =
            convolved(a, s, g, ring, t, 2 * s.keys + key_head * s.ratio * a.dv + i, at(a.v_at, key_head) + i);
    __syncthreads();
    if (threadIdx.x < 32) {
        float dot = normalise_keys(row[0], row[1], a.dk);
        if (threadIdx.x == 0) kq = dot;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 2 * s.dkp; i += blockDim.x) {
        const uint32_t which = i / s.dkp, k = i % s.dkp;
        (which ? a.k : a.q)[((size_t)token * a.key_heads + key_head) * s.dkp + k] =
            k < a.dk ? row[which][k] : 0.0f;
    }
    if (threadIdx.x < s.ratio) {
        const uint32_t value_head = key_head * s.ratio + threadIdx.x;
        float decay, beta;
        gates_of(a, s, token, value_head, &decay, &beta);
        *(float4 *)(a.scalars + ((size_t)token * a.value_heads + value_head) * 4) =
            make_float4(kq, decay, beta, 0);
    }
}

// Block (strip of 32 columns, value head, segment): 256 threads, eight a column.
template <int KP>
__global__ void __launch_bounds__(PARTS *STRIP)
    scan_kernel(tc_gpu_tables tables, tc_gpu_batch batch, const __grid_constant__ tc_gpu_delta a)
{
    constexpr uint32_t DKP = KP * PARTS;
    __shared__ __align__(16) float q[STAGE][DKP], k[STAGE][DKP], v[STAGE][STRIP], scalars[STAGE][4];
    const delta_shape s = shape_of(a);
    const tc_gpu_segment g = batch.segments[blockIdx.z];
    const uint32_t value_head = blockIdx.y, key_head = value_head / s.ratio, first = blockIdx.x * STRIP;
    const uint32_t column = first + threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const size_t own_at = ((size_t)value_head * a.dv + (column < a.dv ? column : 0)) * s.dkp;
    float *own = state_of(a, g.slot) + own_at, S[KP];
    if (*(volatile uint32_t *)tables.failed) return;
    load_state<KP>(S, own, part); // KP * PARTS is the padded key dimension
    for (uint32_t base = 0, count; base < g.tokens; base += count) {
        count = min(g.tokens - base, (uint32_t)STAGE);
        for (int n = 0; n < 2; n++)
            if (g.keep_after[n] > base) count = min(count, g.keep_after[n] - base);
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < count * DKP / 4; i += PARTS * STRIP) {
            const uint32_t t = i / (DKP / 4), at = i % (DKP / 4) * 4;
            const size_t from = ((size_t)(g.first + base + t) * a.key_heads + key_head) * s.dkp + at;
            const float4 zero = make_float4(0, 0, 0, 0);
            *(float4 *)&q[t][at] = at < s.dkp ? *(const float4 *)(a.q + from) : zero;
            *(float4 *)&k[t][at] = at < s.dkp ? *(const float4 *)(a.k + from) : zero;
        }
        for (uint32_t i = threadIdx.x; i < count * STRIP; i += PARTS * STRIP) {
            const uint32_t t = i / STRIP, c = first + i % STRIP;
            v[t][i % STRIP] =
                c < a.dv ? a.v[((size_t)(g.first + base + t) * a.value_heads + value_head) * a.dv + c] : 0.0f;
        }
        if (threadIdx.x < count)
            *(float4 *)scalars[threadIdx.x] =
                *(const float4 *)(a.scalars +
                                  ((size_t)(g.first + base + threadIdx.x) * a.value_heads + value_head) * 4);
        __syncthreads();
        for (uint32_t t = 0; t < count; t++) {
            float o = advance<KP>(S, q[t], k[t], part, v[t][threadIdx.x / PARTS], scalars[t][0],
                                  scalars[t][1], scalars[t][2]);
            if (part == 0 && column < a.dv)
                a.out[((size_t)(g.first + base + t) * a.value_heads + value_head) * a.dv + column] = o;
        }
        for (int n = 0; n < 2; n++)
            if (g.keep_after[n] == base + count && column < a.dv)
                store_state<KP>(S, state_of(a, g.keep_slot[n]) + own_at, part);
    }
    if (column < a.dv) store_state<KP>(S, own, part);
}

// One warp a (token, value head): the norm in place, and the ring.
__global__ void __launch_bounds__(128)
    norm_kernel(tc_gpu_tables tables, tc_gpu_batch batch, const __grid_constant__ tc_gpu_delta a)
{
    __shared__ float o[4][256];
    const delta_shape s = shape_of(a);
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, item = blockIdx.x * 4 + warp;
    const uint32_t token = item / a.value_heads, value_head = item % a.value_heads;
    if (token >= batch.tokens || *(volatile uint32_t *)tables.failed) return;
    const tc_gpu_segment g = batch.segments[batch.segment[token]];
    const float *from = a.out + (size_t)item * a.dv;
    for (uint32_t i = lane; i < a.dv; i += 32) o[warp][i] = from[i];
    __syncwarp();
    gated_norm(a, s, token, value_head, o[warp], lane, 32);
    const uint32_t t = token - g.first;
    for (int n = 0; n < 2; n++)
        if (t < g.keep_after[n] && t + a.taps >= g.keep_after[n])
            keep_inputs(a, s, g, ring_of(a, s, state_of(a, g.keep_slot[n])), t, value_head, lane, 32);
    if (t + a.taps >= g.tokens)
        keep_inputs(a, s, g, ring_of(a, s, state_of(a, g.slot)), t, value_head, lane, 32);
}

template <int KP>
static int run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_batch *batch,
               const tc_gpu_delta *a)
{
    const uint32_t dkp = (a->dk + 15) & ~15u;
    if (a->one_each) {
        const uint32_t threads = (a->dv * PARTS + 31) / 32 * 32;
        return launch_chained(step_kernel<KP>, dim3(a->value_heads, batch->segment_count), threads,
                              (2 * dkp + 2 * a->dv + 4) * 4, stream, *tables, *batch, *a);
    }
    keys_kernel<<<dim3(batch->tokens, a->key_heads), 256, 0, stream>>>(*batch, *a);
    scan_kernel<KP><<<dim3((a->dv + STRIP - 1) / STRIP, a->value_heads, batch->segment_count), PARTS * STRIP,
                      0, stream>>>(*tables, *batch, *a);
    norm_kernel<<<(batch->tokens * a->value_heads + 3) / 4, 128, 0, stream>>>(*tables, *batch, *a);
    return launched();
}

int tc_gpu_delta_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_batch *batch,
                     const tc_gpu_delta *args)
{
    const uint32_t dkp = (args->dk + 15) & ~15u;
    if (dkp == 16) return run<2>(stream, tables, batch, args);
    if (dkp == 32) return run<4>(stream, tables, batch, args);
    if (dkp == 64) return run<8>(stream, tables, batch, args);
    if (dkp == 128) return run<16>(stream, tables, batch, args);
    return (int)cudaErrorNotSupported;
}
