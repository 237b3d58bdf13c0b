// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing routing traces and profiles. Byte 0 says which; the rest is the file.
#include "common/placement/profile.h"
#include "common/placement/routing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tc_error e;
    char path[64];
    if (bytes < 1 || bytes > 1 << 16) return 0;
    int fd = memfd_create("file", 0);
    if (fd < 0 || write(fd, data + 1, bytes - 1) != (ssize_t)(bytes - 1)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (data[0] & 1) {
        tc_profile *p;
        if (tc_profile_load(path, NULL, &p, &e) == TC_OK) {
            if (tc_profile_bytes(p) != bytes - 1) abort();
            tc_profile_free(p);
        }
    } else {
        tc_routes r;
        if (tc_routes_load(path, &r, &e) == TC_OK) {
            for (uint64_t i = 0; i < r.use_count; i++)
                if (r.uses[i].layer >= r.info.layers || r.uses[i].expert >= r.info.experts) abort();
            tc_routes_free(&r);
        }
    }
    close(fd);
    return 0;
}
