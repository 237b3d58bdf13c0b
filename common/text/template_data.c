// SPDX-License-Identifier: Apache-2.0
// Owns: lists, dicts (in order of insertion, keys equal as in Python: 1 == 1.0 == True) and walking through
// anything that can be walked.
#include "common/text/template_value.h"
#include "common/text/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_MIN = 8, DICT_MIN = 4, INDEX_FROM = 9, HASH_DEPTH = 16 };

bool tc_tlb_push(tc_tr *r, tc_tlb *b, tc_tv v)
{
    if (b->count == b->capacity) {
        size_t capacity = b->capacity ? b->capacity * 2 : LIST_MIN;
        tc_tv *items = tc_tr_alloc(r, capacity * sizeof *items);
        if (!items) return false;
        if (b->count) memcpy(items, b->items, b->count * sizeof *items);
        b->items = items, b->capacity = capacity;
    }
    if (!tc_tr_work(r, 1)) return false;
    b->items[b->count++] = v;
    return true;
}

static tc_tl *take(tc_tr *r, tc_tlb *b)
{
    tc_tl *l = tc_tr_alloc(r, sizeof *l);
    if (l) *l = (tc_tl){.items = b->items, .count = b->count};
    *b = (tc_tlb){0};
    return l;
}

tc_tv tc_tlb_take(tc_tr *r, tc_tlb *b, tc_tv_kind kind)
{
    const tc_tl *l = take(r, b);
    return l ? (tc_tv){.kind = (uint8_t)kind, .l = l} : TC_TV_OF(TC_TV_ERROR);
}

tc_tv tc_tlb_generator(tc_tr *r, tc_tlb *b, const char *type)
{
    tc_tgen *g = tc_tr_alloc(r, sizeof *g);
    const tc_tl *l = take(r, b);
    if (!g || !l) return TC_TV_OF(TC_TV_ERROR);
    *g = (tc_tgen){.list = l, .type = type};
    return (tc_tv){.kind = TC_TV_GENERATOR, .gen = g};
}

tc_tv tc_tlb_failed_generator(tc_tr *r, tc_tlb *b)
{
    if (r->status != TC_FORMAT || !r->message) return TC_TV_OF(TC_TV_ERROR);
    char *kind = tc_arena_alloc(&r->arena, sizeof r->kind),
         *message = tc_arena_alloc(&r->arena, r->message_bytes + 1);
    if (!kind || !message) return TC_TV_OF(TC_TV_ERROR);
    memcpy(kind, r->kind, sizeof r->kind);
    memcpy(message, r->message, r->message_bytes + 1);
    free(r->message);
    r->message = NULL;
    r->message_bytes = 0;
    r->failed = false;
    r->status = TC_OK;
    r->kind[0] = '\0';
    tc_tv v = tc_tlb_generator(r, b, "generator");
    if (!TC_TV_FAILED(v)) v.gen->error = kind, v.gen->message = message;
    return v;
}

tc_tv tc_tv_pair(tc_tr *r, tc_tv a, tc_tv b)
{
    tc_tl *l = tc_tr_alloc(r, sizeof *l);
    tc_tv *items = tc_tr_alloc(r, 2 * sizeof *items);
    if (!l || !items) return TC_TV_OF(TC_TV_ERROR);
    items[0] = a, items[1] = b;
    *l = (tc_tl){.items = items, .count = 2};
    return (tc_tv){.kind = TC_TV_TUPLE, .l = l};
}

// ---- dicts
// -------------------------------------------------------------------------------------------------

static uint32_t hash_number(double f)
{
    if (f == 0) f = 0; // -0.0 equals 0
    uint64_t bits;
    memcpy(&bits, &f, sizeof bits);
    bits *= 0x9e3779b97f4a7c15u;
    return (uint32_t)(bits >> 32) | 1;
}

static bool hash_deep(tc_tv v, uint32_t *ret, int depth)
{
    switch (v.kind) {
    case TC_TV_STR:
    case TC_TV_BIG:
        *ret = v.s->hash ? v.s->hash : tc_ts_hash(v.s->data, v.s->bytes);
        return true;
    case TC_TV_INT:
        *ret = hash_number((double)v.i);
        return true;
    case TC_TV_BOOL:
        *ret = hash_number(v.b);
        return true;
    case TC_TV_FLOAT:
        *ret = hash_number(v.f);
        return true;
    case TC_TV_TUPLE:
        *ret = 7;
        if (depth == 0) return false;
        for (size_t i = 0; i < v.l->count; i++) {
            uint32_t h;
            if (!hash_deep(v.l->items[i], &h, depth - 1)) return false;
            *ret = *ret * 1000003u + h;
        }
        return true;
    case TC_TV_LIST:
    case TC_TV_DICT:
    case TC_TV_VIEW:
        return false;
    default:
        *ret = v.kind * 2654435761u | 1;
        return true;
    }
}

