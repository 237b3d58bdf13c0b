// SPDX-License-Identifier: Apache-2.0
// Owns: one line of results.jsonl as a record: which fields it must have, of which type, within which bounds.
#include "cli/results_record.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL_MAX 1e18

static tc_status copy(const tc_record *r, const char *text, size_t bytes, const char **ret)
{
    char *to = tc_results_alloc(r->memory, bytes + 1, 1);
    if (!to) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    memcpy(to, text, bytes);
    *ret = to;
    return TC_OK;
}

tc_status tc_record_text(const tc_record *r, const char *field, bool needed, size_t bytes_max,
                         const char **ret)
{
    const char *text = "";
    if (needed) TC_TRY(tc_json_require(&r->object, field));
    TC_TRY(tc_json_string(&r->object, field, &text));
    size_t bytes = strlen(text);
    if (bytes > bytes_max || (needed && !bytes))
        return tc_fail(r->object.e, TC_FORMAT, "%s: %s: expected a text of %d to %zu bytes", r->object.what,
                       field, needed, bytes_max);
    return copy(r, text, bytes, ret);
}

static tc_status name(const tc_record *r, const char *field, bool needed, const char **ret)
{
    return tc_record_text(r, field, needed, TC_RESULTS_NAME_BYTES_MAX, ret);
}

static tc_status not_a(const tc_record *r, const char *field, size_t at, const char *expected)
{
    return tc_fail(r->object.e, TC_FORMAT, "%s: %s[%zu]: expected %s", r->object.what, field, at, expected);
}

static bool real(yyjson_val *v, double min, double *ret)
{
    if (!yyjson_is_num(v)) return false;
    *ret = yyjson_get_num(v);
    return *ret >= min && *ret <= REAL_MAX;
}

// A list of 0..max elements; *ret_count is 0 where the field is absent or null.
static tc_status list(const tc_record *r, const char *field, bool needed, uint32_t max, yyjson_val **ret,
                      uint32_t *ret_count)
{
    *ret = NULL;
    if (needed) TC_TRY(tc_json_require(&r->object, field));
    TC_TRY(tc_json_get_array(&r->object, field, ret));
    if (yyjson_arr_size(*ret) > max || (needed && !yyjson_arr_size(*ret)))
        return tc_fail(r->object.e, TC_LIMIT, "%s: %s: expected %d to %" PRIu32 " elements", r->object.what,
                       field, needed, max);
    *ret_count = (uint32_t)yyjson_arr_size(*ret);
    return TC_OK;
}

// ---- run ----

static tc_status run_machine(const tc_record *r, tc_result_run *ret)
{
    tc_record m = *r;
    TC_TRY(tc_json_get_object(&r->object, "machine", &m.object));
    TC_TRY(name(&m, "name", false, &ret->machine));
    TC_TRY(name(&m, "cpu", false, &ret->cpu));
    TC_TRY(name(&m, "gpu", false, &ret->gpu));
    TC_TRY(name(&m, "kernel", false, &ret->kernel));
    TC_TRY(tc_json_u64(&m.object, "cores", 0, 1 << 20, &ret->cores));
    TC_TRY(tc_json_u64(&m.object, "threads", 0, 1 << 20, &ret->threads));
    TC_TRY(tc_json_u64(&m.object, "numa_nodes", 0, 1 << 20, &ret->numa_nodes));
    TC_TRY(tc_json_u64(&m.object, "ram_bytes", 0, INT64_MAX, &ret->ram_bytes));
    TC_TRY(tc_json_u64(&m.object, "vram_bytes", 0, INT64_MAX, &ret->vram_bytes));
    TC_TRY(tc_json_double(&m.object, "read_bytes_per_s", 0, REAL_MAX, &ret->read_bytes_per_s));
    yyjson_val *features, *item;
    uint32_t count;
    char text[TC_RESULTS_NAME_BYTES_MAX * 2] = "";
    size_t i, n, used = 0;
    TC_TRY(list(&m, "features", false, TC_RESULTS_LABELS_MAX, &features, &count));
    yyjson_arr_foreach(features, i, n, item)
    {
        if (!yyjson_is_str(item)) return not_a(&m, "features", i, "a text");
        int wrote = snprintf(text + used, sizeof text - used, "%s%s", used ? " " : "", yyjson_get_str(item));
        if (wrote < 0 || (size_t)wrote >= sizeof text - used)
            return not_a(&m, "features", i, "shorter texts");
        used += (size_t)wrote;
    }
    return copy(r, text, used, &ret->features);
}

