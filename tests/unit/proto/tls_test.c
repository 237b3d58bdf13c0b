// SPDX-License-Identifier: Apache-2.0
// Hub and workers over mutual TLS on the loopback interface, with certificates that deploy/tls makes here and
// now: who is let in, who is not and in which words, that nobody falls back to anything less, and that a peer
// on the network that falls silent is given up.
#include "common.h"
#include "common/kernels/ffn.h"
#include "proto/expert.h"
#include "proto/expert_wire.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <time.h>

#define BOTH "127.0.0.1"
static char folder[64];
static uint16_t port;

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *format, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    if (system(command) != 0) fail_msg("%s", command);
}

// Two authorities, ours and a stranger's.
static int make_certificates(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tc-test-tls-%d", (int)getpid());
    shell("set -e; make=%s; for d in ours theirs; do $make %s/$d ca; $make %s/$d core localhost " BOTH "; "
          "$make %s/$d worker w; $make %s/$d worker gone; DAYS=-1 $make %s/$d worker old; $make %s/$d revoke "
          "gone; done",
          TC_CERTIFICATES, folder, folder, folder, folder, folder, folder);
    return 0;
}

static int remove_certificates(void **state)
{
    (void)state;
    shell("rm -rf %s", folder);
    return 0;
}

static tc_tls files_of(const char *authority, const char *who, const char *name)
{
    static char text[6][3][128];
    static unsigned turn;
    char(*t)[128] = text[turn++ % 6];
    snprintf(t[0], 128, "%s/%s/ca.pem", folder, authority);
    snprintf(t[1], 128, "%s/%s/%s.pem", folder, authority, who);
    snprintf(t[2], 128, "%s/%s/%s.key", folder, authority, who);
    return (tc_tls){.ca = t[0], .cert = t[1], .key = t[2], .name = name};
}

static const char *url_of(const char *scheme, const char *host)
{
    static char url[96];
    snprintf(url, sizeof url, "%s://%s:%u", scheme, host, port);
    return url;
}

