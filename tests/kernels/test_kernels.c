// SPDX-License-Identifier: Apache-2.0
// Shows: every kernel of every ISA against sums in double over an independent reading of the packed layout;
// that a token's bits depend on neither its company nor the panel split. With --bench: bench_kernels.c.
#include "common/base/mem.h"
#include "common/kernels/kernels.h"
#include "common/model/dtype.h"
#include "tests/kernels/amx_table.h"
#include "tests/kernels/bench_kernels.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_MAX = 11, ROWS_MAX = 200, COLS_MAX = 8256, UNITS = 3, CROWD_MAX = 133 };

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static uint16_t bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (uint16_t)(bits >> 16);
}

// What a matrix of the tests is made of. block: of the quantisation, 0 for dense; nested: scales are codes.
typedef struct shape {
    tc_matrix_type type;
    uint32_t rows, cols, block;
    bool nested;
} shape;

static void make_scales(const shape *s, uint64_t blocks, tc_weight *w)
{
    w->quantised = true;
    w->block = s->block;
    w->absmax = tc_alloc(TC_MEM_OTHER, blocks, sizeof(float));
    for (uint64_t i = 0; i < blocks; i++) w->absmax[i] = 0.01f + fabsf(noise());
    for (int i = 0; i < 16; i++) w->levels[i] = noise();
    if (!s->nested) return;
    w->nested_block = 256;
    w->nested_offset = 0.3f;
    w->nested = tc_alloc(TC_MEM_OTHER, blocks / 256 + 1, sizeof(float));
    w->scale_codes = tc_alloc(TC_MEM_OTHER, blocks, 1);
    for (uint64_t i = 0; i <= blocks / 256; i++) w->nested[i] = 0.1f + fabsf(noise());
    for (uint64_t i = 0; i < blocks; i++) {
        w->scale_codes[i] = (uint8_t)rand();
        w->absmax[i] = tc_nested_levels()[w->scale_codes[i]] * w->nested[i / 256];
        w->absmax[i] += w->nested_offset;
    }
}

// A random weight of the kind that packs as the shape says (Q8: any weight can).
static void make_weight(const shape *s, tc_weight *w)
{
    uint64_t n = (uint64_t)s->rows * s->cols;
    *w = (tc_weight){.rows = s->rows, .cols = s->cols};
    w->dtype = s->type == TC_M_F32 || s->type == TC_M_Q8 ? TC_F32 : s->type == TC_M_F16 ? TC_F16 : TC_BF16;
    w->data = tc_alloc(TC_MEM_OTHER, n, 4);
    if (s->type == TC_M_Q4) {
        make_scales(s, n / s->block + 1, w);
        for (uint64_t i = 0; i < n / 2; i++) ((uint8_t *)w->data)[i] = (uint8_t)rand();
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        if (w->dtype == TC_F32)
            ((float *)w->data)[i] = noise();
        else if (w->dtype == TC_BF16)
            ((uint16_t *)w->data)[i] = bf16(noise());
        else
            ((uint16_t *)w->data)[i] = (uint16_t)(0x3000 | (rand() & 0x8fff)); // halves of 0.125 to 2
    }
}

typedef struct subject {
    const tc_kernels *k;
    tc_precision precision;
} subject;

