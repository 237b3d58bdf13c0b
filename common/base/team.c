// SPDX-License-Identifier: Apache-2.0
// Owns: the threads of a team, and the three places where they wait: for a job, for its end, at a barrier.
// Each wait looks for a bounded time, giving its CPU away in between (spin.h), and then sleeps on a futex.
#include "common/base/team.h"
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/spin.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    JOIN_SPIN_US = 1000 // members of one job end within microseconds of each other, unless one lost its CPU
};

// A word that only grows; waiters wait until it differs from what they saw before. One cache line each, so
// that waiters of one do not disturb the others.
typedef struct event {
    _Alignas(TC_ALIGN_BYTES) _Atomic uint32_t word;
    _Atomic uint32_t sleepers; // members in, or about to enter, the futex wait
} event;

typedef struct member {
    tc_team *team;
    uint32_t index;
    pthread_t thread;
} member;

struct tc_team {
    event start, done, barrier;
    _Alignas(TC_ALIGN_BYTES) _Atomic uint32_t running; // members that have not returned from the job
    _Alignas(TC_ALIGN_BYTES) _Atomic uint32_t arrived; // members at the barrier
    _Alignas(TC_ALIGN_BYTES) _Atomic uint64_t next;    // next item of tc_team_each, tc_team_ranges
    _Alignas(TC_ALIGN_BYTES) uint32_t size;
    uint32_t spin_us;
    uint32_t started; // threads to join: members 1..started
    tc_team_job *job; // written before start.word grows, read after
    void *arg;
    bool stop;
    member members[];
};

static bool event_spin(event *v, uint32_t seen, uint32_t spin_us)
{
    if (atomic_load_explicit(&v->word, memory_order_acquire) != seen) return true;
    if (spin_us == 0) return false;
    uint64_t end = tc_now_ns() + (uint64_t)spin_us * 1000u;
    do {
        for (int i = 0; i < TC_SPIN_LOOKS; i++) {
            if (atomic_load_explicit(&v->word, memory_order_acquire) != seen) return true;
            tc_spin_pause();
        }
        tc_spin_yield();
    } while (tc_now_ns() < end);
    return false;
}

static void event_wait(event *v, uint32_t seen, uint32_t spin_us)
{
    if (event_spin(v, seen, spin_us)) return;
    // Announced before the kernel compares the word, and event_raise reads `sleepers` after it changed the
    // word: one of the two always sees the other.
    atomic_fetch_add(&v->sleepers, 1);
    while (atomic_load(&v->word) == seen)
        syscall(SYS_futex, &v->word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&v->sleepers, 1);
}

static void event_raise(event *v)
{
    atomic_fetch_add(&v->word, 1);
    if (atomic_load(&v->sleepers) > 0)
        syscall(SYS_futex, &v->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *member_main(void *arg)
{
    member *m = arg;
    tc_team *team = m->team;
    for (uint32_t seen = 0;; seen++) { // one job per step of start.word, none is ever skipped
        event_wait(&team->start, seen, team->spin_us);
        if (team->stop) return NULL;
        team->job(team->arg, m->index);
        if (atomic_fetch_sub(&team->running, 1) == 1) event_raise(&team->done);
    }
}

static int start_member(member *m, const uint32_t *cpu)
{
    pthread_attr_t attr;
    int error = pthread_attr_init(&attr);
    if (error) return error;
    if (cpu) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(*cpu, &set);
        error = pthread_attr_setaffinity_np(&attr, sizeof set, &set);
    }
    if (!error) error = pthread_create(&m->thread, &attr, member_main, m);
    if (!error) pthread_setname_np(m->thread, "tc-team");
    pthread_attr_destroy(&attr);
    return error;
}

static tc_status start_members(tc_team *team, const uint32_t *cpus, tc_error *e)
{
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    for (uint32_t i = 1; i < team->size && !error; i++) {
        team->members[i] = (member){.team = team, .index = i};
        error = start_member(&team->members[i], cpus ? &cpus[i] : NULL);
        if (!error) team->started = i;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        errno = error;
        return tc_fail_errno(e, error == EINVAL ? TC_ARGUMENT : TC_NOMEM,
                             "cannot start thread %u of a team of %u", team->started + 1, team->size);
    }
    return TC_OK;
}

static tc_status pin_self(uint32_t cpu, tc_error *e)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        return tc_fail_errno(e, TC_ARGUMENT, "cannot pin to CPU %u", cpu);
    return TC_OK;
}

