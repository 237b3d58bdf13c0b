// SPDX-License-Identifier: Apache-2.0
// Owns: what store_pack.c and store_file.c share: the files around one store in the cache directory, and the
// steps that keep an unfinished one from ever having its name.
#pragma once

#include "common/model/store_format.h"

typedef struct tc_store_files {
    char directory[TC_STORE_PATH_BYTES];
    char name[256];                      // of the store
    char path[TC_STORE_PATH_BYTES];      // directory/name
    char temporary[TC_STORE_PATH_BYTES]; // directory/.name.tmp.PID
    char lock[TC_STORE_PATH_BYTES];      // directory/.name.lock
} tc_store_files;

tc_status tc_store_files_for(const tc_checkpoint *checkpoint, const tc_pack_options *options,
                             tc_store_files *ret, tc_error *e);

// Waits for the lock of this store while calling options->progress, so that waiting can be stopped. Makes the
// directory.
tc_status tc_store_lock(const tc_store_files *files, const tc_pack_options *options, uint64_t total_bytes,
                        int *ret, tc_error *e);
void tc_store_unlock(const tc_store_files *files, int lock); // -1 is legal

// Temporary files of packers that died. Only under the lock.
void tc_store_remove_stale(const tc_store_files *files);
tc_status tc_store_check_space(const tc_store_files *files, uint64_t bytes, tc_error *e);
tc_status tc_store_create_temporary(const tc_store_files *files, int *ret, tc_error *e);
tc_status tc_store_write(const tc_store_files *files, int fd, const void *data, uint64_t bytes, uint64_t at,
                         tc_error *e);
// Asks the kernel to start writing, so that the final fsync is short.
void tc_store_writeback(int fd, uint64_t at, uint64_t bytes);
// fsync, rename, fsync of the directory.
tc_status tc_store_publish(const tc_store_files *files, int fd, tc_error *e);
