// SPDX-License-Identifier: Apache-2.0
// Shows: what single families add to the device contract, against equations written again in double: windows,
// sinks, cut projections, rotary in pairs or scaled, latent keys; sigmoid routing with corrections and
// groups; a matrix a head; biases of experts; flat projections of the DeltaNet. For every device.
#include "common/base/team.h"
#include "gpu-core/dev/cuda_library.h"
#include "tests/contract/fixture.h"

#include <stdio.h>
#include <string.h>

enum { TOKENS = 300, PAGES = 8, DIM_MAX = 320 };

// ---- attention ----

typedef struct variant {
    const char *name;
    tc_dev_geometry g;
    uint32_t window;
    bool sinks, norm;
    float clip;
} variant;

#define PLAIN .heads = 6, .kv_heads = 2, .head_dim = 20, .rotary_dim = 8
#define LATENT .heads = 4, .kv_heads = 1, .head_dim = 40, .rotary_dim = 8, .rotary_at = 32, .value_dim = 32
// more dimensions, and more heads to a key, than tensor cores are used for
#define WIDE .heads = 66, .kv_heads = 1, .head_dim = 304, .rotary_dim = 16, .rotary_at = 288, .value_dim = 288

static const variant variants[] = {
    {"a window", {PLAIN, .rope = {.theta = 10000}}, .window = 40},
    {"a window beyond a chunk", {PLAIN, .rope = {.theta = 10000}}, .window = 270},
    {"a window of one", {PLAIN, .rope = {.theta = 10000}}, .window = 1},
    {"sinks", {PLAIN, .rope = {.theta = 10000}}, .sinks = true},
    {"sinks and a window, rotary scaled",
     {PLAIN, .rope = {.theta = 500, .amplitude = 1.3f}},
     .window = 100,
     .sinks = true},
    {"norms, then cut", {PLAIN, .rope = {.theta = 10000}}, .norm = true, .clip = 0.7f},
    {"YaRN, pairs, another scale",
     {PLAIN, .attn_scale = 0.3f,
      .rope = {.theta = 10000,
               .interleaved = true,
               .factor = 8,
               .beta_fast = 4,
               .beta_slow = 1,
               .original_positions = 64}}},
    {"latent keys",
     {LATENT, .attn_scale = 0.2f, .latent_eps = 1e-6f, .rope = {.theta = 10000, .interleaved = true}},
     .norm = true},
    {"latent keys and a window",
     {LATENT, .latent_eps = 1e-3f, .rope = {.theta = 10000}},
     .window = 60,
     .norm = true},
    {"wide latent keys",
     {WIDE, .attn_scale = 0.07f, .latent_eps = 1e-6f, .rope = {.theta = 10000, .interleaved = true}},
     .norm = true},
    {"wide latent keys, sinks and a window",
     {WIDE, .latent_eps = 1e-6f, .rope = {.theta = 10000}},
     .window = 50,
     .sinks = true,
     .norm = true},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

typedef struct data {
    const variant *v;
    float *q, *k, *values, *q_norm, *k_norm, *sinks;
    double *keys; // [TOKENS][kv_heads][dim] normed and rotated
} data;

// YaRN in double; plain where factor is 0.
static double frequency(const tc_rope *r, uint32_t i, uint32_t dim)
{
    double own = pow(r->theta, -2.0 * i / dim);
    if (r->factor == 0) return own;
    double low = dim * log(r->original_positions / (r->beta_fast * 2 * M_PI)) / (2 * log(r->theta));
    double high = dim * log(r->original_positions / (r->beta_slow * 2 * M_PI)) / (2 * log(r->theta));
    low = fmax(low, 0), high = fmin(high, dim - 1);
    double slowed = fmin(fmax((i - low) / (high - low), 0), 1);
    return own / r->factor * slowed + own * (1 - slowed);
}

static void reference_head(const variant *v, const float *x, const float *w, uint32_t normed, double eps,
                           uint32_t position, double *out)
{
    const tc_dev_geometry *g = &v->g;
    double sum = 0;
    for (uint32_t i = 0; i < normed; i++) sum += (double)x[i] * x[i];
    for (uint32_t i = 0; i < g->head_dim; i++) {
        out[i] = w && i < normed ? x[i] / sqrt(sum / normed + eps) * w[i] : x[i];
        if (v->clip > 0) out[i] = fmin(fmax(out[i], -v->clip), v->clip);
    }
    for (uint32_t i = 0; i < g->rotary_dim / 2; i++) {
        double angle = position * frequency(&g->rope, i, g->rotary_dim), m = tc_rope_amplitude(&g->rope);
        uint32_t one = g->rotary_at + (g->rope.interleaved ? 2 * i : i);
        uint32_t two = g->rope.interleaved ? one + 1 : one + g->rotary_dim / 2;
        double a = out[one], b = out[two];
        out[one] = (a * cos(angle) - b * sin(angle)) * m;
        out[two] = (b * cos(angle) + a * sin(angle)) * m;
    }
}

static void reference_keys(data *d)
{
    const tc_dev_geometry *g = &d->v->g;
    uint32_t normed = g->value_dim ? g->value_dim : g->head_dim;
    for (uint32_t i = 0; i < TOKENS * g->kv_heads; i++)
        reference_head(d->v, d->k + (size_t)i * g->head_dim, d->k_norm, normed,
                       g->value_dim ? (double)g->latent_eps : 1e-6, i / g->kv_heads,
                       d->keys + (size_t)i * g->head_dim);
}

static void reference_attention(const data *d, uint32_t t, uint32_t h, double *out)
{
    const tc_dev_geometry *g = &d->v->g;
    const uint32_t kv = h / (g->heads / g->kv_heads), dim = tc_dev_value_dim(g);
    const uint32_t first = d->v->window && t + 1 > d->v->window ? t + 1 - d->v->window : 0;
    double q[DIM_MAX], score[TOKENS], sum = d->sinks ? exp((double)d->sinks[h]) : 0;
    double scale = g->attn_scale != 0 ? (double)g->attn_scale : 1 / sqrt(g->head_dim);
    reference_head(d->v, d->q + ((size_t)t * g->heads + h) * g->head_dim, g->value_dim ? NULL : d->q_norm,
                   g->head_dim, 1e-6, t, q);
    memset(out, 0, dim * sizeof *out);
    for (uint32_t j = first; j <= t; j++) {
        const double *k = d->keys + ((size_t)j * g->kv_heads + kv) * g->head_dim;
        score[j] = 0;
        for (uint32_t i = 0; i < g->head_dim; i++) score[j] += q[i] * k[i];
        sum += score[j] = exp(score[j] * scale);
    }
    for (uint32_t j = first; j <= t; j++)
        for (uint32_t i = 0; i < dim; i++) {
            size_t at = ((size_t)j * g->kv_heads + kv) * g->head_dim + i;
            double value = g->value_dim ? d->keys[at] : (double)d->values[at];
            if (!g->value_dim && d->v->clip > 0)
                value = fmin(fmax(value, -(double)d->v->clip), (double)d->v->clip);
            out[i] += score[j] / sum * value;
        }
}

// Tokens in chunks; out [TOKENS][heads][value dim].
static void run(fixture *f, const data *d, uint32_t chunk, float *out)
{
    const tc_dev_geometry *g = &d->v->g;
    const size_t q_row = (size_t)g->heads * g->head_dim, kv_row = (size_t)g->kv_heads * g->head_dim,
                 row = (size_t)g->heads * tc_dev_value_dim(g);
    static uint32_t pages[PAGES] = {5, 2, 7, 0, 3, 6, 1, 4}, position[TOKENS], segment[TOKENS];
    for (uint32_t begin = 0; begin < TOKENS; begin += chunk) {
        uint32_t n = TOKENS - begin < chunk ? TOKENS - begin : chunk;
        const tc_segment whole = {0, n, begin, pages, 0};
        const tc_batch batch = {n, 1, position, position, segment, &whole};
        for (uint32_t i = 0; i < n; i++) position[i] = begin + i;
        f->dev->ops->batch_begin(f->dev, &batch);
        const tc_attention_args args = {
            .q = put(f, d->q + begin * q_row, n * q_row * sizeof(float)),
            .k = put(f, d->k + begin * kv_row, n * kv_row * sizeof(float)),
            .v = put(f, d->values + begin * kv_row, n * kv_row * sizeof(float)),
            .q_norm = d->q_norm && !g->value_dim ? put(f, d->q_norm, g->head_dim * sizeof(float)) : NULL,
            .k_norm = d->k_norm ? put(f, d->k_norm, g->head_dim * sizeof(float)) : NULL,
            .clip = d->v->clip,
            .window = d->v->window,
            .sinks = d->sinks ? put(f, d->sinks, g->heads * sizeof(float)) : NULL,
            .out = put(f, out + begin * row, n * row * sizeof(float))};
        f->dev->ops->attention(f->dev, &args);
        back(f, out + begin * row, args.out, n * row * sizeof(float));
        clear(f);
    }
}

static void check_variant(fixture *f, const variant *v)
{
    const tc_dev_geometry *g = &v->g;
    const size_t dim = tc_dev_value_dim(g), all = (size_t)TOKENS * g->heads * dim;
    const size_t keys = (size_t)TOKENS * g->kv_heads * g->head_dim;
    data d = {.v = v,
              .q = random_floats((size_t)TOKENS * g->heads * g->head_dim),
              .k = random_floats(keys),
              .values = random_floats(keys),
              .q_norm = v->norm ? random_floats(g->head_dim) : NULL,
              .k_norm = v->norm ? random_floats(g->head_dim) : NULL,
              .sinks = v->sinks ? random_floats(g->heads) : NULL,
              .keys = tc_alloc(TC_MEM_OTHER, keys, sizeof(double))};
    float *whole = random_floats(all), *cut = random_floats(all);
    static const uint32_t chunks[] = {100, 1, 65};
    reference_keys(&d);
    run(f, &d, 250, whole);
    for (uint32_t t = 0; t < TOKENS; t += t % 64 == 62 ? 1 : 31)
        for (uint32_t h = 0; h<g->heads; h += g->heads> 8 ? 65 : 1) {
            double expected[DIM_MAX];
            reference_attention(&d, t, h, expected);
            assert_within(f->bound, whole + ((size_t)t * g->heads + h) * dim, expected, dim, v->name);
        }
    fixture other = {.dev = f->other};
    const size_t cuts = g->heads > 8 ? 1 : sizeof chunks / sizeof *chunks;
    for (size_t i = 0; i < cuts; i++) { // the same bits however a prompt is cut
        run(i % 2 ? f : &other, &d, chunks[i], cut);
        if (memcmp(cut, whole, all * sizeof *cut) != 0)
            fail_msg("%s: other bits in chunks of %u", v->name, chunks[i]);
    }
    void *mine[] = {d.q, d.k, d.values, d.q_norm, d.k_norm, d.sinks, d.keys, whole, cut};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) tc_free(mine[i]);
}

