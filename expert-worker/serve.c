// SPDX-License-Identifier: Apache-2.0
// Owns: the loop and its one answer a call.
#include "expert-worker/serve.h"
#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { WAIT_US = 1000000 };

static tc_expert_peer *_Atomic current_peer;
static _Atomic bool stopping;

void tc_serve_stop(void)
{
    atomic_store(&stopping, true);
    tc_expert_peer *peer = atomic_load(&current_peer);
    if (peer) tc_expert_peer_wake(peer);
}

// Only tests ask for these: what a core must survive.
static void misbehave(tc_fault fault)
{
    if (fault == TC_FAULT_CRASH) abort();
    while (fault == TC_FAULT_STALL) pause();
}

static tc_status answer(const tc_serve_options *o, tc_expert_peer *peer, const tc_peer_event *event,
                        bool faulty, tc_error *e)
{
    tc_error reason;
    const tc_expert_call *call = &event->call;
    uint64_t start = tc_now_us();
    if (tc_expert_call_check(o->store, call, &reason) != TC_OK) {
        tc_warn("call %llu is refused: %s", (unsigned long long)event->seq, reason.text);
        return tc_expert_peer_fail(peer, event->seq, reason.text);
    }
    uint32_t tokens = faulty && o->fault == TC_FAULT_SIZE ? call->tokens + 1 : call->tokens;
    int64_t *sum = tc_expert_peer_sum(peer, tokens, call->hidden, e);
    if (!sum) return TC_NOMEM;
    if (faulty) misbehave(o->fault);
    if ((faulty && o->fault == TC_FAULT_NAN && tc_fail(&reason, TC_INTERNAL, "asked to fail")) ||
        tc_ffn_run(o->ffn, call, sum, &reason) != TC_OK) {
        tc_warn("call %llu failed: %s", (unsigned long long)event->seq, reason.text);
        return tc_expert_peer_fail(peer, event->seq, reason.text);
    }
    return tc_expert_peer_reply(peer, event->seq, tc_now_us() - start, e);
}

tc_status tc_serve(const tc_serve_options *o, tc_error *e)
{
    tc_expert_peer *peer;
    tc_peer_event event;
    uint64_t calls = 0;
    tc_status status = tc_expert_peer_open(o->url, &o->hello, &peer, e);
    if (status != TC_OK) return status;
    atomic_store(&current_peer, peer);
    while (status == TC_OK && !atomic_load(&stopping)) {
        if (tc_expert_peer_next(peer, WAIT_US, &event) != TC_OK) continue; // timed out or woken
        switch (event.kind) {
        case TC_PEER_WELCOME:
            tc_info("connected to the core at %s", o->url);
            break;
        case TC_PEER_LOST:
            tc_info("the core is gone (%s); waiting for it", event.reason);
            break;
        case TC_PEER_BAD_CALL:
            tc_warn("a message was not understood: %s", event.reason);
            break;
        case TC_PEER_REJECTED:
            status = tc_fail(e, TC_PEER, "the core turned this worker away: %s", event.reason);
            break;
        case TC_PEER_CALL:
            calls++;
            if (answer(o, peer, &event, o->fault && calls > o->fault_after, e) == TC_NOMEM)
                status = tc_fail(e, TC_NOMEM, "out of memory for an answer");
            break;
        }
    }
    atomic_store(&current_peer, NULL);
    tc_expert_peer_close(peer);
    if (status == TC_OK) tc_info("stopped after %llu calls", (unsigned long long)calls);
    return status;
}
