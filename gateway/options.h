// SPDX-License-Identifier: Apache-2.0
// Owns: what the gateway makes of its settings (common/base/settings.def). Refuses: to touch anything else.
#pragma once

#include "common/base/log.h"
#include "common/base/settings.h"
#include "gateway/auth.h"

typedef struct tc_gateway_settings {
    const char *engine, *model_dir, *model_name, *listen, *key_file;
    uint32_t drain_s, connections, peer_connections; // connections: 0: the default
    tc_web_policy web;
    tc_program_settings program;
} tc_gateway_settings;

// TC_CANCELLED: help or version was asked for (`show`). Texts borrow from argv.
tc_status tc_gateway_settings_read(int argc, char *const *argv, tc_gateway_settings *ret, tc_error *e);
