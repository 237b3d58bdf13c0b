// SPDX-License-Identifier: Apache-2.0
// Shows: the scheduler under many users, on a virtual clock with a stub device: thousands of random mixes of
// joins, cancels, holds, deadlines, priorities, scopes, shared prefixes, next turns and choices. Each stream
// has the tokens of the same request alone; nothing starves, nothing leaks, no budget is exceeded. A failing
// mix is named by its seed. And by itself what choices, cancels, priorities, scopes and chunks are bound to.
#include "tests/unit/core/sched_stub.h"

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
