// SPDX-License-Identifier: Apache-2.0
// Owns: parsing of the option tables and the help text made from them.
#include "cli/options.h"
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int bad_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int bad_usage(const char *format, ...)
{
    tc_error e;
    char text[TC_ERROR_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    tc_fail(&e, TC_ARGUMENT, "%s", text); // makes control characters printable
    fprintf(stderr, "thermocline: error: %s\n", e.text);
    return TC_EXIT_USAGE;
}

tc_options_hook *tc_options_describe;

tc_option tc_option_full(const tc_option *option, char name[TC_OPTION_NAME_BYTES])
{
    static const tc_option_kind kinds[] = {[TC_SET_TEXT] = TC_OPTION_TEXT,
                                           [TC_SET_CHOICE] = TC_OPTION_CHOICE,
                                           [TC_SET_NUMBER] = TC_OPTION_NUMBER,
                                           [TC_SET_BYTES] = TC_OPTION_BYTES,
                                           [TC_SET_FLAG] = TC_OPTION_FLAG};
    tc_option full = *option;
    const tc_setting *s = tc_setting_of(option->setting);
    if (!s) return full;
    snprintf(name, TC_OPTION_NAME_BYTES, "--%s", s->name);
    full.name = name;
    full.kind = kinds[s->kind];
    full.choices = s->value;
    full.help = s->help;
    full.min = (double)s->least;
    full.max = (double)s->most;
    full.repeats = s->flags & TC_SETTING_REPEATS;
    return full;
}

static void print_help(const tc_option *table, const char *usage)
{
    printf("usage: thermocline %s\n", usage);
    for (const tc_option *entry = table; entry->name || entry->setting; entry++) {
        char left[64], name[TC_OPTION_NAME_BYTES];
        const tc_option full = tc_option_full(entry, name), *o = &full;
        const char *value = o->kind == TC_OPTION_FLAG ? "" : o->choices ? o->choices : "N";
        snprintf(left, sizeof left, "%s %s", o->name, value);
        printf("  %-28s %s\n", left, o->help);
    }
}

static bool in_choices(const char *choices, const char *text)
{
    size_t n = strlen(text);
    if (strchr(text, '|')) return false;
    for (const char *p = choices; n && p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, text, n) == 0 && (p[n] == '|' || p[n] == 0)) return true;
    return false;
}

static bool parse_whole(const char *text, bool suffixes, uint64_t *ret)
{
    static const char letters[] = "KMGT";
    char *end;
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno) return false;
    const char *letter = suffixes && *end ? strchr(letters, *end) : NULL;
    if (letter) {
        unsigned shift = 10u * (unsigned)(letter - letters + 1);
        if (value > UINT64_MAX >> shift) return false;
        value <<= shift;
        end++;
        if (end[0] == 'i' && end[1] == 'B') end += 2; // GiB is what G means
    }
    if (*end) return false;
    *ret = value;
    return true;
}

static int store_number(const tc_option *o, const char *text)
{
    uint64_t value;
    if (!parse_whole(text, o->kind == TC_OPTION_BYTES, &value) || (double)value < o->min ||
        (double)value > o->max)
        return bad_usage("%s %s: expected a whole number from %.0f to %.0f", o->name, text, o->min, o->max);
    *(uint64_t *)o->target = value;
    return -1;
}

static int store_real(const tc_option *o, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < o->min || value > o->max)
        return bad_usage("%s %s: expected a number from %g to %g", o->name, text, o->min, o->max);
    *(double *)o->target = value;
    return -1;
}

static int store_repeated(const tc_option *o, const char *text)
{
    tc_texts *list = o->target;
    if (list->count == TC_TEXTS_MAX) return bad_usage("%s: at most %d of them", o->name, TC_TEXTS_MAX);
    list->items[list->count++] = text;
    return -1;
}

static int store(const tc_option *o, const char *text)
{
    if (o->repeats) return store_repeated(o, text);
    switch (o->kind) {
    case TC_OPTION_NUMBER:
    case TC_OPTION_BYTES:
        return store_number(o, text);
    case TC_OPTION_REAL:
        return store_real(o, text);
    case TC_OPTION_CHOICE:
        if (!in_choices(o->choices, text)) return bad_usage("%s %s: expected %s", o->name, text, o->choices);
        *(const char **)o->target = text;
        return -1;
    case TC_OPTION_TEXT:
        *(const char **)o->target = text;
        return -1;
    default:
        *(bool *)o->target = true;
        return -1;
    }
}

// The entry named by the n bytes, in full; its name lies in `name`. False: none.
static bool find(const tc_option *table, const char *text, size_t n, tc_option *ret,
                 char name[TC_OPTION_NAME_BYTES])
{
    for (const tc_option *o = table; o->name || o->setting; o++) {
        *ret = tc_option_full(o, name);
        if (strlen(ret->name) == n && strncmp(ret->name, text, n) == 0) return true;
    }
    return false;
}

int tc_options_parse(const tc_option *table, const char *usage, int min_count, int max_count, int argc,
                     char **argv, tc_arguments *ret)
{
    tc_arguments arguments = {0};
    bool only_positional = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (only_positional || word[0] != '-' || !word[1]) {
            if (arguments.count == max_count) return bad_usage("%s: unexpected argument '%s'", argv[0], word);
            arguments.positional[arguments.count++] = word;
            continue;
        }
        if (!strcmp(word, "--")) {
            only_positional = true;
            continue;
        }
        if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            if (tc_options_describe)
                tc_options_describe(table, usage);
            else
                print_help(table, usage);
            return 0;
        }
        const char *equals = strchr(word, '=');
        char name[TC_OPTION_NAME_BYTES];
        tc_option option, *o = &option;
        if (!find(table, word, equals ? (size_t)(equals - word) : strlen(word), &option, name))
            return bad_usage("%s: unknown option '%s' (see thermocline %s --help)", argv[0], word, argv[0]);
        const char *value = equals ? equals + 1 : NULL;
        if (o->kind == TC_OPTION_FLAG && value) return bad_usage("%s takes no value", o->name);
        if (o->kind != TC_OPTION_FLAG && !value) {
            if (i + 1 == argc) return bad_usage("%s needs a value", o->name);
            value = argv[++i];
        }
        int code = store(o, value);
        if (code >= 0) return code;
        if (o->given) *o->given = true;
    }
    if (arguments.count < min_count)
        return bad_usage("%s: too few arguments; usage: thermocline %s", argv[0], usage);
    *ret = arguments;
    return -1;
}
