// SPDX-License-Identifier: Apache-2.0
// Owns: the dense table for vector registers, over dense_vector.h. Built once an ISA with that ISA's flags;
// the build names the table (TC_DENSE_TABLE, TC_DENSE_NAME). A tile is a constant number of rows and columns,
// so that its sums stay in registers; what a tile computes for one element is the same in every tile.
#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/cpu/dense_vector.h"

#include <math.h>

// n < LANES at the end: the same operations on a vector filled up with zeros.
#define EACH(i, n, whole, rest)                                                                              \
    do {                                                                                                     \
        uint32_t i = 0;                                                                                      \
        for (; i + LANES <= (n); i += LANES) whole;                                                          \
        if (i < (n)) rest;                                                                                   \
    } while (0)

// ---- attention ----

// A tile is MANY by 4: 16 or 12 sums, as many as the registers hold beside what they are made of.
enum { MANY = LANES == 16 ? 4 : 3 };

// R queries against C keys: one sum a pair, along the row. R and C are constants.
INLINE void score_tile(const float *q, const float *k, uint32_t dim, const int R, const int C, float *score,
                       uint32_t ld)
{
    vec sum[4][4];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sum[r][c] = v_zero();
    for (uint32_t i = 0; i < dim; i += LANES) {
        vec x[MANY];
        for (int r = 0; r < R; r++) x[r] = v_load(q + (size_t)r * dim + i);
        for (int c = 0; c < C; c++) {
            vec key = v_load(k + (size_t)c * dim + i);
            for (int r = 0; r < R; r++) sum[r][c] = v_fma(x[r], key, sum[r][c]);
        }
    }
    for (int r = 0; r < R; r++) {
        if (C == 4)
            _mm_storeu_ps(score + (size_t)r * ld, v_sums(sum[r][0], sum[r][1], sum[r][2], sum[r][3]));
        else
            for (int c = 0; c < C; c++) score[(size_t)r * ld + (uint32_t)c] = v_sum(sum[r][c]);
    }
}

// Asks for one of the parts that are left of what is read next, so that memory works while registers do.
INLINE void ask(tc_dense_ahead *ahead, uint32_t parts_left)
{
    const char *data = ahead->data;
    uint32_t bytes = ahead->bytes / parts_left / 64 * 64;
    if (!bytes) return;
    for (uint32_t at = 0; at < bytes; at += 64) _mm_prefetch(data + at, _MM_HINT_T1);
    ahead->data = data + bytes;
    ahead->bytes -= bytes;
}

INLINE void score_rows(const float *q, const float *k, uint32_t count, uint32_t dim, const int R, const int C,
                       float *score, uint32_t ld, tc_dense_ahead *ahead, uint32_t row_tiles_left)
{
    uint32_t j = 0, tiles = count / (uint32_t)C;
    for (; j + (uint32_t)C <= count; j += (uint32_t)C) {
        ask(ahead, row_tiles_left * tiles - j / (uint32_t)C);
        score_tile(q, k + (size_t)j * dim, dim, R, C, score + j, ld);
    }
    for (; j < count; j++) score_tile(q, k + (size_t)j * dim, dim, R, 1, score + j, ld);
}

static void scores(const float *q, uint32_t rows, const float *k, uint32_t count, uint32_t dim, float *score,
                   uint32_t ld, tc_dense_ahead ahead)
{
    uint32_t r = 0, left = (rows + MANY - 1) / MANY;
    for (; r + MANY <= rows; r += MANY)
        score_rows(q + (size_t)r * dim, k, count, dim, MANY, 4, score + (size_t)r * ld, ld, &ahead, left--);
    if (rows - r == 3)
        score_rows(q + (size_t)r * dim, k, count, dim, 3, 4, score + (size_t)r * ld, ld, &ahead, 1);
    if (rows - r == 2)
        score_rows(q + (size_t)r * dim, k, count, dim, 2, 4, score + (size_t)r * ld, ld, &ahead, 1);
    if (rows - r == 1)
        score_rows(q + (size_t)r * dim, k, count, dim, 1, 4, score + (size_t)r * ld, ld, &ahead, 1);
}

