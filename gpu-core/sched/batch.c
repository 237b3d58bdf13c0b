// SPDX-License-Identifier: Apache-2.0
// Owns: the batch of a step: every answer that runs, then as much of prompts as the time set for that allows,
// and the measure of what a prompt token costs.
#include "gpu-core/sched/sched_impl.h"

static void add_segment(tc_sched *s, request *r, uint32_t tokens)
{
    tc_session *session = r->session;
    tc_segment *segment = &s->segments[s->batch.segments];
    *segment = (tc_segment){.first = s->batch.tokens,
                            .tokens = tokens,
                            .position = session->processed,
                            .pages = session->pages,
                            .slot = session->slot};
    for (uint32_t i = 0; i < tokens; i++) {
        uint32_t at = s->batch.tokens + i;
        s->ids[at] = session->tokens[session->processed + i];
        s->position[at] = session->processed + i;
        s->segment[at] = s->batch.segments;
    }
    if (r->state == REQUEST_PREFILL) tc_sched_choose_keeps(s, r, segment);
    r->batch_first = s->batch.tokens;
    r->batch_tokens = tokens;
    r->batch_segment = s->batch.segments;
    s->owner[s->batch.segments++] = r;
    s->batch.tokens += tokens;
}

// Prompt tokens that fit beside running answers: a multiple of the grain, and never less than one grain.
static uint32_t beside_answers(const tc_sched *s)
{
    if (s->prompt_token_us <= 0) return s->o.prompt_grain;              // not measured yet
    double tokens = (double)s->o.chunk_us * 3 / 4 / s->prompt_token_us; // the next ones may be dearer
    if (tokens >= s->o.tokens_max) return s->o.tokens_max;
    uint32_t grains = (uint32_t)tokens / s->o.prompt_grain;
    return (grains ? grains : 1) * s->o.prompt_grain;
}

// Prompt tokens of a step without answers.
static uint32_t alone(const tc_sched *s)
{
    uint32_t least = s->o.tokens_max < TC_ALONE_TOKENS ? s->o.tokens_max : TC_ALONE_TOKENS;
    if (s->o.coarse_cuts) return s->o.tokens_max;
    if (s->alone_token_us <= 0) return least; // not measured yet
    double tokens = TC_ALONE_US / s->alone_token_us;
    if (tokens >= s->o.tokens_max) return s->o.tokens_max;
    return tokens > least ? (uint32_t)tokens / TC_PROMPT_GRAIN * TC_PROMPT_GRAIN : least;
}

// The next chunk of a prompt: to its end, or to a multiple of the grain. 0: the room does not reach as far as
// that.
static uint32_t chunk_of(const tc_sched *s, const request *r, uint32_t room)
{
    uint32_t done = r->session->processed, left = r->session->count - done;
    uint32_t n = left < room ? left : room;
    if (n == left) return n;
    const uint32_t end = (done + n) / s->o.prompt_grain * s->o.prompt_grain; // done may lie anywhere
    return end > done ? end - done : 0;
}

static uint32_t list_prompts(tc_sched *s, request *ret[TC_BATCH_SEGMENTS_MAX])
{
    uint32_t n = 0;
    uint64_t now = tc_sched_now(s);
    for (uint32_t i = 0; i < s->count && n < TC_BATCH_SEGMENTS_MAX; i++) {
        request *r = s->requests[i];
        if (r->state != REQUEST_PREFILL || r->held) continue;
        uint32_t at = n++;
        for (; at > 0 && tc_sched_goes_first(s, r, ret[at - 1], now); at--) ret[at] = ret[at - 1];
        ret[at] = r;
    }
    return n;
}

void tc_sched_build(tc_sched *s)
{
    request *prompts[TC_BATCH_SEGMENTS_MAX];
    s->batch = (tc_batch){0, 0, s->ids, s->position, s->segment, s->segments, s->total.steps + 1};
    for (uint32_t i = 0; i < s->count && s->batch.segments < TC_BATCH_SEGMENTS_MAX; i++)
        if (s->requests[i]->state == REQUEST_DECODE && !s->requests[i]->held)
            add_segment(s, s->requests[i], 1);
    s->decoding = s->batch.segments;
    s->spares_used = 0;
    uint32_t room = s->o.tokens_max - s->batch.tokens, count = list_prompts(s, prompts);
    const uint32_t most = s->decoding ? beside_answers(s) : alone(s);
    if (most < room) room = most;
    for (uint32_t i = 0; i < count && room && s->batch.segments < TC_BATCH_SEGMENTS_MAX; i++) {
        uint32_t n = chunk_of(s, prompts[i], room);
        if (n == 0) continue;
        add_segment(s, prompts[i], n);
        room -= n;
    }
}

static void average(double *mean, double value)
{
    *mean = *mean > 0 ? *mean + (value - *mean) / 4 : value;
}

void tc_sched_learn(tc_sched *s, uint64_t step_us)
{
    uint32_t prompt_tokens = s->batch.tokens - s->decoding;
    if (!prompt_tokens) {
        average(&s->answer_us, (double)step_us);
        return;
    }
    double rest = (double)step_us - (s->decoding ? s->answer_us : 0);
    // A few tokens say little: a step has costs of its own, which are not theirs.
    if (prompt_tokens < s->o.prompt_grain / 2 || rest <= 0) return;
    double token_us = rest / prompt_tokens;
    if (!s->decoding) average(&s->alone_token_us, token_us);
    // Beside answers there are fewer, and what a step reads weighs more on each: a large step is no measure.
    if (prompt_tokens > TC_ALONE_TOKENS && !s->o.coarse_cuts) {
        if (s->prompt_token_us > 0 && token_us <= s->prompt_token_us) return;
        if (s->prompt_token_us <= 0) token_us *= 2;
    }
    // Up at once, down slowly: tokens become dearer with their position, and a goal is a bound.
    if (token_us > s->prompt_token_us)
        s->prompt_token_us = token_us;
    else
        average(&s->prompt_token_us, token_us);
}
