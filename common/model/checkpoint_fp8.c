// SPDX-License-Identifier: Apache-2.0
// Owns: weights stored in 8-bit floats (E4M3) with a float scale for each block, read as what the scheme's
// own tools make of them: value times scale in float32, rounded once to bfloat16. The block's size follows
// from config.json's weight_block_size, which the shape of the scales has to fit.
#include "common/base/mem.h"
#include "common/model/checkpoint_internal.h"
#include "common/model/dtype.h"

#include <math.h>

enum { CODES = 256 };

// Sign, 4 bits of exponent, 3 of mantissa; no infinity, the last code of each sign is NaN.
static float e4m3(uint32_t code)
{
    uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
    float value = exponent ? ldexpf((float)(8 + mantissa), (int)exponent - 10) : ldexpf((float)mantissa, -9);
    if ((code & 127) == 127) return NAN;
    return code & 128 ? -value : value;
}

// Scales [blocks of rows][blocks of columns] as float32.
static tc_status read_scales(const tc_checkpoint *c, const char *base, uint32_t down, uint32_t across,
                             float **ret, tc_error *e)
{
    tc_found f;
    tc_weight raw = {.rows = down, .cols = across};
    float *scale = NULL;
    tc_status status = TC_OK;
    TC_TRY(tc_tensor_find(c, base, ".weight_scale_inv", &f, e));
    if (!f.entry) return tc_tensor_bad(c, &f, e, "is missing, but the weight is F8_E4M3");
    raw.dtype = tc_safetensors_dtype(f.entry->dtype);
    if (!tc_dtype_is_float(raw.dtype))
        return tc_tensor_bad(c, &f, e, "has dtype %s; supported are F32, F16, BF16",
                             tc_safetensors_dtype_name(f.entry->dtype));
    TC_TRY(tc_tensor_shaped(c, &f, 2, (const uint64_t[]){down, across}, e));
    raw.data = tc_alloc(TC_MEM_OTHER, f.entry->bytes, 1);
    scale = tc_alloc(TC_MEM_OTHER, (size_t)down * across, sizeof *scale);
    if (!raw.data || !scale) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory", f.name));
    TC_GOTO(tc_tensor_read(c, &f, 0, f.entry->bytes, raw.data, e));
    tc_weight_dequantise(&raw, 0, (uint64_t)down * across, scale);
    for (size_t i = 0; i < (size_t)down * across; i++)
        if (!isfinite(scale[i])) TC_GOTO(tc_tensor_bad(c, &f, e, "element %zu is not finite", i));
    *ret = scale;
    scale = NULL;
out:
    tc_free(scale);
    tc_weight_free(&raw);
    return status;
}

tc_status tc_checkpoint_fp8(const tc_checkpoint *c, const char *base, const tc_found *weight, uint32_t rows,
                            uint32_t cols, tc_weight *ret, tc_error *e)
{
    const uint32_t *block = c->desc.fp8_block;
    uint32_t down = (rows + block[0] - 1) / block[0], across = (cols + block[1] - 1) / block[1];
    uint8_t *codes = NULL;
    uint16_t *to = NULL;
    float *scale = NULL, value[CODES];
    tc_status status = TC_OK;
    TC_TRY(tc_tensor_shaped(c, weight, 2, (const uint64_t[]){rows, cols}, e));
    TC_TRY(read_scales(c, base, down, across, &scale, e));
    codes = tc_alloc(TC_MEM_OTHER, weight->entry->bytes, 1);
    to = tc_alloc(TC_MEM_OTHER, weight->entry->bytes, sizeof *to);
    if (!codes || !to) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for the weight", weight->name));
    TC_GOTO(tc_tensor_read(c, weight, 0, weight->entry->bytes, codes, e));
    for (uint32_t i = 0; i < CODES; i++) value[i] = e4m3(i);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < cols; i++) {
            size_t at = (size_t)r * cols + i;
            if (isnan(value[codes[at]]))
                TC_GOTO(tc_tensor_bad(c, weight, e, "element %zu is not a number", at));
            to[at] =
                tc_float_to_bf16(value[codes[at]] * scale[(size_t)(r / block[0]) * across + i / block[1]]);
        }
    ret->dtype = TC_BF16;
    ret->data = to;
    to = NULL;
out:
    tc_free(codes);
    tc_free(to);
    tc_free(scale);
    return status;
}
