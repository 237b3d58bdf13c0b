// SPDX-License-Identifier: Apache-2.0
// Owns: the fuzz target of hostile text. Whatever the bytes: encoding works, plain text never becomes a
// special token, decoding gives UTF-8 that encodes to the same ids, and the stream shows the decoded text.
#include "common/text/stream.h"
#include "common/text/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ADDED(id, content, special, flags)                                                                   \
    "{\"id\":" id ",\"content\":\"" content "\",\"special\":" special flags "}"
#define FLAGS(word, left, right, normal)                                                                     \
    ",\"single_word\":" word ",\"lstrip\":" left ",\"rstrip\":" right ",\"normalized\":" normal

static const char head[] =
    "{\"added_tokens\":[" ADDED("300", "<x>", "true", FLAGS("false", "true", "true", "false")) "," ADDED(
        "301", "word", "true",
        FLAGS(
            "true", "false", "false",
            "false")) "," ADDED("302", " ", "true",
                                FLAGS(
                                    "false", "true", "true",
                                    "true")) "," ADDED("257", "abc", "true",
                                                       FLAGS(
                                                           "false", "false", "false",
                                                           "false")) "," ADDED("303", "xe\\u0301", "true",
                                                                               FLAGS(
                                                                                   "false", "false", "false",
                                                                                   "true")) "],"
                                                                                            "\"normalizer\":{"
                                                                                            "\"type\":"
                                                                                            "\"NFC\"},"
                                                                                            "\"decoder\":{"
                                                                                            "\"type\":"
                                                                                            "\"ByteLevel\"},"
                                                                                            "\"pre_"
                                                                                            "tokenizer\":{"
                                                                                            "\"type\":"
                                                                                            "\"Sequence\","
                                                                                            "\"pretokenizers"
                                                                                            "\":[{\"type\":"
                                                                                            "\"Split\","
                                                                                            "\"pattern\":{"
                                                                                            "\"Regex\":\"(?i:"
                                                                                            "'s|'t|'re|'ve|'"
                                                                                            "m|'ll|'d)|"
                                                                                            "[^"
                                                                                            "\\\\r\\\\n\\\\p{"
                                                                                            "L}\\\\p{N}]?"
                                                                                            "\\\\p{L}+|\\\\p{"
                                                                                            "N}| "
                                                                                            "?[^\\\\s\\\\p{L}"
                                                                                            "\\\\p{N}]+["
                                                                                            "\\\\r\\\\n]*|"
                                                                                            "\\\\s*["
                                                                                            "\\\\r\\\\n]+|"
                                                                                            "\\\\s+(?!\\\\S)|"
                                                                                            "\\\\s+\"},"
                                                                                            "\"behavior\":"
                                                                                            "\"Isolated\","
                                                                                            "\"invert\":"
                                                                                            "false},{"
                                                                                            "\"type\":"
                                                                                            "\"ByteLevel\","
                                                                                            "\"add_prefix_"
                                                                                            "space\":false,"
                                                                                            "\"use_regex\":"
                                                                                            "false}]},"
                                                                                            "\"model\":{"
                                                                                            "\"type\":"
                                                                                            "\"BPE\","
                                                                                            "\"merges\":[\"a "
                                                                                            "b\",\"ab c\","
                                                                                            "\"a a\",\"aa "
                                                                                            "aa\",\"b "
                                                                                            "c\"],\"vocab\":{"
                                                                                            "\"ab\":256,"
                                                                                            "\"abc\":257,"
                                                                                            "\"aa\":258,"
                                                                                            "\"aaaa\":259,"
                                                                                            "\"bc\":260";

static tc_tokenizer *make(void)
{
    char json[8192];
    tc_error e;
    tc_tokenizer *t = NULL;
    int at = snprintf(json, sizeof json, "%s", head), other = 0x100;
    for (int b = 0; b < 256; b++) {
        int same = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        at += snprintf(json + at, sizeof json - (size_t)at, ",\"\\u%04x\":%d", same ? b : other++, b);
    }
    at += snprintf(json + at, sizeof json - (size_t)at, "}}}");
    if (tc_tokenizer_parse(json, (size_t)at, "encode", &t, &e) != TC_OK) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    return t;
}

