// SPDX-License-Identifier: Apache-2.0
// Checks the shared-memory carrier: both ends in one process first (limits, order of calls, every field a
// peer can lie about), then threads and processes (payloads, sleepers, aborts, killed peers).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "proto/segment.h"
#include "proto/shm.h"

enum { TOKENS = 8, HIDDEN = 96, PAIRS = 40, LONG_US = 20000000 };

static const tc_shm_options usual = {.tokens_max = TOKENS, .hidden = HIDDEN, .pairs_max = PAIRS};

// ---- a pair of handles on one mapping ----

typedef struct ends {
    tc_shm *hub, *worker;
    char *memory;
    size_t bytes;
} ends;

static ends open_ends(const tc_shm_options *options)
{
    ends n;
    tc_error e;
    assert_int_equal(tc_shm_create(options, &n.hub, &e), TC_OK);
    n.memory = tc_shm_memory(n.hub, &n.bytes);
    assert_int_equal(tc_shm_attach(n.memory, n.bytes, options, &n.worker, &e), TC_OK);
    return n;
}

static void close_ends(ends *n)
{
    tc_shm_close(n->worker);
    tc_shm_close(n->hub);
}

static const float some_x[TOKENS * HIDDEN] = {1.5f};
static const tc_expert_pair some_pairs[] = {{3, 0, 0.25f}, {3, 1, 0.5f}, {7, 0, 1.0f}};
static tc_expert_call some_call(void)
{
    return (tc_expert_call){.layer = 2,
                            .unit_begin = 1,
                            .unit_end = 4,
                            .precision = TC_FAST,
                            .tokens = 2,
                            .hidden = HIDDEN,
                            .x = some_x,
                            .pair_count = 3,
                            .pairs = some_pairs};
}

// ---- creation ----

