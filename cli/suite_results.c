// SPDX-License-Identifier: Apache-2.0
// Owns: results.jsonl: what each record holds, and which parts of an earlier run stand. Refuses: to measure.
#include "cli/suite.h"
#include "common/base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ID_BYTES = 256, BUCKETS_MAX = 64 };

const struct tc_line tc_plan_lines[] = {{"original plan, least", 8}, {"original plan, most", 12}, {NULL, 0}};

// ---- records of the part under way ----

typedef struct record {
    yyjson_mut_doc *doc;
    yyjson_mut_val *root;
} record;

// JSON has no infinities.
static yyjson_mut_val *real_of(yyjson_mut_doc *doc, double value)
{
    return isfinite(value) ? yyjson_mut_real(doc, value) : yyjson_mut_null(doc);
}

static void put_real(record *r, const char *key, double value)
{
    yyjson_mut_obj_add_val(r->doc, r->root, key, real_of(r->doc, value));
}

// `series` and `x` may be NULL.
static record record_of(const tc_suite *s, const char *kind, const char *figure, const char *series,
                        const char *x)
{
    char id[ID_BYTES];
    record r = {.doc = yyjson_mut_doc_new(NULL)};
    r.root = yyjson_mut_obj(r.doc);
    yyjson_mut_doc_set_root(r.doc, r.root);
    snprintf(id, sizeof id, "%s/%s%s%s%s%s", s->part->id, figure, series ? "/" : "", series ? series : "",
             x ? "/" : "", x ? x : "");
    yyjson_mut_obj_add_str(r.doc, r.root, "record", kind);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "id", id);
    yyjson_mut_obj_add_str(r.doc, r.root, "part", s->part->id);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "figure", figure);
    if (series) yyjson_mut_obj_add_strcpy(r.doc, r.root, "series", series);
    return r;
}

// A record that could not be written is found by ferror when the part ends.
static void write_record(record *r, FILE *file)
{
    char *line = yyjson_mut_write(r->doc, 0, NULL);
    if (line)
        fprintf(file, "%s\n", line);
    else
        fputc('!', file); // no JSON: the file's reader would say so
    free(line);
    yyjson_mut_doc_free(r->doc);
}

static yyjson_mut_val *put_array(record *r, const char *key)
{
    yyjson_mut_val *list = yyjson_mut_arr(r->doc);
    yyjson_mut_obj_add_val(r->doc, r->root, key, list);
    return list;
}

void tc_suite_figure(tc_suite *s, const tc_figure *f)
{
    char x[32];
    snprintf(x, sizeof x, "%.6g", f->x);
    record r = record_of(s, "figure", f->figure, f->series, f->x_text ? f->x_text : x);
    if (f->x_text)
        yyjson_mut_obj_add_strcpy(r.doc, r.root, "x", f->x_text);
    else
        put_real(&r, "x", f->x);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "x_unit", f->x_unit ? f->x_unit : "");
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "unit", f->unit);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "better", f->better);
    yyjson_mut_val *values = put_array(&r, "values");
    for (uint32_t i = 0; i < f->values->count; i++)
        yyjson_mut_arr_append(values, real_of(r.doc, f->values->value[i]));
    put_real(&r, "roofline", f->roofline > 0 ? f->roofline : NAN);
    if (f->lines) {
        yyjson_mut_val *lines = put_array(&r, "lines");
        for (const struct tc_line *l = f->lines; l->label; l++) {
            yyjson_mut_val *o = yyjson_mut_arr_add_obj(r.doc, lines);
            yyjson_mut_obj_add_strcpy(r.doc, o, "label", l->label);
            yyjson_mut_obj_add_real(r.doc, o, "value", l->value);
        }
    }
    write_record(&r, s->records);
}

void tc_suite_stack(tc_suite *s, const char *figure, const char *x, const char *unit, const tc_stage *shares,
                    uint32_t count)
{
    record r = record_of(s, "stack", figure, NULL, x);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "x", x);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "unit", unit);
    yyjson_mut_val *list = put_array(&r, "shares");
    for (uint32_t i = 0; i < count; i++) {
        yyjson_mut_val *o = yyjson_mut_arr_add_obj(r.doc, list);
        yyjson_mut_obj_add_strcpy(r.doc, o, "label", shares[i].label);
        yyjson_mut_obj_add_val(r.doc, o, "value", real_of(r.doc, shares[i].value));
    }
    write_record(&r, s->records);
}

// ---- distributions ----

