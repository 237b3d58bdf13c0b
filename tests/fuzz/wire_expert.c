// SPDX-License-Identifier: Apache-2.0
// Messages of the expert link from a peer that may send anything. The first byte chooses the direction. What
// is taken must lie within the message, every byte of it readable, and must survive being packed again.
#include "proto/expert_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static uint32_t sum_of(const void *p, size_t bytes)
{
    const uint8_t *b = p;
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes; i++) sum += b[i];
    return sum;
}

static tc_status pack_again(const tc_expert_message *m, tc_wire_header *header)
{
    switch (m->kind) {
    case TC_EXPERT_HELLO:
        return tc_expert_pack_hello(&m->hello, header, NULL);
    case TC_EXPERT_RESULT:
        return tc_expert_pack_result(m->seq, m->tokens, m->hidden, m->compute_us, header, NULL);
    case TC_EXPERT_FAILURE:
        return tc_expert_pack_failure(m->seq, m->reason, header, NULL);
    case TC_EXPERT_GOODBYE:
        return tc_expert_pack_goodbye(header, NULL);
    case TC_EXPERT_SHARE:
        return tc_expert_pack_share(m->attached, m->reason, header, NULL);
    case TC_EXPERT_WELCOME:
        return *m->offer.segment ? tc_expert_pack_offer(&m->offer, header, NULL)
                                 : tc_expert_pack_welcome(header, NULL);
    case TC_EXPERT_REJECT:
        return tc_expert_pack_reject(m->reason, header, NULL);
    case TC_EXPERT_CALL:
        return tc_expert_pack_call(m->seq, &m->call, header, NULL);
    }
    abort();
}

static void check(const tc_expert_message *m, bool from_worker)
{
    tc_wire_header header;
    tc_frame frame;
    tc_expert_message again;
    size_t payload_bytes = 0;
    volatile uint32_t used = 0;
    const void *payload = NULL;
    if (m->kind == TC_EXPERT_RESULT) {
        payload_bytes = (size_t)m->tokens * m->hidden * sizeof(int64_t);
        payload = m->sum;
        MUST((uintptr_t)payload % 8 == 0);
    } else if (m->kind == TC_EXPERT_CALL) {
        payload_bytes = tc_expert_call_payload_bytes(&m->call);
        payload = m->call.x;
        MUST((const uint8_t *)m->call.pairs ==
             (const uint8_t *)payload + (size_t)m->call.tokens * m->call.hidden * 4);
    }
    used += sum_of(payload, payload_bytes); // reads every byte that was promised
    (void)used;
    MUST(strlen(m->reason) < TC_WIRE_REASON_BYTES);
    MUST(pack_again(m, &header) == TC_OK);
    uint8_t *space = malloc(4 + tc_frame_bytes(header.bytes, payload_bytes));
    uint8_t *room = tc_frame_begin(space + 4, &header);
    if (payload_bytes > 0) memcpy(room, payload, payload_bytes);
    MUST(tc_frame_parse(space + 4, tc_frame_bytes(header.bytes, payload_bytes), &frame, NULL) == TC_OK);
    MUST(tc_expert_unpack(space + 4, tc_frame_bytes(header.bytes, payload_bytes), from_worker, &again,
                          NULL) == TC_OK);
    MUST(again.kind == m->kind && again.seq == m->seq);
    free(space);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    tc_expert_message m;
    uint8_t *space = malloc(4 + size - 1); // on the border where the link keeps messages
    memcpy(space + 4, data + 1, size - 1);
    bool from_worker = data[0] & 1;
    if (tc_expert_unpack(space + 4, size - 1, from_worker, &m, NULL) == TC_OK) check(&m, from_worker);
    free(space);
    return 0;
}
