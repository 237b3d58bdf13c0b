// SPDX-License-Identifier: Apache-2.0
// Owns: the fake card of fake_cuda.h. One host thread queues and runs everything; registering memory may be
// another's.
#include "tests/support/fake_cuda.h"

#include "gpu-core/dev/cuda/gpu.h"
#include "proto/shm_layout.h"

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_A_US = 40, STREAMS_MAX = 16, TOKENS_MOST = 2048, PAIRS_MOST = 65536 };

typedef struct operation operation;
struct operation {
    operation *next;
    void (*run)(void *args);
    struct CUevent_st *waits; // runs only when the event's record of that number has been reached
    uint64_t number;
    double us;
    _Alignas(16) unsigned char args[];
};

struct CUstream_st {
    operation *head, **tail;
    uint32_t weight; // how eager it is
};

struct CUevent_st {
    uint64_t recorded, reached;
    double at_us;
};

static struct {
    const tc_store *store;
    tc_ffn *ffn;
    struct CUstream_st *streams[STREAMS_MAX], *legacy; // legacy: stream NULL, which waits for no other
    uint64_t state;
    double now_us;
} card;

static void die(const char *what)
{
    fprintf(stderr, "fake card: %s\n", what);
    abort();
}

static uint32_t draw(uint32_t n)
{
    card.state ^= card.state >> 12;
    card.state ^= card.state << 25;
    card.state ^= card.state >> 27;
    return (uint32_t)(((card.state * 0x2545f4914f6cdd1du) >> 32) * n >> 32);
}

void fake_cuda_begin(const tc_store *store, tc_ffn *ffn, unsigned seed)
{
    card.store = store;
    card.ffn = ffn;
    card.state = seed * 2654435761u + 1;
}

// ---- running what is queued ----

static bool is_ready(const struct CUstream_st *s)
{
    return s && s->head && (!s->head->waits || s->head->waits->reached >= s->head->number);
}

// One operation of a stream drawn by weight; false: none can run.
static bool step(void)
{
    uint32_t sum = 0, at;
    for (int i = 0; i < STREAMS_MAX; i++) sum += is_ready(card.streams[i]) ? card.streams[i]->weight : 0;
    if (!sum) return false;
    at = draw(sum);
    for (int i = 0; i < STREAMS_MAX; i++) {
        struct CUstream_st *s = card.streams[i];
        if (!is_ready(s)) continue;
        if (at >= s->weight) {
            at -= s->weight;
            continue;
        }
        operation *o = s->head;
        s->head = o->next;
        if (!s->head) s->tail = &s->head;
        card.now_us += o->us;
        if (o->run) o->run(o->args);
        free(o);
        return true;
    }
    return false;
}

// Seldom anything, now and then a lot.
static void some(void)
{
    for (uint32_t n = draw(8) == 0 ? draw(40) : draw(2); n && step(); n--) continue;
    if (draw(64) == 0)
        for (int i = 0; i < STREAMS_MAX; i++)
            if (card.streams[i]) card.streams[i]->weight = draw(4) == 0 ? 64 : 1;
}

static void drain(struct CUstream_st *s)
{
    while (s->head)
        if (!step()) die("streams wait for each other");
}

static struct CUstream_st *stream_of(cudaStream_t stream)
{
    if (!stream && !card.legacy) (void)cudaStreamCreateWithFlags(&card.legacy, cudaStreamNonBlocking);
    return stream ? stream : card.legacy;
}

static operation *queue(tc_gpu_stream stream, void (*run)(void *), const void *args, size_t bytes, double us)
{
    some();
    stream = stream_of(stream);
    operation *o = calloc(1, sizeof *o + bytes);
    if (!o) die("out of memory");
    o->run = run;
    o->us = us;
    if (bytes) memcpy(o->args, args, bytes);
    *stream->tail = o;
    stream->tail = &o->next;
    return o;
}

// ---- the runtime ----

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess ? "no error" : "an error of the fake card";
}

const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess ? "cudaSuccess" : "fake";
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags)
{
    for (int i = 0; i < STREAMS_MAX; i++) {
        if (card.streams[i]) continue;
        *ret = card.streams[i] = calloc(1, sizeof **ret);
        (*ret)->tail = &(*ret)->head;
        (*ret)->weight = 1;
        return cudaSuccess;
    }
    return cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    drain(stream);
    for (int i = 0; i < STREAMS_MAX; i++)
        if (card.streams[i] == stream) card.streams[i] = NULL;
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    drain(stream_of(stream));
    return cudaSuccess;
}

