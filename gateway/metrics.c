// SPDX-License-Identifier: Apache-2.0
// Owns: counting, and the page of metrics.
#include "gateway/metrics.h"

#include "common/base/clock.h"
#include "gateway/engine_link.h"
#include "gateway/metrics_text.h"
#include "gateway/routes.h"
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

static const int codes[TC_METRIC_CODES] = {
    101, 200, 204, 400, 401, 403, 404, 405, 408, 409, 411, 413,
    414, 415, 417, 426, 429, 431, 500, 501, 503, 504, 505, 0}; // 0: any other

void tc_metrics_answered(tc_metrics *m, const tc_http_conn *conn)
{
    if (!TC_COUNTS) return;
    size_t count, route = tc_routes_index(&conn->parser), code = 0;
    tc_routes(&count);
    if (route >= count || route >= TC_METRIC_ROUTES_MAX) route = TC_METRIC_ROUTES_MAX;
    while (codes[code] && codes[code] != conn->status) code++;
    m->http[route][code]++;
}

void tc_metrics_ended(tc_metrics *m, tc_outcome outcome, uint64_t duration_us, const tc_usage *usage)
{
    if (!TC_COUNTS) return;
    m->outcomes[outcome]++;
    tc_histogram_add(&m->duration, duration_us);
    if (outcome != TC_OUTCOME_STOP && outcome != TC_OUTCOME_LENGTH) return;
    tc_histogram_add(&m->queue, usage->queue_us);
    tc_histogram_add(&m->prompt, usage->prefill_us);
    tc_histogram_add(&m->answer, usage->decode_us);
}

static void requests(const tc_metrics *m, tc_buffer *out)
{
    static const char *const names[TC_OUTCOMES] = {"stop", "length", "cancelled", "deadline", "failed"};
    size_t count;
    const tc_route *routes = tc_routes(&count);
    tc_metric_head(out, "thermocline_http_requests_total", "counter",
                   "HTTP requests answered, by route and status code.");
    for (size_t r = 0; r <= TC_METRIC_ROUTES_MAX; r++)
        for (size_t c = 0; c < TC_METRIC_CODES; c++) {
            if (!m->http[r][c]) continue;
            tc_buffer_format(out, "thermocline_http_requests_total{route=\"%s\",code=\"",
                             r < count ? routes[r].path : "other");
            if (codes[c])
                tc_buffer_format(out, "%d", codes[c]);
            else
                tc_buffer_text(out, "other");
            tc_buffer_format(out, "\"} %" PRIu64 "\n", m->http[r][c]);
        }
    tc_metric_head(out, "thermocline_requests_total", "counter",
                   "Generations that ended, by how they ended.");
    for (int i = 0; i < TC_OUTCOMES; i++)
        tc_buffer_format(out, "thermocline_requests_total{outcome=\"%s\"} %" PRIu64 "\n", names[i],
                         m->outcomes[i]);
    tc_metric_histogram(out, "thermocline_time_to_first_token_seconds",
                        "From a request's arrival to its first token.", "", &m->first_token);
    tc_metric_histogram(out, "thermocline_inter_token_seconds", "Between two tokens of one generation.", "",
                        &m->between_tokens);
    tc_metric_histogram(out, "thermocline_request_duration_seconds", "From a request's arrival to its end.",
                        "", &m->duration);
    tc_metric_head(out, "thermocline_request_stage_seconds", "histogram",
                   "Of finished generations: waiting, reading the prompt, answering.");
    tc_metric_buckets(out, "thermocline_request_stage_seconds", "stage=\"queue\"", &m->queue);
    tc_metric_buckets(out, "thermocline_request_stage_seconds", "stage=\"prompt\"", &m->prompt);
    tc_metric_buckets(out, "thermocline_request_stage_seconds", "stage=\"answer\"", &m->answer);
}

static void gateway_process(const tc_gateway *gateway, tc_buffer *out)
{
    size_t resident = 0;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    uv_resident_set_memory(&resident);
    double cpu = (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    tc_metric_number(out, "thermocline_http_connections", "gauge", "Open connections.", gateway->conn_count);
    tc_metric_number(out, "thermocline_http_connections_accepted_total", "counter", "Connections accepted.",
                     gateway->metrics.connections);
    tc_metric_number(out, "thermocline_http_connections_refused_total", "counter",
                     "Connections that were one too many.", gateway->metrics.refused_connections);
    tc_metric_number(out, "thermocline_http_body_bytes", "gauge", "Bodies of requests held in memory.",
                     gateway->bodies_bytes);
    tc_metric_number(out, "process_start_time_seconds", "gauge", "Start of the gateway since the epoch.",
                     (uint64_t)gateway->started_at);
    tc_metric_real(out, "process_cpu_seconds_total", "counter", "CPU time of the gateway.", cpu);
    tc_metric_number(out, "process_resident_memory_bytes", "gauge", "Resident memory of the gateway.",
                     resident);
}

void tc_api_metrics(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    const tc_engine_status *engine = NULL;
    const tc_model_info *info = tc_core_link_info(gateway->link);
    const char *reason;
    tc_buffer body = {0};
    (void)rest;
    bool known = tc_core_link_status(gateway->link, &engine, &reason) && info;
    tc_metric_head(&body, "thermocline_build_info", "gauge", "Always 1.");
    tc_buffer_text(&body, "thermocline_build_info{version=\"" TC_VERSION "\"} 1\n");
    tc_metric_number(&body, "thermocline_core_up", "gauge", "Whether the core is connected and answers.",
                     known);
    tc_metric_number(&body, "thermocline_ready", "gauge", "Whether requests for text can be answered.",
                     known && engine->ready && !gateway->draining);
    requests(&gateway->metrics, &body);
    gateway_process(gateway, &body);
    if (known) tc_metrics_of_core(info, engine, &body);
    tc_http_respond(conn, 200, "text/plain; version=0.0.4; charset=utf-8", "Cache-Control: no-store\r\n",
                    body.data, body.failed ? 0 : body.count);
    tc_buffer_free(&body);
}
