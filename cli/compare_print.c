// SPDX-License-Identifier: Apache-2.0
// Owns: a comparison as text for people, and the verb `bench compare`.
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/report_view.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *word, *title;
} verdicts[TC_VERDICTS] = {
    [TC_VERDICT_WORSE] = {"worse", "Worse"},
    [TC_VERDICT_MOVED] = {"moved", "Moved (neither way is better)"},
    [TC_VERDICT_ONCE] = {"measured once", "Differs, but measured once: cannot be told from noise"},
    [TC_VERDICT_MACHINE] = {"moved with the machine",
                            "Moved as the machine did: the same part of the roofline"},
    [TC_VERDICT_BETTER] = {"better", "Better"},
    [TC_VERDICT_SAME] = {"within noise", "Within noise"},
    [TC_VERDICT_GONE] = {"in A only", "In A only"},
    [TC_VERDICT_NEW] = {"in B only", "In B only"},
};

// Texts of a file from outside: no control characters for the terminal.
static void put(FILE *f, const char *text, int width)
{
    int n = 0;
    for (; *text; text++) {
        n += ((unsigned char)*text & 0xc0) != 0x80;
        fputc(iscntrl((unsigned char)*text) ? '?' : *text, f);
    }
    for (; n < width; n++) fputc(' ', f);
}

static void side(FILE *f, const char *name, const tc_results *r)
{
    char number[TC_NUMBER_BYTES];
    const tc_result_run *run = &r->runs[r->run_count - 1];
    fprintf(f, "%s  ", name);
    put(f, run->machine, 0);
    fputs(", commit ", f);
    put(f, run->commit, 0);
    fputs(run->dirty ? " with changes, " : ", ", f);
    put(f, run->started, 0);
    fputs(", suite ", f);
    put(f, run->suite, 0);
    if (run->read_bytes_per_s > 0)
        fprintf(f, ", reads %s GB/s", tc_number(run->read_bytes_per_s / 1e9, number));
    if (r->baseline) fprintf(f, " (baseline of %u run%s)", r->run_count, r->run_count == 1 ? "" : "s");
    fputc('\n', f);
}

static void warn(FILE *f, const char *what, const char *a, const char *b)
{
    if (!strcmp(a, b)) return;
    fprintf(f, "Note: different %s: ", what);
    put(f, a, 0);
    fputs(" and ", f);
    put(f, b, 0);
    fputc('\n', f);
}

static void row(FILE *f, const tc_change *c, int width)
{
    char a[TC_NUMBER_BYTES] = "-", b[TC_NUMBER_BYTES] = "-", reps[TC_NUMBER_BYTES],
         change[TC_NUMBER_BYTES] = "";
    const tc_result *item = c->b ? c->b : c->a;
    double size = fabs(item->median), factor;
    char unit[TC_UNIT_BYTES];
    tc_unit_scale(item->unit, size, &factor, unit);
    if (c->a) tc_number(c->a->median * factor, a);
    if (c->b) tc_number(c->b->median * factor, b);
    if (c->a && c->b)
        snprintf(change, sizeof change, isfinite(c->change) ? "%+.1f %%" : "from 0", 100 * c->change);
    snprintf(reps, sizeof reps, "%u/%u", c->a ? c->a->value_count : 0, c->b ? c->b->value_count : 0);
    fputs("  ", f);
    put(f, item->id, width);
    fprintf(f, "  %10s  %10s  %9s  ", a, b, change);
    if (isnan(c->p))
        fprintf(f, "%8s", "");
    else
        fprintf(f, c->p < 1e-4 ? "p<0.0001" : "p=%.4f", c->p);
    fprintf(f, "  %6s  ", reps);
    put(f, unit, 0);
    fputc('\n', f);
}

static void block(const tc_comparison *c, tc_verdict verdict, FILE *f)
{
    int width = 20;
    if (!c->counts[verdict]) return;
    fprintf(f, "\n%s: %u\n", verdicts[verdict].title, c->counts[verdict]);
    for (uint32_t i = 0; i < c->count; i++) {
        const tc_result *item = c->changes[i].a ? c->changes[i].a : c->changes[i].b;
        int n = (int)strlen(item->id);
        if (c->changes[i].verdict == verdict && n > width) width = n < 60 ? n : 60;
    }
    for (uint32_t i = 0; i < c->count; i++)
        if (c->changes[i].verdict == verdict) row(f, &c->changes[i], width);
}

void tc_compare_print(const tc_comparison *c, double threshold, bool all, FILE *f)
{
    const tc_result_run *a = &c->a->runs[c->a->run_count - 1], *b = &c->b->runs[c->b->run_count - 1];
    side(f, "A", c->a);
    side(f, "B", c->b);
    warn(f, "machines", a->machine, b->machine);
    warn(f, "models", a->model_hash, b->model_hash);
    warn(f, "suites", a->suite, b->suite);
    fprintf(f,
            "Moved: Welch's t-test on the repetitions, p < %g, and the medians at least %g %% apart; with a "
            "roofline, the parts of "
            "it too.\nFigures of quality: any change above %g %%.\n",
            TC_COMPARE_P, 100 * threshold, 100 * TC_COMPARE_QUALITY);
    for (int v = 0; v < TC_VERDICTS; v++)
        if (v != TC_VERDICT_SAME || all) block(c, (tc_verdict)v, f);
    fprintf(f, "\n%u figures in both:", c->count - c->counts[TC_VERDICT_GONE] - c->counts[TC_VERDICT_NEW]);
    for (int v = 0; v < TC_VERDICTS; v++)
        if (c->counts[v] || v == TC_VERDICT_WORSE || v == TC_VERDICT_BETTER || v == TC_VERDICT_SAME)
            fprintf(f, "%s %u %s", v ? "," : "", c->counts[v], verdicts[v].word);
    fputc('\n', f);
}

// ---- the verb ----

static tc_status compare(const char *a, const char *b, const tc_compare_options *o, bool *ret_worse,
                         tc_error *e)
{
    char path[PATH_MAX];
    tc_status status;
    tc_results *left = NULL, *right = NULL;
    tc_comparison c = {0};
    TC_GOTO(tc_results_load(b ? b : a, &right, e));
    if (!b) TC_GOTO(tc_baseline_path(o->baselines, right, path, e));
    status = tc_results_load(b ? a : path, &left, e);
    if (status == TC_NOT_FOUND && !b)
        TC_GOTO(
            tc_error_prefix(e, "no baseline of this machine yet (thermocline bench baseline DIR makes one)"));
    TC_GOTO(status);
    TC_GOTO(tc_compare(left, right, o->threshold / 100, &c, e));
    tc_compare_print(&c, o->threshold / 100, o->all, stdout);
    *ret_worse = c.counts[TC_VERDICT_WORSE] > 0;
out:
    free(c.changes);
    tc_results_free(left);
    tc_results_free(right);
    return status;
}

int tc_cli_compare(const char *a, const char *b, const tc_compare_options *o)
{
    tc_error e;
    bool worse = false;
    if (compare(a, b, o, &worse, &e) != TC_OK) return tc_cli_fail(&e);
    return worse && o->fail_on_regression ? TC_EXIT_FAILURE : 0;
}