// Who asks sleeps in between.
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    for (uint32_t n = draw(3) ? draw(200) : 0; n && step(); n--) continue;
    return stream_of(stream)->head ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    for (int i = 0; i < STREAMS_MAX; i++)
        if (card.streams[i]) drain(card.streams[i]);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags)
{
    *ret = calloc(1, sizeof **ret);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *ret)
{
    return cudaEventCreateWithFlags(ret, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    (void)cudaDeviceSynchronize();
    free(event);
    return cudaSuccess;
}

typedef struct record_args {
    cudaEvent_t event;
    uint64_t number;
} record_args;

static void run_record(void *args)
{
    const record_args *a = args;
    if (a->number > a->event->reached) a->event->reached = a->number;
    a->event->at_us = card.now_us;
}

uint32_t fake_cuda_pending(void)
{
    uint32_t count = 0;
    for (int i = 0; i < STREAMS_MAX; i++)
        for (operation *o = card.streams[i] ? card.streams[i]->head : NULL; o; o = o->next)
            count += o->run && o->run != run_record;
    return count;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const record_args args = {event, ++event->recorded};
    queue(stream, run_record, &args, sizeof args, 0);
    return cudaSuccess;
}

// As of now: records that come later are not waited for.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    operation *o = queue(stream, NULL, NULL, 0, 0);
    o->number = event->recorded;
    o->waits = event;
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    some();
    return event->reached == event->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ret, cudaEvent_t from, cudaEvent_t to)
{
    if (from->reached != from->recorded || to->reached != to->recorded) return cudaErrorNotReady;
    *ret = (float)((to->at_us - from->at_us) / 1000);
    return cudaSuccess;
}

typedef struct host_args {
    cudaHostFn_t run;
    void *arg;
} host_args;

static void run_host(void *args)
{
    const host_args *a = args;
    a->run(a->arg);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t run, void *arg)
{
    const host_args args = {run, arg};
    queue(stream, run_host, &args, sizeof args, 1);
    return cudaSuccess;
}

typedef struct copy_args {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, rows;
    int value; // of a set, where from is NULL
} copy_args;

static void run_copy(void *args)
{
    const copy_args *a = args;
    for (size_t i = 0; i < a->rows; i++)
        if (a->from)
            memcpy(a->to + i * a->to_pitch, a->from + i * a->from_pitch, a->width);
        else
            memset(a->to, a->value, a->width);
}

static cudaError_t queue_copy(copy_args args, cudaStream_t stream)
{
    queue(stream, run_copy, &args, sizeof args, (double)(args.rows * args.width) / BYTES_A_US);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return queue_copy((copy_args){to, from, 0, 0, bytes, 1, 0}, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t rows, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return queue_copy((copy_args){to, from, to_pitch, from_pitch, width, rows, 0}, stream);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    return queue_copy((copy_args){to, NULL, 0, 0, bytes, 1, value}, stream);
}

typedef struct staged_args {
    copy_args copy;
    char *bytes;
} staged_args;

static void run_staged(void *args)
{
    staged_args *a = args;
    run_copy(&a->copy);
    free(a->bytes);
}

// To the card: done with the host's memory when it returns, and no more than that.
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    staged_args args = {.bytes = malloc(bytes)};
    if (kind != cudaMemcpyHostToDevice || !args.bytes) die("this copy is not known");
    memcpy(args.bytes, from, bytes);
    args.copy = (copy_args){to, args.bytes, 0, 0, bytes, 1, 0};
    queue(NULL, run_staged, &args, sizeof args, 1);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, NULL);
}

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
    return (*ret = aligned_alloc(256, (bytes + 255) & ~(size_t)255)) ? cudaSuccess
                                                                     : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *memory)
{
    (void)cudaDeviceSynchronize();
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **ret, size_t bytes, unsigned flags)
{
    return cudaMalloc(ret, bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    return cudaFree(memory);
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned flags)
{
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **ret, void *memory, unsigned flags)
{
    *ret = memory;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *ret_free, size_t *ret_total)
{
    *ret_total = 8ull << 30;
    *ret_free = *ret_total - (256 << 20);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *ret)
{
    *ret = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int ordinal)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *ret, int ordinal)
{
    memset(ret, 0, sizeof *ret);
    snprintf(ret->name, sizeof ret->name, "fake card");
    ret->major = 9;
    ret->multiProcessorCount = 4;
    ret->totalGlobalMem = 8ull << 30;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *ret, enum cudaDeviceAttr which, int ordinal)
{
    *ret = 0; // it reads no host memory by itself
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **ret, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *ret)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t graph, unsigned long long flags)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    return cudaErrorNotSupported;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return cudaSuccess;
}