bool tc_tv_hash(tc_tv v, uint32_t *ret)
{
    return hash_deep(v, ret, HASH_DEPTH);
}

tc_td *tc_td_new(tc_tr *r, size_t capacity)
{
    tc_td *d = tc_tr_alloc(r, sizeof *d);
    if (!d) return NULL;
    *d = (tc_td){.capacity = (uint32_t)(capacity < DICT_MIN ? DICT_MIN : capacity)};
    d->entries = tc_tr_alloc(r, d->capacity * sizeof *d->entries);
    return d->entries ? d : NULL;
}

static bool same_key(const tc_tentry *e, tc_tv key, uint32_t hash)
{
    if (e->hash != hash) return false;
    if (key.kind == TC_TV_STR && e->key.kind == TC_TV_STR) return tc_ts_equal(e->key.s, key.s);
    return tc_tv_equal(NULL, e->key, key);
}

static tc_tentry *find(const tc_td *d, tc_tv key, uint32_t hash)
{
    if (d->index) {
        for (uint32_t at = hash & d->index_mask; d->index[at]; at = (at + 1) & d->index_mask) {
            tc_tentry *e = &d->entries[d->index[at] - 1];
            if (same_key(e, key, hash)) return e;
        }
        return NULL;
    }
    for (uint32_t i = 0; i < d->count; i++)
        if (same_key(&d->entries[i], key, hash)) return &d->entries[i];
    return NULL;
}

static void index_entry(tc_td *d, uint32_t number)
{
    uint32_t at = d->entries[number].hash & d->index_mask;
    while (d->index[at]) at = (at + 1) & d->index_mask;
    d->index[at] = number + 1;
}

static bool grow(tc_tr *r, tc_td *d)
{
    if (d->count == d->capacity) {
        tc_tentry *entries = tc_tr_alloc(r, (size_t)d->capacity * 2 * sizeof *entries);
        if (!entries) return false;
        memcpy(entries, d->entries, d->count * sizeof *entries);
        d->entries = entries;
        d->capacity *= 2;
    }
    if (d->count + 1 < INDEX_FROM || (d->index && d->count < d->index_mask / 2)) return true;
    size_t size = 32;
    while (size < (size_t)d->count * 4) size *= 2;
    uint32_t *index = tc_tr_alloc(r, size * sizeof *index);
    if (!index) return false;
    memset(index, 0, size * sizeof *index);
    d->index = index;
    d->index_mask = (uint32_t)size - 1;
    for (uint32_t i = 0; i < d->count; i++) index_entry(d, i);
    return true;
}

bool tc_td_set(tc_tr *r, tc_td *d, tc_tv key, tc_tv value)
{
    uint32_t hash;
    if (key.kind == TC_TV_STR) {
        hash = key.s->hash ? key.s->hash : tc_ts_hash(key.s->data, key.s->bytes);
    } else if (!tc_tv_hash(key, &hash)) {
        tc_tr_fail(r, "TypeError", "unhashable type: '%s'", tc_tv_type(key));
        return false;
    }
    tc_tentry *e = find(d, key, hash);
    if (e) {
        e->value = value;
        return true;
    }
    if (!tc_tr_work(r, 1) || !grow(r, d)) return false;
    d->entries[d->count] = (tc_tentry){key, value, hash};
    d->count++;
    if (d->index) index_entry(d, d->count - 1);
    return true;
}

const tc_tv *tc_td_get(const tc_td *d, tc_tv key)
{
    uint32_t hash;
    if (!tc_tv_hash(key, &hash)) return NULL;
    tc_tentry *e = find(d, key, hash);
    return e ? &e->value : NULL;
}

const tc_tv *tc_td_get_str(const tc_td *d, const tc_ts *key)
{
    tc_tentry *e = find(d, tc_tv_of_str(key), key->hash ? key->hash : tc_ts_hash(key->data, key->bytes));
    return e ? &e->value : NULL;
}

// ---- walking
// -----------------------------------------------------------------------------------------------

bool tc_tv_iterable(tc_tv v)
{
    switch (v.kind) {
    case TC_TV_UNDEFINED:
    case TC_TV_STR:
    case TC_TV_LIST:
    case TC_TV_TUPLE:
    case TC_TV_DICT:
    case TC_TV_RANGE:
    case TC_TV_VIEW:
    case TC_TV_GENERATOR:
    case TC_TV_LOOP:
        return true;
    default:
        return false;
    }
}

