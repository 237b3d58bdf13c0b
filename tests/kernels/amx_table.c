// SPDX-License-Identifier: Apache-2.0
// Owns: a table out of the AMX source files as they are built for emulation. Looks into common/kernels, as no
// other test may, because no name of an ISA leads there.
#include "tests/kernels/amx_table.h"
#include "common/kernels/impl.h"

extern const tc_fast_part tc_fast_amx_emulated;
extern const tc_bf16_part tc_bf16_amx_emulated;

const tc_kernels *tc_amx_emulated(void)
{
    static tc_kernels table;
    const tc_kernels *rest;
    tc_error e;
    if (tc_kernels_get(TC_FAST, "avx512bf16", &rest, &e) != TC_OK) return NULL;
    table = *rest;
    table.name = "amx, emulated";
    for (int i = 0; i < 2; i++) {
        table.matmul[TC_M_Q4 + i] = tc_fast_amx_emulated.matmul[i];
        table.matmul_fixed[TC_M_Q4 + i] = tc_fast_amx_emulated.matmul_fixed[i];
        table.matmul_fixed_sum[TC_M_Q4 + i] = tc_fast_amx_emulated.matmul_fixed_sum[i];
    }
    table.matmul[TC_M_BF16] = tc_bf16_amx_emulated.matmul;
    table.matmul_fixed[TC_M_BF16] = tc_bf16_amx_emulated.matmul_fixed;
    table.round = tc_fast_amx_emulated.round;
    table.round_bf16 = tc_bf16_amx_emulated.round;
    table.tiles = tc_fast_amx_emulated.tiles;
    return &table;
}
