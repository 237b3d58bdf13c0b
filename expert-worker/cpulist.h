// SPDX-License-Identifier: Apache-2.0
// Owns: CPU lists ("0-3,8,10-11") and the CPUs of a NUMA node. Refuses: pinning (the team does that).
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum { TC_CPUS_MAX = 1024 };

typedef struct tc_cpu_list {
    uint32_t cpus[TC_CPUS_MAX], count;
} tc_cpu_list;

// Numbers and ranges, rising or not, no CPU twice. TC_ARGUMENT names the bad part.
tc_status tc_cpu_list_parse(const char *text, tc_cpu_list *ret, tc_error *e);
// CPUs of a node that this process may use. TC_NOT_FOUND: no such node, or none of its CPUs is ours.
tc_status tc_cpu_list_of_node(uint32_t node, tc_cpu_list *ret, tc_error *e);
// CPUs this process may use.
void tc_cpu_list_allowed(tc_cpu_list *ret);
