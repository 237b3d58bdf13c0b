// SPDX-License-Identifier: Apache-2.0
// Owns: messages and tools as OpenAI's chat completions have them.
#include "gateway/chat_read.h"

#include <string.h>

// A text, or a list of parts of which each is a text; joined by line ends, as other servers do.
static bool read_content(tc_chat *chat, yyjson_val *value, const char *place, yyjson_mut_val *message,
                         tc_http_error *error)
{
    size_t i, count;
    yyjson_val *part;
    if (yyjson_is_str(value)) {
        tc_chat_text(chat, message, "content", yyjson_get_str(value), yyjson_get_len(value));
        return true;
    }
    if (!yyjson_is_arr(value)) return tc_refuse_type(error, place, "a string or a list of parts", value);
    if (yyjson_arr_size(value) > TC_CHAT_PARTS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", place, "%s has more than %d parts", place,
                              TC_CHAT_PARTS_MAX);
    tc_buffer all = {0};
    yyjson_arr_foreach(value, i, count, part)
    {
        tc_field_name at = tc_field_item(place, i);
        const char *type = "text", *text;
        size_t type_bytes, bytes;
        bool good = true;
        if (yyjson_is_str(part)) {
            text = yyjson_get_str(part);
            bytes = yyjson_get_len(part);
        } else if (!yyjson_is_obj(part)) {
            good = tc_refuse_type(error, at.text, "an object", part);
        } else if ((good = tc_member_string(part, at.text, "type", &type, &type_bytes, error))) {
            bool refusal = type && strcmp(type, "refusal") == 0;
            if (!type)
                good = tc_refuse_missing(error, tc_field_path(at.text, "type").text);
            else if (!refusal && strcmp(type, "text") != 0)
                good = tc_http_refuse(error, 400, "unsupported_content", tc_field_path(at.text, "type").text,
                                      "%s: this model reads text, not '%.40s'", at.text, type);
            else
                good = tc_member_string(part, at.text, refusal ? "refusal" : "text", &text, &bytes, error) &&
                       (text || tc_refuse_missing(error, tc_field_path(at.text, "text").text));
        }
        if (!good) {
            tc_buffer_free(&all);
            return false;
        }
        if (i) tc_buffer_text(&all, "\n");
        tc_buffer_append(&all, text, bytes);
    }
    tc_chat_text(chat, message, "content", all.data, all.count);
    chat->failed |= all.failed;
    tc_buffer_free(&all);
    return true;
}

static bool read_call(tc_chat *chat, yyjson_val *call, const char *place, yyjson_mut_val *message,
                      tc_http_error *error)
{
    const char *id, *type, *name, *arguments;
    size_t id_bytes, type_bytes, name_bytes, bytes;
    yyjson_val *function;
    tc_field_name at = tc_field_path(place, "function");
    if (!yyjson_is_obj(call)) return tc_refuse_type(error, place, "an object", call);
    if (!tc_member_string(call, place, "id", &id, &id_bytes, error) ||
        !tc_member_string(call, place, "type", &type, &type_bytes, error) ||
        !tc_member_object(call, place, "function", &function, error))
        return false;
    if (type && strcmp(type, "function") != 0)
        return tc_http_refuse(error, 400, "unsupported_content", tc_field_path(place, "type").text,
                              "%s: only calls of type 'function' are known", place);
    if (!function) return tc_refuse_missing(error, at.text);
    if (!tc_member_string(function, at.text, "name", &name, &name_bytes, error) ||
        !tc_member_string(function, at.text, "arguments", &arguments, &bytes, error))
        return false;
    if (!name) return tc_refuse_missing(error, tc_field_path(at.text, "name").text);
    return tc_chat_call(chat, message, tc_field_path(at.text, "arguments").text, id, name, arguments, bytes,
                        error);
}

static bool read_calls(tc_chat *chat, yyjson_val *object, const char *place, yyjson_mut_val *message,
                       tc_http_error *error)
{
    yyjson_val *list, *call;
    size_t i, count;
    tc_field_name at = tc_field_path(place, "tool_calls");
    if (!tc_member_list(object, place, "tool_calls", TC_CHAT_CALLS_MAX, &list, error)) return false;
    if (!list) return true;
    yyjson_arr_foreach(list, i, count, call) if (!read_call(chat, call, tc_field_item(at.text, i).text,
                                                            message, error)) return false;
    return true;
}

