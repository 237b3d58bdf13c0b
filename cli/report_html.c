// SPDX-License-Identifier: Apache-2.0
// Owns: report.html: one file without scripts and without anything from outside, light and dark, and readable
// on paper. It is well-formed XML too.
#include "cli/report.h"
#include "cli/report_view.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

extern const unsigned char tc_embedded_report_css[]; // cli/report.css, by the build
extern const unsigned long tc_embedded_report_css_bytes;

static void element(FILE *f, const char *tag, const char *class, const char *text)
{
    fprintf(f, *class ? "<%s class=\"%s\">" : "<%s>", tag, class);
    tc_xml(f, text);
    fprintf(f, "</%s>", tag);
}

static void fact(FILE *f, const char *what, const char *text)
{
    if (!*text) return;
    fputs("<tr>", f);
    element(f, "th", "", what);
    element(f, "td", "", text);
    fputs("</tr>\n", f);
}

// ---- the head ----

static void head_machine(FILE *f, const tc_result_run *run)
{
    char text[1024], a[TC_NUMBER_BYTES], number[TC_NUMBER_BYTES];
    bool named = strstr(run->machine, run->cpu) != NULL, counted = strstr(run->machine, " cores") != NULL;
    snprintf(text, sizeof text, named ? "%s" : "%s: %s", run->machine, run->cpu);
    fact(f, "machine", text);
    if (counted)
        *number = 0;
    else
        snprintf(number, sizeof number, "%" PRIu64 " cores, ", run->cores);
    snprintf(text, sizeof text, "%s%" PRIu64 " threads, %" PRIu64 " NUMA node%s, %s of memory", number,
             run->threads, run->numa_nodes, run->numa_nodes == 1 ? "" : "s",
             tc_bytes_text(run->ram_bytes, a));
    fact(f, "processor", text);
    fact(f, "instruction sets", run->features);
    snprintf(text, sizeof text, "%s GB/s, measured in the run",
             tc_number(run->read_bytes_per_s / 1e9, number));
    fact(f, "read bandwidth", run->read_bytes_per_s > 0 ? text : "");
    snprintf(text, sizeof text, run->vram_bytes ? "%s, %s" : "%s", *run->gpu ? run->gpu : "none",
             tc_bytes_text(run->vram_bytes, a));
    fact(f, "GPU", text);
    fact(f, "kernel", run->kernel);
}

static void head_model(FILE *f, const tc_result_run *run)
{
    char text[1024], a[TC_NUMBER_BYTES], number[TC_NUMBER_BYTES];
    snprintf(text, sizeof text, "%s%s%s%s%s", run->model, *run->family ? ", " : "", run->family,
             *run->model_hash ? ", hash " : "", run->model_hash);
    fact(f, "model", text);
    if (!run->layers) return;
    snprintf(text, sizeof text,
             "%s parameters, %s, %" PRIu64 " layers, %" PRIu64 " experts, %" PRIu64 " a token",
             tc_axis_tick((double)run->parameters, number), tc_bytes_text(run->model_bytes, a), run->layers,
             run->experts, run->top_k);
    fact(f, "its shape", text);
}

static void head(FILE *f, const tc_results *r)
{
    const tc_result_run *run = &r->runs[r->run_count - 1];
    fputs("<header><h1>Thermocline: speed and quality</h1>\n<p class=\"sub\">", f);
    tc_xml(f, *run->machine ? run->machine : run->cpu);
    fputs(" · commit <code>", f);
    tc_xml(f, run->commit);
    fputs(run->dirty ? "</code> with changes · " : "</code> · ", f);
    tc_xml(f, run->started);
    fputs(" · suite ", f);
    tc_xml(f, run->suite);
    fputs("</p></header>\n", f);
}

