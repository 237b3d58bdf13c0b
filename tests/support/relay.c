// SPDX-License-Identifier: Apache-2.0
// relay LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT: passes TCP connections on, as a network would that is slow,
// loses packets or is cut, for kernels without netem. Told on standard input, a line each:
//   delay US      every byte arrives so much later, in each direction
//   loss PERMILLE so many of the pieces are "lost": they, and what is behind them, come RETRANSMIT_US later
//   cut | heal    nothing is passed on, and nobody is told; what came meanwhile is passed on afterwards
// It ends with its standard input. Refuses: names instead of addresses; more than CONNECTIONS_MAX
// connections.
#include "common/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 64, PIECE_BYTES = 65536, RETRANSMIT_US = 200000, SPIN_US = 150 };

typedef struct piece {
    struct piece *next;
    uint64_t at_us;
    size_t bytes, done;
    uint8_t data[];
} piece;

// One direction of a connection: read from `from`, held back, written to `to`.
typedef struct way {
    int from, to;
    bool ended; // nothing comes any more
    uint64_t last_us;
    piece *first, *last;
} way;

static way ways[2 * CONNECTIONS_MAX];
static uint32_t way_count;
static uint64_t delay_us, loss;
static bool is_cut;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in address_of(const char *host, const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) die(host);
    return a;
}

static void prepare(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void accept_one(int listener, const struct sockaddr_in *to)
{
    int near = accept(listener, NULL, NULL), far = socket(AF_INET, SOCK_STREAM, 0);
    if (near < 0) return;
    if (way_count + 2 > 2 * CONNECTIONS_MAX || connect(far, (const void *)to, sizeof *to) != 0) {
        close(near);
        close(far);
        return;
    }
    prepare(near);
    prepare(far);
    ways[way_count++] = (way){.from = near, .to = far};
    ways[way_count++] = (way){.from = far, .to = near};
}

static void take(way *w)
{
    static uint8_t buffer[PIECE_BYTES];
    ssize_t n = read(w->from, buffer, sizeof buffer);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) w->ended = true;
    piece *p = malloc(sizeof *p + (n > 0 ? (size_t)n : 0)); // of no bytes: the end
    if (!p) die("malloc");
    *p = (piece){.at_us = tc_now_us() + delay_us, .bytes = n > 0 ? (size_t)n : 0};
    if (n > 0) memcpy(p->data, buffer, (size_t)n);
    if (loss && (uint64_t)rand() % 1000 < loss) p->at_us += RETRANSMIT_US;
    if (p->at_us < w->last_us) p->at_us = w->last_us; // a stream keeps its order
    w->last_us = p->at_us;
    if (w->first)
        w->last->next = p;
    else
        w->first = p;
    w->last = p;
}

// Writes what is due. Returns when the next piece is, UINT64_MAX: none.
static uint64_t give(way *w)
{
    while (w->first && !is_cut) {
        piece *p = w->first;
        if (p->at_us > tc_now_us()) return p->at_us;
        if (p->bytes == 0) shutdown(w->to, SHUT_WR);
        while (p->done < p->bytes) {
            ssize_t n = send(w->to, p->data + p->done, p->bytes - p->done, MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN) return tc_now_us() + 200;
            if (n < 0) break; // gone: the other way tells
            p->done += (size_t)n;
        }
        w->first = p->next;
        free(p);
    }
    return UINT64_MAX;
}

// Connections both of whose ways have ended and are empty.
static void forget_dead(void)
{
    for (uint32_t i = 0; i + 1 < way_count; i += 2) {
        way *a = &ways[i], *b = &ways[i + 1];
        if (!a->ended || !b->ended || a->first || b->first) continue;
        close(a->from);
        close(b->from);
        ways[i] = ways[way_count - 2];
        ways[i + 1] = ways[way_count - 1];
        way_count -= 2;
        i -= 2;
    }
}

static void obey(void)
{
    char line[64];
    if (!fgets(line, sizeof line, stdin)) exit(0);
    if (sscanf(line, "delay %lu", &delay_us) == 1 || sscanf(line, "loss %lu", &loss) == 1) return;
    if (strcmp(line, "cut\n") == 0) is_cut = true;
    if (strcmp(line, "heal\n") == 0) is_cut = false;
}

static uint32_t gather(struct pollfd *fds, int listener)
{
    uint32_t n = 2;
    fds[0] = (struct pollfd){.fd = 0, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = listener, .events = POLLIN};
    for (uint32_t i = 0; i < way_count; i++)
        fds[n++] = (struct pollfd){.fd = ways[i].ended ? -1 : ways[i].from, .events = POLLIN};
    return n;
}

int main(int argc, char **argv)
{
    static struct pollfd fds[2 + 2 * CONNECTIONS_MAX];
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 5) return 2;
    struct sockaddr_in from = address_of(argv[1], argv[2]), to = address_of(argv[3], argv[4]);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&from, sizeof from) != 0 || listen(listener, 16) != 0) die("listen");
    setvbuf(stdin, NULL, _IONBF, 0);
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint64_t next = UINT64_MAX;
        for (uint32_t i = 0; i < way_count; i++) {
            uint64_t at = give(&ways[i]);
            if (at < next) next = at;
        }
        forget_dead();
        uint32_t n = gather(fds, listener);
        uint64_t now = tc_now_us(), left = next > now ? next - now : 0;
        if (next != UINT64_MAX)
            left = left > SPIN_US ? left - SPIN_US : 0; // sleeping overshoots: the rest is looked away
        struct timespec ts = {.tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000) * 1000};
        if (ppoll(fds, n, next == UINT64_MAX ? NULL : &ts, NULL) <= 0) continue;
        for (uint32_t i = 2; i < n; i++)
            if (fds[i].revents) take(&ways[i - 2]);
        if (fds[1].revents) accept_one(listener, &to);
        if (fds[0].revents) obey();
    }
}
