// SPDX-License-Identifier: Apache-2.0
// Owns: the workers' share of a prompt that streams its cold experts, driven by the host, layer by layer.
// Refuses: whether a batch goes this way (dev/prompt_way.c), which experts workers get (dev/prompt_share.c),
// what a mailbox holds (dev/prompt_call.c), calls that workers do not answer: what they
// were given is streamed after all, so a lost worker costs time and nothing else.
//
// A layer. c->stream computes, `out` and `copies` run beside it:
//
//   experts   c->stream  sort, round, hot experts, the experts that ran ahead
//             out        routes and x to the host
//   deal      host       sleeps until `out` is there: the routes tell which experts workers take
//             host       pairs, record, flag of each mailbox; wakes its worker
//             c->stream  products of the rest
//             copies     the rest, but what nobody chose; then the next layer's first experts
//             host       sleeps until every mailbox asked has answered, or an abort word, the deadline,
//                        or `stands` says otherwise; then either
//   combine   c->stream  adds the mailboxes' sums (its own look at the flags finds them answered)
//             or, before it, the products of the workers' experts, streamed now: gave_up, nobody is asked
//             again in this pass
//
// No kernel waits for a worker and no stream for the host, so nothing here can hang the card; the host's
// two waits end with the card's work, or within the calls' deadline.
//
// Memory that two sides write, and what orders them:
//   x of a mailbox    `out` is behind `routed`, and that is behind the combine that read the sums of the call
//                     before. The worker's once the flag is stored: behind sem_wait for the end of that copy.
//   pairs, record     the host, between the answer to the call before and the flag (prompt_call.h)
//   sums              the worker, between flag and answer; read by combine, launched behind the answer
//   skip_dev, posted  kernels in c->stream, out of their arguments
//   stages            A copy into one waits for stage_free of the products before, which is recorded when
//                     they are queued. Experts that run ahead are copied before that, into at most
//                     PROMPT_AHEAD of the STAGES buffers, and their products are queued before any further
//                     copy. Giving up forgets them first.
//   a mailbox         is looked at by this host only while `stands` has not said otherwise: its memory is
//                     unmapped where a worker leaves, inside `stands` and nowhere else. The card's copies to
//                     it go to registered pages, which stay.
#include "gpu-core/dev/cuda/device.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TURN_US = 1000, LOOK_US = 50 };
enum { AHEAD_PART = 4, CHUNKS_FEW = 8 }; // at most a quarter of a layer's chunks runs ahead

// ---- opening ----

static void *pinned(tc_dev_cuda *c, size_t bytes)
{
    void *memory = NULL;
    return CHECK(c, cudaHostAlloc(&memory, bytes, cudaHostAllocDefault)) ? memory : NULL;
}

static bool open_events(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    bool fine = CHECK(c, cudaStreamCreateWithFlags(&p->out, cudaStreamNonBlocking)) &&
                CHECK(c, cudaEventCreateWithFlags(&p->routed, cudaEventDisableTiming));
    for (int i = 0; i < 2; i++)
        fine = fine && CHECK(c, cudaEventCreateWithFlags(&p->lead[i], cudaEventDefault)) &&
               CHECK(c, cudaEventCreateWithFlags(&p->copies[i], cudaEventDefault));
    return fine;
}

// Only what is wanted: without the option nothing is taken.
tc_status tc_cuda_prompt_open(tc_dev_cuda *c, tc_error *e)
{
    prompt_share *p = &c->prompt;
    const uint32_t experts = c->hot.info->experts;
    const size_t pairs = (size_t)TC_CALL_TOKENS_MAX * c->o.top_k;
    if (!c->o.prompt_percent) return TC_OK;
    sem_init(&p->arrived, 0, 0);
    p->expert = pinned(c, pairs * sizeof *p->expert);
    p->weight = pinned(c, pairs * sizeof *p->weight);
    p->skip_dev = tc_cuda_take(c, TC_MEM_SCRATCH, experts * sizeof *p->skip_dev);
    p->skip = calloc(experts, sizeof *p->skip);
    p->tokens = calloc(experts, sizeof *p->tokens);
    p->begin = calloc(experts + 1, sizeof *p->begin);
    p->order = calloc(experts, sizeof *p->order);
    p->given = calloc(experts, 1);
    p->box_of = calloc(experts, 1);
    if (!p->expert || !p->weight || !p->skip || !p->skip_dev || !p->tokens || !p->begin || !p->order ||
        !p->given || !p->box_of || !open_events(c))
        return tc_fail(e, TC_NOMEM, "cuda: no room to share prompts with the workers");
    for (int i = 0; i < PROMPT_CLASSES; i++) p->rates[i] = tc_prompt_guess(c->hot.slot_bytes);
    p->there = true;
    return TC_OK;
}

