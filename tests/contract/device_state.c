// SPDX-License-Identifier: Apache-2.0
// Shows: what the prefix cache and shared prompts rest on (gpu-core/dev/dev.h): a session whose pages and
// state were saved at a chunk border and loaded elsewhere, or copied inside the device, goes on with the same
// bits as the one that never stopped.
#include "common/base/team.h"
#include "gpu-core/dev/dev.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 16, DK = 8, DV = 8, KEY_HEADS = 2, VALUE_HEADS = 4, CONV = 4 };
enum { QKVZ = KEY_HEADS * 2 * DK + 2 * VALUE_HEADS * DV, CHANNELS = 2 * KEY_HEADS * DK + VALUE_HEADS * DV };
enum { BORDER = TC_KV_PAGE_POSITIONS, TOKENS = BORDER + 70, OUT = HEADS * DIM + VALUE_HEADS * DV };

static const tc_dev_geometry geometry = {
    .heads = HEADS,
    .kv_heads = KV_HEADS,
    .head_dim = DIM,
    .rotary_dim = 8,
    .kv_layers = 1,
    .rope = {.theta = 10000},
    .dn_key_heads = KEY_HEADS,
    .dn_value_heads = VALUE_HEADS,
    .dn_key_dim = DK,
    .dn_value_dim = DV,
    .dn_conv = CONV,
    .dn_layers = 1,
    .rms_eps = 1e-6f,
    .positions_max = 4 * TC_KV_PAGE_POSITIONS,
    .pages = 12,
    .slots = 4,
};

typedef struct inputs {
    float q[TOKENS][HEADS * DIM], k[TOKENS][KV_HEADS * DIM], v[TOKENS][KV_HEADS * DIM];
    float qkvz[TOKENS][QKVZ], ba[TOKENS][2 * VALUE_HEADS];
    float conv[CONV * CHANNELS], neg_exp_a[VALUE_HEADS], dt_bias[VALUE_HEADS], norm[DV];
} inputs;

static void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
}

// Tokens [begin, end) of the one sequence, in the session of these pages and this slot.
static void run(tc_dev *dev, const inputs *in, const uint32_t *pages, uint32_t slot, uint32_t begin,
                uint32_t end, float out[TOKENS][OUT])
{
    static inputs scratch; // operators change q and k in place
    static float attended[TOKENS * HEADS * DIM], mixed[TOKENS * VALUE_HEADS * DV];
    uint32_t position[TOKENS], zeros[TOKENS] = {0}, n = end - begin;
    const tc_segment segment = {0, n, begin, pages, slot};
    const tc_batch batch = {n, 1, zeros, position, zeros, &segment};
    for (uint32_t i = 0; i < n; i++) position[i] = begin + i;
    memcpy(&scratch, in, sizeof scratch);
    dev->ops->batch_begin(dev, &batch);
    const tc_attention_args attention = {
        .q = scratch.q[begin], .k = scratch.k[begin], .v = scratch.v[begin], .out = attended};
    dev->ops->attention(dev, &attention);
    tc_delta_args delta = {.qkvz = scratch.qkvz[begin],
                           .ba = scratch.ba[begin],
                           .conv = in->conv,
                           .neg_exp_a = in->neg_exp_a,
                           .dt_bias = in->dt_bias,
                           .norm = in->norm,
                           .out = mixed};
    tc_delta_spans(&dev->geometry, false, &delta);
    dev->ops->delta(dev, &delta);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(out[begin + i], attended + (size_t)i * HEADS * DIM, HEADS * DIM * sizeof(float));
        memcpy(out[begin + i] + HEADS * DIM, mixed + (size_t)i * VALUE_HEADS * DV,
               VALUE_HEADS * DV * sizeof(float));
    }
}

static void same_bits_after_a_copy(void **state)
{
    tc_dev *dev = *state;
    static inputs in, other;
    static float whole[TOKENS][OUT], again[TOKENS][OUT];
    const uint32_t first[] = {7, 2, 9}, second[] = {1, 4, 3}, third[] = {0, 5, 6};
    fill(in.q[0], sizeof in / sizeof(float));
    fill(other.q[0], sizeof other / sizeof(float));
    for (int i = 0; i < VALUE_HEADS; i++) in.neg_exp_a[i] = other.neg_exp_a[i] = -0.5f;
    void *page = malloc((size_t)tc_dev_page_bytes(&geometry)),
         *slot = malloc((size_t)tc_dev_slot_bytes(&geometry));

    dev->ops->slot_reset(dev, 0);
    run(dev, &in, first, 0, 0, BORDER, whole);
    dev->ops->page_save(dev, first[0], page);
    dev->ops->slot_save(dev, 0, slot);
    dev->ops->page_copy(dev, first[0], second[0]);
    dev->ops->slot_copy(dev, 0, 3);
    run(dev, &in, first, 0, BORDER, TOKENS, whole);

    run(dev, &in, second, 3, BORDER, TOKENS, again); // copied inside the device
    assert_memory_equal(again[BORDER], whole[BORDER], sizeof whole - sizeof whole[0] * BORDER);

    dev->ops->slot_reset(dev, 1); // a place that somebody else has used
    run(dev, &other, third, 1, 0, BORDER, again);
    dev->ops->page_load(dev, third[0], page);
    dev->ops->slot_load(dev, 1, slot);
    memset(again, 0, sizeof again);
    run(dev, &in, third, 1, BORDER, TOKENS, again); // from the caller's memory
    assert_memory_equal(again[BORDER], whole[BORDER], sizeof whole - sizeof whole[0] * BORDER);
    free(page);
    free(slot);
}

int main(void)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512"};
    int failed = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        tc_error e;
        tc_team *team;
        tc_dev *dev;
        const tc_kernels *kernels;
        const tc_team_options options = {.threads = 2};
        srand(5);
        if (tc_kernels_get(TC_FLOAT, isas[i], &kernels, &e) != TC_OK) continue;
        assert_int_equal(tc_team_create(&options, &team, &e), TC_OK);
        assert_int_equal(tc_dev_cpu_create(&geometry, team, kernels, &dev, &e), TC_OK);
        const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(same_bits_after_a_copy, dev)};
        failed += cmocka_run_group_tests_name(isas[i], tests, NULL, NULL);
        tc_dev_free(dev);
        tc_team_free(team);
    }
    return failed;
}
