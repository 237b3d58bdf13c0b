// SPDX-License-Identifier: Apache-2.0
// Shows: prompts whose cold experts are streamed while workers compute some of them (--prompt-share auto)
// give the bits of the CPU's expert computation, and of streaming alone, whatever is hot, however workers
// share, and whoever of them is silent, fails, leaves or lies: then everything is streamed, the pass goes on
// and ends in time. Usage: test MODEL CACHE_DIR. Built twice: with the device's library, which without a GPU
// says so and is skipped; and with FAKE_CARD over a card that does not exist, whose streams run by turns that
// a seed draws.
#include "common/base/clock.h"
#include "common/base/team.h"
#include "common/model/store_pack.h"
#include "gpu-core/dev/cuda_library.h"
#include "gpu-core/dev/prompt_way.h"
#include "gpu-core/experts/plan.h"
#include "gpu-core/experts/source.h"
#include "proto/shm.h"
#include "tests/support/cmocka_all.h"
#ifdef FAKE_CARD
#include "tests/support/fake_cuda.h"
enum { SEEDS = 24, ON_A_CARD = 0 };
const tc_cuda_library *tc_cuda_library_get(void);
#else
enum { SEEDS = 4, ON_A_CARD = 1 };
#endif

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TOKENS = 2048, LAYERS = 4, WORKERS = 2, SKIPPED = 77, DEADLINE_US = 300000 };

typedef enum answer { ANSWER, STAY_SILENT, SAY_FAILED, LEAVE, LIE } answer;

typedef struct server { // a worker
    struct fixture *of;
    tc_shm *hub, *worker;
    tc_ffn *ffn;
    tc_share share;
    pthread_t thread;
    _Atomic answer mode; // from the call on of which `fault_at` says how many come before it
    _Atomic uint32_t calls, fault_at;
    _Atomic uint64_t says_us; // that it takes for a unit of work
    bool gone;
} server;

typedef struct fixture {
    const tc_cuda_library *cuda;
    tc_checkpoint *checkpoint;
    tc_store *store;
    const tc_store_info *info;
    tc_team *team;
    tc_ffn *ffn, *card_ffn;
    tc_dev *dev;
    server servers[WORKERS];
    uint32_t count;  // of servers
    uint32_t border; // as tc_cuda_options.prompt_border
    bool says_gone;  // `stands` does, of one that nobody has asked yet
    uint64_t sequence, ids;
    float *x;
    uint32_t *expert[LAYERS], *counts;
    float *weight[LAYERS];
    tc_expert_pair *pairs;
    int64_t *sum[LAYERS];
} fixture;

static void need(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

// ---- workers ----

// An answer to another call than was asked, under this one's number.
static void lie(server *s, uint64_t seq, const tc_expert_call *call)
{
    size_t bytes;
    char *memory = tc_shm_memory(s->worker, &bytes);
    const tc_shm_reply_record record = {.seq = seq, .tokens = call->tokens + 1, .hidden = call->hidden};
    memcpy(memory + TC_SHM_REPLY_AT, &record, sizeof record);
    __atomic_store_n((uint64_t *)(void *)(memory + TC_SHM_REPLY_FLAG_AT), seq, __ATOMIC_RELEASE);
}

static void *serve(void *arg)
{
    server *s = arg;
    for (;;) {
        uint64_t seq;
        tc_expert_call call;
        tc_error e;
        tc_status status = tc_shm_wait_request(s->worker, 1000, 1000000);
        if (status == TC_CLOSED) return NULL;
        if (status != TC_OK || tc_shm_take(s->worker, &seq, &call, &e) != TC_OK) continue;
        const answer mode = atomic_fetch_add(&s->calls, 1) < s->fault_at ? ANSWER : atomic_load(&s->mode);
        if (mode == STAY_SILENT) continue;
        if (mode == LIE) lie(s, seq, &call);
        if (mode == LEAVE) tc_shm_abort(s->worker);
        if (mode == LIE || mode == LEAVE) return NULL;
        status = tc_expert_call_check(s->of->store, &call, &e);
        if (status == TC_OK) status = tc_ffn_run(s->ffn, &call, tc_shm_sum(s->worker), &e);
        if (mode == SAY_FAILED) status = TC_INTERNAL;
        (void)tc_shm_reply(s->worker, seq, status, 1 + atomic_load(&s->says_us) * call.pair_count, "asked to",
                           &e);
    }
}

static void start_workers(fixture *f, uint32_t count, tc_shard shard)
{
    tc_error e = {0};
    size_t bytes;
    const tc_shm_options options = {
        .tokens_max = TOKENS, .hidden = f->info->hidden, .pairs_max = TOKENS * f->info->top_k};
    f->count = count;
    f->sequence = 0;
    for (uint32_t i = 0; i < count; i++) {
        server *s = &f->servers[i];
        s->of = f;
        s->gone = false;
        s->share = tc_share_of(f->info->experts, f->info->units, shard, i, count);
        need(tc_shm_create(&options, &s->hub, &e), &e);
        void *memory = tc_shm_memory(s->hub, &bytes);
        need(tc_shm_attach(memory, bytes, &options, &s->worker, &e), &e);
        atomic_store(&s->mode, ANSWER);
        atomic_store(&s->calls, 0);
        atomic_store(&s->fault_at, 0);
        atomic_store(&s->says_us, 0);
        f->ids++;
        assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    }
}

static void stop_workers(fixture *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        server *s = &f->servers[i];
        size_t bytes;
        void *memory = tc_shm_memory(s->hub, &bytes);
        assert_int_equal(mprotect(memory, bytes, PROT_READ | PROT_WRITE), 0);
        tc_shm_abort(s->hub);
        pthread_join(s->thread, NULL);
        tc_shm_close(s->worker);
        tc_shm_close(s->hub);
    }
}

