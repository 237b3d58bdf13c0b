// SPDX-License-Identifier: Apache-2.0
// Owns: the filters that walk: map, select, sort, join, group and their like. Python makes generators of
// some; here they are computed at once and can still be walked only once.
#include "common/text/template_filter.h"
#include "common/text/template_method.h"
#include <string.h>

enum { ATTRIBUTE_PARTS_MAX = 32 };

static tc_tv failed(void)
{
    return TC_TV_OF(TC_TV_ERROR);
}

static bool given(tc_tv v)
{
    return v.kind != TC_TV_MISSING && v.kind != TC_TV_NONE;
}

// ---- attributes by name: "a.b.0"
// ---------------------------------------------------------------------------

typedef struct path {
    tc_tv parts[ATTRIBUTE_PARTS_MAX];
    size_t count;
    tc_tv otherwise; // for what is undefined, unless MISSING
    bool fold;       // strings in lower case
} path;

static bool one_part(tc_tr *r, path *p, const tc_ts *s, size_t from, size_t to)
{
    bool number = to > from;
    int64_t index = 0;
    for (size_t i = from; i < to; i++) {
        if (s->data[i] < '0' || s->data[i] > '9') number = false;
        if (number && i - from < 18) index = index * 10 + (s->data[i] - '0');
    }
    if (p->count == ATTRIBUTE_PARTS_MAX) {
        tc_tr_limit(r, "attribute parts");
        return false;
    }
    tc_tv v = number ? tc_tv_int(index) : tc_tv_substr(r, s, from, to);
    p->parts[p->count++] = v;
    return !TC_TV_FAILED(v);
}

static bool parse_path(tc_tr *r, tc_tv attribute, path *p)
{
    p->count = 0;
    if (!given(attribute)) return true;
    if (attribute.kind != TC_TV_STR) {
        p->parts[p->count++] = attribute;
        return true;
    }
    const tc_ts *s = attribute.s;
    for (size_t from = 0; from <= s->bytes;) {
        const uint8_t *dot = memchr(s->data + from, '.', s->bytes - from);
        size_t to = dot ? (size_t)(dot - s->data) : s->bytes;
        if (!one_part(r, p, s, from, to)) return false;
        from = to + 1;
    }
    return true;
}

static tc_tv follow(tc_tr *r, const path *p, tc_tv v)
{
    for (size_t i = 0; i < p->count && !TC_TV_FAILED(v); i++) {
        v = tc_tv_getitem(r, v, p->parts[i]);
        if (v.kind == TC_TV_UNDEFINED && given(p->otherwise)) v = p->otherwise;
    }
    return p->fold && v.kind == TC_TV_STR ? tc_str_case(r, v.s, TC_CASE_LOWER) : v;
}

// ---- taking and giving
// -------------------------------------------------------------------------------------

tc_tv tc_filter_list(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tlb b = {0};
    (void)p;
    return tc_tv_collect(r, v, &b) ? tc_tlb_take(r, &b, TC_TV_LIST) : failed();
}

tc_tv tc_filter_items(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tlb b = {0};
    (void)p;
    if (v.kind == TC_TV_UNDEFINED) return tc_tlb_generator(r, &b, "generator");
    if (v.kind != TC_TV_DICT) {
        tc_tr_fail(r, "TypeError", "Can only get item pairs from a mapping.");
        return tc_tlb_failed_generator(r, &b);
    }
    v.kind = TC_TV_VIEW, v.sub = 'i';
    return tc_tv_collect(r, v, &b) ? tc_tlb_generator(r, &b, "generator") : tc_tlb_failed_generator(r, &b);
}

tc_tv tc_filter_first(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_titer it;
    tc_tv item;
    (void)p;
    if (!tc_titer_begin(r, v, &it)) return failed();
    if (tc_titer_next(r, &it, &item)) return item;
    return r->failed ? failed() : tc_tv_undefined_hint(r, "No first item, sequence was empty.");
}

static bool reversible(tc_tv v)
{
    return v.kind == TC_TV_STR || v.kind == TC_TV_LIST || v.kind == TC_TV_TUPLE || v.kind == TC_TV_DICT ||
           v.kind == TC_TV_VIEW || v.kind == TC_TV_RANGE;
}

tc_tv tc_filter_last(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tlb b = {0};
    (void)p;
    if (v.kind == TC_TV_LIST || v.kind == TC_TV_TUPLE)
        return v.l->count ? v.l->items[v.l->count - 1]
                          : tc_tv_undefined_hint(r, "No last item, sequence was empty.");
    if (v.kind != TC_TV_UNDEFINED && !reversible(v))
        return tc_tr_fail(r, "TypeError", "'%s' object is not reversible", tc_tv_type(v));
    if (!tc_tv_collect(r, v, &b)) return failed();
    return b.count ? b.items[b.count - 1] : tc_tv_undefined_hint(r, "No last item, sequence was empty.");
}

