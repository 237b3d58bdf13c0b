// SPDX-License-Identifier: Apache-2.0
// Shows: the scheduler under many users, on a virtual clock with a stub device: thousands of random mixes of
// joins, cancels, holds, deadlines, priorities, scopes, shared prefixes and choices. Each stream has the
// tokens of the same request alone (worked out here without a scheduler); nothing starves, nothing leaks, no
// budget is exceeded. The stub's "attention" is a hash of the session's own past, kept in its pages and in
// its state, so a wrong page, slot, snapshot or position changes tokens. A failing mix is named by its seed.
#include "gpu-core/forward/sample.h"
#include "gpu-core/sched/sched.h"
#include "tests/support/cmocka_all.h"
#include "tests/support/draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 61, PAGES = 48, SLOTS = 6, CONTEXT = 640, EOS = 5, IDS = 2048, TOKENS = 64 };
enum { PAGES_MOST = 128, SLOTS_MOST = 64, SPARE_MOST = 2 };    // of the benchmark
enum { ANSWER_US = 1000, ROW_US = 100, PROMPT_TOKEN_US = 50 }; // what the stub's steps take

// ---- the stub: device, forward, source, server ----

static bool has_state;
static size_t slot_bytes;
static uint64_t page_memory[PAGES_MOST][TC_KV_PAGE_POSITIONS], slot_memory[SLOTS_MOST + SPARE_MOST],
    token_hash[TC_BATCH_TOKENS_MAX];
static uint32_t pool_pages = PAGES, pool_slots = SLOTS, spare_slots, states_kept;
static uint64_t now_us, longest_step_us, steps_with_answers;
static uint64_t prompt_token_us = PROMPT_TOKEN_US,
                large_token_us = PROMPT_TOKEN_US; // large: of many in a step
static uint32_t most_alone;                       // prompt tokens of a step without answers
static float logits_out[TC_LOGIT_ROWS_MAX * VOCAB];

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    return (void)g, sizeof page_memory[0];
}
uint64_t tc_dev_slot_bytes(const tc_dev_geometry *g)
{
    return (void)g, has_state ? slot_bytes : 0;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ (v + 0x9e3779b97f4a7c15u)) * 0xbf58476d1ce4e5b9u;
    return h ^ (h >> 29);
}

static void fill_logits(uint64_t hash, float *out)
{
    for (uint32_t v = 0; v < VOCAB; v++) out[v] = (float)(mix(hash, v) % 1000) / 100.0f;
}

// What a step of a model does to the caches: nothing that was there is left.
enum { SWEEP_BYTES = 96 << 20, LINE_BYTES = 64 };
static char *swept; // NULL: it does nothing

static void sweep(void)
{
    static volatile char sink;
    for (size_t i = 0; swept && i < SWEEP_BYTES; i += LINE_BYTES) sink = swept[i];
    (void)sink;
}

static uint32_t prompt_grain = TC_PROMPT_GRAIN; // of the scheduler under test
static uint32_t cut_at[SLOTS_MOST];             // where a session's last chunk ended; 0: it has just begun

tc_status tc_forward_run(tc_forward *f, const tc_batch *b, int32_t *chosen, tc_error *e)
{
    (void)f, (void)chosen, (void)e;
    uint32_t prompt_tokens = 0, answers = 0;
    assert_true(b->tokens >= 1 && b->tokens <= TC_BATCH_TOKENS_MAX && b->segments <= TC_BATCH_SEGMENTS_MAX);
    for (uint32_t s = 0; s < b->segments; s++) {
        const tc_segment *segment = &b->segment_list[s];
        if (segment->tokens > 1) {
            if (segment->position == cut_at[segment->slot])
                assert_int_equal(segment->position % prompt_grain, 0); // prompts are cut there only
            cut_at[segment->slot] = segment->position + segment->tokens;
            prompt_tokens += segment->tokens;
        } else {
            answers++;
        }
        for (uint32_t i = 0; i < segment->tokens; i++) {
            uint32_t at = segment->first + i, position = segment->position + i;
            uint64_t past =
                position ? page_memory[segment->pages[(position - 1) / 64]][(position - 1) % 64] : 1;
            if (has_state) assert_true(slot_memory[segment->slot] == past);
            token_hash[at] = page_memory[segment->pages[position / 64]][position % 64] =
                slot_memory[segment->slot] = mix(past, b->ids[at]);
            for (uint32_t k = 0; k < TC_KEEPS_MAX; k++) {
                const tc_keep *keep = &segment->keep[k];
                assert_true(keep->after < segment->tokens && keep->slot < pool_slots + spare_slots);
                if (keep->after != i + 1) continue;
                slot_memory[keep->slot] = slot_memory[segment->slot];
                states_kept++;
            }
        }
    }
    uint64_t step_us = ANSWER_US + ROW_US * answers +
                       (prompt_tokens > TC_ALONE_TOKENS ? large_token_us : prompt_token_us) * prompt_tokens;
    if (!answers && prompt_tokens > most_alone) most_alone = prompt_tokens;
    now_us += step_us;
    sweep();
    if (answers) {
        steps_with_answers++;
        if (step_us > longest_step_us) longest_step_us = step_us;
    }
    return TC_OK;
}

const float *tc_forward_logits(tc_forward *f, const uint32_t *tokens, uint32_t rows)
{
    (void)f;
    assert_true(rows <= TC_LOGIT_ROWS_MAX);
    for (uint32_t r = 0; r < rows; r++) fill_logits(token_hash[tokens[r]], logits_out + r * VOCAB);
    return logits_out;
}

bool tc_forward_few(tc_forward *f, const uint32_t *tokens, uint32_t rows, const float *temperature,
                    tc_few *ret)
{
    const float *logits = tc_forward_logits(f, tokens, rows);
    if (logits) few_of_rows(logits, rows, VOCAB, temperature, ret);
    return logits != NULL;
}

const float *tc_forward_row(tc_forward *f, uint32_t row)
{
    (void)f;
    return logits_out + (size_t)row * VOCAB;
}

