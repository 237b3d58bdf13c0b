// SPDX-License-Identifier: Apache-2.0
// Owns: tests of the conversational dialects end to end against the fake core, whose tokens are bytes: what
// the core is asked for, how an answer with reasoning and calls looks in each dialect, whole and streamed.
#include "gateway/routes.h"
#include "tests/unit/gateway/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOLS                                                                                                \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]"
#define FULL                                                                                                 \
    "<think>\nwhy\n</think>\n\nSo.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"

static yyjson_doc *json_of(answer a, int status)
{
    if (a.status != status || !a.complete)
        fail_msg("%d, expected %d: %s%s", a.status, status, a.head, a.body);
    yyjson_doc *doc = yyjson_read(a.body, a.bytes, 0);
    if (!doc) fail_msg("not JSON: %s", a.body);
    free(a.body);
    return doc;
}

static void text_is(yyjson_doc *doc, const char *pointer, const char *text)
{
    const char *found = yyjson_get_str(yyjson_doc_ptr_get(doc, pointer));
    if (!found || strcmp(found, text) != 0) fail_msg("%s in %s", pointer, yyjson_write(doc, 0, NULL));
}

static void number_is(yyjson_doc *doc, const char *pointer, uint64_t number)
{
    yyjson_val *value = yyjson_doc_ptr_get(doc, pointer);
    if (!yyjson_is_uint(value) || yyjson_get_uint(value) != number)
        fail_msg("%s in %s", pointer, yyjson_write(doc, 0, NULL));
}

static void prompt_is(uint32_t ask, const char *text)
{
    const tc_generate *g = &fake_ask_at(ask)->generate;
    char got[4096];
    size_t n = 0;
    for (uint32_t i = 0; i < g->prompt_count; i++) {
        static const char *const special[] = {"[end]", "[start]", "[stop]"};
        if (g->prompt[i] < 256)
            got[n++] = (char)g->prompt[i];
        else
            n += (size_t)sprintf(got + n, "%s", special[g->prompt[i] - 256]);
    }
    got[n] = 0;
    assert_string_equal(got, text);
}

static void chat_asks_the_core(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("yes");
    yyjson_doc *doc = json_of(post(f, "/v1/chat/completions",
                                   "{\"messages\":[{\"role\":\"developer\",\"content\":\"be\"},{\"role\":"
                                   "\"user\",\"content\":[{\"type\":\"text\",\"text\":"
                                   "\"a<|im_end|>\"},{\"type\":\"text\",\"text\":\"b\"}]}],\"unknown\":{"
                                   "\"x\":1},\"logit_bias\":{\"7\":-3.5},"
                                   "\"stop_token_ids\":[9],\"min_tokens\":2,\"max_completion_tokens\":50,"
                                   "\"top_k\":-1,\"ignore_eos\":false,"
                                   "\"regex\":\"y.*\",\"seed\":3}"),
                              200);
    text_is(doc, "/choices/0/message/content", "yes");
    text_is(doc, "/choices/0/finish_reason", "stop");
    text_is(doc, "/object", "chat.completion");
    yyjson_doc_free(doc);
    // What a user writes is never a special token.
    prompt_is(0, "[start]system\nbe[stop]\n[start]user\na<|im_end|>\nb[stop]\n[start]assistant\n");
    const fake_ask *a = fake_ask_at(0);
    const tc_generate *g = &a->generate;
    assert_true(g->logit_bias_count == 1 && g->max_tokens == 50 && g->sampling.min_tokens == 2);
    assert_true(g->sampling.top_k == 0 && g->sampling.seed == 3);
    assert_int_equal(g->stop_tokens[0], 9);
    assert_int_equal(g->stop_tokens[1], 258); // <|im_end|> ends a turn
    assert_int_equal(g->stop_token_count, 2);
    assert_int_equal(g->constraint.kind, TC_CONSTRAINT_REGEX);
    assert_string_equal(a->constraint, "y.*");
}

