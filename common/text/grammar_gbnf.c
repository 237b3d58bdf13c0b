// SPDX-License-Identifier: Apache-2.0
// Owns: grammars in GBNF, as llama.cpp documents it: rules `name ::= ...`, texts, character classes, `.`,
// groups, alternatives, repeats, comments, recursion. A line that begins with `|` goes on with the rule
// before it. Refuses: left recursion (grammar_check.c names the rule), rules that are missing or defined
// twice, token terms.
#include "common/text/grammar_program.h"
#include "common/text/utf8.h"

#include <string.h>

typedef struct parser {
    tc_builder *b;
    const char *text;
    size_t bytes, at;
    uint32_t nest;
    uint32_t *bodies; // trees by rule; 0: not defined yet
} parser;

static uint32_t line_of(const parser *p)
{
    uint32_t line = 1;
    for (size_t i = 0; i < p->at && i < p->bytes; i++) line += p->text[i] == '\n';
    return line;
}

static uint32_t fail(parser *p, tc_status status, const char *why)
{
    tc_builder_fail(p->b, status, "grammar: line %u: %s", line_of(p), why);
    return 0;
}

static char here(const parser *p)
{
    return p->at < p->bytes ? p->text[p->at] : 0;
}

static bool take(parser *p, char c)
{
    if (p->at >= p->bytes || p->text[p->at] != c) return false;
    p->at++;
    return true;
}

// White space and comments; past line ends only where the rule goes on for certain, or with a `|`.
static void skip(parser *p, bool lines)
{
    size_t stop = 0;
    bool held = false;
    for (; p->at < p->bytes; p->at++) {
        char c = p->text[p->at];
        if (c == '#') {
            while (p->at < p->bytes && p->text[p->at] != '\n') p->at++;
            p->at--;
        } else if (c == '\n' || c == '\r') {
            if (!lines && !held) stop = p->at, held = true;
        } else if (c != ' ' && c != '\t') {
            break;
        }
    }
    if (held && here(p) != '|') p->at = stop;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// The rule of the name that stands here; it need not be defined yet.
static bool take_rule(parser *p, uint32_t *ret)
{
    const char *name = p->text + p->at;
    size_t n = 0;
    while (p->at < p->bytes && is_name(p->text[p->at])) p->at++, n++;
    if (n == 0) return fail(p, TC_ARGUMENT, "a rule's name was expected"), false;
    for (uint32_t i = 0; i < p->b->rule_count; i++)
        if (p->b->rules[i].name_bytes == n && memcmp(p->b->rules[i].name, name, n) == 0)
            return *ret = i, true;
    *ret = tc_rule_add(p->b, name, (uint32_t)n);
    return p->b->status == TC_OK;
}

static uint32_t take_hex(parser *p, uint32_t n)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < n; i++, p->at++) {
        char c = here(p);
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) return fail(p, TC_ARGUMENT, "a hexadecimal digit is missing");
        value = value << 4 | (uint32_t)digit;
    }
    if (value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return fail(p, TC_ARGUMENT, "an escape that is no character");
    return value;
}

static uint32_t take_char(parser *p)
{
    size_t n;
    if (p->at >= p->bytes) return fail(p, TC_ARGUMENT, "a text or class that does not end");
    if (!take(p, '\\')) {
        if (tc_utf8_step((const uint8_t *)p->text + p->at, p->bytes - p->at, &n) != TC_UTF8_CHAR)
            return fail(p, TC_ARGUMENT, "malformed UTF-8");
        uint32_t c = tc_utf8_get((const uint8_t *)p->text + p->at, &n);
        p->at += n;
        return c;
    }
    char c = here(p);
    p->at++;
    switch (c) {
    case 'x':
        return take_hex(p, 2);
    case 'u':
        return take_hex(p, 4);
    case 'U':
        return take_hex(p, 8);
    case 't':
        return '\t';
    case 'r':
        return '\r';
    case 'n':
        return '\n';
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
        return (uint32_t)c;
    default:
        return fail(p, TC_ARGUMENT, "an unknown escape");
    }
}

static uint32_t parse_text(parser *p)
{
    uint32_t seq = tc_tree_add(p->b, TC_TREE_SEQ);
    while (!take(p, '"') && p->b->status == TC_OK) {
        uint32_t c = take_char(p);
        if (p->b->status == TC_OK)
            tc_tree_append(p->b, seq, tc_tree_chars(p->b, &(tc_char_range){c, c}, 1, false));
    }
    return seq;
}

static uint32_t parse_class(parser *p)
{
    tc_char_range ranges[TC_GRAMMAR_CLASS_RANGES_MAX];
    uint32_t n = 0;
    bool negated = take(p, '^');
    while (!take(p, ']') && p->b->status == TC_OK) {
        if (n == TC_GRAMMAR_CLASS_RANGES_MAX) return fail(p, TC_LIMIT, "a class of more than 4096 ranges");
        uint32_t low = take_char(p), high = low;
        if (here(p) == '-' && p->at + 1 < p->bytes && p->text[p->at + 1] != ']') {
            p->at++;
            high = take_char(p);
        }
        if (p->b->status == TC_OK && high < low) return fail(p, TC_ARGUMENT, "a range that runs backwards");
        ranges[n++] = (tc_char_range){low, high};
    }
    return p->b->status == TC_OK ? tc_tree_chars(p->b, ranges, n, negated) : 0;
}

static uint32_t parse_alternatives(parser *p, bool nested);