// ---- routing ----

typedef struct route_case {
    bool correction, renormalise;
    uint32_t groups, top_groups;
    float scale;
} route_case;

// The expert that ranks k-th: by the correction, of the groups that count.
static void reference_route(const route_case *c, const float *logits, const float *correction,
                            uint32_t experts, uint32_t top_k, uint32_t *expert, double *weight)
{
    double score[64], sum = 0;
    uint32_t each = c->groups ? experts / c->groups : experts;
    for (uint32_t i = 0; i < experts; i++)
        score[i] = 1 / (1 + exp(-(double)logits[i])) + (c->correction ? (double)correction[i] : 0);
    double group[16];
    for (uint32_t g = 0; g < c->groups; g++) {
        double first = -1e9, second = -1e9;
        for (uint32_t i = g * each; i < (g + 1) * each; i++) {
            second = fmax(second, fmin(first, score[i]));
            first = fmax(first, score[i]);
        }
        group[g] = first + second;
    }
    for (uint32_t g = 0; g < c->groups; g++) {
        uint32_t above = 0;
        for (uint32_t i = 0; i < c->groups; i++) above += group[i] > group[g];
        for (uint32_t i = g * each; above >= c->top_groups && i < (g + 1) * each; i++) score[i] = -1e9;
    }
    for (uint32_t i = 0; i < experts; i++) {
        uint32_t above = 0;
        for (uint32_t j = 0; j < experts; j++) above += score[j] > score[i];
        if (above < top_k) expert[above] = i;
    }
    for (uint32_t k = 0; k < top_k; k++) sum += weight[k] = 1 / (1 + exp(-(double)logits[expert[k]]));
    for (uint32_t k = 0; k < top_k; k++) weight[k] *= (double)c->scale / (c->renormalise ? sum : 1);
}

