// SPDX-License-Identifier: Apache-2.0
// Times one expert call on its way and back, without its computing: hub and worker in two processes, over any
// address.
//   bench-carriers LISTEN DIAL PKI|- TOKENS CALLS
// PKI: a folder of deploy/tls with core and `one`. Prints microseconds: median, 99 of 100, least. Calls are
// of hidden size 2048 with ten pairs a token: 8 KiB there and 16 KiB back for each token, as Qwen3-Next has
// them.
#include "common/base/clock.h"
#include "proto/expert.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HIDDEN = 2048, PAIRS = 10, PATHS = 512 };
#define HASH "0123456789abcdef0123456789abcdef"

static char paths[3][PATHS];

static const tc_tls *tls_of(const char *pki, const char *who, tc_tls *ret)
{
    if (strcmp(pki, "-") == 0) return NULL;
    snprintf(paths[0], PATHS, "%s/ca.pem", pki);
    snprintf(paths[1], PATHS, "%s/%s.pem", pki, who);
    snprintf(paths[2], PATHS, "%s/%s.key", pki, who);
    *ret = (tc_tls){.ca = paths[0], .cert = paths[1], .key = paths[2]};
    return ret;
}

static void work(const char *url, const char *pki)
{
    tc_expert_peer *peer;
    tc_error e;
    tc_tls tls;
    tc_worker_hello hello = {
        .protocol_version = TC_EXPERT_PROTOCOL_VERSION, .model_hash = HASH, .of = 1, .threads = 1};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (tc_expert_peer_open(url, tls_of(pki, "one", &tls), &hello, &peer, &e) != TC_OK) {
        fprintf(stderr, "%s\n", e.text);
        _exit(1);
    }
    for (;;) {
        tc_peer_event event;
        if (tc_expert_peer_next(peer, 60000000, &event) != TC_OK) _exit(0);
        if (event.kind == TC_PEER_LOST) _exit(0);
        if (event.kind != TC_PEER_CALL) continue;
        int64_t *sum = tc_expert_peer_sum(peer, event.call.tokens, HIDDEN, NULL);
        for (uint32_t i = 0; i < event.call.tokens * HIDDEN; i++) sum[i] = (int64_t)event.call.x[i];
        tc_expert_peer_reply(peer, event.seq, 0, NULL);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint32_t wait_for_worker(tc_expert_hub *hub)
{
    tc_hub_event event;
    while (tc_expert_hub_next(hub, 10000000, &event) == TC_OK)
        if (event.kind == TC_HUB_WORKER_UP) return event.worker;
    return 0;
}

static int drive(tc_expert_hub *hub, uint32_t tokens, uint32_t calls)
{
    static tc_expert_pair pairs[PAIRS * TC_CALL_TOKENS_MAX];
    uint32_t worker = wait_for_worker(hub), warm = calls / 10;
    float *x = calloc((size_t)tokens * HIDDEN, sizeof *x);
    uint64_t *us = calloc(calls, sizeof *us);
    if (!worker) fprintf(stderr, "no worker came\n");
    if (!worker || !x || !us) return 1;
    for (uint32_t k = 0; k < PAIRS; k++)
        for (uint32_t t = 0; t < tokens; t++) pairs[k * tokens + t] = (tc_expert_pair){k, t, 0.1f};
    for (uint32_t i = 0; i < warm + calls; i++) {
        tc_hub_event event;
        const tc_expert_call call = {.unit_end = 8,
                                     .tokens = tokens,
                                     .hidden = HIDDEN,
                                     .x = x,
                                     .pair_count = PAIRS * tokens,
                                     .pairs = pairs};
        uint64_t start = tc_now_us();
        if (tc_expert_hub_call(hub, worker, i + 1, &call, NULL) != TC_OK ||
            tc_expert_hub_next(hub, 10000000, &event) != TC_OK || event.kind != TC_HUB_RESULT) {
            fprintf(stderr, "call %u: event %d: %s\n", i, (int)event.kind, event.reason);
            return 1;
        }
        if (i >= warm) us[i - warm] = tc_now_us() - start;
    }
    qsort(us, calls, sizeof *us, by_value);
    printf("%llu %llu %llu\n", (unsigned long long)us[calls / 2],
           (unsigned long long)us[calls - 1 - calls / 100], (unsigned long long)us[0]);
    free(x);
    free(us);
    return 0;
}

int main(int argc, char **argv)
{
    tc_expert_hub *hub;
    tc_error e;
    tc_tls tls;
    if (argc != 6) return 2;
    uint32_t tokens = (uint32_t)atoi(argv[4]), calls = (uint32_t)atoi(argv[5]);
    if (tokens < 1 || tokens > TC_CALL_TOKENS_MAX || calls < 10) return 2;
    pid_t pid = fork(); // before any thread
    if (pid == 0) work(argv[2], argv[3]);
    if (tc_expert_hub_open(NULL, HASH, &hub, &e) != TC_OK ||
        tc_expert_hub_listen(hub, argv[1], tls_of(argv[3], "core", &tls), &e) != TC_OK) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int code = drive(hub, tokens, calls);
    tc_expert_hub_close(hub);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return code;
}
