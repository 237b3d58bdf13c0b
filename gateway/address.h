// SPDX-License-Identifier: Apache-2.0
// Owns: the address given to --listen. Names are not looked up: "localhost" is 127.0.0.1.
#pragma once

#include "common/base/status.h"
#include <sys/socket.h>

typedef struct tc_address {
    bool is_unix, is_loopback;
    char path[108];
    struct sockaddr_storage ip;
} tc_address;

tc_status tc_address_parse(const char *text, tc_address *ret, tc_error *e);
