// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/gateway/fixture.h"

#include "common/base/log.h"
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static void append_char(char *out, size_t *n, unsigned code) // as UTF-8, with JSON's escapes
{
    if (code == '"' || code == '\\') {
        out[(*n)++] = '\\';
        out[(*n)++] = (char)code;
    } else if (code < 0x80) {
        out[(*n)++] = (char)code;
    } else {
        out[(*n)++] = (char)(0xc0 | code >> 6);
        out[(*n)++] = (char)(0x80 | (code & 63));
    }
}

tc_tokenizer *byte_tokenizer(void)
{
    static const char head[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":256,\"content\":"
        "\"<|end|>\","
        "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},"
        "{\"id\":257,\"content\":\"<|im_start|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true},"
        "{\"id\":258,\"content\":\"<|im_end|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true}],"
        "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
        "\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{"
        "N}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":"
        "\"Isolated\","
        "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_"
        "regex\":false}]},"
        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_"
        "offsets\":true,"
        "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
        "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":"
        "false,"
        "\"ignore_merges\":false,\"vocab\":{";
    char json[16384];
    tc_error e = {0};
    tc_tokenizer *tokenizer = NULL;
    size_t n = sizeof head - 1;
    memcpy(json, head, n);
    unsigned moved = 256;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool shown = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        n += (size_t)snprintf(json + n, 8, "%s\"", byte ? "," : "");
        append_char(json, &n, shown ? byte : moved++);
        n += (size_t)snprintf(json + n, 16, "\":%u", byte);
    }
    n += (size_t)snprintf(json + n, 32, "},\"merges\":[]}}");
    tc_status status = tc_tokenizer_parse(json, n, "bytes", &tokenizer, &e);
    if (status != TC_OK) fail_msg("%s", e.text);
    return tokenizer;
}

void fixture_prepare(gateway_fixture *f)
{
    memset(f, 0, sizeof *f);
    tc_log_init("gateway-test", TC_LOG_ERROR, false);
    fake_reset();
    f->tokenizer = byte_tokenizer();
    assert_int_equal(tc_chat_template_parse(NULL, NULL, f->tokenizer, &f->chat_template, NULL), TC_OK);
    f->options = (tc_gateway_options){
        .listen = "127.0.0.1:0",
        .engine_url = "fake:",
        .tokenizer = f->tokenizer,
        .chat_template = f->chat_template,
        .model = {.name = "org/tiny",
                  .context = 4096,
                  .vocab = 260,
                  .defaults = {.temperature = 0.7f, .top_p = 0.8f, .top_k = 20, .repetition_penalty = 1}},
        .limits = tc_gateway_default_limits(),
    };
    f->options.limits.sweep_ms = 20;
    f->options.limits.status_ms = 50;
}

static void on_drained(void *arg)
{
    gateway_fixture *f = arg;
    tc_gateway_free(f->gateway);
    f->gateway = NULL;
    uv_close((uv_handle_t *)&f->stop, NULL);
}

static void on_stop(uv_async_t *async)
{
    gateway_fixture *f = async->data;
    if (f->gateway) tc_gateway_drain(f->gateway, f->drain_ms, on_drained, f);
}

static void *run(void *arg)
{
    gateway_fixture *f = arg;
    uv_run(&f->loop, UV_RUN_DEFAULT);
    return NULL;
}

void fixture_start(gateway_fixture *f)
{
    tc_error e = {0};
    uv_loop_init(&f->loop);
    if (tc_gateway_open(&f->loop, &f->options, &f->gateway, &e) != TC_OK) fail_msg("%s", e.text);
    uv_async_init(&f->loop, &f->stop, on_stop);
    f->stop.data = f;
    const char *address = tc_gateway_address(f->gateway);
    if (strncmp(address, "unix:", 5) == 0)
        snprintf(f->socket_path, sizeof f->socket_path, "%s", address + 5);
    else
        f->port = atoi(strrchr(address, ':') + 1);
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
}

void fixture_drain(gateway_fixture *f, uint64_t drain_ms)
{
    f->drain_ms = drain_ms;
    uv_async_send(&f->stop);
}

void fixture_join(gateway_fixture *f)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    if (pthread_timedjoin_np(f->thread, NULL, &until) != 0) {
        fprintf(stderr, "the gateway did not end\n");
        abort();
    }
    assert_int_equal(uv_loop_close(&f->loop), 0); // every handle was closed
    tc_chat_template_free(f->chat_template);
    tc_tokenizer_free(f->tokenizer);
}

void fixture_stop(gateway_fixture *f)
{
    fixture_drain(f, 0);
    fixture_join(f);
}

int setup_up(void **state)
{
    gateway_fixture *f = calloc(1, sizeof *f);
    fixture_prepare(f);
    fake_up();
    fixture_start(f);
    *state = f;
    for (int i = 0; i < 200; i++) { // until the core's first status is known
        answer a = get(f, "/api/v1/health");
        free(a.body);
        if (a.status == 200) return 0;
        usleep(10000);
    }
    return -1;
}

int teardown(void **state)
{
    gateway_fixture *f = *state;
    fixture_stop(f);
    free(f);
    fake_reset();
    return 0;
}

