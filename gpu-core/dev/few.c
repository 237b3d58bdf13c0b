// SPDX-License-Identifier: Apache-2.0
#include "gpu-core/dev/few.h"

#include <math.h>
#include <string.h>

enum {
    CHUNK = 512,    // weights added up as floats, before doubles go on
    SAMPLES = 1024, // logits that tell about where to begin
    SPARE = 8,
};

static void find_best(const tc_dense *dense, const float *row, uint32_t vocab, tc_few *ret)
{
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = dense->first_above(row, 0, vocab, second); i < vocab;
         i = dense->first_above(row, i + 1, vocab, second)) {
        if (row[i] > first) {
            second = first;
            first = row[i];
            ret->best = i;
        } else {
            second = row[i];
        }
    }
    ret->max = first;
    ret->gap = first - second;
}

static float sum_numbers(const float *x, uint32_t n, float max, float inverse)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const float weight = expf((x[i] - max) * inverse);
        if (!isnan(weight)) sum += weight;
    }
    return sum;
}

static double sum_weights(const tc_dense *dense, const float *row, uint32_t vocab, float max, float inverse)
{
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i += CHUNK) {
        const uint32_t n = vocab - i < CHUNK ? vocab - i : CHUNK;
        const float part = dense->sum_exp(row + i, max, inverse, n);
        sum += isnan(part) ? sum_numbers(row + i, n, max, inverse) : part;
    }
    return sum;
}

static void swap(tc_few_token *a, tc_few_token *b)
{
    const tc_few_token t = *a;
    *a = *b;
    *b = t;
}

// Puts the tokens in an order in which the k-th, k < n, is where it would be if they fell by logit, and none
// before it is smaller.
static void select_kth(tc_few_token *t, uint32_t n, uint32_t k)
{
    uint32_t begin = 0, end = n;
    while (end - begin > 1) {
        const float pivot = t[begin + (end - begin) / 2].logit;
        uint32_t above = begin, below = end;
        for (uint32_t i = begin; i < below;) {
            if (t[i].logit > pivot)
                swap(&t[i++], &t[above++]);
            else if (t[i].logit < pivot)
                swap(&t[i], &t[--below]);
            else
                i++;
        }
        if (k >= above && k < below) return; // among those that are equal to the pivot
        if (k < above)
            end = above;
        else
            begin = below;
    }
}

// Keeps the best, at most TC_FEW_MAX, that are above all others; those others are not above `*ret_than`.
static uint32_t keep_best(tc_few_token *t, uint32_t n, float *ret_than)
{
    uint32_t kept = 0;
    select_kth(t, n, TC_FEW_MAX);
    *ret_than = t[TC_FEW_MAX].logit;
    for (uint32_t i = 0; i < TC_FEW_MAX; i++)
        if (t[i].logit > *ret_than) t[kept++] = t[i];
    return kept;
}

// A logit that, by a sample of the row, about twice as many tokens as are kept are above.
static float begin_above(const float *row, uint32_t vocab, tc_few_token *room)
{
    const uint32_t rank = (uint32_t)((uint64_t)2 * TC_FEW_MAX * SAMPLES / vocab) + SPARE;
    if (vocab <= TC_FEW_ROOM || rank >= SAMPLES) return -INFINITY;
    for (uint32_t i = 0; i < SAMPLES; i++) {
        const float x = row[(size_t)i * vocab / SAMPLES];
        room[i] = (tc_few_token){isnan(x) ? -INFINITY : x, i};
    }
    select_kth(room, SAMPLES, rank);
    return room[rank].logit;
}

static uint32_t collect(const tc_dense *dense, const float *row, uint32_t vocab, tc_few_token *room,
                        tc_few_token *ret)
{
    float than = begin_above(row, vocab, room);
    uint32_t n = 0;
    for (uint32_t i = dense->first_above(row, 0, vocab, than); i < vocab;
         i = dense->first_above(row, i + 1, vocab, than)) {
        room[n++] = (tc_few_token){row[i], i};
        if (n == TC_FEW_ROOM) n = keep_best(room, n, &than);
    }
    if (n > TC_FEW_MAX) n = keep_best(room, n, &than);
    memcpy(ret, room, n * sizeof *ret);
    return n;
}

void tc_few_of(const tc_dense *dense, const float *row, uint32_t vocab, float temperature, tc_few_token *room,
               tc_few_token *token, tc_few *ret)
{
    *ret = (tc_few){.token = token};
    find_best(dense, row, vocab, ret);
    if (!(temperature > 0 && ret->max > -INFINITY)) return;
    ret->sum = sum_weights(dense, row, vocab, ret->max, 1 / temperature);
    ret->count = collect(dense, row, vocab, room, token);
}
