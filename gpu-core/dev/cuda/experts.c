// SPDX-License-Identifier: Apache-2.0
// Owns: routed experts on the cuda device: slots in VRAM and their table, fills beside the computation, the
// mailboxes of lent workers, and the streaming of a layer's cold experts for prompts, double-buffered over
// the link. Refuses: to choose what is hot.
#include "gpu-core/dev/cuda/device.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/model/matrix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- how experts lie ----

static bool layout_of(const tc_store *store, uint32_t layer, tc_gpu_expert_layout *ret)
{
    const tc_store_info *info = tc_store_get_info(store);
    tc_store_unit unit, second;
    tc_store_get_unit(store, layer, 0, 0, &unit);
    tc_store_get_unit(store, layer, 0, info->units > 1 ? 1 : 0, &second);
    const tc_matrix *parts[3] = {&unit.gate, &unit.up, &unit.down};
    const uint8_t *base = unit.gate.data;
    if (info->unit != TC_SPAN_COLS || info->hidden % TC_SPAN_COLS) return false;
    uint64_t end = 0;
    *ret = (tc_gpu_expert_layout){.units = info->units, .hidden = info->hidden};
    for (int p = 0; p < 3; p++) {
        const tc_matrix *m = parts[p];
        if (m->form.type != TC_M_Q4 || m->form.group != TC_SPAN_COLS) return false;
        uint64_t at = (uint64_t)((const uint8_t *)m->data - base);
        ret->data_at[p] = at;
        ret->codes_at[p] = at + tc_matrix_codes_at(&m->form, m->rows, m->cols);
        ret->tiles_at[p] = at + tc_matrix_tiles_at(&m->form, m->rows, m->cols);
        ret->step[p] = m->fast_step;
        ret->stride[p] = m->form.nested_stride;
        memcpy(ret->book[p], m->fast, sizeof ret->book[p]);
        uint64_t part_end = at + ((tc_matrix_bytes(&m->form, m->rows, m->cols) + 63) & ~63ull);
        if (part_end > end) end = part_end;
    }
    if (unit.bias) {
        ret->bias_at = (uint64_t)((const uint8_t *)unit.bias - base);
        end = ret->bias_at + 2 * TC_SPAN_COLS * sizeof(float);
    }
    ret->clamped = info->activation == TC_ACT_CLAMPED;
    ret->alpha = info->act_alpha;
    ret->limit = info->act_limit;
    ret->unit_stride = end;
    ret->expert_stride = end * info->units;
    ret->top_k = info->top_k;
    return true;
}

// Bytes [*, + stride) of one unit; units of an expert in one place follow each other.
static const uint8_t *unit_at(const tc_store *store, uint32_t layer, uint32_t expert, uint32_t unit)
{
    tc_store_unit u;
    tc_store_get_unit(store, layer, expert, unit, &u);
    return u.gate.data;
}

// Where the expert lies in one piece; NULL: it does not.
const uint8_t *tc_cuda_expert_whole(const hot_experts *h, uint32_t layer, uint32_t expert)
{
    const uint8_t *first = unit_at(h->store, layer, expert, 0);
    for (uint32_t u = 1; u < h->info->units; u++)
        if (unit_at(h->store, layer, expert, u) != first + u * h->layout[layer].unit_stride) return NULL;
    return first;
}

// ---- making the store's memory known to the card ----

static void *register_all(void *arg)
{
    tc_dev_cuda *c = arg;
    hot_experts *h = &c->hot;
    bool fine = cudaSetDevice((int)c->o.ordinal) == cudaSuccess;
    for (uint32_t i = 0; fine && i < h->range_count && !atomic_load(&h->stop); i++) {
        expert_range *r = &h->ranges[i];
        cudaError_t code =
            cudaHostRegister((void *)r->base, r->bytes, cudaHostRegisterMapped | cudaHostRegisterReadOnly);
        if (code != cudaSuccess) {
            cudaGetLastError();
            code = cudaHostRegister((void *)r->base, r->bytes, cudaHostRegisterMapped);
        }
        fine = r->registered = code == cudaSuccess;
        if (!fine && c->o.log) {
            char text[200];
            snprintf(text, sizeof text,
                     "experts cannot be pinned for the GPU (%s): it takes none, workers compute all",
                     cudaGetErrorString(code));
            c->o.log(c->o.arg, true, text);
        }
    }
    cudaGetLastError();
    if (!fine) atomic_store(&h->failed, true);
    atomic_store(&h->settled, true);
    return NULL;
}

