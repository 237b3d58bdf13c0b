// SPDX-License-Identifier: Apache-2.0
// Shows: the workers' share of a prompt on a simulated machine of a link and workers whose rates nobody tells
// it: near the best split there is, soon, whatever is slow, hot or away, and never much worse than streaming
// alone; and a call written into a real mailbox, as
// its worker and its writer see it.
#include "gpu-core/dev/prompt_share.h"
#include "gpu-core/dev/prompt_call.h"
#include "proto/shm.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EXPERTS = 512, TOP_K = 10, LAYERS = 48, AHEAD = 128 };

// ---- a machine ----

typedef struct machine {
    double link_us, expert_us, pair_us, lead_us, join_us;
    uint32_t boxes, tokens, hot; // experts [0, hot) are hot
    double spread;               // of popularity: expert e is chosen as (e + 1)^-spread tells; 0: evenly
    double noise;                // of the workers' times, a part of them
    bool unasked;                // nobody asks for the best split
} machine;

typedef struct layer {
    uint32_t tokens[EXPERTS];
    uint8_t box[EXPERTS];
    tc_prompt_layer l;
} layer;

static double draw(void)
{
    return (double)rand() / ((double)RAND_MAX + 1);
}

static void make_layer(const machine *m, layer *ret)
{
    static double sum[EXPERTS];
    memset(ret, 0, sizeof *ret);
    const uint32_t shift = (uint32_t)rand() % EXPERTS; // popular ones lie anywhere
    for (uint32_t e = 0; e < EXPERTS; e++)
        sum[e] = (e ? sum[e - 1] : 0) + pow((e + shift) % EXPERTS + 1, -m->spread);
    for (uint32_t i = 0; i < m->tokens * TOP_K; i++) {
        const double at = draw() * sum[EXPERTS - 1];
        uint32_t low = 0, high = EXPERTS - 1;
        while (low < high) {
            const uint32_t mid = (low + high) / 2;
            if (sum[mid] > at)
                high = mid;
            else
                low = mid + 1;
        }
        ret->tokens[low] += ret->tokens[low] < m->tokens;
    }
    uint32_t streamed = 0, ahead = 0;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const bool hot = e < m->hot, early = !hot && e < AHEAD;
        ahead += early;
        streamed += early;
        ret->box[e] = hot || early || !m->boxes ? TC_PROMPT_NOBODY : (uint8_t)(e * m->boxes / EXPERTS);
        if (!m->boxes && !hot && !early && ret->tokens[e]) streamed++;
    }
    ret->l = (tc_prompt_layer){.experts = EXPERTS,
                               .boxes = m->boxes,
                               .tokens = ret->tokens,
                               .box = ret->box,
                               .streamed = streamed,
                               .ahead = ahead,
                               .join_us = m->join_us};
}

// What the layer really takes; ret_compute: of the slowest worker.
static double layer_us(const machine *m, const layer *l, const uint8_t *given, double *ret_compute)
{
    double busy[TC_PROMPT_BOXES_MAX] = {0}, compute = 0;
    uint32_t streamed = l->l.streamed;
    bool any = false;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        if (given[e]) {
            assert_true(l->box[e] < m->boxes && l->tokens[e]);
            busy[l->box[e]] += m->expert_us + m->pair_us * l->tokens[e];
            any = true;
        } else if (l->box[e] < m->boxes && l->tokens[e]) {
            streamed++;
        }
    }
    for (uint32_t b = 0; b < m->boxes; b++) compute = busy[b] > compute ? busy[b] : compute;
    compute *= 1 + m->noise * (draw() - 0.5);
    *ret_compute = compute;
    const double early = l->l.ahead * m->link_us, idle = m->lead_us > early ? m->lead_us - early : 0,
                 link = idle + streamed * m->link_us + (any ? m->join_us : 0);
    const double there = m->lead_us + (any ? 150 + compute : 0);
    return link > there ? link : there;
}

// The least of all splits that give whole numbers of experts, those of the fewest tokens first, by turns to
// the boxes.
static double best_us(const machine *m, const layer *l)
{
    uint8_t given[EXPERTS] = {0};
    double compute, best = layer_us(m, l, given, &compute);
    for (;;) {
        uint32_t least[TC_PROMPT_BOXES_MAX];
        bool any = false;
        for (uint32_t b = 0; b < m->boxes; b++) {
            least[b] = EXPERTS;
            for (uint32_t e = 0; e < EXPERTS; e++)
                if (l->box[e] == b && l->tokens[e] && !given[e] &&
                    (least[b] == EXPERTS || l->tokens[e] < l->tokens[least[b]]))
                    least[b] = e;
            if (least[b] < EXPERTS) given[least[b]] = any = true;
        }
        if (!any) return best;
        const double us = layer_us(m, l, given, &compute);
        if (us < best) best = us;
    }
}

