// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `top`: a server's state on the terminal, drawn anew each second from two readings of its
// metrics.
#include "cli/cli.h"
#include "cli/metrics.h"
#include "cli/options.h"
#include "common/base/config.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { LINES_MAX = 400, LINE_BYTES = 200, TEXT_BYTES = 24 };

typedef struct screen {
    char line[LINES_MAX][LINE_BYTES];
    int lines;
} screen;

static volatile sig_atomic_t interrupted;

static void on_stop(int number)
{
    (void)number;
    interrupted = 1;
}

static void say(screen *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(screen *s, const char *format, ...)
{
    va_list ap;
    if (s->lines == LINES_MAX) return;
    va_start(ap, format);
    vsnprintf(s->line[s->lines++], LINE_BYTES, format, ap);
    va_end(ap);
}

// "12.3k", "4.56", "-" for what is not known.
static const char *number(double value, char ret[TEXT_BYTES])
{
    if (isnan(value))
        snprintf(ret, TEXT_BYTES, "-");
    else if (value >= 1e6)
        snprintf(ret, TEXT_BYTES, "%.1fM", value / 1e6);
    else if (value >= 1e4)
        snprintf(ret, TEXT_BYTES, "%.1fk", value / 1e3);
    else
        snprintf(ret, TEXT_BYTES, value >= 100 || value == floor(value) ? "%.0f" : "%.2f", value);
    return ret;
}

static const char *seconds(double value, char ret[TEXT_BYTES])
{
    if (isnan(value))
        snprintf(ret, TEXT_BYTES, "-");
    else
        snprintf(ret, TEXT_BYTES,
                 value >= 1      ? "%.2f s"
                 : value >= 1e-3 ? "%.1f ms"
                                 : "%.0f us",
                 value >= 1      ? value
                 : value >= 1e-3 ? value * 1e3
                                 : value * 1e6);
    return ret;
}

static const char *bytes(double value, char ret[TC_BYTES_TEXT])
{
    if (isnan(value)) return "-";
    return tc_cli_bytes((uint64_t)value, ret);
}

static const char *rate(double value, char ret[TEXT_BYTES + TC_BYTES_TEXT])
{
    char text[TC_BYTES_TEXT];
    snprintf(ret, TEXT_BYTES + TC_BYTES_TEXT, "%s/s", bytes(value, text));
    return ret;
}

static void draw_requests(screen *s, const tc_page *p, const tc_page *b)
{
    char a[TEXT_BYTES], c[TEXT_BYTES], d[TEXT_BYTES], f[TEXT_BYTES];
    say(s, "requests  running %s  waiting %s  held %s  ended %s/s",
        number(tc_page_value(p, "thermocline_requests_running"), a),
        number(tc_page_value(p, "thermocline_requests_waiting"), c),
        number(tc_page_value(p, "thermocline_requests_held"), d),
        number(tc_page_rate(p, b, "thermocline_requests_total", ""), f));
    say(s, "tokens    generated %s/s  prompt %s/s  from the prefix cache %s/s",
        number(tc_page_rate(p, b, "thermocline_generated_tokens_total", ""), a),
        number(tc_page_rate(p, b, "thermocline_prompt_tokens_total", ""), c),
        number(tc_page_rate(p, b, "thermocline_prefix_cache_tokens_total", ""), d));
    say(s, "latency   first token p50 %s p95 %s  between tokens p50 %s p95 %s",
        seconds(tc_page_quantile(p, b, "thermocline_time_to_first_token_seconds", "", 0.5), a),
        seconds(tc_page_quantile(p, b, "thermocline_time_to_first_token_seconds", "", 0.95), c),
        seconds(tc_page_quantile(p, b, "thermocline_inter_token_seconds", "", 0.5), d),
        seconds(tc_page_quantile(p, b, "thermocline_inter_token_seconds", "", 0.95), f));
}

static void draw_stages(screen *s, const tc_page *p, const tc_page *b)
{
    static const char *const stages[] = {"attention",   "router", "experts",
                                         "worker_wait", "head",   "scheduler"};
    char text[LINE_BYTES] = "step time ", a[TEXT_BYTES];
    double busy = tc_page_rate(p, b, "thermocline_step_busy_seconds_total", "");
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        char label[48];
        size_t used = strlen(text);
        snprintf(label, sizeof label, "stage=\"%s\"", stages[i]);
        double share = tc_page_rate(p, b, "thermocline_stage_seconds_total", label) / busy;
        snprintf(text + used, sizeof text - used, isfinite(share) ? "%s %.0f%%  " : "%s -  ", stages[i],
                 100 * share);
    }
    say(s, "%s", text);
    say(s, "steps     %s/s  busy %.0f%%  p50 %s",
        number(tc_page_rate(p, b, "thermocline_steps_total", ""), a), isnan(busy) ? 0 : 100 * busy,
        seconds(tc_page_quantile(p, b, "thermocline_step_seconds", "", 0.5), text));
}

