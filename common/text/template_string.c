// SPDX-License-Identifier: Apache-2.0
// Owns: strings of templates: where their bytes come from, code points against bytes, concatenation that
// does not copy its left side again and again, and texts under construction.
#include "common/text/template_value.h"
#include "common/text/utf8.h"
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SB_MIN = 64, OUTPUT_MIN = 4096 };

uint32_t tc_ts_hash(const uint8_t *data, size_t bytes)
{
    uint32_t h = (uint32_t)XXH3_64bits(data, bytes);
    return h ? h : 1;
}

static tc_ts *new_string(tc_tr *r, const uint8_t *data, size_t bytes, uint8_t origin)
{
    tc_ts *s = tc_tr_alloc(r, sizeof *s);
    if (!s) return NULL;
    if (bytes > UINT32_MAX / 2) {
        tc_tr_limit(r, "memory");
        return NULL;
    }
    *s = (tc_ts){.data = data, .bytes = (uint32_t)bytes, .chars = TC_CHARS_UNKNOWN, .origin = origin};
    return s;
}

tc_tv tc_tv_str(tc_tr *r, const void *data, size_t bytes, tc_origin origin)
{
    uint8_t *copy = tc_tr_alloc(r, bytes ? bytes : 1);
    if (!copy || !tc_tr_work(r, bytes / TC_WORK_BYTES)) return TC_TV_OF(TC_TV_ERROR);
    if (bytes) memcpy(copy, data, bytes);
    tc_ts *s = new_string(r, copy, bytes, (uint8_t)origin);
    return s ? tc_tv_of_str(s) : TC_TV_OF(TC_TV_ERROR);
}

tc_tv tc_tv_text(tc_tr *r, const char *text)
{
    return tc_tv_str(r, text, strlen(text), TC_ORIGIN_TEMPLATE);
}

// The one origin of bytes [from, to), or MIXED.
static uint8_t part_origin(const tc_ts *s, size_t from, size_t to)
{
    if (s->origin != TC_ORIGIN_MIXED) return s->origin;
    if (from == to) return TC_ORIGIN_TEMPLATE;
    bool data = s->marks[from];
    return memchr(s->marks + from, !data, to - from) ? TC_ORIGIN_MIXED
           : data                                    ? TC_ORIGIN_DATA
                                                     : TC_ORIGIN_TEMPLATE;
}

tc_tv tc_tv_substr(tc_tr *r, const tc_ts *s, size_t from, size_t to)
{
    if (from == 0 && to == s->bytes) return tc_tv_of_str(s);
    if (to - from == 1 && s->origin == TC_ORIGIN_TEMPLATE && !s->markup && s->data[from] < 0x80)
        return tc_tv_of_str(&r->ascii[s->data[from]]);
    tc_ts *part = new_string(r, s->data + from, to - from, part_origin(s, from, to));
    if (!part) return TC_TV_OF(TC_TV_ERROR);
    if (part->origin == TC_ORIGIN_MIXED) part->marks = s->marks + from;
    if (s->chars == s->bytes) part->chars = part->bytes;
    part->markup = s->markup;
    return tc_tv_of_str(part);
}

tc_tv tc_tv_as_markup(tc_tr *r, tc_tv v, bool markup)
{
    if (v.kind != TC_TV_STR || v.s->markup == markup) return v;
    tc_ts *copy = tc_tr_alloc(r, sizeof *copy);
    if (!copy) return TC_TV_OF(TC_TV_ERROR);
    *copy = *v.s;
    copy->markup = markup;
    copy->grow = NULL;
    return tc_tv_of_str(copy);
}

static void set_marks(uint8_t *marks, const tc_ts *s)
{
    if (s->origin == TC_ORIGIN_MIXED)
        memcpy(marks, s->marks, s->bytes);
    else
        memset(marks, s->origin == TC_ORIGIN_DATA, s->bytes);
}