static const double levels[] = {0.05, 0.25, 0.5, 0.75, 0.95, 0.99};
static const char *const level_names[] = {"0.05", "0.25", "0.5", "0.75", "0.95", "0.99"};
enum { LEVELS = sizeof levels / sizeof *levels };

static void write_distribution(tc_suite *s, const char *figure, const char *series, const char *unit,
                               const double quantile[LEVELS], uint64_t count, const double *below,
                               const uint64_t *counts, uint32_t buckets)
{
    record r = record_of(s, "distribution", figure, series, NULL);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "unit", unit);
    yyjson_mut_val *o = yyjson_mut_obj(r.doc), *list;
    yyjson_mut_obj_add_val(r.doc, r.root, "quantiles", o);
    for (int i = 0; i < LEVELS; i++)
        yyjson_mut_obj_add_val(r.doc, o, level_names[i], real_of(r.doc, quantile[i]));
    yyjson_mut_obj_add_uint(r.doc, r.root, "count", count);
    list = put_array(&r, "buckets");
    for (uint32_t i = 0; i < buckets; i++) {
        yyjson_mut_val *pair = yyjson_mut_arr_add_arr(r.doc, list);
        yyjson_mut_arr_add_real(r.doc, pair, below[i]);
        yyjson_mut_arr_add_uint(r.doc, pair, counts[i]);
    }
    write_record(&r, s->records);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void tc_suite_distribution(tc_suite *s, const char *figure, const char *series, const char *unit,
                           double *values, uint64_t count)
{
    double quantile[LEVELS], below[BUCKETS_MAX], bound = 1;
    uint64_t counts[BUCKETS_MAX], at = 0;
    uint32_t buckets = 0;
    if (!count) return; // nothing happened: there is no figure of it
    qsort(values, count, sizeof *values, by_value);
    for (int i = 0; i < LEVELS; i++) { // nearest rank
        double rank = ceil(levels[i] * (double)count);
        quantile[i] = values[rank < 1 ? 0 : (uint64_t)rank - 1];
    }
    while (bound > values[0] && bound > 1e-9) bound /= 2;
    while (at < count && buckets < BUCKETS_MAX) {
        uint64_t from = at;
        bound *= 2;
        while (at < count && (values[at] <= bound || buckets + 1 == BUCKETS_MAX)) at++;
        if (at == from && !buckets) continue;
        below[buckets] = bound;
        counts[buckets++] = at - from;
    }
    write_distribution(s, figure, series, unit, quantile, count, below, counts, buckets);
}

void tc_suite_buckets(tc_suite *s, const char *figure, const char *series, const char *unit,
                      const double *below, const uint64_t *counts, uint32_t buckets)
{
    double quantile[LEVELS];
    uint64_t total = 0;
    for (uint32_t i = 0; i < buckets; i++) total += counts[i];
    if (!total) return;
    for (int q = 0; q < LEVELS; q++) {
        double wanted = levels[q] * (double)total, seen = 0;
        uint32_t i = 0;
        while (i + 1 < buckets && seen + (double)counts[i] < wanted) seen += (double)counts[i++];
        double from = i ? below[i - 1] : 0, inside = counts[i] ? (wanted - seen) / (double)counts[i] : 0;
        quantile[q] = from + (below[i] - from) * inside;
    }
    write_distribution(s, figure, series, unit, quantile, total, below, counts, buckets);
}

void tc_suite_matrix(tc_suite *s, const char *figure, const char *rows, const char *columns, const char *unit,
                     const double *values, uint32_t row_count, uint32_t column_count)
{
    record r = record_of(s, "matrix", figure, NULL, NULL);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "rows", rows);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "columns", columns);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "unit", unit);
    yyjson_mut_val *list = put_array(&r, "values");
    for (uint32_t i = 0; i < row_count; i++) {
        yyjson_mut_val *row = yyjson_mut_arr_add_arr(r.doc, list);
        for (uint32_t k = 0; k < column_count; k++) // five digits are more than any plot shows
            yyjson_mut_arr_append(row,
                                  real_of(r.doc, round(values[(size_t)i * column_count + k] * 1e5) / 1e5));
    }
    write_record(&r, s->records);
}

void tc_suite_timeline(tc_suite *s, const char *figure, const char *series, const char *unit,
                       const double (*points)[2], uint32_t count, double planned)
{
    record r = record_of(s, "timeline", figure, series, NULL);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "unit", unit);
    yyjson_mut_val *list = put_array(&r, "points");
    for (uint32_t i = 0; i < count; i++) {
        yyjson_mut_val *pair = yyjson_mut_arr_add_arr(r.doc, list);
        yyjson_mut_arr_append(pair, real_of(r.doc, round(points[i][0] * 1e3) / 1e3));
        yyjson_mut_arr_append(pair, real_of(r.doc, points[i][1]));
    }
    put_real(&r, "planned", planned >= 0 ? planned : NAN);
    write_record(&r, s->records);
}