// Nested ones: a row in one nested block, rows that cross its border, a single span. Many rows, and columns
// on both sides of 8192: where kernels go over to another form (fast_avx2.c).
static const shape shapes[] = {
    {TC_M_Q4, 16, 64, 64, false},  {TC_M_Q4, 70, 320, 64, false},   {TC_M_Q4, 33, 128, 32, false},
    {TC_M_Q4, 1, 64, 64, false},   {TC_M_Q4, 48, 256, 128, false},  {TC_M_Q4, 70, 256, 64, true},
    {TC_M_Q4, 70, 320, 64, true},  {TC_M_Q4, 61, 64, 64, true},     {TC_M_Q8, 70, 320, 0, false},
    {TC_M_Q8, 16, 64, 0, false},   {TC_M_BF16, 16, 1, 0, false},    {TC_M_BF16, 70, 65, 0, false},
    {TC_M_BF16, 7, 319, 0, false}, {TC_M_BF16, 32, 320, 0, false},  {TC_M_F16, 33, 66, 0, false},
    {TC_M_F16, 16, 320, 0, false}, {TC_M_F32, 70, 63, 0, false},    {TC_M_F32, 5, 2, 0, false},
    {TC_M_F32, 32, 320, 0, false}, {TC_M_Q4, 200, 128, 64, true},   {TC_M_Q4, 17, 8192, 64, false},
    {TC_M_Q4, 17, 8256, 64, true}, {TC_M_BF16, 17, 8256, 0, false},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct problem {
    tc_weight weight;
    tc_matrix m;
    float *values; // dequantised [rows][cols]
    float x[N_MAX][COLS_MAX];
    const float *f32[N_MAX];
    tc_rounded_row q8[N_MAX];
    uint8_t *q8_memory;
    tc_rows rows;
} problem;

static void make_inputs(const subject *s, problem *p)
{
    uint32_t cols = p->m.cols;
    p->q8_memory = tc_alloc(TC_MEM_OTHER, N_MAX, tc_rounded_bytes(COLS_MAX));
    for (int t = 0; t < N_MAX; t++) {
        p->f32[t] = p->x[t];
        p->q8[t] = tc_rounded_at(p->q8_memory + (size_t)t * tc_rounded_bytes(COLS_MAX), cols);
        for (uint32_t c = 0; c < cols; c++) p->x[t][c] = noise();
        if (t == 1) memset(p->x[t], 0, sizeof p->x[t]); // nothing to scale by
        for (uint32_t c = 0; t / 2 == 1 && c < cols; c++)
            p->x[t][c] = t == 2 ? 1 : -1;         // the ends of the range
        if (cols < COLS_MAX) p->x[t][cols] = NAN; // nobody's
        if (tc_wants_rounded(s->k, p->m.form.type)) s->k->round(p->x[t], cols, &p->q8[t]);
    }
    p->rows = (tc_rows){p->f32, p->q8};
}

static void make_problem(const subject *s, const shape *sh, problem *p)
{
    make_weight(sh, &p->weight);
    tc_matrix_form form = tc_matrix_form_for(&p->weight, 0, sh->cols);
    if (sh->type == TC_M_Q8) form = (tc_matrix_form){TC_M_Q8, 64, 0};
    assert_int_equal(form.type, sh->type);
    assert_int_equal(form.nested_stride, sh->nested ? sh->cols / 64 : 0);
    void *data = tc_alloc(TC_MEM_OTHER, tc_matrix_bytes(&form, sh->rows, sh->cols) + 8192, 1);
    tc_matrix_pack(&p->weight, 0, sh->rows, 0, sh->cols, &form, data, &p->m);
    p->values = tc_alloc(TC_MEM_OTHER, (size_t)sh->rows * sh->cols, sizeof(float));
    tc_weight_dequantise(&p->weight, 0, (uint64_t)sh->rows * sh->cols, p->values);
    for (uint32_t r = 0; sh->type == TC_M_Q8 && r < sh->rows; r++)
        tc_matrix_row(&p->m, r, p->values + (size_t)r * sh->cols);
    make_inputs(s, p);
}

static void free_problem(problem *p)
{
    tc_weight_free(&p->weight);
    tc_free((void *)p->m.data);
    tc_free(p->values);
    tc_free(p->q8_memory);
}

// To nearest, ties to even.
static float rounded_to_bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&v, &bits, sizeof bits);
    return v;
}

// Sum in double, and the sum of magnitudes that its error is measured against.
static double expected(const subject *s, const problem *p, uint32_t t, uint32_t r, double *ret_scale)
{
    const bool rounded = s->k->round_bf16 && p->m.form.type == TC_M_BF16 && !p->m.unrounded;
    double sum = 0, scale = 1e-9;
    for (uint32_t c = 0; c < p->m.cols; c++) {
        const float x = rounded ? rounded_to_bf16(p->x[t][c]) : p->x[t][c];
        double v = (double)p->values[(size_t)r * p->m.cols + c] * x;
        sum += v;
        scale += fabs(v);
    }
    *ret_scale = scale;
    return sum;
}

static bool rounds(const subject *s, const shape *sh)
{
    return s->precision == TC_FAST && (sh->type == TC_M_Q4 || sh->type == TC_M_Q8);
}

// exact: float32 sums of exactly dequantised weights. float: besides, the rounding of each weight to bf16
// is skipped. fast: levels in 127 steps, activations in 1015.
static double bound(const subject *s, const shape *sh)
{
    if (rounds(s, sh)) return 0x1p-7;
    return s->precision != TC_EXACT && sh->type == TC_M_Q4 ? 0x1p-8 : 4e-6;
}

