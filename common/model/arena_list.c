// SPDX-License-Identifier: Apache-2.0
// Owns: going through a folder of arenas: for operators (list, drop) and for a filler (what is promised,
// unused, stale).
#include "common/model/arena_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { SAMPLES = 64, NODES_SHOWN = 16 };

typedef struct found {
    char path[TC_ARENA_PATH_BYTES + NAME_MAX];
    const char *name;
    bool named, part; // the name is one of ours
    tc_arena_key key;
    uint32_t index;
    struct stat st;
} found;

typedef bool visit_file(void *arg, const tc_arena_directory *d, const found *file);

// Every file of the folder that is not a lock.
static void walk(const tc_arena_directory *d, visit_file *visit, void *arg)
{
    DIR *folder = opendir(d->path);
    bool more = true;
    for (struct dirent *entry; folder && more && (entry = readdir(folder));) {
        found f = {0};
        size_t n = strlen(entry->d_name);
        if (entry->d_name[0] == '.' || (n > 5 && strcmp(entry->d_name + n - 5, ".lock") == 0)) continue;
        snprintf(f.path, sizeof f.path, "%s/%s", d->path, entry->d_name);
        f.name = entry->d_name;
        if (lstat(f.path, &f.st) != 0) continue;
        f.named = tc_arena_parse_name(entry->d_name, &f.key, &f.index, &f.part);
        more = visit(arg, d, &f);
    }
    if (folder) closedir(folder);
}

static uint64_t held_bytes(const struct stat *st)
{
    return S_ISREG(st->st_mode) ? (uint64_t)st->st_blocks * 512 : 0;
}

// ---- for a filler ----

static bool add_promised(void *arg, const tc_arena_directory *d, const found *f)
{
    (void)d;
    if (f->named && f->part && S_ISREG(f->st.st_mode) && (uint64_t)f->st.st_size > held_bytes(&f->st))
        *(uint64_t *)arg += (uint64_t)f->st.st_size - held_bytes(&f->st);
    return true;
}

uint64_t tc_arena_promised_bytes(const tc_arena_directory *d)
{
    uint64_t sum = 0;
    walk(d, add_promised, &sum);
    return sum;
}

// Locks a file that nobody maps; -1 when somebody does.
static int lock_unused(const char *path)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static bool add_unused(void *arg, const tc_arena_directory *d, const found *f)
{
    (void)d;
    int fd = f->named && !f->part ? lock_unused(f->path) : -1;
    if (fd < 0) return true;
    *(uint64_t *)arg += held_bytes(&f->st);
    close(fd);
    return true;
}

uint64_t tc_arena_unused_bytes(const tc_arena_directory *d)
{
    uint64_t sum = 0;
    walk(d, add_unused, &sum);
    return sum;
}

typedef struct stale {
    const tc_arena_key *key;
    char store[TC_STORE_PATH_BYTES * 4];
} stale;

static bool same_sharing(const tc_arena_key *a, const tc_arena_key *b)
{
    return strcmp(a->content_hash, b->content_hash) == 0 && a->shard == b->shard && a->of == b->of;
}

// A part whose filler is gone: nobody holds the lock of its sharing.
static bool is_orphan(const tc_arena_directory *d, const tc_arena_key *key)
{
    char path[TC_ARENA_PATH_BYTES];
    int lock;
    tc_arena_lock_path(d, key, path);
    if (tc_arena_try_lock(path, &lock)) {
        tc_arena_unlock(path, lock);
        return true;
    }
    return errno == ENOENT;
}

static bool remove_one(void *arg, const tc_arena_directory *d, const found *f)
{
    const stale *s = arg;
    tc_arena_header h;
    int fd;
    if (!f->named || same_sharing(&f->key, s->key)) return true;
    if (f->part) {
        if (is_orphan(d, &f->key)) unlink(f->path);
        return true;
    }
    if (tc_arena_open_share(d, &f->key, f->index, &fd, &h, NULL) != TC_OK) return true;
    close(fd);
    bool replaced = strcmp(f->key.content_hash, s->key->content_hash) == 0 || strcmp(h.store, s->store) == 0;
    fd = replaced ? lock_unused(f->path) : -1;
    if (fd < 0) return true;
    unlink(f->path);
    close(fd);
    return true;
}

void tc_arena_remove_stale(const tc_arena_directory *d, const tc_arena_key *key, const char *store)
{
    stale s = {.key = key};
    char *real = realpath(store, NULL);
    snprintf(s.store, sizeof s.store, "%s", real ? real : store);
    free(real);
    walk(d, remove_one, &s);
}

// ---- list ----

