// SPDX-License-Identifier: Apache-2.0
// Owns: fork and exec, the log pipe, the bookkeeping of crashes, the runtime folder.
#include "cli/child.h"
#include "common/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RUNTIME_DIR_BYTES_MAX = 64 }; // ipc paths end at 107 bytes: leaves room for the socket's name

tc_status tc_find_program(const char *name, char **ret, tc_error *e)
{
    // Beside us (installed), in libexec, or in the folder the build tree keeps it in.
    static const char *const places[] = {"", "../libexec/thermocline/", "../gpu-core/", "../expert-worker/",
                                         "../gateway/"};
    char self[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return tc_fail_errno(e, TC_IO, "/proc/self/exe");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/%s%s", self, places[i], name);
        if (access(path, X_OK) != 0) continue;
        char *copy = strdup(path);
        if (!copy) return tc_fail(e, TC_NOMEM, "out of memory");
        *ret = copy;
        return TC_OK;
    }
    return tc_fail(e, TC_NOT_FOUND, "%s: not found beside %s", name, self);
}

tc_status tc_child_create(const char *name, unsigned stop_group, char *const *argv, tc_child **ret,
                          tc_error *e)
{
    tc_child *child = calloc(1, sizeof *child);
    if (!child) return tc_fail(e, TC_NOMEM, "out of memory");
    snprintf(child->name, sizeof child->name, "%s", name);
    child->stop_group = stop_group;
    child->log_fd = -1;
    tc_status status = tc_find_program(argv[0], &child->argv[0], e);
    for (int i = 1; status == TC_OK && argv[i]; i++) {
        if (i == TC_CHILD_ARGUMENTS_MAX)
            status = tc_fail(e, TC_LIMIT, "%s: more than %d arguments", name, TC_CHILD_ARGUMENTS_MAX);
        else if (!(child->argv[i] = strdup(argv[i])))
            status = tc_fail(e, TC_NOMEM, "out of memory");
    }
    if (status != TC_OK) {
        tc_child_free(child);
        return status;
    }
    *ret = child;
    return TC_OK;
}

void tc_child_free(tc_child *child)
{
    if (!child) return;
    tc_child_read_log(child);
    tc_child_flush_log(child, 0);
    if (child->log_fd >= 0) close(child->log_fd);
    for (int i = 0; i <= TC_CHILD_ARGUMENTS_MAX; i++) free(child->argv[i]);
    free(child);
}

// In the child, between fork and exec: only async-signal-safe calls.
static _Noreturn void become(const tc_child *child, int log_fd, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0); // the terminal's Ctrl-C is for the supervisor, which stops us in order
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) dup2(null, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO); // our stdout is the verb's output: nothing else may appear there
    dup2(log_fd, STDERR_FILENO);
    execv(child->argv[0], child->argv);
    static const char text[] = "error exec: cannot be executed\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(127);
}

tc_status tc_child_start(tc_child *child, tc_error *e)
{
    int pipes[2];
    pid_t parent = getpid();
    if (pipe2(pipes, O_CLOEXEC) != 0) return tc_fail_errno(e, TC_IO, "%s: pipe", child->name);
    pid_t pid = fork();
    if (pid < 0) {
        tc_fail_errno(e, TC_IO, "%s: fork", child->name);
        close(pipes[0]);
        close(pipes[1]);
        return TC_IO;
    }
    if (pid == 0) become(child, pipes[1], parent);
    close(pipes[1]);
    fcntl(pipes[0], F_SETFL, O_NONBLOCK); // our end only: a pipe's two ends have their own flags
    if (child->log_fd >= 0) close(child->log_fd);
    child->log_fd = pipes[0];
    child->line_bytes = 0;
    child->held[0] = 0;
    child->pid = pid;
    child->starts++;
    child->started_us = tc_now_us();
    child->due_us = 0;
    return TC_OK;
}

static bool is_error_line(const char *line)
{
    return !strncmp(line, "error ", 6) || strstr(line, ": error: ") || strstr(line, " level=error ") ||
           strstr(line, "\"level\":\"error\"");
}

