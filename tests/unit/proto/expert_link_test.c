// SPDX-License-Identifier: Apache-2.0
// Hub and workers over real ipc sockets, once with every call in messages and once with shared memory on
// offer: who is taken in, what happens to liars, and that nobody waits for the dead.
#include "common.h"
#include "common/kernels/ffn.h"
#include "proto/expert_wire.h"
#include "proto/link.h"
#include "proto/shm.h"
#include "proto/shm_layout.h"
#include <poll.h>
#include <pthread.h>

static tc_carrier carrier; // of this run
static tc_expert_offer shared = {.tokens_max = 4, .hidden = 16, .pairs_max = 64};

static tc_worker_hello hello_of(const char *hash)
{
    tc_worker_hello hello = {
        .protocol_version = TC_EXPERT_PROTOCOL_VERSION, .index = 0, .of = 1, .threads = 1, .pid = getpid()};
    memcpy(hello.model_hash, hash, 33);
    return hello;
}

static tc_expert_hub *open_hub(const char *url)
{
    tc_expert_hub *hub = NULL;
    tc_error error;
    if (tc_expert_hub_open(url, HASH_A, &hub, &error) != TC_OK) fail_msg("%s", error.text);
    if (carrier == TC_CARRIER_SHM &&
        tc_expert_hub_share(hub, shared.tokens_max, shared.hidden, shared.pairs_max, &error) != TC_OK)
        fail_msg("%s", error.text);
    return hub;
}

static tc_expert_peer *open_peer(const char *url)
{
    tc_expert_peer *peer = NULL;
    tc_worker_hello hello = hello_of(HASH_A);
    assert_int_equal(tc_expert_peer_open(url, NULL, &hello, &peer, NULL), TC_OK);
    return peer;
}

static tc_hub_event hub_expect(tc_expert_hub *hub, tc_hub_event_kind kind)
{
    tc_hub_event event;
    assert_int_equal(tc_expert_hub_next(hub, WAIT_US, &event), TC_OK);
    if (event.kind != kind) fail_msg("event %d, not %d: %s", event.kind, kind, event.reason);
    return event;
}

static tc_peer_event peer_expect(tc_expert_peer *peer, tc_peer_event_kind kind)
{
    tc_peer_event event;
    assert_int_equal(tc_expert_peer_next(peer, WAIT_US, &event), TC_OK);
    if (event.kind != kind) fail_msg("event %d, not %d: %s", event.kind, kind, event.reason);
    return event;
}

// Lets both ends run until the worker is taken in.
static tc_hub_event meet(tc_expert_hub *hub, tc_expert_peer *peer)
{
    uint64_t deadline_us = tc_now_us() + WAIT_US;
    tc_hub_event up;
    tc_peer_event event;
    tc_status status;
    do {
        status = tc_expert_peer_next(peer, 0, &event); // it may have dialled before anyone listened
        if (status != TC_OK || event.kind != TC_PEER_UNREACHABLE) assert_int_equal(status, TC_TIMEOUT);
        status = tc_expert_hub_next(hub, 5000, &up);
    } while (status == TC_TIMEOUT && tc_now_us() < deadline_us);
    assert_int_equal(status, TC_OK);
    assert_int_equal(up.kind, TC_HUB_WORKER_UP);
    assert_string_equal(up.reason, "");
    event = peer_expect(peer, TC_PEER_WELCOME);
    assert_int_equal(event.carrier, carrier);
    assert_string_equal(event.reason, "");
    if (carrier == TC_CARRIER_SHM) {
        tc_hub_event answer = hub_expect(hub, TC_HUB_CARRIER);
        assert_int_equal(answer.carrier, TC_CARRIER_SHM);
        assert_int_equal(answer.worker, up.worker);
    }
    return up;
}

static void no_hub_event(tc_expert_hub *hub, uint64_t wait_us)
{
    tc_hub_event event;
    assert_int_equal(tc_expert_hub_next(hub, wait_us, &event), TC_TIMEOUT);
}

