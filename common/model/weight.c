// SPDX-License-Identifier: Apache-2.0
// Owns: arithmetic on a weight in memory: dequantising, and quantising to NF4, bit for bit as bitsandbytes
// does on the CPU (the recipe in words: tests/golden/README.md). Compiled without contraction: where
// bitsandbytes fuses a multiply and an add, double arithmetic that is exact before its one rounding stands in
// for it.
#include "common/base/mem.h"
#include "common/model/dtype.h"
#include "common/model/gguf_blocks.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { NF4_BLOCK = 64, NESTED_BLOCK = 256, MAP_CODES = 256, TABLE_CODES = 65536 };

const float tc_nf4_levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

void tc_weight_free(tc_weight *weight)
{
    if (!weight) return;
    tc_free(weight->data);
    tc_free(weight->absmax);
    tc_free(weight->scale_codes);
    tc_free(weight->nested);
    weight->data = NULL;
    weight->absmax = weight->nested = NULL;
    weight->scale_codes = NULL;
}

static void widen(const tc_weight *w, uint64_t first, uint64_t count, float *ret)
{
    const uint16_t *half = (const uint16_t *)w->data + first;
    switch (w->dtype) {
    case TC_BF16:
        for (uint64_t i = 0; i < count; i++) ret[i] = tc_bf16_to_float(half[i]);
        break;
    case TC_F16:
        for (uint64_t i = 0; i < count; i++) ret[i] = tc_f16_to_float(half[i]);
        break;
    default:
        memcpy(ret, (const float *)w->data + first, count * sizeof(float));
    }
}

void tc_weight_dequantise(const tc_weight *w, uint64_t first, uint64_t count, float *ret)
{
    if (w->block_type) {
        tc_blocks_dequantise(w->block_type, w->data, first, count, ret);
        return;
    }
    if (!w->quantised) {
        widen(w, first, count, ret);
        return;
    }
    const uint8_t *packed = w->data;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = first + i;
        uint8_t code = at % 2 ? packed[at / 2] & 15 : packed[at / 2] >> 4;
        ret[i] = tc_round_to(w->dtype, w->levels[code] * w->absmax[at / w->block]);
    }
}

// ---- NF4 ----