static void conditions(FILE *f, const tc_results *r)
{
    const tc_result_run *run = &r->runs[r->run_count - 1];
    char text[1024];
    fputs("<section id=\"conditions\"><h2>Conditions</h2>\n<table class=\"facts\">\n", f);
    head_machine(f, run);
    head_model(f, run);
    snprintf(text, sizeof text, "%s%s%s%s", run->version, *run->version ? ", commit " : "commit ",
             run->commit, run->dirty ? ", with changes that are not committed" : "");
    fact(f, "thermocline", text);
    fact(f, "started", run->started);
    snprintf(text, sizeof text,
             "%u runs into one file; rows of other commits than the last run's name theirs", r->run_count);
    if (r->run_count > 1) fact(f, "runs", text);
    snprintf(text, sizeof text, "%u of a kind that this program does not know, passed over", r->unknown);
    if (r->unknown) fact(f, "records", text);
    snprintf(text, sizeof text, "line %u was cut off while it was written, and is left out", r->cut_line);
    if (r->cut_line) fact(f, "results", text);
    fputs(
        "</table>\n<h3>How to read it</h3>\n<p>Each point or bar is the median of its repetitions; whiskers "
        "and bands reach from the "
        "least to the most of them, and tables give both with the number of runs. <em>Roofline</em>: the "
        "most that the machine could do "
        "by what was measured of it in the same run, drawn dash-dotted (in bars: a thick tick); a part of it "
        "stands in the "
        "last column. Dashed lines across are figures of the original plan, or what was planned beforehand. "
        "Nothing on this page is typed by hand: <code>thermocline bench report</code> makes it from "
        "<code>results.jsonl</code>, which lies beside it.</p></section>\n",
        f);
}

// ---- summary and gaps ----

static void summary(FILE *f, const tc_results *r, const tc_groups *g)
{
    tc_summary_line lines[TC_SUMMARY_MAX];
    uint32_t count = tc_summary(r, g, lines);
    fputs("<div class=\"summary\" id=\"summary\"><h2>In short</h2><table>\n", f);
    for (uint32_t i = 0; i < count; i++) {
        fputs("<tr><td><a href=\"#", f);
        tc_xml(f, lines[i].section);
        fputs("\">", f);
        tc_xml(f, lines[i].what);
        fputs("</a></td>", f);
        element(f, "td", "value", lines[i].value);
        element(f, "td", "small", lines[i].detail);
        fputs("</tr>\n", f);
    }
    fprintf(f,
            "<tr><td>Parts</td><td class=\"value\">%u of %u done</td><td class=\"small\">%u skipped, %u "
            "failed, %u missing</td></tr>\n</table></div>\n",
            tc_parts_in(r, TC_PART_DONE), r->part_count, tc_parts_in(r, TC_PART_SKIPPED),
            tc_parts_in(r, TC_PART_FAILED), tc_parts_in(r, TC_PART_MISSING));
}

static void gap(FILE *f, const tc_result_part *p)
{
    fputs("<p class=\"gap\"><code>", f);
    tc_xml(f, p->id);
    fprintf(f, "</code> <strong>%s</strong>", tc_part_state_text(p->state));
    if (p->state == TC_PART_MISSING) fputs(": the run ended before it", f);
    if (*p->reason) fputs(": ", f), tc_xml(f, p->reason);
    fputs("</p>\n", f);
}

// ---- sections ----

static void caption(const tc_table_writer *w, const char *text)
{
    element(w->f, "caption", "", text);
}

static void cell(FILE *f, const char *tag, const char *class, const char *text)
{
    char first[TC_RESULTS_NAME_BYTES_MAX * 2];
    const char *more = strchr(text, '\n');
    if (!more) {
        element(f, tag, class, text);
        return;
    }
    snprintf(first, sizeof first, "%.*s", (int)(more - text), text);
    fprintf(f, "<%s class=\"%s\">", tag, class);
    tc_xml(f, first);
    element(f, "small", "", more + 1);
    fprintf(f, "</%s>", tag);
}

static void table_row(const tc_table_writer *w, const char *const *cells, uint32_t count, uint32_t texts,
                      bool head)
{
    if (head) fputs("<thead>", w->f);
    fputs("<tr>", w->f);
    for (uint32_t i = 0; i < count; i++) cell(w->f, head ? "th" : "td", i < texts ? "" : "n", cells[i]);
    fputs(head ? "</tr></thead><tbody>\n" : "</tr>\n", w->f);
}

