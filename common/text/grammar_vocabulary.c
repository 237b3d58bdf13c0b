// SPDX-License-Identifier: Apache-2.0
// Owns: making the tries. Refuses: vocabularies beyond 2^24 ids.
#include "common/text/grammar_vocabulary.h"
#include "common/base/mem.h"
#include "common/text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { VOCABULARY_MAX = 1 << 24 };

const uint32_t tc_vocabulary_part_chars[TC_VOCABULARY_PARTS] = {0, 4, 8, 16, TC_GRAMMAR_TOKEN_BYTES_MAX};

static uint32_t part_of(const uint8_t *bytes, uint32_t count)
{
    uint32_t chars = 0, part = 1;
    size_t n;
    for (uint32_t i = 0; i < count; i += (uint32_t)n, chars++) {
        if (bytes[i] < 0x20 || bytes[i] == '"' || bytes[i] == '\\' || bytes[i] == 0x7f) return 0;
        if (tc_utf8_step(bytes + i, count - i, &n) != TC_UTF8_CHAR) return 0;
    }
    while (chars > tc_vocabulary_part_chars[part]) part++;
    return part;
}

static int by_bytes(const void *a, const void *z, void *arg)
{
    const tc_vocabulary *v = arg;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)z, n, m;
    const uint8_t *p = tc_vocabulary_token(v, x, &n), *q = tc_vocabulary_token(v, y, &m);
    int order = memcmp(p, q, n < m ? n : m);
    if (order) return order;
    return n != m ? (n < m ? -1 : 1) : (x < y ? -1 : x > y);
}

static uint32_t common(const tc_vocabulary *v, uint32_t x, uint32_t y)
{
    uint32_t n, m, k = 0;
    const uint8_t *p = tc_vocabulary_token(v, x, &n), *q = tc_vocabulary_token(v, y, &m);
    while (k < n && k < m && p[k] == q[k]) k++;
    return k;
}

// Nodes of the sorted tokens, in the order of a depth-first walk. `nodes` NULL: counts only.
static uint32_t lay_out(const tc_vocabulary *v, tc_trie *t)
{
    uint32_t open[TC_GRAMMAR_TOKEN_BYTES_MAX + 1], depth = 0, made = 0, n;
    for (uint32_t i = 0; i < t->token_count; i++) {
        const uint8_t *bytes = tc_vocabulary_token(v, t->tokens[i], &n);
        uint32_t shared = i ? common(v, t->tokens[i - 1], t->tokens[i]) : 0;
        for (; depth > shared; depth--)
            if (t->nodes) t->nodes[open[depth]].skip = made;
        for (; depth < n; made++) {
            open[++depth] = made;
            if (t->nodes)
                t->nodes[made] =
                    (tc_trie_node){.token = i, .byte = bytes[depth - 1], .depth = (uint8_t)depth};
        }
        if (t->nodes) t->nodes[open[depth]].tokens++;
    }
    for (; depth > 0; depth--)
        if (t->nodes) t->nodes[open[depth]].skip = made;
    return made;
}

static tc_status make_part(tc_vocabulary *v, uint32_t part, const uint8_t *part_of_id, tc_error *e)
{
    tc_trie *t = &v->parts[part];
    uint32_t n = 0;
    for (uint32_t id = 0; id < v->size; id++) n += part_of_id[id] == part;
    t->tokens = tc_alloc(TC_MEM_OTHER, n, sizeof *t->tokens);
    if (!t->tokens) return tc_fail(e, TC_NOMEM, "out of memory for the vocabulary");
    for (uint32_t id = 0; id < v->size; id++)
        if (part_of_id[id] == part) t->tokens[t->token_count++] = id;
    qsort_r(t->tokens, n, sizeof *t->tokens, by_bytes, v);
    t->node_count = lay_out(v, t);
    t->nodes = tc_alloc(TC_MEM_OTHER, t->node_count, sizeof *t->nodes);
    if (!t->nodes) return tc_fail(e, TC_NOMEM, "out of memory for the vocabulary");
    lay_out(v, t);
    return TC_OK;
}

