// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of `bench MODEL --suite` share: the run, its parts, and the records that go to
// results.jsonl (docs/RESULTS.md). suite.c has the table of parts and drives them, suite_results.c reads and
// writes records, suite_engine.c talks to cores, one suite_*.c a section measures. A part's records reach the
// file at its end, all at once: what was interrupted leaves nothing behind.
// Refuses: to be included outside these.
#pragma once

#include "cli/bench.h"
#include "cli/progress.h"
#include "common/text/tokenizer.h"

#include <stdio.h>
#include <yyjson.h>

enum {
    TC_SUITE_PARTS_MAX = 32,
    TC_SUITE_FILE_BYTES_MAX = 256 << 20, // of a results.jsonl that is gone on with
    TC_SUITE_FILE_DEPTH_MAX = 8,
    TC_SUITE_SCHEMA = 1,
};

typedef struct tc_suite tc_suite;

typedef struct tc_suite_part {
    const char *id, *section, *method;
    double weight; // of the progress bar: seconds it takes about, quick, on two cores with the demo model
    tc_status (*run)(tc_suite *s, tc_error *e);
} tc_suite_part;
extern const tc_suite_part tc_suite_parts[];
extern const uint32_t tc_suite_part_count;

// What the report calls this machine: what it is, not whose.
typedef struct tc_host {
    char name[256], kernel[128], gpu[96]; // gpu: "" without one
    uint32_t cores;
    uint64_t vram_bytes;
    const char *features[16];
    uint32_t feature_count;
} tc_host;
void tc_host_read(const tc_machine *machine, tc_host *ret); // suite_host.c

struct tc_suite {
    tc_bench b; // options of the run, the model's footprint, the machine
    bool full, restart;
    const char *suite, *output, *parts, *text, *golden; // as the options say
    char options[1024];                                 // those that change what is measured, for resuming
    tc_tokenizer *tokenizer;
    char *heldout; // text the model has not seen; NULL: none is there, and heldout_reason says so
    char heldout_reason[256];
    uint64_t next_id; // of requests
    tc_host host;
    char commit[48], family[32], model_hash[33];
    bool dirty;
    uint64_t parameters;
    // Asked for now; named by the file's run; done by it.
    bool wanted[TC_SUITE_PARTS_MAX], meant[TC_SUITE_PARTS_MAX], done[TC_SUITE_PARTS_MAX];
    bool failed[TC_SUITE_PARTS_MAX];
    bool ended[TC_SUITE_PARTS_MAX];     // just now, in whatever state
    char other[TC_SUITE_PARTS_MAX][64]; // parts of the file's run that others measure
    uint32_t others;
    // ---- of the part under way ----
    const tc_suite_part *part;
    FILE *records; // a memstream
    char *text_of_records;
    size_t records_bytes;
    char note[512]; // joins the method: what this run chose
    bool skipped;   // the error is the reason of a skip, not of a failure
    uint64_t repetitions;
    // ---- the whole ----
    FILE *file;
    tc_progress bar;
    bool on_gpu; // the device of what was opened last
    double weight_done, weight_total;
};

// ---- suite_results.c ----

// Reads what the file has of this very run (same commit, machine, model, suite, options): parts that are done
// are marked. TC_FORMAT: it is another run's, and the error says in what. A file that is not there is none.
tc_status tc_suite_file_open(tc_suite *s, tc_error *e);
tc_status tc_suite_file_begin(tc_suite *s, const tc_suite_part *part, tc_error *e);
// Ends the part under way: its records and its own go to the file. `state` is done, skipped or failed.
tc_status tc_suite_file_end(tc_suite *s, const char *state, const char *reason, double seconds, tc_error *e);
void tc_suite_file_drop(tc_suite *s); // of the part under way
tc_status tc_suite_file_close(tc_suite *s, tc_error *e);

typedef struct tc_figure {
    const char *figure, *series; // the plot; the line in it
    const char *x_text;          // NULL: `x` counts
    double x;
    const char *x_unit, *unit, *better; // better: "higher", "lower", "none"
    const tc_samples *values;           // one a repetition
    double roofline;                    // in the same unit; 0: there is none
    const struct tc_line {
        const char *label;
        double value;
    } * lines; // ends with a NULL label; NULL: none
} tc_figure;
void tc_suite_figure(tc_suite *s, const tc_figure *figure);
// The original plan's 8 to 12 tokens a second.
extern const struct tc_line tc_plan_lines[];

typedef struct tc_stage {
    const char *label;
    double value;
} tc_stage;
void tc_suite_stack(tc_suite *s, const char *figure, const char *x, const char *unit, const tc_stage *shares,
                    uint32_t count);

// Values of single events. Sorted in place. Buckets are powers of two.
void tc_suite_distribution(tc_suite *s, const char *figure, const char *series, const char *unit,
                           double *values, uint64_t count);
// The same from counts below bounds that grow; quantiles are interpolated inside a bucket.
void tc_suite_buckets(tc_suite *s, const char *figure, const char *series, const char *unit,
                      const double *below, const uint64_t *counts, uint32_t buckets);