static bool is_warning_line(const char *line)
{
    return !strncmp(line, "warn ", 5) || strstr(line, " level=warn ") || strstr(line, "\"level\":\"warn\"");
}

const char *tc_child_reason(const tc_child *child)
{
    const char *marked = strstr(child->held, ": error: "), *colon = strstr(child->held, ": ");
    const char *logfmt = strstr(child->held, " msg=\""), *json = strstr(child->held, "\"msg\":\"");
    if (logfmt) return logfmt + 6;
    if (json) return json + 7;
    return marked ? marked + 9 : colon ? colon + 2 : child->held;
}

static void print_line(const char *line)
{
    char text[TC_LOG_LINE_BYTES + 2];
    int n = snprintf(text, sizeof text, "%s\n", line);
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)n);
    (void)ignored;
}

void tc_child_flush_log(tc_child *child, uint64_t older_us)
{
    if (!child->held[0] || tc_now_us() - child->held_us < older_us) return;
    print_line(child->held);
    child->held[0] = 0;
}

static void end_line(tc_child *child)
{
    child->line[child->line_bytes] = 0;
    child->line_bytes = 0;
    if (is_error_line(child->line)) {
        tc_child_flush_log(child, 0);
        memcpy(child->held, child->line, sizeof child->held);
        child->held_us = tc_now_us();
    } else if (child->line[0] && !(child->stopping && is_warning_line(child->line))) {
        print_line(child->line);
    }
}

void tc_child_read_log(tc_child *child)
{
    char block[4096];
    ssize_t n;
    if (child->log_fd < 0) return;
    while ((n = read(child->log_fd, block, sizeof block)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            if (block[i] != '\n') child->line[child->line_bytes++] = block[i];
            if (block[i] == '\n' || child->line_bytes == sizeof child->line - 1) end_line(child);
        }
    }
    if (n == 0) { // all writers are gone
        if (child->line_bytes) end_line(child);
        close(child->log_fd);
        child->log_fd = -1;
    }
}

uint64_t tc_child_note_crash(tc_child *child, uint64_t now_us)
{
    uint64_t window_us = TC_CRASH_WINDOW_S * 1000000ull,
             *slot = &child->crash_us[child->crashes % TC_CRASHES_MAX];
    if (child->crashes >= TC_CRASHES_MAX && now_us - *slot < window_us) return 0;
    *slot = now_us;
    child->crashes++;
    // One that ran well for a while starts with the shortest pause again.
    bool ran_well = now_us - child->started_us > 10 * 1000000ull;
    child->pause_ms = !child->pause_ms || ran_well ? TC_PAUSE_MIN_MS : child->pause_ms * 2;
    if (child->pause_ms > TC_PAUSE_MAX_MS) child->pause_ms = TC_PAUSE_MAX_MS;
    return child->pause_ms;
}

tc_status tc_runtime_dir_make(char *ret, size_t bytes, tc_error *e)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    char path[RUNTIME_DIR_BYTES_MAX];
    bool usable = base && base[0] == '/' && strlen(base) < RUNTIME_DIR_BYTES_MAX - 36 &&
                  stat(base, &st) == 0 && st.st_uid == geteuid() && access(base, W_OK) == 0;
    for (int attempt = 0; attempt < 100; attempt++) { // a process of the same number may have left one behind
        snprintf(path, sizeof path, "%s/thermocline-%u-%d-%d", usable ? base : "/tmp", (unsigned)geteuid(),
                 (int)getpid(), attempt);
        if (mkdir(path, 0700) == 0) {
            snprintf(ret, bytes, "%s", path);
            return TC_OK;
        }
        if (errno != EEXIST) break;
    }
    return tc_fail_errno(e, TC_IO, "%s", path);
}

void tc_runtime_dir_remove(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    while (d && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) unlinkat(dirfd(d), entry->d_name, 0);
    if (d) closedir(d);
    rmdir(dir);
}
