// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `load`: from nothing running until ready, with the experts nowhere in memory, with the
// store file in the page cache, and with the experts in their arenas, as after a restart.
#include "cli/bench.h"
#include "common/base/clock.h"
#include "common/model/arena.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef enum state { NOWHERE, IN_FILE_CACHE, IN_ARENAS, STATES } state;
static const char *const state_names[STATES] = {"store not cached", "store cached", "experts in memory"};

// Asks the kernel to drop the store's cached pages; the checkpoint's dense part stays as it is.
static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

// Frees the arenas of this store, unless somebody serves from them: then the figure is one of theirs.
static bool drop_ours(void *arg, const tc_arena_entry *entry)
{
    tc_error ignored;
    if (entry->state == TC_ARENA_WHOLE && !strcmp(entry->store, arg)) (void)tc_arena_drop(entry, &ignored);
    return true;
}

static tc_status load_once(tc_bench *b, state from, char *store, tc_samples *seconds, tc_local *ret,
                           tc_error *e)
{
    if (from != IN_ARENAS) TC_TRY(tc_arena_list(b->o.arena_dir, drop_ours, store, e));
    if (from == NOWHERE) drop_cache(store);
    uint64_t begin_us = tc_now_us();
    TC_TRY(tc_local_open(&b->o, b->model, ret, e));
    tc_samples_add(seconds, (double)(tc_now_us() - begin_us) / 1e6);
    return TC_OK;
}

static tc_status report(const tc_bench *b, const tc_local *local, state from, const tc_samples *seconds,
                        tc_error *e)
{
    tc_report *r;
    tc_samples rate = {0};
    double bytes = (double)(b->footprint.dense_bytes + local->info.experts_bytes);
    for (uint32_t i = 0; i < seconds->count; i++) tc_samples_add(&rate, bytes * 1e-9 / seconds->value[i]);
    TC_TRY(tc_report_open(b, state_names[from], local, &r, e));
    tc_report_count(r, "workers", "workers", b->o.workers, "");
    tc_report_flag(r, "cold", from == NOWHERE);
    tc_report_samples(r, "load_s", "until ready", seconds, "s");
    tc_report_samples(r, "load_gb_per_s", "weights loaded at", &rate, "GB/s");
    tc_report_samples(r, "read_gb_per_s", "read bandwidth", &b->machine.read_gb_per_s, "GB/s");
    tc_report_memory(r, local);
    tc_report_close(r);
    return TC_OK;
}

static tc_status load(tc_bench *b, state from, char *store, tc_error *e)
{
    tc_samples seconds = {0};
    tc_status status = TC_OK;
    for (uint64_t i = 0; i < b->repetitions && status == TC_OK; i++) {
        tc_local local = {0};
        TC_TRY(load_once(b, from, store, &seconds, &local, e));
        if (i + 1 == b->repetitions) status = report(b, &local, from, &seconds, e); // while it is up: memory
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
    for (state from = NOWHERE; from < STATES; from++) TC_TRY(load(b, from, store, e));
    return TC_OK;
}
