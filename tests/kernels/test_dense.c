// SPDX-License-Identifier: Apache-2.0
// Shows: every routine of every dense table this CPU can run against plain C on random input of awkward
// lengths; that an element's bits do not depend on the tile it was computed in; that nothing behind the end
// is touched; and, with --bench [THREADS], how fast attention, DeltaNet and the small operators of the cpu
// device are.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/kernels/bandwidth.h"
#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/dev.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 600, GUARD = 16 };
static const float MARK = 12345;
static const uint32_t lengths[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 128, 257};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static void fill(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = noise() * scale;
}

static void mark(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < GUARD; i++) x[n + i] = MARK;
}

static void assert_marked(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < GUARD; i++) assert_true(x[n + i] == MARK);
}

// Errors are measured against the largest value.
static void assert_close(const float *got, const float *expected, size_t n, double bound, const char *what)
{
    double most = 1e-30, worst = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)expected[i]));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) fail_msg("%s: element %zu of %zu is not finite", what, i, n);
        worst = fmax(worst, fabs((double)got[i] - expected[i]) / most);
    }
    if (worst > bound) fail_msg("%s of %zu: error %.3g, bound %.3g", what, n, worst, bound);
}

// ---- element-wise routines ----

static void test_unary(void **state)
{
    const tc_dense *d = *state, *p = &tc_dense_plain;
    static float x[MOST], y[MOST], w[MOST], a[MOST], b[MOST];
    for (int l = 0; l < LENGTHS; l++) {
        uint32_t n = lengths[l];
        fill(x, n, 8);
        fill(y, n, 8);
        fill(w, n, 1);
        mark(a, n);
        d->scale(x, 0.3f, w, n, a);
        p->scale(x, 0.3f, w, n, b);
        assert_close(a, b, n, 1e-6, "scale");
        d->scale(x, 0.3f, NULL, n, a);
        p->scale(x, 0.3f, NULL, n, b);
        assert_close(a, b, n, 1e-6, "scale without multiplier");
        d->scale_gate(x, 0.7f, y, n, a);
        p->scale_gate(x, 0.7f, y, n, b);
        assert_close(a, b, n, 1e-6, "scale_gate");
        d->gated_norm(x, 0.7f, w, y, n, a);
        p->gated_norm(x, 0.7f, w, y, n, b);
        assert_close(a, b, n, 1e-6, "gated_norm");
        memcpy(a, x, n * sizeof *a);
        memcpy(b, x, n * sizeof *b);
        d->add(a, y, n);
        p->add(b, y, n);
        assert_memory_equal(a, b, n * sizeof *a);
        assert_marked(a, n);
        float sum = d->squares(x, n), expected = p->squares(x, n);
        assert_close(&sum, &expected, 1, 1e-6, "squares");
        sum = d->sum_exp(x, 8, 0.7f, n);
        expected = p->sum_exp(x, 8, 0.7f, n);
        assert_close(&sum, &expected, 1, 2e-6, "sum_exp");
    }
}

static void test_rotate(void **state)
{
    const tc_dense *d = *state;
    static float x[MOST], a[MOST], b[MOST], c[MOST], s[MOST];
    for (int l = 0; l < LENGTHS; l++) {
        uint32_t half = lengths[l];
        fill(x, 2 * half, 1);
        fill(c, half, 1);
        fill(s, half, 1);
        memcpy(a, x, 2 * half * sizeof *a);
        memcpy(b, x, 2 * half * sizeof *b);
        mark(a, 2 * half);
        d->rotate(a, c, s, half);
        tc_dense_plain.rotate(b, c, s, half);
        assert_close(a, b, 2 * half, 1e-6, "rotate");
        assert_marked(a, 2 * half);
    }
}

