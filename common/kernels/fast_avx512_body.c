// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512, compiled for each set of instructions: fast_avx512.c without VNNI,
// fast_avx512vnni.c with it, fast_avx512vbmi.c with VBMI, too, fast_avx512pairs.c, which defines TC_PAIRS,
// and fast_amx.c. Bits as in fast_plain.c.
#include "common/kernels/impl_avx512.h"

#ifndef TC_PAIRS
#define TC_PAIRS 0
#endif

enum {
    // Asked for ahead, a line a tile, into the second cache: it waits for more lines at once than the first.
    // Less than this leaves memory idle where it is fast.
    PREFETCH_BYTES = 6656,
    SUM_UNITS = 32,     // narrow matrices that are added up together
    PAIRS_FROM = 4,     // tokens: fewer do not make up for what pairs of weights cost alone
    PAIR_OFFSET = 1024, // above every q: no sum of a pair's half is negative, and none borrows from the other
};

// acc[lane] += four products of unsigned bytes u and the signed bytes at q, the same for all lanes.
INLINE __m512i dot4(__m512i acc, __m512i u, const int8_t *q)
{
#ifdef __AVX512VNNI__
    // Left to itself the compiler keeps what a product reads in a register of its own.
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(*(const int8_t(*)[4])q));
    return acc;
#else
    const __m512i four = _mm512_broadcastd_epi32(_mm_loadu_si32(q));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(u, four), _mm512_set1_epi16(1)));
#endif
}

// Bytes of a table of 16 (in each quarter of `table`) by the low and the high four bits of codes. VBMI reads
// six bits of an index: the upper two choose among four tables that are alike.
INLINE __m512i look_up_low(__m512i table, __m512i codes)
{
#ifdef __AVX512VBMI__
    return _mm512_permutexvar_epi8(codes, table);
#else
    return _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(15)));
#endif
}

INLINE __m512i look_up_high(__m512i table, __m512i codes)
{
    return look_up_low(table, _mm512_srli_epi16(codes, 4));
}

// Sums of the two planes. One or two tokens take two of each: a chain of dot products waits for its own
// latency.
typedef struct planes {
    __m512i high[2], low[2];
} planes;

// Where a group's activations begin, in bytes from a row's. Rows lie as tc_rounded_at has them, so one
// pointer a token and these are all that loops need: pointers to each part of eight rows would not find
// registers, and what is fetched from elsewhere between products costs a fifth of their speed.
typedef struct place {
    size_t high, low, scale, bias, pairs;
} place;

INLINE place place_of(uint32_t cols, const bool pairs)
{
    const size_t spans = cols / TC_SPAN_COLS, scales = (size_t)cols * 2,
                 bias = scales + spans * sizeof(float), biases = spans * 2 * sizeof(int32_t);
    return (place){0, cols, scales, pairs ? bias + biases : bias, bias + 2 * biases};
}

INLINE void place_advance(place *at, uint32_t group)
{
    at->high += group, at->low += group, at->pairs += group;
    at->bias += group / 32 * sizeof(int32_t);
}

INLINE void dot4_planes(__m512i u, const int8_t *const *row, size_t high, size_t low, const int T,
                        const int part, planes *sum)
{
    UNROLL(8)
    for (int t = 0; t < T; t++) {
        sum[t].high[part] = dot4(sum[t].high[part], u, row[t] + high);
        sum[t].low[part] = dot4(sum[t].low[part], u, row[t] + low);
    }
}

