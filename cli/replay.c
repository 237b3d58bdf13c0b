// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `replay`: what each policy at each capacity would have done with a recorded or generated
// run, beside the optimum that knows the future and the best choice that never changes. Table, JSON lines,
// plot.
#include "common/placement/replay.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/svg.h"
#include "common/placement/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITIES_MAX = TC_SVG_POINTS_MAX, ROWS = TC_POLICIES + 2 };

typedef struct settings {
    const char *policies, *slots, *plot, *profile, *write;
    bool generated, json, per_layer, second_miss;
    uint64_t returns, tokens, seed, fill_steps, skip, topic_tokens, ahead, ahead_tokens;
    double link, hot, cold, fixed, fast, slow, weight, margin, repeat, stray, spread, common;
} settings;

typedef struct sweep {
    uint32_t slots[CAPACITIES_MAX], count;
    bool wanted[TC_POLICIES];
    tc_svg_line lines[ROWS];
    uint32_t line_count;
} sweep;

static tc_status read_policies(const char *text, bool expects, sweep *ret, tc_error *e)
{
    char name[32];
    if (!text || !strcmp(text, "all")) {
        for (int i = 0; i < TC_POLICIES; i++)
            ret->wanted[i] = i != TC_POLICY_STATIC && (i != TC_POLICY_PREDICTIVE || expects);
        return TC_OK;
    }
    while (*text) {
        tc_cache_policy policy;
        size_t n = strcspn(text, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < 31 ? n : 31), text);
        if (!tc_policy_parse(name, &policy))
            return tc_fail(e, TC_ARGUMENT,
                           "--policy %s: not one of all, static, lru, lfu, decayed, predictive", name);
        ret->wanted[policy] = true;
        text += n + (text[n] == ',');
    }
    return TC_OK;
}

// "64,96" slots a layer, or "12.5%,25%" of all experts.
static tc_status read_slots(const char *text, const tc_routing_info *info, uint32_t layers, sweep *ret,
                            tc_error *e)
{
    if (!text) text = "6.25%,12.5%,18.75%,25%,50%";
    while (*text) {
        char *end;
        double value = strtod(text, &end);
        bool percent = *end == '%';
        double slots = percent ? value / 100 * layers * info->experts : value * layers;
        if (end == text || (end[percent] != ',' && end[percent]) || !(slots >= 1) ||
            slots > (double)TC_CACHE_SLOTS_MAX || ret->count == CAPACITIES_MAX)
            return tc_fail(e, TC_ARGUMENT, "--slots %s: not a list of slots a layer, or of percents", text);
        ret->slots[ret->count++] = (uint32_t)(slots + 0.5);
        text = end + percent + (end[percent] == ',');
    }
    return TC_OK;
}

static void print_row(const settings *s, const tc_routes *routes, const char *policy, uint32_t slots,
                      uint32_t layers, const tc_replay_result *r)
{
    double share = (double)slots / ((double)layers * routes->info.experts);
    double per_token = routes->token_count ? (double)r->fills / (double)routes->token_count : 0;
    if (s->json)
        printf(
            "{\"policy\":\"%s\",\"slots\":%u,\"share\":%.5f,\"hit_rate\":%.6f,\"hits\":%llu,\"lookups\":%llu,"
            "\"lookups_ahead\":%llu,\"fills\":%llu,\"fill_bytes\":%llu,\"evictions\":%llu,\"tokens_per_s\":%."
            "3f,\"lookups_per_s\":%."
            "0f}\n",
            policy, slots, share, r->hit_rate, (unsigned long long)r->hits, (unsigned long long)r->lookups,
            (unsigned long long)r->lookups_ahead, (unsigned long long)r->fills,
            (unsigned long long)r->fill_bytes, (unsigned long long)r->evictions, r->tokens_per_s,
            r->lookups_per_s);
    else
        printf("%7u %6.1f %%  %-12s %7.2f %% %10.2f %9.2f %12.1f %10.1f\n", slots, 100 * share, policy,
               100 * r->hit_rate, per_token, (double)r->fill_bytes / (double)(1 << 30), r->tokens_per_s,
               r->lookups_per_s / 1e6);
}

