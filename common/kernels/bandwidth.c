// SPDX-License-Identifier: Apache-2.0
// Owns: the streaming read behind the roofline.
#include "common/kernels/bandwidth.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#include <string.h>

enum { PASSES = 6, BLOCK_BYTES = 1 << 18 };

typedef uint64_t read_fn(const uint64_t *data, size_t words);

typedef struct stream {
    const uint64_t *data;
    read_fn *read;
    uint64_t sums[TC_TEAM_THREADS_MAX]; // keeps the reads alive
} stream;

// Only as fast as its loads are wide, so it is compiled once an instruction set. Not target_clones: clang
// lacks it for C, and the sanitizers do not survive resolvers that run before them.
static inline __attribute__((always_inline)) uint64_t read_words(const uint64_t *data, size_t words)
{
    uint64_t lanes[32] = {0};
    for (size_t i = 0; i < words; i += 32)
        for (int j = 0; j < 32; j++) lanes[j] ^= data[i + (size_t)j];
    for (int j = 1; j < 32; j++) lanes[0] ^= lanes[j];
    return lanes[0];
}

static uint64_t read_plain(const uint64_t *data, size_t words)
{
    return read_words(data, words);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_avx2(const uint64_t *data, size_t words)
{
    return read_words(data, words);
}

__attribute__((target("avx512f"))) static uint64_t read_avx512(const uint64_t *data, size_t words)
{
    return read_words(data, words);
}
#endif

static read_fn *widest_read(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return read_avx512;
    if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
    return read_plain;
}

uint64_t tc_stream_memory(const void *data, size_t bytes)
{
    return widest_read()(data, bytes / 256 * (256 / sizeof(uint64_t)));
}

static void read_item(void *arg, uint32_t i, uint32_t member)
{
    stream *s = arg;
    s->sums[member] ^= s->read(s->data + (size_t)i * (BLOCK_BYTES / 8), BLOCK_BYTES / 8);
}

static void touch_item(void *arg, uint32_t i, uint32_t member)
{
    (void)member;
    stream *s = arg;
    memset((char *)s->data + (size_t)i * BLOCK_BYTES, (int)i | 1, BLOCK_BYTES);
}

tc_status tc_measure_read_bandwidth(tc_team *team, size_t bytes, double *ret_gb_per_s, tc_error *e)
{
    uint32_t blocks = (uint32_t)(bytes / BLOCK_BYTES);
    stream s = {.read = widest_read()};
    if (blocks == 0) return tc_fail(e, TC_ARGUMENT, "bandwidth: %zu bytes are too few", bytes);
    void *memory = tc_alloc(TC_MEM_OTHER, blocks, BLOCK_BYTES);
    if (!memory) return tc_fail(e, TC_NOMEM, "bandwidth: out of memory for %zu bytes", bytes);
    s.data = memory;
    double best = 0;
    tc_team_each(team, blocks, touch_item, &s);
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t start = tc_now_ns();
        tc_team_each(team, blocks, read_item, &s);
        double rate = (double)blocks * BLOCK_BYTES / (double)(tc_now_ns() - start);
        if (rate > best) best = rate;
    }
    tc_free(memory);
    *ret_gb_per_s = best;
    return TC_OK;
}
