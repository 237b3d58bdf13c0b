// SPDX-License-Identifier: Apache-2.0
// Owns: where arenas lie, what they are called, and whether a file that is called so is one (arena_file.h).
#include "common/model/arena_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // Linux 6.1
#endif

enum { LOCK_POLL_MS = 50, NODES_MAX = 1024 };

static const char arena_magic[8] = {'T', 'C', 'A', 'R', 'E', 'N', 'A', '\n'};

// ---- folders ----

static tc_status check_directory(int fd, tc_arena_directory *d, tc_error *e)
{
    struct stat st;
    struct statfs fs;
    if (fstat(fd, &st) != 0 || fstatfs(fd, &fs) != 0) return tc_fail_errno(e, TC_IO, "%s", d->path);
    if (st.st_uid != geteuid())
        return tc_fail(e, TC_IO, "%s: belongs to user %u, not to us: name another folder (--arena-dir)",
                       d->path, (unsigned)st.st_uid);
    if (st.st_mode & 077)
        return tc_fail(
            e, TC_IO, "%s: others can enter it: chmod 700 it, or name another folder (--arena-dir)", d->path);
    if (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC)
        return tc_fail(e, TC_IO, "%s: is on a disk; arenas need a tmpfs or hugetlbfs (--arena-dir)", d->path);
    d->hugetlb = fs.f_type == HUGETLBFS_MAGIC;
    d->page_bytes = (uint64_t)(d->hugetlb ? fs.f_bsize : sysconf(_SC_PAGESIZE));
    return TC_OK;
}

// TC_NOT_FOUND: not there, and not to be made.
static tc_status enter(tc_arena_directory *d, bool make, tc_error *e)
{
    if (make && mkdir(d->path, 0700) != 0 && errno != EEXIST)
        return tc_fail_errno(
            e, TC_IO, "%s: cannot make the folder of the experts (--arena-dir names another)", d->path);
    int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s: not a folder of ours", d->path);
    tc_status status = check_directory(fd, d, e);
    close(fd);
    return status;
}

// The first hugetlbfs of 2 MiB pages where we have, or can make, a folder.
static bool find_hugetlb(bool make, tc_arena_directory *ret)
{
    char line[1024], place[200], type[32];
    bool found = false;
    FILE *f = fopen("/proc/self/mounts", "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%*s %199s %31s", place, type) != 2 || strcmp(type, "hugetlbfs") != 0) continue;
        snprintf(ret->path, sizeof ret->path, "%s/thermocline-%u", place, (unsigned)geteuid());
        found = enter(ret, make, NULL) == TC_OK && ret->page_bytes == TC_ARENA_HUGE_BYTES;
    }
    if (f) fclose(f);
    return found;
}

tc_status tc_arena_directories(const char *named, bool make, tc_arena_directory ret[TC_ARENA_DIRECTORIES_MAX],
                               uint32_t *ret_count, tc_error *e)
{
    uint32_t count = 0;
    if (!named && find_hugetlb(make, &ret[0])) count++;
    tc_arena_directory *d = &ret[count];
    int n = named ? snprintf(d->path, sizeof d->path, "%s", named)
                  : snprintf(d->path, sizeof d->path, "/dev/shm/thermocline-%u", (unsigned)geteuid());
    if (n >= (int)sizeof d->path)
        return tc_fail(e, TC_LIMIT, "%.64s...: the path of the arenas is longer than %d bytes", named,
                       (int)sizeof d->path - 1);
    tc_status status = enter(d, make, e);
    if (status != TC_OK && status != TC_NOT_FOUND) return status;
    *ret_count = count + (status == TC_OK);
    return TC_OK;
}

// ---- names ----

void tc_arena_share_path(const tc_arena_directory *d, const tc_arena_key *key, uint32_t index,
                         const char *suffix, char ret[TC_ARENA_PATH_BYTES])
{
    snprintf(ret, TC_ARENA_PATH_BYTES, "%s/%s-%c%u-%u%s", d->path, key->content_hash,
             key->shard == TC_SHARD_SLICE ? 's' : 'p', key->of, index, suffix);
}

void tc_arena_lock_path(const tc_arena_directory *d, const tc_arena_key *key, char ret[TC_ARENA_PATH_BYTES])
{
    snprintf(ret, TC_ARENA_PATH_BYTES, "%s/%s-%c%u.lock", d->path, key->content_hash,
             key->shard == TC_SHARD_SLICE ? 's' : 'p', key->of);
}