// One call there and back: x[i] = i comes home as sum[i] = i * 2^32 + pairs.
static void round_trip(tc_expert_hub *hub, uint32_t worker, tc_expert_peer *peer, uint32_t tokens,
                       uint32_t hidden, uint32_t pair_count)
{
    size_t n = (size_t)tokens * hidden;
    float *x = malloc(n * sizeof *x);
    tc_expert_pair *pairs = calloc(pair_count + 1, sizeof *pairs);
    for (size_t i = 0; i < n; i++) x[i] = (float)(i % 65521);
    for (uint32_t i = 0; i < pair_count; i++) pairs[i] = (tc_expert_pair){i / tokens, i % tokens, 0.5f};
    tc_expert_call call = {.layer = 1,
                           .unit_end = 8,
                           .precision = TC_EXACT,
                           .tokens = tokens,
                           .hidden = hidden,
                           .x = x,
                           .pair_count = pair_count,
                           .pairs = pairs};
    static uint64_t seq = 1000;
    seq++;
    assert_int_equal(tc_expert_hub_call(hub, worker, seq, &call, NULL), TC_OK);
    assert_int_equal(tc_expert_hub_call(hub, worker, seq + 1, &call, NULL), TC_BUSY);

    bool fits = hidden == shared.hidden && tokens <= shared.tokens_max && pair_count <= shared.pairs_max;
    tc_carrier expected = fits ? carrier : TC_CARRIER_NNG;
    tc_peer_event taken = peer_expect(peer, TC_PEER_CALL);
    assert_int_equal(taken.carrier, expected);
    assert_int_equal(taken.seq, seq);
    assert_int_equal(taken.call.unit_end, 8);
    assert_int_equal(taken.call.precision, TC_EXACT);
    assert_memory_equal(taken.call.x, x, n * sizeof *x);
    assert_memory_equal(taken.call.pairs, pairs, pair_count * sizeof *pairs);
    int64_t *sum = tc_expert_peer_sum(peer, tokens, hidden, NULL);
    assert_non_null(sum);
    assert_int_equal((uintptr_t)sum % 8, 0);
    for (size_t i = 0; i < n; i++) sum[i] = ((int64_t)taken.call.x[i] << 32) + pair_count;
    assert_int_equal(tc_expert_peer_reply(peer, seq, 123, NULL), TC_OK);

    tc_hub_event result = hub_expect(hub, TC_HUB_RESULT);
    assert_int_equal(result.worker, worker);
    assert_int_equal(result.seq, seq);
    assert_int_equal(result.compute_us, 123);
    assert_int_equal(result.carrier, expected);
    assert_int_equal((uintptr_t)result.sum % 8, 0);
    for (size_t i = 0; i < n; i++)
        if (result.sum[i] != ((int64_t)(i % 65521) << 32) + pair_count) fail_msg("sum[%zu] is wrong", i);
    free(x);
    free(pairs);
}

