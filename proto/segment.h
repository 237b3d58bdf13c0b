// SPDX-License-Identifier: Apache-2.0
// Owns: named shared memory of one user on one host: made by one process, opened by others under the name
// they were told, unlinked as soon as everybody has it, and swept up when its maker died before that.
// Refuses: to open anything that is not exactly what was announced (name, owner, mode, size).
//
// Why shm_open and not a sealed memfd: a memfd travels through /proc/<pid>/fd/<n>, and that needs a common
// pid namespace and ptrace access to the other process. Between systemd units the second is lost as soon as
// one of them holds a capability the other lacks (CAP_IPC_LOCK for pinned device memory, CAP_SYS_NICE for
// moving pages) or is not dumpable. /dev/shm needs the same user and nothing else. What seals would add is
// protection against truncation (SIGBUS) by a process that has the file open. With the name unguessable, mode
// 0600 and soon gone, only another process of the same user can have it open, and that one could as well send
// SIGKILL. A segment owned by another user is refused, so a privileged opener is not at the mercy of an
// unprivileged maker.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum { TC_SEGMENT_NAME_BYTES = 64 };

typedef struct tc_segment {
    char name[TC_SEGMENT_NAME_BYTES]; // "/thermocline-<kind>-<32 hex digits>"
    void *base;                       // page aligned, mapped, zeroed when made
    size_t bytes;
    int fd;      // maker, while linked: holds the lock that keeps tc_segment_sweep away; else -1
    bool linked; // made here and not yet unlinked
} tc_segment;

// kind: a short word of lower-case letters. No memory is taken yet: either end takes what it is about to use
// with tc_segment_take.
tc_status tc_segment_create(const char *kind, size_t bytes, tc_segment *ret, tc_error *e);
// `name` may come from a peer. TC_PEER: it is not the name of such a segment, or the segment is of another
// size, owner or mode. TC_NOT_FOUND: no such segment here (another host or container, or its maker is gone).
tc_status tc_segment_open(const char *kind, const char *name, size_t bytes, tc_segment *ret, tc_error *e);
// Takes the pages of a part of a mapped segment (page aligned), so that a full /dev/shm is an error now
// (TC_NOMEM) and not a SIGBUS later. Part of it may be taken already. Kernels before 5.14 take pages at their
// first use.
tc_status tc_segment_take(void *memory, size_t bytes, tc_error *e);
void tc_segment_unlink(tc_segment *segment); // by the maker: nobody else can open it from now on
void tc_segment_close(tc_segment *segment);  // unmaps; the maker also unlinks. A zeroed struct is legal.
// Unlinks the segments of this user whose makers died before they could. Returns how many.
uint32_t tc_segment_sweep(void);
