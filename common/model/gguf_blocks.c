// SPDX-License-Identifier: Apache-2.0
// Owns: the arithmetic of gguf_blocks.h. Every product and sum is rounded to float32 on its own, in the order
// in which the `gguf` package has them (this project is compiled without contraction).
#include "common/model/gguf_blocks.h"

#include "common/model/dtype.h"

static const tc_block_info infos[TC_BLOCK_TYPES] = {
    [TC_BLOCK_F32] = {"F32", 1, 4, 0, {0}},
    [TC_BLOCK_F16] = {"F16", 1, 2, 1, {0}},
    [TC_BLOCK_Q4_0] = {"Q4_0", 32, 18, 1, {0}},
    [TC_BLOCK_Q4_1] = {"Q4_1", 32, 20, 2, {0, 2}},
    [TC_BLOCK_Q5_0] = {"Q5_0", 32, 22, 1, {0}},
    [TC_BLOCK_Q5_1] = {"Q5_1", 32, 24, 2, {0, 2}},
    [TC_BLOCK_Q8_0] = {"Q8_0", 32, 34, 1, {0}},
    [9] = {"Q8_1", 0, 0, 0, {0}},
    [TC_BLOCK_Q2_K] = {"Q2_K", 256, 84, 2, {80, 82}},
    [TC_BLOCK_Q3_K] = {"Q3_K", 256, 110, 1, {108}},
    [TC_BLOCK_Q4_K] = {"Q4_K", 256, 144, 2, {0, 2}},
    [TC_BLOCK_Q5_K] = {"Q5_K", 256, 176, 2, {0, 2}},
    [TC_BLOCK_Q6_K] = {"Q6_K", 256, 210, 1, {208}},
    [15] = {"Q8_K", 0, 0, 0, {0}},
    [16] = {"IQ2_XXS", 0, 0, 0, {0}},
    [17] = {"IQ2_XS", 0, 0, 0, {0}},
    [18] = {"IQ3_XXS", 0, 0, 0, {0}},
    [19] = {"IQ1_S", 0, 0, 0, {0}},
    [TC_BLOCK_IQ4_NL] = {"IQ4_NL", 32, 18, 1, {0}},
    [21] = {"IQ3_S", 0, 0, 0, {0}},
    [22] = {"IQ2_S", 0, 0, 0, {0}},
    [TC_BLOCK_IQ4_XS] = {"IQ4_XS", 256, 136, 1, {0}},
    [24] = {"I8", 0, 0, 0, {0}},
    [25] = {"I16", 0, 0, 0, {0}},
    [26] = {"I32", 0, 0, 0, {0}},
    [27] = {"I64", 0, 0, 0, {0}},
    [28] = {"F64", 0, 0, 0, {0}},
    [29] = {"IQ1_M", 0, 0, 0, {0}},
    [TC_BLOCK_BF16] = {"BF16", 1, 2, 0, {0}},
    [34] = {"TQ1_0", 0, 0, 0, {0}},
    [35] = {"TQ2_0", 0, 0, 0, {0}},
    [TC_BLOCK_MXFP4] = {"MXFP4", 32, 17, 0, {0}},
    [40] = {"NVFP4", 0, 0, 0, {0}},
    [41] = {"Q1_0", 0, 0, 0, {0}},
    [42] = {"Q2_0", 0, 0, 0, {0}},
};

const tc_block_info *tc_block_info_of(uint32_t type)
{
    return type < TC_BLOCK_TYPES && infos[type].name ? &infos[type] : NULL;
}