static void calls_of_all_sizes(void **state)
{
    const tc_expert_offer before = shared;
    shared =
        (tc_expert_offer){.tokens_max = TC_CALL_TOKENS_MAX, .hidden = 2048, .pairs_max = TC_SHM_PAIRS_MAX};
    const char *url = fresh_url();
    tc_expert_peer *peer = open_peer(url); // dials before anyone listens
    tc_expert_hub *hub = open_hub(url);
    tc_hub_event up = meet(hub, peer);
    assert_string_equal(up.hello.model_hash, HASH_A);
    assert_int_equal(up.hello.pid, getpid());
    const struct {
        uint32_t tokens, hidden, pairs;
    } cases[] = {{1, 1, 0},
                 {1, 3, 1},
                 {1, 2048, 10},
                 {3, 2048, 0},
                 {1, 2049, 10},
                 {5, 77, 300},
                 {TC_CALL_TOKENS_MAX, 2048, TC_CALL_TOKENS_MAX * TC_TOP_K_MAX},
                 {TC_CALL_TOKENS_MAX, TC_HIDDEN_MAX, 64}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        round_trip(hub, up.worker, peer, cases[i].tokens, cases[i].hidden, cases[i].pairs);
    tc_expert_peer_close(peer);
    tc_hub_event down = hub_expect(hub, TC_HUB_WORKER_DOWN);
    assert_int_equal(down.worker, up.worker);
    assert_string_equal(down.reason, "said goodbye");
    tc_expert_hub_close(hub);
    shared = before;
}

static void bad_sizes_stay_home(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    tc_expert_peer *peer = open_peer(url);
    uint32_t worker = meet(hub, peer).worker;
    float x[16] = {0};
    tc_expert_call call = {.unit_end = 1, .tokens = TC_CALL_TOKENS_MAX + 1, .hidden = 16, .x = x};
    assert_int_equal(tc_expert_hub_call(hub, worker, 1, &call, NULL), TC_ARGUMENT);
    call.tokens = 1;
    assert_int_equal(tc_expert_hub_call(hub, worker + 1, 1, &call, NULL), TC_CLOSED);
    assert_int_equal(tc_expert_hub_call(hub, 0, 1, &call, NULL), TC_CLOSED);
    assert_int_equal(tc_expert_hub_call(hub, worker, 1, &call, NULL), TC_OK);
    peer_expect(peer, TC_PEER_CALL);
    assert_int_equal(tc_expert_peer_fail(peer, 1, "cannot"), TC_OK);
    tc_hub_event failure = hub_expect(hub, TC_HUB_FAILURE);
    assert_int_equal(failure.seq, 1);
    assert_string_equal(failure.reason, "cannot");
    assert_null(tc_expert_peer_sum(peer, UINT32_MAX, UINT32_MAX, NULL));
    assert_int_equal(tc_expert_peer_reply(peer, 1, 1, NULL), TC_ARGUMENT); // no sum was begun
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

static void strangers_are_turned_away(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    for (int i = 0; i < 2; i++) {
        tc_worker_hello hello = hello_of(i == 0 ? HASH_B : HASH_A);
        tc_expert_peer *peer;
        if (i == 1) hello.protocol_version++;
        assert_int_equal(tc_expert_peer_open(url, NULL, &hello, &peer, NULL), TC_OK);
        tc_peer_event none;
        for (int j = 0; j < 20; j++) tc_expert_peer_next(peer, 5000, &none); // connects and says hello
        tc_hub_event event = hub_expect(hub, TC_HUB_REJECTED);
        assert_non_null(strstr(event.reason, i == 0 ? HASH_B : "version"));
        tc_peer_event rejected = peer_expect(peer, TC_PEER_REJECTED);
        assert_string_equal(rejected.reason, event.reason);
        no_hub_event(hub, 200000); // it does not come back
        tc_expert_peer_close(peer);
    }
    tc_expert_hub_close(hub);
}

// A worker that never answers an offer of shared memory: its calls go by message. ret_offer may be NULL.
static uint32_t raw_worker_offer(tc_expert_hub *hub, int fd, tc_expert_offer *ret_offer)
{
    tc_wire_header header;
    uint8_t frame[4096];
    tc_worker_hello hello = hello_of(HASH_A);
    assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
    raw_send_header(fd, &header, 0);
    uint32_t worker = hub_expect(hub, TC_HUB_WORKER_UP).worker;
    tc_expert_message m;
    size_t bytes = raw_receive(fd, frame, sizeof frame);
    assert_int_equal(tc_expert_unpack(frame, bytes, false, &m, NULL), TC_OK);
    assert_int_equal(m.kind, TC_EXPERT_WELCOME);
    assert_int_equal(*m.offer.segment != 0, carrier == TC_CARRIER_SHM);
    if (ret_offer) *ret_offer = m.offer;
    return worker;
}

static uint32_t raw_worker(tc_expert_hub *hub, int socket)
{
    return raw_worker_offer(hub, socket, NULL);
}

static void raw_share(int socket, bool attached, const char *reason)
{
    tc_wire_header header;
    assert_int_equal(tc_expert_pack_share(attached, reason, &header, NULL), TC_OK);
    raw_send_header(socket, &header, 0);
}

static void liars_are_cut_off(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    float x[8] = {0};
    tc_expert_call call = {.unit_end = 1, .tokens = 2, .hidden = 4, .x = x};
    for (int i = 0; i < 7; i++) {
        int socket = raw_dial(url);
        uint32_t worker = raw_worker(hub, socket);
        tc_wire_header header;
        assert_int_equal(tc_expert_hub_call(hub, worker, 7, &call, NULL), TC_OK);
        tc_worker_hello hello = hello_of(HASH_A);
        switch (i) {
        case 0:
            raw_send(socket, "garbage garbage garbage", 23);
            break;
        case 1:
            raw_send(socket, "", 0);
            break;
        case 2: // fewer bytes than it says
            tc_expert_pack_result(7, 2, 4, 1, &header, NULL);
            raw_send_header(socket, &header, 63);
            break;
        case 3: // another shape than was asked for
            tc_expert_pack_result(7, 1, 8, 1, &header, NULL);
            raw_send_header(socket, &header, 64);
            break;
        case 4:
            tc_expert_pack_hello(&hello, &header, NULL);
            raw_send_header(socket, &header, 0);
            break;
        case 5: // a message of the other direction
            tc_expert_pack_welcome(&header, NULL);
            raw_send_header(socket, &header, 0);
            break;
        case 6:
            raw_bytes(socket, "GET / HTTP/1.1\r\n\r\n", 18);
            break;
        }
        tc_hub_event down = hub_expect(hub, TC_HUB_WORKER_DOWN);
        assert_int_equal(down.worker, worker);
        assert_string_not_equal(down.reason, "connection closed"); // it says what was wrong
        assert_int_equal(tc_expert_hub_call(hub, worker, 8, &call, NULL), TC_CLOSED);
        close(socket);
    }
    int socket = raw_dial(url); // garbage instead of a hello
    raw_send(socket, "\xff\xff\xff\xff", 4);
    hub_expect(hub, TC_HUB_REJECTED);
    close(socket);
    tc_expert_hub_close(hub);
}

static void late_answers_are_dropped(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    int socket = raw_dial(url);
    tc_wire_header header;
    assert_int_equal(tc_expert_pack_result(7, 1, 1, 1, &header, NULL), TC_OK);
    raw_send_header(socket, &header, 8); // before its hello: left over from an older hub
    uint32_t worker = raw_worker(hub, socket);
    raw_send_header(socket, &header, 8); // nothing was asked
    no_hub_event(hub, 100000);
    float x = 0;
    tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 1, .x = &x};
    assert_int_equal(tc_expert_hub_call(hub, worker, 8, &call, NULL), TC_OK);
    raw_send_header(socket, &header, 8); // seq 7, not 8
    no_hub_event(hub, 100000);
    tc_expert_pack_result(8, 1, 1, 1, &header, NULL);
    raw_send_header(socket, &header, 8);
    hub_expect(hub, TC_HUB_RESULT);
    close(socket);
    tc_expert_hub_close(hub);
}

// Lengths at the limit are read, one more is not; strangers get less.
static void receive_limit(void **state)
{
    static const struct {
        bool trusted;
        uint32_t bytes;
        bool read;
    } cases[] = {{true, TC_WIRE_MESSAGE_BYTES_MAX, true},
                 {true, TC_WIRE_MESSAGE_BYTES_MAX + 1, false},
                 {true, UINT32_MAX, false},
                 {false, TC_LINK_STRANGER_BYTES_MAX, true},
                 {false, TC_LINK_STRANGER_BYTES_MAX + 1, false}};
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    uint8_t *zeros = calloc(1, TC_WIRE_MESSAGE_BYTES_MAX), byte;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = raw_dial(url);
        if (cases[i].trusted) raw_worker(hub, fd);
        raw_prefix(fd, cases[i].bytes);
        if (cases[i].read) raw_bytes(fd, zeros, cases[i].bytes);
        tc_hub_event event = {0};
        if (cases[i].trusted) {
            event = hub_expect(hub, TC_HUB_WORKER_DOWN);
        } else if (cases[i].read) {
            event = hub_expect(hub, TC_HUB_REJECTED);
        }
        // Read and found malformed, against never read at all.
        if (event.reason[0]) assert_non_null(strstr(event.reason, cases[i].read ? "header" : "size limit"));
        assert_true(recv(fd, &byte, 1, 0) <= 0); // hung up
        close(fd);
    }
    no_hub_event(hub, 0);
    free(zeros);
    tc_expert_hub_close(hub);
}

