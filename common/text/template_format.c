// SPDX-License-Identifier: Apache-2.0
// Owns: Python's three ways to lay out values: `"%s" % x`, `"{}".format(x)` with its format specifications,
// and strftime.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include "common/text/utf8.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH_MAX = 1 << 20,
    PRECISION_MAX = 400,
    DIGITS_MAX = 1024,
    STRFTIME_MAX = 4096,
    FIELD_PARTS_MAX = 16
};

typedef struct spec {
    uint32_t fill;
    char align, sign, comma, type; // 0: not given
    bool alternate, zero;
    int64_t width, precision; // precision -1: not given
} spec;

static bool bad(tc_tr *r, const char *kind, const char *message)
{
    tc_tr_fail(r, kind, "%s", message);
    return false;
}

// ---- numbers
// -----------------------------------------------------------------------------------------------

static size_t integer_digits(uint64_t n, int base, bool upper, char out[72])
{
    char digits[72];
    size_t count = 0;
    do digits[count++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[n % (unsigned)base];
    while (n /= (unsigned)base);
    for (size_t i = 0; i < count; i++) out[i] = digits[count - 1 - i];
    out[count] = '\0';
    return count;
}

// Puts `comma` between groups of digits of the part before '.' and 'e'.
static void group_digits(char *text, size_t room, char comma, size_t each)
{
    size_t whole = strspn(text, "0123456789abcdefABCDEF"), rest = strlen(text);
    if (each == 3) whole = strspn(text, "0123456789");
    for (size_t at = whole; at > each; at -= each) {
        if (rest + 2 > room) return;
        memmove(text + at - each + 1, text + at - each, rest - (at - each) + 1);
        text[at - each] = comma;
        rest++;
    }
}

// Sign, digits, padding.
static bool put_number(tc_tr *r, tc_tsb *b, const spec *s, bool negative, const char *prefix,
                       const char *digits)
{
    const char *sign = negative ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    int64_t more = s->width - (int64_t)(strlen(sign) + strlen(prefix) + strlen(digits));
    char align = s->align ? s->align : s->zero ? '=' : '>';
    uint32_t fill = s->zero && (align == '=' || !s->align) && s->fill == ' ' ? '0' : s->fill;
    int64_t left = align == '>' ? more : align == '^' ? more / 2 : 0, inside = align == '=' ? more : 0;
    bool ok = true;
    for (int64_t i = 0; ok && i < left; i++) ok = tc_tsb_char(r, b, fill, TC_ORIGIN_TEMPLATE);
    ok = ok && tc_tsb_text(r, b, sign) && tc_tsb_text(r, b, prefix);
    for (int64_t i = 0; ok && i < inside; i++) ok = tc_tsb_char(r, b, fill, TC_ORIGIN_TEMPLATE);
    ok = ok && tc_tsb_text(r, b, digits);
    for (int64_t i = left + inside; ok && i < more; i++) ok = tc_tsb_char(r, b, fill, TC_ORIGIN_TEMPLATE);
    return ok;
}

static bool put_integer(tc_tr *r, tc_tsb *b, const spec *s, int64_t n)
{
    char digits[DIGITS_MAX];
    int base = s->type == 'x' || s->type == 'X' ? 16 : s->type == 'o' ? 8 : s->type == 'b' ? 2 : 10;
    size_t count = integer_digits(n < 0 ? 0 - (uint64_t)n : (uint64_t)n, base, s->type == 'X', digits);
    if (s->precision > 0 && (size_t)s->precision > count) { // %.5d
        size_t more = (size_t)s->precision - count;
        memmove(digits + more, digits, count + 1);
        memset(digits, '0', more);
    }
    if (s->comma) group_digits(digits, sizeof digits, s->comma, base == 10 ? 3 : 4);
    char prefix[3] = {'0', s->type, 0};
    return put_number(r, b, s, n < 0, s->alternate && base != 10 ? prefix : "", digits);
}

static bool put_float(tc_tr *r, tc_tsb *b, const spec *s, double f)
{
    char digits[DIGITS_MAX], format[16];
    char type = s->type ? s->type : 'g';
    double size = fabs(f);
    int precision = s->precision >= 0 ? (int)s->precision : 6;
    if (type == '%') size *= 100;
    if (!s->type && s->precision < 0 && isfinite(f)) {
        tc_float_repr(size, digits);
    } else {
        if (isnan(f) || isinf(f)) {
            snprintf(digits, sizeof digits, "%s", isnan(f) ? "nan" : "inf");
            if (type >= 'A' && type <= 'Z') snprintf(digits, sizeof digits, "%s", isnan(f) ? "NAN" : "INF");
        } else {
            snprintf(format, sizeof format, s->alternate ? "%%#.*%c" : "%%.*%c", type == '%' ? 'f' : type);
            snprintf(digits, sizeof digits, format, precision, size);
            // Without a type a float always looks like one.
            if (!s->type && !strpbrk(digits, ".en"))
                strncat(digits, ".0", sizeof digits - strlen(digits) - 1);
        }
    }
    if (s->comma) group_digits(digits, sizeof digits, s->comma, 3);
    if (type == '%') strncat(digits, "%", sizeof digits - strlen(digits) - 1);
    return put_number(r, b, s, signbit(f) && !isnan(f), "", digits);
}

static bool put_text(tc_tr *r, tc_tsb *b, const spec *s, const tc_ts *text)
{
    size_t chars = tc_ts_chars(text), show = chars;
    if (s->precision >= 0 && (size_t)s->precision < show) show = (size_t)s->precision;
    int64_t more = s->width - (int64_t)show;
    char align = s->align ? s->align : '<';
    int64_t left = align == '>' ? more : align == '^' ? more / 2 : 0;
    bool ok = true;
    for (int64_t i = 0; ok && i < left; i++) ok = tc_tsb_char(r, b, s->fill, TC_ORIGIN_TEMPLATE);
    ok = ok && tc_tsb_substr(r, b, text, 0, tc_ts_offset(text, show));
    for (int64_t i = left; ok && i < more; i++) ok = tc_tsb_char(r, b, s->fill, TC_ORIGIN_TEMPLATE);
    return ok;
}

// ---- "%..." % values
// ---------------------------------------------------------------------------------------

typedef struct percent {
    const uint8_t *p, *end;
    tc_tv values;
    size_t next;
    bool mapping; // a %(name) was used
} percent;

static bool next_value(tc_tr *r, percent *q, tc_tv *ret)
{
    bool tuple = q->values.kind == TC_TV_TUPLE;
    if (tuple ? q->next >= q->values.l->count : q->next > 0)
        return bad(r, "TypeError", "not enough arguments for format string");
    *ret = tuple ? q->values.l->items[q->next] : q->values;
    q->next++;
    return true;
}

static bool read_size(tc_tr *r, percent *q, int64_t *ret)
{
    tc_tv v;
    if (q->p < q->end && *q->p == '*') {
        q->p++;
        return next_value(r, q, &v) && tc_tv_index(r, v, ret);
    }
    int64_t n = 0;
    for (; q->p < q->end && *q->p >= '0' && *q->p <= '9'; q->p++)
        if (n <= WIDTH_MAX) n = n * 10 + (*q->p - '0');
    *ret = n;
    return true;
}

static bool named_value(tc_tr *r, percent *q, tc_tv *ret)
{
    const uint8_t *from = ++q->p;
    int depth = 1;
    for (; q->p < q->end && depth; q->p++) depth += *q->p == '(' ? 1 : *q->p == ')' ? -1 : 0;
    if (depth) return bad(r, "ValueError", "incomplete format key");
    if (q->values.kind != TC_TV_DICT) return bad(r, "TypeError", "format requires a mapping");
    tc_ts name = {.data = from, .bytes = (uint32_t)(q->p - 1 - from), .chars = TC_CHARS_UNKNOWN};
    const tc_tv *v = tc_td_get_str(q->values.d, &name);
    if (!v) return bad(r, "KeyError", "a format key that is not in the mapping");
    q->mapping = true;
    *ret = *v;
    return true;
}

static bool percent_value(tc_tr *r, tc_tsb *b, spec *s, tc_tv v)
{
    tc_tsb text = {0};
    bool number = tc_tv_is_number(v);
    switch (s->type) {
    case 's':
    case 'r':
    case 'a':
        if (s->type == 's' ? !tc_tv_print(r, &text, v) : !tc_tv_repr(r, &text, v)) return false;
        v = tc_tsb_take(r, &text);
        if (!s->align) s->align = '>';
        s->fill = ' ';
        return !TC_TV_FAILED(v) && put_text(r, b, s, v.s);
    case 'c':
        if (v.kind == TC_TV_INT && v.i >= 0 && v.i <= 0x10ffff)
            return tc_tsb_char(r, b, (uint32_t)v.i, TC_ORIGIN_DATA);
        if (v.kind != TC_TV_STR || tc_ts_chars(v.s) != 1)
            return bad(r, "TypeError", "%c requires int or char");
        return put_text(r, b, s, v.s);
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        if (!number || (v.kind == TC_TV_FLOAT && strchr("xXo", s->type)))
            return bad(r, "TypeError", "%d format: a real number is required");
        if (s->align == '<') s->zero = false;
        if (v.kind == TC_TV_FLOAT && !(fabs(v.f) < 9e18)) return bad(r, "OverflowError", "float too large");
        return put_integer(r, b, s, v.kind == TC_TV_FLOAT ? (int64_t)v.f : v.kind == TC_TV_BOOL ? v.b : v.i);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (!number) return bad(r, "TypeError", "must be real number");
        if (s->align == '<') s->zero = false;
        return put_float(r, b, s, tc_tv_number(v));
    default:
        return bad(r, "ValueError", "unsupported format character");
    }
}

static bool percent_one(tc_tr *r, tc_tsb *b, percent *q, bool markup)
{
    spec s = {.fill = ' ', .precision = -1};
    tc_tv v = TC_TV_OF(TC_TV_MISSING);
    if (q->p < q->end && *q->p == '(' && !named_value(r, q, &v)) return false;
    for (; q->p < q->end && *q->p && strchr("-+ #0", *q->p); q->p++) {
        if (*q->p == '-') s.align = '<';
        if (*q->p == '+' || (*q->p == ' ' && !s.sign)) s.sign = (char)*q->p;
        if (*q->p == '#') s.alternate = true;
        if (*q->p == '0') s.zero = true;
    }
    if (!read_size(r, q, &s.width)) return false;
    if (s.width < 0) s.align = '<', s.width = -s.width;
    if (q->p < q->end && *q->p == '.') {
        q->p++;
        if (!read_size(r, q, &s.precision)) return false;
        if (s.precision < 0) s.precision = 0;
    }
    while (q->p < q->end && (*q->p == 'l' || *q->p == 'h' || *q->p == 'L')) q->p++;
    if (q->p >= q->end) return bad(r, "ValueError", "incomplete format");
    s.type = (char)*q->p++;
    if (s.width > WIDTH_MAX || (s.precision > PRECISION_MAX && s.type != 's' && s.type != 'r'))
        return bad(r, "LimitExceeded", "a format's width or precision is too large");
    if (s.type == '%') return tc_tsb_text(r, b, "%");
    if (v.kind == TC_TV_MISSING && !next_value(r, q, &v)) return false;
    if (markup && s.type == 's') v = tc_tv_escape(r, v);
    return !TC_TV_FAILED(v) && percent_value(r, b, &s, v);
}

tc_tv tc_percent_format(tc_tr *r, tc_tv format, tc_tv values)
{
    const tc_ts *f = format.s;
    percent q = {f->data, f->data + f->bytes, values, 0, false};
    tc_tsb b = {0};
    while (q.p < q.end) {
        const uint8_t *sign = memchr(q.p, '%', (size_t)(q.end - q.p)), *stop = sign ? sign : q.end;
        if (!tc_tsb_substr(r, &b, f, (size_t)(q.p - f->data), (size_t)(stop - f->data)))
            return TC_TV_OF(TC_TV_ERROR);
        q.p = sign ? sign + 1 : stop;
        if (sign && !percent_one(r, &b, &q, f->markup)) return TC_TV_OF(TC_TV_ERROR);
    }
    bool tuple = values.kind == TC_TV_TUPLE;
    bool left = tuple ? q.next < values.l->count
                      : q.next == 0 && values.kind != TC_TV_DICT && values.kind != TC_TV_LIST &&
                            values.kind != TC_TV_UNDEFINED;
    if (left && !q.mapping)
        return tc_tr_fail(r, "TypeError", "not all arguments converted during string formatting");
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), f->markup);
}

