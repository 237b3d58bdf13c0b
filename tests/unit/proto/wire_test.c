// SPDX-License-Identifier: Apache-2.0
// Frames, the arena, and every check of the two decoders, without a socket.
#include "common.h"
#include "proto/engine_wire.h"
#include "proto/expert_wire.h"

static void frames(void **state)
{
    const struct {
        uint32_t header_bytes;
        size_t bytes;
        bool good;
    } cases[] = {
        {0, 64, false},      {1, 11, false},
        {1, 12, true},       {8, 12, true},
        {9, 12, false},      {9, 19, false},
        {9, 20, true},       {2048, 2052, true},
        {2049, 4096, false}, {UINT32_MAX, 4096, false},
        {2048, 2051, false},
    };
    uint8_t data[4096] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_frame frame;
        memcpy(data, &cases[i].header_bytes, 4);
        tc_status status = tc_frame_parse(data, cases[i].bytes, &frame, NULL);
        assert_int_equal(status, cases[i].good ? TC_OK : TC_FORMAT);
        if (status == TC_OK) {
            assert_int_equal((frame.payload - data) % 8, 4);
            assert_ptr_equal(frame.payload + frame.payload_bytes, data + cases[i].bytes);
        }
    }
    for (size_t bytes = 0; bytes < 4; bytes++) {
        tc_frame frame;
        assert_int_equal(tc_frame_parse(data, bytes, &frame, NULL), TC_FORMAT);
    }
}

static void strings(void **state)
{
    char to[8], reason[TC_WIRE_REASON_BYTES], longer[1000];
    assert_true(tc_wire_string("1234567", to, sizeof to));
    assert_string_equal(to, "1234567");
    assert_false(tc_wire_string("12345678", to, sizeof to));
    assert_true(tc_wire_string("a\nb\x7f", to, sizeof to));
    assert_string_equal(to, "a?b?");
    memset(longer, 'x', sizeof longer);
    longer[999] = 0;
    tc_wire_reason(longer, reason);
    assert_int_equal(strlen(reason), TC_WIRE_REASON_BYTES - 1);
}

// Assembles a message the way the links do, on the border where int64 payloads are aligned.
static _Alignas(16) uint8_t space[(20 << 20) + 4];
static uint8_t *const message = space + 4;

static size_t assemble(const tc_wire_header *header, size_t payload_bytes)
{
    uint8_t *payload = tc_frame_begin(message, header);
    memset(payload, 0, payload_bytes);
    return tc_frame_bytes(header->bytes, payload_bytes);
}

// A header with many unknown fields needs more memory than the arena has: refused, nothing taken from the
// heap.
static void balloon(void **state)
{
    tc_wire_header header = {.bytes = TC_WIRE_HEADER_BYTES_MAX};
    tc_engine_message m;
    for (uint32_t i = 0; i + 2 <= header.bytes; i += 2) { // field 15, varint 0
        header.data[i] = 15 << 3;
        header.data[i + 1] = 0;
    }
    size_t bytes = assemble(&header, 0);
    assert_int_equal(tc_engine_unpack(message, bytes, true, &m, NULL), TC_FORMAT);
    assert_int_equal(tc_engine_unpack(message, bytes, false, &m, NULL), TC_FORMAT);
}

static tc_worker_hello good_hello(void)
{
    return (tc_worker_hello){.protocol_version = TC_EXPERT_PROTOCOL_VERSION,
                             .model_hash = HASH_A,
                             .store_hash = HASH_B,
                             .index = 1,
                             .of = 2,
                             .shard = TC_SHARD_SLICE,
                             .threads = 3,
                             .pid = 4711,
                             .resident_bytes = 1ull << 40};
}

