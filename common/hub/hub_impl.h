// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of this folder share: the list of a repository's files, and places in the cache.
#pragma once

#include "common/hub/hub.h"

typedef struct tc_hub_file {
    char path[TC_HUB_FILE_BYTES_MAX + 1];
    // hex: sha256 of the bytes (64), or git's sha1 of the blob (40); "": the description tells neither
    // this nor the size
    char checksum[65];
    uint64_t bytes;
} tc_hub_file;

typedef struct tc_hub_files {
    char commit[65];
    tc_hub_file *items; // owner: the caller, free()
    uint32_t count;
} tc_hub_files;

// From the hub's JSON; only files that `include` (or a model) wants.
tc_status tc_hub_files_parse(const char *what, const char *json, size_t bytes, const char *include,
                             tc_hub_files *ret, tc_error *e);

// A path below the model's folder in the cache; its folders are made. LIMIT: too long.
tc_status tc_hub_place(const tc_hub_name *name, const char *cache, const char *kind, const char *rest,
                       char ret[TC_HUB_PATH_BYTES], tc_error *e);
tc_status tc_hub_make_folders(const char *path, tc_error *e);
// Links snapshots/COMMIT/FILE to its blob.
tc_status tc_hub_link(const tc_hub_name *name, const char *cache, const char *commit, const tc_hub_file *file,
                      tc_error *e);
tc_status tc_hub_write_ref(const tc_hub_name *name, const char *cache, const char *commit, tc_error *e);

// Whether the file's bytes have the checksum. `fd` is read from its start.
tc_status tc_hub_check(int fd, const tc_hub_file *file, bool *ret_same, tc_error *e);

// Asks the hub. BUSY, IO, TIMEOUT, CLOSED: it cannot be reached.
tc_status tc_hub_ask(const tc_hub_name *name, const tc_hub_options *o, tc_hub_files *ret, tc_error *e);
// Brings all of them.
tc_status tc_hub_fetch(const tc_hub_name *name, const tc_hub_options *o, const tc_hub_files *files,
                       tc_error *e);
