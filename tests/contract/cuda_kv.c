// SPDX-License-Identifier: Apache-2.0
// Shows: the KV pool of the cuda device keeps its address and its pages while memory is put behind it and
// taken away: what was written at both ends, and across the borders of its parts, is read again bit for bit,
// and attention over pages of several parts gives the same bits before and after; what comes is zero; slots
// of hot experts and the pool never pass the budget together, and the driver's count follows ours. Usage:
// test MODEL CACHE_DIR. Without a GPU it says so and is skipped.
#include "common/model/store_pack.h"
#include "gpu-core/dev/cuda_library.h"
#include "gpu-core/session/kv_growth.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { PAGES = 300, HEADS = 8, KV_HEADS = 2, DIM = 128, KV_LAYERS = 5, SKIPPED = 77 };
enum { TOKENS = 64, POSITIONS = 1024 };
#define MIB (1ull << 20)
#define CARD_SLACK (64 * MIB)     // what the driver may keep for itself
#define RESERVE_BYTES (384 * MIB) // as gpu-core/dev/cuda/device.h

static const tc_dev_geometry geometry = {
    .heads = HEADS,
    .kv_heads = KV_HEADS,
    .head_dim = DIM,
    .rotary_dim = DIM,
    .kv_layers = KV_LAYERS,
    .rope = {.theta = 10000},
    .rms_eps = 1e-6f,
    .positions_max = POSITIONS,
    .pages = PAGES,
    .slots = 2,
    .kv_type = TC_KV_F16,
};

typedef struct fixture {
    const tc_cuda_library *cuda;
    tc_checkpoint *checkpoint;
    tc_store *store;
    tc_dev *dev;
    size_t page_bytes;
    uint8_t *page, *again;
} fixture;

