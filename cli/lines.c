// SPDX-License-Identifier: Apache-2.0
// Owns: the buffer behind lines.h; it grows to the longest line seen.
#include "cli/lines.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 18 };

tc_status tc_lines_next(tc_lines *r, char **ret_line, size_t *ret_bytes, tc_error *e)
{
    size_t seen = 0;
    for (;;) {
        char *start = r->data + r->begin, *stop = NULL;
        if (r->end > r->begin + seen) stop = memchr(start + seen, '\n', r->end - r->begin - seen);
        seen = r->end - r->begin;
        if (stop || (r->eof && seen)) {
            *ret_line = start;
            *ret_bytes = stop ? (size_t)(stop - start) : seen;
            r->begin += *ret_bytes + (stop != NULL);
            r->line++;
            return *ret_bytes <= r->line_bytes_max
                       ? TC_OK
                       : tc_fail(e, TC_LIMIT, "longer than %zu bytes", r->line_bytes_max);
        }
        if (r->eof) {
            *ret_line = NULL;
            return TC_OK;
        }
        if (seen > r->line_bytes_max) {
            r->line++;
            return tc_fail(e, TC_LIMIT, "longer than %zu bytes", r->line_bytes_max);
        }
        if (r->begin) memmove(r->data, start, seen);
        r->begin = 0, r->end = seen;
        if (r->capacity - r->end < READ_BYTES) {
            char *grown = realloc(r->data, r->capacity * 2 + READ_BYTES);
            if (!grown) return tc_fail(e, TC_NOMEM, "out of memory");
            r->data = grown;
            r->capacity = r->capacity * 2 + READ_BYTES;
        }
        ssize_t n;
        do n = read(STDIN_FILENO, r->data + r->end, r->capacity - r->end);
        while (n < 0 && errno == EINTR);
        if (n < 0) return tc_fail_errno(e, TC_IO, "reading standard input");
        r->eof = n == 0;
        r->end += (size_t)n;
    }
}

void tc_lines_free(tc_lines *r)
{
    free(r->data);
    *r = (tc_lines){0};
}
