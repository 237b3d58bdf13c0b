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

// A bar of its own kind, for work whose steps have names: part is 0..1 of the whole. On a terminal only; does
// not look at signals. Between tc_progress_clear and the next show other lines may be printed.
void tc_progress_name(tc_progress *progress, const char *what);
void tc_progress_show(tc_progress *progress, double part, const char *step);
void tc_progress_clear(tc_progress *progress);
