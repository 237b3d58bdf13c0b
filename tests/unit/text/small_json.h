// SPDX-License-Identifier: Apache-2.0
// Owns: a tokenizer.json of a few lines for tests, with a place for each thing a test wants to change.
#pragma once

#include "common/text/tokenizer.h"

typedef struct small_json {
    const char *top;        // more top-level fields, each with a comma behind it
    const char *normalizer; // NULL in any of these: the usual value
    const char *pretokenizer, *post_processor, *decoder;
    const char *model;  // more fields of the model, each with a comma behind it
    const char *vocab;  // entries after the 256 bytes (ids 0-255), each with a comma before it
    const char *merges; // the array's inside
    const char *added;  // the array's inside
    int bytes;          // how many of the bytes have tokens; 0 means 256
} small_json;

char *small_json_make(const small_json *parts, size_t *ret_bytes); // owner: caller, free()
// Parses it; fails the test when that does not work.
tc_tokenizer *small_json_load(const small_json *parts);

#define SMALL_ADDED(id, content, special, normalized, more)                                                  \
    "{\"id\":" id ",\"content\":\"" content "\",\"special\":" special ",\"normalized\":" normalized more "}"
#define SMALL_PLAIN ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false"
#define SMALL_QWEN                                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "                        \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+"                                                                             \
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define SMALL_SPLIT(regex, behavior, invert)                                                                 \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"" behavior                     \
    "\",\"invert\":" invert "}"
#define SMALL_BYTE_LEVEL(prefix, regex)                                                                      \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"trim_offsets\":false,\"use_regex\":" regex "}"
#define SMALL_SEQUENCE(a, b) "{\"type\":\"Sequence\",\"pretokenizers\":[" a "," b "]}"
