// SPDX-License-Identifier: Apache-2.0
// Owns: requests and the step loop: who is in the next batch, what happens with its logits, when a request
// ends. One thread owns all of it; commands are drained between steps, so a cancel takes effect within one.
//
//            admit (a slot and pages are free)    prompt done           stop, length, cancel, deadline,
//            failure
//   WAITING ---+--------------------> PREFILL --+------------> DECODE --------------------------------> ended
//      |       | prefix cached           ^      |                ^
//      |       +------------> RESTORE ---+      |                |
//      |                     (pages loaded)     |                |
//      +-- a further choice of a prompt: follows the first one --+ (shares its pages)
//
// A request with a constraint is not admitted before that is compiled (constrain.h); the mask of its next
// token is made while the step runs.
//
// Who is next: the higher priority (waiting raises it: nobody waits for ever), then the scope that was served
// least, then who came first. The first that does not fit stops the rest, so that nobody is overtaken for
// ever. Prompts are cut at multiples of 64 positions; beside running answers a step takes as many of their
// tokens as fit into the time set for that.
//
// With group_steps, of those of the highest priority one may go first whose conversation uses the experts
// that are in use: they are read once for both. Who is passed waits that many steps longer at most.
//
// Refuses: sockets (it sends through proto/engine.h), arithmetic (forward).
#pragma once

#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/experts/placement.h"
#include "gpu-core/forward/forward.h"
#include "gpu-core/sched/constrain.h"
#include "gpu-core/session/prefix_cache.h"
#include "gpu-core/session/session.h"
#include "proto/engine.h"

enum {
    TC_COMPILING_IDLE_US = 500, // how long one sleeps where there is nothing but a constraint to wait for
    TC_QUEUE_REQUESTS_DEFAULT = 512, // waiting and running
    TC_QUEUE_REQUESTS_MAX = 1 << 16,
    TC_QUEUE_TOKENS_DEFAULT = 4 << 20, // prompt tokens of all requests held
    TC_CHUNK_US_DEFAULT = 100000,      // what prompts may add to a step while answers are running
    // What a step of prompts alone may take beyond its first TC_ALONE_TOKENS tokens: the more, the fewer
    // times experts are read, but who comes or cancels waits for its end.
    TC_ALONE_US = 2000000,
    TC_ALONE_TOKENS = 256,
    TC_PRIORITY_AGING_US = 10000000, // waiting so long raises a request by one priority
    TC_PROMPT_GRAIN = 64, // prompts are cut at multiples of this, or of a part of it (prompt_grain)
};

typedef struct tc_sched tc_sched;

typedef struct tc_sched_options {
    const tc_model_desc *desc;
    tc_forward *forward;
    const tc_dense *dense; // vector routines of this CPU, for draws from whole rows
    tc_session_pool *pool;
    tc_prefix_cache *cache;      // NULL: none
    tc_constrainer *constrainer; // NULL: requests with a constraint are refused
    tc_expert_source *source;
    tc_engine_server *server;
    tc_placement *placement; // NULL: nothing learns
    // 0: off. Else one that waits may be passed by others whose experts are more like those of the requests
    // that run, for at most so many steps.
    uint32_t group_steps;
    uint32_t context, sessions;
    uint32_t tokens_max;     // of a batch; 0: TC_BATCH_TOKENS_MAX
    bool coarse_cuts;        // a short chunk costs as much as a long one
    bool experts_are_hot;    // the source is the core itself: its pairs count as hits
    uint32_t queue_requests; // 0: the default, for this and the next two
    uint64_t queue_tokens;
    uint64_t chunk_us;
    uint32_t prompt_grain; // divides TC_PROMPT_GRAIN; 0: that. Less only where the device takes prompts token
                           // by token
    uint32_t
        snapshot_every; // positions between snapshots of a long prompt; 0: by the sizes of state and page
    // Ends of requests, by the id that logs know them by; may be NULL.
    void (*log)(void *arg, bool warning, const char *request, const char *format, ...)
        __attribute__((format(printf, 4, 5)));
    void *log_arg;
    size_t (*memory)(void *arg, char *out, size_t room); // JSON of where memory goes; NULL: nobody knows
    // Whether so many bytes more may become resident; TC_BUSY with the sum. NULL: they may.
    tc_status (*memory_room)(void *arg, uint64_t bytes, tc_error *e);
    void *memory_arg;
    // Memory of a device that has its own: in use at most so far, and what it may use. NULL: it has none.
    void (*device_memory)(void *arg, tc_engine_detail *ret); // sets what is of the device's memory
    void *device_arg;
    uint64_t (*now_us)(void *arg); // NULL: the monotonic clock
    void *now_arg;
} tc_sched_options;

tc_status tc_sched_create(const tc_sched_options *options, tc_sched **ret, tc_error *e);
void tc_sched_free(tc_sched *sched);
void tc_sched_command(tc_sched *sched, const tc_command *command);
// Runs one step if there is anything to run; false: nothing to do.
bool tc_sched_step(tc_sched *sched);
// Microseconds until the next deadline, at most `most`: how long one may sleep when there is nothing to do.
uint64_t tc_sched_idle_us(const tc_sched *sched, uint64_t most);
// Ends every request with this failure (shutdown, client gone: without telling).
void tc_sched_fail_all(tc_sched *sched, tc_status status, const char *reason);
void tc_sched_tune(tc_sched *sched, uint64_t chunk_us, uint64_t queue_tokens); // from the next step on
void tc_sched_status(tc_sched *sched, tc_engine_status *ret);