// ---- a part ----

tc_status tc_suite_file_begin(tc_suite *s, const tc_suite_part *part, tc_error *e)
{
    s->part = part;
    s->note[0] = 0;
    s->skipped = false;
    s->records = open_memstream(&s->text_of_records, &s->records_bytes);
    return s->records ? TC_OK : tc_fail(e, TC_NOMEM, "out of memory");
}

void tc_suite_file_drop(tc_suite *s)
{
    if (s->records) fclose(s->records);
    free(s->text_of_records);
    s->records = NULL;
    s->text_of_records = NULL;
}

static void write_part(tc_suite *s, const char *state, const char *reason, double seconds)
{
    char method[1024];
    record r = {.doc = yyjson_mut_doc_new(NULL)};
    r.root = yyjson_mut_obj(r.doc);
    yyjson_mut_doc_set_root(r.doc, r.root);
    yyjson_mut_obj_add_str(r.doc, r.root, "record", "part");
    yyjson_mut_obj_add_str(r.doc, r.root, "id", s->part->id);
    yyjson_mut_obj_add_str(r.doc, r.root, "section", s->part->section);
    yyjson_mut_obj_add_str(r.doc, r.root, "state", state);
    yyjson_mut_obj_add_str(r.doc, r.root, "reason", reason);
    put_real(&r, "seconds", round(seconds * 10) / 10);
    snprintf(method, sizeof method, "%s%s%s", s->part->method, s->note[0] ? " " : "", s->note);
    yyjson_mut_obj_add_str(r.doc, r.root, "method", method);
    yyjson_mut_val *o = yyjson_mut_obj_add_obj(r.doc, r.root, "parameters");
    yyjson_mut_obj_add_uint(r.doc, o, "repetitions", s->repetitions);
    yyjson_mut_obj_add_str(r.doc, o, "options", s->options);
    write_record(&r, s->records);
}

tc_status tc_suite_file_end(tc_suite *s, const char *state, const char *reason, double seconds, tc_error *e)
{
    tc_status status = TC_OK;
    write_part(s, state, reason, seconds);
    bool broken = ferror(s->records) != 0;
    broken |= fclose(s->records) != 0;
    s->records = NULL;
    if (broken)
        status = tc_fail(e, TC_NOMEM, "%s: no memory for its records", s->part->id);
    else if (fwrite(s->text_of_records, 1, s->records_bytes, s->file) != s->records_bytes ||
             fflush(s->file) != 0 || fsync(fileno(s->file)) != 0)
        status = tc_fail_errno(e, TC_IO, "%s/results.jsonl", s->output);
    tc_suite_file_drop(s);
    return status;
}

tc_status tc_suite_file_close(tc_suite *s, tc_error *e)
{
    FILE *file = s->file;
    s->file = NULL;
    if (!file || fclose(file) == 0) return TC_OK;
    return tc_fail_errno(e, TC_IO, "%s/results.jsonl", s->output);
}

// ---- the run ----

static void describe_machine(const tc_suite *s, record *r)
{
    const tc_machine *m = &s->b.machine;
    const tc_host *h = &s->host;
    yyjson_mut_val *o = yyjson_mut_obj_add_obj(r->doc, r->root, "machine"), *features;
    yyjson_mut_obj_add_str(r->doc, o, "name", h->name);
    yyjson_mut_obj_add_str(r->doc, o, "cpu", m->cpu);
    yyjson_mut_obj_add_uint(r->doc, o, "cores", h->cores);
    yyjson_mut_obj_add_uint(r->doc, o, "threads", m->cpus);
    yyjson_mut_obj_add_uint(r->doc, o, "ram_bytes", m->memory_bytes);
    yyjson_mut_obj_add_uint(r->doc, o, "numa_nodes", m->nodes);
    features = yyjson_mut_arr(r->doc);
    yyjson_mut_obj_add_val(r->doc, o, "features", features);
    for (uint32_t i = 0; i < h->feature_count; i++) yyjson_mut_arr_add_str(r->doc, features, h->features[i]);
    yyjson_mut_obj_add_val(r->doc, o, "gpu",
                           *h->gpu ? yyjson_mut_str(r->doc, h->gpu) : yyjson_mut_null(r->doc));
    yyjson_mut_obj_add_val(r->doc, o, "vram_bytes",
                           h->vram_bytes ? yyjson_mut_uint(r->doc, h->vram_bytes) : yyjson_mut_null(r->doc));
    yyjson_mut_obj_add_real(r->doc, o, "read_bytes_per_s", round(tc_samples_max(&m->read_gb_per_s) * 1e9));
    yyjson_mut_obj_add_str(r->doc, o, "kernel", h->kernel);
}

