// SPDX-License-Identifier: Apache-2.0
// Owns: the gateway's command line, what it loads from the model's folder, and its signals.
#include "common/base/log.h"
#include "common/model/model.h"
#include "gateway/chat_template.h"
#include "gateway/server.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct options {
    const char *engine, *model_dir, *model_name, *listen, *key_file;
    uint32_t drain_s, connections, peer_connections;
    tc_web_policy web;
    pid_t parent;
    tc_log_level level;
    bool journald;
} options;

typedef struct program {
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    tc_gateway *gateway;
    tc_tokenizer *tokenizer;
    tc_chat_template *chat_template;
    tc_api_keys *keys;
    uint32_t drain_s;
} program;

static const char usage[] =
    "usage: thermocline-gateway --engine URL --model DIR [options]\n"
    "  --engine URL         where the core listens (ipc:///path)\n"
    "  --model DIR          Hugging Face model folder: tokenizer.json, config.json, generation_config.json\n"
    "  --model-name NAME    how clients call it (the folder's name)\n"
    "  --listen ADDRESS     127.0.0.1:8080 (default), [::1]:8080, unix:/path; port 0 takes a free one\n"
    "  --api-key-file FILE  keys, one a line; needed to listen on other addresses than loopback\n"
    "  --allow-host NAME    without keys: a Host to answer to besides localhost (up to 16 times)\n"
    "  --cors-origin ORIGIN pages that may use this server, like https://page.example, or * (up to 16 "
    "times)\n"
    "  --connections N      open at once (16384, or what the system allows)\n"
    "  --connections-per-peer N   of one address; counts this machine's addresses too when it is given "
    "(256)\n"
    "  --drain-seconds N    on SIGTERM, how long running requests may take (5)\n"
    "  --parent-pid PID     end when that parent does\n"
    "  --log-level L        error, warn, info, debug\n"
    "  --journald           log lines start with the priority, as systemd reads it\n";

static bool parse_number(const char *text, long max, long *ret)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < 0 || value > max) return false;
    *ret = value;
    return true;
}

static tc_status add_name(const char **list, uint32_t *count, const char *name, tc_error *e)
{
    if (*count == TC_WEB_NAMES_MAX)
        return tc_fail(e, TC_ARGUMENT, "%s: more than %d names", name, TC_WEB_NAMES_MAX);
    list[(*count)++] = name;
    return TC_OK;
}

static tc_status parse_option(int which, const char *value, options *o, tc_error *e)
{
    long number;
    switch (which) {
    case 'e':
        o->engine = value;
        break;
    case 'm':
        o->model_dir = value;
        break;
    case 'n':
        o->model_name = value;
        break;
    case 'l':
        o->listen = value;
        break;
    case 'k':
        o->key_file = value;
        break;
    case 'd':
        if (!parse_number(value, 3600, &number))
            return tc_fail(e, TC_ARGUMENT, "--drain-seconds %s: expected 0 to 3600", value);
        o->drain_s = (uint32_t)number;
        break;
    case 'p':
        if (!parse_number(value, INT32_MAX, &number))
            return tc_fail(e, TC_ARGUMENT, "--parent-pid %s: not a process", value);
        o->parent = (pid_t)number;
        break;
    case 'v':
        if (!tc_log_parse_level(value, &o->level))
            return tc_fail(e, TC_ARGUMENT, "--log-level %s: expected error, warn, info or debug", value);
        break;
    case 'a':
    case 'o':
        return add_name(which == 'a' ? o->web.hosts : o->web.origins,
                        which == 'a' ? &o->web.host_count : &o->web.origin_count, value, e);
    case 'c':
    case 'q':
        if (!parse_number(value, 1 << 20, &number) || number < 1)
            return tc_fail(e, TC_ARGUMENT, "connections %s: expected 1 to %d", value, 1 << 20);
        *(which == 'c' ? &o->connections : &o->peer_connections) = (uint32_t)number;
        break;
    case 'j':
        o->journald = true;
        break;
    default:
        return tc_fail(e, TC_ARGUMENT, "unknown option or missing value (--help shows all)");
    }
    return TC_OK;
}