// Room for a + b, with as much again behind it when `a` already was a concatenation.
static tc_tgrow *new_room(tc_tr *r, const tc_ts *a, size_t bytes, bool mixed)
{
    size_t capacity = a->grow ? bytes * 2 : bytes;
    tc_tgrow *g = tc_tr_alloc(r, sizeof *g);
    if (!g || !tc_tr_work(r, bytes / TC_WORK_BYTES)) return NULL;
    if (capacity > UINT32_MAX / 2) {
        tc_tr_limit(r, "memory");
        return NULL;
    }
    *g = (tc_tgrow){.used = a->bytes, .capacity = (uint32_t)capacity};
    g->data = tc_tr_alloc(r, capacity);
    g->marks = mixed ? tc_tr_alloc(r, capacity) : NULL;
    if (!g->data || (mixed && !g->marks)) return NULL;
    memcpy(g->data, a->data, a->bytes);
    if (mixed) set_marks(g->marks, a);
    return g;
}

tc_tv tc_tv_concat(tc_tr *r, const tc_ts *a, const tc_ts *b)
{
    if (a->bytes == 0) return tc_tv_of_str(b);
    if (b->bytes == 0) return tc_tv_of_str(a);
    bool mixed = a->origin != b->origin || a->origin == TC_ORIGIN_MIXED;
    size_t bytes = (size_t)a->bytes + b->bytes;
    tc_tgrow *g = a->grow;
    if (!g || a->data + a->bytes != g->data + g->used || g->capacity - g->used < b->bytes ||
        mixed != (g->marks != NULL)) {
        g = new_room(r, a, bytes, mixed);
        if (!g) return TC_TV_OF(TC_TV_ERROR);
    }
    memcpy(g->data + g->used, b->data, b->bytes);
    if (mixed) set_marks(g->marks + g->used, b);
    g->used += b->bytes;
    tc_ts *s = new_string(r, g->data + (g->used - bytes), bytes, mixed ? TC_ORIGIN_MIXED : a->origin);
    if (!s) return TC_TV_OF(TC_TV_ERROR);
    s->marks = mixed ? g->marks + (g->used - bytes) : NULL;
    s->grow = g;
    if (a->chars != TC_CHARS_UNKNOWN && b->chars != TC_CHARS_UNKNOWN) s->chars = a->chars + b->chars;
    return tc_tv_of_str(s);
}

size_t tc_ts_chars(const tc_ts *s)
{
    if (s->chars != TC_CHARS_UNKNOWN) return s->chars;
    size_t count = 0;
    for (size_t i = 0; i < s->bytes; i++) count += (s->data[i] & 0xc0) != 0x80;
    ((tc_ts *)s)->chars = (uint32_t)count; // only strings of one rendering are ever unknown
    return count;
}

size_t tc_ts_offset(const tc_ts *s, size_t index)
{
    if (tc_ts_chars(s) == s->bytes) return index;
    size_t at = 0;
    while (index > 0 && at < s->bytes) {
        size_t step;
        tc_utf8_get(s->data + at, &step);
        at += step;
        index--;
    }
    return at;
}

int64_t tc_ts_find(const tc_ts *s, size_t from, size_t to, const tc_ts *what)
{
    if (from > to || to - from < what->bytes) return -1;
    if (what->bytes == 0) return (int64_t)from;
    const uint8_t *found = memmem(s->data + from, to - from, what->data, what->bytes);
    return found ? found - s->data : -1;
}

// ---- texts under construction
// ------------------------------------------------------------------------------

bool tc_tsb_reserve(tc_tr *r, tc_tsb *b, size_t more)
{
    if (b->limited && more > r->output_bytes_max - b->bytes) {
        tc_tr_limit(r, "output");
        return false;
    }
    if (more <= b->capacity - b->bytes) return true;
    size_t capacity = b->capacity * 2;
    if (capacity < b->bytes + more) capacity = b->bytes + more;
    if (capacity < SB_MIN) capacity = SB_MIN;
    if (b->limited && capacity < OUTPUT_MIN) capacity = OUTPUT_MIN;
    if (b->limited && capacity > r->output_bytes_max) capacity = r->output_bytes_max;
    if (!tc_tr_work(r, b->bytes / TC_WORK_BYTES)) return false;
    uint8_t *data = tc_tr_alloc(r, capacity);
    uint8_t *marks = b->marks ? tc_tr_alloc(r, capacity) : NULL;
    if (!data || (b->marks && !marks)) return false;
    if (b->bytes) memcpy(data, b->data, b->bytes);
    if (marks) memcpy(marks, b->marks, b->bytes);
    b->data = data, b->marks = marks, b->capacity = capacity;
    return true;
}

