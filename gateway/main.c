// SPDX-License-Identifier: Apache-2.0
// Owns: what the gateway loads from the model's folder, its signals, and its exit code:
//   0 told to stop · 1 could not start or go on · 2 wrong command line or configuration
#include "common/base/clock.h"
#include "common/base/config.h"
#include "common/base/process.h"
#include "common/base/trace.h"
#include "common/model/model.h"
#include "common/model/source.h"
#include "gateway/chat_template.h"
#include "gateway/engine_link.h"
#include "gateway/options.h"
#include "gateway/server.h"
#include "gateway/uv_memory.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef tc_gateway_settings options;

enum { EXIT_TOLD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { SOON_MS = 1000 }; // how often the service manager is told how things are

typedef struct program {
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t heartbeat;
    tc_gateway *gateway;
    tc_tokenizer *tokenizer;
    tc_chat_template *chat_template;
    tc_api_keys *keys;
    uint32_t drain_s;
    int exit_code; // where it ends with an error
    int argc;
    char **argv;
    tc_arguments_full full; // what runs; its texts are borrowed by the options
    tc_arguments_full
        live; // what was applied last by SIGHUP, or empty; its texts are borrowed by the web policy
    char key_path[4096], told[640];
} program;

static void name_model(const options *o, char ret[TC_MODEL_NAME_BYTES_MAX + 1])
{
    const char *name = o->model_name ? o->model_name : o->model_dir;
    size_t bytes = strlen(name);
    if (!o->model_name) {
        while (bytes > 1 && name[bytes - 1] == '/') bytes--;
        size_t start = bytes;
        while (start > 0 && name[start - 1] != '/') start--;
        name += start;
        bytes -= start;
    }
    if (bytes > TC_MODEL_NAME_BYTES_MAX) bytes = TC_MODEL_NAME_BYTES_MAX;
    memcpy(ret, name, bytes);
    ret[bytes] = 0;
}

static tc_status load_model(const options *o, tc_gateway_model *ret, tc_tokenizer **ret_tokenizer,
                            tc_error *e)
{
    tc_status status;
    char what[TC_MODEL_PATH_BYTES], *text = NULL;
    size_t bytes;
    tc_model_desc *desc = calloc(1, sizeof *desc);
    if (!desc) return tc_fail(e, TC_NOMEM, "out of memory");
    TC_GOTO(tc_model_desc_load(o->model_dir, desc, e));
    TC_GOTO(
        tc_model_text(o->model_dir, TC_FILE_TOKENIZER, TC_TOKENIZER_FILE_BYTES_MAX, &text, &bytes, what, e));
    TC_GOTO(tc_tokenizer_parse(text, bytes, what, ret_tokenizer, e));
    const tc_generation_defaults *g = &desc->generation;
    name_model(o, ret->name);
    ret->context = desc->max_positions;
    ret->vocab = desc->vocab;
    ret->defaults = (tc_sampling){.temperature = g->do_sample ? g->temperature : 0,
                                  .top_p = g->top_p,
                                  .min_p = g->min_p,
                                  .top_k = g->top_k,
                                  .repetition_penalty = g->repetition_penalty};
out:
    free(text);
    free(desc);
    return status;
}

static bool parse_number(const char *text, long max, long *ret)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < 0 || value > max) return false;
    *ret = value;
    return true;
}

// Connections are files: take what the system gives. Returns how many connections that is.
static uint32_t raise_file_limit(void)
{
    enum { OTHER_FILES = 64 };
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return UINT32_MAX;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= UINT32_MAX) return UINT32_MAX;
    return limit.rlim_cur > 2 * OTHER_FILES ? (uint32_t)limit.rlim_cur - OTHER_FILES : OTHER_FILES;
}

