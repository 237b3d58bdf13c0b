// SPDX-License-Identifier: Apache-2.0
// Owns: what the gateway makes of its settings (common/base/settings.def). Refuses: to touch anything else.
#pragma once

#include "common/base/log.h"
#include "common/base/settings.h"
#include "gateway/auth.h"

typedef struct tc_gateway_settings {
    const char *engine, *model_dir, *model_name, *listen, *key_file, *trace;
    uint32_t drain_s, connections, peer_connections; // connections: 0: the default
    tc_web_policy web;
    long parent_pid; // 0: none
    tc_log_level log_level;
    tc_log_format log_format;
    bool journald, core_dumps;
    tc_setting_id show; // TC_OPT_HELP, TC_OPT_VERSION: only that was asked for
} tc_gateway_settings;

// TC_CANCELLED: help or version was asked for (`show`). Texts borrow from argv.
tc_status tc_gateway_settings_read(int argc, char *const *argv, tc_gateway_settings *ret, tc_error *e);