static uint32_t calls_of(const fixture *f)
{
    uint32_t calls = 0;
    for (uint32_t i = 0; i < f->count; i++) calls += atomic_load(&f->servers[i].calls);
    return calls;
}

// As the source's nudge: workers spin on; of one that left the memory goes, which whoever looks at it
// notices.
static bool stands(void *arg)
{
    fixture *f = arg;
    bool all = !f->says_gone;
    for (uint32_t i = 0; i < f->count; i++) {
        server *s = &f->servers[i];
        if (!s->gone && tc_shm_aborted(s->hub)) {
            size_t bytes;
            void *memory = tc_shm_memory(s->hub, &bytes);
            s->gone = true;
            assert_int_equal(mprotect(memory, bytes, PROT_NONE), 0);
        }
        if (s->gone)
            all = false;
        else
            tc_shm_nudge(s->hub);
    }
    return all;
}

// ---- the device ----

// share: percent of what may be given to workers; link: as tc_cuda_options.fetch_percent
static void open_device(fixture *f, int32_t share, int32_t link)
{
    tc_error e = {0};
    uint32_t slots;
    const tc_cuda_options o = {.geometry = {.matmul_cols_max = f->info->hidden,
                                            .positions_max = 4096,
                                            .pages = 1,
                                            .slots = 1,
                                            .kv_type = TC_KV_F16},
                               .hidden = f->info->hidden,
                               .experts = f->info->experts,
                               .top_k = f->info->top_k,
                               .tokens_max = TOKENS + 64,
                               .vram_bytes = 4ull << 30,
                               .fetch_percent = link,
                               .prompt_percent = share,
                               .prompt_border = f->border,
                               .call_deadline_us = DEADLINE_US};
    need(f->cuda->create(&o, &f->dev, &e), &e);
    need(f->cuda->hot.open(f->dev, f->store, 1000, &slots, &e), &e);
    assert_true(slots >= LAYERS * f->info->experts);
    assert_true(f->cuda->hot.settle(f->dev));
}

static tc_status find_device(fixture *f, tc_error *e)
{
#ifdef FAKE_CARD
    (void)e;
    f->cuda = tc_cuda_library_get();
    return TC_OK;
#else
    char card[128];
    return tc_cuda_library_load(0, &f->cuda, card, e);
#endif
}

