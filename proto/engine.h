// SPDX-License-Identifier: Apache-2.0
// Owns: the link between a client of the core (gateway, command) and the core, as plain C. Behind it: an
// nng stream (reliable, with back-pressure: no delta is ever dropped) and engine.proto. One client at a time;
// a second one is told so and turned away. Refuses: text. Token ids travel, strings do not. Every message is
// bounded and checked on both ends.
//
//   client: hello{version} ---> core ; core: welcome{model info} ---> client
//   client: generate{id, ...}, cancel{id}, hold{id}, status_request ---> core
//   core: tokens{[id, token...]...}, evaluated{id, ...}, finished{id, ...}, failed{id, ...}, status{...} --->
//   client
#pragma once

#include "common/base/mem.h"
#include "common/base/statistics.h"
#include "common/text/grammar.h"
#include <stdint.h>

enum {
    TC_ENGINE_PROTOCOL_VERSION = 5,
    TC_PROMPT_TOKENS_MAX = 1 << 20,
    TC_GENERATE_TOKENS_MAX = 1 << 20,
    TC_STOP_TOKENS_MAX = 64,
    TC_CHOICES_MAX = 128,       // of one prompt
    TC_PRIORITY_MAX = 10,       // -10..10
    TC_LOGPROBS_MAX = 20,       // likeliest tokens told beside the one chosen
    TC_LOGIT_BIASES_MAX = 1024, // tokens of one request with a bias of their own
    TC_REQUEST_ID_BYTES_MAX = 64,
    TC_DETAIL_WORKERS_MAX = 64,
    TC_DETAIL_LAYERS_MAX = 256,
    TC_EXPERT_HINTS_MAX = 1024, // experts that one request names
    TC_QUESTION_BYTES_MAX = 1 << 16,
    TC_ANSWER_BYTES_MAX = 1 << 18,
};

// Letters, digits and . _ : - only, so that it can stand in logs and traces as it is.
// bytes: 1..TC_REQUEST_ID_BYTES_MAX.
static inline bool tc_request_id_is_good(const char *text, size_t bytes)
{
    if (bytes == 0 || bytes > TC_REQUEST_ID_BYTES_MAX) return false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
              c == '_' || c == ':' || c == '-'))
            return false;
    }
    return true;
}

// Sampling of one request. Order of operations: docs/MODEL.md.
typedef struct tc_sampling {
    float temperature;                         // 0: greedy
    float top_p, min_p;                        // top_p 1, min_p 0: off
    uint32_t top_k;                            // 0: off
    float repetition_penalty;                  // 1: off
    float presence_penalty, frequency_penalty; // 0: off
    bool seeded;                               // else the core draws a seed
    uint64_t seed;
    uint32_t min_tokens; // before so many no eos and none of stop_tokens can be drawn
} tc_sampling;

// A token and a number: its bias, or its log-probability. Travels as it is.
typedef struct tc_token_value {
    uint32_t token;
    float value;
} tc_token_value;

// An expert that a request names: to be fetched, or to be held as long as the request runs. Travels as it is.
typedef struct tc_expert_hint {
    uint16_t layer, expert;
    uint32_t pin; // 0 or 1
} tc_expert_hint;

// What an operator asks the core; question and answer are JSON.
typedef enum tc_question {
    TC_ASK_EXPERT_STATS,        // no text
    TC_ASK_EXPERT_OPTIMIZATION, // the settings; answered as EXPERT_STATS
    TC_ASK_MEMORY,              // no text
    TC_QUESTIONS
} tc_question;

typedef struct tc_generate {
    // What every step of the core looks at comes first, so that it shares a cache line.
    uint64_t id;                           // chosen by the client, unique among its live requests, not 0
    uint64_t conversation, expert_profile; // whose experts are remembered together; 0: none
    uint64_t scope;        // whose it is: fairness is between scopes, and none sees another's cached prefixes
    uint32_t prompt_count; // >= 1
    uint32_t max_tokens;   // 0: evaluate the prompt only
    uint32_t stop_token_count, top_logprobs; // top_logprobs: likeliest tokens in each TC_ENGINE_LOGPROBS
    int32_t priority;                        // -TC_PRIORITY_MAX..TC_PRIORITY_MAX, higher comes first
    bool ignore_eos;                         // the model's eos tokens do not stop it
    bool want_logits;                        // send TC_ENGINE_EVALUATED with logits of every prompt position
    bool want_experts; // ... with the chosen experts of every position: the prompt's, then those generated
                       // (but for the last, which no pass reads)
    bool want_gaps;    // top-2 logit gap with every token
    // TC_ENGINE_LOGPROBS for each token generated, before the token itself; or for each of the prompt but the
    // first, before any token: then every prompt position has to be computed.
    bool want_logprobs, want_prompt_logprobs;
    bool optimize_experts;                        // may this request change the expert cache
    bool no_cache;                                // neither use nor fill the prefix cache
    char request_id[TC_REQUEST_ID_BYTES_MAX + 1]; // what logs and traces call it; "": its id
    const uint32_t *prompt;                       // borrowed for the call
    tc_sampling sampling;
    uint32_t stop_tokens[TC_STOP_TOKENS_MAX];
    uint64_t deadline_us; // from arrival; past it the request fails with TC_TIMEOUT; 0: none
    // Further choices of the same prompt, each a request of its own from here on (tokens, end, cancel).
    // Choice k draws with seed + k. Their ids are unique as `id` is.
    uint64_t more_ids[TC_CHOICES_MAX - 1];
    uint32_t more_count;
    const tc_token_value *logit_bias; // borrowed for the call; added to raw logits
    uint32_t logit_bias_count;
    // What the answer's text must match; the request ends (STOP) where nothing can follow. The text is
    // borrowed for the call. constraint_after: 0, or a token's id + 1: the constraint begins behind that
    // token (the end of a reasoning part).
    tc_constraint constraint;
    uint32_t constraint_after;
    const tc_expert_hint *hints; // borrowed for the call
    uint32_t hint_count;
} tc_generate;

