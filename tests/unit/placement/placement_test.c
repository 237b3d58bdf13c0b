// SPDX-License-Identifier: Apache-2.0
// Shows: routing traces and profiles come back as they were written and nothing else is taken for one; Belady
// is an optimum; the default policy's figures on generated routes; footprints; plans add up, and what they
// propose fits.
#include "common/placement/footprint.h"
#include "common/placement/plan.h"
#include "common/placement/profile.h"
#include "common/placement/replay.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/tc-placement-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    fclose(f);
}

static size_t read_file(const char *path, uint8_t *ret, size_t room)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(ret, 1, room, f);
    fclose(f);
    return n;
}

// ---- traces ----

enum { LAYERS = 5, EXPERTS = 300, TOP_K = 3 };

static void draw(int32_t *chosen, uint32_t tokens)
{
    for (uint32_t i = 0; i < tokens * LAYERS; i++) {
        int32_t first = rand() % EXPERTS;
        for (int k = 0; k < TOP_K; k++)
            chosen[i * TOP_K + k] = i % LAYERS == 2 ? -1 : (first + k * 7) % EXPERTS;
    }
}

static void round_trip(const char *name, bool expects, uint32_t version)
{
    tc_error e;
    tc_routing_writer *w;
    tc_routes loaded, direct;
    int32_t chosen[64 * LAYERS * TOP_K], expected[64 * LAYERS * TOP_K];
    const tc_routing_info info = {LAYERS, EXPERTS, TOP_K, 12345, "0123456789abcdef0123456789abcdef",
                                  {0x1b}, expects};
    assert_int_equal(tc_routing_create(path_of(name), &info, &w, &e), TC_OK);
    assert_int_equal(tc_routes_begin(&info, &direct, &e), TC_OK);
    for (int i = 0; i < 50; i++) {
        uint32_t tokens = 1 + (uint32_t)rand() % 64,
                 flags = i % 3 ? TC_ROUTING_STEP : (i % 2 ? TC_ROUTING_PROMPT : 0);
        const int32_t *told = i % 4 ? expected : NULL; // not of every segment
        draw(chosen, tokens);
        draw(expected, tokens);
        tc_routing_segment(w, (uint32_t)i, flags, tokens, chosen, told);
        if (!expects) told = NULL;
        assert_int_equal(tc_routes_add(&direct, (uint32_t)i, flags, tokens, chosen, told, &e), TC_OK);
    }
    assert_int_equal(tc_routing_close(w, &e), TC_OK);
    uint8_t header[12];
    read_file(path_of(name), header, sizeof header);
    assert_int_equal(header[8], version);
    assert_int_equal(tc_routes_load(path_of(name), &loaded, &e), TC_OK);
    assert_string_equal(loaded.info.model_hash, info.model_hash);
    assert_true(loaded.info.expert_bytes == 12345 && loaded.step_count == direct.step_count);
    assert_true(loaded.use_count == direct.use_count && loaded.token_count == direct.token_count);
    assert_memory_equal(loaded.uses, direct.uses, direct.use_count * sizeof *direct.uses);
    assert_true(loaded.expected_count == direct.expected_count && (loaded.expected_count > 0) == expects);
    if (expects)
        assert_memory_equal(loaded.expected, direct.expected,
                            direct.expected_count * sizeof *direct.expected);
    for (uint64_t i = 0; i < direct.step_count; i++)
        assert_true(loaded.steps[i].tokens == direct.steps[i].tokens &&
                    loaded.steps[i].expected_count == direct.steps[i].expected_count &&
                    loaded.steps[i].prompt == direct.steps[i].prompt);
    tc_routes_free(&loaded);
    tc_routes_free(&direct);
}

static void test_trace_round_trip(void **state)
{
    (void)state;
    srand(5);
    round_trip("a.routes", true, 2);
    round_trip("c.routes", false, 1);
}

