// SPDX-License-Identifier: Apache-2.0
// Owns: the sums of a core's memory.
#include "gpu-core/budget.h"
#include "common/kernels/ffn.h"
#include "gpu-core/dev/cuda/sizes.h"
#include "gpu-core/forward/forward.h"
#include "gpu-core/sched/constrain.h"

// Of expert calls on this machine, where memory is taken as calls come: by the core or by its workers.
static uint64_t expert_bytes(const tc_budget_wish *w, uint32_t tokens)
{
    if (!w->experts->top_k) return 0;
    const uint64_t call = tc_ffn_scratch_bytes(w->experts, w->threads, tokens),
                   values = (uint64_t)tokens * w->desc->hidden,
                   segment = w->by_nng ? 0 : values * (sizeof(float) + sizeof(int64_t));
    return (w->workers ? w->workers * (call + segment) : call) +
           (w->hot ? call + values * sizeof(int64_t) : 0);
}

// Of the cpu device, in a step with batches of so many tokens.
static uint64_t cpu_scratch(const tc_budget_wish *w, tc_dev_geometry *g, uint32_t tokens)
{
    g->tokens_max = tokens;
    return tc_forward_scratch_bytes(w->desc, tokens) + tc_dev_scratch_bytes(g, w->threads) +
           expert_bytes(w, tokens);
}

static uint32_t whole_pages(uint32_t positions)
{
    return (positions + TC_KV_PAGE_POSITIONS - 1) / TC_KV_PAGE_POSITIONS * TC_KV_PAGE_POSITIONS;
}

// Tokens of a batch on the cpu device: as configured, else as many as a small part of the memory has scratch
// for; no more than a session has positions.
static void choose_batch(const tc_budget_wish *w, tc_budget *b)
{
    enum { TOKENS_ALWAYS = 256, PART_OF_MEMORY = 32 };
    const uint32_t context = whole_pages(w->context);
    uint32_t tokens = w->chunk_tokens ? w->chunk_tokens : TC_BATCH_TOKENS_MAX;
    if (tokens > TC_BATCH_TOKENS_MAX) tokens = TC_BATCH_TOKENS_MAX;
    if (tokens > context) tokens = context;
    while (!w->chunk_tokens && tokens > TOKENS_ALWAYS &&
           cpu_scratch(w, &b->geometry, tokens) > w->available_bytes / PART_OF_MEMORY)
        tokens /= 2;
    b->scratch_bytes = cpu_scratch(w, &b->geometry, tokens);
    b->batch_tokens = b->call_tokens = tokens;
}

static uint64_t gpu_scratch(const tc_budget_wish *w, tc_cuda_options *o, uint32_t tokens, bool experts)
{
    o->tokens_max = tokens;
    return tc_forward_scratch_bytes(w->desc, tokens) +
           tc_cuda_scratch_bytes(o, experts && w->experts->top_k ? w->experts : NULL);
}

tc_cuda_options tc_budget_cuda(const tc_budget_wish *w, const tc_budget *b)
{
    return (tc_cuda_options){.geometry = b->geometry,
                             .hidden = w->desc->hidden,
                             .experts = w->desc->experts,
                             .top_k = w->desc->top_k,
                             .tokens_max = b->batch_tokens,
                             .tokens_by_budget = !w->chunk_tokens,
                             .token_bytes = b->token_bytes,
                             .vram_bytes = w->vram_bytes};
}

// A GPU's batches, what lies in VRAM for them, and the host's copies of what goes there and back. Of a card
// whose memory is not known the largest batches are taken.
static void choose_gpu_batch(const tc_budget_wish *w, tc_budget *b)
{
    const uint32_t chunk = w->chunk_tokens ? w->chunk_tokens : TC_STEP_TOKENS_MAX;
    b->batch_tokens = chunk < w->context ? chunk : whole_pages(w->context);
    tc_cuda_options o = tc_budget_cuda(w, b);
    const uint64_t least = gpu_scratch(w, &o, TC_CUDA_TOKENS_LEAST, true),
                   more = gpu_scratch(w, &o, 2 * TC_CUDA_TOKENS_LEAST, true);
    b->token_bytes = (more - least) / TC_CUDA_TOKENS_LEAST;
    o = tc_budget_cuda(w, b);
    b->batch_tokens = tc_cuda_tokens(&o, w->vram_bytes ? w->vram_bytes : UINT64_MAX);
    b->geometry.tokens_max = b->batch_tokens;
    b->call_tokens = TC_QUEUED_TOKENS_MAX;
    if (w->shares_prompts && w->workers && b->batch_tokens > b->call_tokens)
        b->call_tokens = b->batch_tokens < TC_CALL_TOKENS_MAX ? b->batch_tokens : TC_CALL_TOKENS_MAX;
    b->device_scratch_bytes = gpu_scratch(w, &o, b->batch_tokens, !w->cold_only);
    b->device_reserve_bytes = TC_CUDA_RESERVE_BYTES;
    b->scratch_bytes = tc_forward_host_bytes(w->desc, b->batch_tokens) + tc_cuda_lay_out(&o).bytes +
                       (uint64_t)b->batch_tokens * w->desc->hidden * sizeof(float) + // the embedding's rows
                       expert_bytes(w, b->call_tokens);
}

tc_status tc_budget_of(const tc_budget_wish *w, tc_budget *ret, tc_error *e)
{
    tc_budget b = {.constraints_bytes = tc_constraints_budget_bytes(w->desc->vocab)};
    tc_dev_geometry *g = &b.geometry;
    tc_weights_geometry(w->desc, g);
    g->kv_type = w->kv_type;
    g->positions_max = w->context;
    g->spare_slots = w->keeps_states && tc_dev_slot_bytes(g) ? 1 : 0;
    g->slots = w->sessions + g->spare_slots;
    const uint64_t page_bytes = tc_dev_page_bytes(g);
    uint64_t pages = (uint64_t)whole_pages(w->context) / TC_KV_PAGE_POSITIONS * w->sessions;
    if (page_bytes && w->kv_budget_bytes / page_bytes < pages) pages = w->kv_budget_bytes / page_bytes;
    if (pages > UINT32_MAX) pages = UINT32_MAX;
    g->pages = (uint32_t)pages;
    if (g->pages < 1)
        return tc_fail(e, TC_BUDGET, "--kv-budget %llu holds no page of %llu bytes",
                       (unsigned long long)w->kv_budget_bytes, (unsigned long long)page_bytes);
    b.kv_bytes = page_bytes * g->pages;
    b.state_bytes = tc_dev_slot_bytes(g) * g->slots;
    (w->gpu ? choose_gpu_batch : choose_batch)(w, &b);
    *ret = b;
    return TC_OK;
}