const char *tc_block_types_supported(void)
{
    return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, "
           "MXFP4";
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float half_at(const uint8_t *p)
{
    return tc_f16_to_float(u16_at(p));
}

// ---- blocks of 32 ----

// Elements j and j + 16 share a byte.
static uint32_t nibble(const uint8_t *bytes, uint32_t element)
{
    return bytes[element % 16] >> (element < 16 ? 0 : 4) & 15;
}

static void q4_1(const uint8_t *b, float *ret)
{
    float d = half_at(b), m = half_at(b + 2);
    for (uint32_t i = 0; i < 32; i++) {
        float scaled = d * (float)nibble(b + 4, i);
        ret[i] = scaled + m;
    }
}

static uint32_t five_bits(const uint8_t *high, const uint8_t *low, uint32_t i)
{
    return nibble(low, i) | (uint32_t)(high[i / 8] >> i % 8 & 1) << 4;
}

static void q5_0(const uint8_t *b, float *ret)
{
    float d = half_at(b);
    for (uint32_t i = 0; i < 32; i++) ret[i] = d * (float)((int32_t)five_bits(b + 2, b + 6, i) - 16);
}

static void q5_1(const uint8_t *b, float *ret)
{
    float d = half_at(b), m = half_at(b + 2);
    for (uint32_t i = 0; i < 32; i++) {
        float scaled = d * (float)five_bits(b + 4, b + 8, i);
        ret[i] = scaled + m;
    }
}

static void q8_0(const uint8_t *b, float *ret)
{
    float d = half_at(b);
    for (uint32_t i = 0; i < 32; i++) ret[i] = (float)(int8_t)b[2 + i] * d;
}

// ---- blocks of 256 ----

// Two bits of element i: quarters of 32 elements share the bits of 32 bytes, for each half of the block.
static uint32_t two_bits(const uint8_t *bytes, uint32_t i)
{
    return bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

static void q2_k(const uint8_t *b, float *ret)
{
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (uint32_t i = 0; i < 256; i++) {
        float scale = d * (float)(b[i / 16] & 15), min = dmin * (float)(b[i / 16] >> 4);
        float scaled = scale * (float)two_bits(b + 16, i);
        ret[i] = scaled - min;
    }
}

static void q3_k(const uint8_t *b, float *ret)
{
    const uint8_t *mask = b, *quants = b + 32, *scales = b + 96;
    float d = half_at(b + 108);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t s = i / 16;
        uint32_t low = s < 8 ? scales[s] & 15u : scales[s - 8] >> 4,
                 high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
        float scale = d * (float)((int32_t)(low | high << 4) - 32);
        int32_t q = (int32_t)two_bits(quants, i) - (mask[i % 32] >> (i / 32) & 1 ? 0 : 4);
        ret[i] = scale * (float)q;
    }
}

// Six bits each of scale and minimum for the eighth `s` of a Q4_K or Q5_K block, out of 12 bytes.
static void scale_and_min(const uint8_t *packed, uint32_t s, float *ret_scale, float *ret_min)
{
    const uint8_t *d = packed, *m = packed + 4, *both = packed + 8;
    if (s < 4) {
        *ret_scale = (float)(d[s] & 63);
        *ret_min = (float)(m[s] & 63);
    } else {
        *ret_scale = (float)((both[s - 4] & 15) | (d[s - 4] >> 2 & 0x30));
        *ret_min = (float)(both[s - 4] >> 4 | (m[s - 4] >> 2 & 0x30));
    }
}

// `high`: 32 bytes with the fifth bits, or NULL.
static void q45_k(const uint8_t *b, const uint8_t *high, const uint8_t *low, float *ret)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (uint32_t s = 0; s < 8; s++) {
        float scale, min;
        scale_and_min(b + 4, s, &scale, &min);
        scale = d * scale;
        min = dmin * min;
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t q = low[s / 2 * 32 + i] >> (s % 2 * 4) & 15;
            if (high) q |= (uint32_t)(high[i] >> s & 1) << 4;
            float scaled = scale * (float)q;
            ret[s * 32 + i] = scaled - min;
        }
    }
}

static void q6_k(const uint8_t *b, float *ret)
{
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    float d = half_at(b + 208);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t in_half = i % 128;
        uint32_t q = low[i / 128 * 64 + in_half % 64] >> (in_half / 64 * 4) & 15;
        float scale = d * (float)(int8_t)scales[i / 16];
        ret[i] = scale * (float)((int32_t)(q | two_bits(high, i) << 4) - 32);
    }
}

// ---- code books ----

