// SPDX-License-Identifier: Apache-2.0
// Owns: what the gateway makes of its settings.
#include "gateway/options.h"
#include "gateway/limits.h"
#include <string.h>

// What is named twice (in the file and by who started us, say) counts once.
static tc_status add_name(const char **list, uint32_t *count, const char *name, tc_error *e)
{
    for (uint32_t i = 0; i < *count; i++)
        if (strcmp(list[i], name) == 0) return TC_OK;
    if (*count == TC_WEB_NAMES_MAX)
        return tc_fail(e, TC_ARGUMENT, "%s: more than %d names", name, TC_WEB_NAMES_MAX);
    list[(*count)++] = name;
    return TC_OK;
}

static tc_status apply(void *arg, const tc_setting *s, const tc_setting_value *value, tc_error *e)
{
    tc_gateway_settings *o = arg;
    bool taken;
    tc_status status = tc_program_setting(s, value, &o->program, &taken, e);
    if (taken) return status;
    switch (s->id) {
    case TC_OPT_ENGINE:
        o->engine = value->text;
        return TC_OK;
    case TC_OPT_MODEL:
        o->model_dir = value->text;
        return TC_OK;
    case TC_OPT_MODEL_NAME:
        o->model_name = value->text;
        return TC_OK;
    case TC_OPT_LISTEN:
        o->listen = value->text;
        return TC_OK;
    case TC_OPT_API_KEY_FILE:
        o->key_file = value->text;
        return TC_OK;
    case TC_OPT_ALLOW_HOST:
        return add_name(o->web.hosts, &o->web.host_count, value->text, e);
    case TC_OPT_CORS_ORIGIN:
        return add_name(o->web.origins, &o->web.origin_count, value->text, e);
    case TC_OPT_CONNECTIONS:
        o->connections = (uint32_t)value->number;
        return TC_OK;
    case TC_OPT_CONNECTIONS_PER_PEER:
        o->peer_connections = (uint32_t)value->number;
        return TC_OK;
    case TC_OPT_DRAIN_SECONDS:
        o->drain_s = (uint32_t)value->number;
        return TC_OK;
    default:
        return tc_fail(e, TC_INTERNAL, "--%s is not read", s->name);
    }
}

tc_status tc_gateway_settings_read(int argc, char *const *argv, tc_gateway_settings *ret, tc_error *e)
{
    tc_gateway_settings o = {
        .listen = "127.0.0.1:8080", .drain_s = TC_DRAIN_S, .program = {.log_level = TC_LOG_INFO}};
    tc_status status = tc_settings_parse(TC_FOR_GATEWAY, argc, argv, apply, &o, e);
    if (status == TC_OK && !o.engine) status = tc_fail(e, TC_ARGUMENT, "--engine is missing");
    if (status == TC_OK && !o.model_dir) status = tc_fail(e, TC_ARGUMENT, "--model is missing");
    if (status == TC_OK || status == TC_CANCELLED) *ret = o;
    return status;
}