static void hellos(void **state)
{
    tc_expert_message m;
    tc_wire_header header;
    tc_worker_hello hello = good_hello();
    assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
    assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), true, &m, NULL), TC_OK);
    assert_int_equal(m.kind, TC_EXPERT_HELLO);
    assert_memory_equal(&m.hello.model_hash, HASH_A, 33);
    assert_memory_equal(&m.hello.store_hash, HASH_B, 33);
    assert_int_equal(m.hello.index, 1);
    assert_int_equal(m.hello.of, 2);
    assert_int_equal(m.hello.shard, TC_SHARD_SLICE);
    assert_int_equal(m.hello.threads, 3);
    assert_int_equal(m.hello.pid, 4711);
    assert_true(m.hello.resident_bytes == 1ull << 40);

    for (int i = 0; i < 10; i++) {
        hello = good_hello();
        switch (i) {
        case 0:
            hello.index = 2;
            break;
        case 1:
            hello.of = 0;
            break;
        case 2:
            hello.of = TC_WORKERS_MAX + 1;
            break;
        case 3:
            hello.shard = (tc_shard)2;
            break;
        case 4:
            hello.threads = 0;
            break;
        case 5:
            hello.threads = TC_TEAM_THREADS_MAX + 1;
            break;
        case 6:
            hello.model_hash[31] = 0;
            break;
        case 7:
            hello.model_hash[5] = 'G';
            break;
        case 8:
            hello.store_hash[31] = 0;
            break;
        case 9:
            hello.store_hash[5] = 'G';
            break;
        }
        assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
        assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), true, &m, NULL), TC_FORMAT);
    }
    hello = good_hello();
    assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
    assert_int_equal(tc_expert_unpack(message, assemble(&header, 1), true, &m, NULL), TC_FORMAT); // payload
    assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), false, &m, NULL),
                     TC_FORMAT); // wrong direction
    hello.store_hash[0] = 0;     // not told
    hello.of = TC_WORKERS_MAX;
    hello.threads = TC_TEAM_THREADS_MAX;
    assert_int_equal(tc_expert_pack_hello(&hello, &header, NULL), TC_OK);
    assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), true, &m, NULL), TC_OK);
}

static void calls(void **state)
{
    static const tc_expert_call base = {.layer = 3,
                                        .unit_begin = 1,
                                        .unit_end = 4,
                                        .precision = TC_FAST,
                                        .tokens = 2,
                                        .hidden = 8,
                                        .pair_count = 3,
                                        .step = UINT64_MAX};
    enum { GOOD, NOT_SENT, NOT_TAKEN };
    for (int i = 0; i < 16; i++) {
        tc_expert_call call = base;
        int expect = NOT_SENT, extra = 0;
        switch (i) {
        case 0:
            expect = GOOD;
            break;
        case 1:
            call.tokens = 0;
            break;
        case 2:
            call.tokens = TC_CALL_TOKENS_MAX;
            expect = GOOD;
            break;
        case 3:
            call.tokens = TC_CALL_TOKENS_MAX + 1;
            break;
        case 4:
            call.hidden = 0;
            break;
        case 5:
            call.hidden = TC_HIDDEN_MAX;
            expect = GOOD;
            break;
        case 6:
            call.hidden = TC_HIDDEN_MAX + 1;
            break;
        case 7:
            call.pair_count = 2 * TC_TOP_K_MAX;
            expect = GOOD;
            break;
        case 8:
            call.pair_count = 2 * TC_TOP_K_MAX + 1;
            break;
        case 9:
            call.unit_begin = 4;
            break;
        case 10:
            call.unit_end = TC_WIDTH_MAX + 1;
            break;
        case 11:
            call.layer = TC_LAYERS_MAX;
            break;
        case 12:
            call.precision = (tc_precision)3;
            break;
        case 13:
            extra = 1;
            expect = NOT_TAKEN;
            break;
        case 14:
            extra = -1;
            expect = NOT_TAKEN;
            break;
        case 15:
            call.pair_count = 0;
            expect = GOOD;
            break;
        }
        tc_wire_header header;
        tc_expert_message m;
        tc_status status = tc_expert_pack_call(77, &call, &header, NULL);
        assert_int_equal(status, expect == NOT_SENT ? TC_ARGUMENT : TC_OK);
        if (status != TC_OK) continue;
        size_t bytes = assemble(&header, tc_expert_call_payload_bytes(&call)) + (size_t)extra;
        assert_int_equal(tc_expert_unpack(message, bytes, false, &m, NULL),
                         expect == GOOD ? TC_OK : TC_ARGUMENT);
        assert_int_equal(m.seq, 77);
        if (expect != GOOD) continue;
        assert_int_equal(m.call.tokens, call.tokens);
        assert_int_equal(m.call.pair_count, call.pair_count);
        assert_true(m.call.step == UINT64_MAX);
        assert_ptr_equal(m.call.pairs, m.call.x + (size_t)call.tokens * call.hidden);
    }
}