static void test_sigmoid_route(void **state)
{
    fixture *f = *state;
    enum { N = 9, EXPERTS = 40, TOP_K = 6 };
    static const route_case cases[] = {
        {false, false, 0, 0, 1}, {true, true, 0, 0, 2.5f}, {true, true, 8, 3, 2.5f}, {true, false, 4, 1, 1}};
    float *logits = random_floats(N * EXPERTS), *correction = random_floats(EXPERTS), weight[N * TOP_K] = {0};
    uint32_t expert[N * TOP_K] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const tc_route_args args = {
            .logits = put(f, logits, N * EXPERTS * sizeof *logits),
            .n = N,
            .experts = EXPERTS,
            .top_k = TOP_K,
            .scoring = TC_SCORE_SIGMOID,
            .renormalise = cases[i].renormalise,
            .correction = cases[i].correction ? put(f, correction, EXPERTS * sizeof(float)) : NULL,
            .groups = cases[i].groups,
            .top_groups = cases[i].top_groups,
            .scale = cases[i].scale,
            .expert = put(f, expert, sizeof expert),
            .weight = put(f, weight, sizeof weight)};
        f->dev->ops->route(f->dev, &args);
        back(f, expert, args.expert, sizeof expert);
        back(f, weight, args.weight, sizeof weight);
        clear(f);
        for (int t = 0; t < N; t++) {
            uint32_t chosen[TOP_K];
            double expected[TOP_K];
            reference_route(&cases[i], logits + t * EXPERTS, correction, EXPERTS, TOP_K, chosen, expected);
            assert_memory_equal(expert + t * TOP_K, chosen, sizeof chosen);
            assert_close(weight + t * TOP_K, expected, TOP_K, "sigmoid route");
        }
    }
    tc_free(logits);
    tc_free(correction);
}

