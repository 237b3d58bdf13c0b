// SPDX-License-Identifier: Apache-2.0
// Owns: the file of results: its lines, which record replaces which, the order of what is left, and its
// memory.
#include "cli/results_record.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- memory ----

enum { BLOCK_BYTES = 1 << 14, FIRST_ITEMS = 64 };
struct tc_results_block {
    tc_results_block *next;
    size_t used, bytes;
    _Alignas(16) char data[];
};

void *tc_results_alloc(tc_results_memory *memory, size_t count, size_t each)
{
    size_t bytes = (count * each + 15) & ~(size_t)15;
    tc_results_block *b = memory->blocks;
    if (!b || b->bytes - b->used < bytes) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        b = calloc(1, sizeof *b + size);
        if (!b) return NULL;
        b->bytes = size;
        b->next = memory->blocks;
        memory->blocks = b;
    }
    b->used += bytes;
    return b->data + b->used - bytes;
}

void tc_results_free(tc_results *r)
{
    if (!r) return;
    for (tc_results_block *b = r->memory->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(r->memory);
    free(r->runs);
    free(r->parts);
    free(r->items);
    free(r);
}

// ---- reading ----

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double tc_median(const double *values, uint32_t count)
{
    double v[TC_RESULTS_VALUES_MAX];
    if (count > TC_RESULTS_VALUES_MAX) count = TC_RESULTS_VALUES_MAX;
    memcpy(v, values, count * sizeof *v);
    qsort(v, count, sizeof *v, by_value);
    return count % 2 ? v[count / 2] : v[count / 2 - 1] / 2 + v[count / 2] / 2;
}

void tc_result_spread(tc_result *item)
{
    item->median = tc_median(item->values, item->value_count);
    item->low = item->high = item->values[0];
    for (uint32_t i = 1; i < item->value_count; i++) {
        item->low = item->values[i] < item->low ? item->values[i] : item->low;
        item->high = item->values[i] > item->high ? item->values[i] : item->high;
    }
}

const tc_result_part *tc_results_part(const tc_results *r, const char *id)
{
    for (uint32_t i = 0; i < r->part_count; i++)
        if (!strcmp(r->parts[i].id, id)) return &r->parts[i];
    return NULL;
}

// The part of that id, made if there is none.
static tc_status part_of(tc_results *r, const tc_record *record, const char *id, tc_result_part **ret)
{
    *ret = (tc_result_part *)tc_results_part(r, id);
    if (*ret) return TC_OK;
    if (r->part_count == TC_RESULTS_PARTS_MAX)
        return tc_fail(record->object.e, TC_LIMIT, "%s: more than %d parts", record->object.what,
                       TC_RESULTS_PARTS_MAX);
    // The section of a part that is only planned is what its id begins with.
    size_t bytes = strcspn(id, ".");
    char *section = tc_results_alloc(record->memory, bytes + 1, 1);
    if (!section) return tc_fail(record->object.e, TC_NOMEM, "%s: out of memory", record->object.what);
    memcpy(section, id, bytes);
    *ret = &r->parts[r->part_count++];
    **ret = (tc_result_part){.id = id, .section = section, .reason = "", .method = "", .parameters = ""};
    return TC_OK;
}

static tc_status add_run(tc_results *r, const tc_record *record, uint32_t line)
{
    const char **planned;
    uint32_t count;
    tc_result_part *part;
    if (r->run_count == TC_RESULTS_RUNS_MAX)
        return tc_fail(record->object.e, TC_LIMIT, "%s: more than %d runs", record->object.what,
                       TC_RESULTS_RUNS_MAX);
    r->runs[r->run_count].line = line;
    TC_TRY(tc_record_run(record, &r->runs[r->run_count++], &planned, &count));
    for (uint32_t i = 0; i < count; i++) TC_TRY(part_of(r, record, planned[i], &part));
    return TC_OK;
}

static tc_status add_part(tc_results *r, const tc_record *record, uint32_t line)
{
    tc_result_part given = {.line = line}, *part;
    TC_TRY(tc_record_part(record, &given));
    TC_TRY(part_of(r, record, given.id, &part));
    *part = given;
    return TC_OK;
}

static tc_status add_item(tc_results *r, const tc_record *record, tc_result_kind kind, uint32_t line)
{
    tc_result_part *part;
    if (r->count == TC_RESULTS_RECORDS_MAX)
        return tc_fail(record->object.e, TC_LIMIT, "%s: more than %d records", record->object.what,
                       TC_RESULTS_RECORDS_MAX);
    if (r->count >= FIRST_ITEMS && !(r->count & (r->count - 1))) {
        tc_result *grown = realloc(r->items, 2 * r->count * sizeof *grown);
        if (!grown) return tc_fail(record->object.e, TC_NOMEM, "%s: out of memory", record->object.what);
        r->items = grown;
    }
    tc_result *item = &r->items[r->count++];
    *item = (tc_result){.kind = kind, .line = line, .run = r->run_count ? r->run_count - 1 : 0};
    TC_TRY(tc_record_item(record, item));
    TC_TRY(part_of(r, record, item->part, &part));
    item->part_at = (uint32_t)(part - r->parts);
    return TC_OK;
}

static tc_status add(tc_results *r, const tc_record *record, uint32_t line)
{
    static const char *const kinds[] = {"figure", "stack", "distribution", "matrix", "timeline"};
    const char *name = "";
    TC_TRY(tc_json_require(&record->object, "record"));
    TC_TRY(tc_json_string(&record->object, "record", &name));
    if (!strcmp(name, "run")) return add_run(r, record, line);
    if (!strcmp(name, "part")) return add_part(r, record, line);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(name, kinds[i])) return add_item(r, record, (tc_result_kind)i, line);
    if (!strcmp(name, "baseline"))
        r->baseline = true;
    else
        r->unknown++;
    return TC_OK;
}

