// SPDX-License-Identifier: Apache-2.0
// Owns: the test of statuses and error lines, memory (sizes, tags, the guard) and the thread team.
#include "common/base/mem.h"
#include "common/base/status.h"
#include "common/base/team.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

static void test_status(void **state)
{
    tc_error e;
    char wide[600];
    assert_int_equal(tc_fail(&e, TC_FORMAT, "a %d\nb", 5), TC_FORMAT);
    assert_string_equal(e.text, "a 5?b"); // one line, whatever a hostile name holds
    assert_int_equal(tc_error_prefix(&e, "file\x1b"), TC_FORMAT);
    assert_string_equal(e.text, "file?: a 5?b");
    assert_int_equal(tc_fail(NULL, TC_IO, "x"), TC_IO);
    errno = ENOENT;
    tc_fail_errno(&e, TC_IO, "x");
    assert_string_equal(e.text, "x: No such file or directory");
    memset(wide, 'w', sizeof wide);
    wide[sizeof wide - 1] = '\0';
    tc_fail(&e, TC_IO, "%s", wide);
    assert_int_equal(strlen(e.text), TC_ERROR_TEXT_BYTES - 1);
    tc_error_prefix(&e, "%s", wide);
    assert_int_equal(strlen(e.text), TC_ERROR_TEXT_BYTES - 1);
    assert_string_equal(tc_status_text(TC_NOMEM), "out of memory");
    assert_string_equal(tc_status_text((tc_status)99), "unknown status");
}

static void test_mem(void **state)
{
    static const size_t sizes[] = {0, 1, 63, 64, 65, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *block = tc_alloc(TC_MEM_KV, sizes[i], 1);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % TC_ALIGN_BYTES, 0);
        assert_int_equal(tc_mem_bytes(TC_MEM_KV), sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(block[k], 0);
        memset(block, 1, sizes[i]);
        tc_free(block);
        assert_int_equal(tc_mem_bytes(TC_MEM_KV), 0);
    }
    assert_null(tc_alloc(TC_MEM_KV, SIZE_MAX, 2));
    assert_null(tc_alloc(TC_MEM_KV, SIZE_MAX, 1));
    tc_free(NULL);
    tc_mem_guard_begin();
    assert_null(tc_alloc(TC_MEM_KV, 1, 1));
    assert_int_equal(tc_mem_guard_end(), 1);
    tc_mem_guard_begin();
    assert_int_equal(tc_mem_guard_end(), 0);
    size_t product = 7;
    assert_false(tc_mul_size(SIZE_MAX / 2 + 1, 2, &product));
    assert_int_equal(product, 7);
    assert_true(tc_mul_size(6, 7, &product));
    assert_int_equal(product, 42);
}

// Weights lie one behind another, which is what gives small matrices large pages.
static void test_weights_lie_together(void **state)
{
    enum {
        BLOCKS = 300,
        BYTES = 600000,
        WIDE_BYTES = 80 << 20
    }; // several chunks, and one that is wider than them
    static uint8_t *block[BLOCKS];
    uint32_t neighbours = 0;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        block[i] = tc_alloc(TC_MEM_WEIGHTS, BYTES + i, 1);
        assert_non_null(block[i]);
        assert_int_equal((uintptr_t)block[i] % TC_ALIGN_BYTES, 0);
        if (i) neighbours += block[i] > block[i - 1] && block[i] < block[i - 1] + BYTES + i + 4096;
        for (size_t k = 0; k < BYTES + i; k += 4096) assert_int_equal(block[i][k], 0);
        assert_int_equal(block[i][BYTES + i - 1], 0);
        memset(block[i], (int)i | 1, BYTES + i);
    }
    if (TC_WEIGHTS_TOGETHER) assert_true(neighbours >= BLOCKS - 4);
    uint8_t *wide = tc_alloc(TC_MEM_WEIGHTS, WIDE_BYTES, 1);
    assert_non_null(wide);
    wide[0] = wide[WIDE_BYTES - 1] = 1;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(block[i][0], i % 256 | 1); // nobody wrote over it
        assert_int_equal(block[i][BYTES + i - 1], i % 256 | 1);
    }
    for (uint32_t i = 0; i < BLOCKS; i += 2) tc_free(block[i]);
    for (uint32_t i = 1; i < BLOCKS; i += 2) assert_int_equal(block[i][BYTES / 2], i % 256 | 1);
    for (uint32_t i = 1; i < BLOCKS; i += 2) tc_free(block[i]);
    uint8_t *again = tc_alloc(TC_MEM_WEIGHTS, BYTES, 1); // zero, whatever lay there before
    for (size_t k = 0; k < BYTES; k++) assert_int_equal(again[k], 0);
    tc_free(again);
    tc_free(wide);
    if (TC_WEIGHTS_TOGETHER)
        assert_null(tc_alloc(TC_MEM_WEIGHTS, SIZE_MAX - 4096, 1)); // malloc under ASan would end it
    assert_int_equal(tc_mem_bytes(TC_MEM_WEIGHTS), 0);
}

enum { ITEMS = 1000 };

typedef struct work {
    tc_team *team;
    _Atomic uint32_t seen[ITEMS];
    uint32_t phase[8];
    _Atomic uint32_t wrong;
} work;

static void item(void *arg, uint32_t i, uint32_t member)
{
    work *w = arg;
    if (member >= tc_team_size(w->team)) w->wrong++;
    w->seen[i]++;
}

static void phases(void *arg, uint32_t member)
{
    work *w = arg;
    for (uint32_t p = 1; p <= 50; p++) {
        w->phase[member] = p;
        tc_team_barrier(w->team);
        for (uint32_t m = 0; m < tc_team_size(w->team); m++)
            if (w->phase[m] != p) w->wrong++;
        tc_team_barrier(w->team);
    }
}

static void test_team(void **state)
{
    static const uint32_t sizes[] = {1, 2, 5};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        tc_error e;
        static work w;
        memset(&w, 0, sizeof w);
        assert_int_equal(tc_team_create(&(tc_team_options){.threads = sizes[s]}, &w.team, &e), TC_OK);
        assert_int_equal(tc_team_size(w.team), sizes[s]);
        for (int round = 0; round < 20; round++) tc_team_each(w.team, ITEMS, item, &w);
        for (int i = 0; i < ITEMS; i++) assert_int_equal(w.seen[i], 20); // each once a round
        tc_team_each(w.team, 0, item, &w);
        tc_team_run(w.team, phases, &w);
        assert_int_equal(w.wrong, 0);
        tc_team_free(w.team);
    }
    tc_team *team;
    tc_error e;
    assert_int_not_equal(tc_team_create(&(tc_team_options){.threads = 0}, &team, &e), TC_OK);
    assert_int_not_equal(tc_team_create(&(tc_team_options){.threads = TC_TEAM_THREADS_MAX + 1}, &team, &e),
                         TC_OK);
    tc_team_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_status), cmocka_unit_test(test_mem),
                                       cmocka_unit_test(test_weights_lie_together),
                                       cmocka_unit_test(test_team)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