static void keep(sweep *w, const char *name, uint32_t point, double hit_rate)
{
    uint32_t i = 0;
    while (i < w->line_count && strcmp(w->lines[i].name, name) != 0) i++;
    if (i == w->line_count) w->lines[w->line_count++].name = name;
    w->lines[i].y[point] = hit_rate;
}

// Sessions that come back, with and without their footprints.
static tc_status print_returns(const settings *s, const tc_routes *routes, const tc_replay_options *o,
                               tc_error *e)
{
    for (int warm = 0; warm < 2; warm++) {
        tc_replay_returns r;
        TC_TRY(tc_replay_first_tokens(routes, o, (uint32_t)s->returns, warm, &r, e));
        double rate = r.lookups ? (double)r.hits / (double)r.lookups : 0;
        if (s->json)
            printf("{\"returns\":%llu,\"warm\":%s,\"tokens\":%llu,\"slots\":%u,\"hit_rate\":%.6f}\n",
                   (unsigned long long)r.returns, warm ? "true" : "false", (unsigned long long)s->returns,
                   o->cache.slots, rate);
        else
            printf("%7u %8s  %llu sessions come back, %s: %.2f %% in their first %llu tokens\n",
                   o->cache.slots, "", (unsigned long long)r.returns, warm ? "with their footprints" : "cold",
                   100 * rate, (unsigned long long)s->returns);
    }
    return TC_OK;
}

static tc_status run_capacity(const settings *s, const tc_routes *routes, uint32_t layers, const float *prior,
                              uint32_t point, sweep *w, tc_error *e)
{
    tc_replay_result r;
    tc_replay_options o = {.prior = prior,
                           .fill_steps = (uint32_t)s->fill_steps,
                           .cost = {s->fixed, s->hot * 1000, s->cold * 1000},
                           .ahead = s->ahead ? (uint32_t)s->ahead : (w->slots[point] + 7) / 8,
                           .ahead_tokens = (uint32_t)s->ahead_tokens,
                           .skip_steps = s->skip < routes->step_count ? s->skip : 0};
    o.cache.slots = o.cache.slots_max = w->slots[point];
    o.cache.per_layer = s->per_layer;
    o.cache.link_bytes_per_us = s->link * 1000;
    o.cache.fast_tokens = s->fast;
    o.cache.slow_tokens = s->slow;
    o.cache.fast_weight = s->weight;
    o.cache.margin = 0;
    for (int i = 0; i < TC_POLICIES; i++) {
        if (!w->wanted[i]) continue;
        o.cache.policy = (tc_cache_policy)i;
        o.cache.second_miss = s->second_miss && i >= TC_POLICY_DECAYED; // LRU is LRU
        o.cache.margin = i >= TC_POLICY_DECAYED ? s->margin : 0;
        TC_TRY(tc_replay_run(routes, &o, &r, e));
        print_row(s, routes, tc_policy_name(o.cache.policy), w->slots[point], layers, &r);
        keep(w, tc_policy_name(o.cache.policy), point, r.hit_rate);
    }
    if (s->returns) {
        o.cache.policy = TC_POLICY_DECAYED;
        o.cache.second_miss = s->second_miss;
        o.cache.margin = s->margin;
        TC_TRY(print_returns(s, routes, &o, e));
    }
    TC_TRY(tc_replay_best_static(routes, &o, &r, e));
    print_row(s, routes, "best static", w->slots[point], layers, &r);
    keep(w, "best static", point, r.hit_rate);
    TC_TRY(tc_replay_belady(routes, &o, &r, e));
    print_row(s, routes, "belady", w->slots[point], layers, &r);
    keep(w, "belady", point, r.hit_rate);
    return TC_OK;
}

