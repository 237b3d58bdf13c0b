// SPDX-License-Identifier: Apache-2.0
// Owns: which methods exist on which type, and those of lists, tuples and dicts (the ones that change
// nothing).
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <string.h>

static const struct {
    const char *name, *types;
} methods[] = {
#define X(name, types) {#name, types},
    TC_METHOD_MAP(X)
#undef X
};

int tc_method_of_name(const uint8_t *name, size_t bytes)
{
    for (int i = 0; i < TC_METHODS; i++)
        if (strlen(methods[i].name) == bytes && !memcmp(methods[i].name, name, bytes)) return i;
    return TC_METHOD_NONE;
}

tc_method_access tc_method_find(tc_tv object, int method)
{
    char type = object.kind == TC_TV_STR      ? 's'
                : object.kind == TC_TV_LIST   ? 'l'
                : object.kind == TC_TV_TUPLE  ? 't'
                : object.kind == TC_TV_DICT   ? 'd'
                : object.kind == TC_TV_CYCLER ? 'g'
                                              : 0;
    if (method == TC_METHOD_NONE || !type) return TC_METHOD_NO;
    if (strchr(methods[method].types, type)) return TC_METHOD_YES;
    return strchr(methods[method].types, type - 32) ? TC_METHOD_UNSAFE : TC_METHOD_NO;
}

static tc_tv view(tc_tr *r, tc_td *d, tc_targs *args, uint8_t which)
{
    if (!tc_args_bind(r, "dict method", args, "", NULL)) return TC_TV_OF(TC_TV_ERROR);
    return (tc_tv){.kind = TC_TV_VIEW, .sub = which, .d = d};
}

static tc_tv dict_get(tc_tr *r, tc_td *d, tc_targs *args)
{
    tc_tv p[2];
    uint32_t hash;
    if (args->named) return tc_tr_fail(r, "TypeError", "dict.get() takes no keyword arguments");
    if (!tc_args_bind(r, "get", args, "key,default=,", p)) return TC_TV_OF(TC_TV_ERROR);
    if (!tc_tv_hash(p[0], &hash))
        return tc_tr_fail(r, "TypeError", "unhashable type: '%s'", tc_tv_type(p[0]));
    const tc_tv *v = tc_td_get(d, p[0]);
    return v ? *v : p[1].kind == TC_TV_MISSING ? TC_TV_OF(TC_TV_NONE) : p[1];
}

static tc_tv dict_fromkeys(tc_tr *r, tc_targs *args)
{
    tc_tv p[2];
    tc_tlb keys = {0};
    if (!tc_args_bind(r, "fromkeys", args, "iterable,value=,", p) || !tc_tv_collect(r, p[0], &keys))
        return TC_TV_OF(TC_TV_ERROR);
    tc_td *d = tc_td_new(r, keys.count);
    if (p[1].kind == TC_TV_MISSING) p[1] = TC_TV_OF(TC_TV_NONE);
    for (size_t i = 0; d && i < keys.count; i++)
        if (!tc_td_set(r, d, keys.items[i], p[1])) return TC_TV_OF(TC_TV_ERROR);
    return d ? (tc_tv){.kind = TC_TV_DICT, .d = d} : TC_TV_OF(TC_TV_ERROR);
}

static tc_tv list_count(tc_tr *r, const tc_tl *l, tc_targs *args)
{
    tc_tv item;
    int64_t n = 0;
    if (!tc_args_bind(r, "count", args, "value,", &item)) return TC_TV_OF(TC_TV_ERROR);
    for (size_t i = 0; i < l->count; i++) n += tc_tv_equal(r, l->items[i], item);
    return r->failed ? TC_TV_OF(TC_TV_ERROR) : tc_tv_int(n);
}

static tc_tv list_index(tc_tr *r, const tc_tl *l, tc_targs *args)
{
    tc_tv p[3];
    int64_t from = 0, to = (int64_t)l->count;
    if (!tc_args_bind(r, "index", args, "value,start=,stop=,", p)) return TC_TV_OF(TC_TV_ERROR);
    if (p[1].kind != TC_TV_MISSING && !tc_tv_index(r, p[1], &from)) return TC_TV_OF(TC_TV_ERROR);
    if (p[2].kind != TC_TV_MISSING && !tc_tv_index(r, p[2], &to)) return TC_TV_OF(TC_TV_ERROR);
    if (from < 0) from = from + (int64_t)l->count < 0 ? 0 : from + (int64_t)l->count;
    if (to < 0) to += (int64_t)l->count;
    for (int64_t i = from; i < to && i < (int64_t)l->count; i++)
        if (tc_tv_equal(r, l->items[i], p[0])) return tc_tv_int(i);
    return tc_tr_fail(r, "ValueError", "the value is not in the list");
}

static tc_tv list_method(tc_tr *r, tc_tv object, int method, tc_targs *args)
{
    if (method == TC_METHOD_count) return list_count(r, object.l, args);
    if (method == TC_METHOD_index) return list_index(r, object.l, args);
    return tc_args_bind(r, "copy", args, "", NULL) ? object : TC_TV_OF(TC_TV_ERROR); // nobody can tell
}

static tc_tv dict_method(tc_tr *r, tc_tv object, int method, tc_targs *args)
{
    switch (method) {
    case TC_METHOD_get:
        return dict_get(r, object.d, args);
    case TC_METHOD_items:
        return view(r, object.d, args, 'i');
    case TC_METHOD_keys:
        return view(r, object.d, args, 'k');
    case TC_METHOD_values:
        return view(r, object.d, args, 'v');
    case TC_METHOD_fromkeys:
        return dict_fromkeys(r, args);
    default:
        return tc_args_bind(r, "copy", args, "", NULL) ? object : TC_TV_OF(TC_TV_ERROR);
    }
}

static tc_tv cycler_method(tc_tr *r, tc_tcycle *c, int method, tc_targs *args)
{
    if (!tc_args_bind(r, "cycler", args, "", NULL)) return TC_TV_OF(TC_TV_ERROR);
    tc_tv v = c->items->items[c->at];
    if (method == TC_METHOD_reset) {
        c->at = 0;
        return TC_TV_OF(TC_TV_NONE);
    }
    c->at = (c->at + 1) % c->items->count;
    return v;
}

tc_tv tc_method_call(tc_tr *r, const tc_tmethod *m, tc_targs *args)
{
    switch (m->object.kind) {
    case TC_TV_STR:
        return tc_str_method(r, m->object.s, m->method, args);
    case TC_TV_LIST:
    case TC_TV_TUPLE:
        return list_method(r, m->object, m->method, args);
    case TC_TV_DICT:
        return dict_method(r, m->object, m->method, args);
    case TC_TV_CYCLER:
        return cycler_method(r, m->object.cycle, m->method, args);
    default:
        return tc_loop_method(r, m->object.loop, m->method, args);
    }
}
