// SPDX-License-Identifier: Apache-2.0
// Client and core over a real ipc socket: every field arrives, nothing is lost to a slow reader, a second
// client does not disturb the first, and whoever breaks the protocol is hung up on.
#include "common.h"
#include "proto/engine_wire.h"
#include "proto/expert.h"
#include "proto/link.h"
#include <poll.h>
#include <pthread.h>

static const tc_model_info model = {.family = "qwen3_next",
                                    .model_hash = HASH_A,
                                    .device = "cpu",
                                    .precision = "default",
                                    .isa = "avx2",
                                    .layers = 3,
                                    .hidden = 64,
                                    .vocab = 1000,
                                    .experts = 32,
                                    .top_k = 4,
                                    .context = 4096,
                                    .sessions_max = 8,
                                    .weights_bytes = 1,
                                    .experts_bytes = 1ull << 36,
                                    .kv_budget_bytes = 3,
                                    .do_sample = true,
                                    .temperature = 0.7f,
                                    .top_p = 0.8f,
                                    .min_p = 0.01f,
                                    .repetition_penalty = 1.1f,
                                    .default_top_k = 20};

static tc_engine_server *open_server(const char *url, const tc_model_info *info)
{
    tc_engine_server *server = NULL;
    tc_error error;
    if (tc_engine_server_open(url, info, &server, &error) != TC_OK) fail_msg("%s", error.text);
    return server;
}

static tc_engine_client *open_client(const char *url)
{
    tc_engine_client *client = NULL;
    assert_int_equal(tc_engine_client_open(url, &client, NULL), TC_OK);
    return client;
}

// Lets both ends run until the client is up.
static void meet(tc_engine_server *server, tc_engine_client *client)
{
    uint64_t deadline_us = tc_now_us() + WAIT_US;
    tc_command command;
    tc_engine_event event;
    tc_status status;
    do {
        tc_engine_server_next(server, 0, &command);
        status = tc_engine_client_next(client, 5000, &event);
    } while ((status == TC_TIMEOUT || event.kind == TC_ENGINE_DOWN) && tc_now_us() < deadline_us);
    assert_int_equal(status, TC_OK);
    assert_int_equal(event.kind, TC_ENGINE_UP);
    assert_string_equal(event.info->family, model.family);
    assert_string_equal(event.info->model_hash, HASH_A);
    assert_string_equal(event.info->isa, "avx2");
    assert_true(event.info->experts_bytes == 1ull << 36);
    assert_true(event.info->temperature == 0.7f && event.info->min_p == 0.01f);
    assert_int_equal(event.info->default_top_k, 20);
}

static tc_engine_event client_expect(tc_engine_client *client, tc_engine_event_kind kind)
{
    tc_engine_event event;
    assert_int_equal(tc_engine_client_next(client, WAIT_US, &event), TC_OK);
    if (event.kind != kind) fail_msg("event %d, not %d: %s", event.kind, kind, event.reason);
    return event;
}

static tc_command server_expect(tc_engine_server *server, tc_command_kind kind)
{
    tc_command command;
    assert_int_equal(tc_engine_server_next(server, WAIT_US, &command), TC_OK);
    assert_int_equal(command.kind, kind);
    return command;
}

