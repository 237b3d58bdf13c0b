// SPDX-License-Identifier: Apache-2.0
// Owns: the shared-memory carrier of expert calls: one segment per worker between the core (hub) and a worker
// of the same user on the same host; requests in, weighted partial sums out, one call under way at a time.
// Refuses: to believe the other side. Both compute the layout from what the hello agreed on and compare;
// every field is read once, into private memory, and checked there; what breaks the protocol is TC_PEER with
// a reason, after which the caller aborts the segment and drops the peer. Values that are data and not
// lengths or ids (x, sums, compute_us) are taken as they come. Liveness is the business of the nng pipe
// beside it.
//
//   hub:    create -> tell name and bell over nng -> (worker opened it) -> unlink
//           post -> [tc_bell_wait until tc_shm_answered of any] -> poll_reply
//   worker: open -> wait_request -> take -> compute into tc_shm_sum -> reply
//   either: abort: the other's waits end with TC_CLOSED at once
//
// One thread uses a handle, except where said otherwise. No call after create/open/attach allocates.
#pragma once

#include "common/kernels/ffn.h"
#include "proto/bell.h"
#include "proto/shm_layout.h"

enum { TC_SHM_PAIRS_MAX = TC_CALL_TOKENS_MAX * TC_TOP_K_MAX };

typedef struct tc_shm tc_shm;

typedef struct tc_shm_options {
    uint32_t tokens_max; // 1..TC_CALL_TOKENS_MAX
    uint32_t hidden;     // 1..TC_HIDDEN_MAX: of every call
    uint32_t pairs_max;  // 1..TC_SHM_PAIRS_MAX
    tc_bell *bell;       // rung by replies and aborts; may be NULL. Owned by the caller, outlives the handle.
} tc_shm_options;

typedef struct tc_shm_answer {
    tc_status status;   // TC_OK, or why the worker could not compute this call
    const int64_t *sum; // [tokens][hidden] in the segment, until the next post; NULL unless status is TC_OK
    uint32_t tokens, hidden;
    uint64_t compute_us;                  // as the worker says
    char reason[TC_SHM_REASON_BYTES + 1]; // printable; empty when TC_OK
} tc_shm_answer;

// ---- both sides ----
// Bytes of a segment; TC_LIMIT when an option is out of range.
tc_status tc_shm_size(const tc_shm_options *options, size_t *ret_bytes, tc_error *e);
void tc_shm_close(tc_shm *shm); // NULL is legal. Does not abort: say so first if the other side should know.
// Any thread, async-signal-safe. Final: from then on both sides' waits, posts, takes, replies and polls
// return TC_CLOSED.
void tc_shm_abort(tc_shm *shm);
bool tc_shm_aborted(const tc_shm *shm);
// The whole segment, page aligned, for registering it with a device or binding it to a NUMA node.
void *tc_shm_memory(tc_shm *shm, size_t *ret_bytes);

// ---- hub ----
// TC_LIMIT, TC_NOMEM (shared memory is full), TC_IO.
tc_status tc_shm_create(const tc_shm_options *options, tc_shm **ret, tc_error *e);
const char *tc_shm_name(const tc_shm *shm);
void tc_shm_unlink(tc_shm *shm); // when the worker has it, or gave up
// Where x of the next call may be written, [tokens_max][hidden], while none is under way: post does not copy
// then.
float *tc_shm_x(tc_shm *shm);
// Copies the call in and publishes it. seq: above 0 and above the last. TC_BUSY: the last one is not
// answered; TC_ARGUMENT, TC_LIMIT: the call does not fit; TC_NOMEM: /dev/shm is too full for one so large,
// nothing was posted; TC_CLOSED.
tc_status tc_shm_post(tc_shm *shm, uint64_t seq, const tc_expert_call *call, tc_error *e);
// Is there something to poll for (an answer, a breach, an abort)? One atomic load or two: made for ready().
bool tc_shm_answered(const tc_shm *shm);
// The answer to the call under way. TC_TIMEOUT: not yet; TC_CLOSED; TC_PEER: the worker broke the protocol;
// TC_ARGUMENT: seq is not under way.
tc_status tc_shm_poll_reply(tc_shm *shm, uint64_t seq, tc_shm_answer *ret, tc_error *e);
// Wakes a sleeping worker, so that it spins: before a step begins, or before a device posts.
// Async-signal-safe.
void tc_shm_nudge(tc_shm *shm);

// ---- hub, for a device that posts by itself ----
// Between lend and reclaim the segment is the device's: it writes x, pairs and records where the layout says,
// and publishes numbers above the last; nothing else may be posted. Makes room for calls of `tokens`, wakes
// the worker, which looks by itself until the segment is reclaimed. TC_BUSY, TC_NOMEM, TC_CLOSED.
tc_status tc_shm_lend(tc_shm *shm, uint32_t tokens, uint64_t step, tc_error *e);
const tc_shm_header *tc_shm_layout(const tc_shm *shm);
// `last`: the highest number the device may have used. TC_TIMEOUT: its last call is not answered; TC_PEER:
// the last answer is no success, or the flags are not what they can be; TC_CLOSED.
tc_status tc_shm_reclaim(tc_shm *shm, uint64_t last, tc_error *e);

// ---- worker ----
// `name` and the options come from the hub: TC_PEER when the segment is not what they say. Else as
// tc_segment_open.
tc_status tc_shm_open(const char *name, const tc_shm_options *options, tc_shm **ret, tc_error *e);
// The same on memory that is mapped already (a worker inside the hub's process): 128-byte aligned,
// tc_shm_size bytes, owned by the caller, outlives the handle.
tc_status tc_shm_attach(void *memory, size_t bytes, const tc_shm_options *options, tc_shm **ret, tc_error *e);
// Waits for the next request: TC_OK (take it), TC_TIMEOUT, TC_CLOSED, TC_CANCELLED (tc_shm_interrupt).
// Timeouts as tc_line_wait.
tc_status tc_shm_wait_request(tc_shm *shm, uint64_t spin_us, uint64_t timeout_us);
// This handle's wait under way, or the next, returns TC_CANCELLED once. Any thread, async-signal-safe.
void tc_shm_interrupt(tc_shm *shm);
// The request, scalar fields and pairs checked and private to the handle until the next take; x in place, and
// its values may change if the hub misbehaves. What only the store knows (units, expert and layer counts) is
// left to tc_expert_call_check. TC_TIMEOUT: none; TC_BUSY: the last one is not answered; TC_CLOSED; TC_PEER.
tc_status tc_shm_take(tc_shm *shm, uint64_t *ret_seq, tc_expert_call *ret, tc_error *e);
// Where to write the sum, [tokens][hidden] of the call taken: between take and reply only.
int64_t *tc_shm_sum(tc_shm *shm);
// Publishes the answer to the call taken. status TC_OK: the sum is written; else `reason` says why not (cut
// to fit; may be NULL). TC_ARGUMENT: seq was not taken; TC_PEER: the hub published another request meanwhile;
// TC_CLOSED.
tc_status tc_shm_reply(tc_shm *shm, uint64_t seq, tc_status answer, uint64_t compute_us, const char *reason,
                       tc_error *e);
