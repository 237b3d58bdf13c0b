// SPDX-License-Identifier: Apache-2.0
// Owns: the virtual clock, and links (proto/link.h) that carry real messages over a network that exists here
// only: with delays, losses, duplicates, disorder, partitions and deaths, all drawn from the seed. Refuses:
// threads, sockets and real time. What a byte stream cannot do (to lose one message and carry the next) is
// done here nevertheless: whoever survives that survives less.
#include "tests/sim/sim.h"

#include "proto/link_message.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define END_US (1800 * 1000000ull)
enum { TURNS_MAX = 5000000, EVENTS_MAX = 1 << 14, ITEMS_MAX = 1024, LINKS_MAX = 64, WIRES_MAX = 4096 };

typedef struct event {
    uint64_t at_us, order;
    sim_action *action;
    void *arg;
    uint64_t number;
} event;

typedef enum side_state { SIDE_NEW, SIDE_OPEN, SIDE_CUT } side_state;

// One connection: side 0 dialled, side 1 listens. The pipe's id is the wire's number on both.
typedef struct wire {
    tc_link *end[2];
    side_state state[2];
    bool told_down[2];
    uint64_t arrives_us[2]; // when what was sent last arrives at that side: the next comes behind it
    uint64_t cut_until_us;  // partition: nothing arrives
} wire;

struct tc_link {
    tc_link_kind kind;
    bool dead;
    uint32_t redial_ms;
    uint64_t cut_until_us;
    tc_link_item items[ITEMS_MAX];
    uint32_t head, count;
    sim_action *on_item;
    void *arg;
    uint64_t number;
};

uint64_t sim_now_us;
static uint64_t chance_state, event_order, turns;
static sim_faults faults;
static event heap[EVENTS_MAX];
static uint32_t heap_count;
static wire wires[WIRES_MAX];
static uint32_t wire_count;
static tc_link *links[LINKS_MAX], *listener;
static uint32_t link_count;

// The code under test asks libc for the time, and is told ours.
int clock_gettime(clockid_t id, struct timespec *ts)
{
    (void)id;
    ts->tv_sec = (time_t)(sim_now_us / 1000000);
    ts->tv_nsec = (long)(sim_now_us % 1000000) * 1000;
    return 0;
}

uint64_t sim_random(uint64_t below)
{
    uint64_t z = chance_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return below ? (z ^ (z >> 31)) % below : 0;
}

bool sim_chance(uint32_t in_a_thousand)
{
    return in_a_thousand && sim_random(1000) < in_a_thousand;
}

// ---- events: a heap by time, then by order of making ----