static tc_status run_model(const tc_record *r, tc_result_run *ret)
{
    tc_record m = *r;
    TC_TRY(tc_json_get_object(&r->object, "model", &m.object));
    TC_TRY(name(&m, "path", false, &ret->model));
    TC_TRY(name(&m, "family", false, &ret->family));
    TC_TRY(name(&m, "hash", false, &ret->model_hash));
    TC_TRY(tc_json_u64(&m.object, "parameters", 0, INT64_MAX, &ret->parameters));
    TC_TRY(tc_json_u64(&m.object, "bytes", 0, INT64_MAX, &ret->model_bytes));
    TC_TRY(tc_json_u64(&m.object, "experts", 0, INT64_MAX, &ret->experts));
    TC_TRY(tc_json_u64(&m.object, "layers", 0, INT64_MAX, &ret->layers));
    return tc_json_u64(&m.object, "top_k", 0, INT64_MAX, &ret->top_k);
}

tc_status tc_record_run(const tc_record *r, tc_result_run *ret, const char ***ret_parts, uint32_t *ret_count)
{
    uint64_t schema = 0;
    yyjson_val *parts, *item;
    size_t i, n;
    TC_TRY(tc_json_require(&r->object, "schema"));
    TC_TRY(tc_json_u64(&r->object, "schema", 0, INT64_MAX, &schema));
    if (schema != 1)
        return tc_fail(r->object.e, TC_UNSUPPORTED, "%s: schema %" PRIu64 ": this program reads schema 1",
                       r->object.what, schema);
    TC_TRY(name(r, "suite", false, &ret->suite));
    TC_TRY(name(r, "started", false, &ret->started));
    TC_TRY(name(r, "commit", false, &ret->commit));
    TC_TRY(name(r, "version", false, &ret->version));
    TC_TRY(tc_json_bool(&r->object, "dirty", &ret->dirty));
    TC_TRY(run_machine(r, ret));
    TC_TRY(run_model(r, ret));
    TC_TRY(list(r, "parts", false, TC_RESULTS_PARTS_MAX, &parts, ret_count));
    *ret_parts = tc_results_alloc(r->memory, *ret_count + 1u, sizeof **ret_parts);
    if (!*ret_parts) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    yyjson_arr_foreach(parts, i, n, item)
    {
        size_t bytes = yyjson_get_len(item);
        if (!yyjson_is_str(item) || !bytes || bytes > TC_RESULTS_NAME_BYTES_MAX ||
            strlen(yyjson_get_str(item)) != bytes)
            return not_a(r, "parts", i, "an id");
        TC_TRY(copy(r, yyjson_get_str(item), bytes, &(*ret_parts)[i]));
    }
    return TC_OK;
}

// ---- part ----

// "repetitions 5, options --threads 2"
static tc_status part_parameters(const tc_record *r, tc_result_part *ret)
{
    yyjson_val *all = tc_json_field(&r->object, "parameters"), *key, *value;
    char text[TC_RESULTS_TEXT_BYTES_MAX + 1] = "";
    size_t i, n, used = 0;
    if (!all) return copy(r, text, 0, &ret->parameters);
    if (!yyjson_is_obj(all))
        return tc_fail(r->object.e, TC_FORMAT, "%s: parameters: expected an object", r->object.what);
    yyjson_obj_foreach(all, i, n, key, value)
    {
        char *json = yyjson_is_str(value) ? NULL : yyjson_val_write(value, 0, NULL);
        const char *shown = yyjson_is_str(value) ? yyjson_get_str(value) : json ? json : "";
        int wrote = snprintf(text + used, sizeof text - used, "%s%s %s", used ? ", " : "",
                             yyjson_get_str(key), shown);
        free(json);
        if (wrote < 0 || (size_t)wrote >= sizeof text - used)
            return not_a(r, "parameters", i, "shorter parameters");
        used += (size_t)wrote;
    }
    return copy(r, text, used, &ret->parameters);
}

