// SPDX-License-Identifier: Apache-2.0
// Owns: the messages of the engine link as plain structs, packed and unpacked without a socket.
// Refuses: anything whose sizes, ranges or counts do not agree. Against the model (token ids, layers) the two
// ends check further.
#pragma once

#include "proto/engine.h"
#include "proto/wire.h"

enum { TC_TOKEN_RECORD_BYTES = 16, TC_EVALUATED_BYTES_MAX = 16 << 20 };

typedef enum tc_engine_message_kind {
    TC_ENGINE_M_HELLO,
    TC_ENGINE_M_GENERATE,
    TC_ENGINE_M_CANCEL,
    TC_ENGINE_M_HOLD,
    TC_ENGINE_M_ASK,
    TC_ENGINE_M_QUESTION, // client -> core
    TC_ENGINE_M_WELCOME,
    TC_ENGINE_M_REJECT,
    TC_ENGINE_M_TOKENS,
    TC_ENGINE_M_EVALUATED,
    TC_ENGINE_M_LOGPROBS,
    TC_ENGINE_M_FINISHED,
    TC_ENGINE_M_FAILED,
    TC_ENGINE_M_STATUS,
    TC_ENGINE_M_ANSWER, // core -> client
} tc_engine_message_kind;

typedef struct tc_engine_message {
    tc_engine_message_kind kind;
    uint64_t session, id;
    bool held;                 // HOLD
    uint32_t protocol_version; // HELLO, WELCOME
    tc_generate generate;      // prompt and constraint borrow the payload
    tc_model_info info;
    uint32_t count;         // TOKENS: records of TC_TOKEN_RECORD_BYTES in `records`
    const uint8_t *records; // borrowed
    uint32_t position, positions, vocab, layers, top_k; // EVALUATED
    const float *logits;                                // borrowed, 4-byte aligned where the message is
    const int32_t *experts;                             // borrowed
    uint32_t top;                                       // LOGPROBS
    const tc_token_value *logprobs;                     // borrowed
    tc_finish finish;
    tc_usage usage;
    tc_status status;
    tc_engine_status engine;
    const uint8_t *detail; // STATUS: borrowed, or NULL; tc_engine_detail_read
    uint32_t detail_layers, detail_workers;
    tc_question question; // QUESTION
    const char *text;     // borrowed: QUESTION, ANSWER
    size_t text_bytes;
    char reason[TC_WIRE_REASON_BYTES];
} tc_engine_message;

tc_status tc_engine_pack_hello(uint64_t session, uint32_t version, tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_generate(uint64_t session, const tc_generate *request, tc_wire_header *ret,
                                  tc_error *e);
tc_status tc_engine_pack_cancel(uint64_t session, uint64_t id, tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_hold(uint64_t session, uint64_t id, bool held, tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_ask(uint64_t session, tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_question(uint64_t session, uint64_t id, tc_question question, tc_wire_header *ret,
                                  tc_error *e);
tc_status tc_engine_pack_answer(uint64_t session, uint64_t id, tc_status status, tc_wire_header *ret,
                                tc_error *e);
tc_status tc_engine_pack_welcome(uint64_t session, const tc_model_info *info, tc_wire_header *ret,
                                 tc_error *e);
tc_status tc_engine_pack_reject(uint64_t session, const char *reason, tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_tokens(uint64_t session, uint32_t count, tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_evaluated(uint64_t session, const tc_engine_message *shape, tc_wire_header *ret,
                                   tc_error *e);
tc_status tc_engine_pack_logprobs(uint64_t session, const tc_engine_message *shape, tc_wire_header *ret,
                                  tc_error *e);
tc_status tc_engine_pack_finished(uint64_t session, uint64_t id, tc_finish finish, const tc_usage *usage,
                                  tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_failed(uint64_t session, uint64_t id, tc_status status, const char *reason,
                                tc_wire_header *ret, tc_error *e);
tc_status tc_engine_pack_status(uint64_t session, const tc_engine_status *status, tc_wire_header *ret,
                                tc_error *e);

// Bytes of a detail on the wire, its writing and reading. Counts beyond the limits are a fault of the caller.
size_t tc_engine_detail_bytes(uint64_t layers, uint64_t workers);
void tc_engine_detail_write(const tc_engine_detail *detail, uint8_t *payload);
void tc_engine_detail_read(const tc_engine_message *message, tc_engine_detail *ret);

void tc_token_record_write(uint8_t *record, uint64_t id, uint32_t token, float gap);
void tc_token_record_read(const uint8_t *record, uint64_t *id, uint32_t *token, float *gap);

// TC_FORMAT: not a message of this link, or one that does not make sense (the sender's library has already
// checked). A hello or welcome of another version is TC_OK with only session and protocol_version set.
tc_status tc_engine_unpack(const void *message, size_t bytes, bool from_client, tc_engine_message *ret,
                           tc_error *e);