// One range a layer and place, page aligned: a copy never crosses a border between two registrations.
static tc_status list_ranges(hot_experts *h, tc_error *e)
{
    const tc_store_info *info = h->info;
    h->ranges = calloc((size_t)info->layers * info->units * 2 + 1, sizeof *h->ranges);
    if (!h->ranges) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t l = 0; l < info->layers; l++) {
        uint32_t first = h->range_count;
        if (!tc_store_layer_has_experts(h->store, l)) continue;
        const uint64_t stride = h->layout[l].unit_stride;
        for (uint32_t x = 0; x < info->experts; x++)
            for (uint32_t u = 0; u < info->units; u++) {
                const uint8_t *at = unit_at(h->store, l, x, u);
                expert_range *last = h->range_count > first ? &h->ranges[h->range_count - 1] : NULL;
                if (last && last->base + last->bytes == at) {
                    last->bytes += stride;
                    continue;
                }
                bool known = false; // another place's run of the layer
                for (uint32_t i = first; i < h->range_count && !known; i++)
                    if (h->ranges[i].base + h->ranges[i].bytes == at) {
                        h->ranges[i].bytes += stride;
                        known = true;
                    }
                if (known) continue;
                if (h->range_count - first >= info->units * 2)
                    return tc_fail(e, TC_INTERNAL, "layer %u: its experts lie in too many pieces", l);
                h->ranges[h->range_count++] = (expert_range){.base = at, .bytes = stride};
            }
    }
    for (uint32_t i = 0; i < h->range_count; i++) {
        uintptr_t begin = (uintptr_t)h->ranges[i].base & ~(uintptr_t)4095,
                  end = ((uintptr_t)h->ranges[i].base + h->ranges[i].bytes + 4095) & ~(uintptr_t)4095;
        h->ranges[i].base = (const uint8_t *)begin;
        h->ranges[i].bytes = end - begin;
    }
    return TC_OK;
}

// ---- opening ----

static tc_status take_staging(tc_dev_cuda *c, tc_error *e)
{
    hot_experts *h = &c->hot;
    const tc_store_info *info = h->info;
    const tc_cuda_staging bytes =
        tc_cuda_staging_of(info->experts, info->top_k, info->units, h->slot_bytes, c->o.tokens_max);
    h->stage = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.stage);
    if (!h->stage) return tc_fail(e, TC_BUDGET, "cuda: no room to stream experts");
    for (int i = 0; i < STAGES; i++) {
        CHECK(c, cudaEventCreateWithFlags(&h->stage_full[i], cudaEventDisableTiming));
        CHECK(c, cudaEventCreateWithFlags(&h->stage_free[i], cudaEventDisableTiming));
    }
    h->pairs.begin = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.pair_begin);
    h->pairs.fill = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.pair_fill);
    h->pairs.token = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.pair_token);
    h->pairs.weight = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.pair_weight);
    h->h_rounded = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.h_rounded);
    h->h_scale = tc_cuda_take(c, TC_MEM_SCRATCH, bytes.h_scale);
    if (!h->pairs.begin || !h->pairs.fill || !h->pairs.token || !h->pairs.weight || !h->h_rounded ||
        !h->h_scale)
        return tc_fail(e, TC_BUDGET, "cuda: no room for the pairs of %u tokens", c->o.tokens_max);
    return TC_OK;
}

static uint64_t room_left(const tc_dev_cuda *c)
{
    uint64_t used = tc_cuda_used_bytes(c) + RESERVE_BYTES;
    return c->budget > used ? c->budget - used : 0;
}

static uint8_t *slot_at(const hot_experts *h, uint32_t slot)
{
    return h->slots[slot / h->part_slots] + slot % h->part_slots * h->slot_bytes;
}

// Parts from the first to the last one needed: none is taken behind one that could not be.
static uint32_t hot_resize(tc_dev *dev, uint32_t slots)
{
    tc_dev_cuda *c = cuda_of(dev);
    hot_experts *h = &c->hot;
    uint32_t held = 0;
    for (uint32_t i = 0; i < SLOT_PARTS && i * h->part_slots < h->slot_count; i++) {
        uint32_t first = i * h->part_slots, left = h->slot_count - first;
        uint32_t count = left < h->part_slots ? left : h->part_slots;
        if (first < slots && !h->slots[i] && held == first)
            h->slots[i] = tc_cuda_take_spare(c, TC_MEM_OTHER, count * h->slot_bytes);
        if (first >= slots && h->slots[i]) {
            tc_cuda_give(c, h->slots[i]);
            h->slots[i] = NULL;
        }
        if (h->slots[i]) held = first + count;
    }
    return held < slots ? held : slots;
}

