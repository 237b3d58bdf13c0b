// SPDX-License-Identifier: Apache-2.0
// Owns: what the machine is called and what it can do, measured with the CPUs that the core will have.
#include "cli/bench.h"
#include "common/base/spin.h"
#include "common/kernels/bandwidth.h"

#include <numa.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BANDWIDTH_BYTES = 512 << 20 };

// "model name : X" of /proc/cpuinfo; what the kernel calls the machine where there is no such line.
static void cpu_name(char *ret, size_t bytes)
{
    char line[512];
    snprintf(ret, bytes, "unknown CPU");
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(ret, bytes, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file) fclose(file);
}

// What the kernel says of CPU 0's last cache; sysconf knows nothing of virtual machines. 0: unknown.
static uint64_t last_cache_bytes(void)
{
    unsigned long long kib = 0, found = 0;
    for (int level = 4; level > 0 && !found; level--) {
        char path[80];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", level);
        FILE *file = fopen(path, "re");
        if (!file) continue;
        if (fscanf(file, "%lluK", &kib) == 1) found = kib;
        fclose(file);
    }
    return found << 10;
}

tc_status tc_machine_open(uint64_t threads, tc_machine *ret, tc_error *e)
{
    cpu_set_t set;
    tc_machine m = {.cpus = 1, .nodes = 1};
    cpu_name(m.cpu, sizeof m.cpu);
    if (sched_getaffinity(0, sizeof set, &set) == 0) m.cpus = (uint32_t)CPU_COUNT(&set);
    if (numa_available() >= 0) m.nodes = (uint32_t)numa_num_configured_nodes();
    m.last_cache_bytes = last_cache_bytes();
    m.memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    tc_team_options options = {.threads = threads ? (uint32_t)threads : m.cpus, .spin_us = TC_SPIN_US};
    if (options.threads > TC_TEAM_THREADS_MAX) options.threads = TC_TEAM_THREADS_MAX;
    TC_TRY(tc_team_create(&options, &m.team, e));
    *ret = m;
    return TC_OK;
}

void tc_machine_close(tc_machine *machine)
{
    tc_team_free(machine->team);
    machine->team = NULL;
}

tc_status tc_machine_measure_read(tc_machine *machine, tc_error *e)
{
    double rate;
    TC_TRY(tc_measure_read_bandwidth(machine->team, BANDWIDTH_BYTES, &rate, e));
    tc_samples_add(&machine->read_gb_per_s, rate);
    return TC_OK;
}

double tc_machine_read(const tc_machine *machine, uint32_t i)
{
    const tc_samples *s = &machine->read_gb_per_s;
    double before = i < s->count ? s->value[i] : tc_samples_max(s);
    double after = i + 1 < s->count ? s->value[i + 1] : before;
    return before > after ? before : after;
}
