// SPDX-License-Identifier: Apache-2.0
// Owns: names, lock, temporary file and atomic appearance of a store in the cache directory (store_pack.h).
#include "common/model/store_pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_POLL_MS = 100 };

tc_status tc_store_cache_dir(const char *xdg_cache_home, const char *home, char ret[TC_STORE_PATH_BYTES],
                             tc_error *e)
{
    char path[TC_STORE_PATH_BYTES];
    int n;
    if (xdg_cache_home && xdg_cache_home[0] == '/') // a relative one is to be ignored, says its specification
        n = snprintf(path, sizeof path, "%s/thermocline", xdg_cache_home);
    else if (home && home[0] == '/')
        n = snprintf(path, sizeof path, "%s/.cache/thermocline", home);
    else
        return tc_fail(e, TC_ARGUMENT,
                       "no cache directory: neither XDG_CACHE_HOME nor HOME is an absolute path");
    if (n >= (int)sizeof path)
        return tc_fail(e, TC_LIMIT, "the cache directory's path is longer than %u bytes",
                       TC_STORE_PATH_BYTES - 1);
    memcpy(ret, path, sizeof path);
    return TC_OK;
}

// Whether packing will quantise anything: a checkpoint that is 4-bit already has one store, however it is
// asked for.
static bool any_dense_expert(const tc_checkpoint *c)
{
    static const tc_role roles[] = {TC_EXPERT_GATE, TC_EXPERT_UP, TC_EXPERT_DOWN};
    const tc_model_desc *d = tc_checkpoint_desc(c);
    for (uint32_t l = 0; l < d->layers; l++)
        for (uint32_t x = 0; d->layer[l].moe && x < d->experts; x++)
            for (int r = 0; r < 3; r++)
                if (!tc_checkpoint_expert_is_4bit(c, roles[r], l, x)) return true;
    return false;
}

static const char *kind_of(const tc_checkpoint *c, const tc_pack_options *options)
{
    if (!any_dense_expert(c)) return "stored";
    if (options->quantise == TC_QUANTISE_USUAL) return tc_checkpoint_ready(c) ? "half" : "stored";
    if (options->quantise == TC_QUANTISE_INT8) return "int8";
    return options->quantise == TC_QUANTISE_NF4 ? "nf4" : tc_checkpoint_ready(c) ? "kept" : "stored";
}

tc_status tc_store_files_for(const tc_checkpoint *c, const tc_pack_options *options, tc_store_files *ret,
                             tc_error *e)
{
    const tc_model_desc *d = tc_checkpoint_desc(c);
    tc_store_files f;
    if (!options->cache_dir || !options->cache_dir[0])
        return tc_fail(e, TC_ARGUMENT, "no cache directory was given");
    snprintf(f.name, sizeof f.name, "%s-%s-%s-v%u.tcx", d->family, tc_checkpoint_hash(c), kind_of(c, options),
             TC_STORE_LAYOUT_VERSION);
    // The temporary's name is the longest; if it fits, all do.
    if (snprintf(f.directory, sizeof f.directory, "%s", options->cache_dir) >= (int)sizeof f.directory ||
        snprintf(f.temporary, sizeof f.temporary, "%s/.%s.tmp.%ld", f.directory, f.name, (long)getpid()) >=
            (int)sizeof f.temporary ||
        snprintf(f.path, sizeof f.path, "%s/%s", f.directory, f.name) >= (int)sizeof f.path ||
        snprintf(f.lock, sizeof f.lock, "%s/.%s.lock", f.directory, f.name) >= (int)sizeof f.lock)
        return tc_fail(e, TC_LIMIT, "%.64s...: path of the cache directory is too long", options->cache_dir);
    *ret = f;
    return TC_OK;
}

tc_status tc_store_path_for(const tc_checkpoint *c, const tc_pack_options *options,
                            char ret[TC_STORE_PATH_BYTES], tc_error *e)
{
    tc_store_files files;
    TC_TRY(tc_store_files_for(c, options, &files, e));
    memcpy(ret, files.path, sizeof files.path);
    return TC_OK;
}

