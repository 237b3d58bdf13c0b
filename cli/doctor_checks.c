// SPDX-License-Identifier: Apache-2.0
// Owns: the doctor's checks: CPU, NUMA, memory, huge pages, limits, GPU and driver, ports.
#include "cli/cli.h"
#include "cli/doctor.h"
#include "cli/health.h"
#include "common/base/config.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { PATH_BYTES = 512, TEXT_BYTES = 4096 };

// The file's beginning, NUL behind; empty where it cannot be read.
static const char *slurp(const tc_doctor *d, const char *path, char ret[TEXT_BYTES])
{
    char full[PATH_BYTES];
    snprintf(full, sizeof full, "%s%s", d->root, path);
    FILE *file = fopen(full, "re");
    size_t n = file ? fread(ret, 1, TEXT_BYTES - 1, file) : 0;
    if (file) fclose(file);
    ret[n] = 0;
    return ret;
}

static bool exists(const tc_doctor *d, const char *path)
{
    char full[PATH_BYTES];
    snprintf(full, sizeof full, "%s%s", d->root, path);
    return access(full, F_OK) == 0;
}

static uint64_t number_after(const char *text, const char *word)
{
    const char *at = strstr(text, word);
    return at ? strtoull(at + strlen(word), NULL, 10) : 0;
}

// A word of the list of flags, alone.
static bool has_flag(const char *flags, const char *flag)
{
    size_t n = strlen(flag);
    for (const char *at = flags; (at = strstr(at, flag)); at += n)
        if ((at == flags || at[-1] == ' ' || at[-1] == '\t') && (at[n] == ' ' || at[n] == '\n' || at[n] == 0))
            return true;
    return false;
}

static void check_cpu(tc_doctor *d)
{
    static const char *const levels[][2] = {{"amx_int8", "amx"},          {"avx512_bf16", "avx512bf16"},
                                            {"avx512vbmi", "avx512vbmi"}, {"avx512_vnni", "avx512vnni"},
                                            {"avx512bw", "avx512"},       {"avx2", "avx2"}};
    char text[TEXT_BYTES];
    slurp(d, "/proc/cpuinfo", text);
    char *flags = strstr(text, "flags");
    const char *best = NULL;
    if (flags) flags[strcspn(flags, "\n")] = 0;
    for (size_t i = 0; flags && i < sizeof levels / sizeof *levels && !best; i++)
        if (has_flag(flags, levels[i][0])) best = levels[i][1];
    // as kernels.c chooses
    if (best && strcmp(best, "amx") != 0 && strstr(text, "AuthenticAMD") && has_flag(flags, "avx512vbmi"))
        best = "avx512pairs";
    if (best)
        tc_doctor_say(d, TC_GOOD, "cpu", NULL, "has %s kernels", best);
    else
        tc_doctor_say(d, TC_WARN, "cpu", "use a machine with AVX2 or later: plain C is ten times slower",
                      "has neither AVX2 nor AVX-512: experts are computed in plain C");
    slurp(d, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text);
    text[strcspn(text, "\n")] = 0;
    if (!strcmp(text, "powersave") || !strcmp(text, "conservative"))
        tc_doctor_say(d, TC_WARN, "governor", "cpupower frequency-set -g performance",
                      "the CPU's governor is %s", text);
    else if (*text)
        tc_doctor_say(d, TC_GOOD, "governor", NULL, "%s", text);
}

static void check_numa(tc_doctor *d)
{
    char path[PATH_BYTES], text[TEXT_BYTES];
    unsigned nodes = 0;
    snprintf(path, sizeof path, "%s/sys/devices/system/node", d->root);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (!strncmp(entry->d_name, "node", 4) && entry->d_name[4] >= '0' && entry->d_name[4] <= '9') nodes++;
    if (dir) closedir(dir);
    if (!nodes) nodes = 1;
    tc_doctor_say(d, TC_GOOD, "numa", NULL, "%u node%s: that many workers by default", nodes,
                  nodes == 1 ? "" : "s");
    if (nodes > 1 && strtol(slurp(d, "/proc/sys/kernel/numa_balancing", text), NULL, 10) > 0)
        tc_doctor_say(d, TC_WARN, "numa", "sysctl kernel.numa_balancing=0 (and in /etc/sysctl.d)",
                      "automatic balancing moves pages that workers have placed");
}

