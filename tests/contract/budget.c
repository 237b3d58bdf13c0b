// SPDX-License-Identifier: Apache-2.0
// Shows: what the core's start and `plan` say of scratch is what is held once the device, the pass and the
// expert calls are there, for every family; that batches grow with what there is and never past it; and,
// where there is a GPU, that its blocks are what is told. Usage: CACHE_DIR MODEL_DIR...
#include "gpu-core/budget.h"
#include "common/base/team.h"
#include "common/kernels/ffn.h"
#include "common/model/store_pack.h"
#include "gpu-core/dev/cuda/sizes.h"
#include "gpu-core/dev/cuda_library.h"
#include "gpu-core/experts/source.h"
#include "gpu-core/forward/forward.h"
#include "tests/support/cmocka_all.h"

#ifdef FAKE_CARD
#include "tests/support/fake_cuda.h"
const tc_cuda_library *tc_cuda_library_get(void);
#endif

#include <string.h>

#define MIB (1ull << 20)
enum { THREADS = 2 };

static const char *cache_dir;
static char **models;
static int model_count;

typedef struct opened {
    tc_checkpoint *checkpoint;
    tc_store *store;
    tc_team *team;
    const tc_kernels *kernels;
} opened;

static void need(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

static opened open_model(const char *model)
{
    opened o;
    tc_error e = {0};
    char path[TC_STORE_PATH_BYTES];
    const tc_pack_options pack = {.cache_dir = cache_dir};
    need(tc_checkpoint_open(model, &o.checkpoint, &e), &e);
    need(tc_store_pack(o.checkpoint, &pack, path, &e), &e);
    need(tc_store_open(path, &o.store, &e), &e);
    need(tc_team_create(&(tc_team_options){.threads = THREADS}, &o.team, &e), &e);
    need(tc_kernels_get(TC_FAST, NULL, &o.kernels, &e), &e);
    return o;
}

static void close_model(opened *o)
{
    tc_team_free(o->team);
    tc_store_free(o->store);
    tc_checkpoint_free(o->checkpoint);
}

static tc_budget_wish wish_of(const opened *o)
{
    return (tc_budget_wish){.desc = tc_checkpoint_desc(o->checkpoint),
                            .experts = tc_store_get_info(o->store),
                            .kv_type = TC_KV_F16,
                            .context = 1024,
                            .sessions = 3,
                            .threads = THREADS,
                            .kv_budget_bytes = UINT64_MAX,
                            .available_bytes = UINT64_MAX};
}

// Of one process that computes its own experts, its tokens and those of a hot tier.
static uint64_t held_scratch(const opened *o, const tc_budget *b, bool hot)
{
    tc_error e = {0};
    tc_dev *dev;
    tc_weights *weights;
    tc_forward *forward;
    tc_ffn *ffn, *second = NULL;
    const uint64_t before = tc_mem_bytes(TC_MEM_SCRATCH);
    need(tc_dev_cpu_create(&b->geometry, o->team, o->kernels, &dev, &e), &e);
    need(tc_weights_load(o->checkpoint, dev, o->team, TC_OUTPUT_KEEP, NULL, NULL, &weights, &e), &e);
    need(tc_forward_create(weights, dev, NULL, TC_FAST, &forward, &e), &e);
    need(tc_ffn_create(o->store, o->team, b->call_tokens, NULL, &ffn, &e), &e);
    if (hot) need(tc_ffn_create(o->store, o->team, b->call_tokens, NULL, &second, &e), &e);
    const uint64_t held = tc_mem_bytes(TC_MEM_SCRATCH) - before;
    tc_ffn_free(second);
    tc_ffn_free(ffn);
    tc_forward_free(forward);
    tc_weights_free(weights);
    tc_dev_free(dev);
    return held;
}

static void check_cpu(const opened *o, const char *model, uint32_t context, bool hot)
{
    tc_error e = {0};
    tc_budget b;
    tc_budget_wish w = wish_of(o);
    w.context = context;
    w.hot = hot;
    need(tc_budget_of(&w, &b, &e), &e);
    uint64_t told = b.scratch_bytes;
    if (hot) told -= (uint64_t)b.call_tokens * w.desc->hidden * sizeof(int64_t); // the tier's sums
    const uint64_t held = held_scratch(o, &b, hot);
    // tc_ffn rounds pairs in full only where tiles multiply them: so much may be less here
    const uint64_t tiles = (uint64_t)b.call_tokens * (w.experts->top_k - 1) *
                           tc_rounded_bytes(w.experts->hidden) * (hot ? 2 : 1);
    if (held > told || held + tiles + told / 100 < told)
        fail_msg("%s: %llu bytes of scratch are told, %llu are held", model, (unsigned long long)told,
                 (unsigned long long)held);
}

static void test_told_is_held(void **state)
{
    (void)state;
    for (int m = 0; m < model_count; m++) {
        opened o = open_model(models[m]);
        check_cpu(&o, models[m], 100, false);
        check_cpu(&o, models[m], 2048, false);
        check_cpu(&o, models[m], 600, true);
        close_model(&o);
    }
}

static void test_batches_by_memory(void **state)
{
    (void)state;
    opened o = open_model(models[0]);
    tc_error e = {0};
    tc_budget b;
    tc_budget_wish w = wish_of(&o);
    uint32_t last = 0;
    w.context = 4096;
    for (uint64_t bytes = MIB; bytes < 64ull << 30; bytes *= 2) {
        w.available_bytes = bytes;
        need(tc_budget_of(&w, &b, &e), &e);
        assert_true(b.batch_tokens >= last && b.batch_tokens >= 256 && b.call_tokens == b.batch_tokens);
        assert_true(b.batch_tokens == 256 || b.scratch_bytes <= bytes / 32);
        last = b.batch_tokens;
    }
    assert_int_equal(last, TC_BATCH_TOKENS_MAX);
    w.available_bytes = MIB;
    w.chunk_tokens = 512; // what was asked for is kept
    need(tc_budget_of(&w, &b, &e), &e);
    assert_int_equal(b.batch_tokens, 512);
    w.kv_budget_bytes = 1;
    assert_int_equal(tc_budget_of(&w, &b, &e), TC_BUDGET);
    close_model(&o);
}

static void test_gpu_batches_by_memory(void **state)
{
    (void)state;
    opened o = open_model(models[0]);
    tc_error e = {0};
    tc_budget b;
    tc_budget_wish w = wish_of(&o);
    tc_model_desc large = *w.desc;
    large.hidden = 4096; // so that its tokens take 200 KB and more
    w.desc = &large;
    w.gpu = true;
    w.context = 32768;
    uint32_t last = 0;
    for (uint64_t mib = 512; mib <= 65536; mib *= 2) {
        w.vram_bytes = mib * MIB;
        need(tc_budget_of(&w, &b, &e), &e);
        assert_true(b.token_bytes > 50000 && b.batch_tokens >= last);
        if (mib < 12288)
            assert_true(b.batch_tokens == TC_CUDA_TOKENS_LEAST ||
                        b.batch_tokens * b.token_bytes <= w.vram_bytes / TC_CUDA_TOKENS_PART);
        assert_true(b.device_scratch_bytes >
                    b.batch_tokens * b.token_bytes + TC_CUDA_STAGED * w.experts->expert_bytes);
        last = b.batch_tokens;
    }
    assert_int_equal(last, TC_STEP_TOKENS_MAX);
    const uint64_t with = b.device_scratch_bytes;
    w.cold_only = true; // no buffers for experts that never come
    need(tc_budget_of(&w, &b, &e), &e);
    assert_true(b.batch_tokens == last &&
                b.device_scratch_bytes + TC_CUDA_STAGED * w.experts->expert_bytes < with);
    w.vram_bytes = 0;
    w.chunk_tokens = 1024;
    need(tc_budget_of(&w, &b, &e), &e);
    assert_int_equal(b.batch_tokens, 1024);
    assert_int_equal(b.call_tokens, TC_QUEUED_TOKENS_MAX);
    const uint64_t small = b.scratch_bytes;
    w.shares_prompts = true; // workers' calls are as long as their batches, up to a call's most
    need(tc_budget_of(&w, &b, &e), &e);
    assert_int_equal(b.call_tokens, w.workers ? 1024 : TC_QUEUED_TOKENS_MAX);
    w.workers = 2;
    need(tc_budget_of(&w, &b, &e), &e);
    assert_int_equal(b.call_tokens, 1024);
    assert_true(b.scratch_bytes > small);
    w.chunk_tokens = TC_STEP_TOKENS_MAX;
    need(tc_budget_of(&w, &b, &e), &e);
    assert_int_equal(b.call_tokens, TC_CALL_TOKENS_MAX);
    close_model(&o);
}

static tc_status find_device(const tc_cuda_library **ret, tc_error *e)
{
#ifdef FAKE_CARD
    (void)e;
    *ret = tc_cuda_library_get();
    return TC_OK;
#else
    char card[128];
    return tc_cuda_library_load(0, ret, card, e);
#endif
}

// Its blocks, and with its experts all that is staged for them; slots fill what is left.
static bool check_gpu(const tc_cuda_library *cuda, const opened *o, const char *model)
{
    tc_error e = {0};
    tc_budget b;
    tc_dev *dev;
    tc_cuda_memory m;
    uint32_t slots;
    bool holds = false;
    tc_budget_wish w = wish_of(o);
    w.gpu = true;
    w.vram_bytes = 2048 * MIB;
    need(tc_budget_of(&w, &b, &e), &e);
    tc_cuda_options options = tc_budget_cuda(&w, &b);
    options.fetch_percent = -1;
    if (cuda->create(&options, &dev, &e) != TC_OK) { // heads, or keys, that no GPU takes
        assert_int_equal(e.status, TC_UNSUPPORTED);
        return false;
    }
    assert_int_equal(dev->tokens_max, b.batch_tokens);
    for (int experts = 0; experts < 2; experts++) {
        if (experts) need(cuda->hot.open(dev, o->store, UINT32_MAX, &slots, &e), &e);
        if (experts && !slots) break; // of a form that it does not hold
        holds |= experts;
        cuda->memory(dev, &m);
        const uint64_t told = tc_cuda_scratch_bytes(&options, experts ? w.experts : NULL),
                       held = m.tag_bytes[TC_MEM_SCRATCH];
        if (held > told || held + MIB < told)
            fail_msg("%s: %llu bytes of VRAM are told, %llu are held", model, (unsigned long long)told,
                     (unsigned long long)held);
    }
    assert_int_equal(m.tag_bytes[TC_MEM_STATE], (b.state_bytes + 511) / 512 * 512);
    assert_int_equal(m.tag_bytes[TC_MEM_KV], (b.kv_bytes + 511) / 512 * 512);
    tc_dev_free(dev);
    return holds;
}

static void test_gpu_told_is_held(void **state)
{
    (void)state;
    const tc_cuda_library *cuda;
    tc_error e = {0};
    if (find_device(&cuda, &e) != TC_OK) {
        print_message("without a GPU: %s\n", e.text);
        return;
    }
    for (int m = 0; m < model_count; m++) {
        opened o = open_model(models[m]);
#ifdef FAKE_CARD
        tc_ffn *ffn;
        need(tc_ffn_create(o.store, o.team, 64, NULL, &ffn, &e), &e);
        fake_cuda_begin(o.store, ffn, 1);
#endif
        assert_true(check_gpu(cuda, &o, models[m]) || m > 1);
#ifdef FAKE_CARD
        tc_ffn_free(ffn);
#endif
        close_model(&o);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    cache_dir = argv[1];
    models = argv + 2;
    model_count = argc - 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told_is_held),
        cmocka_unit_test(test_batches_by_memory),
        cmocka_unit_test(test_gpu_batches_by_memory),
        cmocka_unit_test(test_gpu_told_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