static const char *role_of(const char *text)
{
    static const char *const roles[][2] = {{"system", "system"}, {"developer", "system"},
                                           {"user", "user"},     {"assistant", "assistant"},
                                           {"tool", "tool"},     {"function", "tool"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(text, roles[i][0]) == 0) return roles[i][1];
    return NULL;
}

static bool copy_text(tc_chat *chat, yyjson_val *object, const char *place, const char *name, const char *as,
                      yyjson_mut_val *message, tc_http_error *error)
{
    const char *text;
    size_t bytes;
    if (!tc_member_string(object, place, name, &text, &bytes, error)) return false;
    if (text) tc_chat_text(chat, message, as, text, bytes);
    return true;
}

static bool read_message(tc_chat *chat, yyjson_val *object, const char *place, tc_http_error *error)
{
    const char *text, *role;
    size_t bytes;
    yyjson_val *content, *calls;
    tc_field_name role_at = tc_field_path(place, "role");
    if (!yyjson_is_obj(object)) return tc_refuse_type(error, place, "an object", object);
    if (!tc_member_string(object, place, "role", &text, &bytes, error) ||
        !tc_member_find(object, place, "content", &content, error) ||
        !tc_member_find(object, place, "tool_calls", &calls, error))
        return false;
    if (!text) return tc_refuse_missing(error, role_at.text);
    if (!(role = role_of(text)))
        return tc_http_refuse(error, 400, "invalid_value", role_at.text,
                              "%s must be system, developer, user, assistant or tool", role_at.text);
    bool assistant = strcmp(role, "assistant") == 0;
    yyjson_mut_val *message = tc_chat_add(chat, role);
    if (content) {
        if (!read_content(chat, content, tc_field_path(place, "content").text, message, error)) return false;
    } else if (assistant) {
        tc_chat_text(chat, message, "content", "", 0);
    } else {
        return tc_refuse_missing(error, tc_field_path(place, "content").text);
    }
    if (!copy_text(chat, object, place, "name", "name", message, error) ||
        !copy_text(chat, object, place, "tool_call_id", "tool_call_id", message, error))
        return false;
    if (!assistant) return true;
    return copy_text(chat, object, place, "reasoning", "reasoning_content", message, error) &&
           copy_text(chat, object, place, "reasoning_content", "reasoning_content", message, error) &&
           read_calls(chat, object, place, message, error);
}

static bool read_tool(tc_chat *chat, yyjson_val *tool, const char *place, tc_http_error *error)
{
    const char *type, *name, *description;
    size_t bytes;
    yyjson_val *function, *parameters, *strict;
    bool ignored;
    tc_field_name at = tc_field_path(place, "function");
    if (!yyjson_is_obj(tool)) return tc_refuse_type(error, place, "an object", tool);
    if (!tc_member_string(tool, place, "type", &type, &bytes, error) ||
        !tc_member_object(tool, place, "function", &function, error))
        return false;
    if (type && strcmp(type, "function") != 0)
        return tc_http_refuse(error, 400, "unsupported_tool", tc_field_path(place, "type").text,
                              "%s: only tools of type 'function' are known, not '%.40s'", place, type);
    if (!function) return tc_refuse_missing(error, at.text);
    return tc_member_string(function, at.text, "name", &name, &bytes, error) &&
           tc_member_string(function, at.text, "description", &description, &bytes, error) &&
           tc_member_object(function, at.text, "parameters", &parameters, error) &&
           tc_member_bool(function, at.text, "strict", &ignored, error) &&
           tc_member_find(function, at.text, "strict", &strict, error) &&
           tc_chat_tool(chat, at.text, name, description, parameters, strict, error);
}

static bool read_choice(tc_chat *chat, yyjson_val *value, tc_http_error *error)
{
    yyjson_val *function;
    const char *name, *type;
    size_t bytes;
    if (!value) return true;
    if (yyjson_equals_str(value, "auto")) return true;
    if (yyjson_equals_str(value, "none")) {
        chat->choice = TC_TOOLS_NONE;
        return true;
    }
    if (yyjson_equals_str(value, "required")) {
        chat->choice = TC_TOOLS_REQUIRED;
    } else if (yyjson_is_obj(value)) {
        if (!tc_member_string(value, "tool_choice", "type", &type, &bytes, error) ||
            !tc_member_object(value, "tool_choice", "function", &function, error))
            return false;
        if (type && strcmp(type, "function") != 0)
            return tc_http_refuse(error, 400, "invalid_value", "tool_choice.type",
                                  "tool_choice.type must be 'function'");
        // The responses dialect has the name beside the type.
        if (!tc_member_string(function ? function : value, "tool_choice", "name", &name, &bytes, error))
            return false;
        if (!name) return tc_refuse_missing(error, "tool_choice.function.name");
        chat->choice = TC_TOOLS_NAMED;
        chat->named = name;
    } else {
        return tc_http_refuse(error, 400, "invalid_value", "tool_choice",
                              "tool_choice must be 'none', 'auto', 'required', or an object that names a "
                              "function");
    }
    if (chat->tool_count == 0)
        return tc_http_refuse(error, 400, "invalid_value", "tool_choice", "tool_choice without tools");
    if (chat->named && !tc_chat_has_tool(chat, chat->named))
        return tc_http_refuse(error, 400, "invalid_value", "tool_choice",
                              "tool_choice: there is no tool '%.100s'", chat->named);
    return true;
}

bool tc_chat_read_openai_choice(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value;
    return tc_field_find(root, "tool_choice", &value, error) && read_choice(chat, value, error) &&
           tc_field_bool(root, "parallel_tool_calls", &chat->parallel, error);
}

static bool read_tools(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *list, *tool;
    size_t i, count;
    if (!tc_member_list(root, "", "tools", TC_CHAT_TOOLS_MAX, &list, error)) return false;
    if (!list) return true;
    yyjson_arr_foreach(list, i, count,
                       tool) if (!read_tool(chat, tool, tc_field_item("tools", i).text, error)) return false;
    return true;
}

static bool read_variables(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *kwargs, *documents;
    const char *effort;
    size_t bytes;
    bool generation_prompt = true, reasoning = true;
    if (!tc_member_object(root, "", "chat_template_kwargs", &kwargs, error) ||
        !tc_member_list(root, "", "documents", TC_CHAT_MESSAGES_MAX, &documents, error) ||
        !tc_member_string(root, "", "reasoning_effort", &effort, &bytes, error) ||
        !tc_field_bool(root, "add_generation_prompt", &generation_prompt, error) ||
        !tc_field_bool(root, "continue_final_message", &chat->continue_final, error) ||
        !tc_field_bool(root, "include_reasoning", &reasoning, error))
        return false;
    if (effort) tc_chat_variable(chat, "reasoning_effort", yyjson_mut_strncpy(chat->doc, effort, bytes));
    if (documents) tc_chat_variable(chat, "documents", yyjson_val_mut_copy(chat->doc, documents));
    if (kwargs && !tc_chat_variables(chat, kwargs, "chat_template_kwargs", error)) return false;
    if (chat->continue_final) generation_prompt = false;
    tc_chat_variable(chat, "add_generation_prompt", yyjson_mut_bool(chat->doc, generation_prompt));
    chat->drop_reasoning = !reasoning;
    return true;
}

bool tc_chat_read_openai(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    tc_chat *chat = &p->chat;
    yyjson_val *list, *message;
    size_t i, count;
    if (!tc_chat_begin(chat, error) ||
        !tc_member_list(root, "", "messages", TC_CHAT_MESSAGES_MAX, &list, error))
        return false;
    if (!list) return tc_refuse_missing(error, "messages");
    if (yyjson_arr_size(list) == 0)
        return tc_http_refuse(error, 400, "out_of_range", "messages", "messages must not be empty");
    yyjson_arr_foreach(
        list, i, count,
        message) if (!read_message(chat, message, tc_field_item("messages", i).text, error)) return false;
    return read_tools(chat, root, error) && tc_chat_read_openai_choice(chat, root, error) &&
           read_variables(chat, root, error);
}