// Every byte damaged, every length: an error, or a trace that is as valid as any.
static void test_trace_damage(void **state)
{
    (void)state;
    tc_error e;
    tc_routes r;
    static uint8_t whole[1 << 16];
    size_t n = read_file(path_of("a.routes"), whole, sizeof whole);
    for (size_t length = 0; length < n; length += length < 120 ? 1 : 97) {
        write_file(path_of("b.routes"), whole, length);
        if (tc_routes_load(path_of("b.routes"), &r, &e) == TC_OK) tc_routes_free(&r);
    }
    for (size_t at = 0; at < n; at += at < 130 ? 1 : 211) {
        whole[at] ^= 0xa5;
        write_file(path_of("b.routes"), whole, n);
        tc_status status = tc_routes_load(path_of("b.routes"), &r, &e);
        if (at < 12) assert_int_equal(status, TC_FORMAT);
        if (status == TC_OK) tc_routes_free(&r);
        whole[at] ^= 0xa5;
    }
    assert_int_equal(tc_routes_load(path_of("none"), &r, &e), TC_NOT_FOUND);
    assert_int_equal(tc_routes_load(folder, &r, &e), TC_FORMAT);
}

// ---- replay ----

// The best that can be done from step `at` on with `slots` of 5 experts, by trying everything.
static uint32_t best_from(const tc_routes *r, uint64_t at, uint32_t resident, uint32_t slots)
{
    if (at == r->step_count) return 0;
    uint32_t used = 0, best = 0;
    for (uint32_t i = 0; i < r->steps[at].count; i++) used |= 1u << r->uses[r->steps[at].first + i].expert;
    uint32_t hits = (uint32_t)__builtin_popcount(used & resident), may = used | resident;
    for (uint32_t next = may;; next = (next - 1) & may) {
        if ((uint32_t)__builtin_popcount(next) <= slots) {
            uint32_t later = best_from(r, at + 1, next, slots);
            if (later > best) best = later;
        }
        if (!next) break;
    }
    return hits + best;
}

static void test_belady_is_best(void **state)
{
    (void)state;
    tc_error e;
    const tc_routing_info info = {1, 5, 2, 10, "", {1}};
    srand(17);
    for (int round = 0; round < 40; round++) {
        tc_routes r;
        tc_replay_result belady, policy;
        assert_int_equal(tc_routes_begin(&info, &r, &e), TC_OK);
        for (int i = 0; i < 6; i++) {
            int32_t first = rand() % 5, chosen[2] = {first, (first + 1 + rand() % 4) % 5};
            assert_int_equal(tc_routes_add(&r, 0, TC_ROUTING_STEP, 1, chosen, NULL, &e), TC_OK);
        }
        tc_replay_options o = {0};
        o.cache.slots = o.cache.slots_max = 1 + (uint32_t)round % 3;
        assert_int_equal(tc_replay_belady(&r, &o, &belady, &e), TC_OK);
        assert_int_equal(belady.hits, best_from(&r, 0, 0, o.cache.slots));
        for (int p = TC_POLICY_LRU; p < TC_POLICIES; p++) {
            o.cache.policy = (tc_cache_policy)p;
            assert_int_equal(tc_replay_run(&r, &o, &policy, &e), TC_OK);
            assert_true(policy.hits <= belady.hits);
        }
        tc_routes_free(&r);
    }
}

// Routes as published for 512 experts (LRU 67 % at 64 slots, 81 to 87 % at 96 to 128), a quarter of the
// layers.
static void test_default_policy(void **state)
{
    (void)state;
    tc_error e;
    tc_routes r;
    tc_route_spec spec = tc_route_spec_default();
    static const double published[] = {0.67, 0.81, 0.87};
    spec.layers = 8;
    spec.tokens = 3 * spec.topic_tokens;
    for (uint32_t seed = 1; seed <= 2; seed++) {
        spec.seed = seed;
        assert_int_equal(tc_routes_generate(&spec, &r, &e), TC_OK);
        for (uint32_t i = 0; i < 3; i++) {
            tc_replay_result lru, decayed, belady;
            tc_replay_options o = {.skip_steps = 256};
            o.cache.slots = o.cache.slots_max = (64 + 32 * i) * spec.layers;
            o.cache.policy = TC_POLICY_LRU;
            assert_int_equal(tc_replay_run(&r, &o, &lru, &e), TC_OK);
            o.cache.policy = TC_POLICY_DECAYED;
            o.cache.second_miss = true;
            assert_int_equal(tc_replay_run(&r, &o, &decayed, &e), TC_OK);
            assert_int_equal(tc_replay_belady(&r, &o, &belady, &e), TC_OK);
            assert_true(lru.hit_rate > published[i] - 0.02 && lru.hit_rate < published[i] + 0.02);
            assert_true(decayed.hit_rate >= lru.hit_rate + 0.03);
            assert_true(decayed.hit_rate >= 0.9 * belady.hit_rate);
            assert_true(decayed.fills < lru.fills);
        }
        tc_routes_free(&r);
    }
}