static const float q4_0_levels[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
static const float iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
static const float mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; // doubled

const float *tc_block_levels(uint32_t type)
{
    switch (type) {
    case TC_BLOCK_Q4_0:
        return q4_0_levels;
    case TC_BLOCK_IQ4_NL:
    case TC_BLOCK_IQ4_XS:
        return iq4_levels;
    case TC_BLOCK_MXFP4:
        return mxfp4_levels;
    default:
        return NULL;
    }
}

// 2^(e - 128): half of what the exponent says, since the levels are doubled.
static float half_power(uint32_t e)
{
    uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Where the 16 bytes of 32 codes begin, and their scale.
static const uint8_t *codes_of(uint32_t type, const uint8_t *b, uint32_t part, float *ret_scale)
{
    if (type == TC_BLOCK_MXFP4) {
        *ret_scale = half_power(b[0]);
        return b + 1;
    }
    if (type != TC_BLOCK_IQ4_XS) {
        *ret_scale = half_at(b);
        return b + 2;
    }
    uint32_t low = b[4 + part / 2] >> (part % 2 * 4) & 15, high = u16_at(b + 2) >> (part * 2) & 3;
    *ret_scale = half_at(b) * (float)((int32_t)(low | high << 4) - 32);
    return b + 8 + part * 16;
}

void tc_block_codes(uint32_t type, const uint8_t *block, uint8_t *ret_codes, float *ret_scales)
{
    for (uint32_t part = 0; part < infos[type].elements / TC_BLOCK_CODES; part++) {
        const uint8_t *bytes = codes_of(type, block, part, &ret_scales[part]);
        for (uint32_t i = 0; i < TC_BLOCK_CODES; i += 2)
            *ret_codes++ = (uint8_t)(nibble(bytes, i) << 4 | nibble(bytes, i + 1));
    }
}

static void code_book(uint32_t type, const uint8_t *block, float *ret)
{
    const float *levels = tc_block_levels(type);
    for (uint32_t part = 0; part < infos[type].elements / TC_BLOCK_CODES; part++) {
        float scale;
        const uint8_t *bytes = codes_of(type, block, part, &scale);
        for (uint32_t i = 0; i < TC_BLOCK_CODES; i++) *ret++ = scale * levels[nibble(bytes, i)];
    }
}

// ---- any ----

static void dequantise(uint32_t type, const uint8_t *b, float *ret)
{
    switch (type) {
    case TC_BLOCK_F32:
        memcpy(ret, b, sizeof *ret);
        break;
    case TC_BLOCK_F16:
        *ret = half_at(b);
        break;
    case TC_BLOCK_BF16:
        *ret = tc_bf16_to_float(u16_at(b));
        break;
    case TC_BLOCK_Q4_1:
        q4_1(b, ret);
        break;
    case TC_BLOCK_Q5_0:
        q5_0(b, ret);
        break;
    case TC_BLOCK_Q5_1:
        q5_1(b, ret);
        break;
    case TC_BLOCK_Q8_0:
        q8_0(b, ret);
        break;
    case TC_BLOCK_Q2_K:
        q2_k(b, ret);
        break;
    case TC_BLOCK_Q3_K:
        q3_k(b, ret);
        break;
    case TC_BLOCK_Q4_K:
        q45_k(b, NULL, b + 16, ret);
        break;
    case TC_BLOCK_Q5_K:
        q45_k(b, b + 16, b + 48, ret);
        break;
    case TC_BLOCK_Q6_K:
        q6_k(b, ret);
        break;
    default:
        code_book(type, b, ret);
    }
}

void tc_blocks_dequantise(uint32_t type, const void *data, uint64_t first, uint64_t count, float *ret)
{
    const tc_block_info *info = &infos[type];
    float whole[TC_BLOCK_ELEMENTS_MAX];
    for (uint64_t at = first, end = first + count; at < end;) {
        const uint8_t *block = (const uint8_t *)data + at / info->elements * info->bytes;
        uint64_t skip = at % info->elements, part = info->elements - skip;
        if (part > end - at) part = end - at;
        bool direct = part == info->elements;
        dequantise(type, block, direct ? ret : whole);
        if (!direct) memcpy(ret, whole + skip, part * sizeof *ret);
        ret += part;
        at += part;
    }
}

static bool block_is_finite(uint32_t type, const uint8_t *b)
{
    const tc_block_info *info = &infos[type];
    // Scales of 16 bits times the codes of any type stay far below what float32 holds.
    for (uint32_t i = 0; i < info->halves; i++)
        if ((u16_at(b + info->half_at[i]) & 0x7c00) == 0x7c00) return false;
    if (type == TC_BLOCK_BF16) return (u16_at(b) & 0x7f80) != 0x7f80;
    if (type == TC_BLOCK_F32) return (u16_at(b + 2) & 0x7f80) != 0x7f80;
    return type != TC_BLOCK_MXFP4 || b[0] <= 252; // 12 * 2^(253 - 128) is too much
}

uint64_t tc_blocks_first_bad(uint32_t type, const void *data, uint64_t blocks)
{
    const uint8_t *b = data;
    for (uint64_t i = 0; i < blocks; i++, b += infos[type].bytes)
        if (!block_is_finite(type, b)) return i;
    return blocks;
}
