// SPDX-License-Identifier: Apache-2.0
// Shows: the routed experts of the cuda device, hot ones in VRAM, cold ones in a worker's mailbox, streamed
// ones over the link, give the bits of the CPU's expert computation, whatever lies where; and a worker that
// does not answer, fails or leaves ends the wait with the layer's number. Usage: test MODEL CACHE_DIR.
// Without a GPU it says so and is skipped.
#include "common/base/clock.h"
#include "common/base/team.h"
#include "common/model/store_pack.h"
#include "gpu-core/dev/cuda_library.h"
#include "gpu-core/experts/plan.h"
#include "gpu-core/experts/source.h"
#include "proto/shm.h"
#include "tests/support/cmocka_all.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 256, SHARED_MAX = 192, LAYER = 2, SKIPPED = 77 };

typedef enum answer { ANSWER, STAY_SILENT, SAY_FAILED, LEAVE } answer;

typedef struct fixture {
    const tc_cuda_library *cuda;
    tc_checkpoint *checkpoint;
    tc_store *store;
    const tc_store_info *info;
    tc_team *team;
    tc_ffn *ffn, *worker_ffn;
    tc_dev *dev;
    uint32_t slots;
    tc_shm *hub, *worker;
    pthread_t thread;
    _Atomic answer mode;
    uint64_t sequence, workers;
    float *x;
    uint32_t *expert;
    float *weight;
    tc_expert_pair *pairs;
    uint32_t *counts;
    int64_t *sum;
} fixture;

static void need(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

static void *serve(void *arg)
{
    fixture *f = arg;
    for (;;) {
        uint64_t seq;
        tc_expert_call call;
        tc_error e;
        tc_status status = tc_shm_wait_request(f->worker, 100000, 1000000);
        if (status == TC_CLOSED) return NULL;
        if (status != TC_OK || tc_shm_take(f->worker, &seq, &call, &e) != TC_OK) continue;
        if (atomic_load(&f->mode) == LEAVE) {
            tc_shm_abort(f->worker);
            return NULL;
        }
        if (atomic_load(&f->mode) == STAY_SILENT) continue;
        status = tc_expert_call_check(f->store, &call, &e);
        if (status == TC_OK) status = tc_ffn_run(f->worker_ffn, &call, tc_shm_sum(f->worker), &e);
        if (atomic_load(&f->mode) == SAY_FAILED) status = TC_INTERNAL;
        (void)tc_shm_reply(f->worker, seq, status, 1, "asked to", &e);
    }
}

static void start_worker(fixture *f)
{
    tc_error e = {0};
    size_t bytes;
    const tc_shm_options options = {
        .tokens_max = TOKENS, .hidden = f->info->hidden, .pairs_max = TOKENS * f->info->top_k};
    need(tc_shm_create(&options, &f->hub, &e), &e);
    void *memory = tc_shm_memory(f->hub, &bytes);
    need(tc_shm_attach(memory, bytes, &options, &f->worker, &e), &e);
    f->sequence = 0;
    f->workers++;
    atomic_store(&f->mode, ANSWER);
    assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

static void stop_worker(fixture *f)
{
    tc_shm_abort(f->hub);
    pthread_join(f->thread, NULL);
    tc_shm_close(f->worker);
    tc_shm_close(f->hub);
}

// percent: of the cold experts, fetched over the link
static void open_device(fixture *f, int32_t percent)
{
    tc_error e = {0};
    const tc_cuda_options o = {.geometry = {.matmul_cols_max = f->info->hidden,
                                            .positions_max = 1024,
                                            .pages = 1,
                                            .slots = 1,
                                            .kv_type = TC_KV_F16},
                               .hidden = f->info->hidden,
                               .experts = f->info->experts,
                               .top_k = f->info->top_k,
                               .tokens_max = TOKENS,
                               .vram_bytes = 4ull << 30,
                               .fetch_percent = percent,
                               .prompt_border = SHARED_MAX,
                               .call_deadline_us = 300000};
    need(f->cuda->create(&o, &f->dev, &e), &e);
    need(f->cuda->hot.open(f->dev, f->store, 1000, &f->slots, &e), &e);
    assert_true(f->slots >= f->info->experts);
    assert_true(f->cuda->hot.settle(f->dev));
}

static tc_status set_up(fixture *f, const char *model, const char *cache, tc_error *e)
{
    char card[128], path[TC_STORE_PATH_BYTES];
    const tc_pack_options pack = {.cache_dir = cache};
    const tc_team_options team = {.threads = 2};
    TC_TRY(tc_cuda_library_load(0, &f->cuda, card, e));
    need(tc_checkpoint_open(model, &f->checkpoint, e), e);
    need(tc_store_pack(f->checkpoint, &pack, path, e), e);
    need(tc_store_open(path, &f->store, e), e);
    f->info = tc_store_get_info(f->store);
    assert_true(LAYER + 1 < f->info->layers && tc_store_layer_has_experts(f->store, LAYER) &&
                tc_store_layer_has_experts(f->store, LAYER + 1));
    need(tc_team_create(&team, &f->team, e), e);
    need(tc_ffn_create(f->store, f->team, TOKENS, NULL, &f->ffn, e), e);
    need(tc_ffn_create(f->store, f->team, TOKENS, NULL, &f->worker_ffn, e), e);
    open_device(f, 0);
    size_t pairs = (size_t)TOKENS * f->info->top_k;
    f->x = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS * f->info->hidden, sizeof *f->x);
    f->expert = tc_alloc(TC_MEM_OTHER, pairs, sizeof *f->expert);
    f->weight = tc_alloc(TC_MEM_OTHER, pairs, sizeof *f->weight);
    f->pairs = tc_alloc(TC_MEM_OTHER, pairs, sizeof *f->pairs);
    f->counts = tc_alloc(TC_MEM_OTHER, f->info->experts + 1, sizeof *f->counts);
    f->sum = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS * f->info->hidden, sizeof *f->sum);
    return TC_OK;
}

