// SPDX-License-Identifier: Apache-2.0
// Owns: what an answer's text must match, as the dialects ask for it: response_format, regex, grammar,
// structured_outputs, and tool calls that are required. Refuses: two of them at once. Whether a schema,
// expression or grammar can be enforced is decided when it is compiled (job.c), before anything is queued.
#include "gateway/params.h"

#include <stdlib.h>
#include <string.h>

static bool set(tc_params *p, tc_constraint_kind kind, const char *field, char *text, size_t bytes,
                tc_http_error *error)
{
    if (!text && bytes) return tc_refuse_memory(error);
    if (p->constraint.kind != TC_CONSTRAINT_NONE) {
        free(text);
        return tc_http_refuse(error, 400, "invalid_value", field, "%s and %s exclude each other", field,
                              p->constraint_field);
    }
    if (bytes > TC_CONSTRAINT_TEXT_BYTES_MAX) {
        free(text);
        return tc_http_refuse(error, 400, "out_of_range", field, "%s is longer than %d bytes", field,
                              TC_CONSTRAINT_TEXT_BYTES_MAX);
    }
    p->constraint_text = text;
    p->constraint_field = field;
    p->constraint = (tc_constraint){kind, text ? text : "", bytes};
    return true;
}

static bool set_text(tc_params *p, tc_constraint_kind kind, const char *field, const char *text, size_t bytes,
                     tc_http_error *error)
{
    if (bytes == 0) return tc_http_refuse(error, 400, "out_of_range", field, "%s must not be empty", field);
    char *copy = malloc(bytes + 1);
    if (copy) memcpy(copy, text, bytes);
    if (copy) copy[bytes] = 0;
    return set(p, kind, field, copy, bytes, error);
}

bool tc_params_set_schema(tc_params *p, const char *field, yyjson_val *schema, tc_http_error *error)
{
    size_t bytes = 0;
    char *text = yyjson_val_write(schema, YYJSON_WRITE_NOFLAG, &bytes);
    if (!text) return tc_refuse_memory(error);
    return set(p, TC_CONSTRAINT_JSON_SCHEMA, field, text, bytes, error);
}

// {"type": "text" | "json_object" | "json_schema"}; the schema stands in `schema_place`, or beside the type.
bool tc_params_read_format(tc_params *p, yyjson_val *format, const char *place, bool nested,
                           tc_http_error *error)
{
    const char *type, *name;
    size_t bytes;
    yyjson_val *holder = format, *schema;
    tc_field_name type_at = tc_field_path(place, "type"), holder_at = tc_field_path(place, "json_schema");
    if (!tc_member_string(format, place, "type", &type, &bytes, error)) return false;
    if (!type) return tc_refuse_missing(error, type_at.text);
    if (strcmp(type, "text") == 0) return true;
    if (strcmp(type, "json_object") == 0)
        return set(p, TC_CONSTRAINT_JSON_OBJECT, nested ? "response_format" : "text.format", NULL, 0, error);
    if (strcmp(type, "json_schema") != 0)
        return tc_http_refuse(error, 400, "invalid_value", type_at.text,
                              "%s must be text, json_object or json_schema, not '%.40s'", type_at.text, type);
    if (nested && !tc_member_object(format, place, "json_schema", &holder, error)) return false;
    if (!holder) return tc_refuse_missing(error, holder_at.text);
    const char *at = nested ? holder_at.text : place;
    bool ignored;
    if (!tc_member_string(holder, at, "name", &name, &bytes, error) ||
        !tc_member_bool(holder, at, "strict", &ignored, error) ||
        !tc_member_find(holder, at, "schema", &schema, error))
        return false;
    if (!schema) return tc_refuse_missing(error, tc_field_path(at, "schema").text);
    if (!yyjson_is_obj(schema) && !yyjson_is_bool(schema))
        return tc_refuse_type(error, tc_field_path(at, "schema").text, "an object", schema);
    return tc_params_set_schema(p, nested ? "response_format" : "text.format", schema, error);
}