tc_status tc_record_part(const tc_record *r, tc_result_part *ret)
{
    const char *state;
    TC_TRY(name(r, "id", true, &ret->id));
    TC_TRY(name(r, "section", true, &ret->section));
    TC_TRY(name(r, "state", true, &state));
    TC_TRY(tc_record_text(r, "reason", false, TC_RESULTS_TEXT_BYTES_MAX, &ret->reason));
    TC_TRY(tc_record_text(r, "method", false, TC_RESULTS_TEXT_BYTES_MAX, &ret->method));
    TC_TRY(tc_json_double(&r->object, "seconds", 0, REAL_MAX, &ret->seconds));
    ret->state = !strcmp(state, "done")      ? TC_PART_DONE
                 : !strcmp(state, "skipped") ? TC_PART_SKIPPED
                 : !strcmp(state, "failed")  ? TC_PART_FAILED
                                             : TC_PART_MISSING;
    if (ret->state == TC_PART_MISSING)
        return tc_fail(r->object.e, TC_FORMAT, "%s: state: expected done, skipped or failed", r->object.what);
    return part_parameters(r, ret);
}

// ---- what was measured ----

// x is a number or a text.
static tc_status item_x(const tc_record *r, tc_result *ret)
{
    yyjson_val *x = tc_json_field(&r->object, "x");
    ret->x_text = "";
    if (!x) return TC_OK;
    if (yyjson_is_str(x)) return name(r, "x", true, &ret->x_text);
    return tc_json_double(&r->object, "x", -REAL_MAX, REAL_MAX, &ret->x);
}

static tc_status item_head(const tc_record *r, tc_result *ret)
{
    const char *better;
    TC_TRY(name(r, "id", true, &ret->id));
    TC_TRY(name(r, "part", true, &ret->part));
    TC_TRY(name(r, "figure", true, &ret->figure));
    TC_TRY(name(r, "title", false, &ret->title));
    TC_TRY(name(r, "series", false, &ret->series));
    TC_TRY(name(r, "unit", false, &ret->unit));
    TC_TRY(name(r, "x_unit", false, &ret->x_unit));
    TC_TRY(name(r, "better", false, &better));
    ret->better = !strcmp(better, "higher")  ? TC_BETTER_HIGHER
                  : !strcmp(better, "lower") ? TC_BETTER_LOWER
                                             : TC_BETTER_NONE;
    if (*better && ret->better == TC_BETTER_NONE && strcmp(better, "none") != 0)
        return tc_fail(r->object.e, TC_FORMAT, "%s: better: expected higher, lower or none", r->object.what);
    return item_x(r, ret);
}

static tc_status item_labels(const tc_record *r, const char *field, bool needed, double min, tc_result *ret)
{
    yyjson_val *all, *item;
    size_t i, n;
    TC_TRY(list(r, field, needed, TC_RESULTS_LABELS_MAX, &all, &ret->label_count));
    ret->labels = tc_results_alloc(r->memory, ret->label_count + 1u, sizeof *ret->labels);
    if (!ret->labels) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    yyjson_arr_foreach(all, i, n, item)
    {
        tc_record label = *r;
        if (!yyjson_is_obj(item) || !real(yyjson_obj_get(item, "value"), min, &ret->labels[i].value))
            return not_a(r, field, i, "a label with a value");
        label.object.value = item;
        TC_TRY(name(&label, "label", true, &ret->labels[i].label));
    }
    return TC_OK;
}

static tc_status item_values(const tc_record *r, tc_result *ret)
{
    yyjson_val *all, *item;
    size_t i, n;
    TC_TRY(list(r, "values", true, TC_RESULTS_VALUES_MAX, &all, &ret->value_count));
    ret->values = tc_results_alloc(r->memory, ret->value_count, sizeof *ret->values);
    if (!ret->values) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    yyjson_arr_foreach(all, i, n, item) if (!real(item, -REAL_MAX, &ret->values[i])) return not_a(
        r, "values", i, "a number");
    tc_result_spread(ret);
    TC_TRY(tc_json_double(&r->object, "roofline", 0, REAL_MAX, &ret->roofline));
    if (!(ret->roofline > 0)) ret->roofline = NAN;
    return item_labels(r, "lines", false, -REAL_MAX, ret);
}

