// SPDX-License-Identifier: Apache-2.0
// Owns: what all verbs share: their entry points, the one error line, and how sizes are written.
// A verb gets argv[0] = its name and returns the exit code: 0, 1 for a failure, 2 for bad usage, 130 after
// Ctrl-C.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

int tc_cli_serve(int argc, char **argv);
int tc_cli_generate(int argc, char **argv);
int tc_cli_pack(int argc, char **argv);
int tc_cli_pull(int argc, char **argv);
int tc_cli_convert(int argc, char **argv);
int tc_cli_ls(int argc, char **argv);
int tc_cli_rm(int argc, char **argv);
int tc_cli_inspect(int argc, char **argv);
int tc_cli_quick_test(int argc, char **argv);
int tc_cli_eval(int argc, char **argv);
int tc_cli_bench(int argc, char **argv);
int tc_cli_profile(int argc, char **argv);
int tc_cli_replay(int argc, char **argv);
int tc_cli_plan(int argc, char **argv);
int tc_cli_arena(int argc, char **argv);
int tc_cli_config(int argc, char **argv);
int tc_cli_manual(int argc, char **argv);
int tc_cli_top(int argc, char **argv);
int tc_cli_doctor(int argc, char **argv);

enum { TC_EXIT_FAILURE = 1, TC_EXIT_USAGE = 2, TC_EXIT_INTERRUPTED = 130, TC_BYTES_TEXT = 24 };

// Prints "thermocline: error: <text>" and returns the exit code that fits the status.
int tc_cli_fail(const tc_error *e);

// "1.62 MiB" into `ret`, which is returned.
const char *tc_cli_bytes(uint64_t bytes, char ret[TC_BYTES_TEXT]);
