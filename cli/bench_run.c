// SPDX-License-Identifier: Apache-2.0
// Owns: putting a model under load and taking what the core did between two of its statuses, which come
// between steps: so a window has whole steps, on the core's own clock.
#include "cli/bench.h"
#include "common/base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DRAWN_FROM = 20,    // tokens, where there is a temperature
    SETTLED_TOKENS = 2, // of each stream before the window begins: prompts are done, caches are warm
    SPARE_TOKENS = 64,  // streams that started first go on until the last one's window ends
};

typedef struct run {
    tc_local *local;
    const tc_load *load;
    float temperature;
    uint32_t tokens[TC_BENCH_USERS_MAX], settled, finished;
    uint32_t begin_tokens; // of stream 0, at the first mark
    uint32_t windows, marks;
    tc_engine_status mark[TC_BENCH_REPETITIONS_MAX + 1]; // window i lies between marks i and i + 1
    bool asked;                                          // a status is on its way
    uint64_t prefill_us;
    tc_seen *seen;             // NULL: nobody asked
    uint64_t token_us;         // when stream 0 had its last one
    uint32_t *gaps, gap_count; // between its tokens
} run;

static bool measured(const run *r)
{
    return r->marks == r->windows + 1;
}

// splitmix64: any id and place give a token unlike those around it.
static uint32_t random_token(uint64_t id, uint32_t place, uint32_t vocab)
{
    uint64_t z = id * 0x9e3779b97f4a7c15u + place * 0xbf58476d1ce4e5b9u + 1;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) % vocab);
}

void tc_window_add(tc_window *total, const tc_window *w)
{
    total->seconds += w->seconds;
    total->steps += w->steps;
    total->tokens += w->tokens;
    total->step_us += w->step_us;
    total->attention_us += w->attention_us;
    total->router_us += w->router_us;
    total->expert_us += w->expert_us;
    total->wait_us += w->wait_us;
    total->head_us += w->head_us;
    total->expert_reads += w->expert_reads;
    total->expert_pairs += w->expert_pairs;
    total->expert_hits += w->expert_hits;
    total->fetched += w->fetched;
}

static tc_status start_request(tc_local *local, uint64_t id, uint32_t prompt_tokens, uint32_t max_tokens,
                               float temperature, bool experts, tc_error *e)
{
    uint32_t *prompt = calloc(prompt_tokens, sizeof *prompt);
    if (!prompt) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t i = 0; i < prompt_tokens; i++) prompt[i] = random_token(id, i, local->info.vocab);
    tc_generate request = {
        .id = id,
        .prompt = prompt,
        .prompt_count = prompt_tokens,
        .max_tokens = max_tokens,
        .sampling = {.temperature = temperature,
                     .top_p = 1,
                     .top_k = DRAWN_FROM,
                     .repetition_penalty = 1,
                     .seeded = true,
                     .seed = id},
        .ignore_eos = true,
        .optimize_experts = true,
        .want_experts = experts,
        .no_cache = true,
    };
    tc_status status = tc_engine_client_generate(local->client, &request, e);
    free(prompt);
    return status;
}

// Windows follow each other, so every token between the first mark and the last is one of theirs.
static void note_gap(run *r)
{
    uint64_t now = tc_now_us();
    if (r->marks && !measured(r) && r->gap_count < r->windows * r->load->tokens)
        r->gaps[r->gap_count++] = (uint32_t)(now - r->token_us);
    r->token_us = now;
}

static tc_status on_token(run *r, uint32_t stream, tc_error *e)
{
    if (stream == 0) note_gap(r);
    if (++r->tokens[stream] == SETTLED_TOKENS) r->settled++;
    if (r->settled < r->load->streams || r->asked || measured(r)) return TC_OK;
    if (r->marks && r->tokens[0] - r->begin_tokens < r->load->tokens * r->marks) return TC_OK;
    r->asked = true;
    if (tc_engine_client_ask_status(r->local->client) == TC_OK) return TC_OK;
    return tc_fail(e, TC_CLOSED, "core: the connection was lost");
}

static void on_status(run *r)
{
    if (!r->asked) return;
    r->asked = false;
    if (!r->marks) r->begin_tokens = r->tokens[0];
    r->mark[r->marks++] = r->local->status;
    for (uint32_t i = 0; measured(r) && i < r->load->streams; i++)
        tc_engine_client_cancel(r->local->client, r->load->id + i);
}

static tc_status note_experts(run *r, const tc_engine_event *event, tc_error *e)
{
    if (!r->seen || !event->experts || !r->marks) return TC_OK; // prompts are not counted
    return tc_seen_note(r->seen, event->id == r->load->id, event->positions, event->experts, e);
}

