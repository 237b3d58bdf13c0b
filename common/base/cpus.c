// SPDX-License-Identifier: Apache-2.0
// Owns: reading and writing lists of CPUs, and which ones this process may use.
#include "common/base/cpus.h"

#include <dirent.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *read_cpu(const char *p, uint32_t *ret)
{
    uint32_t value = 0;
    if (*p < '0' || *p > '9') return NULL;
    for (; *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (uint32_t)(*p - '0');
        if (value >= TC_CPU_NUMBERS) return NULL;
    }
    *ret = value;
    return p;
}

tc_status tc_cpu_list_parse(const char *text, uint32_t *cpus, uint32_t max, uint32_t *ret_count, tc_error *e)
{
    bool seen[TC_CPU_NUMBERS] = {0};
    uint32_t count = 0, first = 0, last = 0;
    const char *p = text;
    for (;;) {
        p = read_cpu(p, &first);
        last = first;
        if (p && *p == '-') p = read_cpu(p + 1, &last);
        if (!p || last < first)
            return tc_fail(e, TC_ARGUMENT, "not a list of CPUs like 0,2-3 (each below %d)", TC_CPU_NUMBERS);
        for (uint32_t cpu = first; cpu <= last; cpu++) {
            if (seen[cpu]) return tc_fail(e, TC_ARGUMENT, "CPU %u is named twice", cpu);
            if (count == max) return tc_fail(e, TC_LIMIT, "more than %u CPUs", max);
            seen[cpu] = true;
            cpus[count++] = cpu;
        }
        if (*p == 0) break;
        if (*p++ != ',')
            return tc_fail(e, TC_ARGUMENT, "not a list of CPUs like 0,2-3 (each below %d)", TC_CPU_NUMBERS);
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

uint32_t tc_cpus_allowed(uint32_t *cpus, uint32_t max)
{
    cpu_set_t set;
    uint32_t count = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE && cpu < TC_CPU_NUMBERS && count < max; cpu++)
        if (CPU_ISSET(cpu, &set)) cpus[count++] = cpu;
    return count;
}

uint32_t tc_numa_nodes(void)
{
    uint32_t count = 0;
    DIR *dir = opendir("/sys/devices/system/node");
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (!strncmp(entry->d_name, "node", 4) && entry->d_name[4] >= '0' && entry->d_name[4] <= '9') count++;
    if (dir) closedir(dir);
    return count ? count : 1;
}
