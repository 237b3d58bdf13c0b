// SPDX-License-Identifier: Apache-2.0
// Owns: turning a growing token sequence into text that may be shown: bytes of an unfinished UTF-8 character
// and of a possible stop string are held back; after a stop string nothing more comes out.
#pragma once

#include "common/text/tokenizer.h"

enum { TC_STOPS_MAX = 16, TC_STOP_BYTES_MAX = 1024 };

typedef struct tc_text_stream tc_text_stream;

// stops: `count` NUL-terminated strings (copied). TC_LIMIT when there are too many or one is too long or
// empty.
tc_status tc_text_stream_create(const tc_tokenizer *tokenizer, const char *const *stops, size_t count,
                                bool skip_special, tc_text_stream **ret, tc_error *e);
void tc_text_stream_free(tc_text_stream *stream);
// Feeds one token. *ret points to the text now final (may be empty, always valid UTF-8; valid until the next
// call). *ret_stopped becomes true when a stop string was completed: the text before it has come out, the
// rest is dropped. The stop string that is completed first wins; of those that end together, the longest.
tc_status tc_text_stream_push(tc_text_stream *stream, uint32_t id, const char **ret, size_t *ret_bytes,
                              bool *ret_stopped);
// While held, stop strings do not end the text; one that is complete then is just text.
void tc_text_stream_hold_stops(tc_text_stream *stream, bool hold);
// Which of the stop strings ended it; -1: none has.
int tc_text_stream_stopped_by(const tc_text_stream *stream);
// End of generation: everything held back (an unfinished character becomes U+FFFD).
tc_status tc_text_stream_finish(tc_text_stream *stream, const char **ret, size_t *ret_bytes);
