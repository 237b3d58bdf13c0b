// SPDX-License-Identifier: Apache-2.0
// Shows: the scheduler on a stub device: every stream is the same whatever company it has, nothing starves,
// pages and sessions come back, limits refuse. The stub's "attention" is a hash of the session's own past,
// kept in its pages, so a wrong page, position or segment changes tokens. A failing schedule is named by its
// seed.
#include "gpu-core/sched/sched.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { VOCAB = 97, PAGES = 40, SLOTS = 6, CONTEXT = 512, REQUESTS = 12, EOS = 5 };
#include "tests/support/sched_doubles.h"

// ---- stub forward: page memory holds the running hash after each position ----

static uint64_t page_memory[PAGES][TC_KV_PAGE_POSITIONS], slot_memory[SLOTS];
static uint64_t token_hash[TC_BATCH_TOKENS_MAX];
static bool forward_fails;

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    return (void)g, sizeof page_memory[0];
}
uint64_t tc_dev_slot_bytes(const tc_dev_geometry *g)
{
    return (void)g, sizeof slot_memory[0];
}

tc_status tc_forward_run(tc_forward *f, const tc_batch *b, int32_t *chosen, tc_error *e)
{
    (void)f, (void)chosen;
    if (forward_fails) return tc_fail(e, TC_TIMEOUT, "no expert worker");
    assert_true(b->tokens >= 1 && b->tokens <= TC_BATCH_TOKENS_MAX);
    uint32_t counted = 0;
    for (uint32_t s = 0; s < b->segments; s++) {
        const tc_segment *segment = &b->segment_list[s];
        assert_int_equal(segment->first, counted);
        for (uint32_t i = 0; i < segment->tokens; i++, counted++) {
            uint32_t at = segment->first + i, position = segment->position + i;
            assert_int_equal(b->position[at], position);
            assert_int_equal(b->segment[at], s);
            uint64_t past =
                position ? page_memory[segment->pages[(position - 1) / 64]][(position - 1) % 64] : 1;
            assert_true(position == 0 ||
                        slot_memory[segment->slot] == past); // the recurrent state came along
            token_hash[at] = page_memory[segment->pages[position / 64]][position % 64] =
                mix(past, b->ids[at]);
            slot_memory[segment->slot] = token_hash[at];
            for (uint32_t k = 0; k < TC_KEEPS_MAX; k++)
                if (segment->keep[k].after == i + 1) slot_memory[segment->keep[k].slot] = token_hash[at];
        }
    }
    assert_int_equal(counted, b->tokens);
    return TC_OK;
}

static uint32_t logits_left; // calls until the device fails; 0: it does not

const float *tc_forward_logits(tc_forward *f, const uint32_t *tokens, uint32_t rows)
{
    (void)f;
    assert_true(rows <= TC_LOGIT_ROWS_MAX);
    if (logits_left && --logits_left == 0) return NULL; // the device failed
    for (uint32_t r = 0; r < rows; r++) fill_logits(token_hash[tokens[r]], logits_out + r * VOCAB);
    return logits_out;
}

// ---- stub server: one transcript a request ----

typedef struct transcript {
    uint64_t id;
    uint32_t tokens[CONTEXT], count;
    bool ended, failed;
    tc_finish finish;
    tc_status status;
    tc_usage usage;
    uint32_t evaluated, routed, logprobs; // positions reported
    tc_token_value logprob[CONTEXT];      // by position: the token's own
} transcript;

static transcript transcripts[REQUESTS + 1];

static transcript *of(uint64_t id)
{
    assert_true(id >= 1 && id <= REQUESTS);
    return &transcripts[id];
}

void tc_engine_server_token(tc_engine_server *s, uint64_t id, uint32_t token, float gap)
{
    (void)s, (void)gap;
    assert_false(of(id)->ended);
    of(id)->tokens[of(id)->count++] = token;
}
void tc_engine_server_evaluated(tc_engine_server *s, uint64_t id, uint32_t position, uint32_t positions,
                                uint32_t vocab, const float *logits, uint32_t layers, uint32_t top_k,
                                const int32_t *experts)
{
    (void)s, (void)vocab, (void)layers, (void)top_k;
    assert_true(logits || experts);
    if (logits) {
        assert_int_equal(position, of(id)->evaluated);
        of(id)->evaluated += positions;
    }
    if (experts) {
        assert_int_equal(position, of(id)->routed);
        of(id)->routed += positions;
    }
}
void tc_engine_server_logprobs(tc_engine_server *s, uint64_t id, uint32_t position, uint32_t positions,
                               uint32_t top, const tc_token_value *logprobs)
{
    (void)s;
    assert_false(of(id)->ended);
    for (uint32_t i = 0; i < positions; i++) {
        const tc_token_value *v = logprobs + (size_t)i * (1 + top);
        of(id)->logprob[position + i] = v[0];
        assert_true(v[0].value <= 0);
        for (uint32_t k = 1; k < top; k++) assert_true(v[k].value >= v[k + 1].value);
        if (top) assert_true(v[0].value <= v[1].value);
    }
    of(id)->logprobs += positions;
}
void tc_engine_server_finished(tc_engine_server *s, uint64_t id, tc_finish finish, const tc_usage *usage)
{
    (void)s;
    assert_false(of(id)->ended);
    of(id)->ended = true;
    of(id)->finish = finish;
    of(id)->usage = *usage;
}
void tc_engine_server_failed(tc_engine_server *s, uint64_t id, tc_status status, const char *reason)
{
    (void)s;
    assert_true(reason[0] != 0);
    of(id)->ended = of(id)->failed = true;
    of(id)->status = status;
}

