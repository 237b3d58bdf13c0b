// SPDX-License-Identifier: Apache-2.0
// Owns: `a.b`, `a[b]` and `a[b:c]`: which of attribute and item comes first, what is undefined, and what the
// sandbox hides (methods that would change a list or dict, and Python's own attributes).
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <string.h>

static tc_tv method_of(tc_tr *r, tc_tv object, int method)
{
    tc_tmethod *m = tc_tr_alloc(r, sizeof *m);
    if (!m) return TC_TV_OF(TC_TV_ERROR);
    *m = (tc_tmethod){object, method};
    return (tc_tv){.kind = TC_TV_METHOD, .method = m};
}

static bool dunder(const tc_ts *name)
{
    return name->bytes > 4 && !memcmp(name->data, "__", 2) && !memcmp(name->data + name->bytes - 2, "__", 2);
}

// An attribute that Python's getattr finds; MISSING when there is none.
static tc_tv attribute(tc_tr *r, tc_tv object, const tc_ts *name, int method)
{
    switch (object.kind) {
    case TC_TV_UNDEFINED:
        return tc_tv_undefined_error(r, object);
    case TC_TV_NAMESPACE: {
        const tc_tv *v = tc_td_get_str(object.d, name);
        if (v) return *v;
        break;
    }
    case TC_TV_LOOP: {
        tc_tv v = tc_loop_attribute(r, object.loop, name);
        if (v.kind != TC_TV_MISSING) return v;
        break;
    }
    case TC_TV_TUPLE:
        if (object.l->group && tc_ts_is(name, "grouper")) return object.l->items[0];
        if (object.l->group && tc_ts_is(name, "list")) return object.l->items[1];
        break;
    case TC_TV_MACRO: {
        tc_tv v = tc_macro_attribute(r, object.macro, name);
        if (v.kind != TC_TV_MISSING) return v;
        break;
    }
    case TC_TV_CYCLER:
        if (tc_ts_is(name, "current")) return object.cycle->items->items[object.cycle->at];
        break;
    case TC_TV_INT:
    case TC_TV_BOOL:
    case TC_TV_FLOAT:
        if (tc_ts_is(name, "real")) return object.kind == TC_TV_BOOL ? tc_tv_int(object.b) : object;
        if (tc_ts_is(name, "imag")) return object.kind == TC_TV_FLOAT ? tc_tv_float(0) : tc_tv_int(0);
        break;
    default:
        break;
    }
    tc_method_access access = tc_method_find(object, method);
    if (access == TC_METHOD_UNSAFE || dunder(name)) return tc_tv_unsafe(r, object, name);
    return access == TC_METHOD_YES ? method_of(r, object, method) : TC_TV_OF(TC_TV_MISSING);
}

// obj[key] as Python does it; MISSING where Python raises an error that templates do not see.
static tc_tv item(tc_tr *r, tc_tv object, tc_tv key)
{
    int64_t index;
    if (object.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, object);
    if (object.kind == TC_TV_DICT) {
        const tc_tv *v = tc_td_get(object.d, key);
        return v ? *v : TC_TV_OF(TC_TV_MISSING);
    }
    if (key.kind == TC_TV_UNDEFINED && object.kind == TC_TV_RANGE) return TC_TV_OF(TC_TV_MISSING);
    if (key.kind != TC_TV_INT && key.kind != TC_TV_BOOL) return TC_TV_OF(TC_TV_MISSING);
    index = key.kind == TC_TV_BOOL ? key.b : key.i;
    int64_t count = object.kind == TC_TV_STR                                  ? (int64_t)tc_ts_chars(object.s)
                    : object.kind == TC_TV_LIST || object.kind == TC_TV_TUPLE ? (int64_t)object.l->count
                    : object.kind == TC_TV_RANGE                              ? (int64_t)object.range->count
                                                                              : 0;
    if (index < 0) index += count;
    if (index < 0 || index >= count) return TC_TV_OF(TC_TV_MISSING);
    if (object.kind == TC_TV_RANGE) return tc_tv_int(tc_trange_at(object.range, (uint64_t)index));
    if (object.kind != TC_TV_STR) return object.l->items[index];
    size_t from = tc_ts_offset(object.s, (size_t)index), to = from + 1;
    while (to < object.s->bytes && (object.s->data[to] & 0xc0) == 0x80) to++;
    return tc_tv_substr(r, object.s, from, to);
}

tc_tv tc_tv_getitem(tc_tr *r, tc_tv object, tc_tv key)
{
    if (object.kind == TC_TV_DICT && key.kind == TC_TV_STR) { // nearly always
        const tc_tv *found = tc_td_get_str(object.d, key.s);
        if (found) return *found;
    }
    tc_tv v = item(r, object, key);
    if (v.kind == TC_TV_MISSING && key.kind == TC_TV_STR)
        v = attribute(r, object, key.s, tc_method_of_name(key.s->data, key.s->bytes));
    return v.kind == TC_TV_MISSING ? tc_tv_undefined_of(r, object, key) : v;
}

tc_tv tc_tv_getattr(tc_tr *r, tc_tv object, const tc_ts *name, int method)
{
    if (object.kind == TC_TV_DICT && method == TC_METHOD_NONE && name->data[0] != '_') { // nearly always
        const tc_tv *v = tc_td_get_str(object.d, name);
        return v ? *v : tc_tv_undefined_of(r, object, tc_tv_of_str(name));
    }
    tc_tv v = attribute(r, object, name, method);
    if (v.kind == TC_TV_MISSING) v = item(r, object, tc_tv_of_str(name));
    return v.kind == TC_TV_MISSING ? tc_tv_undefined_of(r, object, tc_tv_of_str(name)) : v;
}

