// SPDX-License-Identifier: Apache-2.0
// Owns: building a tokenizer from tokenizer.json: vocabulary, merges, added tokens. The file is untrusted:
// every id is bounded, names and ids are unique, and a merge names three tokens that exist. JSON is read
// without recursion. Refuses: a vocabulary without a token for each of the 256 bytes, and a special token
// that is a single byte (plain text could then not be written without it).
#include "common/base/mem.h"
#include "common/text/internal.h"
#include "common/text/nfc.h"
#include "common/text/unicode.h"
#include "common/text/utf8.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <yyjson.h>

// Names of the vocabulary, as written in the file, to ids.
typedef struct name_table {
    struct name {
        const char *text;
        uint32_t bytes, id;
    } * places;
    size_t mask;
    uint64_t seed;
} name_table;

static struct name *name_place(const name_table *table, const char *text, size_t bytes)
{
    for (size_t at = XXH3_64bits_withSeed(text, bytes, table->seed) & table->mask;;
         at = (at + 1) & table->mask) {
        struct name *n = &table->places[at];
        if (!n->text || (n->bytes == bytes && !memcmp(n->text, text, bytes))) return n;
    }
}

// The byte that a character of the byte-level alphabet stands for, -1 for other characters. Printable Latin-1
// stands for itself; the 68 others follow in order from U+0100.
static int byte_of(uint32_t c)
{
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff)) return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    c -= 0x100; // 0x00-0x20, then 0x7f-0xa0, then 0xad
    return c <= 0x20 ? (int)c : c <= 0x42 ? (int)(c - 0x21 + 0x7f) : 0xad;
}

// Bytes that a token decodes to. *ret_mapped: the name is written in the byte-level alphabet throughout;
// otherwise it stands for its own UTF-8. `out` has room for `bytes`.
static size_t decode_name(const char *name, size_t bytes, uint8_t *out, bool *ret_mapped)
{
    size_t count = 0;
    for (size_t at = 0, step; at < bytes; at += step) {
        int byte = byte_of(tc_utf8_get((const uint8_t *)name + at, &step));
        if (byte < 0) {
            memcpy(out, name, bytes);
            *ret_mapped = false;
            return bytes;
        }
        out[count++] = (uint8_t)byte;
    }
    *ret_mapped = true;
    return count;
}

static bool read_id(yyjson_val *v, uint32_t *ret)
{
    if (!yyjson_is_uint(v) || yyjson_get_uint(v) > TC_ID_MAX) return false;
    *ret = (uint32_t)yyjson_get_uint(v);
    return true;
}

static tc_status bad_id(const char *name, size_t bytes, tc_error *e)
{
    return tc_fail(e, TC_FORMAT, "id of \"%.*s\": not an integer from 0 to %d", TC_SHOW(bytes), name,
                   TC_ID_MAX);
}

typedef struct loader {
    tc_tokenizer *t;
    yyjson_val *vocab, *merges, *added;
    name_table names;
    size_t blob_used;
    tc_error *e;
} loader;

// First pass: highest id and the room that all names need.
static tc_status measure(loader *l)
{
    size_t index, count, room = 1;
    uint32_t id, highest = 0;
    yyjson_val *key, *value;
    yyjson_obj_foreach(l->vocab, index, count, key, value)
    {
        if (!read_id(value, &id)) return bad_id(yyjson_get_str(key), yyjson_get_len(key), l->e);
        if (id > highest) highest = id;
        room += yyjson_get_len(key);
    }
    yyjson_arr_foreach(l->added, index, count, value)
    {
        yyjson_val *content = yyjson_obj_get(value, "content");
        if (!yyjson_is_str(content))
            return tc_fail(l->e, TC_FORMAT, "added_tokens[%zu].content: not a string", index);
        if (!read_id(yyjson_obj_get(value, "id"), &id))
            return bad_id(yyjson_get_str(content), yyjson_get_len(content), l->e);
        if (id > highest) highest = id;
        room += yyjson_get_len(content) * 3; // NFC may lengthen it
    }
    if (room > UINT32_MAX) return tc_fail(l->e, TC_LIMIT, "vocabulary: more than 4 GiB of names");
    l->t->bpe.token_count = highest + 1;
    l->t->bpe.tokens = tc_alloc(TC_MEM_OTHER, highest + 1u, sizeof(tc_token));
    l->t->bpe.blob = tc_alloc(TC_MEM_OTHER, room, 1);
    return l->t->bpe.tokens && l->t->bpe.blob ? TC_OK : tc_fail(l->e, TC_NOMEM, "vocabulary: out of memory");
}