// TC_CANCELLED: nothing is left to do (--help, --version).
static tc_status parse_arguments(int argc, char **argv, options *ret, tc_error *e)
{
    static const struct option names[] = {{"engine", required_argument, NULL, 'e'},
                                          {"model", required_argument, NULL, 'm'},
                                          {"model-name", required_argument, NULL, 'n'},
                                          {"listen", required_argument, NULL, 'l'},
                                          {"api-key-file", required_argument, NULL, 'k'},
                                          {"drain-seconds", required_argument, NULL, 'd'},
                                          {"parent-pid", required_argument, NULL, 'p'},
                                          {"log-level", required_argument, NULL, 'v'},
                                          {"allow-host", required_argument, NULL, 'a'},
                                          {"cors-origin", required_argument, NULL, 'o'},
                                          {"connections", required_argument, NULL, 'c'},
                                          {"connections-per-peer", required_argument, NULL, 'q'},
                                          {"journald", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {NULL, 0, NULL, 0}};
    options o = {.listen = "127.0.0.1:8080", .drain_s = TC_DRAIN_S, .level = TC_LOG_INFO};
    int which;
    opterr = 0;
    while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (which == 'h' || which == 'V') {
            fputs(which == 'h' ? usage : "thermocline-gateway " TC_VERSION "\n", stdout);
            return TC_CANCELLED;
        }
        TC_TRY(parse_option(which, optarg, &o, e));
    }
    if (optind != argc) return tc_fail(e, TC_ARGUMENT, "unexpected argument '%s'", argv[optind]);
    if (!o.engine) return tc_fail(e, TC_ARGUMENT, "--engine is missing");
    if (!o.model_dir) return tc_fail(e, TC_ARGUMENT, "--model is missing");
    *ret = o;
    return TC_OK;
}

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
    char path[4096];
    tc_model_desc *desc = calloc(1, sizeof *desc);
    if (!desc) return tc_fail(e, TC_NOMEM, "out of memory");
    TC_GOTO(tc_model_desc_load(o->model_dir, desc, e));
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer.json", o->model_dir) >= sizeof path) {
        status = tc_fail(e, TC_LIMIT, "--model: the path is too long");
        goto out;
    }
    TC_GOTO(tc_tokenizer_load(path, ret_tokenizer, e));
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
    free(desc);
    return status;
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

static void close_signal(uv_signal_t *signal)
{
    if (!uv_is_closing((uv_handle_t *)signal)) uv_close((uv_handle_t *)signal, NULL);
}

static void on_drained(void *arg)
{
    program *p = arg;
    tc_gateway_free(p->gateway);
    p->gateway = NULL;
    close_signal(&p->term);
    close_signal(&p->interrupt);
}

static void on_signal(uv_signal_t *signal, int number)
{
    program *p = signal->data;
    if (!p->gateway) return;
    tc_info("%s: stopping", number == SIGTERM ? "SIGTERM" : "SIGINT");
    tc_gateway_drain(p->gateway, p->drain_s * 1000u, on_drained, p);
}

static tc_status serve(program *p, const options *o, tc_error *e)
{
    tc_gateway_options gateway = {
        .listen = o->listen, .engine_url = o->engine, .limits = tc_gateway_default_limits()};
    TC_TRY(load_model(o, &gateway.model, &p->tokenizer, e));
    if (o->key_file) TC_TRY(tc_api_keys_load(o->key_file, &p->keys, e));
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
        p->term.data = p->interrupt.data = p;
        uv_signal_init(&p->loop, &p->term);
        uv_signal_init(&p->loop, &p->interrupt);
        uv_signal_start(&p->term, on_signal, SIGTERM);
        uv_signal_start(&p->interrupt, on_signal, SIGINT);
        tc_info("listening on %s, model %s", tc_gateway_address(p->gateway), gateway.model.name);
    }
    uv_run(&p->loop, UV_RUN_DEFAULT); // after a failure: closes what was opened
    uv_loop_close(&p->loop);
    return status;
}

int main(int argc, char **argv)
{
    options o = {0};
    tc_error e = {0};
    program *p = calloc(1, sizeof *p);
    tc_log_init("gateway", TC_LOG_INFO, false);
    tc_status status = p ? parse_arguments(argc, argv, &o, &e) : tc_fail(&e, TC_NOMEM, "out of memory");
    if (status == TC_OK) {
        tc_log_init("gateway", o.level, o.journald);
        signal(SIGPIPE, SIG_IGN);
        if (o.parent) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            if (getppid() != o.parent)
                status = tc_fail(&e, TC_CLOSED, "the parent process %d is gone", (int)o.parent);
        }
    }
    if (status == TC_OK) status = serve(p, &o, &e);
    if (status != TC_OK && status != TC_CANCELLED) tc_error_log("%s", e.text);
    if (p) {
        tc_api_keys_free(p->keys);
        tc_chat_template_free(p->chat_template);
        tc_tokenizer_free(p->tokenizer);
    }
    free(p);
    return status == TC_OK || status == TC_CANCELLED ? 0 : 1;
}
