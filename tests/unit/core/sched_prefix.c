// SPDX-License-Identifier: Apache-2.0
// Shows: what the prefix cache gives the scheduler's requests: a conversation's next turn begins where the
// last one ended, with and without recurrent state, wherever in a page that is; states are kept inside steps,
// where prompts branch and on their way; other keys see nothing of it.
#include "tests/unit/core/sched_stub.h"

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

// Where a turn of so many tokens and an answer that ends there leave a state (or pages) to go on from.
static uint32_t left_behind(uint32_t state_at, uint32_t prompt, uint32_t end)
{
    const uint32_t border = (prompt - 1) / 64 * 64;
    if (!has_state) return end >= 64 ? end : 0;
    if (border >= state_at + 64) state_at = border;
    return end >= state_at + 64 ? end : state_at;
}

// Conversations of any lengths: each turn begins where the last one ended, inside a page or at its end, or
// less than a page before that, and gives the tokens that it gives without any of it.
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
        const tc_sched_options with = {
            .prompt_grain = prompt_grain, .coarse_cuts = i % 7 == 0, .snapshot_every = 1 << 20};
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
            known = left_behind(known, count, count + answer - 1);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_turn),
        cmocka_unit_test(test_turn_after_turn),
        cmocka_unit_test(test_branches_get_a_snapshot),
        cmocka_unit_test(test_a_state_is_kept_inside_a_step),
        cmocka_unit_test(test_a_state_on_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