static void tear_down(fixture *f)
{
    void *all[] = {f->x, f->expert, f->weight, f->pairs, f->counts, f->sum};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
    tc_dev_free(f->dev);
    tc_ffn_free(f->ffn);
    tc_ffn_free(f->worker_ffn);
    tc_team_free(f->team);
    tc_store_free(f->store);
    tc_checkpoint_free(f->checkpoint);
}

static void make_input(fixture *f, uint32_t n)
{
    const uint32_t k = f->info->top_k, experts = f->info->experts;
    for (uint32_t i = 0; i < n * f->info->hidden; i++) f->x[i] = (float)rand() / (float)RAND_MAX * 4 - 2;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < k; i++) {
            bool taken = true;
            while (taken) {
                f->expert[t * k + i] = (uint32_t)rand() % experts;
                taken = false;
                for (uint32_t j = 0; j < i; j++) taken |= f->expert[t * k + j] == f->expert[t * k + i];
            }
            f->weight[t * k + i] = (float)rand() / (float)RAND_MAX;
        }
}

static void reference(fixture *f, uint32_t layer, uint32_t n)
{
    tc_error e = {0};
    tc_plan_pairs(f->expert, f->weight, n, f->info->top_k, f->info->experts, f->counts, f->pairs);
    const tc_expert_call call = {.layer = layer,
                                 .unit_end = f->info->units,
                                 .precision = TC_FAST,
                                 .tokens = n,
                                 .hidden = f->info->hidden,
                                 .x = f->x,
                                 .pair_count = n * f->info->top_k,
                                 .pairs = f->pairs};
    need(tc_ffn_run(f->ffn, &call, f->sum, &e), &e);
}

typedef struct on_device {
    float *x, *y, *weight;
    uint32_t *expert;
    int64_t *sum;
} on_device;

static void *take(fixture *f, size_t bytes, const void *host)
{
    void *memory = f->dev->ops->alloc(f->dev, TC_MEM_SCRATCH, bytes);
    assert_non_null(memory);
    if (host) f->dev->ops->upload(f->dev, memory, host, bytes);
    return memory;
}

