// SPDX-License-Identifier: Apache-2.0
// Owns: a library to be preloaded (LD_PRELOAD) into one of our programs, between it and libc: the k-th
// allocation fails, the k-th write finds the disk full, the wall clock jumps. The test steers it through one
// shared page, the file named by TC_INTERPOSE; without that everything passes. What nng allocates for itself
// is spared and counted (docs/DEPENDENCIES.md says why). Refuses: to say anything, and to be linked into what
// we ship.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// What glibc's own are called when ours stand in front of them.
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *memory);

// Words of the page, as tests/e2e/interposed.py writes and reads them.
typedef struct control {
    _Atomic uint64_t allocation_at; // which allocation fails, counted from 1; 0: none
    _Atomic uint64_t allocations;   // counted so far
    _Atomic uint64_t write_at;      // which write to a file fails with ENOSPC; 0: none
    _Atomic uint64_t writes;
    _Atomic uint64_t on;     // all from there on fail, not that one alone
    _Atomic uint64_t failed; // how many were made to fail
    _Atomic int64_t live, live_bytes;
    _Atomic int64_t clock_s;      // added to the wall clock
    _Atomic int64_t live_at_exit; // -1: it has not got there
    _Atomic uint64_t spared;      // nng's own
} control;

static control nothing, *page = &nothing;

// nng 1.5.2 panics when it cannot allocate what it needs (its first use, a dial): its code, by address.
static uintptr_t nng_begin, nng_end;

static int find_nng(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size, (void)arg;
    if (!info->dlpi_name || !strstr(info->dlpi_name, "libnng")) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        if (h->p_type != PT_LOAD || !(h->p_flags & PF_X)) continue;
        nng_begin = info->dlpi_addr + h->p_vaddr;
        nng_end = nng_begin + h->p_memsz;
    }
    return 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("TC_INTERPOSE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    dl_iterate_phdr(find_nng, NULL);
    void *memory = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory != MAP_FAILED) {
        control *found = memory;
        found->live += nothing.live; // what was there before us
        found->live_bytes += nothing.live_bytes;
        page = found;
    }
    close(fd);
    unsetenv("TC_INTERPOSE"); // of this program only
    unsetenv("LD_PRELOAD");
}

__attribute__((destructor)) static void end(void)
{
    page->live_at_exit = page->live;
}

static bool fails(_Atomic uint64_t *at, _Atomic uint64_t *count)
{
    uint64_t wanted = *at;
    if (!wanted) return false;
    uint64_t number = ++*count;
    if (number != wanted && !(page->on && number > wanted)) return false;
    page->failed++;
    return true;
}

static _Thread_local int in_nng; // libc works for it

static bool is_nng(const void *caller)
{
    return in_nng || ((uintptr_t)caller >= nng_begin && (uintptr_t)caller < nng_end);
}

static bool out_of_memory(const void *caller)
{
    if (is_nng(caller)) {
        page->spared++;
        return false;
    }
    if (!fails(&page->allocation_at, &page->allocations)) return false;
    errno = ENOMEM;
    return true;
}

static void *count(void *memory)
{
    if (!memory) return NULL;
    page->live++;
    page->live_bytes += (int64_t)malloc_usable_size(memory);
    return memory;
}

static void discount(void *memory)
{
    if (!memory) return;
    page->live--;
    page->live_bytes -= (int64_t)malloc_usable_size(memory);
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t bytes)
{
    return out_of_memory(CALLER) ? NULL : count(__libc_malloc(bytes));
}

void *calloc(size_t n, size_t bytes)
{
    return out_of_memory(CALLER) ? NULL : count(__libc_calloc(n, bytes));
}

void *realloc(void *memory, size_t bytes)
{
    if (out_of_memory(CALLER)) return NULL;
    discount(memory);
    void *moved = __libc_realloc(memory, bytes);
    if (moved) return count(moved);
    if (bytes) count(memory); // it is still there
    return NULL;
}

void *reallocarray(void *memory, size_t n, size_t bytes)
{
    size_t all;
    if (__builtin_mul_overflow(n, bytes, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(memory, all);
}

void *memalign(size_t alignment, size_t bytes)
{
    return out_of_memory(CALLER) ? NULL : count(__libc_memalign(alignment, bytes));
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **ret, size_t alignment, size_t bytes)
{
    void *memory = memalign(alignment, bytes);
    if (!memory) return ENOMEM;
    *ret = memory;
    return 0;
}

void free(void *memory)
{
    int kept = errno;
    discount(memory);
    __libc_free(memory);
    errno = kept;
}

// What stands behind us.

// What stands behind us.
#define REAL(name)                                                                                           \
    static __typeof__(&name) real;                                                                           \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

// A thread needs memory of libc's.
int pthread_create(pthread_t *restrict ret, const pthread_attr_t *restrict how, void *(*run)(void *),
                   void *restrict arg)
{
    REAL(pthread_create);
    bool nng = is_nng(CALLER);
    in_nng += nng;
    int rc = real(ret, how, run, arg);
    in_nng -= nng;
    return rc;
}

// ---- files ----

static bool disk_full(int fd)
{
    struct stat st;
    if (!page->write_at || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return false;
    if (!fails(&page->write_at, &page->writes)) return false;
    errno = ENOSPC;
    return true;
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    REAL(write);
    return disk_full(fd) ? -1 : real(fd, data, bytes);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    REAL(pwrite);
    return disk_full(fd) ? -1 : real(fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at)
{
    REAL(pwrite64);
    return disk_full(fd) ? -1 : real(fd, data, bytes, at);
}

int ftruncate(int fd, off_t bytes)
{
    REAL(ftruncate);
    return disk_full(fd) ? -1 : real(fd, bytes);
}

int fallocate(int fd, int mode, off_t at, off_t bytes)
{
    REAL(fallocate);
    return disk_full(fd) ? -1 : real(fd, mode, at, bytes);
}

int posix_fallocate(int fd, off_t at, off_t bytes)
{
    REAL(posix_fallocate);
    return disk_full(fd) ? ENOSPC : real(fd, at, bytes);
}

// Which of the two names a program calls depends on how it was compiled.
int ftruncate64(int fd, off64_t bytes)
{
    REAL(ftruncate64);
    return disk_full(fd) ? -1 : real(fd, bytes);
}

int fallocate64(int fd, int mode, off64_t at, off64_t bytes)
{
    REAL(fallocate64);
    return disk_full(fd) ? -1 : real(fd, mode, at, bytes);
}

int posix_fallocate64(int fd, off64_t at, off64_t bytes)
{
    REAL(posix_fallocate64);
    return disk_full(fd) ? ENOSPC : real(fd, at, bytes);
}

int fsync(int fd)
{
    REAL(fsync);
    return disk_full(fd) ? -1 : real(fd);
}

// ---- the wall clock ----

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    REAL(clock_gettime);
    int rc = real(clock, ret);
    if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) ret->tv_sec += page->clock_s;
    return rc;
}

time_t time(time_t *ret)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (ret) *ret = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *ret = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
