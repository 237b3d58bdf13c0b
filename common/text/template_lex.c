// SPDX-License-Identifier: Apache-2.0
// Owns: cutting a template into tokens, and all of white space control: `-` and `+` at tags, the newline
// after a block (trim_blocks), the blanks before one (lstrip_blocks), raw blocks, the last newline.
#include "common/text/template_ast.h"
#include "common/text/utf8.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BRACKETS_MAX = TC_TEMPLATE_NESTING_MAX, NUMBER_BYTES_MAX = 400 };

typedef struct lexer {
    tc_tparser *p;
    const uint8_t *text;
    size_t bytes, at;
    uint32_t line;
    bool line_starts; // what came last ended with a newline
    uint8_t brackets[BRACKETS_MAX];
    uint32_t open;
} lexer;

static void push(lexer *l, tc_ttoken token)
{
    tc_ttokens *list = &l->p->tokens;
    if (l->p->failed) return;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        tc_ttoken *grown = realloc(list->items, capacity * sizeof *grown);
        if (!grown) {
            tc_tp_fail(l->p, TC_NOMEM, l->line, "out of memory");
            return;
        }
        list->items = grown, list->capacity = capacity;
    }
    list->items[list->count++] = token;
}

static void advance(lexer *l, size_t to)
{
    for (const uint8_t *p = l->text + l->at, *end = l->text + to; p < end; p++) {
        p = memchr(p, '\n', (size_t)(end - p));
        if (!p) break;
        l->line++;
    }
    if (to > l->at) l->line_starts = l->text[to - 1] == '\n';
    l->at = to;
}

static bool starts(const lexer *l, size_t at, const char *with)
{
    size_t n = strlen(with);
    return l->bytes - at >= n && !memcmp(l->text + at, with, n);
}

// Length of the white space character at `at`, 0 when it is something else.
static size_t space_at(const lexer *l, size_t at)
{
    size_t step;
    if (at >= l->bytes) return 0;
    return tc_py_space(tc_utf8_get(l->text + at, &step)) ? step : 0;
}

static size_t skip_space(const lexer *l, size_t at)
{
    for (size_t step; (step = space_at(l, at));) at += step;
    return at;
}

static size_t space_before(const lexer *l, size_t from, size_t to)
{
    while (to > from) {
        size_t at = to - 1;
        while (at > from && (l->text[at] & 0xc0) == 0x80) at--;
        if (!space_at(l, at)) break;
        to = at;
    }
    return to;
}

// Pushes the text before a tag, shortened as the tag's sign and lstrip_blocks say.
static void push_data(lexer *l, size_t to, uint8_t sign, bool variable)
{
    size_t from = l->at, end = to;
    if (sign == '-') {
        end = space_before(l, from, to);
    } else if (sign != '+' && !variable) {
        const uint8_t *newline = memrchr(l->text + from, '\n', to - from);
        size_t line = newline ? (size_t)(newline - l->text) + 1 : from;
        if ((newline || l->line_starts) && line < to && space_before(l, line, to) == line) end = line;
    }
    if (end > from)
        push(l, (tc_ttoken){.kind = TC_TK_DATA,
                            .line = l->line,
                            .data = l->text + from,
                            .bytes = (uint32_t)(end - from)});
    advance(l, to);
}

static uint8_t sign_at(const lexer *l, size_t at)
{
    return at < l->bytes && (l->text[at] == '-' || l->text[at] == '+') ? l->text[at] : 0;
}

// End of the closing tag at `at` ("%}" or "#}"), with what its sign and trim_blocks take; 0 when it is none.
static size_t tag_end(const lexer *l, size_t at, const char *tag)
{
    uint8_t sign = sign_at(l, at);
    size_t end = at + (sign != 0);
    if (!starts(l, end, tag)) return 0;
    end += 2;
    if (sign == '-') return skip_space(l, end);
    if (!sign && end < l->bytes && l->text[end] == '\n') end++;
    return end;
}

