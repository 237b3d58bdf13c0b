// SPDX-License-Identifier: Apache-2.0
// Owns: who may ask: API keys, and on loopback the guard against pages in a browser that reach us through a
// name of theirs (DNS rebinding) or across origins.
#pragma once

#include "gateway/http_parse.h"

typedef struct tc_api_keys tc_api_keys;

// One key a line; empty lines and lines starting with '#' do not count. TC_FORMAT when none is left.
tc_status tc_api_keys_load(const char *path, tc_api_keys **ret, tc_error *e);
tc_status tc_api_keys_parse(const char *text, size_t bytes, const char *name, tc_api_keys **ret, tc_error *e);
void tc_api_keys_free(tc_api_keys *keys);
// In time that depends on the lengths only.
bool tc_api_keys_match(const tc_api_keys *keys, const char *key, size_t bytes);

// "Authorization: Bearer KEY" or "x-api-key: KEY".
bool tc_auth_check_key(const tc_api_keys *keys, const tc_http_parser *request, tc_http_error *error);
// Host (and the authority of an absolute URI) and Origin must name this machine: localhost, 127.0.0.1, [::1].
bool tc_auth_check_local(const tc_http_parser *request, tc_http_error *error);
