// SPDX-License-Identifier: Apache-2.0
// Owns: building the conversation's document.
#include "gateway/chat.h"

#include "gateway/json_request.h"
#include "gateway/limits.h"
#include <string.h>

bool tc_chat_begin(tc_chat *chat, tc_http_error *error)
{
    memset(chat, 0, sizeof *chat);
    chat->parallel = true;
    chat->doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = chat->doc ? yyjson_mut_obj(chat->doc) : NULL;
    chat->messages = root ? yyjson_mut_obj_add_arr(chat->doc, root, "messages") : NULL;
    if (!chat->messages) return tc_refuse_memory(error);
    yyjson_mut_doc_set_root(chat->doc, root);
    return true;
}

void tc_chat_free(tc_chat *chat)
{
    yyjson_mut_doc_free(chat->doc);
    chat->doc = NULL;
}

void tc_chat_value(tc_chat *chat, yyjson_mut_val *object, const char *name, yyjson_mut_val *value)
{
    yyjson_mut_val *key = yyjson_mut_strcpy(chat->doc, name);
    if (!object || !key || !value || !yyjson_mut_obj_put(object, key, value)) chat->failed = true;
}

void tc_chat_text(tc_chat *chat, yyjson_mut_val *object, const char *name, const char *text, size_t bytes)
{
    tc_chat_value(chat, object, name, yyjson_mut_strncpy(chat->doc, text ? text : "", bytes));
}

void tc_chat_append(tc_chat *chat, yyjson_mut_val *object, const char *name, const char *between,
                    const char *text, size_t bytes)
{
    yyjson_mut_val *old = object ? yyjson_mut_obj_get(object, name) : NULL;
    if (!yyjson_mut_is_str(old)) {
        tc_chat_text(chat, object, name, text, bytes);
        return;
    }
    tc_buffer all = {0};
    tc_buffer_append(&all, yyjson_mut_get_str(old), yyjson_mut_get_len(old));
    tc_buffer_text(&all, between);
    tc_buffer_append(&all, text, bytes);
    if (all.failed)
        chat->failed = true;
    else
        tc_chat_text(chat, object, name, all.data, all.count);
    tc_buffer_free(&all);
}

yyjson_mut_val *tc_chat_add(tc_chat *chat, const char *role)
{
    yyjson_mut_val *message = yyjson_mut_arr_add_obj(chat->doc, chat->messages);
    if (!message) chat->failed = true;
    tc_chat_text(chat, message, "role", role, strlen(role));
    chat->message_count++;
    return message;
}

void tc_chat_call_value(tc_chat *chat, yyjson_mut_val *message, const char *id, const char *name,
                        yyjson_mut_val *arguments)
{
    yyjson_mut_val *calls = message ? yyjson_mut_obj_get(message, "tool_calls") : NULL;
    if (message && !calls) {
        calls = yyjson_mut_arr(chat->doc);
        tc_chat_value(chat, message, "tool_calls", calls);
    }
    yyjson_mut_val *call = calls ? yyjson_mut_arr_add_obj(chat->doc, calls) : NULL;
    yyjson_mut_val *function = yyjson_mut_obj(chat->doc);
    if (id) tc_chat_text(chat, call, "id", id, strlen(id));
    tc_chat_text(chat, call, "type", "function", 8);
    tc_chat_value(chat, call, "function", function);
    tc_chat_text(chat, function, "name", name, strlen(name));
    tc_chat_value(chat, function, "arguments", arguments);
}

bool tc_chat_call(tc_chat *chat, yyjson_mut_val *message, const char *place, const char *id, const char *name,
                  const char *arguments, size_t bytes, tc_http_error *error)
{
    yyjson_mut_val *value = NULL;
    if (bytes == 0) {
        value = yyjson_mut_obj(chat->doc);
    } else {
        yyjson_doc *doc;
        tc_http_error why;
        if (!tc_fields_open(arguments, bytes, &doc, &why))
            return tc_http_refuse(error, why.status, "invalid_value", place,
                                  "%s must be JSON text of an object: %.150s", place, why.message);
        value = yyjson_val_mut_copy(chat->doc, yyjson_doc_get_root(doc));
        yyjson_doc_free(doc);
    }
    tc_chat_call_value(chat, message, id, name, value);
    return true;
}

