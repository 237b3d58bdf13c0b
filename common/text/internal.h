// SPDX-License-Identifier: Apache-2.0
// Owns: the loaded tokenizer, shared by the files of this folder (file_*.c fill it, tokenizer.c uses it).
#pragma once

#include "common/text/added.h"
#include "common/text/bpe.h"
#include "common/text/pretoken.h"

struct yyjson_val;

struct tc_tokenizer {
    tc_bpe bpe;
    tc_added *added; // in the file's order
    uint32_t added_count;
    tc_added_set raw, normalized; // sought before and after normalisation
    tc_pretoken pretoken;
    bool nfc;
    size_t longest_token; // bytes, as they are decoded
    // SentencePiece's way (Llama 2, Mistral): characters with bytes for those without a token, blanks as
    // U+2581.
    bool by_chars;
    bool blanks;           // the normaliser turns blanks into U+2581
    bool prepend;          // and puts one before every piece
    bool metaspace;        // or the pre-tokenizer does both,
    bool metaspace_first;  // before the first piece only,
    bool metaspace_always; // or before each, where it does not begin with one
    bool strip_start;      // the decoder drops one blank from the start
    uint32_t prefix[4],
        prefix_count; // what the post-processor puts before a text (the beginning of a sequence)
};

// The parts of the file that say which algorithm it wants: fills pretoken, nfc, bpe.ignore_merges.
tc_status tc_file_settings(struct yyjson_val *root, tc_tokenizer *t, tc_error *e);

// Member `key` of an object, NULL when absent. Callers have checked the object with tc_file_keys.
struct yyjson_val *tc_file_get(struct yyjson_val *object, const char *key);
// FORMAT unless `object` is one, without duplicate keys; UNSUPPORTED when a key is not in the NULL-ended
// list.
tc_status tc_file_keys(struct yyjson_val *object, const char *where, const char *const *known, tc_error *e);

enum { TC_SHOWN_BYTES = 120 }; // how much of a hostile text an error shows
#define TC_SHOW(bytes) ((int)((bytes) < TC_SHOWN_BYTES ? (bytes) : TC_SHOWN_BYTES))

// Bytes that a token adds to a decoded text; NULL (and 0) when it adds nothing.
const uint8_t *tc_token_decoded(const tc_tokenizer *t, uint32_t id, bool skip_special, size_t *ret_bytes);