// The same of a field "choice": one of these texts, nothing else.
static bool set_choice(tc_params *p, const char *field, yyjson_val *list, tc_http_error *error)
{
    size_t i, count;
    yyjson_val *item;
    tc_buffer regex = {.max = TC_CONSTRAINT_TEXT_BYTES_MAX};
    yyjson_arr_foreach(list, i, count, item)
    {
        const char *text = yyjson_get_str(item);
        if (!text) {
            tc_buffer_free(&regex);
            return tc_refuse_type(error, field, "a list of strings", item);
        }
        if (i) tc_buffer_text(&regex, "|");
        for (size_t k = 0; k < yyjson_get_len(item); k++) {
            if (text[k] && strchr("\\^$.|?*+()[]{}", text[k])) tc_buffer_text(&regex, "\\");
            tc_buffer_append(&regex, text + k, 1);
        }
    }
    bool good = regex.failed ? tc_http_refuse(error, 400, "out_of_range", field, "%s is too long", field)
                             : set_text(p, TC_CONSTRAINT_REGEX, field, regex.data, regex.count, error);
    tc_buffer_free(&regex);
    return good;
}

// regex, grammar and their kin: at the root, and in structured_outputs.
static bool read_texts(tc_params *p, yyjson_val *object, const char *place, const char *const names[4],
                       tc_http_error *error)
{
    const char *text;
    size_t bytes;
    yyjson_val *value;
    static const tc_constraint_kind kinds[] = {TC_CONSTRAINT_REGEX, TC_CONSTRAINT_GRAMMAR};
    for (int i = 0; i < 2; i++) {
        if (!names[i]) continue;
        if (!tc_member_string(object, place, names[i], &text, &bytes, error)) return false;
        if (text && !set_text(p, kinds[i], names[i], text, bytes, error)) return false;
    }
    if (names[2]) {
        if (!tc_member_list(object, place, names[2], TC_CHAT_TOOLS_MAX, &value, error)) return false;
        if (value && !set_choice(p, names[2], value, error)) return false;
    }
    if (!names[3]) return true;
    if (!tc_member_find(object, place, names[3], &value, error)) return false;
    if (!value) return true;
    if (yyjson_is_str(value))
        return set_text(p, TC_CONSTRAINT_JSON_SCHEMA, names[3], yyjson_get_str(value), yyjson_get_len(value),
                        error);
    if (!yyjson_is_obj(value)) return tc_refuse_type(error, names[3], "an object or JSON text", value);
    return tc_params_set_schema(p, names[3], value, error);
}

bool tc_params_read_constraint(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    static const char *const ours[] = {"regex", "grammar", NULL, NULL};
    static const char *const guided[] = {"guided_regex", "guided_grammar", "guided_choice", "guided_json"};
    static const char *const structured[] = {"regex", "grammar", "choice", "json"};
    yyjson_val *format, *outputs;
    bool object = false;
    if (!tc_member_object(root, "", "response_format", &format, error) ||
        !tc_member_object(root, "", "structured_outputs", &outputs, error))
        return false;
    if (format && !tc_params_read_format(p, format, "response_format", true, error)) return false;
    if (!read_texts(p, root, "", ours, error) || !read_texts(p, root, "", guided, error)) return false;
    if (!outputs) return true;
    if (!read_texts(p, outputs, "structured_outputs", structured, error) ||
        !tc_member_bool(outputs, "structured_outputs", "json_object", &object, error))
        return false;
    return !object || set(p, TC_CONSTRAINT_JSON_OBJECT, "structured_outputs", NULL, 0, error);
}

bool tc_params_constrain_tools(tc_params *p, tc_http_error *error)
{
    tc_chat *chat = &p->chat;
    if (chat->choice != TC_TOOLS_REQUIRED && chat->choice != TC_TOOLS_NAMED) return true;
    tc_buffer text = {0};
    char *tools = yyjson_mut_val_write(chat->tools, YYJSON_WRITE_NOFLAG, NULL);
    if (!tools) return tc_refuse_memory(error);
    tc_buffer_text(&text, "{\"tools\":");
    tc_buffer_text(&text, tools);
    free(tools);
    if (chat->named) {
        tc_buffer_text(&text, ",\"name\":");
        tc_buffer_json_text(&text, chat->named);
    }
    tc_buffer_format(&text, ",\"parallel\":%s}", chat->parallel && !chat->named ? "true" : "false");
    if (text.failed) {
        tc_buffer_free(&text);
        return tc_refuse_memory(error);
    }
    return set(p, TC_CONSTRAINT_TOOL_CALLS, "tool_choice", text.data, text.count, error);
}
