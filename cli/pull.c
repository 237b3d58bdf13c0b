// SPDX-License-Identifier: Apache-2.0
// Owns: the verbs `pull`, `ls` and `rm`, the hub's environment variables, and the bar with rate and time
// left.
#include "cli/pull.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "common/base/clock.h"
#include "common/base/json.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BAR_CELLS = 24, REDRAW_US = 100000, TOKEN_BYTES_MAX = 512, RATE_US = 5000000 };

// ---- where and with what ----

typedef struct place {
    char cache[TC_HUB_PATH_BYTES], token[TOKEN_BYTES_MAX + 1];
    const char *endpoint;
    bool offline;
} place;

static const char *of_environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool is_true(const char *value)
{
    return value && (!strcmp(value, "1") || !strcasecmp(value, "true") || !strcasecmp(value, "yes") ||
                     !strcasecmp(value, "on"));
}

// $HF_HOME, else where its library has it.
static int hub_home(char *ret, size_t bytes)
{
    const char *home = of_environment("HF_HOME"), *xdg = of_environment("XDG_CACHE_HOME"),
               *user = of_environment("HOME");
    if (home) return snprintf(ret, bytes, "%s", home);
    if (xdg) return snprintf(ret, bytes, "%s/huggingface", xdg);
    return snprintf(ret, bytes, "%s/.cache/huggingface", user ? user : "");
}

static void read_token(const char *home, place *p)
{
    char path[TC_HUB_PATH_BYTES + 16], *text = NULL;
    const char *given = of_environment("HF_TOKEN"), *named = of_environment("HF_TOKEN_PATH");
    size_t bytes;
    if (given) {
        snprintf(p->token, sizeof p->token, "%s", given);
        return;
    }
    snprintf(path, sizeof path, "%s%s", named ? named : home, named ? "" : "/token");
    if (tc_read_file(path, TOKEN_BYTES_MAX, &text, &bytes, NULL) != TC_OK) return;
    snprintf(p->token, sizeof p->token, "%.*s", (int)strcspn(text, "\r\n"), text);
    free(text);
}

static tc_status find_place(place *p, tc_error *e)
{
    char home[TC_HUB_PATH_BYTES - 8];
    const char *cache = of_environment("HF_HUB_CACHE");
    *p = (place){.endpoint = of_environment("HF_ENDPOINT")};
    if (!p->endpoint) p->endpoint = "https://huggingface.co";
    if (!cache) cache = of_environment("HUGGINGFACE_HUB_CACHE");
    if (hub_home(home, sizeof home) >= (int)sizeof home || (cache && strlen(cache) >= sizeof p->cache))
        return tc_fail(e, TC_LIMIT, "the path of the hub's cache is too long");
    snprintf(p->cache, sizeof p->cache, cache ? "%s" : "%s/hub", cache ? cache : home);
    p->offline = is_true(of_environment("HF_HUB_OFFLINE"));
    read_token(home, p);
    return TC_OK;
}

// ---- progress ----

typedef struct bar {
    tc_progress signals; // Ctrl-C
    uint64_t shown_us, rate_us, rate_bytes;
    double rate; // bytes a second, of the last few seconds
    uint32_t tenths;
    bool began, drawn;
} bar;

static const char *time_left(double seconds, char ret[32])
{
    uint64_t s = seconds < 360000 ? (uint64_t)seconds : 359999;
    snprintf(ret, 32,
             s >= 3600 ? "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64 : "%.0" PRIu64 "%" PRIu64 ":%02" PRIu64,
             s >= 3600 ? s / 3600 : 0, s / 60 % 60, s % 60);
    return ret;
}

static void measure(bar *b, uint64_t now, uint64_t done)
{
    if (!b->began || done < b->rate_bytes) {
        b->began = true;
        b->rate_us = now;
        b->rate_bytes = done;
        return;
    }
    uint64_t passed = now - b->rate_us;
    if (passed < 500000) return;
    double rate = (double)(done - b->rate_bytes) * 1e6 / (double)passed, weight = passed < RATE_US ? 0.3 : 1;
    b->rate = b->rate > 0 ? b->rate * (1 - weight) + rate * weight : rate;
    b->rate_us = now;
    b->rate_bytes = done;
}

static bool show(void *arg, uint64_t done, uint64_t total, uint32_t files, uint32_t of, const char *note)
{
    bar *b = arg;
    uint64_t now = tc_now_us();
    char a[TC_BYTES_TEXT], t[TC_BYTES_TEXT], r[TC_BYTES_TEXT], left[32], cells[BAR_CELLS + 1];
    if (!tc_progress_step(&b->signals, 0, 0)) return false;
    if (note) {
        fprintf(stderr, "%sthermocline: again: %s\n", b->drawn ? "\r\033[K" : "", note);
        b->drawn = false;
    }
    measure(b, now, done);
    if (!of || (now - b->shown_us < REDRAW_US && done < total)) return true;
    double part = total ? (double)done / (double)total : 1;
    if (isatty(STDERR_FILENO)) {
        for (int i = 0; i < BAR_CELLS; i++) cells[i] = i < part * BAR_CELLS ? '#' : '.';
        cells[BAR_CELLS] = 0;
        fprintf(stderr, "\rpulling [%s] %3.0f %%  %s of %s  %s/s  %s left  %u of %u files\033[K", cells,
                part * 100, tc_cli_bytes(done, a), tc_cli_bytes(total, t), tc_cli_bytes((uint64_t)b->rate, r),
                b->rate > 1 ? time_left((double)(total - done) / b->rate, left) : "?", files, of);
        b->drawn = true;
    } else if ((uint32_t)(part * 10) > b->tenths) {
        b->tenths = (uint32_t)(part * 10);
        fprintf(stderr, "pulling: %u %%, %s of %s, %s/s, %u of %u files\n", b->tenths * 10,
                tc_cli_bytes(done, a), tc_cli_bytes(total, t), tc_cli_bytes((uint64_t)b->rate, r), files, of);
    }
    b->shown_us = now;
    return true;
}

