// SPDX-License-Identifier: Apache-2.0
// Owns: merging. A short word is scanned for its best pair again and again; a long one keeps its pairs in a
// heap ordered by (rank, position), so that a megabyte without a space costs n log n. The result depends on
// the word alone, so words that become a single token are found once, at load, and then only looked up.
#include "common/text/bpe.h"
#include "common/base/mem.h"
#include "common/text/utf8.h"
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SHORT_WORD_BYTES = 40, TABLE_MIN = 16, HEAP_MIN = 256 };

static inline uint32_t pair_hash(uint64_t seed, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) ^ seed;
    h *= 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return (uint32_t)(h >> 32);
}

static inline const tc_merge *merge_place(const tc_bpe *bpe, uint32_t left, uint32_t right)
{
    uint32_t at = pair_hash(bpe->seed, left, right) & bpe->merge_mask;
    for (;; at = (at + 1) & bpe->merge_mask) {
        const tc_merge *m = &bpe->merges[at];
        if (m->id == TC_ID_NONE || (m->left == left && m->right == right)) return m;
    }
}

// Rank of the merge of two tokens, TC_ID_NONE when there is none. *ret_id is set only when there is one.
static inline uint32_t pair_rank(const tc_bpe *bpe, uint32_t left, uint32_t right, bool bar, uint32_t *ret_id)
{
    const tc_merge *m = merge_place(bpe, left, right);
    if (m->id == TC_ID_NONE) return TC_ID_NONE;
    if (bar && (bpe->tokens[m->id].flags & TC_TOKEN_SPECIAL)) return TC_ID_NONE;
    *ret_id = m->id;
    return m->rank;
}

static inline uint32_t bytes_rank(const tc_bpe *bpe, uint8_t left, uint8_t right, bool bar, uint32_t *ret_id)
{
    tc_pair pair = bpe->bytes[(uint32_t)left << 8 | right];
    if (pair.rank == TC_ID_NONE) return TC_ID_NONE;
    if (bar && (bpe->tokens[pair.id].flags & TC_TOKEN_SPECIAL)) return TC_ID_NONE;
    *ret_id = pair.id;
    return pair.rank;
}

static size_t table_size(size_t entries)
{
    size_t size = TABLE_MIN;
    while (size < entries * 2 + 1) size *= 2;
    return size;
}

tc_status tc_bpe_reserve_merges(tc_bpe *bpe, size_t count)
{
    if (count > TC_ID_MAX) return TC_LIMIT;
    size_t size = table_size(count);
    bpe->merges = tc_alloc(TC_MEM_OTHER, size, sizeof *bpe->merges);
    bpe->bytes = tc_alloc(TC_MEM_OTHER, 65536, sizeof *bpe->bytes);
    if (!bpe->merges || !bpe->bytes) return TC_NOMEM;
    memset(bpe->merges, 0xff, size * sizeof *bpe->merges);
    memset(bpe->bytes, 0xff, 65536 * sizeof *bpe->bytes);
    bpe->merge_mask = (uint32_t)(size - 1);
    return TC_OK;
}

tc_status tc_bpe_add_merge(tc_bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    tc_merge *m = (tc_merge *)merge_place(bpe, left, right);
    if (m->id != TC_ID_NONE) return TC_FORMAT;
    *m = (tc_merge){left, right, rank, id};
    const tc_token *l = &bpe->tokens[left], *r = &bpe->tokens[right];
    if (l->bytes == 1 && r->bytes == 1 && bpe->byte_id[bpe->blob[l->offset]] == left &&
        bpe->byte_id[bpe->blob[r->offset]] == right)
        bpe->bytes[(uint32_t)bpe->blob[l->offset] << 8 | bpe->blob[r->offset]] = (tc_pair){rank, id};
    return TC_OK;
}

tc_status tc_bpe_reserve_chars(tc_bpe *bpe, size_t count)
{
    size_t size = table_size(count);
    if (size > UINT32_MAX / 2) return TC_LIMIT;
    bpe->chars = tc_alloc(TC_MEM_OTHER, size, sizeof *bpe->chars);
    if (!bpe->chars) return TC_NOMEM;
    memset(bpe->chars, 0xff, size * sizeof *bpe->chars);
    bpe->char_mask = (uint32_t)(size - 1);
    return TC_OK;
}

