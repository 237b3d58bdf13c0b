// SPDX-License-Identifier: Apache-2.0
// Owns: one rendering from start to end: variables out of JSON, limits, and the result with its ranges of
// data.
#include "common/text/template_run.h"
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

// The words a tokenizer brings along: template text, although they come as variables.
static bool trusted(const tc_ts *name)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (tc_ts_is(name, names[i])) return true;
    return false;
}

static tc_tv from_json(tc_tr *r, yyjson_val *v, tc_origin origin, uint32_t depth);

// Borrows the document's bytes: they outlive the rendering.
static tc_tv json_string(tc_tr *r, yyjson_val *v, tc_tv_kind kind, tc_origin origin)
{
    tc_ts *s = tc_tr_alloc(r, sizeof *s);
    if (!s) return TC_TV_OF(TC_TV_ERROR);
    size_t bytes = unsafe_yyjson_get_len(v);
    if (bytes > UINT32_MAX / 2) return tc_tr_limit(r, "memory");
    *s = (tc_ts){.data = (const uint8_t *)unsafe_yyjson_get_str(v),
                 .bytes = (uint32_t)bytes,
                 .chars = TC_CHARS_UNKNOWN,
                 .origin = (uint8_t)origin};
    return (tc_tv){.kind = (uint8_t)kind, .s = s};
}

static tc_tv json_list(tc_tr *r, yyjson_val *v, tc_origin origin, uint32_t depth)
{
    size_t index, count;
    yyjson_val *item;
    tc_tl *l = tc_tr_alloc(r, sizeof *l);
    tc_tv *items = tc_tr_alloc(r, (yyjson_arr_size(v) + 1) * sizeof *items);
    if (!l || !items || !tc_tr_work(r, yyjson_arr_size(v))) return TC_TV_OF(TC_TV_ERROR);
    yyjson_arr_foreach(v, index, count, item)
    {
        items[index] = from_json(r, item, origin, depth + 1);
        if (TC_TV_FAILED(items[index])) return items[index];
    }
    *l = (tc_tl){.items = items, .count = yyjson_arr_size(v)};
    return (tc_tv){.kind = TC_TV_LIST, .l = l};
}

static tc_tv json_dict(tc_tr *r, yyjson_val *v, tc_origin origin, uint32_t depth)
{
    size_t index, count;
    yyjson_val *key, *value;
    tc_td *d = tc_td_new(r, yyjson_obj_size(v));
    if (!d) return TC_TV_OF(TC_TV_ERROR);
    yyjson_obj_foreach(v, index, count, key, value)
    {
        tc_tv k = json_string(r, key, TC_TV_STR, origin);
        if (TC_TV_FAILED(k)) return k;
        tc_tv each = from_json(r, value, depth == 0 && trusted(k.s) ? TC_ORIGIN_TEMPLATE : origin, depth + 1);
        if (TC_TV_FAILED(each) || !tc_td_set(r, d, k, each)) return TC_TV_OF(TC_TV_ERROR);
    }
    return (tc_tv){.kind = TC_TV_DICT, .d = d};
}

static tc_tv json_number(tc_tr *r, yyjson_val *v)
{
    if (yyjson_is_sint(v)) return tc_tv_int(yyjson_get_sint(v));
    if (!yyjson_is_uint(v)) return tc_tv_float(yyjson_get_real(v));
    uint64_t n = yyjson_get_uint(v);
    if (n <= (uint64_t)INT64_MAX) return tc_tv_int((int64_t)n);
    char digits[32];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    tc_tv big = tc_tv_text(r, digits);
    if (!TC_TV_FAILED(big)) big.kind = TC_TV_BIG;
    return big;
}

static tc_tv json_raw(tc_tr *r, yyjson_val *v, tc_origin origin)
{
    const char *text = yyjson_get_raw(v);
    size_t bytes = yyjson_get_len(v);
    if (!memchr(text, '.', bytes) && !memchr(text, 'e', bytes) && !memchr(text, 'E', bytes))
        return json_string(r, v, TC_TV_BIG, origin);
    tc_tv copy = tc_tv_str(r, text, bytes + 1, origin); // strtod wants its NUL
    if (TC_TV_FAILED(copy)) return copy;
    ((uint8_t *)copy.s->data)[bytes] = '\0';
    return tc_tv_float(strtod((const char *)copy.s->data, NULL));
}

static tc_tv from_json(tc_tr *r, yyjson_val *v, tc_origin origin, uint32_t depth)
{
    if (depth > TC_TEMPLATE_DATA_DEPTH_MAX) return tc_tr_limit(r, "depth of the variables");
    switch (yyjson_get_type(v)) {
    case YYJSON_TYPE_BOOL:
        return tc_tv_bool(yyjson_get_bool(v));
    case YYJSON_TYPE_NUM:
        return json_number(r, v);
    case YYJSON_TYPE_STR:
        return json_string(r, v, TC_TV_STR, origin);
    case YYJSON_TYPE_ARR:
        return json_list(r, v, origin, depth);
    case YYJSON_TYPE_OBJ:
        return json_dict(r, v, origin, depth);
    case YYJSON_TYPE_RAW:
        return json_raw(r, v, origin);
    default:
        return TC_TV_OF(TC_TV_NONE);
    }
}