static bool before(const event *a, const event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void sim_at(uint64_t at_us, sim_action *action, void *arg, uint64_t number)
{
    if (heap_count == EVENTS_MAX) sim_fail("more than %d events wait", EVENTS_MAX);
    event e = {at_us < sim_now_us ? sim_now_us : at_us, event_order++, action, arg, number};
    uint32_t i = heap_count++;
    for (; i > 0 && before(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

uint64_t sim_next_event_us(void)
{
    return heap_count ? heap[0].at_us : UINT64_MAX;
}

bool sim_next_event(uint64_t until_us)
{
    if (sim_now_us > END_US) sim_fail("half an hour has passed: somebody waits for ever");
    if (++turns > TURNS_MAX) sim_fail("%d turns: somebody does not wait at all", TURNS_MAX);
    if (!heap_count || heap[0].at_us > until_us) {
        if (until_us > sim_now_us) sim_now_us = until_us;
        return false;
    }
    event first = heap[0], last = heap[--heap_count];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < heap_count; i = child) {
        if (child + 1 < heap_count && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &last)) break;
        heap[i] = heap[child];
    }
    if (heap_count) heap[i] = last;
    if (first.at_us > sim_now_us) sim_now_us = first.at_us;
    first.action(first.arg, first.number);
    return true;
}

static void connect_soon(tc_link *link);
static void deliver(void *arg, uint64_t number);

void sim_begin(uint64_t seed, const sim_faults *with)
{
    sim_now_us = 1000000;
    chance_state = seed * 0x2545f4914f6cdd1du + 1;
    faults = *with;
    turns = event_order = heap_count = wire_count = link_count = 0;
    listener = NULL;
}

void sim_end(void)
{
    for (uint32_t i = 0; i < heap_count; i++)
        if (heap[i].action == deliver) tc_link_message_free(heap[i].arg);
    heap_count = 0;
    for (uint32_t i = 0; i < link_count; i++) free(links[i]);
    link_count = 0;
}

void sim_calm(void)
{
    uint64_t latency_us = faults.latency_us, jitter_us = faults.jitter_us;
    faults = (sim_faults){.latency_us = latency_us, .jitter_us = jitter_us};
    for (uint32_t i = 0; i < wire_count; i++) wires[i].cut_until_us = 0;
    for (uint32_t i = 0; i < link_count; i++) links[i]->cut_until_us = 0;
}

// ---- items ----

static void push(tc_link *link, tc_link_item item)
{
    if (link->dead) {
        tc_link_message_free(item.message);
        return;
    }
    if (link->count == ITEMS_MAX) sim_fail("more than %d items wait at a link", ITEMS_MAX);
    link->items[(link->head + link->count++) % ITEMS_MAX] = item;
    if (link->on_item) sim_at(sim_now_us, link->on_item, link->arg, link->number);
}

static int side_of(const wire *w, const tc_link *link)
{
    return w->end[1] == link;
}

static void end_side(wire *w, uint32_t id, int side, const char *reason)
{
    if (w->told_down[side]) return;
    w->told_down[side] = true;
    push(w->end[side], (tc_link_item){.kind = TC_LINK_DOWN, .pipe = id, .reason = reason});
    if (side == 0) connect_soon(w->end[0]);
}

static void other_side_ends(void *arg, uint64_t number)
{
    wire *w = &wires[(number >> 1) - 1];
    (void)arg;
    end_side(w, (uint32_t)(number >> 1), (int)(number & 1), "connection closed");
}

static uint64_t travel_us(void)
{
    uint64_t us = faults.latency_us + sim_random(faults.jitter_us + 1);
    return sim_chance(faults.delay) ? us + sim_random(200000) : us;
}

static void hang_up(uint32_t id, int side, const char *reason)
{
    wire *w = &wires[id - 1];
    end_side(w, id, side, reason);
    w->state[side] = SIDE_CUT;
    // A peer behind a partition does not hear of it: it finds out by its own silence.
    uint64_t at_us =
        w->cut_until_us > sim_now_us ? sim_now_us + TC_LINK_DEAD_MS * 1000u : sim_now_us + travel_us();
    sim_at(at_us, other_side_ends, NULL, (uint64_t)id << 1 | (uint64_t)!side);
}

// ---- connections ----

static void stranger_was_silent(void *arg, uint64_t number)
{
    (void)arg;
    if (wires[number - 1].state[1] == SIDE_NEW) hang_up((uint32_t)number, 1, "was silent for too long");
}

static void connected(void *arg, uint64_t number)
{
    tc_link *link = arg;
    (void)number;
    if (link->dead) return;
    if (link->cut_until_us > sim_now_us) { // nobody answers
        connect_soon(link);
        return;
    }
    if (wire_count == WIRES_MAX) sim_fail("more than %d connections", WIRES_MAX);
    wires[wire_count++] = (wire){.end = {link, listener}};
    push(link, (tc_link_item){.kind = TC_LINK_UP, .pipe = wire_count});
    sim_at(sim_now_us + TC_LINK_SILENT_MS_MAX * 1000u, stranger_was_silent, NULL, wire_count);
}

static void connect_soon(tc_link *link)
{
    if (link->dead) return;
    sim_at(sim_now_us + link->redial_ms * 1000u + travel_us(), connected, link, 0);
    if (link->redial_ms < TC_LINK_REDIAL_MS_MAX) link->redial_ms *= 2;
}

void sim_on_item(tc_link *link, sim_action *action, void *arg, uint64_t number)
{
    link->on_item = action;
    link->arg = arg;
    link->number = number;
}

tc_link *sim_dialler(uint32_t number)
{
    for (uint32_t i = 0; i < link_count; i++)
        if (links[i]->kind == TC_LINK_DIAL && !links[i]->dead && number-- == 0) return links[i];
    return NULL;
}

void sim_kill(tc_link *link)
{
    for (uint32_t i = 0; i < wire_count; i++) {
        wire *w = &wires[i];
        if (w->end[0] != link || w->told_down[0]) continue;
        w->told_down[0] = true;
        w->state[0] = SIDE_CUT;
        uint64_t at_us =
            w->cut_until_us > sim_now_us ? sim_now_us + TC_LINK_DEAD_MS * 1000u : sim_now_us + travel_us();
        sim_at(at_us, other_side_ends, NULL, (uint64_t)(i + 1) << 1 | 1);
    }
    link->dead = true;
}

static void silence_is_noticed(void *arg, uint64_t number)
{
    wire *w = &wires[number - 1];
    (void)arg;
    if (w->cut_until_us <= sim_now_us) return; // it healed in time
    for (int side = 0; side < 2; side++) {
        if (!w->told_down[side]) end_side(w, (uint32_t)number, side, "was not heard of any more");
        w->state[side] = SIDE_CUT;
    }
}

void sim_cut_off(tc_link *link, uint64_t for_us)
{
    link->cut_until_us = sim_now_us + for_us;
    for (uint32_t i = 0; i < wire_count; i++) {
        if (wires[i].end[0] != link || wires[i].told_down[0]) continue;
        wires[i].cut_until_us = link->cut_until_us;
        sim_at(sim_now_us + TC_LINK_DEAD_MS * 1000u, silence_is_noticed, NULL, i + 1);
    }
}

// ---- proto/link.h ----

tc_status tc_link_open(tc_link_kind kind, const char *url, const tc_tls *tls, tc_link **ret, tc_error *e)
{
    (void)url, (void)tls, (void)e;
    tc_link *link = calloc(1, sizeof *link);
    if (!link || link_count == LINKS_MAX) sim_fail("more than %d links", LINKS_MAX);
    link->kind = kind;
    link->redial_ms = TC_LINK_REDIAL_MS_MIN;
    links[link_count++] = link;
    if (kind == TC_LINK_LISTEN)
        listener = link;
    else
        sim_at(sim_now_us + travel_us(), connected, link, 0);
    *ret = link;
    return TC_OK;
}

tc_status tc_link_listen(tc_link *link, const char *url, const tc_tls *tls, tc_error *e)
{
    (void)link, (void)url, (void)tls, (void)e;
    return TC_OK;
}

void tc_link_close(tc_link *link)
{
    if (!link) return;
    link->dead = true;
    for (; link->count; link->count--, link->head = (link->head + 1) % ITEMS_MAX)
        tc_link_message_free(link->items[link->head].message);
    // Events may still name it: it is freed by sim_end.
}

int tc_link_fd(const tc_link *link)
{
    return (void)link, -1;
}

uint64_t tc_link_deadline(uint64_t timeout_us)
{
    return timeout_us > UINT64_MAX - sim_now_us ? UINT64_MAX : sim_now_us + timeout_us;
}

static bool pop(tc_link *link, tc_link_item *ret)
{
    while (link->count) {
        *ret = link->items[link->head];
        link->head = (link->head + 1) % ITEMS_MAX;
        link->count--;
        if (ret->kind != TC_LINK_MESSAGE ||
            wires[ret->pipe - 1].state[side_of(&wires[ret->pipe - 1], link)] != SIDE_CUT)
            return true;
        tc_link_message_free(ret->message);
    }
    return false;
}

// The core's wait is what moves time; a worker only looks.
tc_status tc_link_next(tc_link *link, uint64_t deadline_us, tc_link_item *ret)
{
    for (;;) {
        if (pop(link, ret)) return TC_OK;
        if (link->kind == TC_LINK_DIAL || !sim_next_event(deadline_us)) return TC_TIMEOUT;
    }
}

void tc_link_wake(tc_link *link)
{
    (void)link;
}
bool tc_link_ready(const tc_link *link)
{
    return link->count > 0;
}
void tc_link_set_arrival(tc_link *link, tc_link_arrival *arrival, void *arg)
{
    (void)link, (void)arrival, (void)arg;
}

bool tc_link_peer(tc_link *link, uint32_t pipe, char ret_address[TC_LINK_ADDRESS_BYTES])
{
    (void)link;
    snprintf(ret_address, TC_LINK_ADDRESS_BYTES, "10.0.0.%u:1", pipe % 250);
    return false;
}

void tc_link_trust(tc_link *link, uint32_t pipe)
{
    wire *w = &wires[pipe - 1];
    if (w->state[side_of(w, link)] == SIDE_NEW) w->state[side_of(w, link)] = SIDE_OPEN;
    link->redial_ms = TC_LINK_REDIAL_MS_MIN;
}

void tc_link_cut(tc_link *link, uint32_t pipe)
{
    hang_up(pipe, side_of(&wires[pipe - 1], link), "was cut off");
}

void tc_link_reject(tc_link *link, uint32_t pipe)
{
    (void)link, (void)pipe; // the stranger's silence ends it
}

static void deliver(void *arg, uint64_t number)
{
    uint32_t id = (uint32_t)(number >> 1);
    int side = (int)(number & 1);
    wire *w = &wires[id - 1];
    tc_link_message *message = arg;
    if (w->told_down[side] || w->cut_until_us > sim_now_us) {
        tc_link_message_free(message);
        return;
    }
    push(w->end[side], (tc_link_item){.kind = TC_LINK_MESSAGE, .pipe = id, .message = message});
}

static tc_link_message *copy_of(const tc_link_message *message)
{
    tc_link_message *copy = tc_link_message_alloc(message->frame_bytes);
    if (!copy) sim_fail("out of memory");
    memcpy(tc_link_message_frame(copy), tc_link_message_frame(message), message->frame_bytes);
    return copy;
}

tc_status tc_link_send(tc_link *link, uint32_t pipe, tc_link_message *message, uint64_t wait_us)
{
    wire *w = &wires[pipe - 1];
    int side = side_of(w, link), to = !side;
    (void)wait_us;
    if (link->dead || w->told_down[side] || w->state[side] == SIDE_CUT) return TC_CLOSED;
    uint64_t number = (uint64_t)pipe << 1 | (uint64_t)to, at_us = sim_now_us + travel_us();
    if (!sim_chance(faults.reorder) && at_us < w->arrives_us[to]) at_us = w->arrives_us[to];
    w->arrives_us[to] = at_us;
    if (sim_chance(faults.duplicate)) sim_at(at_us + sim_random(20000), deliver, copy_of(message), number);
    if (sim_chance(faults.lose))
        tc_link_message_free(message);
    else
        sim_at(at_us, deliver, message, number);
    return TC_OK;
}

void tc_link_drain(tc_link *link, uint64_t wait_us)
{
    (void)link, (void)wait_us;
}
