// SPDX-License-Identifier: Apache-2.0
// Owns: requests and the step loop: who is in the next batch, what happens with its logits, when a request
// ends. One thread owns all of it; commands are drained between steps.
//
//            admit (a slot and pages are free)     prompt done          stop, length, cancel, failure
//   WAITING -----------------------------------> PREFILL --------> DECODE ----------------------------->
//   ended
//
// Refuses: sockets (it sends through proto/engine.h), arithmetic (forward).
#pragma once

#include "gpu-core/forward/forward.h"
#include "gpu-core/session/session.h"
#include "proto/engine.h"

enum {
    TC_REQUESTS_MAX = 512,           // waiting and running
    TC_WAITING_TOKENS_MAX = 4 << 20, // prompt tokens of all requests held
    TC_PREFILL_BESIDE_DECODE = 64,   // prompt tokens a step while answers are running: bounds their wait
};

typedef struct tc_sched tc_sched;

typedef struct tc_sched_options {
    const tc_model_desc *desc;
    tc_forward *forward;
    tc_session_pool *pool;
    tc_expert_source *source;
    tc_engine_server *server;
    uint32_t context, sessions;
    bool experts_are_hot; // the source is the core itself: its pairs count as hits
} tc_sched_options;

tc_status tc_sched_create(const tc_sched_options *options, tc_sched **ret, tc_error *e);
void tc_sched_free(tc_sched *sched);
void tc_sched_command(tc_sched *sched, const tc_command *command);
// Runs one step if there is anything to run; false: nothing to do.
bool tc_sched_step(tc_sched *sched);
// Ends every request with this failure (shutdown, client gone: without telling).
void tc_sched_fail_all(tc_sched *sched, tc_status status, const char *reason);
void tc_sched_status(tc_sched *sched, tc_engine_status *ret);
