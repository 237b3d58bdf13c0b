// SPDX-License-Identifier: Apache-2.0
// Owns: the fuzz target of tokenizer.json. A file that is accepted must also tokenize without harm.
#include "common/text/stream.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "ab  <x> word\n\n e\xcc\x81 abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc 12 <y>\xff";
    tc_tokenizer *t = NULL;
    tc_text_stream *s = NULL;
    const char *stop = "bca", *piece;
    tc_error e;
    tc_ids ids = {0};
    size_t bytes;
    bool stopped;
    if (tc_tokenizer_parse((const char *)data, size, "fuzz", &t, &e) != TC_OK) return 0;
    for (int special = TC_SPECIAL_PARSE; special <= TC_SPECIAL_AS_TEXT; special++)
        if (tc_tokenizer_encode(t, text, sizeof text - 1, (tc_special)special, &ids, &e) != TC_OK) abort();
    if (tc_text_stream_create(t, &stop, 1, true, &s, &e) != TC_OK) abort();
    for (size_t i = 0; i < ids.count; i++) {
        if (!tc_tokenizer_token_bytes(t, ids.data[i], &bytes)) abort(); // no id comes from nowhere
        tc_text_stream_push(s, ids.data[i], &piece, &bytes, &stopped);
    }
    tc_text_stream_finish(s, &piece, &bytes);
    tc_text_stream_free(s);
    tc_ids_free(&ids);
    tc_tokenizer_free(t);
    return 0;
}