const tc_forward_times *tc_forward_get_times(const tc_forward *f)
{
    static const tc_forward_times none;
    return (void)f, &none;
}

typedef struct transcript {
    uint32_t tokens[TOKENS], count;
    bool asked, ended, failed;
    tc_finish finish;
    tc_status status;
    tc_usage usage;
    uint64_t started_us, ended_us; // first token, end
} transcript;
static transcript transcripts[IDS];

static transcript *of(uint64_t id)
{
    assert_true(id >= 1 && id < IDS);
    return &transcripts[id];
}

void tc_engine_server_token(tc_engine_server *s, uint64_t id, uint32_t token, float gap)
{
    (void)s, (void)gap;
    transcript *t = of(id);
    assert_true(t->asked && !t->ended && t->count < TOKENS);
    if (!t->count) t->started_us = now_us;
    t->tokens[t->count++] = token;
}
void tc_engine_server_finished(tc_engine_server *s, uint64_t id, tc_finish finish, const tc_usage *usage)
{
    (void)s;
    transcript *t = of(id);
    assert_true(t->asked && !t->ended);
    t->ended = true;
    t->finish = finish;
    t->usage = *usage;
    t->ended_us = now_us;
}
void tc_engine_server_failed(tc_engine_server *s, uint64_t id, tc_status status, const char *reason)
{
    (void)s;
    transcript *t = of(id);
    assert_true(t->asked && !t->ended && reason[0] != 0);
    t->ended = t->failed = true;
    t->status = status;
    t->ended_us = now_us;
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
void tc_engine_server_answer(tc_engine_server *s, uint64_t id, tc_status status, const char *text,
                             size_t bytes)
{
    (void)s, (void)id, (void)status, (void)text, (void)bytes;
}

void tc_engine_server_status(tc_engine_server *s, const tc_engine_status *status)
{
    (void)s, (void)status;
}
void tc_engine_server_flush(tc_engine_server *s)
{
    (void)s;
}

static void slot_reset(tc_dev *dev, uint32_t slot)
{
    (void)dev, slot_memory[slot] = 1, cut_at[slot] = 0;
}
static void slot_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    (void)dev, slot_memory[to] = slot_memory[from];
}
static void slot_save(tc_dev *dev, uint32_t slot, void *host)
{
    (void)dev, memcpy(host, &slot_memory[slot], sizeof(uint64_t));
}
static void slot_load(tc_dev *dev, uint32_t slot, const void *host)
{
    (void)dev, memcpy(&slot_memory[slot], host, sizeof(uint64_t));
}
static void page_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    (void)dev, memcpy(page_memory[to], page_memory[from], sizeof page_memory[0]);
}
static void page_save(tc_dev *dev, uint32_t page, void *host)
{
    (void)dev, memcpy(host, page_memory[page], sizeof page_memory[0]);
}
static void page_load(tc_dev *dev, uint32_t page, const void *host)
{
    (void)dev, memcpy(page_memory[page], host, sizeof page_memory[0]);
}
static void source_stats(tc_expert_source *source, tc_source_stats *ret)
{
    (void)source, memset(ret, 0, sizeof *ret);
}
static uint64_t virtual_now(void *arg)
{
    return (void)arg, now_us;
}

typedef struct bench {
    tc_dev_ops dev_ops;
    tc_dev dev;
    tc_source_ops source_ops;
    tc_expert_source source;
    tc_model_desc desc;
    tc_session_pool *pool;
    tc_prefix_cache *cache;
    tc_sched *sched;
    uint64_t held_before;
} bench;

static uint64_t held_bytes(void)
{
    return tc_mem_bytes(TC_MEM_KV) + tc_mem_bytes(TC_MEM_STATE);
}

static void set_up(bench *b, uint64_t cache_bytes, const tc_sched_options *with)
{
    tc_error e;
    memset(b, 0, sizeof *b);
    memset(transcripts, 0, sizeof transcripts);
    now_us = 1000;
    longest_step_us = steps_with_answers = 0;
    b->dev_ops = (tc_dev_ops){.slot_reset = slot_reset,
                              .slot_copy = slot_copy,
                              .slot_save = slot_save,
                              .slot_load = slot_load,
                              .page_copy = page_copy,
                              .page_save = page_save,
                              .page_load = page_load};
    b->dev = (tc_dev){.ops = &b->dev_ops,
                      .geometry = {.pages = pool_pages,
                                   .slots = pool_slots + spare_slots,
                                   .spare_slots = spare_slots,
                                   .positions_max = CONTEXT}};
    b->source_ops.stats = source_stats;
    b->source.ops = &b->source_ops;
    b->desc = (tc_model_desc){
        .layers = 2, .vocab = VOCAB, .top_k = 2, .generation = {.eos = {EOS}, .eos_count = 1}};
    b->held_before = held_bytes();
    assert_int_equal(tc_session_pool_create(&b->dev, CONTEXT, &b->pool, &e), TC_OK);
    if (cache_bytes) assert_int_equal(tc_prefix_cache_create(&b->dev, cache_bytes, &b->cache, &e), TC_OK);
    tc_sched_options options = with ? *with : (tc_sched_options){0};
    options.desc = &b->desc;
    options.dense = &tc_dense_plain;
    options.pool = b->pool;
    options.cache = b->cache;
    options.source = &b->source;
    options.context = CONTEXT;
    options.sessions = pool_slots;
    options.now_us = virtual_now;
    assert_int_equal(tc_sched_create(&options, &b->sched, &e), TC_OK);
}

static void tear_down(bench *b)
{
    tc_sched_free(b->sched);
    assert_int_equal(tc_session_pages_free(b->pool),
                     pool_pages); // nothing leaks, of pages that were shared too
    assert_int_equal(tc_session_slots_free(b->pool), pool_slots);
    tc_session_pool_free(b->pool);
    tc_prefix_cache_free(b->cache);
    assert_int_equal(held_bytes(), b->held_before);
}

// ---- asking ----

typedef struct plan {
    tc_generate ask;
    uint32_t prompt[CONTEXT];
    uint64_t arrive_us, cancel_us, hold_us, resume_us; // 0: never
    bool sent;
} plan;

