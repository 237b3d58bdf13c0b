// SPDX-License-Identifier: Apache-2.0
// Owns: the arena of one rendering (or of one parsed template), errors, and the count of work.
#include "common/text/template_value.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 64 << 10, BLOCK_BYTES_MAX = 1 << 20 };

typedef struct tc_arena_block {
    struct tc_arena_block *next;
    size_t bytes;
} tc_arena_block;

enum { HEAD = (sizeof(tc_arena_block) + TC_ARENA_ALIGN - 1) / TC_ARENA_ALIGN * TC_ARENA_ALIGN };

static void *new_block(tc_arena *a, size_t bytes)
{
    if (bytes > a->limit_bytes || a->used_bytes > a->limit_bytes - bytes) {
        a->over_limit = true;
        return NULL;
    }
    tc_arena_block *block = malloc(bytes);
    if (!block) return NULL;
    a->used_bytes += bytes;
    *block = (tc_arena_block){a->blocks, bytes};
    a->blocks = block;
    return block;
}

static void use_block(tc_arena *a, tc_arena_block *block)
{
    a->at = (uint8_t *)block + HEAD;
    a->end = (uint8_t *)block + block->bytes;
}

void *tc_arena_more(tc_arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) {
        a->over_limit = true;
        return NULL;
    }
    bytes = (bytes + TC_ARENA_ALIGN - 1) & ~(size_t)(TC_ARENA_ALIGN - 1);
    if (bytes > BLOCK_BYTES / 4) { // a block of its own, and the current one stays in use
        uint8_t *own = new_block(a, bytes + HEAD);
        return own ? own + HEAD : NULL;
    }
    size_t want = BLOCK_BYTES;
    while (want < a->used_bytes / 4 && want < BLOCK_BYTES_MAX) want *= 2;
    tc_arena_block *block = new_block(a, want);
    if (!block) return NULL;
    use_block(a, block);
    void *p = a->at;
    a->at += bytes;
    return p;
}

void tc_arena_free(tc_arena *a)
{
    for (tc_arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (tc_arena){0};
}

void tc_arena_begin(tc_arena *a, size_t limit_bytes, tc_arena_spare *spare)
{
    *a = (tc_arena){.limit_bytes = limit_bytes};
    if (limit_bytes / 8 < TC_ARENA_SPARE_BYTES_MAX) return; // a limit so small counts its own bytes only
    tc_arena_block *block = atomic_exchange(&spare->block, NULL);
    if (!block) return;
    block->next = NULL;
    a->blocks = block;
    a->used_bytes = block->bytes;
    use_block(a, block);
}

// Leaves one block as large as all of them together were: the next arena of this kind then needs no other.
void tc_arena_end(tc_arena *a, tc_arena_spare *spare)
{
    tc_arena_block *keep = NULL;
    if (a->blocks && !a->blocks->next && a->used_bytes <= TC_ARENA_SPARE_BYTES_MAX) {
        keep = a->blocks;
        a->blocks = NULL;
    } else if (a->limit_bytes / 8 >= TC_ARENA_SPARE_BYTES_MAX) {
        size_t half =
            a->used_bytes < TC_ARENA_SPARE_BYTES_MAX / 2 ? a->used_bytes : TC_ARENA_SPARE_BYTES_MAX / 2;
        keep = half ? malloc(half * 2) : NULL;
        if (keep) *keep = (tc_arena_block){NULL, half * 2};
    }
    tc_arena_free(a);
    if (keep) free(atomic_exchange(&spare->block, keep));
}

void tc_arena_spare_free(tc_arena_spare *spare)
{
    free(atomic_exchange(&spare->block, NULL));
}

tc_tv tc_tr_fail_text(tc_tr *r, const char *kind, const char *message, size_t bytes)
{
    if (r->failed) return TC_TV_OF(TC_TV_ERROR);
    r->failed = true;
    r->status = TC_FORMAT;
    snprintf(r->kind, sizeof r->kind, "%s", kind);
    r->message = malloc(bytes + 1); // not of the arena: it outlives the rendering
    if (r->message) {
        memcpy(r->message, message, bytes);
        r->message[bytes] = '\0';
        r->message_bytes = bytes;
    }
    return TC_TV_OF(TC_TV_ERROR);
}

tc_tv tc_tr_fail(tc_tr *r, const char *kind, const char *format, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    size_t bytes = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    return tc_tr_fail_text(r, kind, text, bytes);
}

tc_tv tc_tr_nomem(tc_tr *r)
{
    if (r->arena.over_limit) return tc_tr_limit(r, "memory");
    bool first = !r->failed;
    tc_tr_fail(r, "MemoryError", "out of memory");
    if (first) r->status = TC_NOMEM;
    return TC_TV_OF(TC_TV_ERROR);
}

tc_tv tc_tr_limit(tc_tr *r, const char *what)
{
    bool first = !r->failed;
    tc_tr_fail(r, "LimitExceeded", "the template exceeds its limit of %s", what);
    if (first) r->status = TC_LIMIT;
    return TC_TV_OF(TC_TV_ERROR);
}

bool tc_tr_no_steps(tc_tr *r)
{
    r->steps_left = 0;
    tc_tr_limit(r, "steps");
    return false;
}
