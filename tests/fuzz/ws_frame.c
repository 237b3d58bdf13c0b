// SPDX-License-Identifier: Apache-2.0
// Owns: WebSocket frames from a hostile client, cut into pieces that the input chooses. What comes out is a
// valid text within its limit, a short control frame, or one close code; after the end nothing comes.
#include "gateway/ws_frame.h"
#include "gateway/answer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static void check(const tc_ws_parser *p, tc_ws_event event)
{
    CHECK(p->message.count <= 1000 && p->control_bytes <= TC_WS_CONTROL_BYTES_MAX);
    if (event == TC_WS_EVENT_ERROR)
        CHECK(p->ended && p->close_code >= 1002 && p->close_code <= 1011 && *p->reason);
    if (event == TC_WS_EVENT_CLOSE) CHECK(p->ended && p->close_code >= 1000 && p->close_code < 5000);
    if (event != TC_WS_EVENT_MESSAGE) return;
    for (size_t at = 0, n; at < p->message.count; at += n)
        CHECK((n = tc_utf8_valid(p->message.data + at, p->message.count - at)));
}

static bool swallow(void *owner, const tc_part *part)
{
    size_t *told = owner;
    CHECK(part->kind == TC_PART_CALL || part->kind == TC_PART_CALL_END || part->bytes > 0);
    *told += part->bytes;
    return true;
}

// The same bytes as an answer of a model: nothing is made up, whatever the pieces.
static void take_apart(const uint8_t *data, size_t size, size_t piece)
{
    size_t told = 0;
    const tc_answer_options options = {.calls = true, .in_reasoning = piece & 1, .one_call = piece & 2};
    tc_answer *a = tc_answer_new(&options, swallow, &told);
    for (size_t at = 0; at < size; at += piece)
        tc_answer_push(a, (const char *)data + at, size - at < piece ? size - at : piece);
    tc_answer_finish(a);
    CHECK(!tc_answer_failed(a) && told <= 7 * size + 2); // at most escaped
    tc_answer_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    size_t piece = 1 + data[0] % 40;
    tc_ws_parser p;
    tc_ws_parser_init(&p, 1000);
    for (size_t at = 1; at < size;) {
        size_t end = size - at < piece ? size : at + piece, used;
        tc_ws_event event;
        do {
            event = tc_ws_next(&p, data + at, end - at, &used);
            CHECK(used <= end - at);
            check(&p, event);
            at += used;
        } while (event != TC_WS_EVENT_NONE);
        if (p.ended) break;
        CHECK(at == end);
    }
    tc_ws_parser_free(&p);
    char key[29];
    if (tc_ws_accept((const char *)data + 1, size - 1, key)) CHECK(size - 1 == 24 && strlen(key) == 28);
    take_apart(data + 1, size - 1, piece);
    return 0;
}