static uint32_t parse_atom(parser *p)
{
    if (take(p, '"')) return parse_text(p);
    if (take(p, '[')) return parse_class(p);
    if (take(p, '.')) return tc_tree_chars(p->b, NULL, 0, true);
    if (take(p, '(')) {
        if (++p->nest > TC_GRAMMAR_NEST_MAX) {
            tc_builder_fail(p->b, TC_LIMIT, "grammar: groups are nested more than %d deep",
                            TC_GRAMMAR_NEST_MAX);
            return 0;
        }
        uint32_t tree = parse_alternatives(p, true);
        p->nest--;
        if (!take(p, ')')) return fail(p, TC_ARGUMENT, "a group that does not end");
        return tree;
    }
    if (here(p) == '<' || here(p) == '!')
        return fail(p, TC_UNSUPPORTED, "terms that name tokens are not supported");
    uint32_t rule = 0, tree = 0;
    if (!is_name(here(p))) return fail(p, TC_ARGUMENT, "a text, class, group or rule was expected");
    if (take_rule(p, &rule)) tree = tc_tree_add(p->b, TC_TREE_RULE);
    if (tree) p->b->trees[tree].rule = rule;
    return tree;
}

static uint32_t take_number(parser *p, uint32_t otherwise)
{
    uint64_t value = 0;
    if (here(p) < '0' || here(p) > '9') return otherwise;
    while (here(p) >= '0' && here(p) <= '9') {
        value = value * 10 + (uint64_t)(here(p) - '0');
        p->at++;
        if (value > TC_GRAMMAR_REPEAT_MAX) {
            tc_builder_fail(p->b, TC_LIMIT, "grammar: a repeat of more than %d", TC_GRAMMAR_REPEAT_MAX);
            return 0;
        }
    }
    return (uint32_t)value;
}

static uint32_t parse_repeats(parser *p, uint32_t atom, bool nested)
{
    for (uint32_t n = 0; p->b->status == TC_OK; n++) {
        uint32_t min = 0, max = TC_REPEAT_NO_MAX;
        skip(p, nested);
        if (n > TC_GRAMMAR_NEST_MAX) return fail(p, TC_LIMIT, "too many repeats of repeats");
        if (take(p, '+')) {
            min = 1;
        } else if (take(p, '?')) {
            max = 1;
        } else if (take(p, '{')) {
            skip(p, nested);
            bool digit = here(p) >= '0' && here(p) <= '9';
            if (!digit) return fail(p, TC_ARGUMENT, "a repeat {m,n} without m");
            min = max = take_number(p, 0);
            skip(p, nested);
            if (take(p, ',')) {
                skip(p, nested);
                max = take_number(p, TC_REPEAT_NO_MAX);
                skip(p, nested);
            }
            if (p->b->status == TC_OK && !take(p, '}'))
                return fail(p, TC_ARGUMENT, "a repeat that does not end");
            if (max < min) return fail(p, TC_ARGUMENT, "a repeat {m,n} with n below m");
        } else if (!take(p, '*')) {
            break;
        }
        atom = tc_tree_repeat(p->b, atom, min, max);
    }
    return atom;
}

static uint32_t parse_sequence(parser *p, bool nested)
{
    uint32_t seq = tc_tree_add(p->b, TC_TREE_SEQ);
    for (;;) {
        skip(p, nested);
        char c = here(p);
        if (p->b->status != TC_OK || p->at >= p->bytes || c == '|' || c == ')' || c == '\n' || c == '\r')
            return seq;
        tc_tree_append(p->b, seq, parse_repeats(p, parse_atom(p), nested));
    }
}

static uint32_t parse_alternatives(parser *p, bool nested)
{
    uint32_t alt = tc_tree_add(p->b, TC_TREE_ALT);
    do {
        skip(p, true);
        tc_tree_append(p->b, alt, parse_sequence(p, nested));
    } while (p->b->status == TC_OK && take(p, '|'));
    return alt;
}

static void parse_rule(parser *p)
{
    uint32_t rule;
    if (!take_rule(p, &rule)) return;
    skip(p, false);
    if (p->bytes - p->at < 3 || memcmp(p->text + p->at, "::=", 3) != 0) {
        fail(p, TC_ARGUMENT, "::= was expected behind the rule's name");
        return;
    }
    p->at += 3;
    if (p->bodies[rule]) {
        tc_builder_fail(p->b, TC_ARGUMENT, "grammar: line %u: rule %.*s is defined twice", line_of(p),
                        (int)p->b->rules[rule].name_bytes, p->b->rules[rule].name);
        return;
    }
    p->bodies[rule] = parse_alternatives(p, false);
    if (p->b->status == TC_OK && here(p) == ')') fail(p, TC_ARGUMENT, "a ) without (");
}

uint32_t tc_gbnf_compile(tc_builder *b, const char *text, size_t bytes)
{
    static const char root_name[] = "root";
    uint32_t bodies[TC_GRAMMAR_RULES_MAX] = {0};
    parser p = {.b = b, .text = text, .bytes = bytes, .bodies = bodies};
    uint32_t root = tc_rule_add(b, root_name, 4);
    for (skip(&p, true); p.at < bytes && b->status == TC_OK; skip(&p, true)) parse_rule(&p);
    if (b->status == TC_OK && !bodies[root])
        return tc_builder_fail(b, TC_ARGUMENT, "grammar: there is no rule root");
    for (uint32_t i = 0; i < b->rule_count && b->status == TC_OK; i++) {
        if (!bodies[i])
            return tc_builder_fail(b, TC_ARGUMENT, "grammar: rule %.*s is not defined",
                                   (int)b->rules[i].name_bytes, b->rules[i].name);
        uint32_t start = tc_emit_tree(b, bodies[i], TC_SPELL_PLAIN, TC_NODE_RETURN);
        if (b->status == TC_OK) b->rules[i].start = start;
    }
    return b->status == TC_OK ? b->rules[root].start : TC_NODE_NEVER;
}