static void describe_model(const tc_suite *s, record *r)
{
    const char *path = s->b.model, *name;
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/') bytes--;
    for (name = path + bytes; name > path && name[-1] != '/';) name--;
    const tc_footprint *f = &s->b.footprint;
    yyjson_mut_val *o = yyjson_mut_obj_add_obj(r->doc, r->root, "model");
    yyjson_mut_obj_add_strncpy(r->doc, o, "path", name, (size_t)(path + bytes - name));
    yyjson_mut_obj_add_str(r->doc, o, "family", s->family);
    yyjson_mut_obj_add_str(r->doc, o, "hash", s->model_hash);
    yyjson_mut_obj_add_uint(r->doc, o, "parameters", s->parameters);
    yyjson_mut_obj_add_uint(r->doc, o, "bytes", f->dense_bytes + f->experts_bytes);
    yyjson_mut_obj_add_uint(r->doc, o, "experts", s->b.desc.experts);
    yyjson_mut_obj_add_uint(r->doc, o, "layers", s->b.desc.layers);
    yyjson_mut_obj_add_uint(r->doc, o, "top_k", s->b.desc.top_k);
}

static void write_run(tc_suite *s, const char *started, FILE *file)
{
    record r = {.doc = yyjson_mut_doc_new(NULL)};
    r.root = yyjson_mut_obj(r.doc);
    yyjson_mut_doc_set_root(r.doc, r.root);
    yyjson_mut_obj_add_str(r.doc, r.root, "record", "run");
    yyjson_mut_obj_add_uint(r.doc, r.root, "schema", TC_SUITE_SCHEMA);
    yyjson_mut_obj_add_str(r.doc, r.root, "suite", s->suite);
    yyjson_mut_obj_add_strcpy(r.doc, r.root, "started", started);
    yyjson_mut_obj_add_str(r.doc, r.root, "commit", s->commit);
    yyjson_mut_obj_add_bool(r.doc, r.root, "dirty", s->dirty);
    yyjson_mut_obj_add_str(r.doc, r.root, "version", TC_VERSION);
    yyjson_mut_obj_add_str(r.doc, r.root, "options", s->options);
    describe_machine(s, &r);
    describe_model(s, &r);
    yyjson_mut_val *parts = put_array(&r, "parts");
    for (uint32_t i = 0; i < tc_suite_part_count; i++)
        if (s->meant[i]) yyjson_mut_arr_add_str(r.doc, parts, tc_suite_parts[i].id);
    for (uint32_t i = 0; i < s->others; i++) yyjson_mut_arr_add_str(r.doc, parts, s->other[i]);
    write_record(&r, file);
}

// ---- an earlier run ----

static const char *text_at(yyjson_val *o, const char *a, const char *b)
{
    yyjson_val *v = yyjson_obj_get(o, a);
    const char *text = yyjson_get_str(b ? yyjson_obj_get(v, b) : v);
    return text ? text : "";
}

// What the earlier run was in, where it is not this one; NULL: it is.
static const char *difference(const tc_suite *s, yyjson_val *run, const char **ret_was, const char **ret_is)
{
    yyjson_val *machine = yyjson_obj_get(run, "machine");
    bool same_machine = yyjson_get_uint(yyjson_obj_get(machine, "threads")) == s->b.machine.cpus &&
                        !strcmp(text_at(machine, "gpu", NULL), s->host.gpu);
    const struct {
        const char *what, *was, *is;
    } all[] = {
        {"suite", text_at(run, "suite", NULL), s->suite},
        {"commit", text_at(run, "commit", NULL), s->commit},
        {"version", text_at(run, "version", NULL), TC_VERSION},
        {"model", text_at(run, "model", "hash"), s->model_hash},
        {"options", text_at(run, "options", NULL), s->options},
        {"machine", text_at(run, "machine", "name"), s->host.name},
        {"machine", same_machine ? "" : "another", same_machine ? "" : "this one"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].was, all[i].is) != 0) {
            *ret_was = all[i].was;
            *ret_is = all[i].is;
            return all[i].what;
        }
    return NULL;
}