static void check_memory(tc_doctor *d)
{
    char text[TEXT_BYTES], available[TC_BYTES_TEXT], shm[TC_BYTES_TEXT], path[PATH_BYTES];
    struct statvfs st;
    slurp(d, "/proc/meminfo", text);
    uint64_t total = number_after(text, "MemTotal:") << 10, free_bytes = number_after(text, "MemAvailable:")
                                                                         << 10;
    uint64_t swap = number_after(text, "SwapTotal:");
    tc_doctor_say(d, free_bytes > total / 4 ? TC_GOOD : TC_NOTE, "memory",
                  "stop what else uses it, before a large model is loaded", "%s are available",
                  tc_cli_bytes(free_bytes, available));
    if (swap)
        tc_doctor_say(d, TC_NOTE, "swap",
                      "swapoff -a, or vm.swappiness=1: experts that are swapped out cost seconds a token",
                      "there is swap");
    snprintf(path, sizeof path, "%s/dev/shm", d->root);
    if (statvfs(path, &st) != 0) {
        tc_doctor_say(d, TC_BAD, "shm", "mount -t tmpfs tmpfs /dev/shm, or name another tmpfs with arena-dir",
                      "there is no /dev/shm: experts have no place");
        return;
    }
    uint64_t room = (uint64_t)st.f_bavail * st.f_frsize;
    tc_doctor_say(
        d, room > (1ull << 30) ? TC_GOOD : TC_WARN, "shm",
        "mount -o remount,size=90% /dev/shm; in containers docker run --shm-size: packed experts must fit",
        "%s are free in /dev/shm, where packed experts lie", tc_cli_bytes(room, shm));
}

static void check_huge_pages(tc_doctor *d)
{
    char text[TEXT_BYTES];
    slurp(d, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", text);
    uint64_t pages = strtoull(text, NULL, 10);
    slurp(d, "/sys/kernel/mm/transparent_hugepage/shmem_enabled", text);
    bool never = strstr(text, "[never]") || strstr(text, "[deny]") || !*text;
    slurp(d, "/proc/sys/kernel/osrelease", text);
    unsigned major = 0, minor = 0;
    sscanf(text, "%u.%u", &major, &minor);
    bool collapses = major > 6 || (major == 6 && minor >= 1);
    if (pages)
        tc_doctor_say(d, TC_GOOD, "huge pages", NULL, "%" PRIu64 " explicit pages of 2 MiB", pages);
    else if (!never)
        tc_doctor_say(d, TC_GOOD, "huge pages", NULL, "transparent ones for shared memory");
    else if (collapses)
        tc_doctor_say(d, TC_NOTE, "huge pages",
                      "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled: loading is faster",
                      "none for shared memory, but this kernel collapses small ones when experts are loaded");
    else
        tc_doctor_say(
            d, TC_WARN, "huge pages",
            "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled, or sysctl vm.nr_hugepages=N",
            "none: small pages cost 5 to 20 %% of the experts' bandwidth");
}

static void check_limits(tc_doctor *d)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        bool enough = limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= (64ull << 30);
        tc_doctor_say(d,
                      enough                        ? TC_GOOD
                      : exists(d, "/dev/nvidiactl") ? TC_WARN
                                                    : TC_NOTE,
                      "memlock",
                      "LimitMEMLOCK=infinity (the unit has it), or `* - memlock unlimited` in "
                      "/etc/security/limits.conf: a GPU reads "
                      "pinned memory",
                      enough ? "unlimited, or plenty" : "at most %llu MiB may be locked",
                      (unsigned long long)limit.rlim_max >> 20);
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        tc_doctor_say(d, limit.rlim_max >= 4096 ? TC_GOOD : TC_WARN, "files",
                      "LimitNOFILE=32768 (the unit has it), or ulimit -n: each connection is a file",
                      "%llu may be open", (unsigned long long)limit.rlim_max);
}