// ---- "{...}".format(values)
// --------------------------------------------------------------------------------

static bool parse_spec(tc_tr *r, const uint8_t *p, const uint8_t *end, spec *s)
{
    size_t step = 0;
    *s = (spec){.fill = ' ', .precision = -1};
    if (p < end) tc_utf8_get(p, &step);
    if (step && p + step < end && strchr("<>^=", p[step]) && p[step]) {
        s->fill = tc_utf8_get(p, &step);
        s->align = (char)p[step];
        p += step + 1;
    } else if (p < end && *p && strchr("<>^=", *p)) {
        s->align = (char)*p++;
    }
    if (p < end && *p && strchr("+- ", *p)) s->sign = (char)*p++;
    if (p < end && *p == '#') s->alternate = true, p++;
    if (p < end && *p == '0') s->zero = true, p++;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        if (s->width <= WIDTH_MAX) s->width = s->width * 10 + (*p - '0');
    if (p < end && (*p == ',' || *p == '_')) s->comma = (char)*p++;
    if (p < end && *p == '.') {
        s->precision = 0;
        if (++p >= end || *p < '0' || *p > '9')
            return bad(r, "ValueError", "Format specifier missing precision");
        for (; p < end && *p >= '0' && *p <= '9'; p++)
            if (s->precision <= WIDTH_MAX) s->precision = s->precision * 10 + (*p - '0');
    }
    if (p < end) s->type = (char)*p++;
    if (p != end) return bad(r, "ValueError", "Invalid format specifier");
    if (s->width > WIDTH_MAX || (s->precision > PRECISION_MAX && s->type && s->type != 's'))
        return bad(r, "LimitExceeded", "a format's width or precision is too large");
    return true;
}

