// SPDX-License-Identifier: Apache-2.0
// Owns: report.md: the summary and every table of report.html as Markdown, and what is missing.
#include "cli/report.h"
#include "cli/report_view.h"

#include <ctype.h>
#include <string.h>

// Text that stays text: what Markdown or HTML would take for markup is escaped.
static void text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '&')
            fputs("&amp;", f);
        else if (iscntrl((unsigned char)*s))
            fputc(' ', f);
        else {
            if (strchr("\\`*_[]|#~$!", *s)) fputc('\\', f);
            fputc(*s, f);
        }
    }
}

static void caption(const tc_table_writer *w, const char *s)
{
    text(w->f, s);
    fputs(":\n\n", w->f);
}

static void cell(FILE *f, const char *s)
{
    char first[TC_RESULTS_NAME_BYTES_MAX * 2];
    const char *more = strchr(s, '\n');
    if (!more) {
        text(f, s);
        return;
    }
    snprintf(first, sizeof first, "%.*s", (int)(more - s), s);
    text(f, first);
    fputs(" (", f);
    text(f, more + 1);
    fputs(")", f);
}

static void table_row(const tc_table_writer *w, const char *const *cells, uint32_t count, uint32_t texts,
                      bool head)
{
    for (uint32_t i = 0; i < count; i++) {
        fputs(i ? " | " : "| ", w->f);
        cell(w->f, cells[i]);
    }
    fputs(" |\n", w->f);
    if (!head) return;
    for (uint32_t i = 0; i < count; i++) fputs(i < texts ? "|---" : "|---:", w->f);
    fputs("|\n", w->f);
}

static void head(FILE *f, const tc_results *r)
{
    const tc_result_run *run = &r->runs[r->run_count - 1];
    char memory[TC_NUMBER_BYTES], number[TC_NUMBER_BYTES];
    fputs("# Thermocline: speed and quality\n\nMachine: ", f);
    text(f, run->machine);
    if (!strstr(run->machine, run->cpu)) fputs(", ", f), text(f, run->cpu);
    if (!strstr(run->machine, " cores")) fprintf(f, ", %llu cores", (unsigned long long)run->cores);
    fprintf(f, ", %s", tc_bytes_text(run->ram_bytes, memory));
    if (run->read_bytes_per_s > 0)
        fprintf(f, ", reads %s GB/s", tc_number(run->read_bytes_per_s / 1e9, number));
    fputs("; GPU: ", f);
    text(f, *run->gpu ? run->gpu : "none");
    fputs(".\nModel: ", f);
    text(f, run->model);
    fputs(" (", f);
    text(f, run->family);
    fputs(", hash ", f);
    text(f, run->model_hash);
    fputs(").\nThermocline ", f);
    text(f, run->version);
    fputs(", commit ", f);
    text(f, run->commit);
    fputs(run->dirty ? " with changes, started " : ", started ", f);
    text(f, run->started);
    fputs(", suite ", f);
    text(f, run->suite);
    fputs(".\n\nMade by `thermocline bench report` from `results.jsonl`; each figure is the median of its "
          "repetitions, with the least and the "
          "most of them.\n",
          f);
    if (r->cut_line)
        fprintf(f, "Line %u of the results was cut off while it was written, and is left out.\n",
                r->cut_line);
    if (r->unknown) fprintf(f, "%u records of unknown kinds were passed over.\n", r->unknown);
}

static void summary(FILE *f, const tc_results *r, const tc_groups *g)
{
    tc_summary_line lines[TC_SUMMARY_MAX];
    uint32_t count = tc_summary(r, g, lines);
    fputs("\n## In short\n\n| | | |\n|---|---|---|\n", f);
    for (uint32_t i = 0; i < count; i++) {
        const char *cells[] = {lines[i].what, lines[i].value, lines[i].detail};
        table_row(&(tc_table_writer){.f = f}, cells, 3, 3, false);
    }
    fprintf(f, "| Parts | %u of %u done | %u skipped, %u failed, %u missing |\n",
            tc_parts_in(r, TC_PART_DONE), r->part_count, tc_parts_in(r, TC_PART_SKIPPED),
            tc_parts_in(r, TC_PART_FAILED), tc_parts_in(r, TC_PART_MISSING));
}

static void gap(FILE *f, const tc_result_part *p)
{
    fputs("\n- ", f);
    text(f, p->id);
    fprintf(f, " %s", tc_part_state_text(p->state));
    if (p->state == TC_PART_MISSING) fputs(": the run ended before it", f);
    if (*p->reason) fputs(": ", f), text(f, p->reason);
    fputs("\n", f);
}

static void block(FILE *f, const tc_results *r, const tc_groups *all, const tc_group *g)
{
    char title[TC_RESULTS_NAME_BYTES_MAX + 1];
    const tc_table_writer w = {f, caption, table_row};
    tc_title(g, title, sizeof title);
    fputs("\n### ", f);
    text(f, title);
    fputs("\n\n", f);
    for (uint32_t i = 0; i < g->count; i++) {
        if (tc_part_told(all, g, i) || !*r->parts[g->items[i]->part_at].method) continue;
        text(f, r->parts[g->items[i]->part_at].method);
        fputs("\n\n", f);
    }
    tc_group_table(r, g, &w);
}

void tc_report_markdown(const tc_results *r, const tc_groups *g, FILE *f)
{
    const char *title, *name;
    head(f, r);
    summary(f, r, g);
    for (uint32_t s = 0; (name = tc_section(r, s, &title)); s++) {
        fputs("\n## ", f);
        text(f, title);
        fputs("\n", f);
        for (uint32_t i = 0; i < r->part_count; i++)
            if (!strcmp(r->parts[i].section, name) && r->parts[i].state != TC_PART_DONE) gap(f, &r->parts[i]);
        for (uint32_t i = 0; i < g->count; i++)
            if (!strcmp(g->groups[i].section, name)) block(f, r, g, &g->groups[i]);
    }
}
