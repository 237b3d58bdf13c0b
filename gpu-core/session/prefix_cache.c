// SPDX-License-Identifier: Apache-2.0
// Owns: the tree of blocks, its hash table, and eviction.
//
// Blocks are in one list by last use. A parent is always nearer to its front than its children (touching goes
// from the leaf up), so the first block from the back that nobody holds and that has no children is the leaf
// to evict, and only held blocks are passed over. Snapshots have a list of their own.
#include "gpu-core/session/prefix_cache.h"

#include <string.h>
#include <xxhash.h>

typedef struct link_node {
    struct link_node *newer, *older;
} link_node;

struct tc_prefix_block {
    link_node by_use;               // first: a node of that list is its block
    link_node state_by_use;         // in the list while `state` is set
    tc_prefix_block *parent, *next; // next: in the same bucket
    uint64_t hash, scope;
    uint64_t used, state_used; // value of the clock at the last use
    uint32_t depth;            // blocks before it
    uint32_t count;            // of its tokens; a tail has fewer than a page holds
    uint32_t children, holds;
    void *page, *state; // owned
    uint32_t tokens[TC_KV_PAGE_POSITIONS];
};

enum {
    BUCKETS_MIN = 64,
    BUCKETS_MAX = 1 << 20,
    BLOCKS_BACK = 64, // that are looked at for a tail: each costs as many hashes as it may be long
};

struct tc_prefix_cache {
    tc_dev *dev;
    tc_prefix_stats stats;
    size_t page_bytes, state_bytes;
    link_node by_use, state_by_use; // rings: newer of the head is the oldest
    uint64_t clock;
    uint32_t buckets; // a power of two
    tc_prefix_block **bucket;
};

static void unlink_node(link_node *n)
{
    n->newer->older = n->older;
    n->older->newer = n->newer;
}

// Right behind `place`, that is, older than it. The head's older neighbour is the newest of all.
static void link_behind(link_node *place, link_node *n)
{
    n->newer = place;
    n->older = place->older;
    place->older->newer = n;
    place->older = n;
}

static tc_prefix_block *of_state(link_node *n)
{
    return (tc_prefix_block *)(void *)((char *)n - offsetof(tc_prefix_block, state_by_use));
}

tc_status tc_prefix_cache_create(tc_dev *dev, uint64_t budget_bytes, tc_prefix_cache **ret, tc_error *e)
{
    tc_prefix_cache *c = tc_alloc(TC_MEM_OTHER, 1, sizeof *c);
    if (!c) return tc_fail(e, TC_NOMEM, "out of memory for the prefix cache");
    c->dev = dev;
    c->page_bytes = (size_t)tc_dev_page_bytes(&dev->geometry);
    c->state_bytes = (size_t)tc_dev_slot_bytes(&dev->geometry);
    c->stats.budget_bytes = budget_bytes;
    c->by_use = (link_node){&c->by_use, &c->by_use};
    c->state_by_use = (link_node){&c->state_by_use, &c->state_by_use};
    uint64_t most = budget_bytes / (c->page_bytes + sizeof(tc_prefix_block));
    c->buckets = BUCKETS_MIN;
    while (c->buckets < most && c->buckets < BUCKETS_MAX) c->buckets *= 2;
    c->bucket = tc_alloc(TC_MEM_OTHER, c->buckets, sizeof(tc_prefix_block *));
    if (!c->bucket) {
        tc_free(c);
        return tc_fail(e, TC_NOMEM, "out of memory for the prefix cache: %u buckets", c->buckets);
    }
    *ret = c;
    return TC_OK;
}

// ---- eviction ----

// A block's snapshot, which it has no longer.
static void *take_state(tc_prefix_cache *c, tc_prefix_block *b)
{
    void *state = b->state;
    unlink_node(&b->state_by_use);
    b->state = NULL;
    c->stats.snapshots--;
    c->stats.bytes -= c->state_bytes;
    return state;
}

static void drop_block(tc_prefix_cache *c, tc_prefix_block *b)
{
    tc_prefix_block **at = &c->bucket[b->hash & (c->buckets - 1)];
    while (*at != b) at = &(*at)->next;
    *at = b->next;
    if (b->state) tc_free(take_state(c, b));
    unlink_node(&b->by_use);
    if (b->parent) b->parent->children--;
    tc_free(b->page);
    tc_free(b);
    c->stats.blocks--;
    c->stats.bytes -= c->page_bytes + sizeof *b;
}

static tc_prefix_block *oldest_leaf(tc_prefix_cache *c)
{
    for (link_node *n = c->by_use.newer; n != &c->by_use; n = n->newer) {
        tc_prefix_block *b = (tc_prefix_block *)(void *)n;
        if (!b->holds && !b->children) return b;
    }
    return NULL;
}