// ---- kernels: rows ----

typedef struct row_call {
    tc_gpu_tables tables;
    tc_gpu_row_args a;
    tc_gpu_mailboxes boxes;
} row_call;

static void run_add(void *args)
{
    const row_call *c = args;
    if (*c->tables.failed) return;
    for (size_t i = 0; i < (size_t)c->a.n * c->a.dim; i++) {
        c->a.x[i] += c->a.y[i];
        if (c->a.residual) c->a.residual[i] = c->a.x[i];
    }
}

int tc_gpu_add(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_row_args *args)
{
    const row_call call = {.tables = *tables, .a = *args};
    if (args->norm) die("add: it does not norm");
    queue(stream, run_add, &call, sizeof call, 5);
    return cudaSuccess;
}

// Nobody is waited for: prompts ask the card to only when the answers are there.
static bool joined(const row_call *c)
{
    const uint64_t sequence = c->boxes.count ? *c->boxes.sequence + c->boxes.layer : 0;
    for (uint32_t b = 0; b < c->boxes.count; b++) {
        const char *memory = c->boxes.box[b].memory;
        const tc_shm_reply_record *reply = (const void *)(memory + TC_SHM_REPLY_AT);
        if (c->boxes.posted[b] &&
            (*(const volatile uint64_t *)(const void *)(memory + TC_SHM_REPLY_FLAG_AT) != sequence ||
             reply->seq != sequence || reply->status || reply->tokens != c->a.n))
            return false;
    }
    return true;
}

static void run_combine(void *args)
{
    const row_call *c = args;
    const float *from = c->a.residual ? c->a.residual : c->a.x;
    if (*c->tables.failed) return;
    if (!joined(c)) {
        *c->tables.failed = (c->boxes.layer + 1) | TC_GPU_JOIN_WRONG << 16;
        return;
    }
    for (size_t i = 0; i < (size_t)c->a.n * c->a.dim; i++) {
        int64_t sum = c->a.sum ? c->a.sum[i] : 0;
        for (uint32_t b = 0; b < c->boxes.count; b++)
            if (c->boxes.posted[b])
                sum += ((const int64_t *)(const void *)(c->boxes.box[b].memory + c->boxes.box[b].sum_at))[i];
        c->a.x[i] = from[i] + (float)((double)sum / 4294967296.0);
    }
}

int tc_gpu_combine(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_row_args *args,
                   const tc_gpu_mailboxes *boxes)
{
    row_call call = {.tables = *tables, .a = *args};
    if (boxes) call.boxes = *boxes;
    if (args->norm || args->shared) die("combine: it does not norm, nor share");
    queue(stream, run_combine, &call, sizeof call, 20);
    return cudaSuccess;
}

// ---- kernels: many tokens ----

typedef struct sort_call {
    const uint32_t *expert;
    const float *weight;
    uint32_t n, top_k, experts;
    tc_gpu_pairs pairs;
} sort_call;

static void run_sort(void *args)
{
    const sort_call *c = args;
    uint32_t at = 0;
    for (uint32_t e = 0; e < c->experts; e++) {
        c->pairs.begin[e] = at;
        for (uint32_t i = 0; i < c->n * c->top_k; i++)
            if (c->expert[i] == e) {
                c->pairs.token[at] = i / c->top_k;
                c->pairs.weight[at++] = c->weight[i];
            }
    }
    c->pairs.begin[c->experts] = at;
}

int tc_gpu_sort_pairs(tc_gpu_stream stream, const uint32_t *expert, const float *weight, uint32_t n,
                      uint32_t top_k, uint32_t experts, const tc_gpu_pairs *pairs)
{
    const sort_call call = {expert, weight, n, top_k, experts, *pairs};
    queue(stream, run_sort, &call, sizeof call, 20);
    return cudaSuccess;
}