uint64_t tc_cuda_slot_bytes(const tc_dev_cuda *c)
{
    const hot_experts *h = &c->hot;
    uint64_t slots = 0;
    for (uint32_t i = 0; i < SLOT_PARTS; i++) {
        if (!h->slots[i]) continue;
        const uint32_t left = h->slot_count - i * h->part_slots;
        slots += left < h->part_slots ? left : h->part_slots;
    }
    return slots * h->slot_bytes;
}

static tc_status open_slots(tc_dev_cuda *c, uint32_t wanted, tc_error *e)
{
    hot_experts *h = &c->hot;
    size_t table = (size_t)h->info->layers * h->info->experts;
    h->place = calloc(table, sizeof *h->place);
    h->placed = calloc(h->info->layers, sizeof *h->placed);
    h->dirty = calloc(h->info->layers, 1);
    h->place_dev = tc_cuda_take(c, TC_MEM_SCRATCH, table * sizeof *h->place_dev);
    if (!h->place || !h->placed || !h->dirty || !h->place_dev)
        return tc_fail(e, TC_NOMEM, "out of memory for the table of hot experts");
    const uint64_t rounding = SLOT_PARTS * tc_cuda_round_up(1), room = room_left(c);
    uint64_t fit = room > rounding ? (room - rounding) / h->slot_bytes : 0;
    if (fit > wanted) fit = wanted;
    if (fit > table) fit = table;
    h->slot_count = (uint32_t)fit;
    h->part_slots = (uint32_t)((fit + SLOT_PARTS - 1) / SLOT_PARTS);
    h->slot_count = hot_resize(&c->dev, h->slot_count);
    return TC_OK;
}

static tc_status hot_open(tc_dev *dev, const tc_store *store, uint32_t wanted, uint32_t *ret, tc_error *e)
{
    tc_dev_cuda *c = cuda_of(dev);
    hot_experts *h = &c->hot;
    const tc_store_info *info = tc_store_get_info(store);
    *ret = 0;
    h->info = info;
    h->layout = calloc(info->layers, sizeof *h->layout);
    if (!h->layout) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t l = 0; l < info->layers; l++) {
        if (!tc_store_layer_has_experts(store, l)) continue;
        if (!layout_of(store, l, &h->layout[l])) return TC_OK; // a form the kernels do not know
        if (h->layout[l].expert_stride > h->slot_bytes) h->slot_bytes = h->layout[l].expert_stride;
    }
    if (!h->slot_bytes) return TC_OK;
    h->store = store;
    TC_TRY(list_ranges(h, e));
    TC_TRY(take_staging(c, e));
    TC_TRY(tc_cuda_link_open(c, e));
    TC_TRY(tc_cuda_prompt_open(c, e));
    TC_TRY(open_slots(c, wanted, e));
    CHECK(c, cudaStreamCreateWithFlags(&h->copies, cudaStreamNonBlocking));
    for (int i = 0; i < FILLS; i++)
        CHECK(c, cudaEventCreateWithFlags(&h->fill_event[i], cudaEventDisableTiming));
    if (*c->error) return tc_fail(e, TC_INTERNAL, "cuda: %s", c->error);
    h->thread_on = pthread_create(&h->thread, NULL, register_all, c) == 0;
    if (!h->thread_on) return tc_fail(e, TC_NOMEM, "cuda: no thread to pin the experts' memory");
    *ret = h->slot_count;
    return TC_OK;
}

void tc_cuda_hot_close(tc_dev_cuda *c)
{
    hot_experts *h = &c->hot;
    atomic_store(&h->stop, true);
    if (h->thread_on) pthread_join(h->thread, NULL);
    for (uint32_t i = 0; i < h->range_count; i++)
        if (h->ranges[i].registered) cudaHostUnregister((void *)h->ranges[i].base);
    for (int i = 0; i < STAGES; i++) {
        if (h->stage_full[i]) cudaEventDestroy(h->stage_full[i]);
        if (h->stage_free[i]) cudaEventDestroy(h->stage_free[i]);
    }
    for (int i = 0; i < FILLS; i++)
        if (h->fill_event[i]) cudaEventDestroy(h->fill_event[i]);
    if (h->copies) cudaStreamDestroy(h->copies);
    tc_cuda_link_close(c);
    tc_cuda_prompt_close(c);
    free(h->layout);
    free(h->ranges);
    free(h->place);
    free(h->placed);
    free(h->dirty);
}

