// SPDX-License-Identifier: Apache-2.0
// Owns: the element-wise operators on rows: RMS norm, residual adds, the combination of routed and shared
// experts (with the wait for the workers' answers), SiLU, picking rows for the head. One block a row; the
// order of every sum depends on the row's length only.
#include "gpu-core/dev/cuda/q4.cuh"

#include "proto/shm_layout.h"

enum { ROW_THREADS = 512, SUMS_AT_ONCE = 4 };

static __device__ __forceinline__ float block_sum(float v)
{
    __shared__ float of_warp[ROW_THREADS / 32];
#pragma unroll
    for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = v;
    __syncthreads();
    v = of_warp[threadIdx.x & (ROW_THREADS / 32 - 1)];
#pragma unroll
    for (int m = ROW_THREADS / 64; m; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
    __syncthreads();
    return v;
}

// y = x * multiplier / rms; x may have been written by this thread just before. The same for a second
// multiplier where there is one.
static __device__ __forceinline__ void norm_row(const float *x, const float *multiplier, uint32_t dim,
                                                float eps, float *y, const float *other = NULL,
                                                float *other_y = NULL)
{
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < dim; i += ROW_THREADS) sum = fmaf(x[i], x[i], sum);
    float factor = 1.0f / sqrtf(block_sum(sum) / (float)dim + eps);
    for (uint32_t i = threadIdx.x; i < dim; i += ROW_THREADS) {
        y[i] = x[i] * factor * multiplier[i];
        if (other) other_y[i] = x[i] * factor * other[i];
    }
}

__global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_kernel(const float *x, const float *multiplier, uint32_t dim, float eps, float *y)
{
    size_t at = (size_t)blockIdx.x * dim;
    norm_row(x + at, multiplier, dim, eps, y + at);
}

int tc_gpu_rmsnorm(tc_gpu_stream stream, const float *x, const float *multiplier, uint32_t n, uint32_t dim,
                   float eps, float *y)
{
    rmsnorm_kernel<<<n, ROW_THREADS, 0, stream>>>(x, multiplier, dim, eps, y);
    return launched();
}

__global__ void __launch_bounds__(ROW_THREADS) add_kernel(tc_gpu_tables tables, tc_gpu_row_args a)
{
    size_t at = (size_t)blockIdx.x * a.dim;
    let_next_start();
    follow_previous();
    if (*(volatile uint32_t *)tables.failed) return;
    for (uint32_t i = threadIdx.x; i < a.dim; i += ROW_THREADS) {
        float v = a.x[at + i] + a.y[at + i];
        a.x[at + i] = v;
        if (a.residual) a.residual[at + i] = v;
    }
    if (a.norm) norm_row(a.x + at, a.norm, a.dim, a.eps, a.normed + at, a.ahead_norm, a.ahead_normed + at);
}

int tc_gpu_add(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_row_args *args)
{
    return launch_chained(add_kernel, args->n, ROW_THREADS, 0, stream, *tables, *args);
}

// ---- the join ----

static constexpr uint64_t CALL_US_MAX = 1000000; // a worker may say anything

static __device__ __forceinline__ uint64_t load_acquire_system(const void *at)
{
    uint64_t v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(at) : "memory");
    return v;
}

