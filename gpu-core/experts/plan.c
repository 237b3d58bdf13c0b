// SPDX-License-Identifier: Apache-2.0
// Owns: the counting sort behind an expert call.
#include "gpu-core/experts/plan.h"

#include <string.h>

uint32_t tc_plan_pairs(const uint32_t *expert, const float *weight, uint32_t tokens, uint32_t top_k,
                       uint32_t experts, uint32_t *counts, tc_expert_pair *pairs)
{
    uint32_t distinct = 0;
    memset(counts, 0, (experts + 1) * sizeof *counts);
    for (uint32_t i = 0; i < tokens * top_k; i++) counts[expert[i] + 1]++;
    for (uint32_t e = 0; e < experts; e++) {
        distinct += counts[e + 1] != 0;
        counts[e + 1] += counts[e];
    }
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t k = 0; k < top_k; k++) {
            uint32_t i = t * top_k + k;
            pairs[counts[expert[i]]++] = (tc_expert_pair){expert[i], t, weight[i]};
        }
    }
    return distinct;
}