static tc_status make_directory(const char *directory, tc_error *e)
{
    char path[TC_STORE_PATH_BYTES];
    size_t n = strlen(directory);
    memcpy(path, directory, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        path[i] = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return tc_fail_errno(e, TC_IO, "%s: cannot make the directory", path);
        if (i < n) path[i] = '/';
    }
    return TC_OK;
}

// ---- lock ----

// A lock counts only while its file has its name: whoever held it before may have removed it.
static bool still_named(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

// -1 with *status TC_BUSY: another holds it.
static int try_lock(const char *path, tc_status *status, tc_error *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        *status = tc_fail_errno(e, TC_IO, "%s", path);
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && still_named(fd, path)) return fd;
    close(fd);
    *status = TC_BUSY;
    return -1;
}

tc_status tc_store_lock(const tc_store_files *files, const tc_pack_options *options, uint64_t total_bytes,
                        int *ret, tc_error *e)
{
    TC_TRY(make_directory(files->directory, e));
    for (;;) {
        tc_status status = TC_OK;
        int fd = try_lock(files->lock, &status, e);
        if (fd >= 0) {
            *ret = fd;
            return TC_OK;
        }
        if (status != TC_BUSY) return status;
        if (options->progress && !options->progress(options->arg, 0, total_bytes))
            return tc_fail(e, TC_CANCELLED, "%s: stopped while another process packs it", files->path);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_MS * 1000000L}, NULL);
    }
}

void tc_store_unlock(const tc_store_files *files, int lock)
{
    if (lock < 0) return;
    unlink(files->lock); // while it is held: see still_named
    close(lock);
}

// ---- temporary file ----

void tc_store_remove_stale(const tc_store_files *files)
{
    char prefix[sizeof files->name + 8], path[TC_STORE_PATH_BYTES + NAME_MAX];
    DIR *directory = opendir(files->directory);
    if (!directory) return;
    int n = snprintf(prefix, sizeof prefix, ".%s.tmp.", files->name);
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strncmp(entry->d_name, prefix, (size_t)n) != 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", files->directory, entry->d_name) < (int)sizeof path)
            unlink(path);
    }
    closedir(directory);
}

tc_status tc_store_check_space(const tc_store_files *files, uint64_t bytes, tc_error *e)
{
    struct statvfs vfs;
    if (statvfs(files->directory, &vfs) != 0) return tc_fail_errno(e, TC_IO, "%s", files->directory);
    uint64_t room = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    if (room >= bytes) return TC_OK;
    return tc_fail(e, TC_IO, "%s: the packed experts need %" PRIu64 " bytes, the disk has %" PRIu64 " free",
                   files->directory, bytes, room);
}

tc_status tc_store_create_temporary(const tc_store_files *files, int *ret, tc_error *e)
{
    int fd = open(files->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%s", files->temporary);
    *ret = fd;
    return TC_OK;
}

tc_status tc_store_write(const tc_store_files *files, int fd, const void *data, uint64_t bytes, uint64_t at,
                         tc_error *e)
{
    const char *from = data;
    while (bytes > 0) {
        ssize_t n = pwrite(fd, from, bytes < (1u << 30) ? bytes : 1u << 30, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tc_fail_errno(e, TC_IO, "%s: cannot write", files->temporary);
        from += n;
        at += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return TC_OK;
}

void tc_store_writeback(int fd, uint64_t at, uint64_t bytes)
{
    (void)sync_file_range(fd, (off_t)at, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
}

tc_status tc_store_publish(const tc_store_files *files, int fd, tc_error *e)
{
    if (fsync(fd) != 0) return tc_fail_errno(e, TC_IO, "%s: cannot reach the disk", files->temporary);
    if (rename(files->temporary, files->path) != 0)
        return tc_fail_errno(e, TC_IO, "%s: cannot rename", files->temporary);
    int directory = open(files->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        (void)fsync(directory); // if this fails the file is there all the same
        close(directory);
    }
    return TC_OK;
}