// The tail is computed in whole vectors; its lanes do not exist for maximum and sum.
static float softmax(float *s, uint32_t n, float *ret_max)
{
    vec most = v_set(-INFINITY), sum = v_zero();
    for (uint32_t i = n; i % LANES; i++) s[i] = -INFINITY;
    for (uint32_t i = 0; i < n; i += LANES) most = v_max(most, v_load(s + i));
    float max = v_largest(most);
    for (uint32_t i = 0; i < n; i += LANES) {
        vec e = v_exp(v_sub(v_load(s + i), v_set(max)));
        v_store(s + i, e);
        sum = v_add(sum, e);
    }
    *ret_max = max;
    return v_sum(sum);
}

INLINE void value_tile(const float *p, uint32_t ld, const float *v, uint32_t count, uint32_t dim, const int R,
                       const int C, float *acc)
{
    vec sum[4][4];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sum[r][c] = v_load(acc + (size_t)r * dim + (uint32_t)c * LANES);
    for (uint32_t j = 0; j < count; j++) {
        vec value[4];
        for (int c = 0; c < C; c++) value[c] = v_load(v + (size_t)j * dim + (uint32_t)c * LANES);
        for (int r = 0; r < R; r++) {
            vec weight = v_set(p[(size_t)r * ld + j]);
            for (int c = 0; c < C; c++) sum[r][c] = v_fma(weight, value[c], sum[r][c]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) v_store(acc + (size_t)r * dim + (uint32_t)c * LANES, sum[r][c]);
}

INLINE void value_rows(const float *p, uint32_t rows, uint32_t ld, const float *v, uint32_t count,
                       uint32_t dim, const int C, float *acc, tc_dense_ahead *ahead,
                       uint32_t column_tiles_left)
{
    uint32_t r = 0, tiles = (rows + 3) / 4;
    for (; r + 4 <= rows; r += 4) {
        ask(ahead, column_tiles_left * tiles - r / 4);
        value_tile(p + (size_t)r * ld, ld, v, count, dim, 4, C, acc + (size_t)r * dim);
    }
    if (r + 2 <= rows) {
        value_tile(p + (size_t)r * ld, ld, v, count, dim, 2, C, acc + (size_t)r * dim);
        r += 2;
    }
    if (r < rows) value_tile(p + (size_t)r * ld, ld, v, count, dim, 1, C, acc + (size_t)r * dim);
}

// Columns outside: their slice of the values stays in the first cache for all rows.
static void values(const float *p, uint32_t rows, uint32_t ld, const float *v, uint32_t count, uint32_t dim,
                   float *acc, tc_dense_ahead ahead)
{
    enum { WIDE = MANY * LANES };
    uint32_t i = 0, left = (dim + WIDE - 1) / WIDE;
    for (; i + WIDE <= dim; i += WIDE)
        value_rows(p, rows, ld, v + i, count, dim, MANY, acc + i, &ahead, left--);
    for (; i + 2 * LANES <= dim; i += 2 * LANES)
        value_rows(p, rows, ld, v + i, count, dim, 2, acc + i, &ahead, 1);
    if (i < dim) value_rows(p, rows, ld, v + i, count, dim, 1, acc + i, &ahead, 1);
}

static void blend(float *a, float x, const float *b, float y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES)
        v_store(a + i, v_fma(v_load(b + i), v_set(y), v_mul(v_load(a + i), v_set(x))));
}

static void to_half(const float *x, uint32_t n, uint16_t *y)
{
    for (uint32_t i = 0; i < n; i += LANES)
        v_to_half(y + i, v_min(v_set(65504.0f), v_max(v_set(-65504.0f), v_load(x + i))));
}

static void from_half(const uint16_t *x, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i += LANES) v_store(y + i, v_from_half(x + i));
}

