// SPDX-License-Identifier: Apache-2.0
// Owns: core dumps, the parent's death, the datagrams to the service manager, and the files of probes.
#include "common/base/process.h"

#include "common/base/clock.h"
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static struct {
    int fd; // 0: not on
    struct sockaddr_un address;
    socklen_t address_bytes;
    uint64_t interval_us, sent_us;
} manager = {.interval_us = UINT64_MAX};

static struct {
    int fd; // the folder; 0: none
    uint64_t touched_us;
} probe;

enum { PROBE_TOUCH_US = 1000000 };

void tc_process_forbid_dumps(void)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    // A dump through a pipe ignores the limit; then it shall hold no memory.
    int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t ignored = write(fd, "0", 1);
    (void)ignored;
    close(fd);
}

bool tc_process_follow_parent(long pid)
{
    if (!pid) return true;
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 &&
           getppid() == (pid_t)pid; // it may have died before we asked
}

static void watch(const char *usec, const char *pid)
{
    char *end;
    if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid())) return;
    unsigned long long value = strtoull(usec, &end, 10);
    if (*end || value == 0) return;
    manager.interval_us = value / 4;
}

void tc_notify_init(const char *socket_name, const char *watchdog_usec, const char *watchdog_pid)
{
    size_t n = socket_name ? strlen(socket_name) : 0;
    if (n < 2 || n >= sizeof manager.address.sun_path || (socket_name[0] != '/' && socket_name[0] != '@'))
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    manager.address.sun_family = AF_UNIX;
    memcpy(manager.address.sun_path, socket_name, n);
    if (socket_name[0] == '@') manager.address.sun_path[0] = 0;
    manager.address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    manager.fd = fd;
    watch(watchdog_usec, watchdog_pid);
}

bool tc_notify_is_on(void)
{
    return manager.fd > 0 || probe.fd > 0;
}

// ---- probes ----

static void touch(const char *name)
{
    int fd = openat(probe.fd, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) return;
    futimens(fd, NULL);
    close(fd);
}

static void probe_alive(uint64_t now_us)
{
    if (probe.fd <= 0 || now_us - probe.touched_us < PROBE_TOUCH_US) return;
    probe.touched_us = now_us;
    touch("alive");
}

tc_status tc_probe_init(const char *dir, tc_error *e)
{
    probe.fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (probe.fd < 0) return tc_fail_errno(e, TC_IO, "--probe-dir %s", dir);
    tc_probe_ready(false); // of an earlier process
    touch("alive");
    return TC_OK;
}

void tc_probe_ready(bool ready)
{
    if (probe.fd <= 0) return;
    if (ready)
        touch("ready");
    else
        unlinkat(probe.fd, "ready", 0);
}

static void send_text(const char *text)
{
    if (manager.fd <= 0) return;
    ssize_t ignored = sendto(manager.fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
                             (const struct sockaddr *)&manager.address, manager.address_bytes);
    (void)ignored;
}

static void send_status(const char *before, const char *format, va_list ap)
{
    char text[512];
    int n = snprintf(text, sizeof text, "%sSTATUS=", before);
    vsnprintf(text + n, sizeof text - (size_t)n, format, ap);
    for (char *p = text + n; *p; p++)
        if ((unsigned char)*p < 0x20) *p = '?'; // a line break would begin another word
    send_text(text);
}

void tc_notify_ready(const char *format, ...)
{
    va_list ap;
    if (manager.fd <= 0) return;
    va_start(ap, format);
    send_status("READY=1\n", format, ap);
    va_end(ap);
}

void tc_notify_status(const char *format, ...)
{
    va_list ap;
    if (manager.fd <= 0) return;
    va_start(ap, format);
    send_status("", format, ap);
    va_end(ap);
}

void tc_notify_reloading(void)
{
    char text[96];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
    send_text(text);
}

void tc_notify_stopping(void)
{
    send_text("STOPPING=1");
}

void tc_notify_extend(uint64_t us)
{
    char text[64];
    probe_alive(tc_now_us());
    snprintf(text, sizeof text, "EXTEND_TIMEOUT_USEC=%llu", (unsigned long long)us);
    send_text(text);
}

void tc_notify_alive(uint64_t now_us)
{
    probe_alive(now_us);
    if (manager.fd <= 0 || manager.interval_us == UINT64_MAX ||
        now_us - manager.sent_us < manager.interval_us)
        return;
    manager.sent_us = now_us;
    send_text("WATCHDOG=1");
}

uint64_t tc_notify_interval_us(void)
{
    return probe.fd > 0 && manager.interval_us > 2 * PROBE_TOUCH_US ? 2 * PROBE_TOUCH_US
                                                                    : manager.interval_us;
}
