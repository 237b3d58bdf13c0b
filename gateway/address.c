// SPDX-License-Identifier: Apache-2.0
// Owns: parsing of listen addresses, and what counts as loopback.
#include "gateway/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static tc_status parse_unix(const char *path, tc_address *ret, tc_error *e)
{
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof ret->path)
        return tc_fail(e, TC_ARGUMENT, "listen address: a socket path has 1 to %zu bytes",
                       sizeof ret->path - 1);
    *ret = (tc_address){.is_unix = true, .is_loopback = true};
    memcpy(ret->path, path, n + 1);
    return TC_OK;
}

static bool parse_port(const char *text, uint16_t *ret)
{
    unsigned long port = 0;
    if (!*text || strlen(text) > 5) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        port = port * 10 + (unsigned long)(*text - '0');
    }
    if (port > 65535) return false;
    *ret = (uint16_t)port;
    return true;
}

tc_status tc_address_parse(const char *text, tc_address *ret, tc_error *e)
{
    if (strncmp(text, "unix:", 5) == 0) return parse_unix(text + 5, ret, e);
    const char *colon = strrchr(text, ':');
    uint16_t port;
    char host[64];
    if (!colon || !parse_port(colon + 1, &port) || (size_t)(colon - text) >= sizeof host)
        return tc_fail(e, TC_ARGUMENT, "listen address '%s': expected HOST:PORT, [V6]:PORT or unix:/path",
                       text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;

    tc_address address = {0};
    size_t n = strlen(host);
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address.ip;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address.ip;
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = 0;
        if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) != 1)
            return tc_fail(e, TC_ARGUMENT, "listen address '%s': not an IPv6 address", text);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        address.is_loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
    } else {
        if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &v4->sin_addr) != 1)
            return tc_fail(e, TC_ARGUMENT, "listen address '%s': not an IP address (names are not looked up)",
                           text);
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        address.is_loopback = (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
    }
    *ret = address;
    return TC_OK;
}