// Makes room for an origin beside the one there is.
static bool mix(tc_tr *r, tc_tsb *b, uint8_t origin)
{
    if (b->bytes == 0 && origin != TC_ORIGIN_MIXED) {
        b->origin = origin;
        b->marks = NULL;
        return true;
    }
    if (b->origin == origin && origin != TC_ORIGIN_MIXED) return true;
    if (b->origin == TC_ORIGIN_MIXED) return true;
    b->marks = tc_tr_alloc(r, b->capacity);
    if (!b->marks) return false;
    memset(b->marks, b->origin == TC_ORIGIN_DATA, b->bytes);
    b->origin = TC_ORIGIN_MIXED;
    return true;
}

bool tc_tsb_put_slow(tc_tr *r, tc_tsb *b, const void *data, size_t bytes, tc_origin origin)
{
    if (bytes == 0) return true;
    if (!tc_tsb_reserve(r, b, bytes) || !tc_tr_work(r, bytes / TC_WORK_BYTES) || !mix(r, b, (uint8_t)origin))
        return false;
    memcpy(b->data + b->bytes, data, bytes);
    if (b->origin == TC_ORIGIN_MIXED) memset(b->marks + b->bytes, origin == TC_ORIGIN_DATA, bytes);
    b->bytes += bytes;
    return true;
}

bool tc_tsb_mixed_room(tc_tr *r, tc_tsb *b, size_t bytes)
{
    return tc_tsb_reserve(r, b, bytes) && tc_tr_work(r, bytes / TC_WORK_BYTES) && mix(r, b, TC_ORIGIN_MIXED);
}

bool tc_tsb_substr(tc_tr *r, tc_tsb *b, const tc_ts *s, size_t from, size_t to)
{
    if (from >= to) return true;
    if (s->origin != TC_ORIGIN_MIXED) return tc_tsb_put(r, b, s->data + from, to - from, s->origin);
    if (!tc_tsb_mixed_room(r, b, to - from)) return false;
    memcpy(b->data + b->bytes, s->data + from, to - from);
    memcpy(b->marks + b->bytes, s->marks + from, to - from);
    b->bytes += to - from;
    return true;
}

bool tc_tsb_str(tc_tr *r, tc_tsb *b, const tc_ts *s)
{
    return tc_tsb_substr(r, b, s, 0, s->bytes);
}

bool tc_tsb_format(tc_tr *r, tc_tsb *b, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return tc_tsb_text(r, b, text);
}

bool tc_tsb_char(tc_tr *r, tc_tsb *b, uint32_t c, tc_origin origin)
{
    uint8_t text[4];
    size_t n = 0;
    if (c >= 0xd800 && c <= 0xdfff) c = 0xfffd; // a lone surrogate has no UTF-8
    if (c < 0x80) {
        text[n++] = (uint8_t)c;
    } else if (c < 0x800) {
        text[n++] = (uint8_t)(0xc0 | c >> 6);
        text[n++] = (uint8_t)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        text[n++] = (uint8_t)(0xe0 | c >> 12);
        text[n++] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        text[n++] = (uint8_t)(0x80 | (c & 0x3f));
    } else {
        text[n++] = (uint8_t)(0xf0 | c >> 18);
        text[n++] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
        text[n++] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        text[n++] = (uint8_t)(0x80 | (c & 0x3f));
    }
    return tc_tsb_put(r, b, text, n, origin);
}

tc_tv tc_tsb_take(tc_tr *r, tc_tsb *b)
{
    static const uint8_t empty[1];
    tc_ts *s = new_string(r, b->bytes ? b->data : empty, b->bytes, b->bytes ? b->origin : TC_ORIGIN_TEMPLATE);
    if (!s) return TC_TV_OF(TC_TV_ERROR);
    if (s->origin == TC_ORIGIN_MIXED) {
        s->origin = TC_ORIGIN_MIXED;
        s->marks = b->marks;
    }
    *b = (tc_tsb){0};
    return tc_tv_of_str(s);
}