static void results(void **state)
{
    const struct {
        uint32_t tokens, hidden;
        int extra;
        bool good;
    } cases[] = {{1, 1, 0, true},
                 {TC_CALL_TOKENS_MAX, 16, 0, true},
                 {TC_CALL_TOKENS_MAX + 1, 16, 0, false},
                 {1, TC_HIDDEN_MAX, 0, true},
                 {1, TC_HIDDEN_MAX + 1, 0, false},
                 {0, 16, 0, false},
                 {4, 0, 0, false},
                 {4, 16, 8, false},
                 {4, 16, -8, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_wire_header header;
        tc_expert_message m;
        assert_int_equal(tc_expert_pack_result(5, cases[i].tokens, cases[i].hidden, 6, &header, NULL), TC_OK);
        size_t bytes =
            assemble(&header, (size_t)cases[i].tokens * cases[i].hidden * 8) + (size_t)cases[i].extra;
        assert_int_equal(tc_expert_unpack(message, bytes, true, &m, NULL), cases[i].good ? TC_OK : TC_FORMAT);
        if (cases[i].good) assert_int_equal((uintptr_t)m.sum % 8, 0);
    }
}

static void offers(void **state)
{
    char fits[TC_SEGMENT_NAME_BYTES];
    memset(fits, 'a', sizeof fits);
    fits[sizeof fits - 1] = 0;
    const struct {
        tc_expert_offer offer;
        bool good;
    } cases[] = {{{"/a", "/b", 1, 1, 1}, true},
                 {{"", "", 0, 0, 0}, true}, // none
                 {{"/a", "/b", TC_CALL_TOKENS_MAX, TC_HIDDEN_MAX, TC_CALL_TOKENS_MAX * TC_TOP_K_MAX}, true},
                 {{"/a", "/b", TC_CALL_TOKENS_MAX + 1, 1, 1}, false},
                 {{"/a", "/b", 1, TC_HIDDEN_MAX + 1, 1}, false},
                 {{"/a", "/b", 1, 1, TC_CALL_TOKENS_MAX * TC_TOP_K_MAX + 1}, false},
                 {{"/a", "/b", 0, 1, 1}, false},
                 {{"/a", "/b", 1, 0, 1}, false},
                 {{"/a", "/b", 1, 1, 0}, false},
                 {{"", "/b", 1, 1, 1}, false},
                 {{"/a", "", 1, 1, 1}, false},
                 {{"", "", 1, 0, 0}, false}};
    tc_wire_header header;
    tc_expert_message m;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(tc_expert_pack_offer(&cases[i].offer, &header, NULL), TC_OK);
        assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), false, &m, NULL),
                         cases[i].good ? TC_OK : TC_FORMAT);
        if (cases[i].good) assert_memory_equal(&m.offer, &cases[i].offer, sizeof m.offer);
        assert_int_equal(tc_expert_unpack(message, assemble(&header, 8), false, &m, NULL), TC_FORMAT);
    }
    for (int more = 0; more < 2; more++) { // the longest name, and one byte more
        tc_expert_offer offer = {.bell = "/b", .tokens_max = 1, .hidden = 1, .pairs_max = 1};
        memcpy(offer.segment, fits, sizeof fits);
        assert_int_equal(tc_expert_pack_offer(&offer, &header, NULL), TC_OK);
        size_t bytes = assemble(&header, 0);
        uint8_t *name = memchr(message, 'a', bytes), *outer = message + 5;
        if (more) { // lengthened inside the packed bytes: the lengths of the name and of what holds it
            memmove(name + 1, name, (size_t)(message + bytes - name));
            name[-1]++;
            (*outer)++;
            message[0]++;
            bytes = (4u + message[0] + 7u) / 8u * 8u + 4u;
        }
        tc_status status = tc_expert_unpack(message, bytes, false, &m, NULL);
        assert_int_equal(status, more ? TC_FORMAT : TC_OK);
    }
}

