// SPDX-License-Identifier: Apache-2.0
// Owns: GGUF headers that lie: each field out of range is refused by its name, each limit holds at N and not
// at N + 1; and what a good header says.
#include "common/model/gguf_blocks.h"
#include "common/model/gguf_model.h"
#include "tests/unit/model/support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A header under construction. Numbers are little-endian.
typedef struct bytes {
    uint8_t *data;
    size_t count, room;
} bytes;

static void put(bytes *b, const void *data, size_t count)
{
    if (b->count + count > b->room) {
        b->room = (b->count + count) * 2;
        b->data = realloc(b->data, b->room);
        assert_non_null(b->data);
    }
    memcpy(b->data + b->count, data, count);
    b->count += count;
}

static void put_number(bytes *b, uint64_t value, size_t count)
{
    put(b, &value, count);
}

static void put_string(bytes *b, const char *text)
{
    put_number(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static void begin(bytes *b, uint64_t tensors, uint64_t keys)
{
    *b = (bytes){0};
    put(b, "GGUF", 4);
    put_number(b, 3, 4);
    put_number(b, tensors, 8);
    put_number(b, keys, 8);
}

static void put_key(bytes *b, const char *key, uint32_t type)
{
    put_string(b, key);
    put_number(b, type, 4);
}

static void put_tensor(bytes *b, const char *name, uint32_t dims, const uint64_t *sizes, uint32_t type,
                       uint64_t offset)
{
    put_string(b, name);
    put_number(b, dims, 4);
    for (uint32_t i = 0; i < dims; i++) put_number(b, sizes[i], 8);
    put_number(b, type, 4);
    put_number(b, offset, 8);
}

// Parses and frees; data_bytes: what the file is said to have behind the header. The text of a failure is in
// *e.
static tc_status parse(bytes *b, uint64_t data_bytes, tc_error *e)
{
    tc_gguf g = {0};
    tc_tensor_table table = {0};
    tc_status status =
        tc_gguf_parse("f.gguf", b->data, b->count, ((b->count + 31) & ~31ull) + data_bytes, 0, &g, &table, e);
    tc_gguf_free(&g);
    tc_tensor_table_free(&table);
    free(b->data);
    return status;
}

static void test_start(void **state)
{
    (void)state;
    tc_error e;
    bytes b;
    begin(&b, 0, 0);
    assert_int_equal(parse(&b, 0, &e), TC_OK);
    begin(&b, 0, 0);
    b.data[0] = 'X';
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "f.gguf", "magic");
    static const struct {
        uint8_t version[4];
        tc_status status;
        const char *text;
    } versions[] = {{{1, 0, 0, 0}, TC_UNSUPPORTED, "only: 2, 3"},
                    {{2, 0, 0, 0}, TC_OK, ""},
                    {{4, 0, 0, 0}, TC_UNSUPPORTED, "4"},
                    {{0, 0, 0, 3}, TC_UNSUPPORTED, "big-endian"}};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        begin(&b, 0, 0);
        memcpy(b.data + 4, versions[i].version, 4);
        assert_int_equal(parse(&b, 0, &e), versions[i].status);
        if (versions[i].status != TC_OK) expect_error(&e, "version", versions[i].text);
    }
    for (size_t cut = 0; cut < 24; cut++) { // shorter than its fixed part
        begin(&b, 0, 0);
        b.count = cut;
        tc_gguf g = {0};
        tc_tensor_table table = {0};
        assert_int_equal(tc_gguf_parse("f.gguf", b.data, cut, cut, 0, &g, &table, &e), TC_FORMAT);
        free(b.data);
    }
}

