// SPDX-License-Identifier: Apache-2.0
// Owns: regular expressions: what ECMA-262 and Python's `re` have in common. Literals, classes, groups (their
// names are ignored), alternatives, greedy and lazy repeats (the same language), anchors at the ends.
// \d and \w are ASCII, \s is ASCII and \S no white space at all, `.` is no line end.
// Refuses, by name: back references, look-around, word boundaries, flags, possessive repeats, \p.
#include "common/text/grammar_program.h"
#include "common/text/utf8.h"

#include <string.h>

typedef struct parser {
    tc_builder *b;
    const char *what, *text;
    size_t bytes, at;
    uint32_t nest;
    tc_char_range ranges[TC_GRAMMAR_CLASS_RANGES_MAX]; // of the class being read
    uint32_t range_count;
} parser;

static const tc_char_range digits[] = {{'0', '9'}},
                           words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                           spaces[] = {{'\t', '\r'}, {' ', ' '}},
                           all_spaces[] = {{'\t', '\r'},     {0x1c, ' '},      {0x85, 0x85},
                                           {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
                                           {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
                                           {0x3000, 0x3000}, {0xfeff, 0xfeff}},
                           line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof *(array)))

static uint32_t fail(parser *p, tc_status status, const char *why)
{
    tc_builder_fail(p->b, status, "%s: %s at byte %zu", p->what, why, p->at);
    return 0;
}

static bool peek(const parser *p, char c)
{
    return p->at < p->bytes && p->text[p->at] == c;
}

static bool take(parser *p, char c)
{
    if (!peek(p, c)) return false;
    p->at++;
    return true;
}

static bool take_text(parser *p, const char *text)
{
    size_t n = strlen(text);
    if (p->bytes - p->at < n || memcmp(p->text + p->at, text, n) != 0) return false;
    p->at += n;
    return true;
}

static uint32_t take_char(parser *p)
{
    size_t n;
    if (p->at >= p->bytes) return fail(p, TC_ARGUMENT, "it ends too early");
    if (tc_utf8_step((const uint8_t *)p->text + p->at, p->bytes - p->at, &n) != TC_UTF8_CHAR)
        return fail(p, TC_ARGUMENT, "malformed UTF-8");
    uint32_t c = tc_utf8_get((const uint8_t *)p->text + p->at, &n);
    p->at += n;
    return c;
}

static void add(parser *p, uint32_t low, uint32_t high)
{
    if (p->range_count == TC_GRAMMAR_CLASS_RANGES_MAX)
        fail(p, TC_LIMIT, "a character class of more than 4096 ranges");
    else
        p->ranges[p->range_count++] = (tc_char_range){low, high};
}

static void add_all(parser *p, const tc_char_range *ranges, uint32_t n, bool negated)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!negated)
            add(p, ranges[i].low, ranges[i].high);
        else if (ranges[i].low > next)
            add(p, next, ranges[i].low - 1);
        next = ranges[i].high + 1;
    }
    if (negated) add(p, next, 0x10ffff);
}

static uint32_t take_hex(parser *p, uint32_t n)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < n; i++) {
        char c = p->at < p->bytes ? p->text[p->at] : 0;
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) return fail(p, TC_ARGUMENT, "a hexadecimal digit is missing");
        value = value << 4 | (uint32_t)digit;
        p->at++;
    }
    return value;
}

// Behind a backslash. True: *ret is one character; false: a class was added (or an error noted).
static bool escape(parser *p, uint32_t *ret)
{
    uint32_t c = take_char(p);
    static const char controls[] = "t\tn\nr\rf\fv\v";
    for (size_t i = 0; i + 1 < sizeof controls - 1; i += 2)
        if (c == (uint32_t)controls[i]) return *ret = (uint32_t)controls[i + 1], true;
    switch (c) {
    case 'd':
    case 'D':
        return add_all(p, digits, COUNT(digits), c == 'D'), false;
    case 'w':
    case 'W':
        return add_all(p, words, COUNT(words), c == 'W'), false;
    case 's':
        return add_all(p, spaces, COUNT(spaces), false), false;
    case 'S':
        return add_all(p, all_spaces, COUNT(all_spaces), true), false;
    case 'x':
        return *ret = take_hex(p, 2), true;
    case 'u':
        *ret = take_hex(p, 4);
        if (*ret >= 0xd800 && *ret <= 0xdfff) fail(p, TC_UNSUPPORTED, "a surrogate");
        return true;
    }
    if (c < 0x80 && ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))) {
        p->at--;
        fail(p, TC_UNSUPPORTED,
             c >= '1' && c <= '9' ? "a back reference is not supported,"
             : c == 'b' || c == 'B' || c == 'A' || c == 'Z' || c == 'z'
                 ? "a word boundary or \\A, \\Z is not supported,"
             : c == 'p' || c == 'P' ? "\\p is not supported,"
                                    : "an unknown escape");
    }
    return *ret = c, true;
}

