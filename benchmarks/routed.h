// SPDX-License-Identifier: Apache-2.0
// Owns: weights by which a random model routes as a trained one does: experts' popularity falls by rank^-zipf
// in every layer, in an order of its own, and a token's experts are partly its predecessor's. It is all in
// the checkpoint: no program knows of it.
//
//   popularity: the first coordinates of every token's embedding have one value, which the residual carries
//   through all layers; a router's columns for them are the bias of each expert. Norms before mixers and the
//   head take them out, so that nothing else is alike.
//   locality: the vocabulary falls into topics. A share of an embedding is its topic's, and the head prefers
//   tokens of the topic that it is in.
//   depth: what layers add to the residual is scaled so that all of them double its variance: else the last
//   layers would see little of either.
#pragma once

#include "benchmarks/random_shards.h"

typedef struct tc_routed_options {
    double zipf;     // 0: even
    double locality; // 0..TC_LOCALITY_MAX: share of an embedding's variance that is its topic's
    uint32_t hidden, experts, top_k, layers, vocab;
    const bool *delta; // [layers] Gated DeltaNet, not attention; borrowed for the call
    bool norm_zero_centred;
    uint64_t seed;
} tc_routed_options;

#define TC_ZIPF_MAX 3.0
#define TC_LOCALITY_MAX 0.95

typedef struct tc_routed tc_routed;

// TC_ARGUMENT: a number out of range; TC_NOMEM.
tc_status tc_routed_create(const tc_routed_options *options, tc_routed **ret, tc_error *e);
void tc_routed_free(tc_routed *routed); // NULL is legal
// Of the deviation of what a mixer or an MLP adds.
float tc_routed_residual(const tc_routed *routed);

// Chances, [experts] by rank, that an expert is among a token's top_k: rank^-zipf as far as none is above
// certainty. They add up to top_k.
void tc_routed_chances(double zipf, uint32_t experts, uint32_t top_k, double *ret);

// What becomes of a tensor of TC_FILL_UNIFORM (tc_random_tensor.touch, with the routed as its argument).
tc_random_touch tc_routed_embedding, tc_routed_router, tc_routed_head, tc_routed_norm;