// "<0x0A>": the token of one byte. -1: another name.
static int byte_token(const char *name, size_t bytes)
{
    int byte = 0;
    if (bytes != 6 || memcmp(name, "<0x", 3) || name[5] != '>') return -1;
    for (size_t i = 3; i < 5; i++) {
        char c = name[i];
        if ((c < '0' || c > '9') && (c < 'A' || c > 'F')) return -1;
        byte = byte * 16 + (c <= '9' ? c - '0' : c - 'A' + 10);
    }
    return byte;
}

// The same for a vocabulary of characters: U+2581 is a blank, `<0x0A>` a byte.
static size_t decode_char_name(const char *name, size_t bytes, bool added, uint8_t *out, bool *ret_byte)
{
    size_t count = 0;
    int byte = added ? -1 : byte_token(name, bytes);
    *ret_byte = byte >= 0;
    if (byte >= 0) {
        out[0] = (uint8_t)byte;
        return 1;
    }
    for (size_t i = 0; i < bytes; i++) {
        bool mark = bytes - i >= 3 && !memcmp(name + i, "\xe2\x96\x81", 3);
        out[count++] = mark ? ' ' : (uint8_t)name[i];
        if (mark) i += 2;
    }
    return count;
}

static tc_status store(loader *l, uint32_t id, const char *name, size_t bytes, uint8_t flags)
{
    bool mapped;
    uint8_t *to = l->t->bpe.blob + l->blob_used;
    size_t count = l->t->by_chars ? decode_char_name(name, bytes, !(flags & TC_TOKEN_VOCAB), to, &mapped)
                                  : decode_name(name, bytes, to, &mapped);
    if (count > TC_TOKEN_BYTES_MAX)
        return tc_fail(l->e, TC_LIMIT, "token \"%.*s...\": longer than %d bytes", TC_SHOW(bytes), name,
                       TC_TOKEN_BYTES_MAX);
    flags |= TC_TOKEN_PRESENT | (mapped ? TC_TOKEN_MAPPED : 0);
    l->t->bpe.tokens[id] = (tc_token){(uint32_t)l->blob_used, (uint16_t)count, flags};
    l->blob_used += count;
    return TC_OK;
}

static tc_status read_vocab(loader *l)
{
    tc_bpe *bpe = &l->t->bpe;
    size_t size = 16, index, count;
    yyjson_val *key, *value;
    while (size < yyjson_obj_size(l->vocab) * 2) size *= 2;
    l->names = (name_table){tc_alloc(TC_MEM_OTHER, size, sizeof *l->names.places), size - 1, bpe->seed};
    if (!l->names.places) return tc_fail(l->e, TC_NOMEM, "vocabulary: out of memory");
    for (int b = 0; b < 256; b++) bpe->byte_id[b] = TC_ID_NONE;
    if (l->t->by_chars && tc_bpe_reserve_chars(bpe, yyjson_obj_size(l->vocab)) != TC_OK)
        return tc_fail(l->e, TC_NOMEM, "vocabulary: out of memory");
    yyjson_obj_foreach(l->vocab, index, count, key, value)
    {
        const char *text = yyjson_get_str(key);
        size_t bytes = yyjson_get_len(key);
        uint32_t id = (uint32_t)yyjson_get_uint(value);
        struct name *n = name_place(&l->names, text, bytes);
        if (n->text) return tc_fail(l->e, TC_FORMAT, "vocab: duplicate entry \"%.*s\"", TC_SHOW(bytes), text);
        if (bpe->tokens[id].flags)
            return tc_fail(l->e, TC_FORMAT, "vocab: \"%.*s\" has the id %u of another entry", TC_SHOW(bytes),
                           text, id);
        *n = (struct name){text, (uint32_t)bytes, id};
        TC_TRY(store(l, id, text, bytes, TC_TOKEN_VOCAB));
        const tc_token *token = &bpe->tokens[id];
        if (token->bytes == 1 && (token->flags & TC_TOKEN_MAPPED))
            bpe->byte_id[bpe->blob[token->offset]] = id;
        size_t step = 0;
        if (l->t->by_chars && bytes && tc_utf8_step((const uint8_t *)text, bytes, &step) == TC_UTF8_CHAR &&
            step == bytes)
            tc_bpe_add_char(bpe, tc_utf8_get((const uint8_t *)text, &step), id);
    }
    for (int b = 0; b < 256; b++)
        if (bpe->byte_id[b] == TC_ID_NONE)
            return tc_fail(l->e, TC_UNSUPPORTED, "vocab: no token for byte 0x%02x", b);
    return TC_OK;
}

