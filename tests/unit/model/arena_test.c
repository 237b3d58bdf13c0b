// SPDX-License-Identifier: Apache-2.0
// Owns: the test of arenas: every unit of every sharing is the file's, the file may go once they are filled,
// and whatever lies in the folder (half a fill, a stranger's file, too little room) ends in an arena that is
// whole or in an error that says what to do.
#include "common/model/arena_file.h"
#include "common/model/dtype.h"
#include "tests/unit/model/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct world {
    scratch s;
    char arenas[64], store[TC_STORE_PATH_BYTES], hash[33];
    tc_arena_options o;
} world;

static void put_model(const scratch *s, uint32_t experts, uint32_t width, uint32_t hidden, uint64_t seed)
{
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    builder b = {0};
    put_moe_config(s, 2, experts, width, hidden);
    uint16_t *data = malloc((size_t)width * hidden * sizeof *data);
    for (uint32_t i = 0; i < 2 * experts * 3; i++) {
        char name[128];
        uint32_t p = i % 3;
        for (uint32_t k = 0; k < width * hidden; k++) data[k] = tc_float_to_bf16(random_float(&seed));
        snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.%s.weight", i / 3 / experts,
                 i / 3 % experts, parts[p]);
        add_tensor(&b, name, "BF16", p == 2 ? hidden : width, p == 2 ? width : hidden, data,
                   (size_t)width * hidden * sizeof *data);
    }
    free(data);
    finish(&b, s, "model.safetensors");
}

static void pack(world *w)
{
    tc_error e;
    tc_checkpoint *c;
    tc_store *store;
    char cache[300];
    snprintf(cache, sizeof cache, "%s/cache", w->s.path);
    if (tc_checkpoint_open(w->s.path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    if (tc_store_pack(c, &(tc_pack_options){.cache_dir = cache}, w->store, &e) != TC_OK)
        fail_msg("%s", e.text);
    tc_checkpoint_free(c);
    assert_int_equal(tc_store_open(w->store, &store, &e), TC_OK);
    memcpy(w->hash, tc_store_get_info(store)->content_hash, sizeof w->hash);
    tc_store_free(store);
}

static void world_make(world *w, uint32_t experts, uint32_t width, uint32_t hidden)
{
    memset(w, 0, sizeof *w);
    scratch_make(&w->s);
    put_model(&w->s, experts, width, hidden, 5);
    pack(w);
    strcpy(w->arenas, "/dev/shm/tc-arena-test-XXXXXX");
    assert_non_null(mkdtemp(w->arenas));
    w->o = (tc_arena_options){.directory = w->arenas, .store = w->store, .of = 2, .threads = 2};
}

static void world_small(world *w)
{
    world_make(w, 5, 192, 64); // 3 units
}

static int files_in(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (d) closedir(d);
    return n;
}

static void world_remove(world *w)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", w->arenas);
    assert_int_equal(system(command), 0);
    scratch_remove(&w->s);
}

static tc_store *must_open(world *w, bool filled)
{
    tc_store *store;
    tc_arena_report report;
    tc_error e;
    if (tc_arena_open(&w->o, &store, &report, &e) != TC_OK) fail_msg("%s", e.text);
    assert_int_equal(report.filled, filled);
    assert_string_equal(report.directory, w->arenas);
    return store;
}

static tc_status open_status(world *w, tc_error *e)
{
    tc_store *store = NULL;
    tc_arena_report report;
    tc_status status = tc_arena_open(&w->o, &store, &report, e);
    if (status == TC_OK) tc_store_free(store);
    return status;
}

static void share_path(const world *w, uint32_t index, char ret[TC_ARENA_PATH_BYTES])
{
    tc_arena_directory d = {0};
    tc_arena_key key = {.shard = w->o.shard, .of = w->o.of};
    strcpy(d.path, w->arenas);
    memcpy(key.content_hash, w->hash, sizeof key.content_hash);
    tc_arena_share_path(&d, &key, index, "", ret);
}

static void same_units(const tc_store *a, const tc_store *b)
{
    const tc_store_info *info = tc_store_get_info(a);
    for (uint32_t l = 0; l < info->layers; l++)
        for (uint32_t x = 0; x < info->experts; x++)
            for (uint32_t u = 0; u < info->units; u++) {
                tc_store_unit p, q;
                tc_store_get_unit(a, l, x, u, &p);
                tc_store_get_unit(b, l, x, u, &q);
                assert_int_equal((uintptr_t)p.gate.data % 64, 0);
                assert_memory_equal(p.gate.data, q.gate.data, a->unit[l].stride);
                assert_int_equal(p.down.cols, q.down.cols);
            }
}

static void test_every_sharing_holds_the_file(void **state)
{
    static const uint32_t of[] = {1, 2, 3, 7,
                                  TC_SHARES_MAX}; // some shares are empty from 6 (experts) and 4 (units) on
    world w;
    tc_error e;
    tc_store *file;
    world_small(&w);
    assert_int_equal(tc_store_open(w.store, &file, &e), TC_OK);
    for (int shard = 0; shard < 2; shard++)
        for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
            w.o.shard = (tc_shard)shard;
            w.o.of = of[i];
            // One share is the same whatever it is called.
            tc_store *store = must_open(&w, !(shard == 1 && of[i] == 1) || i > 0), *again;
            same_units(file, store);
            assert_int_equal(tc_store_verify(store, &e), TC_OK);
            again = must_open(&w, false);
            uint64_t sum = 0;
            for (uint32_t k = 0; k < of[i]; k++) sum += tc_arena_settle(again, k, k == 0 ? 0 : -1);
            assert_true(sum > 0 && tc_arena_settle(again, of[i], -1) == 0);
            assert_int_equal(files_in(w.arenas), of[i]); // what was unused and of another sharing has gone
            tc_store_free(again);
            tc_store_free(store);
            if (shard == 0 && i == sizeof of / sizeof *of - 1) { // so that the next begins as the first did
                w.o.of = 1;
                tc_store_free(must_open(&w, true));
            }
        }
    assert_int_equal(tc_arena_settle(file, 0, -1), 0);
    tc_store_free(file);
    world_remove(&w);
}