static void note_parts(tc_suite *s, yyjson_val *run)
{
    size_t index, count;
    yyjson_val *id;
    s->others = 0;
    yyjson_arr_foreach(yyjson_obj_get(run, "parts"), index, count, id)
    {
        const char *text = yyjson_get_str(id);
        bool ours = false;
        for (uint32_t i = 0; text && i < tc_suite_part_count; i++) {
            if (strcmp(text, tc_suite_parts[i].id) != 0) continue;
            ours = s->meant[i] = true;
        }
        if (text && !ours && s->others < TC_SUITE_PARTS_MAX)
            snprintf(s->other[s->others++], sizeof s->other[0], "%s", text);
    }
}

// The last line may be half a line: whoever wrote it was stopped. Returns the bytes that stand.
static tc_status read_lines(tc_suite *s, char *text, size_t bytes, size_t *ret_good, char started[32],
                            tc_error *e)
{
    char what[64];
    const char *was = "", *is = "";
    size_t number = 0;
    *ret_good = 0;
    for (char *line = text, *end; (end = memchr(line, '\n', bytes - (size_t)(line - text))); line = end + 1) {
        yyjson_doc *doc;
        snprintf(what, sizeof what, "results.jsonl line %zu", ++number);
        TC_TRY(tc_json_parse(what, line, (size_t)(end - line), TC_SUITE_FILE_DEPTH_MAX, &doc, e));
        yyjson_val *o = yyjson_doc_get_root(doc);
        const char *kind = text_at(o, "record", NULL), *differs = NULL;
        bool run = !strcmp(kind, "run");
        if (run) {
            differs = difference(s, o, &was, &is);
            if (differs)
                tc_fail(e, TC_ARGUMENT,
                        "%s has results of another run (%s '%.60s', this one's is '%.60s'): name another "
                        "--output, or --restart",
                        s->output, differs, was, is);
            snprintf(started, 32, "%s", text_at(o, "started", NULL));
            note_parts(s, o);
        }
        for (uint32_t i = 0; !strcmp(kind, "part") && i < tc_suite_part_count; i++)
            if (!strcmp(text_at(o, "id", NULL), tc_suite_parts[i].id))
                s->done[i] = !strcmp(text_at(o, "state", NULL), "done");
        yyjson_doc_free(doc);
        if (differs) return TC_ARGUMENT;
        if (!run && !*started)
            return tc_fail(e, TC_FORMAT,
                           "%s/results.jsonl: it does not begin with a run (--restart writes it anew)",
                           s->output);
        *ret_good = (size_t)(end + 1 - text);
    }
    return TC_OK;
}

static tc_status read_earlier(tc_suite *s, const char *path, size_t *ret_good, char started[32], tc_error *e)
{
    char *text = NULL;
    size_t bytes;
    tc_status status = tc_read_file(path, TC_SUITE_FILE_BYTES_MAX, &text, &bytes, e);
    if (status == TC_NOT_FOUND) return TC_OK;
    if (status != TC_OK) return status;
    status = read_lines(s, text, bytes, ret_good, started, e);
    free(text);
    return status;
}

tc_status tc_suite_file_open(tc_suite *s, tc_error *e)
{
    char path[TC_STORE_PATH_BYTES], started[32] = "";
    size_t good = 0;
    bool all_meant = true;
    snprintf(path, sizeof path, "%s/results.jsonl", s->output);
    if (!s->restart) TC_TRY(read_earlier(s, path, &good, started, e));
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%s", path);
    if (ftruncate(fd, (off_t)good) != 0 || lseek(fd, 0, SEEK_END) < 0 || !(s->file = fdopen(fd, "w"))) {
        close(fd);
        return tc_fail_errno(e, TC_IO, "%s", path);
    }
    for (uint32_t i = 0; i < tc_suite_part_count; i++) {
        all_meant &= s->meant[i] || !s->wanted[i];
        s->done[i] &= *started != 0;
    }
    if (*started && all_meant) return TC_OK;
    for (uint32_t i = 0; i < tc_suite_part_count; i++) s->meant[i] |= s->wanted[i];
    time_t now = time(NULL);
    struct tm utc;
    if (!*started) strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    TC_TRY(tc_machine_measure_read(&s->b.machine, e)); // the machine's roof is part of what it is
    write_run(s, started, s->file);
    return fflush(s->file) == 0 ? TC_OK : tc_fail_errno(e, TC_IO, "%s", path);
}
