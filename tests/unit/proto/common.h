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
#include "proto/wire.h"
#include <nng/nng.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HASH_A "0123456789abcdef0123456789abcdef"
#define HASH_B "fedcba9876543210fedcba9876543210"

enum { WAIT_US = 5000000 }; // far beyond what anything here takes; a test that needs it has failed

// Each call gives a fresh address.
static inline const char *fresh_url(void)
{
    static char url[128];
    static int number;
    snprintf(url, sizeof url, "ipc:///tmp/tc-test-%d-%d.sock", (int)getpid(), number++);
    return url;
}

// Sends a frame made of a header and payload bytes (not looked at) through a raw socket.
static inline void raw_send(nng_socket socket, const void *data, size_t bytes)
{
    nng_msg *message;
    assert_int_equal(nng_msg_alloc(&message, bytes), 0);
    memcpy(nng_msg_body(message), data, bytes);
    assert_int_equal(nng_sendmsg(socket, message, 0), 0);
}

static inline void raw_send_header(nng_socket socket, const tc_wire_header *header, size_t payload_bytes)
{
    size_t bytes = tc_frame_bytes(header->bytes, payload_bytes);
    uint8_t *data = calloc(1, bytes);
    tc_frame_begin(data, header);
    raw_send(socket, data, bytes);
    free(data);
}