static void test_file_may_go(void **state)
{
    world w;
    tc_error e = {0};
    tc_store *file;
    world_small(&w);
    assert_int_equal(tc_store_open(w.store, &file, &e), TC_OK);
    tc_store *store = must_open(&w, true);
    same_units(file, store);
    tc_store_free(file);
    assert_int_equal(truncate(w.store, 100), 0);
    assert_int_equal(tc_store_verify(store, &e), TC_OK);
    w.o.content_hash = w.hash;
    tc_store *again = must_open(&w, false);
    same_units(store, again);
    assert_string_equal(tc_store_get_info(again)->content_hash, w.hash);
    tc_store_free(again);
    assert_int_equal(unlink(w.store), 0);
    tc_store_free(must_open(&w, false));
    tc_store_free(store);
    w.o.content_hash = NULL; // whoever does not know the hash has to ask the file
    assert_int_equal(open_status(&w, &e), TC_NOT_FOUND);
    world_remove(&w);
}

static void test_damaged_and_replaced_file(void **state)
{
    world w;
    tc_error e = {0};
    char old_hash[33], byte;
    world_small(&w);
    int fd = open(w.store, O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);
    assert_int_equal(pread(fd, &byte, 1, size - 5000), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, size - 5000), 1);
    assert_int_equal(open_status(&w, &e), TC_FORMAT);
    expect_error(&e, w.store, "layer 1", "damaged", "pack --force");
    assert_int_equal(files_in(w.arenas), 0);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, size - 5000), 1);
    close(fd);
    tc_store_free(must_open(&w, true));
    memcpy(old_hash, w.hash, sizeof old_hash);
    // Another model under the same name: a new arena, and the unused old one goes.
    put_model(&w.s, 5, 192, 64, 99);
    char old_path[TC_STORE_PATH_BYTES], share[TC_ARENA_PATH_BYTES];
    memcpy(old_path, w.store, sizeof old_path);
    pack(&w);
    assert_string_not_equal(w.hash, old_hash);
    assert_int_equal(rename(w.store, old_path), 0);
    memcpy(w.store, old_path, sizeof old_path);
    w.o.content_hash = old_hash;
    tc_store *old = must_open(&w, false); // in memory it is what it was
    w.o.content_hash = NULL;
    tc_store_free(must_open(&w, true));
    assert_int_equal(files_in(w.arenas), 4); // the old one is in use
    tc_store_free(old);
    share_path(&w, 0, share);
    assert_int_equal(unlink(share), 0);
    tc_store_free(must_open(&w, true));
    assert_int_equal(files_in(w.arenas), 2);
    w.o.content_hash = old_hash;
    assert_int_equal(open_status(&w, &e), TC_FORMAT);
    expect_error(&e, w.store, "replaced");
    world_remove(&w);
}