static void draw_memory(screen *s, const tc_page *p, const tc_page *b)
{
    char a[TC_BYTES_TEXT], c[TC_BYTES_TEXT], d[TC_BYTES_TEXT], g[TC_BYTES_TEXT], f[TEXT_BYTES], h[TEXT_BYTES];
    double pages = tc_page_value(p, "thermocline_kv_pages"),
           free_pages = tc_page_value(p, "thermocline_kv_pages_free");
    double hot = tc_page_rate(p, b, "thermocline_expert_lookups_total", "tier=\"hot\""),
           all = tc_page_rate(p, b, "thermocline_expert_lookups_total", "");
    double limit = tc_page_value(p, "thermocline_device_memory_limit_bytes");
    say(s, "memory    dense %s  experts %s  hot %s  prefix cache %s  KV %.0f%% used",
        bytes(tc_page_sum(p, "thermocline_memory_bytes", "dense_weights"), a),
        bytes(tc_page_sum(p, "thermocline_memory_bytes", "purpose=\"experts\""), c),
        bytes(tc_page_sum(p, "thermocline_memory_bytes", "hot_experts"), g),
        bytes(tc_page_value(p, "thermocline_prefix_cache_bytes"), d),
        pages > 0 ? 100 * (pages - free_pages) / pages : 0);
    if (limit > 0)
        say(s, "gpu       %s of %s in use",
            bytes(tc_page_value(p, "thermocline_device_memory_used_bytes"), a), bytes(limit, c));
    char hot_text[TEXT_BYTES];
    snprintf(hot_text, sizeof hot_text, all > 0 ? "%.1f%%" : "-", 100 * hot / all);
    say(s, "experts   found hot %s  fills %s/s  moved %s/s  read over the link %s/s", hot_text,
        number(tc_page_rate(p, b, "thermocline_expert_fills_total", ""), f),
        bytes(tc_page_rate(p, b, "thermocline_expert_moved_bytes_total", ""), a),
        number(tc_page_rate(p, b, "thermocline_experts_fetched_total", ""), h));
}

static void draw_workers(screen *s, const tc_page *p, const tc_page *b, int room)
{
    say(s, "%s", "");
    say(s,
        "worker  up  starts  calls/s  p50      p99      compute  bandwidth     retries  late  alone  queue");
    for (int i = 0; i < 64 && i < room; i++) {
        char series[64], label[24], a[TEXT_BYTES], c[TEXT_BYTES], d[TEXT_BYTES],
            f[TEXT_BYTES + TC_BYTES_TEXT];
        snprintf(series, sizeof series, "thermocline_worker_up{worker=\"%d\"}", i);
        snprintf(label, sizeof label, "worker=\"%d\"", i);
        double up = tc_page_value(p, series),
               compute = tc_page_rate(p, b, "thermocline_worker_compute_seconds_total", label);
        if (isnan(up)) return;
        double speed = tc_page_rate(p, b, "thermocline_worker_expert_read_bytes_total", label) / compute;
        say(s, "%-7d %-3.0f %-7.0f %-8s %-8s %-8s %6.1f%%  %-13s %-8.0f %-5.0f %-6.0f %.0f", i, up,
            tc_page_sum(p, "thermocline_worker_starts_total", label),
            number(tc_page_rate(p, b, "thermocline_worker_calls_total", label), a),
            seconds(tc_page_quantile(p, b, "thermocline_worker_call_seconds", label, 0.5), c),
            seconds(tc_page_quantile(p, b, "thermocline_worker_call_seconds", label, 0.99), d),
            isnan(compute) ? 0 : 100 * compute, rate(isfinite(speed) ? speed : NAN, f),
            tc_page_sum(p, "thermocline_worker_retries_total", label),
            tc_page_sum(p, "thermocline_worker_hedges_total", label),
            tc_page_sum(p, "thermocline_worker_quarantines_total", label),
            tc_page_sum(p, "thermocline_worker_queue_depth", label));
    }
}