static tc_status set_up(fixture *f, const char *model, const char *cache, tc_error *e)
{
    char path[TC_STORE_PATH_BYTES];
    const tc_pack_options pack = {.cache_dir = cache};
    const tc_team_options team = {.threads = 1};
    TC_TRY(find_device(f, e));
    need(tc_checkpoint_open(model, &f->checkpoint, e), e);
    need(tc_store_pack(f->checkpoint, &pack, path, e), e);
    need(tc_store_open(path, &f->store, e), e);
    f->info = tc_store_get_info(f->store);
    assert_true(f->info->layers > LAYERS);
    for (uint32_t l = 0; l <= LAYERS; l++) assert_true(tc_store_layer_has_experts(f->store, l));
    need(tc_team_create(&team, &f->team, e), e);
    need(tc_ffn_create(f->store, f->team, TOKENS, NULL, &f->ffn, e), e);
    need(tc_ffn_create(f->store, f->team, TOKENS, NULL, &f->card_ffn, e), e);
    for (int i = 0; i < WORKERS; i++) {
        tc_team *own;
        need(tc_team_create(&team, &own, e), e);
        need(tc_ffn_create(f->store, own, TOKENS, NULL, &f->servers[i].ffn, e), e);
    }
    const size_t pairs = (size_t)TOKENS * f->info->top_k, values = (size_t)TOKENS * f->info->hidden;
    f->x = tc_alloc(TC_MEM_OTHER, values, sizeof *f->x);
    f->pairs = tc_alloc(TC_MEM_OTHER, pairs, sizeof *f->pairs);
    f->counts = tc_alloc(TC_MEM_OTHER, f->info->experts + 1, sizeof *f->counts);
    for (int l = 0; l < LAYERS; l++) {
        f->expert[l] = tc_alloc(TC_MEM_OTHER, pairs, sizeof *f->expert[l]);
        f->weight[l] = tc_alloc(TC_MEM_OTHER, pairs, sizeof *f->weight[l]);
        f->sum[l] = tc_alloc(TC_MEM_OTHER, values, sizeof *f->sum[l]);
    }
    return TC_OK;
}

// Some experts are chosen often and some by nobody, others in every layer.
static void make_input(fixture *f, uint32_t n)
{
    tc_error e = {0};
    const uint32_t k = f->info->top_k, experts = f->info->experts;
    for (uint32_t i = 0; i < n * f->info->hidden; i++) f->x[i] = (float)rand() / (float)RAND_MAX * 4 - 2;
    for (int l = 0; l < LAYERS; l++) {
        const uint32_t most = experts - (uint32_t)rand() % 3, turn = (uint32_t)rand();
        for (uint32_t i = 0; i < n * k; i++) {
            bool taken = true;
            while (taken) {
                const uint32_t a = (uint32_t)rand() % most, b = (uint32_t)rand() % most;
                f->expert[l][i] = ((a < b ? a : b) + turn) % experts;
                taken = false;
                for (uint32_t j = 1; j <= i % k; j++) taken |= f->expert[l][i - j] == f->expert[l][i];
            }
            f->weight[l][i] = (float)rand() / (float)RAND_MAX;
        }
        tc_plan_pairs(f->expert[l], f->weight[l], n, k, experts, f->counts, f->pairs);
        const tc_expert_call call = {.layer = (uint32_t)l,
                                     .unit_end = f->info->units,
                                     .precision = TC_FAST,
                                     .tokens = n,
                                     .hidden = f->info->hidden,
                                     .x = f->x,
                                     .pair_count = n * k,
                                     .pairs = f->pairs};
        need(tc_ffn_run(f->ffn, &call, f->sum[l], &e), &e);
    }
}

static void *take(fixture *f, size_t bytes, const void *host)
{
    void *memory = f->dev->ops->alloc(f->dev, TC_MEM_SCRATCH, bytes);
    assert_non_null(memory);
    if (host) f->dev->ops->upload(f->dev, memory, host, bytes);
    return memory;
}

typedef struct on_device {
    float *from, *zero, *x, *y[LAYERS], *weight[LAYERS]; // x: their sum, of the pass itself
    uint32_t *expert[LAYERS];
    int64_t *sum;
} on_device;

static on_device take_all(fixture *f, uint32_t n)
{
    const size_t row = (size_t)n * f->info->hidden, pairs = (size_t)n * f->info->top_k;
    void *zeros = calloc(row, 4);
    on_device d = {.from = take(f, row * 4, f->x),
                   .zero = take(f, row * 4, zeros),
                   .x = take(f, row * 4, zeros),
                   .sum = take(f, row * 8, NULL)};
    for (int l = 0; l < LAYERS; l++) {
        d.y[l] = take(f, row * 4, zeros);
        d.weight[l] = take(f, pairs * 4, f->weight[l]);
        d.expert[l] = take(f, pairs * 4, f->expert[l]);
    }
    free(zeros);
    return d;
}

