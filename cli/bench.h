// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the verb `bench` share: the machine's roofs, a model under load, samples and their
// spread, and the report. One file a figure: bench_decode.c, bench_prompt.c, bench_users.c, bench_context.c,
// bench_load.c, bench_kernels.c. Refuses: to be included outside these.
#pragma once

#include "cli/bench_roofline.h"
#include "cli/footprint.h"
#include "cli/run.h"
#include "common/kernels/matrix_peak.h"

enum { TC_BENCH_REPETITIONS_MAX = 64, TC_BENCH_USERS_MAX = 64, TC_BENCH_SPARE_POSITIONS = 512 };

// ---- samples ----
typedef struct tc_samples {
    double value[TC_BENCH_REPETITIONS_MAX]; // in order of measuring
    uint32_t count;
} tc_samples;

void tc_samples_add(tc_samples *s, double value); // one too many is dropped
double tc_samples_min(const tc_samples *s);       // 0 without samples, all three
double tc_samples_median(const tc_samples *s);
double tc_samples_max(const tc_samples *s);

// ---- the machine ----
typedef struct tc_machine {
    char cpu[96];
    uint32_t cpus, nodes;
    uint64_t memory_bytes, last_cache_bytes;
    tc_team *team;
    tc_samples read_gb_per_s; // one before each repetition, one after the last
    tc_matrix_peak peak;      // count 0: not measured
} tc_machine;

tc_status tc_machine_open(uint64_t threads, tc_machine *ret, tc_error *e); // threads 0: all CPUs
void tc_machine_close(tc_machine *machine);
tc_status tc_machine_measure_read(tc_machine *machine, tc_error *e); // adds a sample
// The roof of repetition `i`: the better of the measurements around it.
double tc_machine_read(const tc_machine *machine, uint32_t i);

// ---- one run of the verb ----
typedef struct tc_bench {
    const char *model, *figure;
    uint64_t tokens, prompt_tokens, repetitions, users, positions;
    double temperature;
    bool json;
    const char *prompts; // sizes of `prompt`, by commas; NULL: the usual ones
    uint64_t settle_s;   // between ready and the first measurement
    uint32_t collapsed;  // lines that are not valid
    tc_machine machine;
    tc_model_desc desc;
    tc_footprint footprint;
    tc_run_options o;
} tc_bench;

tc_status tc_bench_decode(tc_bench *b, tc_error *e);
tc_status tc_bench_prompt(tc_bench *b, tc_error *e);
tc_status tc_bench_users(tc_bench *b, tc_error *e);
tc_status tc_bench_context(tc_bench *b, tc_error *e);
tc_status tc_bench_load(tc_bench *b, tc_error *e);
tc_status tc_bench_kernels(tc_bench *b, tc_error *e);

// ---- a model under load (bench_run.c) ----

// What the core did between two moments, in sums over its steps.
typedef struct tc_window {
    double seconds;
    uint64_t steps, tokens;
    uint64_t step_us, attention_us, router_us, expert_us, wait_us, head_us;
    uint64_t expert_reads, expert_pairs, expert_hits;
    uint64_t fetched;                  // cold experts that the GPU read by itself
    uint64_t prefill_us;               // of the request, not of the window
    double token_p50_us, token_p95_us; // between two tokens of the first stream, as this client sees them
} tc_window;
void tc_window_add(tc_window *total, const tc_window *w);

// ---- where tokens were routed (bench_routing.c) ----
typedef struct tc_touched {
    uint64_t experts, of, tokens; // distinct (layer, expert); of all there are; tokens looked at
    uint32_t layers, fewest;      // layers with experts; distinct experts of the layer with fewest
    double a_layer, even;         // distinct experts a layer; what even routing would touch
    double zipf, repeated;        // NaN: not known. Exponent of popularity; share of the token's before
    double quarter_hits;          // of a hot tier for a quarter of all experts, policy `decayed`
    bool collapsed;               // a_layer is far below even
} tc_touched;

typedef struct tc_routes tc_routes;
typedef struct tc_seen {
    const tc_model_desc *desc; // borrowed
    uint32_t *used;            // [layers][experts]
    int32_t *last;             // [layers][top_k] of the first stream's token before
    tc_routes *routes;         // of the first stream
    uint64_t tokens, compared, repeated;
    bool followed;
} tc_seen;

