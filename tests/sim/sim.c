// SPDX-License-Identifier: Apache-2.0
// Shows: the scheduler, the worker source (cuts, retries, second flights, deadlines, quarantine) and both
// ends of the expert link, the real ones, on a virtual clock under faults drawn from a seed. Whatever happens
// to messages and workers: each request ends once; each token is that of the same request computed alone; no
// sum is wrong by a bit; who fails says why, and only for want of workers; and when the faults are over
// everything works again by itself.
//
//   sim [--seeds N] [--from N]      N seeds (2000), one after another; a seed that fails is named
//   sim --seed N                    that one again, told event by event
//
// The network is network.c; the model is a hash of each sequence's past, into which the experts' sums go.
#include "tests/sim/sim.h"

#include "common/base/mem.h"
#include "gpu-core/forward/sample.h"
#include "gpu-core/sched/sched.h"
#include "proto/expert.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum {
    VOCAB = 61,
    PAGES = 24,
    SLOTS = 4,
    CONTEXT = 256,
    REQUESTS = 6,
    IDS = 16,
    TOKENS = 12,
    WORKERS_MAX = 6
};
#include "tests/support/sched_doubles.h"

enum { LAYERS = 2, EXPERTS = 16, UNITS = 8, HIDDEN = 4, TOP_K = 3 };
enum { CALL_DEADLINE_US = 2000000, NO_WORKER_US = 8000000, LAYER_US = 80, QUIET_US = 20000000 };
#define HASH "0123456789abcdef0123456789abcdef"

static uint64_t seed;
static bool verbose;

void sim_say(const char *format, ...)
{
    va_list ap;
    if (!verbose) return;
    va_start(ap, format);
    printf("%10.3f ms  ", (double)(sim_now_us - 1000000) / 1000);
    vprintf(format, ap);
    putchar('\n');
    va_end(ap);
}

void sim_fail(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fflush(stdout);
    fprintf(stderr, "seed %llu, at %.3f ms: ", (unsigned long long)seed,
            (double)(sim_now_us - 1000000) / 1000);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\nagain, event by event: --seed %llu\n", (unsigned long long)seed);
    exit(1);
}

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) sim_fail("%s:%d: %s", __FILE__, __LINE__, #condition);                             \
    } while (0)

// ---- the model: what experts give, and what a token becomes ----

// The three experts of a token and layer, rising.
static void route(uint64_t hash, uint32_t layer, uint32_t experts[TOP_K])
{
    uint32_t first = (uint32_t)(mix(hash, layer) % 5);
    for (uint32_t k = 0; k < TOP_K; k++) experts[k] = first + 5 * k % EXPERTS;
}

static float input_of(uint64_t hash, uint32_t layer, uint32_t h)
{
    return (float)(mix(hash, layer * 8 + h) % 4096);
}

static int64_t part_of(float x, uint32_t layer, uint32_t expert, uint32_t unit, uint32_t h)
{
    return (int64_t)x * (1000 + layer) + (int64_t)(expert + 1) * 70001 + unit * 11 + h;
}

static void compute(const tc_expert_call *call, int64_t *sum)
{
    memset(sum, 0, (size_t)call->tokens * call->hidden * sizeof *sum);
    for (uint32_t p = 0; p < call->pair_count; p++)
        for (uint32_t u = call->unit_begin; u < call->unit_end; u++)
            for (uint32_t h = 0; h < call->hidden; h++) {
                size_t at = (size_t)call->pairs[p].token * call->hidden + h;
                sum[at] += part_of(call->x[at], call->layer, call->pairs[p].expert, u, h);
            }
}

static uint64_t after_layer(uint64_t hash, const int64_t *sum)
{
    for (uint32_t h = 0; h < HIDDEN; h++) hash = mix(hash, (uint64_t)sum[h]);
    return hash;
}

// One token alone, without scheduler, workers or network.
static uint64_t token_alone(uint64_t past, uint32_t id)
{
    uint64_t hash = mix(past, id);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        float x[HIDDEN];
        int64_t sum[HIDDEN];
        uint32_t experts[TOP_K];
        tc_expert_pair pairs[TOP_K];
        route(hash, layer, experts);
        for (uint32_t k = 0; k < TOP_K; k++) pairs[k] = (tc_expert_pair){experts[k], 0, 1};
        for (uint32_t h = 0; h < HIDDEN; h++) x[h] = input_of(hash, layer, h);
        const tc_expert_call call = {.layer = layer,
                                     .unit_end = UNITS,
                                     .tokens = 1,
                                     .hidden = HIDDEN,
                                     .x = x,
                                     .pair_count = TOP_K,
                                     .pairs = pairs};
        compute(&call, sum);
        hash = after_layer(hash, sum);
    }
    return hash;
}

