// SPDX-License-Identifier: Apache-2.0
// Owns: finding, loading and rendering the chat template.
#include "gateway/chat_template.h"

#include "common/base/json.h"
#include "common/model/source.h"
#include "gateway/json_request.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 16 << 20, WORDS = 7, WORD_BYTES_MAX = 128 };

static const char *const word_names[WORDS] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                              "pad_token", "cls_token", "mask_token"};

struct tc_chat_template {
    tc_template *plain, *tools; // tools: NULL where there is one template for all
    const char *origin;
    char words[WORDS][WORD_BYTES_MAX + 1]; // "": none
    uint32_t turn_ends[TC_TURN_ENDS_MAX], turn_end_count;
};

static const char chatml[] =
    "{%- if tools %}\n"
    "    {{- '<|im_start|>system\\n' }}\n"
    "    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}\n"
    "    {{- '# Tools\\n\\nYou may call these functions. Their signatures stand within "
    "<tools></tools>:\\n<tools>' }}\n"
    "    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}\n"
    "    {{- '\\n</tools>\\n\\nTo call one, write a JSON object with its name and arguments within "
    "<tool_call></tool_call>:\\n"
    "<tool_call>\\n{\"name\": <name>, \"arguments\": <object>}\\n</tool_call><|im_end|>\\n' }}\n"
    "{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'tool' %}\n"
    "        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + "
    "'\\n</tool_response><|im_end|>\\n' }}\n"
    "    {%- elif not (tools and loop.first and message.role == 'system') %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content }}\n"
    "        {%- for call in message.tool_calls or [] %}\n"
    "            {{- '\\n' if message.content or not loop.first }}\n"
    "            {{- '<tool_call>\\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' }}\n"
    "            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}\n"
    "        {%- endfor %}\n"
    "        {{- '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n";

static const char lines[] = "{%- for message in messages %}\n"
                            "    {{- message.role + ': ' + message.content + '\\n' }}\n"
                            "{%- endfor %}\n"
                            "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}\n";

static void find_turn_ends(tc_chat_template *t, const tc_tokenizer *tokenizer)
{
    static const char *const known[] = {"<|im_end|>",    "<|eot_id|>", "<|eom_id|>", "<|end_of_turn|>",
                                        "<end_of_turn>", "<|return|>", "<|call|>",   "<|endofturn|>"};
    const char *eos = t->words[1];
    uint32_t id;
    if (*eos && tc_tokenizer_find(tokenizer, eos, &id)) t->turn_ends[t->turn_end_count++] = id;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], eos) != 0 && tc_tokenizer_find(tokenizer, known[i], &id) &&
            tc_tokenizer_is_special(tokenizer, id))
            t->turn_ends[t->turn_end_count++] = id;
}

// A word is a text, or an object with its text in "content".
static tc_status read_words(tc_chat_template *t, yyjson_val *config, tc_error *e)
{
    for (int i = 0; i < WORDS; i++) {
        yyjson_val *value = yyjson_obj_get(config, word_names[i]);
        if (yyjson_is_obj(value)) value = yyjson_obj_get(value, "content");
        if (!yyjson_is_str(value)) continue;
        if (yyjson_get_len(value) > WORD_BYTES_MAX)
            return tc_fail(e, TC_LIMIT, "tokenizer_config.json: %s is longer than %d bytes", word_names[i],
                           WORD_BYTES_MAX);
        memcpy(t->words[i], yyjson_get_str(value), yyjson_get_len(value) + 1);
    }
    return TC_OK;
}

static tc_status parse_one(yyjson_val *text, tc_template **ret, tc_error *e)
{
    return tc_template_parse(yyjson_get_str(text), yyjson_get_len(text),
                             "tokenizer_config.json: chat_template", ret, e);
}

static tc_status parse_config(tc_chat_template *t, yyjson_val *value, tc_error *e)
{
    yyjson_val *item, *first = NULL, *usual = NULL, *tools = NULL;
    size_t i, count;
    if (yyjson_is_str(value)) return parse_one(value, &t->plain, e);
    yyjson_arr_foreach(value, i, count, item)
    {
        yyjson_val *name = yyjson_obj_get(item, "name"), *text = yyjson_obj_get(item, "template");
        if (!yyjson_is_str(text)) continue;
        if (!first) first = text;
        if (yyjson_equals_str(name, "default")) usual = text;
        if (yyjson_equals_str(name, "tool_use")) tools = text;
    }
    if (!first) return TC_OK;
    TC_TRY(parse_one(usual ? usual : first, &t->plain, e));
    return tools ? parse_one(tools, &t->tools, e) : TC_OK;
}

static tc_status parse_ours(tc_chat_template *t, const tc_tokenizer *tokenizer, tc_error *e)
{
    uint32_t id;
    bool marks =
        tc_tokenizer_find(tokenizer, "<|im_start|>", &id) && tc_tokenizer_find(tokenizer, "<|im_end|>", &id);
    t->origin = marks ? "ChatML, ours" : "plain lines, ours";
    return marks ? tc_template_parse(chatml, sizeof chatml - 1, "the ChatML template", &t->plain, e)
                 : tc_template_parse(lines, sizeof lines - 1, "the plain template", &t->plain, e);
}

