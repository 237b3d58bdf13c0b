// SPDX-License-Identifier: Apache-2.0
// Owns: the table of verbs, for main and for whoever writes about them.
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct tc_verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *arguments, *help;
    bool has_options; // it reads an option table, and --help shows it
} tc_verb;

extern const tc_verb tc_verbs[];
extern const size_t tc_verb_count;
