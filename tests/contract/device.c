// SPDX-License-Identifier: Apache-2.0
// Shows: the device contract (gpu-core/dev/dev.h), operator by operator, against equations written again in
// double, and that a token's result depends on its own session's past only: prompts cut anywhere give the
// same bits. Instantiated for every device and kernel table this machine can run.
#include "common/base/team.h"
#include "common/model/dtype.h"
#include "gpu-core/dev/cuda_library.h"
#include "tests/contract/fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADS = 6,
    KV_HEADS = 2,
    DIM = 20,
    ROTARY = 8,
    KEY_HEADS = 2,
    VALUE_HEADS = 4,
    DK = 12,
    DV = 16,
    CONV = 4
};
enum {
    PAGES = 24,
    SLOTS = 5,
    CONTEXT = 704,
    TOKENS = 600,
    ONCE = 250
}; // ONCE: as many as a batch takes here
enum { CHANNELS = 2 * KEY_HEADS * DK + VALUE_HEADS * DV, RATIO = VALUE_HEADS / KEY_HEADS };
enum { QKVZ = KEY_HEADS * (2 * DK + 2 * RATIO * DV) };

static const tc_dev_geometry geometry = {
    .heads = HEADS,
    .kv_heads = KV_HEADS,
    .head_dim = DIM,
    .rotary_dim = ROTARY,
    .kv_layers = 2,
    .rope = {.theta = 10000},
    .dn_key_heads = KEY_HEADS,
    .dn_value_heads = VALUE_HEADS,
    .dn_key_dim = DK,
    .dn_value_dim = DV,
    .dn_conv = CONV,
    .dn_layers = 2,
    .rms_eps = 1e-6f,
    .matmul_cols_max = 512,
    .positions_max = CONTEXT,
    .pages = PAGES,
    .slots = SLOTS,
};

// A batch of one session's tokens [begin, end), beside it one token of another session at position 0.
typedef struct batch_memory {
    uint32_t ids[TC_BATCH_TOKENS_MAX], position[TC_BATCH_TOKENS_MAX], segment[TC_BATCH_TOKENS_MAX],
        pages[2][12];
    tc_segment segments[2];
    tc_batch batch;
} batch_memory;

// Two sessions that get the same tokens side by side.
static void begin_twins(fixture *f, batch_memory *m, uint32_t begin, uint32_t end)
{
    uint32_t n = end - begin;
    for (uint32_t i = 0; i < 12; i++) {
        m->pages[0][i] = 11 - i;
        m->pages[1][i] = 12 + (5 * i + 1) % 12;
    }
    m->segments[0] = (tc_segment){0, n, begin, m->pages[0], 2};
    m->segments[1] = (tc_segment){n, n, begin, m->pages[1], 0};
    for (uint32_t i = 0; i < 2 * n; i++) {
        m->ids[i] = i % n;
        m->position[i] = begin + i % n;
        m->segment[i] = i / n;
    }
    m->batch = (tc_batch){2 * n, 2, m->ids, m->position, m->segment, m->segments};
    f->dev->ops->batch_begin(f->dev, &m->batch);
}

static void begin_batch(fixture *f, batch_memory *m, uint32_t begin, uint32_t end)
{
    for (uint32_t i = 0; i < 12; i++) { // nothing in order
        m->pages[0][i] = (7 * i + 3) % PAGES;
        m->pages[1][i] = (7 * i + 3 + 84) % PAGES;
    }
    m->segments[0] = (tc_segment){0, end - begin, begin, m->pages[0], 1};
    m->segments[1] = (tc_segment){end - begin, 1, 0, m->pages[1], 2};
    for (uint32_t i = 0; i <= end - begin; i++) {
        m->ids[i] = i;
        m->position[i] = i < end - begin ? begin + i : 0;
        m->segment[i] = i == end - begin;
    }
    m->batch = (tc_batch){end - begin + 1, 2, m->ids, m->position, m->segment, m->segments};
    f->dev->ops->batch_begin(f->dev, &m->batch);
}

// ---- element-wise operators ----

static void test_rmsnorm(void **state)
{
    fixture *f = *state;
    enum { N = 5, WIDTH = 77 };
    float *x = random_floats(N * WIDTH), *w = random_floats(WIDTH), y[N * WIDTH];
    double expected[N * WIDTH];
    for (int t = 0; t < N; t++) {
        double sum = 0;
        for (int i = 0; i < WIDTH; i++) sum += (double)x[t * WIDTH + i] * x[t * WIDTH + i];
        for (int i = 0; i < WIDTH; i++)
            expected[t * WIDTH + i] = x[t * WIDTH + i] / sqrt(sum / WIDTH + 1e-6) * w[i];
    }
    float *to = put(f, y, sizeof y);
    f->dev->ops->rmsnorm(f->dev, put(f, x, sizeof y), put(f, w, WIDTH * sizeof *w), N, WIDTH, 1e-6f, to);
    back(f, y, to, sizeof y);
    clear(f);
    assert_close(y, expected, N * WIDTH, "rmsnorm");
    tc_free(x);
    tc_free(w);
}

