// SPDX-License-Identifier: Apache-2.0
// Owns: reading meminfo, cgroup files and PSI. What is clean page cache of a cgroup can be had again.
#include "common/base/pressure.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 1024, LINE_BYTES = 512 };

static FILE *open_file(const char *root, const char *directory, const char *name)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s", root, directory, name);
    return n > 0 && n < (int)sizeof path ? fopen(path, "re") : NULL;
}

// A file that holds one number; "max" and what is not there: UINT64_MAX.
static uint64_t read_number(const char *root, const char *directory, const char *name)
{
    unsigned long long value = UINT64_MAX;
    FILE *f = open_file(root, directory, name);
    if (!f) return UINT64_MAX;
    if (fscanf(f, "%llu", &value) != 1) value = UINT64_MAX;
    fclose(f);
    return value;
}

static uint64_t read_field(const char *root, const char *directory, const char *name, const char *format)
{
    char line[LINE_BYTES];
    unsigned long long value = 0;
    FILE *f = open_file(root, directory, name);
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, format, &value) == 1) break;
    if (f) fclose(f);
    return value;
}

typedef struct version {
    const char *mount, *limit, *usage, *reclaimable;
} version;

static const version versions[2] = {
    {"/sys/fs/cgroup/memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file %llu"},
    {"/sys/fs/cgroup", "/memory.max", "/memory.current", "inactive_file %llu"}};

static void look_at(const char *root, const version *v, const char *directory, tc_pressure *p)
{
    uint64_t limit = read_number(root, directory, v->limit), usage = read_number(root, directory, v->usage);
    if (limit >= UINT64_MAX / 4 || usage == UINT64_MAX) return; // version 1 says "none" with a huge number
    usage -= read_field(root, directory, "/memory.stat", v->reclaimable) < usage
                 ? read_field(root, directory, "/memory.stat", v->reclaimable)
                 : usage;
    uint64_t left = limit > usage ? limit - usage : 0;
    if (left >= p->cgroup_bytes) return;
    p->cgroup_bytes = left;
    p->limit_bytes = limit;
}

// The group's own directory and all above it, up to the mount's root. A container may see only the root.
static void look_up_from(const char *root, const version *v, const char *group, tc_pressure *p)
{
    char directory[PATH_BYTES];
    size_t mount = strlen(v->mount);
    if (snprintf(directory, sizeof directory, "%s%s", v->mount, group) >= (int)sizeof directory) return;
    for (;;) {
        size_t end = strlen(directory);
        while (end > mount && directory[end - 1] == '/') directory[--end] = 0;
        look_at(root, v, directory, p);
        char *slash = end > mount ? strrchr(directory, '/') : NULL;
        if (!slash || (size_t)(slash - directory) < mount) return;
        *slash = 0;
    }
}

static void read_cgroups(const char *root, tc_pressure *p)
{
    char line[LINE_BYTES];
    FILE *f = open_file(root, "/proc/self/cgroup", "");
    bool any = false;
    while (f && fgets(line, sizeof line, f)) {
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        line[strcspn(line, "\n")] = 0;
        if (!group) continue;
        *group++ = 0;
        if (names[1] == 0)
            look_up_from(root, &versions[1], group, p);
        else if (strcmp(names + 1, "memory") == 0)
            look_up_from(root, &versions[0], group, p);
        any = true;
    }
    if (f) fclose(f);
    if (!any) look_at(root, &versions[1], versions[1].mount, p);
}

void tc_pressure_read(const char *root, tc_pressure *ret)
{
    tc_pressure p = {.machine_bytes = UINT64_MAX, .cgroup_bytes = UINT64_MAX, .limit_bytes = UINT64_MAX};
    uint64_t kib = read_field(root, "/proc/meminfo", "", "MemAvailable: %llu kB");
    uint64_t total = read_field(root, "/proc/meminfo", "", "MemTotal: %llu kB");
    char line[LINE_BYTES];
    if (kib) p.machine_bytes = kib * 1024;
    if (total) p.limit_bytes = total * 1024;
    read_cgroups(root, &p);
    p.available_bytes = p.cgroup_bytes < p.machine_bytes ? p.cgroup_bytes : p.machine_bytes;
    FILE *f = open_file(root, "/proc/pressure/memory", "");
    if (f && fgets(line, sizeof line, f) && sscanf(line, "some avg10=%lf", &p.waiting_percent) != 1)
        p.waiting_percent = 0;
    if (f) fclose(f);
    *ret = p;
}
