// SPDX-License-Identifier: Apache-2.0
// Owns: sets of characters as sets of byte sequences: each range of code points becomes the few sequences of
// byte ranges that are exactly its UTF-8. Surrogates have none.
#include "common/text/grammar_program.h"

enum { SEQUENCES_MAX = 64, LEADS_MAX = 64 };

typedef struct lead {
    tc_byte_set set;
    uint32_t next;
} lead;

// First bytes with what follows each; leads with the same rest are one set.
typedef struct emitter {
    tc_builder *b;
    uint32_t next; // behind the character
    lead leads[LEADS_MAX];
    uint32_t lead_count;
    struct {
        uint8_t low, high;
        uint32_t next, node;
    } rests[SEQUENCES_MAX]; // continuation bytes already emitted
    uint32_t rest_count;
    uint32_t overflow; // leads that found no room, already split
} emitter;

static void set_range(tc_byte_set *set, uint8_t low, uint8_t high)
{
    for (uint32_t c = low; c <= high; c++) set->bits[c >> 6] |= 1ull << (c & 63);
}

static uint32_t rest(emitter *m, uint8_t low, uint8_t high, uint32_t next)
{
    for (uint32_t i = 0; i < m->rest_count; i++)
        if (m->rests[i].low == low && m->rests[i].high == high && m->rests[i].next == next)
            return m->rests[i].node;
    tc_byte_set set = {0};
    set_range(&set, low, high);
    uint32_t node = tc_emit_set(m->b, &set, next);
    uint32_t at = m->rest_count < SEQUENCES_MAX ? m->rest_count++ : SEQUENCES_MAX - 1;
    m->rests[at].low = low;
    m->rests[at].high = high;
    m->rests[at].next = next;
    m->rests[at].node = node;
    return node;
}

static void add_lead(emitter *m, uint8_t low, uint8_t high, uint32_t next)
{
    uint32_t i = 0;
    while (i < m->lead_count && m->leads[i].next != next) i++;
    if (i == LEADS_MAX) { // make room: what is there becomes one node
        for (uint32_t k = 0; k < m->lead_count; k++)
            m->overflow =
                tc_emit_split(m->b, tc_emit_set(m->b, &m->leads[k].set, m->leads[k].next), m->overflow);
        m->lead_count = i = 0;
    }
    if (i == m->lead_count) m->leads[m->lead_count++] = (lead){.next = next};
    set_range(&m->leads[i].set, low, high);
}

static uint32_t encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6), out[1] = (uint8_t)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12), out[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        out[2] = (uint8_t)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18), out[1] = (uint8_t)(0x80 | (c >> 12 & 63));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 63)), out[3] = (uint8_t)(0x80 | (c & 63));
    return 4;
}

static void add_sequence(emitter *m, const uint8_t *low, const uint8_t *high, uint32_t n)
{
    uint32_t next = m->next;
    for (uint32_t i = n; i-- > 1;) next = rest(m, low[i], high[i], next);
    add_lead(m, low[0], high[0], next);
}

// Splits low..high until both ends have one length and every byte but the first that differs is free.
static void add_range(emitter *m, uint32_t low, uint32_t high)
{
    static const uint32_t ends[] = {0x7f, 0x7ff, 0xffff, 0x10ffff};
    for (int i = 0; i < 3; i++)
        if (low <= ends[i] && high > ends[i]) {
            add_range(m, low, ends[i]);
            low = ends[i] + 1;
        }
    for (uint32_t bits = 6; bits <= 18; bits += 6) {
        uint32_t mask = (1u << bits) - 1;
        if (low < 0x80 || (low & ~mask) == (high & ~mask)) break;
        if (low & mask) {
            add_range(m, low, low | mask);
            add_range(m, (low | mask) + 1, high);
            return;
        }
        if ((high & mask) != mask) {
            add_range(m, low, (high & ~mask) - 1);
            add_range(m, high & ~mask, high);
            return;
        }
    }
    uint8_t a[4], z[4];
    uint32_t n = encode(low, a);
    encode(high, z);
    add_sequence(m, a, z, n);
}

uint32_t tc_emit_chars(tc_builder *b, const tc_char_range *ranges, uint32_t n, uint32_t next)
{
    emitter m = {.b = b, .next = next};
    if (next == TC_NODE_NEVER) return TC_NODE_NEVER;
    for (uint32_t i = 0; i < n && b->status == TC_OK; i++) {
        uint32_t low = ranges[i].low, high = ranges[i].high < 0x10ffff ? ranges[i].high : 0x10ffff;
        if (low < 0xd800 && high >= low) add_range(&m, low, high < 0xd7ff ? high : 0xd7ff);
        if (high > 0xdfff && high >= low) add_range(&m, low > 0xe000 ? low : 0xe000, high);
    }
    uint32_t node = m.overflow;
    for (uint32_t k = m.lead_count; k-- > 0;)
        node = tc_emit_split(b, tc_emit_set(b, &m.leads[k].set, m.leads[k].next), node);
    return node;
}
