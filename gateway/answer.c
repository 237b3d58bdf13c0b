// SPDX-License-Identifier: Apache-2.0
// Owns: finding the tags, and what waits.
#include "gateway/answer.h"

#include "gateway/answer_call.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define THINK "<think>"
#define THINK_END "</think>"
#define CALL "<tool_call>"
#define CALL_END "</tool_call>"

typedef enum answer_state { START, REASONING, TEXT, IN_CALL, DONE } answer_state;

struct tc_answer {
    tc_answer_options o;
    tc_answer_emit *emit;
    void *owner;
    answer_state state;
    bool trim; // white space at the beginning of what comes is dropped
    bool failed;
    tc_buffer pending; // not decided yet
    tc_buffer text, reasoning;
    tc_tool_call *calls;
    uint32_t call_count, item_count;
    tc_answer_item *items;
    tc_call_scan scan;
    bool call_open; // its beginning has been told
    size_t arguments_told;
};

tc_answer *tc_answer_new(const tc_answer_options *options, tc_answer_emit *emit, void *owner)
{
    tc_answer *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    a->o = *options;
    a->emit = emit;
    a->owner = owner;
    a->state = options->in_reasoning ? REASONING : START;
    a->trim = options->in_reasoning;
    return a;
}

void tc_answer_free(tc_answer *a)
{
    if (!a) return;
    for (uint32_t i = 0; i < a->call_count; i++) {
        tc_buffer_free(&a->calls[i].name);
        tc_buffer_free(&a->calls[i].arguments);
    }
    free(a->calls);
    free(a->items);
    tc_call_scan_free(&a->scan);
    tc_buffer_free(&a->pending);
    tc_buffer_free(&a->text);
    tc_buffer_free(&a->reasoning);
    free(a);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static void note_item(tc_answer *a, tc_part_kind kind, size_t begin, size_t end)
{
    tc_answer_item *last = a->item_count ? &a->items[a->item_count - 1] : NULL;
    if (last && last->kind == kind && kind != TC_PART_CALL) {
        last->end = end;
        return;
    }
    tc_answer_item *grown = realloc(a->items, (a->item_count + 1) * sizeof *grown);
    if (!grown) {
        a->failed = true;
        return;
    }
    a->items = grown;
    a->items[a->item_count++] = (tc_answer_item){kind, begin, end, a->call_count};
}

// Tells `bytes` of pending and takes them off, with `skip` more. `bytes` first: emit may free everything.
static bool tell(tc_answer *a, tc_part_kind kind, size_t bytes, size_t skip)
{
    tc_buffer *all = kind == TC_PART_REASONING ? &a->reasoning : &a->text;
    bool alive = true;
    if (bytes) {
        tc_buffer_append(all, a->pending.data, bytes);
        if (all->failed)
            a->failed = true;
        else
            note_item(a, kind, all->count - bytes, all->count);
        const tc_part part = {.kind = kind, .text = a->pending.data, .bytes = bytes};
        alive = a->emit(a->owner, &part);
    }
    if (alive) tc_buffer_consume(&a->pending, bytes + skip);
    return alive;
}

static void drop_spaces(tc_answer *a)
{
    size_t n = 0;
    while (n < a->pending.count && is_space(a->pending.data[n])) n++;
    tc_buffer_consume(&a->pending, n);
    if (a->pending.count) a->trim = false;
}

// How much of pending is certain to stand before any `tag`: not what may be its beginning, nor spaces before
// that.
static size_t certain(const tc_answer *a, const char *tag)
{
    size_t n = a->pending.count, tag_bytes = strlen(tag);
    for (size_t hold = tag_bytes - 1 < n ? tag_bytes - 1 : n; hold > 0; hold--)
        if (memcmp(a->pending.data + n - hold, tag, hold) == 0) {
            n -= hold;
            break;
        }
    while (n > 0 && is_space(a->pending.data[n - 1])) n--;
    return n;
}

static size_t trimmed(const tc_answer *a, size_t n)
{
    while (n > 0 && is_space(a->pending.data[n - 1])) n--;
    return n;
}

// Each step returns false when the owner is gone; *ret_again: there may be more to decide.
static bool at_start(tc_answer *a, bool end, bool *ret_again)
{
    size_t n = 0, tag = sizeof THINK - 1;
    while (n < a->pending.count && is_space(a->pending.data[n])) n++;
    size_t left = a->pending.count - n;
    if (left >= tag && memcmp(a->pending.data + n, THINK, tag) == 0) {
        tc_buffer_consume(&a->pending, n + tag);
        a->state = REASONING;
        a->trim = true;
    } else if (!end && (left == 0 || (left < tag && memcmp(a->pending.data + n, THINK, left) == 0))) {
        return true;
    } else {
        a->state = TEXT;
    }
    *ret_again = true;
    return true;
}

static bool in_reasoning(tc_answer *a, bool end, bool *ret_again)
{
    if (a->trim) drop_spaces(a);
    if (a->pending.count == 0) return true;
    const char *found = memmem(a->pending.data, a->pending.count, THINK_END, sizeof THINK_END - 1);
    if (!found) return tell(a, TC_PART_REASONING, end ? a->pending.count : certain(a, THINK_END), 0);
    size_t before = (size_t)(found - a->pending.data), shown = trimmed(a, before);
    a->state = TEXT;
    a->trim = true;
    *ret_again = true;
    return tell(a, TC_PART_REASONING, shown, before - shown + sizeof THINK_END - 1);
}

static bool in_text(tc_answer *a, bool end, bool *ret_again)
{
    if (a->trim) drop_spaces(a);
    if (a->pending.count == 0) return true;
    if (!a->o.calls) return tell(a, TC_PART_TEXT, a->pending.count, 0);
    const char *found = memmem(a->pending.data, a->pending.count, CALL, sizeof CALL - 1);
    if (!found) return tell(a, TC_PART_TEXT, end ? a->pending.count : certain(a, CALL), 0);
    size_t before = (size_t)(found - a->pending.data), shown = trimmed(a, before);
    a->state = IN_CALL;
    a->call_open = false;
    tc_call_scan_free(&a->scan);
    *ret_again = true;
    return tell(a, TC_PART_TEXT, shown, before - shown + sizeof CALL - 1);
}

// ---- calls ----

static tc_tool_call *open_call(tc_answer *a)
{
    unsigned char random[12];
    tc_tool_call *grown = realloc(a->calls, (a->call_count + 1) * sizeof *grown);
    if (!grown) {
        a->failed = true;
        return NULL;
    }
    a->calls = grown;
    note_item(a, TC_PART_CALL, 0, 0);
    tc_tool_call *call = &a->calls[a->call_count++];
    memset(call, 0, sizeof *call);
    if (getrandom(random, sizeof random, 0) != sizeof random)
        memset(random, (int)a->call_count, sizeof random);
    int n = snprintf(call->id, sizeof call->id, "%.8s", a->o.id_prefix ? a->o.id_prefix : "call_");
    for (size_t i = 0; i < sizeof random; i++)
        n += snprintf(call->id + n, sizeof call->id - (size_t)n, "%02x", random[i]);
    tc_buffer_append(&call->name, a->scan.name.data, a->scan.name.count);
    tc_buffer_append(&call->name, "", 1);
    if (call->name.failed)
        a->failed = true;
    else
        call->name.count--;
    a->call_open = true;
    a->arguments_told = 0;
    return call;
}

static bool tell_call(tc_answer *a, tc_part_kind kind, const char *text, size_t bytes)
{
    tc_tool_call *call = &a->calls[a->call_count - 1];
    if (kind == TC_PART_ARGUMENTS) {
        tc_buffer_append(&call->arguments, text, bytes);
        if (call->arguments.failed) a->failed = true;
    }
    const tc_part part = {kind, text, bytes, a->call_count - 1, call};
    return a->emit(a->owner, &part);
}

// What is known of the call by now.
static bool tell_progress(tc_answer *a)
{
    tc_call_scan *s = &a->scan;
    if (!a->call_open) {
        if (!s->has_name || !open_call(a)) return true;
        if (!tell_call(a, TC_PART_CALL, "", 0)) return false;
    }
    if (!s->is_object || !s->arguments) return true;
    size_t end = s->has_arguments ? s->arguments_end : s->at, from = s->arguments + a->arguments_told;
    if (end <= from) return true;
    a->arguments_told += end - from;
    return tell_call(a, TC_PART_ARGUMENTS, s->raw.data + from, end - from);
}

// The call is over. One that never had a name was text.
static bool close_call(tc_answer *a, const char *closing)
{
    tc_call_scan *s = &a->scan;
    a->state = TEXT;
    if (s->phase == TC_CALL_XML && !tc_call_scan_xml(s, a->o.chat)) s->phase = TC_CALL_BAD;
    if (!a->call_open && (s->phase == TC_CALL_BAD || !s->has_name)) {
        tc_buffer text = {0};
        tc_buffer_text(&text, CALL);
        tc_buffer_append(&text, s->raw.data, s->raw.count);
        tc_buffer_text(&text, closing);
        tc_buffer_append(&text, a->pending.data, a->pending.count);
        size_t bytes = sizeof CALL - 1 + s->raw.count + strlen(closing);
        if (text.failed) a->failed = true;
        tc_buffer_free(&a->pending);
        a->pending = text;
        return text.failed || tell(a, TC_PART_TEXT, bytes, 0);
    }
    if (!tell_progress(a)) return false;
    if (!a->call_open) return true;            // out of memory
    bool whole = s->is_object && s->arguments; // all told, or cut off in the middle
    if (!whole && s->has_arguments && s->decoded.count &&
        !tell_call(a, TC_PART_ARGUMENTS, s->decoded.data, s->decoded.count))
        return false;
    if (!whole && !(s->has_arguments && s->decoded.count) && s->phase == TC_CALL_DONE &&
        !tell_call(a, TC_PART_ARGUMENTS, "{}", 2))
        return false;
    a->trim = true;
    if (a->o.one_call) a->state = DONE;
    return tell_call(a, TC_PART_CALL_END, "", 0);
}

static bool in_call(tc_answer *a, bool end, bool *ret_again)
{
    tc_call_scan *s = &a->scan;
    size_t tag = sizeof CALL_END - 1;
    while (a->pending.count) {
        // Inside of a string the closing tag is only text.
        bool quoted = s->phase == TC_CALL_KEY || (s->phase == TC_CALL_VALUE && s->in_string);
        size_t n = a->pending.count < tag ? a->pending.count : tag;
        if (!quoted && memcmp(a->pending.data, CALL_END, n) == 0) {
            if (n < tag) break; // may become the tag
            tc_buffer_consume(&a->pending, tag);
            *ret_again = true;
            return close_call(a, CALL_END);
        }
        const char *next = memchr(a->pending.data + 1, '<', a->pending.count - 1);
        size_t take = next ? (size_t)(next - a->pending.data) : a->pending.count;
        tc_buffer_append(&s->raw, a->pending.data, take);
        if (s->raw.failed) a->failed = true;
        tc_buffer_consume(&a->pending, take);
        tc_call_scan_run(s);
        if (!tell_progress(a)) return false;
    }
    if (!end) return true;
    tc_buffer_append(&s->raw, a->pending.data, a->pending.count);
    tc_buffer_clear(&a->pending);
    tc_call_scan_run(s);
    return close_call(a, "");
}

static bool run(tc_answer *a, bool end)
{
    for (bool again = true; again && !a->failed;) {
        again = false;
        bool alive = true;
        switch (a->state) {
        case START:
            alive = at_start(a, end, &again);
            break;
        case REASONING:
            alive = in_reasoning(a, end, &again);
            break;
        case TEXT:
            alive = in_text(a, end, &again);
            break;
        case IN_CALL:
            alive = in_call(a, end, &again);
            break;
        case DONE:
            tc_buffer_clear(&a->pending);
            break;
        }
        if (!alive) return false;
    }
    return true;
}

bool tc_answer_push(tc_answer *a, const char *text, size_t bytes)
{
    tc_buffer_append(&a->pending, text, bytes);
    if (a->pending.failed) a->failed = true;
    return run(a, false);
}

bool tc_answer_finish(tc_answer *a)
{
    return run(a, true);
}

const tc_buffer *tc_answer_text(const tc_answer *a)
{
    return &a->text;
}
const tc_buffer *tc_answer_reasoning(const tc_answer *a)
{
    return &a->reasoning;
}
const tc_tool_call *tc_answer_calls(const tc_answer *a, uint32_t *ret_count)
{
    *ret_count = a->call_count;
    return a->calls;
}
const tc_answer_item *tc_answer_items(const tc_answer *a, uint32_t *ret_count)
{
    *ret_count = a->item_count;
    return a->items;
}
const char *tc_answer_item_text(const tc_answer *a, const tc_answer_item *item, size_t *ret_bytes)
{
    *ret_bytes = item->end - item->begin;
    return (item->kind == TC_PART_REASONING ? a->reasoning.data : a->text.data) + item->begin;
}
bool tc_answer_in_reasoning(const tc_answer *a)
{
    return a->state == REASONING;
}
bool tc_answer_is_done(const tc_answer *a)
{
    return a->state == DONE;
}
bool tc_answer_failed(const tc_answer *a)
{
    return a->failed;
}
