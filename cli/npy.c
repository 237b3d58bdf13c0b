// SPDX-License-Identifier: Apache-2.0
// Owns: the .npy header and the temporary file behind it.
#include "cli/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_BYTES = 128, ELEMENT_BYTES = 4 };

struct tc_npy {
    char *path, *temporary;
    int fd;
    uint64_t elements, written;
};

static tc_status write_at(const tc_npy *npy, uint64_t offset, const void *data, uint64_t bytes, tc_error *e)
{
    const char *p = data;
    while (bytes) {
        ssize_t n = pwrite(npy->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tc_fail_errno(e, TC_IO, "%s", npy->path);
        p += n, offset += (uint64_t)n, bytes -= (uint64_t)n;
    }
    return TC_OK;
}

static tc_status write_header(const tc_npy *npy, const char *dtype, const uint64_t *shape, unsigned dims,
                              tc_error *e)
{
    char header[HEADER_BYTES + 1], sizes[80] = "";
    for (unsigned i = 0; i < dims; i++) {
        size_t used = strlen(sizes);
        snprintf(sizes + used, sizeof sizes - used, "%s%llu%s", i ? " " : "", (unsigned long long)shape[i],
                 i + 1 < dims || dims == 1 ? "," : "");
    }
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10); // 0x76 = HEADER_BYTES - 10
    snprintf(header + 10, sizeof header - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
             dtype, sizes);
    size_t used = 10 + strlen(header + 10);
    memset(header + used, ' ', HEADER_BYTES - used);
    header[HEADER_BYTES - 1] = '\n';
    return write_at(npy, 0, header, HEADER_BYTES, e);
}

tc_status tc_npy_create(const char *path, const char *dtype, const uint64_t *shape, unsigned dims,
                        tc_npy **ret, tc_error *e)
{
    tc_npy *npy = calloc(1, sizeof *npy);
    if (!npy) return tc_fail(e, TC_NOMEM, "out of memory");
    npy->fd = -1;
    npy->elements = 1;
    for (unsigned i = 0; i < dims; i++) npy->elements *= shape[i];
    npy->path = strdup(path);
    if (asprintf(&npy->temporary, "%s.tmp-%d", path, (int)getpid()) < 0) npy->temporary = NULL;
    tc_status status = npy->path && npy->temporary ? TC_OK : tc_fail(e, TC_NOMEM, "out of memory");
    if (status == TC_OK) {
        npy->fd = open(npy->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        status =
            npy->fd >= 0 ? write_header(npy, dtype, shape, dims, e) : tc_fail_errno(e, TC_IO, "%s", path);
    }
    if (status != TC_OK)
        tc_npy_free(npy);
    else
        *ret = npy;
    return status;
}

tc_status tc_npy_write(tc_npy *npy, uint64_t first, const void *elements, uint64_t count, tc_error *e)
{
    if (first > npy->elements || count > npy->elements - first)
        return tc_fail(e, TC_INTERNAL, "%s: more than its shape holds", npy->path);
    npy->written += count;
    return write_at(npy, HEADER_BYTES + first * ELEMENT_BYTES, elements, count * ELEMENT_BYTES, e);
}

tc_status tc_npy_finish(tc_npy *npy, tc_error *e)
{
    if (npy->written != npy->elements) return tc_fail(e, TC_INTERNAL, "%s: incomplete", npy->path);
    if (fsync(npy->fd) != 0 || rename(npy->temporary, npy->path) != 0)
        return tc_fail_errno(e, TC_IO, "%s", npy->path);
    close(npy->fd);
    npy->fd = -1;
    return TC_OK;
}

void tc_npy_free(tc_npy *npy)
{
    if (!npy) return;
    if (npy->fd >= 0) {
        close(npy->fd);
        unlink(npy->temporary);
    }
    free(npy->path);
    free(npy->temporary);
    free(npy);
}