static uint32_t parse_class(parser *p)
{
    bool negated = take(p, '^');
    p->range_count = 0;
    if (peek(p, ']')) return fail(p, TC_UNSUPPORTED, "a class that begins with ] (write \\])");
    while (!take(p, ']') && p->b->status == TC_OK) {
        uint32_t low, high;
        if (peek(p, '[') && p->at + 1 < p->bytes && strchr(":.=", p->text[p->at + 1]))
            return fail(p, TC_UNSUPPORTED, "a POSIX class is not supported,");
        low = take_char(p);
        if (low == '\\' && !escape(p, &low)) continue;
        high = low;
        if (peek(p, '-') && p->at + 1 < p->bytes && p->text[p->at + 1] != ']') {
            p->at++;
            high = take_char(p);
            if (high == '\\' && !escape(p, &high))
                return fail(p, TC_ARGUMENT, "a range that ends in a class");
        }
        if (p->b->status == TC_OK && high < low) return fail(p, TC_ARGUMENT, "a range that runs backwards");
        add(p, low, high);
    }
    return p->b->status == TC_OK ? tc_tree_chars(p->b, p->ranges, p->range_count, negated) : 0;
}

static uint32_t parse_alternatives(parser *p);

static uint32_t parse_group(parser *p)
{
    if (take(p, '?') && !take(p, ':')) {
        if (take_text(p, "P<") ||
            (peek(p, '<') && p->at + 1 < p->bytes && !strchr("=!", p->text[p->at + 1]))) {
            while (p->at < p->bytes && p->text[p->at] != '>') p->at++;
            if (!take(p, '>')) return fail(p, TC_ARGUMENT, "a group's name that does not end");
        } else {
            return fail(p, TC_UNSUPPORTED, "look-around or flags (?...) are not supported,");
        }
    }
    if (++p->nest > TC_GRAMMAR_NEST_MAX) {
        tc_builder_fail(p->b, TC_LIMIT, "%s: groups are nested more than %d deep", p->what,
                        TC_GRAMMAR_NEST_MAX);
        return 0;
    }
    uint32_t tree = parse_alternatives(p);
    p->nest--;
    if (!take(p, ')')) return fail(p, TC_ARGUMENT, "a group that does not end");
    return tree;
}

static uint32_t parse_atom(parser *p)
{
    uint32_t c = take_char(p);
    p->range_count = 0;
    switch (c) {
    case '(':
        return parse_group(p);
    case '[':
        return parse_class(p);
    case '.':
        return tc_tree_chars(p->b, line_ends, COUNT(line_ends), true);
    case '^':
        return tc_tree_add(p->b, TC_TREE_BEGIN);
    case '$':
        return tc_tree_add(p->b, TC_TREE_END);
    case '\\':
        if (!escape(p, &c)) return tc_tree_chars(p->b, p->ranges, p->range_count, false);
        break;
    case '*':
    case '+':
    case '?':
        return fail(p, TC_ARGUMENT, "nothing to repeat");
    case '{':
    case '}':
        return fail(p, TC_ARGUMENT, "a brace that is no repeat (write \\{ or \\})");
    case ']':
        return fail(p, TC_ARGUMENT, "a ] without [ (write \\])");
    }
    return p->b->status == TC_OK ? tc_tree_chars(p->b, &(tc_char_range){c, c}, 1, false) : 0;
}

static bool take_number(parser *p, uint32_t *ret)
{
    uint64_t value = 0;
    size_t from = p->at;
    while (p->at < p->bytes && p->text[p->at] >= '0' && p->text[p->at] <= '9') {
        value = value * 10 + (uint64_t)(p->text[p->at++] - '0');
        if (value > TC_GRAMMAR_REPEAT_MAX) {
            tc_builder_fail(p->b, TC_LIMIT, "%s: a repeat of more than %d", p->what, TC_GRAMMAR_REPEAT_MAX);
            return false;
        }
    }
    *ret = (uint32_t)value;
    return p->at > from;
}

