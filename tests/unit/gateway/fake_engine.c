// SPDX-License-Identifier: Apache-2.0
// Owns: the event queue of the stand-in core, behind one lock: the gateway's thread takes, the test's thread
// puts.
#include "tests/unit/gateway/fake_engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { ASKS = 512, CONTEXT = 4096 };

struct tc_engine_client {
    int fd;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int fd;
    bool up, hold, busy, mute;
    tc_engine_event *events;
    size_t first, count, capacity;
    char reply[4096];
    tc_model_info info;
    tc_engine_status status;
    fake_ask asks[ASKS];
    uint32_t ask_count;
    uint32_t sent[ASKS];
} core = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .fd = -1};

static void put(tc_engine_event event)
{
    uint64_t one = 1;
    if (core.first + core.count == core.capacity) {
        if (core.first <= core.capacity / 2) {
            core.capacity = core.capacity ? core.capacity * 2 : 64;
            core.events = realloc(core.events, core.capacity * sizeof event);
            if (!core.events) abort();
        }
        memmove(core.events, core.events + core.first, core.count * sizeof event);
        core.first = 0;
    }
    core.events[core.first + core.count++] = event;
    if (core.fd >= 0 && write(core.fd, &one, sizeof one) != sizeof one) abort();
}

static fake_ask *find(uint64_t id)
{
    for (uint32_t i = 0; i < core.ask_count; i++)
        if (core.asks[i].id == id) return &core.asks[i];
    return NULL;
}

// Rows of log-probabilities: token t has -t/100, then come t + 1, t + 2 ... with less.
static void put_logprobs(const fake_ask *ask, uint32_t position, uint32_t count, unsigned char byte)
{
    static tc_token_value rows[256][1 + TC_LOGPROBS_MAX];
    for (uint32_t k = 0; k <= ask->generate.top_logprobs; k++)
        rows[byte][k] =
            (tc_token_value){k ? (byte + k - 1) % 256 : byte, -(float)(byte + (k ? k - 1 : 0)) / 100};
    put((tc_engine_event){.kind = TC_ENGINE_LOGPROBS,
                          .id = ask->id,
                          .position = position,
                          .positions = count,
                          .top = ask->generate.top_logprobs,
                          .logprobs = rows[byte]});
}

static void put_experts(const fake_ask *ask, uint32_t position, uint32_t count)
{
    static const int32_t experts[CONTEXT * 4] = {0, 1, 2, 3}; // [position][2 layers][2]
    put((tc_engine_event){.kind = TC_ENGINE_EVALUATED,
                          .id = ask->id,
                          .position = position,
                          .positions = count,
                          .experts = experts});
}

static void put_token(uint64_t id, unsigned char byte)
{
    fake_ask *ask = find(id);
    if (!ask || ask->cancelled) return;
    uint32_t position = ask->generate.prompt_count + core.sent[ask - core.asks]++;
    if (ask->generate.want_logprobs) put_logprobs(ask, position, 1, byte);
    if (ask->generate.want_experts && core.sent[ask - core.asks] > 1) put_experts(ask, position - 1, 1);
    put((tc_engine_event){.kind = TC_ENGINE_TOKEN, .id = id, .token = byte});
}

static void put_finish(uint64_t id, tc_finish finish)
{
    fake_ask *ask = find(id);
    uint32_t tokens = ask ? core.sent[ask - core.asks] : 0;
    put((tc_engine_event){.kind = TC_ENGINE_FINISHED,
                          .id = id,
                          .finish = finish,
                          .usage = {.prompt_tokens = ask ? ask->generate.prompt_count : 0,
                                    .generated_tokens = tokens,
                                    .queue_us = 1000,
                                    .prefill_us = 2000,
                                    .decode_us = 3000,
                                    .expert_hits = 7,
                                    .expert_misses = 5}});
}

// ---- what the gateway calls ----

tc_status tc_engine_client_open(const char *url, tc_engine_client **ret, tc_error *e)
{
    if (strcmp(url, "fake:") != 0) return tc_fail(e, TC_ARGUMENT, "%s: not the fake", url);
    tc_engine_client *client = calloc(1, sizeof *client);
    if (!client) abort();
    pthread_mutex_lock(&core.lock);
    client->fd = core.fd = eventfd(core.count ? 1 : 0, EFD_NONBLOCK | EFD_CLOEXEC);
    pthread_mutex_unlock(&core.lock);
    *ret = client;
    return TC_OK;
}

void tc_engine_client_close(tc_engine_client *client)
{
    pthread_mutex_lock(&core.lock);
    close(client->fd);
    core.fd = -1;
    pthread_mutex_unlock(&core.lock);
    free(client);
}

int tc_engine_client_fd(const tc_engine_client *client)
{
    return client->fd;
}

