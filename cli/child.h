// SPDX-License-Identifier: Apache-2.0
// Owns: one child process: how it is started, its log pipe, when it last crashed; and the runtime folder.
// Its log lines go to our stderr. The last error line is held back: when the child then ends for good, it is
// the reason in our own one error line and is not printed twice. Refuses: decisions (supervise.c).
#pragma once

#include "cli/supervise.h"

enum { TC_LOG_LINE_BYTES = 1100 };

typedef struct tc_child {
    char name[24];
    unsigned stop_group;
    bool stopping;                          // its warnings that the others are gone are no news then
    char *argv[TC_CHILD_ARGUMENTS_MAX + 1]; // owned; argv[0] is the program's path
    pid_t pid;                              // 0: not running
    int log_fd;
    char line[TC_LOG_LINE_BYTES], held[TC_LOG_LINE_BYTES];
    size_t line_bytes;
    uint32_t starts;
    uint64_t started_us, due_us, held_us;
    uint64_t pause_ms;
    uint64_t crash_us[TC_CRASHES_MAX]; // ring of the last crashes
    uint32_t crashes;
} tc_child;

tc_status tc_child_create(const char *name, unsigned stop_group, char *const *argv, tc_child **ret,
                          tc_error *e);
void tc_child_free(tc_child *child); // must not be running; NULL is legal
tc_status tc_child_start(tc_child *child, tc_error *e);
void tc_child_read_log(tc_child *child);
void tc_child_flush_log(tc_child *child,
                        uint64_t older_us);         // prints the held line if it is at least that old
const char *tc_child_reason(const tc_child *child); // the held line without level and program
// The pause before the next start; 0 when it has crashed too often.
uint64_t tc_child_note_crash(tc_child *child, uint64_t now_us);

tc_status tc_runtime_dir_make(char *ret, size_t bytes, tc_error *e);
void tc_runtime_dir_remove(const char *dir);
