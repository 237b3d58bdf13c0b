// SPDX-License-Identifier: Apache-2.0
// Owns: full attention over the paged KV pool (16-bit floats): per-head norm and rotary, append, attend,
// gate. A warp meets 16 rows (tokens times the query heads of a KV head) with keys and values on the tensor
// cores, in steps of 32 positions; every 256 positions, counted from the session's start, make a partial
// result, and the partials are folded in rising order. Prompts fold as they go; a step of single tokens deals
// the chunks out over blocks and folds afterwards: the same operations in the same order either way.
#include "gpu-core/dev/cuda/q4.cuh"

#include <cuda_fp16.h>

enum { KEYS = 32, ATTEND_WARPS = 4, ATTEND_THREADS = 128, PAGE = 64, DIM_MAX = 256 };

// ---- rows of q, k, v ----

static __device__ __forceinline__ size_t page_row(const tc_gpu_attention &a, uint32_t page, bool value,
                                                  uint32_t head)
{
    const uint32_t sides = a.latent ? 1 : 2;
    return ((((size_t)page * a.kv_layers + a.kv_layer) * sides + (value && !a.latent)) * a.kv_heads + head) *
           PAGE;
}

// One warp a (token, head): query heads, then key heads, then value heads. ROW: room for a head's numbers.
template <int ROW>
__global__ void __launch_bounds__(128)
    prepare_kernel(tc_gpu_batch batch, const __grid_constant__ tc_gpu_attention a)
{
    __shared__ float rows[4][ROW];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, sides = a.latent ? 1 : 2;
    const uint32_t heads = a.heads + sides * a.kv_heads, item = blockIdx.x * 4 + warp, t = item / heads;
    uint32_t head = item % heads;
    let_next_start();
    follow_previous();
    if (t >= batch.tokens) return;
    const bool query = head < a.heads, value = head >= a.heads + a.kv_heads;
    const uint32_t position = batch.position[t], half_rotary = a.rotary / 2;
    float *row = rows[warp];
    const float *from;
    if (query)
        from = a.q + ((size_t)t * a.heads + head) * a.q_stride;
    else
        head -= a.heads + (value ? a.kv_heads : 0),
            from = (value ? a.v : a.k) + ((size_t)t * a.kv_heads + head) * a.dim;
    const float *multiplier = query ? a.q_norm : value ? NULL : a.k_norm;
    const uint32_t normed = a.latent && !query ? a.value_dim : a.dim;
    float sum = 0, factor = 1;
    for (uint32_t i = lane; i < normed; i += 32) sum = fmaf(from[i], from[i], sum);
    if (multiplier) {
#pragma unroll
        for (int m = 16; m; m >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, m);
        factor = 1.0f / sqrtf(sum / (float)normed + (query ? a.eps : a.k_eps));
    }
    for (uint32_t i = lane; i < a.dim; i += 32) {
        float v = multiplier && i < normed ? from[i] * factor * multiplier[i] : from[i];
        row[i] = a.clip > 0 ? fminf(fmaxf(v, -a.clip), a.clip) : v;
    }
    __syncwarp();
    if (!value)
        for (uint32_t i = lane; i < half_rotary; i += 32) {
            float sine, cosine, angle = (float)position * a.inverse_frequency[i];
            sincosf(angle, &sine, &cosine);
            sine *= a.amplitude;
            cosine *= a.amplitude;
            const uint32_t one = a.rotary_at + (a.interleaved ? 2 * i : i),
                           two = one + (a.interleaved ? 1 : half_rotary);
            float x = row[one], y = row[two];
            row[one] = x * cosine - y * sine;
            row[two] = y * cosine + x * sine;
        }
    __syncwarp();
    __half *to;
    float scale = 1;
    if (query) {
        to = (__half *)a.q_half + ((size_t)t * a.heads + head) * a.padded;
        scale = 1.44269504f * a.scale; // scores are exponents of two
    } else {
        const tc_gpu_segment &s = batch.segments[batch.segment[t]];
        uint32_t page = batch.pages[s.pages_at + position / PAGE];
        to = (__half *)a.kv + (page_row(a, page, value, head) + position % PAGE) * a.padded;
    }
    for (uint32_t i = lane; i < a.padded; i += 32) {
        float v = i < a.dim ? row[i] * scale : 0.0f;
        to[i] = __float2half_rn(fminf(fmaxf(v, -65504.0f), 65504.0f));
    }
}

