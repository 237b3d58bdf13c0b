// SPDX-License-Identifier: Apache-2.0
// Owns: the section `latency`: a whole server (gateway, core, workers) under arrivals that do not wait, at
// shares of what it can do. Refuses: connections (suite_client.c).
#include "cli/health.h"
#include "cli/suite.h"
#include "cli/suite_client.h"
#include "common/base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHARES = 6,
    PROMPT_LEAST = 16,
    PROMPT_MOST = 96,
    ANSWER_TOKENS = 32,
    SEGMENTS = 3, // of a share's arrivals, for the spread
    USERS = 8,
    READY_ASK_US = 50000,
    READY_WAIT_US = 120000000,
    GAPS_MAX = 1 << 21,
};
static const int shares[SHARES] = {25, 50, 75, 100, 125, 150};
static const struct {
    const char *name;
    double level;
} levels[] = {{"P50", 0.5}, {"P95", 0.95}, {"P99", 0.99}};
enum { LEVELS = sizeof levels / sizeof *levels };

typedef struct latency {
    tc_suite *s;
    tc_ids ids; // all texts, one behind another
    tc_supervisor *supervisor;
    char listen[32];
    uint16_t port;
    uint64_t seed, random;
    uint32_t answer;
    double share_s, from, to; // of the bar
    tc_client_request *requests;
    double *gaps;
    uint32_t *gap_of;
} latency;

static double uniform(uint64_t *state) // splitmix64, in (0, 1)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

// A piece of the texts of some length; the same for the same number.
static void body(void *arg, uint32_t i, char ret[TC_CLIENT_BODY_BYTES])
{
    latency *l = arg;
    uint64_t state = l->seed * 1000003 + i;
    uint32_t count = PROMPT_LEAST + (uint32_t)(uniform(&state) * (PROMPT_MOST - PROMPT_LEAST));
    size_t at = (size_t)(uniform(&state) * (double)(l->ids.count - count));
    int used = snprintf(
        ret, TC_CLIENT_BODY_BYTES,
        "{\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,\"prompt\":[", l->answer);
    for (uint32_t k = 0; k < count; k++)
        used += snprintf(ret + used, TC_CLIENT_BODY_BYTES - (size_t)used, "%s%u", k ? "," : "",
                         l->ids.data[at + k]);
    snprintf(ret + used, TC_CLIENT_BODY_BYTES - (size_t)used, "]}");
}

static bool step(void *arg, double done)
{
    latency *l = arg;
    return tc_suite_step(l->s, l->from + (l->to - l->from) * (done < 1 ? done : 1), 1, NULL) == TC_OK;
}

static tc_status wait_ready(latency *l, tc_error *e)
{
    uint64_t begin_us = tc_now_us();
    for (;;) {
        tc_health health;
        tc_health_ask(l->listen, &health);
        if (health.code == 200) break;
        if (tc_now_us() - begin_us > READY_WAIT_US)
            return tc_fail(e, TC_TIMEOUT, "the server does not get ready: %s", health.reason);
        tc_status status = tc_supervisor_wait(l->supervisor, -1, READY_ASK_US, e);
        if (status != TC_TIMEOUT) return status;
    }
    tc_supervisor_ready(l->supervisor);
    return TC_OK;
}

static tc_status start_server(latency *l, tc_error *e)
{
    char store[TC_STORE_PATH_BYTES];
    bool packed;
    tc_run_options o = tc_suite_options(l->s);
    if (!o.sessions) o.sessions = USERS;
    if (!o.context) o.context = PROMPT_MOST + ANSWER_TOKENS + 64;
    o.drain_s = 0;
    tc_progress_clear(&l->s->bar);
    TC_TRY(tc_client_free_port(&l->port, e));
    snprintf(l->listen, sizeof l->listen, "127.0.0.1:%u", l->port);
    TC_TRY(tc_run_prepare(l->s->b.model, o.cache_dir, o.quantise, false, &packed, store, e));
    TC_TRY(tc_run_load(&o, store, e));
    TC_TRY(tc_supervisor_create(&l->supervisor, e));
    TC_TRY(tc_run_start(l->supervisor, &o, l->s->b.model, store, l->listen, e));
    tc_suite_note(l->s, "Prompts of %d to %d tokens out of the texts, answers of %d tokens, %llu sessions.",
                  PROMPT_LEAST, PROMPT_MOST, ANSWER_TOKENS, (unsigned long long)o.sessions);
    return wait_ready(l, e);
}

