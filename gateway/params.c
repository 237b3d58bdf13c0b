// SPDX-License-Identifier: Apache-2.0
// Owns: the fields that dialects share, their ranges and defaults (docs/API.md).
#include "gateway/params.h"

#include "gateway/chat_read.h"
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_MAX_TOKENS = 256,
    DEFAULT_MAX_TOKENS_OPENAI = 16,
    TOP_K_MAX = 1 << 20,
    LOGIT_BIAS_MAX = 100,
};

bool tc_params_add_stop(tc_params *p, const char *field, yyjson_val *value, tc_http_error *error)
{
    size_t bytes = yyjson_get_len(value);
    if (!yyjson_is_str(value))
        return tc_http_refuse(error, 400, "invalid_type", field, "%s must be a string or a list of strings",
                              field);
    if (bytes == 0 || bytes > TC_STOP_BYTES_MAX)
        return tc_http_refuse(error, 400, "out_of_range", field, "a stop string must have 1 to %d bytes",
                              TC_STOP_BYTES_MAX);
    if (memchr(yyjson_get_str(value), 0, bytes))
        return tc_http_refuse(error, 400, "out_of_range", field, "a stop string must not hold U+0000");
    if (p->stop_count == TC_STOPS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", field, "%s must hold at most %d strings", field,
                              TC_STOPS_MAX);
    p->stops[p->stop_count++] = yyjson_get_str(value);
    return true;
}

static bool read_stops(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value, *item;
    size_t i, count;
    if (!tc_field_find(root, "stop", &value, error)) return false;
    if (!value) return true;
    if (!yyjson_is_arr(value)) return tc_params_add_stop(p, "stop", value, error);
    yyjson_arr_foreach(value, i, count, item) if (!tc_params_add_stop(p, "stop", item, error)) return false;
    return true;
}

static bool read_stop_tokens(tc_params *p, yyjson_val *root, uint32_t vocab, tc_http_error *error)
{
    yyjson_val *list, *item;
    size_t i, count;
    if (!tc_member_list(root, "", "stop_token_ids", TC_STOP_TOKENS_MAX / 2, &list, error)) return false;
    if (!list) return true;
    yyjson_arr_foreach(list, i, count, item)
    {
        if (!yyjson_is_uint(item) || yyjson_get_uint(item) >= vocab)
            return tc_http_refuse(error, 400, "invalid_token", "stop_token_ids",
                                  "stop_token_ids[%zu] is not an id from 0 to %u", i, vocab - 1);
        p->stop_tokens[p->stop_token_count++] = (uint32_t)yyjson_get_uint(item);
    }
    return true;
}

static bool parse_id(const char *text, uint32_t vocab, uint32_t *ret)
{
    uint64_t value = 0;
    size_t i = 0;
    for (; text[i]; i++) {
        if (text[i] < '0' || text[i] > '9' || i == 9) return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *ret = (uint32_t)value;
    return i > 0 && value < vocab;
}

// {"id": bias}, ids as texts.
static bool read_bias(tc_params *p, yyjson_val *root, uint32_t vocab, tc_http_error *error)
{
    yyjson_val *object, *key, *value;
    size_t i, count;
    if (!tc_member_object(root, "", "logit_bias", &object, error)) return false;
    if (!object || yyjson_obj_size(object) == 0) return true;
    if (yyjson_obj_size(object) > TC_LOGIT_BIASES_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "logit_bias", "logit_bias has more than %d tokens",
                              TC_LOGIT_BIASES_MAX);
    p->logit_bias = malloc(yyjson_obj_size(object) * sizeof *p->logit_bias);
    if (!p->logit_bias) return tc_refuse_memory(error);
    yyjson_obj_foreach(object, i, count, key, value)
    {
        tc_token_value *bias = &p->logit_bias[p->logit_bias_count];
        if (!parse_id(yyjson_get_str(key), vocab, &bias->token))
            return tc_http_refuse(error, 400, "invalid_token", "logit_bias",
                                  "logit_bias: '%.40s' is not an id from 0 to %u", yyjson_get_str(key),
                                  vocab - 1);
        if (!yyjson_is_num(value)) return tc_refuse_type(error, "logit_bias", "an object of numbers", value);
        double number = yyjson_get_num(value);
        if (!(number >= -LOGIT_BIAS_MAX && number <= LOGIT_BIAS_MAX))
            return tc_http_refuse(error, 400, "out_of_range", "logit_bias",
                                  "logit_bias of %u must be from -%d to %d", bias->token, LOGIT_BIAS_MAX,
                                  LOGIT_BIAS_MAX);
        bias->value = (float)number;
        p->logit_bias_count++;
    }
    return true;
}

// -1 and 0 are both "off".
static bool read_top_k(tc_sampling *s, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_find(root, "top_k", &value, error)) return false;
    if (value && yyjson_is_sint(value) && yyjson_get_sint(value) == -1) {
        s->top_k = 0;
        return true;
    }
    return tc_field_u32(root, "top_k", 0, TOP_K_MAX, &s->top_k, error);
}