// torch.linspace(0.1, 1, count): each half counts from its own end, and end - step * k is rounded once.
static void linspace(uint32_t count, float *ret)
{
    const float start = 0.1f, end = 1.0f;
    const float step = (end - start) / (float)(count - 1);
    for (uint32_t i = 0; i < count; i++)
        ret[i] = i < count / 2 ? (float)((double)start + (double)step * i)
                               : (float)((double)end - (double)step * (count - 1 - i));
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// bitsandbytes' signed dynamic map of the nested scales: 7 decades, the highest with 64 steps a sign, then 0
// and 1.
void tc_nested_map(float ret[MAP_CODES])
{
    static const double decade[7] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
    float edges[65];
    uint32_t n = 0;
    ret[n++] = 0.0f;
    ret[n++] = 1.0f;
    for (uint32_t i = 0; i < 7; i++) {
        uint32_t steps = 1u << i;
        linspace(steps + 1, edges);
        for (uint32_t k = 0; k < steps; k++) {
            float value = (float)decade[i] * ((edges[k] + edges[k + 1]) / 2.0f);
            ret[n++] = value;
            ret[n++] = -value;
        }
    }
    qsort(ret, MAP_CODES, sizeof *ret, by_value);
}

static float nested_map[MAP_CODES];
static uint8_t nested_table[TABLE_CODES]; // code of -1 + 2i/65535: midpoints of the map below it
static pthread_once_t nested_once = PTHREAD_ONCE_INIT;

static void make_nested(void)
{
    tc_nested_map(nested_map);
    uint32_t below = 0;
    for (uint32_t i = 0; i < TABLE_CODES; i++) {
        float value = -1.0f + (2.0f * (float)i) / 65535.0f;
        while (below < MAP_CODES - 1 && 0.5f * (nested_map[below] + nested_map[below + 1]) < value) below++;
        nested_table[i] = (uint8_t)below;
    }
}

const float *tc_nested_levels(void)
{
    pthread_once(&nested_once, make_nested);
    return nested_map;
}

// Sum of `rows` rows of 4 vectors of `lanes` floats into acc[0], in torch's cascade of four levels.
static void cascade(const float *x, uint64_t rows, uint32_t lanes, float ret[32])
{
    float acc[4][32] = {{0}};
    uint32_t width = 4 * lanes, log2_rows = 0, power;
    while (rows > 1 && (rows - 1) >> log2_rows) log2_rows++;
    power = log2_rows / 4 > 4 ? log2_rows / 4 : 4;
    uint64_t step = 1ull << power, mask = step - 1, i = 0;
    while (i + step <= rows) {
        for (uint64_t k = 0; k < step; k++, i++)
            for (uint32_t c = 0; c < width; c++) acc[0][c] += x[i * width + c];
        for (uint32_t j = 1; j < 4; j++) {
            for (uint32_t c = 0; c < width; c++) {
                acc[j][c] += acc[j - 1][c];
                acc[j - 1][c] = 0.0f;
            }
            if (i & (mask << (j * power))) break;
        }
    }
    for (; i < rows; i++)
        for (uint32_t c = 0; c < width; c++) acc[0][c] += x[i * width + c];
    for (uint32_t j = 1; j < 4; j++)
        for (uint32_t c = 0; c < width; c++) acc[0][c] += acc[j][c];
    memcpy(ret, acc[0], width * sizeof(float));
}

// torch.sum of n floats on one thread: vectors of 8 lanes (of 1 below 8 values), four vectors a row.
static float torch_sum(const float *x, uint64_t n)
{
    float column[32], total = 0.0f;
    uint32_t lanes = n < 8 ? 1 : 8;
    uint64_t vectors = n / lanes, whole = vectors / 4;
    cascade(x, whole, lanes, column);
    for (uint64_t v = whole * 4; v < vectors; v++)
        for (uint32_t c = 0; c < lanes; c++) column[c] += x[v * lanes + c];
    for (uint32_t k = 1; k < 4; k++)
        for (uint32_t c = 0; c < lanes; c++) column[c] += column[k * lanes + c];
    if (lanes == 1) return column[0];
    for (uint64_t i = vectors * lanes; i < n; i++) total += x[i];
    for (uint32_t c = 0; c < lanes; c++) total += column[c];
    return total;
}

static float clamp1(float v)
{
    return v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v;
}

// Replaces n block scales by what they are once quantised to 8 bits and read back. codes [n], tops [n / 256,
// up].
static void quantise_scales(float *scale, uint64_t n, uint8_t *codes, float *tops, float *ret_offset)
{
    float offset = torch_sum(scale, n) / (float)n;
    for (uint64_t start = 0; start < n; start += NESTED_BLOCK) {
        uint64_t end = start + NESTED_BLOCK < n ? start + NESTED_BLOCK : n;
        float top = 0.0f;
        for (uint64_t i = start; i < end; i++) {
            scale[i] -= offset;
            top = fmaxf(top, fabsf(scale[i]));
        }
        float inverse = top > 0.0f ? 1.0f / top : 0.0f;
        tops[start / NESTED_BLOCK] = top;
        for (uint64_t i = start; i < end; i++) {
            uint8_t code = 0;
            if (top > 0.0f) {
                float half = (clamp1(scale[i] * inverse) + 1.0f) * 0.5f;
                code = nested_table[(uint32_t)(float)((double)half * 65535.0 + 0.5)];
            }
            codes[i] = code;
            scale[i] = nested_map[code] * top + offset; // two roundings
        }
    }
    *ret_offset = offset;
}

// x is padded with zeros to a whole block.
static void block_codes(const float x[NF4_BLOCK], bool whole, float *ret_scale, uint8_t codes[NF4_BLOCK])
{
    float top = 0.0f, scaled[NF4_BLOCK];
    int32_t below[NF4_BLOCK] = {0};
    for (uint32_t i = 0; i < NF4_BLOCK; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    float least = top > 1e-38f ? top : 1e-38f;
    if (whole) {
        float inverse = 1.0f / least;
        for (uint32_t i = 0; i < NF4_BLOCK; i++) scaled[i] = clamp1(x[i] * inverse);
    } else { // the short last block is divided, and its scale is never 0
        top = least;
        for (uint32_t i = 0; i < NF4_BLOCK; i++) scaled[i] = clamp1(x[i] / top);
    }
    for (uint32_t k = 0; k < 15; k++) {
        float middle = (tc_nf4_levels[k] + tc_nf4_levels[k + 1]) / 2.0f;
        for (uint32_t i = 0; i < NF4_BLOCK; i++) below[i] += scaled[i] > middle;
    }
    for (uint32_t i = 0; i < NF4_BLOCK; i++) codes[i] = (uint8_t)below[i]; // padding: 7, the code of 0
    *ret_scale = top;
}

tc_status tc_weight_quantise_nf4(tc_weight *w, tc_error *e)
{
    if (w->quantised) return tc_fail(e, TC_ARGUMENT, "the weight is quantised already");
    uint64_t n = (uint64_t)w->rows * w->cols, blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK;
    uint8_t *packed = tc_alloc(TC_MEM_OTHER, (n + 1) / 2, 1);
    float *scale = tc_alloc(TC_MEM_OTHER, blocks, sizeof *scale);
    float *nested = tc_alloc(TC_MEM_OTHER, (blocks + NESTED_BLOCK - 1) / NESTED_BLOCK, sizeof *nested);
    uint8_t *scale_codes = tc_alloc(TC_MEM_OTHER, blocks, 1);
    tc_status status = TC_OK;
    if (!packed || !scale || !nested || !scale_codes)
        TC_GOTO(tc_fail(e, TC_NOMEM, "no memory to quantise %" PRIu64 " weights", n));
    pthread_once(&nested_once, make_nested);
    for (uint64_t b = 0; b < blocks; b++) {
        float x[NF4_BLOCK] = {0}, sum = 0.0f;
        uint8_t codes[NF4_BLOCK];
        uint32_t count = (uint32_t)(n - b * NF4_BLOCK < NF4_BLOCK ? n - b * NF4_BLOCK : NF4_BLOCK);
        tc_weight_dequantise(w, b * NF4_BLOCK, count, x);
        for (uint32_t i = 0; i < NF4_BLOCK; i++) sum += x[i] * 0.0f; // NaN if any is not finite
        if (sum != 0.0f) TC_GOTO(tc_fail(e, TC_FORMAT, "a weight is not finite, NF4 cannot hold it"));
        block_codes(x, count == NF4_BLOCK, &scale[b], codes);
        for (uint32_t i = 0; i < count; i += 2)
            packed[b * NF4_BLOCK / 2 + i / 2] = (uint8_t)(codes[i] << 4 | codes[i + 1]);
    }
    quantise_scales(scale, blocks, scale_codes, nested, &w->nested_offset);
    tc_free(w->data);
    w->data = packed;
    w->absmax = scale;
    w->scale_codes = scale_codes;
    w->nested = nested;
    w->nested_block = NESTED_BLOCK;
    w->quantised = true;
    w->fp4 = w->coarse = false;
    w->block_type = 0;
    w->block = NF4_BLOCK;
    memcpy(w->levels, tc_nf4_levels, sizeof tc_nf4_levels);
    packed = scale_codes = NULL;
    scale = nested = NULL;
out:
    tc_free(packed);
    tc_free(scale);
    tc_free(scale_codes);
    tc_free(nested);
    return status;
}