static void vanishing_worker(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    int socket = raw_dial(url);
    uint32_t worker = raw_worker(hub, socket);
    float x = 0;
    tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 1, .x = &x};
    assert_int_equal(tc_expert_hub_call(hub, worker, 1, &call, NULL), TC_OK);
    close(socket);
    uint64_t start_us = tc_now_us();
    hub_expect(hub, TC_HUB_WORKER_DOWN);
    assert_in_range(tc_now_us() - start_us, 0, 100000);
    assert_int_equal(tc_expert_hub_call(hub, worker, 2, &call, NULL), TC_CLOSED);
    tc_expert_hub_close(hub);
}

static void dropped_worker_comes_back(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    tc_expert_peer *peer = open_peer(url);
    uint32_t worker = meet(hub, peer).worker;
    tc_expert_hub_drop(hub, worker, "missed its deadline");
    tc_expert_hub_drop(hub, worker, "second reason");
    tc_hub_event down = hub_expect(hub, TC_HUB_WORKER_DOWN);
    assert_string_equal(down.reason, "missed its deadline");
    tc_expert_hub_drop(hub, worker, "long gone");
    peer_expect(peer, TC_PEER_LOST);
    uint32_t again = meet(hub, peer).worker;
    assert_int_not_equal(again, worker);
    round_trip(hub, again, peer, 1, 16, 1);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

static void hub_restart(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url), *second = NULL;
    tc_expert_peer *peer = open_peer(url);
    tc_error error;
    meet(hub, peer);
    assert_int_equal(tc_expert_hub_open(url, HASH_A, &second, &error), TC_IO); // the address is taken
    assert_non_null(strstr(error.text, url));
    tc_expert_hub_close(hub);
    peer_expect(peer, TC_PEER_LOST);
    int64_t *sum = tc_expert_peer_sum(peer, 1, 1, NULL);
    assert_non_null(sum);
    assert_int_equal(tc_expert_peer_reply(peer, 1, 1, NULL), TC_CLOSED);
    hub = open_hub(url);
    uint32_t worker = meet(hub, peer).worker;
    round_trip(hub, worker, peer, 2, 16, 1);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// A hub that was killed leaves its socket's file behind.
static void stale_socket_file(void **state)
{
    const char *url = fresh_url();
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, url + strlen("ipc://"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (void *)&address, sizeof address), 0);
    close(fd);
    tc_expert_hub_close(open_hub(url));
}

static void silent_peers_are_hung_up_on(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    int silent = raw_dial(url), half = raw_dial(url);
    uint8_t byte;
    raw_bytes(half, "TC", 2); // not even a prefix
    uint64_t start_us = tc_now_us();
    assert_int_equal(recv(silent, &byte, 1, 0), 0);
    assert_int_equal(recv(half, &byte, 1, 0), 0);
    assert_in_range(tc_now_us() - start_us, TC_LINK_SILENT_MS_MAX * 1000, WAIT_US - 1);
    no_hub_event(hub, 0); // they never were workers
    close(silent);
    close(half);
    tc_expert_hub_close(hub);
}

// Connections that end at once, from an address check to a port scan, leave the listener as it was.
static void knocking_does_no_harm(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    for (int i = 0; i < 500; i++) {
        int fd = raw_dial(url);
        if (i % 3 == 0) raw_bytes(fd, "x", 1);
        close(fd);
        if (i % 50 == 0) no_hub_event(hub, 0);
    }
    tc_expert_peer *peer = open_peer(url);
    uint32_t worker = meet(hub, peer).worker;
    round_trip(hub, worker, peer, 1, 16, 1);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

static void *flood(void *arg)
{
    int fd = *(int *)arg;
    tc_wire_header header;
    tc_expert_pack_failure(1, "flood", &header, NULL);
    for (int i = 0; i < 100000; i++) raw_send_header(fd, &header, 0);
    return NULL;
}

// Cutting a worker off while its bytes are coming in, many times over: everybody else is still served.
static void cutting_amid_data(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        int fd = raw_dial(url);
        uint32_t worker = raw_worker(hub, fd);
        pthread_create(&thread, NULL, flood, &fd);
        no_hub_event(hub, 5000);
        tc_expert_hub_drop(hub, worker, "enough");
        assert_string_equal(hub_expect(hub, TC_HUB_WORKER_DOWN).reason, "enough");
        pthread_join(thread, NULL);
        close(fd);
    }
    tc_expert_hub_close(hub);
}