static void give_all(fixture *f, on_device *d)
{
    f->dev->ops->release(f->dev, d->from);
    f->dev->ops->release(f->dev, d->zero);
    f->dev->ops->release(f->dev, d->x);
    f->dev->ops->release(f->dev, d->sum);
    for (int l = 0; l < LAYERS; l++) {
        f->dev->ops->release(f->dev, d->y[l]);
        f->dev->ops->release(f->dev, d->weight[l]);
        f->dev->ops->release(f->dev, d->expert[l]);
    }
}

static uint32_t lend(fixture *f, uint32_t n, tc_lent_mailbox boxes[WORKERS])
{
    tc_error e = {0};
    for (uint32_t i = 0; i < f->count; i++) {
        server *s = &f->servers[i];
        const tc_shm_header *layout = tc_shm_layout(s->hub);
        boxes[i] = (tc_lent_mailbox){.id = f->ids * WORKERS + i,
                                     .share = s->share,
                                     .x_at = layout->x_at,
                                     .pairs_at = layout->pairs_at,
                                     .sum_at = layout->sum_at};
        boxes[i].memory = tc_shm_memory(s->hub, &boxes[i].bytes);
        if (s->gone || tc_shm_lend(s->hub, n, 0, &e) != TC_OK) return 0;
    }
    return f->count;
}

// A batch of n tokens through the experts of both layers; returns the layer that failed.
static uint32_t run(fixture *f, uint32_t n, on_device *d)
{
    static uint32_t ids[TOKENS], position[TOKENS], segment[TOKENS];
    tc_error e = {0};
    tc_lent_mailbox boxes[WORKERS];
    uint32_t failed, page = 0;
    const tc_segment one = {0, n, 0, &page, 0};
    const tc_batch batch = {n, 1, ids, position, segment, &one};
    const uint32_t lent = lend(f, n, boxes);
    f->dev->ops->batch_begin(f->dev, &batch);
    assert_true(f->dev->queue->experts_begin(f->dev, boxes, lent, f->sequence + 1));
    for (int l = 0; l < LAYERS; l++) {
        // what the experts are given is there only when the stream has come to it
        f->dev->ops->add(f->dev, d->x, l ? d->zero : d->from, n, f->info->hidden, NULL, NULL);
        // this add keeps what combine starts from: nothing
        f->dev->ops->add(f->dev, d->y[l], d->y[l], n, f->info->hidden, NULL, NULL);
        f->dev->queue->experts(f->dev, (uint32_t)l, d->x, n, d->expert[l], d->weight[l], d->sum);
        f->dev->queue->experts_deal(f->dev, stands, f);
        f->dev->ops->combine(f->dev, d->y[l], d->sum, NULL, NULL, 0, n, f->info->hidden, NULL, NULL);
    }
    need(f->dev->queue->wait(f->dev, NULL, NULL, &failed, &e), &e);
#ifdef FAKE_CARD
    assert_int_equal(fake_cuda_pending(), 0); // nothing is on its way to memory that others use next
#endif
    f->sequence += 1 + TC_LAYERS_MAX;
    return failed;
}

static void compare(fixture *f, uint32_t n, const char *what)
{
    const size_t count = (size_t)n * f->info->hidden;
    float *y = malloc(count * sizeof *y);
    on_device d = take_all(f, n);
    assert_int_equal(run(f, n, &d), UINT32_MAX);
    for (int l = 0; l < LAYERS; l++) {
        f->dev->ops->download(f->dev, y, d.y[l], count * sizeof *y);
        for (size_t i = 0; i < count; i++)
            if (y[i] != tc_fixed_to_float(f->sum[l][i]))
                fail_msg("%s, %u tokens, layer %d of %d: element %zu is %.9g, not %.9g", what, n, l, LAYERS,
                         i, y[i], tc_fixed_to_float(f->sum[l][i]));
    }
    give_all(f, &d);
    free(y);
}

// The mailbox comes back. Of one that nobody waited for it may take a moment: before that nothing else may be
// posted.
static void reclaim_one(fixture *f, uint32_t i, tc_status expected, bool waits)
{
    tc_error e = {0};
    tc_status status = TC_CLOSED;
    for (int k = 0; k < (waits ? 10000 : 1) && !f->servers[i].gone; k++) {
        status = tc_shm_reclaim(f->servers[i].hub, f->sequence, &e);
        if (status != TC_TIMEOUT) break;
        usleep(1000);
    }
    assert_int_equal(status, expected);
}

// expected: of the first worker. Where it left nobody waited for the other.
static void reclaim(fixture *f, tc_status expected)
{
    for (uint32_t i = 0; i < f->count; i++)
        reclaim_one(f, i, i ? TC_OK : expected, i && expected == TC_CLOSED);
}