tc_tv tc_filter_reverse(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tlb b = {0};
    (void)p;
    if (v.kind == TC_TV_STR)
        return tc_tv_slice(r, v, TC_TV_OF(TC_TV_NONE), TC_TV_OF(TC_TV_NONE), tc_tv_int(-1));
    if (!tc_tv_iterable(v)) return tc_tr_fail(r, "FilterArgumentError", "argument must be iterable");
    if (!tc_tv_collect(r, v, &b)) return failed();
    for (size_t i = 0; b.count && i < b.count - 1 - i; i++) {
        tc_tv swap = b.items[i];
        b.items[i] = b.items[b.count - 1 - i];
        b.items[b.count - 1 - i] = swap;
    }
    if (!reversible(v)) return tc_tlb_take(r, &b, TC_TV_LIST);
    return tc_tlb_generator(r, &b, "list_reverseiterator");
}

tc_tv tc_filter_join(tc_tr *r, tc_tv v, tc_tv *p)
{
    static const tc_ts nothing = {.data = (const uint8_t *)"", .bytes = 0, .chars = 0};
    const tc_ts *between = &nothing;
    if (p[0].kind != TC_TV_MISSING) {
        p[0] = tc_tv_to_str(r, p[0]);
        if (TC_TV_FAILED(p[0])) return failed();
        between = p[0].s;
    }
    if (given(p[1])) {
        path at = {.otherwise = TC_TV_OF(TC_TV_MISSING)};
        tc_tlb items = {0};
        if (!parse_path(r, p[1], &at) || !tc_tv_collect(r, v, &items)) return failed();
        for (size_t i = 0; i < items.count; i++) {
            items.items[i] = follow(r, &at, items.items[i]);
            if (TC_TV_FAILED(items.items[i])) return failed();
        }
        v = tc_tlb_take(r, &items, TC_TV_LIST);
        if (TC_TV_FAILED(v)) return v;
    }
    return tc_tv_as_markup(r, tc_str_join(r, between, v, true), false);
}

// ---- map and select
// ----------------------------------------------------------------------------------------

static const tc_tv *named(const tc_targs *args, const char *name)
{
    for (size_t i = 0; i < args->named; i++)
        if (tc_ts_is(args->names[i], name)) return &args->values[i];
    return NULL;
}

// Arguments without their first `skip`.
static tc_targs rest_of(const tc_targs *args, size_t skip)
{
    tc_targs rest = *args;
    rest.items += skip;
    rest.count -= skip;
    return rest;
}

static int find_by_name(tc_tr *r, tc_tv name, const char *what, int (*find)(const tc_ts *))
{
    int which = name.kind == TC_TV_STR ? find(name.s) : -1;
    if (which < 0)
        tc_tr_fail(r, "TemplateRuntimeError", "No %s named '%.*s'.", what,
                   name.kind == TC_TV_STR ? (int)name.s->bytes : 0,
                   name.kind == TC_TV_STR ? (const char *)name.s->data : "");
    return which;
}

static bool prepare_map(tc_tr *r, tc_targs *args, path *at, int *filter)
{
    const tc_tv *attribute = named(args, "attribute"), *otherwise = named(args, "default");
    *filter = -1;
    if (args->count == 0 && attribute) {
        if (args->named > 1 + (otherwise != NULL)) {
            tc_tr_fail(r, "FilterArgumentError", "Unexpected keyword argument");
            return false;
        }
        at->otherwise = otherwise ? *otherwise : TC_TV_OF(TC_TV_MISSING);
        at->fold = false;
        return parse_path(r, *attribute, at);
    }
    if (args->count == 0) {
        tc_tr_fail(r, "FilterArgumentError", "map requires a filter argument");
        return false;
    }
    *filter = find_by_name(r, args->items[0], "filter", tc_filter_find);
    return *filter >= 0;
}

tc_tv tc_filter_map(tc_tr *r, tc_tv v, tc_targs *args)
{
    path at;
    int filter;
    tc_tlb b = {0};
    tc_titer it;
    tc_tv item;
    if (!tc_tv_truth(v)) return tc_tlb_generator(r, &b, "generator");
    if (!prepare_map(r, args, &at, &filter) || !tc_titer_begin(r, v, &it))
        return tc_tlb_failed_generator(r, &b);
    while (tc_titer_next(r, &it, &item)) {
        if (filter >= 0) {
            tc_targs rest = rest_of(args, 1);
            item = tc_filter_call(r, filter, item, &rest);
        } else {
            item = follow(r, &at, item);
        }
        if (TC_TV_FAILED(item) || !tc_tlb_push(r, &b, item)) return tc_tlb_failed_generator(r, &b);
    }
    return r->failed ? tc_tlb_failed_generator(r, &b) : tc_tlb_generator(r, &b, "generator");
}

