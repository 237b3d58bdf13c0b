// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `pack`: writes the packed store and prints its path, and nothing else, on stdout.
#include "cli/cli.h"
#include "cli/run.h"

#include <stdio.h>

int tc_cli_pack(int argc, char **argv)
{
    tc_run_options o = {0};
    bool force = false, packed;
    char path[TC_STORE_PATH_BYTES];
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--force",
         .kind = TC_OPTION_FLAG,
         .target = &force,
         .help = "pack again even if the store is there"},
        TC_PACK_OPTIONS(o),
        {0},
    };
    int code = tc_options_parse(table, "pack MODEL [options]", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if (tc_run_prepare(arguments.positional[0], o.cache_dir, o.quantise, force, &packed, path, &e) != TC_OK)
        return tc_cli_fail(&e);
    if (!packed) fprintf(stderr, "thermocline: already packed\n");
    puts(path);
    return 0;
}