// One tile: 8 columns of 4-bit weights, or 4 columns of 8-bit ones, the i-th of its group.
INLINE void tile_dot(const uint8_t *tile, const int8_t *const *row, size_t high, size_t low, const int T,
                     const bool is_q4, uint32_t i, __m512i codes128, planes *sum)
{
    const int second = T <= 2; // of the two sums
    _mm_prefetch((const char *)tile + PREFETCH_BYTES, _MM_HINT_T1);
    __m512i codes = _mm512_load_si512(tile);
    __asm__("" : "+v"(codes)); // loaded once, not once for each half
    if (!is_q4) {
        __m512i u = _mm512_xor_si512(codes, _mm512_set1_epi8((char)0x80));
        dot4_planes(u, row, high, low, T, second && i % 2 ? 1 : 0, sum);
        return;
    }
    const __m512i even = look_up_low(codes128, codes), odd = look_up_high(codes128, codes);
    dot4_planes(even, row, high, low, T, 0, sum);
    dot4_planes(odd, row, high + 4, low + 4, T, second, sum);
}

#if TC_PAIRS
// a + the four bytes at b, the same for all lanes.
INLINE __m512i add4(__m512i a, const int8_t *b)
{
    __m512i sum;
    __asm__("vpaddd %2%{1to16%}, %1, %0" : "=v"(sum) : "v"(a), "m"(*(const int8_t(*)[4])b));
    return sum;
}

// Eight columns, the first four in pairs (Winograd 1968, "A new algorithm for inner products"):
//   w0 q0 + w1 q1 = (w0 + q1)(w1 + q0) - w0 w1 - q0 q1
// in 16 bits, where the last product is part of a token's bias and the one before it the same for all tokens
// (`none`). That is one product and two additions a token where planes take two products. Where the CPU adds
// on units that do not multiply, a half of the columns this way and a half in planes keeps all of them busy.
INLINE void eight_dot(const uint8_t *tile, const int8_t *const *row, const place *at, size_t column,
                      const int T, const bool is_q4, __m512i codes128, planes *sum, __m512i *none)
{
    const __m512i offset = _mm512_set1_epi16(PAIR_OFFSET);
    const size_t high = at->high + column + 4, low = at->low + column + 4, pairs = at->pairs + column;
    __m512i u = _mm512_load_si512(tile), rest;
    _mm_prefetch((const char *)tile + PREFETCH_BYTES, _MM_HINT_T1);
    if (is_q4) {
        __asm__("" : "+v"(u)); // loaded once, not once for each half
        rest = look_up_high(codes128, u);
        u = look_up_low(codes128, u);
    } else {
        _mm_prefetch((const char *)tile + PREFETCH_BYTES + 64, _MM_HINT_T1);
        rest = _mm512_xor_si512(_mm512_load_si512(tile + 64), _mm512_set1_epi8((char)0x80));
        u = _mm512_xor_si512(u, _mm512_set1_epi8((char)0x80));
    }
    const __m512i first = _mm512_ternarylogic_epi32(u, _mm512_set1_epi16(255), offset, 0xea),
                  second = _mm512_or_si512(_mm512_srli_epi16(u, 8), offset); // columns 0 and 2, 1 and 3
    *none = _mm512_dpwssd_epi32(*none, first, second);
    UNROLL(8)
    for (int t = 0; t < T; t++) {
        sum[t].high[0] = dot4(sum[t].high[0], rest, row[t] + high);
        sum[t].low[0] = _mm512_dpwssd_epi32(sum[t].low[0], add4(second, row[t] + pairs),
                                            add4(first, row[t] + pairs + sizeof(int32_t)));
        sum[t].low[0] = dot4(sum[t].low[0], rest, row[t] + low);
    }
}
#endif

INLINE bool takes_pairs(const int T)
{
    return TC_PAIRS && T >= PAIRS_FROM;
}

INLINE __m512i set_bias(const int8_t *at)
{
    int32_t bias;
    memcpy(&bias, at, sizeof bias);
    return _mm512_set1_epi32(bias);
}