static void test_counts(void **state)
{
    (void)state;
    tc_error e;
    bytes b;
    begin(&b, TC_GGUF_TENSORS_MAX + 1ull, 0);
    assert_int_equal(parse(&b, 0, &e), TC_LIMIT);
    expect_error(&e, "tensor_count", "65537");
    begin(&b, UINT64_MAX, 0);
    assert_int_equal(parse(&b, 0, &e), TC_LIMIT);
    begin(&b, TC_GGUF_TENSORS_MAX, 0); // taken, but then they are not there
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "tensor 0's name");
    begin(&b, 0, TC_GGUF_KEYS_MAX + 1ull);
    assert_int_equal(parse(&b, 0, &e), TC_LIMIT);
    expect_error(&e, "metadata_kv_count", "4097");
    begin(&b, 0, TC_GGUF_KEYS_MAX);
    for (int i = 0; i < TC_GGUF_KEYS_MAX; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        put_key(&b, key, TC_GGUF_U8);
        put_number(&b, 0, 1);
    }
    assert_int_equal(parse(&b, 0, &e), TC_OK);
    begin(&b, TC_GGUF_TENSORS_MAX, 0);
    for (int i = 0; i < TC_GGUF_TENSORS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        put_tensor(&b, name, 1, (uint64_t[]){8}, TC_BLOCK_F32, (uint64_t)i * 32);
    }
    assert_int_equal(parse(&b, TC_GGUF_TENSORS_MAX * 32ull, &e), TC_OK);
}

static void test_texts(void **state)
{
    (void)state;
    tc_error e;
    bytes b;
    static char long_text[TC_GGUF_STRING_BYTES_MAX + 2];
    for (int over = 0; over < 2; over++) {
        memset(long_text, 'k', sizeof long_text);
        long_text[TC_GGUF_KEY_BYTES_MAX + over] = 0;
        begin(&b, 0, 1);
        put_key(&b, long_text, TC_GGUF_U8);
        put_number(&b, 0, 1);
        assert_int_equal(parse(&b, 0, &e), over ? TC_LIMIT : TC_OK);
        if (over) expect_error(&e, "key 0", "256");
        long_text[TC_GGUF_KEY_BYTES_MAX + over] = 'k';
        long_text[TC_GGUF_NAME_BYTES_MAX + over] = 0;
        begin(&b, 1, 0);
        put_tensor(&b, long_text, 1, (uint64_t[]){8}, TC_BLOCK_F32, 0);
        assert_int_equal(parse(&b, 32, &e), over ? TC_LIMIT : TC_OK);
        if (over) expect_error(&e, "tensor 0's name", "128");
        long_text[TC_GGUF_NAME_BYTES_MAX + over] = 'k';
        long_text[TC_GGUF_STRING_BYTES_MAX + over] = 0;
        begin(&b, 0, 1);
        put_key(&b, "a.text", TC_GGUF_STRING);
        put_string(&b, long_text);
        assert_int_equal(parse(&b, 0, &e), over ? TC_LIMIT : TC_OK);
        if (over) expect_error(&e, "a.text", "4194305");
        long_text[TC_GGUF_STRING_BYTES_MAX + over] = 'k';
    }
    static const uint64_t lengths[] = {5, 1ull << 32, UINT64_MAX, 1ull << 63}; // none of them is there
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        begin(&b, 0, 1);
        put_key(&b, "a.text", TC_GGUF_STRING);
        put_number(&b, lengths[i], 8);
        put(&b, "1234", 4);
        assert_int_not_equal(parse(&b, 0, &e), TC_OK);
        expect_error(&e, "f.gguf", "a.text");
    }
    begin(&b, 0, 1);
    put_key(&b, "", TC_GGUF_U8);
    put_number(&b, 0, 1);
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "key 0", "empty");
    begin(&b, 0, 1);
    put_key(&b, "a\nb", TC_GGUF_U8);
    put_number(&b, 0, 1);
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "key 0", "control");
    begin(&b, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(&b, "same", TC_GGUF_U8);
        put_number(&b, 0, 1);
    }
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "same", "twice");
}