static void shares(void **state)
{
    tc_wire_header header;
    tc_expert_message m;
    for (int attached = 0; attached < 2; attached++) {
        assert_int_equal(tc_expert_pack_share(attached, attached ? NULL : "why", &header, NULL), TC_OK);
        assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), true, &m, NULL), TC_OK);
        assert_int_equal(m.kind, TC_EXPERT_SHARE);
        assert_int_equal(m.attached, attached);
        assert_string_equal(m.reason, attached ? "" : "why");
        assert_int_equal(tc_expert_unpack(message, assemble(&header, 8), true, &m, NULL), TC_FORMAT);
        assert_int_equal(tc_expert_unpack(message, assemble(&header, 0), false, &m, NULL), TC_FORMAT);
    }
}

// A status with its detail travels word for word; counts and sizes that do not agree do not.
static void details(void **state)
{
    static tc_engine_detail sent, got;
    static tc_engine_message m;
    tc_wire_header header;
    uint64_t *words = (uint64_t *)&sent;
    for (size_t i = 0; i < sizeof sent / sizeof *words; i++) words[i] = i * 0x9e3779b97f4a7c15u;
    sent.layer_count = TC_DETAIL_LAYERS_MAX;
    sent.worker_count = TC_DETAIL_WORKERS_MAX;
    tc_engine_status status = {.ready = true, .steps = 5, .detail = &sent};
    size_t bytes = tc_engine_detail_bytes(sent.layer_count, sent.worker_count);
    assert_int_equal(bytes, sizeof sent);
    uint8_t *frame = calloc(1, bytes + 8192);
    assert_int_equal(tc_engine_pack_status(1, &status, &header, NULL), TC_OK);
    tc_engine_detail_write(&sent, tc_frame_begin(frame, &header));
    assert_int_equal(tc_engine_unpack(frame, tc_frame_bytes(header.bytes, bytes), false, &m, NULL), TC_OK);
    tc_engine_detail_read(&m, &got);
    assert_memory_equal(&got, &sent, sizeof got);
    assert_int_equal(tc_engine_unpack(frame, tc_frame_bytes(header.bytes, bytes) - 8, false, &m, NULL),
                     TC_FORMAT);
    assert_int_equal(tc_engine_unpack(frame, tc_frame_bytes(header.bytes, bytes) + 8, false, &m, NULL),
                     TC_FORMAT);
    for (int k = 0; k < 2; k++) {
        sent.layer_count = TC_DETAIL_LAYERS_MAX + (k == 0);
        sent.worker_count = TC_DETAIL_WORKERS_MAX + (k == 1);
        bytes = tc_engine_detail_bytes(sent.layer_count, sent.worker_count);
        assert_int_equal(tc_engine_pack_status(1, &status, &header, NULL), TC_OK);
        tc_frame_begin(frame, &header);
        assert_int_equal(tc_engine_unpack(frame, tc_frame_bytes(header.bytes, bytes), false, &m, NULL),
                         TC_FORMAT);
    }
    free(frame);
    static const struct {
        const char *id;
        bool good;
    } ids[] = {{"a", true},    {"req-1.2_3:Z", true}, {"", false},        {"a b", false},
               {"a\"", false}, {"a\n", false},        {"\303\244", false}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        assert_int_equal(tc_request_id_is_good(ids[i].id, strlen(ids[i].id)), ids[i].good);
    char longest[TC_REQUEST_ID_BYTES_MAX + 2];
    memset(longest, 'x', sizeof longest);
    assert_true(tc_request_id_is_good(longest, TC_REQUEST_ID_BYTES_MAX));
    assert_false(tc_request_id_is_good(longest, TC_REQUEST_ID_BYTES_MAX + 1));
}

static tc_generate good_generate(void)
{
    static const uint32_t prompt[] = {1, 2, 3};
    return (tc_generate){.id = 9,
                         .prompt = prompt,
                         .prompt_count = 3,
                         .max_tokens = 4,
                         .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
}

static void generates(void **state)
{
    static uint32_t many[TC_PROMPT_TOKENS_MAX + 1];
    static const tc_token_value wild = {1, 1001}, even = {1, 1000};
    for (int i = 0; i < 36; i++) {
        tc_generate g = good_generate();
        bool good = false;
        switch (i) {
        case 0:
            good = true;
            break;
        case 1:
            g.id = 0;
            break;
        case 2:
            g.prompt_count = 0;
            break;
        case 3:
            g.prompt = many;
            g.prompt_count = TC_PROMPT_TOKENS_MAX;
            good = true;
            break;
        case 4:
            g.prompt = many;
            g.prompt_count = TC_PROMPT_TOKENS_MAX + 1;
            break;
        case 5:
            g.max_tokens = TC_GENERATE_TOKENS_MAX + 1;
            break;
        case 6:
            g.max_tokens = TC_GENERATE_TOKENS_MAX;
            good = true;
            break;
        case 7:
            g.stop_token_count = TC_STOP_TOKENS_MAX;
            good = true;
            break;
        case 8:
            g.stop_token_count = TC_STOP_TOKENS_MAX + 1;
            break;
        case 9:
            g.sampling.temperature = -0.1f;
            break;
        case 10:
            g.sampling.temperature = __builtin_nanf("");
            break;
        case 11:
            g.sampling.top_p = 0;
            break;
        case 12:
            g.sampling.top_p = 1.01f;
            break;
        case 13:
            g.sampling.min_p = 1.01f;
            break;
        case 14:
            g.sampling.repetition_penalty = 0;
            break;
        case 15:
            g.sampling.presence_penalty = __builtin_inff();
            break;
        case 16:
        case 17:
            g.priority = i == 16 ? TC_PRIORITY_MAX : -TC_PRIORITY_MAX;
            good = true;
            break;
        case 18:
        case 19:
            g.priority = i == 18 ? TC_PRIORITY_MAX + 1 : -TC_PRIORITY_MAX - 1;
            break;
        case 20: // everything at its largest fits a header
            g.more_count = TC_CHOICES_MAX - 1;
            memset(g.more_ids, 0xff, sizeof g.more_ids);
            g.stop_token_count = TC_STOP_TOKENS_MAX;
            memset(g.stop_tokens, 0xff, sizeof g.stop_tokens);
            g.deadline_us = g.scope = UINT64_MAX;
            good = true;
            break;
        case 21:
            g.more_count = TC_CHOICES_MAX;
            break;
        case 22:
            g.more_count = 1; // of id 0
            break;
        case 23:
            g.top_logprobs = TC_LOGPROBS_MAX;
            good = true;
            break;
        case 24:
            g.top_logprobs = TC_LOGPROBS_MAX + 1;
            break;
        case 25:
            g.logit_bias_count = TC_LOGIT_BIASES_MAX;
            good = true;
            break;
        case 26:
            g.logit_bias_count = TC_LOGIT_BIASES_MAX + 1;
            break;
        case 27:
            g.sampling.min_tokens = TC_GENERATE_TOKENS_MAX;
            good = true;
            break;
        case 28:
            g.sampling.min_tokens = TC_GENERATE_TOKENS_MAX + 1;
            break;
        case 29:
            g.logit_bias = &even;
            g.logit_bias_count = 1;
            good = true;
            break;
        case 30:
            g.logit_bias = &wild;
            g.logit_bias_count = 1;
            break;
        case 31:
            g.constraint = (tc_constraint){TC_CONSTRAINT_REGEX, "a+b", 3};
            good = true;
            break;
        case 32:
            g.constraint =
                (tc_constraint){TC_CONSTRAINT_GRAMMAR, (const char *)many, TC_CONSTRAINT_TEXT_BYTES_MAX};
            good = true;
            break;
        case 33:
            g.constraint =
                (tc_constraint){TC_CONSTRAINT_GRAMMAR, (const char *)many, TC_CONSTRAINT_TEXT_BYTES_MAX + 1};
            break;
        case 34:
            g.constraint = (tc_constraint){TC_CONSTRAINT_NONE, "x", 1};
            break;
        case 35:
            g.constraint.kind = TC_CONSTRAINT_KINDS;
            break;
        }
        tc_wire_header header;
        tc_engine_message m;
        assert_int_equal(tc_engine_pack_generate(1, &g, &header, NULL), good ? TC_OK : TC_ARGUMENT);
        if (!good) continue;
        size_t bytes = assemble(&header, (size_t)g.prompt_count * 4 + (size_t)g.logit_bias_count * 8 +
                                             g.constraint.bytes);
        assert_int_equal(tc_engine_unpack(message, bytes, true, &m, NULL), TC_OK);
        assert_int_equal(m.generate.priority, g.priority);
        assert_int_equal(m.generate.more_count, g.more_count);
        assert_memory_equal(m.generate.more_ids, g.more_ids, g.more_count * sizeof *g.more_ids);
        assert_int_equal(m.generate.deadline_us, g.deadline_us);
        assert_int_equal(m.generate.scope, g.scope);
        assert_int_equal(tc_engine_unpack(message, bytes - 1, true, &m, NULL), TC_FORMAT);
        assert_int_equal(tc_engine_unpack(message, bytes + 4, true, &m, NULL), TC_FORMAT);
    }
}

static void holds(void **state)
{
    tc_wire_header header;
    tc_engine_message m;
    for (int held = 0; held < 2; held++) {
        assert_int_equal(tc_engine_pack_hold(1, 77, held, &header, NULL), TC_OK);
        assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), true, &m, NULL), TC_OK);
        assert_int_equal(m.kind, TC_ENGINE_M_HOLD);
        assert_int_equal(m.id, 77);
        assert_int_equal(m.held, held);
        assert_int_equal(tc_engine_unpack(message, assemble(&header, 8), true, &m, NULL), TC_FORMAT);
        assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_FORMAT);
    }
}