// Pairs whose first number rises.
static tc_status item_pairs(const tc_record *r, const char *field, bool needed, tc_result *ret)
{
    yyjson_val *all, *item;
    size_t i, n;
    TC_TRY(list(r, field, needed, TC_RESULTS_PAIRS_MAX, &all, &ret->pair_count));
    ret->pairs = tc_results_alloc(r->memory, ret->pair_count + 1u, sizeof *ret->pairs);
    if (!ret->pairs) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    yyjson_arr_foreach(all, i, n, item)
    {
        tc_result_pair *p = &ret->pairs[i];
        if (yyjson_arr_size(item) != 2 || !real(yyjson_arr_get(item, 0), 0, &p->x) ||
            !real(yyjson_arr_get(item, 1), 0, &p->y) || (i && p->x < p[-1].x))
            return not_a(r, field, i, "two numbers that are not negative, the first not falling");
    }
    return TC_OK;
}

static tc_status item_quantiles(const tc_record *r, tc_result *ret)
{
    tc_record q = *r;
    size_t i, n;
    yyjson_val *key, *value;
    TC_TRY(tc_json_require(&r->object, "quantiles"));
    TC_TRY(tc_json_get_object(&r->object, "quantiles", &q.object));
    if (yyjson_obj_size(q.object.value) > TC_RESULTS_LABELS_MAX)
        return tc_fail(r->object.e, TC_LIMIT, "%s: quantiles: more than %d", r->object.what,
                       TC_RESULTS_LABELS_MAX);
    ret->label_count = (uint32_t)yyjson_obj_size(q.object.value);
    ret->labels = tc_results_alloc(r->memory, ret->label_count + 1u, sizeof *ret->labels);
    if (!ret->labels) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    yyjson_obj_foreach(q.object.value, i, n, key, value)
    {
        char *end, *text = (char *)yyjson_get_str(key);
        double share = strtod(text, &end);
        if (end == text || *end || !(share >= 0 && share <= 1) || strlen(text) > 16 ||
            !real(value, 0, &ret->labels[i].value))
            return not_a(r, "quantiles", i, "a share from 0 to 1 with a number that is not negative");
        TC_TRY(copy(r, text, strlen(text), &ret->labels[i].label));
    }
    TC_TRY(tc_json_double(&r->object, "count", 0, REAL_MAX, &ret->count));
    return item_pairs(r, "buckets", false, ret);
}

static tc_status item_cells(const tc_record *r, tc_result *ret)
{
    yyjson_val *all, *row, *cell;
    size_t i, j, n, m;
    TC_TRY(name(r, "rows", false, &ret->rows_name));
    TC_TRY(name(r, "columns", false, &ret->columns_name));
    TC_TRY(list(r, "values", true, TC_RESULTS_ROWS_MAX, &all, &ret->rows));
    ret->columns = (uint32_t)yyjson_arr_size(yyjson_arr_get_first(all));
    if (!ret->columns || ret->columns > TC_RESULTS_CELLS_MAX / ret->rows)
        return tc_fail(r->object.e, TC_LIMIT, "%s: values: expected 1 to %d cells", r->object.what,
                       TC_RESULTS_CELLS_MAX);
    ret->cells = tc_results_alloc(r->memory, (size_t)ret->rows * ret->columns, sizeof *ret->cells);
    if (!ret->cells) return tc_fail(r->object.e, TC_NOMEM, "%s: out of memory", r->object.what);
    float *to = ret->cells;
    yyjson_arr_foreach(all, i, n, row)
    {
        if (yyjson_arr_size(row) != ret->columns)
            return not_a(r, "values", i, "as many cells as in the first");
        yyjson_arr_foreach(row, j, m, cell)
        {
            double value;
            if (!real(cell, 0, &value)) return not_a(r, "values", i, "numbers that are not negative");
            *to++ = (float)value;
        }
    }
    return TC_OK;
}

tc_status tc_record_item(const tc_record *r, tc_result *ret)
{
    ret->roofline = ret->planned = ret->count = NAN;
    ret->rows_name = ret->columns_name = "";
    TC_TRY(item_head(r, ret));
    switch (ret->kind) {
    case TC_RESULT_FIGURE:
        return item_values(r, ret);
    case TC_RESULT_STACK:
        return item_labels(r, "shares", true, 0, ret);
    case TC_RESULT_DISTRIBUTION:
        return item_quantiles(r, ret);
    case TC_RESULT_MATRIX:
        return item_cells(r, ret);
    case TC_RESULT_TIMELINE:
        TC_TRY(tc_json_double(&r->object, "planned", 0, REAL_MAX, &ret->planned));
        return item_pairs(r, "points", true, ret);
    }
    return tc_fail(r->object.e, TC_INTERNAL, "%s: a record without a kind", r->object.what);
}
