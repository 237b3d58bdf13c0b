// SPDX-License-Identifier: Apache-2.0
// Owns: the cuda device's life, the batch it works on, recording and replaying passes. Every call to the
// driver is checked; the first failure is kept with its expression and place, and everything after it is void
// until it is reported by wait. Refuses: operators (operators.c), experts (experts.c) and arithmetic (the .cu
// files).
#include "gpu-core/dev/cuda/device.h"

#include "common/base/mem.h"
#include "common/model/dtype.h"
#include "gpu-core/dev/cpu/dense.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TURN_US = 1000 };

// ---- the batch ----

static void send(tc_dev_cuda *c, size_t at, size_t bytes)
{
    if (bytes)
        CHECK(c, cudaMemcpyAsync(c->batch_dev + at, c->batch_host + at, bytes, cudaMemcpyHostToDevice,
                                 c->stream));
}

_Static_assert(sizeof((tc_gpu_segment){0}.keep_after) == TC_KEEPS_MAX * sizeof(uint32_t), "as many keeps");

// Row blocks of attention for a batch that is not one token each.
static void list_blocks(tc_dev_cuda *c)
{
    uint32_t *segment = (uint32_t *)(c->batch_host + c->layout.block_segment);
    uint32_t *row = (uint32_t *)(c->batch_host + c->layout.block_row), n = 0;
    for (uint32_t s = 0; s < c->batch.segments; s++) {
        uint32_t rows = c->batch.segment_list[s].tokens * tc_cuda_group_of(&c->dev.geometry);
        // the last rows first: they have most to do
        for (uint32_t i = (rows + TC_GPU_ATTENTION_ROWS - 1) / TC_GPU_ATTENTION_ROWS; i-- > 0;) {
            segment[n] = s;
            row[n++] = i * TC_GPU_ATTENTION_ROWS;
        }
    }
    c->attention_blocks = n;
    send(c, c->layout.block_segment, n * 4);
    send(c, c->layout.block_row, n * 4);
}

// The host's copy of the batch may be written again only when the last upload is done: a batch ends with
// wait.
void tc_cuda_batch_begin(tc_dev *dev, const tc_batch *batch)
{
    tc_dev_cuda *c = cuda_of(dev);
    const tc_cuda_batch_layout *l = &c->layout;
    tc_gpu_segment *segments = (tc_gpu_segment *)(c->batch_host + l->segments);
    uint32_t *pages = (uint32_t *)(c->batch_host + l->pages), used = 0;
    CHECK(c, cudaStreamSynchronize(c->stream));
    c->batch = *batch;
    c->one_each = true;
    c->direct = c->pending = c->streaming = false;
    for (uint32_t s = 0; s < batch->segments; s++) {
        const tc_segment *from = &batch->segment_list[s];
        uint32_t count = (from->position + from->tokens + TC_KV_PAGE_POSITIONS - 1) / TC_KV_PAGE_POSITIONS;
        if (!dev->geometry.kv_layers) count = 0;
        segments[s] = (tc_gpu_segment){from->first, from->tokens, from->position, from->slot, used};
        for (uint32_t i = 0; i < TC_KEEPS_MAX; i++) {
            segments[s].keep_after[i] = from->keep[i].after;
            segments[s].keep_slot[i] = from->keep[i].slot;
        }
        for (uint32_t i = 0; i < count; i++) pages[used++] = from->pages[i];
        c->one_each &= from->tokens == 1;
    }
    memcpy(c->batch_host + l->segment, batch->segment, batch->tokens * 4);
    memcpy(c->batch_host + l->position, batch->position, batch->tokens * 4);
    send(c, l->segments, batch->segments * sizeof *segments);
    send(c, l->segment, batch->tokens * 4);
    send(c, l->position, batch->tokens * 4);
    send(c, l->pages, used * 4);
    if (!c->one_each && dev->geometry.kv_layers) list_blocks(c);
    CHECK(c, cudaMemsetAsync(c->tables.failed, 0, 8, c->stream)); // and broken
    tc_cuda_hot_flush(c);
    tc_cuda_ahead_begin(c);
    c->gpu_batch = (tc_gpu_batch){.segments = (const tc_gpu_segment *)(c->batch_dev + l->segments),
                                  .segment = (const uint32_t *)(c->batch_dev + l->segment),
                                  .position = (const uint32_t *)(c->batch_dev + l->position),
                                  .pages = (const uint32_t *)(c->batch_dev + l->pages),
                                  .tokens = batch->tokens,
                                  .segment_count = batch->segments};
}