// The fixed-point numbers reach every magnitude and both signs; converting them is exact to the last bit.
static void test_combine(void **state)
{
    const tc_dense *d = *state;
    static float x[MOST], shared[MOST], a[MOST], b[MOST];
    static int64_t sum[MOST];
    for (int l = 0; l < LENGTHS; l++) {
        uint32_t n = lengths[l];
        fill(shared, n, 1);
        for (uint32_t i = 0; i < n; i++)
            sum[i] =
                (int64_t)((uint64_t)rand() << 33 ^ (uint64_t)rand() << 11 ^ (uint64_t)rand()) >> rand() % 63;
        memset(a, 0, n * sizeof *a);
        memset(b, 0, n * sizeof *b);
        mark(a, n);
        d->combine(a, sum, NULL, 0, n);
        tc_dense_plain.combine(b, sum, NULL, 0, n);
        assert_memory_equal(a, b, n * sizeof *a);
        fill(x, n, 1);
        for (uint32_t i = 0; i < n; i++) sum[i] >>= 20;
        memcpy(a, x, n * sizeof *a);
        memcpy(b, x, n * sizeof *b);
        d->combine(a, sum, shared, 0.4f, n);
        d->combine(a, NULL, shared, 0.2f, n);
        tc_dense_plain.combine(b, sum, shared, 0.4f, n);
        tc_dense_plain.combine(b, NULL, shared, 0.2f, n);
        assert_close(a, b, n, 1e-6, "combine");
        assert_marked(a, n);
    }
}

static void test_first_above(void **state)
{
    const tc_dense *d = *state;
    static float x[MOST];
    for (int l = 0; l < LENGTHS; l++) {
        uint32_t n = lengths[l];
        fill(x, n, 1);
        if (n > 4) x[n / 2] = NAN; // above nothing
        for (uint32_t from = 0; from <= n; from += 1 + n / 7)
            for (float than = -1; than < 1.1f; than += 0.2f)
                assert_int_equal(d->first_above(x, from, n, than),
                                 tc_dense_plain.first_above(x, from, n, than));
    }
}

static void test_half(void **state)
{
    const tc_dense *d = *state;
    enum { N = 512 };
    static float x[N], y[N], expected[N];
    static uint16_t a[N], b[N];
    for (int i = 0; i < N; i++) x[i] = ldexpf(noise(), rand() % 40 - 22);
    x[0] = 1e30f;
    x[1] = -1e30f;
    x[2] = 65519;
    d->to_half(x, N, a);
    tc_dense_plain.to_half(x, N, b);
    assert_memory_equal(a, b, sizeof a);
    d->from_half(a, N, y);
    tc_dense_plain.from_half(a, N, expected);
    assert_memory_equal(y, expected, sizeof y);
    assert_true(y[0] == 65504 && y[1] == -65504 && y[2] == 65504);
    x[3] = NAN;
    d->to_half(x, 16, a);
    d->from_half(a, 16, y);
    assert_true(isnan(y[3]));
}

// ---- attention ----

enum { ROWS = 11, KEYS = 37 };
static const tc_dense_ahead none, ahead = {lengths, sizeof lengths};

static void test_scores(void **state)
{
    const tc_dense *d = *state;
    const uint32_t dims[] = {16, 48, 128, 256};
    static float q[ROWS * 256], k[KEYS * 256], whole[ROWS * 40], one[ROWS * 40], expected[ROWS * 40];
    for (int i = 0; i < 4; i++) {
        uint32_t dim = dims[i];
        fill(q, ROWS * dim, 1);
        fill(k, KEYS * dim, 1);
        for (int j = 0; j < ROWS * 40; j++) whole[j] = MARK;
        d->scores(q, ROWS, k, KEYS, dim, whole, 40, ahead);
        tc_dense_plain.scores(q, ROWS, k, KEYS, dim, expected, 40, none);
        for (int r = 0; r < ROWS; r++) {
            assert_close(whole + r * 40, expected + r * 40, KEYS, 2e-6, "scores");
            for (int j = KEYS; j < 40; j++) assert_true(whole[r * 40 + j] == MARK);
            for (int j = 0; j < KEYS; j++)
                d->scores(q + r * dim, 1, k + j * dim, 1, dim, one + r * 40 + j, 40, none);
            assert_memory_equal(one + r * 40, whole + r * 40, KEYS * sizeof *one);
        }
    }
}

