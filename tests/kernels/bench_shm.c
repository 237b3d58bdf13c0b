// SPDX-License-Identifier: Apache-2.0
// Times the shared-memory carrier: the round trip of a call of 1 token, hidden 2048, 10 pairs (8 KB in, 16 KB
// out), the worker in a process of its own. The worker reads all of x and writes the whole sum, the hub adds
// the sum to its own: so the payload's way between the cores is in the figure.
//   bench-shm [--calls N] [--json]
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "proto/shm.h"

enum { HIDDEN = 2048, PAIRS = 10, LONG_US = 10000000 };

typedef struct setup {
    const char *name;
    int hub_cpu, worker_cpu; // indices into the CPUs this process may use
    uint64_t hub_spin_us, worker_spin_us;
    uint64_t pause_us; // between two calls: long enough for the peer to sleep
    uint32_t share;    // of the calls asked for, one in `share`
} setup;

static const setup setups[] = {
    {"two cores, both spin", 0, 1, 100, 100, 0, 1},
    {"two cores, both sleep at once", 0, 1, 0, 0, 0, 4},
    {"two cores, worker asleep before each call", 0, 1, 100, 20, 200, 20},
    {"one core, both sleep at once", 0, 0, 0, 0, 0, 4},
    {"one core, both spin 20 us first", 0, 0, 20, 20, 0, 10},
};

static bool pin(int index)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return false;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || index-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        return sched_setaffinity(0, sizeof one, &one) == 0;
    }
    return false;
}

static void serve(const char *name, const char *bell_name, tc_shm_options options, uint64_t spin_us)
{
    tc_shm *shm;
    tc_error e;
    if (tc_bell_open(bell_name, &options.bell, &e) != TC_OK) _exit(1);
    if (tc_shm_open(name, &options, &shm, &e) != TC_OK) _exit(1);
    int64_t *sum = tc_shm_sum(shm);
    for (;;) {
        tc_expert_call call;
        uint64_t seq;
        if (tc_shm_wait_request(shm, spin_us, LONG_US) != TC_OK) _exit(0);
        if (tc_shm_take(shm, &seq, &call, &e) != TC_OK) _exit(1);
        for (uint32_t i = 0; i < HIDDEN; i++) sum[i] = (int64_t)(int32_t)call.x[i];
        if (tc_shm_reply(shm, seq, TC_OK, 0, NULL, &e) != TC_OK) _exit(1);
    }
}

static bool answered(void *arg)
{
    return tc_shm_answered(arg);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool drive(tc_shm *hub, tc_bell *bell, const setup *s, uint32_t calls, uint64_t *ns)
{
    static float x[HIDDEN];
    static int64_t total[HIDDEN];
    static tc_expert_pair pairs[PAIRS];
    for (uint32_t i = 0; i < HIDDEN; i++) x[i] = (float)i;
    for (uint32_t i = 0; i < PAIRS; i++) pairs[i] = (tc_expert_pair){i, 0, 0.1f};
    memset(total, 0, sizeof total);
    tc_expert_call call = {
        .unit_end = 8, .tokens = 1, .hidden = HIDDEN, .x = x, .pair_count = PAIRS, .pairs = pairs};
    uint32_t warm = calls / 10;
    for (uint32_t i = 0; i < warm + calls; i++) {
        tc_shm_answer a;
        if (s->pause_us) usleep((useconds_t)s->pause_us);
        uint64_t start = tc_now_ns();
        if (tc_shm_post(hub, i + 1, &call, NULL) != TC_OK) return false;
        if (tc_bell_wait(bell, answered, hub, s->hub_spin_us, LONG_US) != TC_OK) return false;
        if (tc_shm_poll_reply(hub, i + 1, &a, NULL) != TC_OK) return false;
        for (uint32_t k = 0; k < HIDDEN; k++) total[k] += a.sum[k];
        if (i >= warm) ns[i - warm] = tc_now_ns() - start;
    }
    for (uint32_t k = 0; k < HIDDEN; k++)
        if (total[k] != (int64_t)k * (warm + calls)) return false;
    qsort(ns, calls, sizeof *ns, by_value);
    return true;
}

// The worker is forked unpinned; each side then pins itself.
static bool measure(const setup *s, uint32_t calls, uint64_t *ns)
{
    tc_shm_options options = {.tokens_max = 8, .hidden = HIDDEN, .pairs_max = 8 * PAIRS};
    tc_shm *hub = NULL;
    tc_error e;
    cpu_set_t before;
    bool ok = false;
    sched_getaffinity(0, sizeof before, &before);
    if (tc_bell_create(&options.bell, &e) != TC_OK) return false;
    if (tc_shm_create(&options, &hub, &e) != TC_OK) goto out;
    pid_t pid = fork();
    if (pid < 0) goto out;
    if (pid == 0) {
        if (!pin(s->worker_cpu)) _exit(1);
        serve(tc_shm_name(hub), tc_bell_name(options.bell), options, s->worker_spin_us);
    }
    ok = pin(s->hub_cpu) && drive(hub, options.bell, s, calls, ns);
    tc_shm_abort(hub);
    int how;
    ok = waitpid(pid, &how, 0) == pid && how == 0 && ok;
    sched_setaffinity(0, sizeof before, &before);
out:
    tc_shm_close(hub);
    tc_bell_close(options.bell);
    return ok;
}

int main(int argc, char **argv)
{
    uint32_t calls = 200000;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        if (strcmp(argv[i], "--calls") == 0 && i + 1 < argc) calls = (uint32_t)strtoul(argv[++i], NULL, 10);
    }
    if (calls < 1000 || calls > 10000000) calls = 200000;
    uint64_t *ns = calloc(calls, sizeof *ns);
    if (!ns) return 1;
    if (!json)
        printf("%-44s %9s %9s %9s\n", "round trip, 8 KB in, 16 KB out", "median us", "p99 us", "min us");
    for (size_t i = 0; i < sizeof setups / sizeof setups[0]; i++) {
        const setup *s = &setups[i];
        uint32_t n = calls / s->share;
        if (!measure(s, n, ns)) {
            fprintf(stderr, "%s: not measured (too few CPUs?)\n", s->name);
            continue;
        }
        double median = (double)ns[n / 2] / 1e3, p99 = (double)ns[n - 1 - n / 100] / 1e3;
        if (json)
            printf("{\"bench\":\"shm\",\"case\":\"%s\",\"calls\":%u,\"median_us\":%.2f,\"p99_us\":%.2f}\n",
                   s->name, n, median, p99);
        else
            printf("%-44s %9.2f %9.2f %9.2f\n", s->name, median, p99, (double)ns[0] / 1e3);
    }
    free(ns);
    return 0;
}
