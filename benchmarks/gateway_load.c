// SPDX-License-Identifier: Apache-2.0
// Owns: measuring the gateway alone: the real program between a stub core (in this process) that streams
// tokens and an HTTP client (in this process) that counts them.
//
//   tokens    how many streamed SSE tokens a second one core carries, over 256 streams
//   latency   what the gateway adds to a token's way, beside a bare relay in its place in the same run
//   idle      memory of 10,000 open streams
//   overload  against a running server: ten times what it can do, how it refuses
//
// Refuses: targets. It prints what it saw, one JSON object a line.
#include "common/text/tokenizer.h"
#include "proto/engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STREAMS_MAX = 12000, STEPS_MAX = 1 << 20, CLIENT_CPU = 1, GATEWAY_CPU = 0 };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "gateway_load: %s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

// ---- the stub core ----

typedef struct stub {
    char url[128];
    uint32_t token;   // what it says
    uint32_t streams; // it begins when so many have asked
    uint32_t steps;   // ... and takes so many steps
    uint32_t step_us; // one in so many microseconds; 0: as fast as the link takes them
    _Atomic bool stop;
    _Atomic uint32_t asked;
    uint64_t *sent_ns; // [STEPS_MAX] when a step's tokens left
} stub;

static void run_steps(stub *s, tc_engine_server *server, const uint64_t *ids)
{
    tc_command command;
    uint64_t due = now_ns();
    for (uint32_t step = 0; step < s->steps && !s->stop; step++) {
        due += s->step_us * 1000ull;
        for (uint64_t now; s->step_us && (now = now_ns()) < due;)
            if (due - now > 100000) usleep((useconds_t)((due - now) / 1000 - 50));
        s->sent_ns[step] = now_ns();
        for (uint32_t i = 0; i < s->streams; i++) tc_engine_server_token(server, ids[i], s->token, 0);
        tc_engine_server_flush(server);
        if (step % 64 == 0)
            while (tc_engine_server_next(server, 0, &command) == TC_OK)
                if (command.kind == TC_COMMAND_CLIENT_GONE) return;
    }
}

static void *run_stub(void *arg)
{
    stub *s = arg;
    tc_error e;
    tc_engine_server *server;
    tc_command command;
    static uint64_t ids[STREAMS_MAX];
    const tc_engine_status status = {.ready = true, .workers_up = 1, .workers_expected = 1};
    const tc_model_info info = {.family = "stub",
                                .layers = 1,
                                .hidden = 1,
                                .vocab = 1 << 20,
                                .context = 1 << 20,
                                .temperature = 1,
                                .top_p = 1,
                                .repetition_penalty = 1};
    if (tc_engine_server_open(s->url, &info, &server, &e) != TC_OK) die(e.text);
    while (!s->stop && s->asked < s->streams) {
        if (tc_engine_server_next(server, 10000, &command) != TC_OK) continue;
        if (command.kind == TC_COMMAND_STATUS) {
            tc_engine_server_status(server, &status);
            tc_engine_server_flush(server);
        }
        if (command.kind == TC_COMMAND_GENERATE) ids[s->asked++] = command.id;
    }
    usleep(200000);
    run_steps(s, server, ids);
    while (!s->stop)
        if (tc_engine_server_next(server, 10000, &command) == TC_OK && command.kind == TC_COMMAND_STATUS)
            tc_engine_server_status(server, &status);
    tc_engine_server_close(server);
    return NULL;
}

// ---- the gateway ----

static pid_t start_gateway(const char *build, const char *model, const char *url, int port, bool pinned)
{
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid) return pid;
    char program[512], listen[64];
    snprintf(program, sizeof program, "%s/gateway/thermocline-gateway", build);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", port);
    if (pinned) pin(GATEWAY_CPU);
    execl(program, program, "--engine", url, "--model", model, "--listen", listen, "--log-level", "error",
          (char *)NULL);
    _exit(127);
}

