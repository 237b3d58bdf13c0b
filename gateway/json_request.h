// SPDX-License-Identifier: Apache-2.0
// Owns: reading typed fields out of a JSON body, with errors that name the field. A field that is absent or
// null leaves the output as it is; one that is given twice, has the wrong type or is out of range is refused;
// fields nobody asks for are ignored, as OpenAI's clients expect.
#pragma once

#include "gateway/error.h"
#include <yyjson.h>

// Root object of a body. Depth is checked before anything is built. *ret: owner is the caller,
// yyjson_doc_free.
bool tc_fields_open(const char *body, size_t bytes, yyjson_doc **ret, tc_http_error *error);

const char *tc_field_type(yyjson_val *value); // "a number"
// *ret is NULL when absent or null.
bool tc_field_find(yyjson_val *object, const char *name, yyjson_val **ret, tc_http_error *error);
bool tc_field_bool(yyjson_val *object, const char *name, bool *ret, tc_http_error *error);
bool tc_field_u32(yyjson_val *object, const char *name, uint32_t min, uint32_t max, uint32_t *ret,
                  tc_http_error *error);
// min <= value <= max, or min < value <= max with `above`.
bool tc_field_float(yyjson_val *object, const char *name, double min, double max, bool above, float *ret,
                    tc_http_error *error);

// The same with the place the field stands in ("messages[3]"), for errors; "" at the root. tc_field_path
// gives "messages[3].content"; its text is cut where it is too long for an error.
typedef struct tc_field_name {
    char text[64];
} tc_field_name;
tc_field_name tc_field_path(const char *place, const char *name);
tc_field_name tc_field_item(const char *place, size_t index); // "stop[2]"

// A member of an object that stands at `place`. Types: NULL where absent or null.
bool tc_member_find(yyjson_val *object, const char *place, const char *name, yyjson_val **ret,
                    tc_http_error *error);
bool tc_member_string(yyjson_val *object, const char *place, const char *name, const char **ret,
                      size_t *ret_bytes, tc_http_error *error);
bool tc_member_object(yyjson_val *object, const char *place, const char *name, yyjson_val **ret,
                      tc_http_error *error);
bool tc_member_list(yyjson_val *object, const char *place, const char *name, size_t max, yyjson_val **ret,
                    tc_http_error *error);
bool tc_member_bool(yyjson_val *object, const char *place, const char *name, bool *ret, tc_http_error *error);
// The value is not of the type that `expected` names ("a string").
bool tc_refuse_type(tc_http_error *error, const char *name, const char *expected, yyjson_val *value);
bool tc_refuse_missing(tc_http_error *error, const char *name);
bool tc_refuse_memory(tc_http_error *error); // 503
