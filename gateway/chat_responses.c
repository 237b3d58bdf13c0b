// SPDX-License-Identifier: Apache-2.0
// Owns: requests as OpenAI's Responses API has them: instructions, input (a text or a list of items), tools,
// tool_choice, text.format, reasoning. Stateless: what would need a kept response is refused.
#include "gateway/chat_read.h"

#include <string.h>

// The assistant's message that calls and reasoning items gather in; NULL: the last item was something else.
typedef struct item_reader {
    tc_chat *chat;
    yyjson_mut_val *assistant;
    tc_http_error *error;
} item_reader;

static yyjson_mut_val *assistant_of(item_reader *r)
{
    if (!r->assistant) {
        r->assistant = tc_chat_add(r->chat, "assistant");
        tc_chat_text(r->chat, r->assistant, "content", "", 0);
    }
    return r->assistant;
}

static bool read_parts(item_reader *r, yyjson_val *value, const char *place, const char *member,
                       yyjson_mut_val *message)
{
    size_t i, count, bytes;
    yyjson_val *part;
    const char *type, *text;
    if (yyjson_is_str(value)) {
        tc_chat_append(r->chat, message, member, "", yyjson_get_str(value), yyjson_get_len(value));
        return true;
    }
    if (!yyjson_is_arr(value)) return tc_refuse_type(r->error, place, "a string or a list of parts", value);
    if (yyjson_arr_size(value) > TC_CHAT_PARTS_MAX)
        return tc_http_refuse(r->error, 400, "out_of_range", place, "%s has more than %d parts", place,
                              TC_CHAT_PARTS_MAX);
    yyjson_arr_foreach(value, i, count, part)
    {
        static const char *const known[] = {"input_text",     "output_text",  "text",
                                            "reasoning_text", "summary_text", "refusal"};
        tc_field_name at = tc_field_item(place, i);
        bool good = false;
        if (!yyjson_is_obj(part)) return tc_refuse_type(r->error, at.text, "an object", part);
        if (!tc_member_string(part, at.text, "type", &type, &bytes, r->error)) return false;
        if (!type) return tc_refuse_missing(r->error, tc_field_path(at.text, "type").text);
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) good |= strcmp(type, known[k]) == 0;
        if (!good)
            return tc_http_refuse(r->error, 400, "unsupported_content", tc_field_path(at.text, "type").text,
                                  "%s: this model reads text, not '%.40s'", at.text, type);
        const char *name = strcmp(type, "refusal") == 0 ? "refusal" : "text";
        if (!tc_member_string(part, at.text, name, &text, &bytes, r->error)) return false;
        if (!text) return tc_refuse_missing(r->error, tc_field_path(at.text, name).text);
        tc_chat_append(r->chat, message, member, "\n", text, bytes);
    }
    return true;
}

static bool read_message(item_reader *r, yyjson_val *item, const char *place)
{
    const char *role;
    size_t bytes;
    yyjson_val *content;
    tc_field_name role_at = tc_field_path(place, "role"), content_at = tc_field_path(place, "content");
    if (!tc_member_string(item, place, "role", &role, &bytes, r->error) ||
        !tc_member_find(item, place, "content", &content, r->error))
        return false;
    if (!role) return tc_refuse_missing(r->error, role_at.text);
    if (!content) return tc_refuse_missing(r->error, content_at.text);
    bool system = strcmp(role, "system") == 0 || strcmp(role, "developer") == 0;
    bool assistant = strcmp(role, "assistant") == 0;
    if (!system && !assistant && strcmp(role, "user") != 0)
        return tc_http_refuse(r->error, 400, "invalid_value", role_at.text,
                              "%s must be system, developer, user or assistant", role_at.text);
    if (assistant) return read_parts(r, content, content_at.text, "content", assistant_of(r));
    r->assistant = NULL;
    // instructions and system messages at the beginning are one message: many templates take no more.
    yyjson_mut_val *first = yyjson_mut_arr_get_first(r->chat->messages);
    bool joins = system && r->chat->message_count == 1 &&
                 yyjson_mut_equals_str(yyjson_mut_obj_get(first, "role"), "system");
    yyjson_mut_val *message = joins ? first : tc_chat_add(r->chat, system ? "system" : "user");
    if (joins) tc_chat_append(r->chat, message, "content", "", "\n\n", 2);
    if (!read_parts(r, content, content_at.text, "content", message)) return false;
    if (!yyjson_mut_obj_get(message, "content")) tc_chat_text(r->chat, message, "content", "", 0);
    return true;
}

