// SPDX-License-Identifier: Apache-2.0
// Owns: reading tensors of an open checkpoint into memory: dense weights, bitsandbytes 4-bit weights with
// their statistics, small vectors. Whether a weight is 4-bit is decided by the presence of its quantisation
// state, never by name. Refuses: anything whose size or type is not what the caller's shape and the state
// say.
#include "common/base/mem.h"
#include "common/model/bnb.h"
#include "common/model/checkpoint_internal.h"
#include "common/model/dtype.h"
#include "common/model/gguf_blocks.h"
#include "common/model/gguf_model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { VECTOR_COUNT_MAX = 1 << 28 };

tc_status tc_tensor_find(const tc_checkpoint *c, const char *base, const char *suffix, tc_found *ret,
                         tc_error *e)
{
    *ret = (tc_found){0};
    if (snprintf(ret->name, sizeof ret->name, "%s%s", base, suffix) >= (int)sizeof ret->name)
        return tc_fail(e, TC_ARGUMENT, "tensor name %.64s... is too long", base);
    uint32_t id = tc_names_find(&c->table.names, ret->name, strlen(ret->name));
    if (id == TC_NAME_NONE) return TC_OK;
    ret->entry = &c->table.entries[id];
    ret->shard = tc_names_text(&c->shard_names, ret->entry->shard);
    return TC_OK;
}