static void test_matmul_with_bias(void **state)
{
    fixture *f = *state;
    enum { N = 7, ROWS = 45, COLS = 33, LDY = 50 };
    float *data = random_floats(ROWS * COLS), *x = random_floats(N * COLS), *bias = random_floats(ROWS),
          y[N * LDY];
    float *px = put(f, x, N * COLS * sizeof *x), *pb = put(f, bias, ROWS * sizeof *bias),
          *py = put(f, y, sizeof y);
    const tc_weight weight = {.rows = ROWS, .cols = COLS, .dtype = TC_F32, .data = data};
    tc_matrix m;
    tc_error e;
    assert_int_equal(f->dev->ops->matrix(f->dev, &weight, NULL, &m, &e), TC_OK);
    const tc_matmul_job jobs[2] = {{&m, px, COLS, py, LDY, pb}, {&m, px, COLS, py, LDY, pb}};
    for (uint32_t count = 1; count <= 2; count++) {
        for (int i = 0; i < N * LDY; i++) y[i] = NAN;
        f->dev->ops->upload(f->dev, py, y, sizeof y);
        f->dev->ops->matmul(f->dev, jobs, count, N);
        back(f, y, py, sizeof y);
        for (int t = 0; t < N; t++) {
            double expected[ROWS];
            for (int r = 0; r < ROWS; r++) {
                expected[r] = bias[r];
                for (int c = 0; c < COLS; c++) expected[r] += (double)data[r * COLS + c] * x[t * COLS + c];
            }
            if (count == 1) assert_close(y + t * LDY, expected, ROWS, "matmul");
            assert_true(isnan(y[t * LDY + ROWS])); // nothing beyond its rows
        }
    }
    f->dev->ops->release(f->dev, (void *)m.data);
    clear(f);
    tc_free(data);
    tc_free(x);
    tc_free(bias);
}

// 4-bit matrices with the scales quantised again, any number of tokens: the bits of the plain C kernels.
static void test_quantised_matmul(void **state)
{
    fixture *f = *state;
    enum { N = 130, ROWS = 83, COLS = 448 };
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 8, 9, 64, 65, N};
    const tc_kernels *plain;
    tc_error e;
    if (!f->fast) return;
    assert_int_equal(tc_kernels_get(TC_FAST, "scalar", &plain, &e), TC_OK);
    float *x = random_floats(N * COLS), *bias = random_floats(ROWS), *y = random_floats(N * ROWS),
          *expected = random_floats(N * ROWS);
    tc_weight weight = {.rows = ROWS, .cols = COLS, .dtype = TC_F32, .data = random_floats(ROWS * COLS)};
    assert_int_equal(tc_weight_quantise_nf4(&weight, &e), TC_OK);
    tc_matrix_form form = tc_matrix_form_for(&weight, 0, COLS);
    tc_matrix host, m;
    void *data = tc_alloc(TC_MEM_OTHER, tc_matrix_bytes(&form, ROWS, COLS), 1),
         *rounded = tc_alloc(TC_MEM_OTHER, N, tc_rounded_bytes(COLS));
    tc_matrix_pack(&weight, 0, ROWS, 0, COLS, &form, data, &host);
    assert_int_equal(host.form.type, TC_M_Q4);
    const float *rows[N];
    float *to[N];
    tc_rounded_row round[N];
    for (uint32_t t = 0; t < N; t++) {
        rows[t] = x + t * COLS;
        to[t] = expected + t * ROWS;
        round[t] = tc_rounded_at((char *)rounded + t * tc_rounded_bytes(COLS), COLS);
        plain->round(rows[t], COLS, &round[t]);
    }
    const tc_rows in = {rows, round};
    tc_matmul(plain, &host, 0, tc_panels(ROWS), &in, N, to);
    for (uint32_t i = 0; i < N * ROWS; i++) expected[i] += bias[i % ROWS];
    assert_int_equal(f->dev->ops->matrix(f->dev, &weight, NULL, &m, &e), TC_OK);
    float *px = put(f, x, N * COLS * sizeof *x), *pb = put(f, bias, ROWS * sizeof *bias),
          *py = put(f, y, N * ROWS * sizeof *y);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (int k = 0; k < N * ROWS; k++) y[k] = NAN;
        f->dev->ops->upload(f->dev, py, y, N * ROWS * sizeof *y);
        const tc_matmul_job job = {&m, px, COLS, py, ROWS, pb};
        f->dev->ops->matmul(f->dev, &job, 1, counts[i]);
        back(f, y, py, N * ROWS * sizeof *y);
        assert_memory_equal(y, expected, counts[i] * ROWS * sizeof *y);
    }
    f->dev->ops->release(f->dev, (void *)m.data);
    clear(f);
    tc_weight_free(&weight);
    void *all[] = {x, bias, y, expected, data, rounded};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
}

