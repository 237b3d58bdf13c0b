// SPDX-License-Identifier: Apache-2.0
// Owns: routing traces: which experts every token of a run was routed to. The file, its writer (a run with
// --trace-routing), and the form that replay reads. Refuses: weights and texts; a trace tells no token.
//
// File, little-endian: header {char magic[8] "tcroutes"; u32 version, layers, experts, top_k; u64
// expert_bytes; char model_hash[32]; u8 moe[32]}, moe: bit l set where layer l has experts. Then frames, one
// a segment of a step: {u32 session; u16 tokens; u8 flags; u8 0} and the chosen experts [tokens][layers with
// experts][top_k], each in bits(experts - 1) bits, low bits first, padded to a byte. 48 layers of 10 of 512
// experts are 540 bytes a token.
//
// Version 2 is the same, and frames with the flag TC_ROUTING_EXPECTED have a second list of the same form
// behind the first: what each layer's router said of the token one layer earlier. A trace without one is
// written as version 1.
#pragma once

#include "common/placement/hot_cache.h"

enum {
    TC_ROUTING_VERSION = 2,
    TC_ROUTING_TOKENS_MAX = 8192, // a frame
    TC_ROUTING_TOP_K_MAX = 64,
    TC_ROUTING_PROMPT = 1,   // flags: the segment is a prompt's
    TC_ROUTING_STEP = 2,     // the first segment of a step
    TC_ROUTING_EXPECTED = 4, // the frame tells what was expected, too; set by whoever writes it
};
#define TC_ROUTING_FILE_BYTES_MAX (16ull << 30)

typedef struct tc_routing_info {
    uint32_t layers, experts, top_k; // layers: all of the model's
    uint64_t expert_bytes;
    char model_hash[33]; // empty: generated
    uint8_t moe[TC_CACHE_LAYERS_MAX / 8];
    bool expects; // frames may tell what was expected
} tc_routing_info;

static inline bool tc_routing_has_experts(const tc_routing_info *info, uint32_t layer)
{
    return info->moe[layer / 8] >> layer % 8 & 1;
}

typedef struct tc_routing_writer tc_routing_writer;

// Creates the file (an old one is replaced). TC_ARGUMENT, TC_IO, TC_NOMEM.
tc_status tc_routing_create(const char *path, const tc_routing_info *info, tc_routing_writer **ret,
                            tc_error *e);
// chosen, and expected (NULL: none; only with info.expects): [tokens][layers][top_k], entries of layers
// without experts are not looked at. Allocates nothing. A failed write is kept for tc_routing_close.
void tc_routing_segment(tc_routing_writer *writer, uint32_t session, uint32_t flags, uint32_t tokens,
                        const int32_t *chosen, const int32_t *expected);
tc_status tc_routing_close(tc_routing_writer *writer, tc_error *e); // NULL is legal; frees in any case

// ---- in memory ----
typedef struct tc_route_step {
    uint64_t first; // of uses
    uint32_t count; // (layer, expert) once each, by layer
    uint32_t tokens, session;
    uint64_t expected_first; // of what was expected
    uint32_t expected_count; // 0: nothing is known
    bool prompt;
} tc_route_step;

typedef struct tc_routes {
    tc_routing_info info;
    tc_route_step *steps;
    uint64_t step_count, use_count, token_count;
    tc_expert_use *uses;
    tc_expert_use *expected; // by layer, what most tokens expect first
    uint64_t expected_count;
    uint64_t step_room, use_room, expected_room;
    uint32_t *counts; // scratch: [layers * experts]
} tc_routes;

// TC_FORMAT names the place; TC_LIMIT.
tc_status tc_routes_load(const char *path, tc_routes *ret, tc_error *e);
tc_status tc_routes_begin(const tc_routing_info *info, tc_routes *ret, tc_error *e);
// Adds a segment; begins_step false: to the last step. `chosen` and `expected` as above.
tc_status tc_routes_add(tc_routes *routes, uint32_t session, uint32_t flags, uint32_t tokens,
                        const int32_t *chosen, const int32_t *expected, tc_error *e);
void tc_routes_free(tc_routes *routes); // zeroed ones are legal