static tc_status on_event(run *r, const tc_engine_event *event, tc_error *e)
{
    if (event->kind == TC_ENGINE_STATUS) {
        on_status(r);
        return TC_OK;
    }
    if (event->id < r->load->id || event->id >= r->load->id + r->load->streams)
        return TC_OK; // of an earlier run
    if (event->kind == TC_ENGINE_EVALUATED) return note_experts(r, event, e);
    if (event->kind == TC_ENGINE_TOKEN) return on_token(r, (uint32_t)(event->id - r->load->id), e);
    if (event->kind != TC_ENGINE_FINISHED) return TC_OK;
    if (!measured(r))
        return tc_fail(e, TC_INTERNAL,
                       "bench: a stream ended before the measurement (is --context too small?)");
    if (event->id == r->load->id) r->prefill_us = event->usage.prefill_us;
    r->finished++;
    return TC_OK;
}

static tc_window window_of(const tc_engine_status *a, const tc_engine_status *b)
{
    return (tc_window){
        .seconds = (double)(b->uptime_us - a->uptime_us) * 1e-6,
        .steps = b->steps - a->steps,
        .tokens = b->tokens_generated - a->tokens_generated,
        .step_us = b->step_us_total - a->step_us_total,
        .attention_us = b->attention_us - a->attention_us,
        .router_us = b->router_us - a->router_us,
        .expert_us = b->expert_us - a->expert_us,
        .wait_us = b->wait_us - a->wait_us,
        .head_us = b->head_us - a->head_us,
        .expert_reads = b->expert_reads - a->expert_reads,
        .expert_pairs = b->expert_hits + b->expert_misses - a->expert_hits - a->expert_misses,
        .expert_hits = b->expert_hits - a->expert_hits,
        .fetched = b->experts_fetched - a->experts_fetched,
    };
}

// Of each stream: to the window's end and beyond, as far as there is room. A small model's tokens come faster
// than answers about its status while others want the CPU.
static uint32_t tokens_of(const run *r)
{
    const uint32_t need = r->windows * r->load->tokens + SETTLED_TOKENS + SPARE_TOKENS,
                   like = need - SPARE_TOKENS + TC_BENCH_SPARE_POSITIONS * 3 / 4;
    const uint32_t taken = r->load->prompt_tokens + 1, context = r->local->info.context,
                   room = context > taken ? context - taken : 0;
    return room < need ? need : room < like ? room : like;
}

