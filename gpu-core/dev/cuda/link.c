// SPDX-License-Identifier: Apache-2.0
// Owns: how cold experts are shared between the workers and the link in batches of few tokens. What an expert
// takes here and there is learned from batch to batch; from that follows, for each number of cold experts in
// a layer, how many the card fetches for itself. Refuses: to fetch (post.cu); batches that stream all their
// experts (experts.c).
#include "gpu-core/dev/cuda/device.h"

#include "common/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { PAIRS_MAX = 4096 };                                   // of a batch: one block deals them out
static const double FIRST_GB_PER_S = 40, FIRST_SIDE_US = 20; // until something is known
static const double THERE_US = 20, CALL_US = 10; // to a worker and back; of its own time beside its experts
static const double NEW_SHARE = 0.125,
                    NEW_SHARE_LONG = 0.5; // of the last batch in what is learned; of a prompt
static const double FASTER = 0.98;        // a side that nothing was heard of may be faster than thought
static const double SLOWER = 1.002;

// ---- quotas ----

static double time_of(const link_rates *r, uint32_t cold, uint32_t fetched)
{
    const double here = r->side_us + fetched * r->fetch_us;
    const double there = cold > fetched ? THERE_US + CALL_US + (cold - fetched) * r->worker_us : 0;
    return here > there ? here : there;
}

static uint32_t at_most(uint32_t cold)
{
    return cold < TC_GPU_FETCH_MAX ? cold : TC_GPU_FETCH_MAX;
}

static void set_fixed(link_share *l, uint32_t class, uint32_t percent)
{
    for (uint32_t cold = 0; cold < LINK_QUOTAS; cold++)
        l->quota[class][cold] = (uint8_t)at_most(cold * percent / 100);
    l->dirty = true;
}

static void set_quotas(link_share *l, uint32_t class)
{
    const link_rates *r = &l->rates[class];
    uint32_t best = 0;
    for (uint32_t cold = 1; cold < LINK_QUOTAS; cold++) { // more cold ones never mean fewer fetched
        while (best < at_most(cold) && time_of(r, cold, best + 1) < time_of(r, cold, best)) best++;
        l->dirty |= l->quota[class][cold] != best;
        l->quota[class][cold] = (uint8_t)best;
    }
}

static uint32_t class_of(uint32_t tokens)
{
    uint32_t class = 0;
    while (class + 1 < LINK_CLASSES && tokens >> (class + 1)) class ++;
    return class;
}

// ---- opening ----

static const uint8_t **list_places(const hot_experts *h)
{
    const tc_store_info *info = h->info;
    const uint8_t **from = calloc((size_t)info->layers * info->experts, sizeof *from);
    for (uint32_t l = 0; from && l < info->layers; l++)
        for (uint32_t x = 0; tc_store_layer_has_experts(h->store, l) && x < info->experts; x++) {
            const uint8_t *at = tc_cuda_expert_whole(h, l, x);
            if (!at || h->layout[l].expert_stride % 16) {
                free(from);
                return NULL;
            }
            from[(size_t)l * info->experts + x] = at;
        }
    return from;
}

tc_status tc_cuda_link_open(tc_dev_cuda *c, tc_error *e)
{
    hot_experts *h = &c->hot;
    link_share *l = &h->link;
    int mapped = 0;
    l->at = tc_cuda_take(c, TC_MEM_SCRATCH, h->info->experts * sizeof *l->at);
    l->list = tc_cuda_take(c, TC_MEM_SCRATCH, sizeof *l->list);
    if (!l->at || !l->list) return tc_fail(e, TC_BUDGET, "cuda: no room for the table of fetched experts");
    CHECK(c,
          cudaDeviceGetAttribute(&mapped, cudaDevAttrCanUseHostPointerForRegisteredMem, (int)c->o.ordinal));
    if (!mapped || !c->o.fetch_percent) return TC_OK;
    l->from = list_places(h); // NULL: an expert lies in several pieces
    if (!l->from) return TC_OK;
    l->from_dev =
        tc_cuda_take(c, TC_MEM_SCRATCH, (size_t)h->info->layers * h->info->experts * sizeof *l->from);
    l->quota_dev = tc_cuda_take(c, TC_MEM_SCRATCH, sizeof l->quota);
    l->on = l->from_dev && l->quota_dev;
    return TC_OK;
}

// ---- a batch ----