// A 16-bit matrix beside a 4-bit one on the same input: each meets the activations in its own form.
static void test_half_matmul(void **state)
{
    fixture *f = *state;
    enum { N = 37, ROWS = 50, COLS = 192 };
    float *x = random_floats(N * COLS), *y = random_floats(2 * N * ROWS),
          *values = random_floats(ROWS * COLS);
    uint16_t *half = tc_alloc(TC_MEM_OTHER, ROWS * COLS, sizeof *half);
    for (int i = 0; i < ROWS * COLS; i++) {
        half[i] = tc_float_to_bf16(values[i]);
        values[i] = tc_bf16_to_float(half[i]);
    }
    tc_weight weights[2] = {
        {.rows = ROWS, .cols = COLS, .dtype = TC_BF16, .data = half},
        {.rows = ROWS, .cols = COLS, .dtype = TC_F32, .data = random_floats(ROWS * COLS)}};
    tc_matrix m[2];
    tc_error e;
    assert_int_equal(tc_weight_quantise_nf4(&weights[1], &e), TC_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(f->dev->ops->matrix(f->dev, &weights[i], NULL, &m[i], &e), TC_OK);
    assert_int_equal(m[0].form.type, TC_M_BF16);
    float *px = put(f, x, N * COLS * sizeof *x), *py = put(f, y, 2 * N * ROWS * sizeof *y);
    for (uint32_t count = 1; count <= 2; count++) { // alone, and in company
        const tc_matmul_job jobs[2] = {{&m[0], px, COLS, py, ROWS, NULL},
                                       {&m[1], px, COLS, py + N * ROWS, ROWS, NULL}};
        for (int i = 0; i < N * ROWS; i++) y[i] = NAN;
        f->dev->ops->upload(f->dev, py, y, N * ROWS * sizeof *y);
        f->dev->ops->matmul(f->dev, jobs, count, N);
        back(f, y, py, N * ROWS * sizeof *y);
        for (int i = 0; i < N * ROWS; i++) {
            double sum = 0, scale = 0;
            for (int c = 0; c < COLS; c++) {
                double v = (double)values[i % ROWS * COLS + c] * x[i / ROWS * COLS + c];
                sum += v;
                scale += fabs(v);
            }
            if (!(fabs(y[i] - sum) <= scale * 0x1p-8)) fail_msg("element %d: %g is not %g", i, y[i], sum);
        }
    }
    for (int i = 0; i < 2; i++) f->dev->ops->release(f->dev, (void *)m[i].data);
    clear(f);
    tc_weight_free(&weights[1]);
    void *all[] = {x, y, values, half};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
}

static void test_route(void **state)
{
    fixture *f = *state;
    enum { N = 9, EXPERTS = 40, TOP_K = 6 };
    float *logits = random_floats(N * EXPERTS), weight[N * TOP_K];
    uint32_t expert[N * TOP_K];
    float *pl = put(f, logits, N * EXPERTS * sizeof *logits), *pw = put(f, weight, sizeof weight);
    uint32_t *pe = put(f, expert, sizeof expert);
    for (int renormalise = 0; renormalise < 2; renormalise++) {
        const tc_route_args args = {.logits = pl,
                                    .n = N,
                                    .experts = EXPERTS,
                                    .top_k = TOP_K,
                                    .renormalise = renormalise,
                                    .scale = 1,
                                    .expert = pe,
                                    .weight = pw};
        f->dev->ops->route(f->dev, &args);
        back(f, expert, pe, sizeof expert);
        back(f, weight, pw, sizeof weight);
        for (int t = 0; t < N; t++) {
            const float *l = logits + t * EXPERTS;
            double sum = 0, chosen = 0, expected[TOP_K];
            for (int i = 0; i < EXPERTS; i++) sum += exp(l[i]);
            for (int k = 0; k < TOP_K; k++) {
                uint32_t above = 0, it = expert[t * TOP_K + k];
                for (int i = 0; i < EXPERTS; i++) above += l[i] > l[it];
                assert_int_equal(above, k); // falling order, none left out
                chosen += exp(l[it]);
            }
            for (int k = 0; k < TOP_K; k++)
                expected[k] = exp(l[expert[t * TOP_K + k]]) / (renormalise ? chosen : sum);
            assert_close(weight + t * TOP_K, expected, TOP_K, "route");
        }
    }
    clear(f);
    tc_free(logits);
}

static void test_combine(void **state)
{
    fixture *f = *state;
    enum { N = 3, WIDTH = 21 };
    float *x = random_floats(N * WIDTH), *shared = random_floats(N * WIDTH), *gate = random_floats(N);
    int64_t sum[N * WIDTH];
    double expected[N * WIDTH];
    for (int i = 0; i < N * WIDTH; i++) {
        sum[i] = (int64_t)(noise() * 8e9f);
        expected[i] = x[i] + (double)sum[i] / 4294967296.0 + shared[i] / (1 + exp(-gate[i / WIDTH]));
    }
    float *px = put(f, x, sizeof sum / 2), *ps = put(f, shared, sizeof sum / 2),
          *pg = put(f, gate, N * sizeof *gate);
    int64_t *psum = put(f, sum, sizeof sum);
    f->dev->ops->combine(f->dev, px, psum, ps, pg, 1, N, WIDTH, NULL, NULL);
    back(f, x, px, sizeof sum / 2);
    assert_close(x, expected, N * WIDTH, "combine");
    // then with a norm behind it, and add with one: the same bits as the two operators
    float *w = random_floats(WIDTH), y[N * WIDTH], normed[N * WIDTH], apart[N * WIDTH];
    float *pw = put(f, w, WIDTH * sizeof *w), *py = put(f, x, sizeof y), *pn = put(f, x, sizeof y),
          *pa = put(f, x, sizeof y);
    f->dev->ops->combine(f->dev, px, psum, ps, pg, 1, N, WIDTH, NULL, NULL);
    f->dev->ops->combine(f->dev, py, psum, ps, pg, 1, N, WIDTH, pw, pn);
    f->dev->ops->rmsnorm(f->dev, px, pw, N, WIDTH, 1e-6f, pa);
    back(f, x, px, sizeof y);
    back(f, y, py, sizeof y);
    back(f, normed, pn, sizeof y);
    back(f, apart, pa, sizeof y);
    assert_memory_equal(x, y, sizeof y);
    assert_memory_equal(normed, apart, sizeof normed);
    for (int i = 0; i < N * WIDTH; i++) expected[i] = (double)x[i] + shared[i];
    f->dev->ops->add(f->dev, px, ps, N, WIDTH, pw, pn);
    f->dev->ops->rmsnorm(f->dev, px, pw, N, WIDTH, 1e-6f, pa);
    back(f, x, px, sizeof y);
    back(f, normed, pn, sizeof y);
    back(f, apart, pa, sizeof y);
    clear(f);
    assert_close(x, expected, N * WIDTH, "add");
    assert_memory_equal(normed, apart, sizeof normed);
    tc_free(w);
    tc_free(x);
    tc_free(shared);
    tc_free(gate);
}

// ---- attention ----

static void reference_rotate(double *x, uint32_t position)
{
    for (int i = 0; i < ROTARY / 2; i++) {
        double angle = position * pow(10000, -2.0 * i / ROTARY), a = x[i], b = x[i + ROTARY / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + ROTARY / 2] = b * cos(angle) + a * sin(angle);
    }
}

static void reference_head(const float *x, const float *w, uint32_t position, double out[DIM])
{
    double sum = 0;
    for (int i = 0; i < DIM; i++) sum += (double)x[i] * x[i];
    for (int i = 0; i < DIM; i++) out[i] = x[i] / sqrt(sum / DIM + 1e-6) * w[i];
    reference_rotate(out, position);
}

typedef struct attention_data {
    float *q, *k, *v, *q_norm, *k_norm; // of TOKENS tokens
    bool gated;
} attention_data;

static void reference_attention(const attention_data *a, uint32_t t, uint32_t h, double out[DIM])
{
    uint32_t stride = a->gated ? 2 * DIM : DIM, kv = h / (HEADS / KV_HEADS);
    const float *q_raw = a->q + (t * HEADS + h) * stride;
    double q[DIM], k[DIM], scores[TOKENS], sum = 0;
    reference_head(q_raw, a->q_norm, t, q);
    for (uint32_t j = 0; j <= t; j++) {
        reference_head(a->k + (j * KV_HEADS + kv) * DIM, a->k_norm, j, k);
        scores[j] = 0;
        for (int i = 0; i < DIM; i++) scores[j] += q[i] * k[i];
        scores[j] = exp(scores[j] / sqrt(DIM));
        sum += scores[j];
    }
    for (int i = 0; i < DIM; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j <= t; j++) out[i] += scores[j] / sum * a->v[(j * KV_HEADS + kv) * DIM + i];
        if (a->gated) out[i] /= 1 + exp(-q_raw[DIM + i]);
    }
}

