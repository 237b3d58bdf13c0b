// SPDX-License-Identifier: Apache-2.0
// Owns: tokenizer.json, tokenizer_config.json and the chat template made out of a GGUF file's metadata.
// Byte-level BPE ("gpt2") keeps its merges; SentencePiece's ("llama") has scores only, out of which the
// merges are made the way the converter of `transformers` makes them. Refuses: other kinds of tokenizer, and
// ways of splitting words that our tokenizer does not have, by name.
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/model/gguf_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_NORMAL = 1, KIND_UNKNOWN, KIND_CONTROL, KIND_USER, KIND_UNUSED, KIND_BYTE };
enum { MERGES_MAX = 1 << 22 };

// How words are split, by tokenizer.ggml.pre. The expressions are those of the tokenizers themselves.
#define QWEN2                                                                                                \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "                                    \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"                                                           \
    "\\s+(?!\\S)|\\s+"
#define LLAMA3                                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K                                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                                                                         \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                                                                         \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *name, *expression;   // NULL: the one that is built into ByteLevel
    bool nfc, ignore_merges, begins; // begins: a beginning-of-sequence token unless the file says otherwise
} splits[] = {
    {"qwen2", QWEN2, true, false, false},     {"deepseek-r1-qwen", QWEN2, true, false, false},
    {"llama-bpe", LLAMA3, false, true, true}, {"llama3", LLAMA3, false, true, true},
    {"llama-v3", LLAMA3, false, true, true},  {"gpt-4o", O200K, false, false, false},
    {"llama4", O200K, false, false, false},   {"gpt-2", NULL, false, false, false},
};
enum { SPLITS = sizeof splits / sizeof *splits };

typedef struct token {
    const char *text;
    uint32_t bytes;
    int32_t kind;
} token;

typedef struct maker {
    const char *what;
    const tc_gguf *g;
    token *tokens;
    uint32_t count;
    bool by_chars;
    int split;
    yyjson_mut_doc *doc;
    yyjson_mut_val *root;
    tc_error *e;
} maker;

// ---- reading ----

static tc_status read_tokens(maker *m)
{
    const tc_gguf_value *tokens, *types;
    TC_TRY(tc_gguf_array(m->g, m->what, "tokenizer.ggml.tokens", TC_GGUF_STRING, &tokens, m->e));
    TC_TRY(tc_gguf_array(m->g, m->what, "tokenizer.ggml.token_type", TC_GGUF_I32, &types, m->e));
    if (!tokens) return tc_fail(m->e, TC_NOT_FOUND, "%s: tokenizer.ggml.tokens is missing", m->what);
    if (types && types->count != tokens->count)
        return tc_fail(m->e, TC_FORMAT,
                       "%s: tokenizer.ggml.token_type has %" PRIu64 " items, tokenizer.ggml.tokens %" PRIu64,
                       m->what, types->count, tokens->count);
    m->tokens = calloc(tokens->count + 1, sizeof *m->tokens);
    if (!m->tokens) return tc_fail(m->e, TC_NOMEM, "%s: no memory for its tokens", m->what);
    uint64_t at = tokens->at, bytes;
    for (uint64_t i = 0; i < tokens->count; i++) {
        token *t = &m->tokens[i];
        t->text = tc_gguf_next_string(m->g, &at, &bytes);
        t->bytes = (uint32_t)bytes;
        t->kind = types ? tc_gguf_i32_at(m->g, types, i) : KIND_NORMAL;
        if (t->kind < KIND_NORMAL || t->kind > KIND_BYTE)
            return tc_fail(m->e, TC_FORMAT, "%s: tokenizer.ggml.token_type[%" PRIu64 "] is %d, must be 1..6",
                           m->what, i, t->kind);
    }
    m->count = (uint32_t)tokens->count;
    return TC_OK;
}

static bool same(const char *text, uint64_t bytes, const char *other)
{
    return strlen(other) == bytes && memcmp(text, other, bytes) == 0;
}