static tc_generate request_of(uint64_t id)
{
    static const uint32_t prompt[] = {7, 0, 999};
    return (tc_generate){.id = id,
                         .prompt = prompt,
                         .prompt_count = 3,
                         .max_tokens = 100,
                         .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
}

static void all_fields(void **state)
{
    const char *url = fresh_url();
    tc_engine_client *client = open_client(url);
    tc_generate request = request_of(UINT64_MAX);
    assert_int_equal(tc_engine_client_generate(client, &request, NULL), TC_CLOSED);
    tc_engine_server *server = open_server(url, &model);
    meet(server, client);

    request.sampling = (tc_sampling){0.5f, 0.9f, 0.1f, 40, 1.2f, -0.5f, 0.25f, true, UINT64_MAX - 1};
    request.stop_token_count = TC_STOP_TOKENS_MAX;
    for (uint32_t i = 0; i < TC_STOP_TOKENS_MAX; i++) request.stop_tokens[i] = UINT32_MAX - i;
    request.ignore_eos = request.want_experts = request.optimize_experts = true;
    const tc_token_value bias[] = {{3, -1.5f}, {model.vocab - 1, 1000}};
    request.logit_bias = bias;
    request.logit_bias_count = 2;
    request.want_logprobs = true;
    request.top_logprobs = TC_LOGPROBS_MAX;
    request.sampling.min_tokens = 9;
    assert_int_equal(tc_engine_client_generate(client, &request, NULL), TC_OK);
    tc_generate got = server_expect(server, TC_COMMAND_GENERATE).generate;
    assert_true(got.id == UINT64_MAX);
    assert_int_equal(got.prompt_count, 3);
    assert_memory_equal(got.prompt, request.prompt, 12);
    assert_int_equal(got.max_tokens, 100);
    assert_memory_equal(&got.sampling.temperature, &request.sampling.temperature, 7 * 4);
    assert_true(got.sampling.seeded && got.sampling.seed == UINT64_MAX - 1);
    assert_int_equal(got.stop_token_count, TC_STOP_TOKENS_MAX);
    assert_memory_equal(got.stop_tokens, request.stop_tokens, sizeof got.stop_tokens);
    assert_true(got.want_logprobs && !got.want_prompt_logprobs && got.top_logprobs == TC_LOGPROBS_MAX);
    assert_true(got.logit_bias_count == 2 && got.sampling.min_tokens == 9);
    assert_memory_equal(got.logit_bias, bias, sizeof bias);
    assert_true(got.ignore_eos && !got.want_logits && got.want_experts && !got.want_gaps &&
                got.optimize_experts);

    assert_int_equal(tc_engine_client_cancel(client, 5), TC_OK);
    assert_int_equal(server_expect(server, TC_COMMAND_CANCEL).id, 5);
    assert_int_equal(tc_engine_client_ask_status(client), TC_OK);
    server_expect(server, TC_COMMAND_STATUS);
    tc_engine_status status = {.ready = true,
                               .workers_up = 2,
                               .steps = 77,
                               .decode_allocations = 3,
                               .expert_reads = 5,
                               .experts_fetched = 6,
                               .reason = "because"};
    tc_engine_server_status(server, &status);
    tc_engine_event event = client_expect(client, TC_ENGINE_STATUS);
    assert_memory_equal(event.engine, &status, sizeof status);
    static tc_engine_detail detail = {.memory_bytes = {1, 2, 3}, .layer_count = 3, .worker_count = 2};
    detail.layers[2] = (tc_layer_lookups){4, 5};
    detail.workers[1].calls = 6;
    status.detail = &detail;
    tc_engine_server_status(server, &status);
    event = client_expect(client, TC_ENGINE_STATUS);
    assert_memory_equal(event.engine->detail, &detail, sizeof detail);

    tc_usage usage = {1, 2, 3, 4, 5, 6, 7};
    tc_engine_server_token(server, 9, 999, 0.5f);
    tc_engine_server_finished(server, 9, TC_FINISH_CANCELLED, &usage); // flushes the token first
    event = client_expect(client, TC_ENGINE_TOKEN);
    assert_int_equal(event.id, 9);
    assert_int_equal(event.token, 999);
    assert_true(event.gap == 0.5f);
    event = client_expect(client, TC_ENGINE_FINISHED);
    assert_int_equal(event.finish, TC_FINISH_CANCELLED);
    assert_int_equal(event.usage.prompt_tokens, 1);
    assert_int_equal(event.usage.expert_misses, 7);
    tc_engine_server_failed(server, 10, TC_BUDGET, "too much");
    event = client_expect(client, TC_ENGINE_FAILED);
    assert_int_equal(event.id, 10);
    assert_int_equal(event.status, TC_BUDGET);
    assert_string_equal(event.reason, "too much");
    tc_engine_client_close(client);
    server_expect(server, TC_COMMAND_CLIENT_GONE);
    tc_engine_server_close(server);
}

static void bad_requests_stay_home(void **state)
{
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &model);
    tc_engine_client *client = open_client(url);
    tc_error error;
    meet(server, client);
    tc_generate request = request_of(0);
    assert_int_equal(tc_engine_client_generate(client, &request, &error), TC_ARGUMENT);
    const uint32_t outside[] = {1, 1000};
    request = request_of(1);
    request.prompt = outside;
    request.prompt_count = 2;
    assert_int_equal(tc_engine_client_generate(client, &request, &error), TC_ARGUMENT);
    assert_non_null(strstr(error.text, "1000"));
    request.prompt_count = 1;
    assert_int_equal(tc_engine_client_generate(client, &request, &error), TC_OK);
    server_expect(server, TC_COMMAND_GENERATE);
    tc_engine_client_close(client);
    tc_engine_server_close(server);
    tc_engine_client_close(NULL);
    tc_engine_server_close(NULL);
}