static void test_values(void **state)
{
    const tc_dense *d = *state;
    const uint32_t dims[] = {16, 48, 128, 256};
    static float p[ROWS * 40], v[KEYS * 256], start[ROWS * 256], a[ROWS * 256 + GUARD], b[ROWS * 256],
        c[ROWS * 256];
    for (int i = 0; i < 4; i++) {
        uint32_t dim = dims[i], n = ROWS * dim;
        fill(p, ROWS * 40, 1);
        fill(v, KEYS * dim, 1);
        fill(start, n, 1);
        memcpy(a, start, n * sizeof *a);
        memcpy(b, start, n * sizeof *b);
        memcpy(c, start, n * sizeof *c);
        mark(a, n);
        d->values(p, ROWS, 40, v, KEYS, dim, a, ahead);
        assert_marked(a, n);
        tc_dense_plain.values(p, ROWS, 40, v, KEYS, dim, b, none);
        assert_close(a, b, n, 2e-6, "values");
        for (int r = 0; r < ROWS; r++) // row by row, and in two steps
            for (int j = 0; j < KEYS; j += 20)
                d->values(p + r * 40 + j, 1, 40, v + (uint32_t)j * dim, KEYS - j < 20 ? KEYS - j : 20, dim,
                          c + (uint32_t)r * dim, none);
        assert_memory_equal(a, c, n * sizeof *a);
        d->blend(a, 0.3f, start, 0.6f, n);
        tc_dense_plain.blend(b, 0.3f, start, 0.6f, n);
        assert_close(a, b, n, 2e-6, "blend");
    }
}

static void test_softmax(void **state)
{
    const tc_dense *d = *state;
    static float a[MOST], b[MOST];
    for (int l = 0; l < LENGTHS; l++) {
        uint32_t n = lengths[l];
        float max_a, max_b;
        fill(a, n, 30);
        if (n > 2) a[1] = -300; // its exponential is nothing
        memcpy(b, a, n * sizeof *a);
        mark(a, tc_dense_padded(n));
        float sum_a = d->softmax(a, n, &max_a), sum_b = tc_dense_plain.softmax(b, n, &max_b);
        assert_true(max_a == max_b);
        assert_close(&sum_a, &sum_b, 1, 1e-6, "softmax's sum");
        assert_close(a, b, n, 1e-6, "softmax");
        assert_marked(a, tc_dense_padded(n));
    }
}

// ---- Gated DeltaNet ----

static void test_convolve(void **state)
{
    const tc_dense *d = *state;
    static float in[4][MOST], tap[4][MOST], a[MOST], b[MOST];
    const float *ins[4] = {in[0], in[1], in[2], in[3]}, *taps[4] = {tap[0], tap[1], tap[2], tap[3]};
    for (int l = 0; l < LENGTHS; l++) {
        for (int j = 0; j < 4; j++) {
            fill(in[j], lengths[l], 4);
            fill(tap[j], lengths[l], 1);
        }
        for (uint32_t n = 1; n <= 4; n++) {
            mark(a, lengths[l]);
            d->convolve(ins, taps, n, lengths[l], a);
            tc_dense_plain.convolve(ins, taps, n, lengths[l], b);
            assert_close(a, b, lengths[l], 2e-6, "convolve");
            assert_marked(a, lengths[l]);
        }
    }
}

static void test_gates(void **state)
{
    const tc_dense *d = *state;
    enum { N = 257 };
    static float a[N], b[N], decay[N + GUARD], beta[N + GUARD], expected[N];
    for (int i = 0; i < N; i++) { // softplus from e^-60 to 60
        a[i] = (float)(i - N / 2) / 2;
        b[i] = (float)(i - N / 2) / 3;
    }
    static float expected_beta[N], one[2];
    for (float rate = -0.01f; rate > -20; rate *= 5) {
        mark(decay, N);
        mark(beta, N);
        d->gates(a, b, rate, 0.1f, N, decay, beta);
        tc_dense_plain.gates(a, b, rate, 0.1f, N, expected, expected_beta);
        assert_marked(decay, N);
        assert_marked(beta, N);
        for (int i = 0; i < N; i++) { // relative, where it is not nothing
            float x = expected[i], y = expected_beta[i];
            if (x > 1e-30f) assert_true(fabsf(decay[i] - x) <= 1e-5f * x);
            assert_true(fabsf(decay[i] - x) <= 2e-6f && fabsf(beta[i] - y) <= 1e-6f * y);
        }
        d->gates(a + 100, b + 100, rate, 0.1f, 1, one, one + 1);
        assert_true(one[0] == decay[100] && one[1] == beta[100]);
    }
}

typedef struct strip_data {
    float state[132 * TC_DENSE_STRIP], k[24 * 132], q[24 * 132], kq[24], v[24 * 48], decay[24], beta[24],
        o[24 * 48];
    tc_dense_strip strip;
} strip_data;