// Where samples of the pages are. Touches them: they are resident anyway.
static void find_nodes(int fd, const tc_arena_header *h, char ret[32])
{
    void *pages[SAMPLES];
    int status[SAMPLES];
    bool seen[NODES_SHOWN] = {0};
    uint64_t data = h->file_bytes - TC_ARENA_DATA_AT;
    ret[0] = 0;
    if (data == 0) return;
    char *memory = mmap(NULL, h->file_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return;
    for (uint32_t i = 0; i < SAMPLES; i++) {
        uint64_t at = TC_ARENA_DATA_AT + data / SAMPLES * i;
        pages[i] = memory + (at & ~(uint64_t)4095);
        (void)*(volatile const char *)pages[i];
    }
    if (syscall(SYS_move_pages, 0, (unsigned long)SAMPLES, pages, NULL, status, 0) == 0)
        for (uint32_t i = 0; i < SAMPLES; i++)
            if (status[i] >= 0 && status[i] < NODES_SHOWN) seen[status[i]] = true;
    munmap(memory, h->file_bytes);
    for (int i = 0; i < NODES_SHOWN; i++)
        if (seen[i]) snprintf(ret + strlen(ret), 32 - strlen(ret), "%s%d", *ret ? "," : "", i);
}

// Does /proc/<pid>/maps show that file?
static bool maps_file(const char *pid, const struct stat *st)
{
    char path[64], line[512];
    unsigned major_number, minor_number;
    unsigned long long inode;
    bool found_it = false;
    snprintf(path, sizeof path, "/proc/%.20s/maps", pid);
    FILE *f = fopen(path, "re");
    while (f && !found_it && fgets(line, sizeof line, f))
        found_it = sscanf(line, "%*s %*s %*s %x:%x %llu", &major_number, &minor_number, &inode) == 3 &&
                   inode == st->st_ino && makedev(major_number, minor_number) == st->st_dev;
    if (f) fclose(f);
    return found_it;
}

static void find_pids(const struct stat *st, tc_arena_entry *entry)
{
    DIR *proc = opendir("/proc");
    for (struct dirent *p; proc && (p = readdir(proc)) && entry->pid_count < TC_ARENA_PIDS_MAX;) {
        if (p->d_name[0] < '1' || p->d_name[0] > '9' || !maps_file(p->d_name, st)) continue;
        entry->pids[entry->pid_count++] = (pid_t)strtol(p->d_name, NULL, 10);
    }
    if (proc) closedir(proc);
}

static void describe_whole(int fd, const found *f, const tc_arena_header *h, tc_arena_entry *ret)
{
    ret->state = TC_ARENA_WHOLE;
    memcpy(ret->content_hash, f->key.content_hash, sizeof ret->content_hash);
    memcpy(ret->store, h->store, sizeof ret->store);
    ret->shard = f->key.shard;
    ret->of = f->key.of;
    ret->index = f->index;
    ret->pages = (tc_arena_pages)h->pages;
    ret->huge_bytes = h->huge_bytes;
    find_pids(&f->st, ret); // before our own map
    find_nodes(fd, h, ret->nodes);
    close(fd);
    int unused = lock_unused(f->path);
    ret->in_use = unused < 0;
    if (unused >= 0) close(unused);
}

typedef struct lister {
    bool (*visit)(void *arg, const tc_arena_entry *entry);
    void *arg;
    bool stopped;
} lister;

static bool list_one(void *arg, const tc_arena_directory *d, const found *f)
{
    lister *l = arg;
    tc_arena_header h;
    int fd;
    tc_arena_entry entry = {.state = TC_ARENA_ALIEN, .bytes = held_bytes(&f->st)};
    memcpy(entry.directory, d->path, sizeof entry.directory);
    snprintf(entry.name, sizeof entry.name, "%.*s", (int)sizeof entry.name - 1, f->name);
    if (f->named && f->part)
        entry.state = is_orphan(d, &f->key) ? TC_ARENA_UNFINISHED : TC_ARENA_FILLING;
    else if (f->named && tc_arena_open_share(d, &f->key, f->index, &fd, &h, NULL) == TC_OK)
        describe_whole(fd, f, &h, &entry);
    l->stopped = !l->visit(l->arg, &entry);
    return !l->stopped;
}

tc_status tc_arena_list(const char *directory, bool (*visit)(void *arg, const tc_arena_entry *entry),
                        void *arg, tc_error *e)
{
    tc_arena_directory d[TC_ARENA_DIRECTORIES_MAX];
    lister l = {.visit = visit, .arg = arg};
    uint32_t count;
    TC_TRY(tc_arena_directories(directory, false, d, &count, e));
    for (uint32_t i = 0; i < count && !l.stopped; i++) walk(&d[i], list_one, &l);
    return TC_OK;
}

tc_status tc_arena_drop(const tc_arena_entry *entry, tc_error *e)
{
    char path[TC_ARENA_PATH_BYTES];
    struct stat st;
    int fd = -1;
    if (snprintf(path, sizeof path, "%s/%s", entry->directory, entry->name) >= (int)sizeof path ||
        strchr(entry->name, '/'))
        return tc_fail(e, TC_ARGUMENT, "%.64s: not the name of an arena", entry->name);
    if (entry->state == TC_ARENA_FILLING) return tc_fail(e, TC_BUSY, "%s: is being filled", path);
    if (lstat(path, &st) != 0) return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", path);
    if (S_ISREG(st.st_mode) && st.st_uid == geteuid() && (fd = lock_unused(path)) < 0)
        return tc_fail(e, TC_BUSY, "%s: is in use", path);
    tc_status status = unlink(path) == 0 ? TC_OK : tc_fail_errno(e, TC_IO, "%s", path);
    if (fd >= 0) close(fd);
    return status;
}