enum { MANY_TOKENS = 10000 };

static void *stream_tokens(void *arg)
{
    tc_engine_server *server = arg;
    for (uint32_t i = 0; i < MANY_TOKENS; i++) {
        tc_engine_server_token(server, 1 + i % 3, i % 1000, (float)i);
        if (i % 7 != 0) tc_engine_server_flush(server); // more messages than the queues between the two hold
    }
    tc_usage usage = {.generated_tokens = MANY_TOKENS};
    tc_engine_server_finished(server, 1, TC_FINISH_LENGTH, &usage);
    return NULL;
}

static void slow_reader_loses_nothing(void **state)
{
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &model);
    tc_engine_client *client = open_client(url);
    pthread_t thread;
    meet(server, client);
    pthread_create(&thread, NULL, stream_tokens, server);
    usleep(300000);
    for (uint32_t i = 0; i < MANY_TOKENS; i++) {
        tc_engine_event event = client_expect(client, TC_ENGINE_TOKEN);
        if (event.token != i % 1000 || event.id != 1 + i % 3 || event.gap != (float)i)
            fail_msg("token %u is wrong", i);
        if (i % 1000 == 0) usleep(20000);
    }
    client_expect(client, TC_ENGINE_FINISHED);
    pthread_join(thread, NULL);
    tc_engine_client_close(client);
    tc_engine_server_close(server);
}

// Logits of 3 chunks: more than fits one message.
static void evaluated_is_split(void **state)
{
    tc_model_info info = model;
    info.vocab = 150000;
    enum { POSITIONS = 60 };
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &info);
    tc_engine_client *client = open_client(url);
    size_t n = (size_t)POSITIONS * info.vocab, n_experts = (size_t)POSITIONS * info.layers * info.top_k;
    float *logits = malloc(n * sizeof *logits);
    int32_t *experts = malloc(n_experts * sizeof *experts);
    for (size_t i = 0; i < n; i++) logits[i] = (float)i;
    for (size_t i = 0; i < n_experts; i++) experts[i] = (int32_t)i - 1;
    meet(server, client);
    tc_engine_server_evaluated(server, 4, 10, POSITIONS, info.vocab, logits, info.layers, info.top_k,
                               experts);
    uint32_t seen = 0, events = 0;
    while (seen < POSITIONS) {
        tc_engine_event event = client_expect(client, TC_ENGINE_EVALUATED);
        assert_int_equal(event.id, 4);
        assert_int_equal(event.position, 10 + seen);
        assert_memory_equal(event.logits, logits + (size_t)seen * info.vocab,
                            (size_t)event.positions * info.vocab * 4);
        assert_memory_equal(event.experts, experts + (size_t)seen * 12, (size_t)event.positions * 12 * 4);
        assert_true((size_t)event.positions * info.vocab * 4 <= TC_EVALUATED_BYTES_MAX);
        seen += event.positions;
        events++;
    }
    assert_int_equal(seen, POSITIONS);
    assert_true(events >= 3);
    tc_engine_server_evaluated(server, 5, 0, 2, info.vocab, NULL, info.layers, info.top_k, experts);
    tc_engine_event event = client_expect(client, TC_ENGINE_EVALUATED);
    assert_null(event.logits);
    assert_memory_equal(event.experts, experts, 2 * 12 * 4);
    tc_engine_server_evaluated(server, 6, 0, 2, info.vocab, logits, info.layers, info.top_k, NULL);
    event = client_expect(client, TC_ENGINE_EVALUATED);
    assert_null(event.experts);
    assert_memory_equal(event.logits, logits, 2u * info.vocab * 4);
    const tc_token_value values[] = {{1, -0.5f}, {1, -0.5f}, {2, -1}, {3, -2}, {1, -0.25f}, {3, -3}};
    tc_engine_server_token(server, 7, 5, 0);
    tc_engine_server_logprobs(server, 7, 4, 2, 2, values);
    tc_engine_server_flush(server);
    event = client_expect(client, TC_ENGINE_LOGPROBS); // before the token that was gathered
    assert_true(event.id == 7 && event.position == 4 && event.positions == 2 && event.top == 2);
    assert_memory_equal(event.logprobs, values, sizeof values);
    client_expect(client, TC_ENGINE_TOKEN);
    free(logits);
    free(experts);
    tc_engine_client_close(client);
    tc_engine_server_close(server);
}

