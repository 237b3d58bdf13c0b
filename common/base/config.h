// SPDX-License-Identifier: Apache-2.0
// Owns: what a program is configured with: thermocline.conf, then THERMOCLINE_* of the environment, then the
// command line; later ones win. Everything ends up as one command line that the program's own options read,
// so that a value is checked the same wherever it comes from. Refuses: to read the environment itself (the
// program hands it over), sections, includes, and settings it does not know.
#pragma once

#include "common/base/settings.h"

enum {
    TC_CONFIG_FILE_BYTES_MAX = 65536,
    TC_CONFIG_ENTRIES_MAX = 256, // in all, from everywhere
    TC_CONFIG_ARGUMENTS_MAX = 512,
};
#define TC_CONFIG_PATH "/etc/thermocline/thermocline.conf"

typedef struct tc_config_entry {
    const tc_setting *setting;
    char *text;       // owner: the config
    char origin[280]; // "FILE:LINE" or "THERMOCLINE_NAME"
} tc_config_entry;

typedef struct tc_config {
    tc_config_entry entry[TC_CONFIG_ENTRIES_MAX];
    uint32_t count;
} tc_config;

// Reads the settings of `text`; names and values are checked, for whichever program they are. A setting that
// does not repeat may stand there once.
tc_status tc_config_parse(tc_config *config, const char *text, size_t bytes, const char *name, tc_error *e);
tc_status tc_config_read(tc_config *config, const char *path, tc_error *e);
// THERMOCLINE_<NAME> (capitals, '_' for '-') of `environment`; each replaces what the file said. Others of
// that prefix are left alone.
tc_status tc_config_environment(tc_config *config, char *const *environment, tc_error *e);
void tc_config_free(tc_config *config); // NULL is legal
// The last entry of the setting, or NULL.
const tc_config_entry *tc_config_get(const tc_config *config, tc_setting_id id);

// A command line with the configuration in front of what was given.
typedef struct tc_arguments_full {
    int argc;
    char *argv[TC_CONFIG_ARGUMENTS_MAX + 1];
    tc_config *config; // owner; the texts lie there
    char *texts;       // owner
} tc_arguments_full;

// Looks for --config FILE in argv; without one only the environment counts. The result's argv borrows from
// argv.
tc_status tc_config_expand(unsigned program, int argc, char **argv, char *const *environment,
                           tc_arguments_full *ret, tc_error *e);
void tc_config_expand_free(tc_arguments_full *full);
// Whether both give the setting the same values in the same order.
bool tc_config_same(unsigned program, const tc_arguments_full *a, const tc_arguments_full *b,
                    tc_setting_id id);
// Names of the settings that differ and that SIGHUP does not apply, ", " between; "" when there are none.
void tc_config_needs_restart(unsigned program, const tc_arguments_full *a, const tc_arguments_full *b,
                             char *ret, size_t bytes);
// The documented file, every key at its default, from the table.
void tc_config_reference(FILE *out);