static tc_lent_mailbox mailbox_of(fixture *f)
{
    const tc_shm_header *layout = tc_shm_layout(f->hub);
    tc_lent_mailbox box = {.id = f->workers,
                           .share = {0, f->info->experts, 0, f->info->units},
                           .x_at = layout->x_at,
                           .pairs_at = layout->pairs_at,
                           .sum_at = layout->sum_at};
    box.memory = tc_shm_memory(f->hub, &box.bytes);
    return box;
}

// A batch of n tokens through post, hot experts (or streaming) and combine; returns the layer that failed.
static uint32_t run(fixture *f, uint32_t n, on_device *d)
{
    tc_error e = {0};
    uint32_t failed, ids[TOKENS] = {0}, position[TOKENS] = {0}, segment[TOKENS] = {0}, page = 0;
    const size_t row = (size_t)n * f->info->hidden, pairs = (size_t)n * f->info->top_k;
    const tc_segment one = {0, n, 0, &page, 0};
    const tc_batch batch = {n, 1, ids, position, segment, &one};
    const tc_lent_mailbox box = mailbox_of(f);
    *d = (on_device){.x = take(f, row * 4, f->x),
                     .y = take(f, row * 4, NULL), // zeros
                     .weight = take(f, pairs * 4, f->weight),
                     .expert = take(f, pairs * 4, f->expert),
                     .sum = take(f, row * 8, NULL)};
    if (tc_shm_lend(f->hub, n, 0, &e) != TC_OK) tc_shm_nudge(f->hub);
    f->dev->ops->batch_begin(f->dev, &batch);
    // the add keeps what combine starts from: nothing
    f->dev->ops->add(f->dev, d->y, d->y, n, f->info->hidden, NULL, NULL);
    assert_true(f->dev->queue->experts_begin(f->dev, &box, 1, f->sequence + 1));
    f->dev->queue->experts(f->dev, LAYER, d->x, n, d->expert, d->weight, d->sum);
    f->dev->ops->combine(f->dev, d->y, d->sum, NULL, NULL, 0, n, f->info->hidden, NULL, NULL);
    need(f->dev->queue->wait(f->dev, NULL, NULL, &failed, &e), &e);
    f->sequence += 1 + TC_LAYERS_MAX;
    return failed;
}

static void give_back(fixture *f, on_device *d)
{
    void *all[] = {d->x, d->y, d->weight, d->expert, d->sum};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) f->dev->ops->release(f->dev, all[i]);
}

static void compare(fixture *f, uint32_t n)
{
    tc_error e = {0};
    on_device d;
    const size_t count = (size_t)n * f->info->hidden;
    float *y = malloc(count * sizeof *y);
    assert_int_equal(run(f, n, &d), UINT32_MAX);
    f->dev->ops->download(f->dev, y, d.y, count * sizeof *y);
    give_back(f, &d);
    need(tc_shm_reclaim(f->hub, f->sequence, &e), &e);
    for (size_t i = 0; i < count; i++)
        if (y[i] != tc_fixed_to_float(f->sum[i]))
            fail_msg("%u tokens: element %zu is %.9g, not %.9g", n, i, y[i], tc_fixed_to_float(f->sum[i]));
    free(y);
}

// How many experts of the layer are hot: none, some, all.
static void place(fixture *f, uint32_t hot)
{
    uint32_t slot;
    for (uint32_t x = 0; x < f->info->experts; x++) {
        f->cuda->hot.place(f->dev, LAYER, x, x < hot ? x + 1 : UINT32_MAX);
        if (x < hot) assert_true(f->cuda->hot.fill(f->dev, x + 1, LAYER, x));
    }
    f->cuda->hot.drain(f->dev);
    for (uint32_t i = 0; i < hot; i++) assert_true(f->cuda->hot.filled(f->dev, &slot));
}

static void test_same_bits(void **state)
{
    fixture *f = *state;
    static const uint32_t counts[] = {1, 2, 5, 8, 40, 64, 65, 130, TOKENS};
    start_worker(f);
    for (uint32_t hot = 0; hot <= f->info->experts; hot += f->info->experts / 2) {
        place(f, hot);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            make_input(f, counts[i]);
            reference(f, LAYER, counts[i]);
            compare(f, counts[i]);
        }
    }
    place(f, 0);
    stop_worker(f);
}