bool tc_chat_has_tool(const tc_chat *chat, const char *name)
{
    size_t i, count;
    yyjson_mut_val *tool;
    if (!chat->tools) return false;
    yyjson_mut_arr_foreach(chat->tools, i, count, tool)
    {
        yyjson_mut_val *value = yyjson_mut_obj_get(yyjson_mut_obj_get(tool, "function"), "name");
        if (yyjson_mut_equals_str(value, name)) return true;
    }
    return false;
}

yyjson_mut_val *tc_chat_tool_parameters(const tc_chat *chat, const char *name)
{
    size_t i, count;
    yyjson_mut_val *tool;
    if (!chat->tools) return NULL;
    yyjson_mut_arr_foreach(chat->tools, i, count, tool)
    {
        yyjson_mut_val *function = yyjson_mut_obj_get(tool, "function");
        if (yyjson_mut_equals_str(yyjson_mut_obj_get(function, "name"), name))
            return yyjson_mut_obj_get(function, "parameters");
    }
    return NULL;
}

bool tc_chat_tool(tc_chat *chat, const char *place, const char *name, const char *description,
                  yyjson_val *parameters, yyjson_val *strict, tc_http_error *error)
{
    tc_field_name path = tc_field_path(place, "name");
    if (!name) return tc_refuse_missing(error, path.text);
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > TC_CHAT_TOOL_NAME_BYTES_MAX ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/") != bytes)
        return tc_http_refuse(error, 400, "invalid_value", path.text,
                              "%s must have 1 to %d letters, digits, '_', '-', '.', ':' or '/'", path.text,
                              TC_CHAT_TOOL_NAME_BYTES_MAX);
    if (tc_chat_has_tool(chat, name))
        return tc_http_refuse(error, 400, "invalid_value", path.text, "%s: '%s' is there twice", path.text,
                              name);
    if (!chat->tools) {
        chat->tools = yyjson_mut_arr(chat->doc);
        tc_chat_value(chat, yyjson_mut_doc_get_root(chat->doc), "tools", chat->tools);
    }
    yyjson_mut_val *tool = chat->tools ? yyjson_mut_arr_add_obj(chat->doc, chat->tools) : NULL;
    yyjson_mut_val *function = yyjson_mut_obj(chat->doc);
    tc_chat_text(chat, tool, "type", "function", 8);
    tc_chat_value(chat, tool, "function", function);
    tc_chat_text(chat, function, "name", name, bytes);
    if (description) tc_chat_text(chat, function, "description", description, strlen(description));
    if (parameters) tc_chat_value(chat, function, "parameters", yyjson_val_mut_copy(chat->doc, parameters));
    if (strict) tc_chat_value(chat, function, "strict", yyjson_val_mut_copy(chat->doc, strict));
    chat->tool_count++;
    return true;
}

// What a request must not set: the conversation itself, and the tokenizer's words, which count as the
// template's own text and so may become special tokens.
static bool is_ours(const char *name)
{
    static const char *const ours[] = {"messages",  "tools",     "add_generation_prompt",
                                       "bos_token", "eos_token", "unk_token",
                                       "sep_token", "pad_token", "cls_token",
                                       "mask_token"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(name, ours[i]) == 0) return true;
    return false;
}

void tc_chat_variable(tc_chat *chat, const char *name, yyjson_mut_val *value)
{
    tc_chat_value(chat, yyjson_mut_doc_get_root(chat->doc), name, value);
}

bool tc_chat_variables(tc_chat *chat, yyjson_val *object, const char *place, tc_http_error *error)
{
    size_t i, count;
    yyjson_val *key, *value;
    if (yyjson_obj_size(object) > TC_CHAT_VARIABLES_MAX)
        return tc_http_refuse(error, 400, "out_of_range", place, "%s has more than %d members", place,
                              TC_CHAT_VARIABLES_MAX);
    yyjson_obj_foreach(object, i, count, key, value)
    {
        const char *name = yyjson_get_str(key);
        if (!is_ours(name)) tc_chat_variable(chat, name, yyjson_val_mut_copy(chat->doc, value));
    }
    return true;
}
