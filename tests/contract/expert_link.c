// SPDX-License-Identifier: Apache-2.0
// The contract of an expert source, kept by real worker processes: however experts are spread over workers,
// the sums have the bits that the same call gives in process; and a worker that dies, lies, stalls or is
// handed nonsense is found out. usage: expert_link WORKER-PROGRAM CHECKPOINT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/model/model.h"
#include "proto/expert.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { WAIT_US = 20000000, WORKERS = 4, TOKENS_MAX = 70 };

static const char *program, *checkpoint_dir;
static char directory[64], arenas[64], store_path[TC_STORE_PATH_BYTES], url[128];
static tc_store *store;
static const tc_store_info *info;
static tc_team *team;
static tc_ffn *ffn;
static tc_expert_hub *hub;

static pid_t processes[WORKERS];
static uint32_t ids[WORKERS]; // the hub's, by index of the share

static void must(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

// ---- processes ----
static pid_t spawn(const char *const *extra)
{
    char self[12];
    snprintf(self, sizeof self, "%d", (int)getpid());
    const char *argv[32] = {program,     "--connect",   url,         "--log-level", "error",
                            "--threads", "2",           "--spin-us", "0",           "--parent-pid",
                            self,        "--arena-dir", arenas};
    int n = 13;
    for (; *extra; extra++) argv[n++] = *extra;
    pid_t pid;
    assert_int_equal(posix_spawn(&pid, program, NULL, NULL, (char *const *)argv, environ), 0);
    return pid;
}

static int exit_code(pid_t pid)
{
    uint64_t deadline_us = tc_now_us() + WAIT_US;
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (tc_now_us() > deadline_us) {
            kill(pid, SIGKILL);
            fail_msg("process %d does not end", (int)pid);
        }
        usleep(2000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static tc_hub_event expect(tc_hub_event_kind kind)
{
    tc_hub_event event;
    assert_int_equal(tc_expert_hub_next(hub, WAIT_US, &event), TC_OK);
    if (event.kind != kind) fail_msg("event %d, not %d: %s", event.kind, kind, event.reason);
    return event;
}

static void start_workers(uint32_t count, const char *shard, const char *fault)
{
    char of[12], index[12];
    snprintf(of, sizeof of, "%u", count);
    for (uint32_t i = 0; i < count; i++) {
        snprintf(index, sizeof index, "%u", i);
        const char *extra[] = {
            "--store", store_path, "--index", index, "--of", of, "--shard", shard, fault ? "--fault" : NULL,
            fault,     NULL};
        processes[i] = spawn(extra);
    }
    for (uint32_t i = 0; i < count; i++) {
        tc_hub_event up = expect(TC_HUB_WORKER_UP);
        assert_int_equal(up.hello.of, count);
        assert_string_equal(up.hello.model_hash, info->model_hash);
        assert_int_equal(up.hello.threads, 2);
        assert_true(up.hello.resident_bytes > 0);
        ids[up.hello.index] = up.worker;
    }
}

static void stop_workers(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) kill(processes[i], SIGTERM);
    for (uint32_t i = 0; i < count; i++)
        assert_string_equal(expect(TC_HUB_WORKER_DOWN).reason, "said goodbye");
    for (uint32_t i = 0; i < count; i++) assert_int_equal(exit_code(processes[i]), 0);
}

// ---- calls ----
typedef struct example {
    tc_expert_call call;
    float *x;
    tc_expert_pair pairs[TOKENS_MAX * TC_TOP_K_MAX];
    int64_t *want, *got;
} example;

static uint64_t random_state = 88172645463325252u;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static float random_float(void)
{
    return (float)(int32_t)next_random() / 2147483648.0f;
}

// Every token chooses top_k experts, low ones more often: some experts have many tokens and some none.
static void make_example(example *s, uint32_t layer, tc_precision precision, uint32_t tokens)
{
    static bool chosen[TC_EXPERTS_MAX][TOKENS_MAX];
    uint32_t count = 0;
    memset(chosen, 0, sizeof chosen);
    for (size_t i = 0; i < (size_t)tokens * info->hidden; i++) s->x[i] = random_float();
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < info->top_k;) {
            uint32_t e = next_random() % (next_random() % info->experts + 1);
            if (chosen[e][t]) continue;
            chosen[e][t] = true;
            k++;
        }
    for (uint32_t e = 0; e < info->experts; e++)
        for (uint32_t t = 0; t < tokens; t++)
            if (chosen[e][t]) s->pairs[count++] = (tc_expert_pair){e, t, random_float()};
    s->call = (tc_expert_call){.layer = layer,
                               .unit_end = info->units,
                               .precision = precision,
                               .tokens = tokens,
                               .hidden = info->hidden,
                               .x = s->x,
                               .pair_count = count,
                               .pairs = s->pairs};
    tc_error error;
    must(tc_ffn_run(ffn, &s->call, s->want, &error), &error);
}

static void add_up(example *s, const tc_hub_event *result)
{
    for (size_t i = 0; i < (size_t)s->call.tokens * info->hidden; i++) s->got[i] += result->sum[i];
}

// Sends each worker its part and adds up what comes back, in whatever order it comes.
static void run_spread(example *s, uint32_t workers, bool slice)
{
    static tc_expert_pair part[TOKENS_MAX * TC_TOP_K_MAX];
    static uint64_t seq;
    tc_error error;
    uint32_t sent = 0;
    memset(s->got, 0, (size_t)s->call.tokens * info->hidden * sizeof *s->got);
    for (uint32_t i = 0; i < workers; i++) {
        tc_expert_call call = s->call;
        if (slice) {
            call.unit_begin = info->units * i / workers;
            call.unit_end = info->units * (i + 1) / workers;
        } else {
            call.pair_count = 0;
            call.pairs = part;
            for (uint32_t p = 0; p < s->call.pair_count; p++)
                if (s->pairs[p].expert >= info->experts * i / workers &&
                    s->pairs[p].expert < info->experts * (i + 1) / workers)
                    part[call.pair_count++] = s->pairs[p];
        }
        must(tc_expert_hub_call(hub, ids[i], ++seq, &call, &error), &error);
        sent++;
    }
    while (sent-- > 0) {
        tc_hub_event result = expect(TC_HUB_RESULT);
        assert_int_equal(result.hidden, info->hidden);
        add_up(s, &result);
    }
}

static example *new_example(void)
{
    example *s = calloc(1, sizeof *s);
    s->x = calloc((size_t)TOKENS_MAX * info->hidden, sizeof *s->x);
    s->want = calloc((size_t)TOKENS_MAX * info->hidden, sizeof *s->want);
    s->got = calloc((size_t)TOKENS_MAX * info->hidden, sizeof *s->got);
    return s;
}

static void free_example(example *s)
{
    free(s->x);
    free(s->want);
    free(s->got);
    free(s);
}

static uint32_t layer_with_experts(void)
{
    for (uint32_t layer = 0; layer < info->layers; layer++)
        if (tc_store_layer_has_experts(store, layer)) return layer;
    fail_msg("the model has no experts");
    return 0;
}

static void same_bits(void **state)
{
    static const uint32_t counts[] = {1, 2, 4}, tokens[] = {1, 3, TOKENS_MAX};
    example *s = new_example();
    assert_true(info->units >= 4); // else slices of 4 are not tested
    for (int c = 0; c < 6; c++) {
        uint32_t workers = counts[c / 2];
        bool slice = c % 2;
        start_workers(workers, slice ? "slice" : "partition", NULL);
        for (uint32_t layer = 0; layer < info->layers; layer++)
            for (int i = 0; i < 6 && tc_store_layer_has_experts(store, layer); i++) {
                size_t bytes = (size_t)tokens[i / 2] * info->hidden * sizeof *s->got;
                make_example(s, layer, i % 2 ? TC_EXACT : TC_FAST, tokens[i / 2]);
                run_spread(s, workers, slice);
                if (memcmp(s->want, s->got, bytes) != 0)
                    fail_msg("%u workers, %s, layer %u, %u tokens: other bits", workers,
                             slice ? "slice" : "partition", layer, tokens[i / 2]);
            }
        stop_workers(workers);
    }
    free_example(s);
}

// The share says what is kept resident, not what may be asked.
static void any_worker_takes_any_call(void **state)
{
    example *s = new_example();
    start_workers(2, "slice", NULL);
    make_example(s, layer_with_experts(), TC_FAST, 5);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t swap = ids[0];
        ids[0] = ids[1];
        ids[1] = swap;
        run_spread(s, 1, false);
        assert_memory_equal(s->want, s->got, 5 * info->hidden * sizeof *s->got);
    }
    stop_workers(2);
    free_example(s);
}

