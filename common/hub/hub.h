// SPDX-License-Identifier: Apache-2.0
// Owns: models of a Hugging Face-compatible hub, kept in the hub's own cache layout, which its Python library
// reads and writes too:
//   CACHE/models--OWNER--NAME/blobs/CHECKSUM                 a file's bytes; CHECKSUM.incomplete while they
//   arrive CACHE/models--OWNER--NAME/snapshots/COMMIT/PATH          links to blobs
//   CACHE/models--OWNER--NAME/refs/REVISION                  the commit that a branch or tag was
// The only place of libcurl. What a hub says is bounded and checked; a blob has its name only when its bytes
// have the checksum of it.
// Refuses: the environment (callers read it), and files that lie elsewhere than below the snapshot.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum {
    TC_HUB_NAME_BYTES_MAX = 96,      // of an owner, and of a name
    TC_HUB_REVISION_BYTES_MAX = 128, // a branch, tag or commit
    TC_HUB_FILE_BYTES_MAX = 512,     // a path in the repository
    TC_HUB_FILES_MAX = 4096,
    TC_HUB_LIST_BYTES_MAX = 16 << 20, // the hub's description of a repository
    TC_HUB_JOBS_MAX = 16,
    TC_HUB_PATH_BYTES = 2048,
    TC_HUB_ATTEMPTS = 6,     // in a row without a byte
    TC_HUB_WAIT_S_MAX = 300, // that a hub may ask for (Retry-After)
};

typedef struct tc_hub_name {
    char owner[TC_HUB_NAME_BYTES_MAX + 1], name[TC_HUB_NAME_BYTES_MAX + 1];
    char revision[TC_HUB_REVISION_BYTES_MAX + 1]; // "main" unless given
} tc_hub_name;

// OWNER/NAME or OWNER/NAME:REVISION. TC_ARGUMENT: it is none.
tc_status tc_hub_parse(const char *text, tc_hub_name *ret, tc_error *e);

typedef struct tc_hub_options {
    const char *endpoint; // "https://huggingface.co"
    const char *cache;    // the folder CACHE above; made where missing
    const char *token;    // NULL: none
    const char *include;  // a pattern of file names (fnmatch); NULL: what a model needs
    uint32_t jobs;        // files at a time; 0: 4
    uint32_t wait_ms;     // before the first new attempt, doubled from there; 0: 500
    bool offline;         // nothing but the cache is asked
    // Called several times a second from the calling thread; false stops (TC_CANCELLED, and what has arrived
    // is kept). `note` is NULL or what just went wrong and will be tried again. May be NULL.
    bool (*progress)(void *arg, uint64_t done, uint64_t total, uint32_t files, uint32_t of, const char *note);
    void *arg;
} tc_hub_options;

// Brings all files of the revision that the model needs, and gives the snapshot's folder. Where the hub
// cannot be reached and the cache has the revision, that is given, and *ret_cached is set.
tc_status tc_hub_pull(const tc_hub_name *name, const tc_hub_options *options, char ret[TC_HUB_PATH_BYTES],
                      bool *ret_cached, tc_error *e);

// The snapshot of a revision in the cache, without asking a hub. TC_NOT_FOUND: there is none.
tc_status tc_hub_find(const tc_hub_name *name, const char *cache, char ret[TC_HUB_PATH_BYTES], tc_error *e);

// What the cache holds, model by model. Stops when visit returns false.
typedef struct tc_hub_entry {
    const char *owner, *name;
    uint64_t bytes; // of its blobs
    uint32_t blobs, incomplete, revisions;
} tc_hub_entry;
tc_status tc_hub_list(const char *cache, bool (*visit)(void *arg, const tc_hub_entry *entry), void *arg,
                      tc_error *e);

// Removes a model from the cache; *ret_bytes is what that freed.
tc_status tc_hub_remove(const tc_hub_name *name, const char *cache, uint64_t *ret_bytes, tc_error *e);