static void sizes_have_limits(void **state)
{
    static const struct {
        tc_shm_options options;
        tc_status expected;
    } cases[] = {
        {{1, 1, 1, NULL}, TC_OK},
        {{TC_CALL_TOKENS_MAX, 8, 8, NULL}, TC_OK},
        {{TC_CALL_TOKENS_MAX + 1, 8, 8, NULL}, TC_LIMIT},
        {{0, 8, 8, NULL}, TC_LIMIT},
        {{1, TC_HIDDEN_MAX, 8, NULL}, TC_OK},
        {{1, TC_HIDDEN_MAX + 1, 8, NULL}, TC_LIMIT},
        {{1, 0, 8, NULL}, TC_LIMIT},
        {{1, 8, TC_SHM_PAIRS_MAX, NULL}, TC_OK},
        {{1, 8, TC_SHM_PAIRS_MAX + 1, NULL}, TC_LIMIT},
        {{1, 8, 0, NULL}, TC_LIMIT},
        {{UINT32_MAX, UINT32_MAX, UINT32_MAX, NULL}, TC_LIMIT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tc_shm *hub = NULL;
        tc_error e;
        size_t bytes = 0;
        assert_int_equal(tc_shm_create(&cases[i].options, &hub, &e), cases[i].expected);
        assert_int_equal(tc_shm_size(&cases[i].options, &bytes, &e), cases[i].expected);
        assert_int_equal(hub != NULL, cases[i].expected == TC_OK);
        assert_int_equal(bytes % TC_SHM_PAGE_BYTES, 0);
        tc_shm_close(hub);
    }
    tc_shm_close(NULL);
    tc_bell_close(NULL);
}

static void only_the_announced_segment_opens(void **state)
{
    tc_error e;
    tc_shm *hub, *worker = NULL;
    tc_bell *bell, *other = NULL;
    assert_int_equal(tc_shm_create(&usual, &hub, &e), TC_OK);
    assert_int_equal(tc_bell_create(&bell, &e), TC_OK);
    char good[TC_SEGMENT_NAME_BYTES], bad[2 * TC_SEGMENT_NAME_BYTES];
    snprintf(good, sizeof good, "%s", tc_shm_name(hub));

    static const char *const names[] = {"",
                                        "/",
                                        "/etc/passwd",
                                        "/thermocline-shm-",
                                        "/thermocline-shm-00",
                                        "/thermocline--00112233445566778899aabbccddeeff",
                                        "/thermocline-shm-00112233445566778899aabbccddeefg",
                                        "/thermocline-shm-../../../../../../../../etc/xx",
                                        "thermocline-shm-00112233445566778899aabbccddeeff"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(tc_shm_open(names[i], &usual, &worker, &e), TC_PEER);
    snprintf(bad, sizeof bad, "%s0", good);
    assert_int_equal(tc_shm_open(bad, &usual, &worker, &e), TC_PEER);
    assert_int_equal(tc_shm_open(tc_bell_name(bell), &usual, &worker, &e), TC_PEER);
    assert_int_equal(tc_bell_open(good, &other, &e), TC_PEER);
    snprintf(bad, sizeof bad, "%s", good);
    bad[strlen(bad) - 1] = (char)(bad[strlen(bad) - 1] == '0' ? '1' : '0');
    assert_int_equal(tc_shm_open(bad, &usual, &worker, &e), TC_NOT_FOUND);
    assert_null(worker);
    assert_null(other);

    assert_int_equal(tc_shm_open(good, &usual, &worker, &e), TC_OK);
    tc_shm_close(worker);
    tc_shm_unlink(hub);
    assert_int_equal(tc_shm_open(good, &usual, &worker, &e), TC_NOT_FOUND);
    assert_int_equal(tc_bell_open(tc_bell_name(bell), &other, &e), TC_OK);
    tc_bell_close(other);
    snprintf(good, sizeof good, "%s", tc_bell_name(bell));
    tc_bell_close(bell);
    assert_int_equal(tc_bell_open(good, &other, &e), TC_NOT_FOUND);
    tc_shm_close(hub);
}

// The file behind the name is not as announced: size, mode, allocation.
static void a_wrong_file_is_refused(void **state)
{
    tc_error e;
    size_t bytes;
    assert_int_equal(tc_shm_size(&usual, &bytes, &e), TC_OK);
    static const struct {
        int size_off;
        mode_t mode;
        bool allocated;
    } cases[] = {{-1, 0600, true}, {1, 0600, true}, {0, 0640, true}, {0, 0602, true}, {0, 0600, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[TC_SEGMENT_NAME_BYTES];
        snprintf(name, sizeof name, "/thermocline-shm-%032x", (unsigned)getpid());
        tc_shm *worker = NULL;
        int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        assert_true(fd >= 0);
        assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0); // no other test's sweep takes it for an orphan
        off_t size = (off_t)bytes + cases[i].size_off;
        assert_int_equal(cases[i].allocated ? posix_fallocate(fd, 0, size) : ftruncate(fd, size), 0);
        assert_int_equal(fchmod(fd, cases[i].mode), 0);
        assert_int_equal(tc_shm_open(name, &usual, &worker, &e), TC_PEER);
        assert_null(worker);
        close(fd);
        shm_unlink(name);
    }
}

static size_t resident_bytes(char *memory, size_t bytes)
{
    size_t pages = bytes / 4096, count = 0;
    unsigned char *there = malloc(pages);
    assert_int_equal(mincore(memory, pages * 4096, there), 0);
    for (size_t i = 0; i < pages; i++) count += there[i] & 1;
    free(there);
    return count * 4096;
}

// A segment for the largest call holds memory for those that came.
static void memory_grows_with_the_calls(void **state)
{
    const uint32_t hidden = 2048, pair_bytes = 1 << 20;
    tc_shm_options large = {.tokens_max = TC_CALL_TOKENS_MAX, .hidden = hidden, .pairs_max = 64};
    ends n = open_ends(&large);
    tc_error e;
    float *x = calloc((size_t)TC_CALL_TOKENS_MAX * hidden, sizeof *x);
    uint64_t seq = 0, taken;
    static const uint32_t tokens[] = {1, 64, 65, TC_CALL_TOKENS_MAX, 1};
    static const uint32_t held[] = {64, 64, 128, TC_CALL_TOKENS_MAX, TC_CALL_TOKENS_MAX};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        tc_expert_call call = {.unit_end = 1, .tokens = tokens[i], .hidden = hidden, .x = x}, got;
        tc_shm_answer answer;
        assert_int_equal(tc_shm_post(n.hub, ++seq, &call, &e), TC_OK);
        assert_int_equal(tc_shm_take(n.worker, &taken, &got, &e), TC_OK);
        memset(tc_shm_sum(n.worker), 0, (size_t)tokens[i] * hidden * sizeof(int64_t));
        assert_int_equal(tc_shm_reply(n.worker, seq, TC_OK, 0, NULL, &e), TC_OK);
        assert_int_equal(tc_shm_poll_reply(n.hub, seq, &answer, &e), TC_OK);
        size_t payload = (size_t)held[i] * hidden * 12, is = resident_bytes(n.memory, n.bytes);
        assert_true(is >= payload && is < payload + pair_bytes);
    }
    free(x);
    close_ends(&n);
}

static void every_header_field_must_agree(void **state)
{
    ends n = open_ends(&usual);
    tc_error e;
    tc_shm *worker = NULL;
    for (size_t at = 0; at < sizeof(tc_shm_header); at++) {
        n.memory[at] ^= 0x10;
        assert_int_equal(tc_shm_attach(n.memory, n.bytes, &usual, &worker, &e), TC_PEER);
        n.memory[at] ^= 0x10;
    }
    assert_int_equal(tc_shm_attach(n.memory + 64, n.bytes, &usual, &worker, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_attach(n.memory, n.bytes - 1, &usual, &worker, &e), TC_ARGUMENT);
    tc_shm_options other = usual; // the same number of bytes, another shape
    other.pairs_max--;
    assert_int_equal(tc_shm_attach(n.memory, n.bytes, &other, &worker, &e), TC_PEER);
    assert_null(worker);
    close_ends(&n);
}

static void orphans_are_swept(void **state)
{
    tc_error e;
    tc_shm *hub, *worker;
    assert_int_equal(tc_shm_create(&usual, &hub, &e), TC_OK);
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        tc_bell *bell;
        if (tc_bell_create(&bell, &e) != TC_OK) _exit(1);
        _exit(write(fds[1], tc_bell_name(bell), TC_SEGMENT_NAME_BYTES) != TC_SEGMENT_NAME_BYTES);
    }
    int how;
    char name[TC_SEGMENT_NAME_BYTES];
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_int_equal(how, 0);
    assert_int_equal(read(fds[0], name, sizeof name), sizeof name);
    assert_true(tc_segment_sweep() >= 1);
    tc_bell *bell;
    assert_int_equal(tc_bell_open(name, &bell, &e), TC_NOT_FOUND);
    assert_int_equal(tc_shm_open(tc_shm_name(hub), &usual, &worker, &e), TC_OK); // its maker lives
    tc_shm_close(worker);
    tc_shm_close(hub);
    close(fds[0]);
    close(fds[1]);
}

// ---- one call after another ----

static void calls_go_round(void **state)
{
    ends n = open_ends(&usual);
    tc_error e;
    tc_expert_call call = some_call(), taken;
    tc_shm_answer answer;
    uint64_t seq = 99;
    assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_TIMEOUT);
    assert_int_equal(tc_shm_wait_request(n.worker, 0, 0), TC_TIMEOUT);
    assert_int_equal(tc_shm_wait_request(n.worker, 10, 1000), TC_TIMEOUT);
    assert_int_equal(tc_shm_poll_reply(n.hub, 1, &answer, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_reply(n.worker, 0, TC_OK, 0, NULL, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_post(n.hub, 0, &call, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_post(n.worker, 5, &call, &e), TC_ARGUMENT); // the wrong side
    assert_int_equal(tc_shm_take(n.hub, &seq, &taken, &e), TC_ARGUMENT);
    assert_int_equal(seq, 99);

    assert_int_equal(tc_shm_post(n.hub, 5, &call, &e), TC_OK);
    assert_int_equal(tc_shm_post(n.hub, 6, &call, &e), TC_BUSY);
    assert_int_equal(tc_shm_poll_reply(n.hub, 5, &answer, &e), TC_TIMEOUT);
    assert_int_equal(tc_shm_poll_reply(n.hub, 4, &answer, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_wait_request(n.worker, 0, 0), TC_OK);
    assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
    assert_int_equal(seq, 5);
    assert_int_equal(taken.layer, 2);
    assert_int_equal(taken.unit_begin, 1);
    assert_int_equal(taken.unit_end, 4);
    assert_int_equal(taken.precision, TC_FAST);
    assert_int_equal(taken.tokens, 2);
    assert_int_equal(taken.hidden, HIDDEN);
    assert_int_equal(taken.pair_count, 3);
    assert_memory_equal(taken.x, some_x, 2 * HIDDEN * sizeof(float));
    assert_memory_equal(taken.pairs, some_pairs, sizeof some_pairs);
    assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_BUSY);
    assert_int_equal(tc_shm_reply(n.worker, 6, TC_OK, 0, NULL, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_reply(n.worker, 5, TC_STATUS_COUNT, 0, NULL, &e), TC_ARGUMENT);
    assert_false(tc_shm_answered(n.hub));
    for (int i = 0; i < 2 * HIDDEN; i++) tc_shm_sum(n.worker)[i] = -i;
    assert_int_equal(tc_shm_reply(n.worker, 5, TC_OK, 77, "not sent", &e), TC_OK);
    assert_int_equal(tc_shm_reply(n.worker, 5, TC_OK, 77, NULL, &e), TC_ARGUMENT);
    assert_true(tc_shm_answered(n.hub));
    assert_int_equal(tc_shm_poll_reply(n.hub, 5, &answer, &e), TC_OK);
    assert_false(tc_shm_answered(n.hub));
    assert_int_equal(answer.status, TC_OK);
    assert_int_equal(answer.compute_us, 77);
    assert_string_equal(answer.reason, "");
    for (int i = 0; i < 2 * HIDDEN; i++) assert_int_equal(answer.sum[i], -i);
    assert_int_equal(tc_shm_poll_reply(n.hub, 5, &answer, &e), TC_ARGUMENT);
    assert_int_equal(tc_shm_post(n.hub, 5, &call, &e), TC_ARGUMENT); // sequence numbers rise

    // A failure, its reason cut and made printable; then x written in place, and no pairs.
    char reason[1000];
    memset(reason, 'r', sizeof reason - 1);
    reason[sizeof reason - 1] = 0;
    reason[3] = '\n';
    assert_int_equal(tc_shm_post(n.hub, UINT64_MAX - 1, &call, &e), TC_OK);
    assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
    assert_int_equal(tc_shm_reply(n.worker, seq, TC_INTERNAL, 1, reason, &e), TC_OK);
    assert_int_equal(tc_shm_poll_reply(n.hub, seq, &answer, &e), TC_OK);
    assert_int_equal(answer.status, TC_INTERNAL);
    assert_null(answer.sum);
    assert_int_equal(strlen(answer.reason), TC_SHM_REASON_BYTES);
    assert_memory_equal(answer.reason, "rrr?rr", 6);
    call.x = tc_shm_x(n.hub);
    tc_shm_x(n.hub)[1] = 4.5f;
    call.pair_count = 0;
    call.pairs = NULL;
    assert_int_equal(tc_shm_post(n.hub, UINT64_MAX, &call, &e), TC_OK);
    assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
    assert_true(taken.x[1] == 4.5f);
    assert_int_equal(taken.pair_count, 0);
    close_ends(&n);
}

static void bad_calls_are_not_posted(void **state)
{
    static tc_expert_pair pairs[TC_SHM_PAIRS_MAX];
    static float x[(TOKENS + 1) * HIDDEN];
    ends n = open_ends(&usual);
    tc_error e;
    for (uint32_t i = 0; i < PAIRS + 1; i++) pairs[i] = (tc_expert_pair){i, 0, 1.0f};
    tc_expert_call good = some_call(), c;
    good.x = x;
    good.tokens = TOKENS;
    good.pairs = pairs;
    good.pair_count = PAIRS;
    uint64_t seq = 1;
#define REFUSED(change)                                                                                      \
    do {                                                                                                     \
        c = good;                                                                                            \
        change;                                                                                              \
        assert_int_equal(tc_shm_post(n.hub, seq, &c, &e), TC_ARGUMENT);                                      \
    } while (0)
    REFUSED(c.tokens = TOKENS + 1);
    REFUSED(c.tokens = 0);
    REFUSED(c.hidden = HIDDEN + 1);
    REFUSED(c.hidden = HIDDEN - 1);
    REFUSED(c.pair_count = PAIRS + 1);
    REFUSED(c.layer = TC_LAYERS_MAX);
    REFUSED(c.unit_begin = c.unit_end);
    REFUSED(c.precision = (tc_precision)3);
#undef REFUSED
    static const tc_expert_pair bad[][2] = {
        {{0, 0, 1}, {0, 0, 1}},        {{0, 1, 1}, {0, 0, 1}},
        {{1, 0, 1}, {0, 1, 1}},        {{0, 0, 1}, {TC_EXPERTS_MAX, 0, 1}},
        {{0, 0, 1}, {0, TOKENS, 1}},   {{0, 0, 1}, {0, 1, NAN}},
        {{0, 0, INFINITY}, {0, 1, 1}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        c = good;
        c.pairs = bad[i];
        c.pair_count = 2;
        assert_int_equal(tc_shm_post(n.hub, seq, &c, &e), TC_ARGUMENT);
    }
    assert_int_equal(tc_shm_post(n.hub, seq, &good, &e), TC_OK);
    close_ends(&n);
    // One token has at most TC_TOP_K_MAX pairs, whatever pairs_max allows.
    tc_shm_options wide = {.tokens_max = 2, .hidden = HIDDEN, .pairs_max = 2 * TC_TOP_K_MAX};
    for (uint32_t i = 0; i <= TC_TOP_K_MAX; i++) pairs[i] = (tc_expert_pair){i, 0, 1.0f};
    n = open_ends(&wide);
    good.tokens = 1;
    good.pair_count = TC_TOP_K_MAX + 1;
    assert_int_equal(tc_shm_post(n.hub, seq, &good, &e), TC_ARGUMENT);
    good.pair_count = TC_TOP_K_MAX;
    assert_int_equal(tc_shm_post(n.hub, seq, &good, &e), TC_OK);
    close_ends(&n);
}

// ---- peers that lie ----

static void put32(ends *n, size_t at, uint32_t value)
{
    memcpy(n->memory + at, &value, sizeof value);
}

static void put64(ends *n, size_t at, uint64_t value)
{
    memcpy(n->memory + at, &value, sizeof value);
}

#define REQUEST(field) (TC_SHM_REQUEST_AT + offsetof(tc_shm_request_record, field))
#define REPLY(field) (TC_SHM_REPLY_AT + offsetof(tc_shm_reply_record, field))

static void a_lying_hub_is_told_apart(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        const char *text;
    } lies[] = {
        {REQUEST(seq), 8, "record is of call"},
        {REQUEST(layer), TC_LAYERS_MAX, "layer"},
        {REQUEST(layer), UINT32_MAX, "layer"},
        {REQUEST(unit_begin), 4, "units"},
        {REQUEST(unit_begin), UINT32_MAX, "units"},
        {REQUEST(unit_end), 0, "units"},
        {REQUEST(precision), 3, "precision"},
        {REQUEST(precision), UINT32_MAX, "precision"},
        {REQUEST(tokens), 0, "tokens"},
        {REQUEST(tokens), TOKENS + 1, "tokens"},
        {REQUEST(tokens), UINT32_MAX, "tokens"},
        {REQUEST(tokens), 1, "does not exist"}, // a pair names token 1
        {REQUEST(hidden), HIDDEN + 1, "hidden"},
        {REQUEST(hidden), 0, "hidden"},
        {REQUEST(pair_count), PAIRS + 1, "pairs"},
        {REQUEST(pair_count), UINT32_MAX, "pairs"},
        {TC_SHM_REQUEST_FLAG_AT, 6, "after call"},
        {TC_SHM_REQUEST_FLAG_AT, 0, "after call"},
        {TC_SHM_REQUEST_FLAG_AT, 9, "record is of call"},
    };
    tc_error e;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        ends n = open_ends(&usual);
        tc_expert_call call = some_call(), taken;
        tc_shm_answer answer;
        uint64_t seq = 0;
        assert_int_equal(tc_shm_post(n.hub, 7, &call, &e), TC_OK);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
        assert_int_equal(tc_shm_reply(n.worker, 7, TC_OK, 0, NULL, &e), TC_OK);
        assert_int_equal(tc_shm_poll_reply(n.hub, 7, &answer, &e), TC_OK);
        put32(&n, REQUEST(seq), 10);
        put32(&n, TC_SHM_REQUEST_FLAG_AT, 10);
        put32(&n, lies[i].at, lies[i].value);
        assert_int_equal(tc_shm_wait_request(n.worker, 0, 0), TC_OK);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_PEER);
        assert_non_null(strstr(e.text, lies[i].text));
        assert_int_equal(seq, 7);
        close_ends(&n);
    }
}

static void lies_in_pairs_are_found_in_the_private_copy(void **state)
{
    static const tc_expert_pair bad[][2] = {
        {{0, 0, 1}, {0, 0, 1}},          {{2, 0, 1}, {1, 0, 1}},          {{0, 0, 1}, {TC_EXPERTS_MAX, 0, 1}},
        {{0, 0, 1}, {UINT32_MAX, 0, 1}}, {{0, 0, 1}, {1, UINT32_MAX, 1}}, {{0, 0, NAN}, {1, 0, 1}},
    };
    tc_error e;
    tc_expert_call call = some_call(), taken;
    uint64_t seq;
    size_t at = TC_SHM_X_AT + TC_SHM_PAGE_BYTES; // x of 8 x 96 floats fits one page
    call.pair_count = 2;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ends n = open_ends(&usual);
        assert_int_equal(tc_shm_post(n.hub, 1, &call, &e), TC_OK);
        assert_memory_equal(n.memory + at, some_pairs, 2 * sizeof some_pairs[0]);
        memcpy(n.memory + at, bad[i], sizeof bad[i]);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_PEER);
        memcpy(n.memory + at, some_pairs, 2 * sizeof some_pairs[0]);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
        memset(n.memory + at, 0xff, 2 * sizeof some_pairs[0]); // too late
        assert_memory_equal(taken.pairs, some_pairs, 2 * sizeof some_pairs[0]);
        // and a second request on top of the one that is being computed
        put64(&n, TC_SHM_REQUEST_FLAG_AT, 2);
        assert_int_equal(tc_shm_reply(n.worker, 1, TC_OK, 0, NULL, &e), TC_PEER);
        close_ends(&n);
    }
}