static tc_status read_line(tc_results *r, const char *what, const char *text, size_t bytes, uint32_t line,
                           bool last, tc_error *e)
{
    char place[TC_ERROR_TEXT_BYTES / 2];
    yyjson_doc *doc = NULL;
    tc_record record = {.memory = r->memory};
    snprintf(place, sizeof place, "%.200s:%" PRIu32, what, line);
    if (bytes > TC_RESULTS_LINE_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "%s: longer than %d bytes", place, TC_RESULTS_LINE_BYTES_MAX);
    tc_status status = tc_json_parse(place, text, bytes, 8, &doc, e);
    if (status == TC_FORMAT && last) {
        r->cut_line = line;
        return TC_OK;
    }
    if (status != TC_OK) return status;
    status = tc_json_object_of(yyjson_doc_get_root(doc), place, &record.object, e);
    if (status == TC_OK) status = add(r, &record, line);
    yyjson_doc_free(doc);
    return status;
}

static tc_status read_lines(tc_results *r, const char *what, const char *text, size_t bytes, tc_error *e)
{
    const char *end = text + bytes;
    for (uint32_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text)), *next = stop ? stop + 1 : end;
        size_t length = (size_t)((stop ? stop : end) - text);
        if (length && text[length - 1] == '\r') length--;
        if (length) TC_TRY(read_line(r, what, text, length, line, !stop, e));
        text = next;
    }
    if (!r->run_count) return tc_fail(e, TC_FORMAT, "%s: no record of a run in it", what);
    return TC_OK;
}

// ---- order ----

static int by_id(const void *a, const void *b)
{
    const tc_result *x = a, *y = b;
    int id = x->kind != y->kind ? (x->kind > y->kind) - (x->kind < y->kind) : strcmp(x->id, y->id);
    return id ? id : (x->line > y->line) - (x->line < y->line);
}

static int by_place(const void *a, const void *b)
{
    const tc_result *x = a, *y = b;
    if (x->part_at != y->part_at) return (x->part_at > y->part_at) - (x->part_at < y->part_at);
    return (x->line > y->line) - (x->line < y->line);
}

