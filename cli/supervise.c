// SPDX-License-Identifier: Apache-2.0
// Owns: the supervisor's loop: signals, exits, restarts, the ordered stop.
#include "cli/supervise.h"
#include "cli/child.h"
#include "common/base/clock.h"
#include "common/base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    STOP_GROUPS = 3,
    HELD_MAX_US = 2000000, // how long an error line waits to become the reason of an exit
};

struct tc_supervisor {
    char dir[64];
    sigset_t old_mask;
    struct sigaction old_pipe;
    int signals;
    bool ready, stop_asked, stopping, failed;
    tc_error failure;
    unsigned count;
    tc_child *child[TC_CHILDREN_MAX];
};

tc_status tc_supervisor_create(tc_supervisor **ret, tc_error *e)
{
    sigset_t set;
    tc_supervisor *s = calloc(1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory");
    tc_status status = tc_runtime_dir_make(s->dir, sizeof s->dir, e);
    if (status != TC_OK) {
        free(s);
        return status;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &s->old_mask);
    sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, &s->old_pipe);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signals < 0) {
        tc_fail_errno(e, TC_IO, "signalfd");
        tc_supervisor_free(s);
        return TC_IO;
    }
    *ret = s;
    return TC_OK;
}

const char *tc_supervisor_dir(const tc_supervisor *s)
{
    return s->dir;
}
void tc_supervisor_ready(tc_supervisor *s)
{
    s->ready = true;
}

tc_status tc_supervisor_add(tc_supervisor *s, const char *name, unsigned stop_group, char *const *argv,
                            tc_error *e)
{
    tc_child *child;
    if (s->count == TC_CHILDREN_MAX) return tc_fail(e, TC_LIMIT, "more than %d processes", TC_CHILDREN_MAX);
    TC_TRY(tc_child_create(name, stop_group, argv, &child, e));
    s->child[s->count++] = child;
    return tc_child_start(child, e);
}

static void fail(tc_supervisor *s, tc_status status, const char *what, tc_child *child)
{
    if (s->failed) return;
    s->failed = true;
    if (child->held[0]) {
        tc_fail(&s->failure, status, "%s: %s", child->name, tc_child_reason(child));
        child->held[0] = 0; // said once
    } else {
        tc_fail(&s->failure, status, "%s %s", child->name, what);
    }
}

static void on_exit_of(tc_supervisor *s, tc_child *child, int how)
{
    char what[96];
    uint64_t now_us = tc_now_us();
    tc_child_read_log(child);
    if (WIFSIGNALED(how))
        snprintf(what, sizeof what, "was killed by signal %d (%s)", WTERMSIG(how), strsignal(WTERMSIG(how)));
    else
        snprintf(what, sizeof what, "ended with exit code %d", WEXITSTATUS(how));
    child->pid = 0;
    if (s->stop_asked || s->stopping) return;
    // A program that gives up by itself before anything worked would give up again: bad model, address in
    // use.
    if (!s->ready && child->starts == 1 && WIFEXITED(how)) {
        fail(s, TC_INTERNAL, what, child);
        return;
    }
    uint64_t pause_ms = tc_child_note_crash(child, now_us);
    if (!pause_ms) {
        strncat(what, "; it keeps crashing", sizeof what - strlen(what) - 1);
        fail(s, TC_INTERNAL, what, child);
        return;
    }
    tc_child_flush_log(child, 0);
    tc_warn("%s %s; starting it again in %llu ms", child->name, what, (unsigned long long)pause_ms);
    child->due_us = now_us + pause_ms * 1000;
}

static void reap(tc_supervisor *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        int how;
        if (s->child[i]->pid > 0 && waitpid(s->child[i]->pid, &how, WNOHANG) == s->child[i]->pid)
            on_exit_of(s, s->child[i], how);
    }
}

static void take_signals(tc_supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD) s->stop_asked = true;
    reap(s); // signals coalesce: one SIGCHLD may stand for several exits
}

static void restart_due(tc_supervisor *s, uint64_t now_us)
{
    tc_error e;
    for (unsigned i = 0; i < s->count && !s->stop_asked && !s->failed; i++) {
        tc_child *child = s->child[i];
        if (!child->pid && child->due_us && now_us >= child->due_us && tc_child_start(child, &e) != TC_OK) {
            s->failed = true;
            s->failure = e;
        }
    }
}

