// SPDX-License-Identifier: Apache-2.0
// Owns: what counting costs: each hook of the metrics and of a trace that is off, timed by itself, and the
// sum of a token beside a token's time. thermocline-bench-hooks TOKENS_PER_S [LAYERS WORKERS PAIRS] Why so:
// on a machine with others on it two runs of a server differ by more than the half percent in question, while
// the fastest of many short loops does not.
#include "gpu-core/experts/source_workers.c" // its statics are the hooks

#include <stdlib.h>

enum { ROUNDS = 40, CALLS = 20000, PAIRS_MAX = 512 };

typedef struct bench {
    source_workers *source;
    tc_hub_event event;
    share share;
    tc_histogram histogram;
    uint64_t value;
} bench;

static void clock_hook(bench *b)
{
    b->value += tc_now_us();
}

static void histogram_hook(bench *b)
{
    b->value = b->value * 6364136223846793005u + 1;
    tc_histogram_add(&b->histogram, (b->value >> 40) % 100000);
}

static void trace_hook(bench *b)
{
    if (__atomic_load_n(&tc_trace_on, __ATOMIC_RELAXED)) b->value++;
}

static void result_hook(bench *b)
{
    note_result(b->source, &b->event, &b->share);
}

// Nanoseconds of one call: the fastest of many rounds.
static double time_of(bench *b, void (*hook)(bench *b))
{
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start_ns = tc_now_ns();
        for (int i = 0; i < CALLS; i++) {
            hook(b);
            __asm__ volatile("" ::: "memory");
        }
        double ns = (double)(tc_now_ns() - start_ns) / CALLS;
        if (ns < best) best = ns;
    }
    return best;
}

int main(int argc, char **argv)
{
    static tc_expert_pair pairs[PAIRS_MAX];
    static tc_store_info info = {.units = 8, .expert_bytes = 1 << 20};
    double rate = argc > 1 ? atof(argv[1]) : 0;
    unsigned layers = argc > 2 ? (unsigned)atoi(argv[2]) : 8,
             workers = argc > 3 ? (unsigned)atoi(argv[3]) : 2, count = argc > 4 ? (unsigned)atoi(argv[4]) : 4;
    bench b = {.source = calloc(1, sizeof *b.source)};
    if (rate <= 0 || !b.source || count > PAIRS_MAX) return 2;
    for (unsigned i = 0; i < count; i++) pairs[i].expert = i;
    b.source->info = &info;
    b.source->workers[0] = (worker){.up = true, .id = 1};
    b.event = (tc_hub_event){.worker = 1, .compute_us = 50, .carrier = TC_CARRIER_SHM};
    b.share.call =
        (tc_expert_call){.tokens = 1, .hidden = 2048, .pairs = pairs, .pair_count = count, .unit_end = 8};
    b.source->workers[0].sent_us = tc_now_us(); // of the call that is answered
    double clock = time_of(&b, clock_hook), add = time_of(&b, histogram_hook),
           trace = time_of(&b, trace_hook), result = time_of(&b, result_hook);
    // A layer: for each worker a result and the time it was sent at; five looks at the clock for its stages,
    // three at the trace. A token: the head's stage, the step's histogram, and in the gateway the clock and a
    // histogram.
    double token = layers * (workers * (result + clock) + 5 * clock + 3 * trace) + 2 * add + 3 * clock;
    printf(
        "{\"clock_ns\":%.1f,\"histogram_ns\":%.1f,\"trace_off_ns\":%.2f,\"result_ns\":%.1f,\"token_ns\":%.0f,"
        "\"share_percent\":%.3f}\n",
        clock, add, trace, result, token, token * rate / 1e7);
    free(b.source);
    return 0;
}
