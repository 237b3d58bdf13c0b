// SPDX-License-Identifier: Apache-2.0
// Shows: memory head-room out of trees like those of /proc and /sys: no cgroup, either version, nested
// limits, page cache that can be had again, files that are missing or say nonsense.
#include "common/base/pressure.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char root[] = "/tmp/tc-pressure-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[512], command[600];
    snprintf(full, sizeof full, "%s%s", root, path);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname %s)\"", full);
    assert_int_equal(system(command), 0);
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void clear(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s/*", root);
    assert_int_equal(system(command), 0);
}

static const char MEMINFO[] = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n";

static void test_machine(void **state)
{
    (void)state;
    tc_pressure p;
    clear();
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == UINT64_MAX && p.waiting_percent <= 0);
    put("/proc/meminfo", MEMINFO);
    put("/proc/pressure/memory", "some avg10=12.50 avg60=0.00 avg300=0.00 total=0\n");
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 600 * 1024 && p.limit_bytes == 1000 * 1024 &&
                p.cgroup_bytes == UINT64_MAX);
    assert_true(p.waiting_percent > 12.4 && p.waiting_percent < 12.6);
}

static void test_version_2(void **state)
{
    (void)state;
    tc_pressure p;
    clear();
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "5\n");
    put("/sys/fs/cgroup/a/memory.max", "300000\n");
    put("/sys/fs/cgroup/a/memory.current", "250000\n");
    put("/sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file 100000\n");
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 150000 && p.limit_bytes == 300000); // the one above counts too
    put("/sys/fs/cgroup/a/memory.stat", "inactive_file 900000\n");       // more than there is
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 300000);
    put("/sys/fs/cgroup/a/memory.current", "999999\n"); // above its limit
    put("/sys/fs/cgroup/a/memory.stat", "");
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 0);
}

static void test_version_1(void **state)
{
    (void)state;
    tc_pressure p;
    clear();
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/cgroup", "9:cpu:/x\n4:memory:/box\n0::/\n");
    put("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712\n"); // none
    put("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "77\n");
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 600 * 1024);
    put("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "100000\n");
    put("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "40000\n");
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 60000 && p.limit_bytes == 100000);
    put("/proc/self/cgroup", "4:memory:/gone/away\nnonsense\n::\n");
    tc_pressure_read(root, &p);
    assert_true(p.available_bytes == 600 * 1024);
}

static int make(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int drop(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_machine), cmocka_unit_test(test_version_2),
                                       cmocka_unit_test(test_version_1)};
    return cmocka_run_group_tests(tests, make, drop);
}