tc_status tc_engine_client_next(tc_engine_client *client, uint64_t timeout_us, tc_engine_event *ret)
{
    static tc_model_info info;
    static tc_engine_status status;
    tc_status result = TC_TIMEOUT;
    uint64_t ignored;
    pthread_mutex_lock(&core.lock);
    if (core.count) {
        *ret = core.events[core.first++];
        core.count--;
        info = core.info;
        status = core.status;
        ret->info = &info;
        ret->engine = &status;
        result = TC_OK;
    }
    if (core.count == 0 && read(client->fd, &ignored, sizeof ignored) < 0) ignored = 0;
    pthread_mutex_unlock(&core.lock);
    return result;
}

// A choice of a prompt is recorded as an ask of its own.
static void record(const tc_generate *request, uint32_t choice)
{
    fake_ask *ask = &core.asks[core.ask_count];
    uint32_t *prompt = malloc(request->prompt_count * sizeof *prompt);
    if (!prompt) abort();
    memcpy(prompt, request->prompt, request->prompt_count * sizeof *prompt);
    *ask = (fake_ask){.id = choice ? request->more_ids[choice - 1] : request->id, .generate = *request};
    snprintf(ask->constraint, sizeof ask->constraint, "%.*s", (int)request->constraint.bytes,
             request->constraint.bytes ? request->constraint.text : "");
    ask->choice = choice;
    ask->generate.id = ask->id;
    ask->generate.sampling.seed += choice;
    ask->generate.prompt = prompt;
    core.sent[core.ask_count++] = 0;
    if (core.hold) return;
    size_t reply = strlen(core.reply), i = 0;
    for (; i < reply && i < request->max_tokens; i++) put_token(ask->id, (unsigned char)core.reply[i]);
    put_finish(ask->id, i == request->max_tokens ? TC_FINISH_LENGTH : TC_FINISH_STOP);
}

tc_status tc_engine_client_generate(tc_engine_client *client, const tc_generate *request, tc_error *e)
{
    tc_status result = TC_OK;
    pthread_mutex_lock(&core.lock);
    if (!core.up)
        result = tc_fail(e, TC_CLOSED, "the fake core is down");
    else if (core.busy || core.ask_count + request->more_count >= ASKS)
        result = tc_fail(e, TC_BUSY, "the fake core is busy");
    else
        for (uint32_t k = 0; k <= request->more_count; k++) record(request, k);
    pthread_cond_broadcast(&core.changed);
    pthread_mutex_unlock(&core.lock);
    return result;
}

tc_status tc_engine_client_cancel(tc_engine_client *client, uint64_t id)
{
    tc_status result = TC_OK;
    pthread_mutex_lock(&core.lock);
    fake_ask *ask = find(id);
    if (!core.up) {
        result = TC_CLOSED;
    } else if (core.busy) {
        result = TC_BUSY;
    } else if (ask && !ask->cancelled) {
        ask->cancelled = true;
        ask->tokens_before_cancel = core.sent[ask - core.asks];
        if (core.hold) put_finish(id, TC_FINISH_CANCELLED);
    }
    pthread_cond_broadcast(&core.changed);
    pthread_mutex_unlock(&core.lock);
    return result;
}

tc_status tc_engine_client_hold(tc_engine_client *client, uint64_t id, bool held)
{
    (void)client;
    pthread_mutex_lock(&core.lock);
    fake_ask *ask = find(id);
    if (ask) ask->held = held;
    if (ask && held) ask->holds++;
    tc_status result = core.up ? TC_OK : TC_CLOSED;
    pthread_cond_broadcast(&core.changed);
    pthread_mutex_unlock(&core.lock);
    return result;
}

tc_status tc_engine_client_ask_status(tc_engine_client *client)
{
    pthread_mutex_lock(&core.lock);
    if (core.up && !core.mute) put((tc_engine_event){.kind = TC_ENGINE_STATUS});
    pthread_mutex_unlock(&core.lock);
    return TC_OK;
}

tc_status tc_engine_client_ask(tc_engine_client *client, uint64_t id, tc_question question, const char *text,
                               size_t bytes)
{
    (void)client, (void)text, (void)bytes;
    static const char answer[] = "{\"asked\":1}";
    tc_engine_event event = {
        .kind = TC_ENGINE_ANSWER, .id = id, .text = answer, .text_bytes = sizeof answer - 1};
    if (question == TC_ASK_EXPERT_OPTIMIZATION) {
        event.status = TC_UNSUPPORTED;
        snprintf(event.reason, sizeof event.reason, "no hot tier");
    }
    pthread_mutex_lock(&core.lock);
    if (core.up && !core.mute) put(event);
    pthread_mutex_unlock(&core.lock);
    return TC_OK;
}

// ---- what the tests call ----

void fake_reset(void)
{
    pthread_mutex_lock(&core.lock);
    for (uint32_t i = 0; i < core.ask_count; i++) free((void *)(uintptr_t)core.asks[i].generate.prompt);
    free(core.events);
    core.events = NULL;
    core.first = core.count = core.capacity = core.ask_count = 0;
    core.up = core.hold = core.busy = core.mute = false;
    core.reply[0] = 0;
    core.info = (tc_model_info){.family = "fake",
                                .model_hash = "00ff",
                                .device = "cpu",
                                .layers = 2,
                                .hidden = 8,
                                .vocab = 260,
                                .experts = 4,
                                .top_k = 2,
                                .context = CONTEXT,
                                .sessions_max = 4};
    core.status = (tc_engine_status){.ready = true, .workers_up = 1, .workers_expected = 1};
    pthread_mutex_unlock(&core.lock);
}

