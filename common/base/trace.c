// SPDX-License-Identifier: Apache-2.0
// Owns: the file, the buffer in front of it, and the lines.
#include "common/base/trace.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 64 << 10, LINE_BYTES = 768 };

bool tc_trace_on;

static struct {
    int fd, pid;
    unsigned lane;
    size_t used;
    uint64_t written;
    char buffer[BUFFER_BYTES];
} trace = {.fd = -1, .lane = 1};

// Lines are whole in each write, and the kernel appends each write as a whole: processes do not mix.
void tc_trace_flush(void)
{
    size_t done = 0;
    while (trace.fd >= 0 && done < trace.used) {
        ssize_t n = write(trace.fd, trace.buffer + done, trace.used - done);
        if (n <= 0) break;
        done += (size_t)n;
    }
    trace.written += done;
    if (trace.used && done < trace.used) tc_trace_on = false; // the disk is full, or the file is gone
    trace.used = 0;
    if (trace.written > TC_TRACE_BYTES_MAX) tc_trace_on = false;
}

static void put_line(const char *line, int bytes)
{
    if (bytes <= 0 || bytes >= LINE_BYTES) return; // cut lines would spoil the file
    if (trace.used + (size_t)bytes > sizeof trace.buffer) tc_trace_flush();
    memcpy(trace.buffer + trace.used, line, (size_t)bytes);
    trace.used += (size_t)bytes;
}

tc_status tc_trace_open(const char *path, const char *process, tc_error *e)
{
    struct stat st;
    char line[LINE_BYTES];
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "--trace %s", path);
    // Whoever finds it empty begins the array; its end may be missing, says the format.
    if (flock(fd, LOCK_EX) != 0 || fstat(fd, &st) != 0 || (st.st_size == 0 && write(fd, "[\n", 2) != 2)) {
        tc_fail_errno(e, TC_IO, "--trace %s", path);
        close(fd);
        return TC_IO;
    }
    flock(fd, LOCK_UN);
    trace.fd = fd;
    trace.pid = (int)getpid();
    tc_trace_on = true;
    put_line(
        line,
        snprintf(
            line, sizeof line,
            "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"tid\":1,\"args\":{\"name\":\"%s\"}},\n",
            trace.pid, process));
    return TC_OK;
}

void tc_trace_close(void)
{
    tc_trace_flush();
    if (trace.fd >= 0) close(trace.fd);
    trace.fd = -1;
    tc_trace_on = false;
}

void tc_trace_lane(unsigned lane)
{
    trace.lane = lane;
}

void tc_trace_span(const char *name, uint64_t begin_us, uint64_t end_us, const char *args, ...)
{
    char line[LINE_BYTES], more[LINE_BYTES / 2];
    va_list ap;
    if (!tc_trace_on) return;
    va_start(ap, args);
    vsnprintf(more, sizeof more, args, ap);
    va_end(ap);
    put_line(
        line,
        snprintf(
            line, sizeof line,
            "{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%u,\"ts\":%llu,\"dur\":%llu,\"args\":{%s}},\n",
            name, trace.pid, trace.lane, (unsigned long long)begin_us,
            (unsigned long long)(end_us > begin_us ? end_us - begin_us : 0), more));
}

void tc_trace_request(const char *request, const char *name, uint64_t begin_us, uint64_t end_us,
                      const char *args, ...)
{
    static const char *const phases[] = {"b", "e"};
    char line[LINE_BYTES], more[LINE_BYTES / 2];
    va_list ap;
    if (!tc_trace_on) return;
    va_start(ap, args);
    vsnprintf(more, sizeof more, args, ap);
    va_end(ap);
    for (int i = 0; i < 2; i++)
        put_line(line, snprintf(line, sizeof line,
                                "{\"ph\":\"%s\",\"cat\":\"request\",\"id\":\"%s\",\"name\":\"%s\",\"pid\":%d,"
                                "\"tid\":1,\"ts\":%llu,"
                                "\"args\":{%s}},\n",
                                phases[i], request, name, trace.pid,
                                (unsigned long long)(i ? end_us : begin_us), i ? "" : more));
}

void tc_trace_arrow(bool out, uint64_t number, uint64_t at_us)
{
    char line[LINE_BYTES];
    if (!tc_trace_on) return;
    put_line(line, snprintf(line, sizeof line,
                            "{\"ph\":\"%s\",\"bp\":\"e\",\"cat\":\"call\",\"name\":\"call\",\"id\":%llu,"
                            "\"pid\":%d,\"tid\":%u,"
                            "\"ts\":%llu},\n",
                            out ? "s" : "f", (unsigned long long)number, trace.pid, trace.lane,
                            (unsigned long long)at_us));
}
