// SPDX-License-Identifier: Apache-2.0
// Owns: what may be shown of a growing text.
//
//   token bytes -> [cut: 0..3 bytes of an unfinished character] -> characters -> matchers, one per stop
//   string
//               -> [held: the longest end of the text that is the beginning of some stop string] -> caller
//
// A stop string ends the text as soon as its last byte is there, whatever the tokens' borders are; of those
// that end at the same byte the longest counts. Buffers are fixed: a push allocates nothing.
#include "common/text/stream.h"
#include "common/text/internal.h"
#include "common/text/utf8.h"
#include <stdlib.h>
#include <string.h>

enum { CUT_BYTES_MAX = TC_UTF8_BYTES_MAX - 1 };

// Knuth-Morris-Pratt: `matched` bytes at the end of the text are the beginning of `text`.
typedef struct stop {
    uint8_t *text;
    uint16_t *shorter; // shorter[i]: the next shorter beginning that ends i+1 matched bytes
    size_t bytes, matched;
} stop;

struct tc_text_stream {
    const tc_tokenizer *tokenizer;
    bool skip_special, stopped, stops_held, begun; // begun: a token with text has been seen
    int stopped_by;
    size_t stop_count, cut_bytes, held_bytes;
    stop stops[TC_STOPS_MAX];
    uint8_t *cut;  // [CUT_BYTES_MAX + the longest token], behind this struct, as the next one
    uint8_t *text; // between calls: what the last call gave out, then the held bytes
    size_t given_bytes;
};

static tc_status add_stop(tc_text_stream *s, const char *text, size_t bytes)
{
    stop *st = &s->stops[s->stop_count++];
    st->bytes = bytes;
    st->text = malloc(bytes);
    st->shorter = calloc(bytes, sizeof *st->shorter);
    if (!st->text || !st->shorter) return TC_NOMEM;
    memcpy(st->text, text, bytes);
    for (size_t i = 1, k = 0; i < bytes; i++) {
        while (k > 0 && st->text[k] != st->text[i]) k = st->shorter[k - 1];
        if (st->text[k] == st->text[i]) k++;
        st->shorter[i] = (uint16_t)k;
    }
    return TC_OK;
}

tc_status tc_text_stream_create(const tc_tokenizer *tokenizer, const char *const *stops, size_t count,
                                bool skip_special, tc_text_stream **ret, tc_error *e)
{
    tc_status status = TC_OK;
    tc_text_stream *s = NULL;
    size_t longest_stop = 0;
    if (count > TC_STOPS_MAX)
        return tc_fail(e, TC_LIMIT, "stop: %zu strings, at most %d", count, TC_STOPS_MAX);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = strnlen(stops[i], TC_STOP_BYTES_MAX + 1);
        if (bytes == 0 || bytes > TC_STOP_BYTES_MAX)
            return tc_fail(e, TC_LIMIT, "stop[%zu]: must have 1 to %d bytes", i, TC_STOP_BYTES_MAX);
        if (tc_utf8_valid_bytes(stops[i], bytes) != bytes)
            return tc_fail(e, TC_ARGUMENT, "stop[%zu]: not UTF-8", i);
    }
    for (size_t i = 0; i < count; i++)
        if (strlen(stops[i]) > longest_stop) longest_stop = strlen(stops[i]);
    // Every byte of a token may become a U+FFFD, behind what was held back. Thousands of streams may be open:
    // what this tokenizer and these stops need, not the most that any could.
    size_t cut_bytes = CUT_BYTES_MAX + tokenizer->longest_token,
           text_bytes = longest_stop + 3 * cut_bytes + 1;
    s = calloc(1, sizeof *s + cut_bytes + text_bytes);
    if (!s) TC_GOTO(tc_fail(e, TC_NOMEM, "text stream: out of memory"));
    s->cut = (uint8_t *)(s + 1);
    s->text = s->cut + cut_bytes;
    s->tokenizer = tokenizer;
    s->skip_special = skip_special;
    s->stopped_by = -1;
    for (size_t i = 0; i < count; i++)
        if (add_stop(s, stops[i], strlen(stops[i])) != TC_OK)
            TC_GOTO(tc_fail(e, TC_NOMEM, "text stream: out of memory"));
    *ret = s;
    s = NULL;
