// SPDX-License-Identifier: Apache-2.0
// Owns: which CPUs a worker runs on and which node its memory comes from.
// Refuses: policy. The supervisor decides who gets which node or CPUs.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

// "0,2-3" -> 0 2 3. Order is kept, duplicates are refused. At least one, at most `max`, each below 1024.
tc_status tc_cpu_list_parse(const char *text, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e);
// "0,2-3" of cpus in rising order, "..." at the end when the buffer is too small.
void tc_cpu_list_print(const uint32_t *cpus, uint32_t count, char *ret, size_t capacity);
// CPUs of a node that this process may use.
tc_status tc_node_cpus(int node, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e);
uint32_t tc_cpus_allowed(void);
// Memory that this thread, and threads it starts later, touch first comes from the node, as long as it has
// any: scratch and messages. The experts are bound by their arena.
tc_status tc_node_prefer(int node, tc_error *e);
// With as many shares as nodes, one each: the node; else -1.
int tc_node_of_share(uint32_t index, uint32_t of);
