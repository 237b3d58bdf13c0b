// SPDX-License-Identifier: Apache-2.0
// Owns: the routes that only tell: health, model-info, the models list, memory, experts.
#include "gateway/engine_link.h"
#include "gateway/json_request.h"
#include "gateway/routes.h"

#include <inttypes.h>
#include <string.h>

static void respond(tc_http_conn *conn, int status, const char *extra, tc_buffer *body)
{
    tc_buffer_text(body, "\n");
    tc_http_respond(conn, status, "application/json", extra, body->data, body->failed ? 0 : body->count);
    tc_buffer_free(body);
}

void tc_api_health(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    const tc_engine_status *engine = NULL;
    const char *reason = "";
    tc_buffer body = {0};
    (void)rest;
    bool known = tc_core_link_status(gateway->link, &engine, &reason);
    bool ready = known && engine->ready && !gateway->draining;
    if (known) reason = gateway->draining ? "the server is stopping" : engine->reason;
    tc_buffer_format(&body, "{\"status\":\"%s\",\"ready\":%s",
                     ready   ? *reason ? "degraded" : "ok"
                     : known ? "loading"
                             : "unavailable",
                     ready ? "true" : "false");
    if (known)
        tc_buffer_format(&body, ",\"workers\":{\"up\":%u,\"expected\":%u},\"running\":%u,\"waiting\":%u",
                         engine->workers_up, engine->workers_expected, engine->running, engine->waiting);
    else
        tc_buffer_text(&body, ",\"workers\":{\"up\":0,\"expected\":0},\"running\":0,\"waiting\":0");
    tc_buffer_text(&body, ",\"reason\":");
    tc_buffer_json_text(&body, *reason ? reason : NULL);
    tc_buffer_text(&body, "}");
    respond(conn, ready ? 200 : 503,
            ready ? "Cache-Control: no-store\r\n" : "Cache-Control: no-store\r\nRetry-After: 1\r\n", &body);
}

static void text_field(tc_buffer *out, const char *name, const char *text)
{
    tc_buffer_format(out, ",\"%s\":", name);
    tc_buffer_json_text(out, text);
}

static void number_field(tc_buffer *out, const char *name, uint64_t value)
{
    tc_buffer_format(out, ",\"%s\":%" PRIu64, name, value);
}

static void defaults(tc_buffer *out, const tc_sampling *s)
{
    tc_buffer_text(out, ",\"sampling_defaults\":{\"temperature\":");
    tc_buffer_json_number(out, (double)s->temperature);
    tc_buffer_text(out, ",\"top_p\":");
    tc_buffer_json_number(out, (double)s->top_p);
    tc_buffer_format(out, ",\"top_k\":%u,\"min_p\":", s->top_k);
    tc_buffer_json_number(out, (double)s->min_p);
    tc_buffer_text(out, ",\"repetition_penalty\":");
    tc_buffer_json_number(out, (double)s->repetition_penalty);
    tc_buffer_text(out, "}");
}

static void statistics(tc_buffer *out, const tc_engine_status *e)
{
    tc_buffer_format(out, ",\"statistics\":{\"uptime_seconds\":%" PRIu64, e->uptime_us / 1000000);
    number_field(out, "tokens_generated", e->tokens_generated);
    number_field(out, "prompt_tokens", e->prompt_tokens);
    number_field(out, "expert_calls", e->expert_calls);
    number_field(out, "expert_retries", e->expert_retries);
    number_field(out, "workers_lost", e->workers_lost);
    number_field(out, "expert_cache_hits", e->expert_hits);
    number_field(out, "expert_cache_misses", e->expert_misses);
    number_field(out, "expert_reads", e->expert_reads);
    number_field(out, "steps", e->steps);
    number_field(out, "step_us", e->step_us_total);
    number_field(out, "attention_us", e->attention_us);
    number_field(out, "router_us", e->router_us);
    number_field(out, "expert_us", e->expert_us);
    number_field(out, "wait_us", e->wait_us);
    number_field(out, "head_us", e->head_us);
    number_field(out, "decode_allocations", e->decode_allocations);
    number_field(out, "held", e->held);
    number_field(out, "queue_tokens", e->queue_tokens);
    number_field(out, "kv_pages", e->kv_pages);
    number_field(out, "kv_pages_free", e->kv_pages_free);
    number_field(out, "cached_tokens", e->cached_tokens);
    number_field(out, "cache_bytes", e->cache_bytes);
    number_field(out, "cache_evictions", e->cache_evictions);
    number_field(out, "refused", e->refused);
    number_field(out, "expired", e->expired);
    number_field(out, "sched_us", e->sched_us);
    number_field(out, "placement_us", e->placement_us);
    tc_buffer_text(out, "}");
}

void tc_api_model_info(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    const tc_model_info *info = tc_core_link_info(gateway->link);
    const tc_engine_status *engine = NULL;
    const char *reason = "";
    tc_buffer body = {0};
    (void)rest;
    bool known = tc_core_link_status(gateway->link, &engine, &reason);
    if (!info) {
        tc_http_error error;
        tc_http_refuse_for_now(&error, "%s", reason);
        tc_http_fail(conn, &error);
        return;
    }
    tc_buffer_text(&body, "{\"model\":");
    tc_buffer_json_text(&body, gateway->options.model.name);
    text_field(&body, "family", info->family);
    text_field(&body, "model_hash", info->model_hash);
    text_field(&body, "device", info->device);
    text_field(&body, "precision", info->precision);
    text_field(&body, "isa", info->isa);
    number_field(&body, "layers", info->layers);
    number_field(&body, "hidden", info->hidden);
    number_field(&body, "vocab", info->vocab);
    number_field(&body, "experts", info->experts);
    number_field(&body, "experts_per_token", info->top_k);
    number_field(&body, "context", info->context);
    number_field(&body, "sessions_max", info->sessions_max);
    number_field(&body, "weights_bytes", info->weights_bytes);
    number_field(&body, "experts_bytes", info->experts_bytes);
    number_field(&body, "kv_budget_bytes", info->kv_budget_bytes);
    number_field(&body, "prefix_cache_bytes", info->cache_budget_bytes);
    number_field(&body, "queue_requests_max", info->queue_requests_max);
    number_field(&body, "queue_tokens_max", info->queue_tokens_max);
    defaults(&body, &gateway->options.model.defaults);
    if (known) statistics(&body, engine);
    tc_buffer_text(&body, "}");
    respond(conn, 200, NULL, &body);
}

static void model_object(const tc_gateway *gateway, tc_buffer *out)
{
    tc_buffer_text(out, "{\"id\":");
    tc_buffer_json_text(out, gateway->options.model.name);
    tc_buffer_format(out, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"thermocline\"}",
                     gateway->started_at);
}

void tc_api_models(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    tc_buffer body = {0};
    (void)rest;
    tc_buffer_text(&body, "{\"object\":\"list\",\"data\":[");
    model_object(gateway, &body);
    tc_buffer_text(&body, "]}");
    respond(conn, 200, NULL, &body);
}

void tc_api_model(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    tc_buffer body = {0};
    if (strcmp(rest, gateway->options.model.name) != 0) {
        tc_http_error error;
        tc_http_refuse(&error, 404, "model_not_found", "model",
                       "the model '%.100s' is not served here; '%.150s' is", rest,
                       gateway->options.model.name);
        tc_http_fail(conn, &error);
        return;
    }
    model_object(gateway, &body);
    respond(conn, 200, NULL, &body);
}
