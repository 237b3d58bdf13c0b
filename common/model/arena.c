// SPDX-License-Identifier: Apache-2.0
// Owns: opening the arenas of a sharing: attach, else fill under the lock and attach; and making one share
// ready.
#include "common/model/arena_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 // Linux 5.14
#endif

enum { TRIES = 8 };

// What an attached store holds: the shares' maps, and their files for the locks.
typedef struct maps {
    uint32_t of;
    struct {
        int fd;
        void *memory;
        uint64_t bytes;
    } share[TC_SHARES_MAX];
} maps;

static void release(void *held)
{
    maps *m = held;
    for (uint32_t i = 0; i < m->of; i++) {
        if (m->share[i].memory) munmap(m->share[i].memory, m->share[i].bytes);
        if (m->share[i].fd >= 0) close(m->share[i].fd);
    }
    free(m);
}

// ---- attach ----

// A store without places out of the copy of its header in a share.
static tc_status read_store_header(int fd, const tc_arena_header *h, tc_store **ret, tc_error *e)
{
    tc_store_header *header = calloc(1, TC_STORE_HEADER_BYTES_MAX);
    tc_status status = TC_OK;
    if (!header) return tc_fail(e, TC_NOMEM, "%s: no memory for its header", h->store);
    if (pread(fd, header, h->store_header_bytes, TC_ARENA_STORE_AT) != (ssize_t)h->store_header_bytes)
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: the header in its arena cannot be read", h->store));
    TC_GOTO(tc_store_header_check(h->store, header, h->store_header_bytes, header->file_bytes, e));
    return tc_store_from_header(h->store, header, ret, e);
out:
    free(header);
    return status;
}

static tc_status attach_share(const tc_arena_directory *d, const tc_arena_key *key, uint32_t index, maps *m,
                              tc_store **store, tc_arena_report *report, tc_error *e)
{
    tc_arena_header h;
    TC_TRY(tc_arena_open_share(d, key, index, &m->share[index].fd, &h, e));
    int fd = m->share[index].fd;
    if (!*store) {
        TC_TRY(read_store_header(fd, &h, store, e));
        if (strcmp((*store)->info.content_hash, key->content_hash) != 0)
            return tc_fail(e, TC_FORMAT, "%s: its arena holds another store", h.store);
        TC_TRY(tc_store_make_places(*store, key->shard, key->of, TC_ARENA_DATA_AT, e));
    }
    tc_store_place *place = &(*store)->place[index];
    if (h.file_bytes != tc_arena_file_bytes(d, *store, place))
        return tc_fail(e, TC_FORMAT, "%s: share %u has another size than the store gives it", h.store, index);
    void *memory = tc_arena_map(fd, h.file_bytes, PROT_READ);
    if (!memory) return tc_fail_errno(e, TC_NOMEM, "%s: cannot map share %u", h.store, index);
    if (!d->hugetlb) (void)madvise(memory, h.file_bytes, MADV_HUGEPAGE);
    m->share[index].memory = memory;
    m->share[index].bytes = h.file_bytes;
    place->base = memory;
    report->bytes += h.file_bytes - TC_ARENA_DATA_AT;
    report->huge_bytes += h.huge_bytes;
    if (h.pages > (uint32_t)report->pages) report->pages = (tc_arena_pages)h.pages;
    return TC_OK;
}

static tc_status attach(const tc_arena_directory *d, const tc_arena_key *key, tc_store **ret,
                        tc_arena_report *report, tc_error *e)
{
    tc_store *store = NULL;
    tc_status status = TC_OK;
    tc_arena_report found = {0};
    maps *m = calloc(1, sizeof *m);
    if (!m) return tc_fail(e, TC_NOMEM, "no memory to attach to arenas");
    m->of = key->of;
    for (uint32_t i = 0; i < m->of; i++) m->share[i].fd = -1;
    for (uint32_t i = 0; i < m->of; i++) TC_GOTO(attach_share(d, key, i, m, &store, &found, e));
    store->release = release;
    store->held = m;
    memcpy(found.directory, d->path, sizeof found.directory);
    memcpy(found.note, report->note, sizeof found.note);
    found.filled = report->filled;
    *report = found;
    *ret = store;
    return TC_OK;
out:
    release(m);
    tc_store_free(store);
    return status;
}

static tc_status attach_any(const tc_arena_directory *d, uint32_t count, const tc_arena_key *key,
                            tc_store **ret, tc_arena_report *report, tc_error *e)
{
    tc_status status = tc_fail(e, TC_NOT_FOUND, "there is no arena of this store and sharing");
    for (uint32_t i = 0; i < count && status != TC_OK; i++) status = attach(&d[i], key, ret, report, e);
    return status;
}

// ---- fill ----

static bool still_waiting(void *arg)
{
    const tc_arena_options *o = arg;
    return !o->progress || o->progress(o->arg, "waiting for another process that loads the experts", 0, 0);
}