bool tc_params_read_basics(tc_sampling *s, yyjson_val *root, float temperature_max, tc_http_error *error)
{
    return tc_field_float(root, "temperature", 0, (double)temperature_max, false, &s->temperature, error) &&
           tc_field_float(root, "top_p", 0, 1, true, &s->top_p, error) && read_top_k(s, root, error);
}

bool tc_params_read_penalties(tc_sampling *s, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_float(root, "min_p", 0, 1, false, &s->min_p, error) ||
        !tc_field_float(root, "repetition_penalty", 0, 10, true, &s->repetition_penalty, error) ||
        !tc_field_float(root, "presence_penalty", -2, 2, false, &s->presence_penalty, error) ||
        !tc_field_float(root, "frequency_penalty", -2, 2, false, &s->frequency_penalty, error) ||
        !tc_field_find(root, "seed", &value, error))
        return false;
    if (!value) return true;
    if (!yyjson_is_int(value))
        return tc_http_refuse(error, 400, "invalid_type", "seed", "seed must be an integer, not %s",
                              tc_field_type(value));
    s->seeded = true;
    s->seed = yyjson_is_sint(value) ? (uint64_t)yyjson_get_sint(value) : yyjson_get_uint(value);
    return true;
}

// What every dialect but Anthropic's takes, OpenAI's fields and the usual extras.
static bool read_shared(tc_params *p, yyjson_val *root, uint32_t vocab, tc_http_error *error)
{
    return tc_params_read_basics(&p->sampling, root, 2, error) &&
           tc_params_read_penalties(&p->sampling, root, error) && read_stops(p, root, error) &&
           read_stop_tokens(p, root, vocab, error) && read_bias(p, root, vocab, error) &&
           tc_field_u32(root, "min_tokens", 0, TC_GENERATE_TOKENS_MAX, &p->sampling.min_tokens, error) &&
           tc_field_bool(root, "ignore_eos", &p->ignore_eos, error) &&
           tc_field_bool(root, "stream", &p->stream, error) &&
           tc_field_bool(root, "optimize_experts", &p->optimize_experts, error) &&
           tc_params_read_hints(p, root, error) &&
           tc_field_bool(root, "return_routed_experts", &p->return_experts, error) &&
           tc_field_bool(root, "return_token_ids", &p->return_token_ids, error) &&
           tc_params_read_constraint(p, root, error);
}

bool tc_params_read_model(yyjson_val *root, const tc_gateway_model *model, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_find(root, "model", &value, error)) return false;
    if (value && !yyjson_is_str(value)) return tc_refuse_type(error, "model", "a string", value);
    if (value && yyjson_get_len(value) && !yyjson_equals_str(value, model->name))
        return tc_http_refuse(error, 404, "model_not_found", "model",
                              "the model '%.100s' is not served here; '%.150s' is", yyjson_get_str(value),
                              model->name);
    return true;
}

// When it is to run, and until when it is of use.
static bool read_scheduling(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_find(root, "priority", &value, error)) return false;
    if (value && !yyjson_is_int(value))
        return tc_http_refuse(error, 400, "invalid_type", "priority", "priority must be an integer, not %s",
                              tc_field_type(value));
    bool fits = !value || (yyjson_is_uint(value) ? yyjson_get_uint(value) <= TC_API_PRIORITY_MAX
                                                 : yyjson_get_sint(value) >= -TC_API_PRIORITY_MAX);
    if (!fits)
        return tc_http_refuse(error, 400, "out_of_range", "priority", "priority must be from -%d to %d",
                              TC_API_PRIORITY_MAX, TC_API_PRIORITY_MAX);
    if (value) p->priority = (int32_t)yyjson_get_sint(value);
    return tc_field_u32(root, "deadline_ms", 1, TC_API_DEADLINE_MS_MAX, &p->deadline_ms, error);
}

