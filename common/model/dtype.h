// SPDX-License-Identifier: Apache-2.0
// Owns: conversions between float32 and the 16-bit types of checkpoints: to nearest even, denormals kept.
#pragma once

#include "common/model/checkpoint.h"
#include <string.h>

static inline float tc_bf16_to_float(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t tc_float_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); // NaN stays NaN
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// By hand: compilers differ in whether a plain x86-64 has a 16-bit float type.
static inline float tc_f16_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023, bits;
    float value;
    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t tc_float_to_f16(float value)
{
    uint32_t bits, magnitude;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00);  // NaN
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); // 65520 and above round to infinity
    if (magnitude < 0x38800000u) { // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
        float rounded;
        memcpy(&rounded, &magnitude, sizeof rounded);
        rounded += 0.5f;
        memcpy(&magnitude, &rounded, sizeof magnitude);
        return (uint16_t)(sign | (magnitude - 0x3f000000u));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1) - 0x38000000u; // nearest even at bit 13, bias 127 to 15
    return (uint16_t)(sign | magnitude >> 13);
}

// `value` rounded to a float dtype and widened again.
static inline float tc_round_to(tc_dtype dtype, float value)
{
    if (dtype == TC_BF16) return tc_bf16_to_float(tc_float_to_bf16(value));
    if (dtype == TC_F16) return tc_f16_to_float(tc_float_to_f16(value));
    return value;
}

static inline size_t tc_dtype_bytes(tc_dtype dtype)
{
    return dtype == TC_F32 ? 4 : dtype == TC_U8 ? 1 : 2;
}

// bitsandbytes' map of 256 nested scale codes, ascending (weight.c).
void tc_nested_map(float ret[256]);
const float *tc_nested_levels(void); // the same, static; thread-safe
extern const float tc_nf4_levels[16];
