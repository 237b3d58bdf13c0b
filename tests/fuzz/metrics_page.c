// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing what `thermocline top` reads of a server, which may be anybody's: the text format and its
// histograms.
#include "cli/metrics.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

// Of the page's way over HTTP, which is not taken here.
tc_status tc_http_get(const char *listen, const char *path, const char *key, char *ret, size_t bytes,
                      int *ret_code, tc_error *e);
tc_status tc_http_get(const char *listen, const char *path, const char *key, char *ret, size_t bytes,
                      int *ret_code, tc_error *e)
{
    (void)listen, (void)path, (void)key, (void)ret, (void)bytes, (void)ret_code, (void)e;
    abort();
}

static int parse(const uint8_t *data, size_t bytes, tc_page *ret)
{
    char *text = malloc(bytes + 1);
    tc_error e;
    if (!text) abort();
    memcpy(text, data, bytes);
    text[bytes] = 0;
    return tc_page_parse(text, ret, &e) == TC_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tc_page before, after;
    if (bytes > TC_PAGE_BYTES_MAX) return 0;
    const uint8_t *half = bytes ? memchr(data, 0, bytes) : NULL;
    size_t first = half ? (size_t)(half - data) : bytes;
    if (!parse(data, first, &before)) return 0;
    if (parse(half ? half + 1 : data, half ? bytes - first - 1 : 0, &after)) {
        after.taken_s = before.taken_s + 1;
        volatile double used = tc_page_value(&after, "a{b=\"c\"}") + tc_page_sum(&after, "a", "b") +
                               tc_page_rate(&after, &before, "a", "");
        used += tc_page_quantile(&after, &before, "a", "", 0.5); // of a page that lies: any number
        (void)used;
        if (after.count > TC_SERIES_MAX) abort();
        tc_page_free(&after);
    }
    tc_page_free(&before);
    return 0;
}
