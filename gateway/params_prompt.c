// SPDX-License-Identifier: Apache-2.0
// Owns: prompts that are texts or token ids, alone or several.
#include "gateway/params.h"

#include <stdlib.h>

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

bool tc_params_read_prompts(tc_params *p, yyjson_val *root, uint32_t vocab, tc_http_error *error)
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