// A share of what each layer will choose is known one layer before: it becomes hits, and what is guessed
// wrong does not; without guesses `predictive` is `decayed`.
static void test_prediction(void **state)
{
    (void)state;
    enum { TOKENS = 1500, DEEP = 6, WIDE = 64, K = 4, SLOTS = DEEP * WIDE / 4 };
    tc_error e;
    tc_replay_result result[4];
    for (int percent = -50; percent <= 100; percent += 50) { // -50: nothing is said
        tc_routes r;
        const tc_routing_info info = {DEEP, WIDE, K, 1000, "", {0x3f}, true};
        int32_t chosen[DEEP * K], expected[DEEP * K];
        srand(3);
        assert_int_equal(tc_routes_begin(&info, &r, &e), TC_OK);
        for (int t = 0; t < TOKENS; t++) {
            for (int i = 0; i < DEEP * K; i++) {
                chosen[i] = (rand() % WIDE) & ~3; // the experts of a layer's k-th choice are its own
                chosen[i] += i % K;
                expected[i] = rand() % 100 < percent ? chosen[i] : ((rand() % WIDE) & ~3) + i % K;
            }
            assert_int_equal(
                tc_routes_add(&r, 0, TC_ROUTING_STEP, 1, chosen, percent < 0 ? NULL : expected, &e), TC_OK);
        }
        tc_replay_options o = {.skip_steps = 100, .ahead_tokens = 8};
        o.cache.slots = o.cache.slots_max = SLOTS;
        o.cache.second_miss = true;
        o.cache.policy = TC_POLICY_PREDICTIVE;
        assert_int_equal(tc_replay_run(&r, &o, &result[percent / 50 + 1], &e), TC_OK);
        o.cache.policy = TC_POLICY_DECAYED;
        if (percent < 0) {
            tc_replay_result plain;
            assert_int_equal(tc_replay_run(&r, &o, &plain, &e), TC_OK);
            assert_true(plain.hits == result[0].hits && plain.fills == result[0].fills);
        }
        tc_routes_free(&r);
    }
    assert_true(result[0].hit_rate < 0.3 && result[0].foreseen == 0 && result[0].lookups_ahead == 0);
    for (int i = 1; i < 4; i++) { // each layer's but the first's is looked up ahead; none of that is a read
        assert_true(result[i].lookups_ahead >= TOKENS * (DEEP - 1) * (K - 1) &&
                    result[i].lookups_ahead <= TOKENS * (DEEP - 1) * K);
        assert_true(result[i].lookups == (TOKENS - 100) * DEEP * K);
    }
    assert_true(result[1].hit_rate < 0.3); // wrong guesses: no hits but by chance
    assert_true(result[2].hit_rate > 0.5);
    assert_true(result[3].hit_rate > 0.8 &&
                result[3].hit_rate < 0.9); // the first layer is never known before
    assert_true(result[3].foreseen_hits == result[3].foreseen);
    assert_true(result[1].foreseen_hits * 4 < result[1].foreseen);
}

// 64 tokens after a topic began the hit rate is back within 3 points of what it settles at (64 slots).
static void test_change_of_topic(void **state)
{
    (void)state;
    tc_error e;
    tc_routes r;
    tc_replay_result result;
    tc_route_spec spec = tc_route_spec_default();
    spec.layers = 12;
    spec.tokens = 6 * spec.topic_tokens;
    assert_int_equal(tc_routes_generate(&spec, &r, &e), TC_OK);
    uint32_t *hits = calloc(r.step_count, sizeof *hits);
    tc_replay_options o = {.step_hits = hits};
    o.cache.slots = o.cache.slots_max = 64 * spec.layers;
    o.cache.policy = TC_POLICY_DECAYED;
    o.cache.second_miss = true;
    assert_int_equal(tc_replay_run(&r, &o, &result, &e), TC_OK);
    double after = 0, settled = 0, lookups = spec.layers * spec.top_k * 5.0;
    for (uint32_t topic = 1; topic < 6; topic++) {
        const uint32_t *of = hits + topic * spec.topic_tokens;
        for (uint32_t i = 0; i < 64; i++) after += of[64 + i] / lookups / 64;
        for (uint32_t i = 0; i < 512; i++) settled += of[spec.topic_tokens - 512 + i] / lookups / 512;
    }
    assert_true(after >= settled - 0.03);
    free(hits);
    tc_routes_free(&r);
}

