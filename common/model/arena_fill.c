// SPDX-License-Identifier: Apache-2.0
// Owns: filling the missing shares of a sharing: room accounted, memory taken, then one pass over the store
// file that copies every expert to its share and compares each layer with its hash. A team works on several
// layers at once. What was read leaves the page cache, so that memory holds the experts once.
#include "common/model/arena_file.h"

#include "common/base/mem.h"
#include "common/base/team.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 // Linux 5.14
#endif

enum { RESERVE_BYTES = 32 << 20, READ_BYTES = 1 << 20, FILL_THREADS_MAX = 16 };

typedef struct part {
    bool missing;
    int fd;
    uint64_t bytes;
    char *memory; // the whole file, when missing
    char path[TC_ARENA_PATH_BYTES];
} part;

typedef struct filler {
    const tc_arena_directory *d;
    const tc_arena_key *key;
    const tc_arena_options *o;
    tc_store *file;         // where it is read
    const tc_store *places; // where it goes
    part *parts;
    tc_team *team;
    uint32_t threads;
    uint8_t **bounce; // [threads] for shares that are there already: only hashed
    XXH3_state_t **hash;
    uint64_t total;
    _Atomic uint64_t done;
    _Atomic bool stop; // one failed, or was told to stop
    _Atomic bool failed;
    tc_status status; // of the one that set `failed`
    tc_error error;
} filler;

// ---- room ----

static uint64_t free_huge_bytes(void)
{
    unsigned long long free_pages = 0, promised = 0;
    FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
    if (f && fscanf(f, "%llu", &free_pages) != 1) free_pages = 0;
    if (f) fclose(f);
    f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "re");
    if (f && fscanf(f, "%llu", &promised) != 1) promised = 0;
    if (f) fclose(f);
    return free_pages > promised ? (free_pages - promised) * TC_ARENA_HUGE_BYTES : 0;
}

static uint64_t free_bytes(const tc_arena_directory *d, uint64_t *ret_memory)
{
    struct statvfs vfs;
    uint64_t promised = tc_arena_promised_bytes(d), room = 0, memory = tc_mem_available_bytes();
    if (d->hugetlb)
        room = memory = free_huge_bytes();
    else if (statvfs(d->path, &vfs) == 0) // no blocks at all: a tmpfs without a limit
        room = vfs.f_blocks ? (uint64_t)vfs.f_bavail * vfs.f_frsize : UINT64_MAX;
    *ret_memory = memory > promised ? memory - promised : 0;
    return room > promised ? room - promised : 0;
}

static tc_status check_room(const filler *f, tc_error *e)
{
    uint64_t need = 0, memory, room;
    for (uint32_t i = 0; i < f->key->of; i++)
        if (f->parts[i].missing) need += f->parts[i].bytes;
    room = free_bytes(f->d, &memory);
    if (need <= room && need <= memory) return TC_OK;
    uint64_t have = room < memory ? room : memory, unused = tc_arena_unused_bytes(f->d);
    char drop[120] = "";
    if (unused)
        snprintf(drop, sizeof drop, "; `thermocline arena drop` frees %" PRIu64 " MiB there that nobody uses",
                 unused >> 20);
    if (room < memory)
        return tc_fail(e, TC_BUDGET,
                       "%s: the experts need %" PRIu64 " MiB, this shared memory has %" PRIu64
                       " MiB free%s; a larger one: mount -o remount,size=%" PRIu64
                       "M on it, or docker run --shm-size",
                       f->d->path, need >> 20, have >> 20, drop, (need + f->places->info.bytes / 8) >> 20);
    return tc_fail(e, TC_BUDGET,
                   "%s: the experts need %" PRIu64 " MiB of memory, %" PRIu64 " MiB are available%s",
                   f->d->path, need >> 20, have >> 20, drop);
}

// Files of full size, still without memory: what they lack is what they were promised.
static tc_status make_part(filler *f, uint32_t index, tc_error *e)
{
    part *p = &f->parts[index];
    char final[TC_ARENA_PATH_BYTES];
    tc_arena_share_path(f->d, f->key, index, "", final);
    if (unlink(final) != 0 && errno != ENOENT) // what has the name and is not a share
        return tc_fail_errno(e, TC_IO, "%s: is in the way", final);
    if (unlink(p->path) != 0 && errno != ENOENT) return tc_fail_errno(e, TC_IO, "%s: is in the way", p->path);
    p->fd = open(p->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->fd < 0) return tc_fail_errno(e, TC_IO, "%s", p->path);
    if (ftruncate(p->fd, (off_t)p->bytes) != 0) return tc_fail_errno(e, TC_NOMEM, "%s", p->path);
    return TC_OK;
}

