// SPDX-License-Identifier: Apache-2.0
// Owns: what a report says of the machine beside what was measured: cores, instruction sets, GPU, kernel. Its
// name is made of these, so that machines of one type have one name. Refuses: host names and addresses.
#include "cli/suite.h"

#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char *const known_features[] = {"avx2",        "fma",      "f16c",     "avx_vnni",
                                             "avx512f",     "avx512bw", "avx512vl", "avx512_vnni",
                                             "avx512_bf16", "amx_int8", "amx_bf16"};

static bool has_word(const char *line, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = line; (at = strstr(at, word)); at += n)
        if (at > line && at[-1] == ' ' && (at[n] == ' ' || at[n] == '\n' || !at[n])) return true;
    return false;
}

// Of /proc/cpuinfo, which describes every thread alike: the first one's flags, and the cores of all sockets.
static void read_cpu(tc_host *h)
{
    char line[8192];
    bool seen[1024] = {0}, flags = false;
    unsigned package = 0, core;
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        (void)sscanf(line, "physical id : %u", &package);
        if (sscanf(line, "core id : %u", &core) == 1) {
            unsigned at = (package * 256 + core) % 1024;
            h->cores += !seen[at];
            seen[at] = true;
        }
        if (flags || strncmp(line, "flags", 5) != 0) continue;
        flags = true;
        for (size_t i = 0; i < sizeof known_features / sizeof *known_features; i++)
            if (has_word(line, known_features[i])) h->features[h->feature_count++] = known_features[i];
    }
    if (file) fclose(file);
}

// The first GPU, as the driver's own tool calls it; none where that is missing.
static void read_gpu(tc_host *h)
{
    unsigned long long mib = 0;
    if (access("/dev/nvidiactl", F_OK) != 0) return;
    FILE *p =
        popen("nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits 2>/dev/null", "re");
    if (!p) return;
    if (fscanf(p, "%90[^,\n], %llu", h->gpu, &mib) == 2)
        h->vram_bytes = mib << 20;
    else
        snprintf(h->gpu, sizeof h->gpu, "an NVIDIA GPU");
    pclose(p);
}

void tc_host_read(const tc_machine *machine, tc_host *ret)
{
    struct utsname u;
    tc_host h = {0};
    read_cpu(&h);
    if (!h.cores || h.cores > machine->cpus) h.cores = machine->cpus;
    read_gpu(&h);
    if (uname(&u) == 0) snprintf(h.kernel, sizeof h.kernel, "%.60s %.60s", u.sysname, u.release);
    snprintf(h.name, sizeof h.name, "%s, %u cores%s%s", machine->cpu, h.cores, *h.gpu ? ", " : "", h.gpu);
    *ret = h;
}