static __device__ __forceinline__ uint32_t load_system(const void *at)
{
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

// Waits until mailbox b has answered call `sequence`; 0: well; else why not. One thread.
static __device__ uint32_t wait_for(const tc_gpu_mailbox &box, uint64_t sequence, uint64_t until_ns,
                                    uint32_t n, uint32_t dim)
{
    while (load_acquire_system(box.memory + TC_SHM_REPLY_FLAG_AT) != sequence) {
        if (load_system(box.memory + TC_SHM_ABORT_AT)) return TC_GPU_JOIN_ABORTED;
        if (now_ns() > until_ns) return TC_GPU_JOIN_LATE;
    }
    const char *reply = box.memory + TC_SHM_REPLY_AT; // seq, status, tokens, hidden
    if (load_acquire_system(reply) != sequence) return TC_GPU_JOIN_WRONG;
    if (load_system(reply + 8) != 0) return TC_GPU_JOIN_REFUSED;
    return load_system(reply + 12) == n && load_system(reply + 16) == dim ? 0 : TC_GPU_JOIN_WRONG;
}

static __device__ void add_times(const tc_gpu_mailboxes &boxes, uint64_t begin)
{
    tc_gpu_sums *sums = boxes.sums;
    sums->wait_ns += now_ns() - begin;
    if (!boxes.list) return;
    sums->side_ns += begin - boxes.list->called_ns;
    if (!boxes.list->asked) return;
    uint64_t slowest = 0;
    for (uint32_t b = 0; b < boxes.count; b++) {
        const uint64_t us = boxes.posted[b] ? load_acquire_system(boxes.box[b].memory + TC_SHM_REPLY_AT +
                                                                  offsetof(tc_shm_reply_record, compute_us))
                                            : 0;
        if (us > slowest && us < CALL_US_MAX) slowest = us;
    }
    sums->calls++;
    sums->asked += boxes.list->asked;
    sums->compute_us += slowest;
}

// The first block's look at the mailboxes, for all.
static __device__ bool look(const tc_gpu_tables &tables, const tc_gpu_mailboxes &boxes, uint64_t sequence,
                            uint32_t n, uint32_t dim)
{
    const uint64_t begin = now_ns();
    bool good = *(volatile uint32_t *)tables.failed == 0;
    for (uint32_t b = 0; good && b < boxes.count; b++) {
        uint32_t why =
            boxes.posted[b] ? wait_for(boxes.box[b], sequence, begin + boxes.deadline_ns, n, dim) : 0;
        if (why) atomicCAS(tables.failed, 0u, (boxes.layer + 1) | why << 16);
        good = !why;
    }
    if (good)
        asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(boxes.joined), "l"(sequence) : "memory");
    if (good) add_times(boxes, begin);
    return good;
}

// Whether the first block found all answers. It runs before this one does, and its wait has an end.
static __device__ bool look_at_first(const tc_gpu_tables &tables, const tc_gpu_mailboxes &boxes,
                                     uint64_t sequence)
{
    uint64_t joined;
    for (;;) {
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(joined) : "l"(boxes.joined) : "memory");
        if (joined == sequence) return true;
        if (*(volatile uint32_t *)tables.failed) return false;
    }
}

// Whether every posted mailbox has answered. The whole block. One block a launch asks the host's memory: each
// look there takes microseconds, and looks at one line go one after the other.
static __device__ bool join(const tc_gpu_tables &tables, const tc_gpu_mailboxes &boxes, uint32_t n,
                            uint32_t dim)
{
    __shared__ uint32_t fine;
    if (threadIdx.x == 0) {
        const uint64_t sequence = *boxes.sequence + boxes.layer;
        fine = blockIdx.x ? look_at_first(tables, boxes, sequence) : look(tables, boxes, sequence, n, dim);
    }
    __syncthreads();
    return fine;
}

// Some at once: each read of the host's memory takes a microsecond, ten where the link is busy.
static __device__ __forceinline__ void read_sums(long long sum[SUMS_AT_ONCE], const tc_gpu_row_args &a,
                                                 const tc_gpu_mailboxes &boxes, size_t at, uint32_t begin)
{
#pragma unroll
    for (uint32_t k = 0, i = begin; k < SUMS_AT_ONCE; k++, i += ROW_THREADS)
        sum[k] = a.sum && i < a.dim ? a.sum[at + i] : 0;
    for (uint32_t b = 0; b < boxes.count; b++) {
        if (!boxes.posted[b]) continue;
        const long long *more = (const long long *)(boxes.box[b].memory + boxes.box[b].sum_at) + at;
        long long read[SUMS_AT_ONCE];
#pragma unroll
        for (uint32_t k = 0, i = begin; k < SUMS_AT_ONCE; k++, i += ROW_THREADS)
            read[k] = i < a.dim ? __ldcv(more + i) : 0;
#pragma unroll
        for (uint32_t k = 0; k < SUMS_AT_ONCE; k++) sum[k] += read[k];
    }
}

// A worker's sums may be changed by it while they are read: whatever is read is added, nothing more.
__global__ void __launch_bounds__(ROW_THREADS)
    combine_kernel(tc_gpu_tables tables, tc_gpu_row_args a, const __grid_constant__ tc_gpu_mailboxes boxes)
{
    const size_t at = (size_t)blockIdx.x * a.dim;
    let_next_start();
    follow_previous();
    if (boxes.count) {
        if (!join(tables, boxes, a.n, a.dim)) return;
    } else if (*(volatile uint32_t *)tables.failed) {
        return;
    }
    const float gate =
        a.shared && a.gate ? 1.0f / (1.0f + expf(-a.gate[(size_t)blockIdx.x * a.ld_gate])) : 1.0f;
    const float *from = a.residual ? a.residual : a.x;
    for (uint32_t begin = threadIdx.x; begin < a.dim; begin += SUMS_AT_ONCE * ROW_THREADS) {
        long long sum[SUMS_AT_ONCE];
        read_sums(sum, a, boxes, at, begin);
#pragma unroll
        for (uint32_t k = 0, i = begin; k < SUMS_AT_ONCE; k++, i += ROW_THREADS) {
            if (i >= a.dim) break;
            float y = a.sum || boxes.count ? (float)((double)sum[k] * (1.0 / 4294967296.0)) : 0.0f;
            if (a.shared) y = fmaf(gate, a.shared[at + i], y);
            a.x[at + i] = from[at + i] + y;
        }
    }
    if (a.norm) norm_row(a.x + at, a.norm, a.dim, a.eps, a.normed + at);
}