static tc_status merge_part(loader *l, size_t rank, const char *text, size_t bytes, const char *what,
                            uint32_t *ret)
{
    const struct name *n = name_place(&l->names, text, bytes);
    if (!n->text)
        return tc_fail(l->e, TC_FORMAT, "merges[%zu]: %s \"%.*s\" is not in the vocabulary", rank, what,
                       TC_SHOW(bytes), text);
    *ret = n->id;
    return TC_OK;
}

// The two parts of one entry, written "a b" or ["a", "b"].
static bool split_merge(yyjson_val *v, const char *part[2], size_t bytes[2])
{
    if (yyjson_is_str(v)) {
        size_t all = yyjson_get_len(v);
        const char *text = yyjson_get_str(v), *space = memchr(text, ' ', all);
        if (!space || memchr(space + 1, ' ', all - (size_t)(space + 1 - text))) return false;
        part[0] = text, bytes[0] = (size_t)(space - text);
        part[1] = space + 1, bytes[1] = all - bytes[0] - 1;
    } else {
        if (!yyjson_is_arr(v) || yyjson_arr_size(v) != 2) return false;
        for (size_t i = 0; i < 2; i++) {
            yyjson_val *item = yyjson_arr_get(v, i);
            if (!yyjson_is_str(item)) return false;
            part[i] = yyjson_get_str(item), bytes[i] = yyjson_get_len(item);
        }
    }
    return bytes[0] && bytes[1];
}

static tc_status read_merges(loader *l)
{
    size_t rank, count, bytes[2], whole_capacity = 0;
    yyjson_val *v;
    tc_status status = TC_OK;
    char *whole = NULL;
    if (tc_bpe_reserve_merges(&l->t->bpe, yyjson_arr_size(l->merges)) != TC_OK)
        return tc_fail(l->e, TC_LIMIT, "merges: too many, or out of memory");
    yyjson_arr_foreach(l->merges, rank, count, v)
    {
        const char *part[2];
        uint32_t left = 0, right = 0, merged = 0;
        if (!split_merge(v, part, bytes))
            TC_GOTO(tc_fail(l->e, TC_FORMAT, "merges[%zu]: neither \"a b\" nor [\"a\", \"b\"]", rank));
        TC_GOTO(merge_part(l, rank, part[0], bytes[0], "part", &left));
        TC_GOTO(merge_part(l, rank, part[1], bytes[1], "part", &right));
        if (bytes[0] + bytes[1] > whole_capacity) {
            free(whole);
            whole_capacity = (bytes[0] + bytes[1]) * 2;
            whole = malloc(whole_capacity);
            if (!whole) TC_GOTO(tc_fail(l->e, TC_NOMEM, "merges: out of memory"));
        }
        memcpy(whole, part[0], bytes[0]);
        memcpy(whole + bytes[0], part[1], bytes[1]);
        TC_GOTO(merge_part(l, rank, whole, bytes[0] + bytes[1], "result", &merged));
        if (tc_bpe_add_merge(&l->t->bpe, left, right, (uint32_t)rank, merged) != TC_OK)
            TC_GOTO(tc_fail(l->e, TC_FORMAT, "merges[%zu]: duplicate", rank));
    }
out:
    free(whole);
    return status;
}

static tc_status read_added_fields(loader *l, size_t index, yyjson_val *v, tc_added *a)
{
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    struct {
        const char *key;
        bool *to;
    } flags[] = {{"single_word", &a->single_word},
                 {"lstrip", &a->lstrip},
                 {"rstrip", &a->rstrip},
                 {"normalized", &a->normalized},
                 {"special", &a->special}};
    char where[48];
    snprintf(where, sizeof where, "added_tokens[%zu]", index);
    TC_TRY(tc_file_keys(v, where, keys, l->e));
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        yyjson_val *flag = tc_file_get(v, flags[i].key);
        if (!yyjson_is_bool(flag))
            return tc_fail(l->e, TC_FORMAT, "%s.%s: not a boolean", where, flags[i].key);
        *flags[i].to = yyjson_get_bool(flag);
    }
    yyjson_val *content = tc_file_get(v, "content");
    size_t bytes = yyjson_get_len(content);
    if (bytes == 0) return tc_fail(l->e, TC_FORMAT, "%s.content: empty", where);
    if (bytes > TC_TOKEN_BYTES_MAX)
        return tc_fail(l->e, TC_LIMIT, "%s.content: longer than %d bytes", where, TC_TOKEN_BYTES_MAX);
    read_id(tc_file_get(v, "id"), &a->id); // checked by measure
    return TC_OK;
}