// n rows for the device, behind them the same again (twice), or one of another session that means nothing.
static float *put_rows(fixture *f, const float *rows, uint32_t n, uint32_t row, bool twice)
{
    const size_t part = (size_t)n * row;
    float *all = random_floats(part + (twice ? part : row));
    memcpy(all, rows, part * sizeof *all);
    if (twice) memcpy(all + part, rows, part * sizeof *all);
    float *placed = put(f, all, (part + (twice ? part : row)) * sizeof *all);
    tc_free(all);
    return placed;
}

// Runs all tokens through the device in chunks; out [TOKENS][HEADS][DIM]. second: of another session that
// gets the same tokens beside; NULL: beside is one token of another.
static void run_attention(fixture *f, const attention_data *a, uint32_t chunk, float *out, float *second)
{
    uint32_t q_row = HEADS * DIM * (a->gated ? 2 : 1), kv_row = KV_HEADS * DIM, row = HEADS * DIM;
    for (uint32_t begin = 0; begin < TOKENS; begin += chunk) {
        uint32_t end = begin + chunk < TOKENS ? begin + chunk : TOKENS, n = end - begin;
        const size_t bytes = (size_t)n * row * sizeof(float), kv_at = (size_t)begin * kv_row,
                     at = (size_t)begin * row;
        batch_memory m;
        (second ? begin_twins : begin_batch)(f, &m, begin, end);
        const tc_attention_args args = {.kv_layer = 1,
                                        .q = put_rows(f, a->q + (size_t)begin * q_row, n, q_row, second),
                                        .k = put_rows(f, a->k + kv_at, n, kv_row, second),
                                        .v = put_rows(f, a->v + kv_at, n, kv_row, second),
                                        .q_norm = put(f, a->q_norm, DIM * sizeof(float)),
                                        .k_norm = put(f, a->k_norm, DIM * sizeof(float)),
                                        .gated = a->gated,
                                        .out = put_rows(f, a->q, n, row, second)}; // to be overwritten
        f->dev->ops->attention(f->dev, &args);
        back(f, out + at, args.out, bytes);
        if (second) back(f, second + at, args.out + (size_t)n * row, bytes);
        clear(f);
    }
}