int tc_gpu_combine(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_row_args *args,
                   const tc_gpu_mailboxes *boxes)
{
    tc_gpu_mailboxes none = {};
    return launch_chained(combine_kernel, args->n, ROW_THREADS, 0, stream, *tables, *args,
                          boxes ? *boxes : none);
}

__global__ void silu_kernel(const float *gate, const float *up, size_t count, float *out)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = silu_mul(gate[i], up[i]);
}

int tc_gpu_silu_mul(tc_gpu_stream stream, const float *gate, const float *up, size_t count, float *out)
{
    silu_kernel<<<(uint32_t)((count + 255) / 256), 256, 0, stream>>>(gate, up, count, out);
    return launched();
}

// Block: a token.
__global__ void __launch_bounds__(ROW_THREADS)
    expert_bias_kernel(const float *bias, const uint32_t *expert, const float *weight, uint32_t top_k,
                       uint32_t dim, float *out)
{
    const size_t pair = (size_t)blockIdx.x * top_k;
    for (uint32_t i = threadIdx.x; i < dim; i += ROW_THREADS) {
        float sum = 0;
        for (uint32_t k = 0; k < top_k; k++)
            sum = fmaf(weight[pair + k], bias[(size_t)expert[pair + k] * dim + i], sum);
        out[(size_t)blockIdx.x * dim + i] = sum;
    }
}

int tc_gpu_expert_bias(tc_gpu_stream stream, const float *bias, const uint32_t *expert, const float *weight,
                       uint32_t n, uint32_t top_k, uint32_t dim, float *out)
{
    expert_bias_kernel<<<n, ROW_THREADS, 0, stream>>>(bias, expert, weight, top_k, dim, out);
    return launched();
}

// Element [row][col] of a packed matrix of 16 or 32 bits.
static __device__ __forceinline__ float element(const tc_gpu_heads &a, uint32_t row, uint32_t col)
{
    const size_t panel = row / 16, lane = row % 16;
    if (a.type == TC_GPU_BF16) {
        const uint16_t *data = (const uint16_t *)a.data;
        const uint16_t v = __ldg(data + ((panel * ((a.cols + 1) / 2) + col / 2) * 16 + lane) * 2 + col % 2);
        return __uint_as_float((uint32_t)v << 16);
    }
    return __ldg((const float *)a.data + (panel * a.cols + col) * 16 + lane);
}

// Block (head, token): its input in shared memory, a row a thread. Neighbouring threads read neighbouring
// lanes of a panel.
__global__ void __launch_bounds__(ROW_THREADS) heads_kernel(const __grid_constant__ tc_gpu_heads a)
{
    extern __shared__ float in[];
    const float *x = a.x + (size_t)blockIdx.y * a.ldx + (size_t)blockIdx.x * a.head_x;
    float *y = a.y + (size_t)blockIdx.y * a.ldy + (size_t)blockIdx.x * a.head_y;
    for (uint32_t i = threadIdx.x; i < a.cols; i += ROW_THREADS) in[i] = x[i];
    __syncthreads();
    for (uint32_t r = threadIdx.x; r < a.rows; r += ROW_THREADS) {
        float sum = 0;
        for (uint32_t c = 0; c < a.cols; c++) sum = fmaf(element(a, blockIdx.x * a.rows + r, c), in[c], sum);
        y[r] = sum;
    }
    for (uint32_t i = threadIdx.x; i < a.copied; i += ROW_THREADS) y[a.rows + i] = x[a.cols + i];
}

int tc_gpu_heads_run(tc_gpu_stream stream, const tc_gpu_heads *args, uint32_t n)
{
    heads_kernel<<<dim3(args->heads, n), ROW_THREADS, args->cols * sizeof(float), stream>>>(*args);
    return launched();
}