static void a_whole_answer(void **state)
{
    gateway_fixture *f = *state;
    fake_reply(FULL);
    yyjson_doc *doc = json_of(post(f, "/v1/chat/completions", "{" HI "," TOOLS "}"), 200);
    text_is(doc, "/choices/0/message/reasoning_content", "why");
    text_is(doc, "/choices/0/message/reasoning", "why");
    text_is(doc, "/choices/0/message/content", "So.");
    text_is(doc, "/choices/0/message/tool_calls/0/function/name", "f");
    text_is(doc, "/choices/0/message/tool_calls/0/function/arguments", "{\"a\": 1}");
    text_is(doc, "/choices/0/finish_reason", "tool_calls");
    number_is(doc, "/usage/completion_tokens", sizeof FULL - 1);
    number_is(doc, "/usage/completion_tokens_details/reasoning_tokens", strlen("\nwhy\n</think>"));
    yyjson_doc_free(doc);
    doc = json_of(post(f, "/v1/messages",
                       "{\"max_tokens\":200," HI ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}]}"),
                  200);
    text_is(doc, "/content/0/thinking", "why");
    text_is(doc, "/content/1/text", "So.");
    text_is(doc, "/content/2/name", "f");
    number_is(doc, "/content/2/input/a", 1);
    text_is(doc, "/stop_reason", "tool_use");
    number_is(doc, "/usage/output_tokens", sizeof FULL - 1);
    yyjson_doc_free(doc);
    doc = json_of(
        post(f, "/v1/responses",
             "{\"input\":\"hi\",\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{}}]}"),
        200);
    text_is(doc, "/output/0/type", "reasoning");
    text_is(doc, "/output/0/content/0/text", "why");
    text_is(doc, "/output/1/content/0/text", "So.");
    text_is(doc, "/output/2/arguments", "{\"a\": 1}");
    text_is(doc, "/status", "completed");
    number_is(doc, "/usage/output_tokens", sizeof FULL - 1);
    yyjson_doc_free(doc);
    doc = json_of(post(f, "/v1/chat/completions", "{" HI "}"), 200); // no tools: a call is text
    text_is(doc, "/choices/0/message/content",
            "So.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>");
    text_is(doc, "/choices/0/finish_reason", "stop");
    yyjson_doc_free(doc);
}

// Members of all data lines' JSON, joined.
static char *gather(const answer *a, const char *pointer)
{
    char *all = calloc(1, a->bytes + 1);
    for (char *at = a->body; (at = strstr(at, "data: {"));) {
        char *end = strstr(at, "\n\n");
        assert_non_null(end);
        yyjson_doc *doc = yyjson_read(at + 6, (size_t)(end - at) - 6, 0);
        if (!doc) fail_msg("not JSON: %.*s", (int)(end - at), at);
        const char *text = yyjson_get_str(yyjson_doc_ptr_get(doc, pointer));
        if (text) strcat(all, text);
        yyjson_doc_free(doc);
        at = end;
    }
    return all;
}

static void gathered(const answer *a, const char *pointer, const char *text)
{
    char *all = gather(a, pointer);
    if (strcmp(all, text) != 0) fail_msg("%s is '%s', not '%s' in %s", pointer, all, text, a->body);
    free(all);
}

static void in_order(const char *body, const char *const *marks)
{
    for (; *marks; marks++) {
        const char *found = strstr(body, *marks);
        if (!found) fail_msg("'%s' is missing or too early in %s", *marks, body);
        body = found + strlen(*marks);
    }
}