static void draw(screen *s, const char *listen, const tc_page *p, const tc_page *b, int rows)
{
    double ready = tc_page_value(p, "thermocline_ready"), core = tc_page_value(p, "thermocline_core_up");
    s->lines = 0;
    say(s, "thermocline %s  %s  workers %.0f of %.0f", listen,
        ready == 1  ? "ready"
        : core == 1 ? "NOT READY"
                    : "NO CORE",
        core == 1 ? tc_page_value(p, "thermocline_workers_up") : 0,
        core == 1 ? tc_page_value(p, "thermocline_workers_expected") : 0);
    say(s, "%s", "");
    if (core != 1) return;
    draw_requests(s, p, b);
    draw_stages(s, p, b);
    draw_memory(s, p, b);
    draw_workers(s, p, b, rows - s->lines - 3);
}

static void put(const screen *s, bool terminal, int columns)
{
    if (terminal) fputs("\033[H", stdout);
    for (int i = 0; i < s->lines; i++) printf(terminal ? "%.*s\033[K\n" : "%.*s\n", columns, s->line[i]);
    if (terminal) fputs("\033[J", stdout);
    fflush(stdout);
}

static void size_of_terminal(int *ret_rows, int *ret_columns)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col;
    *ret_rows = known ? size.ws_row : 100;
    *ret_columns = known && size.ws_col < LINE_BYTES ? size.ws_col : LINE_BYTES;
}

// The first key of the file, for servers that ask for one.
static tc_status first_key(const char *path, char ret[600], tc_error *e)
{
    FILE *file = path ? fopen(path, "re") : NULL;
    ret[0] = 0;
    if (path && !file) return tc_fail_errno(e, TC_NOT_FOUND, "%s", path);
    while (file && fgets(ret, 600, file)) {
        ret[strcspn(ret, " \t\r\n")] = 0;
        if (*ret && *ret != '#') break;
        ret[0] = 0;
    }
    if (file) fclose(file);
    return TC_OK;
}

// Waits a second; true when `q` or Ctrl-C ended it.
static bool wait_second(bool terminal)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char key = 0;
    if (poll(&in, terminal ? 1 : 0, 1000) > 0 && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q'))
        return true;
    return interrupted;
}

static tc_status watch(const char *listen, const char *key, bool once, bool terminal, tc_error *e)
{
    static screen s;
    tc_page page = {0}, before = {0};
    tc_status status = tc_page_get(listen, key, &before, e);
    while (status == TC_OK && !wait_second(terminal)) {
        int rows, columns;
        tc_error gone;
        size_of_terminal(&rows, &columns);
        if (tc_page_get(listen, key, &page, &gone) == TC_OK) {
            draw(&s, listen, &page, &before, rows);
            tc_page_free(&before);
            before = page;
        } else {
            s.lines = 0;
            say(&s, "thermocline %s  %s", listen, gone.text);
            if (once) status = tc_fail(e, gone.status, "%s", gone.text);
        }
        if (status == TC_OK) put(&s, terminal, columns);
        if (once) break;
    }
    tc_page_free(&before);
    return status;
}

int tc_cli_top(int argc, char **argv)
{
    const char *listen = "127.0.0.1:8080", *key_file = NULL;
    bool once = false;
    char key[600];
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.setting = TC_OPT_LISTEN, .target = &listen},
        {.setting = TC_OPT_API_KEY_FILE, .target = &key_file},
        {.name = "--once",
         .kind = TC_OPTION_FLAG,
         .target = &once,
         .help = "one picture of a second, then the end"},
        {0},
    };
    int code = tc_options_parse(table, "top [options]    (q ends it)", 0, 0, argc, argv, &arguments);
    if (code >= 0) return code;
    if (first_key(key_file, key, &e) != TC_OK) return tc_cli_fail(&e);
    bool terminal = !once && isatty(STDOUT_FILENO) && isatty(STDIN_FILENO);
    struct termios old, raw;
    signal(SIGINT, on_stop);
    signal(SIGTERM, on_stop);
    if (terminal && tcgetattr(STDIN_FILENO, &old) == 0) {
        raw = old;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
        fputs("\033[?1049h\033[?25l\033[2J", stdout);
    }
    tc_status status = watch(listen, *key ? key : NULL, once, terminal, &e);
    if (terminal) {
        fputs("\033[?25h\033[?1049l", stdout);
        fflush(stdout);
        tcsetattr(STDIN_FILENO, TCSANOW, &old);
    }
    explicit_bzero(key, sizeof key);
    return status == TC_OK ? 0 : tc_cli_fail(&e);
}
