// SPDX-License-Identifier: Apache-2.0
// Owns: a running gateway in a thread of the test, and a blocking HTTP client that sees every byte.
#pragma once

#include "gateway/chat_template.h"
#include "gateway/server.h"
#include "tests/unit/gateway/fake_engine.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

typedef struct gateway_fixture {
    tc_gateway_options options; // a test may change these before fixture_start
    tc_tokenizer *tokenizer;
    tc_chat_template *chat_template; // ChatML
    tc_gateway *gateway;
    uv_loop_t loop;
    uv_async_t stop;
    pthread_t thread;
    uint64_t drain_ms;
    int port;
    char socket_path[128];
} gateway_fixture;

tc_tokenizer *byte_tokenizer(void); // id = byte; 256 = <|end|>, 257 = <|im_start|>, 258 = <|im_end|>, special
void fixture_prepare(gateway_fixture *f);                  // default options, fake reset
void fixture_start(gateway_fixture *f);                    // listens; the fake core is as the test left it
void fixture_drain(gateway_fixture *f, uint64_t drain_ms); // asks it to end
void fixture_join(gateway_fixture *f);                     // waits for the end
void fixture_stop(gateway_fixture *f);                     // drain 0 and join
int setup_up(void **state); // cmocka: a gateway with a core that is up and ready
int teardown(void **state);

typedef struct client {
    int fd;
    char *data;
    size_t count, taken;
    bool eof;
} client;

client dial(const gateway_fixture *f);
void hang_up(client *c);
void tell(client *c, const char *text); // sends all of it
void tell_bytes(client *c, const void *data, size_t bytes);
bool more(client *c);      // reads once; false at EOF or after 5 s
bool is_closed(client *c); // the server closes within 5 s, and sends nothing more

typedef struct answer {
    int status;
    char head[8192], *body; // free(body)
    size_t bytes;
    bool complete; // framing was whole
} answer;

answer listen_to(client *c, bool head_only);
answer ask(const gateway_fixture *f, const char *request); // one connection, one request
answer post(const gateway_fixture *f, const char *path, const char *body);
answer get(const gateway_fixture *f, const char *path);
char *post_text(const char *path, const char *body); // free
void wait_body(client *c, const char *needle);       // until the raw bytes hold it; fails the test else
bool has(const answer *a, const char *text);
