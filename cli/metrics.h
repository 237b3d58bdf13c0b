// SPDX-License-Identifier: Apache-2.0
// Owns: reading a gateway's /metrics: series by name and label, and quantiles of histograms between two
// readings.
#pragma once

#include "common/base/status.h"
#include <stddef.h>

enum { TC_PAGE_BYTES_MAX = 1 << 20, TC_SERIES_MAX = 8192 };

typedef struct tc_page {
    char *text; // owner: the page; cut into lines
    struct tc_series {
        const char *name; // with labels: `a{b="c"}`
        double value;
    } * series;
    size_t count;
    double taken_s; // monotonic
} tc_page;

tc_status tc_page_get(const char *listen, const char *key, tc_page *ret, tc_error *e);
tc_status tc_page_parse(char *text, tc_page *ret, tc_error *e); // takes over text (malloc'ed)
void tc_page_free(tc_page *page);
// NAN where there is no such series.
double tc_page_value(const tc_page *page, const char *series);
// Sum of all series of that name whose labels hold `label` ("": all); NAN without any.
double tc_page_sum(const tc_page *page, const char *name, const char *label);
// Increase a second since `before` of that sum; NAN where it is not known.
double tc_page_rate(const tc_page *page, const tc_page *before, const char *name, const char *label);
// Quantile in seconds of what a histogram counted between the two; NAN: nothing.
double tc_page_quantile(const tc_page *page, const tc_page *before, const char *name, const char *label,
                        double q);