static void scale_gate(const float *x, float factor, const float *gate, uint32_t n, float *y)
{
    vec f = v_set(factor);
    if (!gate) {
        EACH(i, n, v_store(y + i, v_mul(v_load(x + i), f)),
             v_store_some(y + i, v_mul(v_load_some(x + i, n - i), f), n - i));
        return;
    }
    EACH(i, n, v_store(y + i, v_mul(v_mul(v_load(x + i), f), v_sigmoid(v_load(gate + i)))),
         v_store_some(y + i,
                      v_mul(v_mul(v_load_some(x + i, n - i), f), v_sigmoid(v_load_some(gate + i, n - i))),
                      n - i));
}

// ---- norms and element-wise ----

static float squares(const float *x, uint32_t n)
{
    vec sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    uint32_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (uint32_t j = 0; j < 4; j++) {
            vec v = v_load(x + i + j * LANES);
            sum[j] = v_fma(v, v, sum[j]);
        }
    for (; i < n; i += LANES) {
        vec v = n - i < LANES ? v_load_some(x + i, n - i) : v_load(x + i);
        sum[0] = v_fma(v, v, sum[0]);
    }
    return v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

static void scale(const float *x, float factor, const float *w, uint32_t n, float *y)
{
    vec f = v_set(factor);
    if (!w) {
        scale_gate(x, factor, NULL, n, y);
        return;
    }
    EACH(i, n, v_store(y + i, v_mul(v_mul(v_load(x + i), f), v_load(w + i))),
         v_store_some(y + i, v_mul(v_mul(v_load_some(x + i, n - i), f), v_load_some(w + i, n - i)), n - i));
}

static void rotate(float *x, const float *cosine, const float *sine, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += LANES) {
        uint32_t n = half - i;
        bool whole = n >= LANES;
        vec a = whole ? v_load(x + i) : v_load_some(x + i, n);
        vec b = whole ? v_load(x + half + i) : v_load_some(x + half + i, n);
        vec c = whole ? v_load(cosine + i) : v_load_some(cosine + i, n);
        vec s = whole ? v_load(sine + i) : v_load_some(sine + i, n);
        vec first = v_sub(v_mul(a, c), v_mul(b, s)), second = v_fma(a, s, v_mul(b, c));
        if (whole) {
            v_store(x + i, first);
            v_store(x + half + i, second);
        } else {
            v_store_some(x + i, first, n);
            v_store_some(x + half + i, second, n);
        }
    }
}

static void add(float *x, const float *y, uint32_t n)
{
    EACH(i, n, v_store(x + i, v_add(v_load(x + i), v_load(y + i))),
         v_store_some(x + i, v_add(v_load_some(x + i, n - i), v_load_some(y + i, n - i)), n - i));
}

static void combine_tail(float *x, const int64_t *sum, const float *shared, float gate, uint32_t n)
{
    int64_t fixed[LANES] = {0};
    if (sum) memcpy(fixed, sum, n * sizeof *fixed);
    vec y = v_from_fixed(fixed);
    if (shared) y = v_fma(v_set(gate), v_load_some(shared, n), y);
    v_store_some(x, v_add(v_load_some(x, n), y), n);
}

static void combine(float *x, const int64_t *sum, const float *shared, float gate, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec y = sum ? v_from_fixed(sum + i) : v_zero();
        if (shared) y = v_fma(v_set(gate), v_load(shared + i), y);
        v_store(x + i, v_add(v_load(x + i), y));
    }
    if (i < n) combine_tail(x + i, sum ? sum + i : NULL, shared ? shared + i : NULL, gate, n - i);
}

static uint32_t first_above(const float *x, uint32_t from, uint32_t n, float than)
{
    for (; from + LANES <= n; from += LANES) {
        uint32_t above = v_above(v_load(x + from), v_set(than));
        if (above) return from + (uint32_t)__builtin_ctz(above);
    }
    while (from < n && !(x[from] > than)) from++;
    return from;
}