static tc_status make_parts(filler *f, tc_error *e)
{
    char lock[TC_ARENA_PATH_BYTES];
    int fd = -1;
    tc_status status;
    snprintf(lock, sizeof lock, "%s/.lock", f->d->path);
    TC_TRY(tc_arena_lock(lock, NULL, NULL, &fd, e));
    tc_arena_remove_stale(f->d, f->key, f->o->store);
    for (uint32_t i = 0; i < f->key->of; i++) {
        part *p = &f->parts[i];
        tc_arena_header there;
        p->bytes = tc_arena_file_bytes(f->d, f->places, &f->places->place[i]);
        tc_arena_share_path(f->d, f->key, i, ".part", p->path);
        // The others stay open, and so undropped, until all are whole.
        p->missing = tc_arena_open_share(f->d, f->key, i, &p->fd, &there, NULL) != TC_OK;
        if (p->missing || there.file_bytes == p->bytes) continue;
        p->missing = true;
        close(p->fd);
        p->fd = -1;
    }
    TC_GOTO(check_room(f, e));
    for (uint32_t i = 0; i < f->key->of; i++)
        if (f->parts[i].missing) TC_GOTO(make_part(f, i, e));
out:
    tc_arena_unlock(lock, fd);
    return status;
}

// Memory that a node could give, page cache included.
static uint64_t node_bytes(int node)
{
    char path[80], line[160];
    unsigned long long kib, sum = 0;
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", node);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Node %*d MemFree: %llu kB", &kib) == 1 ||
            sscanf(line, "Node %*d Inactive(file): %llu kB", &kib) == 1)
            sum += kib;
    if (f) fclose(f);
    return sum * 1024;
}

static tc_status map_part(filler *f, uint32_t index, char note[TC_ARENA_NOTE_BYTES], tc_error *e)
{
    part *p = &f->parts[index];
    p->memory = tc_arena_map(p->fd, p->bytes, PROT_READ | PROT_WRITE);
    if (!p->memory) return tc_fail_errno(e, TC_NOMEM, "%s: cannot map %" PRIu64 " bytes", p->path, p->bytes);
    if (!f->d->hugetlb) (void)madvise(p->memory, p->bytes, MADV_HUGEPAGE);
    int node = f->o->nodes ? f->o->nodes[index] : -1;
    if (node < 0) return TC_OK;
    // Bound to a node that is full, the kernel would kill somebody; preferred, it takes from elsewhere.
    bool fits = node_bytes(node) > p->bytes;
    if (!tc_arena_bind(p->memory, p->bytes, node, fits, false))
        snprintf(note, TC_ARENA_NOTE_BYTES, "share %u: the kernel does not bind memory to node %d", index,
                 node);
    else if (!fits)
        snprintf(note, TC_ARENA_NOTE_BYTES,
                 "share %u: node %d has not enough memory, the rest comes from others", index, node);
    return TC_OK;
}

// ---- taking memory ----

static void give_up(filler *f, tc_status status, const tc_error *error)
{
    if (!atomic_exchange(&f->failed, true)) {
        f->status = status;
        f->error = *error;
    }
    atomic_store(&f->stop, true);
}

// True when the work may go on. Only member 0 talks to the caller.
static bool tell(filler *f, uint32_t member, const char *what, uint64_t bytes)
{
    uint64_t done = atomic_fetch_add(&f->done, bytes) + bytes;
    if (member == 0 && f->o->progress && !f->o->progress(f->o->arg, what, done, f->total)) {
        tc_error error;
        give_up(f, tc_fail(&error, TC_CANCELLED, "loading the experts was stopped"), &error);
    }
    return !atomic_load(&f->stop);
}

// The piece'th run of RESERVE_BYTES over all missing parts.
static const part *find_piece(const filler *f, uint32_t piece, uint64_t *ret_at, uint64_t *ret_bytes)
{
    for (uint32_t i = 0; i < f->key->of; i++) {
        const part *p = &f->parts[i];
        if (!p->missing) continue;
        uint32_t pieces = (uint32_t)((p->bytes + RESERVE_BYTES - 1) / RESERVE_BYTES);
        if (piece < pieces) {
            *ret_at = (uint64_t)piece * RESERVE_BYTES;
            *ret_bytes = p->bytes - *ret_at < RESERVE_BYTES ? p->bytes - *ret_at : RESERVE_BYTES;
            return p;
        }
        piece -= pieces;
    }
    return NULL;
}