// `{%- raw -%}` at `at`? Returns where its text begins, or 0.
static size_t raw_begins(const lexer *l, size_t at)
{
    size_t p = at + 2;
    p = skip_space(l, p + (sign_at(l, p) != 0));
    if (!starts(l, p, "raw")) return 0;
    p = skip_space(l, p + 3);
    if (starts(l, p, "-%}")) return skip_space(l, p + 3);
    return starts(l, p, "%}") ? p + 2 : 0;
}

static size_t raw_ends(const lexer *l, size_t at, uint8_t *ret_sign)
{
    size_t p = at + 2;
    *ret_sign = sign_at(l, p);
    p = skip_space(l, p + (*ret_sign != 0));
    if (!starts(l, p, "endraw")) return 0;
    return tag_end(l, skip_space(l, p + 6), "%}");
}

static void lex_raw(lexer *l, size_t begin)
{
    uint8_t sign = 0;
    advance(l, begin);
    for (size_t at = begin;; at += 2) {
        const uint8_t *tag = l->bytes > at ? memmem(l->text + at, l->bytes - at, "{%", 2) : NULL;
        if (!tag) {
            tc_tp_fail(l->p, TC_FORMAT, l->line, "Missing end of raw directive");
            return;
        }
        at = (size_t)(tag - l->text);
        size_t end = raw_ends(l, at, &sign);
        if (!end) continue;
        push_data(l, at, sign, false);
        advance(l, end);
        return;
    }
}

static void lex_comment(lexer *l, size_t at)
{
    advance(l, at);
    for (;; at++) {
        const uint8_t *tag = l->bytes > at ? memmem(l->text + at, l->bytes - at, "#}", 2) : NULL;
        if (!tag) {
            tc_tp_fail(l->p, TC_FORMAT, l->line, "Missing end of comment tag");
            return;
        }
        at = (size_t)(tag - l->text);
        size_t first = at > l->at && sign_at(l, at - 1) ? at - 1 : at;
        advance(l, tag_end(l, first, "#}"));
        return;
    }
}

// ---- inside of tags
// ----------------------------------------------------------------------------------------

static bool digit(int c)
{
    return c >= '0' && c <= '9';
}

static int digit_value(int c)
{
    return digit(c)               ? c - '0'
           : c >= 'a' && c <= 'z' ? c - 'a' + 10
           : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                  : 99;
}

// Digits with single underscores between them; returns the end (== at when there is none).
static size_t digits_end(const lexer *l, size_t at, int base)
{
    size_t p = at;
    while (p < l->bytes) {
        if (digit_value(l->text[p]) < base)
            p++;
        else if (l->text[p] == '_' && p > at && p + 1 < l->bytes && digit_value(l->text[p + 1]) < base)
            p++;
        else
            break;
    }
    return p;
}

static size_t float_end(const lexer *l, size_t at)
{
    size_t p = digits_end(l, at, 10), fraction = p;
    if (p == at || (at > 0 && l->text[at - 1] == '.')) return 0;
    if (p + 1 < l->bytes && l->text[p] == '.' && digit(l->text[p + 1])) fraction = digits_end(l, p + 1, 10);
    if (fraction < l->bytes && (l->text[fraction] | 0x20) == 'e') {
        size_t e = fraction + 1;
        if (e < l->bytes && (l->text[e] == '+' || l->text[e] == '-')) e++;
        if (e < l->bytes && digit(l->text[e])) return digits_end(l, e, 10);
    }
    return fraction > p ? fraction : 0;
}

static void lex_number(lexer *l)
{
    char text[NUMBER_BYTES_MAX + 1];
    size_t end = float_end(l, l->at), from = l->at, n = 0;
    bool is_float = end != 0;
    int base = 10;
    if (!is_float) {
        int letter = from + 1 < l->bytes ? l->text[from + 1] | 0x20 : 0;
        base = l->text[from] != '0' ? 10 : letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
        size_t start = base == 10 ? from : from + 2 + (from + 2 < l->bytes && l->text[from + 2] == '_');
        end = digits_end(l, start, base == 10 && l->text[from] == '0' ? 1 : base);
        if (end == start) base = 10, start = from, end = from + 1; // "0" and then a name
        from = start;
    }
    for (size_t i = from; i < end && n < NUMBER_BYTES_MAX; i++)
        if (l->text[i] != '_') text[n++] = (char)l->text[i];
    text[n] = '\0';
    tc_ttoken t = {.kind = is_float ? TC_TK_FLOAT : TC_TK_INTEGER, .line = l->line};
    errno = 0;
    if (is_float)
        t.number = strtod(text, NULL);
    else
        t.integer = strtoll(text, NULL, base);
    if (!is_float && errno == ERANGE)
        tc_tp_fail(l->p, TC_UNSUPPORTED, l->line, "an integer beyond 64 bits is not implemented");
    if (n == NUMBER_BYTES_MAX) tc_tp_fail(l->p, TC_LIMIT, l->line, "a number that is too long");
    push(l, t);
    advance(l, end);
}