typedef struct outcome {
    double us, best_us, alone_us, given; // means of a layer
} outcome;

static outcome serve(const machine *m, tc_prompt_rates *rates, uint32_t layers)
{
    static const uint8_t none[EXPERTS];
    uint16_t order[EXPERTS];
    uint8_t given[EXPERTS];
    layer l;
    outcome o = {0};
    for (uint32_t i = 0; i < layers; i++) {
        double compute, units;
        make_layer(m, &l);
        const uint32_t count = tc_prompt_choose(rates, &l.l, order, given, &units);
        uint32_t cold = l.l.streamed, said = 0;
        for (uint32_t e = 0; e < EXPERTS; e++) {
            said += given[e];
            cold += l.box[e] < m->boxes && l.tokens[e] && !given[e];
        }
        assert_int_equal(said, count);
        assert_true((count > 0) == (units > 0));
        o.us += layer_us(m, &l, given, &compute) / layers;
        o.given += (double)count / layers;
        const tc_prompt_seen seen = {.copied = cold,
                                     .copied_us = cold * m->link_us,
                                     .lead_us = m->lead_us,
                                     .units = units,
                                     .compute_us = compute};
        tc_prompt_learn(rates, &seen);
        o.alone_us += layer_us(m, &l, none, &compute) / layers;
        if (!m->unasked) o.best_us += best_us(m, &l) / layers;
    }
    return o;
}

static tc_prompt_rates learned(const machine *m, uint32_t layers)
{
    tc_prompt_rates rates = tc_prompt_guess(1630000);
    machine quick = *m;
    quick.unasked = true;
    (void)serve(&quick, &rates, layers);
    return rates;
}

static void expect_near(const char *what, const machine *m, double bound)
{
    tc_prompt_rates rates = learned(m, LAYERS);
    const outcome o = serve(m, &rates, LAYERS);
    if (o.us > o.best_us * bound || o.us > o.alone_us * 1.01)
        fail_msg("%s: %.0f us a layer, the best is %.0f, streamed alone %.0f (%.0f experts given)", what,
                 o.us, o.best_us, o.alone_us, o.given);
}

// An H200's link and 16 cores, as measured; a prompt of 512 and one of 2048.
static const machine usual = {.link_us = 31,
                              .expert_us = 8,
                              .pair_us = 7,
                              .lead_us = 900,
                              .join_us = 160,
                              .boxes = 1,
                              .tokens = 512,
                              .hot = 96,
                              .spread = 0.3,
                              .noise = 0.1};

static void test_near_the_best(void **state)
{
    machine m = usual;
    expect_near("usual", &m, 1.04);
    m.boxes = 2; // shares that are not alike: what runs ahead is the first one's
    m.pair_us = 14;
    expect_near("two workers", &m, 1.05);
    m = usual;
    m.tokens = 2048;
    m.lead_us = 3000;
    m.join_us = 650;
    expect_near("long prompt", &m, 1.05);
    m = usual;
    m.pair_us = 1;
    m.expert_us = 11;
    expect_near("fast workers", &m, 1.06);
    m = usual;
    m.spread = 1;
    expect_near("a few popular experts", &m, 1.06);
}

// The share is worth having where it was measured that it should be.
static void test_gains(void **state)
{
    machine m = usual;
    tc_prompt_rates rates = learned(&m, LAYERS);
    const outcome o = serve(&m, &rates, LAYERS);
    if (o.us > o.alone_us / 1.2) fail_msg("%.0f us a layer, streamed alone %.0f", o.us, o.alone_us);
}

static void test_slow_link(void **state)
{
    machine m = usual;
    m.link_us = 300;
    expect_near("slow link", &m, 1.05);
    tc_prompt_rates rates = learned(&m, LAYERS);
    const outcome o = serve(&m, &rates, LAYERS);
    assert_true(o.given > 180); // nearly all that may be given
}

static void test_slow_workers(void **state)
{
    machine m = usual;
    m.expert_us = m.pair_us = 5000;
    tc_prompt_rates rates = tc_prompt_guess(1630000);
    outcome o = serve(&m, &rates, 1); // what nothing is known of gets a sixteenth, once
    assert_true(o.given >= 1 && o.given <= 27);
    o = serve(&m, &rates, LAYERS);
    assert_true(o.given == 0 && o.us <= o.alone_us);
    m.expert_us = 8; // they get well: after a while they are tried again
    m.pair_us = 7;
    m.unasked = true;
    for (int i = 0; i < 400 && o.given == 0; i++) o = serve(&m, &rates, LAYERS);
    assert_true(o.given > 0);
    (void)serve(&m, &rates, 2 * LAYERS);
    m.unasked = false;
    o = serve(&m, &rates, LAYERS);
    assert_true(o.us < o.best_us * 1.04);
}

