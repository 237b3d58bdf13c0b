// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `serve`: everything up, one block of text when it is ready, everything down on Ctrl-C.
#include "cli/cli.h"
#include "cli/health.h"
#include "cli/pull.h"
#include "cli/run.h"
#include "common/base/clock.h"
#include "common/base/config.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ASK_EVERY_US = 100000,
    WORKERS_WAIT_US = 3000000, // for the rest of the workers, once every expert can be computed
};

static void print_block(const char *listen, const char *name, uint64_t begin_us, const tc_health *health)
{
    bool is_unix = strncmp(listen, "unix:", 5) == 0;
    char base[160], flag[160] = "";
    if (is_unix) {
        snprintf(base, sizeof base, "http://localhost");
        snprintf(flag, sizeof flag, " --unix-socket %s", listen + 5);
    } else {
        bool any = strncmp(listen, "0.0.0.0:", 8) == 0;
        snprintf(base, sizeof base, "http://%s%s", any ? "127.0.0.1" : listen, any ? listen + 7 : "");
    }
    printf("\nThermocline serves %s on %s (%u worker%s, ready in %.1f s). Try:\n\n"
           "  curl -N%s %s/api/v1/generate -d '{\"prompt\": \"In the beginning\", \"max_tokens\": 64, "
           "\"stream\": true}'\n\n"
           "Ctrl-C stops everything.\n",
           name, is_unix ? listen : base, health->workers_up, health->workers_up == 1 ? "" : "s",
           (double)(tc_now_us() - begin_us) / 1e6, flag, base);
    fflush(stdout);
}

static tc_status keep_running(tc_supervisor *supervisor, const char *listen, const char *name, tc_error *e)
{
    char last[256] = "";
    bool told = false;
    uint64_t begin_us = tc_now_us(), whole_us = 0; // whole: every expert can be computed
    for (;;) {
        tc_status status = tc_supervisor_wait(supervisor, -1, told ? 3600000000u : ASK_EVERY_US, e);
        if (status != TC_OK && status != TC_TIMEOUT) return status;
        if (told) continue;
        tc_health health;
        tc_health_ask(listen, &health);
        if (health.code == 200 && !whole_us) {
            whole_us = tc_now_us();
            tc_supervisor_ready(supervisor); // who fails from now on is started again
        }
        bool missing = health.workers_up < health.workers_expected;
        if (health.code == 200 && (!missing || tc_now_us() - whole_us >= WORKERS_WAIT_US)) {
            told = true;
            print_block(listen, name, begin_us, &health);
        } else if (health.code != 200 && health.reason[0] && strcmp(last, health.reason) != 0) {
            snprintf(last, sizeof last, "%s", health.reason);
            fprintf(stderr, "thermocline: waiting: %s\n", last);
        }
    }
}

// The folder's name, for clients that ask which model this is.
static char *folder_name(const char *model)
{
    char *path = realpath(model, NULL), *name = path ? strdup(basename(path)) : NULL;
    free(path);
    return name;
}

static tc_status serve(const char *model, const char *listen, tc_run_options *o, tc_error *e)
{
    char store[TC_STORE_PATH_BYTES], profile[TC_STORE_PATH_BYTES + 16], pulled[TC_HUB_PATH_BYTES];
    bool packed;
    char *name = NULL;
    tc_supervisor *supervisor = NULL;
    tc_status status;
    TC_GOTO(tc_listen_check(listen, e));
    TC_GOTO(tc_pull_model(model, pulled, e));
    if (strcmp(model, pulled) != 0 && !o->model_name) o->model_name = model; // what it was asked for by
    model = pulled;
    TC_GOTO(tc_run_prepare(model, o->cache_dir, o->quantise, false, &packed, store, e));
    TC_GOTO(tc_run_load(o, store, e));
    // What is learned of routing lies beside the store; a configuration may say otherwise.
    snprintf(profile, sizeof profile, "%s.profile", store);
    if (!o->profile && !o->config) o->profile = profile;
    if (!o->model_name) o->model_name = name = folder_name(model);
    TC_GOTO(tc_supervisor_create(&supervisor, e));
    TC_GOTO(tc_run_start(supervisor, o, model, store, listen, e));
    status = keep_running(supervisor, listen, o->model_name, e);
    if (status == TC_CANCELLED) {
        fprintf(stderr, "thermocline: stopping\n");
        status = TC_OK; // being asked to stop is how serving ends
    }
out:
    tc_supervisor_free(supervisor);
    free(name);
    return status;
}

static int serve_arguments(int argc, char **argv)
{
    tc_run_options o = {.log_level = "info", .drain_s = 5};
    const char *listen = "127.0.0.1:8080", *model = NULL;
    tc_arguments arguments;
    tc_error e;
    const tc_option table[] = {
        {.setting = TC_OPT_CONFIG, .target = &o.config},
        {.setting = TC_OPT_MODEL, .target = &model},
        {.setting = TC_OPT_LISTEN, .target = &listen},
        {.setting = TC_OPT_MODEL_NAME, .target = &o.model_name},
        {.setting = TC_OPT_API_KEY_FILE, .target = &o.api_key_file},
        {.setting = TC_OPT_ALLOW_HOST, .target = &o.hosts},
        {.setting = TC_OPT_CORS_ORIGIN, .target = &o.origins},
        {.setting = TC_OPT_CONNECTIONS, .target = &o.connections},
        {.setting = TC_OPT_CONNECTIONS_PER_PEER, .target = &o.peer_connections},
        {.setting = TC_OPT_DRAIN_SECONDS, .target = &o.drain_s},
        TC_RUN_OPTIONS(o),
        {0},
    };
    int code = tc_options_parse(table, "serve [MODEL] [options]", 0, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    if (arguments.count) model = arguments.positional[0];
    if (!model) {
        tc_fail(&e, TC_ARGUMENT,
                "serve: which model? (serve MODEL, or --model, or `model =` in the configuration)");
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    if (o.drain_s > TC_STOP_GRACE_MS / 1000 - 2) // and a moment for telling the rest; then they are killed
        o.drain_s = TC_STOP_GRACE_MS / 1000 - 2;
    return serve(model, listen, &o, &e) == TC_OK ? 0 : tc_cli_fail(&e);
}

int tc_cli_serve(int argc, char **argv)
{
    tc_arguments_full full;
    tc_error e;
    if (tc_config_expand(TC_FOR_SERVE, argc, argv, environ, &full, &e) != TC_OK) {
        tc_cli_fail(&e);
        return TC_EXIT_USAGE;
    }
    int code = serve_arguments(full.argc, full.argv);
    tc_config_expand_free(&full);
    return code;
}
