// SPDX-License-Identifier: Apache-2.0
// Owns: tool calls as Qwen and Hermes write them, with arguments by each tool's schema.
#include "common/text/grammar_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tools {
    tc_builder *b;
    yyjson_val *list, *only;
    bool parallel;
} tools;

static bool read_tools(tools *t, yyjson_val *root)
{
    yyjson_val *parallel = yyjson_obj_get(root, "parallel");
    t->list = yyjson_obj_get(root, "tools");
    t->only = yyjson_obj_get(root, "name");
    t->parallel = !parallel || !yyjson_is_false(parallel);
    size_t n = yyjson_arr_size(t->list);
    if (!yyjson_is_arr(t->list) || n == 0)
        return tc_builder_fail(t->b, TC_ARGUMENT, "tools: there are none"), false;
    if (n > TC_GRAMMAR_TOOLS_MAX)
        return tc_builder_fail(t->b, TC_LIMIT, "tools: %zu, the limit is %d", n, TC_GRAMMAR_TOOLS_MAX), false;
    if (t->only && !yyjson_is_str(t->only))
        return tc_builder_fail(t->b, TC_ARGUMENT, "tools: the name of the tool to call is not a string"),
               false;
    return true;
}

static uint32_t emit_tool(tools *t, yyjson_val *tool, size_t index, uint32_t next)
{
    tc_json j = {.b = t->b};
    yyjson_val *function = yyjson_obj_get(tool, "function"), *name = yyjson_obj_get(function, "name");
    yyjson_val *parameters = yyjson_obj_get(function, "parameters");
    char what[64];
    if (!yyjson_is_str(name) || yyjson_get_len(name) == 0)
        return tc_builder_fail(t->b, TC_ARGUMENT, "tools[%zu]: function.name must be a string", index);
    if (t->only && !yyjson_equals(t->only, name)) return TC_NODE_NEVER;
    snprintf(what, sizeof what, "tools[%zu].function.parameters", index);
    uint32_t node = tc_emit_text(t->b, "}\n</tool_call>", next);
    if (parameters && !yyjson_is_null(parameters))
        node = tc_schema_emit_arguments(t->b, what, parameters, node);
    else
        node = tc_emit_text(t->b, "{}", node);
    node = tc_emit_json_literal(&j, yyjson_get_str(name), yyjson_get_len(name),
                                tc_emit_text(t->b, ", \"arguments\": ", node));
    return tc_emit_text(t->b, "<tool_call>\n{\"name\": ", node);
}

static uint32_t emit_calls(tools *t)
{
    tc_builder *b = t->b;
    uint32_t call = TC_NODE_NEVER, rule = tc_rule_add(b, NULL, 0);
    size_t i, n;
    yyjson_val *tool;
    yyjson_arr_foreach(t->list, i, n, tool) call =
        tc_emit_split(b, emit_tool(t, tool, i, TC_NODE_RETURN), call);
    if (b->status != TC_OK) return TC_NODE_NEVER;
    if (call == TC_NODE_NEVER && t->only)
        return tc_builder_fail(b, TC_ARGUMENT, "tools: none is called \"%.200s\"", yyjson_get_str(t->only));
    b->rules[rule].start = call;
    if (!t->parallel) return tc_emit_call(b, rule, TC_NODE_RETURN);
    uint32_t more = tc_emit_byte(b, '\n', tc_emit_call(b, rule, TC_NODE_RETURN));
    return tc_emit_call(b, rule, tc_emit_loop(b, 0, TC_GRAMMAR_CALLS_MAX - 1, more, TC_NODE_RETURN));
}

uint32_t tc_tools_compile(tc_builder *b, const char *text, size_t bytes)
{
    yyjson_doc *doc = NULL;
    tc_error error;
    uint32_t node = TC_NODE_NEVER;
    tc_status status = tc_json_parse("tools", text, bytes, TC_GRAMMAR_JSON_DEPTH_MAX, &doc, &error);
    if (status != TC_OK)
        return tc_builder_fail(b, status == TC_FORMAT ? TC_ARGUMENT : status, "%s", error.text);
    tools t = {.b = b};
    if (!yyjson_is_obj(yyjson_doc_get_root(doc)))
        tc_builder_fail(b, TC_ARGUMENT, "tools: not an object");
    else if (read_tools(&t, yyjson_doc_get_root(doc)))
        node = emit_calls(&t);
    yyjson_doc_free(doc);
    return node;
}