bool tc_titer_begin(tc_tr *r, tc_tv v, tc_titer *ret)
{
    *ret = (tc_titer){.of = v};
    if (tc_tv_iterable(v) && v.kind != TC_TV_LOOP) return true;
    tc_tr_fail(r, "TypeError", "'%s' object is not iterable", tc_tv_type(v));
    return false;
}

static tc_tv view_item(tc_tr *r, tc_tv view, size_t at)
{
    const tc_tentry *e = &view.d->entries[at];
    return view.sub == 'k' ? e->key : view.sub == 'v' ? e->value : tc_tv_pair(r, e->key, e->value);
}

bool tc_titer_next(tc_tr *r, tc_titer *it, tc_tv *ret)
{
    tc_tv of = it->of;
    size_t step;
    if (!tc_tr_work(r, 1)) return false;
    switch (of.kind) {
    case TC_TV_STR:
        if (it->at >= of.s->bytes) return false;
        tc_utf8_get(of.s->data + it->at, &step);
        *ret = tc_tv_as_markup(r, tc_tv_substr(r, of.s, it->at, it->at + step), false);
        it->at += step;
        return !TC_TV_FAILED(*ret);
    case TC_TV_LIST:
    case TC_TV_TUPLE:
        if (it->at >= of.l->count) return false;
        *ret = of.l->items[it->at++];
        return true;
    case TC_TV_DICT:
        if (it->at >= of.d->count) return false;
        *ret = of.d->entries[it->at++].key;
        return true;
    case TC_TV_VIEW:
        if (it->at >= of.d->count) return false;
        *ret = view_item(r, of, it->at++);
        return !TC_TV_FAILED(*ret);
    case TC_TV_RANGE:
        if (it->at >= of.range->count) return false;
        *ret = tc_tv_int(tc_trange_at(of.range, it->at++));
        return true;
    case TC_TV_GENERATOR:
        if (of.gen->at >= of.gen->list->count) {
            if (of.gen->error) tc_tr_fail(r, of.gen->error, "%s", of.gen->message);
            of.gen->error = NULL;
            return false;
        }
        *ret = of.gen->list->items[of.gen->at++];
        return true;
    default:
        return false;
    }
}

bool tc_tv_collect(tc_tr *r, tc_tv v, tc_tlb *ret)
{
    tc_titer it;
    tc_tv item;
    if (!tc_titer_begin(r, v, &it)) return false;
    while (tc_titer_next(r, &it, &item))
        if (!tc_tlb_push(r, ret, item)) return false;
    return !r->failed;
}

// ---- sorting: merges of runs, so equal ones keep their order
// -----------------------------------------------

static bool merge(tc_tr *r, const tc_tv *keys, const size_t *from, size_t *to, size_t low, size_t middle,
                  size_t high, bool reverse)
{
    size_t a = low, b = middle;
    for (size_t at = low; at < high; at++) {
        int order = -1;
        if (a < middle && b < high) {
            // Python asks only "is the later one less?"; reversed, "is the earlier one less?".
            tc_tv x = keys[from[reverse ? a : b]], y = keys[from[reverse ? b : a]];
            if (!tc_tr_work(r, 1) || !tc_tv_compare(r, x, y, "<", &order)) return false;
            order = order < 0 ? 1 : -1;
        } else if (a >= middle) {
            order = 1;
        }
        to[at] = from[order > 0 ? b++ : a++];
    }
    return true;
}

bool tc_tv_sort(tc_tr *r, tc_tv *keys, tc_tv *items, size_t count, bool reverse)
{
    if (count < 2) return true;
    size_t *order = tc_tr_alloc(r, count * sizeof *order), *other = tc_tr_alloc(r, count * sizeof *other);
    tc_tv *sorted = tc_tr_alloc(r, count * sizeof *sorted);
    if (!order || !other || !sorted) return false;
    for (size_t i = 0; i < count; i++) order[i] = i;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            size_t middle = low + width < count ? low + width : count;
            size_t high = low + 2 * width < count ? low + 2 * width : count;
            if (!merge(r, keys, order, other, low, middle, high, reverse)) return false;
        }
        size_t *swap = order;
        order = other, other = swap;
    }
    for (size_t i = 0; i < count; i++) sorted[i] = items[order[i]];
    memcpy(items, sorted, count * sizeof *items);
    if (keys != items) {
        for (size_t i = 0; i < count; i++) sorted[i] = keys[order[i]];
        memcpy(keys, sorted, count * sizeof *keys);
    }
    return true;
}
