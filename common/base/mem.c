// SPDX-License-Identifier: Apache-2.0
// Owns: the block header (right before each block) and the per-tag counters. Zeros come from calloc, which
// does not touch what the system gave it fresh: a large block becomes resident where it is used. Weights lie
// one behind another in chunks of large pages: most matrices are a few MiB, and of such a block of its own
// half would be in small pages, which are read at two thirds of the speed.
#include "common/base/mem.h"
#include "common/base/pressure.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// At the start of its memory. What is behind `used` was never touched, and so is zero and takes no memory.
typedef struct chunk {
    size_t bytes, used;
    uint32_t blocks; // not freed
} chunk;

typedef struct block_header {
    void *raw;   // as malloc knows it
    chunk *from; // NULL: malloc's
    size_t bytes;
    tc_mem_tag tag;
} block_header;

static _Atomic uint64_t held_bytes[TC_MEM_TAGS];
static _Thread_local bool guarded;
static _Thread_local uint64_t violations;

static pthread_mutex_t chunks_lock = PTHREAD_MUTEX_INITIALIZER;
static chunk *open_chunk; // which blocks are cut from

enum {
    HUGE_FROM_BYTES = 4 << 20, // from here on transparent huge pages are worth asking for
    HUGE_PAGE_BYTES = 2 << 20,
    CHUNK_BYTES = 64 << 20,
    CHUNKED_FROM_BYTES = 1 << 16,
};

static chunk *map_chunk(size_t bytes)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    size_t size = (bytes + TC_ALIGN_BYTES + HUGE_PAGE_BYTES - 1) & ~((size_t)HUGE_PAGE_BYTES - 1);
    if (size < CHUNK_BYTES) size = CHUNK_BYTES;
    char *all = mmap(NULL, size + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (all == MAP_FAILED) return NULL;
    const size_t before = -(uintptr_t)all & (HUGE_PAGE_BYTES - 1);
    if (before) munmap(all, before);
    munmap(all + before + size, HUGE_PAGE_BYTES - before);
    chunk *c = (chunk *)(all + before);
    (void)madvise(c, size, MADV_HUGEPAGE); // advice: nothing is lost where it is refused
    *c = (chunk){.bytes = size, .used = TC_ALIGN_BYTES};
    return c;
}

static size_t room_of(const chunk *c)
{
    return c ? c->bytes - c->used : 0;
}

static void *take_of_chunk(size_t total, chunk **ret)
{
    char *at = NULL;
    if (total > PTRDIFF_MAX) return NULL;
    pthread_mutex_lock(&chunks_lock);
    chunk *c = room_of(open_chunk) >= total ? open_chunk : map_chunk(total);
    if (c) {
        at = (char *)c + c->used;
        c->used += total;
        c->blocks++;
        if (room_of(c) > room_of(open_chunk)) open_chunk = c;
    }
    pthread_mutex_unlock(&chunks_lock);
    *ret = c;
    return at;
}

static void leave_chunk(chunk *c)
{
    pthread_mutex_lock(&chunks_lock);
    if (--c->blocks == 0) {
        if (open_chunk == c) open_chunk = NULL;
        munmap(c, c->bytes);
    }
    pthread_mutex_unlock(&chunks_lock);
}

static void *take_of_malloc(size_t total)
{
    char *raw = calloc(1, total);
    if (raw && total >= HUGE_FROM_BYTES) {
        uintptr_t page = ((uintptr_t)raw + 4095) & ~(uintptr_t)4095;
        (void)madvise((void *)page, (size_t)((uintptr_t)raw + total - page) & ~(size_t)4095, MADV_HUGEPAGE);
    }
    return raw;
}

void *tc_alloc(tc_mem_tag tag, size_t count, size_t size)
{
    size_t bytes, total;
    if (guarded) {
        violations++;
        return NULL;
    }
    if (!tc_mul_size(count, size, &bytes)) return NULL;
    if (__builtin_add_overflow(bytes, 3 * (size_t)TC_ALIGN_BYTES - 1, &total)) return NULL;
    total &= ~((size_t)TC_ALIGN_BYTES - 1);
    chunk *from = NULL;
    const bool chunked = TC_WEIGHTS_TOGETHER && tag == TC_MEM_WEIGHTS && bytes >= CHUNKED_FROM_BYTES;
    void *raw = chunked ? take_of_chunk(total, &from) : take_of_malloc(total);
    if (!raw) return NULL;
    uintptr_t at = ((uintptr_t)raw + 2 * (uintptr_t)TC_ALIGN_BYTES - 1) & ~((uintptr_t)TC_ALIGN_BYTES - 1);
    block_header *header = (block_header *)(at - TC_ALIGN_BYTES);
    *header = (block_header){raw, from, bytes, tag};
    atomic_fetch_add_explicit(&held_bytes[tag], bytes, memory_order_relaxed);
    return (void *)at;
}

void tc_free(void *block)
{
    if (!block) return;
    block_header *header = (block_header *)((char *)block - TC_ALIGN_BYTES);
    atomic_fetch_sub_explicit(&held_bytes[header->tag], header->bytes, memory_order_relaxed);
    if (header->from)
        leave_chunk(header->from);
    else
        free(header->raw);
}

uint64_t tc_mem_heap_bytes(void)
{
    struct mallinfo2 held = mallinfo2();
    return held.uordblks + held.hblkhd;
}

void tc_mem_trim(void)
{
    malloc_trim(0);
}

uint64_t tc_mem_bytes(tc_mem_tag tag)
{
    return atomic_load_explicit(&held_bytes[tag], memory_order_relaxed);
}

void tc_mem_guard_begin(void)
{
    guarded = true;
    violations = 0;
}

uint64_t tc_mem_guard_end(void)
{
    guarded = false;
    return violations;
}

uint64_t tc_mem_available_bytes(void)
{
    tc_pressure now;
    tc_pressure_read("", &now);
    return now.available_bytes;
}