static void streams_are_opened_and_closed(void **state)
{
    gateway_fixture *f = *state;
    fake_reply(FULL);
    answer a = post(f, "/v1/chat/completions",
                    "{" HI "," TOOLS ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    gathered(&a, "/choices/0/delta/role", "assistant");
    gathered(&a, "/choices/0/delta/reasoning_content", "why");
    gathered(&a, "/choices/0/delta/reasoning", "why");
    gathered(&a, "/choices/0/delta/content", "So.");
    gathered(&a, "/choices/0/delta/tool_calls/0/function/name", "f");
    gathered(&a, "/choices/0/delta/tool_calls/0/function/arguments", "{\"a\": 1}");
    gathered(&a, "/choices/0/finish_reason", "tool_calls");
    assert_true(has(&a, "data: [DONE]\n\n") && has(&a, "\"choices\":[],\"usage\":{\"prompt_tokens\":"));
    free(a.body);
    a = post(f, "/v1/messages",
             "{\"max_tokens\":200," HI ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"stream\":true}");
    static const char *const messages[] = {
        "event: message_start\n",
        "\"output_tokens\":",
        "event: content_block_start\n",
        "\"thinking\"",
        "\"thinking_delta\"",
        "signature_delta",
        "event: content_block_stop\n",
        "\"index\":1,\"content_block\":{\"type\":\"text\"",
        "event: content_block_stop\n",
        "\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_",
        "input_json_delta",
        "event: content_block_stop\n",
        "event: message_delta\n",
        "\"stop_reason\":\"tool_use\"",
        "event: message_stop\n",
        NULL};
    in_order(a.body, messages);
    gathered(&a, "/delta/text", "So.");
    gathered(&a, "/delta/thinking", "why");
    gathered(&a, "/delta/partial_json", "{\"a\": 1}");
    free(a.body);
    a = post(f, "/v1/responses",
             "{\"input\":\"hi\",\"stream\":true,\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]}");
    static const char *const responses[] = {"event: response.created\n",
                                            "event: response.in_progress\n",
                                            "event: response.output_item.added\n",
                                            "\"reasoning\"",
                                            "event: response.content_part.added\n",
                                            "event: response.reasoning_text.delta\n",
                                            "event: response.reasoning_text.done\n",
                                            "event: response.content_part.done\n",
                                            "event: response.output_item.done\n",
                                            "event: response.output_item.added\n",
                                            "event: response.content_part.added\n",
                                            "event: response.output_text.delta\n",
                                            "event: response.output_text.done\n",
                                            "event: response.content_part.done\n",
                                            "event: response.output_item.done\n",
                                            "event: response.output_item.added\n",
                                            "\"function_call\"",
                                            "event: response.function_call_arguments.delta\n",
                                            "event: response.function_call_arguments.done\n",
                                            "event: response.output_item.done\n",
                                            "event: response.completed\n",
                                            NULL};
    in_order(a.body, responses);
    for (unsigned i = 0; i < 20; i++) { // numbered without a gap
        char number[40];
        snprintf(number, sizeof number, "\"sequence_number\":%u,", i);
        assert_true(has(&a, number));
    }
    free(a.body);
}

static void log_probabilities_and_routes(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("AB");
    yyjson_doc *doc = json_of(post(f, "/v1/chat/completions",
                                   "{" HI ",\"logprobs\":true,\"top_logprobs\":2,\"return_routed_experts\":"
                                   "true,\"return_token_ids\":true}"),
                              200);
    text_is(doc, "/choices/0/logprobs/content/1/token", "B");
    number_is(doc, "/choices/0/logprobs/content/1/bytes/0", 66);
    text_is(doc, "/choices/0/logprobs/content/1/top_logprobs/1/token", "C");
    number_is(doc, "/choices/0/token_ids/1", 66);
    assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices/0/logprobs/content")), 2);
    assert_int_equal(yyjson_arr_size(yyjson_doc_ptr_get(doc, "/choices/0/routed_experts")), 1);
    yyjson_doc_free(doc);
    assert_true(fake_ask_at(0)->generate.no_cache);
    doc = json_of(post(f, "/v1/completions", "{\"prompt\":\"x\",\"logprobs\":1}"), 200);
    text_is(doc, "/choices/0/logprobs/tokens/1", "B");
    number_is(doc, "/choices/0/logprobs/text_offset/1", 1);
    yyjson_doc_free(doc);
    answer a = post(f, "/v1/chat/completions", "{" HI ",\"logprobs\":true,\"stream\":true}");
    gathered(&a, "/choices/0/logprobs/content/0/token", "AB");
    free(a.body);
}

static void conversations_are_kept(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("one");
    free(post(f, "/api/v1/chat/completions", "{" HI ",\"conversation_id\":\"c\"}").body);
    fake_hold(true);
    client c = dial(f);
    char *text =
        post_text("/api/v1/chat/completions",
                  "{\"messages\":[{\"role\":\"user\",\"content\":\"more\"}],\"conversation_id\":\"c\"}");
    tell(&c, text);
    assert_non_null(fake_wait_asks(2));
    prompt_is(
        1, "[start]user\nhi[stop]\n[start]assistant\none[stop]\n[start]user\nmore[stop]\n[start]assistant\n");
    answer a = post(f, "/api/v1/chat/completions", "{" HI ",\"conversation_id\":\"c\"}");
    assert_int_equal(a.status, 409);
    assert_true(has(&a, "conversation_busy"));
    free(a.body);
    hang_up(&c); // what was not answered is not kept
    assert_true(fake_wait_cancel(fake_ask_at(1)->id));
    fake_hold(false);
    yyjson_doc *doc = json_of(post(f, "/api/v1/chat/completions", "{" HI ",\"conversation_id\":\"c\"}"), 200);
    text_is(doc, "/conversation_id", "c");
    yyjson_doc_free(doc);
    prompt_is(
        2, "[start]user\nhi[stop]\n[start]assistant\none[stop]\n[start]user\nhi[stop]\n[start]assistant\n");
    free(text);
}

static void bad_conversations_name_the_field(void **state)
{
    static const struct {
        const char *path, *body, *param;
    } cases[] = {
        {"/v1/chat/completions", "{}", "messages"},
        {"/v1/chat/completions", "{\"messages\":[]}", "messages"},
        {"/v1/chat/completions", "{\"messages\":[5]}", "messages[0]"},
        {"/v1/chat/completions", "{\"messages\":[{\"content\":\"a\"}]}", "messages[0].role"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"king\",\"content\":\"a\"}]}",
         "messages[0].role"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
        {"/v1/chat/completions",
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "messages[0].content[0].type"},
        {"/v1/chat/completions",
         "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
         "\"[\"}}]}]}",
         "messages[0].tool_calls[0].function.arguments"},
        {"/v1/chat/completions",
         "{" HI ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}",
         "tools[0].function.name"},
        {"/v1/chat/completions", "{" HI ",\"tool_choice\":\"required\"}", "tool_choice"},
        {"/v1/chat/completions",
         "{" HI "," TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}",
         "tool_choice"},
        {"/v1/chat/completions", "{" HI ",\"top_logprobs\":2}", "top_logprobs"},
        {"/v1/chat/completions", "{" HI ",\"logprobs\":5}", "logprobs"},
        {"/v1/chat/completions", "{" HI ",\"response_format\":{\"type\":\"xml\"}}", "response_format.type"},
        {"/v1/chat/completions", "{" HI ",\"response_format\":{\"type\":\"json_schema\"}}",
         "response_format.json_schema"},
        {"/v1/chat/completions",
         "{" HI ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":7}}}}",
         "response_format"},
        {"/v1/chat/completions", "{" HI ",\"regex\":\"(\"}", "regex"},
        {"/v1/chat/completions", "{" HI ",\"chat_template_kwargs\":[]}", "chat_template_kwargs"},
        {"/api/v1/chat/completions", "{" HI ",\"conversation_id\":\"a b\"}", "conversation_id"},
        {"/api/v1/chat/completions", "{" HI ",\"n\":2}", "n"},
        {"/v1/responses", "{}", "input"},
        {"/v1/responses", "{\"input\":[{\"type\":\"web\"}]}", "input[0].type"},
        {"/v1/responses", "{\"input\":\"a\",\"previous_response_id\":\"r\"}", "previous_response_id"},
        {"/v1/responses", "{\"input\":\"a\",\"max_output_tokens\":0}", "max_output_tokens"},
        {"/tokenize", "{}", "prompt"},
        {"/detokenize", "{\"tokens\":[9999999]}", "tokens"},
    };
    gateway_fixture *f = *state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        answer a = post(f, cases[i].path, cases[i].body);
        char param[100];
        snprintf(param, sizeof param, "\"param\":\"%s\"", cases[i].param);
        if (a.status != 400 || !has(&a, param)) fail_msg("%s: %d %s", cases[i].body, a.status, a.body);
        free(a.body);
    }
    answer a = post(f, "/v1/messages", "{" HI "}"); // Anthropic's error, not OpenAI's
    assert_true(a.status == 400 && has(&a, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_"
                                           "error\",\"message\":\"max_tokens is missing\"}}"));
    free(a.body);
    assert_int_equal(fake_asks(), 0); // nothing reached the core
}

