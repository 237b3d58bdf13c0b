// SPDX-License-Identifier: Apache-2.0
// Owns: the few calls into libnuma.
#include "expert-worker/affinity.h"

#include <numa.h>
#include <sched.h>

enum { CPUS = TC_CPU_NUMBERS };

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
