// SPDX-License-Identifier: Apache-2.0
// Owns: one vocabulary of vector operations for dense_simd.c, 8 lanes with AVX2 + FMA + F16C, 16 with AVX-512
// F+BW+DQ+VL, so that both instruction sets share one source and one set of tests. Refuses: to be included
// elsewhere.
#pragma once

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { LANES = 16 };
typedef __m512 vec;
#define VOP(name) _mm512_##name
#else
enum { LANES = 8 };
typedef __m256 vec;
#define VOP(name) _mm256_##name
#endif

INLINE vec v_load(const float *p)
{
    return VOP(loadu_ps)(p);
}

INLINE void v_store(float *p, vec x)
{
    VOP(storeu_ps)(p, x);
}

INLINE vec v_set(float x)
{
    return VOP(set1_ps)(x);
}

INLINE vec v_zero(void)
{
    return VOP(setzero_ps)();
}

INLINE vec v_add(vec a, vec b)
{
    return VOP(add_ps)(a, b);
}

INLINE vec v_sub(vec a, vec b)
{
    return VOP(sub_ps)(a, b);
}

INLINE vec v_mul(vec a, vec b)
{
    return VOP(mul_ps)(a, b);
}

INLINE vec v_div(vec a, vec b)
{
    return VOP(div_ps)(a, b);
}

INLINE vec v_fma(vec a, vec b, vec c) // a b + c
{
    return VOP(fmadd_ps)(a, b, c);
}

// Both give the second operand where one is NaN, so that NaN in b goes on.
INLINE vec v_max(vec a, vec b)
{
    return VOP(max_ps)(a, b);
}

INLINE vec v_min(vec a, vec b)
{
    return VOP(min_ps)(a, b);
}

#if defined(__AVX512F__)
INLINE vec v_load_some(const float *p, uint32_t n) // the first n lanes, zero in the others; n < LANES
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

INLINE void v_store_some(float *p, vec x, uint32_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x);
}

INLINE vec v_zero_below(vec x, vec test, float least) // x where test >= least
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, _mm512_set1_ps(least), _CMP_NLT_UQ), x);
}

INLINE uint32_t v_above(vec x, vec than) // a bit a lane
{
    return _mm512_cmp_ps_mask(x, than, _CMP_GT_OQ);
}

INLINE vec v_round(vec x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vec v_power(vec x, vec n) // x 2^n for whole n
{
    return _mm512_scalef_ps(x, n);
}

INLINE vec v_from_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE void v_to_half(uint16_t *p, vec x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE vec v_abs(vec x)
{
    return _mm512_abs_ps(x);
}

INLINE vec v_from_fixed(const int64_t *p) // as tc_fixed_to_float
{
    const __m512d unit = _mm512_set1_pd(1.0 / 4294967296.0);
    __m256 low = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_cvtepi64_pd(_mm512_loadu_si512(p)), unit));
    __m256 high = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_cvtepi64_pd(_mm512_loadu_si512(p + 8)), unit));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
#else
INLINE __m256i lanes_below(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE vec v_load_some(const float *p, uint32_t n) // the first n lanes, zero in the others; n < LANES
{
    return _mm256_maskload_ps(p, lanes_below(n));
}

INLINE void v_store_some(float *p, vec x, uint32_t n)
{
    _mm256_maskstore_ps(p, lanes_below(n), x);
}

INLINE vec v_zero_below(vec x, vec test, float least) // x where test >= least
{
    return _mm256_and_ps(x, _mm256_cmp_ps(test, _mm256_set1_ps(least), _CMP_NLT_UQ));
}

INLINE uint32_t v_above(vec x, vec than) // a bit a lane
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, than, _CMP_GT_OQ));
}

INLINE vec v_round(vec x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vec v_power(vec x, vec n) // x 2^n for whole n in [-126, 127]
{
    __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(bits));
}

INLINE vec v_from_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE void v_to_half(uint16_t *p, vec x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE vec v_abs(vec x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

// int64 to double without the instruction: the halves become doubles 2^84 + 2^63 + high 2^32 and 2^52 + low
// by their bits alone; subtracting what was added is exact, and the last addition rounds once, as a
// conversion does.
INLINE __m256d fixed_double(const int64_t *p)
{
    __m256i v = _mm256_loadu_si256((const __m256i *)p);
    __m256i high = _mm256_xor_si256(_mm256_srli_epi64(v, 32), _mm256_set1_epi64x(0x4530000080000000));
    __m256i low = _mm256_blend_epi32(v, _mm256_set1_epi64x(0x4330000000000000), 0xaa);
    __m256d added = _mm256_castsi256_pd(_mm256_set1_epi64x(0x4530000080100000)); // 2^84 + 2^63 + 2^52
    return _mm256_add_pd(_mm256_sub_pd(_mm256_castsi256_pd(high), added), _mm256_castsi256_pd(low));
}

INLINE vec v_from_fixed(const int64_t *p) // as tc_fixed_to_float
{
    const __m256d unit = _mm256_set1_pd(1.0 / 4294967296.0);
    __m128 low = _mm256_cvtpd_ps(_mm256_mul_pd(fixed_double(p), unit));
    __m128 high = _mm256_cvtpd_ps(_mm256_mul_pd(fixed_double(p + 4), unit));
    return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
#endif

// Sums of the lanes: 16 lanes are folded to 8, then neighbours are added, the halves last. One order for
// both.
INLINE __m256 fold8(vec x)
{
#if defined(__AVX512F__)
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#else
    return x;
#endif
}

INLINE __m128 v_sums(vec a, vec b, vec c, vec d)
{
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(fold8(a), fold8(b)), _mm256_hadd_ps(fold8(c), fold8(d)));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

INLINE float v_sum(vec x)
{
    __m256 pairs = _mm256_hadd_ps(fold8(x), fold8(x));
    pairs = _mm256_hadd_ps(pairs, pairs);
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}

INLINE float v_largest(vec x)
{
    float lanes[LANES], most;
    v_store(lanes, x);
    most = lanes[0];
    for (int i = 1; i < LANES; i++)
        if (!(lanes[i] <= most)) most = lanes[i];
    return most;
}

// e^x: x = n ln 2 + r, |r| <= ln 2 / 2; Taylor to r^7 (relative error below 2^-23); times 2^n. Zero below
// e^-87.
INLINE vec v_exp(vec x)
{
    static const float c[6] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
    vec inside = v_min(v_set(88.0f), v_max(v_set(-87.0f), x));
    vec n = v_round(v_mul(inside, v_set(1.44269504f)));
    vec r = v_fma(n, v_set(-0.693359375f), inside);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vec p = v_set(c[0]);
    for (int i = 1; i < 6; i++) p = v_fma(p, r, v_set(c[i]));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set(1.0f)));
    return v_zero_below(v_power(p, n), x, -87.0f);
}

INLINE vec v_sigmoid(vec x)
{
    return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x))));
}

// log(1 + y) for y in [0, 1] as 2 artanh(y / (2 + y)): the series to the 15th power leaves 2e-9.
INLINE vec v_log1p(vec y)
{
    vec z = v_div(y, v_add(y, v_set(2.0f))), square = v_mul(z, z), p = v_set(1.0f / 15);
    for (int i = 13; i > 0; i -= 2) p = v_fma(p, square, v_set(1.0f / (float)i));
    return v_mul(v_add(z, z), p);
}

INLINE vec v_softplus(vec x)
{
    return v_add(v_max(x, v_zero()), v_log1p(v_exp(v_sub(v_zero(), v_abs(x)))));
}
