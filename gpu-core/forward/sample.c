// SPDX-License-Identifier: Apache-2.0
// Owns: penalties, the truncations (top-k, top-p, min-p) and the draw.
#include "gpu-core/forward/sample.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    float logit, p;
    uint32_t id;
} candidate;

struct tc_sampler {
    uint32_t vocab;
    float *logits;
    uint32_t *seen; // uses of each token; all zero between calls
    candidate *candidates;
};

tc_status tc_sampler_create(uint32_t vocab, tc_sampler **ret, tc_error *e)
{
    tc_sampler *s = tc_alloc(TC_MEM_SCRATCH, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the sampler");
    s->vocab = vocab;
    s->logits = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->logits);
    s->seen = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->seen);
    s->candidates = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->candidates);
    if (!s->logits || !s->seen || !s->candidates) {
        tc_sampler_free(s);
        return tc_fail(e, TC_NOMEM, "out of memory for the sampler: vocabulary of %u", vocab);
    }
    *ret = s;
    return TC_OK;
}

void tc_sampler_free(tc_sampler *s)
{
    if (!s) return;
    tc_free(s->logits);
    tc_free(s->seen);
    tc_free(s->candidates);
    tc_free(s);
}

static uint32_t argmax(const float *logits, uint32_t vocab, float *ret_gap)
{
    uint32_t best = 0;
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++) {
        if (logits[i] > first) {
            second = first;
            first = logits[i];
            best = i;
        } else if (logits[i] > second) {
            second = logits[i];
        }
    }
    if (ret_gap) *ret_gap = first - second;
    return best;
}

// Changes s->logits in place; `seen` counts are taken back afterwards.
static void penalise(tc_sampler *s, const tc_sample_params *p, const uint32_t *history, uint32_t prompt,
                     uint32_t count)
{
    if (p->repetition_penalty != 1.0f) {
        for (uint32_t i = 0; i < count; i++) {
            float *l = &s->logits[history[i]];
            if (s->seen[history[i]]++ == 0)
                *l = *l > 0 ? *l / p->repetition_penalty : *l * p->repetition_penalty;
        }
        for (uint32_t i = 0; i < count; i++) s->seen[history[i]] = 0;
    }
    if (p->presence_penalty == 0 && p->frequency_penalty == 0) return;
    for (uint32_t i = prompt; i < count; i++) {
        float *l = &s->logits[history[i]];
        if (s->seen[history[i]]++ == 0) *l -= p->presence_penalty;
        *l -= p->frequency_penalty;
    }
    for (uint32_t i = prompt; i < count; i++) s->seen[history[i]] = 0;
}

static void bias(tc_sampler *s, const tc_sample_params *p)
{
    for (uint32_t i = 0; i < p->bias_count; i++) s->logits[p->bias[i].token] += p->bias[i].value;
}

static void forbid(tc_sampler *s, const tc_sample_params *p)
{
    for (uint32_t i = 0; i < p->forbidden_count; i++)
        if (p->forbidden[i] < s->vocab) s->logits[p->forbidden[i]] = -INFINITY;
}

// Falling by logit; equal logits by rising id, so that the order is total.
static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void sift_down(candidate *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t worst = i;
        for (uint32_t c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++)
            if (by_logit(&heap[c], &heap[worst]) > 0) worst = c;
        if (worst == i) return;
        candidate swap = heap[i];
        heap[i] = heap[worst];
        heap[worst] = swap;
        i = worst;
    }
}

// The k best, through a heap whose root is the worst kept one.
static uint32_t collect_top_k(tc_sampler *s, uint32_t k)
{
    candidate *heap = s->candidates;
    for (uint32_t i = 0; i < k; i++) heap[i] = (candidate){s->logits[i], 0, i};
    for (uint32_t i = k / 2; i-- > 0;) sift_down(heap, k, i);
    for (uint32_t i = k; i < s->vocab; i++) {
        candidate c = {s->logits[i], 0, i};
        if (by_logit(&c, &heap[0]) >= 0) continue;
        heap[0] = c;
        sift_down(heap, k, 0);
    }
    return k;
}