static void make_strip(strip_data *s, uint32_t dk, uint32_t tokens)
{
    fill(s->state, (size_t)dk * TC_DENSE_STRIP, 1);
    fill(s->k, (size_t)tokens * dk, 1 / sqrtf((float)dk));
    fill(s->q, (size_t)tokens * dk, 1 / sqrtf((float)dk));
    fill(s->v, (size_t)tokens * 48, 1);
    for (uint32_t t = 0; t < tokens; t++) {
        s->decay[t] = (float)(rand() % 1000) / 1000;
        s->beta[t] = (float)(rand() % 1000) / 1000;
        s->kq[t] = tc_dense_plain.dot(s->k + t * dk, s->q + t * dk, dk);
    }
    for (int i = 0; i < 24 * 48; i++) s->o[i] = MARK;
    s->strip = (tc_dense_strip){s->state, s->k, s->q, s->kq, s->v, s->decay, s->beta, s->o, tokens, dk, 48};
}

static void test_strip(void **state)
{
    const tc_dense *d = *state;
    static strip_data a, b, c;
    const uint32_t dks[] = {4, 12, 64, 128, 132};
    for (int i = 0; i < 5; i++) {
        uint32_t dk = dks[i], tokens = 24;
        make_strip(&a, dk, tokens);
        b = a;
        c = a;
        b.strip.state = b.state;
        b.strip.o = b.o;
        d->strip(&a.strip);
        tc_dense_plain.strip(&b.strip);
        assert_close(a.state, b.state, (size_t)dk * TC_DENSE_STRIP, 4e-6, "strip's state");
        for (uint32_t t = 0; t < tokens; t++) {
            assert_close(a.o + t * 48, b.o + t * 48, TC_DENSE_STRIP, 1e-5, "strip's output");
            for (int j = TC_DENSE_STRIP; j < 48; j++) assert_true(a.o[t * 48 + (uint32_t)j] == MARK);
        }
        for (uint32_t t = 0, n; t < tokens; t += n) { // the same tokens in pieces: the same bits
            n = 1 + t % 5 < tokens - t ? 1 + t % 5 : tokens - t;
            tc_dense_strip s = c.strip;
            s.state = c.state;
            s.k += t * dk, s.q += t * dk, s.kq += t, s.v += t * 48, s.decay += t, s.beta += t;
            s.o = c.o + t * 48;
            s.tokens = n;
            d->strip(&s);
        }
        assert_memory_equal(a.state, c.state, (size_t)dk * TC_DENSE_STRIP * sizeof(float));
        assert_memory_equal(a.o, c.o, sizeof a.o);
    }
}

// ---- the chunked form ----

// The gated delta rule over a chunk of C tokens at once (Yang et al., "Gated Delta Networks"), in the table's
// own matrix routines. With G the running sum of log decays inside the chunk and S the state before it:
//   (I + L) D = diag(beta) (V - diag(e^G) K S),  L[r][i] = beta_r e^(G_r - G_i) (k_r . k_i) for i < r
//   O = diag(e^G) Q S + P D,                     P[r][i] = e^(G_r - G_i) (q_r . k_i)        for i <= r
//   S' = e^G_C S + (diag(e^(G_C - G)) K)^T D
// The device takes tokens one by one (docs/ARCHITECTURE.md says why); this is what that is compared with.
enum { C = 64, D = 128, SOLVE = 16 };

typedef struct chunked {
    float *k, *q, *v, *state;                   // [C][D], [C][D], [C][D], [D][D]
    float *kk, *qk, *ks, *delta, *o, *k_turned; // [C][C], [C][C], [C][D] x 3, [D][C]
    float log_decay[C], beta[C], sum[C];
} chunked;

static void solve(const tc_dense *d, chunked *c)
{
    for (uint32_t b = 0; b < C;
         b += SOLVE) { // rows of one block: first what earlier blocks take, then each other
        d->values(c->kk + b * C, SOLVE, C, c->delta, b, D, c->delta + b * D, none);
        for (uint32_t r = b + 1; r < b + SOLVE; r++)
            d->values(c->kk + r * C + b, 1, C, c->delta + b * D, r - b, D, c->delta + r * D, none);
    }
}

// The products of keys and queries are the same for all value heads of a key head.
static void chunk_products(const tc_dense *d, chunked *c, float *kk, float *qk)
{
    d->scores(c->k, C, c->k, C, D, kk, C, none);
    d->scores(c->q, C, c->k, C, D, qk, C, none);
}