static void a_lying_worker_is_told_apart(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        tc_status status; // that the worker gave
        const char *text;
    } lies[] = {
        {REPLY(seq), 6, TC_OK, "record is of call"},
        {REPLY(seq) + 4, 1, TC_OK, "record is of call"},
        {REPLY(status), TC_STATUS_COUNT, TC_OK, "status"},
        {REPLY(status), UINT32_MAX, TC_OK, "status"},
        {REPLY(tokens), 1, TC_OK, "sum of"},
        {REPLY(tokens), UINT32_MAX, TC_OK, "sum of"},
        {REPLY(hidden), HIDDEN + 1, TC_OK, "sum of"},
        {REPLY(reason_bytes), 1, TC_OK, "reason"},
        {REPLY(reason_bytes), TC_SHM_REASON_BYTES + 1, TC_IO, "reason"},
        {REPLY(reason_bytes), UINT32_MAX, TC_IO, "reason"},
        {TC_SHM_REPLY_FLAG_AT, 8, TC_OK, "reply to call"},
        {TC_SHM_REPLY_FLAG_AT, 6, TC_OK, "reply to call"},
        {TC_SHM_REPLY_FLAG_AT + 4, 1, TC_OK, "reply to call"},
    };
    tc_error e;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        ends n = open_ends(&usual);
        tc_expert_call call = some_call(), taken;
        tc_shm_answer answer = {.tokens = 12345};
        uint64_t seq;
        assert_int_equal(tc_shm_post(n.hub, 7, &call, &e), TC_OK);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
        assert_int_equal(tc_shm_reply(n.worker, 7, lies[i].status, 0, "why", &e), TC_OK);
        put32(&n, lies[i].at, lies[i].value);
        assert_true(tc_shm_answered(n.hub));
        assert_int_equal(tc_shm_poll_reply(n.hub, 7, &answer, &e), TC_PEER);
        assert_non_null(strstr(e.text, lies[i].text));
        assert_int_equal(answer.tokens, 12345);
        close_ends(&n);
    }
    // An answer to nothing, before the first call and between two.
    ends n = open_ends(&usual);
    tc_expert_call call = some_call(), taken;
    tc_shm_answer answer;
    uint64_t seq;
    put64(&n, TC_SHM_REPLY_FLAG_AT, 3);
    assert_true(tc_shm_answered(n.hub));
    assert_int_equal(tc_shm_poll_reply(n.hub, 0, &answer, &e), TC_PEER);
    put64(&n, TC_SHM_REPLY_FLAG_AT, 0);
    assert_int_equal(tc_shm_post(n.hub, 7, &call, &e), TC_OK);
    assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
    assert_int_equal(tc_shm_reply(n.worker, 7, TC_OK, 0, NULL, &e), TC_OK);
    assert_int_equal(tc_shm_poll_reply(n.hub, 7, &answer, &e), TC_OK);
    put64(&n, TC_SHM_REPLY_FLAG_AT, 0);
    assert_true(tc_shm_answered(n.hub));
    assert_int_equal(tc_shm_poll_reply(n.hub, 0, &answer, &e), TC_PEER);
    close_ends(&n);
}