typedef enum tc_finish { TC_FINISH_STOP, TC_FINISH_LENGTH, TC_FINISH_CANCELLED } tc_finish;

typedef struct tc_model_info {
    char family[32];
    char model_hash[33];
    char device[16], precision[16], isa[16];
    uint32_t layers, hidden, vocab, experts, top_k,
        context; // context: prompt + generated tokens of one request
    uint32_t sessions_max;
    uint64_t weights_bytes, experts_bytes, kv_budget_bytes, cache_budget_bytes;
    uint32_t queue_requests_max; // waiting and running; 0: the core does not say
    uint64_t queue_tokens_max;   // prompt tokens of all of them
    // Sampling defaults (generation_config.json).
    bool do_sample;
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t default_top_k;
} tc_model_info;

// What metrics need beside the status. Words of 64 bits only: this is how it travels, but for unused layers
// and workers.
typedef struct tc_layer_lookups {
    uint64_t hot, cold; // (token, expert) pairs
} tc_layer_lookups;

typedef struct tc_engine_detail {
    uint64_t memory_bytes[TC_MEM_TAGS];             // of the core's heap, by purpose
    uint64_t device_total_bytes, device_used_bytes; // of the device; 0: it has no memory of its own
    uint64_t device_bytes[TC_MEM_TAGS];             // of it by purpose; hot experts are among the others
    uint64_t device_driver_bytes;                   // of it what the driver keeps for itself
    uint64_t hot_slots, hot_used, hot_bytes;        // places for experts in the device's cache
    uint64_t fills, hot_evictions, moved_bytes;     // of that cache
    uint64_t expected, expected_true;               // pairs foretold by routers, and those of them that came
    uint64_t ahead_fills, ahead_used, ahead_late;   // experts fetched for it inside a step
    tc_histogram step, swap;
    uint64_t worker_count, layer_count;
    tc_layer_lookups layers[TC_DETAIL_LAYERS_MAX];
    tc_worker_stats workers[TC_DETAIL_WORKERS_MAX];
} tc_engine_detail;

typedef struct tc_engine_status {
    bool ready; // model resident and enough workers for every expert
    uint32_t workers_up, workers_expected;
    uint32_t running, waiting;
    uint64_t tokens_generated, prompt_tokens, expert_calls, expert_retries, workers_lost;
    uint64_t expert_hits, expert_misses; // hot tier / cold tier, in (token, expert) pairs
    uint64_t uptime_us, step_us_total, steps;
    // stage times in us since start: attention (both kinds), router, expert call (post + compute of shared),
    // wait, head + sampling
    uint64_t attention_us, router_us, expert_us, wait_us, head_us;
    uint64_t experts_fetched;    // cold ones that the device read over the link for one step
    uint64_t expert_reads;       // experts read: one a (step, layer, expert), however many tokens chose it
    uint64_t decode_allocations; // violations of the no-allocation guard
    uint32_t held;               // running, but their readers are slow
    uint64_t queue_tokens;       // prompt tokens of all requests, waiting and running
    uint32_t kv_pages, kv_pages_free;
    uint64_t cached_tokens, cache_bytes, cache_evictions; // prefix cache
    uint64_t refused, expired; // requests: no room in the queue; past their deadline
    uint64_t sched_us;         // the scheduler's own time since start, without sending; in step_us_total too
    uint64_t grouped;          // requests that went first because their experts were in use
    uint64_t placement_us;     // profile and policy of the hot experts; in sched_us too
    char reason[256];          // why not ready
    const tc_engine_detail *detail; // borrowed; NULL: none
} tc_engine_status;

typedef struct tc_usage {
    uint32_t prompt_tokens, generated_tokens;
    uint64_t queue_us, prefill_us, decode_us;
    uint64_t expert_hits, expert_misses;
    uint32_t cached_tokens; // of the prompt, taken from the prefix cache
    uint32_t stopped_by;    // 1 + the one of stop_tokens that ended it; 0: none of these
} tc_usage;