INLINE void group_dot(const uint8_t *tiles, const int8_t *const *row, const place *at, const uint32_t group,
                      const int T, const bool is_q4, __m512i codes128, __m512i *acc)
{
    const uint32_t step = is_q4 ? 8 : 4, count = group / step;
    planes sum[TC_TOKENS_AT_ONCE];
    __m512i none = _mm512_setzero_si512();
    UNROLL(8)
    for (int t = 0; t < T; t++) {
        const __m512i zero = _mm512_setzero_si512(), first = set_bias(row[t] + at->bias),
                      rest = group == 64 ? set_bias(row[t] + at->bias + sizeof(int32_t)) : zero;
        sum[t].high[0] = sum[t].high[1] = zero;
        sum[t].low[0] = T <= 2 ? first : _mm512_add_epi32(first, rest);
        sum[t].low[1] = rest;
    }
    if (T <= 2) {
        UNROLL(16)
        for (uint32_t i = 0; i < count; i++)
            tile_dot(tiles + i * 64, row, at->high + i * step, at->low + i * step, T, is_q4, i, codes128,
                     sum);
#if TC_PAIRS
    } else if (takes_pairs(T)) {
        ROLLED
        for (size_t column = 0; column < group; column += 8, tiles += is_q4 ? 64 : 128)
            eight_dot(tiles, row, at, column, T, is_q4, codes128, sum, &none);
#endif
    } else {
        size_t high = at->high, low = at->low;
        ROLLED
        for (uint32_t i = 0; i < count; i++, tiles += 64, high += step, low += step)
            tile_dot(tiles, row, high, low, T, is_q4, i, codes128, sum);
    }
    UNROLL(8)
    for (int t = 0; t < T; t++) {
        __m512i high = sum[t].high[0], low = sum[t].low[0];
        if (T <= 2) {
            high = _mm512_add_epi32(high, sum[t].high[1]);
            low = _mm512_add_epi32(low, sum[t].low[1]);
        }
        acc[t] = _mm512_add_epi32(_mm512_slli_epi32(high, 4), low);
        if (takes_pairs(T)) acc[t] = _mm512_sub_epi32(acc[t], none);
    }
}

// How a matrix is read.
typedef enum dot_kind { Q4_NESTED, Q4_64, Q4_32, Q8_64, DOT_KINDS } dot_kind;

static dot_kind kind_of(const tc_matrix *w)
{
    if (w->form.type == TC_M_Q8) return Q8_64;
    return w->form.nested_stride ? Q4_NESTED : w->form.group == 32 ? Q4_32 : Q4_64;
}

INLINE __m512i codes128_of(const tc_matrix *w)
{
    const __m128i codes = _mm_xor_si128(_mm_loadu_si128((const __m128i *)w->fast), _mm_set1_epi8((char)0x80));
    return _mm512_broadcast_i32x4(codes); // Q4: the code book + 128, in each quarter
}

INLINE __m512 step_of(const tc_matrix *w)
{
    return _mm512_set1_ps(w->form.type == TC_M_Q4 ? w->fast_step : 1.0f);
}

INLINE __m512 set_scale(const int8_t *at)
{
    float scale;
    memcpy(&scale, at, sizeof scale);
    return _mm512_set1_ps(scale);
}

// Products of T rows with one panel. Nested scales are worked out four spans at a time between the products:
// they want other units.
INLINE void panel_dot(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                      const int T, const dot_kind kind, __m512 *ret)
{
    const bool is_q4 = kind != Q8_64;
    const uint32_t group = kind == Q4_32 ? 32 : 64, spans = v->spans, bytes = group * (is_q4 ? 8 : 16);
    const __m512i codes128 = codes128_of(w);
    const __m512 step = step_of(w);
    const uint8_t *tiles = tc_quant_tiles(w, v, panel);
    const float *plain = v->scales + (size_t)panel * spans * v->groups * TC_PANEL_ROWS;
    tc_panel_scales ps;
    if (kind == Q4_NESTED) ps = tc_panel_scales_begin(v, panel);
    place at = place_of(w->cols, takes_pairs(T));
    const int8_t *row[TC_TOKENS_AT_ONCE];
    __m512 sum[TC_TOKENS_AT_ONCE];
    UNROLL(8)
    for (int t = 0; t < T; t++) row[t] = x[t].high, sum[t] = _mm512_setzero_ps();
    for (uint32_t s = 0, some = spans; s < spans; s += some) {
        __m512 scales[4];
        if (kind == Q4_NESTED) some = tc_panel_scales_next(v, &ps, s, scales);
        for (uint32_t i = 0; i < some; i++) {
            UNROLL(2)
            for (uint32_t g = 0; g < TC_SPAN_COLS / group; g++, tiles += bytes, plain += TC_PANEL_ROWS) {
                __m512i acc[TC_TOKENS_AT_ONCE];
                group_dot(tiles, row, &at, group, T, is_q4, codes128, acc);
                const __m512 scale = kind == Q4_NESTED ? scales[i] : _mm512_load_ps(plain);
                UNROLL(8)
                for (int t = 0; t < T; t++)
                    sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t]),
                                             _mm512_mul_ps(scale, set_scale(row[t] + at.scale)), sum[t]);
                place_advance(&at, group);
            }
            at.scale += sizeof(float);
        }
    }
    UNROLL(8)
    for (int t = 0; t < T; t++) ret[t] = _mm512_mul_ps(sum[t], step);
}