static bool hot_settle(tc_dev *dev)
{
    hot_experts *h = &cuda_of(dev)->hot;
    if (!h->thread_on) return false;
    pthread_join(h->thread, NULL);
    h->thread_on = false;
    return !atomic_load(&h->failed);
}

bool tc_cuda_is_known(const hot_experts *h)
{
    return h->store && atomic_load(&h->settled) && !atomic_load(&h->failed);
}

// ---- filling ----

// An expert's bytes to device memory, in as many copies as it has pieces.
static bool copy_expert(tc_dev_cuda *c, uint8_t *to, uint32_t layer, uint32_t expert)
{
    const hot_experts *h = &c->hot;
    const uint64_t stride = h->layout[layer].unit_stride;
    for (uint32_t u = 0, end; u < h->info->units; u = end) {
        const uint8_t *from = unit_at(h->store, layer, expert, u);
        for (end = u + 1; end < h->info->units; end++)
            if (unit_at(h->store, layer, expert, end) != from + (end - u) * stride) break;
        if (!CHECK(c, cudaMemcpyAsync(to + u * stride, from, (end - u) * stride, cudaMemcpyHostToDevice,
                                      h->copies)))
            return false;
    }
    return true;
}

// The slot's last reader is a batch that has ended: fills start between batches.
static bool hot_fill(tc_dev *dev, uint32_t slot, uint32_t layer, uint32_t expert)
{
    tc_dev_cuda *c = cuda_of(dev);
    hot_experts *h = &c->hot;
    uint32_t at = h->fill_tail % FILLS;
    if (!tc_cuda_is_known(h) || slot >= h->slot_count || h->fill_tail - h->fill_head == FILLS) return false;
    if (!h->slots[slot / h->part_slots] || !copy_expert(c, slot_at(h, slot), layer, expert)) return false;
    if (!CHECK(c, cudaEventRecord(h->fill_event[at], h->copies))) return false;
    h->fill_slot[at] = slot;
    h->fill_tail++;
    return true;
}

static bool hot_filled(tc_dev *dev, uint32_t *ret_slot)
{
    hot_experts *h = &cuda_of(dev)->hot;
    if (h->fill_head == h->fill_tail) return false;
    if (cudaEventQuery(h->fill_event[h->fill_head % FILLS]) != cudaSuccess) return false;
    *ret_slot = h->fill_slot[h->fill_head++ % FILLS];
    return true;
}

static void hot_place(tc_dev *dev, uint32_t layer, uint32_t expert, uint32_t slot)
{
    hot_experts *h = &cuda_of(dev)->hot;
    const uint8_t **at = &h->place[(size_t)layer * h->info->experts + expert];
    const uint8_t *now = slot < h->slot_count ? slot_at(h, slot) : NULL;
    h->placed[layer] += (now != NULL) - (*at != NULL);
    *at = now;
    h->dirty[layer] = h->any_dirty = true;
}

void tc_cuda_hot_flush(tc_dev_cuda *c)
{
    hot_experts *h = &c->hot;
    tc_cuda_link_flush(c);
    if (!h->any_dirty) return;
    h->any_dirty = false;
    const uint32_t n = h->info->experts;
    for (uint32_t l = 0; l < h->info->layers; l++) {
        if (!h->dirty[l]) continue;
        h->dirty[l] = 0;
        CHECK(c, cudaMemcpyAsync(h->place_dev + (size_t)l * n, h->place + (size_t)l * n, n * sizeof *h->place,
                                 cudaMemcpyHostToDevice, c->stream));
    }
}

// ---- a batch ----

static bool same_boxes(const tc_dev_cuda *c, const tc_lent_mailbox *boxes, uint32_t count)
{
    if (c->boxes.count != count) return false;
    for (uint32_t i = 0; i < count; i++)
        if (c->box_memory[i] != boxes[i].memory || c->box_id[i] != boxes[i].id ||
            c->boxes.box[i].unit_begin != boxes[i].share.unit_begin ||
            c->boxes.box[i].expert_begin != boxes[i].share.expert_begin)
            return false;
    return true;
}