static inline tc_char_token *char_place(const tc_bpe *bpe, uint32_t c)
{
    uint32_t at = pair_hash(bpe->seed, c, 0) & bpe->char_mask;
    while (bpe->chars[at].id != TC_ID_NONE && bpe->chars[at].c != c) at = (at + 1) & bpe->char_mask;
    return &bpe->chars[at];
}

void tc_bpe_add_char(tc_bpe *bpe, uint32_t c, uint32_t id)
{
    *char_place(bpe, c) = (tc_char_token){c, id};
}

static inline tc_word *word_place(const tc_bpe *bpe, const uint8_t *word, size_t bytes, uint32_t *ret_hash)
{
    uint32_t hash = (uint32_t)XXH3_64bits_withSeed(word, bytes, bpe->seed);
    *ret_hash = hash;
    for (uint32_t at = hash & bpe->word_mask;; at = (at + 1) & bpe->word_mask) {
        tc_word *w = &bpe->words[at];
        if (w->id == TC_ID_NONE) return w;
        const tc_token *token = &bpe->tokens[w->id];
        if (w->hash == hash && token->bytes == bytes && !memcmp(bpe->blob + token->offset, word, bytes))
            return w;
    }
}

// Merges a word of 2..SHORT_WORD_BYTES bytes in place; returns the number of tokens in `id`.
static size_t merge_short(const tc_bpe *bpe, const uint8_t *word, size_t bytes, bool bar,
                          uint32_t id[static SHORT_WORD_BYTES])
{
    uint32_t rank[SHORT_WORD_BYTES], result[SHORT_WORD_BYTES];
    size_t count = bytes;
    for (size_t i = 0; i < count; i++) id[i] = bpe->byte_id[word[i]];
    for (size_t i = 0; i + 1 < count; i++) rank[i] = bytes_rank(bpe, word[i], word[i + 1], bar, &result[i]);
    for (;;) {
        size_t best = 0;
        uint32_t best_rank = TC_ID_NONE;
        for (size_t i = 0; i + 1 < count; i++)
            if (rank[i] < best_rank) best_rank = rank[i], best = i;
        if (best_rank == TC_ID_NONE) return count;
        id[best] = result[best];
        count--;
        for (size_t i = best + 1; i < count; i++) id[i] = id[i + 1];
        for (size_t i = best + 1; i + 1 < count; i++) rank[i] = rank[i + 1], result[i] = result[i + 1];
        if (best + 1 < count) rank[best] = pair_rank(bpe, id[best], id[best + 1], bar, &result[best]);
        if (best > 0) rank[best - 1] = pair_rank(bpe, id[best - 1], id[best], bar, &result[best - 1]);
    }
}

static void sift_down(uint64_t *heap, size_t count, size_t at)
{
    uint64_t item = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= item) break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

static tc_status heap_push(tc_bpe_scratch *s, uint32_t rank, uint32_t position)
{
    if (s->heap_count == s->heap_capacity) {
        size_t capacity = s->heap_capacity ? s->heap_capacity * 2 : HEAP_MIN;
        uint64_t *grown = realloc(s->heap, capacity * sizeof *grown);
        if (!grown) return TC_NOMEM;
        s->heap = grown;
        s->heap_capacity = capacity;
    }
    uint64_t item = (uint64_t)rank << 32 | position;
    size_t at = s->heap_count++;
    for (; at > 0 && s->heap[(at - 1) / 2] > item; at = (at - 1) / 2) s->heap[at] = s->heap[(at - 1) / 2];
    s->heap[at] = item;
    return TC_OK;
}

// A word as a doubly linked list of tokens; places are named by their first byte. rank[i] is that of the pair
// which starts at i, so a heap entry whose rank differs is out of date.
typedef struct chain {
    uint32_t *id, *next, *previous, *rank;
} chain;

static tc_status pair_changed(const tc_bpe *bpe, chain *c, uint32_t at, uint32_t count, bool bar,
                              tc_bpe_scratch *s)
{
    uint32_t merged;
    c->rank[at] =
        c->next[at] < count ? pair_rank(bpe, c->id[at], c->id[c->next[at]], bar, &merged) : TC_ID_NONE;
    return c->rank[at] == TC_ID_NONE ? TC_OK : heap_push(s, c->rank[at], at);
}

