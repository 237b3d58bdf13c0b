// SPDX-License-Identifier: Apache-2.0
// Owns: parsing CPU lists and asking libnuma and the scheduler.
#include "expert-worker/cpulist.h"

#include <numa.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static bool holds(const tc_cpu_list *list, uint32_t cpu)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (list->cpus[i] == cpu) return true;
    return false;
}

static bool parse_cpu(const char **at, uint32_t *ret)
{
    char *end;
    if (**at < '0' || **at > '9') return false;
    unsigned long value = strtoul(*at, &end, 10);
    if (value >= TC_CPUS_MAX) return false;
    *ret = (uint32_t)value;
    *at = end;
    return true;
}

tc_status tc_cpu_list_parse(const char *text, tc_cpu_list *ret, tc_error *e)
{
    tc_cpu_list list = {.count = 0};
    const char *at = text;
    do {
        const char *part = at;
        uint32_t first, last;
        if (!parse_cpu(&at, &first))
            return tc_fail(e, TC_ARGUMENT, "CPU list: '%.40s' is not a CPU below %d", part, TC_CPUS_MAX);
        last = first;
        if (*at == '-' && (at++, !parse_cpu(&at, &last) || last < first))
            return tc_fail(e, TC_ARGUMENT, "CPU list: '%.40s' is not a range", part);
        for (uint32_t cpu = first; cpu <= last; cpu++) {
            if (holds(&list, cpu)) return tc_fail(e, TC_ARGUMENT, "CPU list: CPU %u stands twice", cpu);
            list.cpus[list.count++] = cpu;
        }
    } while (*at == ',' && at++);
    if (*at) return tc_fail(e, TC_ARGUMENT, "CPU list: '%.40s' is left over", at);
    *ret = list;
    return TC_OK;
}

void tc_cpu_list_allowed(tc_cpu_list *ret)
{
    cpu_set_t set;
    ret->count = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return;
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE && cpu < TC_CPUS_MAX; cpu++)
        if (CPU_ISSET(cpu, &set)) ret->cpus[ret->count++] = cpu;
}

tc_status tc_cpu_list_of_node(uint32_t node, tc_cpu_list *ret, tc_error *e)
{
    tc_cpu_list allowed, list = {.count = 0};
    if (numa_available() < 0 || (int)node > numa_max_node())
        return tc_fail(e, TC_NOT_FOUND, "NUMA node %u is not there", node);
    struct bitmask *mask = numa_allocate_cpumask();
    if (!mask || numa_node_to_cpus((int)node, mask) != 0) {
        if (mask) numa_free_cpumask(mask);
        return tc_fail_errno(e, TC_IO, "CPUs of NUMA node %u", node);
    }
    tc_cpu_list_allowed(&allowed);
    for (uint32_t i = 0; i < allowed.count; i++)
        if (numa_bitmask_isbitset(mask, allowed.cpus[i])) list.cpus[list.count++] = allowed.cpus[i];
    numa_free_cpumask(mask);
    if (list.count == 0) return tc_fail(e, TC_NOT_FOUND, "no CPU of NUMA node %u may be used here", node);
    *ret = list;
    return TC_OK;
}
