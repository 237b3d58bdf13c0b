// SPDX-License-Identifier: Apache-2.0
// Owns: requests as Anthropic's Messages API has them: system, messages of content blocks, tools,
// tool_choice, thinking, output_config. A tool_result block becomes a message of the tool; a thinking block
// the reasoning of its message.
#include "gateway/chat_read.h"

#include <string.h>

// "system", and the content of tool results: a text, or blocks of text. Appended to the message's content.
static bool read_texts(tc_chat *chat, yyjson_val *value, const char *place, yyjson_mut_val *message,
                       tc_http_error *error)
{
    size_t i, count, bytes;
    yyjson_val *block;
    const char *type, *text;
    if (yyjson_is_str(value)) {
        tc_chat_append(chat, message, "content", "\n", yyjson_get_str(value), yyjson_get_len(value));
        return true;
    }
    if (!yyjson_is_arr(value)) return tc_refuse_type(error, place, "a string or a list of blocks", value);
    if (yyjson_arr_size(value) > TC_CHAT_PARTS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", place, "%s has more than %d blocks", place,
                              TC_CHAT_PARTS_MAX);
    yyjson_arr_foreach(value, i, count, block)
    {
        tc_field_name at = tc_field_item(place, i);
        if (!yyjson_is_obj(block)) return tc_refuse_type(error, at.text, "an object", block);
        if (!tc_member_string(block, at.text, "type", &type, &bytes, error)) return false;
        if (type && strcmp(type, "text") != 0)
            return tc_http_refuse(error, 400, "unsupported_content", tc_field_path(at.text, "type").text,
                                  "%s: this model reads text, not '%.40s'", at.text, type);
        if (!tc_member_string(block, at.text, "text", &text, &bytes, error)) return false;
        if (!text) return tc_refuse_missing(error, tc_field_path(at.text, "text").text);
        tc_chat_append(chat, message, "content", "\n", text, bytes);
    }
    return true;
}

// Blocks of one message. Results of tools become messages of their own before the text that follows them.
typedef struct message_reader {
    tc_chat *chat;
    const char *role;
    yyjson_mut_val *message; // made with the first block that needs it
    tc_http_error *error;
} message_reader;

static yyjson_mut_val *message_of(message_reader *m)
{
    if (!m->message) {
        m->message = tc_chat_add(m->chat, m->role);
        if (strcmp(m->role, "assistant") == 0) tc_chat_text(m->chat, m->message, "content", "", 0);
    }
    return m->message;
}

static bool read_use(message_reader *m, yyjson_val *block, const char *place)
{
    const char *id, *name;
    size_t bytes;
    yyjson_val *input;
    if (!tc_member_string(block, place, "id", &id, &bytes, m->error) ||
        !tc_member_string(block, place, "name", &name, &bytes, m->error) ||
        !tc_member_object(block, place, "input", &input, m->error))
        return false;
    if (!name) return tc_refuse_missing(m->error, tc_field_path(place, "name").text);
    tc_chat_call_value(m->chat, message_of(m), id, name,
                       input ? yyjson_val_mut_copy(m->chat->doc, input) : yyjson_mut_obj(m->chat->doc));
    return true;
}

static bool read_result(message_reader *m, yyjson_val *block, const char *place)
{
    const char *id;
    size_t bytes;
    yyjson_val *content;
    bool failed = false;
    if (!tc_member_string(block, place, "tool_use_id", &id, &bytes, m->error) ||
        !tc_member_bool(block, place, "is_error", &failed, m->error) ||
        !tc_member_find(block, place, "content", &content, m->error))
        return false;
    if (!id) return tc_refuse_missing(m->error, tc_field_path(place, "tool_use_id").text);
    m->message = NULL;
    yyjson_mut_val *result = tc_chat_add(m->chat, "tool");
    tc_chat_text(m->chat, result, "tool_call_id", id, bytes);
    if (content && !read_texts(m->chat, content, tc_field_path(place, "content").text, result, m->error))
        return false;
    if (!yyjson_mut_obj_get(result, "content"))
        tc_chat_text(m->chat, result, "content", failed ? "error" : "", failed ? 5 : 0);
    return true;
}

static bool read_block(message_reader *m, yyjson_val *block, const char *place)
{
    const char *type, *text;
    size_t bytes;
    if (!yyjson_is_obj(block)) return tc_refuse_type(m->error, place, "an object", block);
    if (!tc_member_string(block, place, "type", &type, &bytes, m->error)) return false;
    if (!type) return tc_refuse_missing(m->error, tc_field_path(place, "type").text);
    bool assistant = strcmp(m->role, "assistant") == 0, thinking = strcmp(type, "thinking") == 0;
    if (strcmp(type, "text") == 0 || (assistant && thinking)) {
        if (!tc_member_string(block, place, type, &text, &bytes, m->error)) return false;
        if (!text) return tc_refuse_missing(m->error, tc_field_path(place, type).text);
        if (thinking)
            tc_chat_append(m->chat, message_of(m), "reasoning_content", "\n", text, bytes);
        else
            tc_chat_append(m->chat, message_of(m), "content", "", text, bytes);
        return true;
    }
    if (assistant && strcmp(type, "redacted_thinking") == 0) return true;
    if (assistant && strcmp(type, "tool_use") == 0) return read_use(m, block, place);
    if (!assistant && strcmp(type, "tool_result") == 0) return read_result(m, block, place);
    return tc_http_refuse(m->error, 400, "unsupported_content", tc_field_path(place, "type").text,
                          "%s: '%.40s' is not taken in a message of the %s", place, type, m->role);
}

