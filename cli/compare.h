// SPDX-License-Identifier: Apache-2.0
// Owns: two files of results against each other: which figures moved beyond their noise. A figure moved when
// its mean differs by Welch's t-test (two-sided p below TC_COMPARE_P) and its median by at least the
// threshold. Where both sides have a roofline, measured in their own run, the parts of it that were reached
// must differ by the same test too; else it was the machine that moved. Against a baseline of several runs
// the median must also lie outside of everything that those runs saw: runs differ by more than repetitions
// do. Figures of the section `quality` come from fixed texts and have no noise: there any change of
// TC_COMPARE_QUALITY counts. A figure with a single repetition on either side cannot be told from noise, and
// is only listed. Refuses: to average different figures.
#pragma once

#include "cli/results.h"

#include <stdio.h>

#define TC_COMPARE_P 0.001
#define TC_COMPARE_QUALITY 0.002

typedef enum tc_verdict {
    TC_VERDICT_WORSE,
    TC_VERDICT_MOVED, // of a figure of which neither way is better
    TC_VERDICT_ONCE,  // far enough to be told, measured once
    TC_VERDICT_MACHINE,
    TC_VERDICT_BETTER,
    TC_VERDICT_SAME,
    TC_VERDICT_GONE, // in A only
    TC_VERDICT_NEW,  // in B only
    TC_VERDICTS
} tc_verdict;

typedef struct tc_change {
    const tc_result *a, *b; // NULL: not there
    tc_verdict verdict;
    double change, p; // of the medians, as a part of A's; p NAN: no test
} tc_change;

typedef struct tc_comparison {
    const tc_results *a, *b;
    tc_change *changes; // verdict by verdict, the largest change first
    uint32_t count, counts[TC_VERDICTS];
} tc_comparison;

// threshold: a part of one, 0.03 is 3 %. Free the changes with free().
tc_status tc_compare(const tc_results *a, const tc_results *b, double threshold, tc_comparison *ret,
                     tc_error *e);
void tc_compare_print(const tc_comparison *c, double threshold, bool all, FILE *f);

// folder/MACHINE.jsonl of the last run's machine. ret holds PATH_MAX.
tc_status tc_baseline_path(const char *folder, const tc_results *r, char *ret, tc_error *e);

// ---- the verbs ----
typedef struct tc_compare_options {
    const char *baselines; // folder of MACHINE.jsonl
    double threshold;      // percent
    bool fail_on_regression, all;
} tc_compare_options;
enum { TC_BASELINE_RUNS_MAX = 3 };

// `bench compare A B`: each a folder or a file. b NULL: A is held against the baseline of its machine.
// Returns the exit code: 1 when something is worse and that was asked for.
int tc_cli_compare(const char *a, const char *b, const tc_compare_options *o);
// `bench baseline DIR`: adds the run's figures to the baseline of its machine, the oldest of more than
// TC_BASELINE_RUNS_MAX runs goes.
int tc_cli_baseline(const char *results, const tc_compare_options *o);