// Cold experts, all or some of them, are read over the link instead of being asked for.
static void test_fetched(void **state)
{
    fixture *f = *state;
    static const uint32_t counts[] = {1, 2, 5, 40, 64, 65, 130, SHARED_MAX, SHARED_MAX + 1};
    static const int32_t percents[] = {100, 30, -1};
    for (size_t p = 0; p < sizeof percents / sizeof *percents; p++) {
        tc_dev_free(f->dev);
        open_device(f, percents[p]);
        start_worker(f);
        for (uint32_t hot = 0; hot < f->info->experts; hot += f->info->experts / 2) {
            place(f, hot);
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
                uint64_t before = f->dev->queue->fetched(f->dev);
                make_input(f, counts[i]);
                reference(f, LAYER, counts[i]);
                compare(f, counts[i]);
                bool fetched = f->dev->queue->fetched(f->dev) > before;
                if (counts[i] > SHARED_MAX)
                    assert_false(fetched); // streamed
                else if (!hot && (percents[p] == 100 || (percents[p] == 30 && counts[i] == 64)))
                    assert_true(fetched);
            }
        }
        place(f, 0);
        stop_worker(f);
    }
    tc_dev_free(f->dev);
    open_device(f, 0);
}

static void test_faults(void **state)
{
    fixture *f = *state;
    static const answer faults[] = {STAY_SILENT, SAY_FAILED, LEAVE};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        on_device d;
        start_worker(f);
        make_input(f, 3);
        reference(f, LAYER, 3);
        compare(f, 3);
        atomic_store(&f->mode, faults[i]);
        uint64_t start = tc_now_us();
        assert_int_equal(run(f, 3, &d), LAYER);
        assert_true(tc_now_us() - start < (faults[i] == STAY_SILENT ? 3000000 : 250000));
        give_back(f, &d);
        stop_worker(f);
    }
    start_worker(f); // another one: everything as before
    make_input(f, 4);
    reference(f, LAYER, 4);
    compare(f, 4);
    stop_worker(f);
}

// ---- a layer ahead ----

// Layers LAYER and LAYER + 1 in one recorded pass, their buffers at the same places in every replay.
typedef struct two_layers {
    float *x, *zero, *y[2], *logits[3], *weight[2]; // logits[2]: what is expected of the second
    uint32_t *expert[2], *guess;
    int64_t *sum[2];
} two_layers;

enum { PASSES = 24, IDLE_OPERATORS = 200 };

static two_layers take_two(fixture *f, uint32_t n)
{
    const size_t row = (size_t)n * f->info->hidden, pairs = (size_t)n * f->info->top_k;
    two_layers d = {
        .x = take(f, row * 4, NULL), .zero = take(f, row * 4, NULL), .guess = take(f, pairs * 4, NULL)};
    for (int i = 0; i < 3; i++) d.logits[i] = take(f, (size_t)n * f->info->experts * 4, NULL);
    for (int i = 0; i < 2; i++) {
        d.y[i] = take(f, row * 4, NULL);
        d.weight[i] = take(f, pairs * 4, NULL);
        d.expert[i] = take(f, pairs * 4, NULL);
        d.sum[i] = take(f, row * 8, NULL);
    }
    return d;
}

