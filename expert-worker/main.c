// SPDX-License-Identifier: Apache-2.0
// thermocline-worker: computes expert calls for a core. Owns: the process: signals, parent, exit code.
//   0 told to stop · 1 could not start or go on · 2 wrong command line, or turned away by the core · 3 store
//   damaged in use
#include "common/base/config.h"
#include "common/base/process.h"
#include "expert-worker/serve.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void on_stop(int number)
{
    tc_serve_stop();
}

static void on_reload(int number)
{
    tc_serve_reload();
}

static void watch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_stop}, reload = {.sa_handler = on_reload},
                     ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGHUP, &reload, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

static int show(tc_setting_id what)
{
    if (what == TC_OPT_VERSION) {
        puts("thermocline-worker " TC_VERSION);
    } else {
        puts("usage: thermocline-worker --connect URL --store FILE --index I --of N [options]");
        tc_settings_help(TC_FOR_WORKER, stdout);
    }
    return TC_EXIT_OK;
}

int main(int argc, char **argv)
{
    tc_worker_options options;
    tc_arguments_full full = {0};
    tc_error error;
    int code = TC_EXIT_FAILED;
    tc_log_init("thermocline-worker", TC_LOG_INFO, false);
    tc_status status = tc_config_expand(TC_FOR_WORKER, argc, argv, environ, &full, &error);
    if (status == TC_OK) status = tc_worker_options_read(full.argc, full.argv, &options, &error);
    if (status == TC_CANCELLED) {
        code = show(options.program.show);
    } else if (status != TC_OK) {
        tc_error_log("%s", error.text);
        code = TC_EXIT_REJECTED;
    } else {
        tc_log_init("thermocline-worker", options.program.log_level, options.program.journald);
        tc_log_set(options.program.log_level, options.program.log_format);
        if (!options.program.core_dumps) tc_process_forbid_dumps();
        tc_notify_init(getenv("NOTIFY_SOCKET"), getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
        watch_signals();
        if (options.program.probe_dir && tc_probe_init(options.program.probe_dir, &error) != TC_OK)
            tc_error_log("%s", error.text);
        else if (tc_process_follow_parent(options.program.parent_pid))
            code = tc_serve(&options, argc, argv, &full);
        else
            tc_error_log("the parent process %ld is gone", options.program.parent_pid);
    }
    tc_config_expand_free(&full);
    return code;
}
