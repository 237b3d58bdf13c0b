// SPDX-License-Identifier: Apache-2.0
// Owns: penalties, the truncations (top-k, top-p, min-p) and the draw; log-probabilities.
#include "gpu-core/forward/sample.h"
#include "common/base/mem.h"
#include "gpu-core/dev/few.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WEIGHT_LEAST = -60, // e to it: a whole vocabulary of such weights is lost in the rounding of the sum
    HEAP_MAX = 256,     // of the k best; more are found by splitting
    HEAVY = 64,         // times the average weight: so many of the tokens at most
    LIGHTER = 8,        // times, the ones looked at next
};

typedef struct candidate {
    float logit, p;
    uint32_t id;
} candidate;

struct tc_sampler {
    uint32_t vocab;
    const tc_dense *dense;
    float *logits; // the row that is drawn from, where it is not as the model gave it, or all of it is needed
    uint32_t *seen; // uses of each token; all zero between calls
    candidate *candidates;
    float *weights; // of each token, relative to the most likely one
    tc_few_token *few, *room;
};

tc_status tc_sampler_create(uint32_t vocab, const tc_dense *dense, tc_sampler **ret, tc_error *e)
{
    tc_sampler *s = tc_alloc(TC_MEM_SCRATCH, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the sampler");
    s->vocab = vocab;
    s->dense = dense;
    s->logits = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->logits);
    s->seen = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->seen);
    s->candidates = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->candidates);
    s->weights = tc_alloc(TC_MEM_SCRATCH, vocab, sizeof *s->weights);
    s->few = tc_alloc(TC_MEM_SCRATCH, TC_FEW_MAX, sizeof *s->few);
    s->room = tc_alloc(TC_MEM_SCRATCH, TC_FEW_ROOM, sizeof *s->room);
    if (!s->logits || !s->seen || !s->candidates || !s->weights || !s->few || !s->room) {
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
    tc_free(s->few);
    tc_free(s->room);
    tc_free(s);
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

// The order that ranks candidates: falling by logit, equal ones by rising id, so that it is total.
static inline bool before(const candidate *a, const candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(candidate *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t worst = i;
        for (uint32_t c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++)
            if (before(&heap[worst], &heap[c])) worst = c;
        if (worst == i) return;
        candidate swap = heap[i];
        heap[i] = heap[worst];
        heap[worst] = swap;
        i = worst;
    }
}

// The k best, through a heap whose root is the worst kept one.
static void heap_top_k(tc_sampler *s, uint32_t k)
{
    candidate *heap = s->candidates;
    for (uint32_t i = 0; i < k; i++) heap[i] = (candidate){s->logits[i], 0, i};
    for (uint32_t i = k / 2; i-- > 0;) sift_down(heap, k, i);
    for (uint32_t i = k; i < s->vocab; i++) {
        candidate c = {s->logits[i], 0, i};
        if (!before(&c, &heap[0])) continue;
        heap[0] = c;
        sift_down(heap, k, 0);
    }
}

// ---- finding what is at a rank, or at a mass, by splitting: nothing is sorted ----

static inline void swap(candidate *a, candidate *b)
{
    const candidate c = *a;
    *a = *b;
    *b = c;
}

// Splits [begin, end), two or more: returns where one of them is when all that rank before it lie before it.
static uint32_t split(candidate *c, uint32_t begin, uint32_t end)
{
    const uint32_t middle = begin + (end - begin) / 2, last = end - 1;
    uint32_t at = begin;
    if (before(&c[middle], &c[begin])) swap(&c[middle], &c[begin]);
    if (before(&c[last], &c[begin])) swap(&c[last], &c[begin]);
    if (before(&c[middle], &c[last])) swap(&c[middle], &c[last]); // the middle one of three is the last now
    const candidate pivot = c[last];
    for (uint32_t i = begin; i < last; i++) { // without a branch: which way it goes nobody can tell ahead
        const bool ahead = before(&c[i], &pivot);
        swap(&c[i], &c[at]);
        at += ahead;
    }
    swap(&c[at], &c[last]);
    return at;
}

// The k best of n come first; k < n.
static void split_at_rank(candidate *c, uint32_t n, uint32_t k)
{
    for (uint32_t begin = 0, end = n; end - begin > 1;) {
        const uint32_t at = split(c, begin, end);
        if (at == k) return;
        if (at > k)
            end = at;
        else
            begin = at + 1;
    }
}

static void take_top_k(tc_sampler *s, uint32_t k)
{
    if (k <= HEAP_MAX) {
        heap_top_k(s, k);
        return;
    }
    for (uint32_t i = 0; i < s->vocab; i++) s->candidates[i] = (candidate){s->logits[i], 0, i};
    split_at_rank(s->candidates, s->vocab, k);
}

static double mass_of(const candidate *c, uint32_t n)
{
    double mass = 0;
    for (uint32_t i = 0; i < n; i++) mass += c[i].p;
    return mass;
}

// Of n >= 1 the one whose mass, with that of all that rank before it, is the first above `mass` (the last one
// where none is): returns where it is, behind those before it, whose mass is *ret_before.
static uint32_t split_at_mass(candidate *c, uint32_t n, double mass, double *ret_before)
{
    uint32_t begin = 0, end = n;
    double done = 0;
    while (end - begin > 1) {
        const uint32_t at = split(c, begin, end);
        const double left = done + mass_of(c + begin, at - begin), with = left + c[at].p;
        if (mass < left) {
            end = at;
        } else if (mass < with || at + 1 == end) {
            begin = at;
            done = left;
            break;
        } else {
            begin = at + 1;
            done = with;
        }
    }
    *ret_before = done;
    return begin;
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

// Tokens of weights in [least, below), of those that weigh anything. Returns their number.
static uint32_t collect(tc_sampler *s, double least, double below)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->vocab; i++)
        if (s->weights[i] > 0 && s->weights[i] >= least && s->weights[i] < below)
            s->candidates[n++] = (candidate){s->logits[i], s->weights[i], i};
    return n;
}