static bool format_value(tc_tr *r, tc_tsb *b, tc_tv v, const uint8_t *p, const uint8_t *end)
{
    spec s;
    if (p == end) return tc_tv_print(r, b, v);
    if (!parse_spec(r, p, end, &s)) return false;
    if (v.kind == TC_TV_STR || v.kind == TC_TV_BOOL) {
        bool text = v.kind == TC_TV_STR || s.type == 0 || s.type == 's';
        if (text && v.kind == TC_TV_BOOL && s.type == 0) { // an int, but shown by its name only without spec
            v = tc_tv_int(v.b);
            text = false;
        }
        if (text) {
            if ((s.type && s.type != 's') || s.sign || s.comma || s.align == '=')
                return bad(r, "ValueError", "Unknown format code for object of type 'str'");
            if (s.zero && s.fill == ' ') s.fill = '0';
            v = tc_tv_to_str(r, v);
            return !TC_TV_FAILED(v) && put_text(r, b, &s, v.s);
        }
    }
    if (!tc_tv_is_number(v)) {
        bad(r, "TypeError", "unsupported format string passed to __format__");
        return false;
    }
    bool integer = v.kind != TC_TV_FLOAT, floats = s.type && strchr("eEfFgG%", s.type);
    if (integer && !floats) {
        int64_t n = v.kind == TC_TV_BOOL ? v.b : v.i;
        if (s.type == 'c' && n >= 0 && n <= 0x10ffff) return tc_tsb_char(r, b, (uint32_t)n, TC_ORIGIN_DATA);
        if ((s.type && !strchr("dxXobn", s.type)) || s.precision >= 0)
            return bad(r, "ValueError", "Unknown format code for object of type 'int'");
        return put_integer(r, b, &s, n);
    }
    if (s.type && !floats && s.type != 'n')
        return bad(r, "ValueError", "Unknown format code for object of type 'float'");
    return put_float(r, b, &s, tc_tv_number(v));
}

