// SPDX-License-Identifier: Apache-2.0
// thermocline-worker: computes expert calls for a core. Owns: the process: signals, parent, exit code.
//   0 told to stop · 1 could not start or go on · 2 wrong command line, or turned away by the core · 3 store
//   damaged in use
#include "expert-worker/serve.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

static void on_stop(int number)
{
    tc_serve_stop();
}

static void watch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_stop}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

// The kernel tells us when the parent dies; it may have died before we asked.
static bool follow_parent(long pid)
{
    if (pid == 0) return true;
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != (pid_t)pid) {
        tc_error_log("the parent process %ld is gone", pid);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    tc_worker_options options;
    switch (tc_worker_parse(argc, argv, &options)) {
    case TC_PARSED_HELP:
        return TC_EXIT_OK;
    case TC_PARSED_WRONG:
        return TC_EXIT_REJECTED;
    case TC_PARSED_RUN:
        break;
    }
    tc_log_init("thermocline-worker", options.log_level, options.journald);
    watch_signals();
    if (!follow_parent(options.parent_pid)) return TC_EXIT_FAILED;
    return tc_serve(&options);
}
