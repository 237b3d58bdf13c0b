// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512 with VNNI and VBMI: look-ups of bytes take no masks, and scales no gathers.
#include "common/kernels/impl_avx512.h"

INLINE __m512i dot4(__m512i acc, __m512i u, const int8_t *q)
{
    // Left to itself the compiler keeps what a product reads in a register of its own.
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(*(const int8_t(*)[4])q));
    return acc;
}

#include "common/kernels/fast_avx512_body.c"

TC_KERNEL_PAIR(q4, run, TC_M_Q4)
TC_KERNEL_PAIR(q8, run, TC_M_Q8)
TC_KERNEL_SUM(q4, run_sum, TC_M_Q4)
TC_KERNEL_SUM(q8, run_sum, TC_M_Q8)

const tc_fast_part tc_fast_avx512vbmi = {.matmul = {matmul_q4, matmul_q8},
                                         .matmul_fixed = {fixed_q4, fixed_q8},
                                         .matmul_fixed_sum = {fixed_sum_q4, fixed_sum_q8},
                                         .round = round_row};
