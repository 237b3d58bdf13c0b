// SPDX-License-Identifier: Apache-2.0
// Owns: GET requests to a gateway, read until it closes the connection, and what /api/v1/health says.
#include "cli/health.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <yyjson.h>

enum { ANSWER_BYTES_MAX = 16384 };

static int dial_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

// Host and port of HOST:PORT or [V6]:PORT. NULL when there is none: the gateway says what is wrong with it.
static struct addrinfo *resolve(const char *listen)
{
    char host[80];
    const char *colon = strrchr(listen, ':');
    const char *begin = listen[0] == '[' ? listen + 1 : listen;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    if (!colon || colon <= begin) return NULL;
    snprintf(host, sizeof host, "%.*s", (int)(colon - begin - (listen[0] == '[')), begin);
    return getaddrinfo(host, colon + 1, &hints, &found) == 0 ? found : NULL;
}

static int dial_ip(const char *listen)
{
    struct addrinfo *found = resolve(listen);
    int fd = -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    if (found) freeaddrinfo(found);
    return fd;
}

tc_status tc_listen_check(const char *address, tc_error *e)
{
    tc_status status = TC_OK;
    struct addrinfo *found = strncmp(address, "unix:", 5) == 0 ? NULL : resolve(address);
    if (!found) return TC_OK;
    int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol), on = 1;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0)
            status = tc_fail_errno(e, TC_IO, "cannot listen on %s", address);
        close(fd);
    }
    freeaddrinfo(found);
    return status;
}

static void read_body(const char *body, tc_health *health)
{
    yyjson_doc *doc = yyjson_read(body, strlen(body), 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *workers = yyjson_obj_get(root, "workers");
    const char *reason = yyjson_get_str(yyjson_obj_get(root, "reason"));
    snprintf(health->reason, sizeof health->reason, "%s", reason ? reason : "");
    health->workers_up = (unsigned)yyjson_get_uint(yyjson_obj_get(workers, "up"));
    health->workers_expected = (unsigned)yyjson_get_uint(yyjson_obj_get(workers, "expected"));
    yyjson_doc_free(doc);
}

tc_status tc_http_get(const char *listen, const char *path, const char *key, char *ret, size_t room,
                      int *ret_code, tc_error *e)
{
    char request[1024];
    size_t used = 0;
    ssize_t n = 0;
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: localhost\r\n%s%s%sConnection: close\r\n\r\n", path,
                          key ? "Authorization: Bearer " : "", key ? key : "", key ? "\r\n" : "");
    if (length <= 0 || (size_t)length >= sizeof request)
        return tc_fail(e, TC_LIMIT, "the API key is too long");
    int fd = strncmp(listen, "unix:", 5) == 0 ? dial_unix(listen + 5) : dial_ip(listen);
    if (fd < 0) return tc_fail(e, TC_CLOSED, "%s: nobody listens there", listen);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 1}, sizeof(struct timeval));
    if (send(fd, request, (size_t)length, MSG_NOSIGNAL) == length)
        while (used < room - 1 && (n = recv(fd, ret + used, room - 1 - used, 0)) > 0) used += (size_t)n;
    close(fd);
    ret[used] = 0;
    char *body = strstr(ret, "\r\n\r\n");
    if (sscanf(ret, "HTTP/1.%*d %d", ret_code) != 1 || !body)
        return tc_fail(e, TC_PEER, "%s%s: no answer in HTTP", listen, path);
    if (used == room - 1 || n < 0)
        return tc_fail(e, TC_LIMIT, "%s%s: the answer is too long, or stopped", listen, path);
    memmove(ret, body + 4, strlen(body + 4) + 1);
    return TC_OK;
}

void tc_health_ask(const char *listen, tc_health *ret)
{
    char answer[ANSWER_BYTES_MAX];
    tc_health health = {0};
    if (tc_http_get(listen, "/api/v1/health", NULL, answer, sizeof answer, &health.code, NULL) == TC_OK)
        read_body(answer, &health);
    *ret = health;
}