INLINE vec exp_of(const float *x, float max, float factor)
{
    return v_exp(v_mul(v_sub(v_load(x), v_set(max)), v_set(factor)));
}

static float sum_exp(const float *x, float max, float factor, uint32_t n)
{
    vec sum = v_zero(), rest = v_set(-INFINITY);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) sum = v_add(sum, exp_of(x + i, max, factor));
    if (i < n) {
        float last[LANES];
        v_store(last, rest);
        memcpy(last, x + i, (n - i) * sizeof *last);
        sum = v_add(sum, exp_of(last, max, factor));
    }
    return v_sum(sum);
}

// ---- Gated DeltaNet ----

INLINE void convolve_vector(const float *const *in, const float *const *tap, uint32_t taps, uint32_t i,
                            uint32_t n, float *y)
{
    vec sum = v_zero();
    for (uint32_t j = 0; j < taps; j++) {
        vec x = n < LANES ? v_load_some(in[j] + i, n) : v_load(in[j] + i);
        vec w = n < LANES ? v_load_some(tap[j] + i, n) : v_load(tap[j] + i);
        sum = v_fma(w, x, sum);
    }
    sum = v_mul(sum, v_sigmoid(sum));
    if (n < LANES)
        v_store_some(y + i, sum, n);
    else
        v_store(y + i, sum);
}

static void convolve(const float *const *in, const float *const *tap, uint32_t taps, uint32_t n, float *y)
{
    EACH(i, n, convolve_vector(in, tap, taps, i, LANES, y), convolve_vector(in, tap, taps, i, n - i, y));
}

static void gates(const float *a, const float *b, float neg_exp_a, float dt_bias, uint32_t n, float *decay,
                  float *beta)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        uint32_t some = n - i < LANES ? n - i : LANES;
        float x[LANES] = {0}, y[LANES] = {0};
        memcpy(x, a + i, some * sizeof *x);
        memcpy(y, b + i, some * sizeof *y);
        vec plus = v_softplus(v_add(v_load(x), v_set(dt_bias)));
        v_store(x, v_exp(v_mul(v_set(neg_exp_a), plus)));
        v_store(y, v_sigmoid(v_load(y)));
        memcpy(decay + i, x, some * sizeof *x);
        memcpy(beta + i, y, some * sizeof *y);
    }
}

static float dot(const float *x, const float *y, uint32_t n)
{
    vec sum = v_zero();
    for (uint32_t i = 0; i < n; i += LANES) sum = v_fma(v_load(x + i), v_load(y + i), sum);
    return v_sum(sum);
}

enum { STRIP_VECTORS = TC_DENSE_STRIP / LANES, PARTS = TC_DENSE_ROW_STEP / STRIP_VECTORS };

// Sums over a strip's rows: k S and q S, each in PARTS interleaved parts, because one chain of multiply-adds
// would wait for its own latency.
typedef struct strip_sums {
    vec k[PARTS][STRIP_VECTORS], q[PARTS][STRIP_VECTORS];
} strip_sums;

INLINE void clear_sums(strip_sums *s)
{
    for (int p = 0; p < PARTS; p++)
        for (int c = 0; c < STRIP_VECTORS; c++) s->k[p][c] = s->q[p][c] = v_zero();
}

INLINE vec close_sum(vec part[PARTS][STRIP_VECTORS], const int c)
{
    vec sum = v_add(part[0][c], part[1][c]);
    for (int p = 2; p < PARTS; p += 2) sum = v_add(sum, v_add(part[p][c], part[p + 1][c]));
    return sum;
}

