// SPDX-License-Identifier: Apache-2.0
// Owns: the way of a text through the tokenizer: repair, added tokens, NFC, added tokens again, words,
// merging; and the way back. Scratch memory lives for one call, so a loaded tokenizer may be used by many
// threads.
#include "common/text/tokenizer.h"
#include "common/text/internal.h"
#include "common/text/nfc.h"
#include "common/text/utf8.h"
#include <stdlib.h>
#include <string.h>

enum { IDS_MIN = 64, REPLACEMENT_BYTES = 3 };

void tc_ids_free(tc_ids *ids)
{
    free(ids->data);
    *ids = (tc_ids){0};
}

tc_status tc_ids_push(tc_ids *ids, uint32_t id)
{
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity < IDS_MIN ? IDS_MIN : ids->capacity * 2;
        if (capacity > SIZE_MAX / sizeof *ids->data) return TC_LIMIT;
        uint32_t *grown = realloc(ids->data, capacity * sizeof *grown);
        if (!grown) return TC_NOMEM;
        ids->data = grown;
        ids->capacity = capacity;
    }
    ids->data[ids->count++] = id;
    return TC_OK;
}

void tc_tokenizer_free(tc_tokenizer *t)
{
    if (!t) return;
    for (uint32_t i = 0; i < t->added_count; i++) free(t->added[i].owned);
    free(t->added);
    free(t->raw.items);
    free(t->normalized.items);
    tc_bpe_free(&t->bpe);
    free(t);
}

uint32_t tc_tokenizer_vocab(const tc_tokenizer *t)
{
    return t->bpe.token_count;
}

typedef struct encoder {
    const tc_tokenizer *t;
    bool as_text;
    tc_bytes normal;
    tc_bpe_scratch scratch;
    tc_ids *ids;
    const tc_text_span *data; // NULL: the text has one origin
    size_t data_count;
    tc_bytes blanked;    // a piece with its blanks as U+2581
    tc_text_span *piece; // the ranges that fall into the piece at hand, moved to its beginning
} encoder;

#define BLANK_MARK "\xe2\x96\x81" // U+2581

// Blanks as U+2581, and one more before the text where asked for; `unless`: not where it begins with one.
static tc_status blank_marks(const uint8_t *text, size_t bytes, bool prepend, bool unless, tc_bytes *out)
{
    out->count = 0;
    bool begins = bytes && (text[0] == ' ' || (bytes >= 3 && !memcmp(text, BLANK_MARK, 3)));
    if (prepend && bytes && !(unless && begins)) TC_TRY(tc_bytes_append(out, BLANK_MARK, 3));
    for (const uint8_t *end = text + bytes; text < end;) {
        const uint8_t *blank = memchr(text, ' ', (size_t)(end - text)), *stop = blank ? blank : end;
        TC_TRY(tc_bytes_append(out, text, (size_t)(stop - text)));
        if (blank) TC_TRY(tc_bytes_append(out, BLANK_MARK, 3));
        text = stop + (blank != NULL);
    }
    return TC_OK;
}

static tc_status encode_plain(encoder *en, const uint8_t *text, size_t bytes, bool first)
{
    const tc_tokenizer *t = en->t;
    if (t->metaspace && bytes) {
        TC_TRY(blank_marks(text, bytes, t->metaspace_always || (t->metaspace_first && first), true,
                           &en->blanked));
        text = en->blanked.data, bytes = en->blanked.count;
    }
    for (const uint8_t *end = text + bytes; text < end;) {
        const uint8_t *piece_end = text + tc_pretoken_piece(t->pretoken, text, end);
        while (text < piece_end) {
            size_t word = tc_pretoken_next(t->pretoken, text, piece_end);
            TC_TRY(tc_bpe_word(&t->bpe, text, word, en->as_text, &en->scratch, en->ids));
            text += word;
        }
    }
    return TC_OK;
}