// A long call right behind the welcome, before the worker has read that: it waits, and is no reason to hang
// up.
static void a_long_call_at_once(void **state)
{
    for (int i = 0; i < 20; i++) {
        const char *url = fresh_url();
        tc_expert_hub *hub = open_hub(url);
        tc_expert_peer *peer = open_peer(url);
        tc_peer_event event;
        tc_hub_event up;
        float *x = calloc(64 * 4096, sizeof *x); // 1 MiB: above what a stranger may send
        const uint64_t begin_us = tc_now_us();
        do {
            if (i % 2 == 0 || tc_now_us() - begin_us > 20000) // at once, or when the hub has long waited
                tc_expert_peer_next(peer, 0, &event);         // says hello
        } while (tc_expert_hub_next(hub, 1000, &up) != TC_OK);
        assert_int_equal(up.kind, TC_HUB_WORKER_UP);
        const tc_expert_call call = {.unit_end = 1, .tokens = 64, .hidden = 4096, .x = x};
        assert_int_equal(tc_expert_hub_call(hub, up.worker, 1, &call, NULL), TC_OK);
        usleep(5000); // it is there before the worker looks
        peer_expect(peer, TC_PEER_WELCOME);
        event = peer_expect(peer, TC_PEER_CALL);
        assert_int_equal(event.call.tokens, 64);
        free(x);
        tc_expert_peer_close(peer);
        tc_expert_hub_close(hub);
    }
}

// Messages cut into single bytes, and many in one piece, are the same messages.
static void any_cut_of_the_stream(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    int fd = raw_dial(url);
    tc_wire_header header;
    tc_worker_hello hello = hello_of(HASH_A);
    uint8_t bytes[8192], *end = bytes;
    assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
    for (int i = 0; i < 4; i++) {
        uint32_t prefix[2] = {TC_LINK_MAGIC, (uint32_t)tc_frame_bytes(header.bytes, i > 0 ? 8 : 0)};
        memcpy(end, prefix, 8);
        end = tc_frame_begin(end + 8, &header);
        if (i > 0) end = (uint8_t *)memset(end, i, 8) + 8;
        tc_expert_pack_result((uint64_t)i + 1, 1, 1, 0, &header, NULL);
    }
    uint8_t *at = bytes;
    for (; at < bytes + 30; at++) {
        raw_bytes(fd, at, 1);
        usleep(500);
    }
    raw_bytes(fd, at, (size_t)(end - at));
    uint32_t worker = hub_expect(hub, TC_HUB_WORKER_UP).worker;
    float x = 0;
    tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 1, .x = &x};
    assert_int_equal(tc_expert_hub_call(hub, worker, 3, &call, NULL),
                     TC_OK); // its answer is there already, third
    tc_hub_event result = hub_expect(hub, TC_HUB_RESULT);
    assert_int_equal(result.seq, 3);
    assert_true(*result.sum == 0x0303030303030303);
    close(fd);
    tc_expert_hub_close(hub);
}

static void many_workers(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    static int sockets[TC_WORKERS_MAX + 1];
    static uint32_t workers[TC_WORKERS_MAX];
    for (int i = 0; i < TC_WORKERS_MAX; i++) {
        sockets[i] = raw_dial(url);
        workers[i] = raw_worker(hub, sockets[i]);
        for (int j = 0; j < i; j++) assert_int_not_equal(workers[i], workers[j]);
    }
    tc_wire_header header;
    tc_worker_hello hello = hello_of(HASH_A);
    tc_expert_pack_hello(&hello, &header, NULL);
    sockets[TC_WORKERS_MAX] = raw_dial(url);
    raw_send_header(sockets[TC_WORKERS_MAX], &header, 0);
    hub_expect(hub, TC_HUB_REJECTED);
    float x = 0;
    tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 1, .x = &x};
    for (int i = 0; i < TC_WORKERS_MAX; i++)
        assert_int_equal(tc_expert_hub_call(hub, workers[i], 1, &call, NULL), TC_OK);
    tc_expert_pack_result(1, 1, 1, 1, &header, NULL);
    for (int i = 0; i < TC_WORKERS_MAX; i++) raw_send_header(sockets[i], &header, 8);
    for (int i = 0; i < TC_WORKERS_MAX; i++) hub_expect(hub, TC_HUB_RESULT);
    for (int i = 0; i <= TC_WORKERS_MAX; i++) close(sockets[i]);
    for (int i = 0; i < TC_WORKERS_MAX; i++) hub_expect(hub, TC_HUB_WORKER_DOWN);
    tc_expert_hub_close(hub);
}