void tc_cuda_embed(tc_dev *dev, const tc_matrix *table, float *x, uint32_t ldx)
{
    tc_dev_cuda *c = cuda_of(dev);
    for (uint32_t t = 0; t < c->batch.tokens; t++)
        tc_matrix_row(table, c->batch.ids[t], c->embed_host + (size_t)t * table->cols);
    CHECK(c,
          cudaMemcpy2DAsync(x, ldx * sizeof(float), c->embed_host, table->cols * sizeof(float),
                            table->cols * sizeof(float), c->batch.tokens, cudaMemcpyHostToDevice, c->stream));
}

// ---- recording ----

void tc_cuda_drop_graphs(tc_dev_cuda *c)
{
    for (int i = 0; i < GRAPHS; i++) {
        if (c->graph[i]) cudaGraphExecDestroy(c->graph[i]);
        c->graph[i] = NULL;
    }
}

bool tc_cuda_replay(tc_dev *dev)
{
    tc_dev_cuda *c = cuda_of(dev);
    uint32_t n = c->batch.tokens;
    c->layer_routes = 0;
    c->looks_ahead = false;
    c->guessed = false;
    c->next_expert = NULL;
    c->also_norm = NULL;
    if (*c->error || !c->one_each || !c->direct || n >= GRAPHS) return false;
    if (c->graph[n]) {
        c->pending = false;
        return CHECK(c, cudaGraphLaunch(c->graph[n], c->stream));
    }
    c->recording = CHECK(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
    c->looks_ahead = c->recording && n <= tc_cuda_ahead_tokens(c);
    if (c->looks_ahead) tc_cuda_ahead_fork(c);
    return false;
}

void tc_cuda_record_end(tc_dev *dev)
{
    tc_dev_cuda *c = cuda_of(dev);
    cudaGraph_t graph = NULL;
    if (!c->recording) return;
    tc_cuda_ahead_join(c);
    c->recording = c->looks_ahead = false;
    if (!CHECK(c, cudaStreamEndCapture(c->stream, &graph))) return;
    if (CHECK(c, cudaGraphInstantiate(&c->graph[c->batch.tokens], graph, 0)))
        CHECK(c, cudaGraphLaunch(c->graph[c->batch.tokens], c->stream));
    CHECK(c, cudaGraphDestroy(graph));
}

tc_status tc_cuda_state(tc_dev *dev, tc_error *e)
{
    const tc_dev_cuda *c = cuda_of(dev);
    return *c->error ? tc_fail(e, TC_CLOSED, "cuda: %s", c->error) : TC_OK;
}

static void signal_end(void *arg)
{
    sem_post(arg);
}

// Sleeps until the stream is empty, so that the CPU is the workers'; once a millisecond somebody else gets a
// turn (workers that must stay awake, news of those that left).
static void wait_for_stream(tc_dev_cuda *c, void (*turn)(void *arg), void *arg)
{
    if (turn && CHECK(c, cudaLaunchHostFunc(c->stream, signal_end, &c->ended))) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        for (;;) {
            until.tv_nsec += TURN_US * 1000;
            if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
            if (sem_timedwait(&c->ended, &until) == 0) break;
            if (errno == EINTR) continue;
            if (cudaStreamQuery(c->stream) != cudaErrorNotReady) { // a stream in error does not call back
                if (sem_trywait(&c->ended) == 0 || !CHECK(c, cudaStreamSynchronize(c->stream))) break;
            }
            turn(arg);
        }
    }
    CHECK(c, cudaStreamSynchronize(c->stream));
}