// The units of a word, before any merge; returns how many there are (at most `bytes`).
static uint32_t units(const tc_bpe *bpe, const uint8_t *word, uint32_t bytes, uint32_t *ids)
{
    uint32_t count = 0;
    size_t step;
    if (!bpe->chars) {
        for (; count < bytes; count++) ids[count] = bpe->byte_id[word[count]];
        return count;
    }
    for (uint32_t at = 0; at < bytes; at += (uint32_t)step) {
        uint32_t id = char_place(bpe, tc_utf8_get(word + at, &step))->id;
        if (id != TC_ID_NONE)
            ids[count++] = id;
        else
            for (size_t i = 0; i < step; i++) ids[count++] = bpe->byte_id[word[at + i]];
    }
    return count;
}

static tc_status merge_long(const tc_bpe *bpe, const uint8_t *word, uint32_t count, bool bar,
                            tc_bpe_scratch *s, chain *ret, uint32_t *ret_count)
{
    if (count > s->links_capacity) {
        tc_free(s->links);
        s->links_capacity = 0;
        s->links = tc_alloc(TC_MEM_OTHER, count, 4 * sizeof *s->links);
        if (!s->links) return TC_NOMEM;
        s->links_capacity = count;
    }
    uint32_t merged;
    size_t n = s->links_capacity;
    chain c = {s->links, s->links + n, s->links + 2 * n, s->links + 3 * n};
    s->heap_count = 0;
    count = units(bpe, word, count, c.id);
    *ret_count = count;
    for (uint32_t i = 0; i < count; i++) {
        c.next[i] = i + 1;
        c.previous[i] = i - 1;
        c.rank[i] = i + 1 == count ? TC_ID_NONE
                    : bpe->chars   ? pair_rank(bpe, c.id[i], c.id[i + 1], bar, &merged)
                                   : bytes_rank(bpe, word[i], word[i + 1], bar, &merged);
        if (c.rank[i] != TC_ID_NONE) TC_TRY(heap_push(s, c.rank[i], i));
    }
    while (s->heap_count) {
        uint32_t rank = (uint32_t)(s->heap[0] >> 32), at = (uint32_t)s->heap[0];
        s->heap[0] = s->heap[--s->heap_count];
        if (s->heap_count) sift_down(s->heap, s->heap_count, 0);
        if (c.rank[at] != rank) continue;
        uint32_t gone = c.next[at];
        pair_rank(bpe, c.id[at], c.id[gone], bar, &c.id[at]);
        c.rank[gone] = TC_ID_NONE;
        c.next[at] = c.next[gone];
        if (c.next[at] < count) c.previous[c.next[at]] = at;
        TC_TRY(pair_changed(bpe, &c, at, count, bar, s));
        if (at > 0) TC_TRY(pair_changed(bpe, &c, c.previous[at], count, bar, s));
    }
    *ret = c;
    return TC_OK;
}

static tc_status merge_and_push(const tc_bpe *bpe, const uint8_t *word, size_t bytes, bool bar, bool guard,
                                tc_bpe_scratch *scratch, tc_ids *ids);

// A special token that plain text merged into: written with other tokens instead. Only its last merge is
// barred, so words that merely pass through it come out as ever.
static tc_status push_unspecial(const tc_bpe *bpe, const tc_token *token, tc_ids *ids)
{
    tc_bpe_scratch scratch = {0}; // the caller's is in use
    tc_status status =
        merge_and_push(bpe, bpe->blob + token->offset, token->bytes, true, false, &scratch, ids);
    tc_bpe_scratch_free(&scratch);
    return status;
}

static inline tc_status push(const tc_bpe *bpe, uint32_t id, bool guard, tc_ids *ids)
{
    if (guard && (bpe->tokens[id].flags & TC_TOKEN_SPECIAL))
        return push_unspecial(bpe, &bpe->tokens[id], ids);
    return tc_ids_push(ids, id);
}