static tc_status make_masks(tc_vocabulary *v, tc_error *e)
{
    for (uint32_t k = 0; k < TC_VOCABULARY_PARTS; k++) {
        v->upto[k] = tc_alloc(TC_MEM_OTHER, v->words, sizeof *v->upto[k]);
        if (!v->upto[k]) return tc_fail(e, TC_NOMEM, "out of memory for the vocabulary");
        if (k == 0) continue;
        memcpy(v->upto[k], v->upto[k - 1], v->words * sizeof *v->upto[k]);
        for (uint32_t i = 0; i < v->parts[k].token_count; i++) {
            uint32_t id = v->parts[k].tokens[i];
            v->upto[k][id >> 5] |= 1u << (id & 31);
        }
    }
    return TC_OK;
}

static tc_status fill(tc_vocabulary *v, const char *const *bytes, const uint32_t *lengths, tc_error *e)
{
    tc_status status = TC_OK;
    size_t total = 0;
    uint8_t *parts = tc_alloc(TC_MEM_OTHER, v->size, 1);
    for (uint32_t id = 0; id < v->size; id++)
        if (bytes[id] && lengths[id] <= TC_GRAMMAR_TOKEN_BYTES_MAX) total += lengths[id];
    v->bytes = tc_alloc(TC_MEM_OTHER, total, 1);
    v->offsets = tc_alloc(TC_MEM_OTHER, (size_t)v->size + 1, sizeof *v->offsets);
    if (!parts || !v->bytes || !v->offsets) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for the vocabulary"));
    for (uint32_t id = 0, at = 0; id < v->size; id++) {
        uint32_t n = bytes[id] && lengths[id] <= TC_GRAMMAR_TOKEN_BYTES_MAX ? lengths[id] : 0;
        if (n) memcpy(v->bytes + at, bytes[id], n);
        parts[id] = n ? (uint8_t)part_of(v->bytes + at, n) : TC_VOCABULARY_PARTS;
        v->offsets[id + 1] = at += n;
    }
    for (uint32_t part = 0; part < TC_VOCABULARY_PARTS; part++) TC_GOTO(make_part(v, part, parts, e));
    TC_GOTO(make_masks(v, e));
out:
    tc_free(parts);
    return status;
}

tc_status tc_vocabulary_create(const char *const *bytes, const uint32_t *lengths, uint32_t size,
                               tc_vocabulary **ret, tc_error *e)
{
    if (size > VOCABULARY_MAX)
        return tc_fail(e, TC_LIMIT, "a vocabulary of %u, the limit is %d", size, VOCABULARY_MAX);
    tc_vocabulary *v = tc_alloc(TC_MEM_OTHER, 1, sizeof *v);
    if (!v) return tc_fail(e, TC_NOMEM, "out of memory for the vocabulary");
    v->size = size;
    v->words = (size + 31) / 32;
    tc_status status = fill(v, bytes, lengths, e);
    if (status == TC_OK)
        *ret = v;
    else
        tc_vocabulary_free(v);
    return status;
}

tc_status tc_vocabulary_of(const tc_tokenizer *tokenizer, uint32_t size, tc_vocabulary **ret, tc_error *e)
{
    tc_status status = TC_OK;
    const char **bytes = calloc(size ? size : 1, sizeof *bytes);
    uint32_t *lengths = calloc(size ? size : 1, sizeof *lengths);
    if (!bytes || !lengths) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for the vocabulary"));
    for (uint32_t id = 0; id < size; id++) {
        size_t n = 0;
        if (id >= tc_tokenizer_vocab(tokenizer) || tc_tokenizer_is_special(tokenizer, id)) continue;
        bytes[id] = tc_tokenizer_token_bytes(tokenizer, id, &n);
        lengths[id] = (uint32_t)n;
    }
    TC_GOTO(tc_vocabulary_create(bytes, lengths, size, ret, e));
out:
    free(bytes);
    free(lengths);
    return status;
}

void tc_vocabulary_free(tc_vocabulary *v)
{
    if (!v) return;
    for (uint32_t k = 0; k < TC_VOCABULARY_PARTS; k++) {
        tc_free(v->parts[k].nodes);
        tc_free(v->parts[k].tokens);
        tc_free(v->upto[k]);
    }
    tc_free(v->bytes);
    tc_free(v->offsets);
    tc_free(v);
}