// ---- the result
// --------------------------------------------------------------------------------------------

// The ranges of data, in the arena; NULL when there is no room.
static tc_text_span *spans_of(tc_tr *r, const tc_tsb *b, size_t *ret_count)
{
    size_t count = 0, room = 64;
    tc_text_span *spans = tc_tr_alloc(r, room * sizeof *spans);
    if (spans && b->origin == TC_ORIGIN_DATA && b->bytes) spans[count++] = (tc_text_span){0, b->bytes};
    for (size_t at = 0; spans && b->origin == TC_ORIGIN_MIXED && at < b->bytes;) {
        const uint8_t *begin = memchr(b->marks + at, 1, b->bytes - at);
        if (!begin) break;
        size_t from = (size_t)(begin - b->marks);
        const uint8_t *end = memchr(begin, 0, b->bytes - from);
        at = end ? (size_t)(end - b->marks) : b->bytes;
        if (count == room) {
            tc_text_span *more = tc_tr_alloc(r, room * 2 * sizeof *spans);
            if (more) memcpy(more, spans, count * sizeof *spans);
            spans = more;
            room *= 2;
        }
        if (spans) spans[count++] = (tc_text_span){from, at};
    }
    *ret_count = count;
    return spans;
}

static bool give(tc_tr *r, const tc_tsb *b, tc_rendered *ret)
{
    size_t count;
    const tc_text_span *spans = spans_of(r, b, &count);
    if (!spans) return false;
    ret->text = malloc(b->bytes + 1);
    ret->data = malloc((count + 1) * sizeof *ret->data);
    if (!ret->text || !ret->data) {
        tc_tr_nomem(r);
        return false;
    }
    if (b->bytes) memcpy(ret->text, b->data, b->bytes);
    memcpy(ret->data, spans, count * sizeof *spans);
    ret->text[b->bytes] = '\0';
    ret->bytes = b->bytes;
    ret->data_count = count;
    return true;
}

static bool run(tc_tr *r, yyjson_val *context, tc_rendered *ret)
{
    tc_tv variables = from_json(r, context, TC_ORIGIN_DATA, 0);
    if (TC_TV_FAILED(variables)) return false;
    r->globals = variables.d;
    tc_tframe *f = tc_tr_frame(r, r->t->function, NULL);
    if (!f || !tc_tr_enter(r, f, r->t->scope)) return false;
    return tc_tr_body(r, f, &r->t->body) != TC_FLOW_FAILED && give(r, r->out, ret);
}

static void prepare(tc_tr *r, const tc_template *t, const struct tm *now, const tc_template_limits *limits)
{
    static const uint8_t letters[129] = // U+0000 to U+007F
        "\000\001\002\003\004\005\006\007\010\011\012\013\014\015\016\017\020\021\022\023\024\025\026\027\030"
        "\031"
        "\032\033\034\035\036\037 "
        "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklm"
        "nopqrstuvwxyz{|}~\177";
    *r = (tc_tr){.t = t, .now = now, .steps_left = limits->steps, .output_bytes_max = limits->output_bytes};
    tc_arena_begin(&r->arena, limits->memory_bytes, t->spare);
    for (int i = 0; i < 128; i++) r->ascii[i] = (tc_ts){.data = letters + i, .bytes = 1, .chars = 1};
}

tc_status tc_template_render(const tc_template *t, struct yyjson_val *context, const struct tm *now,
                             const tc_template_limits *limits, tc_rendered *ret, tc_error *e)
{
    static const tc_template_limits defaults = {TC_TEMPLATE_STEPS_MAX, TC_TEMPLATE_OUTPUT_BYTES_MAX,
                                                TC_TEMPLATE_MEMORY_BYTES_MAX};
    tc_tr r;
    tc_tsb out = {.limited = true};
    tc_rendered result = {0};
    if (!yyjson_is_obj(context))
        return tc_fail(e, TC_ARGUMENT, "%s: the variables are not an object", t->name);
    prepare(&r, t, now, limits ? limits : &defaults);
    r.out = &out;
    if (!run(&r, context, &result)) {
        if (!r.failed) tc_tr_fail(&r, "RuntimeError", "the template failed");
        tc_rendered_free(&result);
        result = (tc_rendered){0};
        memcpy(result.kind, r.kind, sizeof result.kind);
        result.message = r.message;
        result.message_bytes = r.message_bytes;
    }
    tc_arena_end(&r.arena, t->spare);
    *ret = result;
    if (!r.failed) return TC_OK;
    return tc_fail(e, r.status, "%s: %s: %s", t->name, r.kind, r.message ? r.message : "");
}

void tc_rendered_free(tc_rendered *rendered)
{
    if (!rendered) return;
    free(rendered->text);
    free(rendered->data);
    free(rendered->message);
    *rendered = (tc_rendered){0};
}
