// SPDX-License-Identifier: Apache-2.0
// Owns: progress on stderr: a bar on a terminal, a plain line every tenth elsewhere; nothing for what is done
// at once.
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct tc_progress {
    const char *what;
    uint64_t started_us, shown_us;
    uint32_t tenths;
    bool drawn;
} tc_progress;

void tc_progress_begin(tc_progress *progress, const char *what);
// Fits tc_pack_options.progress: arg is a tc_progress. False once Ctrl-C or SIGTERM came.
bool tc_progress_step(void *arg, uint64_t done, uint64_t total);
void tc_progress_end(tc_progress *progress);