// ---- workers ----

typedef struct sim_worker {
    tc_expert_peer *peer;
    tc_link *link;
    uint32_t index, lives;
    bool slow, computing, lies;
    uint64_t busy_until_us, stalled_until_us, seq;
    tc_expert_call call; // of the peer's, until the next is asked for
} sim_worker;

static sim_worker workers[WORKERS_MAX];
static uint32_t worker_count, shares;
static sim_faults faults;
static bool calm;

static void worker_turn(void *arg, uint64_t number);

static void worker_starts(void *arg, uint64_t number)
{
    sim_worker *w = arg;
    uint32_t before = 0;
    (void)number;
    tc_worker_hello hello = {.protocol_version = TC_EXPERT_PROTOCOL_VERSION,
                             .model_hash = HASH,
                             .store_hash = HASH,
                             .index = w->index,
                             .of = shares,
                             .threads = 1,
                             .pid = 100 * (int64_t)(w - workers + 1) + ++w->lives};
    while (sim_dialler(before)) before++;
    MUST(tc_expert_peer_open("sim", NULL, &hello, &w->peer, NULL) == TC_OK);
    w->link = sim_dialler(before);
    w->computing = false;
    sim_on_item(w->link, worker_turn, w, w->lives);
    sim_say("worker %d starts", (int)(w - workers));
}

static void worker_dies(sim_worker *w)
{
    sim_say("worker %d dies", (int)(w - workers));
    sim_kill(w->link);
    tc_expert_peer_close(w->peer);
    w->peer = NULL;
    sim_at(sim_now_us + 1000 + sim_random(900000), worker_starts, w, 0);
}

static void answer(sim_worker *w)
{
    uint32_t hidden = w->lies ? w->call.hidden + 1 : w->call.hidden;
    int64_t *sum = tc_expert_peer_sum(w->peer, w->call.tokens, hidden, NULL);
    w->computing = false;
    if (!sum) return; // it left meanwhile
    if (w->lies)
        memset(sum, 0x55, (size_t)w->call.tokens * hidden * sizeof *sum);
    else
        compute(&w->call, sum);
    tc_expert_peer_reply(w->peer, w->seq, w->busy_until_us, NULL);
}

static void take_call(sim_worker *w, const tc_peer_event *event)
{
    uint64_t us = 30 + sim_random(60) + 8u * event->call.pair_count;
    w->call = event->call;
    w->seq = event->seq;
    w->lies = !calm && sim_chance(faults.lie);
    w->computing = true;
    w->busy_until_us = sim_now_us + (w->slow && !calm ? us * 20 : us);
    if (!calm && sim_chance(faults.stall)) {
        w->stalled_until_us = sim_now_us + sim_random(4000000);
        sim_say("worker %d stands still until %.3f ms", (int)(w - workers),
                (double)(w->stalled_until_us - 1000000) / 1000);
    }
    if (!calm && sim_chance(faults.partition)) {
        uint64_t for_us = sim_random(6000000);
        sim_say("worker %d is cut off for %.3f ms", (int)(w - workers), (double)for_us / 1000);
        sim_cut_off(w->link, for_us);
    }
    sim_at(w->busy_until_us, worker_turn, w, w->lives);
}

// `number`: which of its lives the event was for.
static void worker_turn(void *arg, uint64_t number)
{
    sim_worker *w = arg;
    tc_peer_event event;
    if (!w->peer || number != w->lives) return;
    if (sim_now_us < w->stalled_until_us) {
        sim_at(w->stalled_until_us, worker_turn, w, number);
        return;
    }
    if (w->computing && sim_now_us < w->busy_until_us) return; // it has an event of its own
    if (w->computing) answer(w);
    while (!w->computing && tc_expert_peer_next(w->peer, 0, &event) == TC_OK) {
        if (event.kind == TC_PEER_REJECTED) sim_fail("a worker was rejected: %s", event.reason);
        if (event.kind == TC_PEER_CALL) take_call(w, &event);
        if (!calm && event.kind == TC_PEER_CALL && sim_chance(faults.crash)) {
            worker_dies(w);
            return;
        }
    }
}

