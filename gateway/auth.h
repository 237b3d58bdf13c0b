// SPDX-License-Identifier: Apache-2.0
// Owns: who may ask: API keys, and on loopback the guard against pages in a browser that reach us through a
// name of theirs (DNS rebinding) or across origins.
#pragma once

#include "gateway/http_parse.h"

typedef struct tc_api_keys tc_api_keys;

// One key a line, after it maybe " priority=N": the highest priority its requests may ask for (0 when it is
// not there). Empty lines and lines starting with '#' do not count. TC_FORMAT when none is left.
tc_status tc_api_keys_load(const char *path, tc_api_keys **ret, tc_error *e);
tc_status tc_api_keys_parse(const char *text, size_t bytes, const char *name, tc_api_keys **ret, tc_error *e);
void tc_api_keys_free(tc_api_keys *keys);
// In time that depends on the lengths only.
bool tc_api_keys_match(const tc_api_keys *keys, const char *key, size_t bytes);

// Whose a request is.
typedef struct tc_identity {
    uint64_t scope;       // of the key; 0: no keys are asked for
    int32_t priority_max; // of its requests
} tc_identity;

// "Authorization: Bearer KEY" or "x-api-key: KEY". *ret: whose key it is.
bool tc_auth_check_key(const tc_api_keys *keys, const tc_http_parser *request, tc_identity *ret,
                       tc_http_error *error);

// What the operator lets in besides this machine's own names and pages. Texts are borrowed.
typedef struct tc_web_policy {
    const char *hosts[TC_WEB_NAMES_MAX];   // names without port
    const char *origins[TC_WEB_NAMES_MAX]; // "https://page.example", or "*"
    uint32_t host_count, origin_count;
} tc_web_policy;

bool tc_web_allows_origin(const tc_web_policy *policy, const char *origin, size_t bytes);
// Host (and the authority of an absolute URI) and Origin must name this machine (localhost, 127.0.0.1, [::1])
// or be in the policy.
bool tc_auth_check_local(const tc_web_policy *policy, const tc_http_parser *request, tc_http_error *error);
