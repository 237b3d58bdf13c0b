// SPDX-License-Identifier: Apache-2.0
// Owns: the answer to a WebSocket key: base64 of the SHA-1 of the key and a fixed text (RFC 6455, 4.2.2). It
// proves nothing but that the server understood; SHA-1 is used nowhere else, so no library is taken for it.
#include "gateway/ws_frame.h"

#include <string.h>

static uint32_t rotate(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static void sha1_block(uint32_t h[5], const uint8_t block[64])
{
    static const uint32_t constants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20              ? (b & c) | (~b & d)
                     : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d)
                                         : b ^ c ^ d;
        uint32_t next = rotate(a, 5) + f + e + constants[i / 20] + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

// At most 119 bytes: two blocks.
static void sha1(const uint8_t *data, size_t bytes, uint8_t ret[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t blocks[128] = {0};
    size_t all = bytes + 9 <= 64 ? 64 : 128;
    memcpy(blocks, data, bytes);
    blocks[bytes] = 0x80;
    blocks[all - 2] = (uint8_t)(bytes * 8 >> 8);
    blocks[all - 1] = (uint8_t)(bytes * 8);
    for (size_t i = 0; i < all; i += 64) sha1_block(h, blocks + i);
    for (int i = 0; i < 20; i++) ret[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool tc_ws_accept(const char *key, size_t bytes, char ret[29])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t text[60], hash[21] = {0};
    if (bytes != 24 || key[22] != '=' || key[23] != '=') return false; // 16 bytes
    for (int i = 0; i < 22; i++)
        if (key[i] == 0 || !strchr(digits, key[i])) return false;
    memcpy(text, key, 24);
    memcpy(text + 24, guid, 36);
    sha1(text, sizeof text, hash);
    for (int i = 0; i < 7; i++) {
        uint32_t group = (uint32_t)hash[3 * i] << 16 | (uint32_t)hash[3 * i + 1] << 8 | hash[3 * i + 2];
        for (int k = 0; k < 4; k++) ret[4 * i + k] = digits[group >> (18 - 6 * k) & 63];
    }
    ret[27] = '=';
    ret[28] = 0;
    return true;
}
