// SPDX-License-Identifier: Apache-2.0
// Owns: the section `throughput`: decoding by context, by carrier and by users, prompts by length, and where
// a step's time goes. Refuses: to put a model under load (bench_run.c).
#include "cli/suite.h"

enum {
    WARM_UP_TOKENS = 8,
    WARM_UP_PROMPT = 32,
    SHORT_PROMPT = 16,
    LONGEST = 32768, // positions that the original plan speaks of
    PLACES_MAX = 16,
    SPARE_POSITIONS = 96, // of streams that go on while the last one's window ends
    USERS_MOST = 32,
};

// ---- what parts share ----

static void put_stages(tc_suite *s, const char *figure, const char *x, const tc_window *w)
{
    double steps = w->steps ? (double)w->steps : 1;
    double compute = (double)(w->expert_us > w->wait_us ? w->expert_us - w->wait_us : 0);
    double known = (double)(w->attention_us + w->router_us + w->head_us + w->wait_us) + compute;
    double rest = w->seconds * 1e6 - known;
    const tc_stage shares[] = {
        {"attention", (double)w->attention_us / steps},
        {"router", (double)w->router_us / steps},
        {"experts", compute / steps},
        {"carrier", (double)w->wait_us / steps},
        {"head and sampling", (double)w->head_us / steps},
        {"rest", rest > 0 ? rest / steps : 0},
    };
    tc_suite_stack(s, figure, x, "us", shares, sizeof shares / sizeof *shares);
}

static uint64_t ids_of(tc_suite *s, uint32_t streams)
{
    uint64_t first = s->next_id;
    s->next_id += streams;
    return first;
}

static tc_status warm_up(tc_suite *s, tc_local *local, tc_error *e)
{
    tc_window warm;
    return tc_bench_run(&s->b, local, &(tc_load){ids_of(s, 1), 1, WARM_UP_PROMPT, WARM_UP_TOKENS, 1}, &warm,
                        NULL, e);
}

// Lengths from `first`, doubling, and the longest there is room for.
static uint32_t lengths(uint32_t first, uint32_t factor, uint32_t most, uint32_t ret[PLACES_MAX])
{
    uint32_t n = 0;
    for (uint64_t at = first; at < most && n + 1 < PLACES_MAX; at *= factor) ret[n++] = (uint32_t)at;
    if (!n || ret[n - 1] < most) ret[n++] = most;
    return n;
}

// ---- decoding by context ----

static tc_status decode_at(tc_suite *s, tc_local *local, uint32_t position, uint32_t tokens, tc_error *e)
{
    tc_window w[TC_BENCH_REPETITIONS_MAX], sum = {0};
    tc_samples rate = {0};
    char x[32];
    const tc_load load = {ids_of(s, 1), 1, position, tokens, (uint32_t)s->repetitions};
    TC_TRY(tc_bench_run(&s->b, local, &load, w, NULL, e));
    for (uint32_t i = 0; i < s->repetitions; i++) {
        tc_samples_add(&rate, (double)w[i].tokens / w[i].seconds);
        tc_window_add(&sum, &w[i]);
    }
    double bytes =
        (double)tc_bench_step_bytes(&s->b, local, (double)tc_bench_token_reads(&s->b), 1, position);
    tc_suite_figure(s, &(tc_figure){.figure = "decode-context",
                                    .series = "decode",
                                    .x = position,
                                    .x_unit = "tokens of context",
                                    .unit = "tokens/s",
                                    .better = "higher",
                                    .values = &rate,
                                    .roofline = tc_samples_median(&s->b.machine.read_gb_per_s) * 1e9 / bytes,
                                    .lines = tc_plan_lines});
    snprintf(x, sizeof x, "%u tokens", position);
    put_stages(s, "token-time-context", x, &sum);
    return TC_OK;
}

tc_status tc_suite_decode(tc_suite *s, tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    uint32_t places[PLACES_MAX], tokens = s->full ? 64 : 24,
                                 after = tokens * (uint32_t)s->repetitions + SPARE_POSITIONS;
    uint32_t most = tc_suite_positions(s, LONGEST + after);
    tc_status status;
    if (most <= after + SHORT_PROMPT) return tc_suite_skip(s, e, "the model has %u positions: too few", most);
    uint32_t count = lengths(SHORT_PROMPT, s->full ? 4 : 16, most - after, places);
    o.sessions = 1;
    o.context = most;
    if (s->b.footprint.dense_bytes + s->b.footprint.experts_bytes < 2 * s->b.machine.last_cache_bytes)
        tc_suite_note(
            s, "This model fits into the CPU's last cache or nearly so: it can be faster than memory. ");
    tc_suite_note(s, "Random prompts; %u tokens a window. The longest context is %s.", tokens,
                  most < LONGEST + after ? "what the model has" : "32k");
    TC_TRY(tc_suite_open(s, &o, &local, e));
    TC_GOTO(warm_up(s, &local, e));
    TC_GOTO(tc_machine_measure_read(&s->b.machine, e));
    for (uint32_t i = 0; i < count; i++) {
        TC_GOTO(tc_suite_step(s, i, count, e));
        TC_GOTO(decode_at(s, &local, places[i], tokens, e));
    }
out:
    tc_local_close(&local);
    return status;
}