// Sockets that the service manager handed over: LISTEN_PID names the process they are for, LISTEN_FDS says
// how many there are, from descriptor 3 on.
static tc_status inherited_sockets(tc_gateway_options *o, tc_error *e)
{
    enum { FIRST = 3 };
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    long number, sockets;
    if (!pid || !count || !parse_number(pid, INT32_MAX, &number) || number != (long)getpid()) return TC_OK;
    if (!parse_number(count, TC_LISTENERS_MAX, &sockets) || sockets < 1)
        return tc_fail(e, TC_ARGUMENT, "LISTEN_FDS=%s: expected 1 to %d", count, TC_LISTENERS_MAX);
    for (int fd = FIRST; fd < FIRST + (int)sockets; fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
            return tc_fail_errno(e, TC_IO, "LISTEN_FDS: descriptor %d", fd);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    o->sockets_first = FIRST;
    o->sockets_count = (uint32_t)sockets;
    return TC_OK;
}

static void set_limits(const options *o, tc_gateway_limits *ret)
{
    uint32_t most = raise_file_limit();
    if (o->connections) ret->connections_max = o->connections;
    if (ret->connections_max > most) ret->connections_max = most;
    if (o->peer_connections) {
        ret->peer_connections_max = o->peer_connections;
        ret->count_local_peers = true;
    }
}

// Keys out of the file that was named; else of the service manager's credential "api-keys", where comments
// alone mean that there are none. *ret NULL: no keys.
static tc_status load_keys(program *p, const options *o, tc_api_keys **ret, tc_error *e)
{
    const char *credentials = getenv("CREDENTIALS_DIRECTORY");
    *ret = NULL;
    if (o->key_file) return tc_api_keys_load(o->key_file, ret, e);
    if (!credentials ||
        snprintf(p->key_path, sizeof p->key_path, "%s/api-keys", credentials) >= (int)sizeof p->key_path)
        return TC_OK;
    char line[1024];
    bool any = false;
    FILE *file = fopen(p->key_path, "re");
    if (!file && errno != ENOENT)
        return tc_fail_errno(e, TC_IO, "%s", p->key_path); // never open for want of a file
    while (file && !any && fgets(line, sizeof line, file))
        any = line[strspn(line, " \t\r\n")] && line[0] != '#';
    explicit_bzero(line, sizeof line);
    if (file) fclose(file);
    return any ? tc_api_keys_load(p->key_path, ret, e) : TC_OK;
}

static void tell_manager(program *p)
{
    const tc_engine_status *engine;
    const char *reason = "";
    char text[sizeof p->told];
    if (!tc_core_link_status(p->gateway->link, &engine, &reason))
        snprintf(text, sizeof text, "%s", reason);
    else if (!engine->ready)
        snprintf(text, sizeof text, "the core is not ready: %s", engine->reason);
    else
        snprintf(text, sizeof text, "serving %s: %u running, %u waiting, %u connections",
                 p->gateway->options.model.name, engine->running, engine->waiting, p->gateway->conn_count);
    if (strcmp(text, p->told) != 0) tc_notify_status("%s", text);
    memcpy(p->told, text, sizeof text);
}

// The watchdog is fed by the loop that serves.
static void on_heartbeat(uv_timer_t *timer)
{
    program *p = timer->data;
    tc_notify_alive(tc_now_us());
    if (p->gateway && !p->gateway->draining) tell_manager(p);
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void on_drained(void *arg)
{
    program *p = arg;
    tc_gateway_free(p->gateway);
    p->gateway = NULL;
    close_handle((uv_handle_t *)&p->term);
    close_handle((uv_handle_t *)&p->interrupt);
    close_handle((uv_handle_t *)&p->hangup);
    close_handle((uv_handle_t *)&p->heartbeat);
}

static void on_signal(uv_signal_t *signal, int number)
{
    program *p = signal->data;
    if (!p->gateway) return;
    tc_info("%s: stopping", number == SIGTERM ? "SIGTERM" : "SIGINT");
    tc_notify_stopping();
    tc_gateway_drain(p->gateway, p->drain_s * 1000u, on_drained, p);
}

// Keys must neither appear nor vanish: with them the rules for addresses change.
static tc_status apply_new(program *p, const options *o, tc_error *e)
{
    tc_api_keys *keys;
    TC_TRY(load_keys(p, o, &keys, e));
    if (!keys != !p->keys) {
        tc_api_keys_free(keys);
        return tc_fail(e, TC_ARGUMENT, "api-key-file: keys were %s; that needs a restart",
                       p->keys ? "taken away" : "added");
    }
    tc_gateway_tune(p->gateway, keys, &o->web);
    tc_api_keys_free(p->keys);
    p->keys = keys;
    p->drain_s = o->drain_s;
    tc_log_set(o->program.log_level, o->program.log_format);
    return TC_OK;
}

static void on_hangup(uv_signal_t *signal, int number)
{
    program *p = signal->data;
    tc_arguments_full full;
    tc_error e;
    options o;
    char others[400];
    (void)number;
    if (!p->gateway || p->gateway->draining) return;
    tc_notify_reloading();
    tc_status status = tc_config_expand(TC_FOR_GATEWAY, p->argc, p->argv, environ, &full, &e);
    if (status == TC_OK) {
        status = tc_gateway_settings_read(full.argc, full.argv, &o, &e);
        if (status == TC_OK) status = apply_new(p, &o, &e);
        if (status != TC_OK) tc_config_expand_free(&full);
    }
    if (status == TC_OK) {
        tc_config_needs_restart(TC_FOR_GATEWAY, &p->full, &full, others, sizeof others);
        tc_info("configuration applied%s%s", *others ? "; these need a restart: " : "", others);
        tc_config_expand_free(&p->live);
        p->live = full;
    } else {
        tc_error_log("the configuration stays as it was: %s", e.text);
    }
    tc_notify_ready("%s", p->told);
}

static void start_handles(program *p)
{
    p->term.data = p->interrupt.data = p->hangup.data = p->heartbeat.data = p;
    uv_signal_init(&p->loop, &p->term);
    uv_signal_init(&p->loop, &p->interrupt);
    uv_signal_init(&p->loop, &p->hangup);
    uv_timer_init(&p->loop, &p->heartbeat);
    uv_signal_start(&p->term, on_signal, SIGTERM);
    uv_signal_start(&p->interrupt, on_signal, SIGINT);
    uv_signal_start(&p->hangup, on_hangup, SIGHUP);
    uint64_t every_ms =
        tc_notify_interval_us() / 1000 < SOON_MS ? tc_notify_interval_us() / 1000 + 1 : SOON_MS;
    if (tc_notify_is_on()) uv_timer_start(&p->heartbeat, on_heartbeat, 0, every_ms);
}

static tc_status serve(program *p, const options *o, tc_error *e)
{
    tc_gateway_options gateway = {
        .listen = o->listen, .engine_url = o->engine, .limits = tc_gateway_default_limits()};
    TC_TRY(load_model(o, &gateway.model, &p->tokenizer, e));
    TC_TRY(load_keys(p, o, &p->keys, e));
    TC_TRY(tc_chat_template_load(o->model_dir, p->tokenizer, &p->chat_template, e));
    tc_info("chat template: %s", tc_chat_template_origin(p->chat_template));
    gateway.tokenizer = p->tokenizer;
    gateway.chat_template = p->chat_template;
    gateway.keys = p->keys;
    gateway.web = o->web;
    set_limits(o, &gateway.limits);
    TC_TRY(inherited_sockets(&gateway, e));
    p->drain_s = o->drain_s;
    if (uv_loop_init(&p->loop) != 0) return tc_fail(e, TC_IO, "no event loop can be made");
    tc_status status = tc_gateway_open(&p->loop, &gateway, &p->gateway, e);
    if (status == TC_OK) {
        start_handles(p);
        tc_info("listening on %s, model %s", tc_gateway_address(p->gateway), gateway.model.name);
        tc_notify_ready("listening on %s", tc_gateway_address(p->gateway));
    }
    uv_run(&p->loop, UV_RUN_DEFAULT); // after a failure: closes what was opened
    uv_loop_close(&p->loop);
    return status;
}

static void show(tc_setting_id what)
{
    if (what == TC_OPT_VERSION) {
        puts("thermocline-gateway " TC_VERSION);
        return;
    }
    puts("usage: thermocline-gateway --engine URL --model DIR [options]");
    tc_settings_help(TC_FOR_GATEWAY, stdout);
}

static tc_status run(program *p, tc_error *e)
{
    options o = {0};
    p->exit_code = EXIT_USAGE;
    TC_TRY(tc_config_expand(TC_FOR_GATEWAY, p->argc, p->argv, environ, &p->full, e));
    tc_status status = tc_gateway_settings_read(p->full.argc, p->full.argv, &o, e);
    if (status == TC_CANCELLED) show(o.program.show);
    if (status != TC_OK) return status;
    p->exit_code = EXIT_FAILED;
    tc_log_init("gateway", o.program.log_level, o.program.journald);
    tc_log_set(o.program.log_level, o.program.log_format);
    if (!o.program.core_dumps) tc_process_forbid_dumps();
    tc_notify_init(getenv("NOTIFY_SOCKET"), getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
    signal(SIGPIPE, SIG_IGN);
    if (!tc_process_follow_parent(o.program.parent_pid))
        return tc_fail(e, TC_CLOSED, "the parent process %ld is gone", o.program.parent_pid);
    if (o.program.trace) TC_TRY(tc_trace_open(o.program.trace, "thermocline-gateway", e));
    status = serve(p, &o, e);
    tc_trace_close();
    return status;
}

int main(int argc, char **argv)
{
    tc_error e = {0};
    program *p = calloc(1, sizeof *p);
    tc_uv_memory_begin();
    tc_log_init("gateway", TC_LOG_INFO, false);
    if (p) p->argc = argc, p->argv = argv;
    tc_status status = p ? run(p, &e) : tc_fail(&e, TC_NOMEM, "out of memory");
    int code = EXIT_TOLD;
    if (status != TC_OK && status != TC_CANCELLED) {
        tc_error_log("%s", e.text);
        tc_notify_status("%s", e.text);
        code = p ? p->exit_code : EXIT_FAILED;
    }
    if (p) {
        tc_api_keys_free(p->keys);
        tc_chat_template_free(p->chat_template);
        tc_tokenizer_free(p->tokenizer);
        tc_config_expand_free(&p->full);
        tc_config_expand_free(&p->live);
    }
    free(p);
    return code;
}
