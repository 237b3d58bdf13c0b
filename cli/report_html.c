// SPDX-License-Identifier: Apache-2.0
// Owns: report.html: one file without scripts and without anything from outside, light and dark, and readable
// on paper. It is well-formed XML too.
#include "cli/report.h"
#include "cli/report_view.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char style[] =
    "*{box-sizing:border-box}html{background:var(--ground);color:var(--ink);font:15px/1.5 "
    "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}\n"
    "body{max-width:1180px;margin:0 auto;padding:28px 24px 60px}h1{font-size:27px;margin:0 0 "
    "2px;letter-spacing:-.01em}\n"
    "h2{font-size:21px;margin:44px 0 6px;padding-top:14px;border-top:2px solid "
    "var(--ink)}h3{font-size:16px;margin:26px 0 6px}\n"
    "p{margin:6px "
    "0;max-width:82ch}.sub,.method,.small{color:var(--soft)}.method,.small{font-size:13.5px}a{color:inherit}"
    "\n"
    "nav{margin:14px 0 0;font-size:13.5px}nav a{margin-right:14px;white-space:nowrap}\n"
    "table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;margin:6px 0}\n"
    "th,td{padding:3px 12px 3px 0;text-align:left;vertical-align:top;border-bottom:1px solid "
    "var(--grid)}th{font-weight:600;color:var(--soft);border-bottom-color:var(--soft)}\n"
    "td.n,th.n{text-align:right;padding:3px 0 3px 14px;white-space:nowrap}.facts "
    "th{width:1%;white-space:nowrap;font-weight:400}.facts td{max-width:70ch}\n"
    ".summary{border:1px solid var(--grid);border-radius:8px;padding:12px 18px;margin:20px 0}.summary "
    "h2{border:0;margin:0 0 4px;padding:0;font-size:17px}\n"
    ".summary td{font-size:14.5px}.summary td.value{font-weight:650}.summary tr:last-child "
    "td{border-bottom:0}\n"
    ".pair{display:flex;flex-wrap:wrap;gap:4px 30px;align-items:flex-start}.picture{flex:1 1 "
    "560px;max-width:720px;min-width:0}.numbers{flex:1 1 380px;overflow-x:auto}\n"
    "figure{margin:0}svg.plot{width:100%;height:auto;display:block}.patterns{position:absolute}.gap{border-"
    "left:4px solid var(--c1);padding-left:10px}\n"
    "code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}\n"
    "@media (max-width:700px){body{padding:16px 12px}}\n"
    "@media "
    "print{@page{margin:14mm}html{font-size:10pt}body{max-width:none;padding:0}nav{display:none}h2{margin-"
    "top:0}section{break-before:page}"
    "h3,.method{break-after:avoid}.pair{display:block}.picture{max-width:150mm}.block,svg,tr{break-inside:"
    "avoid}.block.long{break-inside:auto}thead{display:table-header-group}"
    ".summary{break-inside:avoid}table{font-size:8.5pt}*{-webkit-print-color-adjust:exact;print-color-adjust:"
    "exact}}\n";

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
    snprintf(text, sizeof text, "%s%s%s", run->machine, *run->machine && *run->cpu ? ": " : "", run->cpu);
    fact(f, "machine", text);
    snprintf(text, sizeof text,
             "%" PRIu64 " cores, %" PRIu64 " threads, %" PRIu64 " NUMA node%s, %s of memory", run->cores,
             run->threads, run->numa_nodes, run->numa_nodes == 1 ? "" : "s",
             tc_bytes_text(run->ram_bytes, a));
    fact(f, "", "");
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
    fact(f, "", "");
    fact(f, "its shape", text);
}

static void head(FILE *f, const tc_results *r)
{
    const tc_result_run *run = &r->runs[r->run_count - 1];
    char text[1024];
    fputs("<header><h1>Thermocline: speed and quality</h1>\n<p class=\"sub\">", f);
    tc_xml(f, *run->machine ? run->machine : run->cpu);
    fputs(" · commit <code>", f);
    tc_xml(f, run->commit);
    fputs(run->dirty ? "</code> with changes · " : "</code> · ", f);
    tc_xml(f, run->started);
    fputs(" · suite ", f);
    tc_xml(f, run->suite);
    fputs("</p></header>\n", f);
    (void)text;
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

static void table_row(const tc_table_writer *w, const char *const *cells, uint32_t count, uint32_t texts,
                      bool head)
{
    if (head) fputs("<thead>", w->f);
    fputs("<tr>", w->f);
    for (uint32_t i = 0; i < count; i++) element(w->f, head ? "th" : "td", i < texts ? "" : "n", cells[i]);
    fputs(head ? "</tr></thead><tbody>\n" : "</tr>\n", w->f);
}

// Method, options and duration of each part that gave records to the group.
static void methods(FILE *f, const tc_results *r, const tc_group *g)
{
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result_part *p = &r->parts[g->items[i]->part_at];
        char number[TC_NUMBER_BYTES];
        bool told = false;
        for (uint32_t j = 0; j < i; j++) told = told || g->items[j]->part_at == g->items[i]->part_at;
        if (told) continue;
        fputs("<p class=\"method\">", f);
        tc_xml(f, p->method);
        if (*p->parameters) fputs(" <code>", f), tc_xml(f, p->parameters), fputs("</code>", f);
        fputs(" (<code>", f);
        tc_xml(f, p->id);
        fputs("</code>", f);
        if (p->seconds > 0) fprintf(f, ", %s s", tc_number(p->seconds, number));
        if (p->state != TC_PART_DONE) fprintf(f, ", %s", tc_part_state_text(p->state));
        fputs(")</p>\n", f);
    }
}

static void block(FILE *f, const tc_results *r, const tc_group *g)
{
    char title[TC_RESULTS_NAME_BYTES_MAX + 1];
    const tc_table_writer w = {f, table_row};
    tc_title(g, title, sizeof title);
    fprintf(f, "<div class=\"block%s\"><h3>", g->count > 24 ? " long" : "");
    tc_xml(f, title);
    fputs("</h3>\n", f);
    methods(f, r, g);
    fputs("<div class=\"pair\"><figure class=\"picture\" data-figure=\"", f);
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
            if (!strcmp(g->groups[i].section, name)) block(f, r, &g->groups[i]);
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
    tc_plot_style(f);
    fputs(style, f);
    fputs("</style></head><body>\n", f);
    tc_plot_patterns(f);
    head(f, r);
    summary(f, r, g);
    contents(f, r);
    sections(f, r, g);
    conditions(f, r);
    fputs("</body></html>\n", f);
}