static void *wake_soon(void *arg)
{
    usleep(50000);
    tc_expert_peer_wake(arg);
    return NULL;
}

static void waking_and_polling(void **state)
{
    const char *url = fresh_url();
    tc_expert_peer *peer = open_peer(url);
    tc_peer_event event;
    pthread_t thread;
    event = peer_expect(peer, TC_PEER_UNREACHABLE); // told once
    assert_true(event.reason[0] != 0);
    assert_int_equal(tc_expert_peer_next(peer, 0, &event), TC_TIMEOUT);
    pthread_create(&thread, NULL, wake_soon, peer);
    assert_int_equal(tc_expert_peer_next(peer, UINT64_MAX, &event), TC_CANCELLED);
    pthread_join(thread, NULL);
    tc_expert_peer_wake(peer); // nobody waits: the next wait ends at once, once
    assert_int_equal(tc_expert_peer_next(peer, WAIT_US, &event), TC_CANCELLED);
    assert_int_equal(tc_expert_peer_next(peer, 1000, &event), TC_TIMEOUT);

    tc_expert_hub *hub = open_hub(url);
    struct pollfd fd = {.fd = tc_expert_hub_fd(hub), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 0), 0);
    for (int i = 0; i < 1000 && poll(&fd, 1, 0) == 0; i++) tc_expert_peer_next(peer, 5000, &event);
    assert_int_equal(poll(&fd, 1, 5000), 1);
    hub_expect(hub, TC_HUB_WORKER_UP);
    no_hub_event(hub, 0);
    assert_int_equal(poll(&fd, 1, 0), 0);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
    tc_expert_hub_close(NULL);
    tc_expert_peer_close(NULL);
}

static void woken_while_connected(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    tc_expert_peer *peer = open_peer(url);
    tc_peer_event event;
    pthread_t thread;
    uint32_t worker = meet(hub, peer).worker;
    for (uint64_t spin_us = 0; spin_us < 200; spin_us += 100) {
        tc_expert_peer_spin(peer, spin_us);
        tc_expert_hub_spin(hub, spin_us);
        pthread_create(&thread, NULL, wake_soon, peer);
        assert_int_equal(tc_expert_peer_next(peer, UINT64_MAX, &event), TC_CANCELLED);
        pthread_join(thread, NULL);
        uint64_t start_us = tc_now_us();
        assert_int_equal(tc_expert_peer_next(peer, 20000, &event), TC_TIMEOUT);
        assert_in_range(tc_now_us() - start_us, 20000, 1000000);
        round_trip(hub, worker, peer, 3, 16, 5);
    }
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

static void *close_soon(void *arg)
{
    usleep(50000);
    close(*(int *)arg);
    return NULL;
}

static tc_shm *raw_attach(const tc_expert_offer *offer)
{
    const tc_shm_options options = {
        .tokens_max = offer->tokens_max, .hidden = offer->hidden, .pairs_max = offer->pairs_max};
    tc_shm *shm;
    tc_error error;
    if (tc_shm_open(offer->segment, &options, &shm, &error) != TC_OK) fail_msg("%s", error.text);
    return shm;
}

// ---- only where memory is shared ----

static void sharing_has_limits(void **state)
{
    tc_expert_hub *hub = NULL;
    assert_int_equal(tc_expert_hub_open(fresh_url(), HASH_A, &hub, NULL), TC_OK);
    assert_int_equal(tc_expert_hub_share(hub, 0, 16, 64, NULL), TC_LIMIT);
    assert_int_equal(tc_expert_hub_share(hub, TC_CALL_TOKENS_MAX + 1, 16, 64, NULL), TC_LIMIT);
    assert_int_equal(tc_expert_hub_share(hub, 4, TC_HIDDEN_MAX + 1, 64, NULL), TC_LIMIT);
    assert_int_equal(tc_expert_hub_share(hub, 4, 16, TC_SHM_PAIRS_MAX + 1, NULL), TC_LIMIT);
    assert_int_equal(tc_expert_hub_share(hub, 4, 16, 64, NULL), TC_OK);
    assert_int_equal(tc_expert_hub_share(hub, 4, 16, 64, NULL), TC_ARGUMENT);
    tc_expert_hub_close(hub);
}

// Another host, as the worker sees it: the names do not exist there.
static void worker_that_cannot_attach(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    int socket = raw_dial(url);
    tc_expert_offer offer;
    tc_wire_header header;
    tc_segment segment;
    size_t bytes;
    uint32_t worker = raw_worker_offer(hub, socket, &offer);
    assert_int_equal(offer.hidden, shared.hidden);
    raw_share(socket, false, "no such thing here");
    tc_hub_event answer = hub_expect(hub, TC_HUB_CARRIER);
    assert_int_equal(answer.carrier, TC_CARRIER_NNG);
    assert_string_equal(answer.reason, "no such thing here");
    const tc_shm_options options = {
        .tokens_max = offer.tokens_max, .hidden = offer.hidden, .pairs_max = offer.pairs_max};
    assert_int_equal(tc_shm_size(&options, &bytes, NULL), TC_OK);
    assert_int_equal(tc_segment_open("shm", offer.segment, bytes, &segment, NULL), TC_NOT_FOUND);
    float x[16] = {0};
    tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 16, .x = x};
    assert_int_equal(tc_expert_hub_call(hub, worker, 1, &call, NULL), TC_OK);
    tc_expert_pack_result(1, 1, 16, 1, &header, NULL);
    raw_send_header(socket, &header, 128);
    assert_int_equal(hub_expect(hub, TC_HUB_RESULT).carrier, TC_CARRIER_NNG);
    close(socket);
    hub_expect(hub, TC_HUB_WORKER_DOWN);
    tc_expert_hub_close(hub);
    tc_bell *bell;
    assert_int_equal(tc_bell_open(offer.bell, &bell, NULL), TC_NOT_FOUND);
}