static tc_prefix_block *oldest_state(tc_prefix_cache *c)
{
    for (link_node *n = c->state_by_use.newer; n != &c->state_by_use; n = n->newer)
        if (!of_state(n)->holds) return of_state(n);
    return NULL;
}

// Drops what was used longest ago: a leaf, or a snapshot, whose memory goes to *ret_state. False: nothing can
// go.
static bool evict(tc_prefix_cache *c, void **ret_state)
{
    tc_prefix_block *leaf = oldest_leaf(c), *state = oldest_state(c);
    if (!leaf && !state) return false;
    if (state && (!leaf || state->state_used <= leaf->used))
        *ret_state = take_state(c, state);
    else
        drop_block(c, leaf);
    c->stats.evictions++;
    return true;
}

static bool make_room(tc_prefix_cache *c, size_t bytes)
{
    if (bytes > c->stats.budget_bytes) return false;
    while (c->stats.bytes + bytes > c->stats.budget_bytes) {
        void *state = NULL;
        if (!evict(c, &state)) return false;
        tc_free(state);
    }
    return true;
}

// Memory for a snapshot: that of the one that goes for it, if it is one. Fresh memory is some 80 MB to be
// zeroed and mapped while everybody waits. NULL: there is no room.
static void *room_for_state(tc_prefix_cache *c)
{
    void *state = NULL;
    if (c->state_bytes > c->stats.budget_bytes) return NULL;
    while (!state && c->stats.bytes + c->state_bytes > c->stats.budget_bytes)
        if (!evict(c, &state)) return NULL;
    return state ? state : tc_alloc(TC_MEM_STATE, c->state_bytes, 1);
}

void tc_prefix_cache_set_budget(tc_prefix_cache *c, uint64_t budget_bytes)
{
    if (!c) return;
    c->stats.budget_bytes = budget_bytes;
    make_room(c, 0);
}

void tc_prefix_cache_free(tc_prefix_cache *c)
{
    if (!c) return;
    tc_prefix_block *b;
    while ((b = oldest_leaf(c))) drop_block(c, b);
    tc_free(c->bucket);
    tc_free(c);
}

// ---- finding ----

static uint64_t hash_of(uint64_t scope, const tc_prefix_block *parent, const uint32_t *tokens, uint32_t count)
{
    return XXH3_64bits_withSeed(tokens, count * sizeof *tokens, parent ? parent->hash : scope);
}

static tc_prefix_block *child_of(const tc_prefix_cache *c, uint64_t scope, const tc_prefix_block *parent,
                                 const uint32_t *tokens, uint32_t count)
{
    uint64_t hash = hash_of(scope, parent, tokens, count);
    for (tc_prefix_block *b = c->bucket[hash & (c->buckets - 1)]; b; b = b->next)
        if (b->hash == hash && b->parent == parent && b->scope == scope && b->count == count &&
            memcmp(b->tokens, tokens, count * sizeof *tokens) == 0)
            return b;
    return NULL;
}

static bool can_begin(const tc_prefix_cache *c, const tc_prefix_block *b)
{
    return b && (b->state || !c->state_bytes);
}

// The longest tail behind `last` that tokens[0, count) begin with and a session can go on from.
static tc_prefix_block *tail_of(const tc_prefix_cache *c, uint64_t scope, const tc_prefix_block *last,
                                const uint32_t *tokens, uint32_t count)
{
    tc_prefix_block *b = NULL;
    for (uint32_t n = count < TC_KV_PAGE_POSITIONS ? count : TC_KV_PAGE_POSITIONS - 1; n && !can_begin(c, b);
         n--)
        b = child_of(c, scope, last, tokens, n);
    return can_begin(c, b) ? b : NULL;
}

// The deepest tail on the way to `last`, the last of the known blocks, that lies deeper than the match does.
static void take_tail(const tc_prefix_cache *c, uint64_t scope, const uint32_t *tokens, uint32_t count,
                      tc_prefix_block *last, tc_prefix_match *match)
{
    tc_prefix_block *at = last, *tail;
    uint32_t position = match->known;
    for (int i = 0; i < BLOCKS_BACK; i++, position -= TC_KV_PAGE_POSITIONS, at = at->parent) {
        if ((tail = tail_of(c, scope, at, tokens + position, count - position))) {
            match->block = tail;
            match->usable = position + tail->count;
            if (match->known < match->usable) match->known = match->usable;
            return;
        }
        if (!at || at == match->block) return;
    }
}

static void touch(tc_prefix_cache *c, tc_prefix_block *leaf)
{
    c->clock++;
    for (tc_prefix_block *b = leaf; b; b = b->parent) {
        b->used = c->clock;
        unlink_node(&b->by_use);
        link_behind(&c->by_use, &b->by_use);
    }
}