static uint64_t resident_bytes(pid_t pid)
{
    char path[64];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%*u %llu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static double cpu_seconds(pid_t pid)
{
    char path[64];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f ||
        fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        user = system = 0;
    if (f) fclose(f);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

// ---- the client ----

typedef struct stream {
    int fd;
    uint32_t events;
    uint8_t matched; // of the text that begins an event
} stream;

static int dial(int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int i = 0; connect(fd, (struct sockaddr *)&in, sizeof in) != 0; i++) {
        if (i == 500) die("connect");
        usleep(10000);
    }
    return fd;
}

static void ask(int fd, uint32_t max_tokens)
{
    char body[128], text[512];
    snprintf(body, sizeof body, "{\"prompt\":\"hello\",\"stream\":true,\"max_tokens\":%u}", max_tokens);
    int n = snprintf(text, sizeof text,
                     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    if (write(fd, text, (size_t)n) != n) die("write");
}

// Events that begin in these bytes.
static uint32_t count_events(stream *s, const char *data, size_t bytes)
{
    static const char begin[] = "data: {";
    uint32_t found = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (s->matched == 0) {
            const char *d = memchr(data + i, 'd', bytes - i);
            if (!d) break;
            i = (size_t)(d - data);
        }
        s->matched = data[i] == begin[s->matched] ? (uint8_t)(s->matched + 1) : data[i] == 'd';
        if (s->matched == sizeof begin - 1) {
            found++;
            s->matched = 0;
        }
    }
    s->events += found;
    return found;
}

typedef struct readers {
    int epoll;
    uint32_t count;
    stream *streams;
    uint64_t events;
    const stub *stub;
    uint64_t *latency_ns, latencies, latencies_max; // NULL: not kept
} readers;

static void open_streams(readers *c, int port, uint32_t count, uint32_t max_tokens)
{
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    c->streams = calloc(count, sizeof *c->streams);
    c->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        c->streams[i].fd = dial(port);
        ask(c->streams[i].fd, max_tokens);
        epoll_ctl(c->epoll, EPOLL_CTL_ADD, c->streams[i].fd, &event);
    }
}

static void receive(readers *c, int wait_ms)
{
    static char buffer[256 << 10];
    struct epoll_event ready[256];
    int n = epoll_wait(c->epoll, ready, 256, wait_ms);
    for (int i = 0; i < n; i++) {
        stream *s = &c->streams[ready[i].data.u32];
        ssize_t bytes = recv(s->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (bytes <= 0) {
            epoll_ctl(c->epoll, EPOLL_CTL_DEL, s->fd, NULL);
            continue;
        }
        uint32_t first = s->events, found = count_events(s, buffer, (size_t)bytes);
        uint64_t now = now_ns();
        c->events += found;
        for (uint32_t k = 0; c->latency_ns && k < found && c->latencies < c->latencies_max; k++)
            c->latency_ns[c->latencies++] = now - c->stub->sent_ns[first + k];
    }
}

static void close_streams(readers *c)
{
    for (uint32_t i = 0; i < c->count; i++) close(c->streams[i].fd);
    close(c->epoll);
    free(c->streams);
}

// ---- what is measured ----

typedef struct setting {
    const char *build, *model;
    uint32_t token;
    int port;
    char dir[64];
} setting;

static void prepare(setting *w, const char *build, const char *model)
{
    char path[512];
    tc_error e;
    tc_tokenizer *tokenizer;
    tc_ids ids = {0};
    struct rlimit limit;
    *w = (setting){.build = build, .model = model, .port = 20000 + (int)getpid() % 20000};
    snprintf(path, sizeof path, "%s/tokenizer.json", model);
    if (tc_tokenizer_load(path, &tokenizer, &e) != TC_OK ||
        tc_tokenizer_encode(tokenizer, " the", 4, TC_SPECIAL_PARSE, &ids, &e) != TC_OK)
        die(e.text);
    w->token = ids.data[0];
    tc_ids_free(&ids);
    tc_tokenizer_free(tokenizer);
    snprintf(w->dir, sizeof w->dir, "/tmp/tc-gateway-load-XXXXXX");
    if (!mkdtemp(w->dir)) die("mkdtemp");
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
}

typedef struct run {
    stub stub;
    pthread_t thread;
    pid_t gateway;
} run;

static void begin(run *r, const setting *w, uint32_t streams, uint32_t steps, uint32_t step_us, bool pinned)
{
    *r = (run){.stub = {.token = w->token, .streams = streams, .steps = steps, .step_us = step_us}};
    snprintf(r->stub.url, sizeof r->stub.url, "ipc://%s/engine", w->dir);
    r->stub.sent_ns = calloc(STEPS_MAX, sizeof(uint64_t));
    if (pinned) pin(CLIENT_CPU);
    pthread_create(&r->thread, NULL, run_stub, &r->stub);
    r->gateway = start_gateway(w->build, w->model, r->stub.url, w->port, pinned);
    for (int i = 0; i < 300; i++) { // until it has met the stub
        char text[512] = "";
        int fd = dial(w->port);
        static const char health[] = "GET /api/v1/health HTTP/1.0\r\n\r\n";
        if (write(fd, health, sizeof health - 1) < 0 || read(fd, text, sizeof text - 1) < 0) text[0] = 0;
        close(fd);
        if (strstr(text, " 200 ")) return;
        usleep(20000);
    }
    die("the gateway does not get ready");
}

static void end(run *r)
{
    r->stub.stop = true;
    kill(r->gateway, SIGKILL);
    waitpid(r->gateway, NULL, 0);
    pthread_join(r->thread, NULL);
    free(r->stub.sent_ns);
}

static void measure_tokens(const setting *w, uint32_t streams, double seconds)
{
    run r;
    readers c = {0};
    begin(&r, w, streams, STEPS_MAX, 0, true);
    open_streams(&c, w->port, streams, 1 << 20);
    uint64_t start = now_ns();
    while (now_ns() - start < 1000000000u || c.events == 0) receive(&c, 100); // warm-up
    uint64_t events = c.events, begun = now_ns();
    double cpu = cpu_seconds(r.gateway);
    while ((double)(now_ns() - begun) < seconds * 1e9) receive(&c, 100);
    double took = (double)(now_ns() - begun) / 1e9, used = cpu_seconds(r.gateway) - cpu;
    double rate = (double)(c.events - events) / took;
    printf("{\"bench\":\"gateway tokens\",\"streams\":%u,\"tokens_per_s\":%.0f,\"gateway_cpus\":%.2f,"
           "\"tokens_per_cpu_s\":%.0f}\n",
           streams, rate, used / took, used > 0 ? rate * took / used : 0);
    close_streams(&c);
    end(&r);
}

// The least that can stand between the link and sockets: a process that takes a token and writes it on, to
// the connection of its stream.
static pid_t start_relay(const char *url, const int *sockets, uint32_t streams)
{
    pid_t pid = fork();
    if (pid) return pid;
    tc_engine_client *engine;
    tc_engine_event event;
    tc_error e;
    const uint32_t prompt[] = {1};
    if (tc_engine_client_open(url, &engine, &e) != TC_OK) _exit(1);
    for (;;) {
        if (tc_engine_client_next(engine, 1000000, &event) != TC_OK) continue;
        for (uint32_t i = 1; event.kind == TC_ENGINE_UP && i <= streams; i++) {
            const tc_generate g = {.id = i,
                                   .prompt = prompt,
                                   .prompt_count = 1,
                                   .max_tokens = 1 << 20,
                                   .sampling = {.top_p = 1, .repetition_penalty = 1}};
            tc_engine_client_generate(engine, &g, &e);
        }
        if (event.kind == TC_ENGINE_TOKEN && write(sockets[event.id - 1], "data: {}\n\n", 10) < 0) _exit(0);
    }
}

static double median_us(uint64_t *ns, uint64_t n, double at)
{
    qsort(ns, n, sizeof *ns, compare);
    return n ? (double)ns[(uint64_t)((double)(n - 1) * at)] / 1e3 : 0;
}

// A TCP connection of this process with itself.
static void connect_pair(int *ret_near, int *ret_far)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t bytes = sizeof in;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
    if (bind(listener, (struct sockaddr *)&in, sizeof in) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&in, &bytes) != 0)
        die("listen");
    *ret_near = dial(ntohs(in.sin_port));
    *ret_far = accept(listener, NULL, NULL);
    setsockopt(*ret_far, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
}