// Segments of workers that left are unmapped already; the driver still holds their pages, which this gives
// back.
static bool attach(tc_dev_cuda *c, const tc_lent_mailbox *boxes, uint32_t count)
{
    if (same_boxes(c, boxes, count)) return true;
    CHECK(c, cudaStreamSynchronize(c->stream));
    CHECK(c, cudaMemsetAsync(c->joined, 0, sizeof *c->joined, c->stream)); // others may begin to count anew
    tc_cuda_drop_graphs(c);
    for (uint32_t i = 0; i < TC_LENT_MAX; i++) {
        if (c->box_memory[i]) cudaHostUnregister(c->box_memory[i]);
        c->box_memory[i] = NULL;
    }
    cudaGetLastError();
    c->boxes.count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const tc_lent_mailbox *b = &boxes[i];
        void *address;
        if (cudaHostRegister(b->memory, b->bytes, cudaHostRegisterMapped) != cudaSuccess) break;
        c->box_memory[i] = b->memory;
        c->box_id[i] = b->id;
        if (cudaHostGetDevicePointer(&address, b->memory, 0) != cudaSuccess) break;
        c->boxes.box[c->boxes.count++] = (tc_gpu_mailbox){.memory = address,
                                                          .x_at = b->x_at,
                                                          .pairs_at = b->pairs_at,
                                                          .sum_at = b->sum_at,
                                                          .expert_begin = b->share.expert_begin,
                                                          .expert_end = b->share.expert_end,
                                                          .unit_begin = b->share.unit_begin,
                                                          .unit_end = b->share.unit_end};
    }
    cudaGetLastError();
    return c->boxes.count == count;
}

// They take the calls of this batch.
bool tc_cuda_attach(tc_dev_cuda *c, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence)
{
    if (!attach(c, boxes, count)) return false;
    *(uint64_t *)c->batch_host = sequence;
    CHECK(c,
          cudaMemcpyAsync(c->batch_dev, c->batch_host, sizeof sequence, cudaMemcpyHostToDevice, c->stream));
    c->boxes.sequence = (const uint64_t *)c->batch_dev;
    c->boxes.deadline_ns = c->o.call_deadline_us * 1000;
    c->boxes.precision = TC_FAST;
    c->boxes.joined = c->joined;
    c->boxes.posted = (uint32_t *)(c->joined + 1);
    c->boxes.sums = c->sums;
    return true;
}

// The ways open to this batch, a bit each; 0: the host computes its experts.
static uint32_t ways_of(const tc_dev_cuda *c, uint32_t count)
{
    const uint32_t n = c->batch.tokens, shared_max = tc_cuda_link_tokens_max(c),
                   link_max = count && shared_max ? shared_max : STREAM_FROM - 1;
    const bool streams = tc_cuda_is_known(&c->hot),
               shares = streams && c->prompt.there && count && n <= TC_CALL_TOKENS_MAX;
    const uint32_t most = c->o.prompt_border ? c->o.prompt_border : TC_PROMPT_LINK_SURE;
    const uint32_t link = n <= link_max && count ? 1u << TC_WAY_LINK : 0;
    if (link && (!streams || n <= most)) return link;
    if (!streams || (!link && n < STREAM_FROM)) return 0;
    if (shares && c->o.prompt_percent > 0) return 1u << TC_WAY_SHARE; // whatever times tell
    return 1u << TC_WAY_STREAM | (shares ? 1u << TC_WAY_SHARE : 0) | (c->o.prompt_border ? 0 : link);
}

bool tc_cuda_experts_begin(tc_dev *dev, const tc_lent_mailbox *boxes, uint32_t count, uint64_t sequence)
{
    tc_dev_cuda *c = cuda_of(dev);
    const uint32_t ways = ways_of(c, count);
    c->direct = c->streaming = c->prompt.on = false;
    if (!ways) return false;
    c->timed_way = (ways & (ways - 1)) != 0;
    c->way = tc_prompt_way_choose(&c->ways, c->batch.tokens, ways);
    c->way_begin_us = tc_now_us();
    c->streaming = c->way != TC_WAY_LINK;
    if (c->way == TC_WAY_SHARE) tc_cuda_prompt_begin(c, boxes, count, sequence);
    if (c->way == TC_WAY_LINK && !tc_cuda_attach(c, boxes, count, sequence)) return false;
    return c->direct = true;
}