static void run_chunk(const tc_dense *d, chunked *c, const float *kk, const float *qk)
{
    float total = 0, fade[C], left[C];
    for (int r = 0; r < C; r++) c->sum[r] = total += c->log_decay[r];
    for (int r = 0; r < C; r++) {
        fade[r] = expf(c->sum[r]);
        left[r] = expf(total - c->sum[r]);
        for (int i = 0; i < C; i++) {
            float e = i <= r ? expf(c->sum[r] - c->sum[i]) : 0;
            c->kk[r * C + i] = i < r ? -c->beta[r] * e * kk[r * C + i] : 0;
            c->qk[r * C + i] = e * qk[r * C + i];
        }
    }
    memset(c->ks, 0, C * D * sizeof(float));
    memset(c->o, 0, C * D * sizeof(float));
    d->values(c->k, C, D, c->state, D, D, c->ks, none);
    d->values(c->q, C, D, c->state, D, D, c->o, none);
    for (int r = 0; r < C; r++)
        for (int j = 0; j < D; j++) {
            c->delta[r * D + j] = c->beta[r] * (c->v[r * D + j] - fade[r] * c->ks[r * D + j]);
            c->o[r * D + j] *= fade[r];
            c->k_turned[j * C + r] = left[r] * c->k[r * D + j];
        }
    solve(d, c);
    d->values(c->qk, C, C, c->delta, C, D, c->o, none);
    d->scale(c->state, expf(total), NULL, D * D, c->state);
    d->values(c->k_turned, D, C, c->delta, C, D, c->state, none);
}

static float *floats(size_t n)
{
    float *x = tc_alloc(TC_MEM_OTHER, n, sizeof *x);
    assert_non_null(x);
    return x;
}

static void make_chunk(chunked *c)
{
    *c = (chunked){floats(C * D), floats(C * D), floats(C * D), floats(D * D), floats(C * C),
                   floats(C * C), floats(C * D), floats(C * D), floats(C * D), floats(D * C)};
    fill(c->k, C * D, 1 / sqrtf(D / 3.0f)); // about unit length
    fill(c->q, C * D, 1 / sqrtf(D / 3.0f));
    fill(c->v, C * D, 1);
    fill(c->state, D * D, 1);
    for (int r = 0; r < C; r++) {
        c->log_decay[r] = -(float)(rand() % 1000) / 5000;
        c->beta[r] = (float)(rand() % 1000) / 1000;
    }
}

static void free_chunk(chunked *c)
{
    float *all[] = {c->k, c->q, c->v, c->state, c->kk, c->qk, c->ks, c->delta, c->o, c->k_turned};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
}

typedef struct strips {
    float state[D * D], o[C * D], kq[C], decay[C];
} strips;

static void strips_begin(const tc_dense *d, const chunked *c, strips *s)
{
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++)
            s->state[j / TC_DENSE_STRIP * D * TC_DENSE_STRIP + i * TC_DENSE_STRIP + j % TC_DENSE_STRIP] =
                c->state[i * D + j];
    for (int r = 0; r < C; r++) {
        s->kq[r] = d->dot(c->k + r * D, c->q + r * D, D);
        s->decay[r] = expf(c->log_decay[r]);
    }
}

static void run_strips(const tc_dense *d, const chunked *c, strips *s)
{
    for (uint32_t run = 0; run < C; run += 16)
        for (uint32_t j = 0; j < D; j += TC_DENSE_STRIP) {
            const tc_dense_strip strip = {s->state + j * D,
                                          c->k + run * D,
                                          c->q + run * D,
                                          s->kq + run,
                                          c->v + run * D + j,
                                          s->decay + run,
                                          c->beta + run,
                                          s->o + run * D + j,
                                          16,
                                          D,
                                          D};
            d->strip(&strip);
        }
}

static void test_chunked_form(void **state)
{
    const tc_dense *d = *state;
    static strips s;
    chunked c;
    make_chunk(&c);
    strips_begin(d, &c, &s);
    float *kk = floats(C * C), *qk = floats(C * C), *back = floats(D * D);
    chunk_products(d, &c, kk, qk);
    run_strips(d, &c, &s);
    run_chunk(d, &c, kk, qk);
    assert_close(s.o, c.o, C * D, 1e-5, "one by one against the chunked form");
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++)
            back[i * D + j] =
                s.state[j / TC_DENSE_STRIP * D * TC_DENSE_STRIP + i * TC_DENSE_STRIP + j % TC_DENSE_STRIP];
    assert_close(back, c.state, D * D, 1e-5, "its state");
    tc_free(kk);
    tc_free(qk);
    tc_free(back);
    free_chunk(&c);
}