// How many experts of each layer are hot: the first ones, or spread.
static void place(fixture *f, uint32_t hot, bool spread)
{
    uint32_t slot = 0, done;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t x = 0; x < f->info->experts; x++) {
            const bool is = spread ? x * hot / f->info->experts != (x + 1) * hot / f->info->experts : x < hot;
            f->cuda->hot.place(f->dev, l, x, is ? slot : UINT32_MAX);
            if (is) assert_true(f->cuda->hot.fill(f->dev, slot++, l, x));
        }
    f->cuda->hot.drain(f->dev);
    for (uint32_t i = 0; i < slot; i++) assert_true(f->cuda->hot.filled(f->dev, &done));
}

static void reopen(fixture *f, int32_t share, int32_t link)
{
    tc_dev_free(f->dev);
    open_device(f, share, link);
}

static void seed(fixture *f, unsigned value)
{
    srand(value);
#ifdef FAKE_CARD
    fake_cuda_begin(f->store, f->card_ffn, value);
#else
    (void)f;
#endif
}

// ---- tests ----

static const uint32_t lengths[] = {65, 300, 1000, TOKENS};

// On against off, hot, cold and mixed, one worker and two, shares of experts and of widths.
static void test_same_bits(void **state)
{
    fixture *f = *state;
    static const struct {
        uint32_t workers;
        tc_shard shard;
    } fleets[] = {{1, TC_SHARD_PARTITION}, {2, TC_SHARD_PARTITION}, {2, TC_SHARD_SLICE}};
    static const int32_t shares[] = {100, 60, 30, 0};
    const uint32_t experts = f->info->experts;
    for (unsigned s = 0; s < SEEDS; s++) {
        seed(f, s + 1);
        reopen(f, shares[s % 4], 0);
        const uint32_t which = s % 3, hot = s % 5 < 3 ? s % 5 * experts / 2 : experts / 3,
                       n = s % 8 == 7 ? TOKENS : lengths[s % 3];
        start_workers(f, fleets[which].workers, fleets[which].shard);
        place(f, hot, s % 2);
        for (int pass = 0; pass < 3; pass++) {
            make_input(f, n);
            compare(f, n, "same bits");
            reclaim(f, TC_OK);
        }
        const uint64_t given = f->dev->queue->given(f->dev);
        assert_true((given > 0) == (calls_of(f) > 0));
        if (s % 4 == 3 || hot == experts) assert_int_equal(given, 0);
        if (s % 4 == 0 && hot < experts) assert_true(given > 2 * LAYERS * (experts - hot) / 3);
        place(f, 0, false);
        stop_workers(f);
    }
}

// Workers that say that they are fast are given most of what may be given, slow ones nothing but a try.
static void test_learns(void **state)
{
    fixture *f = *state;
    uint64_t given[2];
    for (int slow = 0; slow < 2; slow++) {
        seed(f, 5);
        reopen(f, -1, 0);
        start_workers(f, 1, TC_SHARD_PARTITION);
        atomic_store(&f->servers[0].says_us, slow ? 1000000 : 0);
        for (int pass = 0; pass < 4; pass++) {
            make_input(f, 65);
            compare(f, 65, slow ? "slow" : "fast");
            reclaim(f, TC_OK);
        }
        given[slow] = f->dev->queue->given(f->dev);
        stop_workers(f);
    }
    assert_true(given[1] >= 1 && given[1] <= 2);
    if (!ON_A_CARD)
        assert_true(given[0] >= 4 * given[1] + 20); // whose link is slow enough for so few experts
}

