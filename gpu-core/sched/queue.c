// SPDX-License-Identifier: Apache-2.0
// Owns: requests from arrival to the start of their session: bounds of the queue, deadlines, whose turn it
// is, admission, and the end of a request's memory. Refuses: batches and tokens (batch.c, sched.c).
#include "common/base/clock.h"
#include "gpu-core/sched/sched_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { GENERATED_WEIGHT = 2 };
static const double ALIKE_MARGIN = 0.1; // a cosine

uint64_t tc_sched_now(const tc_sched *s)
{
    return s->o.now_us ? s->o.now_us(s->o.now_arg) : tc_now_us();
}

request *tc_sched_find(const tc_sched *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->requests[i]->ask.id == id) return s->requests[i];
    return NULL;
}

// ---- scopes ----

void tc_sched_charge(request *r, uint64_t tokens)
{
    r->account->served += r->state == REQUEST_DECODE ? tokens * GENERATED_WEIGHT : tokens;
}

// The account of a scope. One that comes back starts level with the least served of those that are here: what
// it did not use is not saved up.
static account *account_of(tc_sched *s, uint64_t scope)
{
    account *found = NULL, *spare = NULL;
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < s->account_count; i++) {
        account *a = &s->accounts[i];
        if (a->known && a->scope == scope) found = a;
        if (a->requests && a->served < least) least = a->served;
        if (!a->requests && (!spare || a->served < spare->served))
            spare = a; // the one with least to remember
    }
    if (!found) {
        found = spare; // there are more accounts than requests
        *found = (account){.scope = scope, .known = true};
    }
    if (!found->requests && least != UINT64_MAX && found->served < least) found->served = least;
    return found;
}

// ---- the end ----

// The choices that waited for this prompt wait for the first of them from now on.
static void hand_over(tc_sched *s, const request *leader)
{
    request *next = NULL;
    for (uint32_t i = 0; i < s->count; i++) {
        request *r = s->requests[i];
        if (r->leader != leader) continue;
        r->leader = next;
        if (!next) next = r;
    }
}

static void free_prompt(prompt_text *prompt)
{
    free(prompt->bias);
    free(prompt->hints);
    free(prompt);
}

void tc_sched_drop(tc_sched *s, request *r)
{
    uint32_t i = 0;
    while (s->requests[i] != r) i++;
    memmove(&s->requests[i], &s->requests[i + 1], (s->count - i - 1) * sizeof *s->requests);
    s->count--;
    hand_over(s, r);
    tc_prefix_release(s->o.cache, r->cached);
    tc_session_end(s->o.pool, r->session);
    tc_constrained_end(r->constrained);
    r->account->requests--;
    if (--r->prompt->users == 0) {
        s->held_tokens -= r->prompt->count;
        tc_placement_left(s->o.placement, r->prompt->hints, r->prompt->hint_count);
        free_prompt(r->prompt);
    }
    free(r);
}

void tc_sched_fail(tc_sched *s, request *r, tc_status status, const char *reason)
{
    tc_engine_server_failed(s->o.server, r->ask.id, status, reason);
    tc_sched_note_end(s, r, reason, status != TC_TIMEOUT && status != TC_CANCELLED);
    tc_sched_drop(s, r);
}

void tc_sched_expire(tc_sched *s)
{
    uint64_t now = tc_sched_now(s);
    if (now < s->next_deadline_us) return;
    s->next_deadline_us = UINT64_MAX;
    for (uint32_t i = 0; i < s->count;) {
        request *r = s->requests[i];
        if (r->deadline_us && r->deadline_us <= now) {
            s->total.expired++;
            tc_sched_fail(s, r, TC_TIMEOUT, "the deadline of this request has passed");
            continue;
        }
        if (r->deadline_us && r->deadline_us < s->next_deadline_us) s->next_deadline_us = r->deadline_us;
        i++;
    }
}

// ---- arrival ----

tc_placement_request tc_sched_placed(const request *r)
{
    return (tc_placement_request){.conversation = r->ask.conversation,
                                  .named = r->ask.expert_profile,
                                  .learn = r->ask.optimize_experts,
                                  .prompt = r->state == REQUEST_PREFILL,
                                  .first = r->batch_first,
                                  .tokens = r->batch_tokens};
}