tc_prefix_match tc_prefix_find(tc_prefix_cache *c, uint64_t scope, const uint32_t *tokens, uint32_t count)
{
    tc_prefix_match match = {0};
    tc_prefix_block *last = NULL, *b;
    if (!c) return match;
    while (count - match.known >= TC_KV_PAGE_POSITIONS &&
           (b = child_of(c, scope, last, tokens + match.known, TC_KV_PAGE_POSITIONS))) {
        last = b;
        match.known += TC_KV_PAGE_POSITIONS;
        if (can_begin(c, b)) {
            match.block = b;
            match.usable = match.known;
        }
    }
    take_tail(c, scope, tokens, count, last, &match);
    touch(c, last);
    if (!match.block) return match;
    if (match.block->count < TC_KV_PAGE_POSITIONS)
        touch(c, match.block); // a tail is not on the way to `last`
    match.block->holds++;
    if (c->state_bytes) {
        match.block->state_used = c->clock;
        unlink_node(&match.block->state_by_use);
        link_behind(&c->state_by_use, &match.block->state_by_use);
    }
    return match;
}

void tc_prefix_release(tc_prefix_cache *c, tc_prefix_block *b)
{
    if (!b) return;
    b->holds--;
    touch(c, b);
}

tc_prefix_block *tc_prefix_whole(tc_prefix_cache *c, tc_prefix_block *b)
{
    if (!b || b->count == TC_KV_PAGE_POSITIONS) return b;
    if (b->parent) b->parent->holds++;
    b->holds--;
    return b->parent;
}

tc_prefix_block *tc_prefix_load_page(tc_prefix_cache *c, tc_prefix_block *b, const uint32_t *pages,
                                     uint32_t *ret_index)
{
    c->dev->ops->page_load(c->dev, pages[b->depth], b->page);
    *ret_index = b->depth;
    return b->parent;
}

void tc_prefix_load_state(tc_prefix_cache *c, tc_prefix_block *b, uint32_t slot)
{
    if (c->state_bytes) c->dev->ops->slot_load(c->dev, slot, b->state);
}

// ---- adding ----

static tc_prefix_block *new_block(tc_prefix_cache *c, uint64_t scope, tc_prefix_block *parent,
                                  const uint32_t *tokens, uint32_t count)
{
    if (!make_room(c, c->page_bytes + sizeof(tc_prefix_block))) return NULL;
    tc_prefix_block *b = tc_alloc(TC_MEM_KV, 1, sizeof *b);
    void *page = b ? tc_alloc(TC_MEM_KV, c->page_bytes, 1) : NULL;
    if (!page) {
        tc_free(b);
        return NULL;
    }
    b->page = page;
    b->parent = parent;
    b->scope = scope;
    b->depth = parent ? parent->depth + 1 : 0;
    b->count = count;
    b->hash = hash_of(scope, parent, tokens, count);
    b->used = parent ? parent->used : ++c->clock;
    memcpy(b->tokens, tokens, count * sizeof *tokens);
    if (parent) parent->children++;
    b->next = c->bucket[b->hash & (c->buckets - 1)];
    c->bucket[b->hash & (c->buckets - 1)] = b;
    link_behind(parent ? &parent->by_use : &c->by_use, &b->by_use);
    c->stats.blocks++;
    c->stats.bytes += c->page_bytes + sizeof *b;
    return b;
}

tc_prefix_block *tc_prefix_add(tc_prefix_cache *c, uint64_t scope, tc_prefix_block *parent,
                               const uint32_t *tokens, uint32_t count, uint32_t page)
{
    tc_prefix_block *b = child_of(c, scope, parent, tokens, count);
    if (!b) {
        b = new_block(c, scope, parent, tokens, count); // the parent is held: eviction cannot take it
        if (b) c->dev->ops->page_save(c->dev, page, b->page);
    }
    if (b) b->holds++;
    if (parent) parent->holds--;
    return b;
}

bool tc_prefix_add_state(tc_prefix_cache *c, tc_prefix_block *b, uint32_t slot)
{
    if (b->state) return true;
    void *state = c->state_bytes ? room_for_state(c) : NULL;
    if (!state) return false;
    c->dev->ops->slot_save(c->dev, slot, state);
    b->state = state;
    b->state_used = ++c->clock;
    link_behind(&c->state_by_use, &b->state_by_use);
    c->stats.snapshots++;
    c->stats.bytes += c->state_bytes;
    return true;
}

tc_prefix_stats tc_prefix_cache_stats(const tc_prefix_cache *c)
{
    return c ? c->stats : (tc_prefix_stats){0};
}