static tc_status pull(const tc_hub_name *name, const place *p, const char *include, uint32_t jobs,
                      char ret[TC_HUB_PATH_BYTES], tc_error *e)
{
    bar b = {0};
    bool cached;
    const char *wait = of_environment("THERMOCLINE_PULL_WAIT_MS"); // of tests
    const tc_hub_options options = {.endpoint = p->endpoint,
                                    .cache = p->cache,
                                    .token = *p->token ? p->token : NULL,
                                    .include = include,
                                    .jobs = jobs,
                                    .wait_ms = wait ? (uint32_t)strtoul(wait, NULL, 10) : 0,
                                    .offline = p->offline,
                                    .progress = show,
                                    .arg = &b};
    tc_progress_begin(&b.signals, "pulling");
    tc_status status = tc_hub_pull(name, &options, ret, &cached, e);
    tc_progress_end(&b.signals);
    if (b.drawn) fputc('\n', stderr);
    if (status == TC_OK && cached && !p->offline)
        fprintf(stderr, "thermocline: %s cannot be reached, what the cache has is taken\n", p->endpoint);
    return status;
}

tc_status tc_pull_model(const char *model, char ret[TC_HUB_PATH_BYTES], tc_error *e)
{
    tc_hub_name name;
    place p;
    struct stat st;
    size_t bytes = strlen(model);
    bool file = bytes > 5 && strcmp(model + bytes - 5, ".gguf") == 0;
    if (bytes >= TC_HUB_PATH_BYTES) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", model);
    if (stat(model, &st) == 0 || file || tc_hub_parse(model, &name, NULL) != TC_OK) {
        memcpy(ret, model, bytes + 1);
        return TC_OK;
    }
    TC_TRY(find_place(&p, e));
    return pull(&name, &p, NULL, 0, ret, e);
}

// ---- verbs ----

int tc_cli_pull(int argc, char **argv)
{
    const char *include = NULL;
    uint64_t jobs = 0;
    bool offline = false;
    char path[TC_HUB_PATH_BYTES];
    tc_hub_name name;
    place p;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.name = "--include",
         .kind = TC_OPTION_TEXT,
         .target = &include,
         .choices = "PATTERN",
         .help = "which weights, where a repository offers several: \"*Q4_K_M*\""},
        {.name = "--jobs",
         .kind = TC_OPTION_NUMBER,
         .target = &jobs,
         .min = 1,
         .max = TC_HUB_JOBS_MAX,
         .help = "files at a time (default 4)"},
        {.name = "--offline",
         .kind = TC_OPTION_FLAG,
         .target = &offline,
         .help = "only say where the cache has it (also HF_HUB_OFFLINE=1)"},
        {0},
    };
    int code = tc_options_parse(table, "pull OWNER/NAME[:REVISION] [options]", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if (tc_hub_parse(arguments.positional[0], &name, &e) != TC_OK) {
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    if (find_place(&p, &e) != TC_OK) return tc_cli_fail(&e);
    p.offline |= offline;
    if (pull(&name, &p, include, (uint32_t)jobs, path, &e) != TC_OK) return tc_cli_fail(&e);
    puts(path);
    return 0;
}

static bool print_entry(void *arg, const tc_hub_entry *entry)
{
    char bytes[TC_BYTES_TEXT];
    (void)arg;
    printf("%s/%s  %s, %u revision%s", entry->owner, entry->name, tc_cli_bytes(entry->bytes, bytes),
           entry->revisions, entry->revisions == 1 ? "" : "s");
    if (entry->incomplete)
        printf(", %u file%s incomplete", entry->incomplete, entry->incomplete == 1 ? "" : "s");
    putchar('\n');
    return true;
}

int tc_cli_ls(int argc, char **argv)
{
    place p;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {{0}};
    int code = tc_options_parse(table, "ls", 0, 0, argc, argv, &arguments);
    if (code >= 0) return code;
    if (find_place(&p, &e) != TC_OK || tc_hub_list(p.cache, print_entry, NULL, &e) != TC_OK)
        return tc_cli_fail(&e);
    return 0;
}

int tc_cli_rm(int argc, char **argv)
{
    char bytes[TC_BYTES_TEXT];
    uint64_t freed = 0;
    tc_hub_name name;
    place p;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {{0}};
    int code = tc_options_parse(table, "rm OWNER/NAME", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if (tc_hub_parse(arguments.positional[0], &name, &e) != TC_OK) {
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    if (find_place(&p, &e) != TC_OK || tc_hub_remove(&name, p.cache, &freed, &e) != TC_OK)
        return tc_cli_fail(&e);
    printf("removed %s/%s, %s\n", name.owner, name.name, tc_cli_bytes(freed, bytes));
    return 0;
}