typedef struct braces {
    const tc_ts *format;
    const tc_targs *args;
    size_t automatic;
    int depth;
} braces;

static bool braces_run(tc_tr *r, tc_tsb *b, braces *q, const uint8_t *p, const uint8_t *end);

static bool first_part(tc_tr *r, braces *q, const uint8_t *p, size_t n, tc_tv *ret)
{
    size_t index = 0;
    bool number = true;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') number = false;
        if (number && index < 100000) index = index * 10 + (size_t)(p[i] - '0');
    }
    if (n == 0) index = q->automatic++;
    if (number) {
        if (index >= q->args->count)
            return bad(r, "IndexError", "Replacement index out of range for positional args tuple");
        *ret = q->args->items[index];
        return true;
    }
    for (size_t i = 0; i < q->args->named; i++)
        if (q->args->names[i]->bytes == n && !memcmp(q->args->names[i]->data, p, n)) {
            *ret = q->args->values[i];
            return true;
        }
    return bad(r, "KeyError", "a name that format() was not given");
}

// `name`, then any of `.attribute` and `[index]`.
static bool field_value(tc_tr *r, braces *q, const uint8_t *p, const uint8_t *end, tc_tv *ret)
{
    size_t n = 0;
    while (p + n < end && p[n] != '.' && p[n] != '[') n++;
    if (!first_part(r, q, p, n, ret)) return false;
    for (p += n; p < end;) {
        bool item = *p++ == '[', number = true;
        for (n = 0; p + n < end && (item ? p[n] != ']' : p[n] != '.' && p[n] != '['); n++)
            if (p[n] < '0' || p[n] > '9') number = false;
        if (n == 0) return bad(r, "ValueError", "Empty attribute in format string");
        tc_tv key = tc_tv_str(r, p, n, TC_ORIGIN_TEMPLATE);
        if (TC_TV_FAILED(key)) return false;
        if (item && number && n < 10) {
            int64_t index = 0;
            for (size_t i = 0; i < n; i++) index = index * 10 + (p[i] - '0');
            key = tc_tv_int(index);
        }
        *ret = item ? tc_tv_getitem(r, *ret, key)
                    : tc_tv_getattr(r, *ret, key.s, tc_method_of_name(key.s->data, key.s->bytes));
        if (TC_TV_FAILED(*ret)) return false;
        p += n + item;
    }
    return true;
}