static tc_status get_routes(const settings *s, const char *path, tc_routes *ret, tc_error *e)
{
    if (!s->generated) return tc_routes_load(path, ret, e);
    tc_route_spec spec = tc_route_spec_default();
    if (s->tokens) spec.tokens = (uint32_t)s->tokens;
    if (s->seed) spec.seed = (uint32_t)s->seed;
    if (s->topic_tokens) spec.topic_tokens = (uint32_t)s->topic_tokens;
    if (s->repeat >= 0) spec.repeat = s->repeat;
    if (s->stray >= 0) spec.stray = s->stray;
    if (s->spread > 0) spec.spread = s->spread;
    if (s->common >= 0) spec.common = s->common;
    return tc_routes_generate(&spec, ret, e);
}

static tc_status read_prior(const settings *s, const tc_routes *routes, float **ret, tc_error *e)
{
    tc_profile *profile = NULL;
    if (!s->profile) return TC_OK;
    TC_TRY(tc_profile_load(s->profile, NULL, &profile, e));
    tc_status status = TC_OK;
    if (profile->layers != routes->info.layers || profile->experts != routes->info.experts)
        status =
            tc_fail(e, TC_ARGUMENT, "--profile %s: of %u layers of %u experts, the trace has %u of %u",
                    s->profile, profile->layers, profile->experts, routes->info.layers, routes->info.experts);
    else if (!(*ret = calloc((size_t)profile->layers * profile->experts, sizeof **ret)))
        status = tc_fail(e, TC_NOMEM, "out of memory");
    else
        tc_profile_rates(profile, *ret);
    tc_profile_free(profile);
    return status;
}

static tc_status replay(const settings *s, const char *path, tc_error *e)
{
    tc_status status;
    tc_routes routes = {0};
    sweep w = {0};
    float *prior = NULL;
    uint32_t layers = 0;
    double x[CAPACITIES_MAX];
    TC_GOTO(get_routes(s, path, &routes, e));
    for (uint32_t i = 0; i < routes.info.layers; i++) layers += tc_routing_has_experts(&routes.info, i);
    TC_GOTO(read_policies(s->policies, routes.expected_count > 0, &w, e));
    TC_GOTO(read_slots(s->slots, &routes.info, layers, &w, e));
    TC_GOTO(read_prior(s, &routes, &prior, e));
    if (!s->json)
        printf("%llu tokens in %llu steps, %llu lookups; %u layers of %u experts, top %u\n%7s %8s  %-12s %9s "
               "%10s %9s %12s %10s\n",
               (unsigned long long)routes.token_count, (unsigned long long)routes.step_count,
               (unsigned long long)routes.use_count, layers, routes.info.experts, routes.info.top_k, "slots",
               "of all", "policy", "hits", "fills/tok", "GiB", "tokens/s", "Mlookup/s");
    for (uint32_t i = 0; i < w.count; i++) {
        TC_GOTO(run_capacity(s, &routes, layers, prior, i, &w, e));
        x[i] = 100.0 * w.slots[i] / ((double)layers * routes.info.experts);
    }
    if (s->plot)
        TC_GOTO(tc_svg_lines(s->plot, "hits by capacity", "slots, % of all experts", x, w.count, w.lines,
                             w.line_count, e));
out:
    free(prior);
    tc_routes_free(&routes);
    return status;
}

#define NUMBER(option, field, least, most, text)                                                             \
    {                                                                                                        \
        .name = option, .kind = TC_OPTION_NUMBER, .target = &s.field, .min = least, .max = most,             \
        .help = text                                                                                         \
    }
#define REAL(option, field, least, most, text)                                                               \
    {                                                                                                        \
        .name = option, .kind = TC_OPTION_REAL, .target = &s.field, .min = least, .max = most, .help = text  \
    }
