// SPDX-License-Identifier: Apache-2.0
// Owns: text <-> token ids, from a Hugging Face tokenizer.json: byte-level BPE with the pre-tokenizers of
// GPT-2, Qwen, Llama 3, GPT-4o and DeepSeek V3; BPE of characters with bytes as a fallback (Llama 2,
// Mistral); NFC, added tokens. Equal to the `tokenizers` library on valid UTF-8. Invalid UTF-8 is replaced by
// U+FFFD first. Refuses: any model, normaliser or pre-tokenizer it does not implement (an error that names
// it, at load).
#pragma once

#include "common/base/status.h"
#include "common/text/span.h"
#include <stdint.h>

enum {
    TC_TOKENIZER_FILE_BYTES_MAX = 128 << 20,
    TC_TOKEN_BYTES_MAX = 4096,    // longest token
    TC_TEXT_BYTES_MAX = 32 << 20, // longest text in one call
};

typedef struct tc_tokenizer tc_tokenizer;

tc_status tc_tokenizer_load(const char *path, tc_tokenizer **ret, tc_error *e);
tc_status tc_tokenizer_parse(const char *json, size_t bytes, const char *name, tc_tokenizer **ret,
                             tc_error *e);
void tc_tokenizer_free(
    tc_tokenizer *tokenizer); // NULL is legal. A loaded tokenizer is immutable and thread-safe.
uint32_t tc_tokenizer_vocab(const tc_tokenizer *tokenizer); // highest id + 1

typedef struct tc_ids {
    uint32_t *data; // owner: whoever owns the tc_ids; tc_ids_free
    size_t count, capacity;
} tc_ids;
void tc_ids_free(tc_ids *ids);
tc_status tc_ids_push(tc_ids *ids, uint32_t id);

typedef enum tc_special { TC_SPECIAL_PARSE, TC_SPECIAL_AS_TEXT } tc_special;
// Appends to *ids. With TC_SPECIAL_PARSE added tokens standing in the text become their ids (prompts that are
// templates); with TC_SPECIAL_AS_TEXT *special* added tokens are plain text (user input must never become
// one, not by merging either; else ids are those of the library's encode_special_tokens).
tc_status tc_tokenizer_encode(const tc_tokenizer *tokenizer, const char *text, size_t bytes,
                              tc_special special, tc_ids *ids, tc_error *e);

// The same for a text that is partly a user's, such as a rendered template: `data` are the ranges that are
// (in order, disjoint; template.h: tc_rendered). A special added token is recognised only where all of its
// bytes are outside these ranges, and never comes out of merging. Everything else is as if there were no
// ranges: words go on across their borders, so a text without special tokens in its data gives the ids of
// tc_tokenizer_encode.
tc_status tc_tokenizer_encode_spans(const tc_tokenizer *tokenizer, const char *text, size_t bytes,
                                    const tc_text_span *data, size_t data_count, tc_ids *ids, tc_error *e);

// Bytes of one token; special tokens give their content. NULL for ids without a token.
const char *tc_tokenizer_token_bytes(const tc_tokenizer *tokenizer, uint32_t id, size_t *ret_bytes);
// What the file wants before every text that stands for itself (a beginning-of-sequence token); encoding does
// not add it, because a chat template writes its own. Often none.
const uint32_t *tc_tokenizer_prefix(const tc_tokenizer *tokenizer, size_t *ret_count);
bool tc_tokenizer_is_special(const tc_tokenizer *tokenizer, uint32_t id);
bool tc_tokenizer_find(const tc_tokenizer *tokenizer, const char *content, uint32_t *ret_id); // added tokens

// Text of a whole id sequence, as `tokenizers` decodes it (invalid UTF-8 becomes U+FFFD). malloc'ed; owner:
// caller, free().
tc_status tc_tokenizer_decode(const tc_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                              bool skip_special, char **ret, size_t *ret_bytes, tc_error *e);