tc_status tc_cuda_wait(tc_dev *dev, void (*turn)(void *arg), void *arg, uint32_t *ret_layer, tc_error *e)
{
    tc_dev_cuda *c = cuda_of(dev);
    *ret_layer = UINT32_MAX;
    CHECK(c, cudaMemcpyAsync(c->result_host, c->tables.failed, TC_CUDA_RESULT_BYTES, cudaMemcpyDeviceToHost,
                             c->stream));
    wait_for_stream(c, turn, arg);
    if (!*c->error && !c->result_host[0]) {
        tc_cuda_link_learn(c, tc_cuda_result_sums(c));
        tc_cuda_way_learn(c);
    }
    tc_cuda_prompt_done(c);
    c->direct = false;
    if (*c->error) return tc_fail(e, TC_INTERNAL, "cuda: %s", c->error);
    if (c->result_host[1]) return tc_fail(e, TC_INTERNAL, "an expert's output is not finite or out of range");
    if (c->result_host[0]) {
        static const char *const why[] = {"?", "it gave up", "it was late", "its answer is not to the call",
                                          "it refused"};
        uint32_t reason = c->result_host[0] >> 16;
        char text[100];
        *ret_layer = (c->result_host[0] & 0xffff) - 1;
        snprintf(text, sizeof text, "layer %u: no sum from a worker: %s", *ret_layer,
                 why[reason < 5 ? reason : 0]);
        if (c->o.log) c->o.log(c->o.arg, true, text);
        CHECK(c, cudaMemsetAsync(c->tables.failed, 0, 8, c->stream));
    }
    return TC_OK;
}

// ---- life ----

void tc_cuda_free(tc_dev *dev)
{
    tc_dev_cuda *c = cuda_of(dev);
    cudaDeviceSynchronize();
    tc_cuda_drop_graphs(c);
    tc_cuda_hot_close(c);
    for (uint32_t i = 0; i < TC_LENT_MAX; i++)
        if (c->box_memory[i]) cudaHostUnregister(c->box_memory[i]);
    tc_cuda_give_all(c);
    if (c->batch_host) cudaFreeHost(c->batch_host);
    if (c->embed_host) cudaFreeHost(c->embed_host);
    if (c->result_host) cudaFreeHost(c->result_host);
    if (c->few_host) cudaFreeHost(c->few_host);
    if (c->few_temperature_host) cudaFreeHost(c->few_temperature_host);
    if (c->aside_fork) cudaEventDestroy(c->aside_fork);
    if (c->aside_join) cudaEventDestroy(c->aside_join);
    if (c->aside_stream) cudaStreamDestroy(c->aside_stream);
    if (c->main_stream) cudaStreamDestroy(c->main_stream);
    pthread_mutex_destroy(&c->lock);
    sem_destroy(&c->ended);
    cudaGetLastError();
    tc_free(c);
}

static tc_status check_geometry(const tc_cuda_options *o, tc_error *e)
{
    const tc_dev_geometry *g = &o->geometry;
    if (g->kv_layers && g->kv_type != TC_KV_F16)
        return tc_fail(e, TC_UNSUPPORTED, "cuda: keys and values are kept as f16 only (--kv f16)");
    if (g->head_dim > TC_GPU_WIDE_DIM_MAX)
        return tc_fail(e, TC_UNSUPPORTED, "cuda: heads of %u dimensions, at most %d", g->head_dim,
                       TC_GPU_WIDE_DIM_MAX);
    if (g->dn_layers && (g->dn_key_dim > 128 || g->dn_value_dim > 128 || g->dn_value_dim % 4))
        return tc_fail(e, TC_UNSUPPORTED, "cuda: DeltaNet heads of %u and %u", g->dn_key_dim,
                       g->dn_value_dim);
    if (o->experts > 4096 || o->top_k > TC_GPU_TOP_K_MAX)
        return tc_fail(e, TC_UNSUPPORTED, "cuda: %u of %u experts", o->top_k, o->experts);
    if (o->tokens_max < 1 || o->tokens_max > TC_STEP_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "cuda: batches of %u tokens, at most %d", o->tokens_max,
                       TC_STEP_TOKENS_MAX);
    return TC_OK;
}

