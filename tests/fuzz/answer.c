// SPDX-License-Identifier: Apache-2.0
// Owns: text of a model that writes anything: reasoning and tool calls are taken out of it while it comes.
// The first byte chooses options, the second in which pieces it comes; the same must be found as when it
// comes whole, and names and arguments of calls must be what a client can read.
#include "gateway/answer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

typedef struct heard {
    size_t text, reasoning, arguments;
    uint32_t open, calls;
} heard;

static bool note(void *owner, const tc_part *part)
{
    heard *h = owner;
    CHECK(part->kind == TC_PART_CALL || part->kind == TC_PART_CALL_END || part->bytes > 0);
    switch (part->kind) {
    case TC_PART_TEXT:
        h->text += part->bytes;
        break;
    case TC_PART_REASONING:
        h->reasoning += part->bytes;
        break;
    case TC_PART_CALL:
        CHECK(!h->open && part->index == h->calls && part->call->name.count > 0);
        h->open = 1;
        h->calls++;
        break;
    case TC_PART_ARGUMENTS:
        CHECK(h->open);
        h->arguments += part->bytes;
        break;
    case TC_PART_CALL_END:
        CHECK(h->open);
        h->open = 0;
        break;
    }
    return true;
}

// Whole characters only, as the stream of text gives them.
static size_t characters(const char *text, size_t bytes, size_t at, size_t step)
{
    size_t end = at + step < bytes ? at + step : bytes;
    while (end < bytes && ((unsigned char)text[end] & 0xC0) == 0x80) end++;
    return end - at;
}

static tc_answer *take(const tc_answer_options *options, const char *text, size_t bytes, size_t step,
                       heard *h)
{
    *h = (heard){0};
    tc_answer *a = tc_answer_new(options, note, h);
    CHECK(a);
    for (size_t at = 0; at < bytes;) {
        size_t n = characters(text, bytes, at, step);
        char *piece = malloc(n);
        CHECK(piece);
        memcpy(piece, text + at, n);
        CHECK(tc_answer_push(a, piece, n));
        free(piece);
        at += n;
    }
    CHECK(tc_answer_finish(a));
    CHECK(!h->open && !tc_answer_failed(a));
    return a;
}

static void same(const tc_buffer *a, const tc_buffer *b)
{
    CHECK(a->count == b->count && (a->count == 0 || memcmp(a->data, b->data, a->count) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 2 || bytes > 1 << 14) return 0;
    const char *text = (const char *)data + 2;
    size_t n = bytes - 2;
    for (size_t i = 0; i < n; i++) // what is no character never gets this far
        if (text[i] == 0 || (unsigned char)text[i] >= 0x80) return 0;
    const tc_answer_options options = {
        .in_reasoning = data[0] & 1, .calls = data[0] & 2, .one_call = data[0] & 4, .id_prefix = "call_"};
    heard whole_heard, pieces_heard;
    uint32_t whole_count, pieces_count;
    tc_answer *whole = take(&options, text, n, n + 1, &whole_heard);
    tc_answer *pieces = take(&options, text, n, 1u + data[1] % 16, &pieces_heard);
    const tc_tool_call *x = tc_answer_calls(whole, &whole_count), *y = tc_answer_calls(pieces, &pieces_count);
    same(tc_answer_text(whole), tc_answer_text(pieces));
    same(tc_answer_reasoning(whole), tc_answer_reasoning(pieces));
    CHECK(whole_count == pieces_count && whole_count == whole_heard.calls);
    CHECK(whole_heard.text == pieces_heard.text && whole_heard.reasoning == pieces_heard.reasoning);
    for (uint32_t i = 0; i < whole_count; i++) {
        same(&x[i].name, &y[i].name);
        same(&x[i].arguments, &y[i].arguments);
    }
    tc_answer_free(whole);
    tc_answer_free(pieces);
    return 0;
}
