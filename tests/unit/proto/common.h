// SPDX-License-Identifier: Apache-2.0
// What the tests of both links share: cmocka's includes, addresses of their own, raw nng sockets that
// misbehave.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "proto/link.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define HASH_A "0123456789abcdef0123456789abcdef"
#define HASH_B "fedcba9876543210fedcba9876543210"

enum { WAIT_US = 5000000 }; // far beyond what anything here takes; a test that needs it has failed

// Each call gives a fresh address.
static inline const char *fresh_url(void)
{
    static char url[96];
    static int number;
    snprintf(url, sizeof url, "ipc:///tmp/tc-test-%d-%d.sock", (int)getpid(), number++);
    return url;
}

// ---- a peer that is no peer: a plain socket ----
static inline int raw_dial(const char *url)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", url + strlen("ipc://"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(fd, (void *)&address, sizeof address), 0);
    return fd;
}

static inline void raw_bytes(int fd, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    while (bytes > 0) {
        ssize_t n = send(fd, p, bytes, MSG_NOSIGNAL);
        if (n <= 0) return; // hung up on us: what the test waits for
        p += n;
        bytes -= (size_t)n;
    }
}

static inline void raw_prefix(int fd, uint32_t frame_bytes)
{
    uint32_t prefix[2] = {TC_LINK_MAGIC, frame_bytes};
    raw_bytes(fd, prefix, sizeof prefix);
}

// A well-formed message of these bytes, whatever they are.
static inline void raw_send(int fd, const void *data, size_t bytes)
{
    raw_prefix(fd, (uint32_t)bytes);
    raw_bytes(fd, data, bytes);
}

// A frame made of a header and payload_bytes zeros.
static inline void raw_send_header(int fd, const tc_wire_header *header, size_t payload_bytes)
{
    size_t bytes = tc_frame_bytes(header->bytes, payload_bytes);
    uint8_t *data = calloc(1, bytes);
    tc_frame_begin(data, header);
    raw_send(fd, data, bytes);
    free(data);
}

// The next frame; its bytes. 0: hung up.
static inline size_t raw_receive(int fd, uint8_t *frame, size_t capacity)
{
    uint32_t prefix[2];
    if (recv(fd, prefix, sizeof prefix, MSG_WAITALL) != sizeof prefix) return 0;
    assert_int_equal(prefix[0], TC_LINK_MAGIC);
    assert_true(prefix[1] <= capacity);
    assert_int_equal(recv(fd, frame, prefix[1], MSG_WAITALL), prefix[1]);
    return prefix[1];
}