// ---- client ----
typedef enum tc_engine_event_kind {
    TC_ENGINE_UP,        // `info`
    TC_ENGINE_DOWN,      // `reason`; all live requests are lost. The client keeps dialling.
    TC_ENGINE_TOKEN,     // `id`, `token`, `gap`
    TC_ENGINE_EVALUATED, // `id`, positions [position, position + positions): `logits` or NULL, `experts` or
                         // NULL
    TC_ENGINE_LOGPROBS,  // `id`, tokens at [position, position + positions) of prompt and answer: `logprobs`
    TC_ENGINE_FINISHED,  // `id`, `finish`, `usage`
    TC_ENGINE_FAILED,    // `id`, `status`, `reason`
    TC_ENGINE_STATUS,    // `engine`
    TC_ENGINE_ANSWER,    // `id`, `status`, `text` (JSON), or `reason`
} tc_engine_event_kind;

typedef struct tc_engine_event {
    tc_engine_event_kind kind;
    uint64_t id;
    uint32_t token;
    float gap;
    uint32_t position, positions;
    const float *logits;            // [positions][vocab]
    const int32_t *experts;         // [positions][layers][top_k], -1 where a layer has no experts
    const tc_token_value *logprobs; // [positions][1 + top]: the token itself, then the likeliest, falling
    uint32_t top;
    tc_finish finish;
    tc_usage usage;
    tc_status status;
    const tc_model_info *info;
    const tc_engine_status *engine;
    const char *text; // text_bytes of it, no NUL
    size_t text_bytes;
    char reason[256];
} tc_engine_event; // pointers are valid until the next tc_engine_client_next

typedef struct tc_engine_client tc_engine_client;

// Starts dialling; never blocks. url: ipc://...
tc_status tc_engine_client_open(const char *url, tc_engine_client **ret, tc_error *e);
void tc_engine_client_close(tc_engine_client *client);
int tc_engine_client_fd(const tc_engine_client *client); // readable while events wait (poll only)
tc_status tc_engine_client_next(tc_engine_client *client, uint64_t timeout_us,
                                tc_engine_event *ret); // TC_TIMEOUT: none
// Queued and sent in order; TC_CLOSED while the core is down; TC_BUSY when too much is queued.
tc_status tc_engine_client_generate(tc_engine_client *client, const tc_generate *request, tc_error *e);
tc_status tc_engine_client_cancel(tc_engine_client *client, uint64_t id);
tc_status tc_engine_client_hold(tc_engine_client *client, uint64_t id, bool held); // see TC_COMMAND_HOLD
tc_status tc_engine_client_ask_status(tc_engine_client *client);
// id: the caller's, comes back with the answer. text: at most TC_QUESTION_BYTES_MAX.
tc_status tc_engine_client_ask(tc_engine_client *client, uint64_t id, tc_question question, const char *text,
                               size_t bytes);

// ---- server (core) ----
typedef enum tc_command_kind {
    TC_COMMAND_GENERATE,
    TC_COMMAND_CANCEL,
    TC_COMMAND_HOLD, // `held`: takes no part in steps until it is held no more
    TC_COMMAND_STATUS,
    TC_COMMAND_ASK, // `question`, `text`
    TC_COMMAND_CLIENT_GONE
} tc_command_kind;

typedef struct tc_command {
    tc_command_kind kind;
    uint64_t id;
    bool held;
    tc_generate generate; // prompt valid until the next tc_engine_server_next
    tc_question question;
    const char *text; // text_bytes of it, valid as the prompt is
    size_t text_bytes;
} tc_command;

typedef struct tc_engine_server tc_engine_server;

tc_status tc_engine_server_open(const char *url, const tc_model_info *info, tc_engine_server **ret,
                                tc_error *e);
void tc_engine_server_close(tc_engine_server *server);
int tc_engine_server_fd(const tc_engine_server *server); // readable while commands wait (poll only)
tc_status tc_engine_server_next(tc_engine_server *server, uint64_t timeout_us,
                                tc_command *ret); // TC_TIMEOUT: none
// Tokens are gathered and leave as one message at flush (once a step). Sending to a client that is gone does
// nothing.
void tc_engine_server_token(tc_engine_server *server, uint64_t id, uint32_t token, float gap);
void tc_engine_server_evaluated(tc_engine_server *server, uint64_t id, uint32_t position, uint32_t positions,
                                uint32_t vocab, const float *logits, uint32_t layers, uint32_t top_k,
                                const int32_t *experts);
// logprobs: [positions][1 + top]. Travels before the tokens gathered since the last flush.
void tc_engine_server_logprobs(tc_engine_server *server, uint64_t id, uint32_t position, uint32_t positions,
                               uint32_t top, const tc_token_value *logprobs);
void tc_engine_server_finished(tc_engine_server *server, uint64_t id, tc_finish finish,
                               const tc_usage *usage);
void tc_engine_server_failed(tc_engine_server *server, uint64_t id, tc_status status, const char *reason);
void tc_engine_server_status(tc_engine_server *server, const tc_engine_status *status);
// status other than TC_OK: text is the reason. At most TC_ANSWER_BYTES_MAX.
void tc_engine_server_answer(tc_engine_server *server, uint64_t id, tc_status status, const char *text,
                             size_t bytes);
void tc_engine_server_flush(tc_engine_server *server);
