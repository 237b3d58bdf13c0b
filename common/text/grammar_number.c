// SPDX-License-Identifier: Apache-2.0
// Owns: JSON numbers between decimal bounds, exactly, as trees of digits. Without bounds a number may have an
// exponent; between bounds it is written out. Integer parts have at most 18 digits, fractions 16.
// Refuses: bounds beyond 18 digits where they would matter, and most divisors that are no integers.
#include "common/text/grammar_json.h"

#include <stdlib.h>
#include <string.h>

#define INT_MAX_VALUE 999999999999999999ll // 18 digits

typedef struct decimal {
    bool negative;
    int64_t whole;
    char fraction[TC_JSON_FRACTION_DIGITS_MAX]; // digits 0..9, without zeros at the end
    uint32_t digits;
} decimal;

typedef struct side {
    decimal at;
    bool open;
} side;

typedef struct maker {
    tc_builder *b;
    uint32_t fraction_max;
} maker;

// ---- small trees ----

static uint32_t digit(maker *m, int low, int high)
{
    if (low > high) return UINT32_MAX;
    return tc_tree_chars(m->b, &(tc_char_range){(uint32_t)('0' + low), (uint32_t)('0' + high)}, 1, false);
}

static uint32_t any_digits(maker *m, uint32_t min, uint32_t max)
{
    return tc_tree_repeat(m->b, digit(m, 0, 9), min, max);
}

static uint32_t zeros(maker *m, uint32_t min, uint32_t max)
{
    return tc_tree_repeat(m->b, digit(m, 0, 0), min, max);
}

// UINT32_MAX stands for a tree that matches nothing.
static uint32_t join(maker *m, uint32_t first, uint32_t second)
{
    if (first == UINT32_MAX || second == UINT32_MAX) return UINT32_MAX;
    uint32_t seq = tc_tree_add(m->b, TC_TREE_SEQ);
    tc_tree_append(m->b, seq, first);
    tc_tree_append(m->b, seq, second);
    return seq;
}

static uint32_t either(maker *m, uint32_t one, uint32_t other)
{
    if (one == UINT32_MAX) return other;
    if (other == UINT32_MAX) return one;
    uint32_t alt = tc_tree_add(m->b, TC_TREE_ALT);
    tc_tree_append(m->b, alt, one);
    tc_tree_append(m->b, alt, other);
    return alt;
}

static uint32_t nothing(maker *m)
{
    return tc_tree_add(m->b, TC_TREE_EMPTY);
}

static uint32_t text(maker *m, const char *t)
{
    return tc_tree_text(m->b, t, strlen(t));
}

// ---- integers ----

// Digits d[0..n) and all greater (or smaller) ones of n digits.
static uint32_t from_digits(maker *m, const char *d, uint32_t n)
{
    if (n == 0) return nothing(m);
    uint32_t rest = join(m, digit(m, d[0] + 1, 9), any_digits(m, n - 1, n - 1));
    return either(m, rest, join(m, digit(m, d[0], d[0]), from_digits(m, d + 1, n - 1)));
}

static uint32_t upto_digits(maker *m, const char *d, uint32_t n)
{
    if (n == 0) return nothing(m);
    uint32_t rest = join(m, digit(m, 0, d[0] - 1), any_digits(m, n - 1, n - 1));
    return either(m, rest, join(m, digit(m, d[0], d[0]), upto_digits(m, d + 1, n - 1)));
}

static uint32_t between_digits(maker *m, const char *low, const char *high, uint32_t n)
{
    if (n == 0) return nothing(m);
    if (low[0] == high[0])
        return join(m, digit(m, low[0], low[0]), between_digits(m, low + 1, high + 1, n - 1));
    uint32_t tree = join(m, digit(m, low[0] + 1, high[0] - 1), any_digits(m, n - 1, n - 1));
    tree = either(m, tree, join(m, digit(m, low[0], low[0]), from_digits(m, low + 1, n - 1)));
    return either(m, tree, join(m, digit(m, high[0], high[0]), upto_digits(m, high + 1, n - 1)));
}

static uint32_t split_digits(int64_t value, char out[20])
{
    char reversed[20];
    uint32_t n = 0;
    do reversed[n++] = (char)(value % 10);
    while (value /= 10);
    for (uint32_t i = 0; i < n; i++) out[i] = reversed[n - 1 - i];
    return n;
}

// Integers low..high, 0 <= low.
static uint32_t whole_range(maker *m, int64_t low, int64_t high)
{
    uint32_t tree = UINT32_MAX;
    char a[20], z[20];
    if (low > high) return tree;
    uint32_t la = split_digits(low, a), lz = split_digits(high, z);
    if (la == lz) return between_digits(m, a, z, la);
    tree = from_digits(m, a, la);
    if (lz - la > 1) tree = either(m, tree, join(m, digit(m, 1, 9), any_digits(m, la, lz - 2)));
    char least[20] = {1};
    return either(m, tree, between_digits(m, least, z, lz));
}