// ---- threads and processes ----

static uint32_t mix(uint64_t seq, uint32_t i)
{
    uint64_t v = (seq * 0x9e3779b97f4a7c15u) ^ ((uint64_t)i * 0xc2b2ae3d27d4eb4fu);
    return (uint32_t)(v >> 32) & 0xffffff; // exact as a float
}

static bool fails(uint64_t seq)
{
    return seq % 37 == 5;
}

// What the stand-in for the computation gives for value i of a call.
static int64_t expected_sum(const tc_expert_call *call, uint64_t seq, uint32_t i)
{
    int64_t v = (int64_t)call->x[i] * (call->layer + 1) + (int64_t)seq;
    if (call->pair_count) v += call->pairs[i % call->pair_count].expert;
    return v;
}

// Serves until the segment is aborted. 0, or the line where something was wrong.
static int serve(tc_shm *shm, uint64_t spin_us)
{
    for (;;) {
        tc_expert_call call;
        uint64_t seq;
        tc_error e;
        tc_status status = tc_shm_wait_request(shm, spin_us, LONG_US);
        if (status == TC_CLOSED) return 0;
        if (status != TC_OK) return __LINE__;
        status = tc_shm_take(shm, &seq, &call, &e);
        if (status == TC_CLOSED) return 0;
        if (status != TC_OK) return __LINE__;
        for (uint32_t i = 0; i < call.tokens * call.hidden; i++) {
            if (call.x[i] != (float)mix(seq, i)) return __LINE__;
            tc_shm_sum(shm)[i] = expected_sum(&call, seq, i);
        }
        if (fails(seq))
            status = tc_shm_reply(shm, seq, TC_INTERNAL, seq, "not today", &e);
        else
            status = tc_shm_reply(shm, seq, TC_OK, seq, NULL, &e);
        if (status == TC_CLOSED) return 0;
        if (status != TC_OK) return __LINE__;
    }
}

