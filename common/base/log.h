// SPDX-License-Identifier: Apache-2.0
// Owns: the log lines of our programs: "level program: text" on stderr, one write(2) a line.
// Refuses: use by libraries (they return statuses). Lines are cut at 1 KiB; control characters become '?'.
#pragma once

#include <stdbool.h>

typedef enum tc_log_level { TC_LOG_ERROR, TC_LOG_WARN, TC_LOG_INFO, TC_LOG_DEBUG } tc_log_level;

// Program name shown in each line, and the least severe level that is still printed. With `journald` each
// line starts with "<N>", the syslog priority, as systemd reads it.
void tc_log_init(const char *program, tc_log_level level, bool journald);
bool tc_log_parse_level(const char *name, tc_log_level *ret);
void tc_log(tc_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define tc_error_log(...) tc_log(TC_LOG_ERROR, __VA_ARGS__)
#define tc_warn(...) tc_log(TC_LOG_WARN, __VA_ARGS__)
#define tc_info(...) tc_log(TC_LOG_INFO, __VA_ARGS__)
#define tc_debug(...) tc_log(TC_LOG_DEBUG, __VA_ARGS__)