// They get slow while they serve: a few layers are late, then they have less.
static void test_slowed(void **state)
{
    machine m = usual;
    tc_prompt_rates rates = learned(&m, LAYERS);
    m.expert_us *= 4;
    m.pair_us *= 4;
    (void)serve(&m, &rates, LAYERS);
    const outcome o = serve(&m, &rates, LAYERS);
    assert_true(o.us < o.best_us * 1.04 && o.us <= o.alone_us * 1.01);
}

static void test_nobody_and_nothing(void **state)
{
    machine m = usual;
    m.boxes = 0;
    tc_prompt_rates rates = tc_prompt_guess(1630000);
    outcome o = serve(&m, &rates, LAYERS);
    assert_true(o.given == 0);
    m = usual;
    m.hot = EXPERTS;
    rates = tc_prompt_guess(1630000);
    o = serve(&m, &rates, LAYERS);
    assert_true(o.given == 0);
    assert_false(rates.seen);
}

// Joining costs more than is saved: nobody is asked.
static void test_not_worthwhile(void **state)
{
    machine m = usual;
    tc_prompt_rates rates = learned(&m, LAYERS);
    m.join_us = 9000;
    const outcome o = serve(&m, &rates, 1);
    assert_true(o.given == 0);
}

// ---- a call ----

enum { CALL_TOKENS = 2048, HIDDEN = 32, CALL_EXPERTS = 24, CALL_K = 3 };

typedef struct mailbox {
    tc_shm *hub, *worker;
    tc_lent_mailbox box;
    uint32_t expert[CALL_TOKENS * CALL_K], begin[CALL_EXPERTS + 1];
    float weight[CALL_TOKENS * CALL_K];
    uint8_t given[CALL_EXPERTS];
    tc_prompt_call call;
} mailbox;

static void open_mailbox(mailbox *m, uint32_t tokens, tc_share share)
{
    tc_error e = {0};
    const tc_shm_options options = {
        .tokens_max = CALL_TOKENS, .hidden = HIDDEN, .pairs_max = CALL_TOKENS * CALL_K};
    memset(m, 0, sizeof *m);
    assert_int_equal(tc_shm_create(&options, &m->hub, &e), TC_OK);
    m->box = (tc_lent_mailbox){.id = 1, .share = share};
    m->box.memory = tc_shm_memory(m->hub, &m->box.bytes);
    const tc_shm_header *layout = tc_shm_layout(m->hub);
    m->box.x_at = layout->x_at;
    m->box.pairs_at = layout->pairs_at;
    m->box.sum_at = layout->sum_at;
    assert_int_equal(tc_shm_attach(m->box.memory, m->box.bytes, &options, &m->worker, &e), TC_OK);
    assert_int_equal(tc_shm_lend(m->hub, tokens, 77, &e), TC_OK);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < CALL_K; k++) {
            m->expert[t * CALL_K + k] = (t * 7 + k * 5 + 3) % CALL_EXPERTS;
            m->weight[t * CALL_K + k] = (float)(t + k);
        }
    for (uint32_t x = 0; x < CALL_EXPERTS; x++) m->given[x] = x % 3 != 0;
    m->call = (tc_prompt_call){.sequence = 9,
                               .layer = 4,
                               .tokens = tokens,
                               .hidden = HIDDEN,
                               .top_k = CALL_K,
                               .experts = CALL_EXPERTS,
                               .expert = m->expert,
                               .weight = m->weight,
                               .given = m->given,
                               .begin = m->begin};
}

static void close_mailbox(mailbox *m)
{
    tc_shm_close(m->worker);
    tc_shm_close(m->hub);
}

static void expect_answer(const mailbox *m, tc_prompt_answer answer, uint64_t compute_us)
{
    uint64_t us;
    assert_int_equal(tc_prompt_call_look(&m->box, &m->call, &us), answer);
    assert_int_equal(us, compute_us);
}

