// SPDX-License-Identifier: Apache-2.0
// Owns: the block header (right before each block) and the per-tag counters. Zeros come from calloc, which
// does not touch what the system gave it fresh: a large block becomes resident where it is used.
#include "common/base/mem.h"
#include "common/base/pressure.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct block_header {
    void *raw; // as malloc knows it
    size_t bytes;
    tc_mem_tag tag;
} block_header;

static _Atomic uint64_t held_bytes[TC_MEM_TAGS];
static _Thread_local bool guarded;
static _Thread_local uint64_t violations;

enum { HUGE_FROM_BYTES = 4 << 20 }; // from here on transparent huge pages are worth asking for

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
    char *raw = calloc(1, total);
    if (!raw) return NULL;
    if (total >= HUGE_FROM_BYTES) {
        uintptr_t page = ((uintptr_t)raw + 4095) & ~(uintptr_t)4095;
        (void)madvise((void *)page, (size_t)((uintptr_t)raw + total - page) & ~(size_t)4095, MADV_HUGEPAGE);
    }
    uintptr_t at = ((uintptr_t)raw + 2 * (uintptr_t)TC_ALIGN_BYTES - 1) & ~((uintptr_t)TC_ALIGN_BYTES - 1);
    block_header *header = (block_header *)(at - TC_ALIGN_BYTES);
    *header = (block_header){raw, bytes, tag};
    atomic_fetch_add_explicit(&held_bytes[tag], bytes, memory_order_relaxed);
    return (void *)at;
}

void tc_free(void *block)
{
    if (!block) return;
    block_header *header = (block_header *)((char *)block - TC_ALIGN_BYTES);
    atomic_fetch_sub_explicit(&held_bytes[header->tag], header->bytes, memory_order_relaxed);
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
