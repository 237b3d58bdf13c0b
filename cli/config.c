// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `config`: check a configuration, show what holds and why, print one value, print the
// documented file.
#include "common/base/config.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "common/base/cpus.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// The file and the environment, as the programs take them. Without --config: the installed file, where there
// is one.
static tc_status load(const char *path, tc_config *config, tc_error *e)
{
    if (!path && access(TC_CONFIG_PATH, F_OK) == 0) path = TC_CONFIG_PATH;
    if (path) TC_TRY(tc_config_read(config, path, e));
    return tc_config_environment(config, environ, e);
}

// What holds: for workers the number that "one a NUMA node" means here.
static const char *effective(const tc_config *config, const tc_setting *s, char scratch[32])
{
    const tc_config_entry *entry = tc_config_get(config, s->id);
    if (entry) return entry->text;
    if (s->id != TC_OPT_WORKERS) return NULL;
    snprintf(scratch, 32, "%u", tc_numa_nodes());
    return scratch;
}

static void show(const tc_config *config)
{
    for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
        const tc_setting *s = tc_setting_of(id);
        bool any = false;
        if (s->flags & TC_SETTING_INTERNAL) continue;
        for (uint32_t i = 0; i < config->count; i++) {
            if (config->entry[i].setting != s) continue;
            printf("%s = %s    # %s\n", s->name, config->entry[i].text, config->entry[i].origin);
            any = true;
        }
        if (!any) printf("# %s: %s\n", s->name, *s->fallback ? s->fallback : "must be given");
    }
}

// What a value names must be there: the model's folder, the file of keys.
static unsigned check_places(const tc_config *config)
{
    static const struct {
        tc_setting_id id;
        const char *below;
    } places[] = {
        {TC_OPT_MODEL, "/config.json"}, {TC_OPT_MODEL, "/tokenizer.json"}, {TC_OPT_API_KEY_FILE, ""}};
    unsigned wrong = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const tc_config_entry *entry = tc_config_get(config, places[i].id);
        char path[TC_SETTING_BYTES_MAX + 32];
        if (!entry) continue;
        size_t bytes = strlen(entry->text);
        bool file = bytes > 5 && strcmp(entry->text + bytes - 5, ".gguf") == 0; // holds all of them
        snprintf(path, sizeof path, "%s%s", entry->text, file ? "" : places[i].below);
        if (access(path, R_OK) == 0) continue;
        tc_error e;
        tc_fail_errno(&e, TC_NOT_FOUND, "%s: %s: %s", entry->origin, entry->setting->name, path);
        tc_cli_fail(&e);
        wrong++;
    }
    return wrong;
}

static int value_of(const tc_config *config, const char *name)
{
    char scratch[32];
    tc_error e;
    const tc_setting *s = name ? tc_setting_find(TC_FOR_ALL, name, strlen(name)) : NULL;
    if (!s) {
        tc_fail(&e, TC_ARGUMENT, "config get: there is no setting '%s'", name ? name : "");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    const char *value = effective(config, s, scratch);
    if (value) puts(value);
    return 0;
}

int tc_cli_config(int argc, char **argv)
{
    const char *path = NULL;
    const tc_option table[] = {{.setting = TC_OPT_CONFIG, .target = &path}, {0}};
    tc_arguments arguments;
    tc_error e;
    int code = tc_options_parse(table, "config check|show|get NAME|reference [--config FILE]", 1, 2, argc,
                                argv, &arguments);
    if (code >= 0) return code;
    const char *what = arguments.positional[0];
    if (!strcmp(what, "reference")) {
        tc_config_reference(stdout);
        return 0;
    }
    tc_config *config = calloc(1, sizeof *config);
    if (!config) {
        tc_fail(&e, TC_NOMEM, "out of memory");
        return tc_cli_fail(&e);
    }
    if (load(path, config, &e) != TC_OK) {
        code = tc_cli_fail(&e);
    } else if (!strcmp(what, "show")) {
        show(config);
        code = 0;
    } else if (!strcmp(what, "get")) {
        code = value_of(config, arguments.count > 1 ? arguments.positional[1] : NULL);
    } else if (!strcmp(what, "check")) {
        code = check_places(config) ? TC_EXIT_FAILURE : 0;
        if (!code) printf("the configuration is good: %u settings\n", config->count);
    } else {
        tc_fail(&e, TC_ARGUMENT, "config %s: not one of check, show, get, reference", what);
        tc_cli_fail(&e);
        code = TC_EXIT_USAGE;
    }
    tc_config_free(config);
    free(config);
    return code;
}