static void test_attention(void **state)
{
    fixture *f = *state;
    for (int gated = 0; gated < 2; gated++) {
        attention_data a = {.q = random_floats((size_t)TOKENS * HEADS * DIM * 2),
                            .k = random_floats((size_t)TOKENS * KV_HEADS * DIM),
                            .v = random_floats((size_t)TOKENS * KV_HEADS * DIM),
                            .q_norm = random_floats(DIM),
                            .k_norm = random_floats(DIM),
                            .gated = gated};
        float *whole = random_floats((size_t)TOKENS * HEADS * DIM),
              *cut = random_floats((size_t)TOKENS * HEADS * DIM);
        run_attention(f, &a, ONCE, whole, NULL);
        for (uint32_t t = 0; t < TOKENS; t += t % 64 == 62 ? 1 : 13) { // both sides of some page borders
            for (uint32_t h = 0; h < HEADS; h++) {
                double expected[DIM];
                reference_attention(&a, t, h, expected);
                assert_within(f->bound, whole + (t * HEADS + h) * DIM, expected, DIM, "attention");
            }
        }
        // However a prompt is cut, and however many threads there are (one: no block is split; many: all
        // are): the same bits.
        fixture other = {.dev = f->other};
        const uint32_t chunks[] = {1, 3, 64, 65, 100, ONCE};
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            run_attention(f, &a, chunks[i], cut, NULL);
            assert_memory_equal(cut, whole, (size_t)TOKENS * HEADS * DIM * sizeof *cut);
            run_attention(&other, &a, chunks[i], cut, NULL);
            assert_memory_equal(cut, whole, (size_t)TOKENS * HEADS * DIM * sizeof *cut);
        }
        for (uint32_t chunk = 1; chunk < 100; chunk += 66) {
            float *second = random_floats((size_t)TOKENS * HEADS * DIM);
            run_attention(f, &a, chunk, cut, second);
            assert_memory_equal(cut, whole, (size_t)TOKENS * HEADS * DIM * sizeof *cut);
            assert_memory_equal(second, whole, (size_t)TOKENS * HEADS * DIM * sizeof *cut);
            tc_free(second);
        }
        tc_free(a.q);
        tc_free(a.k);
        tc_free(a.v);
        tc_free((void *)a.q_norm);
        tc_free((void *)a.k_norm);
        tc_free(whole);
        tc_free(cut);
    }
}

// ---- Gated DeltaNet ----

typedef struct delta_data {
    float *qkvz, *ba, *conv, *neg_exp_a, *dt_bias, *norm;
} delta_data;

static double raw_channel(const delta_data *d, int t, int channel)
{
    if (t < 0) return 0;
    const int keys = KEY_HEADS * DK, head_floats = QKVZ / KEY_HEADS;
    int head, at;
    if (channel < keys)
        head = channel / DK, at = channel % DK;
    else if (channel < 2 * keys)
        head = (channel - keys) / DK, at = DK + (channel - keys) % DK;
    else
        head = (channel - 2 * keys) / (RATIO * DV), at = 2 * DK + (channel - 2 * keys) % (RATIO * DV);
    return d->qkvz[t * QKVZ + head * head_floats + at];
}

static double convolved(const delta_data *d, int t, int channel)
{
    double y = 0;
    for (int j = 0; j < CONV; j++)
        y += d->conv[j * CHANNELS + channel] * raw_channel(d, t - (CONV - 1) + j, channel);
    return y / (1 + exp(-y));
}