static tc_generate simple(uint64_t id, const uint32_t *prompt, uint32_t count, uint32_t max_tokens)
{
    return (tc_generate){.id = id,
                         .prompt = prompt,
                         .prompt_count = count,
                         .max_tokens = max_tokens,
                         .sampling = {.top_p = 1, .repetition_penalty = 1},
                         .ignore_eos = true};
}

static void ask(bench *b, const tc_generate *g)
{
    const tc_command command = {.kind = TC_COMMAND_GENERATE, .id = g->id, .generate = *g};
    of(g->id)->asked = true;
    for (uint32_t i = 0; i < g->more_count; i++) of(g->more_ids[i])->asked = true;
    tc_sched_command(b->sched, &command);
}

static void tell(bench *b, tc_command_kind kind, uint64_t id, bool held)
{
    const tc_command command = {.kind = kind, .id = id, .held = held};
    tc_sched_command(b->sched, &command);
}

static void run_to_end(bench *b)
{
    for (int i = 0; tc_sched_step(b->sched); i++) assert_true(i < 100000);
}

// The tokens of choice k of a request alone, without any scheduler.
static uint32_t oracle(const tc_generate *g, uint32_t choice, tc_sampler *sampler, uint32_t out[TOKENS],
                       tc_finish *finish)
{
    static uint32_t history[CONTEXT + TOKENS];
    static float logits[VOCAB];
    const uint32_t eos[] = {EOS};
    tc_sample_params p = {g->sampling.temperature,
                          g->sampling.top_p,
                          g->sampling.min_p,
                          g->sampling.top_k,
                          g->sampling.repetition_penalty,
                          .seed = g->sampling.seed + choice,
                          .forbidden = eos};
    uint64_t hash = 1;
    uint32_t count = g->prompt_count, most = g->max_tokens, n = 0;
    if (most > CONTEXT - count) most = CONTEXT - count;
    memcpy(history, g->prompt, count * sizeof *history);
    for (uint32_t i = 0; i < count; i++) hash = mix(hash, history[i]);
    while (n < most) {
        fill_logits(hash, logits);
        uint32_t token = tc_sample(sampler, logits, &p, history, g->prompt_count, count);
        if (token == EOS && !g->ignore_eos) {
            *finish = TC_FINISH_STOP;
            return n;
        }
        out[n++] = history[count++] = token;
        hash = mix(hash, token);
    }
    *finish = TC_FINISH_LENGTH;
    return n;
}

// ---- grouping ----

static void note_footprint(tc_placement *p, uint64_t conversation, int32_t expert)
{
    tc_placement_request who = {.conversation = conversation, .learn = true, .tokens = 1};
    const int32_t chosen[] = {expert, expert + 1, expert, expert + 1};
    for (int i = 0; i < 100; i++) tc_placement_note(p, &who, 1, chosen);
    tc_placement_end(p, false);
}

// Every place is taken by conversation 1; one of conversation 2 waits, then as many of conversation 1.
// Returns in which step (of all) the first one started.
static uint64_t start_of_the_passed(uint32_t group_steps, uint64_t *ret_grouped)
{
    bench b;
    tc_error e;
    tc_placement *placement;
    static const bool moe[] = {true, true};
    static uint32_t prompt[] = {1, 2, 3};
    const tc_placement_options options = {
        .layers = 2, .experts = 16, .top_k = 2, .moe = moe, .model_hash = "", .conversations = 8};
    assert_int_equal(tc_placement_create(&options, &placement, &e), TC_OK);
    note_footprint(placement, 1, 2);
    note_footprint(placement, 2, 8);
    set_up(&b, 0, &(tc_sched_options){.placement = placement, .group_steps = group_steps});
    for (uint64_t id = 1; id <= 3 * SLOTS; id++) {
        tc_generate g = simple(id, prompt, 3, 10 + (uint32_t)id % 5);
        g.conversation = id == SLOTS + 1 ? 2 : 1;
        ask(&b, &g);
        if (id == SLOTS) tc_sched_step(b.sched); // they run, the others wait
    }
    uint64_t steps = 1;
    while (!of(SLOTS + 1)->count && tc_sched_step(b.sched)) steps++;
    run_to_end(&b);
    tc_engine_status status;
    tc_sched_status(b.sched, &status);
    *ret_grouped = status.grouped;
    for (uint64_t id = 1; id <= 3 * SLOTS; id++) assert_int_equal(of(id)->count, 10 + id % 5);
    tear_down(&b);
    tc_placement_free(placement);
    return steps;
}

static void test_grouping(void **state)
{
    (void)state;
    uint64_t grouped, off = start_of_the_passed(0, &grouped);
    assert_int_equal(grouped, 0);
    for (uint32_t most = 1; most <= 16; most *= 4) {
        uint64_t on = start_of_the_passed(most, &grouped);
        assert_true(grouped > 0);
        // Passed for at most so many steps; then it has the next place that is free, which may take an answer
        // more.
        assert_true(on <= off + most + 16);
        if (most == 16) assert_true(on > off);
    }
}

// ---- random mixes ----

enum { PLANS = 14, STEMS = 3, CHOICES = 4 };

