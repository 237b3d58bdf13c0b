// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `load`: from nothing running until ready, with the store out of the page cache and in it.
#include "cli/bench.h"

#include <fcntl.h>
#include <unistd.h>

// Asks the kernel to drop the store's cached pages; the checkpoint's dense part stays as it is.
static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static tc_status load_once(tc_bench *b, bool cold, const char *store, tc_samples *seconds, tc_local *ret,
                           tc_error *e)
{
    if (cold) drop_cache(store);
    TC_TRY(tc_local_open(&b->o, b->model, ret, e));
    tc_samples_add(seconds, (double)ret->load_us / 1e6);
    return TC_OK;
}

static tc_status report(const tc_bench *b, const tc_local *local, bool cold, const tc_samples *seconds,
                        tc_error *e)
{
    tc_report *r;
    tc_samples rate = {0};
    double bytes = (double)(b->footprint.dense_bytes + local->info.experts_bytes);
    for (uint32_t i = 0; i < seconds->count; i++) tc_samples_add(&rate, bytes * 1e-9 / seconds->value[i]);
    TC_TRY(tc_report_open(b, cold ? "store not cached" : "store cached", local, &r, e));
    tc_report_count(r, "workers", "workers", b->o.workers, "");
    tc_report_flag(r, "cold", cold);
    tc_report_samples(r, "load_s", "until ready", seconds, "s");
    tc_report_samples(r, "load_gb_per_s", "weights loaded at", &rate, "GB/s");
    tc_report_samples(r, "read_gb_per_s", "read bandwidth", &b->machine.read_gb_per_s, "GB/s");
    tc_report_memory(r, local);
    tc_report_close(r);
    return TC_OK;
}

static tc_status load(tc_bench *b, bool cold, const char *store, tc_error *e)
{
    tc_samples seconds = {0};
    tc_status status = TC_OK;
    for (uint64_t i = 0; i < b->repetitions && status == TC_OK; i++) {
        tc_local local = {0};
        TC_TRY(load_once(b, cold, store, &seconds, &local, e));
        if (i + 1 == b->repetitions) status = report(b, &local, cold, &seconds, e); // while it is up: memory
        tc_local_close(&local);
    }
    return status;
}

tc_status tc_bench_load(tc_bench *b, tc_error *e)
{
    char store[TC_STORE_PATH_BYTES];
    bool packed;
    TC_TRY(tc_machine_measure_read(&b->machine, e));
    TC_TRY(tc_run_prepare(b->model, b->o.cache_dir, b->o.quantise, false, &packed, store, e));
    TC_TRY(load(b, true, store, e));
    return load(b, false, store, e);
}
