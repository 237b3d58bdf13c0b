// SPDX-License-Identifier: Apache-2.0
// Owns: the files of a report: read once, written beside their place and renamed.
#include "cli/report.h"
#include "cli/report_view.h"

#include <limits.h>
#include <stdlib.h>

typedef void writer(const tc_results *r, const tc_groups *g, FILE *f);

static tc_status put(const char *dir, const char *name, writer *write, const tc_results *r,
                     const tc_groups *g, tc_error *e)
{
    char path[PATH_MAX], part[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name),
        m = snprintf(part, sizeof part, "%s/.%s.part", dir, name);
    if (n < 0 || m < 0 || (size_t)n >= sizeof path || (size_t)m >= sizeof part)
        return tc_fail(e, TC_ARGUMENT, "%s: too long a path", dir);
    FILE *f = fopen(part, "we");
    if (!f) return tc_fail_errno(e, TC_IO, "%s", part);
    write(r, g, f);
    return tc_results_put(f, part, path, e);
}

tc_status tc_report_write(const char *dir, tc_error *e)
{
    tc_results *r = NULL;
    tc_groups g = {0};
    tc_status status;
    TC_TRY(tc_results_load(dir, &r, e));
    TC_GOTO(tc_groups_make(r, &g, e));
    TC_GOTO(put(dir, "report.html", tc_report_html, r, &g, e));
    TC_GOTO(put(dir, "report.md", tc_report_markdown, r, &g, e));
out:
    tc_groups_free(&g);
    tc_results_free(r);
    return status;
}
