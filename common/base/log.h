// SPDX-License-Identifier: Apache-2.0
// Owns: the log lines of our programs on stderr, one write(2) a line. Three forms:
//   text    "info  core: [request] text"
//   logfmt  "ts=2025-01-02T03:04:05.678Z level=info program=core request=... msg=\"text\""
//   json    {"ts":"...","level":"info","program":"core","request":"...","msg":"text"}
// Refuses: use by libraries (they return statuses), and what users wrote: prompts and answers never come
// here. Lines are cut at 1 KiB; control characters become '?'.
#pragma once

#include <stdbool.h>

typedef enum tc_log_level { TC_LOG_ERROR, TC_LOG_WARN, TC_LOG_INFO, TC_LOG_DEBUG } tc_log_level;
typedef enum tc_log_format { TC_LOG_TEXT, TC_LOG_LOGFMT, TC_LOG_JSON } tc_log_format;

// Program name shown in each line, and the least severe level that is still printed. With `journald` each
// line starts with "<N>", the syslog priority, as systemd reads it.
void tc_log_init(const char *program, tc_log_level level, bool journald);
void tc_log_set(tc_log_level level, tc_log_format format); // now, or on reload
bool tc_log_parse_level(const char *name, tc_log_level *ret);
bool tc_log_shows(tc_log_level level);
void tc_log(tc_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
// About one request; `request` is its id ("": none).
void tc_log_request(tc_log_level level, const char *request, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define tc_error_log(...) tc_log(TC_LOG_ERROR, __VA_ARGS__)
#define tc_warn(...) tc_log(TC_LOG_WARN, __VA_ARGS__)
#define tc_info(...) tc_log(TC_LOG_INFO, __VA_ARGS__)
#define tc_debug(...) tc_log(TC_LOG_DEBUG, __VA_ARGS__)
