// SPDX-License-Identifier: Apache-2.0
// Owns: the numbers behind routed.h. An expert is chosen when bias + noise passes a threshold, the noise of a
// random router being normal: so the bias follows from the chance that is wanted.
#include "benchmarks/routed.h"

#include "common/model/dtype.h"
#include <math.h>
#include <stdlib.h>

enum { CARRIERS = 16, TOPICS_MAX = 64, TOPIC_TOKENS_MIN = 512, STAY_TOKENS = 64 };

// Of a token's variance, the carriers'.
#define CARRIED_SHARE 0.125
#define CHANCE_MAX 0.98
// What a layer adds to the variance of the residual, measured with the weights of make_checkpoint.c
// (qwen3-next-80b, 12 layers): mixer and MLP.
#define DELTA_ADDS 0.50
#define ATTENTION_ADDS 0.18
#define ALL_ADD 1.0

struct tc_routed {
    tc_routed_options o;
    uint32_t topics;
    float carried;    // value of a carrier
    float residual;   // scale of what is added
    float *topic;     // [topics][hidden], of variance 1
    uint16_t *bias;   // [layers][experts] bf16, of a router's columns for the carriers
    float topic_pull; // of a topic's vector in the head's rows of its tokens
};

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t next_random(uint64_t *state)
{
    return mix(*state += 0x9e3779b97f4a7c15u);
}

void tc_routed_chances(double zipf, uint32_t experts, uint32_t top_k, double *ret)
{
    double low = 0, high = 1e6;
    for (int i = 0; i < 200; i++) { // the factor of rank^-zipf
        double factor = (low + high) / 2, sum = 0;
        for (uint32_t r = 0; r < experts; r++) {
            double p = factor * pow(r + 1, -zipf);
            sum += ret[r] = p < CHANCE_MAX ? p : CHANCE_MAX;
        }
        *(sum < top_k ? &low : &high) = factor;
    }
}

// x with the chance p that a normal number is above it.
static double upper_quantile(double p)
{
    double low = -9, high = 9;
    for (int i = 0; i < 80; i++) {
        double x = (low + high) / 2;
        *(0.5 * erfc(x * M_SQRT1_2) > p ? &low : &high) = x;
    }
    return low;
}

static void make_bias(tc_routed *r, const double *bias)
{
    const tc_routed_options *o = &r->o;
    double added = 0, all = 0, rest = (double)(o->hidden - CARRIERS) / o->hidden;
    for (uint32_t l = 0; l < o->layers; l++) all += o->delta[l] ? DELTA_ADDS : ATTENTION_ADDS;
    for (uint32_t l = 0; l < o->layers; l++) {
        uint16_t *row = r->bias + (size_t)l * o->experts;
        uint64_t state = mix(o->seed * 977 + l + 1);
        added += (o->delta[l] ? DELTA_ADDS : ATTENTION_ADDS) / all * ALL_ADD;
        // The router's noise before the norm, over what all carriers bring together.
        double scale = sqrt((1 + added) * rest) / (CARRIERS * (double)r->carried);
        for (uint32_t x = 0; x < o->experts; x++) row[x] = tc_float_to_bf16((float)(bias[x] * scale));
        for (uint32_t i = o->experts; i > 1; i--) {
            uint32_t k = (uint32_t)(next_random(&state) % i);
            uint16_t moved = row[i - 1];
            row[i - 1] = row[k];
            row[k] = moved;
        }
    }
    r->residual = (float)sqrt(ALL_ADD / all);
}

static void make_topics(tc_routed *r)
{
    const tc_routed_options *o = &r->o;
    uint64_t state = mix(o->seed + 0x70);
    for (size_t i = 0; i < (size_t)r->topics * o->hidden; i++) // uniform, of variance 1
        r->topic[i] = (float)(((double)(next_random(&state) >> 11) * 0x1p-53 * 2 - 1) * 1.7320508);
    // The best of many normal logits grows by a pull B as if there were e^(B sqrt(2 ln V)) times as many: so
    // much that a topic is left after STAY_TOKENS tokens.
    double pull = o->locality > 0 ? log((double)STAY_TOKENS * (r->topics - 1)) / sqrt(2 * log(o->vocab)) : 0;
    r->topic_pull = o->locality > 0 ? (float)(pull * sqrt(1 + ALL_ADD) / (sqrt(o->locality) * o->hidden)) : 0;
}