static void liars_in_shared_memory_are_cut_off(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    float x[16] = {0};
    const tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 16, .x = x};
    enum { FLAG, SIZE, ABORT, BY_MESSAGE, FAILS_BY_MESSAGE, TWICE, CASES };
    for (int i = 0; i < CASES; i++) {
        int socket = raw_dial(url);
        tc_expert_offer offer;
        tc_wire_header header;
        tc_expert_call taken;
        uint64_t seq;
        size_t bytes;
        uint32_t worker = raw_worker_offer(hub, socket, &offer);
        tc_shm *shm = raw_attach(&offer);
        raw_share(socket, true, NULL);
        assert_int_equal(hub_expect(hub, TC_HUB_CARRIER).carrier, TC_CARRIER_SHM);
        assert_int_equal(tc_expert_hub_call(hub, worker, 7, &call, NULL), TC_OK);
        assert_int_equal(tc_shm_wait_request(shm, 0, WAIT_US), TC_OK);
        assert_int_equal(tc_shm_take(shm, &seq, &taken, NULL), TC_OK);
        char *memory = tc_shm_memory(shm, &bytes);
        tc_shm_reply_record record = {.seq = 7, .tokens = 2, .hidden = 16};
        switch (i) {
        case FLAG:
            *(uint64_t *)(void *)(memory + TC_SHM_REPLY_FLAG_AT) = 8;
            break;
        case SIZE:
            memcpy(memory + TC_SHM_REPLY_AT, &record, sizeof record);
            *(uint64_t *)(void *)(memory + TC_SHM_REPLY_FLAG_AT) = 7;
            break;
        case ABORT:
            tc_shm_abort(shm);
            break;
        case BY_MESSAGE:
            tc_expert_pack_result(7, 1, 16, 1, &header, NULL);
            raw_send_header(socket, &header, 128);
            break;
        case FAILS_BY_MESSAGE:
            tc_expert_pack_failure(7, "no", &header, NULL);
            raw_send_header(socket, &header, 0);
            break;
        case TWICE:
            raw_share(socket, true, NULL);
            break;
        }
        tc_hub_event down = hub_expect(hub, TC_HUB_WORKER_DOWN);
        assert_int_equal(down.worker, worker);
        assert_string_not_equal(down.reason, "connection closed");
        assert_true(tc_shm_aborted(shm)); // it need not wait for anything any more
        tc_shm_close(shm);
        close(socket);
    }
    tc_expert_peer *peer = open_peer(url); // the hub goes on
    round_trip(hub, meet(hub, peer).worker, peer, 1, 16, 1);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// While the hub sleeps on the bell.
static void worker_dies_in_a_call(void **state)
{
    const char *url = fresh_url();
    tc_expert_hub *hub = open_hub(url);
    int socket = raw_dial(url);
    tc_expert_offer offer;
    pthread_t thread;
    uint32_t worker = raw_worker_offer(hub, socket, &offer);
    tc_shm *shm = raw_attach(&offer);
    raw_share(socket, true, NULL);
    hub_expect(hub, TC_HUB_CARRIER);
    float x[16] = {0};
    const tc_expert_call call = {.unit_end = 1, .tokens = 1, .hidden = 16, .x = x};
    assert_int_equal(tc_expert_hub_call(hub, worker, 1, &call, NULL), TC_OK);
    uint64_t start_us = tc_now_us();
    pthread_create(&thread, NULL, close_soon, &socket);
    assert_int_equal(hub_expect(hub, TC_HUB_WORKER_DOWN).worker, worker);
    assert_in_range(tc_now_us() - start_us, 40000, 500000);
    pthread_join(thread, NULL);
    tc_shm_close(shm);
    tc_expert_hub_close(hub);
}