// ---- stub device and source ----

static void slot_reset(tc_dev *dev, uint32_t slot)
{
    (void)dev, slot_memory[slot] = 1;
}
static void source_stats(tc_expert_source *source, tc_source_stats *ret)
{
    (void)source, memset(ret, 0, sizeof *ret);
}

typedef struct bench {
    tc_dev_ops dev_ops;
    tc_dev dev;
    tc_source_ops source_ops;
    tc_expert_source source;
    tc_model_desc desc;
    tc_session_pool *pool;
    tc_sched *sched;
} bench;

static void set_up(bench *b)
{
    tc_error e;
    memset(b, 0, sizeof *b);
    memset(transcripts, 0, sizeof transcripts);
    b->dev_ops.slot_reset = slot_reset;
    b->dev =
        (tc_dev){.ops = &b->dev_ops, .geometry = {.pages = PAGES, .slots = SLOTS, .positions_max = CONTEXT}};
    b->source_ops.stats = source_stats;
    b->source.ops = &b->source_ops;
    b->desc = (tc_model_desc){
        .layers = 2, .vocab = VOCAB, .top_k = 2, .generation = {.eos = {EOS}, .eos_count = 1}};
    assert_int_equal(tc_session_pool_create(&b->dev, CONTEXT, &b->pool, &e), TC_OK);
    const tc_sched_options o = {.desc = &b->desc,
                                .dense = &tc_dense_plain,
                                .pool = b->pool,
                                .source = &b->source,
                                .context = CONTEXT,
                                .sessions = SLOTS};
    assert_int_equal(tc_sched_create(&o, &b->sched, &e), TC_OK);
}

static void tear_down(bench *b)
{
    assert_int_equal(tc_session_pages_free(b->pool), PAGES);
    tc_sched_free(b->sched);
    tc_session_pool_free(b->pool);
}

typedef struct plan {
    uint32_t prompt[CONTEXT];
    tc_generate ask;
    uint32_t arrive_step, cancel_step; // cancel 0: never
} plan;

static void make_plan(plan *p, uint64_t id, bool cancels)
{
    uint32_t length = 1 + (uint32_t)rand() % (rand() % 4 ? 40 : 400);
    for (uint32_t i = 0; i < length; i++) p->prompt[i] = (uint32_t)rand() % VOCAB;
    // One after another: compilers may take the members of an initialiser in any order.
    p->ask = (tc_generate){.id = id, .prompt = p->prompt, .prompt_count = length};
    p->ask.sampling = (tc_sampling){.top_p = 0.9f, .repetition_penalty = 1.1f, .seeded = true};
    p->ask.max_tokens = 1 + (uint32_t)rand() % 60;
    p->ask.sampling.temperature = (float)(rand() % 2);
    p->ask.sampling.seed = (uint64_t)rand();
    p->ask.ignore_eos = rand() % 2;
    p->ask.want_logits = rand() % 5 == 0;
    p->arrive_step = (uint32_t)rand() % 30;
    p->cancel_step = cancels && rand() % 4 == 0 ? p->arrive_step + 1 + (uint32_t)rand() % 20 : 0;
}

static void submit(bench *b, const plan *p)
{
    const tc_command command = {.kind = TC_COMMAND_GENERATE, .id = p->ask.id, .generate = p->ask};
    tc_sched_command(b->sched, &command);
}

static void run_alone(const plan *p, transcript *ret)
{
    bench b;
    set_up(&b);
    submit(&b, p);
    while (tc_sched_step(b.sched)) {
    }
    *ret = *of(p->ask.id);
    tear_down(&b);
}

