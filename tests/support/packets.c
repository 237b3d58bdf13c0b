// SPDX-License-Identifier: Apache-2.0
// packets DEVICE NAMESPACE FAR_DEVICE: makes a device here and one in that network namespace (of `ip netns`),
// and carries what is sent between them packet by packet, as netem would: lost ones are lost, and it is for
// TCP to send them again. For kernels without netem that have TUN. Told on standard input, a line each:
//   delay US      every packet arrives so much later, in each direction
//   loss PERMILLE so many of the packets are dropped
//   cut | heal    all are dropped, and nobody is told
// It ends with its standard input, and the devices with it. Refuses: more than HELD_MAX packets on their way
// in a direction; they are dropped too.
#include "common/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { HELD_MAX = 4096, FRAME_BYTES_MAX = 2048, SPIN_US = 150 };

typedef struct frame {
    uint64_t at_us;
    uint32_t bytes;
    uint8_t data[FRAME_BYTES_MAX];
} frame;

// One direction: a ring of what is on its way, in the order in which it came.
typedef struct way {
    int from, to;
    uint32_t first, count;
    frame *held;
} way;

static uint64_t delay_us, loss;
static bool is_cut;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int device(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) die("/dev/net/tun");
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (ioctl(fd, TUNSETIFF, &request) != 0) die(name);
    return fd;
}

static void enter(const char *namespace)
{
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) die(path);
    close(fd);
}

// All that has come. A device that is down gives errors, which are silence.
static void take(way *w)
{
    static uint8_t lost[FRAME_BYTES_MAX];
    for (;;) {
        frame *f = w->count < HELD_MAX ? &w->held[(w->first + w->count) % HELD_MAX] : NULL;
        ssize_t n = read(w->from, f ? f->data : lost, FRAME_BYTES_MAX);
        if (n <= 0) return;
        if (!f || is_cut || (uint64_t)rand() % 1000 < loss) continue;
        f->bytes = (uint32_t)n;
        f->at_us = tc_now_us() + delay_us;
        w->count++;
    }
}

// Hands on what is due. Returns when the next one is, UINT64_MAX: none.
static uint64_t give(way *w)
{
    for (; w->count; w->first = (w->first + 1) % HELD_MAX, w->count--) {
        const frame *f = &w->held[w->first];
        if (f->at_us > tc_now_us()) return f->at_us;
        if (write(w->to, f->data, f->bytes) < 0 && errno == EAGAIN) return tc_now_us() + 200;
    }
    return UINT64_MAX;
}

static void obey(void)
{
    char line[64];
    if (!fgets(line, sizeof line, stdin)) exit(0);
    if (sscanf(line, "delay %lu", &delay_us) == 1 || sscanf(line, "loss %lu", &loss) == 1) return;
    if (strcmp(line, "cut\n") == 0) is_cut = true;
    if (strcmp(line, "heal\n") == 0) is_cut = false;
}

int main(int argc, char **argv)
{
    if (argc != 4) return 2;
    int near = device(argv[1]);
    enter(argv[2]);
    int far = device(argv[3]);
    way ways[2] = {{.from = near, .to = far}, {.from = far, .to = near}};
    for (int i = 0; i < 2; i++)
        if (!(ways[i].held = calloc(HELD_MAX, sizeof *ways[i].held))) die("calloc");
    setvbuf(stdin, NULL, _IONBF, 0);
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint64_t there = give(&ways[0]), back = give(&ways[1]), next = there < back ? there : back,
                 now = tc_now_us(), left = next > now ? next - now : 0;
        if (next != UINT64_MAX)
            left = left > SPIN_US ? left - SPIN_US : 0; // sleeping overshoots: the rest is looked away
        struct timespec ts = {.tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000) * 1000};
        struct pollfd fds[3] = {
            {.fd = 0, .events = POLLIN}, {.fd = near, .events = POLLIN}, {.fd = far, .events = POLLIN}};
        if (ppoll(fds, 3, next == UINT64_MAX ? NULL : &ts, NULL) <= 0) continue;
        if (fds[1].revents & POLLIN) take(&ways[0]);
        if (fds[2].revents & POLLIN) take(&ways[1]);
        if (fds[0].revents) obey();
    }
}