static bool read_call(item_reader *r, yyjson_val *item, const char *place)
{
    const char *id, *name, *arguments;
    size_t bytes, arguments_bytes;
    if (!tc_member_string(item, place, "call_id", &id, &bytes, r->error) ||
        !tc_member_string(item, place, "name", &name, &bytes, r->error) ||
        !tc_member_string(item, place, "arguments", &arguments, &arguments_bytes, r->error))
        return false;
    if (!name) return tc_refuse_missing(r->error, tc_field_path(place, "name").text);
    return tc_chat_call(r->chat, assistant_of(r), tc_field_path(place, "arguments").text, id, name, arguments,
                        arguments_bytes, r->error);
}

static bool read_output(item_reader *r, yyjson_val *item, const char *place)
{
    const char *id;
    size_t bytes;
    yyjson_val *output;
    tc_field_name at = tc_field_path(place, "output");
    if (!tc_member_string(item, place, "call_id", &id, &bytes, r->error) ||
        !tc_member_find(item, place, "output", &output, r->error))
        return false;
    if (!output) return tc_refuse_missing(r->error, at.text);
    r->assistant = NULL;
    yyjson_mut_val *message = tc_chat_add(r->chat, "tool");
    if (id) tc_chat_text(r->chat, message, "tool_call_id", id, bytes);
    if (!read_parts(r, output, at.text, "content", message)) return false;
    if (!yyjson_mut_obj_get(message, "content")) tc_chat_text(r->chat, message, "content", "", 0);
    return true;
}

static bool read_item(item_reader *r, yyjson_val *item, const char *place)
{
    const char *type;
    size_t bytes;
    yyjson_val *content;
    if (!yyjson_is_obj(item)) return tc_refuse_type(r->error, place, "an object", item);
    if (!tc_member_string(item, place, "type", &type, &bytes, r->error)) return false;
    if (!type || strcmp(type, "message") == 0) return read_message(r, item, place);
    if (strcmp(type, "function_call") == 0) return read_call(r, item, place);
    if (strcmp(type, "function_call_output") == 0) return read_output(r, item, place);
    if (strcmp(type, "reasoning") == 0) {
        if (!tc_member_find(item, place, "content", &content, r->error)) return false;
        return !content || read_parts(r, content, tc_field_path(place, "content").text, "reasoning_content",
                                      assistant_of(r));
    }
    return tc_http_refuse(r->error, 400, "unsupported_content", tc_field_path(place, "type").text,
                          "%s: items of type '%.40s' are not taken", place, type);
}

static bool read_input(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *input, *item;
    size_t i, count;
    item_reader r = {chat, NULL, error};
    if (!tc_field_find(root, "input", &input, error)) return false;
    if (!input) return tc_refuse_missing(error, "input");
    if (yyjson_is_str(input)) {
        tc_chat_text(chat, tc_chat_add(chat, "user"), "content", yyjson_get_str(input),
                     yyjson_get_len(input));
        return true;
    }
    if (!yyjson_is_arr(input)) return tc_refuse_type(error, "input", "a string or a list of items", input);
    if (yyjson_arr_size(input) == 0 || yyjson_arr_size(input) > TC_CHAT_MESSAGES_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "input", "input must hold 1 to %d items",
                              TC_CHAT_MESSAGES_MAX);
    yyjson_arr_foreach(input, i, count,
                       item) if (!read_item(&r, item, tc_field_item("input", i).text)) return false;
    return true;
}

