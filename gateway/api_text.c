// SPDX-License-Identifier: Apache-2.0
// Owns: what shows the text side at work: POST /tokenize, /detokenize, /apply-template, and what this model
// cannot do (/v1/embeddings).
#include "gateway/job.h"
#include "gateway/openai.h"
#include "gateway/routes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void respond(tc_http_conn *conn, tc_buffer *body)
{
    tc_http_error error;
    if (body->failed) {
        tc_refuse_memory(&error);
        tc_http_fail(conn, &error);
    } else {
        tc_http_respond(conn, 200, "application/json", NULL, body->data, body->count);
    }
    tc_buffer_free(body);
}

// ---- /tokenize ----

static void write_tokens(const tc_gateway *gateway, const tc_ids *ids, bool strings, tc_buffer *out)
{
    const tc_model_info *info = tc_core_link_info(gateway->link);
    tc_buffer_format(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", ids->count,
                     info && info->context ? info->context : gateway->options.model.context);
    for (size_t i = 0; i < ids->count; i++) tc_buffer_format(out, "%s%u", i ? "," : "", ids->data[i]);
    tc_buffer_text(out, "],\"token_strs\":");
    if (!strings) tc_buffer_text(out, "null");
    for (size_t i = 0; strings && i < ids->count; i++) {
        size_t bytes;
        const char *text = tc_tokenizer_token_bytes(gateway->options.tokenizer, ids->data[i], &bytes);
        tc_buffer_text(out, i ? "," : "[");
        tc_buffer_json(out, text ? text : "", text ? bytes : 0);
    }
    if (strings) tc_buffer_text(out, ids->count ? "]" : "[]");
    tc_buffer_text(out, "}\n");
}

static void tokenize_body(tc_job *job, tc_buffer *out)
{
    bool strings = yyjson_get_bool(yyjson_obj_get(yyjson_doc_get_root(job->params.doc), "return_token_strs"));
    write_tokens(job->gateway, &job->requests[0].prompt, strings, out);
}

static const tc_job_shape tokenize_shape = {.no_core = true, .body = tokenize_body};

// A text of any length up to that of a body: on the loop, as it takes a few milliseconds a megabyte.
static bool tokenize_text(tc_gateway *gateway, yyjson_val *root, tc_buffer *out, tc_http_error *error)
{
    const char *text;
    size_t bytes;
    bool strings = false, ignored = true;
    tc_error e = {0};
    tc_ids ids = {0};
    if (!tc_member_string(root, "", "prompt", &text, &bytes, error) ||
        !tc_field_bool(root, "return_token_strs", &strings, error) ||
        !tc_field_bool(root, "add_special_tokens", &ignored, error) ||
        !tc_params_read_model(root, &gateway->options.model, error))
        return false;
    if (!text) return tc_http_refuse(error, 400, "missing_field", "prompt", "prompt or messages is missing");
    tc_status status =
        tc_tokenizer_encode(gateway->options.tokenizer, text, bytes, TC_SPECIAL_PARSE, &ids, &e);
    if (status == TC_OK) write_tokens(gateway, &ids, strings, out);
    tc_ids_free(&ids);
    return status == TC_OK || tc_http_refuse_status(error, status, e.text);
}

void tc_api_tokenize(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    yyjson_doc *doc = NULL;
    yyjson_val *messages = NULL, *prompt = NULL;
    tc_buffer out = {0};
    tc_http_error error;
    bool strings;
    (void)rest;
    bool good = tc_fields_open(conn->parser.body.data, conn->parser.body.count, &doc, &error);
    yyjson_val *root = yyjson_doc_get_root(doc);
    good = good && tc_field_find(root, "messages", &messages, &error) &&
           tc_field_find(root, "prompt", &prompt, &error) &&
           tc_field_bool(root, "return_token_strs", &strings, &error);
    bool conversation = good && messages && !prompt;
    if (good && messages && prompt)
        good =
            tc_http_refuse(&error, 400, "invalid_value", "prompt", "prompt and messages exclude each other");
    if (good && !conversation) good = tokenize_text(gateway, root, &out, &error);
    yyjson_doc_free(doc);
    if (conversation)
        tc_job_start(gateway, conn, TC_DIALECT_TEMPLATE, &tokenize_shape);
    else if (good)
        respond(conn, &out);
    else
        tc_http_fail(conn, &error);
    tc_buffer_free(&out);
}

// ---- /detokenize ----

static bool detokenize(tc_gateway *gateway, yyjson_val *root, tc_buffer *out, tc_http_error *error)
{
    yyjson_val *list, *item;
    size_t i, count, bytes;
    tc_ids ids = {0};
    tc_error e = {0};
    char *text = NULL;
    bool skip = false;
    uint32_t vocab = tc_tokenizer_vocab(gateway->options.tokenizer);
    if (!tc_member_list(root, "", "tokens", TC_PROMPT_TOKENS_MAX, &list, error) ||
        !tc_field_bool(root, "skip_special_tokens", &skip, error) ||
        !tc_params_read_model(root, &gateway->options.model, error))
        return false;
    if (!list) return tc_refuse_missing(error, "tokens");
    tc_status status = TC_OK;
    yyjson_arr_foreach(list, i, count, item)
    {
        if (!yyjson_is_uint(item) || yyjson_get_uint(item) >= vocab) {
            tc_ids_free(&ids);
            return tc_http_refuse(error, 400, "invalid_token", "tokens",
                                  "tokens[%zu] is not an id from 0 to %u", i, vocab - 1);
        }
        if (status == TC_OK) status = tc_ids_push(&ids, (uint32_t)yyjson_get_uint(item));
    }
    if (status == TC_OK)
        status =
            tc_tokenizer_decode(gateway->options.tokenizer, ids.data, ids.count, skip, &text, &bytes, &e);
    if (status == TC_OK) {
        tc_buffer_text(out, "{\"prompt\":");
        tc_buffer_json(out, text, bytes);
        tc_buffer_text(out, "}\n");
    }
    free(text);
    tc_ids_free(&ids);
    return status == TC_OK || tc_http_refuse_status(error, status, e.text);
}

void tc_api_detokenize(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    yyjson_doc *doc = NULL;
    tc_buffer out = {0};
    tc_http_error error;
    (void)rest;
    bool good = tc_fields_open(conn->parser.body.data, conn->parser.body.count, &doc, &error) &&
                detokenize(gateway, yyjson_doc_get_root(doc), &out, &error);
    yyjson_doc_free(doc);
    if (good)
        respond(conn, &out);
    else
        tc_http_fail(conn, &error);
    tc_buffer_free(&out);
}

// ---- /apply-template ----

static void template_body(tc_job *job, tc_buffer *out)
{
    tc_buffer_text(out, "{\"prompt\":");
    tc_buffer_json(out, job->rendered.text ? job->rendered.text : "", job->rendered.bytes);
    tc_buffer_text(out, "}\n");
}

void tc_api_apply_template(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {.no_core = true, .body = template_body};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_TEMPLATE, &shape);
}

void tc_api_embeddings(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    tc_http_error error;
    (void)gateway, (void)rest;
    tc_http_refuse(&error, 501, "unsupported", NULL,
                   "this model generates text; it has no embeddings to give");
    tc_http_fail(conn, &error);
}
