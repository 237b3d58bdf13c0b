// SPDX-License-Identifier: Apache-2.0
// Owns: the kernels of AMX, compiled for instructions that are emulated (amx_emulated.h).
#pragma once

#include "common/kernels/kernels.h"

// TC_FAST as on a CPU with AMX. NULL where the CPU lacks AVX-512 with BF16, which the rest of it is made of.
const tc_kernels *tc_amx_emulated(void);
