// SPDX-License-Identifier: Apache-2.0
// Owns: the log-softmax of one row of logits, of one token and of the likeliest few. Refuses: sampling.
#include "gpu-core/forward/sample.h"

#include <math.h>

// Keeps `best` sorted: falling by value, then rising by token (ids come in rising order).
static void insert(tc_token_value *best, uint32_t *count, uint32_t top, uint32_t id, float value)
{
    if (*count == top && !(value > best[top - 1].value)) return;
    uint32_t at = *count < top ? (*count)++ : top - 1;
    for (; at > 0 && value > best[at - 1].value; at--) best[at] = best[at - 1];
    best[at] = (tc_token_value){id, value};
}

static float number(float logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

void tc_logprobs(const float *logits, uint32_t vocab, uint32_t token, uint32_t top, tc_token_value *ret)
{
    float max = -INFINITY;
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > max) max = logits[i];
    for (uint32_t i = 0; i < vocab; i++) sum += exp((double)number(logits[i]) - (double)max);
    double log_sum = (double)max + log(sum);
    for (uint32_t i = 0; i < vocab && top; i++) insert(ret + 1, &count, top, i, number(logits[i]));
    ret[0] = (tc_token_value){token, number(logits[token])};
    for (uint32_t i = 0; i <= top; i++) ret[i].value = (float)((double)ret[i].value - log_sum);
}