// values: [rows][columns]
void tc_suite_matrix(tc_suite *s, const char *figure, const char *rows, const char *columns, const char *unit,
                     const double *values, uint32_t row_count, uint32_t column_count);
// points: [count] of {seconds, value}; planned < 0: nothing was
void tc_suite_timeline(tc_suite *s, const char *figure, const char *series, const char *unit,
                       const double (*points)[2], uint32_t count, double planned);

// ---- suite.c ----

// Records why the part cannot run here and returns a status to hand up.
tc_status tc_suite_skip(tc_suite *s, tc_error *e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Joins the method sentence.
void tc_suite_note(tc_suite *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
// How far the part is; TC_CANCELLED once somebody wants to stop.
tc_status tc_suite_step(tc_suite *s, double done, double total, tc_error *e);

// ---- suite_engine.c ----

// A core (and its workers) with the run's options as `o` changes them. The caller closes it (tc_local_close).
tc_status tc_suite_open(tc_suite *s, tc_run_options *o, tc_local *ret, tc_error *e);
// The run's options, for a change.
tc_run_options tc_suite_options(const tc_suite *s);
// An operator's question; the answer's document is the caller's.
tc_status tc_suite_ask(tc_local *local, tc_question question, const char *text, yyjson_doc **ret,
                       tc_error *e);
tc_status tc_suite_encode(tc_suite *s, const char *text, size_t bytes, tc_ids *ret,
                          tc_error *e); // tc_ids_free

typedef struct tc_answer {
    tc_usage usage;
    uint32_t *tokens; // [room], the caller's; NULL: not kept
    uint32_t room, count;
    uint64_t *uses;  // [layers][experts] counts of (token, expert) pairs, added to; NULL: not asked for
    float *logits;   // [prompt][vocab]; NULL: not asked for
    double first_us; // from asking to the first token
} tc_answer;
// One greedy request to its end.
tc_status tc_suite_generate(tc_suite *s, tc_local *local, const uint32_t *prompt, uint32_t count,
                            uint32_t max_tokens, tc_answer *ret, tc_error *e);
// Starts one that goes on to the end of the context, for load; whoever starts it cancels it.
tc_status tc_suite_endless(tc_suite *s, tc_local *local, const uint32_t *prompt, uint32_t count,
                           uint64_t seed, bool no_cache, uint64_t *ret_id, tc_error *e);
// A file's path in the folder of the suite's own files, which goes at the end.
tc_status tc_suite_place(tc_suite *s, const char *name, char ret[TC_STORE_PATH_BYTES], tc_error *e);
// A copy of a file there.
tc_status tc_suite_copy(tc_suite *s, const char *from, const char *name, char ret[TC_STORE_PATH_BYTES],
                        tc_error *e);
void tc_suite_clean(tc_suite *s); // removes the folder

// Frees a store's arenas, by its content's hash, where nobody maps them.
tc_status tc_suite_drop_hash(const tc_suite *s, const char *hash, bool *ret_in_use, tc_error *e);
tc_status tc_suite_store_hash(const char *path, char ret[33], tc_error *e);
void tc_suite_drop_arenas(const tc_suite *s, const char *store); // "": none

// Bytes of all experts, as packed.
uint64_t tc_suite_expert_bytes(const tc_suite *s);
// Lets so many percent of the experts be hot, as the device takes it: a number on a GPU, bytes on the CPU.
// What the user named stays.
void tc_suite_hot(const tc_suite *s, uint32_t percent, tc_run_options *o);
// Positions a session may have at most: the model's, bounded by `most`.
uint32_t tc_suite_positions(const tc_suite *s, uint32_t most);

// ---- texts, compiled in (cli/texts) ----
typedef struct tc_text {
    const char *name;
    const unsigned char *text;
    const unsigned long *bytes;
} tc_text;
enum { TC_TEXTS = 5 };
extern const tc_text tc_suite_texts[TC_TEXTS]; // suite_inputs.c

// ---- sections ----
tc_status tc_suite_decode(tc_suite *s, tc_error *e);
tc_status tc_suite_carriers(tc_suite *s, tc_error *e);
tc_status tc_suite_prompt(tc_suite *s, tc_error *e);
tc_status tc_suite_users(tc_suite *s, tc_error *e);
tc_status tc_suite_strategies(tc_suite *s, tc_error *e);
tc_status tc_suite_memory(tc_suite *s, tc_error *e);
tc_status tc_suite_swap(tc_suite *s, tc_error *e);
tc_status tc_suite_inputs(tc_suite *s, tc_error *e);
tc_status tc_suite_load(tc_suite *s, tc_error *e);
tc_status tc_suite_latency(tc_suite *s, tc_error *e);
tc_status tc_suite_perplexity(tc_suite *s, tc_error *e);
tc_status tc_suite_agreement(tc_suite *s, tc_error *e);
tc_status tc_suite_determinism(tc_suite *s, tc_error *e);

// `bench MODEL --suite ...`; b has the options.
int tc_suite_main(tc_suite *s);