// Weights of n candidates; returns their sum.
static double weigh(candidate *c, uint32_t n, float temperature)
{
    float max = c[0].logit;
    double sum = 0;
    for (uint32_t i = 1; i < n; i++) max = c[i].logit > max ? c[i].logit : max;
    for (uint32_t i = 0; i < n; i++) {
        c[i].p = (float)exp((double)(c[i].logit - max) / temperature);
        sum += c[i].p;
    }
    return sum;
}

static uint32_t pick(candidate *c, uint32_t n, double at)
{
    double mass;
    return c[split_at_mass(c, n, at, &mass)].id;
}

// Those of n candidates that top-p leaves, where all tokens together weigh `sum`: they come first. Returns
// their number and mass.
static uint32_t truncate_tail(candidate *c, uint32_t n, const tc_sample_params *params, double sum,
                              double *ret_mass)
{
    if (params->top_p >= 1) {
        *ret_mass = mass_of(c, n);
        return n;
    }
    // the first at which the mass is not below that part of the sum
    const uint32_t last = split_at_mass(c, n, nextafter((double)params->top_p * sum, 0), ret_mass);
    *ret_mass += c[last].p;
    return last + 1;
}

// Those of n candidates that min-p leaves come first; the best weighs 1. What weighs nothing (forbidden,
// masked) is never left. Returns their number.
static uint32_t drop_light(candidate *c, uint32_t n, float min_p)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (c[i].p > 0 && c[i].p >= min_p) swap(&c[i], &c[kept++]);
    return kept;
}