// ---- times ----

typedef struct bench {
    tc_team *team;
    tc_dev *dev;
    double gb_s;
    tc_segment segment;
    uint32_t *ids, *position, *segments, *pages;
    tc_batch batch;
} bench;

enum { CONTEXT = 32768, PROMPT = 256 };

static void bench_batch(bench *b, uint32_t position, uint32_t tokens)
{
    b->segment = (tc_segment){0, tokens, position, b->pages, 0};
    for (uint32_t i = 0; i < tokens; i++) {
        b->position[i] = position + i;
        b->segments[i] = 0;
    }
    b->batch = (tc_batch){tokens, 1, b->ids, b->position, b->segments, &b->segment};
    b->dev->ops->batch_begin(b->dev, &b->batch);
}

// Best of some runs, each of `times` calls: microseconds a call.
#define BEST_US(result, times, call)                                                                         \
    do {                                                                                                     \
        result = 1e30;                                                                                       \
        for (int run_ = 0; run_ < 5; run_++) {                                                               \
            uint64_t start_ = tc_now_ns();                                                                   \
            for (int i_ = 0; i_ < (times); i_++) call;                                                       \
            double us_ = (double)(tc_now_ns() - start_) / 1000 / (times);                                    \
            if (us_ < result) result = us_;                                                                  \
        }                                                                                                    \
    } while (0)

static void bench_attention(bench *b, const tc_dev_geometry *g, const char *shape, const char *isa)
{
    size_t row = (size_t)g->heads * g->head_dim * 2, kv_row = (size_t)g->kv_heads * g->head_dim;
    float *q = tc_alloc(TC_MEM_OTHER, PROMPT * row, 4), *k = tc_alloc(TC_MEM_OTHER, PROMPT * kv_row, 4);
    float *v = tc_alloc(TC_MEM_OTHER, PROMPT * kv_row, 4), *out = tc_alloc(TC_MEM_OTHER, PROMPT * row, 4);
    fill(q, PROMPT * row, 1);
    fill(v, PROMPT * kv_row, 1);
    const tc_attention_args args = {.q = q, .k = k, .v = v, .gated = true, .out = out};
    for (uint32_t p = 0; p < CONTEXT;
         p += PROMPT) { // every page written, each as if it were a session's first
        fill(k, PROMPT * kv_row, 1);
        bench_batch(b, 0, PROMPT);
        b->segment.pages = b->pages + p / 64;
        b->dev->ops->attention(b->dev, &args);
    }
    double us, prompt;
    tc_error e;
    tc_measure_read_bandwidth(b->team, 512u << 20, &b->gb_s, &e); // it moves: measured beside what it judges
    bench_batch(b, 2048 - PROMPT, PROMPT);
    BEST_US(prompt, 1, b->dev->ops->attention(b->dev, &args));
    double flop = 4.0 * g->heads * g->head_dim * (2048 - PROMPT / 2) * PROMPT;
    bench_batch(b, CONTEXT - 1, 1);
    BEST_US(us, 4, b->dev->ops->attention(b->dev, &args));
    double bytes = 2.0 * CONTEXT * (double)kv_row * (g->kv_type == TC_KV_F16 ? 2 : 4);
    printf("  attention %s %s %s: decode at 32k %.0f us, %.1f GB/s, %.2f of %.1f GB/s read; "
           "prompt of 256 at 2k %.0f GFLOP/s\n",
           shape, isa, g->kv_type == TC_KV_F16 ? "f16" : "f32", us, bytes / us / 1000,
           bytes / us / 1000 / b->gb_s, b->gb_s, flop / prompt / 1000);
    bench_batch(b, 0, 1);
    BEST_US(us, 100, b->dev->ops->attention(b->dev, &args));
    printf("  attention %s %s: decode at 0 %.1f us\n", shape, isa, us);
    tc_free(q);
    tc_free(k);
    tc_free(v);
    tc_free(out);
}

