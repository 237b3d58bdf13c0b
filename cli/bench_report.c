// SPDX-License-Identifier: Apache-2.0
// Owns: how figures are written: aligned lines, or one JSON object a configuration.
#include "cli/bench.h"
#include "cli/cli.h"
#include "commit.h" // made by the build

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

enum { LABEL_COLUMNS = 30 };

struct tc_report {
    bool json;
    yyjson_mut_doc *doc;
    yyjson_mut_val *root;
};

// ---- samples ----

void tc_samples_add(tc_samples *s, double value)
{
    if (s->count < TC_BENCH_REPETITIONS_MAX) s->value[s->count++] = value;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The samples in rising order; at least one value.
static uint32_t sorted(const tc_samples *s, double ret[TC_BENCH_REPETITIONS_MAX])
{
    ret[0] = 0;
    memcpy(ret, s->value, s->count * sizeof *ret);
    qsort(ret, s->count, sizeof *ret, by_value);
    return s->count ? s->count : 1;
}

double tc_samples_min(const tc_samples *s)
{
    double v[TC_BENCH_REPETITIONS_MAX];
    sorted(s, v);
    return v[0];
}

double tc_samples_max(const tc_samples *s)
{
    double v[TC_BENCH_REPETITIONS_MAX];
    uint32_t n = sorted(s, v);
    return v[n - 1];
}

double tc_samples_median(const tc_samples *s)
{
    double v[TC_BENCH_REPETITIONS_MAX];
    uint32_t n = sorted(s, v);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// ---- one object ----

static yyjson_mut_val *put_object(tc_report *r, const char *key)
{
    yyjson_mut_val *o = yyjson_mut_obj(r->doc);
    yyjson_mut_obj_add_val(r->doc, r->root, key, o);
    return o;
}

// JSON has no infinities.
static void put_real(tc_report *r, yyjson_mut_val *o, const char *key, double value)
{
    if (isfinite(value))
        yyjson_mut_obj_add_real(r->doc, o, key, value);
    else
        yyjson_mut_obj_add_null(r->doc, o, key);
}

static void describe_json(tc_report *r, const tc_bench *b, const char *configuration, const tc_local *local)
{
    yyjson_mut_doc *doc = r->doc;
    yyjson_mut_obj_add_str(doc, r->root, "bench", b->figure);
    yyjson_mut_obj_add_strcpy(doc, r->root, "configuration", configuration);
    yyjson_mut_obj_add_str(doc, r->root, "version", TC_VERSION);
    yyjson_mut_obj_add_str(doc, r->root, "commit", TC_COMMIT);
    yyjson_mut_val *o = put_object(r, "machine");
    yyjson_mut_obj_add_str(doc, o, "cpu", b->machine.cpu);
    yyjson_mut_obj_add_uint(doc, o, "cpus", b->machine.cpus);
    yyjson_mut_obj_add_uint(doc, o, "numa_nodes", b->machine.nodes);
    yyjson_mut_obj_add_uint(doc, o, "memory_bytes", b->machine.memory_bytes);
    yyjson_mut_obj_add_uint(doc, r->root, "repetitions", b->repetitions);
    if (!local) return;
    o = put_object(r, "model");
    yyjson_mut_obj_add_strcpy(doc, o, "family", local->info.family);
    yyjson_mut_obj_add_strcpy(doc, o, "hash", local->info.model_hash);
    yyjson_mut_obj_add_uint(doc, o, "layers", local->info.layers);
    yyjson_mut_obj_add_strcpy(doc, r->root, "device", local->info.device);
    yyjson_mut_obj_add_strcpy(doc, r->root, "isa", local->info.isa);
    yyjson_mut_obj_add_strcpy(doc, r->root, "precision", local->info.precision);
    yyjson_mut_obj_add_uint(doc, r->root, "threads", b->o.threads);
}

static void describe_lines(const tc_bench *b, const char *configuration, const tc_local *local)
{
    char memory[TC_BYTES_TEXT];
    printf("%s, %s\n", b->figure, configuration);
    printf("  %-*s %s, %u CPUs, %u NUMA nodes, %s; thermocline %s (%s)\n", LABEL_COLUMNS, "machine",
           b->machine.cpu, b->machine.cpus, b->machine.nodes, tc_cli_bytes(b->machine.memory_bytes, memory),
           TC_VERSION, TC_COMMIT);
    if (!local) return;
    printf("  %-*s %s: %s, %u layers, %s kernels, %s precision\n", LABEL_COLUMNS, "model", b->model,
           local->info.family, local->info.layers, local->info.isa, local->info.precision);
}

tc_status tc_report_open(const tc_bench *b, const char *configuration, const tc_local *local, tc_report **ret,
                         tc_error *e)
{
    tc_report *r = calloc(1, sizeof *r);
    if (!r) return tc_fail(e, TC_NOMEM, "out of memory");
    r->json = b->json;
    if (b->json) {
        r->doc = yyjson_mut_doc_new(NULL);
        r->root = yyjson_mut_obj(r->doc);
        yyjson_mut_doc_set_root(r->doc, r->root);
        describe_json(r, b, configuration, local);
    } else {
        describe_lines(b, configuration, local);
    }
    *ret = r;
    return TC_OK;
}

void tc_report_samples(tc_report *r, const char *key, const char *label, const tc_samples *s,
                       const char *unit)
{
    if (!r->json) {
        printf("  %-*s %.4g %s", LABEL_COLUMNS, label, tc_samples_median(s), unit);
        if (s->count > 1) printf(" (%.4g to %.4g in %u)", tc_samples_min(s), tc_samples_max(s), s->count);
        printf("\n");
        return;
    }
    yyjson_mut_val *o = put_object(r, key), *values = yyjson_mut_arr(r->doc);
    put_real(r, o, "min", tc_samples_min(s));
    put_real(r, o, "median", tc_samples_median(s));
    put_real(r, o, "max", tc_samples_max(s));
    for (uint32_t i = 0; i < s->count; i++) yyjson_mut_arr_add_real(r->doc, values, s->value[i]);
    yyjson_mut_obj_add_val(r->doc, o, "samples", values);
}

void tc_report_number(tc_report *r, const char *key, const char *label, double value, const char *unit)
{
    if (r->json)
        put_real(r, r->root, key, value);
    else
        printf("  %-*s %.4g %s\n", LABEL_COLUMNS, label, value, unit);
}

void tc_report_count(tc_report *r, const char *key, const char *label, uint64_t value, const char *unit)
{
    if (r->json)
        yyjson_mut_obj_add_uint(r->doc, r->root, key, value);
    else
        printf("  %-*s %llu %s\n", LABEL_COLUMNS, label, (unsigned long long)value, unit);
}

void tc_report_bytes(tc_report *r, const char *key, const char *label, uint64_t value)
{
    char text[TC_BYTES_TEXT];
    if (r->json)
        yyjson_mut_obj_add_uint(r->doc, r->root, key, value);
    else
        printf("  %-*s %s\n", LABEL_COLUMNS, label, tc_cli_bytes(value, text));
}

void tc_report_flag(tc_report *r, const char *key, bool value)
{
    if (r->json) yyjson_mut_obj_add_bool(r->doc, r->root, key, value);
}

void tc_report_note(tc_report *r, const char *text)
{
    if (r->json)
        yyjson_mut_obj_add_strcpy(r->doc, r->root, "note", text);
    else
        printf("  %s\n", text);
}

void tc_report_stages(tc_report *r, const tc_window *w)
{
    double steps = w->steps ? (double)w->steps : 1, total = 1e6 * w->seconds / steps;
    double compute = (double)(w->expert_us > w->wait_us ? w->expert_us - w->wait_us : 0);
    double known = (double)(w->attention_us + w->router_us + w->head_us) + compute + (double)w->wait_us;
    const struct {
        const char *key, *label;
        double us;
    } stages[] = {
        {"attention_us", "attention", (double)w->attention_us / steps},
        {"router_us", "router", (double)w->router_us / steps},
        {"expert_us", "experts", compute / steps},
        {"carrier_us", "carrier", (double)w->wait_us / steps},
        {"head_us", "head", (double)w->head_us / steps},
        {"rest_us", "rest", total - known / steps},
    };
    yyjson_mut_val *o = r->json ? put_object(r, "step_us") : NULL;
    if (!r->json) printf("  %-*s %.0f us:", LABEL_COLUMNS, "a step", total);
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        if (r->json)
            put_real(r, o, stages[i].key, stages[i].us);
        else
            printf("%s %s %.0f (%.1f %%)", i ? "," : "", stages[i].label, stages[i].us,
                   total > 0 ? 100 * stages[i].us / total : 0);
    }
    if (r->json)
        put_real(r, o, "total_us", total);
    else
        printf("\n");
}

void tc_report_memory(tc_report *r, const tc_local *local)
{
    uint64_t held = tc_supervisor_resident_bytes(local->supervisor);
    uint64_t due = local->info.weights_bytes + local->info.experts_bytes + local->info.kv_budget_bytes;
    if (r->json) {
        yyjson_mut_obj_add_uint(r->doc, r->root, "resident_bytes", held);
        yyjson_mut_obj_add_uint(r->doc, r->root, "weights_and_kv_bytes", due);
        put_real(r, r->root, "resident_ratio", (double)held / (double)due);
        return;
    }
    char a[TC_BYTES_TEXT], c[TC_BYTES_TEXT];
    printf("  %-*s %s held, %s packed weights + KV budget: %.2f times\n", LABEL_COLUMNS, "memory",
           tc_cli_bytes(held, a), tc_cli_bytes(due, c), (double)held / (double)due);
}

void tc_report_hits(tc_report *r, const tc_bench *b, const tc_window *w)
{
    if (b->o.force_hits) // drawn, past the hot tier's own books
        tc_report_number(r, "dialled_hit_rate", "hits, dialled", (double)(b->o.force_hits - 1) / 100,
                         "of the experts");
    else if (w->expert_pairs)
        tc_report_number(r, "hit_rate", "found hot", (double)w->expert_hits / (double)w->expert_pairs,
                         "of the experts");
    if (w->fetched)
        tc_report_number(r, "token_experts_fetched", "cold, over the link",
                         (double)w->fetched / (double)w->tokens, "experts a token");
}

void tc_report_ahead(tc_report *r, const tc_local *local)
{
    const tc_engine_detail *d = &local->detail;
    if (!d->expected || !d->ahead_fills) return;
    tc_report_number(r, "ahead_recall", "routers a layer early",
                     (double)d->expected_true / (double)d->expected, "right");
    tc_report_number(r, "ahead_used_fraction", "fetched for it and used",
                     (double)d->ahead_used / (double)d->ahead_fills, "of them");
}

void tc_report_device(tc_report *r, const tc_local *local)
{
    if (local->hot_bytes) tc_report_bytes(r, "hot_bytes", "room for hot experts", local->hot_bytes);
    if (!local->device_total_bytes) return;
    tc_report_bytes(r, "device_peak_bytes", "the device's memory, peak", local->device_used_bytes);
    tc_report_bytes(r, "device_budget_bytes", "  of", local->device_total_bytes);
}

void tc_report_peak(tc_report *r, const tc_machine *machine)
{
    const tc_matrix_peak *p = &machine->peak;
    if (r->json) {
        yyjson_mut_val *o = put_object(r, "matrix_peak_gop_per_s");
        for (uint32_t i = 0; i < p->count; i++) put_real(r, o, p->unit[i].name, p->unit[i].gop_per_s);
        return;
    }
    printf("  %-*s", LABEL_COLUMNS, "matrix peak, GOP/s");
    for (uint32_t i = 0; i < p->count; i++)
        printf("%s %s %.0f", i ? "," : "", p->unit[i].name, p->unit[i].gop_per_s);
    printf("\n");
}

static void roof_json(tc_report *r, const tc_roof *roof)
{
    yyjson_mut_val *o = put_object(r, "roofline"), *rounds = yyjson_mut_obj(r->doc);
    put_real(r, o, "step_us", roof->us);
    put_real(r, o, "bytes_alone_us", roof->bytes_us);
    yyjson_mut_obj_add_val(r->doc, o, "rounds", rounds);
    for (int i = 0; i < TC_ROOF_KINDS; i++) {
        const tc_roof_round *x = &roof->round[i];
        yyjson_mut_val *one = yyjson_mut_obj(r->doc);
        put_real(r, one, "bytes", x->bytes);
        put_real(r, one, "gop", x->gop);
        yyjson_mut_obj_add_str(r->doc, one, "product", x->product);
        put_real(r, one, "peak_gop_per_s", x->gop_per_s);
        put_real(r, one, "bytes_us", x->bytes_us);
        put_real(r, one, "products_us", x->products_us);
        put_real(r, one, "roof_us", x->us);
        yyjson_mut_obj_add_val(r->doc, rounds, tc_roof_keys[i], one);
    }
}

void tc_report_roof(tc_report *r, const tc_roof *roof)
{
    if (r->json) {
        roof_json(r, roof);
        return;
    }
    printf("  %-*s %.0f us a step; its bytes alone %.0f\n", LABEL_COLUMNS, "roof of bytes and products",
           roof->us, roof->bytes_us);
    for (int i = 0; i < TC_ROOF_KINDS; i++) {
        const tc_roof_round *x = &roof->round[i];
        if (x->us <= 0) continue;
        printf("    %-*s %.0f us: bytes %.0f", LABEL_COLUMNS - 2, tc_roof_keys[i], x->us, x->bytes_us);
        if (x->gop > 0 && x->gop_per_s > 0)
            printf(", products %.0f (%.3g GOP, %s at %.0f GOP/s)", x->products_us, x->gop, x->product,
                   x->gop_per_s);
        else if (x->gop > 0)
            printf(", products not measured (%.3g GOP)", x->gop);
        printf("\n");
    }
}

void tc_report_close(tc_report *r)
{
    if (!r) return;
    if (r->json) yyjson_mut_write_fp(stdout, r->doc, YYJSON_WRITE_NEWLINE_AT_END, NULL, NULL);
    fflush(stdout);
    yyjson_mut_doc_free(r->doc);
    free(r);
}