// ---- narrow matrices, of one span: down projections of an expert's units ----

enum { FOUR = 4 }; // panels taken together: their codes of scales lie in one line

// Where what T tokens get of the first panel is added, in fixed point.
typedef struct narrow_sink {
    int64_t *to[TC_TOKENS_AT_ONCE];
    float factor[TC_TOKENS_AT_ONCE]; // times 2^32
    __m512i top;                     // the largest magnitudes, as bits
} narrow_sink;

// Scales of panels [panel, panel + 4).
INLINE void four_scales(const tc_quant_view *v, uint32_t panel, const bool nested, __m512 ret[FOUR])
{
#ifdef __AVX512VBMI__
    if (nested) {
        const __m512 offset = _mm512_set1_ps(v->table->offset);
        __m512 outer[FOUR];
        tc_nested_four(v->codes + (size_t)panel * TC_PANEL_ROWS, ret);
        tc_load_nested_four(v, panel, outer);
        UNROLL(4)
        for (uint32_t i = 0; i < FOUR; i++) ret[i] = _mm512_add_ps(_mm512_mul_ps(ret[i], outer[i]), offset);
        return;
    }
#else
    (void)nested;
#endif
    for (uint32_t i = 0; i < FOUR; i++) {
        tc_panel_scales ps = tc_panel_scales_begin(v, panel + i);
        ret[i] = tc_panel_scales_at(v, &ps, 0, 0);
    }
}

// Adds 16 parts. `factor` is times 2^32.
INLINE __m512i add_parts(__m512 part, __m512 step, __m512 factor, int64_t *to, __m512i top)
{
    const __m512 v = _mm512_mul_ps(_mm512_mul_ps(part, step), factor);
    const __m512i low = _mm512_cvtps_epi64(_mm512_castps512_ps256(v)),
                  high = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(v, 1));
    _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_loadu_si512(to), low));
    _mm512_storeu_si512(to + 8, _mm512_add_epi64(_mm512_loadu_si512(to + 8), high));
    return _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(INT32_MAX)));
}

// Panels [panel, end), a multiple of four.
INLINE void narrow_dot(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t end,
                       const tc_rounded_row *x, const int T, const dot_kind kind, narrow_sink *sink)
{
    const bool is_q4 = kind != Q8_64;
    const uint32_t bytes = is_q4 ? TC_SPAN_TILE_BYTES : TC_SPAN_TILE8_BYTES;
    const __m512i codes128 = codes128_of(w);
    const __m512 step = step_of(w);
    const place at = place_of(TC_SPAN_COLS, takes_pairs(T));
    const uint8_t *tiles = tc_quant_tiles(w, v, panel);
    const int8_t *row[TC_TOKENS_AT_ONCE];
    size_t to = 0;
    __m512i top = sink->top;
    UNROLL(8)
    for (int t = 0; t < T; t++) row[t] = x[t].high;
    for (; panel < end; panel += FOUR) {
        __m512 scales[FOUR];
        four_scales(v, panel, kind == Q4_NESTED, scales);
        for (uint32_t p = 0; p < FOUR; p++, tiles += bytes, to += TC_PANEL_ROWS) {
            __m512i acc[TC_TOKENS_AT_ONCE];
            group_dot(tiles, row, &at, TC_SPAN_COLS, T, is_q4, codes128, acc);
            UNROLL(8)
            for (int t = 0; t < T; t++) {
                const __m512 both = _mm512_mul_ps(scales[p], set_scale(row[t] + at.scale));
                top = add_parts(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[t]), both), step,
                                _mm512_set1_ps(sink->factor[t]), sink->to[t] + to, top);
            }
        }
    }
    sink->top = top;
}