template <int ROW>
static int prepare(tc_gpu_stream stream, const tc_gpu_batch *batch, const tc_gpu_attention *args)
{
    uint32_t items = batch->tokens * (args->heads + (args->latent ? 1 : 2) * args->kv_heads);
    return launch_chained(prepare_kernel<ROW>, (items + 3) / 4, 128, 0, stream, *batch, *args);
}

// Positions before those that the row of a token at `position` sees.
static __device__ __forceinline__ uint32_t hidden_before(const tc_gpu_attention &a, uint32_t position)
{
    return a.window && position + 1 > a.window ? position + 1 - a.window : 0;
}

// ---- folding ----

struct fold_factors {
    float total, chunk, max;
};

static __device__ __forceinline__ fold_factors fold_of(float total_max, float chunk_max)
{
    fold_factors f;
    f.max = fmaxf(total_max, chunk_max);
    f.total = total_max == -CUDART_INF_F ? 0.0f : exp2f(total_max - f.max);
    f.chunk = chunk_max == -CUDART_INF_F ? 0.0f : exp2f(chunk_max - f.max);
    return f;
}

static __device__ __forceinline__ float fold(float total, float chunk, const fold_factors &f)
{
    return __fadd_rn(__fmul_rn(total, f.total), __fmul_rn(chunk, f.chunk));
}

// max, sum: of the row, in exponents of two; sink: NULL, or a logit that has its part of the sum and no
// value.
static __device__ __forceinline__ float finish(float total, float max, float sum, const float *sink,
                                               const float *gate)
{
    if (sink) {
        const float own = *sink * 1.44269504f, most = fmaxf(max, own), part = exp2f(max - most);
        total = __fmul_rn(total, part);
        sum = __fadd_rn(__fmul_rn(sum, part), exp2f(own - most));
    }
    float y = __fdiv_rn(total, sum);
    return gate ? __fdiv_rn(y, __fadd_rn(1.0f, expf(-*gate))) : y;
}

// ---- a warp, 16 rows, one step of 32 keys ----

static __device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void load_4(uint32_t r[4], const __half *at)
{
    uint32_t p = (uint32_t)__cvta_generic_to_shared(at);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p));
}

static __device__ __forceinline__ void load_4_transposed(uint32_t r[4], const __half *at)
{
    uint32_t p = (uint32_t)__cvta_generic_to_shared(at);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p));
}

static __device__ __forceinline__ uint32_t pack_half(float a, float b)
{
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
}

// Per warp; index 0: row g, 1: row g + 8.
template <int DP> struct attend_state {
    uint32_t q[DP / 16][4];
    float o[DP / 8][4];
    float max[2], sum[2];
};

template <int DP> static __device__ __forceinline__ void chunk_clear(attend_state<DP> &w)
{
#pragma unroll
    for (int i = 0; i < DP / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) w.o[i][j] = 0;
    w.max[0] = w.max[1] = -CUDART_INF_F;
    w.sum[0] = w.sum[1] = 0;
}

// k, v: [KEYS][DP + 8]. The row sees keys [hidden[i], seen[i]) of this step (either may lie outside).
template <int DP>
static __device__ __forceinline__ void step(attend_state<DP> &w, const __half *k, const __half *v,
                                            const int hidden[2], const int seen[2])
{
    constexpr int LD = DP + 8;
    const uint32_t lane = threadIdx.x & 31, t2 = (lane & 3) * 2;
    float s[KEYS / 8][4] = {};
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int d = 0; d < DP / 32; d++) {
            uint32_t b[4]; // 8 keys, 32 dimensions
            load_4(b, k + (n * 8 + (lane & 7)) * LD + d * 32 + (lane >> 3) * 8);
            mma_f16(s[n], w.q[2 * d], b[0], b[1]);
            mma_f16(s[n], w.q[2 * d + 1], b[2], b[3]);
        }
    float most[2] = {w.max[0], w.max[1]};
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = (int)(n * 8 + t2 + (i & 1));
            if (key >= seen[i >> 1] || key < hidden[i >> 1]) s[n][i] = -CUDART_INF_F;
            most[i >> 1] = fmaxf(most[i >> 1], s[n][i]);
        }
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 1));
        most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 2));
        factor[i] = most[i] == w.max[i] ? 1.0f : exp2f(w.max[i] - most[i]);
        w.max[i] = most[i];
        w.sum[i] = __fmul_rn(w.sum[i], factor[i]);
    }
    if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f))
