// SPDX-License-Identifier: Apache-2.0
// Owns: the router's softmax and top-k on the cpu device.
#include "common/model/model.h"
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>

typedef struct route_job {
    const tc_dense *dense;
    const float *logits;
    uint32_t experts, top_k, *expert;
    bool renormalise;
    float *weight;
} route_job;

// Insertion into a falling list of k; ties keep the lower index first. Once the list is full, experts below
// its last are skipped a vector at a time.
static void route_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const route_job *job = arg;
    const float *logits = job->logits + (size_t)t * job->experts;
    uint32_t *expert = job->expert + (size_t)t * job->top_k;
    float *weight = job->weight + (size_t)t * job->top_k;
    float best[TC_TOP_K_MAX];
    uint32_t have = 0, e = 0;
    while (e < job->experts) {
        uint32_t at = have < job->top_k ? have++ : have - 1;
        while (at > 0 && logits[e] > best[at - 1]) {
            best[at] = best[at - 1];
            expert[at] = expert[at - 1];
            at--;
        }
        best[at] = logits[e];
        expert[at] = e++;
        if (have == job->top_k) e = job->dense->first_above(logits, e, job->experts, best[have - 1]);
    }
    float sum = 0;
    for (uint32_t i = 0; i < job->top_k; i++) sum += expf(best[i] - best[0]);
    if (!job->renormalise) sum = job->dense->sum_exp(logits, best[0], job->experts);
    for (uint32_t i = 0; i < job->top_k; i++) weight[i] = expf(best[i] - best[0]) / sum;
}

void tc_cpu_route(tc_dev *dev, const float *logits, uint32_t n, uint32_t experts, uint32_t top_k,
                  bool renormalise, uint32_t *expert, float *weight)
{
    route_job job = {tc_cpu(dev)->dense, logits, experts, top_k, expert, renormalise, weight};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * experts * 8, route_item, &job);
}
