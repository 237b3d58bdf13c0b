// SPDX-License-Identifier: Apache-2.0
// Owns: cold experts shared between the workers and the link in batches of few tokens: where they lie in host
// memory, the tables that the kernels deal them out by, and what the card summed up for learning; and the
// second stream of a recorded pass, in which experts are fetched a layer ahead. Refuses:
// the split itself (dev/share.c); to fetch (post.cu); batches that stream all their experts (experts.c).
#include "gpu-core/dev/cuda/device.h"

#include "common/base/mem.h"

#include <stdlib.h>

// Of a batch whose cold experts are shared: one block deals the pairs out.
enum { PAIRS_MAX = 4096 };
_Static_assert((int)TC_PROMPT_LINK_MOST <= (int)TC_QUEUED_TOKENS_MAX, "one call");
_Static_assert((int)TC_GPU_FETCH_DISTINCT_MAX == (int)TC_SHARE_COLD_MAX, "one table");
// Fetched ahead: to the end of the staging room, by turns, where a batch of so few pairs fetches nothing
// else.
enum { STAGE_PLACES = (int)STAGES * (int)STAGE_EXPERTS };
_Static_assert((int)TC_GPU_AHEAD_PAIRS_MAX + 2 * (int)TC_GPU_AHEAD_MAX <= (int)STAGE_PLACES, "staging room");

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
    l->ahead = tc_cuda_take(c, TC_MEM_SCRATCH, h->info->layers * sizeof *l->ahead);
    CHECK(c, cudaStreamCreateWithFlags(&l->beside, cudaStreamNonBlocking));
    CHECK(c, cudaEventCreateWithFlags(&l->fork, cudaEventDisableTiming));
    CHECK(c, cudaEventCreateWithFlags(&l->join, cudaEventDisableTiming));
    l->bytes_dev = tc_cuda_take(c, TC_MEM_SCRATCH, h->info->layers * sizeof *l->bytes_dev);
    l->on = l->from_dev && l->quota_dev && l->ahead && l->bytes_dev;
    return TC_OK;
}

// ---- a batch ----

uint32_t tc_cuda_link_tokens_max(const tc_dev_cuda *c)
{
    const uint32_t fit = PAIRS_MAX / c->o.top_k;
    if (!c->hot.link.known) return 0;
    return fit < TC_PROMPT_LINK_MOST ? fit : TC_PROMPT_LINK_MOST;
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

// Of layers that something can be expected of: experts in it, and in the one before.
static void tell_bytes(tc_dev_cuda *c)
{
    const hot_experts *h = &c->hot;
    uint64_t bytes[TC_LAYERS_MAX] = {0};
    for (uint32_t i = 1; i < h->info->layers; i++)
        if (tc_store_layer_has_experts(h->store, i) && tc_store_layer_has_experts(h->store, i - 1))
            bytes[i] = h->layout[i].expert_stride;
    tc_cuda_upload(&c->dev, h->link.bytes_dev, bytes, h->info->layers * sizeof *bytes);
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
    tell_bytes(c);
    tc_cuda_drop_graphs(c); // those looked not ahead
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
    link_share *l = &c->hot.link;
    if (l->fork) cudaEventDestroy(l->fork);
    if (l->join) cudaEventDestroy(l->join);
    if (l->beside) cudaStreamDestroy(l->beside);
    free(l->from);
}

// ---- a layer ahead ----

void tc_cuda_look_ahead(tc_dev *dev, bool on)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (on != c->hot.link.ahead_on) tc_cuda_drop_graphs(c);
    c->hot.link.ahead_on = on;
}

uint32_t tc_cuda_ahead_tokens(const tc_dev_cuda *c)
{
    const link_share *l = &c->hot.link;
    const uint32_t fit = (uint32_t)TC_GPU_AHEAD_PAIRS_MAX / c->o.top_k;
    if (!l->known || !l->ahead_on || c->o.top_k > TC_GPU_AHEAD_TOP_K_MAX) return 0;
    return fit < (uint32_t)TC_AHEAD_TOKENS_MAX ? fit : (uint32_t)TC_AHEAD_TOKENS_MAX;
}

void tc_cuda_ahead_begin(tc_dev_cuda *c)
{
    const link_share *l = &c->hot.link;
    if (c->batch.tokens <= tc_cuda_ahead_tokens(c))
        CHECK(c, cudaMemsetAsync(l->ahead, 0, c->hot.info->layers * sizeof *l->ahead, c->stream));
}

static uint8_t *ahead_stage(const tc_dev_cuda *c, uint32_t layer)
{
    const hot_experts *h = &c->hot;
    return h->stage + (STAGE_PLACES - (1 + layer % 2) * TC_GPU_AHEAD_MAX) * h->slot_bytes;
}

// Whether who computes an expert may wait for it: all blocks of the batch fit on the card at once, beside
// those that fetch.
static bool fetches_beside(const tc_dev_cuda *c)
{
    return c->batch.tokens * c->o.top_k <= TC_GPU_AHEAD_ALSO_MAX &&
           c->batch.tokens * c->o.top_k * c->hot.info->units <= c->multiprocessors;
}

void tc_cuda_ahead_of(tc_dev_cuda *c, uint32_t layer, tc_gpu_fetch *fetch)
{
    const hot_experts *h = &c->hot;
    if (c->guessed) {
        fetch->ahead = h->link.ahead + layer;
        fetch->ahead_stage = ahead_stage(c, layer);
        fetch->beside = fetches_beside(c);
    }
    if (c->next_expert) {
        fetch->next_place = h->place_dev + (size_t)(layer + 1) * h->info->experts;
        fetch->next_expert = c->next_expert;
        fetch->next_ahead = h->link.ahead + layer + 1;
    }
}

void tc_cuda_ahead_fork(tc_dev_cuda *c)
{
    const hot_experts *h = &c->hot;
    const link_share *l = &h->link;
    const tc_gpu_beside args = {.ahead = l->ahead,
                                .from = l->from_dev,
                                .bytes = l->bytes_dev,
                                .layers = h->info->layers,
                                .experts = h->info->experts,
                                .stage = {ahead_stage(c, 0), ahead_stage(c, 1)},
                                .also_stage = fetches_beside(c) ? h->stage : NULL,
                                .sums = c->sums};
    CHECK(c, cudaEventRecord(l->fork, c->stream));
    CHECK(c, cudaStreamWaitEvent(l->beside, l->fork, 0));
    CHECK(c, tc_gpu_beside_run(l->beside, &c->tables, &args));
}

void tc_cuda_ahead_join(tc_dev_cuda *c)
{
    const link_share *l = &c->hot.link;
    if (!c->looks_ahead) return;
    CHECK(c, cudaEventRecord(l->join, l->beside));
    CHECK(c, cudaStreamWaitEvent(c->stream, l->join, 0));
}

tc_ahead_stats tc_cuda_ahead_sums(tc_dev *dev)
{
    const tc_gpu_sums *s = &cuda_of(dev)->hot.link.sums;
    return (tc_ahead_stats){.expected = s->guessed,
                            .expected_true = s->guessed_right,
                            .fills = s->ahead_fetched,
                            .used = s->ahead_used,
                            .pairs = s->ahead_pairs};
}