static void make_plan(plan *p, uint64_t *next_id, const uint32_t stems[STEMS][CONTEXT])
{
    uint32_t stem = (uint32_t)rand() % 4 ? (uint32_t)rand() % 400 : 0, tail = 1 + (uint32_t)rand() % 90;
    memset(p, 0, sizeof *p);
    memcpy(p->prompt, stems[rand() % STEMS], stem * sizeof *p->prompt);
    for (uint32_t i = 0; i < tail; i++) p->prompt[stem + i] = (uint32_t)rand() % VOCAB;
    p->ask = simple((*next_id)++, p->prompt, stem + tail, 1 + (uint32_t)rand() % (TOKENS - 1));
    p->ask.sampling.temperature = (float)(rand() % 2);
    p->ask.sampling.repetition_penalty = rand() % 2 ? 1.1f : 1.0f;
    p->ask.sampling.seeded = true;
    p->ask.sampling.seed = (uint64_t)rand();
    p->ask.ignore_eos = rand() % 2;
    p->ask.scope = (uint64_t)rand() % 3;
    p->ask.priority = rand() % 5 - 2;
    p->ask.no_cache = rand() % 8 == 0;
    p->ask.more_count = rand() % 3 ? 0 : (uint32_t)rand() % CHOICES;
    for (uint32_t i = 0; i < p->ask.more_count; i++) p->ask.more_ids[i] = (*next_id)++;
    p->arrive_us = now_us + (uint64_t)rand() % 60000;
    if (rand() % 5 == 0) p->cancel_us = p->arrive_us + 1 + (uint64_t)rand() % 40000;
    if (rand() % 5 == 0) p->ask.deadline_us = 1 + (uint64_t)rand() % 300000;
    if (rand() % 4 == 0) {
        p->hold_us = p->arrive_us + 1 + (uint64_t)rand() % 20000;
        p->resume_us = p->hold_us + 1 + (uint64_t)rand() % 60000;
    }
}

// Makes it another's next turn: its prompt and answer, and a few tokens more.
static void go_on_from(plan *p, const plan *past, tc_sampler *sampler)
{
    uint32_t answer[TOKENS], count = past->ask.prompt_count, more = 1 + (uint32_t)rand() % 30;
    tc_finish finish;
    const uint32_t choice = past->ask.more_count ? (uint32_t)rand() % (past->ask.more_count + 1) : 0,
                   n = oracle(&past->ask, choice, sampler, answer, &finish);
    if (count + n + more + TOKENS > CONTEXT) return;
    memcpy(p->prompt, past->prompt, count * sizeof *p->prompt);
    memcpy(p->prompt + count, answer, n * sizeof *answer);
    for (uint32_t i = 0; i < more; i++) p->prompt[count + n + i] = (uint32_t)rand() % VOCAB;
    p->ask.prompt_count = count + n + more;
    p->ask.scope = past->ask.scope;
    p->arrive_us += 150000;
}

static uint64_t id_of(const plan *p, uint32_t choice)
{
    return choice ? p->ask.more_ids[choice - 1] : p->ask.id;
}

static bool due(uint64_t *at)
{
    bool now = *at && *at <= now_us;
    if (now) *at = 0;
    return now;
}

static void drive(bench *b, plan *plans)
{
    for (uint32_t i = 0; i < PLANS; i++) {
        plan *p = &plans[i];
        if (!p->sent && p->arrive_us <= now_us) {
            ask(b, &p->ask);
            p->sent = true;
        }
        bool hold = due(&p->hold_us), resume = due(&p->resume_us);
        for (uint32_t k = 0; p->sent && k <= p->ask.more_count; k++) {
            if (hold && !resume) tell(b, TC_COMMAND_HOLD, id_of(p, k), true);
            if (resume) tell(b, TC_COMMAND_HOLD, id_of(p, k), false);
        }
        if (p->sent && due(&p->cancel_us)) // one of its choices, not always the first
            tell(b, TC_COMMAND_CANCEL, id_of(p, (uint32_t)rand() % (p->ask.more_count + 1)), false);
    }
}

static bool all_ended(const plan *plans)
{
    for (uint32_t i = 0; i < PLANS; i++)
        for (uint32_t k = 0; k <= plans[i].ask.more_count; k++)
            if (!of(id_of(&plans[i], k))->ended) return false;
    return true;
}

static void check_against_alone(unsigned seed, const plan *p, tc_sampler *sampler)
{
    for (uint32_t k = 0; k <= p->ask.more_count; k++) {
        uint32_t expected[TOKENS];
        tc_finish finish;
        const transcript *t = of(id_of(p, k));
        uint32_t count = oracle(&p->ask, k, sampler, expected, &finish);
        bool whole = !t->failed && t->finish != TC_FINISH_CANCELLED;
        if (t->failed && (t->status != TC_TIMEOUT || !p->ask.deadline_us))
            fail_msg("seed %u: request %u failed", seed, (unsigned)p->ask.id);
        if (t->failed && t->ended_us < p->ask.deadline_us + 1000)
            fail_msg("seed %u: request %u ended before its deadline", seed, (unsigned)p->ask.id);
        if (t->count > count || (whole && (t->count != count || t->finish != finish)) ||
            memcmp(t->tokens, expected, t->count * sizeof *expected))
            fail_msg("seed %u: choice %u of request %u differs from the same request alone", seed, k,
                     (unsigned)p->ask.id);
        if (t->usage.cached_tokens >= p->ask.prompt_count)
            fail_msg("seed %u: more of request %u is cached than it has", seed, (unsigned)p->ask.id);
    }
}

static uint64_t run_mix(unsigned seed, tc_sampler *sampler)
{
    static plan plans[PLANS];
    static uint32_t stems[STEMS][CONTEXT];
    bench b;
    uint64_t next_id = 1, cached = 0;
    srand(seed);
    has_state = seed % 2;
    slot_bytes = seed % 3 ? sizeof(uint64_t) : 3000;
    spare_slots = seed % 5 % (SPARE_MOST + 1);
    prompt_grain = seed % 4 ? TC_PROMPT_GRAIN : 8u << rand() % 3;
    const tc_sched_options with = {
        .chunk_us = 4000 + (uint64_t)rand() % 8000, .snapshot_every = 128, .prompt_grain = prompt_grain};
    uint64_t budget = rand() % 5 ? 1000 + (uint64_t)rand() % 60000 : 0;
    set_up(&b, budget, &with);
    for (uint32_t i = 0; i < STEMS; i++) // stems share their first part
        for (uint32_t k = 0; k < CONTEXT; k++)
            stems[i][k] = i && k < 150 ? stems[0][k] : (uint32_t)rand() % VOCAB;
    for (uint32_t i = 0; i < PLANS; i++) {
        make_plan(&plans[i], &next_id, stems);
        if (i && rand() % 3 == 0) go_on_from(&plans[i], &plans[rand() % (int)i], sampler);
    }
    while (!all_ended(plans)) {
        if (now_us > 60000000) fail_msg("seed %u: something starves", seed);
        drive(&b, plans);
        if (!tc_sched_step(b.sched)) now_us += 1 + tc_sched_idle_us(b.sched, 500);
        if (tc_prefix_cache_stats(b.cache).bytes > budget)
            fail_msg("seed %u: the cache exceeds its budget", seed);
    }
    for (uint32_t i = 0; i < PLANS; i++) {
        check_against_alone(seed, &plans[i], sampler);
        cached += of(plans[i].ask.id)->usage.cached_tokens;
    }
    tear_down(&b);
    spare_slots = 0;
    return cached;
}

