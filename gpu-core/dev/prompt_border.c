// SPDX-License-Identifier: Apache-2.0
// Owns: the arithmetic of prompt_border.h. Refuses: clocks and devices.
#include "gpu-core/dev/prompt_border.h"

#include <math.h>

static const double THERE_US = 30;           // to a worker and back, and its own time beside its experts
static const double SIDE_US = 100;           // what the card does anyhow between a call and its join
static const double READ_AGAINST_COPY = 1.2; // the card's own reads, beside working CPUs, against its copies

void tc_border_learn(tc_border_rates *r, const tc_border_call *small, const tc_border_call *large)
{
    const double a = small->experts, b = small->pairs, c = large->experts, d = large->pairs;
    const double y = small->us > THERE_US ? small->us - THERE_US : 0,
                 z = large->us > THERE_US ? large->us - THERE_US : 0, determinant = a * d - b * c;
    r->expert_us = fabs(determinant) > 1e-9 ? (y * d - z * b) / determinant : 0;
    if (r->expert_us < 0) r->expert_us = 0;
    if (r->expert_us * c > z) r->expert_us = c > 0 ? z / c : 0;
    r->pair_us = d > 0 ? (z - r->expert_us * c) / d : 0;
}

double tc_border_streamed_us(const tc_border_rates *r, const tc_border_shape *s)
{
    return s->cold * (r->copy_us > r->product_us ? r->copy_us : r->product_us);
}

// Tokens choose evenly. Of the cold experts that were chosen the link takes so many that both sides end
// together.
double tc_border_shared_us(const tc_border_rates *r, const tc_border_shape *s, uint32_t tokens)
{
    const double part = (double)s->top_k / s->experts;
    const double chosen = s->cold * (1 - pow(1 - part, tokens)), pairs = s->cold * part * tokens;
    const double there = chosen * r->expert_us + pairs * r->pair_us, fetch = r->copy_us * READ_AGAINST_COPY;
    const double here = chosen * (fetch > r->product_us ? fetch : r->product_us);
    if (chosen <= 0) return 0;
    // link: SIDE_US + f * here; workers: THERE_US + (1 - f) * there
    double f = here + there > 0 ? (there + THERE_US - SIDE_US) / (here + there) : 0;
    if (f < 0) f = 0;
    if (f > 1) f = 1;
    const double link = SIDE_US + f * here, workers = f < 1 ? THERE_US + (1 - f) * there : 0;
    return link > workers ? link : workers;
}

uint32_t tc_border_choose(const tc_border_rates *r, const tc_border_shape *s)
{
    const double streamed = tc_border_streamed_us(r, s);
    uint32_t n = TC_PROMPT_BORDER_LEAST;
    while (n < TC_PROMPT_BORDER_MOST && tc_border_shared_us(r, s, n + 1) <= streamed) n++;
    return n;
}