static void core_messages(void **state)
{
    tc_wire_header header;
    tc_engine_message m,
        shape = {.id = 1, .position = 5, .positions = 2, .vocab = 10, .layers = 3, .top_k = 2};
    assert_int_equal(tc_engine_pack_evaluated(1, &shape, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 2 * (10 + 6) * 4), false, &m, NULL), TC_OK);
    assert_ptr_equal(m.experts, m.logits + 20);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 2 * (10 + 6) * 4 - 4), false, &m, NULL),
                     TC_FORMAT);
    shape.position = UINT32_MAX;
    assert_int_equal(tc_engine_pack_evaluated(1, &shape, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 2 * (10 + 6) * 4), false, &m, NULL),
                     TC_FORMAT);
    shape = (tc_engine_message){.id = 1, .position = 5, .positions = 2, .top = TC_LOGPROBS_MAX};
    const size_t row = (1 + TC_LOGPROBS_MAX) * 8;
    assert_int_equal(tc_engine_pack_logprobs(1, &shape, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 2 * row), false, &m, NULL), TC_OK);
    assert_true(m.kind == TC_ENGINE_M_LOGPROBS && m.top == TC_LOGPROBS_MAX && m.positions == 2);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 2 * row - 4), false, &m, NULL), TC_FORMAT);
    shape.top++;
    assert_int_equal(tc_engine_pack_logprobs(1, &shape, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 2 * row + 16), false, &m, NULL), TC_FORMAT);
    assert_int_equal(tc_engine_pack_tokens(1, 2, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 32), false, &m, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 31), false, &m, NULL), TC_FORMAT);
    assert_int_equal(tc_engine_pack_tokens(1, 0, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_FORMAT);
    assert_int_equal(tc_engine_pack_tokens(1, UINT32_MAX, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 16), false, &m, NULL), TC_FORMAT);
    assert_int_equal(tc_engine_pack_failed(1, 2, (tc_status)99, "why", &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_OK);
    assert_int_equal(m.status, TC_INTERNAL); // a status of a later version
    assert_string_equal(m.reason, "why");
    tc_usage usage = {0};
    assert_int_equal(tc_engine_pack_finished(1, 2, (tc_finish)3, &usage, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_FORMAT);
    tc_model_info info = {.family = "f", .layers = 1, .hidden = 1, .vocab = 1};
    assert_int_equal(tc_engine_pack_welcome(1, &info, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_OK);
    info.vocab = TC_VOCAB_MAX + 1;
    assert_int_equal(tc_engine_pack_welcome(1, &info, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_FORMAT);
}

static void questions(void **state)
{
    (void)state;
    tc_wire_header header;
    tc_engine_message m;
    assert_int_equal(tc_engine_pack_question(1, 5, TC_ASK_MEMORY, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, TC_QUESTION_BYTES_MAX), true, &m, NULL),
                     TC_OK);
    assert_true(m.kind == TC_ENGINE_M_QUESTION && m.id == 5 && m.question == TC_ASK_MEMORY);
    assert_int_equal(m.text_bytes, TC_QUESTION_BYTES_MAX);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, TC_QUESTION_BYTES_MAX + 1), true, &m, NULL),
                     TC_FORMAT);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL),
                     TC_FORMAT); // a client's only
    assert_int_equal(tc_engine_pack_question(1, 5, TC_QUESTIONS, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), true, &m, NULL), TC_FORMAT);
    assert_int_equal(tc_engine_pack_answer(1, 6, TC_LIMIT, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 9), false, &m, NULL), TC_OK);
    assert_true(m.kind == TC_ENGINE_M_ANSWER && m.id == 6 && m.status == TC_LIMIT && m.text_bytes == 9);
    assert_int_equal(tc_engine_pack_answer(1, 6, TC_STATUS_COUNT, &header, NULL), TC_OK);
    assert_int_equal(tc_engine_unpack(message, assemble(&header, 0), false, &m, NULL), TC_OK);
    assert_int_equal(m.status, TC_INTERNAL);
}

