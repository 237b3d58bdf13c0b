// SPDX-License-Identifier: Apache-2.0
// Owns: what the two pages of a report share: which records make one figure, in which unit they are told, how
// numbers are written, and the lines of the summary. Refuses: to be included outside report*.c.
#pragma once

#include "cli/plot.h"
#include "cli/results.h"

enum { TC_UNIT_BYTES = TC_RESULTS_NAME_BYTES_MAX + 8 };

// Records of one kind with one name within one section, in order of the file.
typedef struct tc_group {
    tc_result_kind kind;
    const char *section, *figure;
    const tc_result **items;
    uint32_t count;
    double factor; // of the records' unit, to be told in `unit`
    char unit[TC_UNIT_BYTES];
    double x_factor; // the same for times and sizes along x
    char x_unit[TC_UNIT_BYTES];
} tc_group;

typedef struct tc_groups { // of one file of results
    tc_group *groups;
    const tc_result **items; // where the groups' lists lie
    uint32_t count;
} tc_groups;

tc_status tc_groups_make(const tc_results *r, tc_groups *ret, tc_error *e);
void tc_groups_free(tc_groups *g);

// A unit that makes numbers up to `size` short: bytes become GiB, us become ms. *ret_factor turns one into
// the other. Units that are not known stay.
const char *tc_unit_scale(const char *unit, double size, double *ret_factor, char ret[TC_UNIT_BYTES]);

const char *tc_bytes_text(uint64_t bytes, char ret[TC_NUMBER_BYTES]); // "1.620 MiB"

// "figure-name" as "Figure name". ret holds at least TC_RESULTS_NAME_BYTES_MAX + 1.
void tc_title(const tc_group *g, char *ret, size_t bytes);
const char *tc_map_name(const tc_result *matrix); // which of its group's maps it is
// "256 tokens", "prose", or "" where the record has no x.
void tc_x_text(const tc_group *g, const tc_result *item, char *ret, size_t bytes);
bool tc_has_x(const tc_group *g);      // any record has one
bool tc_has_series(const tc_group *g); // more than one name among the records

// Has the part of g's record `item` had a record before that one, in this group or in an earlier one?
bool tc_part_told(const tc_groups *all, const tc_group *g, uint32_t item);

// Part of the roofline that was reached, 0..1 and more; NAN: no roofline.
double tc_of_roofline(const tc_result *item);
bool tc_rooflines_agree(const tc_group *g); // one roofline a value of x, whatever the series
double tc_quantile(const tc_result *distribution, const char *share); // NAN: not in the record

// Sections in the order of the report, then those that are not known in order of appearance; `at` from 0,
// NULL at the end. *ret_title is for people.
const char *tc_section(const tc_results *r, uint32_t at, const char **ret_title);

// ---- tables (report_tables.c) ----
// A group's records as rows, for whoever writes them; cells are plain text, what comes after a newline in one
// is beside the point (spread). The first `texts` columns are names, the others numbers. A caption comes
// first.
enum { TC_TABLE_COLUMNS_MAX = 20 };
typedef struct tc_table_writer {
    FILE *f;
    void (*caption)(const struct tc_table_writer *w, const char *text);
    void (*row)(const struct tc_table_writer *w, const char *const *cells, uint32_t count, uint32_t texts,
                bool head);
} tc_table_writer;
void tc_group_table(const tc_results *r, const tc_group *g, const tc_table_writer *w);

// ---- the summary (report_summary.c) ----
typedef struct tc_summary_line {
    const char *what, *section;
    char value[160], detail[320];
} tc_summary_line;
enum { TC_SUMMARY_MAX = 12 };
// What a reader asks first; what was not measured says so. Returns the number of lines.
uint32_t tc_summary(const tc_results *r, const tc_groups *g, tc_summary_line ret[TC_SUMMARY_MAX]);

// How many parts are in a state.
uint32_t tc_parts_in(const tc_results *r, tc_part_state state);
const char *tc_part_state_text(tc_part_state state);

// The picture of a group (report_plots.c). False: no memory, nothing was drawn.
bool tc_group_draw(FILE *f, const tc_group *g);