static bool name_byte(uint8_t c)
{
    return c == '_' || digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c >= 0x80;
}

static uint32_t hex(const uint8_t *p, size_t count, bool *ok)
{
    uint32_t c = 0;
    for (size_t i = 0; i < count; i++) {
        int d = digit_value(p[i]);
        if (d > 15) *ok = false;
        c = c << 4 | (uint32_t)(d & 15);
    }
    return c;
}

static size_t put_char(uint8_t *out, uint32_t c)
{
    tc_tr none = {.steps_left = 1};
    tc_tsb b = {.data = out, .capacity = 4};
    tc_tsb_char(&none, &b, c, TC_ORIGIN_TEMPLATE);
    return b.bytes;
}

// One escape behind a backslash at p; appends to out, returns the bytes read (0: malformed).
static size_t unescape(const uint8_t *p, const uint8_t *end, uint8_t *out, size_t *used)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = *p ? strchr(from, *p) : NULL;
    bool ok = true;
    size_t n = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    if (simple) {
        out[(*used)++] = (uint8_t)to[simple - from];
        return 1;
    }
    if (*p == '\n') return 1;
    if (n) {
        if ((size_t)(end - p) <= n) return 0;
        uint32_t c = hex(p + 1, n, &ok);
        if (!ok || c > 0x10ffff) return 0;
        *used += put_char(out + *used, c);
        return n + 1;
    }
    if (*p >= '0' && *p <= '7') {
        uint32_t c = 0;
        for (n = 0; n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7'; n++) c = c * 8 + (p[n] - '0');
        *used += put_char(out + *used, c);
        return n;
    }
    if (*p == 'N') return 0;
    out[(*used)++] = '\\'; // an unknown escape stays as it is
    out[(*used)++] = *p;
    return 1;
}

static void lex_string(lexer *l)
{
    uint8_t quote = l->text[l->at];
    size_t end = l->at + 1, used = 0;
    while (end < l->bytes && l->text[end] != quote) end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->bytes) {
        tc_tp_fail(l->p, TC_FORMAT, l->line, "a string that does not end");
        return;
    }
    const uint8_t *p = l->text + l->at + 1, *stop = l->text + end;
    uint8_t *out = tc_tp_alloc(l->p, (size_t)(stop - p) + 4);
    while (out && p < stop) {
        if (*p != '\\') {
            out[used++] = *p++;
            continue;
        }
        size_t read = unescape(p + 1, stop, out, &used);
        if (!read) {
            tc_tp_fail(l->p, TC_FORMAT, l->line, "a malformed escape in a string");
            return;
        }
        p += 1 + read;
    }
    push(l, (tc_ttoken){.kind = TC_TK_STRING, .line = l->line, .data = out, .bytes = (uint32_t)used});
    advance(l, end + 1);
}

static bool bracket(lexer *l, uint8_t c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (l->open == BRACKETS_MAX) {
            tc_tp_fail(l->p, TC_LIMIT, l->line, "brackets nested deeper than %d", BRACKETS_MAX);
            return false;
        }
        l->brackets[l->open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->open == 0 || l->brackets[l->open - 1] != c) {
            tc_tp_fail(l->p, TC_FORMAT, l->line, "unexpected '%c'", c);
            return false;
        }
        l->open--;
    }
    return true;
}

