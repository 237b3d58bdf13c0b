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
