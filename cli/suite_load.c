// SPDX-License-Identifier: Apache-2.0
// Owns: the section `load`: how long until a prompt can be answered, by where the experts are before. Packs
// into a folder of its own, and frees this store's arenas where nobody maps them. Refuses: to free others'.
#include "cli/suite.h"
#include "common/base/clock.h"

#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { STATES = 4 };
static const char *const names[STATES] = {"nothing packed", "packed, not cached", "packed, cached",
                                          "in shared memory"};
#define LARGE_BYTES (4ull << 30) // such models are loaded once, not several times

// What the original plan hoped for: the first time, and with everything cached.
static const struct tc_line first_lines[] = {
    {"original plan, first, least", 480}, {"original plan, first, most", 600}, {NULL, 0}};
static const struct tc_line cached_lines[] = {{"original plan, cached", 22}, {NULL, 0}};

static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd); // dirty pages are not dropped
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

typedef struct ours {
    const char *store;
    char hash[33];
    bool in_use; // somebody else serves from its arenas
} ours;

static tc_status load_once(tc_suite *s, int from, ours *mine, const char *cache, tc_samples *seconds,
                           tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    char packed[TC_STORE_PATH_BYTES];
    bool ignored;
    o.cache_dir = cache;
    if (from == 0) {
        (void)unlink(mine->store);
    } else {
        TC_TRY(tc_run_prepare(s->b.model, o.cache_dir, o.quantise, false, &ignored, packed, e));
    }
    if (from < 3) TC_TRY(tc_suite_drop_hash(s, mine->hash, &mine->in_use, e));
    if (from == 1) drop_cache(mine->store);
    TC_TRY(tc_suite_step(s, from, STATES, e));
    tc_progress_clear(&s->bar);
    uint64_t begin_us = tc_now_us();
    TC_TRY(tc_local_open(&o, s->b.model, &local, e));
    tc_samples_add(seconds, (double)(tc_now_us() - begin_us) * 1e-6);
    tc_local_close(&local);
    return TC_OK;
}

static tc_status load_from(tc_suite *s, int from, ours *mine, const char *cache, tc_error *e)
{
    tc_samples seconds = {0}, rate = {0};
    uint64_t times = tc_suite_expert_bytes(s) > LARGE_BYTES ? 1 : s->repetitions;
    for (uint64_t i = 0; i < times; i++) TC_TRY(load_once(s, from, mine, cache, &seconds, e));
    if (mine->in_use && from < 3) {
        tc_suite_note(s, "Others serve from this model's arenas: `%s` could not be measured.", names[from]);
        return TC_OK;
    }
    double bytes = (double)(s->b.footprint.dense_bytes + s->b.footprint.experts_bytes);
    for (uint32_t i = 0; i < seconds.count; i++) tc_samples_add(&rate, bytes / seconds.value[i]);
    tc_suite_figure(s, &(tc_figure){.figure = "load-ready",
                                    .series = "until ready",
                                    .x_text = names[from],
                                    .unit = "s",
                                    .better = "lower",
                                    .values = &seconds,
                                    .lines = from ? cached_lines : first_lines});
    tc_suite_figure(s, &(tc_figure){.figure = "load-rate",
                                    .series = "weights loaded",
                                    .x_text = names[from],
                                    .unit = "bytes/s",
                                    .better = "higher",
                                    .values = &rate,
                                    .roofline = tc_samples_median(&s->b.machine.read_gb_per_s) * 1e9});
    return TC_OK;
}

static bool has_room(const tc_suite *s, const char *folder)
{
    struct statvfs v;
    uint64_t need = tc_suite_expert_bytes(s) + (1ull << 30);
    return statvfs(folder, &v) != 0 || (uint64_t)v.f_bavail * v.f_frsize > need;
}

tc_status tc_suite_load(tc_suite *s, tc_error *e)
{
    char cache[TC_STORE_PATH_BYTES], store[TC_STORE_PATH_BYTES];
    bool packed, own = has_room(s, s->output);
    ours mine = {.store = store};
    TC_TRY(tc_suite_place(s, "cache", cache, e));
    const char *folder =
        own ? cache : s->b.o.cache_dir; // no room for a second store: the usual one, not packed anew
    TC_TRY(tc_run_prepare(s->b.model, folder, s->b.o.quantise, false, &packed, store, e));
    TC_TRY(tc_suite_store_hash(store, mine.hash, e));
    if (!own) tc_suite_note(s, "No room on the disk to pack again: `%s` is missing.", names[0]);
    for (int from = own ? 0 : 1; from < STATES; from++) TC_TRY(load_from(s, from, &mine, folder, e));
    return TC_OK;
}