// Routes whose topics come back: hits in the first 16 tokens of each return, with what its footprint
// announced before, or without.
static double first_hits(const tc_routes *r, uint32_t topics, uint32_t topic_tokens, bool warm)
{
    tc_error e;
    tc_hot_cache *c;
    tc_footprints *f;
    uint32_t experts = r->info.experts, top_k = r->info.top_k;
    uint64_t hits = 0, lookups = 0;
    tc_cache_fill *fills = calloc(TC_FILLS_MAX, sizeof *fills);
    int32_t *chosen = calloc(r->info.layers * top_k, sizeof *chosen);
    const tc_hot_cache_options o = {.layers = r->info.layers,
                                    .experts = experts,
                                    .slots = 64 * r->info.layers,
                                    .slots_max = 64 * r->info.layers,
                                    .policy = TC_POLICY_DECAYED,
                                    .second_miss = true,
                                    .fills_max =
                                        64}; // a returning topic's experts take several steps to come
    assert_int_equal(tc_hot_cache_create(&o, &c, &e), TC_OK);
    assert_int_equal(tc_footprints_create(r->info.layers, experts, topics, &f, &e), TC_OK);
    for (uint64_t i = 0; i < r->step_count; i++) {
        const tc_route_step *step = &r->steps[i];
        bool returned = i >= topics * topic_tokens;
        const uint8_t *uses =
            warm && returned && i % topic_tokens == 0 ? tc_footprint_find(f, step->session + 1) : NULL;
        for (uint32_t k = 0; uses && k < r->info.layers * experts; k++)
            if (uses[k] > 8)
                tc_hot_cache_expect(c, k / experts, k % experts, 2 * (float)uses[k] / (float)topic_tokens);
        // The prompt's first steps: nothing is used yet, but announced fills come.
        for (uint32_t k = 0; k < 8 && i % topic_tokens == 0; k++) {
            uint32_t n = tc_hot_cache_step(c, &(tc_cache_input){0}, fills);
            while (n) tc_hot_cache_fill_done(c, fills[--n].slot, 0);
            tc_hot_cache_publish(c);
        }
        for (uint32_t k = 0; k < step->count; k++) {
            const tc_expert_use *use = &r->uses[step->first + k];
            bool hit = tc_hot_cache_table(c)[use->layer * experts + use->expert] != TC_NO_SLOT;
            if (returned && i % topic_tokens < 16) hits += hit, lookups++;
            chosen[k] = use->expert; // sorted by layer, top_k of each
        }
        tc_footprint_note(f, step->session + 1, 1, top_k, chosen);
        const tc_cache_input in = {.uses = r->uses + step->first, .count = step->count, .tokens = 1};
        uint32_t n = tc_hot_cache_step(c, &in, fills);
        while (n) tc_hot_cache_fill_done(c, fills[--n].slot, 0);
        tc_hot_cache_publish(c);
    }
    tc_hot_cache_free(c);
    tc_footprints_free(f);
    free(fills);
    free(chosen);
    return (double)hits / (double)lookups;
}

static void test_returning_conversation(void **state)
{
    (void)state;
    tc_error e;
    tc_routes r;
    tc_route_spec spec = tc_route_spec_default();
    spec.layers = 8;
    spec.topic_tokens = 200; // a turn
    spec.tokens = 2 * spec.topics * spec.topic_tokens;
    assert_int_equal(tc_routes_generate(&spec, &r, &e), TC_OK);
    double cold = first_hits(&r, spec.topics, spec.topic_tokens, false);
    double warm = first_hits(&r, spec.topics, spec.topic_tokens, true);
    tc_replay_returns told[2]; // the same as `replay --returns` tells it, fills without limit
    tc_replay_options o = {.cache = {.slots = 64 * spec.layers,
                                     .slots_max = 64 * spec.layers,
                                     .policy = TC_POLICY_DECAYED,
                                     .second_miss = true}};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tc_replay_first_tokens(&r, &o, 16, i, &told[i], &e), TC_OK);
        assert_int_equal(told[i].returns, spec.topics);
        assert_int_equal(told[i].lookups, spec.topics * 16ull * spec.layers * spec.top_k);
    }
    assert_true((double)told[1].hits > (double)told[0].hits + 0.1 * (double)told[0].lookups);
    print_message("first 16 tokens: cold %.3f, warm %.3f\n", cold, warm);
    assert_true(warm >= cold + 0.1);
    tc_routes_free(&r);
}