typedef struct wanted {
    void **at;
    tc_mem_tag tag;
    uint64_t bytes;
} wanted;

static uint32_t list_wanted(const tc_cuda_options *o, tc_dev_cuda *c, wanted ret[TC_CUDA_BLOCKS])
{
    uint64_t bytes[TC_CUDA_BLOCKS];
    const struct {
        void **at;
        tc_mem_tag tag;
    } all[TC_CUDA_BLOCKS] = {
        [TC_CUDA_MAP] = {(void **)&c->tables.map, TC_MEM_SCRATCH},
        [TC_CUDA_FAILED] = {(void **)&c->tables.failed, TC_MEM_SCRATCH},
        [TC_CUDA_POSTED] = {(void **)&c->joined, TC_MEM_SCRATCH},
        [TC_CUDA_BATCH] = {(void **)&c->batch_dev, TC_MEM_SCRATCH},
        [TC_CUDA_KV] = {NULL, TC_MEM_KV}, // kv.c
        [TC_CUDA_STATES] = {(void **)&c->states, TC_MEM_STATE},
        [TC_CUDA_INVERSE_FREQUENCY] = {(void **)&c->inverse_frequency, TC_MEM_SCRATCH},
        [TC_CUDA_Q_HALF] = {(void **)&c->q_half, TC_MEM_SCRATCH},
        [TC_CUDA_PARTIAL] = {(void **)&c->partial, TC_MEM_SCRATCH},
        [TC_CUDA_PARTIAL_STATE] = {(void **)&c->partial_state, TC_MEM_SCRATCH},
        [TC_CUDA_DELTA_Q] = {(void **)&c->delta_q, TC_MEM_SCRATCH},
        [TC_CUDA_DELTA_K] = {(void **)&c->delta_k, TC_MEM_SCRATCH},
        [TC_CUDA_DELTA_V] = {(void **)&c->delta_v, TC_MEM_SCRATCH},
        [TC_CUDA_DELTA_SCALARS] = {(void **)&c->delta_scalars, TC_MEM_SCRATCH},
        [TC_CUDA_X_ROUNDED] = {(void **)&c->x_rounded, TC_MEM_SCRATCH},
        [TC_CUDA_X_SCALE] = {(void **)&c->x_scale, TC_MEM_SCRATCH},
        [TC_CUDA_RESIDUAL] = {(void **)&c->residual, TC_MEM_SCRATCH},
        [TC_CUDA_FEW_TEMPERATURE] = {(void **)&c->few_temperature, TC_MEM_SCRATCH},
        [TC_CUDA_FEW_TOP2] = {(void **)&c->few_top2, TC_MEM_SCRATCH},
        [TC_CUDA_FEW_SUMS] = {(void **)&c->few_sums, TC_MEM_SCRATCH},
        [TC_CUDA_FEW_BUCKETS] = {(void **)&c->few_buckets, TC_MEM_SCRATCH},
        [TC_CUDA_FEW] = {(void **)&c->few, TC_MEM_SCRATCH},
    };
    tc_cuda_block_bytes(o, bytes);
    for (uint32_t i = 0; i < TC_CUDA_BLOCKS; i++) ret[i] = (wanted){all[i].at, all[i].tag, bytes[i]};
    return TC_CUDA_BLOCKS;
}

