// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `convert`: any model as a folder in bitsandbytes' NF4 layout.
#include "common/model/convert.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/pull.h"

#include <stdio.h>

int tc_cli_convert(int argc, char **argv)
{
    char pulled[TC_HUB_PATH_BYTES];
    uint64_t shard_bytes = 4ull << 30;
    bool dense = false;
    tc_checkpoint *checkpoint = NULL;
    tc_progress progress;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--shard-size",
         .kind = TC_OPTION_BYTES,
         .target = &shard_bytes,
         .choices = "BYTES",
         .min = 1 << 20,
         .max = 1e15,
         .help = "largest safetensors file (default 4G)"},
        {.name = "--dense",
         .kind = TC_OPTION_FLAG,
         .target = &dense,
         .help = "weights of 16 bits instead: what the quantised ones stand for"},
        {0},
    };
    int code = tc_options_parse(table, "convert MODEL FOLDER [options]", 2, 2, argc, argv, &arguments);
    if (code >= 0) return code;
    if (tc_pull_model(arguments.positional[0], pulled, &e) != TC_OK ||
        tc_checkpoint_open(pulled, &checkpoint, &e) != TC_OK)
        return tc_cli_fail(&e);
    const tc_convert_options options = {
        .shard_bytes = shard_bytes, .dense = dense, .progress = tc_progress_step, .arg = &progress};
    tc_progress_begin(&progress, "converting");
    tc_status status = tc_convert_nf4(checkpoint, pulled, arguments.positional[1], &options, &e);
    tc_progress_end(&progress);
    tc_checkpoint_free(checkpoint);
    if (status != TC_OK) return tc_cli_fail(&e);
    puts(arguments.positional[1]);
    return 0;
}