// A hugetlbfs that has not room for all of it leaves the tmpfs; its reason becomes the note.
static tc_status fill_any(const tc_arena_directory *d, uint32_t count, const tc_arena_key *key,
                          const tc_arena_options *o, tc_store *file, const tc_store *places,
                          tc_arena_report *report, tc_error *e)
{
    tc_status status = tc_fail(e, TC_IO, "there is no folder for arenas");
    for (uint32_t i = 0; i < count; i++) {
        tc_error error;
        status = tc_arena_fill(&d[i], key, o, file, places, report->note, &error);
        if (status == TC_OK) break;
        if (e) *e = error;
        bool next = d[i].hugetlb && i + 1 < count && (status == TC_BUDGET || status == TC_NOMEM);
        if (!next) break;
        snprintf(report->note, sizeof report->note, "no explicit huge pages: %.200s", error.text);
    }
    if (status == TC_OK) report->filled = true;
    return status;
}

static tc_status fill_locked(const tc_arena_directory *d, uint32_t count, const tc_arena_key *key,
                             const tc_arena_options *o, tc_store *file, tc_store **ret,
                             tc_arena_report *report, tc_error *e)
{
    char path[TC_ARENA_PATH_BYTES];
    int lock = -1;
    tc_store *places = NULL;
    tc_status status;
    if (count == 0) return tc_fail(e, TC_IO, "there is no folder for arenas");
    tc_arena_lock_path(&d[count - 1], key, path);
    TC_TRY(tc_arena_lock(path, still_waiting, (void *)(uintptr_t)o, &lock, e));
    // Another may have filled it while we waited.
    if (attach_any(d, count, key, ret, report, NULL) == TC_OK) {
        tc_arena_unlock(path, lock);
        return TC_OK;
    }
    TC_GOTO(tc_store_open(o->store, &places, e)); // a second one: the first keeps the file's own places
    free(places->place);
    TC_GOTO(tc_store_make_places(places, key->shard, key->of, TC_ARENA_DATA_AT, e));
    TC_GOTO(fill_any(d, count, key, o, file, places, report, e));
    status = attach_any(d, count, key, ret, report, e);
out:
    tc_store_free(places);
    tc_arena_unlock(path, lock);
    return status;
}

// ---- open ----

static tc_status key_of_file(const tc_arena_options *o, tc_store **ret_file, tc_arena_key *key, tc_error *e)
{
    TC_TRY(tc_store_open(o->store, ret_file, e));
    const char *hash = (*ret_file)->info.content_hash;
    if (o->content_hash && strcmp(o->content_hash, hash) != 0)
        return tc_fail(e, TC_FORMAT,
                       "%s: was replaced by another store while this one was in use, and its arena is gone",
                       o->store);
    memcpy(key->content_hash, hash, sizeof key->content_hash);
    return TC_OK;
}

tc_status tc_arena_open(const tc_arena_options *o, tc_store **ret, tc_arena_report *report, tc_error *e)
{
    tc_arena_directory d[TC_ARENA_DIRECTORIES_MAX];
    tc_arena_key key = {.shard = o->of == 1 ? TC_SHARD_PARTITION : o->shard,
                        .of = o->of}; // one share is one thing
    tc_store *file = NULL;
    uint32_t count;
    tc_status status;
    if (o->of < 1 || o->of > TC_SHARES_MAX)
        return tc_fail(e, TC_ARGUMENT, "%u shares are not 1..%d", o->of, TC_SHARES_MAX);
    if (o->content_hash &&
        (strlen(o->content_hash) != 32 || strspn(o->content_hash, "0123456789abcdef") != 32))
        return tc_fail(e, TC_ARGUMENT, "'%.40s' is not the hash of a store", o->content_hash);
    *report = (tc_arena_report){0};
    TC_TRY(tc_arena_directories(o->directory, !o->attach_only, d, &count, e));
    if (o->content_hash) {
        memcpy(key.content_hash, o->content_hash, sizeof key.content_hash);
        if (attach_any(d, count, &key, ret, report, NULL) == TC_OK) return TC_OK;
    }
    TC_GOTO(key_of_file(o, &file, &key, e));
    status = attach_any(d, count, &key, ret, report, e);
    if (o->attach_only) goto out;
    for (int i = 0; status != TC_OK && i < TRIES; i++) { // again when somebody drops it in between
        status = fill_locked(d, count, &key, o, file, ret, report, e);
        if (status != TC_NOT_FOUND) break;
    }
out:
    tc_store_free(file);
    return status;
}

uint64_t tc_arena_settle(const tc_store *store, uint32_t index, int node)
{
    if (store->release != release || index >= store->of) return 0;
    const maps *m = store->held;
    char *memory =
        (char *)m->share[index].memory + TC_ARENA_DATA_AT; // before it are holes: reading would fill them
    uint64_t bytes = m->share[index].bytes - TC_ARENA_DATA_AT;
    if (bytes == 0) return 0;
    if (node >= 0) (void)tc_arena_bind(memory, bytes, node, false, true);
    (void)madvise(memory, bytes, MADV_POPULATE_READ); // else the first calls do it, page by page
    return bytes;
}