// Keeps the content and, when the token is sought in normalised text, its normalised form.
static tc_status keep_texts(loader *l, const char *text, size_t bytes, tc_added *a)
{
    tc_bytes scratch = {0};
    const uint8_t *pattern = (const uint8_t *)text;
    size_t pattern_bytes = bytes;
    tc_status status = TC_OK;
    if (a->normalized && l->t->nfc) TC_GOTO(tc_nfc(pattern, bytes, &scratch, &pattern, &pattern_bytes));
    a->owned = malloc(bytes + pattern_bytes);
    if (!a->owned) TC_GOTO(TC_NOMEM);
    memcpy(a->owned, text, bytes);
    memcpy(a->owned + bytes, pattern, pattern_bytes);
    a->content = a->owned, a->content_bytes = (uint32_t)bytes;
    a->pattern = a->owned + bytes, a->pattern_bytes = (uint32_t)pattern_bytes;
out:
    free(scratch.data);
    return status == TC_OK ? TC_OK : tc_fail(l->e, status, "added token: %s", tc_status_text(status));
}

static tc_status place_added(loader *l, tc_added *a)
{
    tc_bpe *bpe = &l->t->bpe;
    tc_token *token = &bpe->tokens[a->id];
    const char *text = (const char *)a->content;
    int shown = TC_SHOW(a->content_bytes);
    const struct name *n = name_place(&l->names, text, a->content_bytes);
    if (n->text && n->id != a->id)
        return tc_fail(l->e, TC_FORMAT, "added token \"%.*s\": id %u here, %u in the vocabulary", shown, text,
                       a->id, n->id);
    if (!n->text && (token->flags & TC_TOKEN_PRESENT))
        return tc_fail(l->e, TC_FORMAT, "added token \"%.*s\": its id %u belongs to another token", shown,
                       text, a->id);
    if (token->flags & TC_TOKEN_ADDED)
        return tc_fail(l->e, TC_FORMAT, "added token \"%.*s\": duplicate", shown, text);
    uint8_t vocab = token->flags & TC_TOKEN_VOCAB;
    if (!vocab) TC_TRY(store(l, a->id, (const char *)a->pattern, a->pattern_bytes, 0));
    token->flags |= TC_TOKEN_ADDED | (a->special ? TC_TOKEN_SPECIAL : 0);
    if (!vocab || !a->special) return TC_OK;
    bpe->special_inside = true;
    if (token->bytes == 1 && (token->flags & TC_TOKEN_MAPPED))
        return tc_fail(l->e, TC_UNSUPPORTED, "added token \"%.*s\": a special token that is a single byte",
                       shown, text);
    return TC_OK;
}

static tc_status build_set(loader *l, tc_added_set *set, bool normalized)
{
    tc_tokenizer *t = l->t;
    uint32_t count = 0;
    const tc_added **items = malloc((t->added_count + 1u) * sizeof *items);
    if (!items) return tc_fail(l->e, TC_NOMEM, "added tokens: out of memory");
    for (uint32_t i = 0; i < t->added_count; i++)
        if (t->added[i].normalized == normalized) items[count++] = &t->added[i];
    if (tc_added_set_build(set, items, count) == TC_OK) return TC_OK;
    free(items);
    return tc_fail(l->e, TC_FORMAT, "added_tokens: two with the same content (after normalisation)");
}

static tc_status read_added(loader *l)
{
    size_t index, count = yyjson_arr_size(l->added);
    yyjson_val *v;
    tc_tokenizer *t = l->t;
    t->added = calloc(count + 1, sizeof *t->added);
    if (!t->added) return tc_fail(l->e, TC_NOMEM, "added tokens: out of memory");
    yyjson_arr_foreach(l->added, index, count, v)
    {
        tc_added *a = &t->added[index];
        yyjson_val *content = tc_file_get(v, "content");
        TC_TRY(read_added_fields(l, index, v, a));
        TC_TRY(keep_texts(l, yyjson_get_str(content), yyjson_get_len(content), a));
        t->added_count++;
        TC_TRY(place_added(l, a));
    }
    TC_TRY(build_set(l, &t->raw, false));
    return build_set(l, &t->normalized, true);
}