// A hub that offers what is not there, then one that posts nonsense.
static void peer_under_a_lying_hub(void **state)
{
    const char *url = fresh_url();
    tc_link *link;
    tc_expert_peer *peer = open_peer(url);
    tc_peer_event event;
    tc_bell *bell;
    assert_int_equal(tc_link_open(TC_LINK_LISTEN, url, NULL, &link, NULL), TC_OK);
    assert_int_equal(tc_bell_create(&bell, NULL), TC_OK);
    for (int i = 0; i < 3; i++) {
        const tc_shm_options options = {.tokens_max = 4, .hidden = 16, .pairs_max = 64, .bell = bell};
        tc_expert_offer offer = {.tokens_max = 4, .hidden = 16, .pairs_max = 64};
        tc_shm *shm;
        tc_link_item item;
        tc_wire_header header;
        tc_link_message *message;
        uint8_t *payload;
        size_t bytes;
        tc_expert_message m;
        assert_int_equal(tc_shm_create(&options, &shm, NULL), TC_OK);
        strcpy(offer.segment, i == 0 ? "/etc/passwd" : tc_shm_name(shm));
        strcpy(offer.bell, tc_bell_name(bell));
        if (i == 1) offer.hidden = 32;
        for (int j = 0; j < 500 && tc_link_next(link, 0, &item) != TC_OK; j++)
            tc_expert_peer_next(peer, 5000, &event);
        assert_int_equal(item.kind, TC_LINK_MESSAGE); // its hello
        uint32_t pipe = item.pipe;
        tc_link_message_free(item.message);
        assert_int_equal(tc_expert_pack_offer(&offer, &header, NULL), TC_OK);
        assert_int_equal(tc_link_message_new(&header, 0, &message, &payload, NULL), TC_OK);
        assert_int_equal(tc_link_send(link, pipe, message, 0), TC_OK);
        event = peer_expect(peer, TC_PEER_WELCOME);
        assert_int_equal(event.carrier, i == 2 ? TC_CARRIER_SHM : TC_CARRIER_NNG);
        assert_int_equal(*event.reason != 0, i < 2);
        assert_int_equal(tc_link_next(link, tc_link_deadline(WAIT_US), &item), TC_OK);
        const void *body = tc_link_message_body(item.message, &bytes);
        assert_int_equal(tc_expert_unpack(body, bytes, true, &m, NULL), TC_OK);
        assert_int_equal(m.kind, TC_EXPERT_SHARE);
        assert_int_equal(m.attached, i == 2);
        tc_link_message_free(item.message);
        if (i == 2) { // a request without a record
            char *memory = tc_shm_memory(shm, &bytes);
            *(uint64_t *)(void *)(memory + TC_SHM_REQUEST_FLAG_AT) = 9;
        } else {
            tc_link_cut(link, pipe);
        }
        peer_expect(peer, TC_PEER_LOST);
        assert_int_equal(tc_link_next(link, tc_link_deadline(WAIT_US), &item), TC_OK);
        assert_int_equal(item.kind, TC_LINK_DOWN);
        tc_shm_close(shm);
    }
    tc_expert_peer_close(peer);
    tc_link_close(link);
    tc_bell_close(bell);
}

static void addresses(void **state)
{
    tc_expert_hub *hub = NULL;
    tc_error error;
    char longer[TC_URL_BYTES_MAX + 2];
    memset(longer, 'a', sizeof longer);
    memcpy(longer, "ipc:///", 7);
    longer[TC_URL_BYTES_MAX] = 0;
    const char *bad[] = {"", "ipc:/x", "ws://127.0.0.1:1", "inproc://x", longer};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(tc_expert_hub_open(bad[i], HASH_A, &hub, &error), TC_ARGUMENT);
    assert_int_equal(tc_expert_hub_open("ipc:///nonexistent/folder/x", HASH_A, &hub, &error), TC_IO);
    assert_int_equal(tc_expert_hub_open(fresh_url(), "short", &hub, &error), TC_ARGUMENT);
    assert_null(hub);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_of_all_sizes),
        cmocka_unit_test(bad_sizes_stay_home),
        cmocka_unit_test(strangers_are_turned_away),
        cmocka_unit_test(liars_are_cut_off),
        cmocka_unit_test(late_answers_are_dropped),
        cmocka_unit_test(receive_limit),
        cmocka_unit_test(vanishing_worker),
        cmocka_unit_test(dropped_worker_comes_back),
        cmocka_unit_test(hub_restart),
        cmocka_unit_test(stale_socket_file),
        cmocka_unit_test(many_workers),
        cmocka_unit_test(waking_and_polling),
        cmocka_unit_test(addresses),
        cmocka_unit_test(woken_while_connected),
        cmocka_unit_test(silent_peers_are_hung_up_on),
        cmocka_unit_test(knocking_does_no_harm),
        cmocka_unit_test(cutting_amid_data),
        cmocka_unit_test(any_cut_of_the_stream),
        cmocka_unit_test(a_long_call_at_once),
    };
    const struct CMUnitTest only_shared[] = {
        cmocka_unit_test(sharing_has_limits),
        cmocka_unit_test(worker_that_cannot_attach),
        cmocka_unit_test(liars_in_shared_memory_are_cut_off),
        cmocka_unit_test(worker_dies_in_a_call),
        cmocka_unit_test(peer_under_a_lying_hub),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests_name("by message", tests, NULL, NULL);
    carrier = TC_CARRIER_SHM;
    failed += cmocka_run_group_tests_name("shared memory", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("only shared memory", only_shared, NULL, NULL);
}
