// SPDX-License-Identifier: Apache-2.0
// Owns: drawing of progress, and the signals that stop long work before any supervisor runs.
#include "cli/progress.h"
#include "cli/cli.h"
#include "common/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { BAR_CELLS = 30, QUIET_US = 500000, REDRAW_US = 50000 };

static volatile sig_atomic_t interrupted;
static bool told; // the work was stopped by it
static struct sigaction old_int, old_term;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

void tc_progress_begin(tc_progress *p, const char *what)
{
    *p = (tc_progress){.what = what, .started_us = tc_now_us()};
    interrupted = 0;
    told = false;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_signal}, &old_int);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, &old_term);
}

static void draw_bar(tc_progress *p, double part, const char *done, const char *total)
{
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = (double)i < part * BAR_CELLS ? '#' : '.';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f %%  %s of %s   ", p->what, bar, part * 100, done, total);
    p->drawn = true;
}

bool tc_progress_step(void *arg, uint64_t done, uint64_t total)
{
    tc_progress *p = arg;
    uint64_t now_us = tc_now_us();
    char a[TC_BYTES_TEXT], b[TC_BYTES_TEXT];
    double part = total ? (double)done / (double)total : 1;
    if (interrupted) {
        told = true;
        return false;
    }
    if (now_us - p->started_us < QUIET_US || now_us - p->shown_us < REDRAW_US) return true;
    if (isatty(STDERR_FILENO)) {
        p->shown_us = now_us;
        draw_bar(p, part, tc_cli_bytes(done, a), tc_cli_bytes(total, b));
    } else if ((uint32_t)(part * 10) > p->tenths) {
        p->shown_us = now_us;
        p->tenths = (uint32_t)(part * 10);
        fprintf(stderr, "%s: %u %%, %s of %s\n", p->what, p->tenths * 10, tc_cli_bytes(done, a),
                tc_cli_bytes(total, b));
    }
    return true;
}

void tc_progress_end(tc_progress *p)
{
    if (p->drawn) fputc('\n', stderr);
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    if (interrupted && !told) raise(SIGINT); // it came after the last step: whoever is next is told
}

void tc_progress_name(tc_progress *p, const char *what)
{
    *p = (tc_progress){.what = what, .started_us = tc_now_us()};
}

void tc_progress_show(tc_progress *p, double part, const char *step)
{
    char bar[BAR_CELLS + 1], left[48] = "";
    uint64_t now_us = tc_now_us();
    if (!isatty(STDERR_FILENO) || (p->drawn && now_us - p->shown_us < REDRAW_US)) return;
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = (double)i < part * BAR_CELLS ? '#' : '.';
    bar[BAR_CELLS] = 0;
    double took_s = (double)(now_us - p->started_us) * 1e-6;
    if (part > 0.02) snprintf(left, sizeof left, ", about %.0f s left", took_s * (1 - part) / part);
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %s%s", p->what, bar, part * 100, step, left);
    p->shown_us = now_us;
    p->drawn = true;
}

void tc_progress_clear(tc_progress *p)
{
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
}