tc_status tc_chat_template_parse(const char *jinja, const char *config, const tc_tokenizer *tokenizer,
                                 tc_chat_template **ret, tc_error *e)
{
    tc_status status = TC_OK;
    yyjson_doc *doc = NULL;
    tc_chat_template *t = calloc(1, sizeof *t);
    if (!t) return tc_fail(e, TC_NOMEM, "chat template: out of memory");
    if (config) {
        TC_GOTO(tc_json_parse("tokenizer_config.json", config, strlen(config), TC_JSON_DEPTH_MAX, &doc, e));
        TC_GOTO(read_words(t, yyjson_doc_get_root(doc), e));
    }
    if (jinja) {
        t->origin = "chat_template.jinja";
        TC_GOTO(tc_template_parse(jinja, strlen(jinja), t->origin, &t->plain, e));
    } else if (doc) {
        t->origin = "tokenizer_config.json";
        TC_GOTO(parse_config(t, yyjson_obj_get(yyjson_doc_get_root(doc), "chat_template"), e));
    }
    if (!t->plain) TC_GOTO(parse_ours(t, tokenizer, e));
    find_turn_ends(t, tokenizer);
    *ret = t;
    t = NULL;
out:
    yyjson_doc_free(doc);
    tc_chat_template_free(t);
    return status;
}

// NULL where there is no such file.
static tc_status read_optional(const char *model, tc_model_file file, size_t max_bytes, char **ret,
                               tc_error *e)
{
    size_t bytes;
    *ret = NULL;
    tc_status status = tc_model_text(model, file, max_bytes, ret, &bytes, NULL, e);
    return status == TC_NOT_FOUND ? TC_OK : status;
}

tc_status tc_chat_template_load(const char *dir, const tc_tokenizer *tokenizer, tc_chat_template **ret,
                                tc_error *e)
{
    char *jinja = NULL, *config = NULL;
    tc_status status;
    TC_GOTO(read_optional(dir, TC_FILE_CHAT_TEMPLATE, TC_TEMPLATE_BYTES_MAX, &jinja, e));
    TC_GOTO(read_optional(dir, TC_FILE_TOKENIZER_CONFIG, CONFIG_BYTES_MAX, &config, e));
    TC_GOTO(tc_chat_template_parse(jinja, config, tokenizer, ret, e));
out:
    free(jinja);
    free(config);
    return status;
}

void tc_chat_template_free(tc_chat_template *t)
{
    if (!t) return;
    tc_template_free(t->plain);
    tc_template_free(t->tools);
    free(t);
}

const char *tc_chat_template_origin(const tc_chat_template *t)
{
    return t->origin;
}

const uint32_t *tc_chat_template_turn_ends(const tc_chat_template *t, uint32_t *ret_count)
{
    *ret_count = t->turn_end_count;
    return t->turn_ends;
}

// ---- rendering ----

static bool ends_in_think(const char *text, size_t bytes)
{
    while (bytes && strchr(" \n\r\t", text[bytes - 1])) bytes--;
    return bytes >= 7 && memcmp(text + bytes - 7, "<think>", 7) == 0;
}

// The answer goes on where the last message ends: what the template puts behind it is cut off.
static bool cut_behind_last(tc_chat *chat, tc_rendered *r, tc_http_error *error)
{
    yyjson_mut_val *message = yyjson_mut_arr_get_last(chat->messages);
    const char *text = yyjson_mut_get_str(yyjson_mut_obj_get(message, "content"));
    size_t bytes = text ? strlen(text) : 0;
    while (bytes && strchr(" \n\r\t", text[bytes - 1])) bytes--;
    while (bytes && strchr(" \n\r\t", *text)) text++, bytes--;
    for (size_t at = r->bytes; bytes && at-- > 0;) {
        if (at + bytes > r->bytes || memcmp(r->text + at, text, bytes) != 0) continue;
        r->bytes = at + bytes;
        r->text[r->bytes] = 0;
        while (r->data_count && r->data[r->data_count - 1].begin >= r->bytes) r->data_count--;
        if (r->data_count && r->data[r->data_count - 1].end > r->bytes)
            r->data[r->data_count - 1].end = r->bytes;
        return true;
    }
    return tc_http_refuse(
        error, 400, "invalid_value", "continue_final_message",
        "continue_final_message: the last message's text is not in what the template gives");
}

static bool refuse(tc_status status, const tc_rendered *r, const tc_error *e, tc_http_error *error)
{
    if (status == TC_NOMEM) return tc_refuse_memory(error);
    if (status == TC_ARGUMENT && r->message)
        return tc_http_refuse(error, 400, "invalid_messages", "messages", "the chat template refuses: %.240s",
                              r->message);
    return tc_http_refuse(error, 400, "invalid_messages", "messages",
                          "the chat template fails on these messages: %.220s", e->text);
}

bool tc_chat_render(const tc_chat_template *t, tc_chat *chat, tc_rendered *ret, bool *ret_in_reasoning,
                    tc_http_error *error)
{
    tc_error e = {0};
    struct tm now;
    time_t seconds = time(NULL);
    localtime_r(&seconds, &now);
    for (int i = 0; i < WORDS; i++)
        if (*t->words[i]) tc_chat_variable(chat, word_names[i], yyjson_mut_str(chat->doc, t->words[i]));
    yyjson_doc *context = chat->failed ? NULL : yyjson_mut_doc_imut_copy(chat->doc, NULL);
    if (!context) return tc_refuse_memory(error);
    const tc_template *which =
        chat->tool_count && chat->choice != TC_TOOLS_NONE && t->tools ? t->tools : t->plain;
    tc_status status = tc_template_render(which, yyjson_doc_get_root(context), &now, NULL, ret, &e);
    bool good = status == TC_OK || refuse(status, ret, &e, error);
    yyjson_doc_free(context);
    if (good && chat->continue_final) good = cut_behind_last(chat, ret, error);
    if (!good)
        tc_rendered_free(ret);
    else
        *ret_in_reasoning = ends_in_think(ret->text, ret->bytes);
    return good;
}