// What requests may still make resident: the pages of their positions to come.
static uint64_t pages_to_come(const tc_sched *s, uint32_t positions)
{
    uint64_t page = tc_dev_page_bytes(tc_session_geometry(s->o.pool));
    return (positions + TC_KV_PAGE_POSITIONS - 1) / TC_KV_PAGE_POSITIONS * page;
}

static tc_status check_memory(const tc_sched *s, const tc_generate *g, tc_error *e)
{
    if (!s->o.memory_room) return TC_OK;
    uint64_t bytes = pages_to_come(s, g->prompt_count + g->max_tokens) * (1 + g->more_count);
    for (uint32_t i = 0; i < s->count; i++) {
        const request *r = s->requests[i];
        uint32_t done = r->session ? r->session->processed : 0, all = r->ask.prompt_count + r->ask.max_tokens;
        bytes += pages_to_come(s, all > done ? all - done : 0);
    }
    // No more than the pool can hold, whoever waits for it.
    uint64_t pool = tc_dev_page_bytes(tc_session_geometry(s->o.pool)) * s->kv_pages;
    return s->o.memory_room(s->o.memory_arg, bytes < pool ? bytes : pool, e);
}

static tc_status check(const tc_sched *s, const tc_generate *g, tc_error *e)
{
    if (g->more_count >= TC_CHOICES_MAX) return tc_fail(e, TC_ARGUMENT, "too many choices");
    for (uint32_t i = 0; i <= g->more_count; i++)
        if (tc_sched_find(s, i ? g->more_ids[i - 1] : g->id))
            return tc_fail(e, TC_ARGUMENT, "request id is in use");
    if (s->count + g->more_count + 1 > s->o.queue_requests)
        return tc_fail(e, TC_BUSY, "%u requests are waiting or running, at most %u may", s->count,
                       s->o.queue_requests);
    if (s->held_tokens + g->prompt_count > s->o.queue_tokens)
        return tc_fail(e, TC_BUSY, "the queue holds %llu prompt tokens, at most %llu may be",
                       (unsigned long long)s->held_tokens, (unsigned long long)s->o.queue_tokens);
    if (g->prompt_count < 1) return tc_fail(e, TC_ARGUMENT, "the prompt has no tokens");
    if (g->prompt_count > s->o.context || (g->max_tokens && g->prompt_count >= s->o.context))
        return tc_fail(e, TC_LIMIT, "the prompt has %u tokens, the context holds %u with the answer",
                       g->prompt_count, s->o.context);
    for (uint32_t i = 0; i < g->prompt_count; i++)
        if (g->prompt[i] >= s->o.desc->vocab)
            return tc_fail(e, TC_ARGUMENT, "token id %u is not below the vocabulary size %u", g->prompt[i],
                           s->o.desc->vocab);
    if (g->constraint.kind != TC_CONSTRAINT_NONE && !s->o.constrainer)
        return tc_fail(e, TC_UNSUPPORTED, "this core keeps no constraints");
    return check_memory(s, g, e);
}

// What ends this request, in the order that finish() tells: the model's end tokens, then its own.
static void list_end_tokens(const tc_sched *s, request *r)
{
    const tc_generation_defaults *g = &s->o.desc->generation;
    for (uint32_t i = 0; i < g->eos_count && !r->ask.ignore_eos; i++)
        r->end_tokens[r->end_count++] = g->eos[i];
    for (uint32_t i = 0; i < r->ask.stop_token_count; i++)
        r->end_tokens[r->end_count++] = r->ask.stop_tokens[i];
}

static tc_sample_params sample_params(const tc_sampling *a, uint32_t choice)
{
    tc_sample_params p = {
        .temperature = a->temperature,
        .top_p = a->top_p,
        .min_p = a->min_p,
        .top_k = a->top_k,
        .repetition_penalty = a->repetition_penalty,
        .presence_penalty = a->presence_penalty,
        .frequency_penalty = a->frequency_penalty,
        .seed = a->seed + choice,
    };
    if (!a->seeded && getrandom(&p.seed, sizeof p.seed, GRND_NONBLOCK) != sizeof p.seed) p.seed = tc_now_ns();
    return p;
}

// Who wants something said of every prompt position needs every one computed, by itself.
static bool evaluates(const tc_generate *g)
{
    return g->want_logits || g->want_experts || g->want_prompt_logprobs;
}

