// SPDX-License-Identifier: Apache-2.0
// Owns: from a prompt (a text, ids, a conversation) to the ids of its requests, and checking that a
// constraint can be enforced. Runs on the loop or beside it: touches nothing but the job.
#include "gateway/job.h"

#include <stdlib.h>
#include <string.h>

static const char *prompt_field(const tc_job *job)
{
    switch (job->params.dialect) {
    case TC_DIALECT_BATCH:
        return "prompts";
    case TC_DIALECT_RESPONSES:
        return "input";
    default:
        return job->params.chat.doc ? "messages" : "prompt";
    }
}

static tc_status copy_ids(const uint32_t *from, size_t count, tc_ids *ids)
{
    tc_status status = TC_OK;
    for (size_t k = 0; k < count && status == TC_OK; k++) status = tc_ids_push(ids, from[k]);
    return status;
}

// A user's text never becomes a special token: only the template's own words are looked at for them.
static bool encode_chat(tc_job *job, tc_ids *ids, tc_http_error *error)
{
    const tc_gateway_options *options = &job->gateway->options;
    tc_error e = {0};
    tc_rendered *r = &job->rendered;
    if (!tc_chat_render(options->chat_template, &job->params.chat, r, &job->in_reasoning, error))
        return false;
    tc_status status =
        tc_tokenizer_encode_spans(options->tokenizer, r->text, r->bytes, r->data, r->data_count, ids, &e);
    if (status == TC_NOMEM) return tc_refuse_memory(error);
    return status == TC_OK || tc_http_refuse_status(error, status, e.text);
}

static bool encode_one(tc_job *job, uint32_t i, tc_http_error *error)
{
    const tc_prompt *prompt = &job->params.prompts[i / job->params.n];
    const char *field = prompt_field(job);
    tc_ids *ids = &job->requests[i].prompt;
    tc_error e = {0};
    tc_status status = TC_OK;
    if (i % job->params.n) { // the n-th answer to the same prompt
        const tc_ids *first = &job->requests[i - i % job->params.n].prompt;
        status = copy_ids(first->data, first->count, ids);
    } else if (job->params.chat.doc) {
        if (!encode_chat(job, ids, error)) return false;
    } else if (prompt->text) {
        // The whole prompt is the client's, template and all: special tokens in it are meant.
        status = tc_tokenizer_encode(job->gateway->options.tokenizer, prompt->text, prompt->bytes,
                                     TC_SPECIAL_PARSE, ids, &e);
    } else {
        status = copy_ids(prompt->ids, prompt->id_count, ids);
    }
    if (status == TC_NOMEM) return tc_refuse_memory(error);
    if (status != TC_OK) return tc_http_refuse_status(error, status, e.text);
    if (ids->count > TC_PROMPT_TOKENS_MAX) // before it is copied n times
        return tc_http_refuse(error, 400, "context_length_exceeded", field,
                              "the prompt has %zu tokens; the limit is %d", ids->count, TC_PROMPT_TOKENS_MAX);
    if (ids->count == 0 && !job->shape->no_core)
        return tc_http_refuse(error, 400, "empty_prompt", field, "%s must not be empty", field);
    return true;
}

// The core compiles it again; here it is only refused in time.
static bool check_constraint(tc_job *job, tc_http_error *error)
{
    tc_error e = {0};
    tc_grammar *grammar = NULL;
    if (job->params.constraint.kind == TC_CONSTRAINT_NONE) return true;
    tc_status status = tc_grammar_compile(&job->params.constraint, &grammar, &e);
    tc_grammar_free(grammar);
    if (status == TC_OK) return true;
    if (status == TC_NOMEM) return tc_refuse_memory(error);
    return tc_http_refuse(error, 400,
                          status == TC_UNSUPPORTED ? "unsupported_constraint" : "invalid_constraint",
                          job->params.constraint_field, "%s: %.280s", job->params.constraint_field, e.text);
}

bool tc_job_encode(tc_job *job)
{
    if (!check_constraint(job, &job->error)) return false;
    for (uint32_t i = 0; i < job->count; i++)
        if (!encode_one(job, i, &job->error)) return false;
    if (!job->shape->no_core) {
        tc_rendered_free(&job->rendered);
        job->rendered = (tc_rendered){0};
    }
    return true;
}