typedef struct driver {
    tc_shm *shm;
    uint64_t seq, left;
    uint32_t tokens_max, hidden, pairs_max;
    uint32_t random;
    tc_expert_call call;
    float *x;
    tc_expert_pair *pairs;
} driver;

static uint32_t roll(driver *d, uint32_t n)
{
    d->random = d->random * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)d->random * n) >> 32);
}

static void driver_open(driver *d, const tc_shm_options *options, uint64_t calls)
{
    tc_error e;
    *d = (driver){.left = calls,
                  .tokens_max = options->tokens_max,
                  .hidden = options->hidden,
                  .pairs_max = options->pairs_max,
                  .random = 12345};
    d->x = calloc((size_t)options->tokens_max * options->hidden, sizeof *d->x);
    d->pairs = calloc(options->pairs_max, sizeof *d->pairs);
    assert_int_equal(tc_shm_create(options, &d->shm, &e), TC_OK);
}

static void driver_close(driver *d)
{
    tc_shm_close(d->shm);
    free(d->x);
    free(d->pairs);
}

static tc_status driver_post(driver *d)
{
    uint32_t sized = roll(d, 8);
    uint32_t tokens = sized == 0 ? d->tokens_max : 1 + roll(d, sized == 1 ? d->tokens_max : 2);
    if (tokens > d->tokens_max) tokens = d->tokens_max;
    uint32_t pairs = roll(d, tokens * 4 + 1);
    if (sized == 0) pairs = d->tokens_max * TC_TOP_K_MAX;
    if (pairs > d->pairs_max) pairs = d->pairs_max;
    uint64_t seq = d->seq += 1 + roll(d, 3);
    for (uint32_t i = 0; i < tokens * d->hidden; i++) d->x[i] = (float)mix(seq, i);
    for (uint32_t i = 0; i < pairs; i++) d->pairs[i] = (tc_expert_pair){i / tokens, i % tokens, 0.5f};
    d->call = (tc_expert_call){.layer = roll(d, TC_LAYERS_MAX),
                               .unit_end = 1 + roll(d, 100),
                               .precision = TC_EXACT,
                               .tokens = tokens,
                               .hidden = d->hidden,
                               .x = d->x,
                               .pair_count = pairs,
                               .pairs = d->pairs};
    return tc_shm_post(d->shm, seq, &d->call, NULL);
}

