// SPDX-License-Identifier: Apache-2.0
// Owns: how often each (layer, expert) is used, decaying over long spans, and which experts of the next layer
// follow it; kept in a file a model so that a start knows what the last run learned. Counting costs an
// addition a use; followers are counted for one token of TC_PROFILE_SAMPLE. Refuses: policy (hot_cache.h).
//
// File, little-endian: {char magic[8] "tcprofil"; u32 version, layers, experts, followers; char
// model_hash[32]; double tokens; u64 check}, float uses[layers][experts], then followers
// [layers][experts][TC_FOLLOWERS] of {u16 expert, u16 count}. check: FNV-1a of all of it, itself 0.
#pragma once

#include "common/placement/hot_cache.h"

enum {
    TC_PROFILE_VERSION = 1,
    TC_FOLLOWERS = 8,       // of an expert that are remembered
    TC_PROFILE_SAMPLE = 16, // one token of so many tells followers
    TC_PROFILE_HALF_TOKENS = 1 << 18,
};

typedef struct tc_follower {
    uint16_t expert, count;
} tc_follower;

typedef struct tc_profile {
    uint32_t layers, experts;
    char model_hash[33];
    double tokens;          // seen, decayed as uses are
    float *uses;            // [layers][experts], scaled up by `scale`
    tc_follower *followers; // [layers][experts][TC_FOLLOWERS]
    double scale;
    uint64_t seen; // tokens since creation
} tc_profile;

tc_status tc_profile_create(uint32_t layers, uint32_t experts, const char *model_hash, tc_profile **ret,
                            tc_error *e);
void tc_profile_free(tc_profile *profile); // NULL is legal
// chosen: [tokens][layers][top_k], -1 where a layer has no experts.
void tc_profile_note(tc_profile *profile, uint32_t tokens, uint32_t top_k, const int32_t *chosen);
// Uses a token of every (layer, expert): [layers][experts].
void tc_profile_rates(const tc_profile *profile, float *ret);

// Bytes of the file, and the file itself into memory of the caller (for a thread to write later).
uint64_t tc_profile_bytes(const tc_profile *profile);
void tc_profile_pack(const tc_profile *profile, void *ret);
// Writes beside the path, fsyncs, renames: a crash leaves the old one or the new one.
tc_status tc_profile_write(const char *path, const void *packed, uint64_t bytes, tc_error *e);
tc_status tc_profile_save(const tc_profile *profile, const char *path, tc_error *e);
// TC_NOT_FOUND; TC_FORMAT: damaged, or of another model (model_hash NULL: any).
tc_status tc_profile_load(const char *path, const char *model_hash, tc_profile **ret, tc_error *e);

// The share of all uses that the `experts` most used of each layer have: the skew in one number.
double tc_profile_coverage(const tc_profile *profile, uint32_t experts);