static tc_status find_card(uint32_t ordinal, struct cudaDeviceProp *ret, tc_error *e)
{
    int count = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess || count < 1)
        return tc_fail(e, TC_NOT_FOUND, "no usable GPU: %s",
                       code == cudaSuccess ? "none found" : cudaGetErrorString(code));
    if (ordinal >= (uint32_t)count)
        return tc_fail(e, TC_NOT_FOUND, "there is no GPU %u, only %d", ordinal, count);
    code = cudaGetDeviceProperties(ret, (int)ordinal);
    if (code != cudaSuccess) return tc_fail(e, TC_NOT_FOUND, "GPU %u: %s", ordinal, cudaGetErrorString(code));
    if (ret->major < 8)
        return tc_fail(e, TC_UNSUPPORTED, "%s has compute capability %d.%d, 8.0 is the least", ret->name,
                       ret->major, ret->minor);
    return TC_OK;
}

static tc_status cuda_probe(uint32_t ordinal, char card[128], tc_error *e)
{
    struct cudaDeviceProp p;
    TC_TRY(find_card(ordinal, &p, e));
    snprintf(card, 128, "%.80s, %zu MiB", p.name, p.totalGlobalMem >> 20);
    return TC_OK;
}

static tc_status open_card(tc_dev_cuda *c, tc_error *e)
{
    size_t left, total;
    struct cudaDeviceProp p;
    cudaError_t code;
    TC_TRY(find_card(c->o.ordinal, &p, e));
    if ((code = cudaSetDevice((int)c->o.ordinal)) != cudaSuccess || (code = cudaFree(NULL)) != cudaSuccess ||
        (code = cudaMemGetInfo(&left, &total)) != cudaSuccess)
        return tc_fail(e, TC_NOT_FOUND, "GPU %u cannot be used: %s", c->o.ordinal, cudaGetErrorString(code));
    c->multiprocessors = (uint32_t)p.multiProcessorCount;
    c->context = total - left; // ours, and what others hold of this card
    c->budget = c->o.vram_bytes ? c->o.vram_bytes : total - total / 20;
    if (c->budget > total) c->budget = total;
    return TC_OK;
}

static tc_status take_all(tc_dev_cuda *c, tc_error *e)
{
    wanted list[TC_CUDA_BLOCKS];
    uint64_t sum = 0;
    uint32_t count = list_wanted(&c->o, c, list);
    for (uint32_t i = 0; i < count; i++) sum += tc_cuda_round_up((size_t)list[i].bytes);
    for (uint32_t i = 0; i < count; i++) {
        if (!list[i].bytes) continue;
        void *memory = NULL;
        if (list[i].at)
            memory = *list[i].at = tc_cuda_take(c, list[i].tag, (size_t)list[i].bytes);
        else if (tc_cuda_kv_open(c, e) == TC_OK)
            memory = c->kv;
        if (!memory)
            return tc_fail(
                e, TC_BUDGET,
                "cuda: context %llu + KV %llu + states %llu + scratch of batches of %u tokens, together %llu "
                "MiB, do not fit --vram %llu MiB; lower --context, --sessions, --kv-budget or --chunk-tokens",
                (unsigned long long)(c->context >> 20), (unsigned long long)(list[TC_CUDA_KV].bytes >> 20),
                (unsigned long long)(list[TC_CUDA_STATES].bytes >> 20), c->o.tokens_max,
                (unsigned long long)((c->context + sum) >> 20), (unsigned long long)(c->budget >> 20));
    }
    return TC_OK;
}

static tc_status fill_tables(tc_dev_cuda *c, tc_error *e)
{
    const tc_dev_geometry *g = &c->dev.geometry;
    uint32_t half = g->rotary_dim / 2;
    float frequency[TC_HEAD_DIM_MAX];
    tc_rope_frequencies(&g->rope, g->rotary_dim, frequency);
    CHECK(c, cudaMemcpy(c->inverse_frequency, frequency, half * sizeof(float), cudaMemcpyHostToDevice));
    CHECK(c,
          cudaMemcpy((void *)c->tables.map, tc_nested_levels(), 256 * sizeof(float), cudaMemcpyHostToDevice));
    (void)tc_cuda_settled(c);
    c->broken = c->tables.failed + 1;
    c->sums = (tc_gpu_sums *)(void *)(c->tables.failed + 2);
    size_t rows = (size_t)c->o.tokens_max * c->o.hidden * sizeof(float);
    CHECK(c, cudaHostAlloc((void **)&c->batch_host, c->layout.bytes, cudaHostAllocDefault));
    CHECK(c, cudaHostAlloc((void **)&c->embed_host, rows, cudaHostAllocDefault));
    CHECK(c, cudaHostAlloc((void **)&c->result_host, TC_CUDA_RESULT_BYTES, cudaHostAllocDefault));
    CHECK(c,
          cudaHostAlloc((void **)&c->few_host, TC_FEW_ROWS_MAX * sizeof *c->few_host, cudaHostAllocDefault));
    CHECK(c, cudaHostAlloc((void **)&c->few_temperature_host, TC_FEW_ROWS_MAX * sizeof(float),
                           cudaHostAllocDefault));
    if (*c->error) return tc_fail(e, TC_INTERNAL, "cuda: %s", c->error);
    return TC_OK;
}

