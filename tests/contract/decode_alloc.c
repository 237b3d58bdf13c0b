// SPDX-License-Identifier: Apache-2.0
// Shows: a decode step (and a prompt chunk) allocates nothing: neither through tc_alloc (its guard is up) nor
// through the C library, whose allocators are wrapped at link time for all our code. Usage: MODEL_DIR
// CACHE_DIR.
#include "common/base/team.h"
#include "gpu-core/forward/forward.h"
#include "gpu-core/forward/sample.h"
#include "gpu-core/session/session.h"
#include "tests/support/cmocka_all.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic bool watching;
static _Atomic uint32_t allocations;

static void note(void)
{
    if (atomic_load(&watching)) atomic_fetch_add(&allocations, 1);
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);

void *__wrap_malloc(size_t n)
{
    return note(), __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return note(), __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return note(), __real_realloc(p, n);
}
void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return note(), __real_aligned_alloc(alignment, n);
}

static const char *model_dir, *cache_dir;

typedef struct engine {
    tc_checkpoint *checkpoint;
    tc_store *store;
    tc_team *team;
    tc_dev *dev;
    tc_weights *weights;
    tc_expert_source *source;
    tc_forward *forward;
    tc_session_pool *pool;
    tc_sampler *sampler;
} engine;

static void need(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

static void start(engine *g)
{
    tc_error e = {0};
    char path[TC_STORE_PATH_BYTES];
    const tc_kernels *kernels;
    const tc_pack_options pack = {.cache_dir = cache_dir};
    const tc_team_options team = {.threads = 2};
    tc_dev_geometry geometry;
    need(tc_checkpoint_open(model_dir, &g->checkpoint, &e), &e);
    need(tc_store_pack(g->checkpoint, &pack, path, &e), &e);
    need(tc_store_open(path, &g->store, &e), &e);
    need(tc_team_create(&team, &g->team, &e), &e);
    need(tc_kernels_get(TC_FAST, NULL, &kernels, &e), &e);
    tc_weights_geometry(tc_checkpoint_desc(g->checkpoint), &geometry);
    geometry.positions_max = 256;
    geometry.slots = 1;
    geometry.pages = 4;
    need(tc_dev_cpu_create(&geometry, g->team, kernels, &g->dev, &e), &e);
    need(tc_weights_load(g->checkpoint, g->dev, g->team, TC_OUTPUT_KEEP, NULL, NULL, &g->weights, &e), &e);
    need(tc_source_local_create(g->store, g->team, TC_BATCH_TOKENS_MAX, NULL, &g->source, &e), &e);
    need(tc_forward_create(g->weights, g->dev, g->source, TC_FAST, &g->forward, &e), &e);
    need(tc_session_pool_create(g->dev, 256, &g->pool, &e), &e);
    need(tc_sampler_create(tc_checkpoint_desc(g->checkpoint)->vocab, tc_dense_for(kernels->name), &g->sampler,
                           &e),
         &e);
}

static void stop(engine *g)
{
    tc_sampler_free(g->sampler);
    tc_session_pool_free(g->pool);
    tc_forward_free(g->forward);
    g->source->ops->free(g->source);
    tc_weights_free(g->weights);
    tc_dev_free(g->dev);
    tc_team_free(g->team);
    tc_store_free(g->store);
    tc_checkpoint_free(g->checkpoint);
}

// Runs `n` tokens at the session's end and returns the token sampled after them.
static uint32_t step(engine *g, tc_session *s, const uint32_t *ids, uint32_t n)
{
    tc_error e = {0};
    uint32_t position[TC_BATCH_TOKENS_MAX], segment_of[TC_BATCH_TOKENS_MAX] = {0}, last = n - 1;
    for (uint32_t i = 0; i < n; i++) position[i] = s->processed + i;
    const tc_segment segment = {0, n, s->processed, s->pages, s->slot};
    const tc_batch batch = {n, 1, ids, position, segment_of, &segment};
    const tc_sample_params params = {
        .temperature = 0.7f, .top_p = 0.8f, .top_k = 20, .repetition_penalty = 1.1f, .seed = 1};
    tc_mem_guard_begin();
    atomic_store(&watching, true);
    tc_status status = tc_forward_run(g->forward, &batch, NULL, &e);
    uint32_t token = 0;
    if (status == TC_OK)
        token = tc_sample(g->sampler, tc_forward_logits(g->forward, &last, 1), &params, ids, n, n);
    atomic_store(&watching, false);
    uint64_t violations = tc_mem_guard_end();
    need(status, &e);
    assert_int_equal(violations, 0);
    s->processed += n;
    return token;
}

static void test_nothing_is_allocated(void **state)
{
    (void)state;
    engine g = {0};
    tc_error e = {0};
    tc_session *s;
    uint32_t prompt[70];
    start(&g);
    need(tc_session_start(g.pool, 200, &s, &e), &e);
    for (uint32_t i = 0; i < 70; i++) prompt[i] = i % 50;
    uint32_t token = step(&g, s, prompt, 70);
    for (int i = 0; i < 100; i++) token = step(&g, s, &token, 1);
    assert_int_equal(atomic_load(&allocations), 0);
    tc_session_end(g.pool, s);
    stop(&g);
}

static void test_the_watch_can_see(void **state)
{
    (void)state;
    atomic_store(&watching, true);
    void *a = tc_alloc(TC_MEM_OTHER, 1, 1), *volatile b = malloc(1);
    atomic_store(&watching, false);
    assert_true(atomic_exchange(&allocations, 0) == 2);
    tc_free(a);
    free(b);
    tc_mem_guard_begin();
    assert_null(tc_alloc(TC_MEM_OTHER, 1, 1));
    assert_int_equal(tc_mem_guard_end(), 1);
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    model_dir = argv[1];
    cache_dir = argv[2];
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_watch_can_see),
                                       cmocka_unit_test(test_nothing_is_allocated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