static uint32_t integer_range(maker *m, int64_t low, int64_t high)
{
    uint32_t tree = UINT32_MAX;
    if (low < 0) tree = join(m, text(m, "-"), whole_range(m, high < 0 ? -high : 1, -low));
    if (high >= 0) tree = either(m, tree, whole_range(m, low > 0 ? low : 0, high));
    return tree;
}

// ---- fractions: what follows an integer part, with `used` digits of it already there ----

static uint32_t room(const maker *m, uint32_t used)
{
    return m->fraction_max > used ? m->fraction_max - used : 0;
}

// Digits that are not all zero.
static uint32_t not_zero(maker *m, uint32_t used)
{
    uint32_t tree = UINT32_MAX, left = room(m, used);
    for (uint32_t z = 0; z < left; z++) {
        uint32_t rest = join(m, digit(m, 1, 9), any_digits(m, 0, left - z - 1));
        tree = either(m, tree, join(m, zeros(m, z, z), rest));
    }
    return tree;
}

static uint32_t fraction_from(maker *m, const side *s, uint32_t i)
{
    if (i >= s->at.digits) return s->open ? not_zero(m, i) : any_digits(m, 0, room(m, i));
    int d = s->at.fraction[i];
    if (room(m, i) == 0) return UINT32_MAX;
    uint32_t above = join(m, digit(m, d + 1, 9), any_digits(m, 0, room(m, i + 1)));
    return either(m, above, join(m, digit(m, d, d), fraction_from(m, s, i + 1)));
}

static uint32_t fraction_upto(maker *m, const side *s, uint32_t i)
{
    if (i >= s->at.digits) return s->open ? UINT32_MAX : zeros(m, 0, room(m, i));
    int d = s->at.fraction[i];
    uint32_t tree = i ? nothing(m) : UINT32_MAX; // cut off here it is smaller
    if (room(m, i) == 0) return tree;
    tree = either(m, tree, join(m, digit(m, 0, d - 1), any_digits(m, 0, room(m, i + 1))));
    return either(m, tree, join(m, digit(m, d, d), fraction_upto(m, s, i + 1)));
}

static int digit_at(const decimal *d, uint32_t i)
{
    return i < d->digits ? d->fraction[i] : 0;
}

static uint32_t fraction_between(maker *m, const side *low, const side *high, uint32_t i)
{
    bool low_done = i >= low->at.digits, high_done = i >= high->at.digits;
    if (low_done && high_done) return low->open || high->open ? UINT32_MAX : zeros(m, i ? 0 : 1, room(m, i));
    uint32_t tree = i && low_done && !low->open ? nothing(m) : UINT32_MAX;
    int a = digit_at(&low->at, i), z = digit_at(&high->at, i);
    if (a > z || room(m, i) == 0) return tree;
    if (a == z) return either(m, tree, join(m, digit(m, a, a), fraction_between(m, low, high, i + 1)));
    tree = either(m, tree, join(m, digit(m, a + 1, z - 1), any_digits(m, 0, room(m, i + 1))));
    tree = either(m, tree, join(m, digit(m, a, a), fraction_from(m, low, i + 1)));
    return either(m, tree, join(m, digit(m, z, z), fraction_upto(m, high, i + 1)));
}

static uint32_t with_point(maker *m, uint32_t digits)
{
    return join(m, text(m, "."), digits);
}

// Behind the integer part of the low bound: nothing or a fraction, not below it.
static uint32_t tail_from(maker *m, const side *low)
{
    uint32_t tree = low->at.digits == 0 && !low->open ? nothing(m) : UINT32_MAX;
    if (m->fraction_max == 0) return tree;
    if (low->at.digits == 0 && !low->open)
        return either(m, tree, with_point(m, any_digits(m, 1, m->fraction_max)));
    return either(m, tree, with_point(m, fraction_from(m, low, 0)));
}

static uint32_t tail_upto(maker *m, const side *high)
{
    uint32_t tree = high->at.digits || !high->open ? nothing(m) : UINT32_MAX;
    if (m->fraction_max == 0) return tree;
    if (high->at.digits == 0)
        return high->open ? tree : either(m, tree, with_point(m, zeros(m, 1, m->fraction_max)));
    return either(m, tree, with_point(m, fraction_upto(m, high, 0)));
}