static tc_status read_kind(maker *m)
{
    const char *model = NULL, *pre = "";
    uint64_t bytes = 0, pre_bytes = 0;
    TC_TRY(tc_gguf_string(m->g, m->what, "tokenizer.ggml.model", &model, &bytes, m->e));
    if (!model) return tc_fail(m->e, TC_NOT_FOUND, "%s: tokenizer.ggml.model is missing", m->what);
    m->by_chars = same(model, bytes, "llama");
    if (m->by_chars) return TC_OK;
    if (!same(model, bytes, "gpt2"))
        return tc_fail(m->e, TC_UNSUPPORTED,
                       "%s: tokenizer.ggml.model \"%.*s\" is not supported, only: gpt2, llama", m->what,
                       bytes < 32 ? (int)bytes : 32, model);
    TC_TRY(tc_gguf_string(m->g, m->what, "tokenizer.ggml.pre", &pre, &pre_bytes, m->e));
    for (m->split = 0; m->split < SPLITS; m->split++)
        if (same(pre, pre_bytes, splits[m->split].name)) return TC_OK;
    char list[160];
    size_t n = 0;
    for (int i = 0; i < SPLITS && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", splits[i].name);
    return tc_fail(m->e, TC_UNSUPPORTED, "%s: tokenizer.ggml.pre \"%.*s\" is not supported, only: %s",
                   m->what, pre_bytes < 32 ? (int)pre_bytes : 32, pre, list);
}

// Id of a special token; UINT32_MAX where the file names none.
static tc_status special_id(maker *m, const char *name, uint32_t *ret)
{
    char key[64];
    uint64_t id = UINT32_MAX;
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", name);
    *ret = UINT32_MAX;
    if (!tc_gguf_find(m->g, key)) return TC_OK;
    if (m->count == 0) return tc_fail(m->e, TC_FORMAT, "%s: %s, but there are no tokens", m->what, key);
    TC_TRY(tc_gguf_u64(m->g, m->what, key, 0, m->count - 1, &id, m->e));
    *ret = (uint32_t)id;
    return TC_OK;
}

// ---- merges out of scores ----

typedef struct merge {
    uint32_t left, right; // ids
    float score;
    uint32_t left_chars, right_chars, order;
} merge;

static bool in_vocabulary(const token *t)
{
    return t->kind == KIND_NORMAL || t->kind == KIND_UNKNOWN || t->kind == KIND_BYTE ||
           t->kind == KIND_CONTROL;
}

static uint32_t chars_of(const char *text, uint32_t bytes)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < bytes; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static int by_ids(const void *pa, const void *pb)
{
    const merge *a = pa, *b = pb;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return a->right < b->right ? -1 : a->right > b->right;
}

// Highest score first, then longer parts first; else as they came.
static int by_rank(const void *pa, const void *pb)
{
    const merge *a = pa, *b = pb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    if (a->left_chars != b->left_chars) return a->left_chars > b->left_chars ? -1 : 1;
    if (a->right_chars != b->right_chars) return a->right_chars > b->right_chars ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

typedef struct merge_list {
    merge *items;
    uint32_t count, room;
} merge_list;

static tc_status add_merge(maker *m, merge_list *l, const merge *add)
{
    if (l->count == MERGES_MAX)
        return tc_fail(m->e, TC_LIMIT, "%s: tokenizer.ggml.tokens give more than %d merges", m->what,
                       MERGES_MAX);
    if (l->count == l->room) {
        uint32_t room = l->room ? l->room * 2 : 1024;
        merge *items = realloc(l->items, room * sizeof *items);
        if (!items) return tc_fail(m->e, TC_NOMEM, "%s: no memory for its merges", m->what);
        l->items = items;
        l->room = room;
    }
    l->items[l->count++] = *add;
    return TC_OK;
}

// All ways to cut one token into two.
static tc_status cut(maker *m, const tc_names *names, uint32_t id, float score, merge_list *l)
{
    const token *t = &m->tokens[id];
    uint32_t first = l->count, chars = chars_of(t->text, t->bytes), before = 0;
    for (uint32_t at = 1; at < t->bytes; at++) {
        if (((unsigned char)t->text[at] & 0xc0) == 0x80) continue;
        before++;
        uint32_t left = tc_names_find(names, t->text, at),
                 right = tc_names_find(names, t->text + at, t->bytes - at);
        if (left == TC_NAME_NONE || right == TC_NAME_NONE) continue;
        TC_TRY(add_merge(m, l, &(merge){left, right, score, before, chars - before, 0}));
    }
    if (l->count == first) return TC_OK;
    qsort(l->items + first, l->count - first, sizeof *l->items, by_ids);
    for (uint32_t i = first; i < l->count; i++) l->items[i].order = i;
    return TC_OK;
}

static tc_status merges_of_scores(maker *m, merge_list *l, tc_names *names)
{
    const tc_gguf_value *scores;
    TC_TRY(tc_gguf_array(m->g, m->what, "tokenizer.ggml.scores", TC_GGUF_F32, &scores, m->e));
    if (!scores) return tc_fail(m->e, TC_FORMAT, "%s: tokenizer.ggml.scores is missing", m->what);
    if (scores->count != m->count)
        return tc_fail(m->e, TC_FORMAT,
                       "%s: tokenizer.ggml.scores has %" PRIu64 " items, tokenizer.ggml.tokens %u", m->what,
                       scores->count, m->count);
    // Every token gets a name, so that ids of names are those of tokens; the ones that do not count get one
    // that no text has.
    for (uint32_t i = 0; i < m->count; i++) {
        char none[16];
        bool fresh, counts = in_vocabulary(&m->tokens[i]) && m->tokens[i].bytes;
        int n = snprintf(none, sizeof none, "\xff%u", i);
        uint32_t id;
        TC_TRY(tc_names_add(names, counts ? m->tokens[i].text : none, counts ? m->tokens[i].bytes : (size_t)n,
                            &id, &fresh, m->e));
        if (!fresh)
            return tc_fail(m->e, TC_FORMAT, "%s: tokenizer.ggml.tokens[%u]: is there twice", m->what, i);
    }
    for (uint32_t i = 0; i < m->count; i++)
        if (m->tokens[i].kind == KIND_NORMAL) TC_TRY(cut(m, names, i, tc_gguf_f32_at(m->g, scores, i), l));
    if (l->count) qsort(l->items, l->count, sizeof *l->items, by_rank);
    return TC_OK;
}

// ---- writing ----

static yyjson_mut_val *object_of_type(maker *m, const char *type)
{
    yyjson_mut_val *o = yyjson_mut_obj(m->doc);
    yyjson_mut_obj_add_str(m->doc, o, "type", type);
    return o;
}

static yyjson_mut_val *byte_level(maker *m, bool regex)
{
    yyjson_mut_val *o = object_of_type(m, "ByteLevel");
    yyjson_mut_obj_add_bool(m->doc, o, "add_prefix_space", false);
    yyjson_mut_obj_add_bool(m->doc, o, "trim_offsets", false);
    yyjson_mut_obj_add_bool(m->doc, o, "use_regex", regex);
    return o;
}

static void write_byte_settings(maker *m)
{
    const char *expression = splits[m->split].expression;
    yyjson_mut_val *pre;
    if (splits[m->split].nfc) yyjson_mut_obj_add_val(m->doc, m->root, "normalizer", object_of_type(m, "NFC"));
    if (expression) {
        yyjson_mut_val *split = object_of_type(m, "Split"),
                       *pattern = yyjson_mut_obj_add_obj(m->doc, split, "pattern");
        yyjson_mut_obj_add_str(m->doc, pattern, "Regex", expression);
        yyjson_mut_obj_add_str(m->doc, split, "behavior", "Isolated");
        yyjson_mut_obj_add_bool(m->doc, split, "invert", false);
        pre = object_of_type(m, "Sequence");
        yyjson_mut_val *list = yyjson_mut_obj_add_arr(m->doc, pre, "pretokenizers");
        yyjson_mut_arr_append(list, split);
        yyjson_mut_arr_append(list, byte_level(m, false));
    } else {
        pre = byte_level(m, true);
    }
    yyjson_mut_obj_add_val(m->doc, m->root, "pre_tokenizer", pre);
    yyjson_mut_obj_add_val(m->doc, m->root, "decoder", byte_level(m, true));
}

static yyjson_mut_val *replace(maker *m, const char *from, const char *to)
{
    yyjson_mut_val *o = object_of_type(m, "Replace"), *pattern = yyjson_mut_obj_add_obj(m->doc, o, "pattern");
    yyjson_mut_obj_add_str(m->doc, pattern, "String", from);
    yyjson_mut_obj_add_str(m->doc, o, "content", to);
    return o;
}

static tc_status write_char_settings(maker *m)
{
    static const char mark[] = "\xe2\x96\x81"; // U+2581 stands for a blank
    bool prefix = true;
    TC_TRY(tc_gguf_bool(m->g, m->what, "tokenizer.ggml.add_space_prefix", &prefix, m->e));
    yyjson_mut_val *normalizer = object_of_type(m, "Sequence"), *decoder = object_of_type(m, "Sequence");
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(m->doc, normalizer, "normalizers");
    if (prefix) {
        yyjson_mut_val *prepend = object_of_type(m, "Prepend");
        yyjson_mut_obj_add_str(m->doc, prepend, "prepend", mark);
        yyjson_mut_arr_append(list, prepend);
    }
    yyjson_mut_arr_append(list, replace(m, " ", mark));
    list = yyjson_mut_obj_add_arr(m->doc, decoder, "decoders");
    yyjson_mut_arr_append(list, replace(m, mark, " "));
    yyjson_mut_arr_append(list, object_of_type(m, "ByteFallback"));
    yyjson_mut_arr_append(list, object_of_type(m, "Fuse"));
    if (prefix) {
        yyjson_mut_val *strip = object_of_type(m, "Strip");
        yyjson_mut_obj_add_str(m->doc, strip, "content", " ");
        yyjson_mut_obj_add_int(m->doc, strip, "start", 1);
        yyjson_mut_obj_add_int(m->doc, strip, "stop", 0);
        yyjson_mut_arr_append(list, strip);
    }
    yyjson_mut_obj_add_val(m->doc, m->root, "normalizer", normalizer);
    yyjson_mut_obj_add_null(m->doc, m->root, "pre_tokenizer");
    yyjson_mut_obj_add_val(m->doc, m->root, "decoder", decoder);
    return TC_OK;
}

static yyjson_mut_val *text_of(maker *m, const char *text, uint64_t bytes)
{
    return yyjson_mut_strn(m->doc, text, bytes); // lies in the header, which outlives the document
}

static void write_added(maker *m)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(m->doc, m->root, "added_tokens");
    for (uint32_t i = 0; i < m->count; i++) {
        const token *t = &m->tokens[i];
        bool special = t->kind == KIND_CONTROL || t->kind == KIND_UNKNOWN;
        if ((!special && t->kind != KIND_USER) || !t->bytes) continue;
        yyjson_mut_val *o = yyjson_mut_arr_add_obj(m->doc, list);
        yyjson_mut_obj_add_uint(m->doc, o, "id", i);
        yyjson_mut_obj_add_val(m->doc, o, "content", text_of(m, t->text, t->bytes));
        yyjson_mut_obj_add_bool(m->doc, o, "single_word", false);
        yyjson_mut_obj_add_bool(m->doc, o, "lstrip", false);
        yyjson_mut_obj_add_bool(m->doc, o, "rstrip", false);
        yyjson_mut_obj_add_bool(m->doc, o, "normalized", false);
        yyjson_mut_obj_add_bool(m->doc, o, "special", special);
    }
}

static tc_status write_given_merges(maker *m, yyjson_mut_val *list)
{
    const tc_gguf_value *merges;
    TC_TRY(tc_gguf_array(m->g, m->what, "tokenizer.ggml.merges", TC_GGUF_STRING, &merges, m->e));
    if (!merges) return tc_fail(m->e, TC_FORMAT, "%s: tokenizer.ggml.merges is missing", m->what);
    uint64_t at = merges->at, bytes;
    for (uint64_t i = 0; i < merges->count; i++) {
        const char *text = tc_gguf_next_string(m->g, &at, &bytes);
        yyjson_mut_arr_append(list, text_of(m, text, bytes));
    }
    return TC_OK;
}

static tc_status write_made_merges(maker *m, yyjson_mut_val *list)
{
    merge_list merges = {0};
    tc_names names = {0};
    tc_status status;
    TC_GOTO(merges_of_scores(m, &merges, &names));
    for (uint32_t i = 0; i < merges.count; i++) {
        const token *left = &m->tokens[merges.items[i].left], *right = &m->tokens[merges.items[i].right];
        yyjson_mut_val *pair = yyjson_mut_arr_add_arr(m->doc, list);
        yyjson_mut_arr_append(pair, text_of(m, left->text, left->bytes));
        yyjson_mut_arr_append(pair, text_of(m, right->text, right->bytes));
    }
out:
    tc_names_free(&names);
    free(merges.items);
    return status;
}

static tc_status write_model(maker *m)
{
    yyjson_mut_val *model = yyjson_mut_obj_add_obj(m->doc, m->root, "model");
    yyjson_mut_obj_add_str(m->doc, model, "type", "BPE");
    yyjson_mut_obj_add_null(m->doc, model, "dropout");
    uint32_t unknown;
    TC_TRY(special_id(m, "unknown", &unknown));
    if (m->by_chars && unknown != UINT32_MAX)
        yyjson_mut_obj_add_val(m->doc, model, "unk_token",
                               text_of(m, m->tokens[unknown].text, m->tokens[unknown].bytes));
    yyjson_mut_obj_add_bool(m->doc, model, "fuse_unk", m->by_chars);
    yyjson_mut_obj_add_bool(m->doc, model, "byte_fallback", m->by_chars);
    yyjson_mut_obj_add_bool(m->doc, model, "ignore_merges", !m->by_chars && splits[m->split].ignore_merges);
    yyjson_mut_val *vocab = yyjson_mut_obj_add_obj(m->doc, model, "vocab");
    for (uint32_t i = 0; i < m->count; i++) {
        const token *t = &m->tokens[i];
        bool in = m->by_chars ? in_vocabulary(t) : t->kind == KIND_NORMAL || t->kind == KIND_BYTE;
        if (in) yyjson_mut_obj_add(vocab, text_of(m, t->text, t->bytes), yyjson_mut_uint(m->doc, i));
    }
    yyjson_mut_val *merges = yyjson_mut_obj_add_arr(m->doc, model, "merges");
    return m->by_chars ? write_made_merges(m, merges) : write_given_merges(m, merges);
}

// The beginning of a sequence, where one is to be added.
static tc_status write_prefix(maker *m)
{
    bool add = m->by_chars || splits[m->split].begins;
    uint32_t bos;
    TC_TRY(special_id(m, "bos", &bos));
    TC_TRY(tc_gguf_bool(m->g, m->what, "tokenizer.ggml.add_bos_token", &add, m->e));
    if (!add || bos == UINT32_MAX) return TC_OK;
    const token *t = &m->tokens[bos];
    yyjson_mut_val *post = object_of_type(m, "TemplateProcessing"),
                   *single = yyjson_mut_obj_add_arr(m->doc, post, "single"),
                   *specials = yyjson_mut_obj_add_obj(m->doc, post, "special_tokens"),
                   *entry = yyjson_mut_obj(m->doc);
    yyjson_mut_val *begin =
        yyjson_mut_obj_add_obj(m->doc, yyjson_mut_arr_add_obj(m->doc, single), "SpecialToken");
    yyjson_mut_obj_add_val(m->doc, begin, "id", text_of(m, t->text, t->bytes));
    yyjson_mut_val *sequence =
        yyjson_mut_obj_add_obj(m->doc, yyjson_mut_arr_add_obj(m->doc, single), "Sequence");
    yyjson_mut_obj_add_str(m->doc, sequence, "id", "A");
    yyjson_mut_arr_add_uint(m->doc, yyjson_mut_obj_add_arr(m->doc, entry, "ids"), bos);
    yyjson_mut_obj_add(specials, text_of(m, t->text, t->bytes), entry);
    yyjson_mut_obj_add_val(m->doc, m->root, "post_processor", post);
    return TC_OK;
}

static tc_status fill(maker *m)
{
    TC_TRY(read_kind(m));
    TC_TRY(read_tokens(m));
    write_added(m);
    if (m->by_chars)
        TC_TRY(write_char_settings(m));
    else
        write_byte_settings(m);
    TC_TRY(write_prefix(m));
    return write_model(m);
}

// ---- the files ----

typedef tc_status fill_fn(maker *m);

static tc_status make(const char *what, const tc_gguf *g, fill_fn *fill_it, char **ret, size_t *ret_bytes,
                      tc_error *e)
{
    maker m = {.what = what, .g = g, .e = e};
    yyjson_write_err problem = {0};
    tc_status status = TC_OK;
    m.doc = yyjson_mut_doc_new(NULL);
    m.root = m.doc ? yyjson_mut_obj(m.doc) : NULL;
    if (!m.root) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for its tokenizer", what));
    yyjson_mut_doc_set_root(m.doc, m.root);
    TC_GOTO(fill_it(&m));
    *ret = yyjson_mut_write_opts(m.doc, YYJSON_WRITE_NOFLAG, NULL, ret_bytes, &problem);
    if (!*ret)
        TC_GOTO(problem.code == YYJSON_WRITE_ERROR_INVALID_STRING
                    ? tc_fail(e, TC_FORMAT, "%s: tokenizer.*: a text is not UTF-8", what)
                    : tc_fail(e, TC_NOMEM, "%s: no memory for its tokenizer", what));
out:
    yyjson_mut_doc_free(m.doc);
    free(m.tokens);
    return status;
}

tc_status tc_gguf_tokenizer(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes, tc_error *e)
{
    return make(what, g, fill, ret, ret_bytes, e);
}

static tc_status fill_config(maker *m)
{
    static const char *const names[][2] = {{"bos", "bos_token"},
                                           {"eos", "eos_token"},
                                           {"unknown", "unk_token"},
                                           {"seperator", "sep_token"},
                                           {"padding", "pad_token"}}; // spelt as in the files
    const char *tools = NULL, *usual = NULL;
    uint64_t tools_bytes = 0, bytes = 0;
    TC_TRY(read_tokens(m));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint32_t id;
        TC_TRY(special_id(m, names[i][0], &id));
        if (id != UINT32_MAX)
            yyjson_mut_obj_add_val(m->doc, m->root, names[i][1],
                                   text_of(m, m->tokens[id].text, m->tokens[id].bytes));
    }
    TC_TRY(tc_gguf_string(m->g, m->what, "tokenizer.chat_template.tool_use", &tools, &tools_bytes, m->e));
    TC_TRY(tc_gguf_string(m->g, m->what, "tokenizer.chat_template", &usual, &bytes, m->e));
    if (!tools || !usual) return TC_OK; // one alone is tc_gguf_chat_template's
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(m->doc, m->root, "chat_template");
    for (int i = 0; i < 2; i++) {
        yyjson_mut_val *o = yyjson_mut_arr_add_obj(m->doc, list);
        yyjson_mut_obj_add_str(m->doc, o, "name", i ? "tool_use" : "default");
        yyjson_mut_obj_add_val(m->doc, o, "template",
                               i ? text_of(m, tools, tools_bytes) : text_of(m, usual, bytes));
    }
    return TC_OK;
}

tc_status tc_gguf_tokenizer_config(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes,
                                   tc_error *e)
{
    return make(what, g, fill_config, ret, ret_bytes, e);
}

tc_status tc_gguf_chat_template(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes,
                                tc_error *e)
{
    const char *text = NULL;
    uint64_t bytes = 0;
    TC_TRY(tc_gguf_string(g, what, "tokenizer.chat_template", &text, &bytes, e));
    if (!text || tc_gguf_find(g, "tokenizer.chat_template.tool_use"))
        return tc_fail(e, TC_NOT_FOUND, "%s: no tokenizer.chat_template of its own", what);
    char *copy = malloc(bytes + 1);
    if (!copy) return tc_fail(e, TC_NOMEM, "%s: no memory for its chat template", what);
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    *ret = copy;
    *ret_bytes = bytes;
    return TC_OK;
}