client dial(const gateway_fixture *f)
{
    client c = {0};
    if (*f->socket_path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%.107s", f->socket_path);
        c.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(c.fd, (struct sockaddr *)&address, sizeof address), 0);
    } else if (strchr(f->options.listen, '[')) {
        struct sockaddr_in6 address = {.sin6_family = AF_INET6,
                                       .sin6_port = htons((uint16_t)f->port),
                                       .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        c.fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(c.fd, (struct sockaddr *)&address, sizeof address), 0);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->port)};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        c.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(c.fd, (struct sockaddr *)&address, sizeof address), 0);
    }
    return c;
}

void hang_up(client *c)
{
    if (c->fd >= 0) close(c->fd);
    free(c->data);
    *c = (client){.fd = -1};
}

void tell_bytes(client *c, const void *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(c->fd, data, bytes, MSG_NOSIGNAL);
        if (n <= 0) return; // refused early: the answer says why
        data = (const char *)data + n;
        bytes -= (size_t)n;
    }
}

void tell(client *c, const char *text)
{
    tell_bytes(c, text, strlen(text));
}

bool more(client *c)
{
    struct pollfd look = {.fd = c->fd, .events = POLLIN};
    if (c->eof || poll(&look, 1, 5000) != 1) return false;
    c->data = realloc(c->data, c->count + 65537);
    assert_non_null(c->data);
    ssize_t n = recv(c->fd, c->data + c->count, 65536, 0);
    if (n <= 0) {
        c->eof = true;
        return false;
    }
    c->count += (size_t)n;
    c->data[c->count] = 0;
    return true;
}

bool is_closed(client *c)
{
    size_t before = c->count;
    more(c);
    return c->eof && c->count == before;
}

static const char *header(const answer *a, const char *name)
{
    const char *at = strcasestr(a->head, name);
    return at ? at + strlen(name) : NULL;
}

static void read_chunks(client *c, answer *a)
{
    for (;;) {
        char *line;
        while (!(line = c->data ? memmem(c->data + c->taken, c->count - c->taken, "\r\n", 2) : NULL))
            if (!more(c)) return;
        size_t size = strtoul(c->data + c->taken, NULL, 16);
        size_t start = (size_t)(line - c->data) + 2;
        while (c->count < start + size + 2)
            if (!more(c)) return;
        assert_memory_equal(c->data + start + size, "\r\n", 2);
        a->body = realloc(a->body, a->bytes + size + 1);
        memcpy(a->body + a->bytes, c->data + start, size);
        a->bytes += size;
        a->body[a->bytes] = 0;
        c->taken = start + size + 2;
        if (size == 0) {
            a->complete = true;
            return;
        }
    }
}

answer listen_to(client *c, bool head_only)
{
    answer a = {.body = calloc(1, 1)};
    char *end;
    while (
        !(end = c->count > c->taken ? memmem(c->data + c->taken, c->count - c->taken, "\r\n\r\n", 4) : NULL))
        if (!more(c)) return a;
    size_t n = (size_t)(end - c->data) + 4 - c->taken;
    assert_true(n < sizeof a.head);
    memcpy(a.head, c->data + c->taken, n);
    c->taken += n;
    assert_memory_equal(a.head, "HTTP/1.1 ", 9);
    a.status = atoi(a.head + 9);
    if (a.status == 100) return a;
    const char *length = header(&a, "\r\nContent-Length: ");
    if (head_only) {
        a.complete = true;
    } else if (header(&a, "\r\nTransfer-Encoding: chunked")) {
        read_chunks(c, &a);
    } else {
        size_t bytes = length ? strtoul(length, NULL, 10) : SIZE_MAX;
        while (c->count - c->taken < bytes && more(c)) {
        }
        a.complete = length ? c->count - c->taken >= bytes : c->eof;
        a.bytes = length && a.complete ? bytes : c->count - c->taken;
        a.body = realloc(a.body, a.bytes + 1);
        memcpy(a.body, c->data + c->taken, a.bytes);
        a.body[a.bytes] = 0;
        c->taken += a.bytes;
    }
    return a;
}

answer ask(const gateway_fixture *f, const char *request)
{
    client c = dial(f);
    tell(&c, request);
    answer a = listen_to(&c, strncmp(request, "HEAD ", 5) == 0);
    hang_up(&c);
    return a;
}

char *post_text(const char *path, const char *body)
{
    char *text = NULL;
    assert_true(asprintf(&text,
                         "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                         "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                         path, strlen(body), body) > 0);
    return text;
}

answer post(const gateway_fixture *f, const char *path, const char *body)
{
    char *text = post_text(path, body);
    answer a = ask(f, text);
    free(text);
    return a;
}

answer get(const gateway_fixture *f, const char *path)
{
    char text[9000];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost:1\r\n\r\n", path);
    return ask(f, text);
}

void wait_body(client *c, const char *needle)
{
    while (!c->data || !memmem(c->data + c->taken, c->count - c->taken, needle, strlen(needle)))
        if (!more(c)) fail_msg("'%s' did not come; there is: %s", needle, c->data ? c->data : "nothing");
}

bool has(const answer *a, const char *text)
{
    return memmem(a->body, a->bytes, text, strlen(text)) || strstr(a->head, text);
}