tc_status tc_team_create(const tc_team_options *options, tc_team **ret, tc_error *e)
{
    tc_status status;
    uint32_t size = options->threads;
    if (size < 1 || size > TC_TEAM_THREADS_MAX)
        return tc_fail(e, TC_ARGUMENT, "a team has 1 to %d threads, not %u", TC_TEAM_THREADS_MAX, size);
    for (uint32_t i = 0; options->cpus && i < size; i++)
        if (options->cpus[i] >= CPU_SETSIZE) return tc_fail(e, TC_ARGUMENT, "no CPU %u", options->cpus[i]);
    tc_team *team = tc_alloc(TC_MEM_OTHER, 1, sizeof *team + size * sizeof team->members[0]);
    if (!team) return tc_fail(e, TC_NOMEM, "no memory for a team of %u", size);
    team->size = size;
    team->spin_us = options->spin_us;
    TC_GOTO(start_members(team, options->cpus, e));
    if (options->cpus) TC_GOTO(pin_self(options->cpus[0], e));
    *ret = team;
    return TC_OK;
out:
    tc_team_free(team);
    return status;
}

void tc_team_free(tc_team *team)
{
    if (!team) return;
    team->stop = true;
    event_raise(&team->start);
    for (uint32_t i = 1; i <= team->started; i++) pthread_join(team->members[i].thread, NULL);
    tc_free(team);
}

uint32_t tc_team_size(const tc_team *team)
{
    return team->size;
}

void tc_team_run(tc_team *team, tc_team_job *job, void *arg)
{
    if (team->size == 1) {
        job(arg, 0);
        return;
    }
    uint32_t seen = atomic_load_explicit(&team->done.word, memory_order_relaxed);
    team->job = job;
    team->arg = arg;
    atomic_store_explicit(&team->running, team->size, memory_order_relaxed);
    event_raise(&team->start);
    job(arg, 0);
    if (atomic_fetch_sub(&team->running, 1) == 1)
        atomic_fetch_add(&team->done.word, 1); // last: nobody else waits for `done`
    else
        event_wait(&team->done, seen, JOIN_SPIN_US);
}

typedef struct each {
    tc_team *team;
    tc_team_item *item;
    void *arg;
    uint32_t items;
} each;

static void each_job(void *arg, uint32_t index)
{
    each *a = arg;
    for (;;) {
        uint64_t i = atomic_fetch_add_explicit(&a->team->next, 1, memory_order_relaxed);
        if (i >= a->items) return;
        a->item(a->arg, (uint32_t)i, index);
    }
}

void tc_team_each(tc_team *team, uint32_t items, tc_team_item *item, void *arg)
{
    each a = {.team = team, .item = item, .arg = arg, .items = items};
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    if (items == 0) return;
    if (items == 1) // not worth waking anyone
        item(arg, 0, 0);
    else
        tc_team_run(team, each_job, &a);
}

typedef struct ranges {
    tc_team *team;
    tc_team_range *range;
    void *arg;
    uint32_t total, least;
} ranges;

static bool take_range(ranges *a, uint32_t *ret_begin, uint32_t *ret_end)
{
    uint64_t begin = atomic_load_explicit(&a->team->next, memory_order_relaxed);
    uint32_t n;
    do {
        if (begin >= a->total) return false;
        const uint32_t left = a->total - (uint32_t)begin;
        n = tc_team_share(left, a->team->size);
        if (n < a->least) n = a->least;
        if (n > left) n = left;
    } while (!atomic_compare_exchange_weak_explicit(&a->team->next, &begin, begin + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    *ret_begin = (uint32_t)begin;
    *ret_end = (uint32_t)begin + n;
    return true;
}

static void ranges_job(void *arg, uint32_t index)
{
    ranges *a = arg;
    uint32_t begin, end;
    while (take_range(a, &begin, &end)) a->range(a->arg, begin, end, index);
}

void tc_team_ranges(tc_team *team, uint32_t total, uint32_t least, tc_team_range *range, void *arg)
{
    ranges a = {.team = team, .range = range, .arg = arg, .total = total, .least = least};
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    if (total <= least) { // not worth waking anyone
        if (total) range(arg, 0, total, 0);
    } else {
        tc_team_run(team, ranges_job, &a);
    }
}

void tc_team_barrier(tc_team *team)
{
    if (team->size == 1) return;
    uint32_t seen = atomic_load_explicit(&team->barrier.word, memory_order_acquire);
    if (atomic_fetch_add(&team->arrived, 1) == team->size - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        event_raise(&team->barrier);
    } else {
        event_wait(&team->barrier, seen, JOIN_SPIN_US);
    }
}