static uint32_t tail_between(maker *m, const side *low, const side *high)
{
    bool whole = low->at.digits == 0 && !low->open && (high->at.digits || !high->open);
    uint32_t tree = whole ? nothing(m) : UINT32_MAX;
    if (m->fraction_max == 0) return tree;
    return either(m, tree, with_point(m, fraction_between(m, low, high, 0)));
}

static uint32_t tail_any(maker *m)
{
    if (m->fraction_max == 0) return nothing(m);
    return either(m, nothing(m), with_point(m, any_digits(m, 1, m->fraction_max)));
}

// Numbers low..high, 0 <= low.
static uint32_t decimal_range(maker *m, const side *low, const side *high)
{
    int64_t a = low->at.whole, z = high->at.whole;
    if (a > z) return UINT32_MAX;
    if (a == z) return join(m, whole_range(m, a, a), tail_between(m, low, high));
    uint32_t tree = join(m, whole_range(m, a, a), tail_from(m, low));
    if (z - a > 1) tree = either(m, tree, join(m, whole_range(m, a + 1, z - 1), tail_any(m)));
    return either(m, tree, join(m, whole_range(m, z, z), tail_upto(m, high)));
}

// ---- bounds ----

// False: more digits than we keep.
static bool parse_decimal(const char *number, decimal *ret)
{
    char digits[64];
    int n = 0, point = 0;
    *ret = (decimal){.negative = number[0] == '-'};
    const char *p = number + ret->negative;
    for (bool behind = false; *p && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            behind = true;
            continue;
        }
        if (n == (int)sizeof digits) return false;
        digits[n++] = (char)(*p - '0');
        point += !behind;
    }
    long exponent = *p ? strtol(p + 1, NULL, 10) : 0;
    if (exponent > 1000 || exponent < -1000) return false;
    point += (int)exponent;
    while (n > 0 && digits[n - 1] == 0) n--; // zeros at the end
    for (int i = 0; i < point; i++) {
        if (ret->whole > INT_MAX_VALUE / 10) return false;
        ret->whole = ret->whole * 10 + (i < n ? digits[i] : 0);
    }
    if (n == 0) return ret->negative = false, true; // zero
    for (int i = point; i < n; i++) {
        if (ret->digits == TC_JSON_FRACTION_DIGITS_MAX) return false;
        ret->fraction[ret->digits++] = i < 0 ? 0 : digits[i];
    }
    return true;
}

// The lowest and highest numbers that are written when there is no bound.
static side far(bool negative)
{
    return (side){.at = {.negative = negative, .whole = INT_MAX_VALUE}};
}

// A bound beyond 18 digits on the side where it cannot matter is none.
static bool read_bound(tc_builder *b, const char *what, const char *number, bool open, bool upper, side *ret)
{
    *ret = far(!upper);
    if (!number) return true;
    if (parse_decimal(number, &ret->at)) return ret->open = open, true;
    bool large = strtod(number, NULL) > 1e18 || strtod(number, NULL) < -1e18;
    bool negative = number[0] == '-';
    *ret = far(!upper);
    if (large && negative != upper) return true;
    return tc_builder_fail(b, TC_UNSUPPORTED, "%s: the bound %s has too many digits", what, number), false;
}

static int64_t ceil_of(const side *s)
{
    int64_t whole = s->at.negative ? -s->at.whole : s->at.whole;
    if (s->at.digits) return s->at.negative ? whole : whole + 1;
    return whole + s->open;
}

static int64_t floor_of(const side *s)
{
    int64_t whole = s->at.negative ? -s->at.whole : s->at.whole;
    if (s->at.digits) return s->at.negative ? whole - 1 : whole;
    return whole - s->open;
}

static side mirrored(side s)
{
    s.at.negative = !s.at.negative;
    return s;
}

static uint32_t signed_range(maker *m, const side *low, const side *high)
{
    static const side zero = {0}, above_zero = {.open = true};
    uint32_t tree = UINT32_MAX;
    bool low_negative = low->at.negative, high_negative = high->at.negative;
    if (low_negative) {
        side from = high_negative ? mirrored(*high) : above_zero, to = mirrored(*low);
        tree = join(m, text(m, "-"), decimal_range(m, &from, &to));
    }
    if (!high_negative) tree = either(m, tree, decimal_range(m, low_negative ? &zero : low, high));
    return tree;
}

// ---- divisors ----

static uint32_t listed(maker *m, int64_t low, int64_t high, int64_t divisor)
{
    uint32_t alt = tc_tree_add(m->b, TC_TREE_ALT);
    for (int64_t v = low; v <= high && m->b->status == TC_OK; v += divisor)
        tc_tree_append(m->b, alt, integer_range(m, v, v));
    return alt;
}