#pragma unroll
        for (int j = 0; j < DP / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) w.o[j][i] = __fmul_rn(w.o[j][i], factor[i >> 1]);
    float sums[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = s[n][i] == -CUDART_INF_F ? 0.0f : exp2f(s[n][i] - w.max[i >> 1]);
            sums[i >> 1] = __fadd_rn(sums[i >> 1], s[n][i]);
        }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 1);
        sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 2);
        w.sum[i] = __fadd_rn(w.sum[i], sums[i]);
    }
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        const uint32_t p[4] = {pack_half(s[2 * n][0], s[2 * n][1]), pack_half(s[2 * n][2], s[2 * n][3]),
                               pack_half(s[2 * n + 1][0], s[2 * n + 1][1]),
                               pack_half(s[2 * n + 1][2], s[2 * n + 1][3])};
#pragma unroll
        for (int d = 0; d < DP / 16; d++) {
            uint32_t b[4]; // 16 keys, 16 dimensions
            load_4_transposed(b, v + (n * 16 + (lane & 15)) * LD + d * 16 + (lane >> 4) * 8);
            mma_f16(w.o[2 * d], p, b[0], b[1]);
            mma_f16(w.o[2 * d + 1], p, b[2], b[3]);
        }
    }
}

template <int DP> struct attend_memory {
    __half k[2][KEYS][DP + 8], v[2][KEYS][DP + 8];
};

// Positions [first, first + KEYS) of a KV head, those from `end` on as zeros.
template <int DP>
static __device__ __forceinline__ void stage(attend_memory<DP> &m, uint32_t at, const tc_gpu_batch &batch,
                                             const tc_gpu_attention &a, const tc_gpu_segment &s,
                                             uint32_t head, uint32_t first, uint32_t end)
{
    constexpr uint32_t PIECES = DP / 8;
    const uint32_t page = first < end ? batch.pages[s.pages_at + first / PAGE] : 0; // a step lies in one page
    for (uint32_t i = threadIdx.x; i < 2 * KEYS * PIECES; i += ATTEND_THREADS) {
        uint32_t value = i / (KEYS * PIECES), key = i / PIECES % KEYS, piece = i % PIECES;
        __half *to = (value ? m.v : m.k)[at][key] + piece * 8;
        if (first + key < end && piece * 8 < a.padded) {
            const __half *from = (const __half *)a.kv +
                                 (page_row(a, page, value, head) + (first + key) % PAGE) * a.padded +
                                 piece * 8;
            uint32_t p = (uint32_t)__cvta_generic_to_shared(to);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(p), "l"(from));
        } else {
            *(uint4 *)to = make_uint4(0, 0, 0, 0);
        }
    }
    asm volatile("cp.async.commit_group;");
}

// A chunk's result of the warp's rows, `part` being the chunk's first.
template <int DP>
static __device__ __forceinline__ void store_part(const tc_gpu_attention &a, const attend_state<DP> &w,
                                                  size_t part, const uint32_t row[2], uint32_t rows)
{
    const uint32_t t2 = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (row[i] >= rows) continue;
        float *to = a.partial + (part + row[i]) * a.padded;
#pragma unroll
        for (int d = 0; d < DP / 8; d++)
            if (d * 8 < a.padded)
                *(float2 *)(to + d * 8 + t2) = make_float2(w.o[d][2 * i], w.o[d][2 * i + 1]);
        if (t2 == 0) *(float2 *)(a.state + (part + row[i]) * 2) = make_float2(w.max[i], w.sum[i]);
    }
}

// Of the chunks met so far, by row.
struct attend_total {
    float max[2], sum[2];
};

