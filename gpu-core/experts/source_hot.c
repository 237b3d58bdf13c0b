// SPDX-License-Identifier: Apache-2.0
// Owns: the splitting of a call, and the thread that fills.
//
// A call's pairs are split by the table in force, both halves still sorted. The cold half is posted first and
// travels while the shared expert and then the hot half are computed here; the sums are added.
#include "gpu-core/experts/source_hot.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE_BYTES = 4096, SPEED_NS = 2000000, LOOK_NS = 250000, LOOKS = 80 };

typedef struct source_hot {
    tc_expert_source source;
    tc_source_ops ops;
    const tc_store *store;
    const tc_store_info *info;
    tc_hot_cache *cache;
    tc_expert_source *cold;
    tc_ffn *ffn;
    uint8_t *memory;      // [slots][slot_bytes]
    tc_store_unit *units; // [slots][units]
    uint32_t slots;
    uint64_t slot_bytes;
    // the call under way
    tc_expert_pair *pairs; // [pairs_max] hot ones from the front; cold ones behind them
    tc_expert_call hot, rest;
    int64_t *sum; // [tokens_max][hidden] of the hot half
    uint32_t tokens_max, pairs_max;
    // fills: a ring, written by the step's thread, read by the tier's
    tc_cache_fill *fills; // [slots]
    uint32_t head, count;
    bool ends, waits, sleeps; // waits: for its next look, or to be woken; sleeps: it will not look by itself
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool has_thread;
} source_hot;

static size_t aligned(size_t bytes)
{
    return (bytes + TC_ALIGN_BYTES - 1) & ~((size_t)TC_ALIGN_BYTES - 1);
}

static size_t matrix_bytes(const tc_matrix *m)
{
    return aligned(tc_matrix_bytes(&m->form, m->rows, m->cols));
}

static uint64_t expert_bytes(const tc_store *store, uint32_t layer, uint32_t expert)
{
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < tc_store_get_info(store)->units; u++) {
        tc_store_unit unit;
        tc_store_get_unit(store, layer, expert, u, &unit);
        bytes += matrix_bytes(&unit.gate) + matrix_bytes(&unit.up) + matrix_bytes(&unit.down);
    }
    return bytes;
}

uint64_t tc_source_hot_slot_bytes(const tc_store *store)
{
    const tc_store_info *info = tc_store_get_info(store);
    uint64_t most = 0;
    for (uint32_t layer = 0; layer < info->layers; layer++) // experts of a layer are of one form
        if (tc_store_layer_has_experts(store, layer) && expert_bytes(store, layer, 0) > most)
            most = expert_bytes(store, layer, 0);
    return most;
}

// ---- the thread that fills ----

static uint8_t *copy_matrix(uint8_t *to, tc_matrix *m)
{
    memcpy(to, m->data, tc_matrix_bytes(&m->form, m->rows, m->cols));
    size_t bytes = matrix_bytes(m);
    m->data = to;
    return to + bytes;
}

static void fill_slot(source_hot *h, const tc_cache_fill *fill)
{
    uint8_t *to = h->memory + fill->slot * h->slot_bytes;
    for (uint32_t u = 0; u < h->info->units; u++) {
        tc_store_unit *unit = &h->units[(size_t)fill->slot * h->info->units + u];
        tc_store_get_unit(h->store, fill->layer, fill->expert, u, unit);
        to = copy_matrix(to, &unit->gate);
        to = copy_matrix(to, &unit->up);
        to = copy_matrix(to, &unit->down);
    }
}

// To wake a thread costs the step ten times what its policy does. So the thread looks by itself, as long as
// it has found something of late; what cannot wait for that wakes it.
static void wait_for_orders(source_hot *h, uint32_t *looks)
{
    struct timespec until;
    h->waits = true;
    h->sleeps = !*looks;
    if (h->sleeps) {
        pthread_cond_wait(&h->wake, &h->lock);
    } else {
        --*looks;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_NS;
        if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
        pthread_cond_timedwait(&h->wake, &h->lock, &until);
    }
    h->waits = h->sleeps = false;
}