// A draw from all tokens, `at` of their sum: among the heavy ones first, of which there are few.
static uint32_t pick_of_all(tc_sampler *s, double at, double sum)
{
    const double average = sum / s->vocab;
    double least = average * HEAVY, below = INFINITY;
    uint32_t last = 0;
    for (;; below = least, least = least > average ? least / LIGHTER : 0) {
        const uint32_t n = collect(s, least, below);
        const double mass = mass_of(s->candidates, n);
        if (at < mass) return pick(s->candidates, n, at);
        if (n) last = s->candidates[n - 1].id;
        if (least <= 0) return last; // rounding left nothing to draw from
        at -= mass;
    }
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

// The row without NaN.
static void copy_row(tc_sampler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->vocab; i++) s->logits[i] = isnan(logits[i]) ? -INFINITY : logits[i];
}

// 32 tokens or less, no branch, so that compilers make vectors of it.
static inline void copy_word(uint32_t word, const float *logits, uint32_t n, float *to)
{
    for (uint32_t i = 0; i < n; i++) to[i] = isnan(logits[i]) || !(word & 1u << i) ? -INFINITY : logits[i];
}

static void copy_allowed(tc_sampler *s, const float *logits, const uint32_t *allowed)
{
    const uint32_t words = s->vocab / 32, rest = s->vocab % 32;
    for (uint32_t w = 0; w < words; w++) {
        const float *from = logits + (size_t)w * 32;
        float *to = s->logits + (size_t)w * 32;
        if (allowed[w] == 0) // as most are, or all
            copy_word(0, from, 32, to);
        else if (allowed[w] == UINT32_MAX)
            copy_word(UINT32_MAX, from, 32, to);
        else
            copy_word(allowed[w], from, 32, to);
    }
    if (rest) copy_word(allowed[words], logits + words * 32, rest, s->logits + words * 32);
}

// Where no logit is left: the first allowed token that is not forbidden, else the first allowed one.
static uint32_t last_resort(const tc_sampler *s, const tc_sample_params *p)
{
    uint32_t first = UINT32_MAX;
    for (uint32_t i = 0; i < s->vocab; i++) {
        if (!(p->allowed[i >> 5] >> (i & 31) & 1)) continue;
        bool barred = false;
        for (uint32_t k = 0; k < p->forbidden_count; k++) barred |= p->forbidden[k] == i;
        if (!barred) return i;
        if (first == UINT32_MAX) first = i;
    }
    return first == UINT32_MAX ? 0 : first;
}

bool tc_sample_changes(const tc_sample_params *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0 || p->frequency_penalty != 0 ||
           p->bias_count || p->forbidden_count || p->allowed;
}

// ---- from what a device says of the row ----

bool tc_sample_few(tc_sampler *s, const tc_few *few, const tc_sample_params *params, uint64_t number,
                   uint32_t *ret)
{
    const bool top_k = params->top_k > 0 && params->top_k < s->vocab;
    const float inverse = 1 / params->temperature;
    candidate *c = s->candidates;
    uint32_t n = few->count;
    double sum = few->sum, mass = 0, at = uniform(params->seed, number);
    *ret = few->best;
    if (params->temperature <= 0) return true;
    if (top_k ? n < params->top_k : !(sum > 0)) return !top_k;
    if (!n) return false;
    for (uint32_t i = 0; i < n; i++) {
        const float logit = few->token[i].logit, x = (logit - few->max) * inverse;
        c[i] = (candidate){logit, x > WEIGHT_LEAST ? exponential(x) : 0, few->token[i].id};
    }
    if (top_k) {
        if (params->top_k < n) split_at_rank(c, n, params->top_k);
        n = params->top_k;
        sum = weigh(c, n, params->temperature);
    } else if (params->top_p >= 1 && params->min_p <= 0) {
        at *= sum;
        if (at >= mass_of(c, n)) return false; // it lies behind them
        *ret = pick(c, n, at);
        return true;
    }
    const uint32_t heavy = drop_light(c, n, params->min_p);
    if (!heavy) return true; // infinities
    const uint32_t kept = truncate_tail(c, heavy, params, sum, &mass);
    // there may be more to keep
    if (!top_k && heavy == n && kept == n && mass < (double)params->top_p * sum) return false;
    *ret = pick(c, kept, at * mass);
    return true;
}