static tc_status build(loader *l, yyjson_val *root)
{
    if (getrandom(&l->t->bpe.seed, sizeof l->t->bpe.seed, GRND_NONBLOCK) < 0)
        l->t->bpe.seed = (uintptr_t)l->t; // only a hash seed: an address will do
    TC_TRY(tc_file_settings(root, l->t, l->e));
    yyjson_val *model = tc_file_get(root, "model");
    l->vocab = tc_file_get(model, "vocab");
    l->merges = tc_file_get(model, "merges");
    l->added = tc_file_get(root, "added_tokens");
    if (!yyjson_is_obj(l->vocab)) return tc_fail(l->e, TC_FORMAT, "model.vocab: not an object");
    if (!yyjson_is_arr(l->merges)) return tc_fail(l->e, TC_FORMAT, "model.merges: not an array");
    if (l->added && !yyjson_is_arr(l->added)) return tc_fail(l->e, TC_FORMAT, "added_tokens: not an array");
    if (yyjson_arr_size(l->added) > TC_ADDED_TOKENS_MAX)
        return tc_fail(l->e, TC_LIMIT, "added_tokens: more than %d", TC_ADDED_TOKENS_MAX);
    TC_TRY(measure(l));
    TC_TRY(read_vocab(l));
    TC_TRY(read_merges(l));
    if (tc_bpe_build_words(&l->t->bpe) != TC_OK) return tc_fail(l->e, TC_NOMEM, "vocabulary: out of memory");
    return read_added(l);
}

static void note_longest(tc_tokenizer *t)
{
    size_t bytes;
    for (uint32_t id = 0; id < t->bpe.token_count; id++)
        if (tc_token_decoded(t, id, false, &bytes) && bytes > t->longest_token) t->longest_token = bytes;
}

tc_status tc_tokenizer_parse(const char *json, size_t bytes, const char *name, tc_tokenizer **ret,
                             tc_error *e)
{
    tc_status status = TC_OK;
    tc_error inner = {0};
    yyjson_read_err problem = {0};
    yyjson_doc *doc = NULL;
    loader l = {.t = calloc(1, sizeof *l.t), .e = &inner};
    tc_unicode_init();
    if (!l.t) TC_GOTO(tc_fail(&inner, TC_NOMEM, "out of memory"));
    if (bytes > TC_TOKENIZER_FILE_BYTES_MAX)
        TC_GOTO(tc_fail(&inner, TC_LIMIT, "larger than %d bytes", TC_TOKENIZER_FILE_BYTES_MAX));
    doc = yyjson_read_opts((char *)json, bytes, YYJSON_READ_NOFLAG, NULL,
                           &problem); // without INSITU input is const
    if (!doc)
        TC_GOTO(tc_fail(&inner, problem.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION ? TC_NOMEM : TC_FORMAT,
                        "not JSON: %s at byte %zu", problem.msg ? problem.msg : "?", problem.pos));
    TC_GOTO(build(&l, yyjson_doc_get_root(doc)));
    note_longest(l.t);
    *ret = l.t;
    l.t = NULL;
out:
    tc_free(l.names.places);
    yyjson_doc_free(doc);
    tc_tokenizer_free(l.t);
    return status == TC_OK ? TC_OK : tc_fail(e, status, "%s: %s", name, inner.text);
}

static tc_status read_all(int fd, char *to, size_t bytes, const char *path, tc_error *e)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = read(fd, to + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s: reading", path);
        if (n == 0) return tc_fail(e, TC_IO, "%s: became shorter while it was read", path);
        done += (size_t)n;
    }
    return TC_OK;
}

tc_status tc_tokenizer_load(const char *path, tc_tokenizer **ret, tc_error *e)
{
    tc_status status = TC_OK;
    struct stat st;
    char *json = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", path);
    if (fstat(fd, &st) < 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", path));
    if (!S_ISREG(st.st_mode)) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: not a regular file", path));
    if (st.st_size > TC_TOKENIZER_FILE_BYTES_MAX)
        TC_GOTO(tc_fail(e, TC_LIMIT, "%s: larger than %d bytes", path, TC_TOKENIZER_FILE_BYTES_MAX));
    json = malloc((size_t)st.st_size + 1);
    if (!json) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: out of memory", path));
    TC_GOTO(read_all(fd, json, (size_t)st.st_size, path, e));
    TC_GOTO(tc_tokenizer_parse(json, (size_t)st.st_size, path, ret, e));
out:
    free(json);
    close(fd);
    return status;
}