static void nonsense_is_refused(void **state)
{
    example *s = new_example();
    tc_error error;
    start_workers(1, "partition", NULL);
    for (int i = 0; i < 7; i++) {
        make_example(s, layer_with_experts(), TC_FAST, 3);
        switch (i) {
        case 0:
            s->pairs[0].expert = info->experts;
            break;
        case 1:
            s->pairs[0].token = 3;
            break;
        case 2:
            s->pairs[1] = s->pairs[0];
            break;
        case 3:
            s->pairs[0].weight = __builtin_nanf("");
            break;
        case 4:
            s->call.layer = info->layers;
            break;
        case 5:
            s->call.unit_end = info->units + 1;
            break;
        case 6:
            s->call.hidden--;
            break;
        }
        must(tc_expert_hub_call(hub, ids[0], 100 + (uint64_t)i, &s->call, &error), &error);
        tc_hub_event failure = expect(TC_HUB_FAILURE);
        assert_int_equal(failure.seq, 100 + i);
        assert_true(strlen(failure.reason) > 5);
    }
    make_example(s, layer_with_experts(), TC_FAST, 3); // none the worse for it
    run_spread(s, 1, false);
    assert_memory_equal(s->want, s->got, 3 * info->hidden * sizeof *s->got);
    stop_workers(1);
    free_example(s);
}