void tc_cuda_prompt_close(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    void *on_host[] = {p->expert, p->weight},
         *own[] = {p->skip, p->tokens, p->begin, p->order, p->given, p->box_of};
    for (size_t i = 0; i < sizeof on_host / sizeof *on_host; i++)
        if (on_host[i]) cudaFreeHost(on_host[i]);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) free(own[i]);
    for (int i = 0; i < 2; i++) {
        if (p->lead[i]) cudaEventDestroy(p->lead[i]);
        if (p->copies[i]) cudaEventDestroy(p->copies[i]);
    }
    if (p->routed) cudaEventDestroy(p->routed);
    if (p->out) cudaStreamDestroy(p->out);
    if (p->there) sem_destroy(&p->arrived);
}

uint32_t tc_cuda_prompt_tokens(tc_dev *dev)
{
    return cuda_of(dev)->prompt.there ? TC_CALL_TOKENS_MAX : 0;
}

uint64_t tc_cuda_prompt_given(tc_dev *dev)
{
    return cuda_of(dev)->prompt.experts_given;
}

// ---- a pass ----

static uint32_t class_of(uint32_t tokens)
{
    uint32_t class = 0;
    while (class + 1 < PROMPT_CLASSES && tokens >> (class + 8)) class ++;
    return class;
}

void tc_cuda_prompt_begin(tc_dev_cuda *c, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence)
{
    prompt_share *p = &c->prompt;
    if (!tc_cuda_attach(c, boxes, count, sequence)) return;
    memcpy(p->box, boxes, count * sizeof *boxes);
    p->boxes = count;
    p->sequence = sequence;
    p->class = class_of(c->batch.tokens);
    p->ahead_layer = UINT32_MAX;
    p->ahead_count = 0;
    p->on = true;
    p->gave_up = p->joins = p->asked = p->timed = p->timed_copies = false;
}

static void forget_ahead(prompt_share *p)
{
    p->ahead_layer = UINT32_MAX;
    p->ahead_count = 0;
}

static void say_passes(tc_dev_cuda *c)
{
    const prompt_share *p = &c->prompt;
    const tc_prompt_rates *r = &p->rates[p->class];
    char text[240];
    if (p->passes & (p->passes - 1) || !c->o.log) return; // the 1st, 2nd, 4th, 8th ..
    snprintf(text, sizeof text,
             "prompts: of %llu experts streamed or given away so far workers computed %llu; at %u tokens the "
             "link takes %.1f us an expert, workers %.1f us a token of one, %.0f us pass between two layers",
             (unsigned long long)(p->experts_streamed + p->experts_given),
             (unsigned long long)p->experts_given, c->batch.tokens, r->link_us, r->unit_us, r->lead_us);
    c->o.log(c->o.arg, false, text);
}

// c->stream is empty. Nothing may write to the stages any more: other passes have other uses for them.
void tc_cuda_prompt_done(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    if (!p->on) return;
    if (p->gave_up || p->ahead_count) CHECK(c, cudaStreamSynchronize(c->hot.copies));
    forget_ahead(p);
    p->on = p->joins = false;
    p->passes++;
    say_passes(c);
}

// ---- experts that run ahead ----

// Fewer than a buffer holds where a layer has few: so that there is something to share out.
static uint32_t chunk_experts(const tc_dev_cuda *c)
{
    const uint32_t part = (c->hot.info->experts + CHUNKS_FEW - 1) / CHUNKS_FEW;
    return part < STAGE_EXPERTS ? part : STAGE_EXPERTS;
}

static uint32_t chunks_of(const tc_dev_cuda *c)
{
    return (c->hot.info->experts + chunk_experts(c) - 1) / chunk_experts(c);
}

static staged_chunk copy_chunk(tc_dev_cuda *c, uint32_t layer, const uint8_t *const *skip, uint32_t index)
{
    const uint32_t most = chunk_experts(c), first = index * most, left = c->hot.info->experts - first;
    return tc_cuda_copy_chunk(c, layer, skip, first, left < most ? left : most);
}

static const uint8_t *const *places_of(const tc_dev_cuda *c, uint32_t layer)
{
    return c->hot.place + (size_t)layer * c->hot.info->experts;
}