static void reference_delta_head(const delta_data *d, int value_head, double *out) // [TOKENS][DV]
{
    double S[DK][DV] = {{0}};
    int key_head = value_head / RATIO;
    for (int t = 0; t < TOKENS; t++) {
        double q[DK], k[DK], v[DV], o[DV], qq = 1e-6, kk = 1e-6, mean = 0;
        for (int i = 0; i < DK; i++) {
            q[i] = convolved(d, t, key_head * DK + i);
            k[i] = convolved(d, t, KEY_HEADS * DK + key_head * DK + i);
            qq += q[i] * q[i];
            kk += k[i] * k[i];
        }
        for (int i = 0; i < DV; i++) v[i] = convolved(d, t, 2 * KEY_HEADS * DK + value_head * DV + i);
        const float *ba = d->ba + t * 2 * VALUE_HEADS + key_head * 2 * RATIO;
        double beta = 1 / (1 + exp(-ba[value_head % RATIO]));
        double decay = exp(d->neg_exp_a[value_head] *
                           log1p(exp(ba[RATIO + value_head % RATIO] + d->dt_bias[value_head])));
        for (int j = 0; j < DV; j++) {
            double past = 0;
            o[j] = 0;
            for (int i = 0; i < DK; i++) {
                S[i][j] *= decay;
                past += S[i][j] * k[i] / sqrt(kk);
            }
            for (int i = 0; i < DK; i++) {
                S[i][j] += k[i] / sqrt(kk) * beta * (v[j] - past);
                o[j] += S[i][j] * q[i] / sqrt(qq) / sqrt(DK);
            }
            mean += o[j] * o[j] / DV;
        }
        const float *z = d->qkvz + t * QKVZ + key_head * (QKVZ / KEY_HEADS) + 2 * DK + RATIO * DV +
                         value_head % RATIO * DV;
        for (int j = 0; j < DV; j++)
            out[t * DV + j] = d->norm[j] * o[j] / sqrt(mean + 1e-6) * z[j] / (1 + exp(-z[j]));
    }
}

enum { DELTA_ROW = VALUE_HEADS * DV };

// Tokens [begin, end), of the batch that has begun.
static void delta_pass(fixture *f, const delta_data *d, uint32_t begin, uint32_t end, float *out,
                       float *second)
{
    enum { ROW = DELTA_ROW, BA = 2 * VALUE_HEADS };
    const uint32_t n = end - begin;
    const size_t bytes = (size_t)n * ROW * sizeof(float), at = (size_t)begin * ROW;
    tc_delta_args args = {.dn_layer = 1,
                          .qkvz = put_rows(f, d->qkvz + (size_t)begin * QKVZ, n, QKVZ, second),
                          .ba = put_rows(f, d->ba + (size_t)begin * BA, n, BA, second),
                          .conv = put(f, d->conv, (size_t)CONV * CHANNELS * sizeof(float)),
                          .neg_exp_a = put(f, d->neg_exp_a, VALUE_HEADS * sizeof(float)),
                          .dt_bias = put(f, d->dt_bias, VALUE_HEADS * sizeof(float)),
                          .norm = put(f, d->norm, DV * sizeof(float)),
                          .out = put_rows(f, d->qkvz, n, ROW, second)}; // to be overwritten
    tc_delta_spans(&f->dev->geometry, false, &args);
    f->dev->ops->delta(f->dev, &args);
    back(f, out + at, args.out, bytes);
    if (second) back(f, second + at, args.out + (size_t)n * ROW, bytes);
    clear(f);
}

static void run_delta(fixture *f, const delta_data *d, uint32_t chunk, float *out, float *second)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++) f->dev->ops->slot_reset(f->dev, slot);
    for (uint32_t begin = 0; begin < TOKENS; begin += chunk) {
        const uint32_t end = begin + chunk < TOKENS ? begin + chunk : TOKENS;
        batch_memory m;
        (second ? begin_twins : begin_batch)(f, &m, begin, end);
        delta_pass(f, d, begin, end, out, second);
    }
}

// Tokens [begin, end) of one session in a slot; beside them one token of another.
static void delta_in_slot(fixture *f, const delta_data *d, uint32_t begin, uint32_t end, uint32_t slot,
                          const tc_keep *keep, float *out)
{
    batch_memory m;
    begin_batch(f, &m, begin, end);
    m.segments[0].slot = slot;
    m.segments[1].slot = SLOTS - 1;
    if (keep) memcpy(m.segments[0].keep, keep, sizeof m.segments[0].keep);
    f->dev->ops->batch_begin(f->dev, &m.batch);
    delta_pass(f, d, begin, end, out, NULL);
}