// The batch is done, and went well.
void tc_cuda_way_learn(tc_dev_cuda *c)
{
    char text[240];
    if (!c->direct || !c->timed_way) return;
    if (c->way == TC_WAY_SHARE && (!c->prompt.on || c->prompt.gave_up)) return;
    c->timed_way = false;
    if (tc_prompt_way_learn(&c->ways, c->batch.tokens, c->way, (double)(tc_now_us() - c->way_begin_us), text,
                            sizeof text) &&
        c->o.log)
        c->o.log(c->o.arg, false, text);
}

staged_chunk tc_cuda_copy_chunk(tc_dev_cuda *c, uint32_t layer, const uint8_t *const *skip, uint32_t first,
                                uint32_t count)
{
    hot_experts *h = &c->hot;
    staged_chunk chunk = {.stage = h->next_stage++ % STAGES, .first = first, .count = count};
    uint8_t *memory = h->stage + chunk.stage * STAGE_EXPERTS * h->slot_bytes;
    const uint64_t stride = h->layout[layer].expert_stride;
    if (h->next_stage > STAGES) CHECK(c, cudaStreamWaitEvent(h->copies, h->stage_free[chunk.stage], 0));
    for (uint32_t i = 0, end; i < count; i = end) {
        end = i + 1;
        if (skip[first + i]) continue;
        chunk.any = true;
        const uint8_t *from = unit_at(h->store, layer, first + i, 0);
        const bool whole = unit_at(h->store, layer, first + i, h->info->units - 1) ==
                           from + (h->info->units - 1) * h->layout[layer].unit_stride;
        while (whole && end < count && !skip[first + end] &&
               unit_at(h->store, layer, first + end, 0) == from + (end - i) * stride &&
               unit_at(h->store, layer, first + end, h->info->units - 1) ==
                   from + (end - i + 1) * stride - h->layout[layer].unit_stride)
            end++;
        if (whole)
            CHECK(c, cudaMemcpyAsync(memory + i * stride, from, (end - i) * stride, cudaMemcpyHostToDevice,
                                     h->copies));
        else
            copy_expert(c, memory + i * stride, layer, first + i);
    }
    if (chunk.any) CHECK(c, cudaEventRecord(h->stage_full[chunk.stage], h->copies));
    return chunk;
}

void tc_cuda_run_chunk(tc_dev_cuda *c, const staged_chunk *chunk, tc_gpu_grouped *g)
{
    hot_experts *h = &c->hot;
    if (chunk->any) {
        CHECK(c, cudaStreamWaitEvent(c->stream, h->stage_full[chunk->stage], 0));
        g->base = h->stage + chunk->stage * STAGE_EXPERTS * h->slot_bytes;
        g->first = chunk->first;
        g->count = chunk->count;
        CHECK(c, tc_gpu_grouped_run(c->stream, &c->tables, g));
    }
    CHECK(c, cudaEventRecord(h->stage_free[chunk->stage], c->stream));
}

// Many tokens: pairs sorted by expert, inputs rounded once. place: where each expert lies, or NULL.
tc_gpu_grouped tc_cuda_group_pairs(tc_dev_cuda *c, uint32_t layer, const tc_gpu_pairs_in *in,
                                   const uint8_t *const *place, int64_t *sum)
{
    hot_experts *h = &c->hot;
    const tc_store_info *info = h->info;
    CHECK(c, cudaMemsetAsync(sum, 0, (size_t)in->n * info->hidden * sizeof *sum, c->stream));
    CHECK(c,
          tc_gpu_sort_pairs(c->stream, in->expert, in->weight, in->n, info->top_k, info->experts, &h->pairs));
    CHECK(c, tc_gpu_round(c->stream, in->x, NULL, info->hidden, in->n, info->hidden / TC_SPAN_COLS,
                          c->x_rounded, c->x_scale));
    return (tc_gpu_grouped){.layout = h->layout[layer],
                            .place = place,
                            .pairs = h->pairs,
                            .n = in->n,
                            .x_rounded = c->x_rounded,
                            .x_scale = c->x_scale,
                            .h_rounded = h->h_rounded,
                            .h_scale = h->h_scale,
                            .sum = sum,
                            .broken = c->broken,
                            .blocks = c->multiprocessors,
                            .first = 0,
                            .count = info->experts};
}