tc_status tc_routed_create(const tc_routed_options *o, tc_routed **ret, tc_error *e)
{
    if (!(o->zipf >= 0 && o->zipf <= TC_ZIPF_MAX))
        return tc_fail(e, TC_ARGUMENT, "an exponent of %g: not from 0 to %g", o->zipf, TC_ZIPF_MAX);
    if (!(o->locality >= 0 && o->locality <= TC_LOCALITY_MAX))
        return tc_fail(e, TC_ARGUMENT, "a locality of %g: not from 0 to %g", o->locality, TC_LOCALITY_MAX);
    if (o->hidden < 4 * CARRIERS || o->top_k < 1 || o->top_k >= o->experts || o->vocab < 2)
        return tc_fail(e, TC_ARGUMENT, "no room for a dialled router: hidden %u, top %u of %u experts",
                       o->hidden, o->top_k, o->experts);
    tc_routed *r = calloc(1, sizeof *r);
    double *chance = calloc(o->experts, sizeof *chance);
    tc_status status = TC_OK;
    if (!r || !chance) TC_GOTO(tc_fail(e, TC_NOMEM, "no memory for a router"));
    r->o = *o;
    r->topics = o->vocab / TOPIC_TOKENS_MIN < TOPICS_MAX ? o->vocab / TOPIC_TOKENS_MIN : TOPICS_MAX;
    if (r->topics < 2) r->topics = 2;
    r->carried = (float)sqrt(CARRIED_SHARE * o->hidden / CARRIERS);
    r->topic = calloc((size_t)r->topics * o->hidden, sizeof *r->topic);
    r->bias = calloc((size_t)o->layers * o->experts, sizeof *r->bias);
    if (!r->topic || !r->bias) TC_GOTO(tc_fail(e, TC_NOMEM, "no memory for a router"));
    tc_routed_chances(o->zipf, o->experts, o->top_k, chance);
    double mean = 0;
    for (uint32_t x = 0; x < o->experts; x++) mean += chance[x] = -upper_quantile(chance[x]);
    for (uint32_t x = 0; x < o->experts; x++) chance[x] -= mean / o->experts;
    make_bias(r, chance);
    make_topics(r);
    r->o.delta = NULL; // borrowed
    *ret = r;
out:
    if (status != TC_OK) tc_routed_free(r);
    free(chance);
    return status;
}

void tc_routed_free(tc_routed *r)
{
    if (!r) return;
    free(r->topic);
    free(r->bias);
    free(r);
}

float tc_routed_residual(const tc_routed *r)
{
    return r->residual;
}

// ---- tensors ----

void tc_routed_embedding(const void *arg, uint32_t index, uint64_t first, uint16_t *values, size_t count)
{
    const tc_routed *r = arg;
    const uint32_t hidden = r->o.hidden;
    const float shared = sqrtf((float)r->o.locality), own = sqrtf(1 - (float)r->o.locality);
    const uint16_t carried = tc_float_to_bf16(r->carried);
    (void)index;
    for (size_t i = 0; i < count; i++) {
        uint64_t row = (first + i) / hidden, col = (first + i) % hidden;
        const float *topic = r->topic + row % r->topics * hidden;
        if (col < CARRIERS)
            values[i] = carried;
        else if (shared > 0)
            values[i] = tc_float_to_bf16(own * tc_bf16_to_float(values[i]) + shared * topic[col]);
    }
}

void tc_routed_router(const void *arg, uint32_t layer, uint64_t first, uint16_t *values, size_t count)
{
    const tc_routed *r = arg;
    const uint16_t *bias = r->bias + (size_t)layer * r->o.experts;
    for (size_t i = 0; i < count; i++)
        if ((first + i) % r->o.hidden < CARRIERS) values[i] = bias[(first + i) / r->o.hidden];
}

void tc_routed_head(const void *arg, uint32_t index, uint64_t first, uint16_t *values, size_t count)
{
    const tc_routed *r = arg;
    const uint32_t hidden = r->o.hidden;
    (void)index;
    for (size_t i = 0; i < count && r->topic_pull > 0; i++) {
        uint64_t row = (first + i) / hidden, col = (first + i) % hidden;
        if (col >= CARRIERS)
            values[i] = tc_float_to_bf16(tc_bf16_to_float(values[i]) +
                                         r->topic_pull * r->topic[row % r->topics * hidden + col]);
    }
}

void tc_routed_norm(const void *arg, uint32_t index, uint64_t first, uint16_t *values, size_t count)
{
    const tc_routed *r = arg;
    (void)index;
    for (size_t i = 0; i < count && first + i < CARRIERS; i++)
        values[i] = tc_float_to_bf16(r->o.norm_zero_centred ? -1.0f : 0.0f);
}
