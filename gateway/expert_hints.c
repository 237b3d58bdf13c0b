// SPDX-License-Identifier: Apache-2.0
// Owns: `expert_hints` of a request: {"pin": [[layer, expert], ...], "prefetch": [...], "profile": "name",
// "conversation_id": "id"}. Names become numbers with the key they came under, so that no key meets
// another's.
#include "gateway/params.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES_MAX = 128 };

uint64_t tc_footprint_id(uint64_t scope, const char *kind, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u ^ scope * 0x9e3779b97f4a7c15u; // FNV-1a
    for (; *kind; kind++) hash = (hash ^ (uint8_t)*kind) * 0x100000001b3u;
    for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return hash ? hash : 1;
}

static bool read_list(tc_params *p, yyjson_val *object, const char *name, bool pin, tc_http_error *error)
{
    yyjson_val *list, *pair;
    size_t i, count;
    if (!tc_member_list(object, "expert_hints", name, TC_EXPERT_HINTS_MAX, &list, error)) return false;
    if (!list || !yyjson_arr_size(list)) return true;
    size_t all = p->hint_count + yyjson_arr_size(list);
    if (all > TC_EXPERT_HINTS_MAX)
        return tc_http_refuse(error, 400, "out_of_range", "expert_hints",
                              "expert_hints name more than %d experts", TC_EXPERT_HINTS_MAX);
    tc_expert_hint *hints = realloc(p->hints, all * sizeof *hints);
    if (!hints) return tc_refuse_memory(error);
    p->hints = hints;
    yyjson_arr_foreach(list, i, count, pair)
    {
        yyjson_val *layer = yyjson_arr_get(pair, 0), *expert = yyjson_arr_get(pair, 1);
        if (yyjson_arr_size(pair) != 2 || !yyjson_is_uint(layer) || !yyjson_is_uint(expert) ||
            yyjson_get_uint(layer) > UINT16_MAX || yyjson_get_uint(expert) > UINT16_MAX)
            return tc_http_refuse(error, 400, "invalid_type", "expert_hints",
                                  "expert_hints.%s[%zu] must be a pair [layer, expert]", name, i);
        p->hints[p->hint_count++] =
            (tc_expert_hint){(uint16_t)yyjson_get_uint(layer), (uint16_t)yyjson_get_uint(expert), pin};
    }
    return true;
}

static bool read_name(yyjson_val *object, const char *name, const char **ret, tc_http_error *error)
{
    size_t bytes = 0;
    if (!tc_member_string(object, "expert_hints", name, ret, &bytes, error)) return false;
    if (*ret && (bytes < 1 || bytes > NAME_BYTES_MAX || strlen(*ret) != bytes))
        return tc_http_refuse(error, 400, "out_of_range", "expert_hints",
                              "expert_hints.%s must have 1 to %d bytes", name, NAME_BYTES_MAX);
    return true;
}

bool tc_params_read_hints(tc_params *p, yyjson_val *root, tc_http_error *error)
{
    yyjson_val *object;
    if (!tc_member_object(root, "", "expert_hints", &object, error)) return false;
    return !object ||
           (read_list(p, object, "pin", true, error) && read_list(p, object, "prefetch", false, error) &&
            read_name(object, "profile", &p->hint_profile, error) &&
            read_name(object, "conversation_id", &p->hint_conversation, error));
}