// ---- a matrix a head, biases of experts ----

static void test_heads(void **state)
{
    fixture *f = *state;
    enum {
        N = 5,
        HEADS = 6,
        ROWS = 32,
        COLS = 20,
        COPIED = 4,
        IN = COLS + COPIED + 3,
        OUT = ROWS + COPIED + 2
    };
    float *weights = random_floats(HEADS * ROWS * COLS), *x = random_floats(N * HEADS * IN),
          y[N * HEADS * OUT];
    for (int half = 0; half < 2; half++) {
        tc_weight weight = {
            .rows = HEADS * ROWS, .cols = COLS, .dtype = half ? TC_BF16 : TC_F32, .data = weights};
        tc_matrix m;
        tc_error e;
        assert_int_equal(f->dev->ops->matrix(f->dev, &weight, NULL, &m, &e), TC_OK);
        for (int i = 0; i < N * HEADS * OUT; i++) y[i] = 77;
        const tc_heads_args args = {.w = &m,
                                    .heads = HEADS,
                                    .rows = ROWS,
                                    .copied = COPIED,
                                    .x = put(f, x, N * HEADS * IN * sizeof *x),
                                    .ldx = HEADS * IN,
                                    .head_x = IN,
                                    .y = put(f, y, sizeof y),
                                    .ldy = HEADS * OUT,
                                    .head_y = OUT};
        f->dev->ops->heads(f->dev, &args, N);
        back(f, y, args.y, sizeof y);
        for (int i = 0; i < N * HEADS; i++) {
            double expected[OUT] = {0};
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < COLS; c++) {
                    float w;
                    tc_weight_dequantise(&weight, ((uint64_t)(i % HEADS) * ROWS + r) * COLS + c, 1, &w);
                    expected[r] += (double)w * x[i * IN + c];
                }
            for (int c = 0; c < COPIED; c++) expected[ROWS + c] = x[i * IN + COLS + c];
            for (int c = ROWS + COPIED; c < OUT; c++) expected[c] = 77; // nobody's
            assert_close(y + i * OUT, expected, ROWS + COPIED, "heads");
            assert_true(y[i * OUT + OUT - 1] == 77 && y[i * OUT + OUT - 2] == 77);
        }
        f->dev->ops->release(f->dev, (void *)m.data);
        clear(f);
        uint16_t *bits = (uint16_t *)weights; // as bfloat16 next: numbers whose upper halves are finite
        for (int i = 0; i < HEADS * ROWS * COLS; i++)
            bits[i] = (uint16_t)(0x3e00 + rand() % 512 + (rand() & 1) * 0x8000);
    }
    tc_free(weights);
    tc_free(x);
}

