// SPDX-License-Identifier: Apache-2.0
// Owns: chat templates: the Jinja2 language as transformers sets it up (immutable sandbox, trim_blocks,
// lstrip_blocks, loop controls, `generation` blocks, no HTML escaping, raise_exception, strftime_now, and a
// `tojson` that prints as Python's json.dumps). Text and variables in, text out, equal to Jinja2 3.1.6.
// Refuses: files (include, import, extends), and without limit anything: steps, depth, memory and output are
// bounded. Neither parsing nor rendering logs, exits, or looks at the clock or the environment.
#pragma once

#include "common/base/status.h"
#include "common/text/span.h"
#include <stdint.h>
#include <time.h>

struct yyjson_val;

enum {
    TC_TEMPLATE_BYTES_MAX = 1 << 20,          // longest template
    TC_TEMPLATE_NESTING_MAX = 200,            // of blocks, and of brackets and operators in an expression
    TC_TEMPLATE_CALL_DEPTH_MAX = 100,         // macros that call macros, loops that call themselves
    TC_TEMPLATE_DATA_DEPTH_MAX = 200,         // lists and dicts in the variables
    TC_TEMPLATE_STEPS_MAX = 50 * 1000000,     // default for one rendering
    TC_TEMPLATE_OUTPUT_BYTES_MAX = 8 << 20,   // default for one rendering
    TC_TEMPLATE_MEMORY_BYTES_MAX = 512 << 20, // default for one rendering
    TC_TEMPLATE_KIND_BYTES = 32,
};

typedef struct tc_template tc_template;

// `text` is copied. `name` starts each error. A template with a syntax error is TC_FORMAT and the error names
// the line; one that is too long or nests too deep is TC_LIMIT. A parsed template is immutable and may be
// rendered by many threads at once.
tc_status tc_template_parse(const char *text, size_t bytes, const char *name, tc_template **ret, tc_error *e);
void tc_template_free(tc_template *t); // NULL is legal

typedef struct tc_template_limits {
    uint64_t steps;
    size_t output_bytes, memory_bytes;
} tc_template_limits;

// What a rendering gave. Owner: the caller, tc_rendered_free (also after an error).
typedef struct tc_rendered {
    char *text; // UTF-8, NUL-terminated; NULL after an error
    size_t bytes;
    // The ranges that came out of variables and not out of the template's own text, in order, disjoint, never
    // empty. Give them to tc_tokenizer_encode_spans: special tokens are then found in the template's text
    // only, whatever a user writes. Text that was made from both (JSON of a dict, a replaced string) keeps
    // them apart where that is possible and counts as data where it is not.
    tc_text_span *data;
    size_t data_count;
    // After an error: Python's name of what was raised ("TypeError", "UndefinedError"; "raise_exception" when
    // the template refused; "LimitExceeded"), and the whole message. Both empty otherwise.
    char kind[TC_TEMPLATE_KIND_BYTES];
    char *message; // NUL-terminated, or NULL
    size_t message_bytes;
} tc_rendered;

// Renders with the members of `context` (an object) as variables. Absent is undefined, null is defined and
// none. bos_token, eos_token, unk_token, sep_token, pad_token, cls_token and mask_token at the top level are
// the tokenizer's own words and count as template text: never let a request set them. `now` is the local time
// for strftime_now. `limits` may be NULL for the defaults. `context` is borrowed until the call returns; it
// may have been read with YYJSON_READ_BIGNUM_AS_RAW.
//   TC_OK        ret->text, ret->data
//   TC_ARGUMENT  the template called raise_exception: the conversation is not one it takes
//   TC_FORMAT    the template failed on these variables
//   TC_LIMIT     steps, depth, output or memory
//   TC_NOMEM
// e (may be NULL) has one line with kind and message.
tc_status tc_template_render(const tc_template *t, struct yyjson_val *context, const struct tm *now,
                             const tc_template_limits *limits, tc_rendered *ret, tc_error *e);
void tc_rendered_free(tc_rendered *rendered); // NULL and zeroed are legal
