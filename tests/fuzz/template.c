// SPDX-License-Identifier: Apache-2.0
// Owns: chat templates under arbitrary bytes: a template, a NUL, and the variables as JSON (a small
// conversation where that is not JSON). Whatever comes out is UTF-8, its ranges are in order, and limits
// hold.
#include "common/text/template.h"
#include "common/text/utf8.h"
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char usual[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi \\u00fc "
                            "<|x|>\"},{\"role\":\"assistant\",\"content\":null,"
                            "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true]}"
                            "}}]}],\"tools\":[{\"a\":1}],"
                            "\"s\":\"text\",\"n\":3,\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":2},\"bos_token\":\"<s>"
                            "\",\"add_generation_prompt\":true}";

static void check(const tc_rendered *r)
{
    size_t last = 0;
    if (tc_utf8_valid_bytes(r->text, r->bytes) != r->bytes) abort();
    for (size_t i = 0; i < r->data_count; last = r->data[i++].end)
        if (r->data[i].begin < last || r->data[i].end <= r->data[i].begin || r->data[i].end > r->bytes)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const tc_template_limits limits = {100000, 1 << 20, 16 << 20};
    const uint8_t *end = memchr(data, 0, bytes);
    size_t source = end ? (size_t)(end - data) : bytes;
    struct tm now = {.tm_year = 125, .tm_mday = 1};
    tc_template *t = NULL;
    tc_rendered r = {0};
    tc_error e;
    if (tc_template_parse((const char *)data, source, "t", &t, &e) != TC_OK) return 0;
    yyjson_doc *doc =
        end ? yyjson_read((const char *)end + 1, bytes - source - 1, YYJSON_READ_BIGNUM_AS_RAW) : NULL;
    if (!yyjson_is_obj(yyjson_doc_get_root(doc))) {
        yyjson_doc_free(doc);
        doc = yyjson_read(usual, sizeof usual - 1, 0);
    }
    tc_status status = tc_template_render(t, yyjson_doc_get_root(doc), &now, &limits, &r, &e);
    if (status == TC_OK)
        check(&r);
    else if (!r.kind[0] || r.text)
        abort();
    tc_rendered_free(&r);
    tc_template_free(t);
    yyjson_doc_free(doc);
    return 0;
}