#define TEXT(option, field, value, text)                                                                     \
    {                                                                                                        \
        .name = option, .kind = TC_OPTION_TEXT, .target = &s.field, .choices = value, .help = text           \
    }
#define FLAG(option, field, text)                                                                            \
    {                                                                                                        \
        .name = option, .kind = TC_OPTION_FLAG, .target = &s.field, .help = text                             \
    }

int tc_cli_replay(int argc, char **argv)
{
    settings s = {.ahead_tokens = 8,
                  .hot = 800,
                  .cold = 80,
                  .fixed = 2500,
                  .repeat = -1,
                  .stray = -1,
                  .common = -1,
                  .second_miss = true};
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        TEXT("--policy", policies, "LIST",
             "static,lru,lfu,decayed,predictive (default: all that need no profile)"),
        TEXT("--slots", slots, "LIST", "slots a layer, or percents of all experts: 64,96 or 12.5%,25%"),
        FLAG("--per-layer", per_layer, "every layer has its own slots"),
        TEXT("--profile", profile, "FILE", "what is known beforehand"),
        NUMBER("--skip-steps", skip, 0, 1e9, "not counted: the cache warms up"),
        NUMBER("--fill-steps", fill_steps, 0, 1000,
               "steps until a fill is there (default 0: the next has it)"),
        NUMBER(
            "--returns", returns, 0, 4096,
            "hits in so many first tokens of sessions that come back, cold and warmed (default 0: not told)"),
        NUMBER("--ahead", ahead, 0, 1024,
               "predictive: fills a layer to come (default: an eighth of the slots)"),
        NUMBER("--ahead-tokens", ahead_tokens, 0, 1024,
               "predictive: of the steps that look ahead (default 8); Mlookup/s, of CPU time, counts what is "
               "looked up ahead beside what is read"),
        REAL("--link-gbps", link, 0, 1e4, "bandwidth that fills may take (default: no limit)"),
        REAL("--hot-gbps", hot, 0.001, 1e5, "bandwidth of the memory of hot experts (default 800)"),
        REAL("--cold-gbps", cold, 0.001, 1e5, "of cold ones (default 80)"),
        REAL("--step-us", fixed, 0, 1e9, "of a step without routed experts (default 2500)"),
        REAL("--fast-tokens", fast, 0, 1e6, "decayed: the short half-life"),
        REAL("--slow-tokens", slow, 0, 1e6, "decayed: the long half-life"),
        REAL("--fast-weight", weight, 0, 1, "decayed: weight of the short one"),
        REAL("--margin", margin, 0, 10, "decayed: how much more a newcomer must be worth"),
        FLAG("--generated", generated,
             "routes of our own making instead of a trace: 48 layers, 512 experts, top 10"),
        NUMBER("--tokens", tokens, 1, 1 << 24, "of generated routes (default 16384)"),
        NUMBER("--seed", seed, 1, 1e9, "of generated routes"),
        NUMBER("--topic-tokens", topic_tokens, 1, 1 << 24, "how long a topic lasts (default 2048)"),
        REAL("--spread", spread, 1, 1e6, "how many experts a topic uses (default 32)"),
        REAL("--common", common, 0, 1, "how alike topics are (default 0.5)"),
        REAL("--repeat", repeat, 0, 0.95, "share of draws that repeat the last token's (default 0.1)"),
        REAL("--stray", stray, 0, 0.95, "share of draws that fall anywhere (default 0.08)"),
        TEXT("--plot", plot, "FILE.svg", "hits by capacity, all policies"),
        FLAG("--json", json, "one object a line"),
        {0},
    };
    int code = tc_options_parse(table, "replay TRACE | --generated [options]", 0, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if ((arguments.count == 1) == s.generated) {
        tc_fail(&e, TC_ARGUMENT, "replay: a trace, or --generated");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    return replay(&s, arguments.positional[0], &e) == TC_OK ? 0 : tc_cli_fail(&e);
}
