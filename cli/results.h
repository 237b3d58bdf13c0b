// SPDX-License-Identifier: Apache-2.0
// Owns: results.jsonl, what a suite of benchmarks measured: one JSON object a line, read with every length
// bounded and every type checked. docs/REPORT.md has the format. Records of a kind that is not known here are
// counted and passed over; a last line that was cut off (the run was killed while it wrote) is left out and
// said. Refuses: writing it, and guessing: a known record with a wrong field is an error that names the line.
#pragma once

#include "common/base/json.h"

#include <stdio.h>

#define TC_RESULTS_FILE "results.jsonl"

enum {
    TC_RESULTS_BYTES_MAX = 64 << 20, // of the file
    TC_RESULTS_LINE_BYTES_MAX = 4 << 20,
    TC_RESULTS_RECORDS_MAX =
        16384, // figures, stacks, distributions, matrices and timelines, replaced ones too
    TC_RESULTS_RUNS_MAX = 64,
    TC_RESULTS_PARTS_MAX = 512,       // planned, and reported (each)
    TC_RESULTS_NAME_BYTES_MAX = 256,  // ids, series, labels, units
    TC_RESULTS_TEXT_BYTES_MAX = 4096, // methods, reasons
    TC_RESULTS_VALUES_MAX = 256,      // repetitions of one figure
    TC_RESULTS_LABELS_MAX = 64,       // shares, quantiles, lines of one record
    TC_RESULTS_PAIRS_MAX = 4096,      // buckets, points of one record
    TC_RESULTS_ROWS_MAX = 512,        // of a matrix
    TC_RESULTS_CELLS_MAX = 1 << 16,
};

typedef struct tc_result_label {
    const char *label;
    double value;
} tc_result_label;

typedef struct tc_result_pair {
    double x, y; // upper bound and count of a bucket; seconds and value of a point
} tc_result_pair;

typedef enum tc_result_kind {
    TC_RESULT_FIGURE,       // values: one a repetition
    TC_RESULT_STACK,        // labels: shares of a sum
    TC_RESULT_DISTRIBUTION, // labels: quantiles ("0.5"); pairs: buckets
    TC_RESULT_MATRIX,       // cells
    TC_RESULT_TIMELINE,     // pairs: points
} tc_result_kind;

typedef enum tc_better { TC_BETTER_NONE, TC_BETTER_HIGHER, TC_BETTER_LOWER } tc_better;

// One measured thing. Texts are never NULL: "" where the record has none.
typedef struct tc_result {
    tc_result_kind kind;
    const char *id, *part, *figure, *title, *series, *unit;
    const char *x_text, *x_unit; // x_text "": x is a number
    double x;
    tc_better better;
    uint32_t line, run, part_at;     // line of the file; index of the run it was measured in, and of its part
    double *values;                  // in order of measuring
    double median, low, high;        // of the values
    double roofline, planned, count; // NAN: none said
    const char *rows_name, *columns_name;
    float *cells; // [rows][columns]
    tc_result_label *labels;
    tc_result_pair *pairs;
    uint32_t value_count, label_count, pair_count, rows, columns;
} tc_result;

typedef enum tc_part_state { TC_PART_MISSING, TC_PART_DONE, TC_PART_SKIPPED, TC_PART_FAILED } tc_part_state;

typedef struct tc_result_part {
    const char *id, *section, *reason, *method, *parameters; // parameters: "name value, ..."
    tc_part_state state; // TC_PART_MISSING: a run meant to do it, and the file says nothing of it
    double seconds;
    uint32_t line;
} tc_result_part;

typedef struct tc_result_run {
    uint32_t line;
    const char *suite, *started, *commit, *version;
    bool dirty;
    const char *machine, *cpu, *gpu, *kernel, *features; // features: with spaces between
    uint64_t cores, threads, ram_bytes, vram_bytes, numa_nodes;
    double read_bytes_per_s;
    const char *model, *family, *model_hash;
    uint64_t parameters, model_bytes, experts, layers, top_k;
} tc_result_run;

typedef struct tc_results {
    tc_result_run *runs; // the last one is the report's head
    uint32_t run_count;
    tc_result_part *parts; // in the order the runs meant to do them
    uint32_t part_count;
    tc_result *items; // by their parts' order, then by line
    uint32_t count;
    uint32_t unknown;  // records of other kinds
    uint32_t cut_line; // the line that was cut off, or 0
    bool baseline;     // several runs' figures: those of one id are one figure with all their repetitions
    struct tc_results_memory *memory;
} tc_results;

// `what` names the file in errors. Free with tc_results_free.
tc_status tc_results_parse(const char *what, const char *text, size_t bytes, tc_results **ret, tc_error *e);
// path: the file, or a folder with a results.jsonl.
tc_status tc_results_load(const char *path, tc_results **ret, tc_error *e);
void tc_results_free(tc_results *r);
// The bytes that tc_results_load reads. Owner: the caller, free().
tc_status tc_results_read(const char *path, char **ret, size_t *ret_bytes, tc_error *e);
// Ends what was written to `part` and gives it its name; closes f. On failure nothing of it is left.
tc_status tc_results_put(FILE *f, const char *part, const char *path, tc_error *e);

// NULL: no part of that id.
const tc_result_part *tc_results_part(const tc_results *r, const char *id);
double tc_median(const double *values, uint32_t count); // of at least one, any order