static void test_expert_bias(void **state)
{
    fixture *f = *state;
    enum { N = 4, TOP_K = 3, EXPERTS = 7, WIDTH = 50 };
    float *bias = random_floats(EXPERTS * WIDTH), *weight = random_floats(N * TOP_K), out[N * WIDTH] = {0};
    uint32_t expert[N * TOP_K];
    double expected[N * WIDTH] = {0};
    for (int i = 0; i < N * TOP_K; i++) {
        expert[i] = (uint32_t)(i * 3 % EXPERTS);
        for (int c = 0; c < WIDTH; c++)
            expected[i / TOP_K * WIDTH + c] += (double)weight[i] * bias[expert[i] * WIDTH + (uint32_t)c];
    }
    float *to = put(f, out, sizeof out);
    f->dev->ops->expert_bias(f->dev, put(f, bias, EXPERTS * WIDTH * sizeof *bias),
                             put(f, expert, sizeof expert), put(f, weight, N * TOP_K * sizeof *weight), N,
                             TOP_K, WIDTH, to);
    back(f, out, to, sizeof out);
    // and a shared part that nothing is multiplied with
    float *x = random_floats(N * WIDTH), *px = put(f, x, sizeof out);
    f->dev->ops->combine(f->dev, px, NULL, to, NULL, 0, N, WIDTH, NULL, NULL);
    float sum[N * WIDTH];
    back(f, sum, px, sizeof sum);
    clear(f);
    assert_close(out, expected, N * WIDTH, "expert biases");
    for (int i = 0; i < N * WIDTH; i++) assert_true(sum[i] == x[i] + out[i]);
    tc_free(bias);
    tc_free(weight);
    tc_free(x);
}

// ---- the DeltaNet's two layouts ----

enum {
    KEY_HEADS = 2,
    RATIO = 2,
    DK = 12,
    DV = 16,
    CONV = 4,
    VALUE_HEADS = KEY_HEADS * RATIO,
    DN_TOKENS = 70
};
enum { QKVZ = 2 * KEY_HEADS * DK + 2 * VALUE_HEADS * DV, CHANNELS = 2 * KEY_HEADS * DK + VALUE_HEADS * DV };

static void move(float *to, tc_span_at to_at, const float *from, tc_span_at from_at, uint32_t count)
{
    for (uint32_t h = 0; h < KEY_HEADS; h++)
        memcpy(to + to_at.first + h * to_at.step, from + from_at.first + h * from_at.step,
               count * sizeof *to);
}

