// SPDX-License-Identifier: Apache-2.0
// Owns: what the kernels on 4-bit matrices share. They do what TC_FAST does on the CPU (common/kernels):
// activations rounded to 11 bits in two byte planes, code books of signed bytes, exact integer products of a
// span, then fma(product, scale * x_scale, .) span after span, so the bits are the same here and there.
//
// Products run on the tensor cores, mma.m16n8k32 of signed bytes: 16 rows (a panel) by 8 tokens. The order of
// the 32 columns inside is free as long as weights and activations agree, so it follows the packed layout:
// lane (g, t) takes word g (and g + 8) of tile t, whose nibbles in order are columns 0 4 1 5 | 2 6 3 7 of the
// tile's eight. A rounded row keeps its bytes in that order.
#pragma once

#include "gpu-core/dev/cuda/gpu.h"

#include <cuda_runtime.h>
#include <math_constants.h>

static constexpr float ROUNDED_MAX = 1015.0f;
static constexpr float FIXED_ONE = 4294967296.0f, FIXED_PART_MAX = 524288.0f;
static constexpr uint32_t SPAN_BYTES = 512;              // tiles of a panel and span
static constexpr size_t SHARED_BYTES_UNASKED = 48 << 10; // of a block, dynamic; more has to be asked for

// Where column c of a tile's eight stands in a rounded row.
static __device__ __forceinline__ uint32_t place_of(uint32_t c)
{
    return (c & ~7u) | ((c & 3) << 1) | ((c >> 2) & 1);
}

// Four codes, the low 16 bits of `codes`, to the book's bytes.
static __device__ __forceinline__ uint32_t four_levels(uint32_t codes, const uint32_t book[4])
{
    uint32_t select = codes & 0x7777u;
    uint32_t low = __byte_perm(book[0], book[1], select), high = __byte_perm(book[2], book[3], select);
    return __byte_perm(low, high, 0x3210u | ((codes & 0x8888u) >> 1));
}

static __device__ __forceinline__ void mma_s8(int d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The words of one span that a lane needs: [k block][row g, row g + 8].
struct span_words {
    uint32_t w[2][2];
};

static __device__ __forceinline__ span_words load_span(const uint8_t *span, uint32_t lane)
{
    const uint32_t *words = (const uint32_t *)span + (lane & 3) * 16 + (lane >> 2);
    span_words s;
    s.w[0][0] = __ldg(words);
    s.w[0][1] = __ldg(words + 8);
    s.w[1][0] = __ldg(words + 64);
    s.w[1][1] = __ldg(words + 72);
    return s;
}

// The two operands A of a span.
static __device__ __forceinline__ void span_levels(const span_words &s, const uint32_t book[4],
                                                   uint32_t a[2][4])
{
#pragma unroll
    for (int k = 0; k < 2; k++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            a[k][half] = four_levels(s.w[k][half], book);
            a[k][2 + half] = four_levels(s.w[k][half] >> 16, book);
        }
}

// Eight tokens' rounded span as this lane feeds it to the tensor cores: [k block] of both planes.
struct token_words {
    uint2 high[2], low[2];
};

// `row`: the rounded span of this lane's token g.
static __device__ __forceinline__ token_words load_tokens(const uint8_t *row, uint32_t lane)
{
    const uint8_t *at = row + (lane & 3) * 8;
    return {{*(const uint2 *)at, *(const uint2 *)(at + 32)},
            {*(const uint2 *)(at + 64), *(const uint2 *)(at + 96)}};
}

// 16 rows times 8 tokens over one span: d[0..1] row g, tokens 2t and 2t + 1; d[2..3] row g + 8.
static __device__ __forceinline__ void token_product(const uint32_t a[2][4], const token_words &x, int d[4])
{
    int high[4] = {0, 0, 0, 0}; // two chains, neither of which waits for the other
    d[0] = d[1] = d[2] = d[3] = 0;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const uint32_t h[2] = {x.high[k].x, x.high[k].y}, l[2] = {x.low[k].x, x.low[k].y};
        mma_s8(high, a[k], h);
        mma_s8(d, a[k], l);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) d[i] += high[i] * 16;
}

static __device__ __forceinline__ void span_product(const uint32_t a[2][4], const uint8_t *row, uint32_t lane,
                                                    int d[4])
{
    token_product(a, load_tokens(row, lane), d);
}

// A scale as it lies in memory, fetched early; and what it is worth.
struct raw_scale {
    uint32_t code;
    float nested; // or the scale itself
};

static __device__ __forceinline__ raw_scale load_scale(const tc_gpu_q4 &m, uint32_t row, uint32_t span)
{
    const size_t at = ((size_t)(row >> 4) * m.spans + span) * 16 + (row & 15);
    raw_scale r = {0, 0};
    if (!m.codes) {
        r.nested = __ldg(m.scales + at);
        return r;
    }
    r.code = __ldg(m.codes + at);
    r.nested = __ldg(m.nested + ((m.phase + row * m.stride + span) >> 8));
    return r;
}