// Multiples of a small divisor by their remainders: a layer of nodes for each digit still allowed.
static uint32_t emit_multiples(tc_builder *b, uint32_t divisor, bool zero, bool negative, uint32_t next)
{
    uint32_t layer[TC_JSON_DIVISOR_MAX], above[TC_JSON_DIVISOR_MAX];
    for (uint32_t r = 0; r < divisor; r++) layer[r] = r == 0 ? next : TC_NODE_NEVER;
    for (uint32_t left = TC_JSON_INT_DIGITS_MAX; left-- > 0 && b->status == TC_OK;) {
        for (uint32_t r = 0; r < divisor; r++) {
            uint32_t node = TC_NODE_NEVER;
            for (uint32_t d = left == 0; d < 10; d++) // the first digit is not 0
                node = tc_emit_split(b, tc_emit_byte(b, (uint8_t)('0' + d), layer[(r * 10 + d) % divisor]),
                                     node);
            above[r] = r == 0 && left ? tc_emit_split(b, node, next) : node;
            if (left == 0) break; // from no digit, only remainder 0
        }
        memcpy(layer, above, sizeof layer);
    }
    uint32_t node = layer[0];
    if (negative) node = tc_emit_split(b, node, tc_emit_byte(b, '-', node));
    return zero ? tc_emit_split(b, tc_emit_byte(b, '0', next), node) : node;
}

static uint32_t emit_multiple_of(maker *m, const char *what, int64_t divisor, const side *low,
                                 const side *high, uint32_t next)
{
    int64_t a = ceil_of(low), z = floor_of(high);
    a = a >= 0 ? (a + divisor - 1) / divisor * divisor : -(-a / divisor * divisor);
    if (a > z) return TC_NODE_NEVER;
    if ((z - a) / divisor < TC_JSON_MULTIPLES_MAX)
        return tc_emit_tree(m->b, listed(m, a, z, divisor), TC_SPELL_PLAIN, next);
    bool unbounded_above = z == INT_MAX_VALUE, unbounded_below = ceil_of(low) == -INT_MAX_VALUE;
    if (divisor > TC_JSON_DIVISOR_MAX || !unbounded_above || !(unbounded_below || a == 0 || a == divisor))
        return tc_builder_fail(
            m->b, TC_UNSUPPORTED,
            "%s: multipleOf %lld is supported where at most %d values are in the range, or up to "
            "%d with no maximum and no minimum but 0 or 1",
            what, (long long)divisor, TC_JSON_MULTIPLES_MAX, TC_JSON_DIVISOR_MAX);
    return emit_multiples(m->b, (uint32_t)divisor, a <= 0, unbounded_below, next);
}

uint32_t tc_emit_json_number(tc_json *j, const char *what, bool integer, const tc_json_range *range,
                             uint32_t next)
{
    static const char free_number[] = "-?(?:0|[1-9][0-9]{0,17})(?:\\.[0-9]{1,16})?(?:[eE][+-]?[0-9]{1,2})?";
    tc_builder *b = j->b;
    maker m = {b, integer ? 0 : TC_JSON_FRACTION_DIGITS_MAX};
    side low, high;
    decimal divisor = {0};
    if (!integer && !range->min && !range->max && !range->multiple_of) {
        if (!j->number_tree)
            j->number_tree = tc_regex_parse(b, "number", free_number, sizeof free_number - 1, false);
        return tc_emit_tree(b, j->number_tree, TC_SPELL_PLAIN, next);
    }
    if (!read_bound(b, what, range->min, range->min_open, false, &low) ||
        !read_bound(b, what, range->max, range->max_open, true, &high))
        return TC_NODE_NEVER;
    if (range->multiple_of) {
        bool known = parse_decimal(range->multiple_of, &divisor);
        bool tenth =
            known && divisor.whole == 0 && divisor.digits && divisor.fraction[divisor.digits - 1] == 1;
        for (uint32_t i = 0; tenth && i + 1 < divisor.digits; i++) tenth = divisor.fraction[i] == 0;
        if (known && !divisor.digits && divisor.whole > 0)
            return emit_multiple_of(&m, what, divisor.whole, &low, &high, next);
        if (!tenth)
            return tc_builder_fail(b, TC_UNSUPPORTED,
                                   "%s: multipleOf %s is supported for integers and 0.1, 0.01, ...", what,
                                   range->multiple_of);
        if (!integer) m.fraction_max = divisor.digits;
    }
    uint32_t tree =
        integer ? integer_range(&m, ceil_of(&low), floor_of(&high)) : signed_range(&m, &low, &high);
    if (tree == UINT32_MAX || (integer && ceil_of(&low) > floor_of(&high))) return TC_NODE_NEVER;
    return tc_emit_tree(b, tree, TC_SPELL_PLAIN, next);
}