// One pass over the state: the update of one token (where `update`), and the sums that the next one needs
// (where `next`). The state is read and written once a token.
INLINE void strip_pass(float *state, uint32_t dk, const bool update, const float *k, float decay,
                       const vec *delta, const bool next, const float *next_k, const float *next_q,
                       strip_sums *sums)
{
    vec fade = v_set(decay);
    for (uint32_t i = 0; i < dk; i += PARTS) {
#pragma GCC unroll 4
        for (uint32_t p = 0; p < PARTS; p++) {
            vec key = update ? v_set(k[i + p]) : v_zero(), to_k = next ? v_set(next_k[i + p]) : v_zero();
            vec to_q = next ? v_set(next_q[i + p]) : v_zero();
            for (int c = 0; c < STRIP_VECTORS; c++) {
                float *at = state + (size_t)(i + p) * TC_DENSE_STRIP + (uint32_t)c * LANES;
                vec s = v_load(at);
                if (update) {
                    s = v_fma(key, delta[c], v_mul(fade, s));
                    v_store(at, s);
                }
                if (!next) continue;
                sums->k[p][c] = v_fma(to_k, s, sums->k[p][c]);
                sums->q[p][c] = v_fma(to_q, s, sums->q[p][c]);
            }
        }
    }
}

// delta = beta (v - decay k S);  o = decay q S + (k q) delta: what q sees of the state after its own update.
INLINE void strip_token(const tc_dense_strip *s, uint32_t t, strip_sums *sums, vec *delta)
{
    vec fade = v_set(s->decay[t]);
    for (int c = 0; c < STRIP_VECTORS; c++) {
        size_t at = (size_t)t * s->ld + (uint32_t)c * LANES;
        vec past = v_mul(fade, close_sum(sums->k, c)), seen = v_mul(fade, close_sum(sums->q, c));
        delta[c] = v_mul(v_set(s->beta[t]), v_sub(v_load(s->v + at), past));
        v_store(s->o + at, v_fma(v_set(s->kq[t]), delta[c], seen));
    }
}

static void strip(const tc_dense_strip *s)
{
    strip_sums sums;
    vec delta[STRIP_VECTORS];
    uint32_t last = s->tokens - 1, dk = s->dk;
    clear_sums(&sums);
    strip_pass(s->state, dk, false, NULL, 0, delta, true, s->k, s->q, &sums);
    for (uint32_t t = 0; t < last; t++) {
        const float *k = s->k + (size_t)t * dk, *q = s->q + (size_t)t * dk;
        strip_token(s, t, &sums, delta);
        clear_sums(&sums);
        strip_pass(s->state, dk, true, k, s->decay[t], delta, true, k + dk, q + dk, &sums);
    }
    strip_token(s, last, &sums, delta);
    strip_pass(s->state, dk, true, s->k + (size_t)last * dk, s->decay[last], delta, false, NULL, NULL, &sums);
}

INLINE vec gated(vec x, vec factor, vec w, vec z)
{
    return v_mul(v_mul(w, v_mul(x, factor)), v_mul(z, v_sigmoid(z)));
}

static void gated_norm(const float *x, float factor, const float *w, const float *z, uint32_t n, float *y)
{
    vec f = v_set(factor);
    EACH(i, n, v_store(y + i, gated(v_load(x + i), f, v_load(w + i), v_load(z + i))),
         v_store_some(
             y + i, gated(v_load_some(x + i, n - i), f, v_load_some(w + i, n - i), v_load_some(z + i, n - i)),
             n - i));
}

const tc_dense TC_DENSE_TABLE = {
    .name = TC_DENSE_NAME,
    .scores = scores,
    .softmax = softmax,
    .values = values,
    .blend = blend,
    .to_half = to_half,
    .from_half = from_half,
    .scale_gate = scale_gate,
    .squares = squares,
    .scale = scale,
    .rotate = rotate,
    .add = add,
    .combine = combine,
    .first_above = first_above,
    .sum_exp = sum_exp,
    .convolve = convolve,
    .gates = gates,
    .dot = dot,
    .strip = strip,
    .gated_norm = gated_norm,
};