static bool find_plugin(const tc_doctor *d)
{
    static const char *const places[] = {"/usr/lib/thermocline/thermocline-cuda.so",
                                         "/usr/lib/x86_64-linux-gnu/thermocline/thermocline-cuda.so"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (exists(d, places[i])) return true;
    return false;
}

static void check_gpu(tc_doctor *d)
{
    char text[TEXT_BYTES];
    bool device = exists(d, "/dev/nvidiactl"), driver = exists(d, "/proc/driver/nvidia/version");
    if (!device && !driver) {
        bool wanted = d->device && strcmp(d->device, "cpu") != 0 && strcmp(d->device, "auto") != 0;
        tc_doctor_say(d, wanted ? TC_BAD : TC_NOTE, "gpu",
                      "install the NVIDIA driver where there is a GPU; else nothing: device = cpu",
                      "no NVIDIA device is there");
        return;
    }
    if (!driver) {
        tc_doctor_say(d, TC_BAD, "driver", "load it: modprobe nvidia; after an upgrade, reboot",
                      "the NVIDIA driver is not loaded");
        return;
    }
    slurp(d, "/proc/driver/nvidia/version", text);
    text[strcspn(text, "\n")] = 0;
    tc_doctor_say(d, TC_GOOD, "driver", NULL, "%.100s", text);
    if (!device || !exists(d, "/dev/nvidia0"))
        tc_doctor_say(d, TC_BAD, "gpu", "nvidia-modprobe -u -c=0; in containers --gpus all",
                      "its device files are missing");
    else if (!exists(d, "/dev/nvidia-uvm"))
        tc_doctor_say(d, TC_WARN, "gpu", "nvidia-modprobe -u",
                      "/dev/nvidia-uvm is missing: CUDA cannot start in a sandbox");
    if (!find_plugin(d))
        tc_doctor_say(d, TC_NOTE, "cuda", "install thermocline-cuda",
                      "the CUDA device's library is not installed");
}

static void check_port(tc_doctor *d)
{
    tc_error e;
    tc_health health;
    tc_health_ask(d->listen, &health);
    if (health.code == 200)
        tc_doctor_say(d, TC_GOOD, "port", NULL, "a server of ours answers on %s, with %u workers", d->listen,
                      health.workers_up);
    else if (health.code == 503)
        tc_doctor_say(d, TC_WARN, "port", "journalctl -u 'thermocline-*'",
                      "a server answers on %s and is not ready: %.200s", d->listen, health.reason);
    else if (tc_listen_check(d->listen, &e) == TC_OK)
        tc_doctor_say(d, TC_GOOD, "port", NULL, "%s is free", d->listen);
    else
        tc_doctor_say(
            d, TC_BAD, "port",
            "ss -ltnp shows who has it; choose another with listen, or in thermocline-gateway.socket", "%s",
            e.text);
}

static void check_config(tc_doctor *d)
{
    tc_error e;
    tc_config *config = calloc(1, sizeof *config);
    if (!config) return;
    if (access(TC_CONFIG_PATH, F_OK) != 0)
        tc_doctor_say(d, TC_NOTE, "config", "none is needed for `thermocline serve MODEL`",
                      "there is no " TC_CONFIG_PATH);
    else if (tc_config_read(config, TC_CONFIG_PATH, &e) != TC_OK)
        tc_doctor_say(d, TC_BAD, "config", "thermocline config check", "%s", e.text);
    else
        tc_doctor_say(d, TC_GOOD, "config", NULL, TC_CONFIG_PATH " is good: %u settings", config->count);
    tc_config_free(config);
    free(config);
}

void tc_doctor_check_all(tc_doctor *d)
{
    check_cpu(d);
    check_numa(d);
    check_memory(d);
    check_huge_pages(d);
    check_limits(d);
    check_gpu(d);
    check_port(d);
    check_config(d);
}