static void tools_can_be_required(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("x");
    free(post(f, "/v1/chat/completions", "{" HI "," TOOLS ",\"tool_choice\":\"required\"}").body);
    assert_int_equal(fake_ask_at(0)->generate.constraint.kind, TC_CONSTRAINT_TOOL_CALLS);
    assert_non_null(strstr(fake_ask_at(0)->constraint, "\"parallel\":true"));
    free(post(f, "/v1/messages",
              "{\"max_tokens\":9," HI ",\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}],"
              "\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\"}}")
             .body);
    assert_non_null(strstr(fake_ask_at(1)->constraint, "\"name\":\"f\",\"parallel\":false"));
}

static void streams_are_kept_alive(void **state)
{
    gateway_fixture *f = *state;
    static const struct {
        const char *path, *body, *sign;
    } cases[] = {
        {"/v1/chat/completions", "{" HI ",\"stream\":true}", ": keep-alive\n\n"},
        {"/v1/messages", "{\"max_tokens\":9," HI ",\"stream\":true}", "event: ping\n"},
        {"/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true}", "\r\n1\r\n \r\n"},
    };
    fake_hold(true);
    for (uint32_t i = 0; i < COUNT(cases); i++) {
        client c = dial(f);
        char *text = post_text(cases[i].path, cases[i].body);
        tell(&c, text);
        free(text);
        const fake_ask *a = fake_wait_asks(i + 1);
        wait_body(&c, cases[i].sign);
        fake_finish(a->id, TC_FINISH_STOP);
        answer got = listen_to(&c, false);
        assert_true(got.complete);
        free(got.body);
        hang_up(&c);
    }
}