static void test_faults(void **state)
{
    fixture *f = *state;
    static const answer faults[] = {STAY_SILENT, SAY_FAILED, LEAVE, LIE};
    static const tc_status then[] = {TC_TIMEOUT, TC_PEER, TC_CLOSED, TC_OK};
    for (unsigned s = 0; s < (ON_A_CARD ? 1 : 2) * 16; s++) {
        const uint32_t which = s % 4, at = s / 4 % 2, workers = 1 + s / 8 % 2;
        seed(f, 100 + s);
        reopen(f, s % 3 ? 100 : 50, 0);
        start_workers(f, workers, TC_SHARD_SLICE);
        make_input(f, 300);
        compare(f, 300, "before a fault");
        reclaim(f, TC_OK);
        const uint64_t before = f->dev->queue->given(f->dev);
        assert_true(before > 0);
        atomic_store(&f->servers[0].fault_at, atomic_load(&f->servers[0].calls) + at);
        atomic_store(&f->servers[0].mode, faults[which]);
        const uint64_t start = tc_now_us();
        make_input(f, 300);
        compare(f, 300, "a fault");                                // the same bits, and no layer has failed
        if (ON_A_CARD) assert_true(tc_now_us() - start < 5000000); // else how long is the CPUs' business
        if (at == 0) assert_int_equal(f->dev->queue->given(f->dev), before); // nothing of it was used
        reclaim(f, then[which]);
        if (faults[which] == LEAVE) { // nobody is lent: streamed alone
            make_input(f, 300);
            compare(f, 300, "afterwards");
        }
        stop_workers(f);
        start_workers(f, workers, TC_SHARD_SLICE); // others come: as before
        make_input(f, 300);
        compare(f, 300, "others came");
        reclaim(f, TC_OK);
        stop_workers(f);
    }
}

// Its memory is gone before anybody is asked; and nobody is there at all.
static void test_nobody(void **state)
{
    fixture *f = *state;
    seed(f, 3);
    reopen(f, 100, 0);
    start_workers(f, 1, TC_SHARD_PARTITION);
    make_input(f, 300);
    compare(f, 300, "here");
    f->servers[0].gone = true; // so it is not lent
    make_input(f, 300);
    compare(f, 300, "not lent");
    f->servers[0].gone = false;
    for (unsigned s = 0; s < SEEDS; s++) { // it was lent, and leaves before it is asked: in any layer
        seed(f, 300 + s);
        reopen(f, s % 2 ? 1 : 100, 0); // 1: nothing is ever given
        f->says_gone = true;
        make_input(f, 300);
        compare(f, 300, "gone");
        reclaim_one(f, 0, TC_OK, true);
        f->says_gone = false;
        make_input(f, 300);
        compare(f, 300, "here again");
        reclaim_one(f, 0, TC_OK, false);
    }
    stop_workers(f);
    f->count = 0;
    make_input(f, 300);
    compare(f, 300, "nobody");
}

#ifndef FAKE_CARD
// A batch below the border goes to the workers by the card's own hand, one above is shared by the host's.
static void test_border(void **state)
{
    fixture *f = *state;
    seed(f, 6);
    start_workers(f, 1, TC_SHARD_PARTITION);
    for (uint32_t border = 64; border <= TC_PROMPT_LINK_MOST; border += 64) {
        f->border = border;
        reopen(f, 100, -1);
        for (uint32_t n = border; n <= border + 1; n++) {
            const uint64_t before = f->dev->queue->given(f->dev);
            make_input(f, n);
            compare(f, n, "border");
            reclaim(f, TC_OK);
            if (n <= border) assert_int_equal(f->dev->queue->given(f->dev), before);
        }
    }
    assert_true(f->dev->queue->given(f->dev) > 0);
    f->border = 0;
    stop_workers(f);
}

// All ways, as times tell: whichever is taken, the bits are the same.
static void test_ways(void **state)
{
    fixture *f = *state;
    seed(f, 7);
    reopen(f, -1, -1);
    start_workers(f, 1, TC_SHARD_PARTITION);
    for (uint32_t n = 96; n <= 400; n += 76)
        for (int pass = 0; pass < 8; pass++) {
            make_input(f, n);
            compare(f, n, "as times tell");
            reclaim(f, TC_OK);
        }
    assert_true(f->dev->queue->given(f->dev) > 0);
    stop_workers(f);
}
#endif

int main(int argc, char **argv)
{
    static fixture f;
    tc_error e = {0};
    if (argc < 3) return 2;
    if (set_up(&f, argv[1], argv[2], &e) != TC_OK) {
        print_message("[  SKIPPED ] cuda-prompt: %s\n", e.text);
        return SKIPPED;
    }
    seed(&f, 1);
    open_device(&f, 100, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_same_bits, &f), cmocka_unit_test_prestate(test_learns, &f),
        cmocka_unit_test_prestate(test_faults, &f),    cmocka_unit_test_prestate(test_nobody, &f),
#ifndef FAKE_CARD
        cmocka_unit_test_prestate(test_border, &f),    cmocka_unit_test_prestate(test_ways, &f),
#endif
    };
    const int failed = cmocka_run_group_tests_name("cuda prompt", tests, NULL, NULL);
    tc_dev_free(f.dev);
    return failed;
}
