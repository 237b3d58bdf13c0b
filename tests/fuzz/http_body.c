// SPDX-License-Identifier: Apache-2.0
// Owns: bodies of generation requests from a hostile client. The first byte chooses the dialect. What is
// accepted must be within every limit; what is refused must say a 4xx and why, in valid JSON.
#include "gateway/params.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static void check_good(const tc_params *p)
{
    size_t text_bytes = 0;
    CHECK(p->prompt_count >= 1 && p->prompt_count <= TC_API_PROMPTS_MAX);
    CHECK(p->n >= 1 && p->prompt_count * p->n <= TC_API_GENERATIONS_MAX);
    CHECK(p->stop_count <= TC_STOPS_MAX);
    for (uint32_t i = 0; i < p->stop_count; i++)
        CHECK(*p->stops[i] && strlen(p->stops[i]) <= TC_STOP_BYTES_MAX);
    for (uint32_t i = 0; i < p->prompt_count; i++) {
        const tc_prompt *prompt = &p->prompts[i];
        CHECK(p->chat.doc || (prompt->text ? prompt->bytes > 0 : prompt->id_count > 0));
        for (size_t k = 0; !prompt->text && k < prompt->id_count; k++) CHECK(prompt->ids[k] < 1000);
        text_bytes += prompt->bytes;
    }
    CHECK(p->chat.doc ? p->prompt_count == 1 && p->chat.message_count >= 1 : text_bytes == p->text_bytes);
    CHECK(p->stop_token_count <= TC_STOP_TOKENS_MAX / 2 && p->logit_bias_count <= TC_LOGIT_BIASES_MAX);
    for (uint32_t i = 0; i < p->logit_bias_count; i++) CHECK(p->logit_bias[i].token < 1000);
    CHECK(p->top_logprobs <= TC_LOGPROBS_MAX && p->constraint.bytes <= TC_CONSTRAINT_TEXT_BYTES_MAX);
    const tc_sampling *s = &p->sampling;
    CHECK(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    CHECK(s->min_p >= 0 && s->min_p <= 1 && s->repetition_penalty > 0 && s->repetition_penalty <= 10);
}

static void check_bad(const tc_http_error *error)
{
    tc_buffer body = {0};
    CHECK(error->status >= 400 && error->status < 500 && *error->message);
    tc_http_error_body(error, &body);
    yyjson_doc *doc = body.failed ? NULL : yyjson_read(body.data, body.count, 0);
    CHECK(doc);
    yyjson_doc_free(doc);
    tc_buffer_free(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const tc_gateway_model model = {
        .name = "m", .context = 1000, .vocab = 1000, .defaults = {.top_p = 1, .repetition_penalty = 1}};
    tc_params params = {0};
    tc_http_error error = {0};
    if (size == 0) return 0;
    if (tc_params_read(&model, 1000, (tc_dialect)(data[0] % TC_DIALECTS), (const char *)data + 1, size - 1,
                       &params, &error)) {
        check_good(&params);
        tc_params_free(&params);
    } else {
        check_bad(&error);
    }
    return 0;
}
