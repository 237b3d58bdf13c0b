// SPDX-License-Identifier: Apache-2.0
// Owns: lists of CPUs as people write them, and the CPUs this process may use.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum { TC_CPU_NUMBERS = 1024 }; // CPUs are numbered below

// "0,2-3" -> 0 2 3. Order is kept, duplicates are refused. At least one, at most `max`, each below 1024.
tc_status tc_cpu_list_parse(const char *text, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e);
// "0,2-3" of cpus in rising order, "..." at the end when the buffer is too small.
void tc_cpu_list_print(const uint32_t *cpus, uint32_t count, char *ret, size_t capacity);
// The CPUs this process may use, in rising order, at most `max`; returns how many.
uint32_t tc_cpus_allowed(uint32_t *cpus, uint32_t max);
// NUMA nodes of this machine, as /sys names them; at least 1.
uint32_t tc_numa_nodes(void);
