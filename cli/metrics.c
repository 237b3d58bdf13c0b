// SPDX-License-Identifier: Apache-2.0
// Owns: the reading of the text format and the arithmetic over two pages.
#include "cli/metrics.h"
#include "cli/health.h"
#include "common/base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

tc_status tc_page_parse(char *text, tc_page *ret, tc_error *e)
{
    tc_page page = {.text = text, .taken_s = (double)tc_now_us() / 1e6};
    page.series = calloc(TC_SERIES_MAX, sizeof *page.series);
    if (!page.series) {
        free(text);
        return tc_fail(e, TC_NOMEM, "out of memory for metrics");
    }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *space = strrchr(line, ' '), *end;
        if (*line == '#' || !space || page.count == TC_SERIES_MAX) continue;
        double value = strtod(space + 1, &end);
        if (end == space + 1 || *end) continue;
        *space = 0;
        page.series[page.count].name = line;
        page.series[page.count++].value = value;
    }
    *ret = page;
    return TC_OK;
}

tc_status tc_page_get(const char *listen, const char *key, tc_page *ret, tc_error *e)
{
    int code = 0;
    char *text = malloc(TC_PAGE_BYTES_MAX);
    if (!text) return tc_fail(e, TC_NOMEM, "out of memory for metrics");
    tc_status status = tc_http_get(listen, "/metrics", key, text, TC_PAGE_BYTES_MAX, &code, e);
    if (status == TC_OK && code != 200)
        status = tc_fail(e, TC_PEER, "%s/metrics: answered %d%s", listen, code,
                         code == 401 ? "; name the keys with --api-key-file" : "");
    if (status == TC_OK) return tc_page_parse(text, ret, e);
    free(text);
    return status;
}

void tc_page_free(tc_page *page)
{
    free(page->text);
    free(page->series);
    *page = (tc_page){0};
}

double tc_page_value(const tc_page *page, const char *series)
{
    for (size_t i = 0; i < page->count; i++)
        if (!strcmp(page->series[i].name, series)) return page->series[i].value;
    return NAN;
}

static bool is_of(const char *series, const char *name, const char *label)
{
    size_t n = strlen(name);
    return !strncmp(series, name, n) && (series[n] == 0 || series[n] == '{') &&
           (!*label || strstr(series + n, label));
}

double tc_page_sum(const tc_page *page, const char *name, const char *label)
{
    double sum = NAN;
    for (size_t i = 0; i < page->count; i++)
        if (is_of(page->series[i].name, name, label))
            sum = isnan(sum) ? page->series[i].value : sum + page->series[i].value;
    return sum;
}

double tc_page_rate(const tc_page *page, const tc_page *before, const char *name, const char *label)
{
    double seconds = page->taken_s - before->taken_s;
    double increase = tc_page_sum(page, name, label) - tc_page_sum(before, name, label);
    return seconds > 0 && increase >= 0 ? increase / seconds : NAN; // it fell: a process started again
}

double tc_page_quantile(const tc_page *page, const tc_page *before, const char *name, const char *label,
                        double q)
{
    char bucket[96];
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    double last_bound = 0, last_count = 0, total = NAN;
    for (int pass = 0; pass < 2; pass++) { // first the total, then the bucket that holds the quantile
        for (size_t i = 0; i < page->count; i++) {
            const char *series = page->series[i].name, *at = strstr(series, "le=\"");
            if (!at || !is_of(series, bucket, label)) continue;
            double bound = strtod(at + 4, NULL);
            double was = tc_page_value(before, series),
                   count = page->series[i].value - (isnan(was) ? 0 : was);
            if (pass == 0) {
                if (isinf(bound)) total = count;
                continue;
            }
            if (count >= q * total) {
                if (isinf(bound)) return last_bound;
                double inside = count - last_count;
                return last_bound +
                       (bound - last_bound) * (inside > 0 ? (q * total - last_count) / inside : 1);
            }
            last_bound = bound;
            last_count = count;
        }
        if (isnan(total) || total <= 0) return NAN;
    }
    return NAN;
}