// The layer's first experts, whoever chooses them: the link has nothing else to do until its routes are
// known.
static void run_ahead(tc_dev_cuda *c, uint32_t layer)
{
    prompt_share *p = &c->prompt;
    uint32_t count = chunks_of(c) / AHEAD_PART;
    if (count > PROMPT_AHEAD) count = PROMPT_AHEAD;
    p->ahead_layer = layer;
    p->ahead_count = count;
    for (uint32_t i = 0; i < count; i++) p->ahead[i] = copy_chunk(c, layer, places_of(c, layer), i);
}

static void run_ahead_of_next(tc_dev_cuda *c, uint32_t layer)
{
    for (uint32_t next = layer + 1; next < c->hot.info->layers; next++)
        if (tc_store_layer_has_experts(c->hot.store, next)) {
            run_ahead(c, next);
            return;
        }
}

// ---- a layer's first half ----

static void signal_arrived(void *arg)
{
    sem_post(arg);
}

static void bring_routes(tc_dev_cuda *c, const tc_gpu_pairs_in *in)
{
    prompt_share *p = &c->prompt;
    const size_t pairs = (size_t)in->n * in->top_k, x_bytes = (size_t)in->n * in->hidden * sizeof *in->x;
    CHECK(c, cudaEventRecord(p->routed, c->stream));
    CHECK(c, cudaStreamWaitEvent(p->out, p->routed, 0));
    CHECK(c,
          cudaMemcpyAsync(p->expert, in->expert, pairs * sizeof *p->expert, cudaMemcpyDeviceToHost, p->out));
    CHECK(c,
          cudaMemcpyAsync(p->weight, in->weight, pairs * sizeof *p->weight, cudaMemcpyDeviceToHost, p->out));
    for (uint32_t b = 0; b < p->boxes; b++)
        CHECK(c, cudaMemcpyAsync((char *)p->box[b].memory + p->box[b].x_at, in->x, x_bytes,
                                 cudaMemcpyDeviceToHost, p->out));
    CHECK(c, cudaEventRecord(p->lead[1], p->out));
    CHECK(c, cudaLaunchHostFunc(p->out, signal_arrived, &p->arrived));
}

void tc_cuda_prompt_layer(tc_dev_cuda *c, uint32_t layer, const tc_gpu_pairs_in *in, int64_t *sum)
{
    prompt_share *p = &c->prompt;
    p->layer = layer;
    p->joins = p->asked = false;
    if (!p->gave_up) bring_routes(c, in);
    p->grouped =
        tc_cuda_group_pairs(c, layer, in, c->hot.place_dev + (size_t)layer * c->hot.info->experts, sum);
    if (c->hot.placed[layer]) CHECK(c, tc_gpu_grouped_run(c->stream, &c->tables, &p->grouped));
    if (p->ahead_layer != layer && p->gave_up) forget_ahead(p);
    if (p->ahead_layer != layer && !p->gave_up) run_ahead(c, layer);
    for (uint32_t i = 0; i < p->ahead_count; i++) tc_cuda_run_chunk(c, &p->ahead[i], &p->grouped);
}

// ---- the second ----

// Sleeps, so that the CPU is the workers'. Whether all mailboxes still stand.
static bool wait_for_routes(tc_dev_cuda *c, bool (*stands)(void *arg), void *arg)
{
    prompt_share *p = &c->prompt;
    struct timespec until;
    bool fine = true;
    clock_gettime(CLOCK_REALTIME, &until);
    for (;;) {
        until.tv_nsec += TURN_US * 1000;
        if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
        if (sem_timedwait(&p->arrived, &until) == 0) return fine;
        if (errno == EINTR) continue;
        if (cudaStreamQuery(p->out) == cudaErrorNotReady) {
            (void)cudaGetLastError(); // no failure, and not that of the next launch
        } else if (sem_trywait(&p->arrived) == 0) {
            return fine;
        } else if (!CHECK(c, cudaStreamSynchronize(p->out))) { // a stream in error does not call back
            return false;
        }
        fine = fine && (!stands || stands(arg));
    }
}

static double elapsed_us(cudaEvent_t from, cudaEvent_t to)
{
    float ms = 0;
    if (cudaEventElapsedTime(&ms, from, to) != cudaSuccess) {
        (void)cudaGetLastError(); // not over yet: nothing is learned
        return 0;
    }
    return (double)ms * 1000;
}

// Of the layer before.
static void learn(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    tc_prompt_seen seen = {.units = p->units, .compute_us = p->compute_us};
    if (!p->timed) return;
    seen.lead_us = elapsed_us(p->lead[0], p->lead[1]);
    if (p->timed_copies) seen.copied_us = elapsed_us(p->copies[0], p->copies[1]);
    if (seen.copied_us > 0) seen.copied = p->copied;
    tc_prompt_learn(&p->rates[p->class], &seen);
}