static bool read_n(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    uint32_t best_of = 1;
    if (!tc_field_u32(root, "n", 1, TC_API_N_MAX, &p->n, error) ||
        !tc_field_u32(root, "best_of", 1, TC_API_N_MAX, &best_of, error))
        return false;
    if (best_of != 1 && best_of != p->n) // best_of = n chooses nothing
        return tc_http_refuse(error, 400, "unsupported_parameter", "best_of", "best_of is not supported");
    return true;
}

static bool read_stream_options(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_member_object(root, "", "stream_options", &value, error)) return false;
    if (value && !p->stream)
        return tc_http_refuse(error, 400, "invalid_value", "stream_options",
                              "stream_options is for stream: true only");
    return !value || tc_member_bool(value, "stream_options", "include_usage", &p->include_usage, error);
}

static bool read_completions(tc_params *p, yyjson_val *root, const tc_gateway_model *model,
                             tc_http_error *error)
{
    yyjson_val *suffix, *logprobs;
    if (!tc_params_read_model(root, model, error) || !read_n(p, root, error) ||
        !tc_field_bool(root, "echo", &p->echo, error) || !read_stream_options(p, root, error) ||
        !tc_field_u32(root, "max_tokens", 0, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error) ||
        !tc_field_find(root, "logprobs", &logprobs, error) || !tc_field_find(root, "suffix", &suffix, error))
        return false;
    if (suffix && !yyjson_is_str(suffix)) return tc_refuse_type(error, "suffix", "a string", suffix);
    if (suffix && yyjson_get_len(suffix))
        return tc_http_refuse(error, 400, "unsupported_parameter", "suffix",
                              "suffix is not supported: this model cannot fill in the middle");
    if (!logprobs) return true;
    p->logprobs = true;
    return tc_field_u32(root, "logprobs", 0, TC_LOGPROBS_MAX, &p->top_logprobs, error);
}

static bool read_chat(tc_params *p, yyjson_val *root, const tc_gateway_model *model, tc_http_error *error)
{
    yyjson_val *top;
    if (!tc_params_read_model(root, model, error) || !read_n(p, root, error) ||
        !read_stream_options(p, root, error) ||
        !tc_field_u32(root, "max_tokens", 1, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error) ||
        !tc_field_u32(root, "max_completion_tokens", 1, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error) ||
        !tc_field_bool(root, "logprobs", &p->logprobs, error) ||
        !tc_field_find(root, "top_logprobs", &top, error) ||
        !tc_field_u32(root, "top_logprobs", 0, TC_LOGPROBS_MAX, &p->top_logprobs, error))
        return false;
    if (top && !p->logprobs)
        return tc_http_refuse(error, 400, "invalid_value", "top_logprobs",
                              "top_logprobs is for logprobs: true only");
    return tc_chat_read_openai(p, root, error);
}

static bool read_own(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    if (!tc_field_u32(root, "max_tokens", 1, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error)) return false;
    if (p->dialect == TC_DIALECT_BATCH && p->stream)
        return tc_http_refuse(error, 400, "unsupported_parameter", "stream", "a batch cannot be streamed");
    return true;
}

// The id of a kept conversation, and what cannot be kept.
static bool read_conversation(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    tc_chat *chat = &p->chat;
    if (!tc_member_string(root, "", "conversation_id", &chat->conversation, &chat->conversation_bytes, error))
        return false;
    for (size_t i = 0; i < chat->conversation_bytes; i++)
        if ((unsigned char)chat->conversation[i] <= 0x20 || (unsigned char)chat->conversation[i] >= 0x7f)
            return tc_http_refuse(error, 400, "invalid_value", "conversation_id",
                                  "conversation_id must have printable ASCII characters only");
    if (chat->conversation &&
        (chat->conversation_bytes == 0 || chat->conversation_bytes > TC_CONVERSATION_ID_BYTES_MAX))
        return tc_http_refuse(error, 400, "out_of_range", "conversation_id",
                              "conversation_id must have 1 to %d characters", TC_CONVERSATION_ID_BYTES_MAX);
    if (p->n > 1)
        return tc_http_refuse(error, 400, "unsupported_parameter", "n",
                              "a conversation has one answer: n is 1");
    return true;
}

