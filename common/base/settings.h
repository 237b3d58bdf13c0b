// SPDX-License-Identifier: Apache-2.0
// Owns: the one table of options (settings.def): their names, ranges, defaults, help, and who takes which;
// reading a command line by it; and the help text made from it. Refuses: short options, abbreviations,
// numbers with anything behind them but, for bytes, K, M, G or T.
#pragma once

#include "common/base/log.h"
#include "common/base/status.h"
#include <stdint.h>
#include <stdio.h>

typedef enum tc_setting_kind {
    TC_SET_TEXT,
    TC_SET_CHOICE, // one of `value` ("a|b|c")
    TC_SET_NUMBER, // in [least, most]
    TC_SET_BYTES,  // the same, with K, M, G, T = 2^10, 2^20, ...
    TC_SET_FLAG,   // --name; in files: name = yes | no
} tc_setting_kind;

// Who takes a setting.
enum {
    TC_FOR_GATEWAY = 1,
    TC_FOR_CORE = 2,
    TC_FOR_WORKER = 4,
    TC_FOR_SERVE = 8,
    TC_FOR_PACK = 16,
    TC_FOR_ALL = 31
};

enum {
    TC_SETTING_REPEATS = 1,  // may be given several times
    TC_SETTING_INTERNAL = 2, // on command lines only
    TC_SETTING_RELOAD = 4,   // SIGHUP applies it
};

typedef enum tc_setting_id {
    TC_OPT_NONE,
#define X(id, name, kind, value, least, most, fallback, programs, flags, help) TC_OPT_##id,
#include "common/base/settings.def"
#undef X
    TC_OPT_COUNT,
    TC_OPT_HELP,
    TC_OPT_VERSION,
} tc_setting_id;

typedef struct tc_setting {
    tc_setting_id id;
    const char *name;
    tc_setting_kind kind;
    const char *value; // choices, or what stands for the value in help; NULL for flags
    uint64_t least, most;
    const char *fallback; // what holds where it is not given, in words; "": it must be given
    unsigned programs, flags;
    const char *help;
} tc_setting;

enum { TC_SETTING_BYTES_MAX = 4096 }; // of a value

const tc_setting *tc_setting_of(tc_setting_id id);
// By the program's name of it (n bytes). NULL: none of this program.
const tc_setting *tc_setting_find(unsigned program, const char *name, size_t n);

typedef struct tc_setting_value {
    const char *text; // borrowed
    uint64_t number;  // NUMBER, BYTES; FLAG: 1
    int choice;       // index in the choices
} tc_setting_value;

// Reads and checks a value; errors name the setting as --name.
tc_status tc_setting_read(const tc_setting *setting, const char *text, tc_setting_value *ret, tc_error *e);
// "--name VALUE", "--name=VALUE", "--flag" of this program, in order. `apply` is told of each; TC_OPT_HELP
// and TC_OPT_VERSION come as settings of that id. Anything else is an error.
typedef tc_status tc_setting_apply(void *arg, const tc_setting *setting, const tc_setting_value *value,
                                   tc_error *e);
tc_status tc_settings_parse(unsigned program, int argc, char *const *argv, tc_setting_apply *apply, void *arg,
                            tc_error *e);

// What each of our processes takes. Texts borrow from argv.
typedef struct tc_program_settings {
    tc_log_level log_level;
    tc_log_format log_format;
    const char *trace;     // NULL: none
    const char *probe_dir; // NULL: none
    bool journald, core_dumps;
    long parent_pid;    // 0: none; else leave when it does
    tc_setting_id show; // TC_OPT_HELP, TC_OPT_VERSION: only that was asked for
} tc_program_settings;

// For the program's own apply. *ret_taken: it was one of these (or --config, which has been read before).
// TC_CANCELLED: `show` was set, nothing is left to do.
tc_status tc_program_setting(const tc_setting *setting, const tc_setting_value *value,
                             tc_program_settings *to, bool *ret_taken, tc_error *e);

// One line an option, with its default.
void tc_settings_help(unsigned program, FILE *out);