// False where no repeat stands here.
static bool take_repeat(parser *p, uint32_t *ret_min, uint32_t *ret_max)
{
    *ret_min = 0;
    *ret_max = TC_REPEAT_NO_MAX;
    if (take(p, '*')) return true;
    if (take(p, '+')) return *ret_min = 1, true;
    if (take(p, '?')) return *ret_max = 1, true;
    if (!take(p, '{')) return false;
    if (!take_number(p, ret_min)) {
        fail(p, TC_ARGUMENT, "a brace that is no repeat (write \\{)");
    } else if (!take(p, ',')) {
        *ret_max = *ret_min;
    } else if (!peek(p, '}') && !take_number(p, ret_max)) {
        fail(p, TC_ARGUMENT, "a brace that is no repeat (write \\{)");
    }
    if (p->b->status == TC_OK && !take(p, '}')) fail(p, TC_ARGUMENT, "a brace that is no repeat (write \\{)");
    if (p->b->status == TC_OK && *ret_max < *ret_min) fail(p, TC_ARGUMENT, "a repeat {m,n} with n below m");
    return true;
}

static uint32_t parse_sequence(parser *p)
{
    uint32_t seq = tc_tree_add(p->b, TC_TREE_SEQ), min, max;
    while (p->at < p->bytes && !peek(p, '|') && !peek(p, ')') && p->b->status == TC_OK) {
        uint32_t atom = parse_atom(p);
        if (p->b->status != TC_OK) return 0;
        if (take_repeat(p, &min, &max)) {
            if (p->b->trees[atom].kind >= TC_TREE_BEGIN) return fail(p, TC_ARGUMENT, "an anchor is repeated");
            atom = tc_tree_repeat(p->b, atom, min, max);
            bool lazy = take(p, '?'); // the same language
            if (!lazy && peek(p, '+'))
                return fail(p, TC_UNSUPPORTED, "a possessive repeat is not supported,");
            if (peek(p, '*') || peek(p, '+') || peek(p, '?') || peek(p, '{'))
                return fail(p, TC_ARGUMENT, "nothing to repeat");
        }
        tc_tree_append(p->b, seq, atom);
    }
    return seq;
}

static uint32_t parse_alternatives(parser *p)
{
    uint32_t alt = tc_tree_add(p->b, TC_TREE_ALT);
    do tc_tree_append(p->b, alt, parse_sequence(p));
    while (take(p, '|') && p->b->status == TC_OK);
    return p->b->status == TC_OK ? alt : 0;
}

// ---- anchors ----

// What an anchored alternative looks like once its anchors are gone; `anywhere`: with any text on the open
// sides.
static uint32_t anchor_sequence(parser *p, uint32_t seq, bool anywhere)
{
    tc_builder *b = p->b;
    uint32_t out = tc_tree_add(b, TC_TREE_SEQ), child = b->trees[seq].first;
    bool begin = false, end = false;
    for (; child && b->trees[child].kind == TC_TREE_BEGIN; child = b->trees[child].sibling) begin = true;
    if (anywhere && !begin)
        tc_tree_append(b, out, tc_tree_repeat(b, tc_tree_chars(b, NULL, 0, true), 0, TC_REPEAT_NO_MAX));
    while (child && b->status == TC_OK) {
        uint32_t next = b->trees[child].sibling;
        b->trees[child].sibling = 0;
        if (b->trees[child].kind == TC_TREE_END && (!next || b->trees[next].kind == TC_TREE_END))
            end = true;
        else
            tc_tree_append(b, out, child);
        child = next;
    }
    if (anywhere && !end)
        tc_tree_append(b, out, tc_tree_repeat(b, tc_tree_chars(b, NULL, 0, true), 0, TC_REPEAT_NO_MAX));
    return out;
}

// Alternatives at the top, also inside groups that are all of their alternative.
static uint32_t anchor(parser *p, uint32_t alt, bool anywhere)
{
    tc_builder *b = p->b;
    uint32_t out = tc_tree_add(b, TC_TREE_ALT);
    for (uint32_t seq = b->trees[alt].first, next; seq && b->status == TC_OK; seq = next) {
        next = b->trees[seq].sibling;
        uint32_t only = b->trees[seq].first;
        bool group = only && !b->trees[only].sibling && b->trees[only].kind == TC_TREE_ALT;
        tc_tree_append(b, out, group ? anchor(p, only, anywhere) : anchor_sequence(p, seq, anywhere));
    }
    return b->status == TC_OK ? out : 0;
}

uint32_t tc_regex_parse(tc_builder *b, const char *what, const char *text, size_t bytes, bool anywhere)
{
    parser p = {.b = b, .what = what, .text = text, .bytes = bytes};
    uint32_t tree = parse_alternatives(&p);
    if (b->status == TC_OK && p.at < bytes) fail(&p, TC_ARGUMENT, "a ) without (");
    return b->status == TC_OK ? anchor(&p, tree, anywhere) : 0;
}

uint32_t tc_regex_compile(tc_builder *b, const char *text, size_t bytes)
{
    return tc_emit_tree(b, tc_regex_parse(b, "regex", text, bytes, false), TC_SPELL_PLAIN, TC_NODE_RETURN);
}