// Folds a chunk into the rows' outputs, at their places among [tokens][heads]; the last one finishes them.
template <int DP>
static __device__ __forceinline__ void fold_rows(const tc_gpu_attention &a, const attend_state<DP> &w,
                                                 const uint32_t row[2], uint32_t rows, const size_t at[2],
                                                 bool first, bool last, attend_total &total)
{
    const uint32_t t2 = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (row[i] >= rows) continue;
        const fold_factors f = fold_of(total.max[i], w.max[i]);
        total.max[i] = f.max;
        total.sum[i] = fold(total.sum[i], w.sum[i], f);
        float *to = a.out + at[i] * a.value_dim;
        const float *gate = a.q + at[i] * a.q_stride + a.dim;
        const float *sink = a.sinks ? a.sinks + at[i] % a.heads : NULL;
#pragma unroll
        for (int d = 0; d < DP / 8; d++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                uint32_t column = d * 8 + t2 + c;
                if (column >= a.value_dim) continue;
                float v = fold(first ? 0.0f : to[column], w.o[d][2 * i + c], f);
                to[column] =
                    last ? finish(v, total.max[i], total.sum[i], sink, a.gated ? gate + column : NULL) : v;
            }
    }
}

// Block: 64 rows of one segment and KV head. SPLIT: blockIdx.x is the chunk, blockIdx.z the segment; else
// blockIdx.x is the row block and all chunks are met.
template <int DP, bool SPLIT>
__global__ void __launch_bounds__(ATTEND_THREADS)
    attend_kernel(tc_gpu_batch batch, const __grid_constant__ tc_gpu_attention a)
{
    extern __shared__ __align__(16) uint8_t raw[];
    attend_memory<DP> &memory = *(attend_memory<DP> *)raw;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t2 = (lane & 3) * 2;
    const uint32_t head = blockIdx.y, group = a.heads / a.kv_heads;
    const tc_gpu_segment s = batch.segments[SPLIT ? blockIdx.z : a.block_segment[blockIdx.x]];
    const uint32_t row0 = SPLIT ? 0 : a.block_row[blockIdx.x], rows = s.tokens * group;
    const uint32_t row[2] = {row0 + warp * 16 + g, row0 + warp * 16 + g + 8};
    const uint32_t last_row = min(row0 + TC_GPU_ATTENTION_ROWS, rows) - 1;
    const uint32_t end = s.position + last_row / group + 1;             // positions that anyone here sees
    const uint32_t begin = hidden_before(a, s.position + row0 / group); // positions that nobody here sees
    const uint32_t first_chunk = begin / TC_GPU_CHUNK;
    uint32_t chunk = SPLIT ? blockIdx.x : first_chunk;
    let_next_start();
    follow_previous();
    const uint32_t chunk_end = SPLIT ? chunk + 1 : (end + TC_GPU_CHUNK - 1) / TC_GPU_CHUNK;
    if (chunk * TC_GPU_CHUNK >= end || chunk < first_chunk) return;
    attend_state<DP> w;
    size_t at[2];            // the rows' places among [tokens][heads]
    int limit[2], hidden[2]; // they see positions from hidden up to limit
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t r = row[i] < rows ? row[i] : 0;
        at[i] = (size_t)(s.first + r / group) * a.heads + head * group + r % group;
        limit[i] = row[i] < rows ? (int)(s.position + r / group + 1) : 0;
        hidden[i] = (int)hidden_before(a, s.position + r / group);
    }
#pragma unroll
    for (int d = 0; d < DP / 16; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t column = d * 16 + t2 + (i >> 1) * 8;
            w.q[d][i] = row[i & 1] < rows && column < a.padded
                            ? *(const uint32_t *)((const __half *)a.q_half + at[i & 1] * a.padded + column)
                            : 0;
        }
    const bool idle = row0 + warp * 16 >= rows; // it still helps to stage
    attend_total total = {{-CUDART_INF_F, -CUDART_INF_F}, {0, 0}};
    const uint32_t steps_end = (min(chunk_end * TC_GPU_CHUNK, end) + KEYS - 1) / KEYS;
    uint32_t i_step = chunk * TC_GPU_CHUNK / KEYS;
    stage<DP>(memory, i_step & 1, batch, a, s, head, i_step * KEYS, end);
    for (; chunk < chunk_end; chunk++) {
        chunk_clear(w);
        const uint32_t chunk_steps = min((chunk + 1) * TC_GPU_CHUNK / KEYS, steps_end);
        for (; i_step < chunk_steps; i_step++) {
            asm volatile("cp.async.wait_group 0;");
            __syncthreads();
            if (i_step + 1 < steps_end)
                stage<DP>(memory, (i_step + 1) & 1, batch, a, s, head, (i_step + 1) * KEYS, end);
            const int at_key = (int)(i_step * KEYS);
            const int seen[2] = {limit[0] - at_key, limit[1] - at_key};
            const int unseen[2] = {hidden[0] - at_key, hidden[1] - at_key};
            if (!idle) step<DP>(w, memory.k[i_step & 1][0], memory.v[i_step & 1][0], unseen, seen);
        }
        if (SPLIT) {
            const size_t part = ((size_t)(s.first * a.kv_heads + head) * a.chunks_max + chunk) * group;
            store_part<DP>(a, w, part, row, rows);
            continue;
        }
        fold_rows<DP>(a, w, row, rows, at, chunk == first_chunk, chunk + 1 == chunk_end, total);
    }
}

