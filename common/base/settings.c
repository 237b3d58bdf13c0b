// SPDX-License-Identifier: Apache-2.0
// Owns: the table, the reading of values, the walk over a command line.
#include "common/base/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    G = TC_FOR_GATEWAY,
    C = TC_FOR_CORE,
    W = TC_FOR_WORKER,
    S = TC_FOR_SERVE,
    P = TC_FOR_PACK,
    REPEATS = TC_SETTING_REPEATS,
    INTERNAL = TC_SETTING_INTERNAL,
    RELOAD = TC_SETTING_RELOAD,
};

static const tc_setting table[] = {
#define X(id, name, kind, value, least, most, fallback, programs, flags, help)                               \
    {TC_OPT_##id, name, TC_SET_##kind, value, least, most, fallback, programs, flags, help},
#include "common/base/settings.def"
#undef X
};
_Static_assert(sizeof table / sizeof *table == TC_OPT_COUNT - 1, "a row an id");

static const tc_setting help_setting = {TC_OPT_HELP, "help", TC_SET_FLAG, NULL, 0, 0, "", TC_FOR_ALL, 0, ""};
static const tc_setting version_setting = {TC_OPT_VERSION, "version", TC_SET_FLAG, NULL, 0, 0, "",
                                           TC_FOR_ALL,     0,         ""};

const tc_setting *tc_setting_of(tc_setting_id id)
{
    return id > TC_OPT_NONE && id < TC_OPT_COUNT ? &table[id - 1] : NULL;
}

static bool is_named(const tc_setting *s, const char *name, size_t n)
{
    return strlen(s->name) == n && memcmp(s->name, name, n) == 0;
}

const tc_setting *tc_setting_find(unsigned program, const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if ((table[i].programs & program) && is_named(&table[i], name, n)) return &table[i];
    return NULL;
}

static bool read_number(const tc_setting *s, const char *text, uint64_t *ret)
{
    static const char letters[] = "KMGT";
    char *end;
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno) return false;
    const char *letter = s->kind == TC_SET_BYTES && *end ? strchr(letters, *end) : NULL;
    if (letter) {
        unsigned shift = 10u * (unsigned)(letter - letters + 1);
        if (value > UINT64_MAX >> shift) return false;
        value <<= shift;
        end++;
    }
    if (*end || value < s->least || value > s->most) return false;
    *ret = value;
    return true;
}

static int read_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    int index = 0;
    if (strchr(text, '|')) return -1;
    for (const char *p = choices; n && p; p = strchr(p, '|'), p = p ? p + 1 : NULL, index++)
        if (strncmp(p, text, n) == 0 && (p[n] == '|' || p[n] == 0)) return index;
    return -1;
}

tc_status tc_setting_read(const tc_setting *s, const char *text, tc_setting_value *ret, tc_error *e)
{
    tc_setting_value value = {.text = text};
    if (strlen(text) > TC_SETTING_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "--%s: a value of more than %d bytes", s->name, TC_SETTING_BYTES_MAX);
    switch (s->kind) {
    case TC_SET_TEXT:
        if (!*text) return tc_fail(e, TC_ARGUMENT, "--%s: the value is empty", s->name);
        break;
    case TC_SET_CHOICE:
        value.choice = read_choice(s->value, text);
        if (value.choice < 0)
            return tc_fail(e, TC_ARGUMENT, "--%s %.80s: not one of %s", s->name, text, s->value);
        break;
    case TC_SET_NUMBER:
    case TC_SET_BYTES:
        if (!read_number(s, text, &value.number))
            return tc_fail(e, TC_ARGUMENT, "--%s %.80s: not a whole number from %llu to %llu%s", s->name,
                           text, (unsigned long long)s->least, (unsigned long long)s->most,
                           s->kind == TC_SET_BYTES ? " (K, M, G or T may follow)" : "");
        break;
    case TC_SET_FLAG:
        if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0)
            return tc_fail(e, TC_ARGUMENT, "--%s %.80s: not yes or no", s->name, text);
        value.number = text[0] == 'y';
        break;
    }
    *ret = value;
    return TC_OK;
}

static const tc_setting *find_option(unsigned program, const char *name, size_t n)
{
    if (is_named(&help_setting, name, n) || (n == 1 && *name == 'h')) return &help_setting;
    if (is_named(&version_setting, name, n)) return &version_setting;
    return tc_setting_find(program, name, n);
}

tc_status tc_settings_parse(unsigned program, int argc, char *const *argv, tc_setting_apply *apply, void *arg,
                            tc_error *e)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *name = word + (word[0] == '-' && word[1] == '-' ? 2 : 1);
        if (word[0] != '-' || !*name) return tc_fail(e, TC_ARGUMENT, "unexpected argument '%.200s'", word);
        const char *equals = strchr(name, '=');
        size_t n = equals ? (size_t)(equals - name) : strlen(name);
        const tc_setting *s = name - word == 2 || n == 1 ? find_option(program, name, n) : NULL;
        if (!s) return tc_fail(e, TC_ARGUMENT, "unknown option '%.200s' (--help shows all)", word);
        const char *text = equals ? equals + 1 : NULL;
        if (s->kind == TC_SET_FLAG && !text) text = "yes";
        if (!text && ++i == argc) return tc_fail(e, TC_ARGUMENT, "--%s needs a value", s->name);
        if (!text) text = argv[i];
        tc_setting_value value;
        TC_TRY(tc_setting_read(s, text, &value, e));
        TC_TRY(apply(arg, s, &value, e));
    }
    return TC_OK;
}

void tc_settings_help(unsigned program, FILE *out)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const tc_setting *s = &table[i];
        char left[96];
        if (!(s->programs & program)) continue;
        snprintf(left, sizeof left, "--%s %s", s->name, s->value ? s->value : "");
        fprintf(out, "  %-32s %s", left, s->help);
        if (s->fallback[0] && s->kind != TC_SET_FLAG) fprintf(out, " (default: %s)", s->fallback);
        fputc('\n', out);
    }
}

tc_status tc_program_setting(const tc_setting *setting, const tc_setting_value *value,
                             tc_program_settings *to, bool *ret_taken, tc_error *e)
{
    *ret_taken = true;
    switch (setting->id) {
    case TC_OPT_HELP:
    case TC_OPT_VERSION:
        to->show = setting->id;
        return tc_fail(e, TC_CANCELLED, "nothing is left to do");
    case TC_OPT_LOG_LEVEL:
        to->log_level = (tc_log_level)value->choice;
        return TC_OK;
    case TC_OPT_LOG_FORMAT:
        to->log_format = (tc_log_format)value->choice;
        return TC_OK;
    case TC_OPT_TRACE:
        to->trace = value->text;
        return TC_OK;
    case TC_OPT_PROBE_DIR:
        to->probe_dir = value->text;
        return TC_OK;
    case TC_OPT_CORE_DUMPS:
        to->core_dumps = value->number;
        return TC_OK;
    case TC_OPT_JOURNALD:
        to->journald = value->number;
        return TC_OK;
    case TC_OPT_PARENT_PID:
        to->parent_pid = (long)value->number;
        return TC_OK;
    case TC_OPT_CONFIG:
        return TC_OK;
    default:
        *ret_taken = false;
        return TC_OK;
    }
}