static bool read_message(tc_chat *chat, yyjson_val *object, const char *place, tc_http_error *error)
{
    const char *role;
    size_t bytes, i, count;
    yyjson_val *content, *block;
    tc_field_name role_at = tc_field_path(place, "role"), content_at = tc_field_path(place, "content");
    if (!yyjson_is_obj(object)) return tc_refuse_type(error, place, "an object", object);
    if (!tc_member_string(object, place, "role", &role, &bytes, error) ||
        !tc_member_find(object, place, "content", &content, error))
        return false;
    if (!role) return tc_refuse_missing(error, role_at.text);
    if (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0)
        return tc_http_refuse(error, 400, "invalid_value", role_at.text, "%s must be user or assistant",
                              role_at.text);
    if (!content) return tc_refuse_missing(error, content_at.text);
    message_reader m = {chat, role, NULL, error};
    if (yyjson_is_str(content)) {
        tc_chat_text(chat, message_of(&m), "content", yyjson_get_str(content), yyjson_get_len(content));
        return true;
    }
    if (!yyjson_is_arr(content))
        return tc_refuse_type(error, content_at.text, "a string or a list of blocks", content);
    if (yyjson_arr_size(content) == 0 || yyjson_arr_size(content) > TC_CHAT_PARTS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", content_at.text, "%s must hold 1 to %d blocks",
                              content_at.text, TC_CHAT_PARTS_MAX);
    yyjson_arr_foreach(
        content, i, count,
        block) if (!read_block(&m, block, tc_field_item(content_at.text, i).text)) return false;
    return true;
}

static bool read_tools(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *list, *tool, *schema;
    const char *type, *name, *description;
    size_t i, count, bytes;
    if (!tc_member_list(root, "", "tools", TC_CHAT_TOOLS_MAX, &list, error)) return false;
    if (!list) return true;
    yyjson_arr_foreach(list, i, count, tool)
    {
        tc_field_name at = tc_field_item("tools", i);
        if (!yyjson_is_obj(tool)) return tc_refuse_type(error, at.text, "an object", tool);
        if (!tc_member_string(tool, at.text, "type", &type, &bytes, error)) return false;
        if (type && strcmp(type, "custom") != 0)
            return tc_http_refuse(error, 400, "unsupported_tool", tc_field_path(at.text, "type").text,
                                  "%s: only custom tools are known, not '%.40s'", at.text, type);
        if (!tc_member_string(tool, at.text, "name", &name, &bytes, error) ||
            !tc_member_string(tool, at.text, "description", &description, &bytes, error) ||
            !tc_member_object(tool, at.text, "input_schema", &schema, error))
            return false;
        if (!schema) return tc_refuse_missing(error, tc_field_path(at.text, "input_schema").text);
        if (!tc_chat_tool(chat, at.text, name, description, schema, NULL, error)) return false;
    }
    return true;
}

static bool read_choice(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *choice;
    const char *type, *name;
    size_t bytes;
    bool alone = false;
    if (!tc_member_object(root, "", "tool_choice", &choice, error)) return false;
    if (!choice) return true;
    if (!tc_member_string(choice, "tool_choice", "type", &type, &bytes, error) ||
        !tc_member_string(choice, "tool_choice", "name", &name, &bytes, error) ||
        !tc_member_bool(choice, "tool_choice", "disable_parallel_tool_use", &alone, error))
        return false;
    if (!type) return tc_refuse_missing(error, "tool_choice.type");
    chat->parallel = !alone;
    if (strcmp(type, "auto") == 0) return true;
    if (strcmp(type, "none") == 0) {
        chat->choice = TC_TOOLS_NONE;
        return true;
    }
    if (strcmp(type, "any") == 0) {
        chat->choice = TC_TOOLS_REQUIRED;
    } else if (strcmp(type, "tool") == 0) {
        if (!name) return tc_refuse_missing(error, "tool_choice.name");
        chat->choice = TC_TOOLS_NAMED;
        chat->named = name;
    } else {
        return tc_http_refuse(error, 400, "invalid_value", "tool_choice.type",
                              "tool_choice.type must be auto, any, tool or none");
    }
    if (chat->tool_count == 0)
        return tc_http_refuse(error, 400, "invalid_value", "tool_choice", "tool_choice without tools");
    return !chat->named || tc_chat_has_tool(chat, chat->named) ||
           tc_http_refuse(error, 400, "invalid_value", "tool_choice.name", "there is no tool '%.100s'", name);
}