tc_tv tc_filter_select(tc_tr *r, tc_tv v, tc_targs *args, bool attribute, bool wanted)
{
    path at = {.otherwise = TC_TV_OF(TC_TV_MISSING)};
    int test = -1;
    size_t used = attribute;
    tc_tlb b = {0};
    tc_titer it;
    tc_tv item;
    if (!tc_tv_truth(v)) return tc_tlb_generator(r, &b, "generator");
    if (attribute && args->count == 0) {
        tc_tr_fail(r, "FilterArgumentError", "Missing parameter for attribute name");
        return tc_tlb_failed_generator(r, &b);
    }
    if (attribute && !parse_path(r, args->items[0], &at)) return tc_tlb_failed_generator(r, &b);
    if (args->count > used) {
        test = find_by_name(r, args->items[used++], "test", tc_test_find);
        if (test < 0) return tc_tlb_failed_generator(r, &b);
    }
    if (!tc_titer_begin(r, v, &it)) return tc_tlb_failed_generator(r, &b);
    while (tc_titer_next(r, &it, &item)) {
        tc_tv looked = attribute ? follow(r, &at, item) : item;
        if (TC_TV_FAILED(looked)) return tc_tlb_failed_generator(r, &b);
        if (test >= 0) {
            tc_targs rest = rest_of(args, used);
            looked = tc_test_call(r, test, looked, &rest);
            if (TC_TV_FAILED(looked)) return tc_tlb_failed_generator(r, &b);
        }
        if (tc_tv_truth(looked) == wanted && !tc_tlb_push(r, &b, item)) return tc_tlb_failed_generator(r, &b);
    }
    return r->failed ? tc_tlb_failed_generator(r, &b) : tc_tlb_generator(r, &b, "generator");
}

// ---- sorting
// -----------------------------------------------------------------------------------------------

// For "a,b": the key of an item is the list of both.
static tc_tv multi_key(tc_tr *r, const path *paths, size_t count, tc_tv item)
{
    tc_tlb b = {0};
    for (size_t i = 0; i < count; i++) {
        tc_tv v = follow(r, &paths[i], item);
        if (TC_TV_FAILED(v) || !tc_tlb_push(r, &b, v)) return failed();
    }
    return tc_tlb_take(r, &b, TC_TV_LIST);
}

static path *parse_paths(tc_tr *r, tc_tv attribute, bool fold, size_t *ret_count)
{
    size_t count = 1, from = 0;
    if (attribute.kind == TC_TV_STR)
        for (size_t i = 0; i < attribute.s->bytes; i++) count += attribute.s->data[i] == ',';
    if (count > ATTRIBUTE_PARTS_MAX) {
        tc_tr_limit(r, "attribute parts");
        return NULL;
    }
    path *paths = tc_tr_alloc(r, count * sizeof *paths);
    for (size_t i = 0; paths && i < count; i++) {
        tc_tv part = attribute;
        if (count > 1) {
            const tc_ts *s = attribute.s;
            const uint8_t *comma = memchr(s->data + from, ',', s->bytes - from);
            size_t to = comma ? (size_t)(comma - s->data) : s->bytes;
            part = tc_tv_substr(r, s, from, to);
            from = to + 1;
        }
        paths[i].otherwise = TC_TV_OF(TC_TV_MISSING);
        paths[i].fold = fold;
        if (TC_TV_FAILED(part) || !parse_path(r, part, &paths[i])) return NULL;
    }
    *ret_count = count;
    return paths;
}

tc_tv tc_filter_sort(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tlb items = {0};
    size_t count;
    path *paths = parse_paths(r, p[2], !tc_tv_truth(p[1]), &count);
    if (!paths || !tc_tv_collect(r, v, &items)) return failed();
    tc_tv *keys = tc_tr_alloc(r, (items.count + 1) * sizeof *keys);
    if (!keys) return failed();
    for (size_t i = 0; i < items.count; i++) {
        keys[i] = multi_key(r, paths, count, items.items[i]);
        if (TC_TV_FAILED(keys[i])) return failed();
    }
    if (!tc_tv_sort(r, keys, items.items, items.count, tc_tv_truth(p[0]))) return failed();
    return tc_tlb_take(r, &items, TC_TV_LIST);
}

