// SPDX-License-Identifier: Apache-2.0
// Owns: making, checking, mapping and sweeping up named shared memory (segment.h).
#include "proto/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 // Linux 5.14
#endif

#define PREFIX "/thermocline-"
#define SHM_FOLDER "/dev/shm" // where the C library keeps shared memory on Linux

enum { RANDOM_BYTES = 16, HEX_DIGITS = 2 * RANDOM_BYTES, KIND_BYTES_MAX = 8, TRIES = 8 };

static bool make_name(const char *kind, char ret[TC_SEGMENT_NAME_BYTES])
{
    unsigned char bytes[RANDOM_BYTES];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) return false;
    int at = snprintf(ret, TC_SEGMENT_NAME_BYTES, PREFIX "%.*s-", KIND_BYTES_MAX, kind);
    for (int i = 0; i < RANDOM_BYTES; i++, at += 2)
        snprintf(ret + at, (size_t)(TC_SEGMENT_NAME_BYTES - at), "%02x", bytes[i]);
    return true;
}

// "<PREFIX><kind>-<hex>", nothing before, between or after. kind NULL: any word of lower-case letters.
static bool name_is_ours(const char *name, const char *kind)
{
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0) return false;
    name += strlen(PREFIX);
    size_t letters = strspn(name, "abcdefghijklmnopqrstuvwxyz");
    if (letters == 0 || letters > KIND_BYTES_MAX || name[letters] != '-') return false;
    if (kind && (strlen(kind) != letters || memcmp(name, kind, letters) != 0)) return false;
    name += letters + 1;
    return strspn(name, "0123456789abcdef") == HEX_DIGITS && name[HEX_DIGITS] == 0;
}

static void *map(int fd, size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

// A new file under a new name, locked. The sweeper may take a file between its creation and the lock for an
// orphan: then the next name is tried.
static int create_locked(const char *kind, char name[TC_SEGMENT_NAME_BYTES])
{
    for (int i = 0; i < TRIES; i++) {
        if (!make_name(kind, name)) return -1;
        int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd < 0 && errno == EEXIST) continue;
        if (fd < 0) return -1;
        struct stat st;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &st) == 0 && st.st_nlink > 0) return fd;
        shm_unlink(name);
        close(fd);
    }
    errno = EBUSY;
    return -1;
}

tc_status tc_segment_create(const char *kind, size_t bytes, tc_segment *ret, tc_error *e)
{
    tc_segment made = {.bytes = bytes};
    tc_status status = TC_OK;
    made.fd = create_locked(kind, made.name);
    if (made.fd < 0) return tc_fail_errno(e, TC_IO, "cannot make a shared memory segment");
    made.linked = true;
    if (ftruncate(made.fd, (off_t)bytes) != 0)
        TC_GOTO(tc_fail_errno(e, TC_IO, "shared memory of %zu bytes", bytes));
    made.base = map(made.fd, bytes);
    if (!made.base) TC_GOTO(tc_fail_errno(e, TC_NOMEM, "cannot map %zu bytes of shared memory", bytes));
    *ret = made;
    return TC_OK;
out:
    tc_segment_close(&made);
    return status;
}

static tc_status check_file(int fd, const char *name, size_t bytes, tc_error *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return tc_fail_errno(e, TC_IO, "shared memory %s", name);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return tc_fail(e, TC_PEER, "shared memory %s: not a private file of this user", name);
    if (st.st_size < 0 || (uint64_t)st.st_size != bytes)
        return tc_fail(e, TC_PEER, "shared memory %s: %lld bytes, agreed were %zu", name,
                       (long long)st.st_size, bytes);
    return TC_OK;
}

tc_status tc_segment_open(const char *kind, const char *name, size_t bytes, tc_segment *ret, tc_error *e)
{
    if (!name_is_ours(name, kind))
        return tc_fail(e, TC_PEER, "'%.80s' is not the name of a %s segment", name, kind);
    tc_segment opened = {.bytes = bytes, .fd = -1};
    tc_status status = TC_OK;
    snprintf(opened.name, sizeof opened.name, "%s", name);
    int fd = shm_open(name, O_RDWR, 0);
    if (fd < 0)
        return tc_fail_errno(e, errno == ENOENT || errno == EACCES ? TC_NOT_FOUND : TC_IO, "shared memory %s",
                             name);
    TC_GOTO(check_file(fd, name, bytes, e));
    opened.base = map(fd, bytes);
    if (!opened.base) TC_GOTO(tc_fail_errno(e, TC_NOMEM, "cannot map shared memory %s", name));
    *ret = opened;
out:
    close(fd);
    return status;
}

tc_status tc_segment_take(void *memory, size_t bytes, tc_error *e)
{
    if (madvise(memory, bytes, MADV_POPULATE_WRITE) == 0 || errno == EINVAL) return TC_OK;
    return tc_fail_errno(e, TC_NOMEM, "%zu bytes of shared memory", bytes);
}

void tc_segment_unlink(tc_segment *segment)
{
    if (!segment->linked) return;
    shm_unlink(segment->name);
    close(segment->fd);
    segment->fd = -1;
    segment->linked = false;
}

void tc_segment_close(tc_segment *segment)
{
    tc_segment_unlink(segment);
    if (segment->base) munmap(segment->base, segment->bytes);
    *segment = (tc_segment){.fd = -1};
}

static bool sweep_one(const char *name)
{
    int fd = shm_open(name, O_RDWR, 0);
    if (fd < 0) return false;
    struct stat st;
    bool orphan = fstat(fd, &st) == 0 && st.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0;
    bool gone = orphan && shm_unlink(name) == 0;
    close(fd);
    return gone;
}

uint32_t tc_segment_sweep(void)
{
    DIR *folder = opendir(SHM_FOLDER);
    if (!folder) return 0;
    uint32_t count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[sizeof entry->d_name + 1];
        snprintf(name, sizeof name, "/%s", entry->d_name);
        if (name_is_ours(name, NULL) && sweep_one(name)) count++;
    }
    closedir(folder);
    return count;
}