double tc_even_experts(uint32_t experts, uint32_t top_k, uint64_t tokens);
tc_status tc_seen_open(tc_seen *seen, const tc_model_desc *desc, tc_error *e);
void tc_seen_free(tc_seen *seen); // zeroed is legal
// experts: [positions][layers][top_k], -1 where a layer has none. Tokens of the first stream follow each
// other.
tc_status tc_seen_note(tc_seen *seen, bool first_stream, uint32_t positions, const int32_t *experts,
                       tc_error *e);
tc_status tc_seen_touched(tc_seen *seen, tc_touched *ret, tc_error *e); // once, at the end

// `streams` requests with random prompts of `prompt_tokens` decode together; each of the windows (0: one),
// which follow each other, has `tokens` steps or one or two more, in which all of them took part. `id` and
// the streams - 1 after it are used. ret: [windows]. touched may be NULL.
typedef struct tc_load {
    uint64_t id;
    uint32_t streams, prompt_tokens, tokens, windows;
} tc_load;
tc_status tc_bench_run(tc_bench *b, tc_local *local, const tc_load *load, tc_window *ret, tc_touched *touched,
                       tc_error *e);
// Only the prompt: usage of a request that stops after its first token, and what its steps did. touched: as
// above, of the prompt; looking costs time.
tc_status tc_bench_prefill(tc_bench *b, tc_local *local, uint64_t id, uint32_t prompt_tokens, tc_window *ret,
                           tc_touched *touched, tc_error *e);
// After tc_local_open: what was asked for between ready and the first measurement.
void tc_bench_settle(const tc_bench *b);

// Bytes that one step of `streams` tokens at `position` must read: dense weights once, `reads` experts, each
// stream's KV and recurrent state. From what the core and the store say they hold.
uint64_t tc_bench_step_bytes(const tc_bench *b, const tc_local *local, double reads, uint32_t streams,
                             uint64_t position);
// The roofline of such a step in both bytes and products, at that read bandwidth: `runs` sequences of
// `run_tokens` tokens, the first of each at `position`, `head_rows` of them meet the head. False: the device
// is not the CPU, or peaks were not measured.
typedef struct tc_bench_rounds {
    double reads, runs, head_rows;
    uint32_t run_tokens;
    uint64_t position;
} tc_bench_rounds;
bool tc_bench_roof(const tc_bench *b, const tc_local *local, const tc_bench_rounds *rounds,
                   double read_gb_per_s, tc_roof *ret);
// KV of one position, in all layers, as the options say it is kept.
uint64_t tc_bench_position_bytes(const tc_bench *b);
// Experts of one token.
uint64_t tc_bench_token_reads(const tc_bench *b);

// ---- the report (bench_report.c): lines for people, or one JSON object a line ----
typedef struct tc_report tc_report;

// Opens the object of one configuration of a figure; machine, commit, model and options are in it.
tc_status tc_report_open(const tc_bench *b, const char *configuration, const tc_local *local, tc_report **ret,
                         tc_error *e);
// A figure with its spread. `unit` ends the line. Key is snake case, its unit last.
void tc_report_samples(tc_report *r, const char *key, const char *label, const tc_samples *s,
                       const char *unit);
void tc_report_number(tc_report *r, const char *key, const char *label, double value, const char *unit);
void tc_report_count(tc_report *r, const char *key, const char *label, uint64_t value, const char *unit);
void tc_report_bytes(tc_report *r, const char *key, const char *label, uint64_t value);
void tc_report_flag(tc_report *r, const char *key, bool value); // JSON only
void tc_report_note(tc_report *r, const char *text);            // a line for people, "note" in JSON
// Where the time of a step goes: attention, router, experts, carrier wait, head and sampling, rest.
void tc_report_stages(tc_report *r, const tc_window *w);
void tc_report_memory(tc_report *r, const tc_local *local);
void tc_report_hits(tc_report *r, const tc_bench *b, const tc_window *w); // of the hot tier
// What looking ahead came to since start; nothing where nobody did.
void tc_report_ahead(tc_report *r, const tc_local *local);
void tc_report_device(tc_report *r, const tc_local *local); // its memory, if it has any
void tc_report_peak(tc_report *r, const tc_machine *machine);
// The parts of a step's roofline; the fraction of it that was reached is told beside it, and beside that of
// the bytes.
void tc_report_roof(tc_report *r, const tc_roof *roof);
// Where tokens went, and whether that makes a valid figure (bench_routing.c); one that is not is counted in
// b.
void tc_bench_routing(tc_bench *b, tc_report *r, const tc_touched *touched);
void tc_report_close(tc_report *r); // prints it
