// SPDX-License-Identifier: Apache-2.0
// Owns: the word for "which part of a text is a user's", shared by templates (which report it) and the
// tokenizer (which honours it).
#pragma once

#include <stddef.h>

// The bytes [begin, end) of a text. A list of spans is in order, disjoint, and has no empty ones.
typedef struct tc_text_span {
    size_t begin, end;
} tc_text_span;