static void test_values(void **state)
{
    (void)state;
    tc_error e;
    bytes b;
    begin(&b, 0, 1);
    put_key(&b, "a.key", TC_GGUF_TYPES);
    put_number(&b, 0, 8);
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "a.key", "type 13");
    begin(&b, 0, 1);
    put_key(&b, "a.flag", TC_GGUF_BOOL);
    put_number(&b, 2, 1);
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "a.flag", "boolean");
    begin(&b, 0, 1);
    put_key(&b, "a.list", TC_GGUF_ARRAY);
    put_number(&b, TC_GGUF_ARRAY, 4);
    put_number(&b, 0, 8);
    assert_int_equal(parse(&b, 0, &e), TC_UNSUPPORTED);
    expect_error(&e, "a.list", "array of arrays");
    begin(&b, 0, 1);
    put_key(&b, "a.list", TC_GGUF_ARRAY);
    put_number(&b, 77, 4);
    put_number(&b, 0, 8);
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "a.list", "77");
    for (int over = 0; over < 2; over++) {
        begin(&b, 0, 1);
        put_key(&b, "a.list", TC_GGUF_ARRAY);
        put_number(&b, TC_GGUF_U8, 4);
        put_number(&b, TC_GGUF_ARRAY_ITEMS_MAX + (uint64_t)over, 8);
        uint8_t *zeros = calloc(TC_GGUF_ARRAY_ITEMS_MAX + 1, 1);
        put(&b, zeros, TC_GGUF_ARRAY_ITEMS_MAX + (size_t)over);
        free(zeros);
        assert_int_equal(parse(&b, 0, &e), over ? TC_LIMIT : TC_OK);
        if (over) expect_error(&e, "a.list", "4194305");
    }
    begin(&b, 0, 1);
    put_key(&b, "a.list", TC_GGUF_ARRAY); // of numbers that are not there
    put_number(&b, TC_GGUF_U64, 4);
    put_number(&b, 1000, 8);
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "a.list", "8000");
}

// All of the header counts, and it is counted before memory is taken.
static void test_header_size(void **state)
{
    (void)state;
    tc_error e;
    enum { FIXED = 24, BEFORE = 8 + 5 + 4 + 4 + 8, LIST = 4 << 20 };
    uint8_t *zeros = calloc(8, LIST);
    assert_non_null(zeros);
    for (int over = 0; over < 2; over++) {
        bytes b;
        size_t left = TC_GGUF_HEADER_BYTES_MAX - FIXED + (size_t)over;
        begin(&b, 0, 3);
        for (int i = 0; i < 3; i++) {
            char key[8];
            size_t items = (left - BEFORE) / 8 < LIST ? (left - BEFORE) / 8 : LIST;
            bool by_bytes = i == 2; // the last one takes what is left to the byte
            snprintf(key, sizeof key, "list%d", i);
            put_key(&b, key, TC_GGUF_ARRAY);
            if (by_bytes) items = left - BEFORE;
            if (i == 1) items -= 1000;
            put_number(&b, by_bytes ? TC_GGUF_U8 : TC_GGUF_U64, 4);
            put_number(&b, items, 8);
            put(&b, zeros, items * (by_bytes ? 1 : 8));
            left -= BEFORE + items * (by_bytes ? 1 : 8);
        }
        assert_int_equal(left, 0);
        assert_int_equal(parse(&b, 0, &e), over ? TC_LIMIT : TC_OK);
        if (over) expect_error(&e, "list2", "67108864");
    }
    free(zeros);
}

