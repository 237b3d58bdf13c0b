// SPDX-License-Identifier: Apache-2.0
// Owns: the reserve: pieces one behind the other, all of it free again when the last piece is.
#include "gateway/uv_memory.h"

#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { ALIGNMENT = 16 };

static struct reserve {
    pthread_mutex_t lock; // libuv's own threads allocate too
    size_t used, pieces;
    _Alignas(ALIGNMENT) uint8_t bytes[TC_UV_RESERVE_BYTES];
} reserve = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_reserved(const void *memory)
{
    uintptr_t at = (uintptr_t)memory, begin = (uintptr_t)reserve.bytes;
    return at >= begin && at < begin + sizeof reserve.bytes;
}

// Before each piece lies its size.
static size_t size_of(const void *memory)
{
    return *(const size_t *)(const void *)((const uint8_t *)memory - ALIGNMENT);
}

static void *take(size_t bytes)
{
    void *found = NULL;
    if (bytes > sizeof reserve.bytes) return NULL;
    size_t all = ALIGNMENT + (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    pthread_mutex_lock(&reserve.lock);
    if (all <= sizeof reserve.bytes - reserve.used) {
        uint8_t *piece = reserve.bytes + reserve.used;
        memcpy(piece, &bytes, sizeof bytes);
        found = piece + ALIGNMENT;
        reserve.used += all;
        reserve.pieces++;
    }
    pthread_mutex_unlock(&reserve.lock);
    return found;
}

static void *uv_take(size_t bytes)
{
    void *memory = malloc(bytes);
    return memory ? memory : take(bytes);
}

static void uv_give(void *memory)
{
    if (!is_reserved(memory)) {
        free(memory);
        return;
    }
    pthread_mutex_lock(&reserve.lock);
    if (--reserve.pieces == 0) reserve.used = 0;
    pthread_mutex_unlock(&reserve.lock);
}

static void *uv_take_zeroed(size_t count, size_t bytes)
{
    size_t all;
    void *memory = calloc(count, bytes);
    if (memory || __builtin_mul_overflow(count, bytes, &all)) return memory;
    memory = take(all);
    return memory ? memset(memory, 0, all) : NULL;
}

static void *uv_resize(void *memory, size_t bytes)
{
    if (!is_reserved(memory)) {
        void *moved = realloc(memory, bytes);
        if (moved || !bytes) return moved;
        moved = take(bytes);
        if (!moved || !memory) return moved;
        size_t had = malloc_usable_size(memory);
        memcpy(moved, memory, bytes < had ? bytes : had);
        free(memory);
        return moved;
    }
    void *moved = uv_take(bytes);
    if (!moved) return NULL;
    memcpy(moved, memory, bytes < size_of(memory) ? bytes : size_of(memory));
    uv_give(memory);
    return moved;
}

void tc_uv_memory_begin(void)
{
    uv_replace_allocator(uv_take, uv_resize, uv_take_zeroed, uv_give);
}