// ---- profile and footprints ----

static void test_profile(void **state)
{
    (void)state;
    tc_error e;
    tc_profile *p, *q;
    int32_t chosen[64 * LAYERS * TOP_K];
    float a[LAYERS * EXPERTS], b[LAYERS * EXPERTS];
    assert_int_equal(tc_profile_create(LAYERS, EXPERTS, "m", &p, &e), TC_OK);
    for (int i = 0; i < 40; i++) {
        draw(chosen, 64);
        tc_profile_note(p, 64, TOP_K, chosen);
    }
    assert_int_equal(tc_profile_save(p, path_of("p"), &e), TC_OK);
    assert_int_equal(tc_profile_load(path_of("p"), "m", &q, &e), TC_OK);
    tc_profile_rates(p, a);
    tc_profile_rates(q, b);
    float sum = 0;
    for (int i = 0; i < LAYERS * EXPERTS; i++) {
        assert_true(a[i] >= b[i] - 1e-5f && a[i] <= b[i] + 1e-5f);
        sum += b[i];
    }
    assert_true(sum > (LAYERS - 1) * TOP_K - 0.01f && sum < (LAYERS - 1) * TOP_K + 0.01f);
    assert_memory_equal(p->followers, q->followers, sizeof *p->followers * LAYERS * EXPERTS * TC_FOLLOWERS);
    tc_profile_free(q);
    assert_int_equal(tc_profile_load(path_of("p"), "n", &q, &e), TC_FORMAT);
    static uint8_t whole[1 << 20];
    size_t n = read_file(path_of("p"), whole, sizeof whole);
    for (size_t at = 0; at < n; at += at < 80 ? 1 : 1009) {
        whole[at] ^= 1;
        write_file(path_of("q"), whole, n);
        assert_int_equal(tc_profile_load(path_of("q"), "m", &q, &e), TC_FORMAT);
        whole[at] ^= 1;
    }
    write_file(path_of("q"), whole, n - 1);
    assert_int_equal(tc_profile_load(path_of("q"), "m", &q, &e), TC_FORMAT);
    assert_int_equal(tc_profile_load(path_of("none"), "m", &q, &e), TC_NOT_FOUND);
    tc_profile_free(p);
}

static void test_footprints(void **state)
{
    (void)state;
    tc_error e;
    tc_footprints *f;
    const int32_t one[] = {3, 4}, other[] = {3, 5}, far[] = {0, 1};
    assert_int_equal(tc_footprints_create(1, 8, TC_FOOTPRINTS_MAX + 1, &f, &e), TC_ARGUMENT);
    assert_int_equal(tc_footprints_create(1, 8, 3, &f, &e), TC_OK);
    for (int i = 0; i < 1000; i++) tc_footprint_note(f, 7, 1, 2, one);
    assert_true(tc_footprint_find(f, 7)[3] >= 127 && tc_footprint_find(f, 7)[5] == 0);
    tc_footprint_note(f, 8, 1, 2, other);
    tc_footprint_note(f, 9, 1, 2, far);
    assert_true(tc_footprint_alike(f, 7, 7) > 0.999 && tc_footprint_alike(f, 7, 9) == 0);
    assert_true(tc_footprint_alike(f, 7, 8) > 0.45 && tc_footprint_alike(f, 7, 8) < 0.55);
    tc_footprint_note(f, 7, 1, 2, one);
    tc_footprint_note(f, 10, 1, 2, one); // 8 was used longest ago
    assert_null(tc_footprint_find(f, 8));
    assert_non_null(tc_footprint_find(f, 7));
    tc_footprint_note(f, 0, 1, 2, one);
    assert_null(tc_footprint_find(f, 0));
    tc_footprints_free(f);
}

// ---- plans ----

// A model of what cores say: batches as large as a 32nd of the memory that holds them allows, and the
// context.
typedef struct sizes {
    uint64_t position_bytes, state_bytes, token_bytes;
} sizes;

static void needs(const void *arg, uint32_t context, uint32_t users, uint64_t vram, uint64_t ram,
                  tc_plan_needs *ret)
{
    const sizes *s = arg;
    uint32_t tokens = context < 2048 ? context : 2048;
    while (tokens > 256 && tokens * s->token_bytes > (vram ? vram : ram) / 32) tokens /= 2;
    *ret = (tc_plan_needs){.kv_bytes = s->position_bytes * context * users,
                           .state_bytes = s->state_bytes * users,
                           .scratch_bytes = tokens * s->token_bytes,
                           .driver_bytes = vram ? 900 << 20 : 0,
                           .host_scratch_bytes = vram ? tokens * 4096ull : 0,
                           .constraints_bytes = 128 << 20,
                           .batch_tokens = tokens};
}

