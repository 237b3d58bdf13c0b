// SPDX-License-Identifier: Apache-2.0
// Owns: heap blocks of our libraries: aligned, zeroed, sized with overflow checks, counted by purpose, and
// forbidden while a guard is up (the decode step allocates nothing, and the guard makes that a test).
// Refuses: to be a general allocator. Third-party libraries keep their own.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TC_ALIGN_BYTES = 64 }; // every block starts on its own cache line, ready for 512-bit loads

typedef enum tc_mem_tag {
    TC_MEM_OTHER,
    TC_MEM_WEIGHTS,
    TC_MEM_KV,
    TC_MEM_STATE,
    TC_MEM_SCRATCH,
    TC_MEM_TAGS
} tc_mem_tag;

// Whether blocks of weights lie one behind another. Not under the address sanitizer: there each is malloc's,
// so that a step past its end is seen.
#ifndef __has_feature // clang's
#define __has_feature(what) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
enum { TC_WEIGHTS_TOGETHER = 0 };
#else
enum { TC_WEIGHTS_TOGETHER = 1 };
#endif

// Zeroed block of count*size bytes, 64-byte aligned. NULL when out of memory, on overflow, or inside a guard
// of this thread. count*size == 0 gives a valid block.
void *tc_alloc(tc_mem_tag tag, size_t count, size_t size);
// Accepts NULL. Must be given blocks of tc_alloc only.
void tc_free(void *block);

// Bytes now held under a tag, process-wide.
uint64_t tc_mem_bytes(tc_mem_tag tag);

// Bytes that this process now holds from malloc, third-party libraries' too.
uint64_t tc_mem_heap_bytes(void);
// Gives back to the system what malloc keeps free. May take milliseconds: for hours of rest.
void tc_mem_trim(void);

// Between begin and end, tc_alloc of this thread fails and counts as a violation. Not nestable.
void tc_mem_guard_begin(void);
uint64_t tc_mem_guard_end(void); // violations since begin

// False on overflow; *ret untouched then.
static inline bool tc_mul_size(size_t a, size_t b, size_t *ret)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *ret = product;
    return true;
}

// What the system would give this process without swapping: MemAvailable, or the cgroup's limit if that is
// lower. UINT64_MAX: unknown.
uint64_t tc_mem_available_bytes(void);
