// SPDX-License-Identifier: Apache-2.0
// Shows: the table of options, the configuration that becomes a command line, and that each program reads all
// of its settings.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/config.h"
#include "expert-worker/options.h"
#include "gateway/options.h"
#include "gpu-core/options.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void values(void **state)
{
    static const struct {
        tc_setting_id id;
        const char *text;
        bool good;
        uint64_t number; // or the choice
    } cases[] = {
        {TC_OPT_SESSIONS, "1", true, 1},
        {TC_OPT_SESSIONS, "64", true, 64},
        {TC_OPT_SESSIONS, "0", false, 0},
        {TC_OPT_SESSIONS, "65", false, 0},
        {TC_OPT_SESSIONS, "", false, 0},
        {TC_OPT_SESSIONS, "-1", false, 0},
        {TC_OPT_SESSIONS, "8 ", false, 0},
        {TC_OPT_SESSIONS, "8K", false, 0},
        {TC_OPT_KV_BUDGET, "2G", true, 2ull << 30},
        {TC_OPT_KV_BUDGET, "0", false, 0},
        {TC_OPT_KV_BUDGET, "99999999999G", false, 0},
        {TC_OPT_KV_BUDGET, "2g", false, 0},
        {TC_OPT_PRECISION, "exact", true, 0},
        {TC_OPT_PRECISION, "fast", true, 2},
        {TC_OPT_PRECISION, "fas", false, 0},
        {TC_OPT_PRECISION, "exact|float", false, 0},
        {TC_OPT_PRECISION, "", false, 0},
        {TC_OPT_LOG_FORMAT, "json", true, 2},
        {TC_OPT_CORE_DUMPS, "yes", true, 1},
        {TC_OPT_CORE_DUMPS, "no", true, 0},
        {TC_OPT_CORE_DUMPS, "true", false, 0},
        {TC_OPT_MODEL, "", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const tc_setting *s = tc_setting_of(cases[i].id);
        tc_setting_value value = {0};
        tc_error e;
        bool good = tc_setting_read(s, cases[i].text, &value, &e) == TC_OK;
        if (good != cases[i].good) fail_msg("--%s '%s'", s->name, cases[i].text);
        if (good)
            assert_int_equal(s->kind == TC_SET_CHOICE ? (uint64_t)value.choice : value.number,
                             cases[i].number);
        if (!good && !strstr(e.text, s->name)) fail_msg("'%s' does not name --%s", e.text, s->name);
    }
    char *longest = calloc(1, TC_SETTING_BYTES_MAX + 2);
    tc_setting_value value;
    memset(longest, 'x', TC_SETTING_BYTES_MAX);
    assert_int_equal(tc_setting_read(tc_setting_of(TC_OPT_MODEL), longest, &value, NULL), TC_OK);
    longest[TC_SETTING_BYTES_MAX] = 'x';
    assert_int_equal(tc_setting_read(tc_setting_of(TC_OPT_MODEL), longest, &value, NULL), TC_LIMIT);
    free(longest);
}

static const char *good_value(const tc_setting *s)
{
    static char text[64];
    if (s->kind == TC_SET_FLAG) return "yes";
    if (s->id == TC_OPT_FAULT) return "crash-after=3";
    if (s->id == TC_OPT_DEVICE_FAULT) return "head-after=3";
    if (s->id == TC_OPT_CPUS) return "0";
    if (s->id == TC_OPT_PROMPT_BORDER) return "auto";
    if (s->kind == TC_SET_TEXT) return "text";
    if (s->kind == TC_SET_CHOICE) {
        snprintf(text, sizeof text, "%.*s", (int)strcspn(s->value, "|"), s->value);
        return text;
    }
    snprintf(text, sizeof text, "%llu", (unsigned long long)(s->least ? s->least : 1));
    return text;
}

static tc_status read_by(unsigned program, int argc, char **argv, tc_error *e)
{
    static tc_core_options core;
    static tc_worker_options worker;
    tc_gateway_settings gateway;
    return program == TC_FOR_CORE     ? tc_core_options_read(argc, argv, &core, e)
           : program == TC_FOR_WORKER ? tc_worker_options_read(argc, argv, &worker, e)
                                      : tc_gateway_settings_read(argc, argv, &gateway, e);
}

// A row of the table that a program does not read, or a name in the command line that is not in the table,
// shows here.
static void every_program_reads_its_rows(void **state)
{
    static const unsigned programs[] = {TC_FOR_CORE, TC_FOR_WORKER, TC_FOR_GATEWAY};
    for (size_t p = 0; p < 3; p++) {
        for (int id = TC_OPT_NONE + 1; id < TC_OPT_COUNT; id++) {
            const tc_setting *s = tc_setting_of(id);
            char option[128];
            tc_error e;
            if (!(s->programs & programs[p])) continue;
            snprintf(option, sizeof option, "--%s=%s", s->name, good_value(s));
            char *argv[] = {(char *)"p",
                            (char *)"--model=m",
                            (char *)"--engine=ipc:///e",
                            (char *)"--experts=ipc:///x",
                            (char *)"--of=64",
                            (char *)"--of=64",
                            option};
            int argc = 7;
            if (programs[p] == TC_FOR_CORE) argv[4] = argv[5] = (char *)"--workers=1";
            if (programs[p] == TC_FOR_WORKER) argv[2] = argv[1];
            if (programs[p] == TC_FOR_GATEWAY) argv[3] = argv[4] = argv[5] = argv[1];
            if (read_by(programs[p], argc, argv, &e) != TC_OK) fail_msg("%s: %s", option, e.text);
        }
    }
}

static tc_status parse(const char *text, tc_config *c, tc_error *e)
{
    return tc_config_parse(c, text, strlen(text), "x.conf", e);
}

static void files(void **state)
{
    static const struct {
        const char *text, *error; // NULL: good
        uint32_t count;
    } cases[] = {
        {"", NULL, 0},
        {"# nothing\n\n \t\n", NULL, 0},
        {"sessions = 4\nlisten=127.0.0.1:1\r\n", NULL, 2},
        {"  model   =  /a b  \n", NULL, 1},
        {"cors-origin = a\ncors-origin = b\n", NULL, 2},
        {"\n\nsession = 4\n", "x.conf:3: there is no setting 'session'", 0},
        {"sessions = 4\nsessions = 5\n", "x.conf:2: sessions is set already in x.conf:1", 1},
        {"sessions\n", "x.conf:1: expected `name = value`", 0},
        {"sessions = 65\n", "x.conf:1: --sessions 65: not a whole number from 1 to 64", 0},
        {"sessions =\n", "x.conf:1: --sessions : not a whole number", 0},
        {"store = /x\n", "there is no setting 'store'", 0}, // command line only
        {"[core]\n", "x.conf:1: expected", 0},
        {"core-dumps = yes\n", NULL, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_config *c = calloc(1, sizeof *c);
        tc_error e;
        tc_status status = parse(cases[i].text, c, &e);
        if ((status == TC_OK) != !cases[i].error) fail_msg("%s", cases[i].text);
        if (cases[i].error && !strstr(e.text, cases[i].error))
            fail_msg("'%s', not '%s'", e.text, cases[i].error);
        assert_int_equal(c->count, cases[i].count);
        tc_config_free(c);
        free(c);
    }
}

static void file_limits(void **state)
{
    tc_config *c = calloc(1, sizeof *c);
    char *text = malloc(TC_CONFIG_FILE_BYTES_MAX + 2);
    tc_error e;
    memset(text, '#', TC_CONFIG_FILE_BYTES_MAX + 1);
    assert_int_equal(tc_config_parse(c, text, TC_CONFIG_FILE_BYTES_MAX, "x", &e), TC_OK);
    assert_int_equal(tc_config_parse(c, text, TC_CONFIG_FILE_BYTES_MAX + 1, "x", &e), TC_LIMIT);
    assert_int_equal(tc_config_parse(c, "model = a\0b\n", 12, "x", &e), TC_FORMAT);
    size_t used = 0;
    for (int i = 0; i < TC_CONFIG_ENTRIES_MAX; i++)
        used += (size_t)sprintf(text + used, "cors-origin = o%d\n", i);
    assert_int_equal(tc_config_parse(c, text, used, "x", &e), TC_OK);
    assert_int_equal(tc_config_parse(c, "allow-host = h\n", 15, "x", &e), TC_LIMIT);
    tc_config_free(c);
    free(c);
    free(text);
}

// File, then environment, then command line; the last one wins in the program's own reading.
static void precedence(void **state)
{
    char path[] = "/tmp/tc-settings-XXXXXX", config[64];
    FILE *file = fdopen(mkstemp(path), "w");
    fputs("model = /file\nsessions = 2\ncontext = 100\nlisten = 127.0.0.1:1\nengine = ipc:///e\nexperts = "
          "ipc:///x\n",
          file);
    fclose(file);
    snprintf(config, sizeof config, "--config=%s", path);
    char *argv[] = {(char *)"core", config, (char *)"--context", (char *)"300", NULL};
    char *environment[] = {(char *)"THERMOCLINE_CONTEXT=200", (char *)"THERMOCLINE_SESSIONS=3",
                           (char *)"THERMOCLINE_UNKNOWN=1", (char *)"THERMOCLINE_CHUNK_MS=7", NULL};
    tc_arguments_full full, other;
    tc_core_options *o = calloc(1, sizeof *o);
    tc_error e;
    char names[256];
    assert_int_equal(tc_config_expand(TC_FOR_CORE, 4, argv, environment, &full, &e), TC_OK);
    assert_int_equal(tc_core_options_read(full.argc, full.argv, o, &e), TC_OK);
    assert_string_equal(o->model, "/file");
    assert_int_equal(o->sessions, 3);
    assert_int_equal(o->context, 300);
    assert_int_equal(o->chunk_us, 7000);
    environment[1] = (char *)"THERMOCLINE_SESSIONS=5";
    environment[3] = (char *)"THERMOCLINE_CHUNK_MS=8";
    assert_int_equal(tc_config_expand(TC_FOR_CORE, 4, argv, environment, &other, &e), TC_OK);
    tc_config_needs_restart(TC_FOR_CORE, &full, &other, names, sizeof names);
    assert_string_equal(names, "sessions"); // chunk-ms is applied, context did not change
    tc_config_expand_free(&full);
    tc_config_expand_free(&other);
    environment[1] = (char *)"THERMOCLINE_SESSIONS=99";
    assert_int_equal(tc_config_expand(TC_FOR_CORE, 4, argv, environment, &full, &e), TC_ARGUMENT);
    assert_non_null(strstr(e.text, "THERMOCLINE_SESSIONS: --sessions 99"));
    unlink(path);
    assert_int_equal(tc_config_expand(TC_FOR_CORE, 4, argv, environment, &full, &e), TC_NOT_FOUND);
    free(o);
}

static void command_lines(void **state)
{
    static const char *const bad[] = {"stray", "--nothing", "-x", "--sessions", "--sessions=0", "-", "--"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tc_error e;
        char *argv[] = {(char *)"p", (char *)"--model=m", (char *)"--engine=e", (char *)"--experts=x",
                        (char *)bad[i]};
        if (read_by(TC_FOR_CORE, 5, argv, &e) != TC_ARGUMENT) fail_msg("%s was taken", bad[i]);
    }
    tc_core_options *o = calloc(1, sizeof *o);
    char *help[] = {(char *)"p", (char *)"-h"}, *version[] = {(char *)"p", (char *)"--version"};
    assert_int_equal(tc_core_options_read(2, help, o, NULL), TC_CANCELLED);
    assert_int_equal(o->program.show, TC_OPT_HELP);
    assert_int_equal(tc_core_options_read(2, version, o, NULL), TC_CANCELLED);
    assert_int_equal(o->program.show, TC_OPT_VERSION);
    free(o);
}

// What is not in the table's kinds: a number or a word.
static void prompt_borders(void **state)
{
    static const struct {
        const char *option;
        uint32_t tokens; // 0: as times tell; 1: refused
    } cases[] = {{"--prompt-border=auto", 0}, {"--prompt-border=64", 64},   {"--prompt-border=256", 256},
                 {"--prompt-border=63", 1},   {"--prompt-border=257", 1},   {"--prompt-border=64x", 1},
                 {"--prompt-border=-64", 1},  {"--prompt-border=+64", 1},   {"--prompt-border=4294967360", 1},
                 {"--prompt-border=aut", 1},  {"--prompt-border=autom", 1}, {"--prompt-border=1e2", 1}};
    tc_core_options *o = calloc(1, sizeof *o);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_error e;
        char *argv[] = {(char *)"p", (char *)"--model=m", (char *)"--engine=e", (char *)"--experts=x",
                        (char *)cases[i].option};
        const tc_status status = tc_core_options_read(5, argv, o, &e);
        if ((status == TC_OK) != (cases[i].tokens != 1)) fail_msg("%s", cases[i].option);
        if (status != TC_OK) continue;
        assert_int_equal(o->prompt_border, cases[i].tokens);
    }
    char *none[] = {(char *)"p", (char *)"--model=m", (char *)"--engine=e", (char *)"--experts=x"};
    assert_int_equal(tc_core_options_read(4, none, o, NULL), TC_OK);
    assert_true(!o->prompt_border && o->prompt_share);
    free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),         cmocka_unit_test(every_program_reads_its_rows),
        cmocka_unit_test(files),          cmocka_unit_test(file_limits),
        cmocka_unit_test(precedence),     cmocka_unit_test(command_lines),
        cmocka_unit_test(prompt_borders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
