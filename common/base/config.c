// SPDX-License-Identifier: Apache-2.0
// Owns: reading the file and the environment, and the command line that comes of it.
#include "common/base/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char prefix[] = "THERMOCLINE_";

static const tc_setting *find_any(const char *name, size_t n)
{
    for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
        const tc_setting *s = tc_setting_of(id);
        if (!(s->flags & TC_SETTING_INTERNAL) && strlen(s->name) == n && memcmp(s->name, name, n) == 0)
            return s;
    }
    return NULL;
}

static tc_status add(tc_config *c, const tc_setting *s, const char *text, size_t bytes, const char *origin,
                     tc_error *e)
{
    tc_setting_value value;
    if (c->count == TC_CONFIG_ENTRIES_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %d settings", origin, TC_CONFIG_ENTRIES_MAX);
    char *copy = strndup(text, bytes);
    if (!copy) return tc_fail(e, TC_NOMEM, "%s: out of memory", origin);
    if (tc_setting_read(s, copy, &value, e) != TC_OK) {
        free(copy);
        return tc_error_prefix(e, "%s", origin);
    }
    tc_config_entry *entry = &c->entry[c->count++];
    entry->setting = s;
    entry->text = copy;
    snprintf(entry->origin, sizeof entry->origin, "%s", origin);
    return TC_OK;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static tc_status parse_line(tc_config *c, const char *line, size_t bytes, const char *origin, tc_error *e)
{
    while (bytes && is_blank(*line)) line++, bytes--;
    while (bytes && is_blank(line[bytes - 1])) bytes--;
    if (!bytes || *line == '#') return TC_OK;
    if (memchr(line, 0, bytes)) return tc_fail(e, TC_FORMAT, "%s: the line holds a NUL byte", origin);
    const char *equals = memchr(line, '=', bytes);
    if (!equals) return tc_fail(e, TC_FORMAT, "%s: expected `name = value`", origin);
    size_t name = (size_t)(equals - line), value = bytes - name - 1;
    while (name && is_blank(line[name - 1])) name--;
    const char *text = equals + 1;
    while (value && is_blank(*text)) text++, value--;
    const tc_setting *s = find_any(line, name);
    if (!s)
        return tc_fail(e, TC_FORMAT, "%s: there is no setting '%.*s'", origin, name > 64 ? 64 : (int)name,
                       line);
    const tc_config_entry *before = tc_config_get(c, s->id);
    if (before && !(s->flags & TC_SETTING_REPEATS))
        return tc_fail(e, TC_FORMAT, "%s: %s is set already in %s", origin, s->name, before->origin);
    return add(c, s, text, value, origin, e);
}

tc_status tc_config_parse(tc_config *c, const char *text, size_t bytes, const char *name, tc_error *e)
{
    if (bytes > TC_CONFIG_FILE_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %d bytes", name, TC_CONFIG_FILE_BYTES_MAX);
    unsigned number = 1;
    for (size_t at = 0; at < bytes; number++) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t n = end ? (size_t)(end - text) - at : bytes - at;
        char origin[280];
        snprintf(origin, sizeof origin, "%.256s:%u", name, number);
        TC_TRY(parse_line(c, text + at, n, origin, e));
        at += n + 1;
    }
    return TC_OK;
}

tc_status tc_config_read(tc_config *c, const char *path, tc_error *e)
{
    tc_status status = TC_OK;
    size_t used = 0;
    ssize_t n = 0;
    char *text = malloc(TC_CONFIG_FILE_BYTES_MAX + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!text) {
        status = tc_fail(e, TC_NOMEM, "%s: out of memory", path);
        goto out;
    }
    if (fd < 0) {
        status = tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", path);
        goto out;
    }
    while (used <= TC_CONFIG_FILE_BYTES_MAX &&
           (n = read(fd, text + used, TC_CONFIG_FILE_BYTES_MAX + 1 - used)) > 0)
        used += (size_t)n;
    status = n < 0 ? tc_fail_errno(e, TC_IO, "%s", path) : tc_config_parse(c, text, used, path, e);
out:
    if (fd >= 0) close(fd);
    free(text);
    return status;
}

static void remove_of(tc_config *c, tc_setting_id id)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->entry[i].setting->id == id)
            free(c->entry[i].text);
        else
            c->entry[kept++] = c->entry[i];
    }
    c->count = kept;
}

tc_status tc_config_environment(tc_config *c, char *const *environment, tc_error *e)
{
    for (char *const *p = environment; p && *p; p++) {
        const char *equals = strchr(*p, '=');
        char name[64];
        if (!equals || strncmp(*p, prefix, sizeof prefix - 1) != 0) continue;
        size_t n = (size_t)(equals - *p) - (sizeof prefix - 1);
        if (n >= sizeof name || !equals[1]) continue;
        for (size_t i = 0; i < n; i++) {
            char letter = (*p)[sizeof prefix - 1 + i];
            name[i] = letter == '_' ? '-' : (char)tolower((unsigned char)letter);
        }
        const tc_setting *s = find_any(name, n);
        if (!s) continue;
        char origin[96];
        snprintf(origin, sizeof origin, "%.*s", (int)(equals - *p), *p);
        remove_of(c, s->id);
        TC_TRY(add(c, s, equals + 1, strlen(equals + 1), origin, e));
    }
    return TC_OK;
}

void tc_config_free(tc_config *c)
{
    if (!c) return;
    for (uint32_t i = 0; i < c->count; i++) free(c->entry[i].text);
    c->count = 0;
}

const tc_config_entry *tc_config_get(const tc_config *c, tc_setting_id id)
{
    for (uint32_t i = c->count; i > 0; i--)
        if (c->entry[i - 1].setting->id == id) return &c->entry[i - 1];
    return NULL;
}

// ---- the command line ----

