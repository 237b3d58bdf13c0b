// SPDX-License-Identifier: Apache-2.0
// Messages of the engine link from a peer that may send anything. The first byte chooses the direction. What
// is taken must lie within the message, every byte of it readable, with numbers that the core may use as they
// are.
#include "proto/engine_wire.h"

#include "common/model/model.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static void touch(const void *p, size_t bytes)
{
    const volatile uint8_t *b = p;
    for (size_t i = 0; i < bytes; i++) (void)b[i];
}

static void check_generate(const tc_engine_message *m)
{
    const tc_generate *g = &m->generate;
    tc_wire_header header;
    MUST(g->id != 0 && g->prompt_count >= 1 && g->prompt_count <= TC_PROMPT_TOKENS_MAX);
    MUST(g->stop_token_count <= TC_STOP_TOKENS_MAX && g->max_tokens <= TC_GENERATE_TOKENS_MAX);
    MUST(g->more_count < TC_CHOICES_MAX && g->priority >= -TC_PRIORITY_MAX && g->priority <= TC_PRIORITY_MAX);
    MUST(g->sampling.temperature >= 0 && g->sampling.top_p > 0 && g->sampling.repetition_penalty > 0);
    MUST(g->top_logprobs <= TC_LOGPROBS_MAX && g->logit_bias_count <= TC_LOGIT_BIASES_MAX);
    touch(g->prompt, (size_t)g->prompt_count * 4);
    touch(g->logit_bias, g->logit_bias_count * sizeof *g->logit_bias);
    MUST(g->constraint.kind < TC_CONSTRAINT_KINDS && g->constraint.bytes <= TC_CONSTRAINT_TEXT_BYTES_MAX);
    touch(g->constraint.text, g->constraint.bytes);
    MUST(tc_engine_pack_generate(m->session, g, &header, NULL) == TC_OK); // our own side would send it too
}

static void check(const tc_engine_message *m)
{
    MUST(strlen(m->reason) < TC_WIRE_REASON_BYTES);
    switch (m->kind) {
    case TC_ENGINE_M_GENERATE:
        check_generate(m);
        break;
    case TC_ENGINE_M_WELCOME:
        MUST(m->info.vocab <= TC_VOCAB_MAX && m->info.layers <= TC_LAYERS_MAX &&
             m->info.top_k <= TC_TOP_K_MAX);
        MUST(memchr(m->info.family, 0, sizeof m->info.family) && memchr(m->info.isa, 0, sizeof m->info.isa));
        break;
    case TC_ENGINE_M_TOKENS:
        for (uint32_t i = 0; i < m->count; i++) {
            uint64_t id;
            uint32_t token;
            float gap;
            tc_token_record_read(m->records + (size_t)i * TC_TOKEN_RECORD_BYTES, &id, &token, &gap);
        }
        break;
    case TC_ENGINE_M_EVALUATED:
        MUST(m->positions >= 1 && (uint64_t)m->position + m->positions <= 2 * TC_PROMPT_TOKENS_MAX);
        if (m->logits) touch(m->logits, (size_t)m->positions * m->vocab * 4);
        if (m->experts) touch(m->experts, (size_t)m->positions * m->layers * m->top_k * 4);
        break;
    case TC_ENGINE_M_LOGPROBS:
        MUST(m->positions >= 1 && m->top <= TC_LOGPROBS_MAX);
        touch(m->logprobs, (size_t)m->positions * (1 + m->top) * sizeof *m->logprobs);
        break;
    case TC_ENGINE_M_FINISHED:
        MUST(m->finish <= TC_FINISH_CANCELLED);
        break;
    case TC_ENGINE_M_FAILED:
        MUST(m->status > TC_OK && m->status < TC_STATUS_COUNT);
        break;
    case TC_ENGINE_M_STATUS:
        MUST(memchr(m->engine.reason, 0, sizeof m->engine.reason));
        if (m->detail) {
            static tc_engine_detail detail;
            tc_engine_detail_read(m, &detail);
            MUST(detail.layer_count <= TC_DETAIL_LAYERS_MAX && detail.worker_count <= TC_DETAIL_WORKERS_MAX);
        }
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    tc_engine_message m;
    uint8_t *space = malloc(4 + size - 1);
    memcpy(space + 4, data + 1, size - 1);
    if (tc_engine_unpack(space + 4, size - 1, data[0] & 1, &m, NULL) == TC_OK) check(&m);
    free(space);
    return 0;
}