// The row that is drawn from, into s->logits.
static void change(tc_sampler *s, const float *logits, const tc_sample_params *params,
                   const uint32_t *history, uint32_t prompt_count, uint32_t count)
{
    if (params->allowed)
        copy_allowed(s, logits, params->allowed);
    else
        copy_row(s, logits);
    bias(s, params);
    penalise(s, params, history, prompt_count, count);
    forbid(s, params);
}

// A draw from s->logits for which `few`, what is known of it, is not enough.
static uint32_t draw_of_all(tc_sampler *s, const tc_sample_params *params, const tc_few *few, uint64_t number)
{
    double sum, mass, at = uniform(params->seed, number);
    uint32_t n = params->top_k;
    if (n > 0 && n < s->vocab) {
        take_top_k(s, n);
        sum = weigh(s->candidates, n, params->temperature);
    } else {
        sum = weigh_all(s, few->max, params->temperature);
        if (!(sum > 0)) return few->best;
        if (params->top_p >= 1 && params->min_p <= 0) return pick_of_all(s, at * sum, sum);
        // Those below (1 - top_p) / vocab together weigh less than 1 - top_p: not in the nucleus.
        n = collect(s, params->top_p < 1 ? (1.0 - (double)params->top_p) / s->vocab * sum : 0, INFINITY);
    }
    n = drop_light(s->candidates, n, params->min_p);
    if (!n) return few->best; // infinities
    n = truncate_tail(s->candidates, n, params, sum, &mass);
    return pick(s->candidates, n, at * mass);
}

uint32_t tc_sample(tc_sampler *s, const float *logits, const tc_sample_params *params,
                   const uint32_t *history, uint32_t prompt_count, uint32_t count)
{
    const bool changes = tc_sample_changes(params);
    const uint64_t number = count - prompt_count;
    uint32_t token;
    tc_few few;
    if (changes) change(s, logits, params, history, prompt_count, count);
    tc_few_of(s->dense, changes ? s->logits : logits, s->vocab, params->temperature, s->room, s->few, &few);
    if (params->allowed && !(few.max > -INFINITY)) return last_resort(s, params);
    if (tc_sample_few(s, &few, params, number, &token)) return token;
    if (!changes) copy_row(s, logits);
    return draw_of_all(s, params, &few, number);
}

// ---- log-probabilities ----

// Keeps `best` in order: falling by value, equal ones by rising token.
static void insert(tc_token_value *best, uint32_t *count, uint32_t top, tc_token_value v)
{
    uint32_t at = *count;
    while (at > 0 &&
           (v.value > best[at - 1].value || (v.value == best[at - 1].value && v.token < best[at - 1].token)))
        at--;
    if (at == top) return;
    if (*count < top) ++*count;
    memmove(best + at + 1, best + at, (*count - 1 - at) * sizeof *best);
    best[at] = v;
}

static float number_or_least(float logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

void tc_logprobs(tc_sampler *s, const float *logits, uint32_t token, uint32_t top, tc_token_value *ret)
{
    uint32_t count = 0;
    tc_few few;
    tc_few_of(s->dense, logits, s->vocab, 1, s->room, s->few, &few);
    if (top <= few.count)
        for (uint32_t i = 0; i < few.count && top; i++)
            insert(ret + 1, &count, top, (tc_token_value){few.token[i].id, few.token[i].logit});
    else
        for (uint32_t i = 0; i < s->vocab; i++)
            insert(ret + 1, &count, top, (tc_token_value){i, number_or_least(logits[i])});
    ret[0] = (tc_token_value){token, number_or_least(logits[token])};
    const double log_sum = (double)few.max + log(few.sum);
    for (uint32_t i = 0; i <= top; i++) ret[i].value = (float)((double)ret[i].value - log_sum);
}