static void test_one_share_missing(void **state)
{
    world w;
    struct stat before, after;
    char kept[TC_ARENA_PATH_BYTES], lost[TC_ARENA_PATH_BYTES];
    tc_error e;
    for (int shard = 0; shard < 2; shard++) {
        world_small(&w);
        w.o.shard = (tc_shard)shard;
        tc_store *first = must_open(&w, true);
        share_path(&w, 0, kept);
        share_path(&w, 1, lost);
        assert_int_equal(stat(kept, &before), 0);
        assert_int_equal(unlink(lost), 0);
        w.o.attach_only = true;
        assert_int_equal(open_status(&w, &e), TC_NOT_FOUND);
        w.o.attach_only = false;
        tc_store *second = must_open(&w, true);
        assert_int_equal(stat(kept, &after), 0);
        assert_true(before.st_ino == after.st_ino);
        same_units(first, second);
        tc_store_free(first);
        tc_store_free(second);
        world_remove(&w);
    }
}

// What may lie under the name of a share. All of it must be replaced by the share.
static void spoil(const char *path, int how)
{
    char byte;
    int fd;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    switch (how) {
    case 0:
        assert_int_equal(truncate(path, st.st_size - 4096), 0);
        return;
    case 1:
        assert_int_equal(truncate(path, st.st_size + 4096), 0);
        return;
    case 2:
        assert_int_equal(truncate(path, 0), 0);
        return;
    case 3:
        assert_int_equal(chmod(path, 0644), 0);
        return;
    case 4:
        assert_int_equal(unlink(path) + symlink("/etc/passwd", path), 0);
        return;
    case 5:
        assert_int_equal(unlink(path) + mkfifo(path, 0600), 0);
        return;
    default: // a byte of the headers
        fd = open(path, O_RDWR);
        off_t at = how < 200 ? how : TC_ARENA_STORE_AT + how - 200;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x41;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
}

static void test_hostile_files(void **state)
{
    static const int hows[] = {0,  1,  2,  3,  4,  5,   6,   9,   13,  17, 21,
                               25, 33, 41, 50, 90, 200, 210, 230, 300, 500};
    world w;
    char path[TC_ARENA_PATH_BYTES];
    tc_error e = {0};
    tc_store *file;
    world_small(&w);
    assert_int_equal(tc_store_open(w.store, &file, &e), TC_OK);
    tc_store_free(must_open(&w, true));
    share_path(&w, 0, path);
    for (size_t i = 0; i < sizeof hows / sizeof *hows; i++) {
        spoil(path, hows[i]);
        w.o.attach_only = true;
        if (open_status(&w, &e) == TC_OK) fail_msg("took a share spoilt as %d", hows[i]);
        w.o.attach_only = false;
        tc_store *store = must_open(&w, true);
        same_units(file, store);
        tc_store_free(store);
        assert_int_equal(files_in(w.arenas), 2);
    }
    assert_int_equal(unlink(path) + mkdir(path, 0700), 0); // not ours to remove
    assert_int_equal(open_status(&w, &e), TC_IO);
    expect_error(&e, path, "in the way");
    assert_int_equal(rmdir(path), 0);
    tc_store_free(file);
    world_remove(&w);
}

static void test_hostile_folders(void **state)
{
    world w;
    tc_error e = {0};
    char link_path[100], long_path[400];
    world_small(&w);
    assert_int_equal(chmod(w.arenas, 0755), 0);
    assert_int_equal(open_status(&w, &e), TC_IO);
    expect_error(&e, w.arenas, "chmod 700");
    assert_int_equal(chmod(w.arenas, 0700), 0);
    snprintf(link_path, sizeof link_path, "%s-link", w.arenas);
    assert_int_equal(symlink(w.arenas, link_path), 0);
    w.o.directory = link_path;
    assert_int_equal(open_status(&w, &e), TC_IO);
    expect_error(&e, link_path, "not a folder of ours");
    assert_int_equal(unlink(link_path), 0);
    char disk[300];
    snprintf(disk, sizeof disk, "%s/arenas", w.s.path);
    w.o.directory = disk; // the scratch folder may be a tmpfs: then it is as good as any
    if (open_status(&w, &e) != TC_OK) expect_error(&e, disk, "on a disk", "--arena-dir");
    w.o.directory = "/dev/shm/tc-no-such-folder/arenas";
    assert_int_equal(open_status(&w, &e), TC_IO);
    memset(long_path, 'a', sizeof long_path);
    long_path[0] = '/';
    long_path[TC_ARENA_DIRECTORY_BYTES - 1] = 0; // the longest that fits: not there, but not too long
    w.o.directory = long_path;
    assert_int_equal(open_status(&w, &e), TC_IO);
    long_path[TC_ARENA_DIRECTORY_BYTES - 1] = 'a';
    long_path[TC_ARENA_DIRECTORY_BYTES] = 0;
    assert_int_equal(open_status(&w, &e), TC_LIMIT);
    w.o.directory = w.arenas;
    w.o.of = 0;
    assert_int_equal(open_status(&w, &e), TC_ARGUMENT);
    w.o.of = TC_SHARES_MAX + 1;
    assert_int_equal(open_status(&w, &e), TC_ARGUMENT);
    w.o.of = 1;
    w.o.content_hash = "../../etc/passwd";
    assert_int_equal(open_status(&w, &e), TC_ARGUMENT);
    world_remove(&w);
}

typedef struct find {
    int count, states[4];
    tc_arena_entry last;
} find;

static bool note_entry(void *arg, const tc_arena_entry *entry)
{
    find *f = arg;
    f->count++;
    f->states[entry->state]++;
    f->last = *entry;
    return true;
}

static find list(const world *w)
{
    find f = {0};
    tc_error e;
    if (tc_arena_list(w->arenas, note_entry, &f, &e) != TC_OK) fail_msg("%s", e.text);
    return f;
}

static bool die_in_the_middle(void *arg, const char *what, uint64_t done, uint64_t total)
{
    if (strstr(what, arg) && done * 2 > total) kill(getpid(), SIGKILL);
    return true;
}

static void test_interrupted_fill(void **state)
{
    static char *const phases[] = {"taking", "loading"};
    world w;
    tc_error e;
    for (int i = 0; i < 2; i++) {
        world_small(&w);
        w.o.threads = 1;
        pid_t pid = fork();
        if (pid == 0) {
            w.o.progress = die_in_the_middle;
            w.o.arg = phases[i];
            _exit(open_status(&w, NULL) == TC_OK ? 0 : 1);
        }
        int how;
        assert_int_equal(waitpid(pid, &how, 0), pid);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
        find f = list(&w);
        assert_int_equal(f.count, 2);
        assert_int_equal(f.states[TC_ARENA_UNFINISHED], 2);
        assert_int_equal(tc_arena_drop(&f.last, &e), TC_OK);
        tc_store *store = must_open(&w, true);
        assert_int_equal(tc_store_verify(store, &e), TC_OK);
        tc_store_free(store);
        assert_int_equal(files_in(w.arenas), 2);
        world_remove(&w);
    }
}

// What a killed filler of another store left is removed by whoever fills next, too.
static void test_orphans_of_others(void **state)
{
    world w;
    char part[TC_ARENA_PATH_BYTES], lock[TC_ARENA_PATH_BYTES];
    tc_error e = {0};
    world_small(&w);
    snprintf(part, sizeof part, "%s/%032d-s3-1.part", w.arenas, 7);
    snprintf(lock, sizeof lock, "%s/%032d-s3.lock", w.arenas, 7);
    int fd = open(part, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, (off_t)1 << 50), 0); // promised, not taken
    int held = open(lock, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(held, LOCK_EX), 0);
    assert_int_equal(list(&w).states[TC_ARENA_FILLING], 1);
    find f = list(&w);
    assert_int_equal(tc_arena_drop(&f.last, &e), TC_BUSY);
    // While it is being filled its memory is spoken for: there is no room for another.
    assert_int_equal(open_status(&w, &e), TC_BUDGET);
    expect_error(&e, w.arenas, "MiB");
    close(held);
    tc_store_free(must_open(&w, true));
    assert_int_equal(access(part, F_OK), -1);
    close(fd);
    world_remove(&w);
}

