// SPDX-License-Identifier: Apache-2.0
// Owns: reading one expert's matrices and biases wherever the checkpoint keeps them: as linears of their own,
// or as a part of one tensor for all experts of the layer, dense or MXFP4. Refuses: tensors whose type or
// shape is not what the model needs.
#include "common/base/mem.h"
#include "common/model/checkpoint_internal.h"
#include "common/model/dtype.h"

#include <math.h>

enum { MX_BLOCK = 32, MX_BYTES = MX_BLOCK / 2, MX_BIAS = 127, MX_NAN = 255 };

// E2M1 by code: the levels of MXFP4, and of FP4 as such.
static const float mx_levels[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                    -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// One expert's part of a stacked tensor.
typedef struct part {
    const tc_checkpoint *c;
    tc_stacked how;
    char name[TC_TENSOR_NAME_BYTES];
    uint32_t experts, expert, rows, cols;
} part;

static uint32_t stored_row(const part *p, uint32_t row)
{
    return p->how.step ? p->how.first + row * p->how.step : p->how.first * p->rows + row;
}

// ---- dense ----

static void pick_dense(const part *p, size_t element, const uint8_t *slab, uint8_t *to)
{
    size_t all = (size_t)p->how.parts * p->rows, row_bytes = p->cols * element;
    for (uint32_t r = 0; r < p->rows; r++) {
        size_t row = stored_row(p, r);
        if (!p->how.transposed) {
            memcpy(to + r * row_bytes, slab + row * row_bytes, row_bytes);
            continue;
        }
        for (uint32_t i = 0; i < p->cols; i++)
            memcpy(to + (size_t)r * row_bytes + i * element, slab + (i * all + row) * element, element);
    }
}

static tc_status read_dense(const part *p, const tc_found *f, tc_weight *ret, tc_error *e)
{
    const uint64_t all = (uint64_t)p->how.parts * p->rows;
    const uint64_t plain[] = {p->experts, all, p->cols}, turned[] = {p->experts, p->cols, all};
    tc_dtype dtype = tc_safetensors_dtype(f->entry->dtype);
    tc_status status = TC_OK;
    if (!tc_dtype_is_float(dtype))
        return tc_tensor_bad(p->c, f, e,
                             "has dtype %s; supported are F32, F16, BF16, and MXFP4 as _blocks and _scales",
                             tc_safetensors_dtype_name(f->entry->dtype));
    TC_TRY(tc_tensor_shaped(p->c, f, 3, p->how.transposed ? turned : plain, e));
    const size_t element = tc_dtype_bytes(dtype), bytes = (size_t)f->entry->bytes / p->experts;
    uint8_t *slab = tc_alloc(TC_MEM_OTHER, bytes, 1);
    uint8_t *data = tc_alloc(TC_MEM_OTHER, (size_t)p->rows * p->cols, element);
    if (!slab || !data) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for an expert", f->name));
    TC_GOTO(tc_tensor_read(p->c, f, (uint64_t)p->expert * bytes, bytes, slab, e));
    pick_dense(p, element, slab, data);
    *ret = (tc_weight){.rows = p->rows, .cols = p->cols, .dtype = dtype, .data = data};
    data = NULL;
out:
    tc_free(slab);
    tc_free(data);
    return status;
}

// ---- MXFP4 ----

// A block's 32 codes lie low nibble first; weights have the high one first.
static void pick_blocks(const part *p, const uint8_t *slab, uint8_t *to)
{
    size_t row_bytes = p->cols / 2;
    for (uint32_t r = 0; r < p->rows; r++) {
        const uint8_t *from = slab + stored_row(p, r) * row_bytes;
        for (size_t i = 0; i < row_bytes; i++) to[r * row_bytes + i] = (uint8_t)(from[i] << 4 | from[i] >> 4);
    }
}

static tc_status pick_scales(const part *p, const tc_found *f, const uint8_t *slab, float *to, tc_error *e)
{
    uint32_t blocks = p->cols / MX_BLOCK;
    for (uint32_t r = 0; r < p->rows; r++)
        for (uint32_t b = 0; b < blocks; b++) {
            uint8_t exponent = slab[(size_t)stored_row(p, r) * blocks + b];
            float scale = exponent == MX_NAN ? NAN : ldexpf(1.0f, exponent - MX_BIAS);
            if (!isfinite(scale * mx_levels[7]))
                return tc_tensor_bad(p->c, f, e, "expert %u, row %u: a scale that is not finite", p->expert,
                                     r);
            to[(size_t)r * blocks + b] = scale;
        }
    return TC_OK;
}

static tc_status read_slab(const part *p, const tc_found *f, uint32_t dims, const uint64_t *shape,
                           uint8_t **ret, tc_error *e)
{
    if (tc_safetensors_dtype(f->entry->dtype) != TC_U8)
        return tc_tensor_bad(p->c, f, e, "has dtype %s, must be U8",
                             tc_safetensors_dtype_name(f->entry->dtype));
    TC_TRY(tc_tensor_shaped(p->c, f, dims, shape, e));
    uint64_t bytes = f->entry->bytes / p->experts;
    uint8_t *slab = tc_alloc(TC_MEM_OTHER, bytes, 1);
    if (!slab) return tc_fail(e, TC_NOMEM, "%s: no memory for an expert", f->name);
    tc_status status = tc_tensor_read(p->c, f, p->expert * bytes, bytes, slab, e);
    if (status == TC_OK)
        *ret = slab;
    else
        tc_free(slab);
    return status;
}

static tc_status read_mxfp4(const part *p, const tc_found *blocks, tc_weight *ret, tc_error *e)
{
    const uint64_t shape[] = {p->experts, (uint64_t)p->how.parts * p->rows, p->cols / MX_BLOCK, MX_BYTES};
    tc_found scales;
    uint8_t *codes = NULL, *exponents = NULL;
    tc_weight w = {.rows = p->rows,
                   .cols = p->cols,
                   .quantised = true,
                   .fp4 = true,
                   .dtype = TC_BF16,
                   .block = MX_BLOCK};
    tc_status status = TC_OK;
    if (p->cols % MX_BLOCK)
        return tc_tensor_bad(p->c, blocks, e, "%u columns are no multiple of 32", p->cols);
    TC_TRY(tc_tensor_find(p->c, p->name, "_scales", &scales, e));
    if (!scales.entry) return tc_tensor_bad(p->c, &scales, e, "is missing, but there are blocks");
    TC_GOTO(read_slab(p, blocks, 4, shape, &codes, e));
    TC_GOTO(read_slab(p, &scales, 3, shape, &exponents, e));
    w.data = tc_alloc(TC_MEM_OTHER, (size_t)p->rows * p->cols / 2, 1);
    w.absmax = tc_alloc(TC_MEM_OTHER, (size_t)p->rows * p->cols / MX_BLOCK, sizeof *w.absmax);
    if (!w.data || !w.absmax) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for an expert", blocks->name));
    memcpy(w.levels, mx_levels, sizeof w.levels);
    pick_blocks(p, codes, w.data);
    TC_GOTO(pick_scales(p, &scales, exponents, w.absmax, e));
    *ret = w;
    w = (tc_weight){0};
out:
    tc_free(codes);
    tc_free(exponents);
    tc_weight_free(&w);
    return status;
}

// ---- either ----

static bool part_of(const tc_checkpoint *c, tc_role role, uint32_t layer, uint32_t expert, part *ret)
{
    *ret = (part){.c = c, .experts = c->desc.experts, .expert = expert};
    tc_model_tensor_shape(&c->desc, role, layer, &ret->rows, &ret->cols);
    return tc_model_stacked(&c->desc, role, layer, &ret->how, ret->name);
}

tc_status tc_checkpoint_expert(const tc_checkpoint *c, tc_role role, uint32_t layer, uint32_t expert,
                               tc_weight *ret, tc_error *e)
{
    char base[TC_TENSOR_NAME_BYTES];
    part p;
    tc_found f;
    if (part_of(c, role, layer, expert, &p) && !c->gguf) {
        TC_TRY(tc_tensor_find(c, p.name, "_blocks", &f, e));
        if (f.entry) return read_mxfp4(&p, &f, ret, e);
        TC_TRY(tc_tensor_find(c, p.name, "", &f, e));
        if (f.entry) return read_dense(&p, &f, ret, e);
    }
    tc_model_tensor_name(&c->desc, role, layer, expert, base);
    if (!base[0]) return tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing", c->dir, p.name);
    return tc_checkpoint_weight(c, base, p.rows, p.cols, ret, e);
}

bool tc_checkpoint_expert_is_4bit(const tc_checkpoint *c, tc_role role, uint32_t layer, uint32_t expert)
{
    char base[TC_TENSOR_NAME_BYTES];
    part p;
    tc_found f;
    if (part_of(c, role, layer, expert, &p) && !c->gguf &&
        tc_tensor_find(c, p.name, "_blocks", &f, NULL) == TC_OK && f.entry)
        return true;
    tc_model_tensor_name(&c->desc, role, layer, expert, base);
    return tc_checkpoint_is_4bit(c, base);
}

// Of an expert by itself.
static tc_status read_own_bias(const part *p, tc_role role, uint32_t layer, float *ret, tc_error *e)
{
    char name[TC_TENSOR_BYTES];
    float *values;
    tc_model_tensor_name(&p->c->desc, role, layer, p->expert, name);
    strcat(name, ".bias");
    TC_TRY(tc_checkpoint_vector(p->c, name, p->rows, &values, e));
    memcpy(ret, values, p->rows * sizeof *ret);
    tc_free(values);
    return TC_OK;
}

tc_status tc_checkpoint_expert_bias(const tc_checkpoint *c, tc_role role, uint32_t layer, uint32_t expert,
                                    float *ret, tc_error *e)
{
    part p;
    tc_found f;
    tc_weight raw = {0};
    tc_status status = TC_OK;
    if (!part_of(c, role, layer, expert, &p) || c->gguf) return read_own_bias(&p, role, layer, ret, e);
    TC_TRY(tc_tensor_find(c, p.name, "_bias", &f, e));
    if (!f.entry) return read_own_bias(&p, role, layer, ret, e);
    const uint64_t all = (uint64_t)p.how.parts * p.rows;
    raw.dtype = tc_safetensors_dtype(f.entry->dtype);
    if (!tc_dtype_is_float(raw.dtype))
        return tc_tensor_bad(c, &f, e, "has dtype %s; supported are F32, F16, BF16",
                             tc_safetensors_dtype_name(f.entry->dtype));
    TC_TRY(tc_tensor_shaped(c, &f, 2, (const uint64_t[]){p.experts, all}, e));
    const size_t bytes = (size_t)f.entry->bytes / p.experts;
    raw.data = tc_alloc(TC_MEM_OTHER, bytes, 1);
    if (!raw.data) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory", f.name));
    TC_GOTO(tc_tensor_read(c, &f, (uint64_t)expert * bytes, bytes, raw.data, e));
    for (uint32_t r = 0; r < p.rows; r++) {
        tc_weight_dequantise(&raw, stored_row(&p, r), 1, &ret[r]);
        if (!isfinite(ret[r]))
            TC_GOTO(tc_tensor_bad(c, &f, e, "expert %u: element %u is not finite", expert, r));
    }
out:
    tc_weight_free(&raw);
    return status;
}

tc_dtype tc_checkpoint_expert_bias_dtype(const tc_checkpoint *c, tc_role role, uint32_t layer,
                                         uint32_t expert)
{
    char name[TC_TENSOR_BYTES];
    part p;
    tc_found f;
    if (part_of(c, role, layer, expert, &p) && !c->gguf &&
        tc_tensor_find(c, p.name, "_bias", &f, NULL) == TC_OK && f.entry)
        return tc_checkpoint_dtype(c, f.name);
    tc_model_tensor_name(&c->desc, role, layer, expert, name);
    strcat(name, ".bias");
    return tc_checkpoint_dtype(c, name);
}
