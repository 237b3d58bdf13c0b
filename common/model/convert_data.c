// SPDX-License-Identifier: Apache-2.0
// Owns: what a converted model's tensors hold: linears read in whatever form they are stored and made NF4,
// the rest in its own type, each written behind the one before it.
#include "common/base/mem.h"
#include "common/model/convert_internal.h"
#include "common/model/dtype.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHUNK = 1 << 16 };

void tc_convert_part_sizes(const item *i, uint64_t ret[NF4_PARTS])
{
    uint64_t n = (uint64_t)i->rows * i->cols, blocks = (n + TC_CONVERT_BLOCK - 1) / TC_CONVERT_BLOCK;
    ret[PART_CODES] = (n + 1) / 2;
    ret[PART_ABSMAX] = blocks;
    ret[PART_NESTED] = (blocks + TC_CONVERT_NESTED - 1) / TC_CONVERT_NESTED * 4;
    ret[PART_NESTED_MAP] = 256 * 4;
    ret[PART_MAP] = 16 * 4;
    ret[PART_STATE] = TC_CONVERT_STATE_BYTES;
}

tc_status tc_convert_put(converter *v, const void *data, uint64_t bytes)
{
    const char *from = data;
    for (uint64_t left = bytes; left;) {
        ssize_t n = write(v->fd, from, left < (1u << 30) ? left : 1u << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(v->e, TC_IO, "%s: cannot write", v->folder);
        from += n;
        left -= (uint64_t)n;
    }
    v->done += bytes;
    if (v->o->progress && !v->o->progress(v->o->arg, v->done < v->total ? v->done : v->total, v->total))
        return tc_fail(v->e, TC_CANCELLED, "converting was stopped");
    return TC_OK;
}

static tc_status put_floats(converter *v, const float *x, uint64_t count, tc_dtype dtype)
{
    uint16_t narrow[CHUNK / 2];
    if (dtype == TC_F32) return tc_convert_put(v, x, count * 4);
    for (uint64_t at = 0; at < count;) {
        uint64_t some = count - at < CHUNK / 2 ? count - at : CHUNK / 2;
        for (uint64_t k = 0; k < some; k++)
            narrow[k] = dtype == TC_F16 ? tc_float_to_f16(x[at + k]) : tc_float_to_bf16(x[at + k]);
        TC_TRY(tc_convert_put(v, narrow, some * 2));
        at += some;
    }
    return TC_OK;
}

// Any weight as float32 and dense, then NF4; what is NF4 as we write it stays.
static tc_status to_nf4(converter *v, tc_weight *w)
{
    bool same = w->quantised && !w->fp4 && w->block == TC_CONVERT_BLOCK && w->scale_codes &&
                w->nested_block == TC_CONVERT_NESTED &&
                memcmp(w->levels, tc_nf4_levels, sizeof w->levels) == 0;
    if (same) return TC_OK;
    tc_dtype dtype = w->dtype == TC_F16 ? TC_F16 : TC_BF16; // what it dequantises to
    if (w->quantised) {
        uint64_t n = (uint64_t)w->rows * w->cols;
        float *x = tc_alloc(TC_MEM_OTHER, n, sizeof *x);
        if (!x) return tc_fail(v->e, TC_NOMEM, "no memory to dequantise %" PRIu64 " weights", n);
        tc_weight_dequantise(w, 0, n, x);
        uint32_t rows = w->rows, cols = w->cols;
        tc_weight_free(w);
        *w = (tc_weight){.rows = rows, .cols = cols, .dtype = TC_F32, .data = x};
    }
    TC_TRY(tc_weight_quantise_nf4(w, v->e));
    w->dtype = dtype;
    return TC_OK;
}

static tc_status put_nf4(converter *v, const item *i, const tc_weight *w)
{
    static const char *const dtypes[] = {[TC_F32] = "float32", [TC_F16] = "float16", [TC_BF16] = "bfloat16"};
    char state[TC_CONVERT_STATE_BYTES + 1];
    uint64_t bytes[NF4_PARTS];
    tc_convert_part_sizes(i, bytes);
    TC_TRY(tc_convert_put(v, w->data, bytes[PART_CODES]));
    TC_TRY(tc_convert_put(v, w->scale_codes, bytes[PART_ABSMAX]));
    TC_TRY(tc_convert_put(v, w->nested, bytes[PART_NESTED]));
    TC_TRY(tc_convert_put(v, tc_nested_levels(), bytes[PART_NESTED_MAP]));
    TC_TRY(tc_convert_put(v, tc_nf4_levels, bytes[PART_MAP]));
    int n = snprintf(state, sizeof state,
                     "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%u, %u], "
                     "\"nested_blocksize\": %d, "
                     "\"nested_dtype\": \"float32\", \"nested_offset\": %.17g}",
                     TC_CONVERT_BLOCK, dtypes[w->dtype], i->rows, i->cols, TC_CONVERT_NESTED,
                     (double)w->nested_offset);
    memset(state + n, ' ', sizeof state - (size_t)n); // blanks behind JSON are JSON
    return tc_convert_put(v, state, TC_CONVERT_STATE_BYTES);
}

static tc_status put_matrix(converter *v, const item *i, const char *base)
{
    tc_weight w = {0};
    float *x = NULL;
    tc_status status;
    TC_GOTO(i->of_expert ? tc_checkpoint_expert(v->c, i->role, i->layer, i->expert, &w, v->e)
                         : tc_checkpoint_weight(v->c, base, i->rows, i->cols, &w, v->e));
    if (i->kind == ITEM_NF4) {
        TC_GOTO(to_nf4(v, &w));
        TC_GOTO(put_nf4(v, i, &w));
        goto out;
    }
    x = tc_alloc(TC_MEM_OTHER, CHUNK, sizeof *x);
    if (!x) TC_GOTO(tc_fail(v->e, TC_NOMEM, "%s: out of memory", base));
    for (uint64_t at = 0, n = (uint64_t)i->rows * i->cols; at < n; at += CHUNK) {
        uint64_t some = n - at < CHUNK ? n - at : CHUNK;
        tc_weight_dequantise(&w, at, some, x);
        TC_GOTO(put_floats(v, x, some, i->dtype));
    }
out:
    tc_free(x);
    tc_weight_free(&w);
    return status;
}

static bool zero_centred(const converter *v, tc_role role)
{
    return v->d->norm_zero_centred && (role == TC_INPUT_NORM || role == TC_POST_NORM ||
                                       role == TC_FINAL_NORM || role == TC_Q_NORM || role == TC_K_NORM);
}

static tc_status put_vector(converter *v, const item *i, const char *base)
{
    char name[TC_TENSOR_NAME_BYTES + 16];
    float *x = NULL;
    uint64_t count = (uint64_t)i->rows * i->cols;
    tc_status status;
    if (i->of_expert) {
        x = tc_alloc(TC_MEM_OTHER, count, sizeof *x);
        if (!x) return tc_fail(v->e, TC_NOMEM, "%s: out of memory", base);
        TC_GOTO(tc_checkpoint_expert_bias(v->c, i->role, i->layer, i->expert, x, v->e));
    } else {
        const char *suffix = i->bias ? ".bias" : tc_convert_whole(i->role) ? "" : ".weight";
        snprintf(name, sizeof name, "%s%s", base, suffix);
        TC_GOTO(tc_checkpoint_vector(v->c, name, count, &x, v->e));
    }
    bool ready = tc_checkpoint_ready(v->c);
    for (uint64_t k = 0; ready && k < count; k++) { // back to what Hugging Face keeps
        if (zero_centred(v, i->role)) x[k] -= 1.0f;
        if (i->role == TC_DN_A_LOG) x[k] = logf(-x[k]);
    }
    status = put_floats(v, x, count, i->dtype);
out:
    tc_free(x);
    return status;
}

static tc_status put_copy(converter *v, const item *i)
{
    tc_found f;
    uint8_t *data = tc_alloc(TC_MEM_OTHER, CHUNK, 1);
    tc_status status = TC_OK;
    if (!data) return tc_fail(v->e, TC_NOMEM, "%s: out of memory", v->folder);
    TC_GOTO(tc_tensor_find(v->c, tc_names_text(&v->c->table.names, i->copied), "", &f, v->e));
    for (uint64_t at = 0, n = f.entry->bytes; at < n; at += CHUNK) {
        uint64_t some = n - at < CHUNK ? n - at : CHUNK;
        TC_GOTO(tc_tensor_read(v->c, &f, at, some, data, v->e));
        TC_GOTO(tc_convert_put(v, data, some));
    }
out:
    tc_free(data);
    return status;
}

tc_status tc_convert_put_item(converter *v, const item *i)
{
    char base[TC_TENSOR_NAME_BYTES];
    if (i->kind == ITEM_COPY) return put_copy(v, i);
    tc_model_tensor_name(v->d, i->role, i->layer, i->expert, base);
    tc_status status = i->kind == ITEM_VECTOR ? put_vector(v, i, base) : put_matrix(v, i, base);
    return status == TC_OK || status == TC_CANCELLED ? status : tc_error_prefix(v->e, "%s", base);
}