static bool stop_at_once(void *arg, const char *what, uint64_t done, uint64_t total)
{
    return strstr(what, arg) == NULL;
}

static void test_cancelled(void **state)
{
    static char *const phases[] = {"taking", "loading", "waiting"};
    world w;
    tc_error e = {0};
    char lock[TC_ARENA_PATH_BYTES];
    world_small(&w);
    w.o.progress = stop_at_once;
    snprintf(lock, sizeof lock, "%s/%s-p2.lock", w.arenas, w.hash);
    for (int i = 0; i < 3; i++) {
        w.o.arg = phases[i];
        w.o.threads = 1;
        int held = i == 2 ? open(lock, O_RDWR | O_CREAT, 0600) : -1;
        if (held >= 0) assert_int_equal(flock(held, LOCK_EX), 0);
        assert_int_equal(open_status(&w, &e), TC_CANCELLED);
        assert_int_equal(files_in(w.arenas), held >= 0);
        if (held >= 0) close(held);
    }
    world_remove(&w);
}

typedef struct rival {
    tc_arena_options o;
    tc_store *store;
    tc_arena_report report;
    tc_status status;
    tc_error error;
} rival;

static void *compete(void *arg)
{
    rival *r = arg;
    r->status = tc_arena_open(&r->o, &r->store, &r->report, &r->error);
    return NULL;
}

