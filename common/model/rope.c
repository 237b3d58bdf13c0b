// SPDX-License-Identifier: Apache-2.0
// Owns: the frequencies of rotary position embeddings, plain and YaRN (docs/MODEL.md), the same on every
// device.
#include "common/model/model.h"

#include <math.h>

// The dimension that turns `turns` times over the original length.
static double dimension_of(const tc_rope *r, double turns, uint32_t dim)
{
    return dim * log(r->original_positions / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

void tc_rope_frequencies(const tc_rope *r, uint32_t rotary_dim, float *ret)
{
    uint32_t half = rotary_dim / 2;
    for (uint32_t i = 0; i < half; i++)
        ret[i] = 1.0f / powf((float)r->theta, (float)(2 * i) / (float)rotary_dim);
    if (r->factor == 0) return;
    double low = dimension_of(r, r->beta_fast, rotary_dim), high = dimension_of(r, r->beta_slow, rotary_dim);
    if (r->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, rotary_dim - 1);
    if (low == high) high += 0.001;
    for (uint32_t i = 0; i < half; i++) {
        double slowed = fmin(fmax((i - low) / (high - low), 0), 1);
        ret[i] = (float)(ret[i] / r->factor * slowed + ret[i] * (1 - slowed));
    }
}