// 1 when an answer was taken and was right, 0 when there is none yet, -1 when it is wrong.
static int driver_poll(driver *d)
{
    tc_shm_answer a;
    tc_status status = tc_shm_poll_reply(d->shm, d->seq, &a, NULL);
    if (status == TC_TIMEOUT) return 0;
    if (status != TC_OK || a.compute_us != d->seq || a.tokens != d->call.tokens) return -1;
    if (fails(d->seq)) return a.status == TC_INTERNAL && strcmp(a.reason, "not today") == 0 ? 1 : -1;
    if (a.status != TC_OK) return -1;
    for (uint32_t i = 0; i < a.tokens * a.hidden; i++)
        if (a.sum[i] != expected_sum(&d->call, d->seq, i)) return -1;
    return 1;
}

static bool driver_ready(void *arg)
{
    return tc_shm_answered(((driver *)arg)->shm);
}

static void drive(driver *d, tc_bell *bell, uint64_t spin_us)
{
    for (; d->left; d->left--) {
        assert_int_equal(driver_post(d), TC_OK);
        assert_int_equal(tc_bell_wait(bell, driver_ready, d, spin_us, LONG_US), TC_OK);
        assert_int_equal(driver_poll(d), 1);
    }
}

static pid_t start_process(const tc_shm_options *options, const char *name, const char *bell_name,
                           uint64_t spin_us)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    tc_shm_options own = *options;
    tc_shm *shm;
    if (tc_bell_open(bell_name, &own.bell, NULL) != TC_OK) _exit(1);
    if (tc_shm_open(name, &own, &shm, NULL) != TC_OK) _exit(2);
    int line = serve(shm, spin_us);
    if (line) fprintf(stderr, "worker process: line %d\n", line);
    _exit(line ? 3 : 0);
}

static const struct {
    tc_shm_options options;
    uint64_t hub_spin_us, worker_spin_us, calls;
} rounds[] = {
    {{.tokens_max = TOKENS, .hidden = HIDDEN, .pairs_max = PAIRS}, 50, 50, 100000},
    {{.tokens_max = 1, .hidden = 1, .pairs_max = 1}, 20, 20, 20000},
    {{.tokens_max = TOKENS, .hidden = HIDDEN, .pairs_max = PAIRS}, 0, 0, 20000},
    {{.tokens_max = 3, .hidden = 1000, .pairs_max = 3 * TC_TOP_K_MAX}, 0, 20, 5000},
    {{.tokens_max = TC_CALL_TOKENS_MAX, .hidden = 64, .pairs_max = TC_SHM_PAIRS_MAX}, 20, 0, 1000},
};

static void processes_play_ping_pong(void **state)
{
    for (size_t r = 0; r < sizeof rounds / sizeof rounds[0]; r++) {
        tc_error e;
        tc_bell *bell;
        driver d;
        driver_open(&d, &rounds[r].options, rounds[r].calls);
        assert_int_equal(tc_bell_create(&bell, &e), TC_OK);
        pid_t pid = start_process(&rounds[r].options, tc_shm_name(d.shm), tc_bell_name(bell),
                                  rounds[r].worker_spin_us);
        drive(&d, bell, rounds[r].hub_spin_us);
        tc_shm_abort(d.shm);
        int how;
        assert_int_equal(waitpid(pid, &how, 0), pid);
        assert_int_equal(how, 0);
        driver_close(&d);
        tc_bell_close(bell);
    }
}

typedef struct server {
    pthread_t thread;
    tc_shm *shm;
    uint64_t spin_us;
    int line;
} server;

static void *server_main(void *arg)
{
    server *s = arg;
    s->line = serve(s->shm, s->spin_us);
    return NULL;
}

