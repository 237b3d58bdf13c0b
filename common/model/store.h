// SPDX-License-Identifier: Apache-2.0
// Owns: the packed expert store: one file with every routed expert, interleaved for the kernels, written once
// (temporary file, fsync, rename). Serving computes from arenas filled out of it (arena.h); a store opened by
// itself is mapped, which is for tools and tests: a file that shrinks then kills its reader.
//
// An expert [gate | up | down] of width W is cut into W/unit units; unit = 64 where 64 divides W, else W. A
// unit is three packed matrices (matrix.h): gate [unit, hidden], up [unit, hidden], down [hidden, unit], each
// 64-byte aligned, then, where experts have biases, those of the unit's gate and up rows (down's are added by
// whoever adds the experts up); the units of an expert one after another, experts of a layer one after
// another at a fixed stride. So a whole expert, and a width slice of it, are each one contiguous run of
// bytes. Name: <family>-<source hash>-<quantisation>-v<layout>.tcx in the cache directory. Refuses: to change
// after rename; to open a file whose header, size or hash does not fit.
#pragma once

#include "common/model/matrix.h"
#include "common/model/share.h"

enum { TC_STORE_LAYOUT_VERSION = 3 };

typedef struct tc_store tc_store;

typedef struct tc_store_info {
    char model_hash[33];   // tc_checkpoint_hash of the source
    char content_hash[33]; // of this store: its header's, which holds those of all layers
    char family[32];
    uint32_t layers, experts, top_k, hidden, width, unit,
        units; // layers: all of the model's; dense ones have no experts
    tc_activation activation;
    float act_alpha, act_limit; // TC_ACT_CLAMPED
    uint64_t bytes;             // of the whole file
    uint64_t expert_bytes;      // largest expert stride
} tc_store_info;

typedef struct tc_store_unit {
    tc_matrix gate, up, down;
    const float *bias; // [2][unit]: of gate, of up; NULL: none
} tc_store_unit;

tc_status tc_store_open(const char *path, tc_store **ret, tc_error *e);
void tc_store_free(tc_store *store); // NULL is legal
const tc_store_info *tc_store_get_info(const tc_store *store);
bool tc_store_layer_has_experts(const tc_store *store, uint32_t layer);
// Indices must be in range (checked by assertion: callers check calls first).
void tc_store_get_unit(const tc_store *store, uint32_t layer, uint32_t expert, uint32_t unit,
                       tc_store_unit *ret);
// Reads everything once, from the file or from the arenas, and compares with the hashes in the header.
tc_status tc_store_verify(const tc_store *store, tc_error *e);

typedef struct tc_pack_options {
    const char *cache_dir; // created if missing
    tc_quantise quantise;  // NF4, INT8: of experts that are not 4-bit; KEEP: tc_checkpoint_keep was called
    bool force;            // pack again even if the file is there
    bool (*progress)(void *arg, uint64_t done,
                     uint64_t total); // bytes; may be NULL; false stops (TC_CANCELLED)
    void *arg;
    uint32_t threads; // that pack beside each other; 0: two
} tc_pack_options;

enum { TC_STORE_PATH_BYTES = 1024 };

// <cache_dir>/<name> of the store that packing would give: what `serve` looks for.
tc_status tc_store_path_for(const tc_checkpoint *checkpoint, const tc_pack_options *options,
                            char ret[TC_STORE_PATH_BYTES], tc_error *e);
// Packs (or finds) the store of a checkpoint; the path in ret. A crash or a full disk leaves no file under
// the final name.
tc_status tc_store_pack(const tc_checkpoint *checkpoint, const tc_pack_options *options,
                        char ret[TC_STORE_PATH_BYTES], tc_error *e);

// The same by the model's folder; cache_dir NULL: tc_store_cache_dir(xdg_cache_home, home).
tc_status tc_store_of_model(const char *model, const char *cache_dir, const char *xdg_cache_home,
                            const char *home, tc_quantise quantise, char ret[TC_STORE_PATH_BYTES],
                            tc_error *e);

// $XDG_CACHE_HOME/thermocline, or $HOME/.cache/thermocline. The caller reads the environment.
tc_status tc_store_cache_dir(const char *xdg_cache_home, const char *home, char ret[TC_STORE_PATH_BYTES],
                             tc_error *e);
