// SPDX-License-Identifier: Apache-2.0
// Owns: child processes and their runtime folder: start, restart with growing pauses, ordered stop, log
// lines.
//
//   added --start--> running --exit--> pausing --pause over: start--> running
//                       |                 more than CRASHES_MAX restarts in a minute --> the supervisor fails
//                       |-- an exit code of its own before tc_supervisor_ready, on its first start --> fails
//   tc_supervisor_free: SIGTERM by stop group, lowest first; SIGKILL after the grace; the folder is removed.
//
// One thread, one supervisor a process: SIGINT, SIGTERM, SIGHUP and SIGCHLD are taken over while it lives.
// Refuses: to know what the children do.
#pragma once

#include "common/base/status.h"
#include <stdint.h>
#include <sys/types.h>

enum {
    TC_CHILDREN_MAX = 66, // 64 workers, core, gateway
    TC_CHILD_ARGUMENTS_MAX = 128,
    TC_PAUSE_MIN_MS = 50,
    TC_PAUSE_MAX_MS = 2000,
    TC_CRASHES_MAX = 10, // restarts of one child within TC_CRASH_WINDOW_S
    TC_CRASH_WINDOW_S = 60,
    TC_STOP_GRACE_MS = 10000, // a stop group's time between SIGTERM and SIGKILL
};

typedef struct tc_supervisor tc_supervisor;

tc_status tc_supervisor_create(tc_supervisor **ret, tc_error *e);
void tc_supervisor_free(tc_supervisor *supervisor); // stops everything, waits; NULL is legal
const char *tc_supervisor_dir(const tc_supervisor *supervisor);

// Starts argv[0] found by tc_find_program. `name` is what messages call it. Arguments are copied.
tc_status tc_supervisor_add(tc_supervisor *supervisor, const char *name, unsigned stop_group,
                            char *const *argv, tc_error *e);
// From now on a child that exits is restarted whatever its exit code.
void tc_supervisor_ready(tc_supervisor *supervisor);

// Looks after the children until fd (-1: none) is readable: TC_OK; until timeout_us is over: TC_TIMEOUT;
// until a signal asks to stop: TC_CANCELLED; or until a child cannot be kept alive: another status, with the
// reason.
tc_status tc_supervisor_wait(tc_supervisor *supervisor, int fd, uint64_t timeout_us, tc_error *e);

// Pid of the child with that name; 0 while it is not running.
pid_t tc_supervisor_pid(const tc_supervisor *supervisor, const char *name);
// Sum of the proportional set sizes of all children.
uint64_t tc_supervisor_resident_bytes(const tc_supervisor *supervisor);

// Beside this executable, in ../libexec/thermocline, or where the build tree has it. Owner: the caller,
// free().
tc_status tc_find_program(const char *name, char **ret, tc_error *e);
