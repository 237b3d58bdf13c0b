// SPDX-License-Identifier: Apache-2.0
// Owns: the depth check, lookup without duplicates, types and ranges.
#include "gateway/json_request.h"

#include "gateway/limits.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static bool check_depth(const char *body, size_t bytes)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = body[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > TC_BODY_JSON_DEPTH_MAX) return false;
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        }
    }
    return true;
}

bool tc_fields_open(const char *body, size_t bytes, yyjson_doc **ret, tc_http_error *error)
{
    if (bytes == 0)
        return tc_http_refuse(error, 400, "invalid_json", NULL,
                              "the body is empty: a JSON object is expected");
    if (!check_depth(body, bytes))
        return tc_http_refuse(error, 400, "invalid_json", NULL, "the JSON is nested more than %d deep",
                              TC_BODY_JSON_DEPTH_MAX);
    yyjson_read_err why;
    // Without the in-situ flag yyjson only reads the text; its type has no const.
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)body, bytes, YYJSON_READ_NOFLAG, NULL, &why);
    if (!doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
        return tc_http_refuse(error, 503, "unavailable", NULL, "out of memory");
    if (!doc)
        return tc_http_refuse(error, 400, "invalid_json", NULL, "the body is not valid JSON: %s at byte %zu",
                              why.msg, why.pos);
    if (!yyjson_is_obj(yyjson_doc_get_root(doc))) {
        yyjson_doc_free(doc);
        return tc_http_refuse(error, 400, "invalid_json", NULL, "the body must be a JSON object");
    }
    *ret = doc;
    return true;
}

bool tc_field_find(yyjson_val *object, const char *name, yyjson_val **ret, tc_http_error *error)
{
    yyjson_val *found = NULL, *key;
    yyjson_obj_iter iter = yyjson_obj_iter_with(object);
    while ((key = yyjson_obj_iter_next(&iter))) {
        if (!yyjson_equals_str(key, name)) continue;
        if (found) return tc_http_refuse(error, 400, "duplicate_field", name, "%s is given twice", name);
        found = yyjson_obj_iter_get_val(key);
    }
    *ret = found && !yyjson_is_null(found) ? found : NULL;
    return true;
}

const char *tc_field_type(yyjson_val *value)
{
    switch (yyjson_get_type(value)) {
    case YYJSON_TYPE_NULL:
        return "null";
    case YYJSON_TYPE_BOOL:
        return "true or false";
    case YYJSON_TYPE_NUM:
        return yyjson_is_int(value) ? "an integer" : "a number with a fraction";
    case YYJSON_TYPE_STR:
        return "a string";
    case YYJSON_TYPE_ARR:
        return "a list";
    default:
        return "an object";
    }
}

bool tc_refuse_type(tc_http_error *error, const char *name, const char *expected, yyjson_val *value)
{
    return tc_http_refuse(error, 400, "invalid_type", name, "%s must be %s, not %s", name, expected,
                          tc_field_type(value));
}

bool tc_field_bool(yyjson_val *object, const char *name, bool *ret, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_find(object, name, &value, error)) return false;
    if (!value) return true;
    if (!yyjson_is_bool(value)) return tc_refuse_type(error, name, "true or false", value);
    *ret = yyjson_get_bool(value);
    return true;
}

bool tc_field_u32(yyjson_val *object, const char *name, uint32_t min, uint32_t max, uint32_t *ret,
                  tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_find(object, name, &value, error)) return false;
    if (!value) return true;
    if (!yyjson_is_int(value)) return tc_refuse_type(error, name, "an integer", value);
    // A negative number is a signed one; positive ones are unsigned.
    if (yyjson_is_sint(value) || yyjson_get_uint(value) < min || yyjson_get_uint(value) > max)
        return tc_http_refuse(error, 400, "out_of_range", name, "%s must be from %u to %u", name, min, max);
    *ret = (uint32_t)yyjson_get_uint(value);
    return true;
}

