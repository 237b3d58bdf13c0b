// SPDX-License-Identifier: Apache-2.0
// Shows: an expert source with a hot tier gives the bits of one without, whatever lies in the tier, while
// fills come from their thread, between steps or amid them, the tier is resized and its memory given back; a
// call allocates nothing.
// Usage: MODEL_DIR CACHE_DIR.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/team.h"
#include "gpu-core/experts/source_hot.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKENS_MAX = 9, CALLS = 1500 };

static const char *model_dir, *cache_dir;

static void must(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

typedef struct bench {
    tc_store *store;
    const tc_store_info *info;
    tc_team *team;
    tc_hot_cache *cache;
    tc_expert_source *hot, *plain;
    float *x;
    int64_t *a, *b;
    tc_expert_pair *pairs;
    tc_cache_fill *fills;
} bench;

static void set_up(bench *b, tc_cache_policy policy)
{
    tc_error e;
    char path[TC_STORE_PATH_BYTES];
    tc_checkpoint *checkpoint;
    tc_expert_source *cold;
    must(tc_checkpoint_open(model_dir, &checkpoint, &e), &e);
    must(tc_store_pack(checkpoint, &(tc_pack_options){.cache_dir = cache_dir}, path, &e), &e);
    tc_checkpoint_free(checkpoint);
    must(tc_store_open(path, &b->store, &e), &e);
    b->info = tc_store_get_info(b->store);
    must(tc_team_create(&(tc_team_options){.threads = 2}, &b->team, &e), &e);
    uint32_t slots = b->info->layers * b->info->experts / 3;
    const tc_hot_cache_options options = {.layers = b->info->layers,
                                          .experts = b->info->experts,
                                          .slots = slots,
                                          .slots_max = slots,
                                          .policy = policy,
                                          .slot_bytes = tc_source_hot_slot_bytes(b->store)};
    must(tc_hot_cache_create(&options, &b->cache, &e), &e);
    must(tc_source_local_create(b->store, b->team, TOKENS_MAX, NULL, &b->plain, &e), &e);
    must(tc_source_local_create(b->store, b->team, TOKENS_MAX, NULL, &cold, &e), &e);
    must(tc_source_hot_create(b->store, b->team, TOKENS_MAX, NULL, b->cache, cold, &b->hot, &e), &e);
    assert_true(tc_source_hot_speed(b->hot) > 0);
    b->x = calloc((size_t)TOKENS_MAX * b->info->hidden, sizeof *b->x);
    b->a = calloc((size_t)TOKENS_MAX * b->info->hidden, sizeof *b->a);
    b->b = calloc((size_t)TOKENS_MAX * b->info->hidden, sizeof *b->b);
    b->pairs = calloc((size_t)TOKENS_MAX * b->info->experts, sizeof *b->pairs);
    b->fills = calloc(TC_FILLS_MAX, sizeof *b->fills);
}

static void tear_down(bench *b)
{
    b->hot->ops->free(b->hot);
    b->plain->ops->free(b->plain);
    tc_hot_cache_free(b->cache);
    tc_team_free(b->team);
    tc_store_free(b->store);
    free(b->x);
    free(b->a);
    free(b->b);
    free(b->pairs);
    free(b->fills);
}

// Random routing of a layer: sorted by (expert, token).
static tc_expert_call draw_call(bench *b, uint32_t layer)
{
    uint32_t tokens = 1 + (uint32_t)rand() % TOKENS_MAX, n = 0, used[TOKENS_MAX] = {0};
    for (uint32_t i = 0; i < tokens * b->info->hidden; i++) b->x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (uint32_t expert = 0; expert < b->info->experts; expert++)
        for (uint32_t t = 0; t < tokens; t++)
            if (used[t] < b->info->top_k && rand() % 3 == 0) {
                b->pairs[n++] = (tc_expert_pair){expert, t, (float)rand() / (float)RAND_MAX};
                used[t]++;
            }
    return (tc_expert_call){.layer = layer,
                            .precision = (tc_precision)(rand() % 3),
                            .tokens = tokens,
                            .hidden = b->info->hidden,
                            .x = b->x,
                            .pair_count = n,
                            .pairs = b->pairs};
}

static uint32_t draw_layer(const bench *b)
{
    uint32_t layer = (uint32_t)rand() % b->info->layers;
    while (!tc_store_layer_has_experts(b->store, layer)) layer = (layer + 1) % b->info->layers;
    return layer;
}

static void compute(tc_expert_source *source, const tc_expert_call *call, int64_t *sum)
{
    tc_error e;
    tc_mem_guard_begin();
    must(source->ops->post(source, call, &e), &e);
    must(source->ops->join(source, sum, &e), &e);
    assert_int_equal(tc_mem_guard_end(), 0);
}

enum { USES_MAX = 4096 };

// The experts of a call, behind the n that are there.
static uint32_t list_uses(const tc_expert_call *call, tc_expert_use *uses, uint32_t n)
{
    for (uint32_t i = 0; i < call->pair_count && n < USES_MAX; i++)
        if (!i || call->pairs[i - 1].expert != call->pairs[i].expert)
            uses[n++] = (tc_expert_use){(uint16_t)call->layer, (uint16_t)call->pairs[i].expert, 1};
    return n;
}

static void order(bench *b, uint32_t fills)
{
    if (fills) tc_source_hot_fill(b->hot, b->fills, fills, fills % 2);
}

// What was used goes to the cache; its fills to the tier.
static void learn(bench *b, const tc_expert_use *uses, uint32_t n)
{
    const tc_cache_input in = {.uses = uses, .count = n, .tokens = 1, .now_us = tc_now_us()};
    order(b, tc_hot_cache_step(b->cache, &in, b->fills));
}

static void change_size(bench *b)
{
    tc_error e;
    uint32_t slots = (uint32_t)rand() % (tc_hot_cache_get_options(b->cache)->slots_max + 1);
    must(tc_hot_cache_resize(b->cache, slots, &e), &e);
    const uint64_t until_us = tc_now_us() + 10000000; // the tier's thread may have to wait for a CPU
    while (tc_hot_cache_filling_from(b->cache, slots) && tc_now_us() < until_us) {
        usleep(20);
        tc_hot_cache_publish(b->cache);
    }
    assert_int_equal(tc_hot_cache_filling_from(b->cache, slots), 0);
    tc_source_hot_trim(b->hot, slots);
}

static void test_same_bits(void **state)
{
    (void)state;
    bench b = {0};
    tc_cache_stats stats;
    uint64_t mixed = 0;
    tc_expert_use uses[USES_MAX];
    set_up(&b, TC_POLICY_LRU);
    srand(41);
    for (int i = 0; i < CALLS; i++) {
        tc_expert_call call = draw_call(&b, draw_layer(&b));
        uint32_t hot = 0;
        for (uint32_t k = 0; k < call.pair_count; k++)
            hot += tc_hot_cache_table(b.cache)[call.layer * b.info->experts + call.pairs[k].expert] !=
                   TC_NO_SLOT;
        mixed += hot && hot < call.pair_count;
        if (!call.pair_count) continue;
        compute(b.plain, &call, b.a);
        compute(b.hot, &call, b.b);
        assert_memory_equal(b.a, b.b, (size_t)call.tokens * call.hidden * sizeof *b.a);
        learn(&b, uses, list_uses(&call, uses, 0));
        if (rand() % 2) tc_hot_cache_publish(b.cache);
        if (rand() % 40 == 0) change_size(&b);
    }
    tc_hot_cache_stats(b.cache, &stats);
    assert_true(mixed > CALLS / 10 && stats.evictions > 100 && stats.fills_done > 200);
    tear_down(&b);
}

// A layer as the forward pass computes it: looked up, posted, then the next one's experts are fetched into
// slots of others while it is computed.
static uint32_t run_layer(bench *b, uint32_t layer, tc_expert_use *uses, uint32_t n)
{
    tc_error e;
    tc_expert_use expected[TC_FILLS_MAX];
    uint32_t count = 0, next = layer + 1;
    const tc_expert_call call = draw_call(b, layer);
    if (!call.pair_count) return n;
    compute(b->plain, &call, b->a);
    tc_hot_cache_reach(b->cache, layer);
    const bool more = next < b->info->layers && tc_store_layer_has_experts(b->store, next);
    for (uint32_t expert = 0; more && expert < b->info->experts; expert++)
        if (rand() % 3 == 0 && count < TC_FILLS_MAX)
            expected[count++] = (tc_expert_use){(uint16_t)next, (uint16_t)expert, 1};
    tc_mem_guard_begin();
    must(b->hot->ops->post(b->hot, &call, &e), &e);
    order(b, tc_hot_cache_foresee(b->cache, expected, count, 8, tc_now_us(), b->fills));
    must(b->hot->ops->join(b->hot, b->b, &e), &e);
    assert_int_equal(tc_mem_guard_end(), 0);
    assert_memory_equal(b->a, b->b, (size_t)call.tokens * call.hidden * sizeof *b->a);
    return list_uses(&call, uses, n);
}

// The tier's thread writes slots while a layer reads others.
static void test_same_bits_looking_ahead(void **state)
{
    (void)state;
    bench b = {0};
    tc_cache_stats stats;
    tc_expert_use uses[USES_MAX];
    set_up(&b, TC_POLICY_PREDICTIVE);
    srand(43);
    for (int i = 0; i < CALLS / 10; i++) {
        uint32_t n = 0;
        tc_hot_cache_publish(b.cache);
        for (uint32_t layer = 0; layer < b.info->layers; layer++)
            if (tc_store_layer_has_experts(b.store, layer)) n = run_layer(&b, layer, uses, n);
        learn(&b, uses, n);
        if (rand() % 10 == 0) change_size(&b);
    }
    tc_hot_cache_stats(b.cache, &stats);
    assert_true(stats.foreseen > 100 && stats.foreseen_hits > 10 && stats.evictions > 100);
    tear_down(&b);
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    model_dir = argv[1];
    cache_dir = argv[2];
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_same_bits_looking_ahead)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