static void bench_delta(bench *b, const tc_dev_geometry *g, const char *isa)
{
    size_t row = 2 * ((size_t)g->dn_key_heads * g->dn_key_dim + (size_t)g->dn_value_heads * g->dn_value_dim);
    float *qkvz = tc_alloc(TC_MEM_OTHER, PROMPT * row, 4), *ba = tc_alloc(TC_MEM_OTHER, PROMPT * 64, 4);
    float *out = tc_alloc(TC_MEM_OTHER, PROMPT * row, 4), *conv = tc_alloc(TC_MEM_OTHER, 4 * row, 4);
    float rate[64], norm[256];
    fill(qkvz, PROMPT * row, 1);
    fill(ba, (size_t)PROMPT * 64, 1);
    fill(conv, 4 * row, 1);
    for (int i = 0; i < 64; i++) rate[i] = -0.5f;
    for (int i = 0; i < 256; i++) norm[i] = 1;
    double us, prompt;
    bench_batch(b, 0, PROMPT);
    tc_delta_args args = {
        .qkvz = qkvz, .ba = ba, .conv = conv, .neg_exp_a = rate, .dt_bias = rate, .norm = norm, .out = out};
    tc_delta_spans(g, false, &args);
    BEST_US(prompt, 2, b->dev->ops->delta(b->dev, &args));
    bench_batch(b, PROMPT, 1);
    BEST_US(us, 4, {
        for (uint32_t l = 0; l < g->dn_layers; l++) { // all layers: states are larger than caches
            tc_delta_args layer = args;
            layer.dn_layer = l;
            b->dev->ops->delta(b->dev, &layer);
        }
    });
    us /= g->dn_layers;
    double state = (double)g->dn_value_heads * g->dn_key_dim * g->dn_value_dim;
    printf(
        "  delta %s: decode %.1f us a layer, state read at %.1f GB/s, %.2f of read bandwidth (and written); "
        "prompt %.2f us a token, %.0f GFLOP/s of 6 a state element\n",
        isa, us, state * 4 / us / 1000, state * 4 / us / 1000 / b->gb_s, prompt / PROMPT,
        state * 6 * PROMPT / prompt / 1000);
    tc_free(qkvz);
    tc_free(ba);
    tc_free(out);
    tc_free(conv);
}

static void bench_small(bench *b, const char *isa)
{
    enum { HIDDEN = 2048, EXPERTS = 512 };
    static float x[HIDDEN], y[HIDDEN], w[HIDDEN], logits[EXPERTS], weight[10];
    static int64_t sum[HIDDEN];
    uint32_t expert[10];
    const tc_dev_ops *ops = b->dev->ops;
    double add, combine, route;
    const tc_route_args choice = {.logits = logits,
                                  .n = 1,
                                  .experts = EXPERTS,
                                  .top_k = 10,
                                  .renormalise = true,
                                  .scale = 1,
                                  .expert = expert,
                                  .weight = weight};
    fill(logits, EXPERTS, 3);
    bench_batch(b, 0, 1);
    BEST_US(add, 1000, ops->add(b->dev, x, y, 1, HIDDEN, w, y));
    BEST_US(combine, 1000, ops->combine(b->dev, x, sum, y, w, 1, 1, HIDDEN, w, y));
    BEST_US(route, 1000, ops->route(b->dev, &choice));
    printf("  one token of 2048, %s: add+norm %.2f us, combine+norm %.2f us, route 10 of 512 %.2f us\n", isa,
           add, combine, route);
}

// Two value heads a key head, as in the model: its products count once for both.
static void bench_forms(const tc_dense *d)
{
    static strips s;
    chunked c;
    double one_by_one, products, chunk;
    make_chunk(&c);
    strips_begin(d, &c, &s);
    float *kk = floats(C * C), *qk = floats(C * C);
    BEST_US(products, 100, chunk_products(d, &c, kk, qk));
    BEST_US(one_by_one, 100, run_strips(d, &c, &s));
    BEST_US(chunk, 100, run_chunk(d, &c, kk, qk));
    printf("  a value head of 128 x 128, one thread, %s: %.2f us a token one by one, %.2f in chunks of 64\n",
           d->name, one_by_one / C, (chunk + products / 2) / C);
    tc_free(kk);
    tc_free(qk);
    free_chunk(&c);
}