bool tc_field_float(yyjson_val *object, const char *name, double min, double max, bool above, float *ret,
                    tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_find(object, name, &value, error)) return false;
    if (!value) return true;
    if (!yyjson_is_num(value)) return tc_refuse_type(error, name, "a number", value);
    double number = yyjson_get_num(value);
    // A positive number too small for a float must not become 0 where 0 is refused.
    if (!isfinite(number) || number < min || number > max ||
        (above && (number <= min || (float)number <= (float)min)))
        return tc_http_refuse(error, 400, "out_of_range", name, "%s must be %s %g to %g", name,
                              above ? "above" : "from", min, max);
    *ret = (float)number;
    return true;
}

bool tc_refuse_missing(tc_http_error *error, const char *name)
{
    return tc_http_refuse(error, 400, "missing_field", name, "%s is missing", name);
}

bool tc_refuse_memory(tc_http_error *error)
{
    return tc_http_refuse(error, 503, "unavailable", NULL, "out of memory");
}

tc_field_name tc_field_path(const char *place, const char *name)
{
    tc_field_name path;
    snprintf(path.text, sizeof path.text, "%.40s%s%.22s", place, *place ? "." : "", name);
    return path;
}

tc_field_name tc_field_item(const char *place, size_t index)
{
    tc_field_name path;
    snprintf(path.text, sizeof path.text, "%.40s[%zu]", place, index);
    return path;
}

// Errors name the whole path; the look-up only knows the member.
static bool named(const char *place, const char *name, bool good, tc_http_error *error)
{
    if (good || !*place) return good;
    tc_field_name path = tc_field_path(place, name);
    char message[sizeof error->message];
    snprintf(message, sizeof message, "%.200s: in %s", error->message, place);
    snprintf(error->param, sizeof error->param, "%s", path.text);
    snprintf(error->message, sizeof error->message, "%s", message);
    return false;
}

bool tc_member_find(yyjson_val *object, const char *place, const char *name, yyjson_val **ret,
                    tc_http_error *error)
{
    return named(place, name, tc_field_find(object, name, ret, error), error);
}

bool tc_member_string(yyjson_val *object, const char *place, const char *name, const char **ret,
                      size_t *ret_bytes, tc_http_error *error)
{
    yyjson_val *value;
    *ret = NULL;
    *ret_bytes = 0;
    if (!tc_member_find(object, place, name, &value, error)) return false;
    if (!value) return true;
    if (!yyjson_is_str(value))
        return tc_refuse_type(error, tc_field_path(place, name).text, "a string", value);
    *ret = yyjson_get_str(value);
    *ret_bytes = yyjson_get_len(value);
    return true;
}

bool tc_member_object(yyjson_val *object, const char *place, const char *name, yyjson_val **ret,
                      tc_http_error *error)
{
    if (!tc_member_find(object, place, name, ret, error)) return false;
    return !*ret || yyjson_is_obj(*ret) ||
           tc_refuse_type(error, tc_field_path(place, name).text, "an object", *ret);
}

bool tc_member_list(yyjson_val *object, const char *place, const char *name, size_t max, yyjson_val **ret,
                    tc_http_error *error)
{
    if (!tc_member_find(object, place, name, ret, error)) return false;
    if (!*ret) return true;
    tc_field_name path = tc_field_path(place, name);
    if (!yyjson_is_arr(*ret)) return tc_refuse_type(error, path.text, "a list", *ret);
    if (yyjson_arr_size(*ret) > max)
        return tc_http_refuse(error, 400, "out_of_range", path.text, "%s has %zu items; the limit is %zu",
                              path.text, yyjson_arr_size(*ret), max);
    return true;
}

bool tc_member_bool(yyjson_val *object, const char *place, const char *name, bool *ret, tc_http_error *error)
{
    return named(place, name, tc_field_bool(object, name, ret, error), error);
}