// ---- slices
// ------------------------------------------------------------------------------------------------

// A bound of a slice, clipped as Python clips it.
static bool bound(tc_tr *r, tc_tv v, int64_t count, int64_t absent, int64_t low, int64_t high, int64_t *ret)
{
    *ret = absent;
    if (v.kind == TC_TV_NONE || v.kind == TC_TV_MISSING) return true;
    if (v.kind != TC_TV_INT && v.kind != TC_TV_BOOL) {
        tc_tr_fail(r, "TypeError",
                   "slice indices must be integers or None or have an __index__ method, not '%s'",
                   tc_tv_type(v));
        return false;
    }
    int64_t i = v.kind == TC_TV_BOOL ? v.b : v.i;
    if (i < 0) i += count;
    *ret = i < low ? low : i > high ? high : i;
    return true;
}

static tc_tv slice_string(tc_tr *r, const tc_ts *s, int64_t start, int64_t stop, int64_t step)
{
    tc_tsb b = {0};
    if (step == 1) {
        if (stop <= start) return tc_tv_substr(r, s, 0, 0);
        size_t from = tc_ts_offset(s, (size_t)start), to = tc_ts_offset(s, (size_t)stop);
        return tc_tv_substr(r, s, from, to);
    }
    size_t count = tc_ts_chars(s), at = 0;
    uint32_t *offsets = tc_tr_alloc(r, (count + 1) * sizeof *offsets);
    if (!offsets || !tc_tr_work(r, count)) return TC_TV_OF(TC_TV_ERROR);
    for (size_t i = 0; i < s->bytes; i++)
        if ((s->data[i] & 0xc0) != 0x80) offsets[at++] = (uint32_t)i;
    offsets[count] = s->bytes;
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        if (!tc_tsb_substr(r, &b, s, offsets[i], offsets[i + 1])) return TC_TV_OF(TC_TV_ERROR);
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), s->markup);
}

static tc_tv slice_list(tc_tr *r, tc_tv v, int64_t start, int64_t stop, int64_t step)
{
    tc_tlb b = {0};
    if (step == 1) { // shares the items
        tc_tl *l = tc_tr_alloc(r, sizeof *l);
        if (!l) return TC_TV_OF(TC_TV_ERROR);
        *l = (tc_tl){.items = v.l->count ? v.l->items + start : NULL,
                     .count = stop > start ? (size_t)(stop - start) : 0};
        return (tc_tv){.kind = v.kind, .l = l};
    }
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        if (!tc_tlb_push(r, &b, v.l->items[i])) return TC_TV_OF(TC_TV_ERROR);
    return tc_tlb_take(r, &b, v.kind);
}

static tc_tv slice_range(tc_tr *r, const tc_trange *range, int64_t start, int64_t stop, int64_t step)
{
    tc_trange *part = tc_tr_alloc(r, sizeof *part);
    if (!part) return TC_TV_OF(TC_TV_ERROR);
    int64_t span = step > 0 ? stop - start : start - stop, width = step > 0 ? step : -step;
    *part = (tc_trange){tc_trange_at(range, (uint64_t)start), tc_trange_at(range, (uint64_t)stop),
                        (int64_t)((uint64_t)range->step * (uint64_t)step),
                        span > 0 ? (size_t)((span + width - 1) / width) : 0};
    return (tc_tv){.kind = TC_TV_RANGE, .range = part};
}

tc_tv tc_tv_slice(tc_tr *r, tc_tv object, tc_tv start, tc_tv stop, tc_tv step)
{
    int64_t width = 1, from, to;
    if (object.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, object);
    if (object.kind == TC_TV_DICT) return tc_tr_fail(r, "TypeError", "unhashable type: 'slice'");
    if (object.kind != TC_TV_STR && object.kind != TC_TV_LIST && object.kind != TC_TV_TUPLE &&
        object.kind != TC_TV_RANGE)
        return tc_tr_fail(r, "TypeError", "'%s' object is not subscriptable", tc_tv_type(object));
    int64_t count = object.kind == TC_TV_STR     ? (int64_t)tc_ts_chars(object.s)
                    : object.kind == TC_TV_RANGE ? (int64_t)object.range->count
                                                 : (int64_t)object.l->count;
    if (!bound(r, step, 0, 1, INT64_MIN + 1, INT64_MAX, &width)) return TC_TV_OF(TC_TV_ERROR);
    if (width == 0) return tc_tr_fail(r, "ValueError", "slice step cannot be zero");
    if (width > count + 1) width = count + 1;
    if (width < -count - 1) width = -count - 1;
    int64_t low = width > 0 ? 0 : -1, high = width > 0 ? count : count - 1;
    if (!bound(r, start, count, width > 0 ? low : high, low, high, &from) ||
        !bound(r, stop, count, width > 0 ? high : low, low, high, &to))
        return TC_TV_OF(TC_TV_ERROR);
    if (object.kind == TC_TV_STR) return slice_string(r, object.s, from, to, width);
    if (object.kind == TC_TV_RANGE) return slice_range(r, object.range, from, to, width);
    return slice_list(r, object, from, to, width);
}
