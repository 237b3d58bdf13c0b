// SPDX-License-Identifier: Apache-2.0
// Owns: finding and loading the cuda device's library beside the program. Refuses: to need it.
#pragma once

#include "gpu-core/dev/cuda/cuda.h"

// Looks beside the running program, in ../lib/thermocline next to its folder, and in /usr/lib/thermocline;
// then asks whether GPU `ordinal` can be used. TC_NOT_FOUND: no library, or no usable GPU, with the reason.
// `card`: its name. The library stays loaded for the life of the process.
tc_status tc_cuda_library_load(uint32_t ordinal, const tc_cuda_library **ret, char card[128], tc_error *e);