void fake_up(void)
{
    pthread_mutex_lock(&core.lock);
    core.up = true;
    put((tc_engine_event){.kind = TC_ENGINE_UP});
    pthread_mutex_unlock(&core.lock);
}

void fake_down(const char *reason)
{
    tc_engine_event event = {.kind = TC_ENGINE_DOWN};
    snprintf(event.reason, sizeof event.reason, "%s", reason);
    pthread_mutex_lock(&core.lock);
    core.up = false;
    put(event);
    pthread_mutex_unlock(&core.lock);
}

void fake_status(bool ready, uint32_t workers, const char *reason)
{
    pthread_mutex_lock(&core.lock);
    core.status.ready = ready;
    core.status.workers_up = workers;
    snprintf(core.status.reason, sizeof core.status.reason, "%s", reason);
    if (core.up) put((tc_engine_event){.kind = TC_ENGINE_STATUS});
    pthread_mutex_unlock(&core.lock);
}

void fake_waiting(uint32_t count)
{
    pthread_mutex_lock(&core.lock);
    core.status.waiting = count;
    pthread_mutex_unlock(&core.lock);
}

static bool wait_change(const struct timespec *until)
{
    return pthread_cond_timedwait(&core.changed, &core.lock, until) == 0;
}

static struct timespec in_seconds(int seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    return until;
}

void fake_queue(uint32_t requests, uint64_t tokens)
{
    pthread_mutex_lock(&core.lock);
    core.info.queue_requests_max = requests;
    core.info.queue_tokens_max = tokens;
    pthread_mutex_unlock(&core.lock);
}

bool fake_wait_held(uint64_t id, bool held)
{
    struct timespec until = in_seconds(5);
    pthread_mutex_lock(&core.lock);
    fake_ask *ask = find(id);
    while (ask && ask->held != held && wait_change(&until)) {
    }
    bool done = ask && ask->held == held;
    pthread_mutex_unlock(&core.lock);
    return done;
}

#define SETTER(name, type, field)                                                                            \
    void name(type value)                                                                                    \
    {                                                                                                        \
        pthread_mutex_lock(&core.lock);                                                                      \
        core.field = value;                                                                                  \
        pthread_mutex_unlock(&core.lock);                                                                    \
    }
SETTER(fake_mute_status, bool, mute)
SETTER(fake_hold, bool, hold)
SETTER(fake_busy, bool, busy)

void fake_reply(const char *text)
{
    pthread_mutex_lock(&core.lock);
    snprintf(core.reply, sizeof core.reply, "%s", text);
    pthread_mutex_unlock(&core.lock);
}

const fake_ask *fake_wait_asks(uint32_t count)
{
    struct timespec until = in_seconds(5);
    pthread_mutex_lock(&core.lock);
    while (core.ask_count < count && wait_change(&until)) {
    }
    const fake_ask *ask = core.ask_count >= count ? &core.asks[count - 1] : NULL;
    pthread_mutex_unlock(&core.lock);
    return ask;
}

uint32_t fake_asks(void)
{
    pthread_mutex_lock(&core.lock);
    uint32_t count = core.ask_count;
    pthread_mutex_unlock(&core.lock);
    return count;
}

const fake_ask *fake_ask_at(uint32_t i)
{
    return i < fake_asks() ? &core.asks[i] : NULL;
}

bool fake_wait_cancel(uint64_t id)
{
    struct timespec until = in_seconds(5);
    pthread_mutex_lock(&core.lock);
    fake_ask *ask = find(id);
    while (ask && !ask->cancelled && wait_change(&until)) {
    }
    bool cancelled = ask && ask->cancelled;
    pthread_mutex_unlock(&core.lock);
    return cancelled;
}

void fake_bytes(uint64_t id, const void *data, size_t bytes)
{
    pthread_mutex_lock(&core.lock);
    for (size_t i = 0; i < bytes; i++) put_token(id, ((const unsigned char *)data)[i]);
    pthread_mutex_unlock(&core.lock);
}

void fake_text(uint64_t id, const char *text)
{
    fake_bytes(id, text, strlen(text));
}

void fake_finish(uint64_t id, tc_finish finish)
{
    pthread_mutex_lock(&core.lock);
    put_finish(id, finish);
    pthread_mutex_unlock(&core.lock);
}

void fake_fail(uint64_t id, tc_status status, const char *reason)
{
    tc_engine_event event = {.kind = TC_ENGINE_FAILED, .id = id, .status = status};
    snprintf(event.reason, sizeof event.reason, "%s", reason);
    pthread_mutex_lock(&core.lock);
    put(event);
    pthread_mutex_unlock(&core.lock);
}
