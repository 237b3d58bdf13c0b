// SPDX-License-Identifier: Apache-2.0
// Owns: formatting and the single write of a log line.
#include "common/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024, TAIL_BYTES = 4 }; // tail: closing quote, brace, newline

static char program_name[32] = "thermocline";
static _Atomic int least_level = TC_LOG_INFO, line_format = TC_LOG_TEXT;
static bool with_priority;

static const struct {
    const char *name;
    int syslog_priority;
} levels[] = {{"error", 3}, {"warn", 4}, {"info", 6}, {"debug", 7}};

void tc_log_init(const char *program, tc_log_level level, bool journald)
{
    snprintf(program_name, sizeof program_name, "%s", program);
    least_level = level;
    with_priority = journald;
}

void tc_log_set(tc_log_level level, tc_log_format format)
{
    least_level = level;
    line_format = format;
}

bool tc_log_parse_level(const char *name, tc_log_level *ret)
{
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (strcmp(name, levels[i].name) == 0) {
            *ret = (tc_log_level)i;
            return true;
        }
    }
    return false;
}

bool tc_log_shows(tc_log_level level)
{
    return (int)level <= least_level;
}

typedef struct line {
    char text[LINE_BYTES];
    size_t used;
} line;

static void put(line *l, const char *text)
{
    for (; *text && l->used < LINE_BYTES - TAIL_BYTES; text++) l->text[l->used++] = *text;
}

// Inside double quotes; JSON and logfmt escape the same two.
static void put_quoted(line *l, const char *text)
{
    for (; *text && l->used + 2 < LINE_BYTES - TAIL_BYTES; text++) {
        if (*text == '"' || *text == '\\') l->text[l->used++] = '\\';
        l->text[l->used++] = *text;
    }
}

static void put_time(line *l)
{
    struct timespec now;
    struct tm utc;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + n, sizeof text - n, ".%03ldZ", now.tv_nsec / 1000000);
    put(l, text);
}

static void put_head(line *l, tc_log_level level, const char *request, int format)
{
    bool json = format == TC_LOG_JSON;
    char text[64];
    if (with_priority) {
        snprintf(text, sizeof text, "<%d>", levels[level].syslog_priority);
        put(l, text);
    }
    if (format == TC_LOG_TEXT) {
        if (with_priority)
            snprintf(text, sizeof text, "%s: ", program_name);
        else
            snprintf(text, sizeof text, "%-5s %s: ", levels[level].name, program_name);
        put(l, text);
        if (*request) put(l, "["), put(l, request), put(l, "] ");
        return;
    }
    put(l, json ? "{\"ts\":\"" : "ts=");
    put_time(l);
    put(l, json ? "\",\"level\":\"" : " level=");
    put(l, levels[level].name);
    put(l, json ? "\",\"program\":\"" : " program=");
    put(l, program_name);
    if (*request) {
        put(l, json ? "\",\"request\":\"" : " request=\"");
        put_quoted(l, request);
        if (!json) put(l, "\"");
    }
    put(l, json ? "\",\"msg\":\"" : " msg=\"");
}

static void write_line(tc_log_level level, const char *request, const char *text)
{
    line l = {.used = 0};
    int format = line_format;
    put_head(&l, level, request, format);
    if (format == TC_LOG_TEXT)
        put(&l, text);
    else
        put_quoted(&l, text);
    for (size_t i = 0; i < l.used; i++)
        if ((unsigned char)l.text[i] < 0x20 || l.text[i] == 0x7f) l.text[i] = '?';
    if (format != TC_LOG_TEXT) l.text[l.used++] = '"';
    if (format == TC_LOG_JSON) l.text[l.used++] = '}';
    l.text[l.used++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, l.text, l.used);
    (void)ignored;
}

void tc_log(tc_log_level level, const char *format, ...)
{
    char text[LINE_BYTES];
    va_list ap;
    if (!tc_log_shows(level)) return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    write_line(level, "", text);
}

void tc_log_request(tc_log_level level, const char *request, const char *format, ...)
{
    char text[LINE_BYTES];
    va_list ap;
    if (!tc_log_shows(level)) return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    write_line(level, request, text);
}