static request *new_request(tc_sched *s, const tc_generate *g, uint32_t choice, prompt_text *prompt)
{
    request *r = aligned_alloc(_Alignof(request), sizeof *r);
    if (!r) return NULL;
    *r = (request){.ask = *g};
    if (choice) r->ask.id = g->more_ids[choice - 1];
    r->prompt = prompt;
    prompt->users++;
    r->ask.prompt = prompt->tokens;
    if (r->ask.max_tokens > s->o.context - g->prompt_count)
        r->ask.max_tokens = s->o.context - g->prompt_count;
    r->sampling = sample_params(&g->sampling, choice);
    r->sampling.bias = r->ask.logit_bias = prompt->bias;
    r->sampling.bias_count = g->logit_bias_count;
    list_end_tokens(s, r);
    r->sampling.forbidden = r->end_tokens;
    r->arrived_us = tc_sched_now(s);
    if (g->deadline_us && g->deadline_us < UINT64_MAX - r->arrived_us)
        r->deadline_us = r->arrived_us + g->deadline_us;
    if (r->deadline_us && r->deadline_us < s->next_deadline_us) s->next_deadline_us = r->deadline_us;
    r->caches = s->o.cache && !g->no_cache && !evaluates(g);
    r->account = account_of(s, g->scope);
    r->account->requests++;
    return r;
}

// Has the request's constraint compiled. On failure the request, in no list yet, is gone.
static tc_status constrain(tc_sched *s, request *r, tc_error *e)
{
    const tc_constraint constraint = r->ask.constraint;
    r->ask.constraint.text = NULL; // borrowed for the command
    if (constraint.kind == TC_CONSTRAINT_NONE) return TC_OK;
    tc_status status = tc_constrained_begin(s->o.constrainer, &constraint, r->ask.constraint_after,
                                            r->end_tokens, r->end_count, &r->constrained, e);
    r->compiling = true;
    if (status == TC_OK) return TC_OK;
    r->account->requests--;
    r->prompt->users--;
    free(r);
    return status;
}

static void refuse(tc_sched *s, const tc_generate *g, uint32_t from, tc_status status, const char *reason)
{
    for (uint32_t i = from; i <= g->more_count && i < TC_CHOICES_MAX; i++)
        tc_engine_server_failed(s->o.server, i ? g->more_ids[i - 1] : g->id, status, reason);
}

// A copy of `count` entries for as long as the prompt is held; none: NULL.
static bool copy_list(const void *from, uint32_t count, size_t size, void *ret)
{
    void *copy = count ? malloc(count * size) : NULL;
    if (copy) memcpy(copy, from, count * size);
    *(void **)ret = copy;
    return copy || !count;
}

static tc_status copy_prompt(const tc_generate *g, prompt_text **ret, tc_error *e)
{
    prompt_text *p = malloc(sizeof *p + g->prompt_count * sizeof *g->prompt);
    if (!p) return tc_fail(e, TC_NOMEM, "out of memory for a prompt of %u tokens", g->prompt_count);
    *p = (prompt_text){.count = g->prompt_count, .hint_count = g->hint_count};
    memcpy(p->tokens, g->prompt, g->prompt_count * sizeof *g->prompt);
    if (!copy_list(g->logit_bias, g->logit_bias_count, sizeof *p->bias, &p->bias) ||
        !copy_list(g->hints, g->hint_count, sizeof *p->hints, &p->hints)) {
        free_prompt(p);
        return tc_fail(e, TC_NOMEM, "out of memory for the request");
    }
    *ret = p;
    return TC_OK;
}

void tc_sched_accept(tc_sched *s, const tc_generate *g)
{
    tc_error error;
    request *first = NULL;
    prompt_text *prompt = NULL;
    tc_status status = check(s, g, &error);
    if (status == TC_OK) status = copy_prompt(g, &prompt, &error);
    if (status != TC_OK) {
        if (status == TC_BUSY) s->total.refused += g->more_count + 1;
        refuse(s, g, 0, status, error.text);
        return;
    }
    for (uint32_t i = 0; i <= g->more_count; i++) {
        request *r = new_request(s, g, i, prompt);
        if (!r) {
            refuse(s, g, i, TC_NOMEM, "out of memory for the request");
            break;
        }
        status = constrain(s, r, &error);
        if (status != TC_OK) {
            refuse(s, g, i, status, error.text);
            break;
        }
        if (!evaluates(g)) r->leader = first;
        if (!first) first = r;
        s->requests[s->count++] = r;
    }
    if (first) {
        const tc_placement_request who = tc_sched_placed(first);
        s->held_tokens += prompt->count;
        tc_placement_arrived(s->o.placement, &who, prompt->hints, prompt->hint_count);
    } else {
        free_prompt(prompt);
    }
}

