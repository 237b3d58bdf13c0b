// SPDX-License-Identifier: Apache-2.0
// Owns: cold experts shared between the workers and the link in batches of few tokens: where they lie in host
// memory, the tables that the kernels deal them out by, and what the card summed up for learning. Refuses:
// the split itself (dev/share.c); to fetch (post.cu); batches that stream all their experts (experts.c).
#include "gpu-core/dev/cuda/device.h"

#include "common/base/mem.h"

#include <stdlib.h>

// Of a batch whose cold experts are shared: one block deals the pairs out; and above, streaming is as fast.
enum { PAIRS_MAX = 4096, TOKENS_MAX = 192 };
_Static_assert((int)TOKENS_MAX <= (int)TC_QUEUED_TOKENS_MAX, "one call");
_Static_assert((int)TC_GPU_FETCH_DISTINCT_MAX == (int)TC_SHARE_COLD_MAX, "one table");

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

uint32_t tc_cuda_link_tokens_max(const tc_dev_cuda *c)
{
    const uint32_t fit = PAIRS_MAX / c->o.top_k;
    if (!c->hot.link.known) return 0;
    return fit < TOKENS_MAX ? fit : TOKENS_MAX;
}

tc_gpu_fetch tc_cuda_link_of(tc_dev_cuda *c, uint32_t layer, uint32_t tokens)
{
    hot_experts *h = &c->hot;
    link_share *l = &h->link;
    tc_gpu_fetch fetch = {.list = l->list, .at = l->at, .sums = c->sums};
    if (!l->on) return fetch;
    fetch.from = l->from_dev + (size_t)layer * h->info->experts;
    fetch.quota = l->quota_dev + class_of(tokens) * TC_SHARE_QUOTAS;
    fetch.stage = h->stage;
    fetch.bytes = h->layout[layer].expert_stride;
    return fetch;
}

static void begin(tc_dev_cuda *c)
{
    hot_experts *h = &c->hot;
    link_share *l = &h->link;
    l->known = l->dirty = true;
    for (uint32_t i = 0; i < LINK_CLASSES; i++) {
        l->rates[i] = tc_share_guess(h->slot_bytes);
        if (c->o.fetch_percent < 0)
            tc_share_quotas(&l->rates[i], l->quota[i]);
        else
            tc_share_fixed((uint32_t)c->o.fetch_percent, l->quota[i]);
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

void tc_cuda_link_learn(tc_dev_cuda *c, const tc_gpu_sums *now)
{
    link_share *l = &c->hot.link;
    const tc_gpu_sums last = l->sums;
    const uint32_t class = class_of(c->batch.tokens);
    l->sums = *now;
    if (!l->known || !c->direct || c->streaming || c->o.fetch_percent >= 0) return;
    const tc_share_seen seen = {.layers = c->hot.info->layers,
                                .fetched = now->fetched - last.fetched,
                                .fetch_us = (double)(now->fetch_ns - last.fetch_ns) / 1000,
                                .side_us = (double)(now->side_ns - last.side_ns) / 1000,
                                .calls = now->calls - last.calls,
                                .asked = now->asked - last.asked,
                                .compute_us = (double)(now->compute_us - last.compute_us),
                                .prompt = c->batch.tokens >= GROUP_FROM};
    tc_share_learn(&l->rates[class], &seen);
    l->dirty |= tc_share_quotas(&l->rates[class], l->quota[class]);
}

void tc_cuda_link_close(tc_dev_cuda *c)
{
    free(c->hot.link.from);
}
