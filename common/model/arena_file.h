// SPDX-License-Identifier: Apache-2.0
// Owns: an arena as a file: the folder, names, header, locks and the checks, shared by arena.c, arena_fill.c
// and arena_list.c.
//
//   header (4096) | the store's header | zeros to 2 MiB | data: as tc_store_make_places(TC_ARENA_DATA_AT)
//   lays it out
//
// Locks (flock, gone with their holder): a mapped share is held shared by its mapper, so exclusive means
// unused; the sharing's lock file is held by its filler; the folder's while room is counted.
#pragma once

#include "common/model/arena.h"
#include "common/model/store_internal.h"

enum {
    TC_ARENA_VERSION = 1,
    TC_ARENA_STORE_AT = 4096,
    TC_ARENA_HUGE_BYTES = 2 << 20,
    TC_ARENA_DATA_AT = TC_ARENA_HUGE_BYTES,
    TC_ARENA_PATH_BYTES = TC_ARENA_DIRECTORY_BYTES + TC_ARENA_NAME_BYTES + 16,
};

typedef struct tc_arena_header {
    char magic[8];
    uint32_t version, shard, index, of;
    uint32_t pages, store_header_bytes;
    uint64_t file_bytes, huge_bytes;
    char content_hash[40], store[TC_STORE_PATH_BYTES];
    uint64_t store_low, store_high; // XXH3-128 of the store's header behind it
    uint64_t hash_low, hash_high;   // of this with both 0
} tc_arena_header;

_Static_assert(sizeof(tc_arena_header) <= TC_ARENA_STORE_AT, "the header has its page");
_Static_assert(TC_ARENA_STORE_AT + TC_STORE_HEADER_BYTES_MAX <= TC_ARENA_DATA_AT, "so has the store's");

typedef struct tc_arena_directory {
    char path[TC_ARENA_DIRECTORY_BYTES];
    bool hugetlb;
    uint64_t page_bytes; // of the file system
} tc_arena_directory;

// What identifies a sharing: its files are named after it.
typedef struct tc_arena_key {
    char content_hash[33];
    tc_shard shard;
    uint32_t of;
} tc_arena_key;

// The folder that was named, or the default ones (a hugetlbfs that we can use first). `make`: those that are
// missing. Missing and not made: not counted.
enum { TC_ARENA_DIRECTORIES_MAX = 2 };
tc_status tc_arena_directories(const char *named, bool make, tc_arena_directory ret[TC_ARENA_DIRECTORIES_MAX],
                               uint32_t *ret_count, tc_error *e);

void tc_arena_share_path(const tc_arena_directory *d, const tc_arena_key *key, uint32_t index,
                         const char *suffix, char ret[TC_ARENA_PATH_BYTES]);
// "<hash>-p2-0" (and ".part"): false when it is not such a name.
bool tc_arena_parse_name(const char *name, tc_arena_key *ret, uint32_t *ret_index, bool *ret_part);

void tc_arena_hash_header(tc_arena_header *h);
// Opens a whole share, locked shared, and reads and checks its header. NOT_FOUND: none there, or being
// dropped; FORMAT: what has the name is not this share. *ret_fd is open only with TC_OK.
tc_status tc_arena_open_share(const tc_arena_directory *d, const tc_arena_key *key, uint32_t index,
                              int *ret_fd, tc_arena_header *ret, tc_error *e);
uint64_t tc_arena_file_bytes(const tc_arena_directory *d, const tc_store *store, const tc_store_place *place);

// flock on a file of its own. `wait` is asked between tries, false gives up (TC_CANCELLED). Unlock removes
// the file.
tc_status tc_arena_lock(const char *path, bool (*wait)(void *arg), void *arg, int *ret, tc_error *e);
bool tc_arena_try_lock(const char *path, int *ret); // false: another holds it, or there is none to lock
void tc_arena_unlock(const char *path, int fd);
void tc_arena_lock_path(const tc_arena_directory *d, const tc_arena_key *key, char ret[TC_ARENA_PATH_BYTES]);

// Maps bytes of fd at a multiple of 2 MiB. NULL with errno.
void *tc_arena_map(int fd, uint64_t bytes, int protection);
// Takes the pages of a run of an arena's file, huge ones if they are to be had; no page is missing
// afterwards, so that nothing can end in a signal. false: there is no more memory (errno).
bool tc_arena_reserve(const tc_arena_directory *d, int fd, void *memory, uint64_t at, uint64_t bytes);
// Bytes of our mapping that the kernel maps with huge pages.
uint64_t tc_arena_huge_bytes(const void *memory);
// Binds memory to the node, and with `move` what is elsewhere already. False: the kernel would not.
bool tc_arena_bind(void *memory, uint64_t bytes, int node, bool strict, bool move);

// What a filler needs from arena_list.c: memory promised to fillers of this folder but not taken yet.
uint64_t tc_arena_promised_bytes(const tc_arena_directory *d);
// Unused arenas that those of `key` replace: of the same file before it changed, or of the same store shared
// otherwise; and what killed fillers left. Under the folder's lock.
void tc_arena_remove_stale(const tc_arena_directory *d, const tc_arena_key *key, const char *store);
// Bytes that dropping every unused arena would free.
uint64_t tc_arena_unused_bytes(const tc_arena_directory *d);

// Fills the shares that are missing. `file`: the store, open, with the places of this sharing. Under the
// sharing's lock.
tc_status tc_arena_fill(const tc_arena_directory *d, const tc_arena_key *key, const tc_arena_options *options,
                        tc_store *file, const tc_store *places, char note[TC_ARENA_NOTE_BYTES], tc_error *e);