static void test_mixes(void **state)
{
    (void)state;
    tc_sampler *sampler;
    tc_error e;
    uint64_t cached = 0;
    assert_int_equal(tc_sampler_create(VOCAB, &tc_dense_plain, &sampler, &e), TC_OK);
    for (unsigned seed = 0; seed < 1500; seed++) cached += run_mix(seed, sampler);
    assert_true(cached > 50000 && states_kept > 1000); // the cache took part
    tc_sampler_free(sampler);
}

// ---- one thing at a time ----

static uint32_t *counting_prompt(uint32_t first)
{
    static uint32_t prompt[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++) prompt[i] = (first + i * 7) % VOCAB;
    return prompt;
}

static void test_choices_share_pages(void **state)
{
    (void)state;
    bench b;
    has_state = true;
    slot_bytes = sizeof(uint64_t);
    set_up(&b, 0, NULL);
    tc_generate g = simple(1, counting_prompt(1), 300, 20); // 5 pages, the last begun
    g.more_count = 4;
    for (uint32_t i = 0; i < 4; i++) g.more_ids[i] = 2 + i;
    g.sampling.seeded = true;
    g.sampling.temperature = 1;
    ask(&b, &g);
    while (!of(1)->count) tc_sched_step(b.sched);
    // 4 full pages once, the fifth for each of five choices
    assert_int_equal(PAGES - tc_session_pages_free(b.pool), 4 + 5);
    for (uint64_t id = 1; id <= 5; id++) assert_int_equal(of(id)->count, 1); // all at the same step
    tell(&b, TC_COMMAND_CANCEL, 1, false); // the first may leave before the others
    run_to_end(&b);
    for (uint64_t id = 2; id <= 5; id++) assert_int_equal(of(id)->count, 20);
    tear_down(&b);
}

static void test_more_choices_than_sessions(void **state)
{
    (void)state;
    bench b;
    has_state = true;
    slot_bytes = sizeof(uint64_t);
    set_up(&b, 1 << 20, NULL);
    tc_generate g = simple(1, counting_prompt(2), 200, 5);
    g.more_count = 15;
    for (uint32_t i = 0; i < 15; i++) g.more_ids[i] = 2 + i;
    ask(&b, &g);
    run_to_end(&b);
    for (uint64_t id = 1; id <= 16; id++) assert_int_equal(of(id)->count, 5);
    assert_int_equal(of(16)->usage.cached_tokens, 192); // the late ones did not compute it again
    tear_down(&b);
}

static void test_cancel_within_one_step(void **state)
{
    (void)state;
    bench b;
    has_state = false;
    set_up(&b, 0, NULL);
    tc_generate g = simple(1, counting_prompt(3), 10, 50), other = simple(2, counting_prompt(3), 9, 50);
    ask(&b, &g);
    ask(&b, &other);
    while (of(1)->count < 5) tc_sched_step(b.sched);
    uint32_t count = of(1)->count;
    tell(&b, TC_COMMAND_CANCEL, 1, false);
    assert_true(of(1)->ended && of(1)->finish == TC_FINISH_CANCELLED && of(1)->count == count);
    assert_int_equal(tc_session_slots_free(b.pool), SLOTS - 1); // its memory is free at once
    run_to_end(&b);
    assert_int_equal(of(2)->count, 50);
    tear_down(&b);
}

static void test_held_requests_rest(void **state)
{
    (void)state;
    bench b;
    has_state = false;
    set_up(&b, 0, NULL);
    tc_generate g = simple(1, counting_prompt(3), 10, 20);
    ask(&b, &g);
    while (of(1)->count < 3) tc_sched_step(b.sched);
    uint32_t count = of(1)->count;
    tell(&b, TC_COMMAND_HOLD, 1, true);
    assert_false(tc_sched_step(b.sched));
    assert_int_equal(of(1)->count, count);
    tc_engine_status status;
    tc_sched_status(b.sched, &status);
    assert_int_equal(status.held, 1);
    tell(&b, TC_COMMAND_HOLD, 1, false);
    run_to_end(&b);
    assert_int_equal(of(1)->count, 20);
    tear_down(&b);
}

// What a conversation's next turn computes: only what follows the last token that was computed.
static void test_next_turn(void **state)
{
    (void)state;
    for (int with_state = 0; with_state < 2; with_state++) {
        bench b;
        has_state = with_state;
        slot_bytes = sizeof(uint64_t);
        set_up(&b, 1 << 20, NULL);
        uint32_t *prompt = counting_prompt(4);
        tc_generate g = simple(1, prompt, 300, 50);
        g.scope = 7;
        ask(&b, &g);
        run_to_end(&b);
        assert_int_equal(of(1)->usage.cached_tokens, 0);
        memcpy(prompt + 300, of(1)->tokens, 50 * sizeof *prompt); // the answer is part of the next prompt
        g.id = 2;
        g.prompt_count = 400;
        ask(&b, &g);
        run_to_end(&b);
        assert_int_equal(of(2)->usage.cached_tokens, 349); // the last token was drawn only
        g.id = 3;
        g.scope = 8; // another key sees nothing of it
        ask(&b, &g);
        run_to_end(&b);
        assert_int_equal(of(3)->usage.cached_tokens, 0);
        assert_memory_equal(of(3)->tokens, of(2)->tokens, sizeof of(2)->tokens);
        g.id = 4;
        g.no_cache = true;
        g.scope = 7;
        ask(&b, &g);
        run_to_end(&b);
        assert_int_equal(of(4)->usage.cached_tokens, 0);
        tear_down(&b);
    }
}

