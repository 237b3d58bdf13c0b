// SPDX-License-Identifier: Apache-2.0
// Owns: penalties, the truncations (top-k, top-p, min-p) and the draw.
#include "gpu-core/forward/sample.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ARGMAX_RUN = 256,
    WEIGHT_LEAST = -60, // e to it: a whole vocabulary of such weights is lost in the rounding of the sum
    BUCKETS = 512,
    BUCKETS_A_NAT = 8,
};

typedef struct candidate {
    float logit, p;
    uint32_t id;
} candidate;

struct tc_sampler {
    uint32_t vocab;
    float *logits;
    uint32_t *seen; // uses of each token; all zero between calls
    candidate *candidates;
    float *weights; // of each token, relative to the most likely one
    // Candidates lie in buckets by falling logit, of which only those are sorted that a draw looks into.
    uint32_t begin[BUCKETS + 1];
    uint32_t sorted; // buckets from the first on
};

tc_status tc_sampler_create(uint32_t vocab, tc_sampler **ret, tc_error *e)
{
    tc_sampler *s = tc_alloc(TC_MEM_SCRATCH, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the sampler");
    s->vocab = vocab;
    s->logits = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->logits);
    s->seen = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->seen);
    s->candidates = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->candidates);
    s->weights = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->weights);
    if (!s->logits || !s->seen || !s->candidates || !s->weights) {
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
    tc_free(s->weights);
    tc_free(s);
}

// Without a branch, so that compilers make vectors of it. NaN is above nothing.
static bool any_above(const float *x, uint32_t n, float limit)
{
    int any = 0;
    for (uint32_t i = 0; i < n; i++) any |= x[i] > limit;
    return any;
}

// Of 150,000 logits a few dozen change what is best so far: runs without such a one are only looked over.
static uint32_t argmax(const float *logits, uint32_t vocab, float *ret_gap)
{
    uint32_t best = 0;
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t run = 0; run < vocab; run += ARGMAX_RUN) {
        uint32_t end = vocab - run < ARGMAX_RUN ? vocab : run + ARGMAX_RUN;
        if (!any_above(logits + run, end - run, second)) continue;
        for (uint32_t i = run; i < end; i++) {
            if (logits[i] > first) {
                second = first;
                first = logits[i];
                best = i;
            } else if (logits[i] > second) {
                second = logits[i];
            }
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

// e^x for x in [WEIGHT_LEAST, 0], to 2e-7 of it: Cody and Waite's reduction, a polynomial of degree 6. No
// branch, so that compilers make vectors of it.
static inline float exponential(float x)
{
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; // rounded by where the mantissa ends
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    const float p = 1 + r * (1 + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r / 720)))));
    union {
        int32_t bits;
        float value;
    } scale = {.bits = ((int32_t)n + 127) << 23};
    return p * scale.value;
}

// Weights of all tokens; returns their sum.
static double weigh_all(tc_sampler *s, float max, float temperature)
{
    const float inverse = 1 / temperature;
    double sum = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        float x = (s->logits[i] - max) * inverse, bounded = x > WEIGHT_LEAST ? x : WEIGHT_LEAST;
        float weight = exponential(bounded);
        s->weights[i] = x > WEIGHT_LEAST ? weight : 0;
    }
    for (uint32_t i = 0; i < s->vocab; i++) sum += s->weights[i];
    return sum;
}

static uint32_t bucket_of(float logit, float max, float scale)
{
    float at = (max - logit) * scale;
    return at < BUCKETS - 1 ? (uint32_t)at : BUCKETS - 1;
}

// How many candidates each bucket has becomes where its next one goes. Returns how many there are in all.
static uint32_t begin_buckets(tc_sampler *s, uint32_t at[BUCKETS])
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < BUCKETS; b++) {
        s->begin[b] = n;
        n += at[b];
        at[b] = s->begin[b];
    }
    s->begin[BUCKETS] = n;
    s->sorted = 0;
    return n;
}