// ---- whose turn it is ----

bool tc_sched_goes_first(const tc_sched *s, const request *a, const request *b, uint64_t now)
{
    (void)s;
    int64_t x = a->ask.priority + (int64_t)((now - a->arrived_us) / TC_PRIORITY_AGING_US);
    int64_t y = b->ask.priority + (int64_t)((now - b->arrived_us) / TC_PRIORITY_AGING_US);
    if (x != y) return x > y;
    if (a->account->served != b->account->served) return a->account->served < b->account->served;
    return false; // the lists are in order of arrival
}

static request *next_waiting(const tc_sched *s, uint64_t now)
{
    request *best = NULL;
    for (uint32_t i = 0; i < s->count; i++) {
        request *r = s->requests[i];
        if (r->state != REQUEST_WAITING || r->leader || r->held || r->compiling) continue;
        if (!best || tc_sched_goes_first(s, r, best, now)) best = r;
    }
    return best;
}

// How much of what it uses is used by those that run.
static double alike_running(const tc_sched *s, const request *r)
{
    double most = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const request *other = s->requests[i];
        if (other->state == REQUEST_WAITING || other->held) continue;
        double alike = tc_placement_alike(s->o.placement, r->ask.conversation, other->ask.conversation);
        if (alike > most) most = alike;
    }
    return most;
}

// The one to start, where it is the turn of `first`: that, or of those that wait in the same priority the one
// whose experts are in use, clearly more than the first one's.
static request *grouped(tc_sched *s, request *first)
{
    request *chosen = first;
    if (!s->o.group_steps || !s->o.placement) return first;
    if (first->passed_step && s->total.steps + 1 - first->passed_step >= s->o.group_steps) return first;
    double best = alike_running(s, first) + ALIKE_MARGIN;
    for (uint32_t i = 0; i < s->count; i++) {
        request *r = s->requests[i];
        if (r == first || r->state != REQUEST_WAITING || r->leader || r->held || r->compiling ||
            r->ask.priority != first->ask.priority || !r->ask.conversation)
            continue;
        double alike = alike_running(s, r);
        if (alike <= best) continue;
        best = alike;
        chosen = r;
    }
    if (chosen != first && !first->passed_step) first->passed_step = s->total.steps + 1;
    if (chosen != first) s->total.grouped++;
    return chosen;
}

bool tc_sched_compiling(const tc_sched *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->requests[i]->compiling) return true;
    return false;
}

// Constraints that have been compiled meanwhile, and those that turned out bad.
static void look_after_constraints(tc_sched *s)
{
    tc_error error;
    for (uint32_t i = 0; i < s->count;) {
        request *r = s->requests[i];
        tc_status status = r->compiling ? tc_constrained_ready(r->constrained, &error) : TC_BUSY;
        if (status != TC_BUSY) r->compiling = false;
        if (status == TC_BUSY || status == TC_OK)
            i++;
        else
            tc_sched_fail(s, r, status, error.text);
    }
}

void tc_sched_admit(tc_sched *s)
{
    request *r;
    uint64_t now = tc_sched_now(s);
    look_after_constraints(s);
    while (tc_session_slots_free(s->o.pool) && (r = next_waiting(s, now))) {
        tc_error error;
        r = grouped(s, r);
        tc_status status =
            tc_session_start(s->o.pool, r->ask.prompt_count + r->ask.max_tokens, &r->session, &error);
        if (status == TC_BUSY) return;
        if (status != TC_OK) {
            tc_sched_fail(s, r, status, error.text);
            continue;
        }
        memcpy(r->session->tokens, r->prompt->tokens, r->prompt->count * sizeof *r->prompt->tokens);
        r->session->count = r->prompt->count;
        r->started_us = now;
        r->usage.queue_us = r->started_us - r->arrived_us;
        tc_sched_charge(r, 1); // so that equals take turns before the first step is counted
        tc_sched_begin_prompt(s, r);
    }
}