static void test_company_changes_nothing(void **state)
{
    (void)state;
    static plan plans[REQUESTS];
    static transcript alone[REQUESTS];
    for (unsigned seed = 0; seed < 150; seed++) {
        srand(seed);
        for (uint32_t i = 0; i < REQUESTS; i++) make_plan(&plans[i], i + 1, true);
        for (uint32_t i = 0; i < REQUESTS; i++) run_alone(&plans[i], &alone[i]);
        bench b;
        set_up(&b);
        bool busy = true;
        for (uint32_t step = 0; busy || step < 60; step++) {
            assert_true(step < 5000); // nothing starves
            for (uint32_t i = 0; i < REQUESTS; i++) {
                if (plans[i].arrive_step == step) submit(&b, &plans[i]);
                const tc_command cancel = {.kind = TC_COMMAND_CANCEL, .id = i + 1};
                if (plans[i].cancel_step && plans[i].cancel_step == step) tc_sched_command(b.sched, &cancel);
            }
            busy = tc_sched_step(b.sched);
        }
        for (uint32_t i = 0; i < REQUESTS; i++) {
            const transcript *together = of(i + 1);
            if (!together->ended) fail_msg("seed %u: request %u never ended", seed, i);
            bool cancelled = together->finish == TC_FINISH_CANCELLED;
            if (together->failed || together->count > alone[i].count ||
                (!cancelled && together->count != alone[i].count) ||
                memcmp(together->tokens, alone[i].tokens, together->count * sizeof(uint32_t)))
                fail_msg("seed %u: request %u differs from the same request alone", seed, i);
            if (plans[i].ask.want_logits && !cancelled)
                assert_int_equal(together->evaluated, plans[i].ask.prompt_count);
        }
        tear_down(&b);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static plan p;
    const struct {
        uint32_t prompt, max_tokens, first_id;
        tc_status expected;
    } cases[] = {
        {CONTEXT - 1, 1, 0, TC_OK},    {CONTEXT, 1, 0, TC_LIMIT},       {CONTEXT, 0, 0, TC_OK},
        {CONTEXT + 1, 0, 0, TC_LIMIT}, {3, 1u << 20, 0, TC_OK},         {3, 1, VOCAB - 1, TC_OK},
        {3, 1, VOCAB, TC_ARGUMENT},    {3, 1, UINT32_MAX, TC_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static uint32_t prompt[CONTEXT + 1];
        bench b;
        set_up(&b);
        p.ask = (tc_generate){.id = 1,
                              .prompt = prompt,
                              .prompt_count = cases[i].prompt,
                              .max_tokens = cases[i].max_tokens,
                              .sampling = {.repetition_penalty = 1, .top_p = 1},
                              .ignore_eos = true};
        prompt[0] = cases[i].first_id;
        submit(&b, &p);
        while (tc_sched_step(b.sched)) {
        }
        assert_true(of(1)->ended);
        assert_int_equal(of(1)->failed ? of(1)->status : TC_OK, cases[i].expected);
        if (cases[i].max_tokens == 1u << 20) assert_int_equal(of(1)->usage.generated_tokens, CONTEXT - 3);
        tear_down(&b);
    }
}

static void test_logprobs_and_routes(void **state)
{
    (void)state;
    static plan p;
    transcript plain;
    for (unsigned seed = 0; seed < 20; seed++) {
        srand(seed);
        make_plan(&p, 1, false);
        p.ask.want_logits = false;
        run_alone(&p, &plain);
        p.ask.want_logprobs = p.ask.want_prompt_logprobs = p.ask.want_experts = true;
        p.ask.top_logprobs = seed % 4;
        static transcript told;
        run_alone(&p, &told);
        assert_int_equal(told.count, plain.count); // asking changes no token
        assert_memory_equal(told.tokens, plain.tokens, plain.count * sizeof *plain.tokens);
        assert_int_equal(told.logprobs, p.ask.prompt_count - 1 + told.count);
        for (uint32_t i = 1; i < p.ask.prompt_count; i++)
            assert_int_equal(told.logprob[i].token, p.prompt[i]);
        for (uint32_t i = 0; i < told.count; i++)
            assert_int_equal(told.logprob[p.ask.prompt_count + i].token, told.tokens[i]);
        // Every position that a pass has read: the last token of a full answer is not.
        bool stopped = told.finish == TC_FINISH_STOP;
        assert_int_equal(told.routed, p.ask.prompt_count + told.count - (stopped ? 0 : 1));
    }
}

static void test_min_tokens_and_stop_tokens(void **state)
{
    (void)state;
    static plan p;
    transcript t;
    unsigned by_own = 0;
    for (unsigned seed = 0; seed < 40; seed++) {
        srand(seed);
        make_plan(&p, 1, false);
        p.ask.want_logits = p.ask.ignore_eos = false;
        p.ask.max_tokens = 40;
        p.ask.stop_token_count = VOCAB / 2; // half of all tokens: it ends soon
        for (uint32_t i = 0; i < VOCAB / 2; i++) p.ask.stop_tokens[i] = 2 * i;
        run_alone(&p, &t);
        assert_int_equal(t.finish, TC_FINISH_STOP);
        by_own += t.usage.stopped_by % 2;                                    // 1 + an even token
        assert_true(t.usage.stopped_by % 2 == 1 || t.usage.stopped_by == 0); // 0: the model's own end
        p.ask.sampling.min_tokens = 25;
        run_alone(&p, &t);
        assert_true(t.count >= 25 || t.count == p.ask.max_tokens);
        for (uint32_t i = 0; i < 25 && i < t.count; i++)
            assert_true(t.tokens[i] != EOS && (t.tokens[i] % 2 || t.tokens[i] == VOCAB - 1));
    }
    assert_true(by_own > 30); // there are 48 of them
}

static void test_queue_limit(void **state)
{
    (void)state;
    bench b;
    set_up(&b);
    static plan p;
    make_plan(&p, 1, false);
    for (uint32_t i = 0; i <= TC_QUEUE_REQUESTS_DEFAULT; i++) {
        p.ask.id = 1; // the stub keeps one transcript: only the refusal at N + 1 is looked at
        tc_generate ask = p.ask;
        ask.id = i == TC_QUEUE_REQUESTS_DEFAULT ? 2 : 1000 + i;
        const tc_command command = {.kind = TC_COMMAND_GENERATE, .generate = ask};
        tc_sched_command(b.sched, &command);
        assert_true(i == TC_QUEUE_REQUESTS_DEFAULT ? of(2)->failed && of(2)->status == TC_BUSY
                                                   : !of(2)->failed);
    }
    const tc_command gone = {.kind = TC_COMMAND_CLIENT_GONE};
    tc_sched_command(b.sched, &gone);
    assert_false(tc_sched_step(b.sched));
    tear_down(&b);
}

static void test_failed_step_fails_its_requests_only(void **state)
{
    (void)state;
    static plan p, later;
    srand(1);
    make_plan(&p, 1, false);
    make_plan(&later, 2, false);
    bench b;
    set_up(&b);
    submit(&b, &p);
    forward_fails = true;
    assert_true(tc_sched_step(b.sched));
    forward_fails = false;
    assert_true(of(1)->failed);
    assert_int_equal(of(1)->status, TC_TIMEOUT);
    submit(&b, &later);
    while (tc_sched_step(b.sched)) {
    }
    assert_true(of(2)->ended && !of(2)->failed);
    tear_down(&b);
}

// The device fails in the head, at each of its calls in turn: whoever is in that step hears it, and no number
// that was computed then goes out.
static void test_a_device_that_fails_in_the_head(void **state)
{
    (void)state;
    static plan plans[3];
    static transcript alone[3];
    uint32_t failed_at = 0;
    srand(5);
    for (uint32_t i = 0; i < 3; i++) {
        make_plan(&plans[i], i + 1, false);
        plans[i].ask.want_logits = false;
        plans[i].ask.max_tokens = 20;
        plans[i].ask.ignore_eos = true;
        plans[i].ask.want_prompt_logprobs = i == 1;
        run_alone(&plans[i], &alone[i]);
    }
    for (uint32_t at = 1; at < 20; at++) {
        bench b;
        set_up(&b);
        for (uint32_t i = 0; i < 3; i++) submit(&b, &plans[i]);
        logits_left = at;
        while (logits_left && tc_sched_step(b.sched)) {
        }
        for (uint32_t i = 0; i < 3; i++) {
            const transcript *t = of(i + 1);
            assert_memory_equal(t->tokens, alone[i].tokens, t->count * sizeof(uint32_t));
            if (!t->failed) continue;
            assert_int_equal(t->status, TC_CLOSED);
            failed_at += 1;
        }
        tc_sched_fail_all(b.sched, TC_CLOSED, TC_FORWARD_DEVICE_FAILED); // as the core does then
        for (uint32_t i = 0; i < 3; i++) assert_true(of(i + 1)->ended);
        tear_down(&b);
    }
    assert_true(failed_at > 20); // not only where a prompt's log-probabilities were made
    logits_left = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_company_changes_nothing),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_queue_limit),
        cmocka_unit_test(test_logprobs_and_routes),
        cmocka_unit_test(test_min_tokens_and_stop_tokens),
        cmocka_unit_test(test_failed_step_fails_its_requests_only),
        cmocka_unit_test(test_a_device_that_fails_in_the_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