static tc_status cuda_create(const tc_cuda_options *options, tc_dev **ret, tc_error *e)
{
    tc_status status;
    tc_dev_cuda *c = NULL;
    TC_TRY(check_geometry(options, e));
    c = tc_alloc(TC_MEM_OTHER, 1, sizeof *c);
    if (!c) return tc_fail(e, TC_NOMEM, "out of memory for the cuda device");
    c->o = *options;
    c->dev.ops = &tc_cuda_ops;
    c->dev.queue = &tc_cuda_queue_ops;
    c->dev.geometry = options->geometry;
    c->chunks_max = (options->geometry.positions_max + TC_GPU_CHUNK - 1) / TC_GPU_CHUNK;
    pthread_mutex_init(&c->lock, NULL);
    sem_init(&c->ended, 0, 0);
    TC_GOTO(open_card(c, e));
    c->o.tokens_max = tc_cuda_tokens(options, c->budget);
    c->dev.tokens_max = c->o.tokens_max;
    c->layout = tc_cuda_lay_out(&c->o);
    if (!CHECK(c, cudaStreamCreateWithFlags(&c->main_stream, cudaStreamNonBlocking)) ||
        !CHECK(c, cudaStreamCreateWithFlags(&c->aside_stream, cudaStreamNonBlocking)) ||
        !CHECK(c, cudaEventCreateWithFlags(&c->aside_fork, cudaEventDisableTiming)) ||
        !CHECK(c, cudaEventCreateWithFlags(&c->aside_join, cudaEventDisableTiming)))
        TC_GOTO(tc_fail(e, TC_INTERNAL, "cuda: %s", c->error));
    c->stream = c->main_stream;
    TC_GOTO(take_all(c, e));
    TC_GOTO(fill_tables(c, e));
    *ret = &c->dev;
    return TC_OK;
out:
    tc_cuda_free(&c->dev);
    return status;
}

static void cuda_memory(tc_dev *dev, tc_cuda_memory *ret)
{
    tc_dev_cuda *c = cuda_of(dev);
    size_t left = 0, total = 0;
    if (cudaMemGetInfo(&left, &total) != cudaSuccess) left = total = 0;
    if (total - left > c->peak) c->peak = total - left;
    *ret = (tc_cuda_memory){.budget_bytes = c->budget,
                            .context_bytes = c->context,
                            .slot_bytes = tc_cuda_slot_bytes(c),
                            .kv_owed_bytes = tc_cuda_kv_owed_bytes(c),
                            .peak_bytes = c->peak,
                            .free_bytes = left,
                            .total_bytes = total};
    memcpy(ret->tag_bytes, c->used, sizeof ret->tag_bytes);
}

__attribute__((visibility("default"))) const tc_cuda_library *tc_cuda_library_get(void);
const tc_cuda_library *tc_cuda_library_get(void)
{
    static tc_cuda_library library = {.abi = TC_CUDA_ABI,
                                      .struct_bytes = sizeof(tc_cuda_options),
                                      .probe = cuda_probe,
                                      .create = cuda_create,
                                      .memory = cuda_memory};
    library.hot = tc_cuda_hot;
    return &library;
}