// Method, options and duration of each part that gave records to the group, and has not been told of.
static void methods(FILE *f, const tc_results *r, const tc_groups *all, const tc_group *g)
{
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result_part *p = &r->parts[g->items[i]->part_at];
        char number[TC_NUMBER_BYTES];
        if (tc_part_told(all, g, i)) continue;
        fputs("<p class=\"method\">", f);
        tc_xml(f, p->method);
        if (*p->parameters) fputs(" [", f), tc_xml(f, p->parameters), fputs("]", f);
        fputs(" (<code>", f);
        tc_xml(f, p->id);
        fputs("</code>", f);
        if (p->seconds > 0) fprintf(f, ", %s s", tc_number(p->seconds, number));
        if (p->state != TC_PART_DONE) fprintf(f, ", %s", tc_part_state_text(p->state));
        fputs(")</p>\n", f);
    }
}

static void block(FILE *f, const tc_results *r, const tc_groups *all, const tc_group *g)
{
    char title[TC_RESULTS_NAME_BYTES_MAX + 1];
    const tc_table_writer w = {f, caption, table_row};
    tc_title(g, title, sizeof title);
    fprintf(f, "<div class=\"block%s\"><h3>",
            g->count > 24                 ? " long"
            : g->kind == TC_RESULT_MATRIX ? " many"
                                          : "");
    tc_xml(f, title);
    fputs("</h3>\n", f);
    methods(f, r, all, g);
    fprintf(f, "<div class=\"pair%s\">", g->kind == TC_RESULT_MATRIX && g->count > 1 ? " maps" : "");
    fputs("<figure class=\"picture\" data-figure=\"", f);
    tc_xml(f, g->figure);
    fputs("\">\n", f);
    if (!tc_group_draw(f, g)) fputs("<p>No memory for the picture.</p>\n", f);
    fputs("</figure><div class=\"numbers\"><table>\n", f);
    tc_group_table(r, g, &w);
    fputs("</tbody></table></div></div></div>\n", f);
}

static void sections(FILE *f, const tc_results *r, const tc_groups *g)
{
    const char *title, *name;
    for (uint32_t s = 0; (name = tc_section(r, s, &title)); s++) {
        fputs("<section id=\"", f);
        tc_xml(f, name);
        fputs("\">", f);
        element(f, "h2", "", title);
        fputs("\n", f);
        for (uint32_t i = 0; i < r->part_count; i++)
            if (!strcmp(r->parts[i].section, name) && r->parts[i].state != TC_PART_DONE) gap(f, &r->parts[i]);
        for (uint32_t i = 0; i < g->count; i++)
            if (!strcmp(g->groups[i].section, name)) block(f, r, g, &g->groups[i]);
        fputs("</section>\n", f);
    }
}

static void contents(FILE *f, const tc_results *r)
{
    const char *title, *name;
    fputs("<nav>", f);
    for (uint32_t s = 0; (name = tc_section(r, s, &title)); s++) {
        fputs("<a href=\"#", f);
        tc_xml(f, name);
        fputs("\">", f);
        tc_xml(f, title);
        fputs("</a> ", f);
    }
    fputs("<a href=\"#conditions\">Conditions</a></nav>\n", f);
}

void tc_report_html(const tc_results *r, const tc_groups *g, FILE *f)
{
    fputs("<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta "
          "charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
          "'unsafe-inline'\"/>\n"
          "<title>Thermocline: speed and quality, ",
          f);
    tc_xml(f, r->runs[r->run_count - 1].machine);
    fputs("</title>\n<style>\n", f);
    fwrite(tc_embedded_report_css, 1, tc_embedded_report_css_bytes, f);
    fputs("</style></head><body>\n", f);
    tc_plot_patterns(f);
    head(f, r);
    summary(f, r, g);
    contents(f, r);
    sections(f, r, g);
    conditions(f, r);
    fputs("</body></html>\n", f);
}