// Functions of their own: compiled into every loop that wants them they would take minutes.
typedef void panel_dot_fn(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                          __m512 *ret);
typedef void narrow_dot_fn(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t end,
                           const tc_rounded_row *x, narrow_sink *sink);
#define PANEL_DOT(kind, T)                                                                                   \
    static __attribute__((noinline)) void panel_dot_##kind##_##T(                                            \
        const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x, __m512 *ret)    \
    {                                                                                                        \
        panel_dot(w, v, panel, x, T, kind, ret);                                                             \
    }
#define NARROW_DOT(kind, T)                                                                                  \
    static __attribute__((noinline)) void narrow_dot_##kind##_##T(                                           \
        const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t end, const tc_rounded_row *x,   \
        narrow_sink *sink)                                                                                   \
    {                                                                                                        \
        narrow_dot(w, v, panel, end, x, T, kind, sink);                                                      \
    }
EACH_T(PANEL_DOT, Q4_NESTED)
EACH_T(PANEL_DOT, Q4_64)
EACH_T(PANEL_DOT, Q4_32)
EACH_T(PANEL_DOT, Q8_64)
EACH_T(NARROW_DOT, Q4_NESTED)
EACH_T(NARROW_DOT, Q4_64)
EACH_T(NARROW_DOT, Q8_64)
static panel_dot_fn *const panel_dots[DOT_KINDS][TC_TOKENS_AT_ONCE] = {
    NAMES(panel_dot, Q4_NESTED), NAMES(panel_dot, Q4_64), NAMES(panel_dot, Q4_32), NAMES(panel_dot, Q8_64)};
static narrow_dot_fn *const narrow_dots[DOT_KINDS][TC_TOKENS_AT_ONCE] = {[Q4_NESTED] =
                                                                             NAMES(narrow_dot, Q4_NESTED),
                                                                         [Q4_64] = NAMES(narrow_dot, Q4_64),
                                                                         [Q8_64] = NAMES(narrow_dot, Q8_64)};

INLINE void run_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rows *x,
                      uint32_t n, tc_kernel_sink *to)
{
    __m512 sum[TC_TOKENS_AT_ONCE];
    for (uint32_t t = 0, some; t < n; t += some) {
        some = tc_tokens_of(n - t);
        panel_dots[kind_of(w)][some - 1](w, v, panel, x->rounded + t, sum);
        tc_put(to, w, panel, t, (int)some, sum);
    }
}

// One narrow matrix: every sum is met once.
INLINE void narrow_one(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t end,
                       const tc_rows *x, uint32_t n, const tc_kernel_sink *to, narrow_sink *sink)
{
    for (uint32_t t = 0, some; t < n; t += some) {
        some = tc_tokens_of(n - t);
        for (uint32_t i = 0; i < some; i++) {
            sink->to[i] = to->acc[t + i] + (size_t)panel * TC_PANEL_ROWS;
            sink->factor[i] = to->scale[t + i] * TC_FIXED_ONE; // exact, and so is what it is multiplied by
        }
        narrow_dots[kind_of(w)][some - 1](w, v, panel, end, x->rounded + t, sink);
    }
}