// ---- the core: a device, a forward pass and an engine link that are none ----

static uint64_t page_memory[PAGES][TC_KV_PAGE_POSITIONS], token_hash[TC_BATCH_TOKENS_MAX];
static tc_expert_source *source;
static uint64_t calls_checked;

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    return (void)g, sizeof page_memory[0];
}
uint64_t tc_dev_slot_bytes(const tc_dev_geometry *g)
{
    return (void)g, 0;
}

static void slot_reset(tc_dev *dev, uint32_t slot)
{
    (void)dev, (void)slot; // there is no state
}

static tc_status run_layer(uint32_t layer, uint32_t tokens, tc_error *e)
{
    static float x[TC_BATCH_TOKENS_MAX * HIDDEN];
    static int64_t sum[TC_BATCH_TOKENS_MAX * HIDDEN], want[TC_BATCH_TOKENS_MAX * HIDDEN];
    static tc_expert_pair pairs[TC_BATCH_TOKENS_MAX * TOP_K];
    tc_expert_call call = {
        .layer = layer, .unit_end = UNITS, .tokens = tokens, .hidden = HIDDEN, .x = x, .pairs = pairs};
    for (uint32_t expert = 0; expert < EXPERTS; expert++)
        for (uint32_t t = 0; t < tokens; t++) {
            uint32_t experts[TOP_K];
            route(token_hash[t], layer, experts);
            for (uint32_t k = 0; k < TOP_K; k++)
                if (experts[k] == expert) pairs[call.pair_count++] = (tc_expert_pair){expert, t, 1};
        }
    for (uint32_t i = 0; i < tokens * HIDDEN; i++) x[i] = input_of(token_hash[i / HIDDEN], layer, i % HIDDEN);
    TC_TRY(source->ops->post(source, &call, e));
    sim_now_us += LAYER_US;
    TC_TRY(source->ops->join(source, sum, e));
    compute(&call, want);
    for (uint32_t i = 0; i < tokens * HIDDEN; i++)
        if (sum[i] != want[i]) sim_fail("layer %u, token %u: a wrong sum", layer, i / HIDDEN);
    for (uint32_t t = 0; t < tokens; t++) token_hash[t] = after_layer(token_hash[t], sum + t * HIDDEN);
    calls_checked++;
    return TC_OK;
}

// Prompts enter token by token where one follows another in the same step: layer by layer would need all of
// them at once, so a token's hash of the past is that before its experts, and the experts' sums go into what
// it leaves.
tc_status tc_forward_run(tc_forward *f, const tc_batch *b, int32_t *chosen, tc_error *e)
{
    (void)f, (void)chosen;
    source->step = b->step;
    for (uint32_t round = 0, left = b->tokens; left > 0;
         round++) { // the round-th token of each segment together
        uint32_t at[TC_BATCH_SEGMENTS_MAX], page[TC_BATCH_SEGMENTS_MAX], n = 0;
        for (uint32_t s = 0; s < b->segments; s++) {
            const tc_segment *segment = &b->segment_list[s];
            if (round >= segment->tokens) continue;
            uint32_t position = segment->position + round;
            uint64_t past =
                position ? page_memory[segment->pages[(position - 1) / 64]][(position - 1) % 64] : 1;
            at[n] = segment->first + round;
            page[n] = segment->pages[position / 64] * 64 + position % 64;
            token_hash[n] = mix(past, b->ids[at[n]]);
            n++;
        }
        for (uint32_t layer = 0; layer < LAYERS; layer++) TC_TRY(run_layer(layer, n, e));
        for (uint32_t i = 0; i < n; i++) page_memory[page[i] / 64][page[i] % 64] = token_hash[i];
        left -= n;
    }
    // Where the scheduler looks for logits.
    for (uint32_t s = b->segments; s-- > 0;) {
        const tc_segment *segment = &b->segment_list[s];
        for (uint32_t i = segment->tokens; i-- > 0;) {
            uint32_t position = segment->position + i;
            token_hash[segment->first + i] = page_memory[segment->pages[position / 64]][position % 64];
        }
    }
    return TC_OK;
}

const float *tc_forward_logits(tc_forward *f, const uint32_t *tokens, uint32_t rows)
{
    (void)f;
    for (uint32_t r = 0; r < rows; r++) fill_logits(token_hash[tokens[r]], logits_out + r * VOCAB);
    return logits_out;
}

