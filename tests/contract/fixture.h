// SPDX-License-Identifier: Apache-2.0
// Owns: what the contract tests of devices share: a device under test, copies of arrays in its memory, random
// numbers, and comparing with expected ones.
#pragma once

#include "gpu-core/dev/dev.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdlib.h>

// float32 sums of a few hundred terms; keys and values rounded to 11 bits
static const double BOUND = 2e-5, HALF_BOUND = 2e-3;

// One device, and another that differs in nothing but the number of its threads.
typedef struct fixture {
    tc_team *team, *other_team;
    tc_dev *dev, *other;
    double bound; // of the largest value
    bool fast;    // 4-bit matrices give the bits of TC_FAST
    struct {
        void *memory;
        size_t bytes;
    } placed[48];
    uint32_t placed_count;
} fixture;

// Copies of the test's arrays in the device's memory; `back` fetches one, `clear` gives all back.
static inline void *put(fixture *f, const void *host, size_t bytes)
{
    void *memory = f->dev->ops->alloc(f->dev, TC_MEM_SCRATCH, bytes);
    assert_non_null(memory);
    assert_true(f->placed_count < sizeof f->placed / sizeof *f->placed);
    f->dev->ops->upload(f->dev, memory, host, bytes);
    f->placed[f->placed_count].memory = memory;
    f->placed[f->placed_count++].bytes = bytes;
    return memory;
}

static inline void back(fixture *f, void *host, const void *placed, size_t bytes)
{
    f->dev->ops->download(f->dev, host, placed, bytes);
}

static inline void clear(fixture *f)
{
    while (f->placed_count) f->dev->ops->release(f->dev, f->placed[--f->placed_count].memory);
}

static inline float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static inline float *random_floats(size_t n)
{
    float *x = tc_alloc(TC_MEM_OTHER, n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = noise();
    return x;
}

static inline void assert_within(double bound, const float *got, const double *expected, size_t n,
                                 const char *what)
{
    double most = 1e-30, worst = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(expected[i]));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) fail_msg("%s: element %zu is not finite", what, i);
        worst = fmax(worst, fabs(got[i] - expected[i]) / most);
    }
    if (worst > bound) fail_msg("%s: error %.3g of the largest value, bound %.3g", what, worst, bound);
}

static inline void assert_close(const float *got, const double *expected, size_t n, const char *what)
{
    assert_within(BOUND, got, expected, n, what);
}