// One field without its braces: name, !conversion, :spec (which may hold fields itself).
static bool field(tc_tr *r, tc_tsb *b, braces *q, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *name = p;
    tc_tsb text = {0};
    tc_tv v;
    int depth = 0;
    while (p < end && ((*p != '!' && *p != ':') || depth)) {
        depth += *p == '[' ? 1 : *p == ']' ? -1 : 0;
        p++;
    }
    if (!field_value(r, q, name, p, &v)) return false;
    if (p < end && *p == '!') {
        if (p + 1 >= end || !strchr("rsa", p[1])) return bad(r, "ValueError", "Unknown conversion specifier");
        if (p[1] == 's' ? !tc_tv_print(r, &text, v) : !tc_tv_repr(r, &text, v)) return false;
        v = tc_tsb_take(r, &text);
        p += 2;
        if (TC_TV_FAILED(v)) return false;
    }
    if (p < end && *p++ != ':') return bad(r, "ValueError", "expected ':' after conversion specifier");
    if (q->format->markup) v = tc_tv_escape(r, v);
    if (TC_TV_FAILED(v)) return false;
    if (q->depth >= 2) return bad(r, "ValueError", "Max string recursion exceeded");
    q->depth++;
    bool ok = braces_run(r, &text, q, p, end);
    q->depth--;
    static const uint8_t none[1];
    const uint8_t *how = text.data ? text.data : none;
    return ok && format_value(r, b, v, how, how + text.bytes);
}

