// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing the reader of JSON that all others stand on: depth, duplicate keys, the typed getters. The
// first byte is the depth that is allowed. What is accepted is strict, and each getter gives a value within
// its bounds or an error that names the place.
#include "common/base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static unsigned depth_of(yyjson_val *value)
{
    unsigned most = 0;
    size_t i, n;
    yyjson_val *key, *item;
    if (yyjson_is_obj(value)) yyjson_obj_foreach(value, i, n, key, item)
        {
            unsigned d = depth_of(item);
            if (d > most) most = d;
        }
    if (yyjson_is_arr(value)) yyjson_arr_foreach(value, i, n, item)
        {
            unsigned d = depth_of(item);
            if (d > most) most = d;
        }
    return yyjson_is_ctn(value) ? most + 1 : 0;
}

static void failed(const tc_json_object *o)
{
    CHECK(strstr(o->e->text, "doc"));
    memset(o->e, 0, sizeof *o->e);
}

static void read_all(const tc_json_object *o, unsigned level)
{
    size_t i, n;
    yyjson_val *key, *value;
    yyjson_obj_foreach(o->value, i, n, key, value)
    {
        const char *name = yyjson_get_str(key), *text = NULL;
        uint32_t u32 = 7;
        uint64_t u64 = 7;
        double number = 0.5;
        bool flag = false;
        tc_json_object inner = *o;
        yyjson_val *array = NULL;
        if (strlen(name) != yyjson_get_len(key)) continue; // no C text can ask for it
        CHECK(tc_json_field(o, name) == (yyjson_is_null(value) ? NULL : value));
        if (tc_json_u32(o, name, 3, 1000, &u32) != TC_OK) failed(o);
        if (tc_json_u64(o, name, 3, 1u << 30, &u64) != TC_OK) failed(o);
        if (tc_json_double(o, name, 0, 1, &number) != TC_OK) failed(o);
        CHECK(u32 >= 3 && u32 <= 1000 && u64 >= 3 && u64 <= 1u << 30 && number >= 0 && number <= 1);
        if (tc_json_bool(o, name, &flag) != TC_OK) failed(o);
        if (tc_json_string(o, name, &text) != TC_OK) failed(o);
        CHECK(!text || strlen(text) == yyjson_get_len(value));
        if (tc_json_get_array(o, name, &array) != TC_OK) failed(o);
        CHECK(!array || yyjson_is_arr(array));
        if (tc_json_get_object(o, name, &inner) != TC_OK)
            failed(o);
        else if (inner.value != o->value && level < TC_JSON_DEPTH_MAX)
            read_all(&inner, level + 1);
        if (tc_json_require(o, name) != TC_OK) failed(o);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    yyjson_doc *doc = NULL;
    tc_error e = {0};
    tc_json_object root;
    if (bytes < 1) return 0;
    uint32_t depth = 1u + data[0] % TC_JSON_DEPTH_MAX;
    char *exact = malloc(bytes); // so that a read beyond it shows
    CHECK(exact);
    memcpy(exact, data + 1, bytes - 1);
    if (tc_json_parse("doc", exact, bytes - 1, depth, &doc, &e) == TC_OK) {
        CHECK(depth_of(yyjson_doc_get_root(doc)) <= depth);
        memset(exact, 0xAA, bytes); // the document keeps nothing of it
        if (tc_json_object_of(yyjson_doc_get_root(doc), "doc", &root, &e) == TC_OK) read_all(&root, 0);
        yyjson_doc_free(doc);
    } else {
        CHECK(strstr(e.text, "doc"));
    }
    free(exact);
    return 0;
}
