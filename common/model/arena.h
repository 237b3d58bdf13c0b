// SPDX-License-Identifier: Apache-2.0
// Owns: the packed experts in memory: one file of a tmpfs or hugetlbfs per share of a store, which outlives
// the processes, so that whoever is started again has its experts at once. Filled by the first who needs it,
// all shares in one pass over the store file, each layer compared with its hash; a share has its name only
// when it is whole. From then on nobody reads the store file.
//
//   none --open: lock, room accounted--> being filled (.part) --whole: rename--> whole --drop, nobody maps
//   it--> none
//                                          | killed: the next filler removes it and begins anew
//
// Refuses: folders and files that are not this user's own; to take memory that is not there; to drop what is
// mapped.
#pragma once

#include "common/model/store.h"
#include <sys/types.h>

enum {
    TC_ARENA_DIRECTORY_BYTES = 256,
    TC_ARENA_NAME_BYTES = 64,
    TC_ARENA_NOTE_BYTES = 256,
    TC_ARENA_PIDS_MAX = 16
};

typedef enum tc_arena_pages {
    TC_PAGES_SMALL,       // of the machine's usual size
    TC_PAGES_TRANSPARENT, // huge ones where the kernel gave them
    TC_PAGES_EXPLICIT,    // of a hugetlbfs
} tc_arena_pages;

typedef struct tc_arena_options {
    const char *directory;    // a folder in a tmpfs or hugetlbfs. NULL: a hugetlbfs with room for all of it,
                              // else /dev/shm/thermocline-<uid>
    const char *store;        // path of the store file
    const char *content_hash; // tc_store_info's. NULL: as the file says. With it a filled arena needs no file
    tc_shard shard;
    uint32_t of;      // shares
    const int *nodes; // [of]: the NUMA node of each, -1: anywhere; NULL: all anywhere
    bool attach_only; // TC_NOT_FOUND where it would have to be filled
    uint32_t threads; // that fill; 0: one a CPU, at most 16
    // While waiting for another filler and while filling: bytes of `what`. False stops (TC_CANCELLED). May be
    // NULL.
    bool (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
    void *arg;
} tc_arena_options;

typedef struct tc_arena_report {
    bool filled; // just now, by this call
    tc_arena_pages pages;
    uint64_t bytes, huge_bytes; // of all shares; in huge pages
    char directory[TC_ARENA_DIRECTORY_BYTES];
    char note[TC_ARENA_NOTE_BYTES]; // why no huge pages, or no node; empty: as wished
} tc_arena_report;

// A store whose units lie in the arenas of all `of` shares, mapped read-only until tc_store_free. TC_BUDGET:
// not enough room, with what to do; TC_FORMAT: the file is damaged, or another than content_hash says;
// TC_NOT_FOUND; TC_IO.
tc_status tc_arena_open(const tc_arena_options *options, tc_store **ret, tc_arena_report *ret_report,
                        tc_error *e);

// Makes one share of an opened arena ready for this process: memory moved to `node` where it is not there
// (-1: left where it is), page tables filled. Returns its bytes.
uint64_t tc_arena_settle(const tc_store *store, uint32_t index, int node);

// ---- for operators ----
typedef enum tc_arena_state {
    TC_ARENA_WHOLE,
    TC_ARENA_FILLING,
    TC_ARENA_UNFINISHED,
    TC_ARENA_ALIEN
} tc_arena_state;

typedef struct tc_arena_entry {
    char directory[TC_ARENA_DIRECTORY_BYTES], name[TC_ARENA_NAME_BYTES + 8];
    tc_arena_state state;
    uint64_t bytes; // memory it holds
    // The rest only when WHOLE.
    char content_hash[33], store[TC_STORE_PATH_BYTES];
    tc_shard shard;
    uint32_t index, of;
    tc_arena_pages pages;
    uint64_t huge_bytes;
    char nodes[32];                // "0", "0,1": where samples of its pages are; empty: not to be found out
    bool in_use;                   // somebody has it open
    pid_t pids[TC_ARENA_PIDS_MAX]; // who maps it, as far as /proc shows
    uint32_t pid_count;
} tc_arena_entry;

// Calls visit for each file in the folder (NULL: the default folders), until it returns false. None there:
// TC_OK.
tc_status tc_arena_list(const char *directory, bool (*visit)(void *arg, const tc_arena_entry *entry),
                        void *arg, tc_error *e);
// Frees one entry of the list. TC_BUSY: somebody maps or fills it.
tc_status tc_arena_drop(const tc_arena_entry *entry, tc_error *e);
