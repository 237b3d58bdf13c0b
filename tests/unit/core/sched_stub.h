// SPDX-License-Identifier: Apache-2.0
// Owns: what the scheduler's tests run it on: a virtual clock, a stub device, and a stub server that writes
// transcripts. The stub's "attention" is a hash of the session's own past, kept in its pages and in its
// state, so a wrong page, slot, snapshot or position changes tokens; what a request says alone is worked out
// without a scheduler. Included once a program.
#pragma once

#include "gpu-core/forward/sample.h"
#include "gpu-core/sched/sched.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 61, PAGES = 48, SLOTS = 6, CONTEXT = 640, EOS = 5, IDS = 2048, TOKENS = 64 };
#include "tests/support/sched_doubles.h"

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

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    return (void)g, sizeof page_memory[0];
}
uint64_t tc_dev_slot_bytes(const tc_dev_geometry *g)
{
    return (void)g, has_state ? slot_bytes : 0;
}

// What a step of a model does to the caches: nothing that was there is left.
enum { SWEEP_BYTES = 96 << 20, LINE_BYTES = 64 };
static char *swept; // NULL: it does nothing

static inline void sweep(void)
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

typedef struct transcript {
    uint32_t tokens[TOKENS], count;
    bool asked, ended, failed;
    tc_finish finish;
    tc_status status;
    tc_usage usage;
    uint64_t started_us, ended_us; // first token, end
} transcript;
static transcript transcripts[IDS];

static inline transcript *of(uint64_t id)
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

static inline void slot_reset(tc_dev *dev, uint32_t slot)
{
    (void)dev, slot_memory[slot] = 1, cut_at[slot] = 0;
}
static inline void slot_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    (void)dev, slot_memory[to] = slot_memory[from];
}
static inline void slot_save(tc_dev *dev, uint32_t slot, void *host)
{
    (void)dev, memcpy(host, &slot_memory[slot], sizeof(uint64_t));
}
static inline void slot_load(tc_dev *dev, uint32_t slot, const void *host)
{
    (void)dev, memcpy(&slot_memory[slot], host, sizeof(uint64_t));
}
static inline void page_copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    (void)dev, memcpy(page_memory[to], page_memory[from], sizeof page_memory[0]);
}
static inline void page_save(tc_dev *dev, uint32_t page, void *host)
{
    (void)dev, memcpy(host, page_memory[page], sizeof page_memory[0]);
}
static inline void page_load(tc_dev *dev, uint32_t page, const void *host)
{
    (void)dev, memcpy(page_memory[page], host, sizeof page_memory[0]);
}
static inline void source_stats(tc_expert_source *source, tc_source_stats *ret)
{
    (void)source, memset(ret, 0, sizeof *ret);
}
static inline uint64_t virtual_now(void *arg)
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

static inline uint64_t held_bytes(void)
{
    return tc_mem_bytes(TC_MEM_KV) + tc_mem_bytes(TC_MEM_STATE);
}

static inline void set_up(bench *b, uint64_t cache_bytes, const tc_sched_options *with)
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

static inline void tear_down(bench *b)
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

static inline tc_generate simple(uint64_t id, const uint32_t *prompt, uint32_t count, uint32_t max_tokens)
{
    return (tc_generate){.id = id,
                         .prompt = prompt,
                         .prompt_count = count,
                         .max_tokens = max_tokens,
                         .sampling = {.top_p = 1, .repetition_penalty = 1},
                         .ignore_eos = true};
}

static inline void ask(bench *b, const tc_generate *g)
{
    const tc_command command = {.kind = TC_COMMAND_GENERATE, .id = g->id, .generate = *g};
    of(g->id)->asked = true;
    for (uint32_t i = 0; i < g->more_count; i++) of(g->more_ids[i])->asked = true;
    tc_sched_command(b->sched, &command);
}

static inline void tell(bench *b, tc_command_kind kind, uint64_t id, bool held)
{
    const tc_command command = {.kind = kind, .id = id, .held = held};
    tc_sched_command(b->sched, &command);
}

static inline void run_to_end(bench *b)
{
    for (int i = 0; tc_sched_step(b->sched); i++) assert_true(i < 100000);
}

// The tokens of choice k of a request alone, without any scheduler.
static inline uint32_t oracle(const tc_generate *g, uint32_t choice, tc_sampler *sampler,
                              uint32_t out[TOKENS], tc_finish *finish)
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

static inline uint32_t *counting_prompt(uint32_t first)
{
    static uint32_t prompt[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++) prompt[i] = (first + i * 7) % VOCAB;
    return prompt;
}