static uint64_t next_due(const tc_supervisor *s, uint64_t deadline_us)
{
    for (unsigned i = 0; i < s->count; i++) {
        const tc_child *child = s->child[i];
        if (!child->pid && child->due_us && child->due_us < deadline_us) deadline_us = child->due_us;
        uint64_t said_us = child->held_us + HELD_MAX_US; // an error line of one that goes on is printed then
        if (child->pid && child->held[0] && said_us < deadline_us) deadline_us = said_us;
    }
    return deadline_us;
}

// One poll of signals, logs and the caller's fd. True when that fd is readable.
static bool poll_once(tc_supervisor *s, int fd, uint64_t timeout_us)
{
    struct pollfd fds[TC_CHILDREN_MAX + 2];
    int timeout_ms = timeout_us > 3600000000u ? 3600000 : (int)((timeout_us + 999) / 1000);
    unsigned n = 0;
    fds[n++] = (struct pollfd){.fd = s->signals, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN}; // poll ignores -1
    for (unsigned i = 0; i < s->count; i++)
        fds[n++] = (struct pollfd){.fd = s->child[i]->log_fd, .events = POLLIN};
    bool any = poll(fds, n, timeout_ms) > 0;
    for (unsigned i = 0; i < s->count; i++) {
        if (any && fds[i + 2].revents) tc_child_read_log(s->child[i]);
        if (s->child[i]->pid) tc_child_flush_log(s->child[i], HELD_MAX_US);
    }
    if (!any) return false;
    if (fds[0].revents & POLLIN) take_signals(s);
    return (fds[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
}

tc_status tc_supervisor_wait(tc_supervisor *s, int fd, uint64_t timeout_us, tc_error *e)
{
    uint64_t now_us = tc_now_us(), deadline_us = now_us + timeout_us;
    for (;;) {
        restart_due(s, now_us);
        uint64_t until_us = next_due(s, deadline_us);
        bool readable = poll_once(s, fd, until_us > now_us ? until_us - now_us : 0);
        now_us = tc_now_us();
        if (s->stop_asked) return tc_fail(e, TC_CANCELLED, "interrupted");
        if (s->failed) {
            if (e) *e = s->failure;
            return s->failure.status;
        }
        if (readable) return TC_OK;
        if (now_us >= deadline_us) return TC_TIMEOUT;
    }
}

static bool group_lives(const tc_supervisor *s, unsigned group)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->child[i]->stop_group == group && s->child[i]->pid) return true;
    return false;
}

static void signal_group(const tc_supervisor *s, unsigned group, int signal_number)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->child[i]->stop_group == group && s->child[i]->pid) kill(s->child[i]->pid, signal_number);
}

static void stop_group(tc_supervisor *s, unsigned group)
{
    uint64_t deadline_us = tc_now_us() + TC_STOP_GRACE_MS * 1000ull;
    signal_group(s, group, SIGTERM);
    for (;;) {
        reap(s);
        if (!group_lives(s, group)) return;
        poll_once(s, -1, 50000);
        // A second Ctrl-C, or the end of the grace: no more waiting.
        if (s->stop_asked || tc_now_us() > deadline_us) signal_group(s, group, SIGKILL);
    }
}

void tc_supervisor_free(tc_supervisor *s)
{
    if (!s) return;
    s->stopping = true;
    for (unsigned i = 0; i < s->count; i++) s->child[i]->stopping = true;
    s->stop_asked = false;
    for (unsigned group = 0; group < STOP_GROUPS; group++) stop_group(s, group);
    for (unsigned i = 0; i < s->count; i++) tc_child_free(s->child[i]);
    tc_runtime_dir_remove(s->dir);
    if (s->signals >= 0) close(s->signals);
    sigaction(SIGPIPE, &s->old_pipe, NULL);
    sigprocmask(SIG_SETMASK, &s->old_mask, NULL);
    free(s);
}

pid_t tc_supervisor_pid(const tc_supervisor *s, const char *name)
{
    for (unsigned i = 0; i < s->count; i++)
        if (!strcmp(s->child[i]->name, name)) return s->child[i]->pid;
    return 0;
}

uint64_t tc_supervisor_resident_bytes(const tc_supervisor *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < s->count; i++) {
        char path[64], line[160];
        unsigned long long kib;
        if (!s->child[i]->pid) continue;
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)s->child[i]->pid);
        FILE *f = fopen(path, "re");
        while (f && fgets(line, sizeof line, f))
            if (sscanf(line, "Pss: %llu kB", &kib) == 1) {
                sum += kib * 1024;
                break;
            }
        if (f) fclose(f);
    }
    return sum;
}