// The ranges of data within a piece of the text; all of it counts as data when any does and normalisation
// moved its bytes.
static size_t piece_spans(encoder *en, size_t begin, size_t end, bool moved, size_t bytes)
{
    size_t count = 0, low = 0, high = en->data_count;
    while (low < high) { // the first range that ends behind `begin`
        size_t middle = low + (high - low) / 2;
        if (en->data[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    for (size_t i = low; i < en->data_count && en->data[i].begin < end; i++) {
        const tc_text_span *s = &en->data[i];
        en->piece[count++] =
            (tc_text_span){s->begin > begin ? s->begin - begin : 0, (s->end < end ? s->end : end) - begin};
    }
    if (!moved || count == 0) return count;
    en->piece[0] = (tc_text_span){0, bytes};
    return 1;
}

// A piece between the added tokens of the raw text, which begins at `at`.
static tc_status encode_piece(encoder *en, const uint8_t *text, size_t bytes, size_t at)
{
    if (bytes == 0) return TC_OK;
    const uint8_t *raw = text;
    size_t raw_bytes = bytes;
    if (en->t->nfc) TC_TRY(tc_nfc(text, bytes, &en->normal, &text, &bytes));
    if (en->t->blanks || en->t->prepend) {
        // Replace and Prepend of the normaliser. (A file with only one of them is not known to exist.)
        TC_TRY(blank_marks(text, bytes, en->t->prepend, false, &en->normal));
        text = en->normal.data, bytes = en->normal.count;
    }
    tc_added_scan scan = {.set = &en->t->normalized, .text = text, .bytes = bytes, .as_text = en->as_text};
    if (en->data) {
        scan.as_text = false;
        scan.data = en->piece;
        scan.data_count = piece_spans(en, at, at + raw_bytes, text != raw, bytes);
    }
    const tc_added *found = NULL;
    do {
        size_t begin, end;
        tc_added_next(&scan, &begin, &end, &found);
        TC_TRY(encode_plain(en, text + begin, end - begin, at == 0 && begin == 0));
        if (found) TC_TRY(tc_ids_push(en->ids, found->id));
    } while (found);
    return TC_OK;
}

static tc_status encode_valid(encoder *en, const uint8_t *text, size_t bytes)
{
    tc_added_scan scan = {.set = &en->t->raw, .text = text, .bytes = bytes, .as_text = en->as_text};
    const tc_added *found = NULL;
    if (en->data) {
        scan.as_text = false;
        scan.data = en->data, scan.data_count = en->data_count;
    }
    do {
        size_t begin, end;
        tc_added_next(&scan, &begin, &end, &found);
        TC_TRY(encode_piece(en, text + begin, end - begin, begin));
        if (found) TC_TRY(tc_ids_push(en->ids, found->id));
    } while (found);
    return TC_OK;
}

// Well-formed UTF-8 from anything: each malformed piece, or a character cut off at the end, becomes U+FFFD.
static tc_status repair(const uint8_t *text, size_t bytes, tc_bytes *out)
{
    while (bytes) {
        size_t good = tc_utf8_valid_bytes((const char *)text, bytes), step;
        TC_TRY(tc_bytes_append(out, text, good));
        text += good, bytes -= good;
        if (!bytes) break;
        tc_utf8_step(text, bytes, &step);
        TC_TRY(tc_bytes_append(out, TC_UTF8_REPLACEMENT, REPLACEMENT_BYTES));
        text += step, bytes -= step;
    }
    return TC_OK;
}

tc_status tc_tokenizer_encode(const tc_tokenizer *t, const char *text, size_t bytes, tc_special special,
                              tc_ids *ids, tc_error *e)
{
    tc_status status = TC_OK;
    size_t before = ids->count;
    tc_bytes repaired = {0};
    encoder en = {.t = t, .as_text = special == TC_SPECIAL_AS_TEXT, .ids = ids};
    if (bytes > TC_TEXT_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "text: %zu bytes, at most %d", bytes, TC_TEXT_BYTES_MAX);
    if (tc_utf8_valid_bytes(text, bytes) != bytes) {
        TC_GOTO(repair((const uint8_t *)text, bytes, &repaired));
        text = (const char *)repaired.data, bytes = repaired.count;
    }
    TC_GOTO(encode_valid(&en, (const uint8_t *)text, bytes));
out:
    tc_bpe_scratch_free(&en.scratch);
    free(en.normal.data);
    free(en.blanked.data);
    free(repaired.data);
    if (status == TC_OK) return TC_OK;
    ids->count = before;
    return tc_fail(e, status, "encoding a text of %zu bytes: %s", bytes, tc_status_text(status));
}

tc_status tc_tokenizer_encode_spans(const tc_tokenizer *t, const char *text, size_t bytes,
                                    const tc_text_span *data, size_t data_count, tc_ids *ids, tc_error *e)
{
    tc_status status = TC_OK;
    size_t before = ids->count, last = 0;
    static const tc_text_span none;
    encoder en = {
        .t = t, .as_text = true, .ids = ids, .data = data_count ? data : &none, .data_count = data_count};
    if (bytes > TC_TEXT_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "text: %zu bytes, at most %d", bytes, TC_TEXT_BYTES_MAX);
    if (tc_utf8_valid_bytes(text, bytes) != bytes)
        return tc_fail(e, TC_ARGUMENT, "text with ranges: not UTF-8");
    for (size_t i = 0; i < data_count; last = data[i++].end)
        if (data[i].begin < last || data[i].end <= data[i].begin || data[i].end > bytes)
            return tc_fail(e, TC_ARGUMENT, "range %zu of the text: not in order, empty, or beyond its end",
                           i);
    en.piece = malloc((data_count + 1) * sizeof *en.piece);
    if (!en.piece) TC_GOTO(TC_NOMEM);
    TC_GOTO(encode_valid(&en, (const uint8_t *)text, bytes));
out:
    tc_bpe_scratch_free(&en.scratch);
    free(en.normal.data);
    free(en.blanked.data);
    free(en.piece);
    if (status == TC_OK) return TC_OK;
    ids->count = before;
    return tc_fail(e, status, "encoding a text of %zu bytes: %s", bytes, tc_status_text(status));
}

static const tc_added *added_by_id(const tc_tokenizer *t, uint32_t id)
{
    for (uint32_t i = 0; i < t->added_count; i++)
        if (t->added[i].id == id) return &t->added[i];
    return NULL;
}

const char *tc_tokenizer_token_bytes(const tc_tokenizer *t, uint32_t id, size_t *ret_bytes)
{
    if (id >= t->bpe.token_count || !(t->bpe.tokens[id].flags & TC_TOKEN_PRESENT)) return NULL;
    const tc_token *token = &t->bpe.tokens[id];
    if (token->flags & TC_TOKEN_SPECIAL) {
        const tc_added *a = added_by_id(t, id);
        *ret_bytes = a->content_bytes;
        return (const char *)a->content;
    }
    *ret_bytes = token->bytes;
    return (const char *)t->bpe.blob + token->offset;
}

const uint8_t *tc_token_decoded(const tc_tokenizer *t, uint32_t id, bool skip_special, size_t *ret_bytes)
{
    *ret_bytes = 0;
    if (id >= t->bpe.token_count) return NULL;
    const tc_token *token = &t->bpe.tokens[id];
    if (!token->flags || (skip_special && (token->flags & TC_TOKEN_SPECIAL))) return NULL;
    *ret_bytes = token->bytes;
    return t->bpe.blob + token->offset;
}

const uint32_t *tc_tokenizer_prefix(const tc_tokenizer *t, size_t *ret_count)
{
    *ret_count = t->prefix_count;
    return t->prefix;
}

bool tc_tokenizer_is_special(const tc_tokenizer *t, uint32_t id)
{
    return id < t->bpe.token_count && (t->bpe.tokens[id].flags & TC_TOKEN_SPECIAL);
}

bool tc_tokenizer_find(const tc_tokenizer *t, const char *content, uint32_t *ret_id)
{
    size_t bytes = strlen(content);
    for (uint32_t i = 0; i < t->added_count; i++)
        if (t->added[i].content_bytes == bytes && !memcmp(t->added[i].content, content, bytes)) {
            *ret_id = t->added[i].id;
            return true;
        }
    return false;
}

// Bytes that follow one another as single tokens are a text only when all of them are; otherwise each becomes
// U+FFFD. `from` is where the run begins in `raw`; ends it.
static tc_status end_bytes(tc_bytes *raw, size_t *from)
{
    size_t count = raw->count - *from;
    if (count && tc_utf8_valid_bytes((const char *)raw->data + *from, count) != count) {
        raw->count = *from;
        for (size_t i = 0; i < count; i++)
            TC_TRY(tc_bytes_append(raw, TC_UTF8_REPLACEMENT, REPLACEMENT_BYTES));
    }
    *from = SIZE_MAX;
    return TC_OK;
}

static tc_status decode_raw(const tc_tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                            tc_bytes *raw)
{
    size_t run = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        const uint8_t *piece = tc_token_decoded(t, ids[i], skip_special, &bytes);
        if (!piece) continue;
        bool single = t->by_chars && t->bpe.byte_id[piece[0]] == ids[i];
        if (single && run == SIZE_MAX) run = raw->count;
        if (!single && run != SIZE_MAX) TC_TRY(end_bytes(raw, &run));
        TC_TRY(tc_bytes_append(raw, piece, bytes));
    }
    return run != SIZE_MAX ? end_bytes(raw, &run) : TC_OK;
}

tc_status tc_tokenizer_decode(const tc_tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                              char **ret, size_t *ret_bytes, tc_error *e)
{
    tc_status status = TC_OK;
    tc_bytes raw = {0}, text = {0};
    TC_GOTO(decode_raw(t, ids, count, skip_special, &raw));
    if (t->strip_start && raw.count && raw.data[0] == ' ') memmove(raw.data, raw.data + 1, --raw.count);
    if (tc_utf8_valid_bytes((const char *)raw.data, raw.count) == raw.count) {
        text = raw, raw = (tc_bytes){0};
    } else {
        TC_GOTO(repair(raw.data, raw.count, &text));
    }
    TC_GOTO(tc_bytes_append(&text, "", 1)); // for callers that print it; not counted
    *ret = (char *)text.data;
    *ret_bytes = text.count - 1;
    text.data = NULL;
out:
    free(raw.data);
    free(text.data);
    return status == TC_OK ? TC_OK
                           : tc_fail(e, status, "decoding %zu tokens: %s", count, tc_status_text(status));
}