static void test_many_at_once(void **state)
{
    enum { RIVALS = 6 };
    world w;
    rival rivals[RIVALS] = {0};
    pthread_t threads[RIVALS];
    int filled = 0;
    world_small(&w);
    for (int i = 0; i < RIVALS; i++) rivals[i].o = w.o;
    for (int i = 0; i < RIVALS; i++) pthread_create(&threads[i], NULL, compete, &rivals[i]);
    for (int i = 0; i < RIVALS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < RIVALS; i++) {
        if (rivals[i].status != TC_OK) fail_msg("%s", rivals[i].error.text);
        filled += rivals[i].report.filled;
        same_units(rivals[0].store, rivals[i].store);
    }
    assert_int_equal(filled, 1);
    for (int i = 0; i < RIVALS; i++) tc_store_free(rivals[i].store);
    assert_int_equal(files_in(w.arenas), 2);
    world_remove(&w);
}

static void test_list_and_drop(void **state)
{
    world w;
    tc_error e = {0};
    char alien[TC_ARENA_PATH_BYTES];
    world_small(&w);
    assert_int_equal(list(&w).count, 0);
    w.o.shard = TC_SHARD_SLICE;
    tc_store *store = must_open(&w, true);
    find f = list(&w);
    assert_int_equal(f.states[TC_ARENA_WHOLE], 2);
    assert_true(f.last.in_use && f.last.pid_count == 1 && f.last.pids[0] == getpid());
    assert_string_equal(f.last.content_hash, w.hash);
    assert_string_equal(f.last.store, w.store);
    assert_true(f.last.shard == TC_SHARD_SLICE && f.last.of == 2 && f.last.index < 2 && f.last.bytes > 0);
    assert_int_equal(tc_arena_drop(&f.last, &e), TC_BUSY);
    expect_error(&e, "in use");
    tc_store_free(store);
    f = list(&w);
    assert_true(!f.last.in_use && f.last.pid_count == 0);
    assert_int_equal(tc_arena_drop(&f.last, &e), TC_OK);
    assert_int_equal(tc_arena_drop(&f.last, &e), TC_NOT_FOUND);
    snprintf(f.last.name, sizeof f.last.name, "../x");
    assert_int_equal(tc_arena_drop(&f.last, &e), TC_ARGUMENT);
    assert_int_equal(list(&w).count, 1);
    snprintf(alien, sizeof alien, "%s/notes.txt", w.arenas);
    close(open(alien, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(list(&w).states[TC_ARENA_ALIEN], 1);
    assert_int_equal(tc_arena_list("/dev/shm/tc-no-such-folder", note_entry, &f, &e), TC_OK);
    world_remove(&w);
}

// Large enough for huge pages: what is reported is what the kernel maps, and the file's cache is not kept
// beside it.
static void test_huge_pages(void **state)
{
    world w;
    tc_error e;
    tc_arena_report report;
    tc_store *store, *file;
    world_make(&w, 6, 512, 512); // 2 x 6 x 1.5 MiB
    assert_int_equal(tc_store_open(w.store, &file, &e), TC_OK);
    assert_int_equal(tc_arena_open(&w.o, &store, &report, &e), TC_OK);
    same_units(file, store);
    assert_true(report.bytes >= 18u << 20 && report.huge_bytes <= report.bytes);
    assert_int_equal(report.pages, report.huge_bytes ? TC_PAGES_TRANSPARENT : TC_PAGES_SMALL);
    find f = list(&w);
    assert_true(f.last.bytes < (uint64_t)(9 << 20) + (1 << 20)); // the share, not the hole before its data
    if (report.huge_bytes) assert_true(f.last.huge_bytes >= 8 << 20);
    tc_store_free(file);
    tc_store_free(store);
    world_remove(&w);
}

static void test_names(void **state)
{
    static const char *const good[] = {"0123456789abcdef0123456789abcdef-p1-0",
                                       "0123456789abcdef0123456789abcdef-s64-63",
                                       "0123456789abcdef0123456789abcdef-p12-7.part"};
    static const char *const bad[] = {"",
                                      "0123456789abcdef0123456789abcde-p1-0",
                                      "0123456789abcdef0123456789abcdef0-p1-0",
                                      "0123456789ABCDEF0123456789abcdef-p1-0",
                                      "0123456789abcdef0123456789abcdef-x1-0",
                                      "0123456789abcdef0123456789abcdef-p0-0",
                                      "0123456789abcdef0123456789abcdef-p65-0",
                                      "0123456789abcdef0123456789abcdef-p2-2",
                                      "0123456789abcdef0123456789abcdef-p02-1",
                                      "0123456789abcdef0123456789abcdef-p2-1.parts",
                                      "0123456789abcdef0123456789abcdef-p2-1x",
                                      "0123456789abcdef0123456789abcdef-p2--1"};
    tc_arena_key key;
    uint32_t index;
    bool part;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(tc_arena_parse_name(good[i], &key, &index, &part));
        assert_int_equal(part, i == 2);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (tc_arena_parse_name(bad[i], &key, &index, &part)) fail_msg("took the name '%s'", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_every_sharing_holds_the_file),
        cmocka_unit_test(test_file_may_go),
        cmocka_unit_test(test_damaged_and_replaced_file),
        cmocka_unit_test(test_one_share_missing),
        cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_hostile_folders),
        cmocka_unit_test(test_interrupted_fill),
        cmocka_unit_test(test_orphans_of_others),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_list_and_drop),
        cmocka_unit_test(test_huge_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