static void second_client_waits(void **state)
{
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &model);
    tc_engine_client *first = open_client(url);
    meet(server, first);
    tc_engine_client *second = open_client(url);
    tc_command command;
    tc_engine_event event;
    uint32_t told = 0;
    for (uint64_t start_us = tc_now_us(); tc_now_us() - start_us < 1500000;) { // a few attempts
        assert_int_equal(tc_engine_server_next(server, 2000, &command),
                         TC_TIMEOUT); // the core sees nothing of it
        if (tc_engine_client_next(second, 2000, &event) != TC_OK) continue;
        assert_int_equal(event.kind, TC_ENGINE_DOWN);
        assert_non_null(strstr(event.reason, "another client"));
        told++;
    }
    assert_int_equal(told, 1);
    assert_int_equal(tc_engine_client_ask_status(second), TC_CLOSED);
    tc_generate request = request_of(1);
    assert_int_equal(tc_engine_client_generate(first, &request, NULL), TC_OK);
    server_expect(server, TC_COMMAND_GENERATE);
    tc_engine_server_token(server, 1, 5, 0);
    tc_engine_server_flush(server);
    client_expect(first, TC_ENGINE_TOKEN);
    tc_engine_client_close(first);
    server_expect(server, TC_COMMAND_CLIENT_GONE);
    meet(server, second); // its turn
    tc_engine_client_close(second);
    tc_engine_server_close(server);
}

// What was meant for a client that left must not reach the next one.
static void nothing_is_left_over(void **state)
{
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &model);
    for (int i = 0; i < 5; i++) {
        tc_engine_client *client = open_client(url);
        tc_engine_event event;
        meet(server, client);
        assert_int_equal(tc_engine_client_next(client, 20000, &event), TC_TIMEOUT);
        for (int j = 0; j < 200; j++) {
            tc_engine_server_token(server, 1, 1, 0);
            tc_engine_server_flush(server);
        }
        tc_engine_client_close(client);
        for (int j = 0; j < 10; j++) {
            tc_engine_server_token(server, 1, 1, 0);
            tc_engine_server_flush(server);
        }
        server_expect(server, TC_COMMAND_CLIENT_GONE);
        tc_engine_server_token(server, 1, 1, 0); // nobody there: does nothing
        tc_engine_server_flush(server);
    }
    tc_engine_server_close(server);
}

static void core_restart(void **state)
{
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &model);
    tc_engine_client *client = open_client(url);
    meet(server, client);
    tc_engine_server_close(server);
    client_expect(client, TC_ENGINE_DOWN);
    assert_int_equal(tc_engine_client_cancel(client, 1), TC_CLOSED);
    assert_int_equal(tc_engine_client_hold(client, 1, true), TC_CLOSED);
    server = open_server(url, &model);
    meet(server, client);
    struct pollfd fd = {.fd = tc_engine_server_fd(server), .events = POLLIN};
    tc_engine_client_ask_status(client);
    assert_int_equal(poll(&fd, 1, 5000), 1);
    server_expect(server, TC_COMMAND_STATUS);
    tc_engine_client_close(client);
    tc_engine_server_close(server);
}