// Block (query head, token): folds the chunks of a split row.
__global__ void __launch_bounds__(DIM_MAX)
    fold_kernel(tc_gpu_batch batch, const __grid_constant__ tc_gpu_attention a)
{
    const uint32_t group = a.heads / a.kv_heads, head = blockIdx.x / group, column = threadIdx.x;
    const tc_gpu_segment s = batch.segments[blockIdx.y];
    const uint32_t chunks = (s.position + TC_GPU_CHUNK) / TC_GPU_CHUNK;
    const size_t part = (size_t)(s.first * a.kv_heads + head) * a.chunks_max;
    float max = -CUDART_INF_F, sum = 0, total = 0;
    let_next_start();
    follow_previous();
    if (column >= a.value_dim) return;
    for (uint32_t c = hidden_before(a, s.position) / TC_GPU_CHUNK; c < chunks; c++) {
        const size_t at = (part + c) * group + blockIdx.x % group;
        const float2 state = *(const float2 *)(a.state + at * 2);
        const fold_factors f = fold_of(max, state.x);
        max = f.max;
        sum = fold(sum, state.y, f);
        total = fold(total, a.partial[at * a.padded + column], f);
    }
    const size_t row = (size_t)s.first * a.heads + blockIdx.x;
    a.out[row * a.value_dim + column] = finish(total, max, sum, a.sinks ? a.sinks + blockIdx.x : NULL,
                                               a.gated ? a.q + row * a.q_stride + a.dim + column : NULL);
}

template <int DP>
static int attend(tc_gpu_stream stream, const tc_gpu_batch *batch, const tc_gpu_attention *a)
{
    const int bytes = (int)sizeof(attend_memory<DP>);
    if (a->split) {
        dim3 grid(a->chunks_max, a->kv_heads, batch->segment_count);
        int code = launch_chained(attend_kernel<DP, true>, grid, ATTEND_THREADS, bytes, stream, *batch, *a);
        if (code) return code;
        return launch_chained(fold_kernel, dim3(a->heads, batch->segment_count), DIM_MAX, 0, stream, *batch,
                              *a);
    }
    return launch_chained(attend_kernel<DP, false>, dim3(a->blocks, a->kv_heads), ATTEND_THREADS, bytes,
                          stream, *batch, *a);
}

int tc_gpu_attention_run(tc_gpu_stream stream, const tc_gpu_batch *batch, const tc_gpu_attention *args)
{
    int code = prepare<DIM_MAX>(stream, batch, args);
    if (code) return code;
    if (args->padded <= 32) return attend<32>(stream, batch, args);
    if (args->padded <= 64) return attend<64>(stream, batch, args);
    if (args->padded <= 128) return attend<128>(stream, batch, args);
    return attend<256>(stream, batch, args);
}

// ---- wide heads ----

enum { WIDE_WARPS = 8, WIDE_THREADS = WIDE_WARPS * 32, WIDE_EACH = TC_GPU_WIDE_DIM_MAX / WIDE_THREADS };

static __device__ __forceinline__ float wide_reduce(float v, bool largest, float *of_warp)
{
#pragma unroll
    for (int m = 16; m; m >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, v, m);
        v = largest ? fmaxf(v, other) : v + other;
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = v;
    __syncthreads();
    v = of_warp[0];
    for (int w = 1; w < WIDE_WARPS; w++) v = largest ? fmaxf(v, of_warp[w]) : v + of_warp[w];
    return v;
}