static void test_matmul(void **state)
{
    const subject *s = *state;
    for (size_t i = 0; i < SHAPES; i++) {
        const shape *sh = &shapes[i];
        static problem p;
        float whole[N_MAX][ROWS_MAX + 1], some[N_MAX][ROWS_MAX + 1], *y[N_MAX], *z[N_MAX];
        make_problem(s, sh, &p);
        for (int t = 0; t < N_MAX; t++) {
            y[t] = whole[t];
            z[t] = some[t];
            whole[t][sh->rows] = 12345;
        }
        tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), &p.rows, N_MAX, y);
        for (uint32_t t = 0; t < N_MAX; t++) {
            assert_true(whole[t][sh->rows] == 12345); // nothing past the last row
            for (uint32_t r = 0; r < sh->rows; r++) {
                double scale, sum = expected(s, &p, t, r, &scale), error = fabs(whole[t][r] - sum) / scale;
                if (!(error <= bound(s, sh)))
                    fail_msg("shape %zu token %u row %u: error %.3g", i, t, r, error);
            }
        }
        for (uint32_t n = 1; n <= N_MAX; n++) { // company
            tc_rows last = {p.f32 + N_MAX - n, p.q8 + N_MAX - n};
            tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), &last, n, z);
            for (uint32_t t = 0; t < n; t++)
                assert_memory_equal(some[t], whole[N_MAX - n + t], sh->rows * sizeof(float));
        }
        for (uint32_t panel = 0; panel < tc_panels(sh->rows); panel++)
            tc_matmul(s->k, &p.m, panel, panel + 1, &p.rows, N_MAX, z);
        for (uint32_t t = 0; t < N_MAX; t++) assert_memory_equal(some[t], whole[t], sh->rows * sizeof(float));
        free_problem(&p);
    }
}

// ---- rounded activations: the definition in kernels.h, written again, and the same bits from every ISA ----

// Activations and code book rounded here, independently; sums in double.
static double fast_expected(const problem *p, uint32_t t, uint32_t r, double *ret_scale)
{
    double sum = 0, scale = 1e-9;
    for (uint32_t c = 0; c < p->m.cols; c++) {
        double top = 0, weight = tc_matrix_element(&p->m, r, c);
        for (uint32_t k = c / 64 * 64; k < c / 64 * 64 + 64; k++) top = fmax(top, fabs((double)p->x[t][k]));
        float factor = top > 0 ? 1015.0f / (float)top : 0;
        double x = rint((double)(p->x[t][c] * factor)) * top / 1015;
        if (p->m.form.type == TC_M_Q4) {
            tc_matrix unrounded = p->m;
            unrounded.round = TC_F32;
            for (int i = 0; i < 16; i++) unrounded.levels[i] = (float)p->m.fast[i] * p->m.fast_step;
            weight = tc_matrix_element(&unrounded, r, c);
        }
        sum += weight * x;
        scale += fabs(weight * x);
    }
    *ret_scale = scale;
    return sum;
}

static void test_fast(void **state)
{
    const subject *s = *state;
    const subject oracle = {.precision = TC_FAST};
    tc_error e;
    subject plain = oracle;
    if (s->precision != TC_FAST) return;
    assert_int_equal(tc_kernels_get(TC_FAST, "scalar", &plain.k, &e), TC_OK);
    for (size_t i = 0; i < SHAPES; i++) {
        const shape *sh = &shapes[i];
        if (!rounds(s, sh)) continue;
        static problem p;
        float own[N_MAX][ROWS_MAX], theirs[N_MAX][ROWS_MAX], *y[N_MAX], *z[N_MAX];
        make_problem(s, sh, &p);
        for (int t = 0; t < N_MAX; t++) {
            y[t] = own[t];
            z[t] = theirs[t];
        }
        tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), &p.rows, N_MAX, y);
        for (uint32_t t = 0; t < N_MAX; t++) { // the plain rounding gives the same row, bias included
            uint8_t *memory = tc_alloc(TC_MEM_OTHER, 1, tc_rounded_bytes(COLS_MAX));
            tc_rounded_row row = tc_rounded_at(memory, sh->cols);
            plain.k->round(p.x[t], sh->cols, &row);
            assert_memory_equal(memory, p.q8[t].high, (size_t)((char *)row.pair_bias - (char *)row.high));
            tc_free(memory);
        }
        tc_matmul(plain.k, &p.m, 0, tc_panels(sh->rows), &p.rows, N_MAX, z);
        for (uint32_t t = 0; t < N_MAX; t++) {
            assert_memory_equal(own[t], theirs[t], sh->rows * sizeof(float));
            for (uint32_t r = 0; r < sh->rows; r++) {
                double scale, sum = fast_expected(&p, t, r, &scale);
                if (!(fabs(own[t][r] - sum) <= 3e-6 * scale))
                    fail_msg("shape %zu token %u row %u: %.9g is not %.9g", i, t, r, own[t][r], sum);
            }
        }
        free_problem(&p);
    }
}