static void run_delta(fixture *f, tc_delta_args args, const float *qkvz, const float *ba, uint32_t chunk,
                      float *out)
{
    static uint32_t position[DN_TOKENS], segment[DN_TOKENS], pages[PAGES];
    f->dev->ops->slot_reset(f->dev, 0);
    for (uint32_t begin = 0; begin < DN_TOKENS; begin += chunk) {
        uint32_t n = DN_TOKENS - begin < chunk ? DN_TOKENS - begin : chunk;
        const tc_segment whole = {0, n, begin, pages, 0};
        const tc_batch batch = {n, 1, position, position, segment, &whole};
        const size_t row = VALUE_HEADS * DV, bytes = n * row * sizeof(float);
        for (uint32_t i = 0; i < n; i++) position[i] = begin + i;
        f->dev->ops->batch_begin(f->dev, &batch);
        args.qkvz = put(f, qkvz + (size_t)begin * QKVZ, n * QKVZ * sizeof(float));
        args.ba = put(f, ba + (size_t)begin * 2 * VALUE_HEADS, (size_t)n * 2 * VALUE_HEADS * sizeof(float));
        args.out = put(f, out + begin * row, bytes);
        f->dev->ops->delta(f->dev, &args);
        back(f, out + begin * row, args.out, bytes);
        for (int i = 0; i < 3; i++) f->dev->ops->release(f->dev, f->placed[--f->placed_count].memory);
    }
}

static void test_flat_delta(void **state)
{
    fixture *f = *state;
    float *grouped = random_floats(DN_TOKENS * QKVZ), *flat = random_floats(DN_TOKENS * QKVZ);
    float *grouped_ba = random_floats(DN_TOKENS * 2 * VALUE_HEADS),
          *flat_ba = random_floats(DN_TOKENS * 2 * VALUE_HEADS);
    float *conv = random_floats(CONV * CHANNELS), *numbers = random_floats(VALUE_HEADS + DV),
          decay[VALUE_HEADS];
    static float one[DN_TOKENS * VALUE_HEADS * DV], two[DN_TOKENS * VALUE_HEADS * DV];
    for (int i = 0; i < VALUE_HEADS; i++) decay[i] = -fabsf(numbers[i]);
    tc_delta_args args = {.conv = put(f, conv, CONV * CHANNELS * sizeof *conv),
                          .neg_exp_a = put(f, decay, sizeof decay),
                          .dt_bias = put(f, numbers, VALUE_HEADS * sizeof(float)),
                          .norm = put(f, numbers + VALUE_HEADS, DV * sizeof(float))};
    tc_delta_args other = args;
    tc_delta_spans(&f->dev->geometry, false, &args);
    tc_delta_spans(&f->dev->geometry, true, &other);
    for (int t = 0; t < DN_TOKENS; t++) {
        float *to = flat + t * QKVZ, *to_ba = flat_ba + t * 2 * VALUE_HEADS;
        const float *from = grouped + t * QKVZ, *from_ba = grouped_ba + t * 2 * VALUE_HEADS;
        move(to, other.q, from, args.q, DK);
        move(to, other.k, from, args.k, DK);
        move(to, other.v, from, args.v, RATIO * DV);
        move(to, other.z, from, args.z, RATIO * DV);
        move(to_ba, other.b, from_ba, args.b, RATIO);
        move(to_ba, other.a, from_ba, args.a, RATIO);
    }
    // flat is as the checkpoints have it: all q, all k, all v, all z
    assert_memory_equal(flat + DK, grouped + 2 * DK + 2 * RATIO * DV, DK * sizeof *flat);
    assert_memory_equal(flat + KEY_HEADS * DK, grouped + DK, DK * sizeof *flat);
    for (uint32_t chunk = 1; chunk < 50; chunk += 40) {
        run_delta(f, args, grouped, grouped_ba, chunk, one);
        run_delta(f, other, flat, flat_ba, chunk, two);
        assert_memory_equal(one, two, sizeof one);
    }
    clear(f);
    void *all[] = {grouped, flat, grouped_ba, flat_ba, conv, numbers};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
}

// ---- one group a device ----

static const struct {
    const char *name, *isa;
    tc_precision precision;
    tc_kv_type kv;
    uint32_t threads;
} devices[] = {{"cpu exact", NULL, TC_EXACT, TC_KV_F32, 2},
               {"cpu scalar f16", "scalar", TC_FLOAT, TC_KV_F16, 1},
               {"cpu avx2", "avx2", TC_FLOAT, TC_KV_F32, 3},
               {"cpu avx512 f16", "avx512", TC_FLOAT, TC_KV_F16, 2},
               {"cpu fast", NULL, TC_FAST, TC_KV_F32, 2}};
