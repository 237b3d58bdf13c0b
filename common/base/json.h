// SPDX-License-Identifier: Apache-2.0
// Owns: reading untrusted JSON: whole files of bounded size, strict parsing (depth, duplicate keys, trailing
// bytes), and typed getters whose errors name the document and the field. Refuses: writing JSON, and
// guessing: a value of another type or out of range is an error, never converted.
#pragma once

#include "common/base/status.h"
#include <stdint.h>
#include <yyjson.h>

enum { TC_JSON_DEPTH_MAX = 64 }; // deepest document that any caller may ask for

// The bytes of a regular file of at most max_bytes, followed by a NUL that *ret_bytes does not count. Owner:
// the caller, free(). A missing file is TC_NOT_FOUND.
tc_status tc_read_file(const char *path, size_t max_bytes, char **ret, size_t *ret_bytes, tc_error *e);

// Parses `bytes` bytes of strict JSON nested at most `depth` deep, without duplicate keys in any object.
// `what` names the document in errors. The document keeps no pointer into `text`. Free with yyjson_doc_free.
tc_status tc_json_parse(const char *what, const char *text, size_t bytes, uint32_t depth, yyjson_doc **ret,
                        tc_error *e);
// The same from a file.
tc_status tc_json_load(const char *path, size_t max_bytes, uint32_t depth, yyjson_doc **ret, tc_error *e);

// A view of one JSON object for the getters below. `what` (document, or document and place in it) starts each
// error.
typedef struct tc_json_object {
    yyjson_val *value;
    const char *what;
    tc_error *e;
} tc_json_object;

// Fails unless `value` is an object.
tc_status tc_json_object_of(yyjson_val *value, const char *what, tc_json_object *ret, tc_error *e);

// The field's value, or NULL where it is absent or null.
yyjson_val *tc_json_field(const tc_json_object *o, const char *field);

// A field that is absent or null leaves *ret as it is (the caller's default) and is TC_OK. Bounds are
// inclusive.
tc_status tc_json_u32(const tc_json_object *o, const char *field, uint32_t min, uint32_t max, uint32_t *ret);
tc_status tc_json_u64(const tc_json_object *o, const char *field, uint64_t min, uint64_t max, uint64_t *ret);
tc_status tc_json_double(const tc_json_object *o, const char *field, double min, double max, double *ret);
tc_status tc_json_bool(const tc_json_object *o, const char *field, bool *ret);
// Borrowed from the document. A text with a NUL inside is refused.
tc_status tc_json_string(const tc_json_object *o, const char *field, const char **ret);
// *ret stays where absent; its `what` is this object's.
tc_status tc_json_get_object(const tc_json_object *o, const char *field, tc_json_object *ret);
tc_status tc_json_get_array(const tc_json_object *o, const char *field, yyjson_val **ret);
// TC_FORMAT naming the field when it is absent or null.
tc_status tc_json_require(const tc_json_object *o, const char *field);

// One value that is no field of an object (an array's element): `place` names it.
tc_status tc_json_value_u64(yyjson_val *value, const char *what, const char *place, uint64_t min,
                            uint64_t max, uint64_t *ret, tc_error *e);