static void take_item(void *arg, uint32_t i, uint32_t member)
{
    filler *f = arg;
    uint64_t at = 0, bytes = 0, head;
    const part *p = find_piece(f, i, &at, &bytes);
    if (atomic_load(&f->stop)) return;
    bool good = true;
    // Before the data there are only the headers: their pages, not the 2 MiB.
    head = TC_ARENA_STORE_AT + tc_store_align(f->places->header->header_bytes, 4096);
    if (at == 0 && !f->d->hugetlb) {
        good = madvise(p->memory, head, MADV_POPULATE_WRITE) == 0 ||
               (errno == EINVAL && fallocate(p->fd, 0, 0, (off_t)head) == 0);
        at = TC_ARENA_DATA_AT;
        bytes -= bytes < TC_ARENA_DATA_AT ? bytes : TC_ARENA_DATA_AT;
    }
    if (good && bytes) good = tc_arena_reserve(f->d, p->fd, p->memory, at, bytes);
    if (!good) {
        tc_error error;
        give_up(f, tc_fail_errno(&error, TC_NOMEM, "%s: no more shared memory", p->path), &error);
        return;
    }
    tell(f, member, "taking memory for the experts", bytes);
}

static tc_status take_memory(filler *f)
{
    uint32_t pieces = 0;
    f->total = 0;
    for (uint32_t i = 0; i < f->key->of; i++) {
        if (!f->parts[i].missing) continue;
        pieces += (uint32_t)((f->parts[i].bytes + RESERVE_BYTES - 1) / RESERVE_BYTES);
        f->total += f->parts[i].bytes - (f->d->hugetlb ? 0 : TC_ARENA_DATA_AT);
    }
    atomic_store(&f->done, 0);
    tc_team_each(f->team, pieces, take_item, f);
    return atomic_load(&f->failed) ? f->status : TC_OK;
}

// ---- reading ----

