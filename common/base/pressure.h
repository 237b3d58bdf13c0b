// SPDX-License-Identifier: Apache-2.0
// Owns: what the system says about memory: how much can still be had (the machine's, and what cgroups of
// either version leave of it), and how long tasks wait for it (PSI). Refuses: to act on it.
#pragma once

#include <stdint.h>

typedef struct tc_pressure {
    uint64_t available_bytes; // the least of what follows; UINT64_MAX: unknown
    uint64_t machine_bytes;   // MemAvailable
    uint64_t cgroup_bytes;    // what the tightest cgroup leaves; UINT64_MAX: no limit
    uint64_t limit_bytes;     // that cgroup's limit, or the machine's memory
    double waiting_percent;   // of the last 10 s in which some task waited for memory; 0 where unknown
} tc_pressure;

// root: prefix of /proc and /sys ("": the system's own; tests have trees of their own).
void tc_pressure_read(const char *root, tc_pressure *ret);