static __device__ __forceinline__ float scale_of(const tc_gpu_q4 &m, const float *map, const raw_scale &r)
{
    return m.codes ? __fadd_rn(__fmul_rn(__ldg(map + r.code), r.nested), m.offset) : r.nested;
}

// Rounds a span of 64: the whole warp, lane l holds columns 2l and 2l + 1. to: TC_GPU_ROW_BYTES.
static __device__ __forceinline__ void round_span(float2 x, uint32_t lane, uint8_t *to, float *scale)
{
    uint32_t top = max(__float_as_uint(x.x) & 0x7fffffffu, __float_as_uint(x.y) & 0x7fffffffu);
#pragma unroll
    for (int m = 16; m; m >>= 1) top = max(top, __shfl_xor_sync(0xffffffffu, top, m));
    float most = __uint_as_float(top), inverse = 0, step = 0;
    if (top >= 0x7f800000u) {
        step = CUDART_NAN_F;
    } else if (most >= 1e-30f) {
        inverse = __fdiv_rn(ROUNDED_MAX, most);
        step = __fdiv_rn(most, ROUNDED_MAX);
    }
    int q0 = inverse > 0 ? __float2int_rn(__fmul_rn(x.x, inverse)) : 0;
    int q1 = inverse > 0 ? __float2int_rn(__fmul_rn(x.y, inverse)) : 0;
    int h0 = (q0 + 8) >> 4, h1 = (q1 + 8) >> 4;
    uint32_t p0 = place_of(2 * lane), p1 = place_of(2 * lane + 1);
    to[p0] = (uint8_t)h0;
    to[p1] = (uint8_t)h1;
    to[64 + p0] = (uint8_t)(q0 - 16 * h0);
    to[64 + p1] = (uint8_t)(q1 - 16 * h1);
    if (lane == 0) *scale = step;
}

// e^x as the CPU kernels compute it (fast_plain.c): the same bits.
static __device__ __forceinline__ float exponential(float x)
{
    const float c[6] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
    if (x > 88.0f) return CUDART_INF_F;
    x = x > -87.0f ? x : -87.0f;
    float n = rintf(__fmul_rn(x, 1.44269504f)), p = c[0];
    float r = fmaf(-n, -2.12194440e-4f, fmaf(-n, 0.693359375f, x));
#pragma unroll
    for (int i = 1; i < 6; i++) p = fmaf(p, r, c[i]);
    p = fmaf(p, __fmul_rn(r, r), __fadd_rn(r, 1.0f));
    return __fmul_rn(p, __int_as_float(((int)n + 127) << 23));
}

static __device__ __forceinline__ float silu_mul(float gate, float up)
{
    return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, exponential(0.0f - gate))), up);
}

// tc_clamped_mul of the CPU kernels.
static __device__ __forceinline__ float clamped_mul(float gate, float up, float alpha, float limit)
{
    float g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
    return __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, exponential(__fsub_rn(0.0f, __fmul_rn(g, alpha))))),
                     __fadd_rn(u, 1.0f));
}

// A part in fixed point; false when it is not finite or out of range.
static __device__ __forceinline__ bool to_fixed(float part, long long *ret)
{
    if (!(fabsf(part) < FIXED_PART_MAX)) return false;
    *ret = __float2ll_rn(__fmul_rn(part, FIXED_ONE));
    return true;
}

// The jobs with their blocks, of `panels` panels each, one job after another.
static inline tc_gpu_jobs deal_panels(const tc_gpu_jobs *jobs, uint32_t panels)
{
    tc_gpu_jobs dealt = *jobs;
    dealt.blocks = 0;
    for (uint32_t i = 0; i < dealt.count; i++) {
        dealt.job[i].first_block = dealt.blocks;
        dealt.blocks += ((dealt.job[i].rows + 15) / 16 + panels - 1) / panels;
    }
    return dealt;
}

static __device__ __forceinline__ uint64_t now_ns(void)
{
    uint64_t v;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(v));
    return v;
}

static inline int launched(void)
{
    return (int)cudaPeekAtLastError();
}

// ---- one kernel after another ----
//
// From compute capability 9.0 on a kernel may start while the one before it still runs (programmatic
// dependent launch): launch_chained asks for that, and the kernel calls follow_previous before it touches
// anything that an earlier kernel writes, or writes anything itself. What it does before (weights into
// registers) is hidden behind the other's end. Older cards run one after the other.
static __device__ __forceinline__ void follow_previous(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void let_next_start(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename... P, typename... A>
static int launch_chained(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, A... args)
{
    static int chains = -1; // the card can, and the code that runs there was compiled to wait for it
    if (chains < 0) {
        cudaFuncAttributes code = {};
        int device = 0, major = 0;
        cudaGetDevice(&device);
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        chains = major >= 9 && cudaFuncGetAttributes(&code, (const void *)kernel) == cudaSuccess &&
                 code.ptxVersion >= 90;
    }
    if (shared_bytes > SHARED_BYTES_UNASKED) {
        cudaError_t e =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (e != cudaSuccess) return (int)e;
    }
    cudaLaunchAttribute attribute[1];
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = chains ? 1 : 0;
    return (int)cudaLaunchKernelEx(&config, kernel, P(args)...);
}
