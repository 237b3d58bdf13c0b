// SPDX-License-Identifier: Apache-2.0
// Owns: command-line options as a table: --name value, --name=value, --flag, and positional arguments.
// Refuses: short options, abbreviations, and numbers with anything behind them but K, M, G or T.
#pragma once

#include "common/base/settings.h"
#include <stdint.h>

typedef enum tc_option_kind {
    TC_OPTION_TEXT,   // const char *; of a setting that may be given several times: tc_texts
    TC_OPTION_CHOICE, // const char *, one of `choices` ("a|b|c")
    TC_OPTION_NUMBER, // uint64_t in [min, max]
    TC_OPTION_BYTES,  // uint64_t in [min, max], with K, M, G, T = 2^10, 2^20, ...
    TC_OPTION_REAL,   // double in [min, max]
    TC_OPTION_FLAG,   // bool
} tc_option_kind;

typedef struct tc_option {
    tc_setting_id setting; // one of the shared table: then only target and given are set here
    const char *name;      // with the dashes; NULL, and no setting: the table ends
    tc_option_kind kind;
    void *target;
    const char *choices, *help; // `choices` also names the value in the help of other kinds
    double min, max;
    bool *given;  // may be NULL
    bool repeats; // filled by tc_option_full
} tc_option;

enum { TC_TEXTS_MAX = 16 };
typedef struct tc_texts {
    const char *items[TC_TEXTS_MAX];
    uint32_t count;
} tc_texts;

enum { TC_POSITIONALS_MAX = 4 };

typedef struct tc_arguments {
    const char *positional[TC_POSITIONALS_MAX];
    int count;
} tc_arguments;

// A table's entry with what the shared table says of it. `name` holds the dashed name.
enum { TC_OPTION_NAME_BYTES = 48 };
tc_option tc_option_full(const tc_option *option, char name[TC_OPTION_NAME_BYTES]);

// While it is set, --help hands the verb's table over instead of printing it: man pages and completions are
// made that way.
typedef void tc_options_hook(const tc_option *table, const char *usage);
extern tc_options_hook *tc_options_describe;

// Returns -1 to go on; else the exit code (0 after --help, 2 after one error line). `usage` is the line after
// "usage: thermocline ". min_count..max_count positional arguments.
int tc_options_parse(const tc_option *table, const char *usage, int min_count, int max_count, int argc,
                     char **argv, tc_arguments *ret);
