// SPDX-License-Identifier: Apache-2.0
// Shows: the device contract (gpu-core/dev/dev.h), operator by operator, against equations written again in
// double, and that a token's result depends on its own session's past only: prompts cut anywhere give the
// same bits. Instantiated for every device and kernel table this machine can run.
#include "common/base/team.h"
#include "gpu-core/dev/dev.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
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
    SLOTS = 3,
    CONTEXT = 704,
    TOKENS = 600,
    ONCE = 250
}; // ONCE: as many as a batch takes here
enum { CHANNELS = 2 * KEY_HEADS * DK + VALUE_HEADS * DV, RATIO = VALUE_HEADS / KEY_HEADS };
enum { QKVZ = KEY_HEADS * (2 * DK + 2 * RATIO * DV) };

// float32 sums of a few hundred terms; keys and values rounded to 11 bits
static const double BOUND = 2e-5, HALF_BOUND = 2e-3;

static const tc_dev_geometry geometry = {
    .heads = HEADS,
    .kv_heads = KV_HEADS,
    .head_dim = DIM,
    .rotary_dim = ROTARY,
    .kv_layers = 2,
    .rope_theta = 10000,
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

// One device, and another that differs in nothing but the number of its threads.
typedef struct fixture {
    tc_team *team, *other_team;
    tc_dev *dev, *other;
    double bound; // of the largest value
} fixture;

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static float *random_floats(size_t n)
{
    float *x = tc_alloc(TC_MEM_OTHER, n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = noise();
    return x;
}

static void assert_within(double bound, const float *got, const double *expected, size_t n, const char *what)
{
    double most = 1e-30, worst = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(expected[i]));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) fail_msg("%s: element %zu is not finite", what, i);
        worst = fmax(worst, fabs(got[i] - expected[i]) / most);
    }
    if (worst > bound) fail_msg("%s: error %.3g of the largest value, bound %.3g", what, worst, bound);
}

static void assert_close(const float *got, const double *expected, size_t n, const char *what)
{
    assert_within(BOUND, got, expected, n, what);
}

// A batch of one session's tokens [begin, end), beside it one token of another session at position 0.
typedef struct batch_memory {
    uint32_t ids[TC_BATCH_TOKENS_MAX], position[TC_BATCH_TOKENS_MAX], segment[TC_BATCH_TOKENS_MAX],
        pages[2][12];
    tc_segment segments[2];
    tc_batch batch;
} batch_memory;

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
    f->dev->ops->rmsnorm(f->dev, x, w, N, WIDTH, y);
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
    const tc_weight weight = {.rows = ROWS, .cols = COLS, .dtype = TC_F32, .data = data};
    tc_matrix m;
    tc_error e;
    assert_int_equal(f->dev->ops->matrix(f->dev, &weight, NULL, &m, &e), TC_OK);
    const tc_matmul_job jobs[2] = {{&m, x, COLS, y, LDY, bias}, {&m, x, COLS, y, LDY, bias}};
    for (uint32_t count = 1; count <= 2; count++) {
        for (int i = 0; i < N * LDY; i++) y[i] = NAN;
        f->dev->ops->matmul(f->dev, jobs, count, N);
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
    tc_free(data);
    tc_free(x);
    tc_free(bias);
}