// Which file argv names; the last one counts. NULL: none.
static const char *config_path(int argc, char **argv)
{
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--config") && i + 1 < argc) path = argv[++i];
        if (!strncmp(argv[i], "--config=", 9)) path = argv[i] + 9;
    }
    return path;
}

// "--name=value" for each entry this program takes, one after the other in texts.
static tc_status put_entries(unsigned program, const tc_config *c, tc_arguments_full *f, tc_error *e)
{
    size_t bytes = 1, used = 0;
    for (uint32_t i = 0; i < c->count; i++)
        bytes += strlen(c->entry[i].setting->name) + strlen(c->entry[i].text) + 4;
    f->texts = malloc(bytes);
    if (!f->texts) return tc_fail(e, TC_NOMEM, "out of memory for the configuration");
    for (uint32_t i = 0; i < c->count; i++) {
        const tc_config_entry *entry = &c->entry[i];
        if (!(entry->setting->programs & program)) continue;
        f->argv[f->argc++] = f->texts + used; // entries are fewer than arguments
        used += (size_t)sprintf(f->texts + used, "--%s=%s", entry->setting->name, entry->text) + 1;
    }
    return TC_OK;
}

tc_status tc_config_expand(unsigned program, int argc, char **argv, char *const *environment,
                           tc_arguments_full *ret, tc_error *e)
{
    tc_arguments_full f = {0};
    const char *path = config_path(argc, argv);
    tc_status status = TC_OK;
    f.config = calloc(1, sizeof *f.config);
    if (!f.config) return tc_fail(e, TC_NOMEM, "out of memory for the configuration");
    if (path) TC_GOTO(tc_config_read(f.config, path, e));
    TC_GOTO(tc_config_environment(f.config, environment, e));
    f.argv[f.argc++] = argv[0];
    TC_GOTO(put_entries(program, f.config, &f, e));
    for (int i = 1; i < argc; i++) {
        if (f.argc == TC_CONFIG_ARGUMENTS_MAX) {
            status = tc_fail(e, TC_LIMIT, "more than %d arguments", TC_CONFIG_ARGUMENTS_MAX);
            goto out;
        }
        f.argv[f.argc++] = argv[i];
    }
    *ret = f;
out:
    if (status != TC_OK) tc_config_expand_free(&f);
    return status;
}

void tc_config_expand_free(tc_arguments_full *f)
{
    tc_config_free(f->config);
    free(f->config);
    free(f->texts);
    f->config = NULL;
    f->texts = NULL;
}

// ---- differences ----

typedef struct collected {
    tc_setting_id id;
    const char *texts[64];
    uint32_t count;
    bool repeats;
} collected;

static tc_status collect(void *arg, const tc_setting *s, const tc_setting_value *value, tc_error *e)
{
    collected *c = arg;
    (void)e;
    if (s->id != c->id) return TC_OK;
    if (!c->repeats) c->count = 0;
    if (c->count < 64) c->texts[c->count++] = value->text;
    return TC_OK;
}

bool tc_config_same(unsigned program, const tc_arguments_full *a, const tc_arguments_full *b,
                    tc_setting_id id)
{
    bool repeats = tc_setting_of(id)->flags & TC_SETTING_REPEATS;
    collected x = {.id = id, .repeats = repeats}, y = x;
    tc_settings_parse(program, a->argc, a->argv, collect, &x, NULL);
    tc_settings_parse(program, b->argc, b->argv, collect, &y, NULL);
    if (x.count != y.count) return false;
    for (uint32_t i = 0; i < x.count; i++)
        if (strcmp(x.texts[i], y.texts[i]) != 0) return false;
    return true;
}

void tc_config_needs_restart(unsigned program, const tc_arguments_full *a, const tc_arguments_full *b,
                             char *ret, size_t bytes)
{
    size_t used = 0;
    ret[0] = 0;
    for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
        const tc_setting *s = tc_setting_of(id);
        if (!(s->programs & program) || (s->flags & TC_SETTING_RELOAD) || tc_config_same(program, a, b, id))
            continue;
        int n = snprintf(ret + used, bytes - used, "%s%s", used ? ", " : "", s->name);
        if (n < 0 || (size_t)n >= bytes - used) return;
        used += (size_t)n;
    }
}

// ---- the documented file ----

void tc_config_reference(FILE *out)
{
    fputs("# Thermocline's configuration. Each key is also an option (--key) of the programs that take it, "
          "and an\n"
          "# environment variable (THERMOCLINE_KEY, '_' for '-'); the environment overrides this file, the "
          "command line\n"
          "# overrides both. `thermocline config check` says what is wrong with it, `thermocline config "
          "show` what holds.\n"
          "# Keys marked [reload] are applied by `systemctl reload`; others by a restart.\n",
          out);
    for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
        const tc_setting *s = tc_setting_of(id);
        static const char *const names[] = {"gateway", "core", "worker", "serve"};
        if (s->flags & TC_SETTING_INTERNAL) continue;
        fprintf(out, "\n# %s", s->help);
        if (s->kind == TC_SET_CHOICE) fprintf(out, ": %s", s->value);
        if (s->kind == TC_SET_NUMBER)
            fprintf(out, " (%llu to %llu)", (unsigned long long)s->least, (unsigned long long)s->most);
        if (s->kind == TC_SET_BYTES) fputs(" (K, M, G or T may follow)", out);
        if (s->flags & TC_SETTING_RELOAD) fputs(" [reload]", out);
        fputs("\n# Read by:", out);
        for (int i = 0; i < 4; i++)
            if (s->programs & 1u << i) fprintf(out, " %s", names[i]);
        fprintf(out, ". Default: %s\n# %s =\n", s->fallback[0] ? s->fallback : "none, it must be given",
                s->name);
    }
}
