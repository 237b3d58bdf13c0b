// SPDX-License-Identifier: Apache-2.0
// Owns: baselines: per machine one file with the figures of its last runs, as they stood in results.jsonl,
// after a first line that says so. A figure's repetitions in all of them are one sample, so that what moves
// between runs of the same program counts as noise.
#include "cli/cli.h"
#include "cli/compare.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// The machine's name as a file's: letters, digits, dots and dashes.
tc_status tc_baseline_path(const char *folder, const tc_results *r, char *ret, tc_error *e)
{
    char slug[96];
    size_t n = 0;
    for (const char *p = r->runs[r->run_count - 1].machine; *p && n + 1 < sizeof slug; p++) {
        bool keep = isascii(*p) && (isalnum((unsigned char)*p) || (*p == '.' && n));
        if (keep)
            slug[n++] = (char)tolower((unsigned char)*p);
        else if (n && slug[n - 1] != '-')
            slug[n++] = '-';
    }
    while (n && (slug[n - 1] == '-' || slug[n - 1] == '.')) n--;
    slug[n] = 0;
    if (!n) return tc_fail(e, TC_FORMAT, "the results do not name their machine");
    int wrote = snprintf(ret, PATH_MAX, "%s/%s.jsonl", folder, slug);
    return wrote > 0 && wrote < PATH_MAX ? TC_OK : tc_fail(e, TC_ARGUMENT, "%s: too long a path", folder);
}

static bool is_last_run(const tc_results *r, uint32_t line)
{
    return r->runs[r->run_count - 1].line == line;
}

static bool is_figure(const tc_results *r, uint32_t line)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->items[i].line == line) return r->items[i].kind == TC_RESULT_FIGURE;
    return false;
}

// What a baseline keeps of a new run: its record and its figures.
static bool is_kept(const tc_results *r, uint32_t line)
{
    return is_last_run(r, line) || is_figure(r, line);
}

// Of the runs that are in it, those that stay.
static bool stays(const tc_results *r, uint32_t line)
{
    uint32_t drop = r->run_count >= TC_BASELINE_RUNS_MAX ? r->run_count - TC_BASELINE_RUNS_MAX + 1 : 0;
    return line >= r->runs[drop].line;
}

static void copy_lines(FILE *f, const char *text, size_t bytes, const tc_results *r,
                       bool (*wanted)(const tc_results *r, uint32_t line))
{
    const char *end = text + bytes;
    for (uint32_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((stop ? stop : end) - text);
        if (length && wanted(r, line)) fwrite(text, 1, length, f), fputc('\n', f);
        text += length + (stop != NULL);
    }
}

static bool has_run(const tc_results *baseline, const tc_result_run *run)
{
    for (uint32_t i = 0; i < baseline->run_count; i++)
        if (!strcmp(baseline->runs[i].started, run->started) &&
            !strcmp(baseline->runs[i].commit, run->commit))
            return true;
    return false;
}

static tc_status write_file(const char *path, const char *old, size_t old_bytes, const tc_results *was,
                            const char *new, size_t new_bytes, const tc_results *r, tc_error *e)
{
    char part[PATH_MAX + 8];
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "we");
    if (!f) return tc_fail_errno(e, TC_IO, "%s", part);
    fputs("{\"record\":\"baseline\"}\n", f);
    if (was) copy_lines(f, old, old_bytes, was, stays);
    copy_lines(f, new, new_bytes, r, is_kept);
    return tc_results_put(f, part, path, e);
}

static tc_status add(const char *results, const char *folder, char path[PATH_MAX], tc_error *e)
{
    tc_status status;
    tc_results *r = NULL, *was = NULL;
    char *text = NULL, *old = NULL;
    size_t bytes, old_bytes = 0;
    TC_GOTO(tc_results_read(results, &text, &bytes, e));
    TC_GOTO(tc_results_parse(results, text, bytes, &r, e));
    TC_GOTO(tc_baseline_path(folder, r, path, e));
    if (r->baseline) TC_GOTO(tc_fail(e, TC_ARGUMENT, "%s: a baseline, not the results of a run", results));
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", folder));
    status = tc_results_read(path, &old, &old_bytes, e);
    if (status != TC_OK && status != TC_NOT_FOUND) goto out;
    if (status == TC_OK) {
        TC_GOTO(tc_results_parse(path, old, old_bytes, &was, e));
        if (has_run(was, &r->runs[r->run_count - 1]))
            TC_GOTO(tc_fail(e, TC_ARGUMENT, "%s: this run is in it already", path));
    }
    status = write_file(path, old, old_bytes, was, text, bytes, r, e);
out:
    free(text);
    free(old);
    tc_results_free(r);
    tc_results_free(was);
    return status;
}

int tc_cli_baseline(const char *results, const tc_compare_options *o)
{
    char path[PATH_MAX];
    tc_error e;
    if (add(results, o->baselines, path, &e) != TC_OK) return tc_cli_fail(&e);
    printf("%s\n", path);
    return 0;
}
