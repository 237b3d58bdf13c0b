// SPDX-License-Identifier: Apache-2.0
// Owns: what the scheduler tells of itself: ends of requests to the log, steps and requests to the trace, and
// the detail of its status. Refuses: texts and token ids of users.
#include "common/base/mem.h"
#include "common/base/trace.h"
#include "gpu-core/sched/sched_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *name_of(const request *r, char scratch[32])
{
    if (*r->ask.request_id) return r->ask.request_id;
    snprintf(scratch, 32, "%" PRIu64, r->ask.id);
    return scratch;
}

static void trace_end(const request *r, const char *name, uint64_t now)
{
    uint64_t started = r->started_us ? r->started_us : now,
             first = r->first_token_us ? r->first_token_us : now;
    tc_trace_request(name, "core: queued", r->arrived_us, started, "\"prompt_tokens\":%u",
                     r->ask.prompt_count);
    if (r->started_us)
        tc_trace_request(name, "core: prompt", started, first, "\"cached_tokens\":%u",
                         r->usage.cached_tokens);
    if (r->first_token_us)
        tc_trace_request(name, "core: answer", first, now, "\"tokens\":%u", r->usage.generated_tokens);
}

void tc_sched_note_end(const tc_sched *s, const request *r, const char *outcome, bool warning)
{
    char scratch[32];
    const char *name = name_of(r, scratch);
    uint64_t now = tc_sched_now(s);
    if (tc_trace_on) trace_end(r, name, now);
    if (s->o.log)
        s->o.log(s->o.log_arg, warning, name,
                 "%s: %u prompt tokens (%u cached), %u generated, %" PRIu64 " ms", outcome,
                 r->ask.prompt_count, r->usage.cached_tokens, r->usage.generated_tokens,
                 (now - r->arrived_us) / 1000);
}

void tc_sched_name_step(const tc_sched *s, char ret[TC_STEP_REQUESTS_BYTES])
{
    char scratch[32];
    size_t used = 0;
    ret[0] = 0;
    for (uint32_t i = 0; i < s->batch.segments; i++) {
        const char *name = name_of(s->owner[i], scratch);
        size_t n = strlen(name) + (used > 0);
        if (used + n >= TC_STEP_REQUESTS_BYTES) return;
        used += (size_t)snprintf(ret + used, TC_STEP_REQUESTS_BYTES - used, "%s%s", used ? " " : "", name);
    }
}

void tc_sched_note_step(tc_sched *s, uint64_t begin_us, uint64_t end_us, uint32_t tokens, uint32_t segments,
                        const char *requests)
{
    tc_histogram_add(&s->detail.step, end_us - begin_us);
    if (tc_trace_on)
        tc_trace_span("step", begin_us, end_us,
                      "\"step\":%" PRIu64
                      ",\"tokens\":%u,\"sequences\":%u,\"answers\":%u,\"requests\":\"%s\"",
                      s->batch.step, tokens, segments, s->decoding, requests);
}

void tc_sched_fill_detail(tc_sched *s, const tc_source_stats *source)
{
    const tc_model_desc *desc = s->o.desc;
    tc_engine_detail *d = &s->detail;
    uint64_t moe =
        desc->top_k ? s->pairs_a_token / desc->top_k : 0; // layers with experts: each sees the same pairs
    for (int tag = 0; tag < TC_MEM_TAGS; tag++) d->memory_bytes[tag] = tc_mem_bytes((tc_mem_tag)tag);
    d->layer_count = desc->layers < TC_DETAIL_LAYERS_MAX ? desc->layers : TC_DETAIL_LAYERS_MAX;
    for (uint32_t n = 0; n < d->layer_count; n++)
        d->layers[n] = moe && desc->layer[n].moe
                           ? (tc_layer_lookups){s->total.expert_hits / moe, s->total.expert_misses / moe}
                           : (tc_layer_lookups){0, 0};
    if (s->o.placement) tc_placement_detail(s->o.placement, d);
    if (s->o.device_memory) s->o.device_memory(s->o.device_arg, d);
    d->worker_count = source->workers ? source->worker_count : 0;
    if (d->worker_count > TC_DETAIL_WORKERS_MAX) d->worker_count = TC_DETAIL_WORKERS_MAX;
    if (d->worker_count) memcpy(d->workers, source->workers, d->worker_count * sizeof *d->workers);
}
