// SPDX-License-Identifier: Apache-2.0
// Owns: reading and checking bitsandbytes' quantisation state (bnb.h).
#include "common/model/bnb.h"

#include "common/base/json.h"
#include <stdio.h>
#include <string.h>

static tc_status power_of_two(const tc_json_object *o, const char *field, uint32_t min, uint32_t max,
                              uint32_t *ret)
{
    TC_TRY(tc_json_require(o, field));
    TC_TRY(tc_json_u32(o, field, min, max, ret));
    if (*ret & (*ret - 1))
        return tc_fail(o->e, TC_FORMAT, "%s: %s is %u, must be a power of two", o->what, field, *ret);
    return TC_OK;
}

static tc_status one_of(const tc_json_object *o, const char *field, const char *const *texts, uint32_t count,
                        uint32_t *ret)
{
    const char *text = "";
    TC_TRY(tc_json_require(o, field));
    TC_TRY(tc_json_string(o, field, &text));
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(text, texts[i]) == 0) {
            *ret = i;
            return TC_OK;
        }
    char list[64];
    size_t n = 0;
    for (uint32_t i = 0; i < count && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", texts[i]);
    return tc_fail(o->e, TC_UNSUPPORTED, "%s: %s \"%.32s\" is not supported, only: %s", o->what, field, text,
                   list);
}

static tc_status read_shape(const tc_json_object *o, tc_bnb_state *s)
{
    yyjson_val *shape = NULL;
    uint64_t rows, cols;
    TC_TRY(tc_json_require(o, "shape"));
    TC_TRY(tc_json_get_array(o, "shape", &shape));
    if (yyjson_arr_size(shape) != 2)
        return tc_fail(o->e, TC_FORMAT, "%s: shape must have two entries", o->what);
    TC_TRY(tc_json_value_u64(yyjson_arr_get(shape, 0), o->what, "shape[0]", 1, INT32_MAX, &rows, o->e));
    TC_TRY(tc_json_value_u64(yyjson_arr_get(shape, 1), o->what, "shape[1]", 1, INT32_MAX, &cols, o->e));
    s->rows = (uint32_t)rows;
    s->cols = (uint32_t)cols;
    return TC_OK;
}

static tc_status read_nested(const tc_json_object *o, tc_bnb_state *s)
{
    static const char *const nested_dtypes[] = {"float32"};
    uint32_t unused = 0;
    double offset = 0.0;
    if (!tc_json_field(o, "nested_blocksize")) return TC_OK;
    TC_TRY(power_of_two(o, "nested_blocksize", 1, TC_BNB_NESTED_BLOCK_MAX, &s->nested_block));
    TC_TRY(one_of(o, "nested_dtype", nested_dtypes, 1, &unused));
    TC_TRY(tc_json_require(o, "nested_offset"));
    TC_TRY(tc_json_double(o, "nested_offset", -3e38, 3e38, &offset));
    s->nested_offset = (float)offset;
    return TC_OK;
}

static tc_status read_state(const tc_json_object *o, tc_bnb_state *s)
{
    static const char *const types[] = {"nf4", "fp4"};
    static const char *const dtype_names[] = {"bfloat16", "float16", "float32"};
    static const tc_dtype dtypes[] = {TC_BF16, TC_F16, TC_F32};
    uint32_t type = 0, dtype = 0;
    TC_TRY(one_of(o, "quant_type", types, 2, &type));
    TC_TRY(one_of(o, "dtype", dtype_names, 3, &dtype));
    TC_TRY(power_of_two(o, "blocksize", TC_BNB_BLOCK_MIN, TC_BNB_BLOCK_MAX, &s->block));
    TC_TRY(read_shape(o, s));
    TC_TRY(read_nested(o, s));
    s->fp4 = type == 1;
    s->dtype = dtypes[dtype];
    return TC_OK;
}

tc_status tc_bnb_state_parse(const char *what, const char *text, size_t bytes, tc_bnb_state *ret, tc_error *e)
{
    yyjson_doc *doc = NULL;
    tc_json_object object;
    tc_bnb_state state = {0};
    tc_status status;
    TC_TRY(tc_json_parse(what, text, bytes, 4, &doc, e));
    TC_GOTO(tc_json_object_of(yyjson_doc_get_root(doc), what, &object, e));
    TC_GOTO(read_state(&object, &state));
    *ret = state;
out:
    yyjson_doc_free(doc);
    return status;
}
