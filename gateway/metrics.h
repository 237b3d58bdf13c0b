// SPDX-License-Identifier: Apache-2.0
// Owns: what the gateway counts, and GET /metrics: that, and what core and workers last told, in Prometheus'
// text format. Label sets are bounded: routes of the table, status codes of a list, outcomes, stages, layers,
// workers. Refuses: anything a client chose (names, ids, texts) as a label; rates; times that span two
// processes' clocks.
#pragma once

#include "common/base/statistics.h"
#include "proto/engine.h"
#include <stdint.h>

enum { TC_METRIC_ROUTES_MAX = 64, TC_METRIC_CODES = 24 };

typedef enum tc_outcome {
    TC_OUTCOME_STOP,      // the model ended it, or a stop string
    TC_OUTCOME_LENGTH,    // its length
    TC_OUTCOME_CANCELLED, // the client went away
    TC_OUTCOME_DEADLINE,
    TC_OUTCOME_FAILED,
    TC_OUTCOMES
} tc_outcome;

typedef struct tc_metrics {
    uint64_t http[TC_METRIC_ROUTES_MAX + 1][TC_METRIC_CODES]; // the last route: none of the table
    uint64_t outcomes[TC_OUTCOMES];
    tc_histogram first_token, between_tokens, duration; // by the gateway's clock
    tc_histogram queue, prompt, answer;                 // of finished requests, by the core's
    uint64_t connections, refused_connections;
} tc_metrics;

struct tc_http_conn;
void tc_metrics_answered(tc_metrics *metrics, const struct tc_http_conn *conn);
void tc_metrics_ended(tc_metrics *metrics, tc_outcome outcome, uint64_t duration_us, const tc_usage *usage);
