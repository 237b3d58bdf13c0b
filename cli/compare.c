// SPDX-License-Identifier: Apache-2.0
// Owns: matching two files' figures by id, and the verdict on each pair.
#include "cli/compare.h"
#include "cli/welch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_quality(const tc_results *r, const tc_result *item)
{
    return !strcmp(r->parts[item->part_at].section, "quality");
}

static double change_of(double a, double b)
{
    return a != 0 ? (b - a) / fabs(a) : b != 0 ? INFINITY : 0;
}

// Do the parts of the rooflines differ too? Without rooflines: nothing speaks against it.
static bool beside_roofline(const tc_result *a, const tc_result *b, double threshold)
{
    double of_a[TC_RESULTS_VALUES_MAX], of_b[TC_RESULTS_VALUES_MAX];
    if (!isfinite(a->roofline) || !isfinite(b->roofline)) return true;
    for (uint32_t i = 0; i < a->value_count; i++) of_a[i] = a->values[i] / a->roofline;
    for (uint32_t i = 0; i < b->value_count; i++) of_b[i] = b->values[i] / b->roofline;
    double change = change_of(tc_median(of_a, a->value_count), tc_median(of_b, b->value_count));
    return fabs(change) >= threshold && tc_welch_p(of_a, a->value_count, of_b, b->value_count) < TC_COMPARE_P;
}

static tc_verdict direction(const tc_change *c)
{
    if (c->b->better == TC_BETTER_NONE) return TC_VERDICT_MOVED;
    return (c->change > 0) == (c->b->better == TC_BETTER_HIGHER) ? TC_VERDICT_BETTER : TC_VERDICT_WORSE;
}

static tc_verdict judge(const tc_results *a, const tc_results *b, tc_change *c, double threshold)
{
    c->change = change_of(c->a->median, c->b->median);
    if (is_quality(b, c->b)) return fabs(c->change) > TC_COMPARE_QUALITY ? direction(c) : TC_VERDICT_SAME;
    c->p = tc_welch_p(c->a->values, c->a->value_count, c->b->values, c->b->value_count);
    if (fabs(c->change) < threshold) return TC_VERDICT_SAME;
    if (isnan(c->p)) return TC_VERDICT_ONCE;
    if (c->p >= TC_COMPARE_P) return TC_VERDICT_SAME;
    if (a->baseline && a->run_count > 1 && c->b->median >= c->a->low && c->b->median <= c->a->high)
        return TC_VERDICT_SAME;
    return beside_roofline(c->a, c->b, threshold) ? direction(c) : TC_VERDICT_MACHINE;
}

static int by_id(const void *x, const void *y)
{
    return strcmp((*(const tc_result *const *)x)->id, (*(const tc_result *const *)y)->id);
}

static int by_verdict(const void *x, const void *y)
{
    const tc_change *a = x, *b = y;
    if (a->verdict != b->verdict) return a->verdict < b->verdict ? -1 : 1;
    double by = fabs(b->change) - fabs(a->change);
    if (by != 0 && !isnan(by)) return by > 0 ? 1 : -1;
    return strcmp((a->a ? a->a : a->b)->id, (b->a ? b->a : b->b)->id);
}

// The figures of a file by id.
static uint32_t figures(const tc_results *r, const tc_result **ret)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < r->count; i++)
        if (r->items[i].kind == TC_RESULT_FIGURE) ret[count++] = &r->items[i];
    qsort(ret, count, sizeof *ret, by_id);
    return count;
}

tc_status tc_compare(const tc_results *a, const tc_results *b, double threshold, tc_comparison *ret,
                     tc_error *e)
{
    tc_status status = TC_OK;
    const tc_result **as = calloc(a->count + 1, sizeof *as), **bs = calloc(b->count + 1, sizeof *bs);
    *ret = (tc_comparison){
        .a = a, .b = b, .changes = calloc((size_t)a->count + b->count + 1, sizeof *ret->changes)};
    if (!as || !bs || !ret->changes) {
        free(ret->changes);
        TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    }
    uint32_t a_count = figures(a, as), b_count = figures(b, bs);
    for (uint32_t i = 0, j = 0; i < a_count || j < b_count;) {
        tc_change *c = &ret->changes[ret->count++];
        int order = i == a_count ? 1 : j == b_count ? -1 : strcmp(as[i]->id, bs[j]->id);
        *c = (tc_change){.a = order <= 0 ? as[i++] : NULL, .b = order >= 0 ? bs[j++] : NULL, .p = NAN};
        // Of another unit it is another figure.
        bool both = c->a && c->b && !strcmp(c->a->unit, c->b->unit);
        c->verdict = both ? judge(a, b, c, threshold) : c->a ? TC_VERDICT_GONE : TC_VERDICT_NEW;
        ret->counts[c->verdict]++;
    }
    qsort(ret->changes, ret->count, sizeof *ret->changes, by_verdict);
out:
    free(as);
    free(bs);
    return status;
}
