// SPDX-License-Identifier: Apache-2.0
// Owns: the order of accesses between a waiter that goes to sleep and a ringer that must not miss it.
//
//   waiter                             ringer
//     seen = word                        store the cause
//     sleeping <- 1    (RMW)             read sleeping    (RMW)
//     look at the cause                  if set: word++, wake
//     sleep while word == seen
//
// Both sides touch `sleeping` with a read-modify-write. If the ringer's comes first, the waiter's reads from
// it and so sees the cause, however the cause was stored; if it comes second, it reads 1 and wakes. `seen` is
// taken before, so a ring in between makes the kernel refuse to sleep.
#include "proto/bell.h"
#include "common/base/clock.h"
#include "common/base/spin.h"
#include "proto/segment.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BELL_BYTES = 4096,
    BELL_VERSION = 1,
};
#define BELL_MAGIC 0x6c6c656264696874u

typedef struct bell_memory {
    uint64_t magic;
    uint32_t version;
    _Alignas(128) tc_wait_line line;
    _Alignas(128) char rest[];
} bell_memory;

struct tc_bell {
    tc_segment segment;
    bell_memory *memory;
};

static bool spin(tc_ready *ready, void *arg, uint64_t end_ns)
{
    do {
        for (int i = 0; i < TC_SPIN_LOOKS; i++) {
            if (ready(arg)) return true;
            tc_spin_pause();
        }
        tc_spin_yield();
    } while (tc_now_ns() < end_ns);
    return false;
}

static bool sleep_once(tc_wait_line *line, tc_ready *ready, void *arg, uint64_t left_ns)
{
    uint32_t seen = __atomic_load_n(&line->word, __ATOMIC_SEQ_CST);
    __atomic_exchange_n(&line->sleeping, 1, __ATOMIC_SEQ_CST);
    bool now = ready(arg);
    if (!now) {
        struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000u),
                                .tv_nsec = (long)(left_ns % 1000000000u)};
        // Woken, refused, interrupted or out of time: the caller looks again in every case.
        syscall(SYS_futex, &line->word, FUTEX_WAIT, seen, left_ns == UINT64_MAX ? NULL : &left, NULL, 0);
    }
    __atomic_store_n(&line->sleeping, 0, __ATOMIC_RELAXED);
    return now || ready(arg);
}

static uint64_t after(uint64_t now_ns, uint64_t us)
{
    uint64_t ns, end;
    return __builtin_mul_overflow(us, 1000u, &ns) || __builtin_add_overflow(now_ns, ns, &end) ? UINT64_MAX
                                                                                              : end;
}

tc_status tc_line_wait(tc_wait_line *line, tc_ready *ready, void *arg, uint64_t spin_us, uint64_t timeout_us)
{
    if (ready(arg)) return TC_OK;
    if (timeout_us == 0) return TC_TIMEOUT;
    uint64_t now = tc_now_ns(), deadline = after(now, timeout_us);
    for (;;) {
        uint64_t spin_end = after(now, spin_us);
        if (spin_us && spin(ready, arg, spin_end < deadline ? spin_end : deadline)) return TC_OK;
        if (spin_us) now = tc_now_ns();
        if (now >= deadline) return TC_TIMEOUT;
        if (sleep_once(line, ready, arg, deadline == UINT64_MAX ? UINT64_MAX : deadline - now)) return TC_OK;
        now = tc_now_ns();
    }
}

void tc_line_ring(tc_wait_line *line)
{
    if (__atomic_fetch_add(&line->sleeping, 0, __ATOMIC_SEQ_CST) == 0) return;
    int saved = errno;
    __atomic_fetch_add(&line->word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &line->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    errno = saved;
}

tc_status tc_bell_create(tc_bell **ret, tc_error *e)
{
    tc_bell *bell = calloc(1, sizeof *bell);
    if (!bell) return tc_fail(e, TC_NOMEM, "out of memory for a bell");
    tc_status status = tc_segment_create("bell", BELL_BYTES, &bell->segment, e);
    if (status != TC_OK) {
        free(bell);
        return status;
    }
    status = tc_segment_take(bell->segment.base, BELL_BYTES, e);
    if (status != TC_OK) {
        tc_bell_close(bell);
        return status;
    }
    bell->memory = bell->segment.base;
    bell->memory->version = BELL_VERSION;
    __atomic_store_n(&bell->memory->magic, BELL_MAGIC, __ATOMIC_RELEASE);
    *ret = bell;
    return TC_OK;
}

tc_status tc_bell_open(const char *name, tc_bell **ret, tc_error *e)
{
    tc_bell *bell = calloc(1, sizeof *bell);
    if (!bell) return tc_fail(e, TC_NOMEM, "out of memory for a bell");
    tc_status status;
    TC_GOTO(tc_segment_open("bell", name, BELL_BYTES, &bell->segment, e));
    TC_GOTO(tc_segment_take(bell->segment.base, BELL_BYTES, e));
    bell->memory = bell->segment.base;
    if (__atomic_load_n(&bell->memory->magic, __ATOMIC_ACQUIRE) != BELL_MAGIC ||
        __atomic_load_n(&bell->memory->version, __ATOMIC_RELAXED) != BELL_VERSION)
        TC_GOTO(tc_fail(e, TC_PEER, "shared memory %s is not a bell of version %d", name, BELL_VERSION));
    *ret = bell;
    return TC_OK;
out:
    tc_bell_close(bell);
    return status;
}

const char *tc_bell_name(const tc_bell *bell)
{
    return bell->segment.name;
}

void tc_bell_close(tc_bell *bell)
{
    if (!bell) return;
    tc_segment_close(&bell->segment);
    free(bell);
}

void tc_bell_ring(tc_bell *bell)
{
    tc_line_ring(&bell->memory->line);
}

tc_status tc_bell_wait(tc_bell *bell, tc_ready *ready, void *arg, uint64_t spin_us, uint64_t timeout_us)
{
    return tc_line_wait(&bell->memory->line, ready, arg, spin_us, timeout_us);
}