// {"type": "function", "name", "description", "parameters", "strict"}: flat, unlike chat completions.
static bool read_tools(tc_chat *chat, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *list, *tool, *parameters, *strict;
    const char *type, *name, *description;
    size_t i, count, bytes;
    bool ignored;
    if (!tc_member_list(root, "", "tools", TC_CHAT_TOOLS_MAX, &list, error)) return false;
    if (!list) return true;
    yyjson_arr_foreach(list, i, count, tool)
    {
        tc_field_name at = tc_field_item("tools", i);
        if (!yyjson_is_obj(tool)) return tc_refuse_type(error, at.text, "an object", tool);
        if (!tc_member_string(tool, at.text, "type", &type, &bytes, error)) return false;
        if (!type || strcmp(type, "function") != 0)
            return tc_http_refuse(error, 400, "unsupported_tool", tc_field_path(at.text, "type").text,
                                  "%s: only tools of type 'function' are known, not '%.40s'", at.text,
                                  type ? type : "");
        if (!tc_member_string(tool, at.text, "name", &name, &bytes, error) ||
            !tc_member_string(tool, at.text, "description", &description, &bytes, error) ||
            !tc_member_object(tool, at.text, "parameters", &parameters, error) ||
            !tc_member_bool(tool, at.text, "strict", &ignored, error) ||
            !tc_member_find(tool, at.text, "strict", &strict, error) ||
            !tc_chat_tool(chat, at.text, name, description, parameters, strict, error))
            return false;
    }
    return true;
}

static bool refuse_state(yyjson_val *root, tc_http_error *error)
{
    static const char *const names[] = {"previous_response_id", "conversation", "prompt"};
    yyjson_val *value;
    bool background = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!tc_field_find(root, names[i], &value, error)) return false;
        if (value)
            return tc_http_refuse(error, 400, "unsupported_parameter", names[i],
                                  "%s: responses are not kept here; send the whole conversation as input",
                                  names[i]);
    }
    if (!tc_field_bool(root, "background", &background, error)) return false;
    return !background || tc_http_refuse(error, 400, "unsupported_parameter", "background",
                                         "background: responses are not kept here");
}

static bool read_generation(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *text, *format, *reasoning, *kwargs;
    const char *effort;
    size_t bytes;
    bool ignored;
    if (!tc_field_u32(root, "max_output_tokens", 1, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error) ||
        !tc_params_read_basics(&p->sampling, root, 2, error) ||
        !tc_params_read_penalties(&p->sampling, root, error) ||
        !tc_field_bool(root, "stream", &p->stream, error) || !tc_field_bool(root, "store", &ignored, error) ||
        !tc_field_u32(root, "top_logprobs", 0, TC_LOGPROBS_MAX, &p->top_logprobs, error) ||
        !tc_member_object(root, "", "text", &text, error) ||
        !tc_member_object(root, "", "reasoning", &reasoning, error) ||
        !tc_member_object(root, "", "chat_template_kwargs", &kwargs, error))
        return false;
    p->logprobs = p->top_logprobs > 0;
    if (text) {
        if (!tc_member_object(text, "text", "format", &format, error)) return false;
        if (format && !tc_params_read_format(p, format, "text.format", false, error)) return false;
    }
    if (reasoning) {
        if (!tc_member_string(reasoning, "reasoning", "effort", &effort, &bytes, error)) return false;
        if (effort)
            tc_chat_variable(&p->chat, "reasoning_effort", yyjson_mut_strncpy(p->chat.doc, effort, bytes));
    }
    return !kwargs || tc_chat_variables(&p->chat, kwargs, "chat_template_kwargs", error);
}

bool tc_chat_read_responses(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    tc_chat *chat = &p->chat;
    const char *instructions;
    size_t bytes;
    if (!tc_chat_begin(chat, error) || !refuse_state(root, error) ||
        !tc_member_string(root, "", "instructions", &instructions, &bytes, error))
        return false;
    if (instructions) tc_chat_text(chat, tc_chat_add(chat, "system"), "content", instructions, bytes);
    if (!read_input(chat, root, error)) return false;
    tc_chat_variable(chat, "add_generation_prompt", yyjson_mut_bool(chat->doc, true));
    return read_tools(chat, root, error) && tc_chat_read_openai_choice(chat, root, error) &&
           read_generation(p, root, error);
}