// Down projections of one unit of a wide expert: nested scales of its rows lie far apart, in few blocks of
// scales or in more than a register holds. Sums have the bits of the plain kernel.
static void test_narrow_parts(void **state)
{
    enum { TOKENS = 8, FEW = 3, ROWS = 134 };
    static const uint32_t strides[] = {1, 3, 12, 60, 61, 64, 65, 67, 257, 300};
    const subject *s = *state;
    const tc_kernels *plain;
    tc_error e;
    if (s->precision != TC_FAST) return;
    assert_int_equal(tc_kernels_get(TC_FAST, "scalar", &plain, &e), TC_OK);
    for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
        const uint32_t wide = strides[i] * TC_SPAN_COLS;
        tc_weight weight;
        tc_matrix m;
        make_weight(&(shape){TC_M_Q4, ROWS, wide, 64, true}, &weight);
        const tc_matrix_form form = tc_matrix_form_for(&weight, wide - TC_SPAN_COLS, TC_SPAN_COLS);
        assert_int_equal(form.nested_stride, strides[i]);
        void *data = tc_alloc(TC_MEM_OTHER, tc_matrix_bytes(&form, ROWS, TC_SPAN_COLS) + 8192, 1);
        tc_matrix_pack(&weight, 0, ROWS, wide - TC_SPAN_COLS, TC_SPAN_COLS, &form, data, &m);
        tc_rounded_row rounded[TOKENS];
        float x[TC_SPAN_COLS], scale[TOKENS];
        uint8_t *memory = tc_alloc(TC_MEM_OTHER, TOKENS, tc_rounded_bytes(TC_SPAN_COLS));
        int64_t own[TOKENS][ROWS] = {0}, theirs[TOKENS][ROWS] = {0}, *acc[TOKENS], *other[TOKENS];
        for (uint32_t t = 0; t < TOKENS; t++) {
            for (uint32_t c = 0; c < TC_SPAN_COLS; c++) x[c] = noise();
            rounded[t] = tc_rounded_at(memory + t * tc_rounded_bytes(TC_SPAN_COLS), TC_SPAN_COLS);
            s->k->round(x, TC_SPAN_COLS, &rounded[t]);
            scale[t] = noise();
            acc[t] = own[t];
            other[t] = theirs[t];
        }
        const tc_rows rows = {.rounded = rounded};
        for (uint32_t n = FEW; n <= TOKENS; n += TOKENS - FEW) {
            assert_true(s->k->matmul_fixed[TC_M_Q4](&m, 0, tc_panels(ROWS), &rows, scale, n, acc));
            assert_true(plain->matmul_fixed[TC_M_Q4](&m, 0, tc_panels(ROWS), &rows, scale, n, other));
        }
        assert_memory_equal(own, theirs, sizeof own);
        tc_free(memory);
        tc_free(data);
        tc_weight_free(&weight);
    }
}

// What is not finite stays so: a rounded infinity would be a wrong answer.
static void test_fast_keeps_what_is_not_finite(void **state)
{
    const subject *s = *state;
    const shape sh = {TC_M_Q4, 16, 128, 64, true};
    const float bad[] = {INFINITY, -INFINITY, NAN};
    if (s->precision != TC_FAST) return;
    for (int i = 0; i < 3; i++) {
        static problem p;
        float y_memory[ROWS_MAX], *y = y_memory, weight = 1;
        int64_t sum[ROWS_MAX] = {0}, *acc = sum;
        make_problem(s, &sh, &p);
        p.x[0][77] = bad[i];
        s->k->round(p.x[0], sh.cols, &p.q8[0]);
        tc_matmul(s->k, &p.m, 0, 1, &p.rows, 1, &y);
        for (uint32_t r = 0; r < sh.rows; r++) assert_true(isnan(y[r]));
        assert_false(s->k->matmul_fixed[TC_M_Q4](&p.m, 0, 1, &p.rows, &weight, 1, &acc));
        free_problem(&p);
    }
}

// matmul_fixed is matmul, times the scale, rounded once: the same bits as doing it by hand.
static void test_fixed(void **state)
{
    const subject *s = *state;
    for (size_t i = 0; i < SHAPES; i++) {
        const shape *sh = &shapes[i];
        static problem p;
        static float y_memory[N_MAX][ROWS_MAX];
        static int64_t acc_memory[N_MAX][ROWS_MAX + 1];
        float *y[N_MAX], scale[N_MAX];
        int64_t *acc[N_MAX];
        make_problem(s, sh, &p);
        for (int t = 0; t < N_MAX; t++) {
            y[t] = y_memory[t];
            acc[t] = acc_memory[t];
            scale[t] = noise() * (t == 2 ? 1000 : 1);
            for (uint32_t r = 0; r <= sh->rows; r++) acc[t][r] = 1000 + (int64_t)r;
        }
        tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), &p.rows, N_MAX, y);
        assert_true(s->k->matmul_fixed[sh->type](&p.m, 0, tc_panels(sh->rows), &p.rows, scale, N_MAX, acc));
        for (uint32_t t = 0; t < N_MAX; t++) {
            for (uint32_t r = 0; r < sh->rows; r++) {
                float part = y[t][r] * scale[t];
                assert_true(acc[t][r] == 1000 + (int64_t)r + llrintf(part * TC_FIXED_ONE));
            }
            assert_true(acc[t][sh->rows] == 1000 + (int64_t)sh->rows);
        }
        free_problem(&p);
    }
}