tc_status tc_tensor_bad(const tc_checkpoint *c, const tc_found *f, tc_error *e, const char *format, ...)
{
    char reason[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(reason, sizeof reason, format, ap);
    va_end(ap);
    if (!f->entry) return tc_fail(e, TC_FORMAT, "%.150s: tensor %s: %s", c->dir, f->name, reason);
    return tc_fail(e, TC_FORMAT, "%.150s/%.100s: tensor %s: %s", c->dir, f->shard, f->name, reason);
}

tc_status tc_tensor_read(const tc_checkpoint *c, const tc_found *f, uint64_t at, uint64_t bytes, void *data,
                         tc_error *e)
{
    const tc_shard_file *shard = &c->shards[f->entry->shard];
    if (tc_pread_all(shard->fd, f->name, data, bytes, shard->data_at + f->entry->begin + at, e) != TC_OK)
        return tc_error_prefix(e, "%.150s/%.100s", c->dir, f->shard);
    return TC_OK;
}

tc_status tc_tensor_shaped(const tc_checkpoint *c, const tc_found *f, uint32_t dims, const uint64_t *shape,
                           tc_error *e)
{
    const uint64_t *own = c->table.shapes + f->entry->shape_at;
    char text[128] = "";
    bool same = f->entry->dims == dims;
    for (uint32_t i = 0, n = 0; i < dims; i++) {
        same = same && own[i] == shape[i];
        n += (uint32_t)snprintf(text + n, sizeof text - n, "%s%" PRIu64, i ? ", " : "", shape[i]);
    }
    return same ? TC_OK : tc_tensor_bad(c, f, e, "shape is not the [%s] that the model needs", text);
}

static tc_status read_bytes(const tc_checkpoint *c, const tc_found *f, void *data, tc_error *e)
{
    return tc_tensor_read(c, f, 0, f->entry->bytes, data, e);
}

// Must exist with that type and exactly that many bytes.
static tc_status expect(const tc_checkpoint *c, const tc_found *f, tc_dtype dtype, uint64_t bytes,
                        tc_error *e)
{
    static const char *const names[] = {"F32", "F16", "BF16", "U8", "?"};
    if (!f->entry) return tc_tensor_bad(c, f, e, "is missing, but the weight is quantised");
    if (tc_safetensors_dtype(f->entry->dtype) != dtype)
        return tc_tensor_bad(c, f, e, "has dtype %s, must be %s", tc_safetensors_dtype_name(f->entry->dtype),
                             names[dtype]);
    if (f->entry->bytes != bytes)
        return tc_tensor_bad(c, f, e, "holds %" PRIu64 " bytes, its quantisation state needs %" PRIu64,
                             f->entry->bytes, bytes);
    return TC_OK;
}

static tc_status read_floats(const tc_checkpoint *c, const char *base, const char *suffix, uint64_t count,
                             float *ret, tc_error *e)
{
    tc_found f;
    TC_TRY(tc_tensor_find(c, base, suffix, &f, e));
    TC_TRY(expect(c, &f, TC_F32, count * sizeof(float), e));
    TC_TRY(read_bytes(c, &f, ret, e));
    for (uint64_t i = 0; i < count; i++)
        if (!isfinite(ret[i])) return tc_tensor_bad(c, &f, e, "element %" PRIu64 " is not finite", i);
    return TC_OK;
}

static tc_status read_state(const tc_checkpoint *c, const tc_found *f, bool fp4, tc_bnb_state *ret,
                            tc_error *e)
{
    char text[TC_BNB_STATE_BYTES_MAX], what[TC_ERROR_TEXT_BYTES];
    if (tc_safetensors_dtype(f->entry->dtype) != TC_U8 || f->entry->bytes > sizeof text)
        return tc_tensor_bad(c, f, e, "must be U8 and at most %u bytes", TC_BNB_STATE_BYTES_MAX);
    TC_TRY(read_bytes(c, f, text, e));
    snprintf(what, sizeof what, "%.150s/%.100s: tensor %.250s", c->dir, f->shard, f->name);
    TC_TRY(tc_bnb_state_parse(what, text, f->entry->bytes, ret, e));
    if (ret->fp4 != fp4) return tc_tensor_bad(c, f, e, "quant_type is not the one in its name");
    return TC_OK;
}

// absmax = map[code] * nested_absmax[i / nested_block] + offset, rounded twice. Codes and nested scales are
// kept where the map is bitsandbytes' own, so that a packed matrix can keep them too.
static tc_status read_nested_scales(const tc_checkpoint *c, const char *base, const tc_bnb_state *s,
                                    uint64_t blocks, tc_weight *w, tc_error *e)
{
    float map[256];
    tc_found codes;
    uint64_t groups = (blocks + s->nested_block - 1) / s->nested_block;
    TC_TRY(tc_tensor_find(c, base, ".weight.absmax", &codes, e));
    TC_TRY(expect(c, &codes, TC_U8, blocks, e));
    w->nested = tc_alloc(TC_MEM_OTHER, groups, sizeof *w->nested);
    w->scale_codes = tc_alloc(TC_MEM_OTHER, blocks, 1);
    if (!w->nested || !w->scale_codes) return tc_fail(e, TC_NOMEM, "%s: no memory for its scales", base);
    TC_TRY(read_bytes(c, &codes, w->scale_codes, e));
    TC_TRY(read_floats(c, base, ".weight.nested_absmax", groups, w->nested, e));
    TC_TRY(read_floats(c, base, ".weight.nested_quant_map", 256, map, e));
    w->nested_block = s->nested_block;
    w->nested_offset = s->nested_offset;
    for (uint64_t i = 0; i < blocks; i++) {
        w->absmax[i] = map[w->scale_codes[i]] * w->nested[i / s->nested_block] + s->nested_offset;
        if (!isfinite(w->absmax[i]))
            return tc_tensor_bad(c, &codes, e, "element %" PRIu64 " gives a scale that is not finite", i);
    }
    if (memcmp(map, tc_nested_levels(), sizeof map) == 0) return TC_OK;
    tc_free(w->scale_codes);
    w->scale_codes = NULL;
    return TC_OK;
}

static tc_status read_quantised(const tc_checkpoint *c, const char *base, const tc_found *state, bool fp4,
                                uint32_t rows, uint32_t cols, tc_weight *w, tc_error *e)
{
    tc_bnb_state s;
    tc_found packed;
    uint64_t n = (uint64_t)rows * cols;
    TC_TRY(read_state(c, state, fp4, &s, e));
    if (s.rows != rows || s.cols != cols)
        return tc_tensor_bad(c, state, e, "shape is [%u, %u], the model needs [%u, %u]", s.rows, s.cols, rows,
                             cols);
    uint64_t blocks = (n + s.block - 1) / s.block;
    TC_TRY(tc_tensor_find(c, base, ".weight", &packed, e));
    TC_TRY(expect(c, &packed, TC_U8, (n + 1) / 2,
                  e)); // first: a size backed by file bytes, before memory is taken
    w->data = tc_alloc(TC_MEM_OTHER, (n + 1) / 2, 1);
    w->absmax = tc_alloc(TC_MEM_OTHER, blocks, sizeof(float));
    if (!w->data || !w->absmax) return tc_fail(e, TC_NOMEM, "%s: no memory for the weight", base);
    TC_TRY(read_bytes(c, &packed, w->data, e));
    TC_TRY(read_floats(c, base, ".weight.quant_map", 16, w->levels, e));
    if (s.nested_block)
        TC_TRY(read_nested_scales(c, base, &s, blocks, w, e));
    else
        TC_TRY(read_floats(c, base, ".weight.absmax", blocks, w->absmax, e));
    w->quantised = true;
    w->fp4 = fp4;
    w->dtype = s.dtype;
    w->block = s.block;
    return TC_OK;
}

static tc_status read_dense(const tc_checkpoint *c, const tc_found *f, uint32_t rows, uint32_t cols,
                            tc_weight *w, tc_error *e)
{
    const tc_tensor_entry *t = f->entry;
    w->dtype = tc_safetensors_dtype(t->dtype);
    if (!tc_dtype_is_float(w->dtype))
        return tc_tensor_bad(
            c, f, e, "has dtype %s and no 4-bit quantisation state; supported are F32, F16, BF16, F8_E4M3",
            tc_safetensors_dtype_name(t->dtype));
    TC_TRY(tc_tensor_shaped(c, f, 2, (const uint64_t[]){rows, cols}, e));
    w->data = tc_alloc(TC_MEM_OTHER, t->bytes, 1);
    if (!w->data) return tc_fail(e, TC_NOMEM, "%s: no memory for the weight", f->name);
    return read_bytes(c, f, w->data, e);
}

tc_status tc_checkpoint_weight(const tc_checkpoint *c, const char *base, uint32_t rows, uint32_t cols,
                               tc_weight *ret, tc_error *e)
{
    tc_weight w = {.rows = rows, .cols = cols};
    tc_found dense, nf4, fp4;
    tc_status status;
    if (rows == 0 || cols == 0) return tc_fail(e, TC_ARGUMENT, "%s: a weight of no elements", base);
    if (c->gguf) return tc_gguf_weight(c, base, rows, cols, ret, e);
    TC_TRY(tc_tensor_find(c, base, ".weight", &dense, e));
    TC_TRY(tc_tensor_find(c, base, ".weight.quant_state.bitsandbytes__nf4", &nf4, e));
    TC_TRY(tc_tensor_find(c, base, ".weight.quant_state.bitsandbytes__fp4", &fp4, e));
    if (nf4.entry && fp4.entry) return tc_tensor_bad(c, &fp4, e, "the weight has an nf4 state as well");
    if (nf4.entry || fp4.entry)
        TC_GOTO(read_quantised(c, base, nf4.entry ? &nf4 : &fp4, fp4.entry != NULL, rows, cols, &w, e));
    else if (dense.entry && strcmp(tc_safetensors_dtype_name(dense.entry->dtype), "F8_E4M3") == 0)
        TC_GOTO(tc_checkpoint_fp8(c, base, &dense, rows, cols, &w, e));
    else if (dense.entry)
        TC_GOTO(read_dense(c, &dense, rows, cols, &w, e));
    else
        TC_GOTO(tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing", c->dir, dense.name));
    *ret = w;
    w = (tc_weight){0};
out:
    tc_weight_free(&w);
    return status;
}

// Of a 4-bit weight: its state, and whether its scales are double-quantised by bitsandbytes' own map.
static tc_status quantised_like(const tc_checkpoint *c, const char *base, const tc_found *state, bool fp4,
                                tc_weight *w, tc_error *e)
{
    static uint8_t there;
    tc_bnb_state s;
    float map[256];
    TC_TRY(read_state(c, state, fp4, &s, e));
    w->quantised = true;
    w->fp4 = fp4;
    w->dtype = s.dtype;
    w->block = s.block;
    w->nested_block = s.nested_block;
    if (!s.nested_block) return TC_OK;
    TC_TRY(read_floats(c, base, ".weight.nested_quant_map", 256, map, e));
    if (memcmp(map, tc_nested_levels(), sizeof map) == 0) w->scale_codes = &there;
    return TC_OK;
}

tc_status tc_checkpoint_weight_like(const tc_checkpoint *c, const char *base, uint32_t rows, uint32_t cols,
                                    tc_weight *ret, tc_error *e)
{
    tc_found dense, nf4, fp4;
    *ret = (tc_weight){.rows = rows, .cols = cols};
    if (c->gguf) return tc_gguf_weight_like(c, base, ret, e);
    TC_TRY(tc_tensor_find(c, base, ".weight", &dense, e));
    TC_TRY(tc_tensor_find(c, base, ".weight.quant_state.bitsandbytes__nf4", &nf4, e));
    TC_TRY(tc_tensor_find(c, base, ".weight.quant_state.bitsandbytes__fp4", &fp4, e));
    if (nf4.entry || fp4.entry)
        return quantised_like(c, base, nf4.entry ? &nf4 : &fp4, fp4.entry != NULL, ret, e);
    if (!dense.entry) return tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing", c->dir, dense.name);
    ret->dtype = tc_safetensors_dtype(dense.entry->dtype);
    if (!tc_dtype_is_float(ret->dtype)) ret->dtype = TC_BF16; // 8-bit floats, or refused when it is read
    return TC_OK;
}

tc_status tc_checkpoint_vector(const tc_checkpoint *c, const char *tensor, uint64_t count, float **ret,
                               tc_error *e)
{
    tc_found f;
    tc_weight w = {0};
    tc_status status = TC_OK;
    float *values = NULL;
    if (c->gguf) return tc_gguf_vector(c, tensor, count, ret, e);
    TC_TRY(tc_tensor_find(c, tensor, "", &f, e));
    if (!f.entry) return tc_fail(e, TC_NOT_FOUND, "%.250s: tensor %s is missing", c->dir, f.name);
    w.dtype = tc_safetensors_dtype(f.entry->dtype);
    if (!tc_dtype_is_float(w.dtype))
        return tc_tensor_bad(c, &f, e, "has dtype %s, supported are F32, F16, BF16",
                             tc_safetensors_dtype_name(f.entry->dtype));
    if (count > VECTOR_COUNT_MAX || f.entry->bytes != count * tc_dtype_bytes(w.dtype))
        return tc_tensor_bad(c, &f, e, "holds %" PRIu64 " elements, the model needs %" PRIu64,
                             f.entry->bytes / tc_dtype_bytes(w.dtype), count);
    w.data = tc_alloc(TC_MEM_OTHER, f.entry->bytes, 1);
    values = tc_alloc(TC_MEM_WEIGHTS, count, sizeof *values);
    if (!w.data || !values) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory", f.name));
    TC_GOTO(read_bytes(c, &f, w.data, e));
    tc_weight_dequantise(&w, 0, count, values);
    for (uint64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) TC_GOTO(tc_tensor_bad(c, &f, e, "element %" PRIu64 " is not finite", i));
    *ret = values;
    values = NULL;
out:
    tc_free(values);
    tc_weight_free(&w);
    return status;
}

// ---- walking ----

static int in_file_order(const void *pa, const void *pb, void *arg)
{
    const tc_tensor_entry *entries = arg, *a = &entries[*(const uint32_t *)pa],
                          *b = &entries[*(const uint32_t *)pb];
    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    return a->begin < b->begin ? -1 : a->begin > b->begin;
}

void tc_checkpoint_walk(const tc_checkpoint *c, bool (*visit)(void *arg, const tc_tensor_info *info),
                        void *arg)
{
    uint32_t count = c->table.names.count;
    uint32_t *order = malloc(count * sizeof *order + 1);
    if (order) {
        for (uint32_t i = 0; i < count; i++) order[i] = i;
        qsort_r(order, count, sizeof *order, in_file_order, c->table.entries);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = order ? order[i] : i; // without memory for an order, as the headers list them
        const tc_tensor_entry *t = &c->table.entries[id];
        tc_tensor_info info = {
            .name = tc_names_text(&c->table.names, id),
            .dtype = c->gguf ? tc_block_info_of(t->dtype)->name : tc_safetensors_dtype_name(t->dtype),
            .shard = tc_names_text(&c->shard_names, t->shard),
            .dims = t->dims,
            .bytes = t->bytes,
        };
        memcpy(info.shape, c->table.shapes + t->shape_at, t->dims * sizeof *info.shape);
        if (!visit(arg, &info)) break;
    }
    free(order);
}