static void faults_are_seen(void **state)
{
    example *s = new_example();
    tc_error error;
    static const char *const faults[] = {"crash-after=1", "lie-after=1", "nan-after=1", "stall-after=1"};
    for (int i = 0; i < 4; i++) {
        start_workers(1, "partition", faults[i]);
        make_example(s, layer_with_experts(), TC_FAST, 2);
        run_spread(s, 1, false); // the first call is still good
        assert_memory_equal(s->want, s->got, 2 * info->hidden * sizeof *s->got);
        must(tc_expert_hub_call(hub, ids[0], 1, &s->call, &error), &error);
        uint64_t start_us = tc_now_us();
        tc_hub_event event;
        switch (i) {
        case 0:
            event = expect(TC_HUB_WORKER_DOWN);
            assert_in_range(tc_now_us() - start_us, 0, 500000);
            assert_int_equal(exit_code(processes[0]), 128 + SIGKILL);
            break;
        case 1:
            event = expect(TC_HUB_WORKER_DOWN);
            assert_non_null(strstr(event.reason, "answered a call"));
            kill(processes[0], SIGKILL);
            exit_code(processes[0]);
            while (tc_expert_hub_next(hub, 300000, &event) == TC_OK) {
            } // it may have come back meanwhile
            break;
        case 2:
            event = expect(TC_HUB_FAILURE);
            assert_non_null(strstr(event.reason, "not finite"));
            stop_workers(1);
            break;
        case 3:
            assert_int_equal(tc_expert_hub_next(hub, 200000, &event), TC_TIMEOUT);
            tc_expert_hub_drop(hub, ids[0], "missed its deadline");
            assert_string_equal(expect(TC_HUB_WORKER_DOWN).reason, "missed its deadline");
            kill(processes[0], SIGTERM);
            assert_int_equal(exit_code(processes[0]), 0);
            while (tc_expert_hub_next(hub, 300000, &event) == TC_OK) {
            }
            break;
        }
    }
    free_example(s);
}