// One row, and 16: short panels and whole ones go different ways.
static void test_fixed_refuses_what_it_cannot_hold(void **state)
{
    const subject *s = *state;
    const struct {
        float x;
        bool fine;
    } cases[] = {{1, true},       {524287.9375f, true}, {524288.0f, false}, {-524288.0f, false},
                 {-524287, true}, {INFINITY, false},    {NAN, false}};
    for (uint32_t rows = 1; rows <= 16; rows += 15) {
        float one[16];
        tc_matrix m;
        tc_matrix_form form = {TC_M_F32, 0, 0};
        tc_weight w = {.rows = rows, .cols = 1, .dtype = TC_F32, .data = one};
        for (int i = 0; i < 16; i++) one[i] = 1;
        void *data = tc_alloc(TC_MEM_OTHER, 8192, 1);
        tc_matrix_pack(&w, 0, rows, 0, 1, &form, data, &m);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const float *f32[1] = {&cases[i].x}, scale[1] = {1};
            const tc_rows x = {f32, NULL};
            int64_t sum[16] = {0}, *acc[1] = {sum};
            assert_int_equal(s->k->matmul_fixed[TC_M_F32](&m, 0, 1, &x, scale, 1, acc), cases[i].fine);
            for (uint32_t r = 0; cases[i].fine && r < rows; r++)
                assert_true(sum[r] == (int64_t)((double)cases[i].x * 4294967296.0));
        }
        // Parts in range can add up to more than 64 bits (a peer's numbers): then the sum wraps, which is
        // defined.
        const float *f32[1] = {one}, scale[1] = {1};
        const tc_rows x = {f32, NULL};
        int64_t sum[16], *acc[1] = {sum};
        for (int r = 0; r < 16; r++) sum[r] = INT64_MAX;
        assert_true(s->k->matmul_fixed[TC_M_F32](&m, 0, 1, &x, scale, 1, acc));
        for (uint32_t r = 0; r < rows; r++) assert_true(sum[r] == INT64_MIN + (1ll << 32) - 1);
        tc_free(data);
    }
}

// Several narrow matrices and many tokens, as experts have them in prompts.
typedef struct crowd {
    problem units[UNITS];
    tc_matrix w[UNITS];
    tc_rows x[UNITS];
    float *f32[UNITS][CROWD_MAX], scale[CROWD_MAX];
    tc_rounded_row rounded[UNITS][CROWD_MAX];
    int64_t *own[CROWD_MAX], *theirs[CROWD_MAX];
} crowd;

static void make_crowd(const subject *s, const shape *sh, crowd *c)
{
    for (uint32_t u = 0; u < UNITS; u++) {
        make_problem(s, sh, &c->units[u]);
        c->w[u] = c->units[u].m;
        uint8_t *memory = tc_alloc(TC_MEM_OTHER, CROWD_MAX, tc_rounded_bytes(sh->cols));
        for (uint32_t t = 0; t < CROWD_MAX; t++) {
            c->f32[u][t] = tc_alloc(TC_MEM_OTHER, sh->cols, sizeof(float));
            for (uint32_t i = 0; i < sh->cols; i++) c->f32[u][t][i] = noise() * (t % 5 == 4 ? 0 : 3);
            c->rounded[u][t] = tc_rounded_at(memory + t * tc_rounded_bytes(sh->cols), sh->cols);
            if (tc_wants_rounded(s->k, sh->type)) s->k->round(c->f32[u][t], sh->cols, &c->rounded[u][t]);
        }
        c->x[u] = (tc_rows){(const float *const *)c->f32[u], c->rounded[u]};
    }
    for (uint32_t t = 0; t < CROWD_MAX; t++) {
        c->scale[t] = noise() * (t == 2 ? 1000 : 1);
        c->own[t] = tc_alloc(TC_MEM_OTHER, ROWS_MAX, sizeof(int64_t));
        c->theirs[t] = tc_alloc(TC_MEM_OTHER, ROWS_MAX, sizeof(int64_t));
    }
}

static void free_crowd(crowd *c)
{
    for (uint32_t u = 0; u < UNITS; u++) {
        free_problem(&c->units[u]);
        tc_free(c->rounded[u][0].high);
        for (uint32_t t = 0; t < CROWD_MAX; t++) tc_free(c->f32[u][t]);
    }
    for (uint32_t t = 0; t < CROWD_MAX; t++) {
        tc_free(c->own[t]);
        tc_free(c->theirs[t]);
    }
}