static bool braces_run(tc_tr *r, tc_tsb *b, braces *q, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *base = q->format->data;
    for (const uint8_t *run = p; run < end || p < end;) {
        while (p < end && *p != '{' && *p != '}') p++;
        if (!tc_tsb_substr(r, b, q->format, (size_t)(run - base), (size_t)(p - base)) || !tc_tr_work(r, 1))
            return false;
        if (p >= end) break;
        if (p + 1 < end && p[1] == *p) {
            if (!tc_tsb_substr(r, b, q->format, (size_t)(p - base), (size_t)(p + 1 - base))) return false;
            p += 2;
        } else if (*p == '}') {
            return bad(r, "ValueError", "Single '}' encountered in format string");
        } else {
            const uint8_t *from = ++p;
            int depth = 1;
            for (; p < end && depth; p++) depth += *p == '{' ? 1 : *p == '}' ? -1 : 0;
            if (depth) return bad(r, "ValueError", "Single '{' encountered in format string");
            if (!field(r, b, q, from, p - 1)) return false;
        }
        run = p;
    }
    return true;
}

tc_tv tc_str_format(tc_tr *r, tc_tv format, tc_targs *args)
{
    braces q = {format.s, args, 0, 0};
    tc_tsb b = {0};
    if (!braces_run(r, &b, &q, format.s->data, format.s->data + format.s->bytes))
        return TC_TV_OF(TC_TV_ERROR);
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), format.s->markup);
}

// ---- strftime
// ----------------------------------------------------------------------------------------------

tc_tv tc_strftime(tc_tr *r, const tc_ts *format)
{
    char out[STRFTIME_MAX], piece[16];
    tc_tsb b = {0};
    struct tm now = *r->now;
    const char *p = (const char *)format->data, *end = p + format->bytes;
    while (p < end) {
        size_t n = 1;
        if (*p != '%' || p + 1 == end) {
            while (p + n < end && p[n] != '%') n++;
            if (!tc_tsb_put(r, &b, p, n,
                            format->origin == TC_ORIGIN_TEMPLATE ? TC_ORIGIN_TEMPLATE : TC_ORIGIN_DATA))
                return TC_TV_OF(TC_TV_ERROR);
            p += n;
            continue;
        }
        while (p + n < end && n < sizeof piece - 2 && strchr("-_0^#EO123456789", p[n])) n++;
        if (p + n == end || n > 6) return tc_tr_fail(r, "ValueError", "Invalid format string");
        memcpy(piece, p, n + 1);
        piece[n + 1] = '\0';
        out[0] = '\0';
        if (piece[n] == 'f')
            strcpy(out, "000000");                   // the time has no fractions
        else if (piece[n] != 'z' && piece[n] != 'Z') // nor a zone
            strftime(out, sizeof out, piece, &now);
        if (!tc_tsb_text(r, &b, out)) return TC_TV_OF(TC_TV_ERROR);
        p += n + 1;
    }
    return tc_tsb_take(r, &b);
}