static tc_status read_run(const filler *f, uint8_t *to, uint64_t bytes, uint64_t at, XXH3_state_t *hash,
                          bool keep, tc_error *e)
{
    while (bytes > 0) {
        size_t part_bytes = bytes < READ_BYTES ? (size_t)bytes : READ_BYTES;
        ssize_t n = pread(f->file->fd, to, part_bytes, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", f->file->path);
        if (n == 0) return tc_fail(e, TC_IO, "%s: the file has become shorter", f->file->path);
        XXH3_128bits_update(hash, to, (size_t)n); // while it is in the cache
        if (keep) to += n;
        at += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return TC_OK;
}

// One expert: each share's run of it, in the file's order.
static tc_status read_expert(filler *f, uint32_t layer, uint32_t expert, uint32_t member, tc_error *e)
{
    uint64_t at = f->file->layers[layer].offset + expert * f->file->layers[layer].expert_stride;
    for (uint32_t i = 0; i < f->key->of; i++) {
        const tc_store_place *place = &f->places->place[i];
        if (expert < place->share.expert_begin || expert >= place->share.expert_end) continue;
        uint64_t run = tc_store_run_bytes(f->places, place, layer);
        part *p = &f->parts[i];
        uint8_t *to = f->bounce[member];
        if (p->missing)
            to = (uint8_t *)p->memory + place->at[layer] + (expert - place->share.expert_begin) * run;
        TC_TRY(read_run(f, to, run, at, f->hash[member], p->missing, e));
        at += run;
    }
    return TC_OK;
}

static tc_status read_layer(filler *f, uint32_t layer, uint32_t member, tc_error *e)
{
    const tc_store_layer *l = &f->file->layers[layer];
    uint64_t bytes = l->expert_stride * f->file->info.experts;
    (void)posix_fadvise(f->file->fd, (off_t)l->offset, (off_t)bytes, POSIX_FADV_SEQUENTIAL);
    XXH3_128bits_reset(f->hash[member]);
    for (uint32_t x = 0; x < f->file->info.experts; x++) {
        TC_TRY(read_expert(f, layer, x, member, e));
        if (!tell(f, member, "loading the experts", l->expert_stride)) return TC_OK;
    }
    XXH128_hash_t hash = XXH3_128bits_digest(f->hash[member]);
    (void)posix_fadvise(f->file->fd, (off_t)l->offset, (off_t)bytes, POSIX_FADV_DONTNEED);
    if (hash.low64 == l->hash_low && hash.high64 == l->hash_high) return TC_OK;
    return tc_fail(
        e, TC_FORMAT,
        "%s: layer %u does not match its hash: the file is damaged (thermocline pack --force makes it anew)",
        f->file->path, layer);
}

static void read_item(void *arg, uint32_t layer, uint32_t member)
{
    filler *f = arg;
    tc_error error;
    if (atomic_load(&f->stop) || !f->file->layers[layer].has_experts) return;
    tc_status status = read_layer(f, layer, member, &error);
    if (status != TC_OK) give_up(f, status, &error);
}

static tc_status read_all(filler *f)
{
    f->total = 0;
    for (uint32_t l = 0; l < f->file->info.layers; l++)
        if (f->file->layers[l].has_experts)
            f->total += f->file->layers[l].expert_stride * f->file->info.experts;
    atomic_store(&f->done, 0);
    tc_team_each(f->team, f->file->info.layers, read_item, f);
    return atomic_load(&f->failed) ? f->status : TC_OK;
}

// ---- publishing ----

static tc_status publish(filler *f, uint32_t index, tc_error *e)
{
    part *p = &f->parts[index];
    char final[TC_ARENA_PATH_BYTES];
    tc_arena_header *h = (tc_arena_header *)(void *)p->memory;
    *h = (tc_arena_header){.shard = f->key->shard,
                           .index = index,
                           .of = f->key->of,
                           .store_header_bytes = f->file->header->header_bytes,
                           .file_bytes = p->bytes,
                           .huge_bytes = f->d->hugetlb ? p->bytes : tc_arena_huge_bytes(p->memory)};
    h->pages = f->d->hugetlb ? TC_PAGES_EXPLICIT : h->huge_bytes ? TC_PAGES_TRANSPARENT : TC_PAGES_SMALL;
    memcpy(h->content_hash, f->key->content_hash, sizeof f->key->content_hash);
    char *real = realpath(f->o->store, NULL);
    snprintf(h->store, sizeof h->store, "%s", real ? real : f->o->store);
    free(real);
    memcpy(p->memory + TC_ARENA_STORE_AT, f->file->header, f->file->header->header_bytes);
    XXH128_hash_t hash = XXH3_128bits(f->file->header, f->file->header->header_bytes);
    h->store_low = hash.low64;
    h->store_high = hash.high64;
    tc_arena_hash_header(h);
    tc_arena_share_path(f->d, f->key, index, "", final);
    if (rename(p->path, final) != 0) return tc_fail_errno(e, TC_IO, "%s: cannot rename", p->path);
    p->path[0] = 0;
    return TC_OK;
}

// ---- the whole ----

static uint32_t fill_threads(const tc_arena_options *o)
{
    cpu_set_t set;
    uint32_t threads = o->threads;
    if (!threads) threads = sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
    return threads > FILL_THREADS_MAX ? FILL_THREADS_MAX : threads;
}

static tc_status prepare(filler *f, tc_error *e)
{
    f->threads = fill_threads(f->o);
    f->parts = calloc(f->key->of, sizeof *f->parts);
    f->bounce = calloc(f->threads, sizeof *f->bounce);
    f->hash = calloc(f->threads, sizeof *f->hash);
    if (!f->parts || !f->bounce || !f->hash) return tc_fail(e, TC_NOMEM, "no memory to load experts");
    for (uint32_t i = 0; i < f->key->of; i++) f->parts[i].fd = -1;
    for (uint32_t i = 0; i < f->threads; i++) {
        f->bounce[i] = malloc(READ_BYTES);
        f->hash[i] = XXH3_createState();
        if (!f->bounce[i] || !f->hash[i]) return tc_fail(e, TC_NOMEM, "no memory to load experts");
    }
    return tc_team_create(&(tc_team_options){.threads = f->threads}, &f->team, e);
}

static void finish(filler *f)
{
    tc_team_free(f->team);
    for (uint32_t i = 0; f->parts && i < f->key->of; i++) {
        part *p = &f->parts[i];
        if (p->memory) munmap(p->memory, p->bytes);
        if (p->missing && p->path[0] && p->fd >= 0) unlink(p->path);
        if (p->fd >= 0) close(p->fd);
    }
    for (uint32_t i = 0; i < f->threads; i++) {
        if (f->bounce) free(f->bounce[i]);
        if (f->hash) XXH3_freeState(f->hash[i]);
    }
    free(f->parts);
    free(f->bounce);
    free(f->hash);
}

tc_status tc_arena_fill(const tc_arena_directory *d, const tc_arena_key *key, const tc_arena_options *options,
                        tc_store *file, const tc_store *places, char note[TC_ARENA_NOTE_BYTES], tc_error *e)
{
    filler f = {.d = d, .key = key, .o = options, .file = file, .places = places};
    tc_status status;
    TC_GOTO(prepare(&f, e));
    TC_GOTO(make_parts(&f, e));
    for (uint32_t i = 0; i < key->of; i++)
        if (f.parts[i].missing) TC_GOTO(map_part(&f, i, note, e));
    status = take_memory(&f);
    if (status == TC_OK) status = read_all(&f);
    if (status != TC_OK) {
        if (e) *e = f.error;
        goto out;
    }
    for (uint32_t i = 0; i < key->of; i++)
        if (f.parts[i].missing) TC_GOTO(publish(&f, i, e));
out:
    finish(&f);
    return status;
}
