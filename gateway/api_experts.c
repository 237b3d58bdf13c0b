// SPDX-License-Identifier: Apache-2.0
// Owns: the routes about placement and memory, which the core answers: it is asked, and its JSON is passed on
// between what the gateway knows itself.
#include "common/base/mem.h"
#include "gateway/engine_link.h"
#include "gateway/json_request.h"
#include "gateway/routes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// An answer that is awaited. Owner: the link's table and the connection; whoever is last frees it.
typedef struct waiting {
    tc_gateway *gateway;
    tc_http_conn *conn;
    tc_question question;
} waiting;

static void number_field(tc_buffer *out, const char *name, uint64_t value)
{
    tc_buffer_format(out, ",\"%s\":%" PRIu64, name, value);
}

// ---- what the gateway adds ----

static void add_memory(const tc_gateway *gateway, const tc_model_info *info, const tc_engine_status *engine,
                       tc_buffer *out)
{
    tc_buffer_format(out, "{\"weights_bytes\":%" PRIu64, info->weights_bytes);
    number_field(out, "experts_bytes", info->experts_bytes);
    number_field(out, "kv_budget_bytes", info->kv_budget_bytes);
    tc_buffer_format(out, ",\"kv_pages\":{\"total\":%u,\"free\":%u}", engine->kv_pages,
                     engine->kv_pages_free);
    tc_buffer_format(out, ",\"prefix_cache\":{\"budget_bytes\":%" PRIu64, info->cache_budget_bytes);
    number_field(out, "bytes", engine->cache_bytes);
    number_field(out, "cached_tokens", engine->cached_tokens);
    number_field(out, "evictions", engine->cache_evictions);
    tc_buffer_format(out, "},\"queue\":{\"tokens\":%" PRIu64, engine->queue_tokens);
    number_field(out, "tokens_max", info->queue_tokens_max);
    number_field(out, "requests_max", info->queue_requests_max);
    tc_buffer_format(out, "},\"gateway\":{\"connections\":%u,\"request_bodies_bytes\":%" PRIu64,
                     gateway->conn_count, gateway->bodies_bytes);
    number_field(out, "heap_bytes", tc_mem_heap_bytes());
    tc_buffer_text(out, "}");
}

static void add_experts(const tc_engine_status *engine, tc_buffer *out)
{
    uint64_t all = engine->expert_hits + engine->expert_misses;
    tc_buffer_format(out, "{\"hits\":%" PRIu64, engine->expert_hits);
    number_field(out, "misses", engine->expert_misses);
    tc_buffer_text(out, ",\"hit_rate\":");
    if (all)
        tc_buffer_json_number(out, (double)engine->expert_hits / (double)all);
    else
        tc_buffer_text(out, "null");
    number_field(out, "reads", engine->expert_reads);
    number_field(out, "calls", engine->expert_calls);
    number_field(out, "retries", engine->expert_retries);
    number_field(out, "grouped", engine->grouped);
}

// The core's object goes on where ours ends.
static void respond(const waiting *w, const tc_engine_event *event)
{
    tc_buffer body = {0};
    const char *reason = "";
    const tc_engine_status *engine;
    const tc_model_info *info = tc_core_link_info(w->gateway->link);
    if (!info || !tc_core_link_status(w->gateway->link, &engine, &reason)) {
        tc_http_error error;
        tc_http_refuse_for_now(&error, "%s", reason);
        tc_http_fail(w->conn, &error);
        return;
    }
    if (w->question == TC_ASK_MEMORY)
        add_memory(w->gateway, info, engine, &body);
    else
        add_experts(engine, &body);
    if (event->text_bytes > 2 && event->text[0] == '{') {
        tc_buffer_text(&body, ",");
        tc_buffer_append(&body, event->text + 1, event->text_bytes - 1);
    } else {
        tc_buffer_text(&body, "}");
    }
    tc_buffer_text(&body, "\n");
    tc_http_respond(w->conn, 200, "application/json", "Cache-Control: no-store\r\n", body.data,
                    body.failed ? 0 : body.count);
    tc_buffer_free(&body);
}

static void fail(const waiting *w, const tc_engine_event *event)
{
    tc_http_error error;
    if (!event)
        tc_http_refuse_for_now(&error, "the core went away before it answered");
    else if (event->status == TC_UNSUPPORTED)
        tc_http_refuse(&error, 409, "unsupported", NULL, "%s", event->reason);
    else if (event->status == TC_FORMAT || event->status == TC_ARGUMENT || event->status == TC_LIMIT)
        tc_http_refuse(&error, 400, "invalid_value", NULL, "%s", event->reason);
    else
        tc_http_refuse_status(&error, event->status, event->reason);
    tc_http_fail(w->conn, &error);
}

static void gone(void *owner)
{
    waiting *w = owner;
    tc_core_link_forget(w->gateway->link, w);
    free(w);
}

static void answered(void *arg, const tc_engine_event *event)
{
    waiting *w = arg;
    tc_http_own(w->conn, NULL, NULL);
    if (event && event->status == TC_OK)
        respond(w, event);
    else
        fail(w, event);
    free(w);
}

static void ask(tc_gateway *gateway, tc_http_conn *conn, tc_question question, const char *text, size_t bytes)
{
    tc_http_error error;
    waiting *w = malloc(sizeof *w);
    if (!w) {
        tc_refuse_memory(&error);
        tc_http_fail(conn, &error);
        return;
    }
    *w = (waiting){gateway, conn, question};
    if (!tc_core_link_ask(gateway->link, question, text, bytes, answered, w, &error)) {
        free(w);
        tc_http_fail(conn, &error);
        return;
    }
    tc_http_own(conn, w, gone);
}

void tc_api_memory(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)rest;
    ask(gateway, conn, TC_ASK_MEMORY, NULL, 0);
}

void tc_api_expert_stats(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)rest;
    ask(gateway, conn, TC_ASK_EXPERT_STATS, NULL, 0);
}

void tc_api_expert_optimization(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    tc_http_error error;
    yyjson_doc *doc = NULL;
    const tc_buffer *body = &conn->parser.body;
    (void)rest;
    if (!tc_fields_open(body->data, body->count, &doc, &error)) {
        tc_http_fail(conn, &error);
        return;
    }
    yyjson_doc_free(doc);
    ask(gateway, conn, TC_ASK_EXPERT_OPTIMIZATION, body->data, body->count);
}