static void stream_layer(tc_dev_cuda *c, uint32_t layer, const tc_gpu_pairs_in *in, int64_t *sum)
{
    hot_experts *h = &c->hot;
    const uint32_t experts = h->info->experts;
    tc_gpu_grouped g = tc_cuda_group_pairs(c, layer, in, h->place_dev + (size_t)layer * experts, sum);
    if (h->placed[layer]) CHECK(c, tc_gpu_grouped_run(c->stream, &c->tables, &g));
    for (uint32_t first = 0; first < experts; first += STAGE_EXPERTS) {
        const uint32_t left = experts - first;
        const staged_chunk chunk = tc_cuda_copy_chunk(c, layer, h->place + (size_t)layer * experts, first,
                                                      left < STAGE_EXPERTS ? left : STAGE_EXPERTS);
        tc_cuda_run_chunk(c, &chunk, &g);
    }
}

// Those in VRAM, the fetched among them.
static void run_here(tc_dev_cuda *c, uint32_t layer, const tc_gpu_pairs_in *in, const tc_gpu_fetch *fetch,
                     int64_t *sum)
{
    const uint8_t *const *place = fetch->at;
    hot_experts *h = &c->hot;
    if (in->n >= GROUP_FROM) {
        const tc_gpu_grouped g = tc_cuda_group_pairs(c, layer, in, place, sum);
        CHECK(c, tc_gpu_grouped_run(c->stream, &c->tables, &g));
        return;
    }
    const tc_gpu_hot hot = {.layout = h->layout[layer],
                            .place = place,
                            .expert = in->expert,
                            .weight = in->weight,
                            .x = in->x,
                            .n = in->n,
                            .h_rounded = h->h_rounded,
                            .h_scale = h->h_scale,
                            .sum = sum,
                            .broken = c->broken,
                            .ahead = fetch->beside ? fetch->ahead : NULL,
                            .ahead_stage = fetch->ahead_stage,
                            .also_stage = fetch->stage,
                            .bytes = fetch->bytes};
    CHECK(c, tc_gpu_hot_run(c->stream, &c->tables, &hot));
}

void tc_cuda_experts(tc_dev *dev, uint32_t layer, const float *x, uint32_t n, const uint32_t *expert,
                     const float *weight, int64_t *sum)
{
    tc_dev_cuda *c = cuda_of(dev);
    hot_experts *h = &c->hot;
    c->pending = true;
    c->pending_sum = sum;
    const bool here = h->slot_count || h->link.on; // some pairs may be computed by the card
    const tc_gpu_pairs_in pairs = {.place = here ? h->place_dev + (size_t)layer * h->info->experts : NULL,
                                   .expert = expert,
                                   .weight = weight,
                                   .x = x,
                                   .n = n,
                                   .top_k = c->o.top_k,
                                   .hidden = c->o.hidden};
    if (c->streaming) {
        if (c->prompt.on)
            tc_cuda_prompt_layer(c, layer, &pairs, sum);
        else
            stream_layer(c, layer, &pairs, sum);
        return;
    }
    tc_gpu_fetch fetch = here ? tc_cuda_link_of(c, layer, n) : (tc_gpu_fetch){.list = NULL};
    tc_cuda_ahead_of(c, layer, &fetch);
    c->boxes.layer = layer;
    c->boxes.list = fetch.list;
    CHECK(c, tc_gpu_post(c->stream, &c->tables, &c->boxes, &fetch, &pairs));
    if (here)
        run_here(c, layer, &pairs, &fetch, sum);
    else
        c->pending_sum = NULL;
}

static bool hot_ready(tc_dev *dev)
{
    return tc_cuda_is_known(&cuda_of(dev)->hot);
}

static void hot_drain(tc_dev *dev)
{
    tc_dev_cuda *c = cuda_of(dev);
    CHECK(c, cudaStreamSynchronize(c->hot.copies));
}

const tc_cuda_hot_ops tc_cuda_hot = {.open = hot_open,
                                     .ready = hot_ready,
                                     .fill = hot_fill,
                                     .filled = hot_filled,
                                     .place = hot_place,
                                     .resize = hot_resize,
                                     .settle = hot_settle,
                                     .drain = hot_drain,
                                     .look_ahead = tc_cuda_look_ahead,
                                     .ahead = tc_cuda_ahead_sums};