enum { CUDA = sizeof devices / sizeof *devices };

static fixture current;

static void tear_down(void)
{
    tc_dev_free(current.dev);
    tc_dev_free(current.other);
    tc_team_free(current.team);
    tc_team_free(current.other_team);
    current = (fixture){0};
}

static tc_status set_up_cpu(size_t i, const tc_dev_geometry *g, tc_error *e)
{
    const tc_kernels *kernels;
    const tc_team_options team = {.threads = devices[i].threads},
                          other = {.threads = devices[i].threads == 1 ? 5 : 1};
    current = (fixture){.bound = g->kv_type == TC_KV_F16 ? HALF_BOUND : BOUND};
    TC_TRY(tc_kernels_get(devices[i].precision, devices[i].isa, &kernels, e));
    TC_TRY(tc_team_create(&team, &current.team, e));
    TC_TRY(tc_team_create(&other, &current.other_team, e));
    TC_TRY(tc_dev_cpu_create(g, current.team, kernels, &current.dev, e));
    return tc_dev_cpu_create(g, current.other_team, kernels, &current.other, e);
}

static tc_status set_up_cuda(const tc_dev_geometry *g, tc_error *e)
{
    const tc_cuda_library *cuda;
    char card[128];
    const tc_cuda_options o = {.geometry = *g,
                               .hidden = 4096,
                               .experts = 64,
                               .top_k = 6,
                               .tokens_max = TC_BATCH_TOKENS_MAX,
                               .vram_bytes = 4ull << 30};
    current = (fixture){.bound = HALF_BOUND};
    TC_TRY(tc_cuda_library_load(0, &cuda, card, e));
    TC_TRY(cuda->create(&o, &current.dev, e));
    return cuda->create(&o, &current.other, e);
}

static tc_status set_up(size_t device, const tc_dev_geometry *wanted, tc_error *e)
{
    tc_dev_geometry g = *wanted;
    g.kv_layers = 1;
    g.rms_eps = 1e-6f;
    g.matmul_cols_max = 512;
    g.positions_max = TOKENS;
    g.pages = PAGES;
    g.slots = 1;
    g.kv_type = device == CUDA ? TC_KV_F16 : devices[device].kv;
    return device == CUDA ? set_up_cuda(&g, e) : set_up_cpu(device, &g, e);
}

// Every variant has a geometry, and so a device, of its own.
static size_t tested;
static void test_attention(void **state)
{
    (void)state;
    for (size_t v = 0; v < VARIANTS; v++) {
        tc_error e = {0};
        if (set_up(tested, &variants[v].g, &e) != TC_OK) fail_msg("%s: %s", variants[v].name, e.text);
        check_variant(&current, &variants[v]);
        tear_down();
    }
}

int main(void)
{
    static const tc_dev_geometry plain = {PLAIN,
                                          .rope = {.theta = 10000},
                                          .dn_key_heads = KEY_HEADS,
                                          .dn_value_heads = VALUE_HEADS,
                                          .dn_key_dim = DK,
                                          .dn_value_dim = DV,
                                          .dn_conv = CONV,
                                          .dn_layers = 1};
    int failed = 0;
    for (tested = 0; tested <= CUDA; tested++) {
        const char *name = tested == CUDA ? "cuda" : devices[tested].name;
        tc_error e = {0};
        srand(12);
        if (set_up(tested, &plain, &e) != TC_OK) {
            print_message("[  SKIPPED ] %s: %s\n", name, e.text);
            tear_down();
            continue;
        }
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_sigmoid_route, &current),
            cmocka_unit_test_prestate(test_heads, &current),
            cmocka_unit_test_prestate(test_expert_bias, &current),
            cmocka_unit_test_prestate(test_flat_delta, &current),
        };
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
        tear_down();
        const struct CMUnitTest attention[] = {cmocka_unit_test(test_attention)};
        failed += cmocka_run_group_tests_name(name, attention, NULL, NULL);
    }
    return failed;
}
