// SPDX-License-Identifier: Apache-2.0
// Owns: the fields of the three dialects, their ranges and defaults (docs/API.md).
#include "gateway/params.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_MAX_TOKENS = 256,
    DEFAULT_MAX_TOKENS_OPENAI = 16,
    TOP_K_MAX = 1 << 20,
};

static bool read_string(yyjson_val *value, const char *param, tc_prompt *ret, tc_http_error *error)
{
    if (!yyjson_is_str(value))
        return tc_http_refuse(error, 400, "invalid_type", param, "%s must be a string, not %s", param,
                              tc_field_type(value));
    if (yyjson_get_len(value) == 0)
        return tc_http_refuse(error, 400, "empty_prompt", param, "%s must not be empty", param);
    ret->text = yyjson_get_str(value);
    ret->bytes = yyjson_get_len(value);
    return true;
}

static bool read_ids(yyjson_val *list, uint32_t vocab, tc_prompt *ret, tc_http_error *error)
{
    size_t i, count, total = yyjson_arr_size(list);
    yyjson_val *value;
    if (total == 0) return tc_http_refuse(error, 400, "empty_prompt", "prompt", "prompt must not be empty");
    if (total > TC_PROMPT_TOKENS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "prompt", "prompt has %zu tokens; the limit is %d",
                              total, TC_PROMPT_TOKENS_MAX);
    ret->ids = malloc(total * sizeof *ret->ids);
    if (!ret->ids) return tc_http_refuse(error, 503, "unavailable", NULL, "out of memory");
    ret->id_count = total;
    yyjson_arr_foreach(list, i, count, value)
    {
        if (!yyjson_is_uint(value) || yyjson_get_uint(value) >= vocab)
            return tc_http_refuse(error, 400, "invalid_token", "prompt",
                                  "prompt: token %zu is not an id from 0 to %u", i, vocab - 1);
        ret->ids[i] = (uint32_t)yyjson_get_uint(value);
    }
    return true;
}

static bool make_prompts(tc_params *p, const char *param, size_t count, tc_http_error *error)
{
    if (count == 0 || count > TC_API_PROMPTS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", param, "%s must hold 1 to %d prompts, not %zu",
                              param, TC_API_PROMPTS_MAX, count);
    p->prompts = calloc(count, sizeof *p->prompts);
    if (!p->prompts) return tc_http_refuse(error, 503, "unavailable", NULL, "out of memory");
    p->prompt_count = (uint32_t)count;
    return true;
}

static bool read_strings(tc_params *p, yyjson_val *list, const char *param, tc_http_error *error)
{
    size_t i, count;
    yyjson_val *value;
    if (!make_prompts(p, param, yyjson_arr_size(list), error)) return false;
    yyjson_arr_foreach(list, i, count,
                       value) if (!read_string(value, param, &p->prompts[i], error)) return false;
    return true;
}

// A string, a list of strings, a list of ids, or a list of lists of ids.
static bool read_any_prompt(tc_params *p, yyjson_val *value, uint32_t vocab, tc_http_error *error)
{
    if (yyjson_is_str(value))
        return make_prompts(p, "prompt", 1, error) && read_string(value, "prompt", p->prompts, error);
    if (!yyjson_is_arr(value))
        return tc_http_refuse(error, 400, "invalid_type", "prompt",
                              "prompt must be a string or a list, not %s", tc_field_type(value));
    yyjson_val *first = yyjson_arr_get_first(value);
    if (!first) return tc_http_refuse(error, 400, "empty_prompt", "prompt", "prompt must not be empty");
    if (yyjson_is_str(first)) return read_strings(p, value, "prompt", error);
    if (yyjson_is_num(first))
        return make_prompts(p, "prompt", 1, error) && read_ids(value, vocab, p->prompts, error);
    if (!make_prompts(p, "prompt", yyjson_arr_size(value), error)) return false;
    size_t i, count;
    yyjson_val *list;
    yyjson_arr_foreach(value, i, count, list)
    {
        if (!yyjson_is_arr(list))
            return tc_http_refuse(error, 400, "invalid_type", "prompt",
                                  "prompt must hold strings, ids, or lists of ids, not %s",
                                  tc_field_type(list));
        if (!read_ids(list, vocab, &p->prompts[i], error)) return false;
    }
    return true;
}

static bool read_prompts(tc_params *p, yyjson_val *root, uint32_t vocab, tc_http_error *error)
{
    const char *name = p->dialect == TC_DIALECT_BATCH ? "prompts" : "prompt";
    yyjson_val *value;
    if (!tc_field_find(root, name, &value, error)) return false;
    if (!value) return tc_http_refuse(error, 400, "missing_field", name, "%s is missing", name);
    if (p->dialect == TC_DIALECT_COMPLETIONS) {
        if (!read_any_prompt(p, value, vocab, error)) return false;
    } else if (p->dialect == TC_DIALECT_BATCH) {
        if (!yyjson_is_arr(value))
            return tc_http_refuse(error, 400, "invalid_type", name,
                                  "prompts must be a list of strings, not %s", tc_field_type(value));
        if (!read_strings(p, value, name, error)) return false;
    } else if (!make_prompts(p, name, 1, error) || !read_string(value, name, p->prompts, error)) {
        return false;
    }
    for (uint32_t i = 0; i < p->prompt_count; i++) p->text_bytes += p->prompts[i].bytes;
    return true;
}

