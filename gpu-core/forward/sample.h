// SPDX-License-Identifier: Apache-2.0
// Owns: choosing one token from one row of logits, and their log-probabilities. Order, as in the reference's
// generate(): the mask of a constraint, biases, repetition penalty, then presence and frequency penalties,
// forbidden tokens, temperature, top-k, top-p, min-p, draw. A draw depends on the seed and the number of the
// token only, never on the batch or on time. Refuses: stop conditions (sched).
#pragma once

#include "common/base/status.h"
#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/dev.h"
#include "proto/engine.h"
#include <stdint.h>

typedef struct tc_sampler tc_sampler; // scratch for one vocabulary; one thread

typedef struct tc_sample_params {
    float temperature, top_p, min_p;
    uint32_t top_k;
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    const tc_token_value *bias; // added to the raw logits; tokens < vocab
    uint32_t bias_count;
    const uint32_t *forbidden; // cannot be drawn; tokens >= vocab are ignored
    uint32_t forbidden_count;
    const uint32_t *allowed; // NULL: all; else bit id & 31 of word id / 32 set where a token may be drawn, at
                             // least one. Applied before anything else; holds even where every logit is NaN
} tc_sample_params;

// dense: the vector routines of this CPU.
tc_status tc_sampler_create(uint32_t vocab, const tc_dense *dense, tc_sampler **ret, tc_error *e);
void tc_sampler_free(tc_sampler *sampler);

// history: prompt then generated tokens (all < vocab); the first prompt_count are the prompt. The repetition
// penalty looks at all of it, presence and frequency at what was generated. NaN logits lose against
// everything.
uint32_t tc_sample(tc_sampler *sampler, const float *logits, const tc_sample_params *params,
                   const uint32_t *history, uint32_t prompt_count, uint32_t count);

// The same token from what a device says of the row, for parameters that change no logit (no bias, penalty,
// forbidden token or mask). number: of the token, count - prompt_count above. False: the whole row is needed.
bool tc_sample_few(tc_sampler *sampler, const tc_few *few, const tc_sample_params *params, uint64_t number,
                   uint32_t *ret);
// Whether the parameters change logits.
bool tc_sample_changes(const tc_sample_params *params);

// Log-probabilities under the raw logits (temperature 1, no bias, no penalty): ret[0] of `token`, ret[1..top]
// of the likeliest, falling, equal ones by rising id. top <= TC_LOGPROBS_MAX and top <= vocab.
void tc_logprobs(tc_sampler *sampler, const float *logits, uint32_t token, uint32_t top, tc_token_value *ret);