static void check(bool good)
{
    if (!good) abort();
}

static void check_stream(const tc_tokenizer *t, const tc_ids *ids, const char *text, size_t bytes)
{
    tc_text_stream *s;
    const char *piece, *stop = "\x01\x01never\x01";
    size_t piece_bytes, at = 0;
    bool stopped = false;
    check(tc_text_stream_create(t, &stop, 1, false, &s, NULL) == TC_OK);
    for (size_t i = 0; i <= ids->count; i++) {
        if (i < ids->count)
            tc_text_stream_push(s, ids->data[i], &piece, &piece_bytes, &stopped);
        else
            tc_text_stream_finish(s, &piece, &piece_bytes);
        if (stopped) break;
        check(piece_bytes <= bytes - at && !memcmp(text + at, piece, piece_bytes));
        at += piece_bytes;
    }
    check(stopped || at == bytes);
    tc_text_stream_free(s);
}

static bool same_ids(const tc_ids *a, const tc_ids *b)
{
    return a->count == b->count && (!a->count || !memcmp(a->data, b->data, a->count * sizeof *a->data));
}

// A part of the text is a user's: no special token lies in it. Where there is none at all, the ranges change
// nothing.
static void check_spans(const tc_tokenizer *t, const uint8_t *data, size_t size, const tc_ids *parsed,
                        const tc_ids *plain)
{
    tc_ids ids = {0};
    const char *text = (const char *)data;
    if (tc_utf8_valid_bytes(text, size) != size) return; // with ranges only UTF-8 is taken
    tc_text_span half = {.begin = size / 3, .end = size - size / 3}, all = {.begin = 0, .end = size};
    check(tc_tokenizer_encode_spans(t, text, size, &half, half.begin < half.end, &ids, NULL) == TC_OK);
    tc_ids_free(&ids);
    ids = (tc_ids){0};
    check(tc_tokenizer_encode_spans(t, text, size, NULL, 0, &ids, NULL) == TC_OK);
    check(same_ids(&ids, parsed));
    tc_ids_free(&ids);
    ids = (tc_ids){0};
    check(tc_tokenizer_encode_spans(t, text, size, &all, size > 0, &ids, NULL) == TC_OK);
    for (size_t i = 0; i < ids.count; i++) check(!tc_tokenizer_is_special(t, ids.data[i]));
    const bool none = same_ids(parsed, plain);
    check(!none || same_ids(&ids, plain));
    tc_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tc_tokenizer *t;
    tc_ids parsed = {0}, plain = {0}, again = {0};
    char *text;
    size_t bytes;
    if (!t) t = make();
    check(tc_tokenizer_encode(t, (const char *)data, size, TC_SPECIAL_PARSE, &parsed, NULL) == TC_OK);
    check(tc_tokenizer_encode(t, (const char *)data, size, TC_SPECIAL_AS_TEXT, &plain, NULL) == TC_OK);
    for (size_t i = 0; i < plain.count; i++) check(!tc_tokenizer_is_special(t, plain.data[i]));
    check_spans(t, data, size, &parsed, &plain);
    check(tc_tokenizer_decode(t, plain.data, plain.count, true, &text, &bytes, NULL) == TC_OK);
    check(tc_utf8_valid_bytes(text, bytes) == bytes);
    check(tc_tokenizer_encode(t, text, bytes, TC_SPECIAL_AS_TEXT, &again, NULL) == TC_OK);
    check(again.count == plain.count);
    if (plain.count) check(!memcmp(again.data, plain.data, plain.count * sizeof *plain.data));
    check_stream(t, &plain, text, bytes);
    free(text);
    tc_ids_free(&parsed);
    tc_ids_free(&plain);
    tc_ids_free(&again);
    return 0;
}
