// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512 without VNNI.
#include "common/kernels/fast_avx512_body.c"

TC_FAST_AVX512(tc_fast_avx512)
