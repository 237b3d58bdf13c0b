// SPDX-License-Identifier: Apache-2.0
// Owns: turning the router's choice for a batch into one expert call: pairs sorted by (expert, token).
#pragma once

#include "common/kernels/ffn.h"

// expert, weight: [tokens][top_k]. pairs: [tokens * top_k], filled; counts: scratch of experts + 1. Counting
// sort: linear, stable, allocates nothing. Returns how many experts the batch touches: each is read once,
// however many tokens chose it.
uint32_t tc_plan_pairs(const uint32_t *expert, const float *weight, uint32_t tokens, uint32_t top_k,
                       uint32_t experts, uint32_t *counts, tc_expert_pair *pairs);