static tc_store_info store_info = {
    .layers = LAYERS, .experts = EXPERTS, .hidden = HIDDEN, .width = 64 * UNITS, .unit = 64, .units = UNITS};
const tc_store_info *tc_store_get_info(const tc_store *store)
{
    return (void)store, &store_info;
}

// ---- requests ----

typedef struct transcript {
    uint32_t tokens[TOKENS], count;
    bool asked, ended, failed, cancelled;
    tc_finish finish;
} transcript;
static transcript transcripts[IDS];
static uint32_t prompts[IDS][CONTEXT];
static tc_generate asked[IDS];
static uint32_t ended_count, failed_count;

void tc_engine_server_token(tc_engine_server *s, uint64_t id, uint32_t token, float gap)
{
    transcript *t = &transcripts[id];
    (void)s, (void)gap;
    MUST(t->asked && !t->ended && t->count < TOKENS);
    t->tokens[t->count++] = token;
}
void tc_engine_server_finished(tc_engine_server *s, uint64_t id, tc_finish finish, const tc_usage *usage)
{
    transcript *t = &transcripts[id];
    (void)s, (void)usage;
    MUST(t->asked && !t->ended);
    t->ended = true;
    t->finish = finish;
    ended_count++;
    sim_say("request %d ends with %u tokens", (int)id, t->count);
}
void tc_engine_server_failed(tc_engine_server *s, uint64_t id, tc_status status, const char *reason)
{
    transcript *t = &transcripts[id];
    (void)s;
    MUST(t->asked && !t->ended);
    t->ended = t->failed = true;
    ended_count++;
    failed_count++;
    sim_say("request %d fails: %s", (int)id, reason);
    if (calm) sim_fail("request %d fails without a fault: %s", (int)id, reason);
    if (!strstr(reason, "no expert worker for") && !strstr(reason, "no worker keeps its word"))
        sim_fail("request %d fails with status %d: %s", (int)id, (int)status, reason);
}
void tc_engine_server_evaluated(tc_engine_server *s, uint64_t id, uint32_t position, uint32_t positions,
                                uint32_t vocab, const float *logits, uint32_t layers, uint32_t top_k,
                                const int32_t *experts)
{
    (void)s, (void)id, (void)position, (void)positions, (void)vocab, (void)logits, (void)layers, (void)top_k;
    (void)experts;
}
void tc_engine_server_logprobs(tc_engine_server *s, uint64_t id, uint32_t position, uint32_t positions,
                               uint32_t top, const tc_token_value *logprobs)
{
    (void)s, (void)id, (void)position, (void)positions, (void)top, (void)logprobs;
}

static tc_sched *sched;

static void request_arrives(void *arg, uint64_t id)
{
    (void)arg;
    const tc_command command = {.kind = TC_COMMAND_GENERATE, .id = id, .generate = asked[id]};
    transcripts[id].asked = true;
    sim_say("request %d: %u prompt tokens, %u to generate", (int)id, asked[id].prompt_count,
            asked[id].max_tokens);
    tc_sched_command(sched, &command);
}

static void request_is_cancelled(void *arg, uint64_t id)
{
    (void)arg;
    const tc_command command = {.kind = TC_COMMAND_CANCEL, .id = id};
    transcripts[id].cancelled = true;
    tc_sched_command(sched, &command);
}

// Commands come between steps: those that are due wait here.
typedef struct due {
    sim_action *action;
    uint64_t id, at_us;
} due;
static due dues[2 * IDS];
static uint32_t due_count;

static void plan_request(uint64_t id, uint64_t at_us)
{
    uint32_t count = 1 + (uint32_t)sim_random(sim_chance(200) ? 90 : 12);
    for (uint32_t i = 0; i < count; i++) prompts[id][i] = (uint32_t)sim_random(VOCAB);
    asked[id] = (tc_generate){.id = id,
                              .prompt = prompts[id],
                              .prompt_count = count,
                              .max_tokens = 1 + (uint32_t)sim_random(TOKENS - 1),
                              .sampling = {.top_p = 1, .repetition_penalty = 1, .seeded = true, .seed = id},
                              .ignore_eos = true};
    dues[due_count++] = (due){request_arrives, id, at_us};
    if (!calm && sim_chance(150))
        dues[due_count++] = (due){request_is_cancelled, id, at_us + 1 + sim_random(3000000)};
}