static bool add_stop(tc_params *p, yyjson_val *value, tc_http_error *error)
{
    size_t bytes = yyjson_get_len(value);
    if (!yyjson_is_str(value))
        return tc_http_refuse(error, 400, "invalid_type", "stop",
                              "stop must be a string or a list of strings");
    if (bytes == 0 || bytes > TC_STOP_BYTES_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "stop", "a stop string must have 1 to %d bytes",
                              TC_STOP_BYTES_MAX);
    if (memchr(yyjson_get_str(value), 0, bytes))
        return tc_http_refuse(error, 400, "out_of_range", "stop", "a stop string must not hold U+0000");
    if (p->stop_count == TC_STOPS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "stop", "stop must hold at most %d strings",
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
    if (!yyjson_is_arr(value)) return add_stop(p, value, error);
    yyjson_arr_foreach(value, i, count, item) if (!add_stop(p, item, error)) return false;
    return true;
}

static bool read_sampling(tc_sampling *s, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *value;
    if (!tc_field_float(root, "temperature", 0, 2, false, &s->temperature, error) ||
        !tc_field_float(root, "top_p", 0, 1, true, &s->top_p, error) ||
        !tc_field_float(root, "min_p", 0, 1, false, &s->min_p, error) ||
        !tc_field_u32(root, "top_k", 0, TOP_K_MAX, &s->top_k, error) ||
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

// What other servers can and this one cannot: silence would give an answer that was not asked for.
static bool refuse_unsupported(yyjson_val *root, tc_http_error *error)
{
    static const char *const names[] = {"logprobs", "suffix", "logit_bias"};
    yyjson_val *value;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!tc_field_find(root, names[i], &value, error)) return false;
        bool empty =
            value && ((yyjson_is_str(value) && yyjson_get_len(value) == 0) ||
                      (yyjson_is_obj(value) && yyjson_obj_size(value) == 0) || yyjson_is_false(value));
        if (value && !empty)
            return tc_http_refuse(error, 400, "unsupported_parameter", names[i], "%s is not supported",
                                  names[i]);
    }
    return true;
}

static bool read_openai(tc_params *p, yyjson_val *root, const tc_gateway_model *model, tc_http_error *error)
{
    yyjson_val *value;
    uint32_t best_of = 1;
    if (!tc_field_find(root, "model", &value, error)) return false;
    if (value && !yyjson_is_str(value))
        return tc_http_refuse(error, 400, "invalid_type", "model", "model must be a string");
    if (value && yyjson_get_len(value) && !yyjson_equals_str(value, model->name))
        return tc_http_refuse(error, 404, "model_not_found", "model",
                              "the model '%.100s' is not served here; '%.150s' is", yyjson_get_str(value),
                              model->name);
    if (!refuse_unsupported(root, error) || !tc_field_u32(root, "n", 1, TC_API_N_MAX, &p->n, error) ||
        !tc_field_bool(root, "echo", &p->echo, error))
        return false;
    if (!tc_field_u32(root, "best_of", 1, TC_API_N_MAX, &best_of, error)) return false;
    if (best_of != 1 && best_of != p->n) // best_of = n chooses nothing
        return tc_http_refuse(error, 400, "unsupported_parameter", "best_of", "best_of is not supported");
    if (!tc_field_find(root, "stream_options", &value, error)) return false;
    if (value && !p->stream)
        return tc_http_refuse(error, 400, "invalid_value", "stream_options",
                              "stream_options is for stream: true only");
    if (value && !yyjson_is_obj(value))
        return tc_http_refuse(error, 400, "invalid_type", "stream_options",
                              "stream_options must be an object");
    if (value && !tc_field_bool(value, "include_usage", &p->include_usage, error)) return false;
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

static bool read_all(tc_params *p, const tc_gateway_model *model, uint32_t vocab, tc_http_error *error)
{
    yyjson_val *root = yyjson_doc_get_root(p->doc);
    bool openai = p->dialect == TC_DIALECT_COMPLETIONS;
    if (!read_prompts(p, root, vocab, error) ||
        !tc_field_u32(root, "max_tokens", openai ? 0 : 1, TC_GENERATE_TOKENS_MAX, &p->max_tokens, error) ||
        !read_sampling(&p->sampling, root, error) || !read_stops(p, root, error) ||
        !tc_field_bool(root, "stream", &p->stream, error) ||
        !tc_field_bool(root, "optimize_experts", &p->optimize_experts, error) ||
        !read_scheduling(p, root, error))
        return false;
    if (p->dialect == TC_DIALECT_BATCH && p->stream)
        return tc_http_refuse(error, 400, "unsupported_parameter", "stream", "a batch cannot be streamed");
    if (openai && !read_openai(p, root, model, error)) return false;
    if (p->prompt_count * p->n > TC_API_GENERATIONS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "n", "prompts times n is %u; the limit is %d",
                              p->prompt_count * p->n, TC_API_GENERATIONS_MAX);
    return true;
}

bool tc_params_read(const tc_gateway_model *model, uint32_t vocab, tc_dialect dialect, const char *body,
                    size_t bytes, tc_params *ret, tc_http_error *error)
{
    tc_params p = {
        .dialect = dialect,
        .n = 1,
        .max_tokens = dialect == TC_DIALECT_COMPLETIONS ? DEFAULT_MAX_TOKENS_OPENAI : DEFAULT_MAX_TOKENS,
        .sampling = model->defaults,
        .optimize_experts = true,
    };
    if (!tc_fields_open(body, bytes, &p.doc, error)) return false;
    if (!read_all(&p, model, vocab, error)) {
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
    if (p->doc) yyjson_doc_free(p->doc);
    memset(p, 0, sizeof *p);
}
