// SPDX-License-Identifier: Apache-2.0
// Owns: the methods of Python's own types that templates may call, by name.
#pragma once

#include "common/text/template_value.h"

struct tc_targs;

// Types: s(tr), l(ist), t(uple), d(ict), g(lobal cycler), o (loop). Upper case: would change the object.
// Not formatted: it would become a staircase.
// clang-format off
#define TC_METHOD_MAP(X) \
    X(append, "L") X(clear, "LD") X(copy, "ld") X(count, "slt") X(extend, "L") X(index, "slt") \
    X(insert, "L") X(pop, "LD") X(remove, "L") X(reverse, "L") X(sort, "L") X(fromkeys, "d") X(get, "d") \
    X(items, "d") X(keys, "d") X(popitem, "D") X(setdefault, "D") X(update, "D") X(values, "d") \
    X(capitalize, "s") X(casefold, "s") X(center, "s") X(endswith, "s") X(expandtabs, "s") X(find, "s") \
    X(format, "s") X(format_map, "s") X(isalnum, "s") X(isalpha, "s") X(isascii, "s") X(isdecimal, "s") \
    X(isdigit, "s") X(isidentifier, "s") X(islower, "s") X(isnumeric, "s") X(isprintable, "s") \
    X(isspace, "s") X(istitle, "s") X(isupper, "s") X(join, "s") X(ljust, "s") X(lower, "s") \
    X(lstrip, "s") X(partition, "s") X(removeprefix, "s") X(removesuffix, "s") X(replace, "s") \
    X(rfind, "s") X(rindex, "s") X(rjust, "s") X(rpartition, "s") X(rsplit, "s") X(rstrip, "s") \
    X(split, "s") X(splitlines, "s") X(startswith, "s") X(strip, "s") X(swapcase, "s") X(title, "s") \
    X(upper, "s") X(zfill, "s") X(encode, "s") X(translate, "s") X(maketrans, "s") X(next, "g") \
    X(reset, "g") X(cycle, "o") X(changed, "o")
// clang-format on

enum {
    TC_METHOD_NONE = -1,
#define X(name, types) TC_METHOD_##name,
    TC_METHOD_MAP(X)
#undef X
        TC_METHODS
};

typedef enum tc_method_access { TC_METHOD_NO, TC_METHOD_YES, TC_METHOD_UNSAFE } tc_method_access;

int tc_method_of_name(const uint8_t *name, size_t bytes);
tc_method_access tc_method_find(tc_tv object, int method);
tc_tv tc_method_call(tc_tr *r, const tc_tmethod *m, struct tc_targs *args);
tc_tv tc_str_method(tc_tr *r, const tc_ts *s, int method, struct tc_targs *args); // template_str.c

// template_case.c: Python's changes of case, and its classes of characters (all of a text, not empty).
typedef enum tc_case {
    TC_CASE_LOWER,
    TC_CASE_UPPER,
    TC_CASE_TITLE,
    TC_CASE_CAPITALIZE,
    TC_CASE_SWAP,
    TC_CASE_FOLD
} tc_case;
tc_tv tc_str_case(tc_tr *r, const tc_ts *s, tc_case how);
bool tc_str_is(const tc_ts *s, int method);

// template_str.c
tc_tv tc_str_strip(tc_tr *r, const tc_ts *s, const tc_ts *chars, bool left, bool right);
tc_tv tc_str_replace(tc_tr *r, const tc_ts *s, const tc_ts *from, const tc_ts *to, int64_t count);
tc_tv tc_str_splitlines(tc_tr *r, const tc_ts *s, bool keep);
tc_tv tc_str_join(tc_tr *r, const tc_ts *between, tc_tv items, bool convert);
tc_tv tc_str_pad(tc_tr *r, const tc_ts *s, int64_t width, const tc_ts *fill, char where); // '<', '^', '>'
