// SPDX-License-Identifier: Apache-2.0
// Owns: Prometheus' text format, and the part of the page that tells of core and workers. Seconds and bytes
// only.
#pragma once

#include "gateway/buffer.h"
#include "proto/engine.h"

void tc_metric_head(tc_buffer *out, const char *name, const char *type, const char *help);
void tc_metric_number(tc_buffer *out, const char *name, const char *type, const char *help, uint64_t value);
void tc_metric_real(tc_buffer *out, const char *name, const char *type, const char *help, double value);
// labels: `name="value"` members without braces, or "".
void tc_metric_buckets(tc_buffer *out, const char *name, const char *labels, const tc_histogram *h);
void tc_metric_histogram(tc_buffer *out, const char *name, const char *help, const char *labels,
                         const tc_histogram *h);
void tc_metrics_of_core(const tc_model_info *info, const tc_engine_status *engine, tc_buffer *out);