// Tokens that weigh at least `least`, and anything at all, put into buckets. Returns their number.
static uint32_t collect_buckets(tc_sampler *s, float max, float scale, double least)
{
    uint32_t at[BUCKETS] = {0}, n;
    for (uint32_t i = 0; i < s->vocab; i++)
        if (s->weights[i] > 0 && s->weights[i] >= least) at[bucket_of(s->logits[i], max, scale)]++;
    n = begin_buckets(s, at);
    for (uint32_t i = 0; i < s->vocab; i++)
        if (s->weights[i] > 0 && s->weights[i] >= least)
            s->candidates[at[bucket_of(s->logits[i], max, scale)]++] =
                (candidate){s->logits[i], s->weights[i], i};
    return n;
}

static void sort_bucket(tc_sampler *s, uint32_t b)
{
    qsort(s->candidates + s->begin[b], s->begin[b + 1] - s->begin[b], sizeof *s->candidates, by_logit);
}

// The candidate that is i-th by weight, where all before it have been asked for.
static const candidate *ranked(tc_sampler *s, uint32_t i)
{
    while (s->sorted < BUCKETS && s->begin[s->sorted] <= i) sort_bucket(s, s->sorted++);
    return &s->candidates[i];
}

// Of the k best; returns their sum.
static double weigh_ranked(tc_sampler *s, uint32_t k, float temperature)
{
    candidate *c = s->candidates;
    double sum = 0;
    (void)ranked(s, k - 1);
    for (uint32_t i = 0; i < k; i++) {
        c[i].p = (float)exp((double)(c[i].logit - c[0].logit) / temperature);
        sum += c[i].p;
    }
    return sum;
}

// The k best of the vocabulary as one bucket.
static double weigh_top_k(tc_sampler *s, uint32_t k, float temperature)
{
    collect_top_k(s, k);
    s->begin[0] = 0;
    for (uint32_t b = 1; b <= BUCKETS; b++) s->begin[b] = k;
    s->sorted = 0;
    return weigh_ranked(s, k, temperature);
}

// Candidates of a total mass `sum`; keeps the first ones that top-p and min-p leave. Returns their number and
// mass.
static uint32_t truncate_tail(tc_sampler *s, uint32_t n, const tc_sample_params *params, double sum,
                              double *ret_mass)
{
    const float first = ranked(s, 0)->p;
    double mass = 0;
    uint32_t kept = 0;
    while (kept < n) {
        const float p = ranked(s, kept)->p;
        if (kept && (mass >= (double)params->top_p * sum || p < params->min_p * first || p <= 0))
            break; // what weighs nothing (forbidden, masked) is never the last one kept
        mass += p;
        kept++;
    }
    *ret_mass = mass;
    return kept;
}

// The candidate at `at` of the mass of the first n.
static uint32_t pick(tc_sampler *s, uint32_t n, double at)
{
    for (uint32_t i = 0; i < n; i++) {
        at -= ranked(s, i)->p;
        if (at < 0) return s->candidates[i].id;
    }
    return s->candidates[n - 1].id;
}