// Conversations of any lengths: each turn begins where the last one ended, inside a page or at its end, and
// gives the tokens that it gives without any of it.
static void test_turn_after_turn(void **state)
{
    (void)state;
    srand(3);
    for (int i = 0; i < 300; i++) {
        static uint32_t prompt[CONTEXT];
        bench b;
        uint64_t id = 1;
        uint32_t known = 0, count = 1 + (uint32_t)rand() % 150;
        has_state = i % 2;
        slot_bytes = sizeof(uint64_t);
        spare_slots = i % 3;
        prompt_grain = i % 5 ? TC_PROMPT_GRAIN : 8;
        const tc_sched_options with = {.prompt_grain = prompt_grain, .coarse_cuts = i % 7 == 0};
        set_up(&b, 1 << 20, &with);
        for (uint32_t k = 0; k < CONTEXT; k++) prompt[k] = (uint32_t)rand() % VOCAB;
        for (int turn = 0; turn < 4; turn++, id += 2) {
            const uint32_t answer = 1 + (uint32_t)rand() % (turn ? 60 : 3), more = 1 + (uint32_t)rand() % 60;
            tc_generate g = simple(id, prompt, count, answer);
            ask(&b, &g);
            run_to_end(&b);
            assert_int_equal(of(id)->usage.cached_tokens, known);
            g.id = id + 1;
            g.no_cache = true;
            ask(&b, &g);
            run_to_end(&b);
            assert_int_equal(of(id)->count, answer);
            assert_memory_equal(of(id + 1)->tokens, of(id)->tokens, answer * sizeof *prompt);
            if (turn == 3) break;
            memcpy(prompt + count, of(id)->tokens, answer * sizeof *prompt);
            known = count + answer - 1;
            count += answer + more;
        }
        tear_down(&b);
    }
    spare_slots = 0;
    prompt_grain = TC_PROMPT_GRAIN;
}

// The second prompt with a common beginning finds its pages but no state there; it leaves one, and the third
// starts from it.
static void test_branches_get_a_snapshot(void **state)
{
    (void)state;
    bench b;
    has_state = true;
    slot_bytes = sizeof(uint64_t);
    const tc_sched_options with = {.snapshot_every = 1 << 20};
    set_up(&b, 1 << 20, &with);
    for (uint64_t id = 1; id <= 3; id++) {
        uint32_t *prompt = counting_prompt(5);
        for (uint32_t i = 150; i < 400; i++) prompt[i] = (uint32_t)(id + i) % VOCAB;
        tc_generate g = simple(id, prompt, 400, 2);
        ask(&b, &g);
        run_to_end(&b);
        assert_int_equal(of(id)->usage.cached_tokens, id == 3 ? 128 : 0);
    }
    tear_down(&b);
}

// Beside the state at a prompt's end the last one of those that are kept every so often.
static void test_a_state_on_the_way(void **state)
{
    (void)state;
    bench b;
    has_state = true;
    slot_bytes = sizeof(uint64_t);
    const tc_sched_options with = {.snapshot_every = 128, .coarse_cuts = true};
    set_up(&b, 1 << 20, &with);
    for (uint64_t id = 1; id <= 2; id++) {
        uint32_t *prompt = counting_prompt(5);
        for (uint32_t i = 540; i < 600; i++) prompt[i] = (uint32_t)(id + i) % VOCAB;
        tc_generate g = simple(id, prompt, 600, 2);
        ask(&b, &g);
        run_to_end(&b);
        assert_int_equal(of(id)->usage.cached_tokens, id == 2 ? 512 : 0);
    }
    tear_down(&b);
}

// Prompts in one piece, as a GPU takes them: the state behind the last page is kept on the way past it, and
// the next turn begins there; where every session is taken the spare slot serves.
static void test_a_state_is_kept_inside_a_step(void **state)
{
    (void)state;
    has_state = true;
    slot_bytes = sizeof(uint64_t);
    for (uint32_t others = 0; others < SLOTS; others += SLOTS - 1)
        for (spare_slots = 0; spare_slots <= 1; spare_slots++) {
            bench b;
            const tc_sched_options with = {
                .snapshot_every = 1 << 20, .coarse_cuts = true, .chunk_us = 10000000};
            const bool room = spare_slots || !others;
            set_up(&b, 1 << 20, &with);
            for (uint64_t id = 1; id <= others; id++) {
                tc_generate g = simple(id, counting_prompt(9), 2, 60);
                ask(&b, &g);
            }
            for (uint64_t id = 10; id <= 11; id++) {
                tc_generate g = simple(id, counting_prompt(5), id == 10 ? 300 : 330, 2);
                ask(&b, &g);
                const uint64_t steps = steps_with_answers;
                while (!of(id)->ended) tc_sched_step(b.sched);
                assert_true(!others || steps_with_answers - steps <= 4); // nothing was cut
                assert_int_equal(of(id)->usage.cached_tokens, id == 11 && room ? 256 : 0);
            }
            run_to_end(&b);
            tear_down(&b);
        }
    spare_slots = 0;
}

static void test_deadlines(void **state)
{
    (void)state;
    bench b;
    has_state = false;
    set_up(&b, 0, NULL);
    for (uint64_t id = 1; id <= SLOTS + 1; id++) { // the last one has to wait
        tc_generate g = simple(id, counting_prompt(6), 10, 60);
        g.deadline_us = id == SLOTS + 1 ? 20000 : id == 1 ? 30000 : 0;
        ask(&b, &g);
    }
    run_to_end(&b);
    assert_true(of(1)->failed && of(1)->status == TC_TIMEOUT && of(1)->count > 0);
    assert_true(of(1)->ended_us >= 31000 && of(1)->ended_us < 31000 + 3000);
    assert_true(of(SLOTS + 1)->failed && of(SLOTS + 1)->status == TC_TIMEOUT && !of(SLOTS + 1)->count);
    tc_engine_status status;
    tc_sched_status(b.sched, &status);
    assert_int_equal(status.expired, 2);
    tear_down(&b);
}

