// SPDX-License-Identifier: Apache-2.0
// Owns: the wiring of cache, tier and placement.
#include "gpu-core/placed.h"
#include "common/base/log.h"
#include "gpu-core/dev/dev.h"
#include "gpu-core/experts/source_hot.h"

enum { FILLS_A_STEP = 64, CONVERSATIONS_KEPT = 128 };

static void log_text(void *arg, bool warning, const char *text)
{
    (void)arg;
    tc_log(warning ? TC_LOG_WARN : TC_LOG_INFO, "%s", text);
}

static void order_fill(void *arg, const tc_cache_fill *fills, uint32_t count, bool at_once)
{
    tc_source_hot_fill(arg, fills, count, at_once);
}

static void trim(void *arg, uint32_t slots)
{
    tc_source_hot_trim(arg, slots);
}

static tc_status open_tier(const tc_core_options *o, const tc_store *store, tc_team *team,
                           uint32_t tokens_max, tc_expert_source **source, tc_placed *ret, tc_error *e)
{
    const tc_store_info *info = tc_store_get_info(store);
    uint64_t slot_bytes = tc_source_hot_slot_bytes(store), all = (uint64_t)info->layers * info->experts;
    uint64_t slots = o->hot_budget_bytes / slot_bytes;
    if (slots < 1)
        return tc_fail(e, TC_BUDGET, "--hot-budget %llu holds no expert of %llu bytes",
                       (unsigned long long)o->hot_budget_bytes, (unsigned long long)slot_bytes);
    if (slots > all) slots = all;
    if (slots > TC_CACHE_SLOTS_MAX) slots = TC_CACHE_SLOTS_MAX;
    const tc_hot_cache_options cache = {.layers = info->layers,
                                        .experts = info->experts,
                                        .slots_max = (uint32_t)slots,
                                        .slots = (uint32_t)slots,
                                        .policy = o->hot_policy,
                                        .per_layer = o->hot_per_layer,
                                        .second_miss = true,
                                        .fills_max = FILLS_A_STEP,
                                        .slot_bytes = slot_bytes,
                                        .link_share = o->hot_link_share};
    TC_TRY(tc_hot_cache_create(&cache, &ret->cache, e));
    TC_TRY(tc_source_hot_create(store, team, tokens_max, o->isa, ret->cache, *source, source, e));
    double speed = tc_source_hot_speed(*source);
    tc_hot_cache_set_limits(ret->cache, speed, o->hot_link_share, FILLS_A_STEP);
    ret->hot_bytes = slots * slot_bytes;
    tc_info("hot tier: %llu of %llu experts, %llu MiB, policy %s, fills at %.1f GB/s of which %.0f %% may be "
            "used",
            (unsigned long long)slots, (unsigned long long)all, (unsigned long long)(ret->hot_bytes >> 20),
            tc_policy_name(o->hot_policy), speed / 1000, o->hot_link_share * 100);
    return TC_OK;
}

tc_status tc_placed_open(const tc_core_options *o, const tc_model_desc *desc, const char *model_hash,
                         const tc_store *store, tc_team *team, uint32_t tokens_max, tc_expert_source **source,
                         tc_gpu_tier *gpu, tc_placed *ret, tc_error *e)
{
    bool moe[TC_LAYERS_MAX];
    if (!desc->experts) return TC_OK;
    if (gpu) {
        ret->cache = tc_gpu_tier_cache(gpu);
        ret->borrowed = true;
        ret->hot_bytes = tc_gpu_tier_bytes(gpu);
    } else if (o->hot_budget_bytes)
        TC_TRY(open_tier(o, store, team, tokens_max, source, ret, e));
    for (uint32_t i = 0; i < desc->layers; i++) moe[i] = desc->layer[i].moe;
    const tc_placement_options options = {
        .layers = desc->layers,
        .experts = desc->experts,
        .top_k = desc->top_k,
        .moe = moe,
        .model_hash = model_hash,
        .expert_bytes = tc_store_get_info(store)->expert_bytes,
        .profile_path = o->profile,
        .trace_path = o->trace_routing,
        .tokens_max = gpu ? 0 : tokens_max,
        .conversations = CONVERSATIONS_KEPT,
        .cache = ret->cache,
        .tier = gpu ? tc_gpu_tier_orders(gpu)
                    : (tc_hot_tier){.arg = *source, .fill = order_fill, .in_step = true, .trim = trim},
        .log = log_text,
    };
    return tc_placement_create(&options, &ret->placement, e);
}

void tc_placed_stop(tc_placed *placed)
{
    tc_placement_free(placed->placement);
    placed->placement = NULL;
}

void tc_placed_close(tc_placed *placed)
{
    if (!placed->borrowed) tc_hot_cache_free(placed->cache);
    placed->cache = NULL;
}