// What the worker takes is what was meant: every given pair of its share, in order, and nothing else.
static void expect_taken(mailbox *m, uint32_t pairs)
{
    tc_error e = {0};
    uint64_t seq;
    tc_expert_call taken;
    uint32_t at = 0;
    if (tc_shm_take(m->worker, &seq, &taken, &e) != TC_OK) fail_msg("%s", e.text);
    assert_int_equal(seq, m->call.sequence);
    assert_int_equal(taken.layer, 4);
    assert_int_equal(taken.tokens, m->call.tokens);
    assert_int_equal(taken.precision, TC_FAST);
    assert_int_equal(taken.step, 77);
    assert_int_equal(taken.unit_begin, m->box.share.unit_begin);
    assert_int_equal(taken.unit_end, m->box.share.unit_end);
    for (uint32_t x = m->box.share.expert_begin; x < m->box.share.expert_end; x++)
        for (uint32_t i = 0; m->given[x] && i < m->call.tokens * CALL_K; i++) {
            if (m->expert[i] != x) continue;
            assert_true(at < taken.pair_count);
            assert_int_equal(taken.pairs[at].expert, x);
            assert_int_equal(taken.pairs[at].token, i / CALL_K);
            assert_true(taken.pairs[at].weight == m->weight[i]);
            at++;
        }
    assert_int_equal(at, taken.pair_count);
    assert_int_equal(at, pairs);
}

static void test_call(void **state)
{
    static mailbox m;
    tc_error e = {0};
    static const uint32_t counts[] = {1, 65, 2047, CALL_TOKENS};
    static const tc_share shares[] = {{0, CALL_EXPERTS, 0, 4}, {5, 17, 0, 4}, {0, CALL_EXPERTS, 2, 4}};
    for (size_t i = 0; i < 12; i++) {
        open_mailbox(&m, counts[i % 4], shares[i / 4]);
        expect_answer(&m, TC_PROMPT_WAITS, 0);
        const uint32_t pairs = tc_prompt_call_write(&m.box, &m.call);
        if (pairs) {
            expect_taken(&m, pairs);
            expect_answer(&m, TC_PROMPT_WAITS, 0);
            assert_int_equal(tc_shm_reply(m.worker, 9, TC_OK, 321, NULL, &e), TC_OK);
            expect_answer(&m, TC_PROMPT_ANSWERED, 321);
            m.call.tokens++; // an answer to another call than was meant
            expect_answer(&m, TC_PROMPT_WRONG, 0);
            m.call.tokens--;
            tc_shm_abort(m.worker); // it answered first
            expect_answer(&m, TC_PROMPT_ANSWERED, 321);
        }
        close_mailbox(&m);
    }
}

static void test_nothing_to_ask(void **state)
{
    static mailbox m;
    tc_error e = {0};
    uint64_t seq;
    tc_expert_call taken;
    open_mailbox(&m, 8, (tc_share){0, CALL_EXPERTS, 0, 4});
    memset(m.given, 0, sizeof m.given);
    assert_int_equal(tc_prompt_call_write(&m.box, &m.call), 0);
    assert_int_equal(tc_shm_take(m.worker, &seq, &taken, &e), TC_TIMEOUT);
    assert_int_equal(tc_shm_reclaim(m.hub, 9 + TC_LAYERS_MAX, &e), TC_OK);
    close_mailbox(&m);
}

static void test_faults(void **state)
{
    static mailbox m;
    tc_error e = {0};
    open_mailbox(&m, 8, (tc_share){0, CALL_EXPERTS, 0, 4});
    expect_taken(&m, tc_prompt_call_write(&m.box, &m.call));
    assert_int_equal(tc_shm_reply(m.worker, 9, TC_INTERNAL, 1, "no", &e), TC_OK);
    expect_answer(&m, TC_PROMPT_REFUSED, 0);
    assert_int_equal(tc_shm_reclaim(m.hub, 9 + TC_LAYERS_MAX, &e), TC_PEER); // so it is cut off
    close_mailbox(&m);

    open_mailbox(&m, 8, (tc_share){0, CALL_EXPERTS, 0, 4});
    assert_true(tc_prompt_call_write(&m.box, &m.call) > 0);
    tc_shm_abort(m.worker); // it leaves without an answer
    expect_answer(&m, TC_PROMPT_ABORTED, 0);
    close_mailbox(&m);

    open_mailbox(&m, 8, (tc_share){0, CALL_EXPERTS, 0, 4});
    expect_taken(&m, tc_prompt_call_write(&m.box, &m.call));
    assert_int_equal(tc_shm_reclaim(m.hub, 9 + TC_LAYERS_MAX, &e), TC_TIMEOUT); // late
    close_mailbox(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_the_best),  cmocka_unit_test(test_gains),
        cmocka_unit_test(test_slow_link),      cmocka_unit_test(test_slow_workers),
        cmocka_unit_test(test_slowed),         cmocka_unit_test(test_nobody_and_nothing),
        cmocka_unit_test(test_not_worthwhile), cmocka_unit_test(test_call),
        cmocka_unit_test(test_nothing_to_ask), cmocka_unit_test(test_faults),
    };
    srand(1);
    return cmocka_run_group_tests_name("prompt share", tests, NULL, NULL);
}