// States that a pass keeps on its way: who goes on from one gets the bits of the pass itself, which are those
// of one that kept nothing. Keeps so early that the convolution still sees what lies before the pass, inside
// the runs and stages of the devices and at their ends, behind the last but one token.
static void check_keeps(fixture *f, const delta_data *d, const float *whole, float *again)
{
    static const struct {
        uint32_t begin, first, second;
    } cases[] = {{0, 1, 0},  {0, 64, 128},  {0, 16, 17},         {5, 1, 2},   {5, 2, 3},
                 {64, 3, 4}, {100, 15, 33}, {128, 64, ONCE - 1}, {1, 48, 50}, {37, 5, ONCE - 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const uint32_t begin = cases[c].begin, end = begin + ONCE;
        const tc_keep keep[TC_KEEPS_MAX] = {{cases[c].first, 3}, {cases[c].second, cases[c].second ? 1 : 0}};
        for (uint32_t slot = 0; slot < SLOTS; slot++) f->dev->ops->slot_reset(f->dev, slot);
        delta_in_slot(f, d, 70, 200, 1, NULL, again); // somebody else's states lie where these go
        delta_in_slot(f, d, 200, 300, 3, NULL, again);
        if (begin) delta_in_slot(f, d, 0, begin, 2, NULL, again);
        memset(again, 0, (size_t)TOKENS * DELTA_ROW * sizeof *again);
        delta_in_slot(f, d, begin, end, 2, keep, again);
        const size_t at = (size_t)begin * DELTA_ROW;
        assert_memory_equal(again + at, whole + at, (size_t)ONCE * DELTA_ROW * sizeof *again);
        for (uint32_t k = 0; k < TC_KEEPS_MAX && keep[k].after; k++) {
            const uint32_t from = begin + keep[k].after, to = end + 30;
            memset(again, 0, (size_t)TOKENS * DELTA_ROW * sizeof *again);
            delta_in_slot(f, d, from, from + 1, keep[k].slot, NULL, again);
            delta_in_slot(f, d, from + 1, to, keep[k].slot, NULL, again);
            if (memcmp(again + (size_t)from * DELTA_ROW, whole + (size_t)from * DELTA_ROW,
                       (size_t)(to - from) * DELTA_ROW * sizeof *again) != 0)
                fail_msg("from %u, kept behind %u: other bits", begin, keep[k].after);
        }
    }
}

static void test_delta(void **state)
{
    fixture *f = *state;
    delta_data d = {.qkvz = random_floats((size_t)TOKENS * QKVZ),
                    .ba = random_floats((size_t)TOKENS * 2 * VALUE_HEADS),
                    .conv = random_floats((size_t)CONV * CHANNELS),
                    .neg_exp_a = random_floats(VALUE_HEADS),
                    .dt_bias = random_floats(VALUE_HEADS),
                    .norm = random_floats(DV)};
    for (int i = 0; i < VALUE_HEADS; i++) d.neg_exp_a[i] = -fabsf(d.neg_exp_a[i]);
    float *whole = random_floats((size_t)TOKENS * VALUE_HEADS * DV),
          *cut = random_floats((size_t)TOKENS * VALUE_HEADS * DV);
    run_delta(f, &d, ONCE, whole, NULL);
    for (int h = 0; h < VALUE_HEADS; h++) {
        static double expected[TOKENS * DV];
        static float got[TOKENS * DV];
        reference_delta_head(&d, h, expected);
        for (int t = 0; t < TOKENS; t++)
            memcpy(got + t * DV, whole + (t * VALUE_HEADS + h) * DV, DV * sizeof(float));
        assert_close(got, expected, TOKENS * DV, "delta");
    }
    fixture other = {.dev = f->other};
    const uint32_t chunks[] = {1, 2, 3, 64, 65, ONCE};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        run_delta(f, &d, chunks[i], cut, NULL);
        assert_memory_equal(cut, whole, (size_t)TOKENS * VALUE_HEADS * DV * sizeof *cut);
        run_delta(&other, &d, chunks[i], cut, NULL);
        assert_memory_equal(cut, whole, (size_t)TOKENS * VALUE_HEADS * DV * sizeof *cut);
    }
    for (uint32_t chunk = 1; chunk < 100; chunk += 66) {
        float *second = random_floats((size_t)TOKENS * VALUE_HEADS * DV);
        run_delta(f, &d, chunk, cut, second);
        assert_memory_equal(cut, whole, (size_t)TOKENS * VALUE_HEADS * DV * sizeof *cut);
        assert_memory_equal(second, whole, (size_t)TOKENS * VALUE_HEADS * DV * sizeof *cut);
        tc_free(second);
    }
    check_keeps(f, &d, whole, cut);
    float *all[] = {d.qkvz, d.ba, d.conv, d.neg_exp_a, d.dt_bias, d.norm, whole, cut};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
}

// ---- one group a device ----

static fixture current;