static void test_route(void **state)
{
    fixture *f = *state;
    enum { N = 9, EXPERTS = 40, TOP_K = 6 };
    float *logits = random_floats(N * EXPERTS), weight[N * TOP_K];
    uint32_t expert[N * TOP_K];
    for (int renormalise = 0; renormalise < 2; renormalise++) {
        f->dev->ops->route(f->dev, logits, N, EXPERTS, TOP_K, renormalise, expert, weight);
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
    f->dev->ops->combine(f->dev, x, sum, shared, gate, 1, N, WIDTH, NULL, NULL);
    assert_close(x, expected, N * WIDTH, "combine");
    // then with a norm behind it, and add with one: the same bits as the two operators
    float *w = random_floats(WIDTH), y[N * WIDTH], normed[N * WIDTH], apart[N * WIDTH];
    memcpy(y, x, sizeof y);
    f->dev->ops->combine(f->dev, x, sum, shared, gate, 1, N, WIDTH, NULL, NULL);
    f->dev->ops->combine(f->dev, y, sum, shared, gate, 1, N, WIDTH, w, normed);
    f->dev->ops->rmsnorm(f->dev, x, w, N, WIDTH, apart);
    assert_memory_equal(x, y, sizeof y);
    assert_memory_equal(normed, apart, sizeof normed);
    for (int i = 0; i < N * WIDTH; i++) expected[i] = (double)x[i] + shared[i];
    f->dev->ops->add(f->dev, x, shared, N, WIDTH, w, normed);
    f->dev->ops->rmsnorm(f->dev, x, w, N, WIDTH, apart);
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

// Runs all tokens through the device in chunks; out [TOKENS][HEADS][DIM].
static void run_attention(fixture *f, const attention_data *a, uint32_t chunk, float *out)
{
    uint32_t q_row = HEADS * DIM * (a->gated ? 2 : 1), kv_row = KV_HEADS * DIM;
    for (uint32_t begin = 0; begin < TOKENS; begin += chunk) {
        uint32_t end = begin + chunk < TOKENS ? begin + chunk : TOKENS, n = end - begin;
        batch_memory m;
        float *q = random_floats((size_t)(n + 1) * q_row), *k = random_floats((size_t)(n + 1) * kv_row),
              *v = random_floats((size_t)(n + 1) * kv_row), *y = random_floats((size_t)(n + 1) * HEADS * DIM);
        memcpy(q, a->q + (size_t)begin * q_row, (size_t)n * q_row * sizeof *q);
        memcpy(k, a->k + (size_t)begin * kv_row, (size_t)n * kv_row * sizeof *k);
        memcpy(v, a->v + (size_t)begin * kv_row, (size_t)n * kv_row * sizeof *v);
        begin_batch(f, &m, begin, end);
        const tc_attention_args args = {1, q, k, v, a->q_norm, a->k_norm, a->gated, y};
        f->dev->ops->attention(f->dev, &args);
        memcpy(out + (size_t)begin * HEADS * DIM, y, (size_t)n * HEADS * DIM * sizeof *y);
        tc_free(q);
        tc_free(k);
        tc_free(v);
        tc_free(y);
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
        run_attention(f, &a, ONCE, whole);
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
            run_attention(f, &a, chunks[i], cut);
            assert_memory_equal(cut, whole, (size_t)TOKENS * HEADS * DIM * sizeof *cut);
            run_attention(&other, &a, chunks[i], cut);
            assert_memory_equal(cut, whole, (size_t)TOKENS * HEADS * DIM * sizeof *cut);
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

static void run_delta(fixture *f, const delta_data *d, uint32_t chunk, float *out)
{
    f->dev->ops->slot_reset(f->dev, 1);
    for (uint32_t begin = 0; begin < TOKENS; begin += chunk) {
        uint32_t end = begin + chunk < TOKENS ? begin + chunk : TOKENS, n = end - begin;
        batch_memory m;
        float *qkvz = random_floats((size_t)(n + 1) * QKVZ),
              *ba = random_floats((size_t)(n + 1) * 2 * VALUE_HEADS),
              *y = random_floats((size_t)(n + 1) * VALUE_HEADS * DV);
        memcpy(qkvz, d->qkvz + (size_t)begin * QKVZ, (size_t)n * QKVZ * sizeof *qkvz);
        memcpy(ba, d->ba + (size_t)begin * 2 * VALUE_HEADS, (size_t)n * 2 * VALUE_HEADS * sizeof *ba);
        begin_batch(f, &m, begin, end);
        const tc_delta_args args = {1, qkvz, ba, d->conv, d->neg_exp_a, d->dt_bias, d->norm, y};
        f->dev->ops->delta(f->dev, &args);
        memcpy(out + (size_t)begin * VALUE_HEADS * DV, y, (size_t)n * VALUE_HEADS * DV * sizeof *y);
        tc_free(qkvz);
        tc_free(ba);
        tc_free(y);
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
    run_delta(f, &d, ONCE, whole);
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
        run_delta(f, &d, chunks[i], cut);
        assert_memory_equal(cut, whole, (size_t)TOKENS * VALUE_HEADS * DV * sizeof *cut);
        run_delta(&other, &d, chunks[i], cut);
        assert_memory_equal(cut, whole, (size_t)TOKENS * VALUE_HEADS * DV * sizeof *cut);
    }
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
    current.bound = kv == TC_KV_F16 ? HALF_BOUND : BOUND;
    assert_int_equal(tc_team_create(&team, &current.team, &e), TC_OK);
    assert_int_equal(tc_team_create(&other, &current.other_team, &e), TC_OK);
    assert_int_equal(tc_dev_cpu_create(&g, current.team, kernels, &current.dev, &e), TC_OK);
    assert_int_equal(tc_dev_cpu_create(&g, current.other_team, kernels, &current.other, &e), TC_OK);
    return 0;
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

int main(void)
{
    static const struct {
        const char *name, *isa;
        tc_precision precision;
        tc_kv_type kv;
        uint32_t threads;
    } devices[] = {{"cpu exact", NULL, TC_EXACT, TC_KV_F32, 2},
                   {"cpu scalar", "scalar", TC_FLOAT, TC_KV_F32, 1},
                   {"cpu scalar f16", "scalar", TC_FLOAT, TC_KV_F16, 3},
                   {"cpu avx2", "avx2", TC_FLOAT, TC_KV_F32, 3},
                   {"cpu avx2 f16", "avx2", TC_FLOAT, TC_KV_F16, 1},
                   {"cpu avx512", "avx512", TC_FLOAT, TC_KV_F32, 2},
                   {"cpu avx512 f16", "avx512", TC_FLOAT, TC_KV_F16, 1},
                   {"cpu fast", NULL, TC_FAST, TC_KV_F32, 2}};
    int failed = 0;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        srand(11);
        if (set_up_device(devices[i].precision, devices[i].isa, devices[i].kv, devices[i].threads)) {
            print_message("[  SKIPPED ] %s: this CPU lacks it\n", devices[i].name);
            continue;
        }
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_rmsnorm, &current),
            cmocka_unit_test_prestate(test_matmul_with_bias, &current),
            cmocka_unit_test_prestate(test_route, &current),
            cmocka_unit_test_prestate(test_combine, &current),
            cmocka_unit_test_prestate(test_bytes, &current),
            cmocka_unit_test_prestate(test_attention, &current),
            cmocka_unit_test_prestate(test_delta, &current),
        };
        failed += cmocka_run_group_tests_name(devices[i].name, tests, NULL, NULL);
        tc_dev_free(current.dev);
        tc_dev_free(current.other);
        tc_team_free(current.team);
        tc_team_free(current.other_team);
    }
    return failed;
}