static void test_priorities_and_ageing(void **state)
{
    (void)state;
    bench b;
    has_state = false;
    set_up(&b, 0, NULL);
    uint64_t id = 1;
    for (; id <= SLOTS; id++) { // fill all sessions; one after the other ends
        tc_generate g = simple(id, counting_prompt(6), 10, 20 + 5 * (uint32_t)id);
        ask(&b, &g);
    }
    tc_sched_step(b.sched);
    tc_generate low = simple(id++, counting_prompt(7), 10, 1);
    low.priority = -1;
    ask(&b, &low);
    tc_generate high = simple(id++, counting_prompt(7), 10, 1);
    high.priority = 3;
    ask(&b, &high);
    while (!of(low.id)->ended) { // more important ones keep coming
        tc_engine_status status;
        for (tc_sched_status(b.sched, &status); status.waiting < 2 * SLOTS; status.waiting++) {
            tc_generate g = simple(id++, counting_prompt(8), 10, 60);
            g.priority = 3;
            ask(&b, &g);
        }
        tc_sched_step(b.sched);
        now_us += 20000;
        assert_true(id < IDS - 20);
    }
    assert_true(of(high.id)->started_us < of(low.id)->started_us);
    assert_true(of(low.id)->started_us > TC_PRIORITY_AGING_US); // it came through by waiting
    assert_true(of(low.id)->started_us < 6 * (uint64_t)TC_PRIORITY_AGING_US);
    tear_down(&b);
}

// One scope floods the queue; another's few requests do not wait behind all of it.
static void test_scopes_take_turns(void **state)
{
    (void)state;
    bench b;
    has_state = false;
    set_up(&b, 0, NULL);
    uint64_t id = 1;
    for (; id <= 100; id++) {
        tc_generate g = simple(id, counting_prompt(6), 64, 10);
        g.scope = 1;
        ask(&b, &g);
    }
    for (int i = 0; i < 20; i++) tc_sched_step(b.sched);
    for (; id <= 105; id++) {
        tc_generate g = simple(id, counting_prompt(6), 64, 10);
        g.scope = 2;
        ask(&b, &g);
    }
    run_to_end(&b);
    uint32_t before = 0;
    for (uint64_t i = 1; i <= 100; i++) before += of(i)->started_us < of(105)->started_us;
    assert_true(before < 40); // of which about a dozen had begun when they came
    tear_down(&b);
}

static void keep_the_pace(uint32_t grain)
{
    bench b;
    has_state = true;
    slot_bytes = sizeof(uint64_t);
    const tc_sched_options with = {.chunk_us = 3 * 64 * PROMPT_TOKEN_US,
                                   .prompt_grain = grain}; // a quarter is kept back
    prompt_grain = grain;
    set_up(&b, 0, &with);
    tc_generate stream = simple(1, counting_prompt(6), 64, 60);
    ask(&b, &stream);
    while (of(1)->count < 10) tc_sched_step(b.sched);
    longest_step_us = 0;
    for (uint64_t id = 2; id <= 4; id++) {
        tc_generate g = simple(id, counting_prompt((uint32_t)id), 500, 1);
        ask(&b, &g);
    }
    run_to_end(&b);
    // What prompts add is within what was set, and most of it is used.
    assert_true(longest_step_us <= ANSWER_US + 4 * ROW_US + with.chunk_us);
    assert_true(longest_step_us >= ANSWER_US + ROW_US + 2 * 64 * PROMPT_TOKEN_US);
    tear_down(&b);
    prompt_grain = TC_PROMPT_GRAIN;
}

static void test_long_prompts_keep_the_pace(void **state)
{
    (void)state;
    keep_the_pace(TC_PROMPT_GRAIN);
    keep_the_pace(8);
}

// A goal below one page is kept too where the grain allows it.
static void test_a_small_goal_is_kept(void **state)
{
    (void)state;
    bench b;
    const tc_sched_options with = {.chunk_us = 20 * PROMPT_TOKEN_US, .prompt_grain = 8};
    prompt_grain = 8;
    set_up(&b, 0, &with);
    tc_generate stream = simple(1, counting_prompt(6), 64, 60),
                prompt = simple(2, counting_prompt(2), 500, 1);
    ask(&b, &stream);
    while (of(1)->count < 10) tc_sched_step(b.sched);
    longest_step_us = 0;
    ask(&b, &prompt);
    run_to_end(&b);
    assert_true(longest_step_us <= ANSWER_US + 2 * ROW_US + with.chunk_us);
    tear_down(&b);
    prompt_grain = TC_PROMPT_GRAIN;
}

