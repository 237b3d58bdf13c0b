// SPDX-License-Identifier: Apache-2.0
// Owns: choosing experts on the cpu device: softmax, or sigmoids with a correction and groups, and top-k.
#include "common/model/model.h"
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>

typedef struct route_job {
    const tc_dense *dense;
    const tc_route_args *args;
} route_job;

// Insertion into a falling list of k; ties keep the lower index first. Once the list is full, experts below
// its last are skipped a vector at a time.
static void choose(const tc_dense *dense, const float *score, uint32_t experts, uint32_t top_k, float *best,
                   uint32_t *expert)
{
    uint32_t have = 0, e = 0;
    while (e < experts) {
        uint32_t at = have < top_k ? have++ : have - 1;
        while (at > 0 && score[e] > best[at - 1]) {
            best[at] = best[at - 1];
            expert[at] = expert[at - 1];
            at--;
        }
        best[at] = score[e];
        expert[at] = e++;
        if (have == top_k) e = dense->first_above(score, e, experts, best[have - 1]);
    }
}

static void softmax_weights(const route_job *job, const float *logits, const float *best, float *weight)
{
    const tc_route_args *a = job->args;
    float sum = 0;
    for (uint32_t i = 0; i < a->top_k; i++) sum += expf(best[i] - best[0]);
    if (!a->renormalise) sum = job->dense->sum_exp(logits, best[0], 1, a->experts);
    for (uint32_t i = 0; i < a->top_k; i++) weight[i] = expf(best[i] - best[0]) / sum * a->scale;
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

// Groups that are not among the best get scores that nobody chooses.
static void mask_groups(const route_job *job, float *score)
{
    const tc_route_args *a = job->args;
    uint32_t each = a->experts / a->groups, chosen[TC_GROUPS_MAX];
    float sum[TC_GROUPS_MAX], best[TC_GROUPS_MAX];
    bool keep[TC_GROUPS_MAX] = {false};
    for (uint32_t g = 0; g < a->groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (uint32_t i = g * each; i < (g + 1) * each; i++) {
            second = fmaxf(second, fminf(first, score[i]));
            first = fmaxf(first, score[i]);
        }
        sum[g] = first + second;
    }
    choose(job->dense, sum, a->groups, a->top_groups, best, chosen);
    for (uint32_t i = 0; i < a->top_groups; i++) keep[chosen[i]] = true;
    for (uint32_t i = 0; i < a->experts; i++)
        if (!keep[i / each]) score[i] = -INFINITY;
}

static void sigmoid_route(const route_job *job, const float *logits, uint32_t *expert, float *weight)
{
    const tc_route_args *a = job->args;
    float score[TC_EXPERTS_MAX], best[TC_TOP_K_MAX], sum = 1e-20f;
    for (uint32_t i = 0; i < a->experts; i++)
        score[i] = sigmoid(logits[i]) + (a->correction ? a->correction[i] : 0.0f);
    if (a->groups) mask_groups(job, score);
    choose(job->dense, score, a->experts, a->top_k, best, expert);
    for (uint32_t i = 0; i < a->top_k; i++) sum += weight[i] = sigmoid(logits[expert[i]]);
    for (uint32_t i = 0; i < a->top_k; i++)
        weight[i] = (a->renormalise ? weight[i] / sum : weight[i]) * a->scale;
}

static void route_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const route_job *job = arg;
    const tc_route_args *a = job->args;
    const float *logits = a->logits + (size_t)t * a->experts;
    uint32_t *expert = a->expert + (size_t)t * a->top_k;
    float *weight = a->weight + (size_t)t * a->top_k, best[TC_TOP_K_MAX];
    if (a->scoring == TC_SCORE_SIGMOID) {
        sigmoid_route(job, logits, expert, weight);
        return;
    }
    choose(job->dense, logits, a->experts, a->top_k, best, expert);
    softmax_weights(job, logits, best, weight);
}

void tc_cpu_route(tc_dev *dev, const tc_route_args *args)
{
    route_job job = {tc_cpu(dev)->dense, args};
    tc_cpu_each(tc_cpu(dev), args->n, (uint64_t)args->n * args->experts * 8, route_item, &job);
}