// The tokens of a request alone.
static void check_tokens(uint64_t id, tc_sampler *sampler)
{
    const transcript *t = &transcripts[id];
    const tc_generate *g = &asked[id];
    float logits[VOCAB];
    uint32_t history[CONTEXT];
    uint64_t hash = 1;
    uint32_t count = g->prompt_count;
    const tc_sample_params p = {.top_p = 1, .repetition_penalty = 1, .seed = id};
    if (!t->failed && !t->cancelled && t->count != g->max_tokens)
        sim_fail("request %d: %u tokens", (int)id, t->count);
    memcpy(history, g->prompt, count * sizeof *history);
    for (uint32_t i = 0; i < count; i++) hash = token_alone(hash, history[i]);
    for (uint32_t n = 0; n < t->count; n++) {
        fill_logits(hash, logits);
        uint32_t token = tc_sample(sampler, logits, &p, history, g->prompt_count, count);
        if (token != t->tokens[n])
            sim_fail("request %d: token %u is not that of the request alone", (int)id, n);
        history[count++] = token;
        hash = token_alone(hash, token);
    }
}

// ---- one seed ----

static void log_source(void *arg, bool warning, const char *text)
{
    (void)arg, (void)warning;
    sim_say("core: %s", text);
}

static uint64_t virtual_now(void *arg)
{
    return (void)arg, sim_now_us;
}

// What goes wrong: nothing, one kind, or all at once, by the seed.
static sim_faults draw_faults(void)
{
    static const uint64_t latencies[] = {20, 100, 1000, 10000};
    sim_faults f = {.latency_us = latencies[seed % 4], .jitter_us = latencies[seed % 4] / 4};
    uint32_t kind = (uint32_t)(seed % 11), much = 5 + (uint32_t)sim_random(40);
    uint32_t *const each[] = {&f.delay, &f.lose,  &f.duplicate, &f.reorder,
                              &f.crash, &f.stall, &f.lie,       &f.partition};
    if (kind >= 1 && kind <= 8) *each[kind - 1] = much;
    if (kind == 9) f.slow_workers = 1;
    if (kind == 10)
        for (int i = 0; i < 8; i++) *each[i] = (uint32_t)sim_random(12);
    return f;
}

// Due commands, arrivals, one step. Nothing to do: on to the next event.
static void turn(void)
{
    for (uint32_t i = 0; i < due_count; i++)
        if (dues[i].at_us <= sim_now_us) {
            due d = dues[i];
            memmove(&dues[i], &dues[i + 1], (--due_count - i) * sizeof *dues);
            i--;
            d.action(NULL, d.id);
        }
    source->ops->poll(source);
    if (tc_sched_step(sched)) return;
    uint64_t next_us = sim_now_us + 1000000;
    for (uint32_t i = 0; i < due_count; i++)
        if (dues[i].at_us < next_us) next_us = dues[i].at_us;
    sim_next_event(next_us);
}

static void run_until_ended(uint32_t count)
{
    uint64_t end_us = sim_now_us + 600 * 1000000ull;
    while (ended_count < count) {
        turn();
        if (sim_now_us > end_us)
            sim_fail("%u of %u requests have ended after ten minutes", ended_count, count);
    }
}

typedef struct totals {
    uint64_t calls, retries, hedges, lost, quarantines, failed, requests;
} totals;

static void note_totals(totals *t)
{
    tc_source_stats stats;
    source->ops->stats(source, &stats);
    t->retries += stats.retries;
    t->lost += stats.workers_lost;
    for (uint32_t i = 0; i < stats.worker_count; i++) {
        t->hedges += stats.workers[i].hedges;
        t->quarantines += stats.workers[i].quarantines;
    }
}

// When the faults are over: everybody is back, and a request is answered without a retry.
static void recover(tc_sampler *sampler)
{
    tc_source_stats before, after;
    uint64_t end_us = sim_now_us + QUIET_US;
    calm = true;
    sim_calm();
    sim_say("calm");
    while (sim_now_us < end_us) turn();
    source->ops->stats(source, &before);
    if (before.workers_up != worker_count)
        sim_fail("%u of %u workers are back", before.workers_up, worker_count);
    plan_request(REQUESTS + 1, sim_now_us);
    run_until_ended(REQUESTS + 1);
    check_tokens(REQUESTS + 1, sampler);
    source->ops->stats(source, &after);
    // A welcome that was lost shows only when its worker is called.
    if (after.workers_lost != before.workers_lost && !faults.lose)
        sim_fail("a worker is lost without a fault");
}

