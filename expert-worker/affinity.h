// SPDX-License-Identifier: Apache-2.0
// Owns: which CPUs a worker runs on and which node its memory comes from.
// Refuses: policy. The supervisor decides who gets which node or CPUs.
#pragma once

#include "common/base/cpus.h"

// CPUs of a node that this process may use.
tc_status tc_node_cpus(int node, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e);
// Memory that this thread, and threads it starts later, touch first comes from the node, as long as it has
// any: scratch and messages. The experts are bound by their arena.
tc_status tc_node_prefer(int node, tc_error *e);
// With as many shares as nodes, one each: the node; else -1.
int tc_node_of_share(uint32_t index, uint32_t of);