bool tc_arena_parse_name(const char *name, tc_arena_key *ret, uint32_t *ret_index, bool *ret_part)
{
    char shard, back[TC_ARENA_NAME_BYTES + 8];
    tc_arena_key key = {0};
    uint32_t index;
    if (strspn(name, "0123456789abcdef") != 32) return false;
    memcpy(key.content_hash, name, 32);
    if (sscanf(name + 32, "-%c%u-%u", &shard, &key.of, &index) != 3) return false;
    if ((shard != 'p' && shard != 's') || key.of < 1 || key.of > TC_SHARES_MAX || index >= key.of)
        return false;
    key.shard = shard == 's' ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
    for (int part = 0; part < 2; part++) { // exactly what we would write
        snprintf(back, sizeof back, "%s-%c%u-%u%s", key.content_hash, shard, key.of, index,
                 part ? ".part" : "");
        if (strcmp(back, name) != 0) continue;
        *ret = key;
        *ret_index = index;
        *ret_part = part;
        return true;
    }
    return false;
}

// ---- header ----

void tc_arena_hash_header(tc_arena_header *h)
{
    memcpy(h->magic, arena_magic, sizeof h->magic);
    h->version = TC_ARENA_VERSION;
    h->hash_low = h->hash_high = 0;
    XXH128_hash_t hash = XXH3_128bits(h, sizeof *h);
    h->hash_low = hash.low64;
    h->hash_high = hash.high64;
}

static tc_status read_all(int fd, const char *path, void *to, size_t bytes, uint64_t at, tc_error *e)
{
    for (char *p = to; bytes > 0;) {
        ssize_t n = pread(fd, p, bytes, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tc_fail(e, TC_FORMAT, "%s: cannot be read", path);
        p += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return TC_OK;
}

// The store's header must be the one that was written: it says where every unit lies.
static tc_status check_store_header(int fd, const char *path, const tc_arena_header *h, tc_error *e)
{
    uint8_t *bytes = malloc(TC_STORE_HEADER_BYTES_MAX);
    if (!bytes) return tc_fail(e, TC_NOMEM, "%s: no memory for its header", path);
    tc_status status = read_all(fd, path, bytes, h->store_header_bytes, TC_ARENA_STORE_AT, e);
    if (status == TC_OK) {
        XXH128_hash_t hash = XXH3_128bits(bytes, h->store_header_bytes);
        if (hash.low64 != h->store_low || hash.high64 != h->store_high)
            status = tc_fail(e, TC_FORMAT, "%s: the store's header in it is damaged", path);
    }
    free(bytes);
    return status;
}

static tc_status check_share(int fd, const char *path, const tc_arena_key *key, uint32_t index,
                             tc_arena_header *h, tc_error *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return tc_fail_errno(e, TC_IO, "%s", path);
    if (st.st_nlink == 0) return tc_fail(e, TC_NOT_FOUND, "%s: has just been dropped", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return tc_fail(e, TC_FORMAT, "%s: not a private file of this user", path);
    TC_TRY(read_all(fd, path, h, sizeof *h, 0, e));
    tc_arena_header copy = *h;
    tc_arena_hash_header(&copy);
    if (memcmp(&copy, h, sizeof copy) != 0 || memchr(h->store, 0, sizeof h->store) == NULL ||
        h->pages > TC_PAGES_EXPLICIT || h->store_header_bytes > TC_STORE_HEADER_BYTES_MAX)
        return tc_fail(e, TC_FORMAT, "%s: its header is damaged", path);
    if (strncmp(h->content_hash, key->content_hash, sizeof h->content_hash) != 0 || h->shard != key->shard ||
        h->of != key->of || h->index != index)
        return tc_fail(e, TC_FORMAT, "%s: is of another store or share than its name says", path);
    if (st.st_size < 0 || (uint64_t)st.st_size != h->file_bytes)
        return tc_fail(e, TC_FORMAT, "%s: has %lld bytes, its header says %" PRIu64, path,
                       (long long)st.st_size, h->file_bytes);
    return check_store_header(fd, path, h, e);
}

tc_status tc_arena_open_share(const tc_arena_directory *d, const tc_arena_key *key, uint32_t index,
                              int *ret_fd, tc_arena_header *ret, tc_error *e)
{
    char path[TC_ARENA_PATH_BYTES];
    tc_arena_share_path(d, key, index, "", path);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_FORMAT, "%s", path);
    tc_status status = TC_OK;
    if (flock(fd, LOCK_SH | LOCK_NB) != 0) TC_GOTO(tc_fail(e, TC_NOT_FOUND, "%s: is being dropped", path));
    TC_GOTO(check_share(fd, path, key, index, ret, e));
    *ret_fd = fd;
    return TC_OK;
out:
    close(fd);
    return status;
}

uint64_t tc_arena_file_bytes(const tc_arena_directory *d, const tc_store *store, const tc_store_place *place)
{
    return tc_store_align(tc_store_place_bytes(store, place, TC_ARENA_DATA_AT), d->page_bytes);
}

// ---- locks ----

// A lock counts only while its file has its name: whoever held it before has removed it.
static bool lock_now(const char *path, int flags, int *ret)
{
    struct stat a, b;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
    if (fd < 0) return false;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &a) == 0 && lstat(path, &b) == 0 &&
        a.st_ino == b.st_ino && a.st_dev == b.st_dev) {
        *ret = fd;
        return true;
    }
    close(fd);
    errno = EWOULDBLOCK;
    return false;
}