// ---- by carrier ----

typedef struct carrier {
    const char *name, *plane;
    tc_run_options o;
    tc_local local;
    tc_samples rate;
    tc_window sum;
    bool open;
} carrier;

static tc_status measure_carriers(tc_suite *s, carrier *all, uint32_t count, uint32_t tokens, tc_error *e)
{
    for (uint32_t r = 0; r < s->repetitions; r++)
        for (uint32_t i = 0; i < count; i++) {
            tc_window w;
            const tc_load load = {ids_of(s, 1), 1, SHORT_PROMPT, tokens, 1};
            TC_TRY(tc_suite_step(s, r * count + i, (double)count * (double)s->repetitions, e));
            TC_TRY(tc_bench_run(&s->b, &all[i].local, &load, &w, NULL, e));
            tc_samples_add(&all[i].rate, (double)w.tokens / w.seconds);
            tc_window_add(&all[i].sum, &w);
        }
    return TC_OK;
}

tc_status tc_suite_carriers(tc_suite *s, tc_error *e)
{
    carrier all[] = {{.name = "in the core"},
                     {.name = "shared memory", .plane = "shm"},
                     {.name = "messages", .plane = "nng"}};
    enum { CARRIERS = sizeof all / sizeof *all };
    uint32_t tokens = s->full ? 128 : 48;
    tc_status status = TC_OK;
    for (uint32_t i = 0; i < CARRIERS; i++) {
        all[i].o = tc_suite_options(s);
        all[i].o.sessions = 1;
        all[i].o.context = SHORT_PROMPT + tokens + TC_BENCH_SPARE_POSITIONS;
        all[i].o.data_plane = all[i].plane;
        if (!all[i].plane) {
            all[i].o.workers = 0;
            all[i].o.workers_given = true;
        } else if (!all[i].o.workers) {
            all[i].o.workers_given = false; // one a NUMA node
        }
        TC_GOTO(tc_suite_open(s, &all[i].o, &all[i].local, e));
        all[i].open = true;
        TC_GOTO(warm_up(s, &all[i].local, e));
    }
    TC_GOTO(measure_carriers(s, all, CARRIERS, tokens, e));
    for (uint32_t i = 0; i < CARRIERS; i++) {
        put_stages(s, "token-time-carrier", all[i].name, &all[i].sum);
        double bytes = (double)tc_bench_step_bytes(&s->b, &all[i].local, (double)tc_bench_token_reads(&s->b),
                                                   1, SHORT_PROMPT);
        tc_suite_figure(s,
                        &(tc_figure){.figure = "decode-carrier",
                                     .series = "decode",
                                     .x_text = all[i].name,
                                     .unit = "tokens/s",
                                     .better = "higher",
                                     .values = &all[i].rate,
                                     .roofline = tc_samples_median(&s->b.machine.read_gb_per_s) * 1e9 / bytes,
                                     .lines = tc_plan_lines});
    }
out:
    for (uint32_t i = 0; i < CARRIERS; i++)
        if (all[i].open) tc_local_close(&all[i].local);
    return status;
}

// ---- prompts ----

// Of a prompt's linears; attention's own products are not counted.
static double prompt_gop(const tc_bench *b, uint32_t tokens)
{
    const tc_footprint *f = &b->footprint;
    return 2e-9 * ((double)tokens * (double)f->token_multiply_adds + (double)f->head_multiply_adds);
}