static uint16_t free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (void *)&a, n), 0);
    assert_int_equal(getsockname(fd, (void *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static tc_expert_hub *open_hub(const char *scheme, const tc_tls *tls)
{
    tc_expert_hub *hub;
    tc_error e;
    port = free_port();
    assert_int_equal(tc_expert_hub_open(NULL, HASH_A, &hub, &e), TC_OK);
    if (tc_expert_hub_listen(hub, url_of(scheme, BOTH), tls, &e) != TC_OK) fail_msg("%s", e.text);
    return hub;
}

static tc_expert_peer *open_peer(const char *scheme, const char *host, const tc_tls *tls)
{
    tc_expert_peer *peer;
    tc_error e;
    tc_worker_hello hello = {
        .protocol_version = TC_EXPERT_PROTOCOL_VERSION, .of = 1, .threads = 1, .pid = getpid()};
    memcpy(hello.model_hash, HASH_A, 33);
    memcpy(hello.store_hash, HASH_B, 33);
    if (tc_expert_peer_open(url_of(scheme, host), tls, &hello, &peer, &e) != TC_OK) fail_msg("%s", e.text);
    return peer;
}

typedef struct outcome {
    bool welcome, unreachable, up, refused;
    uint32_t worker;
    char peer_reason[256], hub_reason[256], address[TC_ADDRESS_BYTES];
} outcome;

// Lets both ends run until `until` holds, or for `ms`.
static outcome run_both(tc_expert_hub *hub, tc_expert_peer *peer, uint32_t ms, bool (*until)(const outcome *))
{
    outcome o = {0};
    uint64_t end_us = tc_now_us() + ms * 1000u;
    while (tc_now_us() < end_us && !(until && until(&o))) {
        tc_hub_event event;
        tc_peer_event at_peer;
        if (peer && tc_expert_peer_next(peer, 2000, &at_peer) == TC_OK) {
            o.welcome |= at_peer.kind == TC_PEER_WELCOME;
            o.unreachable |= at_peer.kind == TC_PEER_UNREACHABLE;
            if (*at_peer.reason) memcpy(o.peer_reason, at_peer.reason, sizeof o.peer_reason);
        }
        if (!hub || tc_expert_hub_next(hub, 2000, &event) != TC_OK) continue;
        o.up |= event.kind == TC_HUB_WORKER_UP;
        o.refused |= event.kind == TC_HUB_REJECTED;
        if (event.kind == TC_HUB_WORKER_UP) o.worker = event.worker;
        if (event.kind == TC_HUB_WORKER_UP) memcpy(o.address, event.address, sizeof o.address);
        if (*event.reason) memcpy(o.hub_reason, event.reason, sizeof o.hub_reason);
    }
    return o;
}

static bool met(const outcome *o)
{
    return o->up && o->welcome;
}
static bool both_told(const outcome *o)
{
    return o->unreachable && o->refused;
}
static bool peer_told(const outcome *o)
{
    return o->unreachable;
}

static void let_in(void **state)
{
    (void)state;
    static const char *const hosts[] = {BOTH, "localhost"};
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    for (int i = 0; i < 2; i++) {
        tc_expert_hub *hub = open_hub("tls+tcp", &core);
        tc_expert_peer *peer = open_peer("tls+tcp", hosts[i], &worker);
        outcome o = run_both(hub, peer, 5000, met);
        if (!met(&o)) fail_msg("%s: %s / %s", hosts[i], o.peer_reason, o.hub_reason);
        assert_non_null(strstr(o.address, "127.0.0.1:"));
        tc_expert_peer_close(peer);
        tc_expert_hub_close(hub);
    }
}

// A named name is what counts then, not the host.
static void name_of_the_core(void **state)
{
    (void)state;
    tc_tls core = files_of("ours", "core", NULL), right = files_of("ours", "w", "localhost"),
           wrong = files_of("ours", "w", "elsewhere.example");
    tc_expert_hub *hub = open_hub("tls+tcp", &core);
    tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &right);
    outcome o = run_both(hub, peer, 5000, met);
    assert_true(met(&o));
    tc_expert_peer_close(peer);
    peer = open_peer("tls+tcp", BOTH, &wrong);
    o = run_both(hub, peer, 1500, peer_told);
    assert_true(o.unreachable && !o.welcome && !o.up);
    if (!strstr(o.peer_reason, "TLS: one end does not accept")) fail_msg("%s", o.peer_reason);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// Workers with another authority's certificate, a core's, a revoked or an expired one.
static void workers_kept_out(void **state)
{
    (void)state;
    const struct {
        const char *authority, *who;
    } cases[] = {{"theirs", "w"}, {"ours", "core"}, {"ours", "gone"}, {"ours", "old"}};
    tc_tls core = files_of("ours", "core", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_tls worker = files_of(cases[i].authority, cases[i].who, NULL);
        worker.ca = core.ca; // it believes the core: only the core's answer counts
        tc_expert_hub *hub = open_hub("tls+tcp", &core);
        tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
        outcome o = run_both(hub, peer, 3000, both_told);
        if (!both_told(&o) || o.up || o.welcome)
            fail_msg("%s/%s: up %d, %s / %s", cases[i].authority, cases[i].who, o.up, o.peer_reason,
                     o.hub_reason);
        if (!strstr(o.hub_reason, "TLS: one end does not accept")) fail_msg("%s", o.hub_reason);
        assert_non_null(strstr(o.hub_reason, "127.0.0.1:"));
        tc_expert_peer_close(peer);
        tc_expert_hub_close(hub);
    }
}

// A core of another authority, and a worker's certificate in the place of a core's.
static void cores_not_believed(void **state)
{
    (void)state;
    const struct {
        const char *authority, *who;
    } cases[] = {{"theirs", "core"}, {"ours", "w"}};
    tc_tls worker = files_of("ours", "w", "localhost");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_tls core = files_of(cases[i].authority, cases[i].who, NULL);
        tc_expert_hub *hub = open_hub("tls+tcp", &core);
        tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
        outcome o = run_both(hub, peer, 3000, peer_told);
        assert_true(o.unreachable && !o.welcome && !o.up);
        tc_expert_peer_close(peer);
        tc_expert_hub_close(hub);
    }
}

// One end without TLS: nobody is let in, and whoever asked for TLS stays with it.
static void never_plain(void **state)
{
    (void)state;
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    tc_expert_hub *hub = open_hub("tls+tcp", &core);
    tc_expert_peer *peer = open_peer("tcp", BOTH, NULL);
    outcome o = run_both(hub, peer, 1500, NULL);
    assert_true(o.refused && !o.up && !o.welcome);
    tc_expert_peer_close(peer);
    // no certificate at all
    shell("! echo | timeout 5 openssl s_client -connect " BOTH ":%u -CAfile %s/ours/ca.pem -tls1_2 -quiet "
          ">/dev/null 2>&1",
          port, folder);
    // older than TLS 1.2, with everything else right
    shell("! echo | timeout 5 openssl s_client -connect " BOTH
          ":%u -CAfile %s/ours/ca.pem -cert %s/ours/w.pem "
          "-key %s/ours/w.key -tls1_1 -cipher ALL:@SECLEVEL=0 >/dev/null 2>&1",
          port, folder, folder, folder);
    o = run_both(hub, NULL, 300, NULL);
    assert_false(o.up);
    tc_expert_hub_close(hub);

    hub = open_hub("tcp", NULL);
    peer = open_peer("tls+tcp", BOTH, &worker);
    o = run_both(hub, peer, 1500, NULL);
    assert_true(o.unreachable && !o.up && !o.welcome);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

static void refused(const char *url, const tc_tls *tls, tc_status status, const char *word)
{
    tc_error e = {0};
    tc_expert_peer *peer;
    tc_worker_hello hello = {.protocol_version = TC_EXPERT_PROTOCOL_VERSION, .of = 1, .threads = 1};
    memcpy(hello.model_hash, HASH_A, 33);
    tc_status got = tc_expert_peer_open(url, tls, &hello, &peer, &e);
    if (got != status || !strstr(e.text, word))
        fail_msg("%s: %d %s, not %d %s", url, got, e.text, status, word);
}

static void files_that_will_not_do(void **state)
{
    (void)state;
    tc_tls good = files_of("ours", "w", NULL), t;
    char path[128];
    snprintf(path, sizeof path, "%s/some", folder);
    refused("tls+tcp://127.0.0.1:1", NULL, TC_ARGUMENT, "--tls-ca");
    t = good;
    t.key = NULL;
    refused("tls+tcp://127.0.0.1:1", &t, TC_ARGUMENT, "--tls-key");
    refused("tcp://127.0.0.1:1", &good, TC_ARGUMENT, "not encrypted");
    refused("tls://127.0.0.1:1", &good, TC_ARGUMENT, "must begin with");
    for (int i = 0; i < 3; i++) {
        const char **at[] = {&t.ca, &t.cert, &t.key};
        t = good;
        *at[i] = "/nonexistent/file";
        refused("tls+tcp://127.0.0.1:1", &t, TC_IO, "/nonexistent/file");
        *at[i] = folder;
        refused("tls+tcp://127.0.0.1:1", &t, TC_ARGUMENT, "is not a file");
        shell("head -c %d /dev/zero | tr '\\0' x > %s; chmod 600 %s", TC_TLS_FILE_BYTES_MAX + 1, path, path);
        *at[i] = path;
        refused("tls+tcp://127.0.0.1:1", &t, TC_LIMIT, "longer than");
        shell("head -c %d /dev/zero | tr '\\0' x > %s", TC_TLS_FILE_BYTES_MAX, path);
        refused("tls+tcp://127.0.0.1:1", &t, TC_FORMAT, "in it");
    }
    t = good;
    t.cert = path;
    shell("sed s/M/N/ %s > %s", good.cert, path);
    refused("tls+tcp://127.0.0.1:1", &t, TC_FORMAT, path);
}

static void keys_of_others(void **state)
{
    (void)state;
    tc_tls good = files_of("ours", "w", NULL);
    static const int modes[] = {0644, 0640, 0604, 0620, 0610, 0602};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        bool of_root = geteuid() == 0 && modes[i] == 0640; // root's may be its group's to read
        assert_int_equal(chmod(good.key, (mode_t)modes[i]), 0);
        if (!of_root) refused("tls+tcp://127.0.0.1:1", &good, TC_ARGUMENT, "chmod 600");
    }
    assert_int_equal(chmod(good.key, 0600), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(good.key, 12345, 0), 0);
        refused("tls+tcp://127.0.0.1:1", &good, TC_ARGUMENT, "another user");
        assert_int_equal(chown(good.key, 0, 0), 0);
    }
}

// Keys of any kind are let in, a key that is not the certificate's is refused; TLS 1.3 is spoken, and 1.2.
static void kinds_of_keys(void **state)
{
    (void)state;
    static const char *const kinds[] = {"ED25519", "RSA -pkeyopt rsa_keygen_bits:2048",
                                        "EC -pkeyopt ec_paramgen_curve:P-384"};
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "kind", NULL),
           mixed = files_of("ours", "w", NULL);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        shell("cd %s/ours && umask 077 && echo extendedKeyUsage=clientAuth >extensions && "
              "openssl genpkey -algorithm %s -out kind.key 2>log && openssl req -new -key kind.key -subj "
              "/CN=kind "
              "2>>log | openssl x509 -req -CA ca.pem -CAkey ca.key -extfile extensions -out kind.pem 2>>log",
              folder, kinds[i]);
        tc_expert_hub *hub = open_hub("tls+tcp", &core);
        tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
        outcome o = run_both(hub, peer, 5000, met);
        if (!met(&o)) fail_msg("%s: %s / %s", kinds[i], o.peer_reason, o.hub_reason);
        for (int version = 2; version <= 3 && i == 0; version++)
            shell("echo | timeout 5 openssl s_client -connect " BOTH
                  ":%u -CAfile %s/ours/ca.pem -cert %s/ours/w.pem "
                  "-key %s/ours/w.key -tls1_%d 2>&1 | grep -q 'New, TLSv1.%d, Cipher is .*AES.*GCM'",
                  port, folder, folder, folder, version, version);
        tc_expert_peer_close(peer);
        tc_expert_hub_close(hub);
    }
    mixed.key = worker.key;
    refused("tls+tcp://127.0.0.1:1", &mixed, TC_FORMAT, "not a certificate and a key");
}

