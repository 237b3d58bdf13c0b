// SPDX-License-Identifier: Apache-2.0
// Owns: the validity scan, eight ASCII bytes at a time.
#include "common/text/utf8.h"
#include <string.h>

size_t tc_utf8_valid_bytes(const char *text, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t at = 0;
    while (at < bytes) {
        uint64_t eight;
        while (bytes - at >= sizeof eight) {
            memcpy(&eight, p + at, sizeof eight);
            if (eight & 0x8080808080808080u) break;
            at += sizeof eight;
        }
        size_t step;
        if (at == bytes) break;
        if (tc_utf8_step(p + at, bytes - at, &step) != TC_UTF8_CHAR) return at;
        at += step;
    }
    return bytes;
}