static void need(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

static void open_device(fixture *f, uint64_t vram_bytes)
{
    tc_error e = {0};
    const tc_store_info *info = tc_store_get_info(f->store);
    tc_cuda_options o = {.geometry = geometry,
                         .hidden = info->hidden,
                         .experts = info->experts,
                         .top_k = info->top_k,
                         .tokens_max = TOKENS,
                         .vram_bytes = vram_bytes,
                         .call_deadline_us = 300000,
                         .kv_grows = true};
    o.geometry.matmul_cols_max = info->hidden;
    need(f->cuda->create(&o, &f->dev, &e), &e);
}

static tc_cuda_memory memory_of(fixture *f)
{
    tc_cuda_memory m;
    f->cuda->memory(f->dev, &m);
    return m;
}

static uint64_t sum_of(const tc_cuda_memory *m)
{
    uint64_t sum = m->context_bytes;
    for (int i = 0; i < TC_MEM_TAGS; i++) sum += m->tag_bytes[i];
    return sum;
}

static uint32_t back(fixture *f, uint32_t pages)
{
    return f->dev->ops->pages_back(f->dev, pages);
}

// Bytes that tell page, place and turn.
static void write_page(fixture *f, uint32_t page, uint32_t turn)
{
    uint32_t state = page * 2654435761u + turn;
    for (size_t i = 0; i < f->page_bytes; i++)
        f->page[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
    f->dev->ops->page_load(f->dev, page, f->page);
}

static void check_page(fixture *f, uint32_t page, uint32_t turn)
{
    uint32_t state = page * 2654435761u + turn;
    for (size_t i = 0; i < f->page_bytes; i++)
        f->page[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
    memset(f->again, 0, f->page_bytes);
    f->dev->ops->page_save(f->dev, page, f->again);
    if (memcmp(f->page, f->again, f->page_bytes) != 0) fail_msg("page %u is not what was written", page);
}

static void check_zero(fixture *f, uint32_t page)
{
    f->dev->ops->page_save(f->dev, page, f->again);
    for (size_t i = 0; i < f->page_bytes; i++)
        if (f->again[i]) fail_msg("page %u: byte %zu is %u, not zero", page, i, f->again[i]);
}

static void check_device(fixture *f)
{
    tc_error e = {0};
    need(f->dev->ops->check(f->dev, &e), &e);
}

// False, and said: this card or driver has no memory behind ranges; the pool is one block.
static bool can_grow(fixture *f)
{
    if (back(f, 0) < PAGES) return true;
    print_message("this card's pool is one block: it does not grow\n");
    assert_int_equal(memory_of(f).kv_owed_bytes, 0);
    return false;
}

static void test_grows_and_gives_back(void **state)
{
    fixture *f = *state;
    open_device(f, 2048 * MIB);
    const tc_cuda_memory whole = memory_of(f);
    assert_int_equal(whole.kv_owed_bytes, 0); // all of it, until somebody gives back
    assert_true(whole.tag_bytes[TC_MEM_KV] >= f->page_bytes * PAGES);
    write_page(f, 0, 1);
    write_page(f, PAGES - 1, 1);
    check_page(f, 0, 1);
    check_page(f, PAGES - 1, 1);
    if (!can_grow(f)) goto out;
    const uint32_t least = back(f, 0);
    assert_true(least >= 1 && least < PAGES);
    tc_cuda_memory m = memory_of(f);
    assert_int_equal(m.tag_bytes[TC_MEM_KV] + m.kv_owed_bytes, whole.tag_bytes[TC_MEM_KV]);
    // the driver has it again, to the byte but for what it keeps
    assert_true(m.free_bytes >= whole.free_bytes + m.kv_owed_bytes - CARD_SLACK);
    check_page(f, 0, 1);

    uint32_t held = least, turn = 2;
    for (uint32_t wanted = least + 1; wanted <= PAGES; wanted += 37, turn++) {
        const uint32_t before = held;
        held = back(f, wanted);
        assert_true(held >= wanted && held >= before);
        m = memory_of(f);
        assert_int_equal(m.tag_bytes[TC_MEM_KV] + m.kv_owed_bytes, whole.tag_bytes[TC_MEM_KV]);
        if (held > before) check_zero(f, held - 1);
        check_page(f, 0, 1); // nothing moved
        // across what was the end: pages may lie in two parts
        for (uint32_t p = before - 1; p < before + 2 && p < held; p++)
            if (p) write_page(f, p, turn);
        for (uint32_t p = before - 1; p < before + 2 && p < held; p++)
            if (p) check_page(f, p, turn);
    }
    assert_int_equal(back(f, PAGES + 5), PAGES);
    assert_int_equal(memory_of(f).kv_owed_bytes, 0);
    for (uint32_t p = 0; p < PAGES; p++) write_page(f, p, 77);
    f->dev->ops->page_copy(f->dev, 0, PAGES - 1);
    for (uint32_t p = 0; p + 1 < PAGES; p++) check_page(f, p, 77);
    const uint32_t half = back(f, PAGES / 2);
    assert_true(half >= PAGES / 2 && half < PAGES);
    for (uint32_t p = 0; p < half; p++) check_page(f, p, 77);
    assert_int_equal(back(f, PAGES), PAGES);
    for (uint32_t p = 0; p < half; p++) check_page(f, p, 77);
    check_zero(f, PAGES - 1);
    assert_int_equal(memory_of(f).tag_bytes[TC_MEM_KV], whole.tag_bytes[TC_MEM_KV]);
    assert_true(memory_of(f).peak_bytes <= memory_of(f).budget_bytes);
out:
    check_device(f);
    tc_dev_free(f->dev);
}

// ---- attention across parts ----

// One token at `position`, all before it in `pages`; the output of one layer.
static void attend(fixture *f, const uint32_t *pages, uint32_t position, const float *row, float *out)
{
    tc_error e = {0};
    enum { Q = HEADS * DIM, KV = KV_HEADS * DIM };
    uint32_t failed, ids = 0, segment = 0;
    const tc_segment one = {0, 1, position, pages, 0};
    const tc_batch batch = {1, 1, &ids, &position, &segment, &one};
    const tc_dev_ops *ops = f->dev->ops;
    float *q = ops->alloc(f->dev, TC_MEM_SCRATCH, (2 * Q + 2 * KV) * sizeof *q);
    assert_non_null(q);
    ops->upload(f->dev, q, row, (Q + 2 * KV) * sizeof *q);
    ops->batch_begin(f->dev, &batch);
    const tc_attention_args a = {.kv_layer = 1, .q = q, .k = q + Q, .v = q + Q + KV, .out = q + Q + 2 * KV};
    ops->attention(f->dev, &a);
    need(f->dev->queue->wait(f->dev, NULL, NULL, &failed, &e), &e);
    ops->download(f->dev, out, q + Q + 2 * KV, Q * sizeof *q);
    ops->release(f->dev, q);
}

// The sequence's pages: the first, around the middle, the last one.
static void test_attention_across_parts(void **state)
{
    fixture *f = *state;
    enum { ROW = (HEADS + 2 * KV_HEADS) * DIM, N = 4 * TC_KV_PAGE_POSITIONS, OUT = HEADS * DIM };
    const uint32_t low[] = {0, 1, 2, 3}, far[] = {0, PAGES / 2, PAGES / 2 + 1, PAGES - 1};
    float *rows = malloc(sizeof(float) * ROW * N), *first = malloc(sizeof(float) * OUT * N),
          *second = malloc(sizeof(float) * OUT * N);
    for (size_t i = 0; i < (size_t)ROW * N; i++) rows[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
    open_device(f, 2048 * MIB);
    const bool grows = can_grow(f);
    if (grows) assert_true(back(f, 4) >= 4);
    for (uint32_t t = 0; t < N; t++) attend(f, low, t, rows + (size_t)t * ROW, first + (size_t)t * OUT);
    if (grows) assert_true(back(f, 0) < PAGES);
    for (uint32_t t = 0; t < N; t++) {
        if (t == 70) assert_int_equal(back(f, PAGES), PAGES); // grows in the middle, before it is needed
        if (t == 64) assert_true(back(f, PAGES / 2 + 2) >= PAGES / 2 + 2);
        attend(f, far, t, rows + (size_t)t * ROW, second + (size_t)t * OUT);
    }
    assert_memory_equal(first, second, sizeof(float) * OUT * N);
    bool any = false;
    for (size_t i = 0; i < (size_t)OUT * N; i++) any |= first[i] != 0;
    assert_true(any);
    check_device(f);
    tc_dev_free(f->dev);
    free(rows);
    free(first);
    free(second);
}

// ---- beside hot experts ----

typedef struct slots {
    fixture *f;
    uint32_t now, all;
    uint32_t given;
} slots;

static bool give_slots(void *arg)
{
    slots *s = arg;
    const uint32_t eighth = s->all / 8 ? s->all / 8 : 1;
    if (!s->now) return false;
    s->now = s->now > eighth ? s->now - eighth : 0;
    s->f->cuda->hot.drain(s->f->dev);
    s->f->cuda->hot.resize(s->f->dev, s->now);
    s->given++;
    return true;
}

static void open_slots(fixture *f, uint64_t vram_bytes, slots *s, tc_kv_growth *growth)
{
    tc_error e = {0};
    *s = (slots){.f = f};
    open_device(f, vram_bytes);
    tc_kv_growth_begin(growth, f->dev, give_slots, s);
    need(f->cuda->hot.open(f->dev, f->store, 1u << 20, &s->all, &e), &e);
    assert_true(f->cuda->hot.settle(f->dev));
    s->now = s->all;
}

// A budget in which the whole pool has room, and slots only where it is not: the pool takes them back as it
// grows, and they come again.
static void test_slots_make_way(void **state)
{
    fixture *f = *state;
    slots s;
    tc_kv_growth growth;
    tc_cuda_memory m;
    enum { ROUNDING = 8192 };
    uint64_t budget = 4096 * MIB, tight = 0;
    for (int i = 0; i < 5 && budget != tight; i++) { // until the driver's own share stands still
        if (tight) budget = tight;
        open_slots(f, budget, &s, &growth);
        m = memory_of(f);
        tight = sum_of(&m) - m.slot_bytes + m.kv_owed_bytes + RESERVE_BYTES + ROUNDING;
        if (i < 4 && budget != tight) tc_dev_free(f->dev);
    }
    if (growth.backed == PAGES) {
        print_message("this card's pool is one block: it does not grow\n");
        tc_dev_free(f->dev);
        return;
    }
    const uint32_t least = growth.backed;
    print_message("%u slots, %llu MiB; KV %llu MiB, may grow by %llu MiB, budget %llu, sum %llu\n", s.all,
                  (unsigned long long)(m.slot_bytes / MIB),
                  (unsigned long long)(m.tag_bytes[TC_MEM_KV] / MIB),
                  (unsigned long long)(m.kv_owed_bytes / MIB), (unsigned long long)(m.budget_bytes / MIB),
                  (unsigned long long)(sum_of(&m) / MIB));
    assert_true(s.all >= 8 && m.slot_bytes > 2 * ROUNDING);
    write_page(f, 0, 5);
    const uint64_t before = sum_of(&m);
    for (uint32_t end = least; end <= PAGES; end += 16) {
        assert_true(tc_kv_growth_need(&growth, end));
        m = memory_of(f);
        assert_true(sum_of(&m) <= m.budget_bytes && m.peak_bytes <= m.budget_bytes);
        write_page(f, end - 1, 6);
        check_page(f, end - 1, 6);
    }
    assert_true(tc_kv_growth_need(&growth, PAGES));
    assert_true(growth.refused == 0 && growth.made_room == s.given && s.given > 0);
    assert_int_equal(memory_of(f).kv_owed_bytes, 0);
    check_page(f, 0, 5);
    tc_kv_growth_poll(&growth, 1, 1);
    tc_kv_growth_poll(&growth, 1, 1 + TC_KV_KEEP_US);
    tc_kv_growth_poll(&growth, 1, 1 + 2 * (uint64_t)TC_KV_KEEP_US);
    assert_int_equal(growth.backed, least);
    assert_int_equal(f->cuda->hot.resize(f->dev, s.all), s.all); // the slots are back
    m = memory_of(f);
    assert_int_equal(sum_of(&m), before);
    check_page(f, 0, 5);
    check_device(f);
    tc_dev_free(f->dev);
}

static tc_status set_up(fixture *f, const char *model, const char *cache, tc_error *e)
{
    char card[128], path[TC_STORE_PATH_BYTES];
    const tc_pack_options pack = {.cache_dir = cache};
    TC_TRY(tc_cuda_library_load(0, &f->cuda, card, e));
    need(tc_checkpoint_open(model, &f->checkpoint, e), e);
    need(tc_store_pack(f->checkpoint, &pack, path, e), e);
    need(tc_store_open(path, &f->store, e), e);
    f->page_bytes = (size_t)tc_dev_page_bytes(&geometry);
    f->page = malloc(f->page_bytes);
    f->again = malloc(f->page_bytes);
    assert_true(f->page && f->again);
    return TC_OK;
}

int main(int argc, char **argv)
{
    static fixture f;
    tc_error e = {0};
    if (argc < 3) return 2;
    srand(5);
    if (set_up(&f, argv[1], argv[2], &e) != TC_OK) {
        print_message("[  SKIPPED ] cuda-kv: %s\n", e.text);
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_grows_and_gives_back, &f),
        cmocka_unit_test_prestate(test_attention_across_parts, &f),
        cmocka_unit_test_prestate(test_slots_make_way, &f),
    };
    int failed = cmocka_run_group_tests_name("cuda kv", tests, NULL, NULL);
    tc_store_free(f.store);
    tc_checkpoint_free(f.checkpoint);
    free(f.page);
    free(f.again);
    return failed;
}