static void lex_operator(lexer *l)
{
    static const struct {
        char text[3];
        uint8_t op;
    } doubled[] = {{"==", TC_OP_EQ}, {"!=", TC_OP_NE},       {"<=", TC_OP_LE},
                   {">=", TC_OP_GE}, {"//", TC_OP_FLOORDIV}, {"**", TC_OP_POW}};
    for (size_t i = 0; i < sizeof doubled / sizeof *doubled; i++)
        if (starts(l, l->at, doubled[i].text)) {
            push(l, (tc_ttoken){.kind = TC_TK_OPERATOR, .op = doubled[i].op, .line = l->line});
            advance(l, l->at + 2);
            return;
        }
    uint8_t c = l->text[l->at];
    if (!strchr("+-*/%~[](){}<>=.:|,;", c) || c == 0) {
        tc_tp_fail(l->p, TC_FORMAT, l->line, "unexpected character 0x%02x", c);
        return;
    }
    if (!bracket(l, c)) return;
    push(l, (tc_ttoken){.kind = TC_TK_OPERATOR, .op = c, .line = l->line});
    advance(l, l->at + 1);
}

// The tokens of one tag, its end included.
static void lex_tag(lexer *l, bool variable)
{
    l->open = 0;
    while (!l->p->failed) {
        advance(l, skip_space(l, l->at));
        if (l->at >= l->bytes) return; // the parser says what is missing
        if (l->open == 0) {
            size_t end = 0;
            if (!variable)
                end = tag_end(l, l->at, "%}");
            else if (starts(l, l->at, "-}}"))
                end = skip_space(l, l->at + 3);
            else if (starts(l, l->at, "}}"))
                end = l->at + 2;
            if (end) {
                push(l,
                     (tc_ttoken){.kind = variable ? TC_TK_VARIABLE_END : TC_TK_BLOCK_END, .line = l->line});
                advance(l, end);
                return;
            }
        }
        uint8_t c = l->text[l->at];
        if (digit(c)) {
            lex_number(l);
        } else if (name_byte(c)) {
            size_t end = l->at;
            while (end < l->bytes && name_byte(l->text[end])) end++;
            push(l, (tc_ttoken){.kind = TC_TK_NAME,
                                .line = l->line,
                                .data = l->text + l->at,
                                .bytes = (uint32_t)(end - l->at)});
            advance(l, end);
        } else if (c == '"' || c == '\'') {
            lex_string(l);
        } else {
            lex_operator(l);
        }
    }
}

// The next "{{", "{%" or "{#"; the end of the text when there is none.
static size_t next_tag(const lexer *l)
{
    for (size_t at = l->at; at + 1 < l->bytes; at++) {
        const uint8_t *brace = memchr(l->text + at, '{', l->bytes - at - 1);
        if (!brace) break;
        at = (size_t)(brace - l->text);
        uint8_t kind = l->text[at + 1];
        if (kind == '{' || kind == '%' || kind == '#') return at;
    }
    return l->bytes;
}

void tc_tp_lex(tc_tparser *p, const uint8_t *text, size_t bytes)
{
    lexer l = {.p = p, .text = text, .bytes = bytes, .line = 1, .line_starts = true};
    while (!p->failed && l.at < l.bytes) {
        size_t at = next_tag(&l);
        if (at == l.bytes) {
            push(&l, (tc_ttoken){.kind = TC_TK_DATA,
                                 .line = l.line,
                                 .data = text + l.at,
                                 .bytes = (uint32_t)(at - l.at)});
            break;
        }
        uint8_t kind = text[at + 1], sign = sign_at(&l, at + 2);
        size_t raw = kind == '%' ? raw_begins(&l, at) : 0;
        push_data(&l, at, sign, kind == '{');
        size_t begin = at + 2 + (sign != 0);
        if (raw) {
            lex_raw(&l, raw);
        } else if (kind == '#') {
            lex_comment(&l, begin);
        } else {
            push(&l,
                 (tc_ttoken){.kind = kind == '{' ? TC_TK_VARIABLE_BEGIN : TC_TK_BLOCK_BEGIN, .line = l.line});
            advance(&l, begin);
            lex_tag(&l, kind == '{');
        }
    }
    push(&l, (tc_ttoken){.kind = TC_TK_EOF, .line = l.line});
}