// The same stub and the same reader with the relay between them.
static double relay_latency(const setting *w, uint32_t streams, uint32_t steps, uint32_t step_us)
{
    stub s = {.token = w->token, .streams = streams, .steps = steps, .step_us = step_us};
    pthread_t thread;
    readers c = {.epoll = epoll_create1(EPOLL_CLOEXEC), .count = streams, .stub = &s};
    int *far = calloc(streams, sizeof *far);
    snprintf(s.url, sizeof s.url, "ipc://%s/relay", w->dir);
    s.sent_ns = calloc(STEPS_MAX, sizeof(uint64_t));
    c.streams = calloc(streams, sizeof *c.streams);
    for (uint32_t i = 0; i < streams; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        connect_pair(&c.streams[i].fd, &far[i]);
        epoll_ctl(c.epoll, EPOLL_CTL_ADD, c.streams[i].fd, &event);
    }
    c.latencies_max = (uint64_t)streams * steps;
    c.latency_ns = calloc(c.latencies_max, sizeof *c.latency_ns);
    pid_t relay = start_relay(s.url, far, streams);
    pthread_create(&thread, NULL, run_stub, &s);
    uint64_t until = now_ns() + 30000000000u;
    while (c.latencies < c.latencies_max && now_ns() < until) receive(&c, 100);
    s.stop = true;
    kill(relay, SIGKILL);
    waitpid(relay, NULL, 0);
    pthread_join(thread, NULL);
    double median = median_us(c.latency_ns, c.latencies, 0.5);
    free(c.latency_ns);
    free(s.sent_ns);
    for (uint32_t i = 0; i < streams; i++) close(far[i]);
    free(far);
    close_streams(&c);
    return median;
}