// What may be given away, and how many experts cross the link anyhow. False: no routes, as after a failed
// join.
static bool describe(tc_dev_cuda *c, tc_prompt_layer *ret)
{
    prompt_share *p = &c->prompt;
    const uint32_t experts = c->hot.info->experts, n = c->batch.tokens,
                   ahead = p->ahead_count * chunk_experts(c);
    const tc_prompt_rates *r = &p->rates[p->class];
    const uint8_t *const *place = places_of(c, p->layer);
    const double sum_bytes = (double)n * c->o.hidden * sizeof(int64_t) * p->boxes;
    memset(p->tokens, 0, experts * sizeof *p->tokens);
    for (size_t i = 0; i < (size_t)n * c->o.top_k; i++) {
        if (p->expert[i] >= experts) return false;
        p->tokens[p->expert[i]]++;
    }
    *ret = (tc_prompt_layer){.experts = experts,
                             .boxes = p->boxes,
                             .tokens = p->tokens,
                             .box = p->box_of,
                             .join_us = sum_bytes / (double)c->hot.slot_bytes * r->link_us};
    for (uint32_t e = 0; e < experts; e++) {
        p->box_of[e] = TC_PROMPT_NOBODY;
        if (place[e]) continue;
        for (uint32_t b = 0; e >= ahead && b < p->boxes && p->box_of[e] == TC_PROMPT_NOBODY; b++)
            if (e >= p->box[b].share.expert_begin && e < p->box[b].share.expert_end)
                p->box_of[e] = (uint8_t)b;
        ret->streamed += p->box_of[e] == TC_PROMPT_NOBODY && (e < ahead || p->tokens[e]);
        ret->ahead += e < ahead;
    }
    return true;
}

static tc_prompt_call call_of(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    return (tc_prompt_call){.sequence = p->sequence + p->layer,
                            .layer = p->layer,
                            .tokens = c->batch.tokens,
                            .hidden = c->o.hidden,
                            .top_k = c->o.top_k,
                            .experts = c->hot.info->experts,
                            .expert = p->expert,
                            .weight = p->weight,
                            .given = p->given,
                            .begin = p->begin};
}

static void ask(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    const tc_prompt_call call = call_of(c);
    p->posted = 0;
    for (uint32_t b = 0; b < p->boxes; b++)
        if (tc_prompt_call_write(&p->box[b], &call)) p->posted |= 1u << b;
    p->asked = true;
}

// The table of what is not streamed, to the card, behind all that reads it now.
static void tell_skipped(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    tc_gpu_marks marks = {.place = p->skip_dev, .mark = c->hot.stage, .experts = c->hot.info->experts};
    for (uint32_t e = 0; e < marks.experts; e++)
        if (p->skip[e]) marks.bits[e / 32] |= 1u << e % 32;
    CHECK(c, tc_gpu_mark(c->stream, &marks));
    p->grouped.place = p->skip_dev;
}

// What is neither hot, nor ran ahead, nor the workers', and was chosen.
static void stream_rest(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    const uint32_t experts = c->hot.info->experts;
    const uint8_t *const *place = places_of(c, p->layer);
    p->copied = 0;
    for (uint32_t e = 0; e < experts; e++) {
        p->skip[e] = place[e] ? place[e] : p->given[e] || !p->tokens[e] ? c->hot.stage : NULL;
        p->copied += e >= p->ahead_count * chunk_experts(c) && !p->skip[e];
        p->experts_streamed += !p->skip[e];
    }
    tell_skipped(c);
    CHECK(c, cudaEventRecord(p->copies[0], c->hot.copies));
    for (uint32_t i = p->ahead_count; i < chunks_of(c); i++) {
        const staged_chunk chunk = copy_chunk(c, p->layer, p->skip, i);
        if (i + 1 == chunks_of(c)) CHECK(c, cudaEventRecord(p->copies[1], c->hot.copies));
        tc_cuda_run_chunk(c, &chunk, &p->grouped);
    }
    p->timed_copies = p->copied > 0;
}

static void say_gave_up(tc_dev_cuda *c, const char *why)
{
    char text[160];
    snprintf(text, sizeof text, "layer %u: no sum from a worker: %s; the rest of this prompt is streamed",
             c->prompt.layer, why);
    if (c->o.log) c->o.log(c->o.arg, true, text);
}

