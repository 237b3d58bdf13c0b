// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

// THREADS [PRECISION|all [ISA|all [ROWS]]]: few rows stay in a cache. Prints; returns an exit status.
int bench_kernels(uint32_t threads, int argc, char **argv);