static void check_plan(const tc_plan_input *in)
{
    tc_error e;
    tc_memory_plan p, again;
    assert_int_equal(tc_plan_memory(in, &p, &e), TC_OK);
    if (!p.fits) {
        assert_true(p.reason[0] && p.nearest[0]);
        tc_plan_input better = *in;
        better.context = p.context;
        better.users = p.users;
        better.vram_bytes = p.vram_bytes;
        better.ram_bytes = p.ram_bytes;
        assert_int_equal(tc_plan_memory(&better, &again, &e), TC_OK);
        assert_true(again.fits);
        return;
    }
    const tc_plan_needs *n = &p.needs;
    uint64_t device = p.dense_bytes + n->kv_bytes + n->state_bytes + n->scratch_bytes + n->driver_bytes;
    uint64_t host = p.experts_bytes + n->host_scratch_bytes + n->constraints_bytes + p.programs_bytes +
                    p.prefix_bytes + p.ram_left_bytes;
    if (in->vram_bytes)
        assert_true(device + p.hot_bytes + p.vram_left_bytes == in->vram_bytes && host == in->ram_bytes);
    else
        assert_true(device + host == in->ram_bytes && p.hot_bytes == 0);
    assert_true(p.reason[0] == 0 && p.token_us > 0 && p.hit_rate >= 0 && p.hit_rate <= 1);
    assert_true(p.hot_experts <= in->experts);
}

static void test_plans(void **state)
{
    (void)state;
    srand(23);
    for (int i = 0; i < 20000; i++) {
        const sizes s = {.position_bytes = (uint64_t)rand() % 200000,
                         .state_bytes = (uint64_t)rand() % 200000000,
                         .token_bytes = (uint64_t)rand() % 400000};
        const tc_plan_input in = {.dense_bytes = (uint64_t)rand() << rand() % 5,
                                  .expert_bytes = 1 + (uint64_t)rand() % 20000000,
                                  .experts = (uint64_t)rand() % 30000,
                                  .needs = needs,
                                  .arg = &s,
                                  .token_dense_bytes = 1 + (uint64_t)rand(),
                                  .token_expert_bytes = (uint64_t)rand(),
                                  .max_positions = 1 << 18,
                                  .vram_bytes = rand() % 2 ? (uint64_t)rand() << rand() % 6 : 0,
                                  .ram_bytes = 1 + ((uint64_t)rand() << rand() % 8),
                                  .context = 1 + (uint32_t)rand() % (1 << 18),
                                  .users = 1 + (uint32_t)rand() % 64,
                                  .vram_speed = 800000,
                                  .ram_speed = 80000};
        check_plan(&in);
    }
    // What this is for: 80 billion parameters, 14 GiB and 90 GiB.
    const sizes s = {.position_bytes = 24576, .state_bytes = 77000000, .token_bytes = 200000};
    const tc_plan_input in = {.dense_bytes = 2ull << 30,
                              .expert_bytes = 1622016,
                              .experts = 24576,
                              .needs = needs,
                              .arg = &s,
                              .token_dense_bytes = 1200000000,
                              .token_expert_bytes = 778567680,
                              .max_positions = 262144,
                              .vram_bytes = 14ull << 30,
                              .ram_bytes = 90ull << 30,
                              .context = 32768,
                              .users = 4,
                              .vram_speed = 800000,
                              .ram_speed = 80000,
                              .step_us = 1200};
    tc_error e;
    tc_memory_plan p;
    assert_int_equal(tc_plan_memory(&in, &p, &e), TC_OK);
    assert_true(p.fits && p.needs.batch_tokens == 2048 && p.hot_experts > 4000 && p.hot_experts < 8000);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_round_trip),
        cmocka_unit_test(test_trace_damage),
        cmocka_unit_test(test_belady_is_best),
        cmocka_unit_test(test_default_policy),
        cmocka_unit_test(test_prediction),
        cmocka_unit_test(test_change_of_topic),
        cmocka_unit_test(test_returning_conversation),
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_footprints),
        cmocka_unit_test(test_plans),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