// Above, workers would be asked several times, and the link alone is nearly as fast.
uint32_t tc_cuda_link_tokens_max(const tc_dev_cuda *c)
{
    const uint32_t fit = PAIRS_MAX / c->o.top_k;
    if (!c->hot.link.known) return 0;
    return fit < TC_CALL_TOKENS_MAX ? fit : TC_CALL_TOKENS_MAX;
}

tc_gpu_fetch tc_cuda_link_of(tc_dev_cuda *c, uint32_t layer, uint32_t tokens)
{
    hot_experts *h = &c->hot;
    link_share *l = &h->link;
    tc_gpu_fetch fetch = {.list = l->list, .at = l->at, .sums = c->sums};
    if (!l->on) return fetch;
    fetch.from = l->from_dev + (size_t)layer * h->info->experts;
    fetch.quota = l->quota_dev + class_of(tokens) * LINK_QUOTAS;
    fetch.stage = h->stage;
    fetch.bytes = h->layout[layer].expert_stride;
    return fetch;
}

static void begin(tc_dev_cuda *c)
{
    hot_experts *h = &c->hot;
    link_share *l = &h->link;
    const double fetch_us = (double)h->slot_bytes / 1000 / FIRST_GB_PER_S;
    l->known = true;
    for (uint32_t i = 0; i < LINK_CLASSES; i++) {
        l->rates[i] = (link_rates){fetch_us, fetch_us / 2, FIRST_SIDE_US};
        if (c->o.fetch_percent < 0)
            set_quotas(l, i);
        else
            set_fixed(l, i, (uint32_t)c->o.fetch_percent);
    }
    CHECK(c,
          cudaMemcpyAsync(l->from_dev, l->from, (size_t)h->info->layers * h->info->experts * sizeof *l->from,
                          cudaMemcpyHostToDevice, c->stream));
}

void tc_cuda_link_flush(tc_dev_cuda *c)
{
    hot_experts *h = &c->hot;
    link_share *l = &h->link;
    if (!l->on || !atomic_load(&h->settled) || atomic_load(&h->failed)) return;
    if (!l->known) begin(c);
    if (!l->dirty) return;
    l->dirty = false;
    CHECK(c, cudaMemcpyAsync(l->quota_dev, l->quota, sizeof l->quota, cudaMemcpyHostToDevice, c->stream));
}

static void learn(double *rate, double us, double share)
{
    if (us > 0) *rate += share * (us - *rate);
}

// The fewer experts they are asked for in a short call, the longer each takes (they fall asleep in between),
// which must not be a reason to ask for fewer still: what they could do once they can, unless it stays
// otherwise.
static void learn_worker(double *rate, double us, bool prompt)
{
    if (prompt)
        learn(rate, us, NEW_SHARE_LONG);
    else if (us > *rate * SLOWER)
        *rate *= SLOWER;
    else
        learn(rate, us, NEW_SHARE);
}

// Of what the card summed up in the last batch.
static void learn_rates(link_rates *r, const tc_gpu_sums *d, uint32_t layers, bool prompt)
{
    const double fetch_us = (double)d->fetch_ns / 1000, share = prompt ? NEW_SHARE_LONG : NEW_SHARE;
    learn(&r->side_us, ((double)d->side_ns / 1000 - fetch_us) / layers, share);
    if (d->fetched)
        learn(&r->fetch_us, fetch_us / (double)d->fetched, share);
    else
        r->fetch_us *= FASTER;
    if (d->asked)
        learn_worker(&r->worker_us, ((double)d->compute_us - CALL_US * (double)d->calls) / (double)d->asked,
                     prompt);
    else
        r->worker_us *= FASTER;
}

void tc_cuda_link_learn(tc_dev_cuda *c, const tc_gpu_sums *sums)
{
    link_share *l = &c->hot.link;
    const tc_gpu_sums last = l->sums;
    const uint32_t class = class_of(c->batch.tokens);
    l->sums = *sums;
    if (!l->known || !c->direct || c->streaming || c->o.fetch_percent >= 0) return;
    const tc_gpu_sums d = {.fetched = sums->fetched - last.fetched,
                           .fetch_ns = sums->fetch_ns - last.fetch_ns,
                           .side_ns = sums->side_ns - last.side_ns,
                           .calls = sums->calls - last.calls,
                           .asked = sums->asked - last.asked,
                           .compute_us = sums->compute_us - last.compute_us};
    learn_rates(&l->rates[class], &d, c->hot.info->layers, c->batch.tokens >= GROUP_FROM);
    set_quotas(l, class);
}

void tc_cuda_link_close(tc_dev_cuda *c)
{
    free(c->hot.link.from);
}