static int setup_restless(void **state)
{
    gateway_fixture *f = calloc(1, sizeof *f);
    fixture_prepare(f);
    f->options.limits.keep_alive_ms = 50;
    f->options.limits.sweep_ms = 10;
    fake_up();
    fixture_start(f);
    *state = f;
    return 0;
}

static void the_description_tells_of_every_route(void **state)
{
    gateway_fixture *f = *state;
    size_t count;
    const tc_route *routes = tc_routes(&count);
    yyjson_doc *doc = json_of(get(f, "/openapi.json"), 200);
    yyjson_val *paths = yyjson_doc_ptr_get(doc, "/paths");
    assert_int_equal(yyjson_obj_size(paths), count);
    for (size_t i = 0; i < count; i++) {
        char path[100];
        size_t n = strlen(routes[i].path);
        snprintf(path, sizeof path, "%s%s", routes[i].path,
                 n > 1 && routes[i].path[n - 1] == '/' ? "{id}" : "");
        yyjson_val *item = yyjson_obj_get(paths, path);
        bool told = yyjson_obj_get(item, routes[i].method == HTTP_GET ? "get" : "post") ||
                    yyjson_is_str(yyjson_obj_get(item, "description")); // what is no operation of HTTP
        if (!told) fail_msg("%s is not described", path);
    }
    yyjson_doc_free(doc);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_up, teardown)
    const struct CMUnitTest tests[] = {
        TEST(chat_asks_the_core),
        TEST(a_whole_answer),
        TEST(streams_are_opened_and_closed),
        TEST(log_probabilities_and_routes),
        TEST(conversations_are_kept),
        TEST(bad_conversations_name_the_field),
        TEST(tools_can_be_required),
        cmocka_unit_test_setup_teardown(streams_are_kept_alive, setup_restless, teardown),
        TEST(the_description_tells_of_every_route),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
