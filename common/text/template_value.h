// SPDX-License-Identifier: Apache-2.0
// Owns: the values a template computes with, as Python has them, and the memory of one rendering: everything
// comes from one bounded arena that dies with the rendering. A string knows which of its bytes are data.
// Refuses: to change a list, dict or string once it is made (namespaces excepted): the sandbox is immutable.
#pragma once

#include "common/base/status.h"
#include "common/text/template.h"
#include <stdint.h>
#include <string.h>

// ---- memory
// ------------------------------------------------------------------------------------------------

typedef struct tc_arena {
    struct tc_arena_block *blocks;
    uint8_t *at, *end;
    size_t used_bytes, limit_bytes;
    bool over_limit; // the last failure was the limit, not the system
} tc_arena;

enum { TC_ARENA_ALIGN = 16, TC_ARENA_SPARE_BYTES_MAX = 1 << 20 };

void *tc_arena_more(tc_arena *arena, size_t bytes); // tc_arena_alloc where the block has no room
void tc_arena_free(tc_arena *arena);

// Aligned to TC_ARENA_ALIGN, not cleared; NULL on failure.
static inline void *tc_arena_alloc(tc_arena *a, size_t bytes)
{
    size_t room = (size_t)(a->end - a->at),
           need = (bytes + TC_ARENA_ALIGN - 1) & ~(size_t)(TC_ARENA_ALIGN - 1);
    if (bytes > room || need > room) return tc_arena_more(a, bytes);
    void *p = a->at;
    a->at += need;
    return p;
}

// A block that one arena leaves for the next, so that its pages need not be taken anew each time. May be
// shared by threads: who finds it takes it.
typedef struct tc_arena_spare {
    struct tc_arena_block *_Atomic block;
} tc_arena_spare;

void tc_arena_begin(tc_arena *arena, size_t limit_bytes, tc_arena_spare *spare);
void tc_arena_end(tc_arena *arena, tc_arena_spare *spare); // frees it, but for one block
void tc_arena_spare_free(tc_arena_spare *spare);

// ---- values
// ------------------------------------------------------------------------------------------------

typedef enum tc_tv_kind {
    TC_TV_ERROR,   // an error is recorded in the rendering
    TC_TV_MISSING, // no value at all: an unset variable, an argument not given
    TC_TV_UNDEFINED,
    TC_TV_NONE,
    TC_TV_BOOL,
    TC_TV_INT,
    TC_TV_FLOAT,
    TC_TV_BIG, // an integer beyond 64 bits from the variables: its digits, which can be printed
    TC_TV_STR,
    TC_TV_LIST,
    TC_TV_TUPLE,
    TC_TV_DICT,
    TC_TV_RANGE,
    TC_TV_VIEW,      // dict.keys(), .values(), .items()
    TC_TV_GENERATOR, // can be walked once
    TC_TV_NAMESPACE,
    TC_TV_MACRO,
    TC_TV_FUNCTION, // a global one
    TC_TV_METHOD,   // bound to its object
    TC_TV_LOOP,
    TC_TV_CYCLER,
    TC_TV_JOINER,
} tc_tv_kind;

typedef struct tc_tv {
    uint8_t kind;
    uint8_t sub; // VIEW: 'k', 'v', 'i'; FUNCTION: which
    union {
        bool b;
        int64_t i;
        double f;
        const struct tc_ts *s;     // STR, BIG
        const struct tc_tl *l;     // LIST, TUPLE
        struct tc_td *d;           // DICT, VIEW, NAMESPACE
        const struct tc_tundef *u; // UNDEFINED
        const struct tc_trange *range;
        struct tc_tgen *gen;
        struct tc_tmacro *macro;
        const struct tc_tmethod *method;
        struct tc_tloop *loop;
        struct tc_tcycle *cycle; // CYCLER, JOINER
    };
} tc_tv;

typedef enum tc_origin { TC_ORIGIN_TEMPLATE, TC_ORIGIN_DATA, TC_ORIGIN_MIXED } tc_origin;

#define TC_CHARS_UNKNOWN UINT32_MAX

typedef struct tc_ts {
    const uint8_t *data;  // well-formed UTF-8
    const uint8_t *marks; // MIXED: for each byte, whether it is data
    uint32_t bytes, chars, hash;
    uint8_t origin;
    bool markup;           // Markup: escapes what it is added to
    struct tc_tgrow *grow; // room behind `data` that a concatenation may use
} tc_ts;