// The largest call there is, both ways, byte for byte; then many small ones.
static void what_is_carried(void **state)
{
    (void)state;
    enum { TOKENS = TC_CALL_TOKENS_MAX, HIDDEN = 4096, SMALL = 300 };
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    tc_expert_hub *hub = open_hub("tls+tcp", &core);
    tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
    outcome o = run_both(hub, peer, 5000, met);
    assert_true(met(&o));
    float *x = malloc((size_t)TOKENS * HIDDEN * sizeof *x);
    for (uint32_t i = 0; i < TOKENS * HIDDEN; i++) x[i] = (float)i;
    tc_expert_pair pair = {1, 0, 1};
    for (uint64_t seq = 1; seq <= SMALL; seq++) {
        uint32_t tokens = seq == 1 ? TOKENS : 1 + seq % 3;
        tc_expert_call call = {.unit_end = 1,
                               .tokens = tokens,
                               .hidden = HIDDEN,
                               .x = x,
                               .pair_count = 1,
                               .pairs = &pair,
                               .step = 7000 + seq};
        tc_peer_event at;
        tc_hub_event event;
        assert_int_equal(tc_expert_hub_call(hub, o.worker, seq, &call, NULL), TC_OK);
        assert_int_equal(tc_expert_peer_next(peer, WAIT_US, &at), TC_OK);
        assert_int_equal(at.kind, TC_PEER_CALL);
        assert_int_equal(at.call.step, 7000 + seq);
        assert_memory_equal(at.call.x, x, (size_t)tokens * HIDDEN * sizeof *x);
        int64_t *sum = tc_expert_peer_sum(peer, tokens, HIDDEN, NULL);
        for (uint32_t i = 0; i < tokens * HIDDEN; i++) sum[i] = (int64_t)(i * seq);
        assert_int_equal(tc_expert_peer_reply(peer, at.seq, 1, NULL), TC_OK);
        assert_int_equal(tc_expert_hub_next(hub, WAIT_US, &event), TC_OK);
        assert_int_equal(event.kind, TC_HUB_RESULT);
        for (uint32_t i = 0; i < tokens * HIDDEN; i++)
            if (event.sum[i] != (int64_t)(i * seq)) fail_msg("call %d: sum %u", (int)seq, i);
    }
    free(x);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// Workers that come and go at every moment of it: each is taken in, each is missed.
static void coming_and_going(void **state)
{
    (void)state;
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    tc_expert_hub *hub = open_hub("tls+tcp", &core);
    uint32_t up = 0, down = 0;
    for (int i = 0; i < 60; i++) {
        tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
        tc_peer_event at;
        tc_hub_event event;
        bool welcome = false;
        for (int n = 0; i % 2 ? !welcome && n < 1000 : n < i % 12; n++) {
            welcome |= tc_expert_peer_next(peer, 1000, &at) == TC_OK && at.kind == TC_PEER_WELCOME;
            while (tc_expert_hub_next(hub, 500, &event) == TC_OK) {
                up += event.kind == TC_HUB_WORKER_UP;
                down += event.kind == TC_HUB_WORKER_DOWN;
            }
        }
        tc_expert_peer_close(peer);
    }
    uint64_t end_us = tc_now_us() + (TC_LINK_DEAD_MS + 2000) * 1000u;
    while (tc_now_us() < end_us && (up == 0 || up != down)) {
        tc_hub_event event;
        if (tc_expert_hub_next(hub, 100000, &event) != TC_OK) continue;
        up += event.kind == TC_HUB_WORKER_UP;
        down += event.kind == TC_HUB_WORKER_DOWN;
    }
    assert_true(up > 10);
    assert_int_equal(up, down);
    tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
    outcome o = run_both(hub, peer, 5000, met);
    assert_true(met(&o));
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// With nothing to say for longer than it takes to be given up, both ends stay.
static void idle_connections_stay(void **state)
{
    (void)state;
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    tc_expert_hub *hub = open_hub("tls+tcp", &core);
    tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
    outcome o = run_both(hub, peer, 5000, met);
    assert_true(met(&o));
    tc_hub_event event;
    tc_peer_event at;
    tc_status status = tc_expert_hub_next(hub, (TC_LINK_DEAD_MS + 1500) * 1000u, &event);
    if (status != TC_TIMEOUT) fail_msg("%d: event %d: %s", status, event.kind, event.reason);
    assert_int_equal(tc_expert_peer_next(peer, 0, &at), TC_TIMEOUT);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// A worker that said hello and then nothing, without beats: as behind a cut cable. One that beats stays.
static void silence_ends_it(void **state)
{
    (void)state;
    tc_expert_hub *hub = open_hub("tcp", NULL);
    tc_expert_peer *peer = open_peer("tcp", BOTH, NULL);
    outcome o = run_both(hub, peer, 5000, met);
    assert_true(met(&o));
    uint32_t beating = o.worker;
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    tc_worker_hello hello = {.protocol_version = TC_EXPERT_PROTOCOL_VERSION, .of = 1, .threads = 1};
    memcpy(hello.model_hash, HASH_A, 33);
    tc_wire_header header;
    uint8_t frame[512];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (void *)&a, sizeof a), 0);
    assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
    tc_frame_begin(frame, &header);
    raw_prefix(fd, (uint32_t)tc_frame_bytes(header.bytes, 0));
    raw_bytes(fd, frame, tc_frame_bytes(header.bytes, 0));
    tc_hub_event event;
    assert_int_equal(tc_expert_hub_next(hub, WAIT_US, &event), TC_OK);
    assert_int_equal(event.kind, TC_HUB_WORKER_UP);
    uint64_t began_us = tc_now_us();
    uint32_t silent = event.worker;
    assert_int_equal(tc_expert_hub_next(hub, WAIT_US, &event), TC_OK);
    assert_int_equal(event.kind, TC_HUB_WORKER_DOWN);
    assert_int_equal(event.worker, silent);
    assert_string_equal(event.reason, "was not heard of any more");
    uint64_t took_ms = (tc_now_us() - began_us) / 1000;
    assert_true(took_ms > TC_LINK_DEAD_MS - 200 && took_ms < TC_LINK_DEAD_MS + 1500);
    assert_int_equal(tc_expert_hub_next(hub, 0, &event), TC_TIMEOUT); // the other one is still there
    assert_true(beating != silent);
    close(fd);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

// Packed in another way: the same model, other numbers.
static void another_store(void **state)
{
    (void)state;
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    for (int same = 0; same < 2; same++) {
        tc_expert_hub *hub = open_hub("tls+tcp", &core);
        assert_int_equal(tc_expert_hub_require_store(hub, same ? HASH_B : HASH_A, NULL), TC_OK);
        tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker);
        outcome o = run_both(hub, peer, 2000, same ? met : NULL);
        assert_int_equal(o.up, same);
        if (!same) assert_non_null(strstr(o.peer_reason, "computes from the packed store " HASH_B));
        tc_expert_peer_close(peer);
        tc_expert_hub_close(hub);
    }
}

// Two addresses of one hub, one of them on this host only.
static void two_addresses(void **state)
{
    (void)state;
    tc_tls core = files_of("ours", "core", NULL), worker = files_of("ours", "w", NULL);
    char local[96];
    snprintf(local, sizeof local, "%s", fresh_url());
    tc_expert_hub *hub = open_hub("tls+tcp", &core);
    tc_error e;
    assert_int_equal(tc_expert_hub_listen(hub, local, NULL, &e), TC_OK);
    assert_int_equal(tc_expert_hub_listen(hub, fresh_url(), NULL, &e), TC_LIMIT);
    tc_expert_peer *peer = open_peer("tls+tcp", BOTH, &worker), *near;
    tc_worker_hello hello = {.protocol_version = TC_EXPERT_PROTOCOL_VERSION, .of = 1, .threads = 1};
    memcpy(hello.model_hash, HASH_A, 33);
    assert_int_equal(tc_expert_peer_open(local, NULL, &hello, &near, &e), TC_OK);
    outcome o = run_both(hub, peer, 5000, met), p = run_both(hub, near, 5000, met);
    assert_true(o.welcome && p.welcome);
    tc_expert_peer_close(near);
    tc_expert_peer_close(peer);
    tc_expert_hub_close(hub);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(let_in),           cmocka_unit_test(name_of_the_core),
        cmocka_unit_test(workers_kept_out), cmocka_unit_test(cores_not_believed),
        cmocka_unit_test(never_plain),      cmocka_unit_test(files_that_will_not_do),
        cmocka_unit_test(keys_of_others),   cmocka_unit_test(kinds_of_keys),
        cmocka_unit_test(what_is_carried),  cmocka_unit_test(coming_and_going),
        cmocka_unit_test(silence_ends_it),  cmocka_unit_test(idle_connections_stay),
        cmocka_unit_test(another_store),    cmocka_unit_test(two_addresses),
    };
    return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
