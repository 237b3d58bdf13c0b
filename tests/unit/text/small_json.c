// SPDX-License-Identifier: Apache-2.0
// Owns: the text of the small tokenizer.json. Its 256 first ids are the bytes in order.
#include "tests/unit/text/small_json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const char * or (const char *text, const char *usual)
{
    return text ? text : usual;
}

char *small_json_make(const small_json *p, size_t *ret_bytes)
{
    char *text = NULL;
    int bytes = p->bytes ? p->bytes : 256, other = 0x100;
    FILE *f = open_memstream(&text, ret_bytes);
    assert_non_null(f);
    fprintf(
        f,
        "{\"version\":\"1.0\",%s\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,",
        or (p->top, ""), or (p->normalizer, "{\"type\":\"NFC\"}"),
        or (p->pretokenizer,
            SMALL_SEQUENCE(SMALL_SPLIT(SMALL_QWEN, "Isolated", "false"), SMALL_BYTE_LEVEL("false", "false"))),
        or (p->post_processor, "null"), or (p->decoder, "{\"type\":\"ByteLevel\"}"));
    fprintf(f, "\"added_tokens\":[%s],\"model\":{\"type\":\"BPE\",%s\"vocab\":{", or (p->added, ""),
            or (p->model, ""));
    for (int b = 0; b < 256; b++) {
        int same = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        int c = same ? b : other++;
        if (b < bytes) fprintf(f, "%s\"\\u%04x\":%d", b ? "," : "", c, b);
    }
    fprintf(f, "%s},\"merges\":[%s]}}", or (p->vocab, ""), or (p->merges, ""));
    fclose(f);
    return text;
}

tc_tokenizer *small_json_load(const small_json *parts)
{
    size_t bytes;
    tc_error e = {0};
    tc_tokenizer *t = NULL;
    char *json = small_json_make(parts, &bytes);
    if (tc_tokenizer_parse(json, bytes, "small", &t, &e) != TC_OK) fail_msg("%s", e.text);
    free(json);
    return t;
}