static int run_bench(uint32_t threads)
{
    static const tc_dev_geometry next = {.heads = 16,
                                         .kv_heads = 2,
                                         .head_dim = 256,
                                         .rotary_dim = 64,
                                         .kv_layers = 1,
                                         .rope = {.theta = 1e7},
                                         .dn_key_heads = 16,
                                         .dn_value_heads = 32,
                                         .dn_key_dim = 128,
                                         .dn_value_dim = 128,
                                         .dn_conv = 4,
                                         .dn_layers = 36,
                                         .rms_eps = 1e-6f,
                                         .positions_max = CONTEXT,
                                         .pages = CONTEXT / 64,
                                         .slots = 1},
                                 moe = {.heads = 32,
                                        .kv_heads = 4,
                                        .head_dim = 128,
                                        .rotary_dim = 128,
                                        .kv_layers = 1,
                                        .rope = {.theta = 1e6},
                                        .rms_eps = 1e-6f,
                                        .positions_max = CONTEXT,
                                        .pages = CONTEXT / 64,
                                        .slots = 1};
    static const char *const isas[] = {"scalar", "avx2", "avx512"};
    tc_error e;
    bench b = {0};
    const tc_team_options options = {.threads = threads, .spin_us = 100};
    if (tc_team_create(&options, &b.team, &e) != TC_OK) return 1;
    b.ids = tc_alloc(TC_MEM_OTHER, 4 * PROMPT, 4);
    b.position = tc_alloc(TC_MEM_OTHER, PROMPT, 4);
    b.segments = tc_alloc(TC_MEM_OTHER, PROMPT, 4);
    b.pages = tc_alloc(TC_MEM_OTHER, CONTEXT / 64, 4);
    for (uint32_t i = 0; i < CONTEXT / 64; i++) b.pages[i] = i;
    if (tc_measure_read_bandwidth(b.team, 512u << 20, &b.gb_s, &e) != TC_OK) return 1;
    printf("%u threads, read bandwidth %.1f GB/s\n", threads, b.gb_s);
    for (int i = 0; i < 3; i++) {
        const tc_kernels *kernels;
        if (tc_kernels_get(TC_FLOAT, isas[i], &kernels, &e) != TC_OK) continue;
        for (int shape = 0; shape < 4; shape++) {
            tc_dev_geometry g = shape / 2 ? moe : next;
            if (i == 0 && shape) continue;
            g.kv_type = shape % 2 ? TC_KV_F16 : TC_KV_F32;
            if (tc_dev_cpu_create(&g, b.team, kernels, &b.dev, &e) != TC_OK) return 1;
            bench_attention(&b, &g, shape / 2 ? "32/4 heads of 128" : "16/2 heads of 256", isas[i]);
            if (shape == 0) bench_delta(&b, &g, isas[i]);
            if (shape == 0) bench_small(&b, isas[i]);
            if (shape == 0) bench_forms(tc_dense_for(isas[i]));
            tc_dev_free(b.dev);
        }
    }
    tc_team_free(b.team);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *isa;
        const tc_dense *table;
    } tables[] = {
        {"scalar", &tc_dense_plain},
#if defined(__x86_64__)
        {"avx2", &tc_dense_avx2},
        {"avx512", &tc_dense_avx512},
#endif
    };
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return run_bench(argc > 2 ? (uint32_t)atoi(argv[2]) : 1);
    int failed = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        const tc_kernels *kernels;
        tc_error e;
        void *table = (void *)tables[i].table;
        srand(7);
        if (tc_kernels_get(TC_FLOAT, tables[i].isa, &kernels, &e) != TC_OK) {
            print_message("[  SKIPPED ] %s: this CPU lacks it\n", tables[i].isa);
            continue;
        }
        if (tc_dense_for(kernels->name) != tables[i].table) return 1;
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_unary, table),
            cmocka_unit_test_prestate(test_rotate, table),
            cmocka_unit_test_prestate(test_combine, table),
            cmocka_unit_test_prestate(test_first_above, table),
            cmocka_unit_test_prestate(test_half, table),
            cmocka_unit_test_prestate(test_scores, table),
            cmocka_unit_test_prestate(test_values, table),
            cmocka_unit_test_prestate(test_softmax, table),
            cmocka_unit_test_prestate(test_convolve, table),
            cmocka_unit_test_prestate(test_gates, table),
            cmocka_unit_test_prestate(test_strip, table),
            cmocka_unit_test_prestate(test_chunked_form, table),
        };
        failed += cmocka_run_group_tests_name(tables[i].table->name, tests, NULL, NULL);
    }
    return failed;
}