typedef struct narrow_scratch {
    tc_quant_view view[SUM_UNITS];
    int64_t totals[TC_TOKENS_AT_ONCE][FOUR * TC_PANEL_ROWS];
    narrow_sink sink;
} narrow_scratch;

// Four panels of `count` <= SUM_UNITS matrices: what a token gets of all of them is added up in the first
// cache and goes to its sum once.
static void narrow_some(const tc_matrix *w, uint32_t count, uint32_t panel, const tc_rows *x, uint32_t n,
                        const tc_kernel_sink *to, narrow_scratch *s)
{
    for (uint32_t t = 0, some; t < n; t += some) {
        some = tc_tokens_of(n - t);
        for (uint32_t i = 0; i < some; i++) {
            s->sink.to[i] = s->totals[i];
            s->sink.factor[i] = to->scale[t + i] * TC_FIXED_ONE;
            memcpy(s->totals[i], to->acc[t + i] + (size_t)panel * TC_PANEL_ROWS, sizeof s->totals[i]);
        }
        for (uint32_t i = 0; i < count; i++)
            narrow_dots[kind_of(w)][some - 1](&w[i], &s->view[i], panel, panel + FOUR, x[i].rounded + t,
                                              &s->sink);
        for (uint32_t i = 0; i < some; i++)
            memcpy(to->acc[t + i] + (size_t)panel * TC_PANEL_ROWS, s->totals[i], sizeof s->totals[i]);
    }
}

static bool is_narrow(const tc_matrix *w)
{
    return w->cols == TC_SPAN_COLS && w->form.group == TC_SPAN_COLS;
}

// Panels [panel0, panel1) of narrow matrices: as many as can be taken in fours. Returns where it ended.
static uint32_t run_narrow(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1,
                           const tc_rows *x, uint32_t n, tc_kernel_sink *to)
{
    const float part_max = TC_FIXED_PART_MAX * TC_FIXED_ONE;
    uint32_t most;
    narrow_scratch s;
    s.sink.top = _mm512_setzero_si512();
    if (w->rows / TC_PANEL_ROWS < panel1) panel1 = w->rows / TC_PANEL_ROWS;
    if (panel1 <= panel0) return panel0;
    const uint32_t end = panel0 + (panel1 - panel0) / FOUR * FOUR,
                   at_once = n > TC_TOKENS_AT_ONCE ? FOUR : end - panel0;
    for (uint32_t first = 0, some; first < count; first += some) {
        some = count - first < SUM_UNITS ? count - first : SUM_UNITS;
        for (uint32_t i = 0; i < some; i++) s.view[i] = tc_quant_view_of(&w[first + i]);
        for (uint32_t p = panel0; p < end && some > 1; p += FOUR)
            narrow_some(w + first, some, p, x + first, n, to, &s);
        if (some == 1) tc_ask_first(&w[first], tc_quant_tiles(&w[first], s.view, panel0), PREFETCH_BYTES);
        for (uint32_t p = panel0; p < end && some == 1; p += at_once)
            narrow_one(w + first, s.view, p, p + at_once, x + first, n, to, &s.sink);
    }
    memcpy(&most, &part_max, sizeof most);
    to->fine &= _mm512_reduce_max_epu32(s.sink.top) < most; // of magnitudes, NaN is the largest
    return end;
}

static bool run_sum(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                    const float *scale, uint32_t n, const tc_matrix_type type, int64_t *const *acc)
{
    (void)type;
    tc_kernel_sink to = {.acc = acc, .scale = scale, .fine = true};
    if (is_narrow(w) && panel0 % FOUR == 0) panel0 = run_narrow(w, count, panel0, panel1, x, n, &to);
    for (uint32_t i = 0; i < count && panel0 < panel1; i++) {
        const tc_quant_view v = tc_quant_view_of(&w[i]);
        for (uint32_t p = panel0; p < panel1; p++) run_panel(&w[i], &v, p, &x[i], n, &to);
    }
    return to.fine;
}