// Sums of all units at once are those of one token and one unit after another.
static void test_sums_of_units(void **state)
{
    static const shape kinds[] = {{TC_M_Q4, 70, 64, 64, true},  {TC_M_Q4, 64, 128, 64, false},
                                  {TC_M_Q4, 33, 64, 32, false}, {TC_M_Q8, 70, 64, 0, false},
                                  {TC_M_Q4, 16, 576, 64, true}, {TC_M_BF16, 33, 64, 0, false}};
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 6, 7, 64, 65, 67, 68, CROWD_MAX};
    const subject *s = *state;
    static crowd c;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const shape *sh = &kinds[k];
        const uint32_t panels = tc_panels(sh->rows);
        make_crowd(s, sh, &c);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            const uint32_t n = counts[i];
            for (uint32_t t = 0; t < n; t++)
                for (uint32_t r = 0; r < ROWS_MAX; r++) c.own[t][r] = c.theirs[t][r] = INT64_MAX - 7 * r;
            for (uint32_t p = 0; p < panels; p++) // any split of panels
                assert_true(tc_matmul_fixed_sum(s->k, c.w, UNITS, p, p + 1, c.x, c.scale, n, c.own));
            for (uint32_t u = 0; u < UNITS; u++)
                for (uint32_t t = 0; t < n; t++) {
                    const tc_rows one = {c.x[u].f32 + t, c.x[u].rounded + t};
                    assert_true(
                        s->k->matmul_fixed[sh->type](&c.w[u], 0, panels, &one, c.scale + t, 1, c.theirs + t));
                }
            for (uint32_t t = 0; t < n; t++)
                assert_memory_equal(c.own[t], c.theirs[t], ROWS_MAX * sizeof(int64_t));
        }
        const float good = c.scale[9], bad[] = {1e30f, -1e30f, NAN, INFINITY};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            c.scale[9] = bad[i]; // 9 % 5 == 4 would be zeros
            c.scale[8] = bad[i];
            assert_false(tc_matmul_fixed_sum(s->k, c.w, UNITS, 0, panels, c.x, c.scale, 67, c.own));
        }
        c.scale[8] = c.scale[9] = good;
        free_crowd(&c);
    }
}

// Many tokens meet weights that were unpacked once: the bits of one token alone.
static void test_crowds(void **state)
{
    static const shape kinds[] = {{TC_M_Q4, 33, 1088, 64, true}, {TC_M_Q4, 16, 1088, 32, false},
                                  {TC_M_Q8, 33, 576, 0, false},  {TC_M_BF16, 33, 1088, 0, false},
                                  {TC_M_BF16, 70, 33, 0, false}, {TC_M_BF16, 16, 8000, 0, false}};
    const subject *s = *state;
    static crowd c;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const shape *sh = &kinds[k];
        static float together[CROWD_MAX][ROWS_MAX], alone[ROWS_MAX];
        float *y[CROWD_MAX], *one = alone;
        make_crowd(s, sh, &c);
        for (uint32_t t = 0; t < CROWD_MAX; t++) y[t] = together[t];
        tc_matmul(s->k, &c.w[0], 0, tc_panels(sh->rows), &c.x[0], CROWD_MAX, y);
        for (uint32_t t = 0; t < CROWD_MAX; t++) {
            const tc_rows row = {c.x[0].f32 + t, c.x[0].rounded + t};
            tc_matmul(s->k, &c.w[0], 0, tc_panels(sh->rows), &row, 1, &one);
            assert_memory_equal(together[t], alone, sh->rows * sizeof(float));
        }
        if (tc_wants_rounded(s->k, sh->type)) { // all rows at one distance from each other but one
            static float other[CROWD_MAX][ROWS_MAX];
            void *const moved = tc_alloc(TC_MEM_OTHER, 1, tc_rounded_bytes(sh->cols)), *const from =
                                                                                           c.rounded[0][7]
                                                                                               .high;
            memcpy(moved, from, tc_rounded_bytes(sh->cols));
            memset(from, 0, tc_rounded_bytes(sh->cols));
            c.rounded[0][7] = tc_rounded_at(moved, sh->cols);
            for (uint32_t t = 0; t < CROWD_MAX; t++) y[t] = other[t];
            tc_matmul(s->k, &c.w[0], 0, tc_panels(sh->rows), &c.x[0], CROWD_MAX, y);
            for (uint32_t t = 0; t < CROWD_MAX; t++)
                assert_memory_equal(together[t], other[t], sh->rows * sizeof(float));
            tc_free(moved);
        }
        free_crowd(&c);
    }
}