static tc_status drive(run *r, tc_error *e)
{
    tc_engine_event event;
    for (uint32_t i = 0; i < r->load->streams; i++)
        TC_TRY(start_request(r->local, r->load->id + i, r->load->prompt_tokens, tokens_of(r), r->temperature,
                             r->seen != NULL, e));
    while (r->finished < r->load->streams) {
        TC_TRY(tc_local_next(r->local, 0, &event, e));
        TC_TRY(on_event(r, &event, e));
    }
    return TC_OK;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

// The gap that `part` of them do not exceed.
static double gap_at(const run *r, double part)
{
    if (!r->gap_count) return 0;
    uint32_t at = (uint32_t)(part * r->gap_count + 0.999999);
    return r->gaps[at ? at - 1 : 0];
}

static void fill_windows(run *r, tc_window *ret)
{
    qsort(r->gaps, r->gap_count, sizeof *r->gaps, by_size);
    for (uint32_t i = 0; i < r->windows; i++) {
        ret[i] = window_of(&r->mark[i], &r->mark[i + 1]);
        ret[i].prefill_us = r->prefill_us;
        ret[i].token_p50_us = gap_at(r, 0.50);
        ret[i].token_p95_us = gap_at(r, 0.95);
    }
}

tc_status tc_bench_run(tc_bench *b, tc_local *local, const tc_load *load, tc_window *ret, tc_touched *touched,
                       tc_error *e)
{
    run r = {.local = local,
             .load = load,
             .temperature = (float)b->temperature,
             .windows = load->windows ? load->windows : 1};
    tc_seen seen = {0};
    tc_status status;
    if (load->streams < 1 || load->streams > TC_BENCH_USERS_MAX)
        return tc_fail(e, TC_ARGUMENT, "bench: %u streams, expected 1 to %d", load->streams,
                       TC_BENCH_USERS_MAX);
    if (r.windows > TC_BENCH_REPETITIONS_MAX)
        return tc_fail(e, TC_ARGUMENT, "bench: %u windows, at most %d", r.windows, TC_BENCH_REPETITIONS_MAX);
    r.gaps = calloc((size_t)r.windows * load->tokens + 1, sizeof *r.gaps);
    if (!r.gaps) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    if (touched) TC_GOTO(tc_seen_open(r.seen = &seen, &b->desc, e));
    TC_GOTO(drive(&r, e));
    fill_windows(&r, ret);
    if (touched) TC_GOTO(tc_seen_touched(&seen, touched, e));
out:
    tc_seen_free(&seen);
    free(r.gaps);
    return status;
}

tc_status tc_bench_prefill(tc_bench *b, tc_local *local, uint64_t id, uint32_t prompt_tokens, tc_window *ret,
                           tc_touched *touched, tc_error *e)
{
    tc_engine_event event = {0};
    tc_seen seen = {0};
    tc_status status;
    if (touched) TC_GOTO(tc_seen_open(&seen, &b->desc, e));
    TC_GOTO(tc_local_ask_status(local, e));
    tc_engine_status before = local->status;
    TC_GOTO(start_request(local, id, prompt_tokens, 1, 0, touched != NULL, e));
    while (event.kind != TC_ENGINE_FINISHED) {
        TC_GOTO(tc_local_next(local, id, &event, e));
        if (touched && event.kind == TC_ENGINE_EVALUATED && event.experts)
            TC_GOTO(tc_seen_note(&seen, false, event.positions, event.experts, e));
    }
    TC_GOTO(tc_local_ask_status(local, e));
    *ret = window_of(&before, &local->status);
    ret->prefill_us = event.usage.prefill_us;
    ret->seconds = (double)event.usage.prefill_us * 1e-6; // the window has the messages' travel in it, too
    if (touched) TC_GOTO(tc_seen_touched(&seen, touched, e));
out:
    tc_seen_free(&seen);
    return status;
}

void tc_bench_settle(const tc_bench *b)
{
    if (b->settle_s) sleep((unsigned)b->settle_s);
}

uint64_t tc_bench_token_reads(const tc_bench *b)
{
    return (uint64_t)b->footprint.moe_layers * b->desc.top_k;
}

uint64_t tc_bench_position_bytes(const tc_bench *b)
{
    bool exact = b->o.precision && !strcmp(b->o.precision, "exact");
    bool f32 = b->o.kv ? !strcmp(b->o.kv, "f32") : exact;
    return tc_model_kv_bytes(&b->desc, 1, f32 ? sizeof(float) : sizeof(uint16_t));
}

uint64_t tc_bench_step_bytes(const tc_bench *b, const tc_local *local, double reads, uint32_t streams,
                             uint64_t position)
{
    const tc_footprint *f = &b->footprint;
    uint64_t dense = local->info.weights_bytes, all = (uint64_t)f->moe_layers * b->desc.experts;
    if (!b->desc.tied_embeddings && dense > f->bytes[TC_PART_EMBEDDING]) dense -= f->bytes[TC_PART_EMBEDDING];
    double expert = all ? (double)local->info.experts_bytes / (double)all : 0;
    return dense + (uint64_t)(reads * expert) +
           streams * (f->state_bytes + tc_bench_position_bytes(b) * position);
}

bool tc_bench_roof(const tc_bench *b, const tc_local *local, const tc_bench_rounds *x, double read_gb_per_s,
                   tc_roof *ret)
{
    if (strcmp(local->info.device, "cpu") != 0 || !b->machine.peak.count) return false;
    const tc_roof_model model = {.desc = &b->desc,
                                 .footprint = &b->footprint,
                                 .isa = local->info.isa,
                                 .precision = local->info.precision,
                                 .head = b->o.head,
                                 .peak = &b->machine.peak,
                                 .read_gb_per_s = read_gb_per_s};
    const double bare = (double)tc_bench_step_bytes(b, local, 0, 0, 0),
                 experts = (double)tc_bench_step_bytes(b, local, x->reads, 0, 0) - bare;
    // A run reads what was there, and once more what it adds.
    const double cache = x->runs * (double)(b->footprint.state_bytes +
                                            tc_bench_position_bytes(b) * (x->position + x->run_tokens - 1));
    const tc_roof_step step = {.runs = x->runs,
                               .head_rows = x->head_rows,
                               .expert_reads = x->reads,
                               .run_tokens = x->run_tokens,
                               .position = x->position,
                               .bytes = bare + experts + cache,
                               .expert_bytes = experts,
                               .cache_bytes = cache};
    tc_roof_of(&model, &step, ret);
    return true;
}