static bool read_dialect(tc_params *p, yyjson_val *root, const tc_gateway_model *model, uint32_t vocab,
                         tc_http_error *error)
{
    switch (p->dialect) {
    case TC_DIALECT_GENERATE:
    case TC_DIALECT_SOCKET:
    case TC_DIALECT_BATCH:
        return tc_params_read_prompts(p, root, vocab, error) && read_shared(p, root, vocab, error) &&
               read_own(p, root, error);
    case TC_DIALECT_COMPLETIONS:
        return tc_params_read_prompts(p, root, vocab, error) && read_shared(p, root, vocab, error) &&
               read_completions(p, root, model, error);
    case TC_DIALECT_CHAT:
        return read_shared(p, root, vocab, error) && read_chat(p, root, model, error);
    case TC_DIALECT_OWN_CHAT:
        return read_shared(p, root, vocab, error) && read_chat(p, root, model, error) &&
               read_conversation(p, root, error);
    case TC_DIALECT_MESSAGES:
    case TC_DIALECT_COUNT:
        return tc_params_read_model(root, model, error) && tc_chat_read_anthropic(p, root, error);
    case TC_DIALECT_RESPONSES:
        return tc_params_read_model(root, model, error) && tc_chat_read_responses(p, root, error);
    default:
        return tc_params_read_model(root, model, error) && tc_chat_read_openai(p, root, error);
    }
}

static bool read_all(tc_params *p, const tc_gateway_model *model, uint32_t vocab, size_t bytes,
                     tc_http_error *error)
{
    yyjson_val *root = yyjson_doc_get_root(p->doc);
    if (!read_dialect(p, root, model, vocab, error) || !read_scheduling(p, root, error)) return false;
    if (p->chat.failed) return tc_refuse_memory(error);
    if (p->chat.doc) {
        if (!tc_params_constrain_tools(p, error)) return false;
        p->prompts = calloc(1, sizeof *p->prompts);
        if (!p->prompts) return tc_refuse_memory(error);
        p->prompt_count = 1;
        p->text_bytes = bytes;
    }
    if (p->prompt_count * p->n > TC_API_GENERATIONS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "n", "prompts times n is %u; the limit is %d",
                              p->prompt_count * p->n, TC_API_GENERATIONS_MAX);
    if (p->sampling.min_tokens > p->max_tokens)
        return tc_http_refuse(error, 400, "out_of_range", "min_tokens", "min_tokens is %u, max_tokens is %u",
                              p->sampling.min_tokens, p->max_tokens);
    return true;
}

bool tc_params_read(const tc_gateway_model *model, uint32_t vocab, tc_dialect dialect, const char *body,
                    size_t bytes, tc_params *ret, tc_http_error *error)
{
    tc_params p = {
        .dialect = dialect,
        .n = 1,
        .max_tokens = dialect == TC_DIALECT_COMPLETIONS  ? DEFAULT_MAX_TOKENS_OPENAI
                      : dialect < TC_DIALECT_COMPLETIONS ? DEFAULT_MAX_TOKENS
                                                         : TC_CHAT_MAX_TOKENS,
        .stream = dialect == TC_DIALECT_SOCKET,
        .sampling = model->defaults,
        .optimize_experts = true,
    };
    if (!tc_fields_open(body, bytes, &p.doc, error)) return false;
    if (!read_all(&p, model, vocab, bytes, error)) {
        tc_params_free(&p);
        return false;
    }
    *ret = p;
    return true;
}

void tc_params_free(tc_params *p)
{
    for (uint32_t i = 0; i < p->prompt_count; i++) free(p->prompts[i].ids);
    free(p->prompts);
    free(p->logit_bias);
    free(p->hints);
    free(p->constraint_text);
    tc_chat_free(&p->chat);
    if (p->doc) yyjson_doc_free(p->doc);
    memset(p, 0, sizeof *p);
}