// A rounded row is the whole row, kept here, under its number.
typedef struct kept_row {
    uint64_t magic;
    const float *row;
} kept_row;
enum { KEPT_MAX = 1 << 15 };
static struct {
    float *rows[KEPT_MAX];
    uint32_t next;
} kept;

typedef struct round_call {
    const float *x;
    uint32_t ldx, n, spans;
    uint8_t *rounded;
} round_call;

static void run_round(void *args)
{
    const round_call *c = args;
    for (uint32_t t = 0; t < c->n; t++) {
        const size_t bytes = (size_t)c->spans * TC_GPU_SPAN * sizeof(float);
        float **row = &kept.rows[kept.next++ % KEPT_MAX];
        *row = realloc(*row, bytes);
        memcpy(*row, c->x + (size_t)t * c->ldx, bytes);
        const kept_row kept_at = {0x726f756e646564u, *row};
        memcpy(c->rounded + (size_t)t * c->spans * TC_GPU_ROW_BYTES, &kept_at, sizeof kept_at);
    }
}

int tc_gpu_round(tc_gpu_stream stream, const float *x, const float *up, uint32_t ldx, uint32_t n,
                 uint32_t spans, uint8_t *rounded, float *scale)
{
    const round_call call = {x, ldx, n, spans, rounded};
    queue(stream, run_round, &call, sizeof call, 10);
    return cudaSuccess;
}

// The layer whose expert e these bytes are; UINT32_MAX: nobody's.
static uint32_t layer_of(const uint8_t *bytes, uint32_t e, const tc_gpu_expert_layout *layout)
{
    const tc_store_info *info = tc_store_get_info(card.store);
    for (uint32_t l = 0; l < info->layers; l++) {
        if (!tc_store_layer_has_experts(card.store, l)) continue;
        bool same = true;
        for (uint32_t u = 0; u < info->units && same; u++) {
            tc_store_unit unit;
            tc_store_get_unit(card.store, l, e, u, &unit);
            same = memcmp(bytes + u * layout->unit_stride, unit.gate.data, layout->unit_stride) == 0;
        }
        if (same) return l;
    }
    return UINT32_MAX;
}

typedef struct grouped_call {
    tc_gpu_tables tables;
    tc_gpu_grouped g;
} grouped_call;

static void spoil(const tc_gpu_grouped *g, const char *what)
{
    fprintf(stderr, "fake card: %s\n", what);
    for (uint32_t i = 0; i < g->n * g->layout.hidden; i++) g->sum[i] += 1ll << 36;
}

static void multiply(const tc_gpu_grouped *g, uint32_t layer, const tc_expert_pair *pairs, uint32_t count)
{
    static float x[TOKENS_MOST * 256];
    static int64_t sum[TOKENS_MOST * 256];
    const uint32_t hidden = g->layout.hidden, spans = hidden / TC_GPU_SPAN;
    tc_error e;
    if (hidden > 256 || g->n > TOKENS_MOST) die("it is small");
    for (uint32_t t = 0; t < g->n; t++) {
        kept_row row;
        memcpy(&row, g->x_rounded + (size_t)t * spans * TC_GPU_ROW_BYTES, sizeof row);
        if (row.magic != 0x726f756e646564u) {
            spoil(g, "rows are not rounded");
            return;
        }
        memcpy(x + (size_t)t * hidden, row.row, hidden * sizeof *x);
    }
    const tc_expert_call call = {.layer = layer,
                                 .unit_end = g->layout.units,
                                 .precision = TC_FAST,
                                 .tokens = g->n,
                                 .hidden = hidden,
                                 .x = x,
                                 .pair_count = count,
                                 .pairs = pairs};
    if (tc_ffn_run(card.ffn, &call, sum, &e) != TC_OK) die(e.text);
    for (uint32_t i = 0; i < g->n * hidden; i++) g->sum[i] += sum[i];
}

static int by_token(const void *a, const void *b)
{
    const tc_expert_pair *p = a, *q = b;
    return p->token < q->token ? -1 : p->token > q->token;
}