bool tc_arena_try_lock(const char *path, int *ret)
{
    return lock_now(path, 0, ret);
}

tc_status tc_arena_lock(const char *path, bool (*wait)(void *arg), void *arg, int *ret, tc_error *e)
{
    while (!lock_now(path, O_CREAT, ret)) {
        if (errno != EWOULDBLOCK) return tc_fail_errno(e, TC_IO, "%s: cannot lock", path);
        if (wait && !wait(arg))
            return tc_fail(e, TC_CANCELLED, "stopped while another process loads the experts");
        nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_MS * 1000000L}, NULL);
    }
    return TC_OK;
}

void tc_arena_unlock(const char *path, int fd)
{
    if (fd < 0) return;
    unlink(path); // while it is held: see lock_now
    close(fd);
}

// ---- memory ----

void *tc_arena_map(int fd, uint64_t bytes, int protection)
{
    // Huge pages can be mapped as such only where file and address agree.
    char *room = mmap(NULL, bytes + TC_ARENA_HUGE_BYTES, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return NULL;
    char *base = (char *)tc_store_align((uintptr_t)room, TC_ARENA_HUGE_BYTES);
    if (mmap(base, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int saved = errno;
        munmap(room, bytes + TC_ARENA_HUGE_BYTES);
        errno = saved;
        return NULL;
    }
    if (base > room) munmap(room, (size_t)(base - room));
    munmap(base + bytes, (size_t)(room + TC_ARENA_HUGE_BYTES - base));
    return base;
}

bool tc_arena_bind(void *memory, uint64_t bytes, int node, bool strict, bool move)
{
    unsigned long mask[NODES_MAX / (8 * sizeof(unsigned long))] = {0};
    if (node < 0 || node >= NODES_MAX) return false;
    mask[(unsigned)node / (8 * sizeof *mask)] |= 1ul << (unsigned)node % (8 * sizeof *mask);
    return syscall(SYS_mbind, memory, bytes, strict ? MPOL_BIND : MPOL_PREFERRED, mask,
                   (unsigned long)NODES_MAX, move ? MPOL_MF_MOVE : 0) == 0;
}

// Huge pages of a tmpfs that has them off can still be made by collapsing: one page first, the kernel refuses
// to collapse nothing.
bool tc_arena_reserve(const tc_arena_directory *d, int fd, void *memory, uint64_t at, uint64_t bytes)
{
    bool huge = !d->hugetlb && bytes >= TC_ARENA_HUGE_BYTES;
    for (uint64_t i = at; huge && i + TC_ARENA_HUGE_BYTES <= at + bytes; i += TC_ARENA_HUGE_BYTES)
        if (madvise((char *)memory + i, 4096, MADV_POPULATE_WRITE) != 0 ||
            madvise((char *)memory + i, TC_ARENA_HUGE_BYTES, MADV_COLLAPSE) != 0)
            break; // the rest becomes small pages
    if (madvise((char *)memory + at, bytes, MADV_POPULATE_WRITE) == 0) return true;
    return errno == EINVAL && fallocate(fd, 0, (off_t)at, (off_t)bytes) == 0;
}

uint64_t tc_arena_huge_bytes(const void *memory)
{
    char line[256], start[32];
    bool ours = false;
    uint64_t sum = 0;
    unsigned long long kib, from, to;
    snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)memory);
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2) {
            if (ours) break;
            ours = strncmp(line, start, strlen(start)) == 0;
        } else if (ours && (sscanf(line, "ShmemPmdMapped: %llu kB", &kib) == 1 ||
                            sscanf(line, "FilePmdMapped: %llu kB", &kib) == 1)) {
            sum += kib * 1024;
        }
    }
    if (f) fclose(f);
    return sum;
}
