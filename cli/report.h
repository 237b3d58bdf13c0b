// SPDX-License-Identifier: Apache-2.0
// Owns: the report of a suite: what lies in a folder's results.jsonl (cli/results.h) as one page,
// report.html, and as tables, report.md. Refuses: measuring, and figures of its own: everything it shows was
// in the file.
#pragma once

#include "common/base/status.h"

#include <stdio.h>

struct tc_results; // cli/results.h
struct tc_groups;  // cli/report_view.h

// Reads dir/results.jsonl and writes dir/report.html and dir/report.md, each whole or not at all. A file that
// ends early (an interrupted run) makes a report that names what is missing.
tc_status tc_report_write(const char *dir, tc_error *e);

// The two pages, for tc_report_write. Errors of the stream are the caller's to look for.
void tc_report_html(const struct tc_results *r, const struct tc_groups *g, FILE *f);
void tc_report_markdown(const struct tc_results *r, const struct tc_groups *g, FILE *f);
