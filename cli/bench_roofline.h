// SPDX-License-Identifier: Apache-2.0
// Owns: the least time that a step can take where both bytes and products bind: of each kind of round the
// longer of its bytes at the measured read bandwidth and its operations at the measured peak of the product
// that its kernels use, summed. Rounds follow each other, so their times add up; within one, reading and
// multiplying overlap. Refuses: to replace the byte roofline, which stays beside it; devices other than the
// CPU, whose products are not measured.
#pragma once

#include "cli/footprint.h"
#include "common/kernels/matrix_peak.h"

typedef enum tc_roof_kind {
    TC_ROOF_PROJECTIONS, // of attention and DeltaNet
    TC_ROOF_ATTENTION,   // scores and values over the cache; DeltaNet's states
    TC_ROOF_ROUTERS,
    TC_ROOF_MLP, // shared experts and dense MLPs
    TC_ROOF_EXPERTS,
    TC_ROOF_HEAD,
    TC_ROOF_REST, // norms and biases: bytes only
    TC_ROOF_KINDS
} tc_roof_kind;

// What the core runs, and what the machine can do. All borrowed.
typedef struct tc_roof_model {
    const tc_model_desc *desc;
    const tc_footprint *footprint;
    const char *isa, *precision, *head; // as the core names them; head NULL: as it is stored
    const tc_matrix_peak *peak;
    double read_gb_per_s;
} tc_roof_model;

// One step, or the mean of some: `runs` sequences of `run_tokens` tokens, the first of each at `position`.
typedef struct tc_roof_step {
    double runs, head_rows, expert_reads;
    uint32_t run_tokens;
    uint64_t position;
    double bytes, expert_bytes, cache_bytes; // all that is read, and of it routed experts, KV and states
} tc_roof_step;

typedef struct tc_roof_round {
    const char *product; // most of it; "" where there are none, or no peak of theirs is known
    double bytes, gop;   // gop: 10^9 multiplications and additions
    double gop_per_s;    // what the machine could do of them
    double bytes_us, products_us, us;
} tc_roof_round;

typedef struct tc_roof {
    tc_roof_round round[TC_ROOF_KINDS];
    double bytes_us, us; // of all bytes alone; of the rounds
} tc_roof;

extern const char *const tc_roof_keys[TC_ROOF_KINDS];

void tc_roof_of(const tc_roof_model *model, const tc_roof_step *step, tc_roof *ret);
