// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing results.jsonl: what is read of it must keep its bounds, and both pages of the report must be
// made of whatever was read.
#include "cli/report.h"
#include "cli/report_view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const tc_results *r)
{
    if (!r->run_count || r->run_count > TC_RESULTS_RUNS_MAX || r->part_count > TC_RESULTS_PARTS_MAX) abort();
    for (uint32_t i = 0; i < r->count; i++) {
        const tc_result *item = &r->items[i];
        if (item->part_at >= r->part_count || item->run >= r->run_count) abort();
        if (item->kind == TC_RESULT_FIGURE &&
            (!isfinite(item->median) || item->low > item->median || item->median > item->high))
            abort();
        for (uint32_t j = 0; j < i && i < 64; j++) // ids are there once a kind
            if (item->kind == r->items[j].kind && !strcmp(item->id, r->items[j].id)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tc_results *r;
    tc_groups groups;
    tc_error e;
    if (bytes > 1 << 17 || tc_results_parse("results", (const char *)data, bytes, &r, &e) != TC_OK) return 0;
    check(r);
    if (tc_groups_make(r, &groups, &e) != TC_OK) abort();
    char *page = NULL;
    size_t length;
    FILE *f = open_memstream(&page, &length);
    if (!f) abort();
    tc_report_html(r, &groups, f);
    tc_report_markdown(r, &groups, f);
    if (fclose(f) != 0) abort();
    // Nothing of the file is taken for markup, and no number came out of nothing.
    if (strcasestr(page, "<script") || strstr(page, "nan\"") || strstr(page, "inf\"")) abort();
    free(page);
    tc_groups_free(&groups);
    tc_results_free(r);
    return 0;
}
