// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512 without VNNI.
#include "common/kernels/impl_avx512.h"

INLINE __m512i dot4(__m512i acc, __m512i u, const int8_t *at)
{
    const __m512i q = _mm512_broadcastd_epi32(_mm_loadu_si32(at));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(u, q), _mm512_set1_epi16(1)));
}

#include "common/kernels/fast_avx512_body.c"

TC_KERNEL_PAIR(q4, run, TC_M_Q4)
TC_KERNEL_PAIR(q8, run, TC_M_Q8)
TC_KERNEL_SUM(q4, run_sum, TC_M_Q4)
TC_KERNEL_SUM(q8, run_sum, TC_M_Q8)

const tc_fast_part tc_fast_avx512 = {.matmul = {matmul_q4, matmul_q8},
                                     .matmul_fixed = {fixed_q4, fixed_q8},
                                     .matmul_fixed_sum = {fixed_sum_q4, fixed_sum_q8},
                                     .round = round_row};