static tc_status prompt_of(tc_suite *s, tc_local *local, uint32_t tokens, tc_error *e)
{
    const tc_matrix_peak *peak = &s->b.machine.peak;
    tc_samples rate = {0};
    tc_window w = {0};
    for (uint64_t i = 0; i < s->repetitions; i++) {
        TC_TRY(tc_bench_prefill(&s->b, local, ids_of(s, 1), tokens, &w, NULL, e));
        tc_samples_add(&rate, tokens / w.seconds);
    }
    double best = peak->int8_gop_per_s > peak->float_gop_per_s ? peak->int8_gop_per_s : peak->float_gop_per_s;
    // No roofline on a GPU: its peak is not measured here.
    tc_suite_figure(s, &(tc_figure){.figure = "prompt-length",
                                    .series = "prompt",
                                    .x = tokens,
                                    .x_unit = "tokens of prompt",
                                    .unit = "tokens/s",
                                    .better = "higher",
                                    .values = &rate,
                                    .roofline = s->on_gpu ? 0 : best / prompt_gop(&s->b, tokens) * tokens});
    return TC_OK;
}

tc_status tc_suite_prompt(tc_suite *s, tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    uint32_t sizes[PLACES_MAX], most = tc_suite_positions(s, (s->full ? LONGEST : 8192) + SHORT_PROMPT);
    tc_status status;
    if (most <= 2 * SHORT_PROMPT) return tc_suite_skip(s, e, "the model has %u positions: too few", most);
    uint32_t count = lengths(64 < most ? 64 : SHORT_PROMPT, s->full ? 2 : 8, most - SHORT_PROMPT, sizes);
    o.sessions = 1;
    o.context = most;
    TC_TRY(tc_suite_open(s, &o, &local, e));
    TC_GOTO(warm_up(s, &local, e));
    TC_GOTO(tc_measure_matrix_peak(s->b.machine.team, &s->b.machine.peak, e));
    for (uint32_t i = 0; i < count; i++) {
        TC_GOTO(tc_suite_step(s, i, count, e));
        TC_GOTO(prompt_of(s, &local, sizes[i], e));
    }
out:
    tc_local_close(&local);
    return status;
}

// ---- users ----

typedef struct together {
    tc_samples all, each;
    double roof;
    tc_window sum;
} together;

static tc_status measure_users(tc_suite *s, tc_local *local, uint32_t users, uint32_t tokens, together *m,
                               tc_error *e)
{
    for (uint64_t r = 0; r < s->repetitions; r++) {
        const tc_load load = {ids_of(s, users), users, SHORT_PROMPT, tokens, 1};
        tc_window w;
        TC_TRY(tc_bench_run(&s->b, local, &load, &w, NULL, e));
        double rate = (double)w.tokens / w.seconds;
        tc_window_add(&m->sum, &w);
        tc_samples_add(&m->all, rate);
        tc_samples_add(&m->each, rate / users);
    }
    double reads = (double)m->sum.expert_reads / (m->sum.steps ? (double)m->sum.steps : 1);
    double bytes = (double)tc_bench_step_bytes(&s->b, local, reads, users, SHORT_PROMPT + tokens / 2);
    m->roof = users * tc_samples_median(&s->b.machine.read_gb_per_s) * 1e9 / bytes;
    return TC_OK;
}

static void put_users(tc_suite *s, uint32_t users, const together *m)
{
    char x[32];
    tc_figure f = {.figure = "decode-users",
                   .series = "all together",
                   .x = users,
                   .x_unit = "users",
                   .unit = "tokens/s",
                   .better = "higher",
                   .values = &m->all,
                   .roofline = m->roof};
    tc_suite_figure(s, &f);
    f.series = "each";
    f.values = &m->each;
    f.roofline = m->roof / users;
    f.lines = tc_plan_lines;
    tc_suite_figure(s, &f);
    snprintf(x, sizeof x, "%u user%s", users, users == 1 ? "" : "s");
    put_stages(s, "token-time-users", x, &m->sum);
}

tc_status tc_suite_users(tc_suite *s, tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    uint32_t counts[PLACES_MAX], tokens = s->full ? 48 : 16;
    uint32_t most = o.sessions && o.sessions < USERS_MOST ? (uint32_t)o.sessions : USERS_MOST;
    uint32_t count = lengths(1, 2, most, counts);
    tc_status status;
    o.sessions = most;
    o.context = SHORT_PROMPT + tokens + SPARE_POSITIONS + most;
    TC_TRY(tc_suite_open(s, &o, &local, e));
    TC_GOTO(warm_up(s, &local, e));
    TC_GOTO(tc_machine_measure_read(&s->b.machine, e));
    for (uint32_t i = 0; i < count; i++) {
        together m = {0};
        TC_GOTO(tc_suite_step(s, i, count, e));
        TC_GOTO(measure_users(s, &local, counts[i], tokens, &m, e));
        put_users(s, counts[i], &m);
    }
out:
    tc_local_close(&local);
    return status;
}
