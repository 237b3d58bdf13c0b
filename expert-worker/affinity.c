// SPDX-License-Identifier: Apache-2.0
// Owns: CPU lists, and the few calls into libnuma.
#include "expert-worker/affinity.h"

#include <numa.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { CPUS = 1024 };

static const char *read_cpu(const char *p, uint32_t *ret)
{
    uint32_t value = 0;
    if (*p < '0' || *p > '9') return NULL;
    for (; *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (uint32_t)(*p - '0');
        if (value >= CPUS) return NULL;
    }
    *ret = value;
    return p;
}

tc_status tc_cpu_list_parse(const char *text, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e)
{
    bool seen[CPUS] = {0};
    uint32_t count = 0, first = 0, last = 0;
    const char *p = text;
    for (;;) {
        p = read_cpu(p, &first);
        last = first;
        if (p && *p == '-') p = read_cpu(p + 1, &last);
        if (!p || last < first)
            return tc_fail(e, TC_ARGUMENT, "not a list of CPUs like 0,2-3 (each below %d)", CPUS);
        for (uint32_t cpu = first; cpu <= last; cpu++) {
            if (seen[cpu]) return tc_fail(e, TC_ARGUMENT, "CPU %u is named twice", cpu);
            if (count == max) return tc_fail(e, TC_LIMIT, "more than %u CPUs", max);
            seen[cpu] = true;
            cpus[count++] = cpu;
        }
        if (*p == 0) break;
        if (*p++ != ',')
            return tc_fail(e, TC_ARGUMENT, "not a list of CPUs like 0,2-3 (each below %d)", CPUS);
    }
    *ret_count = count;
    return TC_OK;
}

void tc_cpu_list_print(const uint32_t *cpus, uint32_t count, char *ret, size_t capacity)
{
    size_t used = 0;
    ret[0] = 0;
    for (uint32_t i = 0; i < count;) {
        char piece[32];
        uint32_t end = i;
        while (end + 1 < count && cpus[end + 1] == cpus[end] + 1) end++;
        int n = end == i ? snprintf(piece, sizeof piece, "%s%u", i ? "," : "", cpus[i])
                         : snprintf(piece, sizeof piece, "%s%u-%u", i ? "," : "", cpus[i], cpus[end]);
        if (used + (size_t)n + 4 > capacity) {
            if (used + 4 <= capacity) memcpy(ret + used, "...", 4);
            return;
        }
        memcpy(ret + used, piece, (size_t)n + 1);
        used += (size_t)n;
        i = end + 1;
    }
}

uint32_t tc_cpus_allowed(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static tc_status check_node(int node, tc_error *e)
{
    if (numa_available() < 0) return tc_fail(e, TC_UNSUPPORTED, "this machine has no NUMA support");
    if (node > numa_max_node() || !numa_bitmask_isbitset(numa_all_nodes_ptr, (unsigned)node))
        return tc_fail(e, TC_NOT_FOUND, "there is no NUMA node %d", node);
    return TC_OK;
}

tc_status tc_node_cpus(int node, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e)
{
    cpu_set_t allowed;
    uint32_t count = 0;
    TC_TRY(check_node(node, e));
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return tc_fail_errno(e, TC_IO, "sched_getaffinity");
    struct bitmask *mask = numa_allocate_cpumask();
    int rv = numa_node_to_cpus(node, mask);
    for (unsigned cpu = 0; rv == 0 && cpu < mask->size && cpu < CPUS && count < max; cpu++)
        if (numa_bitmask_isbitset(mask, cpu) && CPU_ISSET(cpu, &allowed)) cpus[count++] = cpu;
    numa_free_cpumask(mask);
    if (rv != 0 || count == 0)
        return tc_fail(e, TC_NOT_FOUND, "NUMA node %d has no CPU for this process", node);
    *ret_count = count;
    return TC_OK;
}

tc_status tc_node_prefer(int node, tc_error *e)
{
    TC_TRY(check_node(node, e));
    numa_set_preferred(node);
    return TC_OK;
}

int tc_node_of_share(uint32_t index, uint32_t of)
{
    return of > 1 && numa_available() >= 0 && numa_num_configured_nodes() == (int)of ? (int)index : -1;
}