static void start_thread(server *s, driver *d, tc_bell *bell, uint64_t spin_us)
{
    tc_error e;
    size_t bytes;
    void *memory = tc_shm_memory(d->shm, &bytes);
    tc_shm_options options = {d->tokens_max, d->hidden, d->pairs_max, bell};
    *s = (server){.spin_us = spin_us};
    assert_int_equal(tc_shm_attach(memory, bytes, &options, &s->shm, &e), TC_OK);
    assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

static void stop_thread(server *s, driver *d)
{
    tc_shm_abort(d->shm);
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(s->line, 0);
    tc_shm_close(s->shm);
}

static void threads_play_ping_pong(void **state)
{
    for (size_t r = 0; r < sizeof rounds / sizeof rounds[0]; r++) {
        tc_error e;
        tc_bell *bell;
        driver d;
        server s;
        driver_open(&d, &rounds[r].options, rounds[r].calls / 5);
        assert_int_equal(tc_bell_create(&bell, &e), TC_OK);
        start_thread(&s, &d, bell, rounds[r].worker_spin_us);
        drive(&d, bell, rounds[r].hub_spin_us);
        stop_thread(&s, &d);
        driver_close(&d);
        tc_bell_close(bell);
    }
}

// Several workers and another source of events on one bell: nothing is missed, though the hub sleeps at once.
enum { WORKERS = 3, CALLS_EACH = 4000, EVENTS = 4000 };

typedef struct crowd {
    driver d[WORKERS];
    tc_bell *bell;
    uint32_t events; // queue of another thread, as long as it says
    uint32_t seen;
} crowd;

static bool crowd_ready(void *arg)
{
    crowd *c = arg;
    for (int i = 0; i < WORKERS; i++)
        if (tc_shm_answered(c->d[i].shm)) return true;
    return __atomic_load_n(&c->events, __ATOMIC_RELAXED) != c->seen;
}

static void *crowd_events(void *arg)
{
    crowd *c = arg;
    for (int i = 0; i < EVENTS; i++) {
        __atomic_fetch_add(&c->events, 1, __ATOMIC_RELAXED);
        tc_bell_ring(c->bell);
        uint64_t end = tc_now_ns() + 20000;
        while (tc_now_ns() < end && i % 8 == 0) {
        }
    }
    return NULL;
}

static void one_bell_rings_for_all(void **state)
{
    static crowd c;
    server s[WORKERS];
    pthread_t other;
    tc_error e;
    uint32_t left = WORKERS * CALLS_EACH;
    assert_int_equal(tc_bell_create(&c.bell, &e), TC_OK);
    for (int i = 0; i < WORKERS; i++) {
        driver_open(&c.d[i], &usual, CALLS_EACH);
        start_thread(&s[i], &c.d[i], c.bell, 0);
        assert_int_equal(driver_post(&c.d[i]), TC_OK);
    }
    assert_int_equal(pthread_create(&other, NULL, crowd_events, &c), 0);
    while (left || c.seen < EVENTS) {
        assert_int_equal(tc_bell_wait(c.bell, crowd_ready, &c, 0, LONG_US), TC_OK);
        c.seen = __atomic_load_n(&c.events, __ATOMIC_RELAXED);
        for (int i = 0; i < WORKERS; i++) {
            if (!tc_shm_answered(c.d[i].shm)) continue;
            assert_int_equal(driver_poll(&c.d[i]), 1);
            left--;
            if (--c.d[i].left) assert_int_equal(driver_post(&c.d[i]), TC_OK);
        }
    }
    assert_int_equal(pthread_join(other, NULL), 0);
    for (int i = 0; i < WORKERS; i++) {
        stop_thread(&s[i], &c.d[i]);
        driver_close(&c.d[i]);
    }
    tc_bell_close(c.bell);
}

// ---- ends ----

typedef struct sleeper {
    pthread_t thread;
    tc_shm *shm;
    tc_bell *bell; // the hub's sleep; NULL: the worker's
    tc_status status;
    uint64_t spent_us;
} sleeper;

static bool shm_ready(void *arg)
{
    return tc_shm_answered(arg);
}

static void *sleeper_main(void *arg)
{
    sleeper *s = arg;
    uint64_t start = tc_now_us();
    if (s->bell)
        s->status = tc_bell_wait(s->bell, shm_ready, s->shm, 0, LONG_US);
    else
        s->status = tc_shm_wait_request(s->shm, 0, LONG_US);
    s->spent_us = tc_now_us() - start;
    return NULL;
}

static void start_sleeper(sleeper *s)
{
    assert_int_equal(pthread_create(&s->thread, NULL, sleeper_main, s), 0);
    usleep(20000);
}

static void join_sleeper(sleeper *s, tc_status expected)
{
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(s->status, expected);
    assert_true(s->spent_us < LONG_US / 2);
}

static void abort_wakes_sleepers(void **state)
{
    for (int by_hub = 0; by_hub < 2; by_hub++) {
        tc_error e;
        tc_shm_options options = usual;
        tc_expert_call call = some_call(), taken;
        tc_shm_answer answer;
        uint64_t seq;
        assert_int_equal(tc_bell_create(&options.bell, &e), TC_OK);
        ends n = open_ends(&options);
        sleeper worker = {.shm = n.worker}, hub = {.shm = n.hub, .bell = options.bell};
        start_sleeper(&worker);
        start_sleeper(&hub);
        assert_false(tc_shm_aborted(n.hub));
        tc_shm_abort(by_hub ? n.hub : n.worker);
        join_sleeper(&worker, TC_CLOSED);
        join_sleeper(&hub, TC_OK);
        assert_true(tc_shm_aborted(n.hub) && tc_shm_aborted(n.worker));
        assert_int_equal(tc_shm_post(n.hub, 1, &call, &e), TC_CLOSED);
        assert_int_equal(tc_shm_poll_reply(n.hub, 1, &answer, &e), TC_CLOSED);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_CLOSED);
        assert_int_equal(tc_shm_reply(n.worker, 1, TC_OK, 0, NULL, &e), TC_CLOSED);
        assert_int_equal(tc_shm_wait_request(n.worker, 0, UINT64_MAX), TC_CLOSED);
        close_ends(&n);
        tc_bell_close(options.bell);
    }
}