// {"type": "enabled" | "disabled" | "adaptive"}: a template that knows of it is told.
static bool read_thinking(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *thinking, *kwargs;
    const char *type;
    size_t bytes;
    if (!tc_member_object(root, "", "thinking", &thinking, error) ||
        !tc_member_object(root, "", "chat_template_kwargs", &kwargs, error))
        return false;
    if (thinking) {
        uint32_t budget = 1024;
        if (!tc_member_string(thinking, "thinking", "type", &type, &bytes, error) ||
            !tc_field_u32(thinking, "budget_tokens", 0, TC_GENERATE_TOKENS_MAX, &budget, error))
            return false;
        if (!type) return tc_refuse_missing(error, "thinking.type");
        if (strcmp(type, "enabled") != 0 && strcmp(type, "disabled") != 0 && strcmp(type, "adaptive") != 0)
            return tc_http_refuse(error, 400, "invalid_value", "thinking.type",
                                  "thinking.type must be enabled, disabled or adaptive");
        bool on = strcmp(type, "disabled") != 0;
        tc_chat_variable(chat, "enable_thinking", yyjson_mut_bool(chat->doc, on));
        tc_chat_variable(chat, "thinking", yyjson_mut_bool(chat->doc, on));
    }
    return !kwargs || tc_chat_variables(chat, kwargs, "chat_template_kwargs", error);
}

static bool read_output(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *config, *format, *schema;
    const char *type;
    size_t bytes;
    if (!tc_member_object(root, "", "output_config", &config, error) ||
        !tc_member_object(root, "", "output_format", &format, error))
        return false;
    if (config && !tc_member_object(config, "output_config", "format", &format, error)) return false;
    if (!format) return true;
    if (!tc_member_string(format, "output_config.format", "type", &type, &bytes, error) ||
        !tc_member_object(format, "output_config.format", "schema", &schema, error))
        return false;
    if (!type || strcmp(type, "json_schema") != 0 || !schema)
        return tc_http_refuse(error, 400, "invalid_value", "output_config.format",
                              "output_config.format must be of type json_schema, with a schema");
    return tc_params_set_schema(p, "output_config.format", schema, error);
}

static bool read_generation(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *max, *list, *item;
    size_t i, count;
    if (!tc_field_find(root, "max_tokens", &max, error)) return false;
    if (!max) return tc_refuse_missing(error, "max_tokens");
    if (!tc_field_u32(root, "max_tokens", 1, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error) ||
        !tc_params_read_basics(&p->sampling, root, 1, error) ||
        !tc_field_bool(root, "stream", &p->stream, error) ||
        !tc_member_list(root, "", "stop_sequences", TC_STOPS_MAX, &list, error))
        return false;
    yyjson_arr_foreach(list, i, count,
                       item) if (!tc_params_add_stop(p, "stop_sequences", item, error)) return false;
    return read_output(p, root, error);
}

bool tc_chat_read_anthropic(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    tc_chat *chat = &p->chat;
    yyjson_val *list, *system, *message;
    size_t i, count;
    if (!tc_chat_begin(chat, error) || !tc_field_find(root, "system", &system, error) ||
        !tc_member_list(root, "", "messages", TC_CHAT_MESSAGES_MAX, &list, error))
        return false;
    if (!list) return tc_refuse_missing(error, "messages");
    if (yyjson_arr_size(list) == 0)
        return tc_http_refuse(error, 400, "out_of_range", "messages", "messages must not be empty");
    if (system && !(yyjson_is_str(system) && yyjson_get_len(system) == 0) &&
        !(yyjson_is_arr(system) && yyjson_arr_size(system) == 0) &&
        !read_texts(chat, system, "system", tc_chat_add(chat, "system"), error))
        return false;
    yyjson_arr_foreach(
        list, i, count,
        message) if (!read_message(chat, message, tc_field_item("messages", i).text, error)) return false;
    // A conversation that ends with the assistant's words is to be continued.
    yyjson_mut_val *last = yyjson_mut_arr_get_last(chat->messages);
    yyjson_mut_val *content = yyjson_mut_obj_get(last, "content");
    chat->continue_final = yyjson_mut_equals_str(yyjson_mut_obj_get(last, "role"), "assistant") &&
                           !yyjson_mut_obj_get(last, "tool_calls") && yyjson_mut_get_len(content) > 0;
    tc_chat_variable(chat, "add_generation_prompt", yyjson_mut_bool(chat->doc, !chat->continue_final));
    if (!read_tools(chat, root, error) || !read_choice(chat, root, error) ||
        !read_thinking(chat, root, error))
        return false;
    return p->dialect == TC_DIALECT_COUNT || read_generation(p, root, error);
}
