// SPDX-License-Identifier: Apache-2.0
// Owns: reading lines of bounded length from standard input, for the verbs that work line by line.
#pragma once

#include "common/base/status.h"

typedef struct tc_lines {
    size_t line_bytes_max; // the caller's limit
    char *data;
    size_t begin, end, capacity;
    size_t line; // number of the last line given, from 1
    bool eof;
} tc_lines;

// Next line without its newline, in the reader's own memory until the next call. *ret_line is NULL at the end
// of the input. A line beyond the limit is TC_LIMIT.
tc_status tc_lines_next(tc_lines *r, char **ret_line, size_t *ret_bytes, tc_error *e);
void tc_lines_free(tc_lines *r);