// `bar`: special tokens are no result of any merge. `guard`: they are not given out (what else is the same).
static tc_status merge_and_push(const tc_bpe *bpe, const uint8_t *word, size_t bytes, bool bar, bool guard,
                                tc_bpe_scratch *scratch, tc_ids *ids)
{
    uint32_t short_ids[SHORT_WORD_BYTES];
    if (bytes <= SHORT_WORD_BYTES && !bpe->chars) {
        size_t count = merge_short(bpe, word, bytes, bar, short_ids);
        for (size_t i = 0; i < count; i++) TC_TRY(push(bpe, short_ids[i], guard, ids));
        return TC_OK;
    }
    chain c;
    if (bytes > UINT32_MAX / 4) return TC_LIMIT;
    uint32_t count;
    TC_TRY(merge_long(bpe, word, (uint32_t)bytes, bar, scratch, &c, &count));
    for (uint32_t i = 0; i < count; i = c.next[i]) TC_TRY(push(bpe, c.id[i], guard, ids));
    return TC_OK;
}

tc_status tc_bpe_word(const tc_bpe *bpe, const uint8_t *word, size_t bytes, bool as_text,
                      tc_bpe_scratch *scratch, tc_ids *ids)
{
    uint32_t hash;
    bool guard = as_text && bpe->special_inside;
    if (bytes == 0) return TC_OK;
    if (bpe->chars) return merge_and_push(bpe, word, bytes, false, guard, scratch, ids);
    if (bytes == 1) return tc_ids_push(ids, bpe->byte_id[word[0]]);
    if (bytes <= bpe->word_bytes_max) {
        uint32_t id = word_place(bpe, word, bytes, &hash)->id;
        if (id != TC_ID_NONE) return push(bpe, id, guard, ids);
    }
    return merge_and_push(bpe, word, bytes, false, guard, scratch, ids);
}

static bool becomes_one(const tc_bpe *bpe, const tc_token *token, uint32_t id)
{
    uint32_t ids[SHORT_WORD_BYTES];
    _Static_assert((int)TC_WORD_TABLE_BYTES_MAX <= (int)SHORT_WORD_BYTES,
                   "table words are merged as short ones");
    if (token->bytes > TC_WORD_TABLE_BYTES_MAX) return false;
    return merge_short(bpe, bpe->blob + token->offset, token->bytes, false, ids) == 1 && ids[0] == id;
}

tc_status tc_bpe_build_words(tc_bpe *bpe)
{
    enum { CANDIDATE = TC_TOKEN_VOCAB | TC_TOKEN_MAPPED };
    if (bpe->chars) return TC_OK; // names are not the bytes that are looked up
    size_t count = 0, longest = 0;
    for (uint32_t id = 0; id < bpe->token_count; id++) {
        const tc_token *token = &bpe->tokens[id];
        if ((token->flags & CANDIDATE) != CANDIDATE) continue;
        count++;
        if (token->bytes > longest) longest = token->bytes;
    }
    size_t size = table_size(count);
    bpe->words = tc_alloc(TC_MEM_OTHER, size, sizeof *bpe->words);
    if (!bpe->words) return TC_NOMEM;
    memset(bpe->words, 0xff, size * sizeof *bpe->words);
    bpe->word_mask = (uint32_t)(size - 1);
    for (uint32_t id = 0; id < bpe->token_count; id++) {
        const tc_token *token = &bpe->tokens[id];
        uint32_t hash;
        if ((token->flags & CANDIDATE) != CANDIDATE || token->bytes < 2) continue;
        if (!bpe->ignore_merges && !becomes_one(bpe, token, id)) continue;
        tc_word *w = word_place(bpe, bpe->blob + token->offset, token->bytes, &hash);
        *w = (tc_word){hash, id};
    }
    bpe->word_bytes_max = bpe->ignore_merges ? (uint32_t)longest : TC_WORD_TABLE_BYTES_MAX;
    return TC_OK;
}

void tc_bpe_scratch_free(tc_bpe_scratch *scratch)
{
    tc_free(scratch->links);
    free(scratch->heap);
    *scratch = (tc_bpe_scratch){0};
}

void tc_bpe_free(tc_bpe *bpe)
{
    tc_free(bpe->tokens);
    tc_free(bpe->blob);
    tc_free(bpe->bytes);
    tc_free(bpe->merges);
    tc_free(bpe->words);
    tc_free(bpe->chars);
    *bpe = (tc_bpe){0};
}