// Median and 99th percentile with the gateway in its place.
static double gateway_latency(const setting *w, uint32_t streams, uint32_t steps, uint32_t step_us,
                              double *ret_p99)
{
    run r;
    readers c = {0};
    begin(&r, w, streams, steps, step_us, false);
    c.stub = &r.stub;
    c.latencies_max = (uint64_t)streams * steps;
    c.latency_ns = calloc(c.latencies_max, sizeof *c.latency_ns);
    open_streams(&c, w->port, streams, 1 << 20);
    uint64_t until = now_ns() + 30000000000u;
    while (c.latencies < c.latencies_max && now_ns() < until) receive(&c, 100);
    double median = median_us(c.latency_ns, c.latencies, 0.5);
    *ret_p99 = median_us(c.latency_ns, c.latencies, 0.99);
    free(c.latency_ns);
    close_streams(&c);
    end(&r);
    return median;
}

// Medians of one side, measured in a process of its own: nng must not have run before a fork.
static void one_side(const setting *w, uint32_t streams, bool bare, double best[2])
{
    enum { STEPS = 800, STEP_US = 2000 };
    double seen[2] = {1e9, 1e9};
    int ends[2];
    if (pipe(ends) != 0) die("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        seen[0] = bare ? relay_latency(w, streams, STEPS, STEP_US)
                       : gateway_latency(w, streams, STEPS, STEP_US, &seen[1]);
        _exit(write(ends[1], seen, sizeof seen) != sizeof seen);
    }
    close(ends[1]);
    if (pid < 0 || read(ends[0], seen, sizeof seen) != sizeof seen || seen[0] <= 0) die("a measurement");
    close(ends[0]);
    waitpid(pid, NULL, 0);
    for (int i = 0; i < 2; i++)
        if (seen[i] < best[i]) best[i] = seen[i];
}

// In turn, and the best of each: what else the machine does comes and goes.
static void measure_latency(const setting *w, uint32_t streams)
{
    enum { ROUNDS = 5 };
    double relay[2] = {1e9, 1e9}, with[2] = {1e9, 1e9};
    for (int i = 0; i < ROUNDS; i++) {
        one_side(w, streams, true, relay);
        one_side(w, streams, false, with);
    }
    printf("{\"bench\":\"gateway latency\",\"streams\":%u,\"rounds\":%d,\"bare_relay_us\":%.1f,"
           "\"with_gateway_us\":%.1f,\"added_us\":%.1f,\"p99_us\":%.1f}\n",
           streams, ROUNDS, relay[0], with[0], with[0] - relay[0], with[1]);
}

static void measure_idle(const setting *w, uint32_t streams)
{
    run r;
    readers c = {0};
    begin(&r, w, streams, 2, 0, false); // two tokens each, then silence
    uint64_t before = resident_bytes(r.gateway);
    open_streams(&c, w->port, streams, 1 << 20);
    uint64_t until = now_ns() + 60000000000u;
    while (c.events < 2ull * streams && now_ns() < until) receive(&c, 100);
    sleep(1);
    uint64_t after = resident_bytes(r.gateway);
    double cpu = cpu_seconds(r.gateway);
    sleep(3);
    printf("{\"bench\":\"gateway idle\",\"streams\":%u,\"tokens_seen\":%llu,\"bytes_a_stream\":%.0f,"
           "\"gateway_cpus\":%.3f}\n",
           streams, (unsigned long long)c.events, (double)(after - before) / streams,
           (cpu_seconds(r.gateway) - cpu) / 3);
    close_streams(&c);
    end(&r);
}

// ---- overload: an open loop of requests, each on a connection of its own ----

typedef struct call {
    int fd;
    uint64_t begun_ns;
    size_t got;
    char head[16];
} call;

typedef struct overload {
    int epoll;
    uint32_t open, answered, refused, other, lost, late;
    uint64_t *refused_ns;
    uint32_t refused_max;
    call calls[STREAMS_MAX];
} overload;