static void copy_store(const char *to, size_t *ret_bytes)
{
    FILE *in = fopen(store_path, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    size_t n, total = 0;
    static char block[1 << 16];
    while ((n = fread(block, 1, sizeof block, in)) > 0) {
        assert_int_equal(fwrite(block, 1, n, out), n);
        total += n;
    }
    fclose(in);
    fclose(out);
    *ret_bytes = total;
}

static void exit_codes(void **state)
{
    const char *wrong_share[] = {"--store", store_path, "--index", "1", "--of", "1", NULL};
    assert_int_equal(exit_code(spawn(wrong_share)), 2);
    const char *no_number[] = {"--store", store_path, "--of", "2x", NULL};
    assert_int_equal(exit_code(spawn(no_number)), 2);
    const char *bad_cpus[] = {"--store", store_path, "--cpus", "0-", NULL};
    assert_int_equal(exit_code(spawn(bad_cpus)), 2);
    const char *no_store[] = {"--store", "/nonexistent/store", NULL};
    assert_int_equal(exit_code(spawn(no_store)), 1);
    const char *no_isa[] = {"--store", store_path, "--isa", "mmx", NULL};
    assert_int_equal(exit_code(spawn(no_isa)), 2);
    const char *orphan[] = {"--store", store_path, "--parent-pid", "1", NULL};
    assert_int_equal(exit_code(spawn(orphan)), getppid() == 1 && getpid() == 1 ? 0 : 1);

    // A hub of another model turns it away.
    tc_expert_hub_close(hub);
    tc_error error;
    must(tc_expert_hub_open(url, "0123456789abcdef0123456789abcdef", &hub, &error), &error);
    const char *good[] = {"--store", store_path, NULL};
    pid_t pid = spawn(good);
    expect(TC_HUB_REJECTED);
    assert_int_equal(exit_code(pid), 2);
    tc_expert_hub_close(hub);
    must(tc_expert_hub_open(url, info->model_hash, &hub, &error), &error);
}

static void told_to_stop_before_a_hub_is_there(void **state)
{
    tc_error error;
    tc_expert_hub_close(hub);
    const char *good[] = {"--store", store_path, NULL};
    pid_t pid = spawn(good);
    usleep(300000);
    kill(pid, SIGTERM);
    assert_int_equal(exit_code(pid), 0);
    must(tc_expert_hub_open(url, info->model_hash, &hub, &error), &error);
}

static void expect_the_sum(example *s, uint64_t seq)
{
    tc_error error;
    make_example(s, layer_with_experts(), TC_FAST, TOKENS_MAX);
    must(tc_expert_hub_call(hub, ids[0], seq, &s->call, &error), &error);
    tc_hub_event result = expect(TC_HUB_RESULT);
    assert_memory_equal(result.sum, s->want, (size_t)TOKENS_MAX * info->hidden * sizeof *s->want);
}

// Once loaded, the experts need no file: neither those that run nor those that start again.
static void store_cut_short(void **state)
{
    example *s = new_example();
    char path[128];
    size_t bytes;
    snprintf(path, sizeof path, "%s/copy.tcx", directory);
    copy_store(path, &bytes);
    const char *extra[] = {"--store", path, "--store-hash", info->content_hash, NULL};
    processes[0] = spawn(extra);
    ids[0] = expect(TC_HUB_WORKER_UP).worker;
    assert_int_equal(truncate(path, 4096), 0);
    expect_the_sum(s, 1);
    kill(processes[0], SIGKILL);
    expect(TC_HUB_WORKER_DOWN);
    assert_int_equal(exit_code(processes[0]), 128 + SIGKILL);
    assert_int_equal(unlink(path), 0);
    processes[0] = spawn(extra);
    ids[0] = expect(TC_HUB_WORKER_UP).worker;
    expect_the_sum(s, 2);
    stop_workers(1);
    free_example(s);
}

// Nobody but the user can do it, so nothing but a clear end is owed; the next one loads the experts anew.
static void arena_cut_short(void **state)
{
    example *s = new_example();
    tc_error error;
    char share[160];
    const char *extra[] = {"--store", store_path, NULL};
    processes[0] = spawn(extra);
    ids[0] = expect(TC_HUB_WORKER_UP).worker;
    snprintf(share, sizeof share, "%s/%s-p1-0", arenas, info->content_hash);
    assert_int_equal(truncate(share, 4096), 0);
    make_example(s, layer_with_experts(), TC_FAST, TOKENS_MAX);
    must(tc_expert_hub_call(hub, ids[0], 1, &s->call, &error), &error);
    expect(TC_HUB_WORKER_DOWN);
    assert_int_equal(exit_code(processes[0]), 3);
    processes[0] = spawn(extra);
    ids[0] = expect(TC_HUB_WORKER_UP).worker;
    expect_the_sum(s, 2);
    stop_workers(1);
    free_example(s);
}

// A supervisor that dies takes its workers with it.
static void orphans_end(void **state)
{
    pid_t parent = fork();
    if (parent == 0) {
        const char *extra[] = {"--store", store_path, NULL};
        spawn(extra);
        sleep(30);
        _exit(0);
    }
    expect(TC_HUB_WORKER_UP);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    assert_string_equal(expect(TC_HUB_WORKER_DOWN).reason, "said goodbye");
}

// ---- set-up ----
static int set_up(void **state)
{
    tc_error error;
    tc_checkpoint *checkpoint;
    snprintf(directory, sizeof directory, "/tmp/tc-contract-XXXXXX");
    if (!mkdtemp(directory)) return -1;
    snprintf(arenas, sizeof arenas, "/dev/shm/tc-contract-XXXXXX");
    if (!mkdtemp(arenas)) return -1;
    snprintf(url, sizeof url, "ipc://%s/hub", directory);
    tc_pack_options pack = {.cache_dir = directory};
    tc_team_options one = {.threads = 1};
    must(tc_checkpoint_open(checkpoint_dir, &checkpoint, &error), &error);
    must(tc_store_pack(checkpoint, &pack, store_path, &error), &error);
    tc_checkpoint_free(checkpoint);
    must(tc_store_open(store_path, &store, &error), &error);
    info = tc_store_get_info(store);
    must(tc_team_create(&one, &team, &error), &error);
    must(tc_ffn_create(store, team, TOKENS_MAX, NULL, &ffn, &error), &error);
    must(tc_expert_hub_open(url, info->model_hash, &hub, &error), &error);
    return 0;
}

static int tear_down(void **state)
{
    char command[160];
    tc_expert_hub_close(hub);
    tc_ffn_free(ffn);
    tc_team_free(team);
    tc_store_free(store);
    snprintf(command, sizeof command, "rm -rf %s %s", directory, arenas);
    return system(command);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits),           cmocka_unit_test(any_worker_takes_any_call),
        cmocka_unit_test(nonsense_is_refused), cmocka_unit_test(faults_are_seen),
        cmocka_unit_test(exit_codes),          cmocka_unit_test(told_to_stop_before_a_hub_is_there),
        cmocka_unit_test(store_cut_short),     cmocka_unit_test(arena_cut_short),
        cmocka_unit_test(orphans_end),
    };
    if (argc < 3) return 2;
    program = argv[1];
    checkpoint_dir = argv[2];
    if (argc > 3) cmocka_set_test_filter(argv[3]);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
