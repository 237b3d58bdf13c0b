// SPDX-License-Identifier: Apache-2.0
// Owns: reading one tool call, byte by byte: where its name and its arguments are. For answer.c.
#pragma once

#include "gateway/chat.h"

typedef enum tc_call_phase {
    TC_CALL_BEFORE,
    TC_CALL_KEY_OR_END,
    TC_CALL_KEY,
    TC_CALL_COLON,
    TC_CALL_VALUE_START,
    TC_CALL_VALUE,
    TC_CALL_DONE, // the object is whole
    TC_CALL_XML,  // <function=...>: read when it is whole
    TC_CALL_BAD,  // no call
} tc_call_phase;

// A call being read. `raw` is everything behind its opening tag.
typedef struct tc_call_scan {
    tc_call_phase phase;
    tc_buffer raw;
    size_t at, key, key_end, value; // offsets into raw
    unsigned depth;
    bool in_string, escaped;
    bool has_name, has_arguments, is_object; // is_object: arguments come as an object and may be passed on
    size_t arguments, arguments_end;         // in raw; end is `at` while they come
    tc_buffer name, decoded;                 // decoded: arguments that came as a string
} tc_call_scan;

void tc_call_scan_free(tc_call_scan *scan);
void tc_call_scan_run(tc_call_scan *scan); // up to the end of raw
// Reads raw as <function=NAME><parameter=KEY>VALUE</parameter>...</function> into name and decoded. False: it
// is none.
bool tc_call_scan_xml(tc_call_scan *scan, const tc_chat *chat);