static tc_client_load load_of(latency *l)
{
    return (tc_client_load){.port = l->port,
                            .body = body,
                            .arg = l,
                            .requests = l->requests,
                            .gaps_s = l->gaps,
                            .gap_of = l->gap_of,
                            .gaps_max = GAPS_MAX,
                            .patience_s = 20,
                            .step = step};
}

// Requests a second with as many users as sessions, each asking again at once; the first round warms up.
static tc_status measure_capacity(latency *l, tc_samples *ret, tc_error *e)
{
    uint64_t sessions = l->s->b.o.sessions ? l->s->b.o.sessions : USERS;
    for (uint32_t r = 0; r <= l->s->repetitions; r++) {
        uint32_t started, good = 0;
        double seconds;
        memset(l->requests, 0, TC_CLIENT_REQUESTS_MAX * sizeof *l->requests);
        tc_client_load load = load_of(l);
        load.count = TC_CLIENT_REQUESTS_MAX;
        load.at_once = (uint32_t)sessions;
        load.seconds = l->s->full ? 5 : 1;
        l->seed++;
        TC_TRY(tc_client_run(l->supervisor, &load, &started, &seconds, e));
        for (uint32_t i = 0; i < started; i++) good += l->requests[i].done;
        if (!good)
            return tc_fail(e, TC_PEER, "no request was answered (the first one's HTTP status: %d)",
                           l->requests[0].code);
        if (r) tc_samples_add(ret, good / seconds);
    }
    return TC_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void put_level(latency *l, const char *figure, const char *name, const char *unit, int share,
                      const tc_samples *v)
{
    if (!v->count) return;
    tc_suite_figure(l->s, &(tc_figure){.figure = figure,
                                       .series = name,
                                       .x = share,
                                       .x_unit = "% of capacity",
                                       .unit = unit,
                                       .better = "lower",
                                       .values = v});
}

// Quantiles of each segment are a repetition each; all together are the distribution. `at` tells a value's
// segment.
static void put_times(latency *l, const char *what, int share, double *values, const uint8_t *at,
                      uint64_t count)
{
    char figure[64], series[32];
    double *some = malloc((count + 1) * sizeof *some);
    tc_samples v[LEVELS] = {0};
    for (int segment = 0; some && segment < SEGMENTS; segment++) {
        uint64_t n = 0;
        for (uint64_t i = 0; i < count; i++)
            if (at[i] == segment) some[n++] = values[i];
        if (!n) continue;
        qsort(some, n, sizeof *some, by_value);
        for (int k = 0; k < LEVELS; k++) {
            double rank = ceil(levels[k].level * (double)n);
            tc_samples_add(&v[k], some[rank < 1 ? 0 : (uint64_t)rank - 1]);
        }
    }
    free(some);
    snprintf(figure, sizeof figure, "%s-by-load", what);
    for (int k = 0; k < LEVELS; k++) put_level(l, figure, levels[k].name, "ms", share, &v[k]);
    snprintf(series, sizeof series, "%d %% of capacity", share);
    tc_suite_distribution(l->s, what, series, "ms", values, count);
}

static tc_status put_share(latency *l, int share, uint32_t count, const tc_client_load *load, tc_error *e)
{
    uint64_t room = (load->gaps > count ? load->gaps : count) + 1, n = 0;
    double *values = malloc(room * sizeof *values);
    uint8_t *at = malloc(room);
    tc_samples refused = {0};
    uint32_t good = 0;
    if (!values || !at) {
        free(values);
        free(at);
        return tc_fail(e, TC_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        good += l->requests[i].done;
        if (l->requests[i].first_s <= 0) continue;
        at[n] = (uint8_t)((uint64_t)i * SEGMENTS / count);
        values[n++] = l->requests[i].first_s * 1e3;
    }
    put_times(l, "first-token", share, values, at, n);
    for (uint64_t i = 0; i < load->gaps; i++) {
        at[i] = (uint8_t)((uint64_t)load->gap_of[i] * SEGMENTS / count);
        values[i] = load->gaps_s[i] * 1e3;
    }
    put_times(l, "between-tokens", share, values, at, load->gaps);
    tc_samples_add(&refused, count ? 100.0 * (count - good) / count : 0);
    put_level(l, "not-answered", "refused or not done", "%", share, &refused);
    free(values);
    free(at);
    return TC_OK;
}

// Poisson: gaps between arrivals are exponential.
static tc_status run_share(latency *l, int share, double capacity, tc_error *e)
{
    double rate = capacity * share / 100, at_s = 0, seconds;
    uint32_t count = 0, started;
    memset(l->requests, 0, TC_CLIENT_REQUESTS_MAX * sizeof *l->requests);
    while (count < TC_CLIENT_REQUESTS_MAX && (at_s -= log(uniform(&l->random)) / rate) < l->share_s)
        l->requests[count++].due_s = at_s;
    if (count < SEGMENTS)
        return tc_suite_skip(l->s, e, "the server answers %.2f requests/s: too few for this suite", capacity);
    tc_client_load load = load_of(l);
    load.count = count;
    l->seed++;
    TC_TRY(tc_client_run(l->supervisor, &load, &started, &seconds, e));
    return put_share(l, share, count, &load, e);
}

static tc_status measure(latency *l, tc_error *e)
{
    tc_samples capacity = {0};
    TC_TRY(start_server(l, e));
    l->to = 0.1;
    TC_TRY(measure_capacity(l, &capacity, e));
    double rate = tc_samples_median(&capacity);
    tc_suite_figure(l->s, &(tc_figure){.figure = "capacity",
                                       .series = "requests",
                                       .x_text = "as many users as sessions",
                                       .unit = "requests/s",
                                       .better = "higher",
                                       .values = &capacity});
    for (int i = 0; i < SHARES; i++) {
        l->from = 0.1 + 0.9 * i / SHARES;
        l->to = 0.1 + 0.9 * (i + 1) / SHARES;
        TC_TRY(run_share(l, shares[i], rate, e));
    }
    return TC_OK;
}

tc_status tc_suite_latency(tc_suite *s, tc_error *e)
{
    latency l = {.s = s,
                 .answer = ANSWER_TOKENS,
                 .share_s = (s->full ? 8 : 1.25) * (double)s->repetitions,
                 .random = 1};
    tc_status status;
    if (tc_suite_positions(s, 4096) < PROMPT_MOST + ANSWER_TOKENS)
        return tc_suite_skip(s, e, "the model has too few positions");
    l.requests = calloc(TC_CLIENT_REQUESTS_MAX, sizeof *l.requests);
    l.gaps = malloc(GAPS_MAX * sizeof *l.gaps);
    l.gap_of = malloc(GAPS_MAX * sizeof *l.gap_of);
    if (!l.requests || !l.gaps || !l.gap_of) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    for (int i = 0; i < TC_TEXTS; i++)
        TC_GOTO(tc_tokenizer_encode(s->tokenizer, (const char *)tc_suite_texts[i].text,
                                    *tc_suite_texts[i].bytes, TC_SPECIAL_AS_TEXT, &l.ids, e));
    if (l.ids.count <= PROMPT_MOST) TC_GOTO(tc_fail(e, TC_INTERNAL, "the texts have too few tokens"));
    TC_GOTO(measure(&l, e));
out:
    tc_supervisor_free(l.supervisor);
    tc_ids_free(&l.ids);
    free(l.requests);
    free(l.gaps);
    free(l.gap_of);
    return status;
}
