// SPDX-License-Identifier: Apache-2.0
// Owns: what each of our programs does at its start, and its words with the service manager: readiness,
// status, the watchdog's heartbeat, reloading, stopping (the sd_notify protocol: datagrams to the socket that
// $NOTIFY_SOCKET names). Refuses: to read the environment: the program hands the values over.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

// No core dumps, and nothing of memory in those that a handler takes all the same: users' texts lie there.
void tc_process_forbid_dumps(void);
// The kernel sends SIGTERM when that parent dies. False: it is gone already. 0: no parent.
bool tc_process_follow_parent(long pid);

// For the life of the process. socket: $NOTIFY_SOCKET or NULL (then all of this does nothing); watchdog_usec,
// watchdog_pid: $WATCHDOG_USEC and $WATCHDOG_PID, or NULL.
void tc_notify_init(const char *socket, const char *watchdog_usec, const char *watchdog_pid);
bool tc_notify_is_on(void);                                                           // or probes are
void tc_notify_ready(const char *format, ...) __attribute__((format(printf, 1, 2)));  // READY=1 and STATUS=
void tc_notify_status(const char *format, ...) __attribute__((format(printf, 1, 2))); // STATUS=
void tc_notify_reloading(void); // ends with tc_notify_ready
void tc_notify_stopping(void);
// Lasts longer than the manager's limit: more time until the next word.
void tc_notify_extend(uint64_t us);
// From the loop whose standing still means that the service hangs. Sends at most one heartbeat a quarter of
// the watchdog's time, so that it may be called as often as one likes.
void tc_notify_alive(uint64_t now_us);
// The same for managers that look by themselves (probes of containers): files in `dir`, which must exist.
// `alive` is touched once a second by tc_notify_alive and tc_notify_extend; `ready` is there while
// tc_probe_ready says so.
tc_status tc_probe_init(const char *dir, tc_error *e);
void tc_probe_ready(bool ready);
// How long that loop may sleep: UINT64_MAX without a watchdog.
uint64_t tc_notify_interval_us(void);
