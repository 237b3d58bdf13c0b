// SPDX-License-Identifier: Apache-2.0
// Owns: formatting and the single write of a log line.
#include "common/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char program_name[32] = "thermocline";
static tc_log_level least_level = TC_LOG_INFO;
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

void tc_log(tc_log_level level, const char *format, ...)
{
    if (level > least_level) return;
    char line[1024];
    int head = with_priority
                   ? snprintf(line, sizeof line, "<%d>%s: ", levels[level].syslog_priority, program_name)
                   : snprintf(line, sizeof line, "%-5s %s: ", levels[level].name, program_name);
    va_list ap;
    va_start(ap, format);
    int body = vsnprintf(line + head, sizeof line - (size_t)head - 1, format, ap);
    va_end(ap);
    size_t length = strlen(line);
    if (body < 0) return;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, length);
    (void)ignored;
}