static int set_up_device(tc_precision precision, const char *isa, tc_kv_type kv, uint32_t threads)
{
    tc_error e;
    const tc_kernels *kernels;
    const tc_team_options team = {.threads = threads}, other = {.threads = threads == 1 ? 5 : 1};
    tc_dev_geometry g = geometry;
    tc_status status = tc_kernels_get(precision, isa, &kernels, &e);
    if (status == TC_UNSUPPORTED) return 1;
    assert_int_equal(status, TC_OK);
    g.kv_type = kv;
    current.fast = precision == TC_FAST;
    current.bound = kv == TC_KV_F16 ? HALF_BOUND : BOUND;
    assert_int_equal(tc_team_create(&team, &current.team, &e), TC_OK);
    assert_int_equal(tc_team_create(&other, &current.other_team, &e), TC_OK);
    assert_int_equal(tc_dev_cpu_create(&g, current.team, kernels, &current.dev, &e), TC_OK);
    assert_int_equal(tc_dev_cpu_create(&g, current.other_team, kernels, &current.other, &e), TC_OK);
    return 0;
}

static tc_status set_up_cuda(tc_error *e)
{
    const tc_cuda_library *cuda;
    char card[128];
    tc_cuda_options o = {.geometry = geometry,
                         .hidden = 4096,
                         .experts = 64,
                         .top_k = 6,
                         .tokens_max = TC_BATCH_TOKENS_MAX,
                         .vram_bytes = 4ull << 30};
    o.geometry.kv_type = TC_KV_F16;
    TC_TRY(tc_cuda_library_load(0, &cuda, card, e));
    current = (fixture){.bound = HALF_BOUND, .fast = true};
    TC_TRY(cuda->create(&o, &current.dev, e));
    return cuda->create(&o, &current.other, e);
}

// What start-up adds up before it takes anything.
static void test_bytes(void **state)
{
    const tc_dev_geometry *g = &((fixture *)*state)->dev->geometry;
    uint64_t row = 32 * (g->kv_type == TC_KV_F16 ? 2 : 4); // 20 dimensions, padded
    assert_int_equal(tc_dev_page_bytes(g), 2 * 2 * KV_HEADS * 64 * row);
    assert_true(tc_dev_slot_bytes(g) >= 2 * 4 * (VALUE_HEADS * DK * DV + (CONV - 1) * CHANNELS));
    assert_true(tc_dev_scratch_bytes(g, 4) > tc_dev_scratch_bytes(g, 1));
}

static const struct {
    const char *name, *isa;
    tc_precision precision;
    tc_kv_type kv;
    uint32_t threads;
} devices[] = {
    {"cpu exact", NULL, TC_EXACT, TC_KV_F32, 2},          {"cpu scalar", "scalar", TC_FLOAT, TC_KV_F32, 1},
    {"cpu scalar f16", "scalar", TC_FLOAT, TC_KV_F16, 3}, {"cpu avx2", "avx2", TC_FLOAT, TC_KV_F32, 3},
    {"cpu avx2 f16", "avx2", TC_FLOAT, TC_KV_F16, 1},     {"cpu avx512", "avx512", TC_FLOAT, TC_KV_F32, 2},
    {"cpu avx512 f16", "avx512", TC_FLOAT, TC_KV_F16, 1}, {"cpu fast", NULL, TC_FAST, TC_KV_F32, 2}};
enum { CUDA = sizeof devices / sizeof *devices };

// Why a device cannot be had here goes to `why`.
static bool set_up(size_t i, char why[TC_ERROR_TEXT_BYTES])
{
    tc_error e = {0};
    bool fine = i == CUDA
                    ? set_up_cuda(&e) == TC_OK
                    : !set_up_device(devices[i].precision, devices[i].isa, devices[i].kv, devices[i].threads);
    snprintf(why, TC_ERROR_TEXT_BYTES, "%s", i == CUDA ? e.text : "this CPU lacks it");
    return fine;
}

int main(int argc, char **argv)
{
    int failed = 0;
    const char *only = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i <= CUDA; i++) {
        const char *name = i == CUDA ? "cuda" : devices[i].name;
        char why[TC_ERROR_TEXT_BYTES];
        if (strncmp(name, only, strlen(only)) != 0) continue;
        srand(11);
        if (!set_up(i, why)) {
            print_message("[  SKIPPED ] %s: %s\n", name, why);
            if (*only) failed++;
            continue;
        }
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_rmsnorm, &current),
            cmocka_unit_test_prestate(test_matmul_with_bias, &current),
            cmocka_unit_test_prestate(test_quantised_matmul, &current),
            cmocka_unit_test_prestate(test_half_matmul, &current),
            cmocka_unit_test_prestate(test_route, &current),
            cmocka_unit_test_prestate(test_combine, &current),
            cmocka_unit_test_prestate(test_bytes, &current),
            cmocka_unit_test_prestate(test_attention, &current),
            cmocka_unit_test_prestate(test_delta, &current),
        };
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
        tc_dev_free(current.dev);
        tc_dev_free(current.other);
        tc_team_free(current.team);
        tc_team_free(current.other_team);
        current = (fixture){0};
    }
    return failed;
}