out:
    tc_text_stream_free(s);
    return status;
}

void tc_text_stream_free(tc_text_stream *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->stop_count; i++) {
        free(s->stops[i].text);
        free(s->stops[i].shorter);
    }
    free(s);
}

static bool advance(stop *st, uint8_t byte)
{
    while (st->matched > 0 && st->text[st->matched] != byte) st->matched = st->shorter[st->matched - 1];
    if (st->text[st->matched] == byte) st->matched++;
    return st->matched == st->bytes;
}

// Appends characters to the text. False when a stop string is complete: the text then ends before it.
static bool feed(tc_text_stream *s, const uint8_t *bytes, size_t count, size_t *text_bytes)
{
    for (size_t i = 0; i < count; i++) {
        size_t longest = 0;
        s->text[(*text_bytes)++] = bytes[i];
        for (size_t k = 0; k < s->stop_count; k++) {
            stop *st = &s->stops[k];
            if (!advance(st, bytes[i])) continue;
            if (s->stops_held) {
                st->matched = st->shorter[st->bytes - 1];
            } else if (st->bytes > longest) {
                longest = st->bytes;
                s->stopped_by = (int)k;
            }
        }
        if (longest) {
            *text_bytes -= longest;
            s->stopped = true;
            return false;
        }
    }
    return true;
}

// Takes whole characters and malformed pieces out of `cut`; keeps an unfinished one unless this is the end.
static void take(tc_text_stream *s, bool end, size_t *text_bytes)
{
    size_t at = 0;
    while (at < s->cut_bytes) {
        size_t step;
        tc_utf8_kind kind = tc_utf8_step(s->cut + at, s->cut_bytes - at, &step);
        if (kind == TC_UTF8_SHORT && !end) break;
        bool on = kind == TC_UTF8_CHAR ? feed(s, s->cut + at, step, text_bytes)
                                       : feed(s, (const uint8_t *)TC_UTF8_REPLACEMENT, 3, text_bytes);
        at += step;
        if (!on) {
            at = s->cut_bytes;
            break;
        }
    }
    memmove(s->cut, s->cut + at, s->cut_bytes - at);
    s->cut_bytes -= at;
}

static void give(tc_text_stream *s, const uint8_t *bytes, size_t count, bool end, const char **ret,
                 size_t *ret_bytes)
{
    size_t text_bytes = s->held_bytes, hold = 0;
    memmove(s->text, s->text + s->given_bytes, s->held_bytes);
    if (!s->stopped) {
        if (count) memcpy(s->cut + s->cut_bytes, bytes, count);
        s->cut_bytes += count;
        take(s, end, &text_bytes);
    }
    for (size_t k = 0; k < s->stop_count && !s->stopped && !end; k++)
        if (s->stops[k].matched > hold) hold = s->stops[k].matched;
    s->held_bytes = hold;
    s->given_bytes = text_bytes - hold;
    *ret = (const char *)s->text;
    *ret_bytes = s->given_bytes;
}

void tc_text_stream_hold_stops(tc_text_stream *s, bool hold)
{
    s->stops_held = hold;
}

int tc_text_stream_stopped_by(const tc_text_stream *s)
{
    return s->stopped_by;
}

tc_status tc_text_stream_push(tc_text_stream *s, uint32_t id, const char **ret, size_t *ret_bytes,
                              bool *ret_stopped)
{
    size_t count;
    const uint8_t *bytes = tc_token_decoded(s->tokenizer, id, s->skip_special, &count);
    if (count && !s->begun) {
        s->begun = true;
        if (s->tokenizer->strip_start && bytes[0] == ' ') bytes++, count--;
    }
    give(s, bytes, count, false, ret, ret_bytes);
    *ret_stopped = s->stopped;
    return TC_OK;
}

tc_status tc_text_stream_finish(tc_text_stream *s, const char **ret, size_t *ret_bytes)
{
    give(s, NULL, 0, true, ret, ret_bytes);
    s->stopped = true;
    return TC_OK;
}