static void liars_are_cut_off(void **state)
{
    const char *url = fresh_url();
    tc_engine_server *server = open_server(url, &model);
    for (int i = 0; i < 6; i++) {
        int socket = raw_dial(url);
        tc_wire_header header;
        tc_command command;
        uint8_t frame[4096];
        tc_engine_message m;
        uint32_t version = TC_ENGINE_PROTOCOL_VERSION + (i == 5);
        assert_int_equal(tc_engine_pack_hello(42, version, &header, NULL), TC_OK);
        raw_send_header(socket, &header, 0);
        assert_int_equal(tc_engine_server_next(server, 100000, &command), TC_TIMEOUT);
        size_t bytes = raw_receive(socket, frame, sizeof frame);
        assert_int_equal(tc_engine_unpack(frame, bytes, false, &m, NULL), TC_OK);
        assert_int_equal(m.kind, i == 5 ? TC_ENGINE_M_REJECT : TC_ENGINE_M_WELCOME);
        assert_int_equal(m.session, 42);
        tc_generate request = request_of(1);
        switch (i) {
        case 0:
            raw_send(socket, "garbage garbage garbage", 23);
            break;
        case 1:
            raw_send(socket, "", 0);
            break;
        case 2: // prompt shorter than it says
            tc_engine_pack_generate(42, &request, &header, NULL);
            raw_send_header(socket, &header, 8);
            break;
        case 3:
            raw_send_header(socket, &header, 0);
            break; // hello twice
        case 4:    // left over from another connection: ignored, not punished
            tc_engine_pack_ask(41, &header, NULL);
            raw_send_header(socket, &header, 0);
            assert_int_equal(tc_engine_server_next(server, 100000, &command), TC_TIMEOUT);
            break;
        }
        if (i == 4) close(socket);
        if (i < 5) server_expect(server, TC_COMMAND_CLIENT_GONE);
        if (i != 4) close(socket);
    }
    int socket = raw_dial(url);
    tc_wire_header header;
    tc_command command;
    tc_engine_pack_hello(42, TC_ENGINE_PROTOCOL_VERSION, &header, NULL);
    raw_send_header(socket, &header, 0);
    assert_int_equal(tc_engine_server_next(server, 100000, &command), TC_TIMEOUT);
    raw_prefix(socket, TC_WIRE_MESSAGE_BYTES_MAX + 1);
    server_expect(server, TC_COMMAND_CLIENT_GONE);
    close(socket);
    tc_engine_server_close(server);
}

// A core that lies to its client.
static void lying_core(void **state)
{
    for (int i = 0; i < 5; i++) {
        const char *url = fresh_url();
        tc_engine_message m, shape = {.id = 1, .positions = 1, .vocab = 999};
        tc_engine_event event;
        tc_wire_header header;
        uint8_t record[64] = {0}, frame[4096];
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s", url + strlen("ipc://"));
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(listener, (void *)&address, sizeof address), 0);
        assert_int_equal(listen(listener, 1), 0);
        tc_engine_client *client = open_client(url);
        assert_int_equal(tc_engine_client_next(client, 200000, &event), TC_TIMEOUT);
        int fd = accept(listener, NULL, NULL);
        size_t bytes = raw_receive(fd, frame, sizeof frame);
        assert_int_equal(tc_engine_unpack(frame, bytes, true, &m, NULL), TC_OK);
        tc_engine_pack_welcome(m.session, &model, &header, NULL);
        raw_send_header(fd, &header, 0);
        client_expect(client, TC_ENGINE_UP);
        switch (i) {
        case 0:
            raw_send(fd, "garbage garbage garbage", 23);
            break;
        case 1: // logits of another vocabulary
            tc_engine_pack_evaluated(m.session, &shape, &header, NULL);
            raw_send_header(fd, &header, 999 * 4);
            break;
        case 2:
            raw_send_header(fd, &header, 0);
            break; // welcome twice
        case 3:    // a token outside the vocabulary
            tc_engine_pack_tokens(m.session, 1, &header, NULL);
            uint8_t *payload = tc_frame_begin(record, &header);
            tc_token_record_write(payload, 1, model.vocab, 0);
            raw_send(fd, record, tc_frame_bytes(header.bytes, TC_TOKEN_RECORD_BYTES));
            break;
        case 4:
            tc_engine_pack_reject(m.session, "no", &header, NULL);
            raw_send_header(fd, &header, 0);
            break;
        }
        event = client_expect(client, TC_ENGINE_DOWN);
        assert_string_not_equal(event.reason, "connection closed");
        tc_engine_client_close(client);
        close(fd);
        close(listener);
        unlink(address.sun_path);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_fields),
        cmocka_unit_test(bad_requests_stay_home),
        cmocka_unit_test(slow_reader_loses_nothing),
        cmocka_unit_test(evaluated_is_split),
        cmocka_unit_test(second_client_waits),
        cmocka_unit_test(nothing_is_left_over),
        cmocka_unit_test(core_restart),
        cmocka_unit_test(liars_are_cut_off),
        cmocka_unit_test(lying_core),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