// The repetitions of both in the later one; the oldest give way.
static tc_status pool(tc_results *r, const tc_result *earlier, tc_result *later, tc_error *e)
{
    uint32_t old = earlier->value_count, room = TC_RESULTS_VALUES_MAX - later->value_count;
    if (old > room) old = room;
    double *values = tc_results_alloc(r->memory, old + later->value_count, sizeof *values);
    if (!values) return tc_fail(e, TC_NOMEM, "out of memory");
    memcpy(values, earlier->values + earlier->value_count - old, old * sizeof *values);
    memcpy(values + old, later->values, later->value_count * sizeof *values);
    later->values = values;
    later->value_count += old;
    tc_result_spread(later);
    return TC_OK;
}

// The later of two of one id stays; then parts' order, then lines'.
static tc_status settle(tc_results *r, tc_error *e)
{
    uint32_t kept = 0;
    qsort(r->items, r->count, sizeof *r->items, by_id);
    for (uint32_t i = 0; i < r->count; i++) {
        tc_result *item = &r->items[i];
        bool replaced = i + 1 < r->count && item->kind == item[1].kind && !strcmp(item->id, item[1].id);
        if (replaced && r->baseline && item->kind == TC_RESULT_FIGURE && item->run != item[1].run)
            TC_TRY(pool(r, item, &item[1], e));
        if (!replaced) r->items[kept++] = *item;
    }
    r->count = kept;
    qsort(r->items, r->count, sizeof *r->items, by_place);
    return TC_OK;
}

tc_status tc_results_parse(const char *what, const char *text, size_t bytes, tc_results **ret, tc_error *e)
{
    tc_status status = TC_OK;
    tc_results *r = calloc(1, sizeof *r);
    if (!r || !(r->memory = calloc(1, sizeof *r->memory))) {
        free(r);
        return tc_fail(e, TC_NOMEM, "%s: out of memory", what);
    }
    r->runs = calloc(TC_RESULTS_RUNS_MAX, sizeof *r->runs);
    r->parts = calloc(TC_RESULTS_PARTS_MAX, sizeof *r->parts);
    r->items = calloc(FIRST_ITEMS, sizeof *r->items);
    if (!r->runs || !r->parts || !r->items) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: out of memory", what));
    TC_GOTO(read_lines(r, what, text, bytes, e));
    TC_GOTO(settle(r, e));
    *ret = r;
    r = NULL;
out:
    tc_results_free(r);
    return status;
}

// The file that `path` means: itself, or the one in that folder.
static tc_status file_of(const char *path, char ret[PATH_MAX], tc_error *e)
{
    struct stat st;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    int n = snprintf(ret, PATH_MAX, folder ? "%s/" TC_RESULTS_FILE : "%s", path);
    return n >= 0 && n < PATH_MAX ? TC_OK : tc_fail(e, TC_ARGUMENT, "%s: too long a path", path);
}

tc_status tc_results_read(const char *path, char **ret, size_t *ret_bytes, tc_error *e)
{
    char file[PATH_MAX];
    TC_TRY(file_of(path, file, e));
    return tc_read_file(file, TC_RESULTS_BYTES_MAX, ret, ret_bytes, e);
}

tc_status tc_results_load(const char *path, tc_results **ret, tc_error *e)
{
    char file[PATH_MAX], *text = NULL;
    size_t bytes;
    TC_TRY(file_of(path, file, e));
    TC_TRY(tc_read_file(file, TC_RESULTS_BYTES_MAX, &text, &bytes, e));
    tc_status status = tc_results_parse(file, text, bytes, ret, e);
    free(text);
    return status;
}

tc_status tc_results_put(FILE *f, const char *part, const char *path, tc_error *e)
{
    bool bad = ferror(f) || fflush(f) != 0;
    if (fclose(f) != 0 || bad || rename(part, path) != 0) {
        tc_status status = tc_fail_errno(e, TC_IO, "%s", path);
        unlink(part);
        return status;
    }
    return TC_OK;
}