static void give_two(fixture *f, two_layers *d)
{
    void *all[] = {d->x,         d->zero,      d->y[0],      d->y[1],      d->logits[0],
                   d->logits[1], d->logits[2], d->weight[0], d->weight[1], d->expert[0],
                   d->expert[1], d->guess,     d->sum[0],    d->sum[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) f->dev->ops->release(f->dev, all[i]);
}

// Random routes; of three guesses two or so come true.
static void upload_two(fixture *f, uint32_t n, const two_layers *d)
{
    const size_t count = (size_t)n * f->info->experts;
    float *logits = malloc(count * sizeof *logits);
    make_input(f, n);
    f->dev->ops->upload(f->dev, d->x, f->x, (size_t)n * f->info->hidden * 4);
    for (int layer = 0; layer < 2; layer++) {
        for (size_t i = 0; i < count; i++) logits[i] = (float)rand() / (float)RAND_MAX * 8;
        f->dev->ops->upload(f->dev, d->logits[layer], logits, count * 4);
    }
    for (size_t i = 0; i < count; i++)
        if (rand() % 4 == 0) logits[i] = (float)rand() / (float)RAND_MAX * 8;
    f->dev->ops->upload(f->dev, d->logits[2], logits, count * 4);
    free(logits);
}

static void queue_layer(fixture *f, uint32_t n, const two_layers *d, int which)
{
    const tc_dev_ops *ops = f->dev->ops;
    const uint32_t hidden = f->info->hidden;
    const tc_route_args route = {.logits = d->logits[which],
                                 .n = n,
                                 .experts = f->info->experts,
                                 .top_k = f->info->top_k,
                                 .renormalise = true,
                                 .scale = 1,
                                 .expert = d->expert[which],
                                 .weight = d->weight[which],
                                 .next_logits = which ? NULL : d->logits[2],
                                 .next_expert = which ? NULL : d->guess,
                                 .guess = which ? d->guess : NULL,
                                 .layer = LAYER + (uint32_t)which};
    ops->add(f->dev, d->zero, d->zero, n, hidden, NULL, NULL); // keeps what combine starts from: nothing
    ops->route(f->dev, &route);
    f->dev->queue->experts(f->dev, route.layer, d->x, n, d->expert[which], d->weight[which], d->sum[which]);
    ops->combine(f->dev, d->y[which], d->sum[which], NULL, NULL, 0, n, hidden, NULL, NULL);
}

// idle: the link has time between the layers. Returns the layer that failed.
static uint32_t run_two(fixture *f, uint32_t n, const two_layers *d, bool idle)
{
    tc_error e = {0};
    uint32_t failed, ids[TOKENS] = {0}, position[TOKENS] = {0}, segment[TOKENS] = {0}, page = 0;
    tc_segment each[TC_BATCH_SEGMENTS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        segment[i] = i;
        each[i] = (tc_segment){i, 1, 0, &page, 0};
    }
    const tc_batch batch = {n, n, ids, position, segment, each};
    const tc_lent_mailbox box = mailbox_of(f);
    if (tc_shm_lend(f->hub, n, 0, &e) != TC_OK) tc_shm_nudge(f->hub);
    f->dev->ops->batch_begin(f->dev, &batch);
    assert_true(f->dev->queue->experts_begin(f->dev, &box, 1, f->sequence + 1));
    if (!f->dev->queue->replay(f->dev)) {
        assert_int_equal(f->dev->queue->ahead_tokens(f->dev), n);
        queue_layer(f, n, d, 0);
        for (int i = 0; idle && i < IDLE_OPERATORS; i++)
            f->dev->ops->add(f->dev, d->zero, d->zero, n, f->info->hidden, NULL, NULL);
        queue_layer(f, n, d, 1);
        f->dev->queue->record_end(f->dev);
    }
    need(f->dev->queue->wait(f->dev, NULL, NULL, &failed, &e), &e);
    f->sequence += 1 + TC_LAYERS_MAX;
    return failed;
}

static void compare_two(fixture *f, uint32_t n, const two_layers *d)
{
    const size_t count = (size_t)n * f->info->hidden, pairs = (size_t)n * f->info->top_k;
    float *y = malloc(count * sizeof *y);
    for (int which = 0; which < 2; which++) {
        f->dev->ops->download(f->dev, f->expert, d->expert[which], pairs * 4);
        f->dev->ops->download(f->dev, f->weight, d->weight[which], pairs * 4);
        f->dev->ops->download(f->dev, y, d->y[which], count * 4);
        reference(f, LAYER + (uint32_t)which, n);
        for (size_t i = 0; i < count; i++)
            if (y[i] != tc_fixed_to_float(f->sum[i]))
                fail_msg("%u tokens, layer %d of 2: element %zu is %.9g, not %.9g", n, which, i, y[i],
                         tc_fixed_to_float(f->sum[i]));
    }
    free(y);
}

static void passes_ahead(fixture *f, uint32_t n, bool idle)
{
    tc_error e = {0};
    two_layers d = take_two(f, n);
    const tc_ahead_stats before = f->cuda->hot.ahead(f->dev);
    f->cuda->hot.look_ahead(f->dev, false); // other buffers: nothing recorded is left
    f->cuda->hot.look_ahead(f->dev, true);
    for (int i = 0; i < PASSES; i++) {
        upload_two(f, n, &d);
        assert_int_equal(run_two(f, n, &d, idle), UINT32_MAX);
        need(tc_shm_reclaim(f->hub, f->sequence, &e), &e);
        compare_two(f, n, &d);
    }
    const tc_ahead_stats after = f->cuda->hot.ahead(f->dev);
    assert_int_equal(after.expected - before.expected, (uint64_t)PASSES * n * f->info->top_k);
    const uint64_t right = after.expected_true - before.expected_true;
    assert_true(right > 0 && right < after.expected - before.expected);
    if (idle) assert_true(after.used > before.used && after.pairs - before.pairs >= after.used - before.used);
    assert_true(after.used - before.used <= after.fills - before.fills);
    give_two(f, &d);
}

// What the second layer is expected to choose comes over the link while the first is computed: whatever is
// there, on its way, or expected wrongly, the bits are the same.
static void test_looks_ahead(void **state)
{
    fixture *f = *state;
    static const int32_t percents[] = {-1, 100, 30};
    for (size_t p = 0; p < sizeof percents / sizeof *percents; p++) {
        tc_dev_free(f->dev);
        open_device(f, percents[p]);
        f->cuda->hot.look_ahead(f->dev, true);
        start_worker(f);
        for (uint32_t hot = 0; hot < f->info->experts; hot += f->info->experts / 2) {
            place(f, hot);
            for (uint32_t n = 1; n <= 8; n += n < 3 ? 2 : 5)
                for (int idle = 0; idle < 2; idle++) passes_ahead(f, n, idle);
        }
        place(f, 0);
        stop_worker(f);
    }
}

// A join that fails ends the pass, and the kernel beside it.
static void test_fails_ahead(void **state)
{
    fixture *f = *state;
    static const answer faults[] = {STAY_SILENT, SAY_FAILED, LEAVE};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        start_worker(f);
        passes_ahead(f, 1, true);
        two_layers d = take_two(f, 1);
        f->cuda->hot.look_ahead(f->dev, false);
        f->cuda->hot.look_ahead(f->dev, true);
        tc_ahead_stats none = f->cuda->hot.ahead(f->dev);
        atomic_store(&f->mode, faults[i]);
        uint64_t start = tc_now_us();
        uint32_t failed = UINT32_MAX;
        for (int pass = 0; pass < 50 && failed == UINT32_MAX;
             pass++) { // the link may have taken all of a pass
            upload_two(f, 1, &d);
            failed = run_two(f, 1, &d, false);
        }
        assert_true(failed == LAYER || failed == LAYER + 1);
        assert_true(tc_now_us() - start < 3000000);
        assert_true(f->cuda->hot.ahead(f->dev).expected >= none.expected);
        give_two(f, &d);
        stop_worker(f);
    }
    tc_dev_free(f->dev);
    open_device(f, 0);
}

int main(int argc, char **argv)
{
    static fixture f;
    tc_error e = {0};
    if (argc < 3) return 2;
    srand(3);
    if (set_up(&f, argv[1], argv[2], &e) != TC_OK) {
        print_message("[  SKIPPED ] cuda-experts: %s\n", e.text);
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_same_bits, &f),   cmocka_unit_test_prestate(test_fetched, &f),
        cmocka_unit_test_prestate(test_faults, &f),      cmocka_unit_test_prestate(test_looks_ahead, &f),
        cmocka_unit_test_prestate(test_fails_ahead, &f),
    };
    int failed = cmocka_run_group_tests_name("cuda experts", tests, NULL, NULL);
    tear_down(&f);
    return failed;
}