// Block (query head, token): chunk after chunk, a score a thread, then an output dimension a thread. Every
// head reads all keys again: what many heads on few keys could share is left to the second cache.
__global__ void __launch_bounds__(WIDE_THREADS)
    wide_kernel(tc_gpu_batch batch, const __grid_constant__ tc_gpu_attention a)
{
    __shared__ float q[TC_GPU_WIDE_DIM_MAX], p[TC_GPU_CHUNK], of_warp[WIDE_WARPS];
    const uint32_t head = blockIdx.x, t = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
    const uint32_t position = batch.position[t], end = position + 1, hidden = hidden_before(a, position);
    const tc_gpu_segment s = batch.segments[batch.segment[t]];
    const size_t at = (size_t)t * a.heads + head;
    let_next_start();
    follow_previous();
    for (uint32_t i = threadIdx.x; i < a.dim; i += WIDE_THREADS)
        q[i] = __half2float(((const __half *)a.q_half)[at * a.padded + i]);
    __syncthreads();
    float total_max = -CUDART_INF_F, total_sum = 0, total[WIDE_EACH] = {};
    for (uint32_t base = hidden / TC_GPU_CHUNK * TC_GPU_CHUNK; base < end; base += TC_GPU_CHUNK) {
        const uint32_t key = base + threadIdx.x, last = min(base + TC_GPU_CHUNK, end);
        float score = -CUDART_INF_F;
        if (key >= hidden && key < end) {
            const uint32_t page = batch.pages[s.pages_at + key / PAGE];
            const __half *k =
                (const __half *)a.kv + (page_row(a, page, false, kv_head) + key % PAGE) * a.padded;
            score = 0;
            for (uint32_t i = 0; i < a.padded;
                 i += 8) { // padded is a multiple of 16; what is behind dim is zero
                const uint4 eight = *(const uint4 *)(k + i);
                const __half2 *two = (const __half2 *)&eight;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 v = __half22float2(two[j]);
                    if (i + 2 * j < a.dim) score = fmaf(q[i + 2 * j], v.x, score);
                    if (i + 2 * j + 1 < a.dim) score = fmaf(q[i + 2 * j + 1], v.y, score);
                }
            }
        }
        const float max = wide_reduce(score, true, of_warp);
        const float own = score == -CUDART_INF_F ? 0.0f : exp2f(score - max);
        p[threadIdx.x] = own;
        const float sum = wide_reduce(own, false, of_warp); // its barriers let everyone see p
        const fold_factors f = fold_of(total_max, max);
        total_max = f.max;
        total_sum = fold(total_sum, sum, f);
#pragma unroll
        for (int e = 0; e < WIDE_EACH; e++) {
            const uint32_t column = e * WIDE_THREADS + threadIdx.x;
            if (column >= a.value_dim) break;
            float acc = 0;
            for (uint32_t j = (base > hidden ? base : hidden); j < last; j++) {
                const uint32_t page = batch.pages[s.pages_at + j / PAGE];
                const __half *v =
                    (const __half *)a.kv + (page_row(a, page, true, kv_head) + j % PAGE) * a.padded;
                acc = fmaf(p[j - base], __half2float(v[column]), acc);
            }
            total[e] = fold(total[e], acc, f);
        }
        __syncthreads();
    }
    const float *sink = a.sinks ? a.sinks + head : NULL;
#pragma unroll
    for (int e = 0; e < WIDE_EACH; e++) {
        const uint32_t column = e * WIDE_THREADS + threadIdx.x;
        if (column >= a.value_dim) break;
        a.out[at * a.value_dim + column] = finish(total[e], total_max, total_sum, sink,
                                                  a.gated ? a.q + at * a.q_stride + a.dim + column : NULL);
    }
}

int tc_gpu_attention_wide(tc_gpu_stream stream, const tc_gpu_batch *batch, const tc_gpu_attention *args)
{
    int code = prepare<TC_GPU_WIDE_DIM_MAX>(stream, batch, args);
    if (code) return code;
    return launch_chained(wide_kernel, dim3(args->heads, batch->tokens), WIDE_THREADS, 0, stream, *batch,
                          *args);
}