// Steps of prompts alone: 256 tokens before anything is measured, then as many as fit into the time set.
static void test_alone_they_take_more(void **state)
{
    static const struct {
        uint64_t token_us;
        uint32_t tokens_max, most;
        bool coarse;
    } cases[] = {
        {PROMPT_TOKEN_US, 0, 2000 - TC_ALONE_TOKENS, false}, // all that is left
        {PROMPT_TOKEN_US, 1024, 1000, false},                // 244, 500 and 256: of whole pages
        {PROMPT_TOKEN_US, 128, 128, false},
        {TC_ALONE_US / 400, 0, 384, false},
        {TC_ALONE_US / 100, 0, TC_ALONE_TOKENS, false},
        {TC_ALONE_US / 100, 0, 2000, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b;
        has_state = false;
        const tc_sched_options with = {.tokens_max = cases[i].tokens_max, .coarse_cuts = cases[i].coarse};
        prompt_token_us = large_token_us = cases[i].token_us;
        most_alone = 0;
        set_up(&b, 0, &with);
        for (uint64_t id = 1; id <= 4; id++) {
            tc_generate g = simple(id, counting_prompt((uint32_t)id), 500, 1);
            if (id == 2 && !cases[i].coarse) {
                tc_sched_step(b.sched);
                assert_true(most_alone <= TC_ALONE_TOKENS);
            }
            ask(&b, &g);
        }
        run_to_end(&b);
        assert_int_equal(most_alone, cases[i].most);
        tear_down(&b);
    }
    prompt_token_us = large_token_us = PROMPT_TOKEN_US;
}

// A large step without answers is cheap a token; the first one beside answers must not believe it.
static void test_alone_is_no_measure(void **state)
{
    bench b;
    const tc_sched_options with = {
        .tokens_max = 512, .chunk_us = 3 * 64 * PROMPT_TOKEN_US, .prompt_grain = 8};
    (void)state;
    has_state = false;
    prompt_grain = 8;
    large_token_us = PROMPT_TOKEN_US / 10;
    set_up(&b, 0, &with);
    for (uint64_t id = 1; id <= 4; id++) {
        tc_generate g =
            simple(id, counting_prompt((uint32_t)id), 448, id == 4 ? 60 : 1); // 256 and three times 512
        ask(&b, &g);
    }
    most_alone = 0;
    while (of(4)->count < 10) tc_sched_step(b.sched);
    assert_true(most_alone > TC_ALONE_TOKENS);
    longest_step_us = 0;
    tc_generate late = simple(5, counting_prompt(5), 500, 1);
    ask(&b, &late);
    run_to_end(&b);
    assert_true(longest_step_us <= ANSWER_US + 2 * ROW_US + with.chunk_us);
    tear_down(&b);
    prompt_grain = TC_PROMPT_GRAIN;
    large_token_us = PROMPT_TOKEN_US;
}

static void test_bounds_of_the_queue(void **state)
{
    (void)state;
    bench b;
    has_state = false;
    const tc_sched_options with = {.queue_requests = 10, .queue_tokens = 1000};
    set_up(&b, 0, &with);
    tc_generate g = simple(1, counting_prompt(1), 10, 5);
    g.more_count = 9;
    for (uint32_t i = 0; i < 9; i++) g.more_ids[i] = 2 + i;
    ask(&b, &g); // exactly ten
    assert_false(of(1)->failed || of(10)->failed);
    tc_generate more = simple(11, counting_prompt(1), 10, 5);
    ask(&b, &more);
    assert_true(of(11)->failed && of(11)->status == TC_BUSY);
    run_to_end(&b);
    g.id = 20;
    for (uint32_t i = 0; i < 9; i++) g.more_ids[i] = 21 + i;
    g.more_ids[9] = 30;
    g.more_count = 10; // eleven: all of them are refused
    ask(&b, &g);
    for (uint64_t id = 20; id <= 30; id++) assert_true(of(id)->failed && of(id)->status == TC_BUSY);
    tc_generate large = simple(31, counting_prompt(1), 600, 5), rest = simple(32, counting_prompt(1), 400, 5),
                over = simple(33, counting_prompt(1), 1, 5);
    ask(&b, &large);
    ask(&b, &rest); // exactly a thousand tokens
    ask(&b, &over);
    assert_false(of(31)->failed || of(32)->failed);
    assert_true(of(33)->failed && of(33)->status == TC_BUSY);
    run_to_end(&b);
    ask(&b, &(tc_generate){.id = 34,
                           .prompt = over.prompt,
                           .prompt_count = 1,
                           .max_tokens = 1,
                           .sampling = over.sampling}); // what had ended made room
    run_to_end(&b);
    assert_false(of(34)->failed);
    tc_engine_status status;
    tc_sched_status(b.sched, &status);
    assert_int_equal(status.refused, 1 + 11 + 1);
    assert_int_equal(status.queue_tokens, 0);
    tear_down(&b);
}

// The scheduler's own time with 64 answers a step, each with a prompt of its own: what is left when device,
// sampling and link cost nothing; the best of some rounds.
static void bench_own_time(const char *caches, int rounds)
{
    enum { WARM_STEPS = 8, STEPS = 40 };
    double best_us = 1e9;
    pool_pages = PAGES_MOST, pool_slots = SLOTS_MOST;
    for (int round = 0; round < rounds; round++) {
        bench b;
        tc_engine_status before, after;
        set_up(&b, 0, NULL);
        for (uint64_t id = 1; id <= SLOTS_MOST; id++) {
            tc_generate g = simple(id, counting_prompt((uint32_t)id), 16, 60);
            ask(&b, &g);
        }
        for (int i = 0; i < WARM_STEPS; i++) tc_sched_step(b.sched);
        tc_sched_status(b.sched, &before);
        for (int i = 0; i < STEPS; i++) tc_sched_step(b.sched);
        tc_sched_status(b.sched, &after);
        assert_int_equal(after.tokens_generated - before.tokens_generated, STEPS * SLOTS_MOST);
        double each_us = (double)(after.sched_us - before.sched_us) / STEPS;
        if (each_us < best_us) best_us = each_us;
        run_to_end(&b);
        tear_down(&b);
    }
    printf("{\"bench\":\"scheduler\",\"caches\":\"%s\",\"sequences\":%d,\"own_us_a_step\":%.2f}\n", caches,
           SLOTS_MOST, best_us);
}

static int bench_all(void)
{
    bench_own_time("warm", 40);
    swept = malloc(SWEEP_BYTES);
    if (!swept) return 1;
    memset(swept, 1, SWEEP_BYTES);
    bench_own_time("emptied", 5);
    free(swept);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench_all();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices_share_pages),
        cmocka_unit_test(test_more_choices_than_sessions),
        cmocka_unit_test(test_cancel_within_one_step),
        cmocka_unit_test(test_held_requests_rest),
        cmocka_unit_test(test_next_turn),
        cmocka_unit_test(test_turn_after_turn),
        cmocka_unit_test(test_branches_get_a_snapshot),
        cmocka_unit_test(test_a_state_is_kept_inside_a_step),
        cmocka_unit_test(test_a_state_on_the_way),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_priorities_and_ageing),
        cmocka_unit_test(test_scopes_take_turns),
        cmocka_unit_test(test_long_prompts_keep_the_pace),
        cmocka_unit_test(test_a_small_goal_is_kept),
        cmocka_unit_test(test_alone_they_take_more),
        cmocka_unit_test(test_alone_is_no_measure),
        cmocka_unit_test(test_bounds_of_the_queue),
        cmocka_unit_test(test_grouping),
        cmocka_unit_test(test_mixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