// NULL: all that were asked have answered. Else why not: then their memory is not looked at again. One that
// failed does not end the wait for the others, who would be taken for late when they are settled with.
static const char *wait_for_answers(tc_dev_cuda *c, bool (*stands)(void *arg), void *arg)
{
    static const char *const why[] = {[TC_PROMPT_ABORTED] = "it gave up",
                                      [TC_PROMPT_WRONG] = "its answer is not to the call",
                                      [TC_PROMPT_REFUSED] = "it refused"};
    prompt_share *p = &c->prompt;
    const tc_prompt_call call = call_of(c);
    const uint64_t start = tc_now_us();
    const char *failed = NULL;
    uint64_t turn = start + TURN_US;
    for (;;) {
        bool all = true;
        uint64_t us, now;
        p->compute_us = 0;
        for (uint32_t b = 0; b < p->boxes; b++) {
            if (!(p->posted >> b & 1)) continue;
            const tc_prompt_answer answer = tc_prompt_call_look(&p->box[b], &call, &us);
            if (answer > TC_PROMPT_ANSWERED) failed = why[answer];
            all = all && answer != TC_PROMPT_WAITS;
            if ((double)us > p->compute_us) p->compute_us = (double)us;
        }
        if (all) return failed;
        now = tc_now_us();
        if (now - start > c->o.call_deadline_us) return "it was late";
        if (now >= turn) {
            if (stands && !stands(arg)) return "it left";
            turn = now + TURN_US;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_US * 1000}, NULL);
    }
}

// What workers were given, over the link after all. The buffers of experts that ran ahead may be needed.
static void stream_given(tc_dev_cuda *c)
{
    prompt_share *p = &c->prompt;
    for (uint32_t e = 0; e < c->hot.info->experts; e++) p->skip[e] = p->given[e] ? NULL : c->hot.stage;
    forget_ahead(p);
    tell_skipped(c);
    for (uint32_t i = 0; i < chunks_of(c); i++) {
        const staged_chunk chunk = copy_chunk(c, p->layer, p->skip, i);
        tc_cuda_run_chunk(c, &chunk, &p->grouped);
    }
}

static void give_up(tc_dev_cuda *c, const char *why)
{
    say_gave_up(c, why);
    c->prompt.gave_up = true;
}

// Whether workers were asked. stands false: nobody is.
static bool deal(tc_dev_cuda *c, bool stand)
{
    prompt_share *p = &c->prompt;
    tc_prompt_layer layer;
    const bool routes = describe(c, &layer);
    memset(p->given, 0, c->hot.info->experts);
    p->units = p->compute_us = 0;
    if (!routes) { // as if each had some: all are streamed
        for (uint32_t e = 0; e < c->hot.info->experts; e++) p->tokens[e] = 1;
        return false;
    }
    if (!stand) return false;
    const uint32_t count =
        c->o.prompt_percent < 0
            ? tc_prompt_choose(&p->rates[p->class], &layer, p->order, p->given, &p->units)
            : tc_prompt_choose_part((uint32_t)c->o.prompt_percent, &layer, p->order, p->given, &p->units);
    if (!count) return false;
    ask(c);
    return true;
}

static uint32_t count_given(const tc_dev_cuda *c)
{
    uint32_t count = 0;
    for (uint32_t e = 0; e < c->hot.info->experts; e++) count += c->prompt.given[e];
    return count;
}

void tc_cuda_prompt_deal(tc_dev *dev, bool (*stands)(void *arg), void *arg)
{
    tc_dev_cuda *c = cuda_of(dev);
    prompt_share *p = &c->prompt;
    if (!c->streaming || !p->on || !c->pending) return;
    if (p->gave_up) { // a layer behind the one that was not answered
        memset(p->given, 0, c->hot.info->experts);
        for (uint32_t e = 0; e < c->hot.info->experts; e++) p->tokens[e] = 1;
        stream_rest(c);
        return;
    }
    bool stand = wait_for_routes(c, stands, arg);
    if (*c->error) return;
    learn(c);
    const bool asked = deal(c, stand);
    if (asked && stands) stand = stands(arg); // and who sleeps wakes
    stream_rest(c);
    run_ahead_of_next(c, p->layer);
    const char *why = !stand ? "it left" : asked ? wait_for_answers(c, stands, arg) : NULL;
    if (why) {
        give_up(c, why);
        if (asked) stream_given(c);
    } else if (asked) {
        p->joins = true;
        p->experts_given += count_given(c);
        c->boxes.layer = p->layer;
        c->boxes.list = NULL;
        CHECK(c, tc_gpu_tell_posted(c->stream, c->boxes.posted, p->posted));
    }
    CHECK(c, cudaEventRecord(p->lead[0], c->stream));
    p->timed = true;
}
