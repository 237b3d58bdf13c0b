// SPDX-License-Identifier: Apache-2.0
// Owns: what a draw is by definition: all tokens sorted, weighed, cut off and counted through. And what a
// forward pass that does not exist says of its rows.
#pragma once

#include "gpu-core/dev/few.h"
#include "gpu-core/forward/sample.h"

#include <math.h>
#include <stdlib.h>

typedef struct ranked {
    float logit;
    uint32_t id;
    double weight; // relative to the first
} ranked;

static int ranked_falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit > y->logit ? -1 : 1) : x->id < y->id ? -1 : x->id > y->id;
}

// The tokens of a row that are numbers; the caller's to free.
static inline ranked *rank_row(const float *row, uint32_t vocab, float temperature, uint32_t *ret_count)
{
    ranked *all = malloc(vocab * sizeof *all);
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (!isnan(row[i])) all[n++] = (ranked){row[i], i, 0};
    qsort(all, n, sizeof *all, ranked_falling);
    for (uint32_t i = 0; i < n && temperature > 0; i++)
        all[i].weight = exp((double)(all[i].logit - all[0].logit) / temperature);
    *ret_count = n;
    return all;
}

// The number that a draw uses (splitmix64), worked out here once more.
static inline double number_of(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

// `ret_near`: so near to the next one that rounding may decide.
static inline uint32_t draw_by_rank(const ranked *all, uint32_t n, const tc_sample_params *p, uint64_t number,
                                    bool *ret_near)
{
    double sum = 0, mass = 0, done = 0;
    uint32_t kept = 0;
    *ret_near = false;
    if (p->temperature <= 0) return all[0].id;
    if (p->top_k && p->top_k < n) n = p->top_k;
    for (uint32_t i = 0; i < n; i++) sum += all[i].weight;
    for (; kept < n; kept++) {
        const double w = all[kept].weight;
        *ret_near |= fabs(mass - p->top_p * sum) < 1e-6 * sum && p->top_p < 1;
        *ret_near |= fabs(w - p->min_p) < 1e-6 && p->min_p > 0;
        if (kept && (mass >= p->top_p * sum || w < p->min_p || w == 0)) break;
        mass += w;
    }
    const double at = number_of(p->seed, number) * mass;
    for (uint32_t i = 0; i < kept; i++) {
        done += all[i].weight;
        *ret_near |= fabs(done - at) < 1e-6 * mass;
        if (done > at) return all[i].id;
    }
    return all[kept - 1].id;
}

// tc_forward_few of rows [n][vocab].
static inline void few_of_rows(const float *rows, uint32_t n, uint32_t vocab, const float *temperature,
                               tc_few *ret)
{
    static tc_few_token token[TC_FEW_ROWS_MAX][TC_FEW_MAX], room[TC_FEW_ROOM];
    for (uint32_t r = 0; r < n; r++)
        tc_few_of(&tc_dense_plain, rows + (size_t)r * vocab, vocab, temperature[r], room, token[r], &ret[r]);
}