static void run_seed(totals *t)
{
    tc_error e;
    tc_expert_hub *hub;
    tc_session_pool *pool;
    tc_sampler *sampler;
    tc_dev_ops dev_ops = {.slot_reset = slot_reset};
    tc_dev dev = {.ops = &dev_ops, .geometry = {.pages = PAGES, .slots = SLOTS, .positions_max = CONTEXT}};
    tc_model_desc desc = {.layers = LAYERS, .vocab = VOCAB, .top_k = TOP_K};
    MUST(tc_sampler_create(VOCAB, &tc_dense_plain, &sampler, &e) == TC_OK);
    memset(transcripts, 0, sizeof transcripts);
    memset(workers, 0, sizeof workers);
    due_count = ended_count = failed_count = 0;
    calm = false;
    sim_begin(seed, &(sim_faults){0});
    faults = draw_faults();
    sim_begin(seed, &faults);
    shares = 1 + (uint32_t)sim_random(3);
    worker_count = shares + (uint32_t)sim_random(WORKERS_MAX - shares + 1);
    MUST(tc_expert_hub_open(NULL, HASH, &hub, &e) == TC_OK);
    MUST(tc_expert_hub_require_store(hub, HASH, &e) == TC_OK);
    const tc_workers_options options = {.expected = shares,
                                        .shard = (uint32_t)sim_random(2),
                                        .call_deadline_us = CALL_DEADLINE_US,
                                        .no_worker_us = NO_WORKER_US,
                                        .log = log_source};
    MUST(tc_source_workers_create(hub, NULL, &options, &source, &e) == TC_OK);
    for (uint32_t i = 0; i < worker_count; i++) {
        workers[i] = (sim_worker){.index = i % shares, .slow = faults.slow_workers && i == 0};
        sim_at(sim_now_us + sim_random(100000), worker_starts, &workers[i], 0);
    }
    MUST(tc_session_pool_create(&dev, CONTEXT, &pool, &e) == TC_OK);
    const tc_sched_options sched_options = {.desc = &desc,
                                            .dense = &tc_dense_plain,
                                            .pool = pool,
                                            .source = source,
                                            .context = CONTEXT,
                                            .sessions = SLOTS,
                                            .queue_requests = IDS,
                                            .queue_tokens = 1 << 20,
                                            .chunk_us = 100000,
                                            .now_us = virtual_now};
    MUST(tc_sched_create(&sched_options, &sched, &e) == TC_OK);
    for (uint64_t id = 1; id <= REQUESTS; id++) plan_request(id, sim_now_us + sim_random(400000));
    run_until_ended(REQUESTS);
    for (uint64_t id = 1; id <= REQUESTS; id++) check_tokens(id, sampler);
    recover(sampler);
    note_totals(t);
    t->requests += REQUESTS + 1;
    t->failed += failed_count;
    tc_sched_free(sched);
    MUST(tc_session_pages_free(pool) == PAGES && tc_session_slots_free(pool) == SLOTS);
    tc_session_pool_free(pool);
    source->ops->free(source);
    for (uint32_t i = 0; i < worker_count; i++) tc_expert_peer_close(workers[i].peer);
    tc_expert_hub_close(hub);
    tc_sampler_free(sampler);
    sim_end();
}

static double seconds(void)
{
    struct timeval t; // not the clock that we replace
    gettimeofday(&t, NULL);
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
    uint64_t from = 1, count = 2000;
    totals t = {0};
    double begin = seconds();
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seeds") == 0) count = value;
        if (strcmp(argv[i], "--from") == 0) from = value;
        if (strcmp(argv[i], "--seed") == 0) from = value, count = 1, verbose = true;
    }
    for (seed = from; seed < from + count; seed++) run_seed(&t);
    printf("%llu seeds in %.1f s: %llu requests (%llu failed for want of workers), %llu calls checked, %llu "
           "retries, "
           "%llu second flights, %llu workers lost, %llu quarantines\n",
           (unsigned long long)count, seconds() - begin, (unsigned long long)t.requests,
           (unsigned long long)t.failed, (unsigned long long)calls_checked, (unsigned long long)t.retries,
           (unsigned long long)t.hedges, (unsigned long long)t.lost, (unsigned long long)t.quarantines);
    return 0;
}