static void hints(void **state)
{
    (void)state;
    static tc_expert_hint list[TC_EXPERT_HINTS_MAX + 1];
    tc_wire_header header;
    tc_engine_message m;
    tc_generate g = good_generate();
    g.hints = list;
    g.conversation = 7;
    g.expert_profile = 8;
    for (g.hint_count = TC_EXPERT_HINTS_MAX; g.hint_count <= TC_EXPERT_HINTS_MAX + 1; g.hint_count++) {
        bool good = g.hint_count <= TC_EXPERT_HINTS_MAX;
        assert_int_equal(tc_engine_pack_generate(1, &g, &header, NULL), good ? TC_OK : TC_ARGUMENT);
        if (!good) break;
        size_t bytes = assemble(&header, (size_t)g.prompt_count * 4 + (size_t)g.logit_bias_count * 8 +
                                             g.hint_count * sizeof *list + g.constraint.bytes);
        memset(message + bytes - g.hint_count * sizeof *list, 0, g.hint_count * sizeof *list);
        assert_int_equal(tc_engine_unpack(message, bytes, true, &m, NULL), TC_OK);
        assert_true(m.generate.hint_count == g.hint_count && m.generate.conversation == 7 &&
                    m.generate.expert_profile == 8);
        assert_int_equal(tc_engine_unpack(message, bytes - sizeof *list, true, &m, NULL), TC_FORMAT);
        memset(message + bytes - 4, 2, 1); // neither pinned nor not
        assert_int_equal(tc_engine_unpack(message, bytes, true, &m, NULL), TC_FORMAT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames),    cmocka_unit_test(strings),       cmocka_unit_test(balloon),
        cmocka_unit_test(hellos),    cmocka_unit_test(calls),         cmocka_unit_test(results),
        cmocka_unit_test(generates), cmocka_unit_test(core_messages), cmocka_unit_test(offers),
        cmocka_unit_test(details),   cmocka_unit_test(shares),        cmocka_unit_test(holds),
        cmocka_unit_test(questions), cmocka_unit_test(hints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