typedef struct tc_tgrow {
    uint8_t *data, *marks; // marks: NULL while all bytes have one origin
    uint32_t used, capacity;
} tc_tgrow;

typedef struct tc_tl {
    tc_tv *items;
    size_t count;
    bool group; // a tuple of `groupby`: also has .grouper and .list
} tc_tl;

typedef struct tc_tentry {
    tc_tv key, value;
    uint32_t hash;
} tc_tentry;

typedef struct tc_td {
    tc_tentry *entries; // in order of insertion
    uint32_t *index;    // NULL while small; entry number + 1
    uint32_t count, capacity, index_mask;
} tc_td;

typedef struct tc_tundef {
    const char *hint;  // the whole message, or NULL
    const char *error; // kind that using it raises
    tc_tv object, name;
} tc_tundef;

typedef struct tc_trange {
    int64_t start, stop, step;
    size_t count;
} tc_trange;

// Its i-th number. Unsigned on the way: only the result has to fit.
static inline int64_t tc_trange_at(const tc_trange *range, uint64_t i)
{
    return (int64_t)((uint64_t)range->start + i * (uint64_t)range->step);
}

typedef struct tc_tgen {
    const tc_tl *list;
    size_t at;
    const char *type;
    const char *error, *message; // raised behind the last item: Python would have met it there
} tc_tgen;

typedef struct tc_tmethod {
    tc_tv object;
    int method; // template_method.h
} tc_tmethod;

typedef struct tc_tcycle {
    const tc_tl *items;
    size_t at;
    tc_tv text; // JOINER's separator
} tc_tcycle;

// ---- one rendering
// -----------------------------------------------------------------------------------------

enum { TC_WORK_BYTES = 64 }; // bytes copied for one unit of work

// A text under construction. Lives in the arena; grows by doubling.
typedef struct tc_tsb {
    uint8_t *data, *marks;
    size_t bytes, capacity;
    uint8_t origin;
    bool limited; // the output: its capacity is bounded
} tc_tsb;

typedef struct tc_tr {
    tc_arena arena;
    const tc_template *t;
    const struct tm *now;
    uint64_t steps_left;
    size_t output_bytes_max;
    uint32_t depth, call_depth;
    tc_td *globals; // the context's variables
    tc_tsb *out;
    char kind[TC_TEMPLATE_KIND_BYTES];
    char *message;
    size_t message_bytes;
    tc_status status;
    bool failed;
    const uint8_t *ascii_text; // 128 one-character strings
    tc_ts ascii[128];
} tc_tr;