static void run_grouped(void *args)
{
    static tc_expert_pair pairs[PAIRS_MOST];
    const grouped_call *c = args;
    const tc_gpu_grouped *g = &c->g;
    uint32_t count = 0, layer = UINT32_MAX;
    for (uint32_t e = g->first; e < g->first + g->count; e++) {
        const uint8_t *placed = g->place ? g->place[e] : NULL;
        const uint8_t *at = !g->base ? placed
                            : placed ? NULL
                                     : g->base + (size_t)(e - g->first) * g->layout.expert_stride;
        const uint32_t begin = g->pairs.begin[e], end = g->pairs.begin[e + 1];
        if (!at || begin == end) continue;
        const uint32_t l = layer_of(at, e, &g->layout);
        if (l == UINT32_MAX || (layer != UINT32_MAX && l != layer)) {
            spoil(g, "these are another expert's weights");
            return;
        }
        layer = l;
        if (count + end - begin > PAIRS_MOST) die("too many pairs");
        const uint32_t first = count;
        for (uint32_t i = begin; i < end; i++)
            pairs[count++] = (tc_expert_pair){e, g->pairs.token[i], g->pairs.weight[i]};
        qsort(pairs + first, count - first, sizeof *pairs, by_token);
    }
    if (count) multiply(g, layer, pairs, count);
}

int tc_gpu_grouped_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_grouped *args)
{
    const grouped_call call = {*tables, *args};
    queue(stream, run_grouped, &call, sizeof call, 50);
    return cudaSuccess;
}

static void run_mark(void *args)
{
    const tc_gpu_marks *m = args;
    for (uint32_t e = 0; e < m->experts; e++) m->place[e] = m->bits[e / 32] >> (e % 32) & 1 ? m->mark : NULL;
}

int tc_gpu_mark(tc_gpu_stream stream, const tc_gpu_marks *args)
{
    queue(stream, run_mark, args, sizeof *args, 3);
    return cudaSuccess;
}

typedef struct posted_call {
    uint32_t *posted, bits;
} posted_call;

static void run_posted(void *args)
{
    const posted_call *c = args;
    for (uint32_t i = 0; i < TC_GPU_MAILBOXES_MAX; i++) c->posted[i] = c->bits >> i & 1;
}

int tc_gpu_tell_posted(tc_gpu_stream stream, uint32_t *posted, uint32_t bits)
{
    const posted_call call = {posted, bits};
    queue(stream, run_posted, &call, sizeof call, 3);
    return cudaSuccess;
}

// ---- kernels that are not here ----

#define NOT_HERE(name, ...)                                                                                  \
    int name(__VA_ARGS__)                                                                                    \
    {                                                                                                        \
        die(#name);                                                                                          \
        return 1;                                                                                            \
    }
NOT_HERE(tc_gpu_matmul_one, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_jobs *j, const float *x,
         const float *up)
NOT_HERE(tc_gpu_matmul_many, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_jobs *j, const uint8_t *r,
         const float *scale, uint32_t n)
NOT_HERE(tc_gpu_matmul_float, tc_gpu_stream s, const tc_gpu_jobs *j, const float *x, uint32_t ldx, uint32_t n)
NOT_HERE(tc_gpu_rmsnorm, tc_gpu_stream s, const float *x, const float *m, uint32_t n, uint32_t dim, float eps,
         float *y)
NOT_HERE(tc_gpu_heads_run, tc_gpu_stream s, const tc_gpu_heads *a, uint32_t n)
NOT_HERE(tc_gpu_expert_bias, tc_gpu_stream s, const float *b, const uint32_t *e, const float *w, uint32_t n,
         uint32_t k, uint32_t dim, float *out)
NOT_HERE(tc_gpu_silu_mul, tc_gpu_stream s, const float *g, const float *u, size_t n, float *out)
NOT_HERE(tc_gpu_attention_wide, tc_gpu_stream s, const tc_gpu_batch *b, const tc_gpu_attention *a)
NOT_HERE(tc_gpu_attention_run, tc_gpu_stream s, const tc_gpu_batch *b, const tc_gpu_attention *a)
NOT_HERE(tc_gpu_delta_run, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_batch *b,
         const tc_gpu_delta *a)
NOT_HERE(tc_gpu_route, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_routes *a)
NOT_HERE(tc_gpu_hot_run, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_hot *a)
NOT_HERE(tc_gpu_beside_run, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_beside *a)
NOT_HERE(tc_gpu_post, tc_gpu_stream s, const tc_gpu_tables *t, const tc_gpu_mailboxes *b,
         const tc_gpu_fetch *f, const tc_gpu_pairs_in *p)
NOT_HERE(tc_gpu_few_run, tc_gpu_stream s, const tc_gpu_few *a, bool warm)