tc_tv tc_filter_dictsort(tc_tr *r, tc_tv v, tc_tv *p)
{
    bool by_value = p[1].kind == TC_TV_STR && tc_ts_is(p[1].s, "value");
    if (p[1].kind != TC_TV_MISSING && !by_value && !(p[1].kind == TC_TV_STR && tc_ts_is(p[1].s, "key")))
        return tc_tr_fail(r, "FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
    if (v.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, v);
    if (v.kind != TC_TV_DICT)
        return tc_tr_fail(r, "AttributeError", "'%s' object has no attribute 'items'", tc_tv_type(v));
    tc_tlb items = {0};
    tc_tv *keys = tc_tr_alloc(r, (v.d->count + 1) * sizeof *keys);
    path fold = {.otherwise = TC_TV_OF(TC_TV_MISSING), .fold = !tc_tv_truth(p[0])};
    if (!keys) return failed();
    for (uint32_t i = 0; i < v.d->count; i++) {
        const tc_tentry *e = &v.d->entries[i];
        tc_tv pair = tc_tv_pair(r, e->key, e->value);
        keys[i] = follow(r, &fold, by_value ? e->value : e->key);
        if (TC_TV_FAILED(pair) || TC_TV_FAILED(keys[i]) || !tc_tlb_push(r, &items, pair)) return failed();
    }
    if (!tc_tv_sort(r, keys, items.items, items.count, tc_tv_truth(p[2]))) return failed();
    return tc_tlb_take(r, &items, TC_TV_LIST);
}

static bool push_group(tc_tr *r, tc_tlb *groups, tc_tv key, tc_tlb *members)
{
    tc_tv list = tc_tlb_take(r, members, TC_TV_LIST);
    tc_tv pair = TC_TV_FAILED(list) ? list : tc_tv_pair(r, key, list);
    if (TC_TV_FAILED(pair)) return false;
    ((tc_tl *)pair.l)->group = true;
    return tc_tlb_push(r, groups, pair);
}

tc_tv tc_filter_groupby(tc_tr *r, tc_tv v, tc_tv *p)
{
    path at = {.otherwise = p[1]}, shown;
    tc_tlb items = {0}, groups = {0}, members = {0};
    at.fold = !tc_tv_truth(p[2]);
    if (!parse_path(r, p[0], &at) || !tc_tv_collect(r, v, &items)) return failed();
    shown = at;
    shown.fold = false;
    tc_tv *keys = tc_tr_alloc(r, (items.count + 1) * sizeof *keys), first = failed();
    if (!keys) return failed();
    for (size_t i = 0; i < items.count; i++) {
        keys[i] = follow(r, &at, items.items[i]);
        if (TC_TV_FAILED(keys[i])) return failed();
    }
    if (!tc_tv_sort(r, keys, items.items, items.count, false)) return failed();
    for (size_t i = 0; i < items.count; i++) {
        if (i && !tc_tv_equal(r, keys[i - 1], keys[i]) && !push_group(r, &groups, first, &members))
            return failed();
        if (members.count == 0) first = follow(r, &shown, items.items[i]);
        if (TC_TV_FAILED(first) || !tc_tlb_push(r, &members, items.items[i])) return failed();
    }
    if (members.count && !push_group(r, &groups, first, &members)) return failed();
    return r->failed ? failed() : tc_tlb_take(r, &groups, TC_TV_LIST);
}

static tc_tv extreme(tc_tr *r, tc_tv v, tc_tv *p, int sign)
{
    path at = {.otherwise = TC_TV_OF(TC_TV_MISSING), .fold = !tc_tv_truth(p[0])};
    tc_titer it;
    tc_tv item, best = failed(), best_key = failed();
    bool any = false;
    int order;
    if (!parse_path(r, p[1], &at) || !tc_titer_begin(r, v, &it)) return failed();
    while (tc_titer_next(r, &it, &item)) {
        tc_tv key = follow(r, &at, item);
        if (TC_TV_FAILED(key)) return failed();
        if (any && !tc_tv_compare(r, key, best_key, sign > 0 ? ">" : "<", &order)) return failed();
        if (!any || (order == sign && order != TC_UNORDERED)) best = item, best_key = key;
        any = true;
    }
    if (r->failed) return failed();
    return any ? best : tc_tv_undefined_hint(r, "No aggregated item, sequence was empty.");
}

tc_tv tc_filter_max(tc_tr *r, tc_tv v, tc_tv *p)
{
    return extreme(r, v, p, 1);
}

tc_tv tc_filter_min(tc_tr *r, tc_tv v, tc_tv *p)
{
    return extreme(r, v, p, -1);
}

tc_tv tc_filter_unique(tc_tr *r, tc_tv v, tc_tv *p)
{
    path at = {.otherwise = TC_TV_OF(TC_TV_MISSING), .fold = !tc_tv_truth(p[0])};
    tc_tlb b = {0};
    tc_titer it;
    tc_tv item;
    tc_td *seen = tc_td_new(r, 8);
    if (!seen || !parse_path(r, p[1], &at) || !tc_titer_begin(r, v, &it))
        return tc_tlb_failed_generator(r, &b);
    while (tc_titer_next(r, &it, &item)) {
        tc_tv key = follow(r, &at, item);
        if (TC_TV_FAILED(key)) return tc_tlb_failed_generator(r, &b);
        uint32_t before = seen->count;
        if (!tc_td_set(r, seen, key, tc_tv_bool(true))) return tc_tlb_failed_generator(r, &b);
        if (seen->count > before && !tc_tlb_push(r, &b, item)) return tc_tlb_failed_generator(r, &b);
    }
    return r->failed ? tc_tlb_failed_generator(r, &b) : tc_tlb_generator(r, &b, "generator");
}

tc_tv tc_filter_sum(tc_tr *r, tc_tv v, tc_tv *p)
{
    path at = {.otherwise = TC_TV_OF(TC_TV_MISSING)};
    tc_tv sum = p[1].kind == TC_TV_MISSING ? tc_tv_int(0) : p[1], item;
    tc_titer it;
    if (sum.kind == TC_TV_STR)
        return tc_tr_fail(r, "TypeError", "sum() can't sum strings [use ''.join(seq) instead]");
    if (!parse_path(r, p[0], &at) || !tc_titer_begin(r, v, &it)) return failed();
    while (tc_titer_next(r, &it, &item)) {
        item = follow(r, &at, item);
        if (TC_TV_FAILED(item)) return failed();
        sum = tc_tv_binary(r, '+', sum, item);
        if (TC_TV_FAILED(sum)) return failed();
    }
    return r->failed ? failed() : sum;
}

// ---- rows and columns
// --------------------------------------------------------------------------------------

static bool push_list(tc_tr *r, tc_tlb *rows, tc_tlb *row)
{
    tc_tv list = tc_tlb_take(r, row, TC_TV_LIST);
    return !TC_TV_FAILED(list) && tc_tlb_push(r, rows, list);
}

tc_tv tc_filter_batch(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t size;
    tc_tlb rows = {0}, row = {0};
    tc_titer it;
    tc_tv item;
    if (!tc_tv_index(r, p[0], &size) || !tc_titer_begin(r, v, &it)) return tc_tlb_failed_generator(r, &rows);
    while (tc_titer_next(r, &it, &item)) {
        if ((int64_t)row.count == size && !push_list(r, &rows, &row))
            return tc_tlb_failed_generator(r, &rows);
        if (!tc_tlb_push(r, &row, item)) return tc_tlb_failed_generator(r, &rows);
    }
    if (r->failed) return tc_tlb_failed_generator(r, &rows);
    while (row.count && given(p[1]) && (int64_t)row.count < size)
        if (!tc_tlb_push(r, &row, p[1])) return tc_tlb_failed_generator(r, &rows);
    if (row.count && !push_list(r, &rows, &row)) return tc_tlb_failed_generator(r, &rows);
    return tc_tlb_generator(r, &rows, "generator");
}

tc_tv tc_filter_slice(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t slices;
    tc_tlb items = {0}, columns = {0};
    if (!tc_tv_index(r, p[0], &slices) || !tc_tv_collect(r, v, &items))
        return tc_tlb_failed_generator(r, &columns);
    if (slices == 0) {
        tc_tr_fail(r, "ZeroDivisionError", "integer division or modulo by zero");
        return tc_tlb_failed_generator(r, &columns);
    }
    size_t at = 0, extra = slices > 0 ? items.count % (size_t)slices : 0;
    for (int64_t i = 0; i < slices; i++) {
        tc_tlb column = {0};
        size_t size = items.count / (size_t)slices + ((size_t)i < extra);
        for (size_t k = 0; k < size; k++)
            if (!tc_tlb_push(r, &column, items.items[at++])) return tc_tlb_failed_generator(r, &columns);
        if (given(p[1]) && (size_t)i >= extra && !tc_tlb_push(r, &column, p[1]))
            return tc_tlb_failed_generator(r, &columns);
        if (!push_list(r, &columns, &column)) return tc_tlb_failed_generator(r, &columns);
    }
    return tc_tlb_generator(r, &columns, "generator");
}