// Records an error (the first one stays) and returns TC_TV_ERROR.
tc_tv tc_tr_fail(tc_tr *r, const char *kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
tc_tv tc_tr_fail_text(tc_tr *r, const char *kind, const char *message, size_t bytes);
tc_tv tc_tr_nomem(tc_tr *r);
tc_tv tc_tr_limit(tc_tr *r, const char *what);
bool tc_tr_no_steps(tc_tr *r); // records that the limit is reached

static inline void *tc_tr_alloc(tc_tr *r, size_t bytes) // NULL with the error recorded
{
    void *p = tc_arena_alloc(&r->arena, bytes);
    if (__builtin_expect(!p, 0)) tc_tr_nomem(r);
    return p;
}

// Counts work; false when the limit is reached (recorded).
static inline bool tc_tr_work(tc_tr *r, size_t units)
{
    if (__builtin_expect(units > r->steps_left, 0)) return tc_tr_no_steps(r);
    r->steps_left -= units;
    return !r->failed;
}

#define TC_TV_OF(k) ((tc_tv){.kind = (k)})
#define TC_TV_FAILED(v) ((v).kind == TC_TV_ERROR)

static inline tc_tv tc_tv_bool(bool b)
{
    return (tc_tv){.kind = TC_TV_BOOL, .b = b};
}
static inline tc_tv tc_tv_int(int64_t i)
{
    return (tc_tv){.kind = TC_TV_INT, .i = i};
}
static inline tc_tv tc_tv_float(double f)
{
    return (tc_tv){.kind = TC_TV_FLOAT, .f = f};
}
static inline tc_tv tc_tv_of_str(const tc_ts *s)
{
    return (tc_tv){.kind = TC_TV_STR, .s = s};
}

// ---- strings
// -----------------------------------------------------------------------------------------------

tc_tv tc_tv_str(tc_tr *r, const void *data, size_t bytes, tc_origin origin); // copies
tc_tv tc_tv_text(tc_tr *r, const char *text);                                // template text, NUL-terminated
// The bytes [from, to) of a string (whole characters); shares its memory.
tc_tv tc_tv_substr(tc_tr *r, const tc_ts *s, size_t from, size_t to);
tc_tv tc_tv_as_markup(tc_tr *r, tc_tv s, bool markup);
tc_tv tc_tv_concat(tc_tr *r, const tc_ts *a, const tc_ts *b);
size_t tc_ts_chars(const tc_ts *s);
// Byte offset of character `index` (0..chars).
size_t tc_ts_offset(const tc_ts *s, size_t index);
static inline bool tc_ts_equal(const tc_ts *a, const tc_ts *b)
{
    return a == b || (a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
}
static inline bool tc_ts_is(const tc_ts *s, const char *text)
{
    size_t bytes = strlen(text);
    return s->bytes == bytes && memcmp(s->data, text, bytes) == 0;
}
uint32_t tc_ts_hash(const uint8_t *data, size_t bytes);
// First place of `what` at or after `from`, -1 when there is none.
int64_t tc_ts_find(const tc_ts *s, size_t from, size_t to, const tc_ts *what);

bool tc_tsb_reserve(tc_tr *r, tc_tsb *b, size_t more);
bool tc_tsb_put_slow(tc_tr *r, tc_tsb *b, const void *data, size_t bytes, tc_origin origin);

// Appends bytes of one origin (not MIXED).
static inline bool tc_tsb_put(tc_tr *r, tc_tsb *b, const void *data, size_t bytes, tc_origin origin)
{
    if (bytes == 0 || bytes > b->capacity - b->bytes ||
        (b->origin != origin && b->origin != TC_ORIGIN_MIXED) || !tc_tr_work(r, bytes / TC_WORK_BYTES))
        return tc_tsb_put_slow(r, b, data, bytes, origin);
    memcpy(b->data + b->bytes, data, bytes);
    if (b->origin == TC_ORIGIN_MIXED) memset(b->marks + b->bytes, origin == TC_ORIGIN_DATA, bytes);
    b->bytes += bytes;
    return true;
}
// Room for `bytes` and their marks behind b->bytes; the caller fills both in.
bool tc_tsb_mixed_room(tc_tr *r, tc_tsb *b, size_t bytes);
bool tc_tsb_str(tc_tr *r, tc_tsb *b, const tc_ts *s);
bool tc_tsb_substr(tc_tr *r, tc_tsb *b, const tc_ts *s, size_t from, size_t to);
static inline bool tc_tsb_text(tc_tr *r, tc_tsb *b, const char *text) // template text
{
    return tc_tsb_put(r, b, text, strlen(text), TC_ORIGIN_TEMPLATE);
}
bool tc_tsb_format(tc_tr *r, tc_tsb *b, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool tc_tsb_char(tc_tr *r, tc_tsb *b, uint32_t c, tc_origin origin);
tc_tv tc_tsb_take(tc_tr *r, tc_tsb *b); // the string; `b` is empty afterwards

// ---- lists and dicts
// ---------------------------------------------------------------------------------------

// A list while it is built.
typedef struct tc_tlb {
    tc_tv *items;
    size_t count, capacity;
} tc_tlb;

bool tc_tlb_push(tc_tr *r, tc_tlb *b, tc_tv v);
tc_tv tc_tlb_take(tc_tr *r, tc_tlb *b, tc_tv_kind kind); // LIST or TUPLE
tc_tv tc_tlb_generator(tc_tr *r, tc_tlb *b, const char *type);
// The same after an error: a generator that raises it when its items are used up. Limits stay errors.
tc_tv tc_tlb_failed_generator(tc_tr *r, tc_tlb *b);
tc_tv tc_tv_pair(tc_tr *r, tc_tv a, tc_tv b); // a tuple

tc_td *tc_td_new(tc_tr *r, size_t capacity);
// False when the key cannot be hashed, or out of memory (recorded).
bool tc_td_set(tc_tr *r, tc_td *d, tc_tv key, tc_tv value);
const tc_tv *tc_td_get(const tc_td *d, tc_tv key); // NULL: absent (or not hashable)
const tc_tv *tc_td_get_str(const tc_td *d, const tc_ts *key);
bool tc_tv_hash(tc_tv v, uint32_t *ret); // false: unhashable

// ---- what Python's operators do
// ----------------------------------------------------------------------------

bool tc_tv_truth(tc_tv v);
bool tc_tv_equal(tc_tr *r, tc_tv a, tc_tv b);
// -1, 0, 1 in *ret; false when the two have no order (recorded).
bool tc_tv_compare(tc_tr *r, tc_tv a, tc_tv b, const char *op, int *ret);
tc_tv tc_tv_contains(tc_tr *r, tc_tv container, tc_tv item); // BOOL or ERROR
tc_tv tc_tv_length(tc_tr *r, tc_tv v);                       // INT or ERROR
tc_tv tc_tv_binary(tc_tr *r, char op, tc_tv a, tc_tv b);     // + - * / f(loordiv) % p(ow)
tc_tv tc_tv_negate(tc_tr *r, tc_tv v, bool negative);
tc_tv tc_tv_getitem(tc_tr *r, tc_tv object, tc_tv key);
tc_tv tc_tv_getattr(tc_tr *r, tc_tv object, const tc_ts *name, int method);
tc_tv tc_tv_slice(tc_tr *r, tc_tv object, tc_tv start, tc_tv stop, tc_tv step);
const char *tc_tv_type(tc_tv v); // Python's name of the type
bool tc_tv_is_number(tc_tv v);   // int, float or bool
double tc_tv_number(tc_tv v);
// An integer (or bool) argument; false with a TypeError recorded.
bool tc_tv_index(tc_tr *r, tc_tv v, int64_t *ret);

tc_tv tc_tv_undefined_name(tc_tr *r, const tc_ts *name);
tc_tv tc_tv_undefined_hint(tc_tr *r, const char *hint);
tc_tv tc_tv_undefined_of(tc_tr *r, tc_tv object, tc_tv name);
tc_tv tc_tv_unsafe(tc_tr *r, tc_tv object, const tc_ts *name);
tc_tv tc_tv_undefined_error(tc_tr *r, tc_tv undefined); // raises its error

// ---- walking
// -----------------------------------------------------------------------------------------------

typedef struct tc_titer {
    tc_tv of;
    size_t at;
} tc_titer;

bool tc_titer_begin(tc_tr *r, tc_tv v, tc_titer *ret);  // false: not iterable (recorded)
bool tc_titer_next(tc_tr *r, tc_titer *it, tc_tv *ret); // false at the end, or on an error (r->failed)
bool tc_tv_iterable(tc_tv v);
// All items; false on an error.
bool tc_tv_collect(tc_tr *r, tc_tv v, tc_tlb *ret);

// ---- printing
// ----------------------------------------------------------------------------------------------

bool tc_tv_print(tc_tr *r, tc_tsb *b, tc_tv v); // str()
bool tc_tv_repr(tc_tr *r, tc_tsb *b, tc_tv v);
tc_tv tc_tv_to_str(tc_tr *r, tc_tv v); // STR or ERROR; a string stays as it is
enum { TC_FLOAT_TEXT = 40 };
void tc_float_repr(double f, char ret[TC_FLOAT_TEXT]);
bool tc_str_repr(tc_tr *r, tc_tsb *b, const tc_ts *s);

typedef struct tc_tjson {
    bool ascii, sort_keys, lines;
    tc_tv indent; // STR
    const tc_ts *item, *key;
} tc_tjson;
bool tc_tv_json(tc_tr *r, tc_tsb *b, tc_tv v, const tc_tjson *how, uint32_t depth);

// Sorts in place, stable. False on an error.
bool tc_tv_sort(tc_tr *r, tc_tv *keys, tc_tv *items, size_t count, bool reverse);
tc_tv tc_tv_escape(tc_tr *r, tc_tv v); // HTML; the result is Markup

// Code points of Python's str methods.
bool tc_py_space(uint32_t c);
bool tc_py_printable(uint32_t c);
