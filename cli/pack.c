// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `pack`: writes the packed store and prints its path, and nothing else, on stdout.
#include "cli/cli.h"
#include "cli/pull.h"
#include "cli/run.h"
#include "common/base/config.h"

#include <stdio.h>
#include <unistd.h>

static int pack(int argc, char **argv)
{
    tc_run_options o = {0};
    const char *model = NULL;
    bool force = false, packed;
    char path[TC_STORE_PATH_BYTES];
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.setting = TC_OPT_CONFIG, .target = &o.config},
        {.setting = TC_OPT_MODEL, .target = &model},
        {.name = "--force",
         .kind = TC_OPTION_FLAG,
         .target = &force,
         .help = "pack again even if the store is there"},
        TC_PACK_OPTIONS(o),
        {0},
    };
    int code = tc_options_parse(table, "pack [MODEL] [options]", 0, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if (arguments.count) model = arguments.positional[0];
    if (!model) {
        tc_fail(&e, TC_ARGUMENT,
                "pack: too few arguments: which model? (MODEL, --model, or the configuration)");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    char pulled[TC_HUB_PATH_BYTES];
    if (tc_pull_model(model, pulled, &e) != TC_OK) return tc_cli_fail(&e);
    model = pulled;
    if (tc_run_prepare(model, o.cache_dir, o.quantise, force, &packed, path, &e) != TC_OK)
        return tc_cli_fail(&e);
    if (!packed) fprintf(stderr, "thermocline: already packed\n");
    puts(path);
    return 0;
}

int tc_cli_pack(int argc, char **argv)
{
    tc_arguments_full full;
    tc_error e;
    if (tc_config_expand(TC_FOR_PACK, argc, argv, environ, &full, &e) != TC_OK) {
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    int code = pack(full.argc, full.argv);
    tc_config_expand_free(&full);
    return code;
}
