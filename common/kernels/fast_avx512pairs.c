// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512 with VNNI and VBMI on CPUs that add on more units than they multiply on.
#define TC_PAIRS 1
#include "common/kernels/fast_avx512_body.c"

TC_FAST_AVX512(tc_fast_avx512pairs)
