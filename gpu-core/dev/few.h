// SPDX-License-Identifier: Apache-2.0
// Owns: what a draw needs of one row of logits in host memory (tc_few, dev.h): the largest, the sum of all
// weights and the tokens that weigh most. NaN is above nothing and weighs nothing. Refuses: to draw, and what
// changes logits (forward/sample.c).
#pragma once

#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/dev.h"

enum { TC_FEW_ROOM = 4 * TC_FEW_MAX }; // tokens collected before only the best of them are kept

// Of row [vocab], a draw at this temperature (0: none, only what is largest is looked for). room
// [TC_FEW_ROOM] is scratch; ret->token is `token` [TC_FEW_MAX], the caller's.
void tc_few_of(const tc_dense *dense, const float *row, uint32_t vocab, float temperature, tc_few_token *room,
               tc_few_token *token, tc_few *ret);
