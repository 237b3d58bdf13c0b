// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of gpu-core/sched share. Refuses: to be included elsewhere.
#pragma once

#include "gpu-core/forward/sample.h"
#include "gpu-core/sched/constrain.h"
#include "gpu-core/sched/sched.h"

typedef enum request_state {
    REQUEST_WAITING,
    REQUEST_RESTORE,
    REQUEST_PREFILL,
    REQUEST_DECODE
} request_state;

// One prompt, of one request or of several choices.
typedef struct prompt_text {
    uint32_t users, count;
    tc_token_value *bias;  // owned, malloc'ed
    tc_expert_hint *hints; // owned, malloc'ed
    uint32_t hint_count;
    uint32_t tokens[];
} prompt_text;

// What a scope has been given, in tokens (a generated one weighs as much as two of a prompt).
typedef struct account {
    uint64_t scope, served;
    uint32_t requests; // held by this scope; 0: only remembered
    bool known;        // not an empty place
} account;

// What a request's next token is, before anybody is told.
typedef struct drawn {
    uint32_t token;
    float gap;
    tc_status status; // not TC_OK: no token, but an error
} drawn;

// A step of the model leaves nothing of this in the caches. So what every step looks at lies together, in the
// order of its lines: the request's own, what it counts, what ends it, the beginning of `ask`.
typedef struct request request;
struct request {
    _Alignas(64) request_state state;
    bool compiling; // its constraint: it cannot be admitted yet
    bool held, caches;
    tc_session *session;
    request *leader; // its prompt is computed by this one; NULL: by itself
    account *account;
    tc_constrained *constrained;                       // NULL: anything goes
    uint32_t batch_segment, batch_tokens, batch_first; // its segment in the step being run
    uint64_t first_token_us;
    tc_usage usage;
    uint32_t end_count, end_tokens[TC_EOS_MAX + TC_STOP_TOKENS_MAX]; // what ends it
    _Alignas(64) tc_generate ask;                                    // ask.prompt is `prompt`'s tokens
    tc_sample_params sampling;
    prompt_text *prompt;                          // shared
    uint64_t passed_step;                         // 1 + the step in which another went first; 0: nobody has
    uint64_t arrived_us, deadline_us, started_us; // deadline_us: on the clock; 0: none
    tc_prefix_block *cached;  // held: what is loaded (RESTORE), then the last block that is kept
    tc_prefix_block *loading; // the next one to load, from the end to the start
    uint32_t branch;          // where other prompts went on differently: worth a snapshot
    uint32_t state_at;        // of its past: where the last state lies in the cache
};

struct tc_sched {
    tc_sched_options o;
    tc_sampler *sampler;
    request **requests; // [queue_requests] in order of arrival
    uint32_t count;
    uint64_t held_tokens;
    account *accounts; // [account_count]
    uint32_t account_count;
    uint64_t next_deadline_us; // no deadline is before this
    // the batch being built
    uint32_t ids[TC_STEP_TOKENS_MAX], position[TC_STEP_TOKENS_MAX], segment[TC_STEP_TOKENS_MAX];
    tc_segment segments[TC_BATCH_SEGMENTS_MAX];
    request *owner[TC_BATCH_SEGMENTS_MAX];
    tc_batch batch;
    uint32_t decoding; // segments of answers, the first ones
    int32_t *chosen;   // [tokens_max][layers][top_k]
    uint32_t pairs_a_token, snapshot_every;
    uint32_t spares_used; // spare slots of the batch being built
    // what steps take, moving averages
    double answer_us;       // a step of answers only
    double prompt_token_us; // what a prompt token adds beside answers; 0: not known yet
    double alone_token_us;  // what one takes in a step of prompts alone; 0: not known yet
    // outside: forward, head and sampling of the step being run
    uint64_t start_us, outside_ns, sched_ns;
    drawn drawn[TC_BATCH_SEGMENTS_MAX];
    tc_error draw_error[TC_BATCH_SEGMENTS_MAX]; // of those that have one
    tc_placement_request placed[TC_BATCH_SEGMENTS_MAX];
    uint32_t kv_pages;
    uint64_t ahead_pairs;   // of the forward pass's times, at the last look
    tc_engine_status total; // counters only
    tc_engine_detail detail;
};

// queue.c
uint64_t tc_sched_now(const tc_sched *s);
request *tc_sched_find(const tc_sched *s, uint64_t id);
void tc_sched_drop(tc_sched *s, request *r);
void tc_sched_fail(tc_sched *s, request *r, tc_status status, const char *reason);
void tc_sched_accept(tc_sched *s, const tc_generate *g);
void tc_sched_expire(tc_sched *s);
void tc_sched_admit(tc_sched *s);
bool tc_sched_compiling(const tc_sched *s); // somebody waits for a constraint
bool tc_sched_goes_first(const tc_sched *s, const request *a, const request *b, uint64_t now);
void tc_sched_charge(request *r, uint64_t tokens);

tc_placement_request tc_sched_placed(const request *r);

// batch.c
void tc_sched_build(tc_sched *s);
void tc_sched_learn(tc_sched *s, uint64_t step_us);
// prefix.c
void tc_sched_begin_prompt(tc_sched *s, request *r); // admitted: from the cache, or from the start
bool tc_sched_restore(tc_sched *s, bool beside);     // loads what is due; true: something was loaded
void tc_sched_keep_prompt(tc_sched *s, request *r);  // after a step that computed some of it
void tc_sched_keep_answer(tc_sched *s, request *r);  // at its end
// Has the device keep states of a prompt's chunk.
void tc_sched_choose_keeps(tc_sched *s, const request *r, tc_segment *segment);

// observe.c
void tc_sched_note_end(const tc_sched *s, const request *r, const char *outcome, bool warning);
void tc_sched_note_step(tc_sched *s, uint64_t begin_us, uint64_t end_us, uint32_t tokens, uint32_t segments,
                        const char *requests);
// Whose step it is, before it runs: "a b c", cut to fit. Workers tell the step's number only.
enum { TC_STEP_REQUESTS_BYTES = 256 };
void tc_sched_name_step(const tc_sched *s, char ret[TC_STEP_REQUESTS_BYTES]);
void tc_sched_fill_detail(tc_sched *s, const tc_source_stats *source);