// Rows that were rounded before the call give the bits of those that the kernel rounds itself; those of a
// matrix that says so, and of one wider than the kernel takes, are not rounded at all.
static void test_bf16_rows(void **state)
{
    static const shape kinds[] = {{TC_M_BF16, 33, 320, 0, false}, {TC_M_BF16, 70, 64, 0, false}};
    const subject *s = *state;
    const tc_kernels *unrounded;
    tc_error e;
    static crowd c;
    static float whole[CROWD_MAX][ROWS_MAX], other[CROWD_MAX][ROWS_MAX];
    float *y[CROWD_MAX], *z[CROWD_MAX];
    if (!s->k->round_bf16) return;
    assert_int_equal(tc_kernels_get(TC_FLOAT, "avx512", &unrounded, &e), TC_OK);
    for (uint32_t t = 0; t < CROWD_MAX; t++) {
        y[t] = whole[t];
        z[t] = other[t];
    }
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const shape *sh = &kinds[k];
        const uint32_t panels = tc_panels(sh->rows);
        make_crowd(s, sh, &c);
        assert_true(tc_wants_bf16(s->k, &c.w[0]));
        for (uint32_t t = 0; t < CROWD_MAX; t++) s->k->round_bf16(c.f32[0][t], sh->cols, &c.rounded[0][t]);
        const tc_rows given = {c.x[0].f32, c.rounded[0], true};
        tc_rounded_row backwards[CROWD_MAX]; // not at one distance, as tiles want them
        for (uint32_t t = 0; t < CROWD_MAX; t++) backwards[t] = c.rounded[0][CROWD_MAX - 1 - t];
        float *from_last[CROWD_MAX], *const *last = from_last;
        const float *f32_backwards[CROWD_MAX];
        for (uint32_t n = 1; n <= CROWD_MAX; n += n < 40 ? 1 : 31) {
            tc_matmul(s->k, &c.w[0], 0, panels, &c.x[0], n, y);
            tc_matmul(s->k, &c.w[0], 0, panels, &given, n, z);
            for (uint32_t t = 0; t < n; t++) assert_memory_equal(y[t], z[t], sh->rows * sizeof(float));
        }
        for (uint32_t t = 0; t < CROWD_MAX; t++) {
            f32_backwards[t] = c.f32[0][CROWD_MAX - 1 - t];
            from_last[t] = other[CROWD_MAX - 1 - t];
        }
        const tc_rows turned = {f32_backwards, backwards, true};
        tc_matmul(s->k, &c.w[0], 0, panels, &c.x[0], CROWD_MAX, y);
        tc_matmul(s->k, &c.w[0], 0, panels, &turned, CROWD_MAX, last);
        for (uint32_t t = 0; t < CROWD_MAX; t++) assert_memory_equal(y[t], z[t], sh->rows * sizeof(float));
        tc_matrix whole_input = c.w[0];
        whole_input.unrounded = true;
        assert_false(tc_wants_bf16(s->k, &whole_input));
        tc_matmul(s->k, &whole_input, 0, panels, &given, CROWD_MAX, y);
        tc_matmul(unrounded, &whole_input, 0, panels, &given, CROWD_MAX, z);
        for (uint32_t t = 0; t < CROWD_MAX; t++) assert_memory_equal(y[t], z[t], sh->rows * sizeof(float));
        free_crowd(&c);
    }
}

static void test_wide_bf16(void **state)
{
    enum { COLS = 100000, ROWS = 16 };
    const subject *s = *state;
    const tc_kernels *unrounded;
    tc_error e;
    if (!s->k->round_bf16) return;
    assert_int_equal(tc_kernels_get(TC_FLOAT, "avx512", &unrounded, &e), TC_OK);
    uint16_t *data = tc_alloc(TC_MEM_OTHER, (size_t)COLS * ROWS + 4096, sizeof *data);
    float *x = tc_alloc(TC_MEM_OTHER, COLS, sizeof *x), one[ROWS], two[ROWS], *y = one, *z = two;
    int64_t own[ROWS] = {0}, theirs[ROWS] = {0}, *acc = own, *expected_acc = theirs;
    for (size_t i = 0; i < (size_t)COLS * ROWS; i++) data[i] = bf16(noise());
    for (uint32_t i = 0; i < COLS; i++) x[i] = noise();
    const tc_matrix m = {.form = {TC_M_BF16, 0, 0}, .rows = ROWS, .cols = COLS, .data = data};
    const float *f32 = x, scale = 0.5f;
    const tc_rows rows = {&f32, NULL, false};
    tc_matmul(s->k, &m, 0, 1, &rows, 1, &y);
    tc_matmul(unrounded, &m, 0, 1, &rows, 1, &z);
    assert_memory_equal(one, two, sizeof one);
    assert_true(s->k->matmul_fixed[TC_M_BF16](&m, 0, 1, &rows, &scale, 1, &acc));
    assert_true(unrounded->matmul_fixed[TC_M_BF16](&m, 0, 1, &rows, &scale, 1, &expected_acc));
    assert_memory_equal(own, theirs, sizeof own);
    tc_free(data);
    tc_free(x);
}

