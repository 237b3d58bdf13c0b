// SPDX-License-Identifier: Apache-2.0
// Owns: the text format, and core and workers in it.
#include "gateway/metrics_text.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

void tc_metric_head(tc_buffer *out, const char *name, const char *type, const char *help)
{
    tc_buffer_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void tc_metric_number(tc_buffer *out, const char *name, const char *type, const char *help, uint64_t value)
{
    tc_metric_head(out, name, type, help);
    tc_buffer_format(out, "%s %" PRIu64 "\n", name, value);
}

void tc_metric_real(tc_buffer *out, const char *name, const char *type, const char *help, double value)
{
    tc_metric_head(out, name, type, help);
    tc_buffer_format(out, "%s %.9g\n", name, value);
}

static void put_us(tc_buffer *out, uint64_t us)
{
    tc_buffer_format(out, "%" PRIu64 ".%06" PRIu64, us / 1000000, us % 1000000);
}

void tc_metric_buckets(tc_buffer *out, const char *name, const char *labels, const tc_histogram *h)
{
    static const uint64_t bounds[] = {TC_HISTOGRAM_BOUNDS_US};
    const char *comma = *labels ? "," : "", *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    uint64_t sum = 0;
    for (unsigned i = 0; i < TC_HISTOGRAM_BOUNDS; i++) {
        sum += h->count[i];
        tc_buffer_format(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, labels, comma,
                         (double)bounds[i] / 1e6, sum);
    }
    sum += h->count[TC_HISTOGRAM_BOUNDS];
    tc_buffer_format(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n%s_sum%s%s%s ", name, labels, comma, sum,
                     name, open, labels, close);
    put_us(out, h->sum_us);
    tc_buffer_format(out, "\n%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, sum);
}

void tc_metric_histogram(tc_buffer *out, const char *name, const char *help, const char *labels,
                         const tc_histogram *h)
{
    tc_metric_head(out, name, "histogram", help);
    tc_metric_buckets(out, name, labels, h);
}

static void metric_us(tc_buffer *out, const char *name, const char *labels, uint64_t us)
{
    tc_buffer_format(out, *labels ? "%s{%s} " : "%s%s ", name, labels);
    put_us(out, us);
    tc_buffer_text(out, "\n");
}

static void stages(const tc_engine_status *e, tc_buffer *out)
{
    static const char name[] = "thermocline_stage_seconds_total";
    tc_metric_head(
        out, name, "counter",
        "Where the time of steps goes. worker_wait is the part of experts that was waiting, not computing.");
    metric_us(out, name, "stage=\"attention\"", e->attention_us);
    metric_us(out, name, "stage=\"router\"", e->router_us);
    metric_us(out, name, "stage=\"experts\"", e->expert_us);
    metric_us(out, name, "stage=\"worker_wait\"", e->wait_us);
    metric_us(out, name, "stage=\"head\"", e->head_us);
    metric_us(out, name, "stage=\"scheduler\"", e->sched_us);
}

// Plain numbers of the status, in the order of the page.
static void numbers(const tc_model_info *info, const tc_engine_status *e, tc_buffer *out)
{
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        {"thermocline_requests_running", "gauge", "Generations in steps.", e->running},
        {"thermocline_requests_waiting", "gauge", "Generations in the queue.", e->waiting},
        {"thermocline_requests_held", "gauge", "Running generations whose readers are slow.", e->held},
        {"thermocline_queue_tokens", "gauge", "Prompt tokens of all generations waiting and running.",
         e->queue_tokens},
        {"thermocline_queue_limit_requests", "gauge", "How many generations may wait and run.",
         info->queue_requests_max},
        {"thermocline_queue_limit_tokens", "gauge", "How many prompt tokens they may have.",
         info->queue_tokens_max},
        {"thermocline_sessions_limit", "gauge", "How many generations may run at once.", info->sessions_max},
        {"thermocline_queue_refused_total", "counter", "Generations the core refused for want of room.",
         e->refused},
        {"thermocline_queue_expired_total", "counter", "Generations that passed their deadline.", e->expired},
        {"thermocline_steps_total", "counter", "Steps of the engine.", e->steps},
        {"thermocline_prompt_tokens_total", "counter", "Prompt tokens computed.", e->prompt_tokens},
        {"thermocline_generated_tokens_total", "counter", "Tokens generated.", e->tokens_generated},
        {"thermocline_prefix_cache_tokens_total", "counter", "Prompt tokens taken from the prefix cache.",
         e->cached_tokens},
        {"thermocline_prefix_cache_bytes", "gauge", "Bytes the prefix cache holds.", e->cache_bytes},
        {"thermocline_prefix_cache_limit_bytes", "gauge", "Bytes it may hold.", info->cache_budget_bytes},
        {"thermocline_prefix_cache_evictions_total", "counter", "Blocks it dropped to make room.",
         e->cache_evictions},
        {"thermocline_kv_pages", "gauge", "Pages of keys and values there are, of 64 positions.",
         e->kv_pages},
        {"thermocline_kv_pages_free", "gauge", "Pages that are free.", e->kv_pages_free},
        {"thermocline_expert_calls_total", "counter", "Expert calls, one a layer and step.", e->expert_calls},
        {"thermocline_expert_retries_total", "counter", "Shares of calls given out again.",
         e->expert_retries},
        {"thermocline_expert_reads_total", "counter", "Experts read, one a step, layer and expert.",
         e->expert_reads},
        {"thermocline_experts_fetched_total", "counter",
         "Cold experts that the GPU read over its link for one step.", e->experts_fetched},
        {"thermocline_decode_allocations_total", "counter", "Allocations in steps; there should be none.",
         e->decode_allocations},
        {"thermocline_workers_up", "gauge", "Connected expert workers.", e->workers_up},
        {"thermocline_workers_expected", "gauge", "How many there should be.", e->workers_expected},
        {"thermocline_workers_lost_total", "counter", "Workers that were lost.", e->workers_lost},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        tc_metric_number(out, rows[i].name, rows[i].type, rows[i].help, rows[i].value);
    tc_metric_head(out, "thermocline_core_uptime_seconds", "gauge", "Age of the core, by its own clock.");
    metric_us(out, "thermocline_core_uptime_seconds", "", e->uptime_us);
    tc_metric_head(out, "thermocline_step_busy_seconds_total", "counter", "Time inside steps.");
    metric_us(out, "thermocline_step_busy_seconds_total", "", e->step_us_total);
}

static void memory(const tc_model_info *info, const tc_engine_status *e, const tc_engine_detail *d,
                   tc_buffer *out)
{
    static const char name[] = "thermocline_memory_bytes";
    const uint64_t *ram = d->memory_bytes, *vram = d->device_bytes;
    bool device = d->device_total_bytes != 0; // then these lie there: dense weights, KV, states, hot experts
    uint64_t hot = device && d->hot_bytes < vram[TC_MEM_OTHER] ? d->hot_bytes : vram[TC_MEM_OTHER];
    const struct {
        const char *memory, *purpose;
        uint64_t bytes;
    } rows[] = {{"ram", "dense_weights", device ? ram[TC_MEM_WEIGHTS] : info->weights_bytes},
                {"ram", "experts", info->experts_bytes},
                {"ram", "hot_experts", device ? 0 : d->hot_bytes},
                {"ram", "kv_and_states_limit", device ? 0 : info->kv_budget_bytes},
                {"ram", "prefix_cache", e->cache_bytes},
                {"ram", "scratch", ram[TC_MEM_SCRATCH]},
                {"ram", "other", ram[TC_MEM_OTHER]},
                {"vram", "dense_weights", vram[TC_MEM_WEIGHTS]},
                {"vram", "hot_experts", hot},
                {"vram", "kv_and_states", vram[TC_MEM_KV] + vram[TC_MEM_STATE]},
                {"vram", "scratch", vram[TC_MEM_SCRATCH]},
                {"vram", "other", vram[TC_MEM_OTHER] - hot},
                {"vram", "driver", d->device_driver_bytes}};
    tc_metric_head(
        out, name, "gauge",
        "Memory of the model by purpose: packed experts lie in shared memory, KV fills up to its limit.");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        tc_buffer_format(out, "%s{memory=\"%s\",purpose=\"%s\"} %" PRIu64 "\n", name, rows[i].memory,
                         rows[i].purpose, rows[i].bytes);
    tc_metric_number(out, "thermocline_device_memory_used_bytes", "gauge",
                     "Most of the device's memory that was in use, whoever used it.", d->device_used_bytes);
    tc_metric_number(out, "thermocline_device_memory_limit_bytes", "gauge",
                     "Memory of the device; 0: it has none of its own.", d->device_total_bytes);
}

static void experts(const tc_engine_detail *d, tc_buffer *out)
{
    tc_metric_head(
        out, "thermocline_expert_lookups_total", "counter",
        "(token, expert) pairs, by layer and by where the expert was: hot (device) or cold (workers).");
    for (uint64_t n = 0; n < d->layer_count; n++)
        if (d->layers[n].hot || d->layers[n].cold)
            tc_buffer_format(out,
                             "thermocline_expert_lookups_total{tier=\"hot\",layer=\"%" PRIu64 "\"} %" PRIu64
                             "\nthermocline_expert_lookups_total{tier=\"cold\",layer=\"%" PRIu64
                             "\"} %" PRIu64 "\n",
                             n, d->layers[n].hot, n, d->layers[n].cold);
    tc_metric_number(out, "thermocline_expert_cache_slots", "gauge", "Places for experts on the device.",
                     d->hot_slots);
    tc_metric_number(out, "thermocline_expert_cache_used", "gauge", "Places that hold one.", d->hot_used);
    tc_metric_number(out, "thermocline_expert_fills_total", "counter", "Experts brought to the device.",
                     d->fills);
    tc_metric_number(out, "thermocline_expert_evictions_total", "counter", "Experts that made room.",
                     d->hot_evictions);
    tc_metric_number(out, "thermocline_expert_moved_bytes_total", "counter", "Bytes brought to the device.",
                     d->moved_bytes);
    tc_metric_number(out, "thermocline_expert_expected_total", "counter",
                     "Choices of experts that were foretold a layer before.", d->expected);
    tc_metric_number(out, "thermocline_expert_expected_true_total", "counter", "Those that came true.",
                     d->expected_true);
    tc_metric_number(out, "thermocline_expert_ahead_fills_total", "counter",
                     "Experts fetched for a layer to come of the step under way.", d->ahead_fills);
    tc_metric_number(out, "thermocline_expert_ahead_used_total", "counter", "Those that the layer used.",
                     d->ahead_used);
    tc_metric_number(out, "thermocline_expert_ahead_late_total", "counter",
                     "Those that it would have used, but that were not there yet.", d->ahead_late);
    tc_metric_histogram(out, "thermocline_expert_swap_seconds", "How long bringing one took.", "", &d->swap);
    tc_metric_histogram(out, "thermocline_step_seconds", "Durations of steps.", "", &d->step);
}

// One counter of all workers.
static void worker_row(const tc_engine_detail *d, const char *name, const char *type, const char *help,
                       size_t offset, bool is_us, tc_buffer *out)
{
    tc_metric_head(out, name, type, help);
    for (uint64_t i = 0; i < d->worker_count; i++) {
        uint64_t value;
        memcpy(&value, (const char *)&d->workers[i] + offset, sizeof value);
        tc_buffer_format(out, "%s{worker=\"%" PRIu64 "\"} ", name, i);
        if (is_us)
            put_us(out, value);
        else
            tc_buffer_format(out, "%" PRIu64, value);
        tc_buffer_text(out, "\n");
    }
}

static void workers(const tc_engine_detail *d, tc_buffer *out)
{
#define ROW(name, type, help, field, is_us)                                                                  \
    worker_row(d, "thermocline_worker_" name, type, help, offsetof(tc_worker_stats, field), is_us, out)
    ROW("up", "gauge", "Whether a worker of this index is connected.", up, false);
    ROW("starts_total", "counter", "Workers of this index that connected; what is above 1 are restarts.",
        starts, false);
    ROW("queue_depth", "gauge", "Calls it computes now.", in_flight, false);
    ROW("calls_total", "counter", "Calls answered.", calls, false);
    ROW("failures_total", "counter", "Calls it could not compute.", failures, false);
    ROW("retries_total", "counter", "Its calls that were given out again.", retries, false);
    ROW("quarantines_total", "counter", "Times it was left alone for a while: it broke its word.",
        quarantines, false);
    ROW("hedges_total", "counter", "Its calls that another worker was given too, because it was late.",
        hedges, false);
    ROW("expert_read_bytes_total", "counter",
        "Packed experts its calls read; over compute seconds: its bandwidth.", expert_bytes, false);
    ROW("compute_seconds_total", "counter", "Time it computed, by its own clock.", compute_us, true);
    ROW("wait_seconds_total", "counter", "Of its calls' latency, what was not computing.", wait_us, true);
#undef ROW
    static const char bytes[] = "thermocline_worker_carried_bytes_total";
    tc_metric_head(out, bytes, "counter", "Bytes of calls and answers, by carrier.");
    for (uint64_t i = 0; i < d->worker_count; i++)
        tc_buffer_format(out,
                         "%s{worker=\"%" PRIu64 "\",carrier=\"shm\"} %" PRIu64 "\n%s{worker=\"%" PRIu64
                         "\",carrier=\"nng\"} %" PRIu64 "\n",
                         bytes, i, d->workers[i].shm_bytes, bytes, i, d->workers[i].nng_bytes);
    static const char latency[] = "thermocline_worker_call_seconds";
    tc_metric_head(out, latency, "histogram",
                   "From giving a call to having its answer, by the core's clock.");
    for (uint64_t i = 0; i < d->worker_count; i++) {
        char label[40];
        snprintf(label, sizeof label, "worker=\"%" PRIu64 "\"", i);
        tc_metric_buckets(out, latency, label, &d->workers[i].latency);
    }
}

void tc_metrics_of_core(const tc_model_info *info, const tc_engine_status *engine, tc_buffer *out)
{
    numbers(info, engine, out);
    stages(engine, out);
    if (!engine->detail) return;
    memory(info, engine, engine->detail, out);
    experts(engine->detail, out);
    workers(engine->detail, out);
}