static void test_alignment(void **state)
{
    (void)state;
    tc_error e;
    static const struct {
        uint64_t value;
        bool fine;
    } cases[] = {{0, false}, {4, false},      {8, true},        {12, false},        {33, false},
                 {64, true}, {1 << 20, true}, {1 << 21, false}, {UINT32_MAX, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bytes b;
        begin(&b, 0, 1);
        put_key(&b, "general.alignment", TC_GGUF_U32);
        put_number(&b, cases[i].value, 4);
        assert_int_equal(parse(&b, 1 << 20, &e), cases[i].fine ? TC_OK : TC_FORMAT);
        if (!cases[i].fine) expect_error(&e, "general.alignment");
    }
    bytes b;
    begin(&b, 0, 1);
    put_key(&b, "general.alignment", TC_GGUF_STRING);
    put_string(&b, "32");
    assert_int_equal(parse(&b, 0, &e), TC_FORMAT);
    expect_error(&e, "general.alignment", "text");
}

static void test_tensors(void **state)
{
    (void)state;
    tc_error e;
    static const struct {
        uint32_t dims;
        uint64_t sizes[5];
        uint32_t type;
        uint64_t offset, data_bytes;
        tc_status status;
        const char *text;
    } cases[] = {
        {1, {8}, TC_BLOCK_F32, 0, 32, TC_OK, ""},
        {4, {8, 1, 1, 1}, TC_BLOCK_F32, 0, 32, TC_OK, ""},
        {0, {0}, TC_BLOCK_F32, 0, 32, TC_FORMAT, "no dimensions"},
        {5, {8, 1, 1, 1, 1}, TC_BLOCK_F32, 0, 32, TC_LIMIT, "5 dimensions"},
        {1, {0}, TC_BLOCK_F32, 0, 32, TC_FORMAT, "size 0 is 0"},
        {2, {1ull << 33, 1ull << 33}, TC_BLOCK_F32, 0, 32, TC_FORMAT, "size 1"},
        {1, {1ull << 63}, TC_BLOCK_F32, 0, 32, TC_FORMAT, "size 0"},
        {1, {1ull << 62}, TC_BLOCK_F32, 0, 32, TC_FORMAT, "overflows"},
        {1, {1ull << 60}, TC_BLOCK_F16, 0, 32, TC_FORMAT, "tensors need"},
        {1, {8}, TC_BLOCK_F32, 0, 31, TC_FORMAT, "tensors need 32 bytes"},
        {1, {8}, TC_BLOCK_F32, 32, 64, TC_FORMAT, "offset is 32, must be 0"},
        {1, {8}, TC_BLOCK_F32, UINT64_MAX - 31, 64, TC_FORMAT, "offset"},
        {1, {8}, TC_BLOCK_F32, 1, 64, TC_FORMAT, "offset is 1"},
        {1, {8}, 4, 0, 32, TC_FORMAT, "type 4 is unknown"},
        {1, {8}, 43, 0, 32, TC_FORMAT, "type 43 is unknown"},
        {1, {8}, UINT32_MAX, 0, 32, TC_FORMAT, "unknown"},
        {1, {256}, 16, 0, 256, TC_UNSUPPORTED, "type IQ2_XXS is not supported, only: F32, F16"},
        {1, {255}, TC_BLOCK_Q4_K, 0, 256, TC_FORMAT, "not whole blocks of Q4_K (256)"},
        {2, {256, 3}, TC_BLOCK_Q4_K, 0, 432, TC_OK, ""},
        {2, {256, 3}, TC_BLOCK_Q4_K, 0, 431, TC_FORMAT, "tensors need 432 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bytes b;
        begin(&b, 1, 0);
        put_tensor(&b, "blk.0.w", cases[i].dims, cases[i].sizes, cases[i].type, cases[i].offset);
        tc_status status = parse(&b, cases[i].data_bytes, &e);
        if (status != cases[i].status) fail_msg("case %zu: %s", i, status ? e.text : "taken");
        if (status != TC_OK) expect_error(&e, "f.gguf", cases[i].text);
    }
    bytes b;
    begin(&b, 2, 0); // the second where the first still is
    put_tensor(&b, "a", 1, (uint64_t[]){16}, TC_BLOCK_F32, 0);
    put_tensor(&b, "b", 1, (uint64_t[]){8}, TC_BLOCK_F32, 32);
    assert_int_equal(parse(&b, 128, &e), TC_FORMAT);
    expect_error(&e, "tensor b", "offset is 32, must be 64");
    begin(&b, 2, 0);
    put_tensor(&b, "a", 1, (uint64_t[]){8}, TC_BLOCK_F32, 0);
    put_tensor(&b, "a", 1, (uint64_t[]){8}, TC_BLOCK_F32, 32);
    assert_int_equal(parse(&b, 128, &e), TC_FORMAT);
    expect_error(&e, "tensor a", "twice");
}

// ---- models ----

static void put_file_of(const scratch *s, const char *name, bytes *b)
{
    put_file(s, name, b->data, b->count);
    free(b->data);
}

static void put_u32(bytes *b, const char *key, uint32_t value)
{
    put_key(b, key, TC_GGUF_U32);
    put_number(b, value, 4);
}

static tc_status describe(const scratch *s, const char *name, tc_model_desc *d, tc_error *e)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", s->path, name);
    return tc_model_desc_load(path, d, e);
}

// What a family refuses is told with the key it came from; what no family is, with those there are.
static void test_configuration(void **state)
{
    (void)state;
    static const struct {
        const char *architecture, *key;
        uint32_t value;
        tc_status status;
        const char *text;
    } cases[] = {
        {"qwen3moe", "unused", 1, TC_OK, ""},
        {"nonsense", "unused", 1, TC_UNSUPPORTED,
         "general.architecture \"nonsense\" is not supported, only: qwen3moe"},
        {"qwen3moe", "qwen3moe.block_count", 0, TC_FORMAT, "qwen3moe.block_count"},
        {"qwen3moe", "qwen3moe.block_count", 257, TC_FORMAT, "block_count"},
        {"qwen3moe", "qwen3moe.expert_used_count", 65, TC_FORMAT, "expert_used_count"},
        {"qwen3moe", "qwen3moe.expert_count", 4097, TC_FORMAT, "expert_count"},
        {"qwen3moe", "qwen3moe.attention.head_count", 513, TC_FORMAT, "attention.head_count"},
        {"qwen3moe", "qwen3moe.embedding_length", 16385, TC_FORMAT, "embedding_length"},
        {"qwen3moe", "qwen3moe.nextn_predict_layers", 1, TC_FORMAT, "nextn_predict_layers"},
        {"qwen3moe", "qwen3moe.expert_gating_func", 2, TC_UNSUPPORTED, "expert_gating_func"},
        {"qwen3moe", "qwen3moe.attention.value_length", 17, TC_UNSUPPORTED, "attention.value_length"},
    };
    scratch s;
    scratch_make(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const struct {
            const char *key;
            uint32_t value;
        } usual[] = {{"qwen3moe.block_count", 1},           {"qwen3moe.embedding_length", 64},
                     {"qwen3moe.attention.head_count", 2},  {"qwen3moe.attention.head_count_kv", 2},
                     {"qwen3moe.attention.key_length", 16}, {"qwen3moe.expert_count", 4},
                     {"qwen3moe.expert_used_count", 2},     {"qwen3moe.expert_feed_forward_length", 64}};
        enum { USUAL = sizeof usual / sizeof *usual };
        bytes b;
        tc_model_desc d;
        tc_error e;
        uint32_t replaced = 0;
        for (size_t k = 0; k < USUAL; k++) replaced += strcmp(usual[k].key, cases[i].key) == 0;
        begin(&b, 2, 2 + USUAL - replaced);
        put_key(&b, "general.architecture", TC_GGUF_STRING);
        put_string(&b, cases[i].architecture);
        put_u32(&b, cases[i].key, cases[i].value);
        for (size_t k = 0; k < USUAL; k++)
            if (strcmp(usual[k].key, cases[i].key) != 0) put_u32(&b, usual[k].key, usual[k].value);
        put_tensor(&b, "token_embd.weight", 2, (uint64_t[]){64, 32}, TC_BLOCK_F16, 0);
        put_tensor(&b, "blk.0.ffn_gate_inp.weight", 2, (uint64_t[]){64, 4}, TC_BLOCK_F16, 4096);
        uint8_t data[8192] = {0};
        put(&b, data, sizeof data);
        put_file_of(&s, "m.gguf", &b);
        tc_status status = describe(&s, "m.gguf", &d, &e);
        if (status != cases[i].status) fail_msg("case %zu: %s", i, status ? e.text : "taken");
        if (status != TC_OK) expect_error(&e, "m.gguf", cases[i].text);
        if (status == TC_OK) {
            assert_int_equal(d.vocab, 32);
            assert_true(d.tied_embeddings && d.layer[0].moe && d.norm_top_k);
        }
    }
    scratch_remove(&s);
}

// Folders: one GGUF file is a model, several must be named, parts count as one.
static void test_folders(void **state)
{
    (void)state;
    scratch s;
    char path[TC_MODEL_PATH_BYTES];
    tc_error e;
    scratch_make(&s);
    assert_int_equal(tc_model_gguf(s.path, path, &e), TC_OK);
    assert_string_equal(path, "");
    put_text(&s, "m-00001-of-00002.gguf", "");
    put_text(&s, "m-00002-of-00002.gguf", "");
    assert_int_equal(tc_model_gguf(s.path, path, &e), TC_OK);
    assert_non_null(strstr(path, "/m-00001-of-00002.gguf"));
    put_text(&s, "n.gguf", "");
    assert_int_equal(tc_model_gguf(s.path, path, &e), TC_ARGUMENT);
    expect_error(&e, "several", "n.gguf");
    put_text(&s, "config.json", "{}");
    assert_int_equal(tc_model_gguf(s.path, path, &e), TC_OK);
    assert_string_equal(path, "");
    snprintf(path, sizeof path, "%s/config.json", s.path);
    char found[TC_MODEL_PATH_BYTES];
    assert_int_equal(tc_model_gguf(path, found, &e), TC_FORMAT);
    assert_int_equal(tc_model_gguf("/nonexistent.gguf", found, &e), TC_NOT_FOUND);
    scratch_remove(&s);
}

// A part that is missing, is of another set, or does not count what it should.
static void test_parts(void **state)
{
    (void)state;
    static const struct {
        uint32_t no, count, tensors;
        const char *text;
    } seconds[] = {
        {1, 2, 2, NULL}, {0, 2, 2, "split.no"}, {1, 3, 2, "split.count"}, {1, 2, 3, "split.tensors.count"}};
    for (size_t i = 0; i <= sizeof seconds / sizeof *seconds; i++) {
        bool missing = i == sizeof seconds / sizeof *seconds;
        scratch s;
        char path[300];
        tc_error e = {0};
        tc_gguf g = {0};
        scratch_make(&s);
        for (uint32_t part = 0; part < 2; part++) {
            bytes b;
            uint8_t data[96] = {0};
            if (part && missing) continue;
            begin(&b, 1, 3);
            put_u32(&b, "split.no", part ? seconds[i].no : 0);
            put_u32(&b, "split.count", part ? seconds[i].count : 2);
            put_u32(&b, "split.tensors.count", missing ? 2 : seconds[i].tensors);
            put_tensor(&b, part ? "b" : "a", 1, (uint64_t[]){8}, TC_BLOCK_F32, 0);
            put(&b, data, sizeof data);
            put_file_of(&s, part ? "m-00002-of-00002.gguf" : "m-00001-of-00002.gguf", &b);
        }
        snprintf(path, sizeof path, "%s/m-00001-of-00002.gguf", s.path);
        tc_checkpoint *c = calloc(1, sizeof *c);
        assert_non_null(c);
        c->dir_fd = -1;
        tc_status status = tc_gguf_open(c, path, &g, &e);
        bool fine = !missing && !seconds[i].text;
        if ((status == TC_OK) != fine) fail_msg("case %zu: %s", i, e.text);
        if (!fine) expect_error(&e, missing ? "m-00002-of-00002.gguf" : seconds[i].text);
        tc_gguf_free(&g);
        tc_checkpoint_free(c);
        scratch_remove(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),       cmocka_unit_test(test_counts),
        cmocka_unit_test(test_texts),       cmocka_unit_test(test_values),
        cmocka_unit_test(test_header_size), cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_tensors),     cmocka_unit_test(test_configuration),
        cmocka_unit_test(test_folders),     cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