static void *fill_all(void *arg)
{
    source_hot *h = arg;
    uint32_t looks = 0;
    pthread_mutex_lock(&h->lock);
    while (!h->ends) {
        if (!h->count) {
            wait_for_orders(h, &looks);
            continue;
        }
        looks = LOOKS;
        tc_cache_fill fill = h->fills[h->head];
        h->head = (h->head + 1) % h->slots;
        h->count--;
        pthread_mutex_unlock(&h->lock);
        fill_slot(h, &fill);
        tc_hot_cache_fill_done(h->cache, fill.slot, tc_now_us());
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

void tc_source_hot_fill(tc_expert_source *source, const tc_cache_fill *fills, uint32_t count, bool at_once)
{
    source_hot *h = (source_hot *)source;
    pthread_mutex_lock(&h->lock);
    for (uint32_t i = 0; i < count; i++) // a slot is filled once at a time: there is room
        h->fills[(h->head + h->count++) % h->slots] = fills[i];
    const bool wake = at_once ? h->waits : h->sleeps;
    if (wake) h->waits = h->sleeps = false; // once
    pthread_mutex_unlock(&h->lock);
    if (wake) pthread_cond_signal(&h->wake);
}

double tc_source_hot_speed(tc_expert_source *source)
{
    source_hot *h = (source_hot *)source;
    tc_cache_fill fill = {.slot = 0};
    uint64_t bytes = 0, start_ns = tc_now_ns(), took_ns;
    while (!tc_store_layer_has_experts(h->store, fill.layer)) fill.layer++;
    do {
        fill_slot(h, &fill);
        bytes += h->slot_bytes;
        fill.expert = (fill.expert + 1) % h->info->experts;
        took_ns = tc_now_ns() - start_ns;
    } while (took_ns < SPEED_NS);
    return (double)bytes * 1000 / (double)took_ns;
}

void tc_source_hot_trim(tc_expert_source *source, uint32_t slots)
{
    source_hot *h = (source_hot *)source;
    uint64_t from = (slots * h->slot_bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    if (from < h->slots * h->slot_bytes)
        (void)madvise(h->memory + from, h->slots * h->slot_bytes - from, MADV_DONTNEED);
}

// ---- the source ----

static void hot_unit(void *arg, uint32_t layer, uint32_t expert, uint32_t unit, tc_store_unit *ret)
{
    const source_hot *h = arg;
    uint32_t slot = tc_hot_cache_table(h->cache)[layer * h->info->experts + expert];
    *ret = h->units[(size_t)slot * h->info->units + unit];
}

static void hot_free(tc_expert_source *source)
{
    source_hot *h = (source_hot *)source;
    if (h->has_thread) {
        pthread_mutex_lock(&h->lock);
        h->ends = true;
        pthread_cond_signal(&h->wake);
        pthread_mutex_unlock(&h->lock);
        pthread_join(h->thread, NULL);
    }
    if (h->cold) h->cold->ops->free(h->cold);
    tc_ffn_free(h->ffn);
    if (h->memory) munmap(h->memory, h->slots * h->slot_bytes);
    tc_free(h->units);
    tc_free(h->pairs);
    tc_free(h->sum);
    tc_free(h->fills);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->wake);
    tc_free(h);
}

static void split(source_hot *h, const tc_expert_call *call)
{
    const uint32_t *row = tc_hot_cache_table(h->cache) + (size_t)call->layer * h->info->experts;
    uint32_t hot = 0, cold = 0;
    for (uint32_t i = 0; i < call->pair_count; i++) hot += row[call->pairs[i].expert] != TC_NO_SLOT;
    tc_expert_pair *rest = h->pairs + hot;
    h->hot = h->rest = *call;
    h->hot.pair_count = hot;
    h->rest.pair_count = call->pair_count - hot;
    h->hot.pairs = h->pairs;
    h->rest.pairs = rest;
    h->hot.unit_begin = 0;
    h->hot.unit_end = h->info->units;
    hot = 0;
    for (uint32_t i = 0; i < call->pair_count; i++) {
        if (row[call->pairs[i].expert] != TC_NO_SLOT)
            h->pairs[hot++] = call->pairs[i];
        else
            rest[cold++] = call->pairs[i];
    }
}

static tc_status hot_post(tc_expert_source *source, const tc_expert_call *call, tc_error *e)
{
    source_hot *h = (source_hot *)source;
    if (call->tokens > h->tokens_max || call->pair_count > h->pairs_max)
        return tc_fail(e, TC_LIMIT, "%u tokens and %u pairs, room for %u and %u", call->tokens,
                       call->pair_count, h->tokens_max, h->pairs_max);
    split(h, call);
    if (!h->hot.pair_count) h->rest.pairs = call->pairs;
    return h->rest.pair_count ? h->cold->ops->post(h->cold, &h->rest, e) : TC_OK;
}

static tc_status hot_join(tc_expert_source *source, int64_t *sum, tc_error *e)
{
    source_hot *h = (source_hot *)source;
    tc_error hot_error;
    bool mixed = h->hot.pair_count && h->rest.pair_count;
    tc_status hot = TC_OK, cold = TC_OK;
    if (h->hot.pair_count) hot = tc_ffn_run(h->ffn, &h->hot, mixed ? h->sum : sum, &hot_error);
    if (h->rest.pair_count) cold = h->cold->ops->join(h->cold, sum, e); // posted: it has to be joined
    if (cold != TC_OK) return cold;
    if (hot != TC_OK) return tc_fail(e, hot, "%s", hot_error.text);
    size_t n = mixed ? (size_t)h->hot.tokens * h->hot.hidden : 0;
    for (size_t i = 0; i < n; i++) sum[i] = tc_fixed_add(sum[i], h->sum[i]);
    return TC_OK;
}

static void hot_poll(tc_expert_source *source)
{
    tc_expert_source *cold = ((source_hot *)source)->cold;
    cold->ops->poll(cold);
}

static void hot_stats(tc_expert_source *source, tc_source_stats *ret)
{
    tc_expert_source *cold = ((source_hot *)source)->cold;
    cold->ops->stats(cold, ret);
}

static int hot_fd(tc_expert_source *source)
{
    tc_expert_source *cold = ((source_hot *)source)->cold;
    return cold->ops->fd(cold);
}

static tc_status take_memory(source_hot *h, tc_team *team, const char *isa, tc_error *e)
{
    uint32_t top_k = h->info->top_k < h->info->experts ? h->info->top_k : h->info->experts;
    h->pairs_max = h->tokens_max * top_k;
    TC_TRY(tc_ffn_create(h->store, team, h->tokens_max, isa, &h->ffn, e));
    tc_ffn_take_units(h->ffn, hot_unit, h);
    size_t bytes = h->slots * h->slot_bytes;
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) {
        h->memory = memory;
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
    }
    h->units = tc_alloc(TC_MEM_WEIGHTS, (size_t)h->slots * h->info->units, sizeof *h->units);
    h->pairs = tc_alloc(TC_MEM_SCRATCH, h->pairs_max, sizeof *h->pairs);
    h->sum = tc_alloc(TC_MEM_SCRATCH, (size_t)h->tokens_max * h->info->hidden, sizeof *h->sum);
    h->fills = tc_alloc(TC_MEM_OTHER, h->slots, sizeof *h->fills);
    if (!h->memory || !h->units || !h->pairs || !h->sum || !h->fills)
        return tc_fail(e, TC_NOMEM, "out of memory for a hot tier of %u experts of %llu bytes", h->slots,
                       (unsigned long long)h->slot_bytes);
    if (pthread_create(&h->thread, NULL, fill_all, h) != 0)
        return tc_fail(e, TC_NOMEM, "no thread for the hot tier");
    h->has_thread = true;
    return TC_OK;
}

tc_status tc_source_hot_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                               tc_hot_cache *cache, tc_expert_source *cold, tc_expert_source **ret,
                               tc_error *e)
{
    source_hot *h = tc_alloc(TC_MEM_OTHER, 1, sizeof *h);
    if (!h) return tc_fail(e, TC_NOMEM, "out of memory for the hot tier");
    h->ops = (tc_source_ops){.free = hot_free,
                             .post = hot_post,
                             .join = hot_join,
                             .poll = hot_poll,
                             .stats = hot_stats,
                             .fd = hot_fd,
                             .in_process = cold->ops->in_process};
    h->source.ops = &h->ops;
    h->store = store;
    h->info = tc_store_get_info(store);
    h->cache = cache;
    h->slots = tc_hot_cache_get_options(cache)->slots_max;
    h->slot_bytes = tc_source_hot_slot_bytes(store);
    h->tokens_max = tokens_max;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t by_clock;
    pthread_condattr_init(&by_clock);
    pthread_condattr_setclock(&by_clock, CLOCK_MONOTONIC);
    pthread_cond_init(&h->wake, &by_clock);
    pthread_condattr_destroy(&by_clock);
    tc_status status = take_memory(h, team, isa, e);
    if (status != TC_OK) {
        hot_free(&h->source); // cold stays the caller's on failure
        return status;
    }
    h->cold = cold;
    *ret = &h->source;
    return TC_OK;
}
