// SPDX-License-Identifier: Apache-2.0
// Owns: what requests take from the prefix cache and leave in it: a prompt's pages while it is computed, the
// answer's when it ends, down to its last token, which is where the conversation's next turn goes on. Single
// tokens and chunks give the same bits on every device (tests/contract), so it does not matter which of them
// a past was computed by.
#include "gpu-core/sched/sched_impl.h"

enum {
    BLOCK = TC_KV_PAGE_POSITIONS,
    RESTORE_BYTES_A_US = 2000,
    LEAST = BLOCK, // positions that what is kept has to save whoever goes on from it: a state is large
};
_Static_assert((int)TC_PROMPT_GRAIN == (int)BLOCK, "chunks of prompts end where pages do");

static bool has_state(const tc_sched *s)
{
    return s->snapshot_every != 0;
}

// The last border before the prompt's end.
static uint32_t last_border(const request *r)
{
    return (r->prompt->count - 1) / BLOCK * BLOCK;
}

// Where the state is kept for the same prompt, once more or with more behind it; 0: nowhere, one is near.
static uint32_t own_border(const request *r)
{
    const uint32_t last = last_border(r);
    return last >= r->state_at + LEAST ? last : 0;
}

static bool wants_snapshot(const tc_sched *s, const request *r, uint32_t position)
{
    return has_state(s) && position &&
           (position == own_border(r) || position == r->branch || position % s->snapshot_every == 0);
}

// Where the state is wanted inside a chunk: its prompt's next turn first, then what others share with it. At
// the chunk's end its own slot has it.
void tc_sched_choose_keeps(tc_sched *s, const request *r, tc_segment *segment)
{
    const uint32_t begin = segment->position, end = begin + segment->tokens;
    if (!r->caches || !has_state(s)) return;
    const uint32_t wanted[] = {own_border(r), r->branch, (end - 1) / s->snapshot_every * s->snapshot_every};
    uint32_t n = 0, slot;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && n < TC_KEEPS_MAX; i++) {
        const uint32_t after = wanted[i] - begin;
        if (wanted[i] <= begin || wanted[i] >= end || (n && segment->keep[0].after == after)) continue;
        if (!tc_session_spare_slot(s->o.pool, s->spares_used, &slot)) return;
        s->spares_used++;
        segment->keep[n++] = (tc_keep){after, slot};
        if (n == 2 && after < segment->keep[0].after) {
            segment->keep[1] = segment->keep[0];
            segment->keep[0] = (tc_keep){after, slot};
        }
    }
}

static void keep_state(tc_sched *s, request *r, uint32_t position, uint32_t slot)
{
    if (r->caches && r->cached && tc_prefix_add_state(s->o.cache, r->cached, slot)) r->state_at = position;
}

void tc_sched_begin_prompt(tc_sched *s, request *r)
{
    r->state = REQUEST_PREFILL;
    if (!r->caches) return;
    // at least one token is computed, for its logits
    tc_prefix_match match = tc_prefix_find(s->o.cache, r->ask.scope, r->prompt->tokens, r->prompt->count - 1);
    r->branch = match.known >= match.usable + LEAST ? match.known : 0;
    if (!match.block) return;
    r->cached = r->loading = match.block;
    r->usage.cached_tokens = r->state_at = match.usable;
    r->state = REQUEST_RESTORE;
}

bool tc_sched_restore(tc_sched *s, bool beside)
{
    uint64_t room = beside ? s->o.chunk_us * RESTORE_BYTES_A_US : UINT64_MAX, taken = 0;
    tc_prefix_stats stats = tc_prefix_cache_stats(s->o.cache);
    uint64_t block_bytes = stats.blocks ? stats.bytes / stats.blocks : 0; // with its part of the snapshots
    for (uint32_t i = 0; i < s->count && taken < room; i++) {
        request *r = s->requests[i];
        if (r->state != REQUEST_RESTORE || r->held) continue;
        while (r->loading && taken < room) {
            uint32_t index;
            r->loading = tc_prefix_load_page(s->o.cache, r->loading, r->session->pages, &index);
            taken += block_bytes ? block_bytes : 1;
        }
        if (r->loading) break;
        tc_prefix_load_state(s->o.cache, r->cached, r->session->slot);
        r->cached = tc_prefix_whole(s->o.cache, r->cached);
        r->session->processed = r->usage.cached_tokens;
        s->total.cached_tokens += r->usage.cached_tokens;
        r->state = REQUEST_PREFILL;
    }
    return taken > 0;
}

// Adds the pages of [kept, end) behind r->cached, which ends at `kept`.
static uint32_t keep_pages(tc_sched *s, request *r, uint32_t kept, uint32_t end)
{
    while (r->caches && kept + BLOCK <= end) {
        r->cached = tc_prefix_add(s->o.cache, r->ask.scope, r->cached, r->session->tokens + kept, BLOCK,
                                  r->session->pages[kept / BLOCK]);
        kept += BLOCK;
        if (!r->cached) r->caches = false; // no room: what follows would hang in the air
    }
    return kept;
}

void tc_sched_keep_prompt(tc_sched *s, request *r)
{
    if (!r->caches) return;
    uint32_t done = r->session->processed, before = done - r->batch_tokens, last = last_border(r);
    uint32_t kept = before / BLOCK * BLOCK;
    const tc_keep *keep = s->segments[r->batch_segment].keep;
    for (uint32_t i = 0; i < TC_KEEPS_MAX && keep[i].after; i++) {
        kept = keep_pages(s, r, kept, before + keep[i].after);
        keep_state(s, r, before + keep[i].after, keep[i].slot);
    }
    kept = keep_pages(s, r, kept, done < last ? done : last);
    if (kept == done && wants_snapshot(s, r, done)) keep_state(s, r, done, r->session->slot);
}

void tc_sched_keep_answer(tc_sched *s, request *r)
{
    const tc_session *session = r->session;
    if (!r->caches || r->state != REQUEST_DECODE) return;
    if (session->processed < (has_state(s) ? r->state_at : 0) + LEAST) return;
    uint32_t kept = keep_pages(s, r, r->cached ? last_border(r) : 0, session->processed / BLOCK * BLOCK);
    if (r->caches && session->processed > kept)
        r->cached = tc_prefix_add(s->o.cache, r->ask.scope, r->cached, session->tokens + kept,
                                  session->processed - kept, session->pages[kept / BLOCK]);
    keep_state(s, r, session->processed, session->slot);
}