static void interrupt_ends_one_wait(void **state)
{
    ends n = open_ends(&usual);
    sleeper worker = {.shm = n.worker};
    start_sleeper(&worker);
    tc_shm_nudge(n.hub); // not an end: the worker spins, and sleeps again
    usleep(10000);
    tc_shm_interrupt(n.worker);
    join_sleeper(&worker, TC_CANCELLED);
    assert_int_equal(tc_shm_wait_request(n.worker, 0, 1000), TC_TIMEOUT);
    tc_shm_interrupt(n.worker);
    assert_int_equal(tc_shm_wait_request(n.worker, 0, UINT64_MAX), TC_CANCELLED);
    close_ends(&n);
}

// Whoever lent the segment may be held up until the device, which cannot ring, has its answer.
static void a_lent_segment_is_looked_at_without_bell(void **state)
{
    for (int asleep = 0; asleep < 2; asleep++) {
        tc_error e;
        ends n = open_ends(&usual);
        sleeper worker = {.shm = n.worker};
        if (asleep) start_sleeper(&worker);
        assert_int_equal(tc_shm_lend(n.hub, 1, 0, &e), TC_OK);
        if (!asleep) start_sleeper(&worker);
        usleep(20000); // it has long looked, and waits on
        __atomic_store_n((uint64_t *)(void *)(n.memory + TC_SHM_REQUEST_FLAG_AT), 1, __ATOMIC_RELEASE);
        join_sleeper(&worker, TC_OK);
        close_ends(&n);
    }
}

static void a_segment_is_lent_until_it_is_reclaimed(void **state)
{
    tc_error e;
    ends n = open_ends(&usual);
    const uint32_t *lent = (const uint32_t *)(const void *)(n.memory + TC_SHM_LENT_AT);
    assert_int_equal(*lent, 0);
    assert_int_equal(tc_shm_lend(n.hub, 1, 0, &e), TC_OK);
    assert_int_equal(*lent, 1);
    uint64_t start = tc_now_us();
    assert_int_equal(tc_shm_wait_request(n.worker, 0, 5000), TC_TIMEOUT); // turns end in time
    uint64_t spent = tc_now_us() - start;
    assert_true(spent >= 5000 && spent < 5000000);
    assert_int_equal(tc_shm_reclaim(n.hub, 1, &e), TC_OK);
    assert_int_equal(*lent, 0);
    close_ends(&n);
}

// A worker killed while it computes, and one killed while it sleeps: the hub's wait ends in time.
static void a_killed_worker_is_a_timeout(void **state)
{
    for (int computing = 0; computing < 2; computing++) {
        tc_error e;
        tc_shm_options options = usual;
        assert_int_equal(tc_bell_create(&options.bell, &e), TC_OK);
        ends n = open_ends(&options);
        pid_t pid = fork();
        if (pid == 0) {
            if (!computing) (void)tc_shm_wait_request(n.worker, 0, UINT64_MAX);
            for (;;) pause();
        }
        usleep(20000);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        tc_expert_call call = some_call();
        tc_shm_answer answer;
        assert_int_equal(tc_shm_post(n.hub, 1, &call, &e), TC_OK);
        uint64_t start = tc_now_us();
        assert_int_equal(tc_bell_wait(options.bell, shm_ready, n.hub, 10, 50000), TC_TIMEOUT);
        uint64_t spent = tc_now_us() - start;
        assert_true(spent >= 50000 && spent < 5000000);
        assert_int_equal(tc_shm_poll_reply(n.hub, 1, &answer, &e), TC_TIMEOUT);
        tc_shm_abort(n.hub);
        close_ends(&n);
        tc_bell_close(options.bell);
    }
}

// The decode step allocates nothing.
static void calls_allocate_nothing(void **state)
{
    ends n = open_ends(&usual);
    tc_error e;
    tc_expert_call call = some_call(), taken;
    tc_shm_answer answer;
    uint64_t seq;
    tc_mem_guard_begin();
    for (uint64_t i = 1; i < 100; i++) {
        assert_int_equal(tc_shm_post(n.hub, i, &call, &e), TC_OK);
        assert_int_equal(tc_shm_wait_request(n.worker, 0, 1), TC_OK);
        assert_int_equal(tc_shm_take(n.worker, &seq, &taken, &e), TC_OK);
        assert_int_equal(tc_shm_reply(n.worker, seq, TC_OK, 0, NULL, &e), TC_OK);
        assert_int_equal(tc_shm_poll_reply(n.hub, i, &answer, &e), TC_OK);
    }
    assert_int_equal(tc_mem_guard_end(), 0);
    close_ends(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_limits),
        cmocka_unit_test(only_the_announced_segment_opens),
        cmocka_unit_test(a_wrong_file_is_refused),
        cmocka_unit_test(every_header_field_must_agree),
        cmocka_unit_test(memory_grows_with_the_calls),
        cmocka_unit_test(orphans_are_swept),
        cmocka_unit_test(calls_go_round),
        cmocka_unit_test(bad_calls_are_not_posted),
        cmocka_unit_test(a_lying_hub_is_told_apart),
        cmocka_unit_test(lies_in_pairs_are_found_in_the_private_copy),
        cmocka_unit_test(a_lying_worker_is_told_apart),
        cmocka_unit_test(processes_play_ping_pong),
        cmocka_unit_test(threads_play_ping_pong),
        cmocka_unit_test(one_bell_rings_for_all),
        cmocka_unit_test(abort_wakes_sleepers),
        cmocka_unit_test(interrupt_ends_one_wait),
        cmocka_unit_test(a_lent_segment_is_looked_at_without_bell),
        cmocka_unit_test(a_segment_is_lent_until_it_is_reclaimed),
        cmocka_unit_test(a_killed_worker_is_a_timeout),
        cmocka_unit_test(calls_allocate_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
