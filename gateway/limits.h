// SPDX-License-Identifier: Apache-2.0
// Owns: every limit of the HTTP side, each named once. Limits that are times can be shortened by tests
// through tc_gateway_limits; sizes are fixed.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    // One request.
    TC_HTTP_URI_BYTES_MAX = 8 << 10,       // longer: 414
    TC_HTTP_HEADERS_MAX = 100,             // more: 431
    TC_HTTP_HEADER_BYTES_MAX = 16 << 10,   // names + values + 4 for each line: 431
    TC_HTTP_HEAD_RAW_BYTES_MAX = 32 << 10, // the whole head as it came in, padding too: 431
    TC_HTTP_BODY_BYTES_MAX = 8 << 20,      // more: 413
    TC_HTTP_CHUNK_EXT_BYTES_MAX = 4 << 10, // chunk extensions of one body: 400
    TC_BODY_JSON_DEPTH_MAX = 64,

    // One connection.
    TC_HTTP_PIPELINE_BYTES_MAX = 64 << 10, // read ahead of the request being answered; then reading stops
    TC_HTTP_WRITE_HOLD_BYTES = 64 << 10,   // a stream whose client lets so much pile up is held back
    TC_HTTP_WRITE_GO_ON_BYTES = 16 << 10,  // ... until so little is left
    TC_HTTP_WRITE_HIGH_BYTES = 1 << 20,    // one that cannot be held back is cancelled

    // All connections.
    TC_HTTP_CONNECTIONS_MAX = 16384,    // more: 503 and close
    TC_HTTP_PEER_CONNECTIONS_MAX = 256, // of one address that is not this machine's; more: 429 and close
    TC_LISTENERS_MAX = 8,               // sockets handed over by the service manager
    TC_WEB_NAMES_MAX = 16,              // --allow-host, --cors-origin
    TC_HTTP_REFUSALS_MAX = 64,          // connections being told 503; beyond that they are just closed
    TC_HTTP_BODIES_BYTES_MAX = 256 << 20,
    TC_HTTP_READ_BYTES = 64 << 10, // one read

    // Requests to the model.
    TC_API_PROMPTS_MAX = 64, // of one HTTP request
    TC_API_N_MAX = 16,
    TC_API_GENERATIONS_MAX = 128,    // prompts * n
    TC_LIVE_GENERATIONS_MAX = 16384, // of the whole gateway; more: 503
    TC_API_PRIORITY_MAX = 10,        // -10..10
    TC_API_DEADLINE_MS_MAX = 86400000,
    TC_ENCODE_INLINE_BYTES = 64 << 10, // longer texts are tokenised off the loop
    TC_LINK_EVENTS_PER_TURN = 2048,    // engine events taken before sockets get their turn

    // Conversations.
    TC_CHAT_MESSAGES_MAX = 4096,
    TC_CHAT_PARTS_MAX = 1024, // of one message
    TC_CHAT_CALLS_MAX = 256,  // of one message
    TC_CHAT_TOOLS_MAX = 512,
    TC_CHAT_TOOL_NAME_BYTES_MAX = 128,
    TC_CHAT_VARIABLES_MAX = 64,        // chat_template_kwargs
    TC_CHAT_MAX_TOKENS = 4096,         // where a request does not say
    TC_CONVERSATION_ID_BYTES_MAX = 64, // kept ones:
    TC_CONVERSATIONS_MAX = 1024,
    TC_CONVERSATION_BYTES_MAX = 4 << 20,
    TC_CONVERSATIONS_BYTES_MAX = 64 << 20,
    TC_WS_REQUESTS_MAX = 8, // running at once on one WebSocket; its messages are bounded as bodies are
    TC_EXPERTS_BYTES_MAX = 64 << 20, // return_routed_experts of one generation

    TC_API_KEYS_MAX = 64,
    TC_API_KEY_BYTES_MIN = 8,
    TC_API_KEY_BYTES_MAX = 512,
    TC_API_KEY_FILE_BYTES_MAX = 64 << 10,
    TC_MODEL_NAME_BYTES_MAX = 256,

    // Times.
    TC_HTTP_HEADER_MS = 10000,       // from the first byte to the end of the header
    TC_HTTP_BODY_MS = 30000,         // from there to the end of the body
    TC_HTTP_IDLE_MS = 60000,         // between requests
    TC_HTTP_STALL_MS = 30000,        // a client that takes no byte of its answer
    TC_HTTP_HELD_MS = 60000,         // a stream that is held back all this time
    TC_HTTP_HELD_BUSY_MS = 5000,     // the same while others wait for its place
    TC_HTTP_LINGER_MS = 2000,        // after our last byte, waiting for the client to close
    TC_STREAM_KEEP_ALIVE_MS = 10000, // a stream that has nothing to say says so
    TC_HTTP_SWEEP_MS = 100,          // how often deadlines are looked at
    TC_STATUS_EVERY_MS = 500,
    TC_STATUS_STALE_MS = 5000, // no status for so long: the core hangs
    TC_RETRY_AFTER_S = 2,
    TC_RETRY_AFTER_S_MAX = 60,
    TC_DRAIN_S = 5,
    TC_DRAIN_TELL_MS = 1000, // behind the drain, for telling those that are still running
    TC_HTTP_FRESH_MS = 1000, // when draining, how long a connection may be there without a request
};

typedef struct tc_gateway_limits {
    uint32_t keep_alive_ms;
    uint32_t header_ms, body_ms, idle_ms, stall_ms, held_ms, held_busy_ms, linger_ms, sweep_ms, status_ms,
        stale_ms;
    uint32_t connections_max, peer_connections_max;
    bool count_local_peers; // the limit of a peer holds for loopback addresses too
    uint64_t bodies_bytes_max;
} tc_gateway_limits;

static inline tc_gateway_limits tc_gateway_default_limits(void)
{
    return (tc_gateway_limits){
        .keep_alive_ms = TC_STREAM_KEEP_ALIVE_MS,
        .header_ms = TC_HTTP_HEADER_MS,
        .body_ms = TC_HTTP_BODY_MS,
        .idle_ms = TC_HTTP_IDLE_MS,
        .stall_ms = TC_HTTP_STALL_MS,
        .held_ms = TC_HTTP_HELD_MS,
        .held_busy_ms = TC_HTTP_HELD_BUSY_MS,
        .linger_ms = TC_HTTP_LINGER_MS,
        .sweep_ms = TC_HTTP_SWEEP_MS,
        .status_ms = TC_STATUS_EVERY_MS,
        .stale_ms = TC_STATUS_STALE_MS,
        .connections_max = TC_HTTP_CONNECTIONS_MAX,
        .peer_connections_max = TC_HTTP_PEER_CONNECTIONS_MAX,
        .bodies_bytes_max = TC_HTTP_BODIES_BYTES_MAX,
    };
}