// Draws from all tokens in the same order: only the bucket that the number falls into is looked at.
static uint32_t pick_of_all(tc_sampler *s, float max, float scale, double at)
{
    double mass[BUCKETS] = {0};
    uint32_t b = 0, last = 0, n = 0;
    for (uint32_t i = 0; i < s->vocab; i++)
        if (s->weights[i] > 0) mass[bucket_of(s->logits[i], max, scale)] += s->weights[i];
    for (uint32_t i = 0; i < BUCKETS; i++)
        if (mass[i] > 0) last = i;
    for (; b < last && at >= mass[b]; b++) at -= mass[b];
    for (uint32_t i = 0; i < s->vocab; i++)
        if (s->weights[i] > 0 && bucket_of(s->logits[i], max, scale) == b)
            s->candidates[n++] = (candidate){s->logits[i], s->weights[i], i};
    s->begin[0] = 0;
    s->begin[1] = n;
    sort_bucket(s, 0);
    s->sorted = BUCKETS;
    return pick(s, n, at);
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

bool tc_sample_changes(const tc_sample_params *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0 || p->frequency_penalty != 0 ||
           p->bias_count || p->forbidden_count || p->allowed;
}

// ---- from what a device says of the row ----

// All of them into buckets, with their weights.
static void bucket_few(tc_sampler *s, const tc_few *few, float temperature)
{
    const float scale = BUCKETS_A_NAT / temperature, inverse = 1 / temperature;
    uint32_t at[BUCKETS] = {0};
    for (uint32_t i = 0; i < few->count; i++) at[bucket_of(few->token[i].logit, few->max, scale)]++;
    (void)begin_buckets(s, at);
    for (uint32_t i = 0; i < few->count; i++) {
        const float logit = few->token[i].logit, x = (logit - few->max) * inverse;
        s->candidates[at[bucket_of(logit, few->max, scale)]++] =
            (candidate){logit, x > WEIGHT_LEAST ? exponential(x) : 0, few->token[i].id};
    }
}

bool tc_sample_few(tc_sampler *s, const tc_few *few, const tc_sample_params *params, uint64_t number,
                   uint32_t *ret)
{
    const bool top_k = params->top_k > 0 && params->top_k < s->vocab;
    uint32_t n = top_k ? params->top_k : few->count;
    double sum = few->sum, mass = 0, at = uniform(params->seed, number);
    *ret = few->best;
    if (params->temperature <= 0) return true;
    if (few->count < n || (!top_k && !(sum > 0))) return few->count >= n;
    if (!n) return false;
    bucket_few(s, few, params->temperature);
    if (top_k) {
        sum = weigh_ranked(s, n, params->temperature);
    } else if (params->top_p >= 1 && params->min_p <= 0) {
        at *= sum;
        for (uint32_t i = 0; i < n; i++) {
            at -= ranked(s, i)->p;
            *ret = s->candidates[i].id;
            if (at < 0) return true;
        }
        return false; // it lies behind them
    }
    const uint32_t kept = truncate_tail(s, n, params, sum, &mass);
    if (!top_k && kept == n && mass < (double)params->top_p * sum) return false; // there may be more to keep
    *ret = pick(s, kept, at * mass);
    return true;
}

uint32_t tc_sample(tc_sampler *s, const float *logits, const tc_sample_params *params,
                   const uint32_t *history, uint32_t prompt_count, uint32_t count, float *ret_gap)
{
    uint32_t best = argmax(logits, s->vocab, ret_gap);
    bool penalties =
        params->repetition_penalty != 1.0f || params->presence_penalty != 0 || params->frequency_penalty != 0;
    if (params->temperature <= 0 && !tc_sample_changes(params)) return best;
    copy_allowed(s, logits, params);
    bias(s, params);
    if (penalties) penalise(s, params, history, prompt_count, count);
    forbid(s, params);
    if (params->allowed && !(s->logits[argmax(s->logits, s->vocab, NULL)] > -INFINITY))
        return last_resort(s, params, best);
    if (params->temperature <= 0) return argmax(s->logits, s->vocab, NULL);

    double sum, mass, at = uniform(params->seed, count - prompt_count);
    uint32_t n = params->top_k;
    if (n > 0 && n < s->vocab) {
        sum = weigh_top_k(s, n, params->temperature);
    } else {
        const float max = s->logits[argmax(s->logits, s->vocab, NULL)],
                    scale = BUCKETS_A_NAT / params->temperature;
        sum = weigh_all(s, max, params->temperature);
        if (!(sum > 0)) return best;
        if (params->top_p >= 1 && params->min_p <= 0) return pick_of_all(s, max, scale, at * sum);
        // Those below (1 - top_p) / vocab together weigh less than 1 - top_p: not in the nucleus.
        n = collect_buckets(s, max, scale,
                            params->top_p < 1 ? (1.0 - (double)params->top_p) / s->vocab * sum : 0);
    }
    n = truncate_tail(s, n, params, sum, &mass);
    return pick(s, n, at * mass);
}