static void test_vectors(void **state)
{
    const subject *s = *state;
    for (uint32_t n = 0; n <= 200; n++) {
        float a[201] = {0}, b[201] = {0}, out[201], shifted[201];
        double sum = 0, scale = 1e-9;
        for (uint32_t i = 0; i < n; i++) {
            a[i] = noise() * 20;
            b[i] = noise();
            sum += (double)a[i] * b[i];
            scale += fabs((double)a[i] * b[i]);
        }
        out[n] = 77;
        assert_true(fabs(s->k->dot(a, b, n) - sum) / scale < 2e-6);
        s->k->silu_mul(a, b, out, n);
        for (uint32_t i = 0; i < n; i++) {
            double silu = a[i] / (1 + exp(-(double)a[i])) * b[i];
            assert_true(fabs(out[i] - silu) <= 4e-7 * fabs(silu) + 1e-12);
        }
        for (uint32_t i = 0; i < n; i++) { // the same bits alone as in a row
            s->k->silu_mul(a + i, b + i, shifted, 1);
            assert_memory_equal(shifted, out + i, sizeof(float));
        }
        memcpy(out, b, n * sizeof(float));
        s->k->axpy(0.3f, a, out, n);
        for (uint32_t i = 0; i < n; i++) assert_true(fabs(out[i] - (b[i] + 0.3 * (double)a[i])) < 3e-6);
        assert_true(out[n] == 77);
    }
    const float extremes[] = {-1e30f, -100, -88, 0, 88, 100, 1e30f};
    float one[7] = {1, 1, 1, 1, 1, 1, 1}, out[7];
    s->k->silu_mul(extremes, one, out, 7);
    for (int i = 0; i < 7; i++)
        assert_true(isfinite(out[i]) &&
                    fabs(out[i] - (extremes[i] > 0 ? extremes[i] : 0)) <= 1e-30 + 1e-6 * fabs(out[i]));
}

// FAST is the same on every ISA, the activation function of experts included.
static void test_fast_silu(void **state)
{
    const subject *s = *state;
    const tc_kernels *plain;
    tc_error e;
    float gate[1024], up[1024], own[1024], theirs[1024];
    if (s->precision != TC_FAST) return;
    assert_int_equal(tc_kernels_get(TC_FAST, "scalar", &plain, &e), TC_OK);
    for (int i = 0; i < 1024; i++) {
        gate[i] = (float)(i - 512) / 5 + noise() / 3;
        up[i] = noise();
    }
    s->k->silu_mul(gate, up, own, 1024);
    plain->silu_mul(gate, up, theirs, 1024);
    assert_memory_equal(own, theirs, sizeof own);
}

// NULL isa: AMX's instructions emulated.
static bool find_kernels(subject *s, const char *isa)
{
    tc_error e = {0};
    if (!isa) {
#if defined(TC_AMX_EMULATED)
        s->k = tc_amx_emulated();
#endif
        snprintf(e.text, sizeof e.text, "AMX emulated: this CPU lacks AVX-512 with BF16");
    } else if (tc_kernels_get(s->precision, s->precision == TC_EXACT ? NULL : isa, &s->k, &e) != TC_OK) {
        s->k = NULL;
    }
    if (!s->k) print_message("[  SKIPPED ] %s\n", e.text);
    return s->k;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench_kernels(argc > 2 ? (uint32_t)atoi(argv[2]) : 1, argc - 3, argv + 3);
    static const struct {
        const char *isa;
        tc_precision precision;
    } all[] = {{"exact", TC_EXACT},     {"scalar", TC_FLOAT},    {"avx2", TC_FLOAT},
               {"avx512", TC_FLOAT},    {"amx", TC_FLOAT},       {"scalar", TC_FAST},
               {"avx2", TC_FAST},       {"avx512", TC_FAST},     {"avx512vnni", TC_FAST},
               {"avx512vbmi", TC_FAST}, {"avx512bf16", TC_FAST}, {"avx512pairs", TC_FAST},
               {"amx", TC_FAST},        {NULL, TC_FAST}};
    int failed = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        subject s = {.precision = all[i].precision};
        char name[32];
        srand(5);
        if (!find_kernels(&s, all[i].isa)) continue;
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_matmul, &s),
            cmocka_unit_test_prestate(test_fixed, &s),
            cmocka_unit_test_prestate(test_fixed_refuses_what_it_cannot_hold, &s),
            cmocka_unit_test_prestate(test_sums_of_units, &s),
            cmocka_unit_test_prestate(test_crowds, &s),
            cmocka_unit_test_prestate(test_bf16_rows, &s),
            cmocka_unit_test_prestate(test_wide_bf16, &s),
            cmocka_unit_test_prestate(test_vectors, &s),
            cmocka_unit_test_prestate(test_fast, &s),
            cmocka_unit_test_prestate(test_narrow_parts, &s),
            cmocka_unit_test_prestate(test_fast_keeps_what_is_not_finite, &s),
            cmocka_unit_test_prestate(test_fast_silu, &s),
        };
        snprintf(name, sizeof name, "%s %s", all[i].isa ? all[i].isa : s.k->name,
                 tc_precision_name(s.precision));
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return failed;
}