// Every token that could be in the nucleus: those below (1 - top_p) / vocab together weigh less than 1 -
// top_p.
// ret_sum: mass of the whole vocabulary, relative to the most likely token.
static uint32_t collect_nucleus(tc_sampler *s, float temperature, float top_p, double *ret_sum)
{
    float max = s->logits[argmax(s->logits, s->vocab, NULL)];
    double sum = 0;
    for (uint32_t i = 0; i < s->vocab; i++) sum += exp((double)(s->logits[i] - max) / temperature);
    double least = top_p < 1 ? (1.0 - (double)top_p) / s->vocab * sum : 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->vocab; i++)
        if (s->logits[i] > -INFINITY && exp((double)(s->logits[i] - max) / temperature) >= least)
            s->candidates[n++] = (candidate){s->logits[i], 0, i};
    *ret_sum = sum;
    return n;
}

static double weigh(candidate *c, uint32_t n, float temperature)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        c[i].p = (float)exp((double)(c[i].logit - c[0].logit) / temperature);
        sum += c[i].p;
    }
    return sum;
}

// Candidates sorted and weighed, of a total mass `sum`; keeps the first ones that top-p and min-p leave.
// Returns their number and mass.
static uint32_t truncate_tail(const candidate *c, uint32_t n, const tc_sample_params *params, double sum,
                              double *ret_mass)
{
    double mass = 0;
    uint32_t kept = 0;
    while (kept < n) {
        if (kept &&
            (mass >= (double)params->top_p * sum || c[kept].p < params->min_p * c[0].p || c[kept].p <= 0))
            break; // what weighs nothing (forbidden, masked) is never the last one kept
        mass += c[kept++].p;
    }
    *ret_mass = mass;
    return kept;
}

// One number in [0, 1) from the seed and the token's number (splitmix64's finaliser on a Weyl sequence).
static double uniform(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static bool is_allowed(const tc_sample_params *p, uint32_t id)
{
    return !p->allowed || (p->allowed[id >> 5] >> (id & 31) & 1);
}

static void copy_allowed(tc_sampler *s, const float *logits, const tc_sample_params *p)
{
    for (uint32_t i = 0; i < s->vocab; i++)
        s->logits[i] = isnan(logits[i]) || !is_allowed(p, i) ? -INFINITY : logits[i];
}

// Where no logit is left: the first allowed token that is not forbidden, else the first allowed one.
static uint32_t last_resort(tc_sampler *s, const tc_sample_params *p, uint32_t otherwise)
{
    uint32_t first = UINT32_MAX;
    for (uint32_t i = 0; i < s->vocab && p->allowed; i++) {
        if (!is_allowed(p, i)) continue;
        bool barred = false;
        for (uint32_t k = 0; k < p->forbidden_count; k++) barred |= p->forbidden[k] == i;
        if (!barred) return i;
        if (first == UINT32_MAX) first = i;
    }
    return first == UINT32_MAX ? otherwise : first;
}

uint32_t tc_sample(tc_sampler *s, const float *logits, const tc_sample_params *params,
                   const uint32_t *history, uint32_t prompt_count, uint32_t count, float *ret_gap)
{
    uint32_t best = argmax(logits, s->vocab, ret_gap);
    bool penalties =
        params->repetition_penalty != 1.0f || params->presence_penalty != 0 || params->frequency_penalty != 0;
    bool changes = penalties || params->bias_count || params->forbidden_count || params->allowed;
    if (params->temperature <= 0 && !changes) return best;
    copy_allowed(s, logits, params);
    bias(s, params);
    if (penalties) penalise(s, params, history, prompt_count, count);
    forbid(s, params);
    if (params->allowed && !(s->logits[argmax(s->logits, s->vocab, NULL)] > -INFINITY))
        return last_resort(s, params, best);
    if (params->temperature <= 0) return argmax(s->logits, s->vocab, NULL);

    bool cut = params->top_k > 0 && params->top_k < s->vocab;
    double sum = 0, mass;
    uint32_t n =
        cut ? collect_top_k(s, params->top_k) : collect_nucleus(s, params->temperature, params->top_p, &sum);
    if (n == 0) return best;
    qsort(s->candidates, n, sizeof *s->candidates, by_logit);
    double candidates_sum = weigh(s->candidates, n, params->temperature);
    uint32_t kept = truncate_tail(s->candidates, n, params, cut ? candidates_sum : sum, &mass);
    double at = uniform(params->seed, count - prompt_count) * mass;
    for (uint32_t i = 0; i < kept; i++) {
        at -= s->candidates[i].p;
        if (at < 0) return s->candidates[i].id;
    }
    return s->candidates[kept - 1].id;
}