static void start_call(overload *o, int port, uint32_t max_tokens)
{
    uint32_t i = 0;
    while (i < STREAMS_MAX && o->calls[i].fd > 0) i++;
    if (i == STREAMS_MAX) die("too many calls are open");
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char body[128], text[512];
    inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
    snprintf(body, sizeof body, "{\"prompt\":\"In the beginning\",\"max_tokens\":%u,\"ignore_eos\":true}",
             max_tokens);
    int n = snprintf(text, sizeof text,
                     "POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    call *c = &o->calls[i];
    *c = (call){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .begun_ns = now_ns()};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&in, sizeof in) != 0 ||
        write(c->fd, text, (size_t)n) != n) {
        o->lost++;
        if (c->fd > 0) close(c->fd);
        c->fd = 0;
        return;
    }
    epoll_ctl(o->epoll, EPOLL_CTL_ADD, c->fd, &event);
    o->open++;
}

static void end_call(overload *o, call *c)
{
    int status = c->got > 12 ? atoi(c->head + 9) : 0;
    uint64_t took = now_ns() - c->begun_ns;
    if (status == 200) {
        o->answered++;
    } else if (status == 503 || status == 429) {
        if (o->refused < o->refused_max) o->refused_ns[o->refused] = took;
        o->refused++;
        if (took > 10000000) o->late++;
    } else if (status) {
        o->other++;
    } else {
        o->lost++;
    }
    close(c->fd);
    c->fd = 0;
    o->open--;
}

static void receive_calls(overload *o, int wait_ms)
{
    char buffer[16 << 10];
    struct epoll_event ready[64];
    int n = epoll_wait(o->epoll, ready, 64, wait_ms);
    for (int i = 0; i < n; i++) {
        call *c = &o->calls[ready[i].data.u32];
        ssize_t bytes = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (bytes < 0 && errno == EAGAIN) continue;
        if (bytes <= 0) {
            end_call(o, c);
            continue;
        }
        for (ssize_t k = 0; k < bytes && c->got + (size_t)k < sizeof c->head - 1; k++)
            c->head[c->got + (size_t)k] = buffer[k];
        c->got += (size_t)bytes;
    }
}

static void measure_overload(int port, double rate, double seconds, uint32_t max_tokens)
{
    overload *o = calloc(1, sizeof *o);
    o->epoll = epoll_create1(EPOLL_CLOEXEC);
    o->refused_max = 4 << 20;
    o->refused_ns = calloc(o->refused_max, sizeof *o->refused_ns);
    uint64_t start = now_ns(), sent = 0;
    while ((double)(now_ns() - start) < seconds * 1e9) {
        while ((double)sent < rate * (double)(now_ns() - start) / 1e9 && o->open < STREAMS_MAX - 1) {
            start_call(o, port, max_tokens);
            sent++;
        }
        receive_calls(o, 1);
    }
    for (int i = 0; i < 1200 && o->open; i++) receive_calls(o, 100); // what was taken is answered
    uint32_t kept = o->refused < o->refused_max ? o->refused : o->refused_max;
    printf(
        "{\"bench\":\"overload\",\"seconds\":%.0f,\"sent\":%llu,\"answered\":%u,\"refused\":%u,\"other\":%u,"
        "\"lost\":%u,\"unanswered\":%u,\"refused_median_ms\":%.2f,\"refused_p99_ms\":%.2f,"
        "\"refused_max_ms\":%.2f,\"refused_after_10_ms\":%u}\n",
        seconds, (unsigned long long)sent, o->answered, o->refused, o->other, o->lost, o->open,
        median_us(o->refused_ns, kept, 0.5) / 1e3, median_us(o->refused_ns, kept, 0.99) / 1e3,
        median_us(o->refused_ns, kept, 1) / 1e3, o->late);
    free(o->refused_ns);
    free(o);
}

int main(int argc, char **argv)
{
    setting w;
    if (argc == 6 && strcmp(argv[1], "overload") == 0) {
        signal(SIGPIPE, SIG_IGN);
        measure_overload(atoi(argv[2]), atof(argv[3]), atof(argv[4]), (uint32_t)atoi(argv[5]));
        return 0;
    }
    if (argc < 4) {
        fprintf(stderr, "usage: gateway_load tokens|latency|idle BUILD MODEL [STREAMS]\n"
                        "       gateway_load overload PORT REQUESTS_A_SECOND SECONDS MAX_TOKENS\n");
        return 2;
    }
    uint32_t streams = argc > 4 ? (uint32_t)atoi(argv[4]) : 0;
    if (streams > STREAMS_MAX) die("too many streams");
    prepare(&w, argv[2], argv[3]);
    if (strcmp(argv[1], "tokens") == 0)
        measure_tokens(&w, streams ? streams : 256, 5);
    else if (strcmp(argv[1], "latency") == 0)
        measure_latency(&w, streams ? streams : 1);
    else if (strcmp(argv[1], "idle") == 0)
        measure_idle(&w, streams ? streams : 10000);
    else
        return 2;
    rmdir(w.dir);
    return 0;
}