static void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    if (to->acc) {
        to->fine = run_sum(w, 1, panel0, panel1, x, to->scale, n, type, to->acc);
        return;
    }
    const tc_quant_view v = tc_quant_view_of(w);
    tc_ask_first(w, tc_quant_tiles(w, &v, panel0), PREFETCH_BYTES);
    for (uint32_t p = panel0; p < panel1; p++) run_panel(w, &v, p, x, n, to);
}

#if TC_PAIRS
// The pairs of 16 columns, and what they take from the bias of 32: 128 of the unsigned weights, PAIR_OFFSET
// where that is added, and the pairs' own products.
INLINE __m512i put_pairs(__m512i q, int32_t *to)
{
    const __mmask16 first = 0x0f0f, ends = 0x0505; // of each eight columns; one lane of each pair
    const __m512i partner = _mm512_shuffle_epi32(q, _MM_PERM_DCDC),
                  pairs = _mm512_add_epi32(q, _mm512_slli_epi32(partner, 16));
    _mm_storeu_si128((__m128i *)to, _mm512_castsi512_si128(_mm512_maskz_compress_epi64(0x11, pairs)));
    const __m512i own = _mm512_maskz_mullo_epi32(ends, q, _mm512_shuffle_epi32(q, _MM_PERM_DDBB));
    __m512i taken =
        _mm512_mask_mullo_epi32(_mm512_slli_epi32(q, 7), first, q, _mm512_set1_epi32(PAIR_OFFSET + 128));
    return _mm512_add_epi32(taken, own);
}
#endif

static void round_row(const float *x, uint32_t cols, const tc_rounded_row *ret)
{
    const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
    for (uint32_t s = 0; s < cols / TC_SPAN_COLS; s++, x += TC_SPAN_COLS) {
        __m512i top = _mm512_setzero_si512();
        for (int i = 0; i < TC_SPAN_COLS; i += 16)
            top = _mm512_max_epu32(top,
                                   _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x + i)), magnitude));
        float inverse;
        ret->scale[s] = tc_rounded_scale(_mm512_reduce_max_epu32(top), &inverse);
        const __mmask16 keep = inverse > 0 ? 0xffff : 0; // NaN times 0 is not 0
        for (uint32_t h = 0; h < 2; h++) {
            __m512i sum = _mm512_setzero_si512(), taken = sum;
            for (uint32_t i = 32 * h; i < 32 * h + 32; i += 16) {
                __m512i q = _mm512_maskz_cvtps_epi32(
                    keep, _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse)));
                __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(8)), 4);
                __m512i low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 4));
                size_t at = (size_t)s * TC_SPAN_COLS + i;
                _mm_storeu_si128((__m128i *)(ret->high + at), _mm512_cvtepi32_epi8(high));
                _mm_storeu_si128((__m128i *)(ret->low + at), _mm512_cvtepi32_epi8(low));
                sum = _mm512_add_epi32(sum, q);
#if TC_PAIRS
                taken = _mm512_add_epi32(taken, put_pairs(q, ret->pairs + at / 4));
#endif
            }
            if (TC_PAIRS) ret->pair_bias[2 * s + h] = -_mm512_reduce_add_epi32(taken);
            ret->bias[2 * s + h] = -128 * _mm512_reduce_add_epi32(sum);
        }
    }
}

// The table of a file that has no kernels of its own.
#define TC_FAST_AVX512(name)                                                                                 \
    TC_KERNEL_PAIR(q4, run, TC_M_Q4)                                                                         \
    TC_KERNEL_PAIR(q8, run, TC_M_Q8)                                                                         \
    TC_KERNEL_SUM(q4, run_sum, TC_M_Q4)                                                                      \
    TC_KERNEL_SUM(q8, run_sum, TC_M_Q8)                                                                      \
    const tc_fast_part name = {.matmul = {matmul_q4, matmul_q8},                                             \
                               .matmul_fixed = {fixed_q4, fixed_q8},                                         \
                               .matmul_fixed_sum = {fixed_sum_q4, fixed_sum_q8},                             \
                               .round = round_row};
