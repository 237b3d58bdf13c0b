// SPDX-License-Identifier: Apache-2.0
// Owns: full attention of the cpu device over the paged KV pool: per-head norm, rotary, append, attend, gate.
// Equations: docs/MODEL.md. Two rounds over the team, because every key of the batch must be in its page
// before any query looks at it.
//
// A block is a run of consecutive tokens of one segment; with the query heads of one KV head it makes the
// rows that share every key and value read. Positions are cut into chunks of 256, counted from the session's
// start. Of a chunk a row gets a partial result (largest score, sum, weighted values), and the partials are
// folded in rising order: one after the other by one member, or, where there are fewer blocks than members
// can use, each chunk by whoever comes and the fold by whoever ends last. Either way the same operations in
// the same order.
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
    CHUNK = 256,        // positions
    ROWS = 64,          // of a block, unless one token has more
    FEW_ROWS = 16,      // up to here keys and values are met in steps that stay in the first cache
    KEY_STEP = 16,      // positions at once
    ITEMS_A_MEMBER = 4, // fewer items than this: blocks are split into their chunks
    HALF_BYTES = 2,
    PAGES_A_CHUNK = CHUNK / TC_KV_PAGE_POSITIONS,
};

typedef struct attention_job {
    tc_dev_cpu *cpu;
    const tc_attention_args *args;
    uint32_t q_stride; // floats from one query head to the next
} attention_job;

// Largest score, sum of exponentials, weighted values [rows][dim padded].
typedef struct partial {
    float *max, *sum, *acc;
} partial;

typedef struct scratch {
    float *q, *scores, *rows; // [rows][dim], [rows][CHUNK], [page][dim]: keys or values as float32
    partial chunk, total;
} scratch;

static uint32_t group_of(const tc_dev_geometry *g)
{
    return g->heads / g->kv_heads;
}

static uint32_t block_tokens(const tc_dev_geometry *g)
{
    uint32_t group = group_of(g);
    return group < ROWS ? ROWS / group : 1;
}

static uint32_t rows_max(const tc_dev_geometry *g)
{
    return block_tokens(g) * group_of(g);
}

static size_t partial_floats(uint32_t rows, uint32_t dim)
{
    return (size_t)rows * dim + 2 * tc_dense_padded(rows);
}

static partial partial_at(float *at, uint32_t rows, uint32_t dim)
{
    float *max = at + (size_t)rows * dim;
    return (partial){max, max + tc_dense_padded(rows), at};
}

static size_t member_floats(const tc_dev_geometry *g)
{
    uint32_t rows = rows_max(g), dim = tc_dense_padded(g->head_dim);
    return (size_t)rows * (dim + CHUNK) + TC_KV_PAGE_POSITIONS * dim + 2 * partial_floats(rows, dim);
}

static scratch scratch_of(const tc_dev_cpu *cpu, uint32_t member)
{
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t rows = rows_max(g), dim = tc_dense_padded(g->head_dim);
    float *q = cpu->attention.scratch + member * member_floats(g), *scores = q + (size_t)rows * dim;
    float *page = scores + (size_t)rows * CHUNK, *chunk = page + TC_KV_PAGE_POSITIONS * dim;
    return (scratch){q, scores, page, partial_at(chunk, rows, dim),
                     partial_at(chunk + partial_floats(rows, dim), rows, dim)};
}

// Partials of split blocks: as many rows as the pool's chunks can have when nothing is shared.
static size_t split_floats(const tc_dev_geometry *g)
{
    size_t chunks = g->pages / PAGES_A_CHUNK + TC_BATCH_SEGMENTS_MAX;
    return chunks * g->kv_heads * partial_floats(group_of(g), tc_dense_padded(g->head_dim));
}

uint64_t tc_cpu_attention_bytes(const tc_dev_geometry *g, uint32_t members)
{
    if (!g->kv_layers) return 0;
    return (members * member_floats(g) + split_floats(g)) * sizeof(float) +
           tc_cpu_tokens_max(g) * (sizeof(tc_cpu_block) + g->kv_heads * sizeof(uint32_t));
}

bool tc_cpu_attention_create(tc_dev_cpu *cpu)
{
    const tc_dev_geometry *g = &cpu->dev.geometry;
    tc_cpu_attention_state *a = &cpu->attention;
    if (!g->kv_layers) return true;
    a->split_floats = split_floats(g);
    a->scratch = tc_alloc(TC_MEM_SCRATCH, tc_team_size(cpu->team) * member_floats(g), sizeof(float));
    a->split = tc_alloc(TC_MEM_SCRATCH, a->split_floats, sizeof(float));
    a->block = tc_alloc(TC_MEM_SCRATCH, tc_cpu_tokens_max(g), sizeof *a->block);
    a->left = tc_alloc(TC_MEM_SCRATCH, (size_t)tc_cpu_tokens_max(g) * g->kv_heads, sizeof *a->left);
    return a->scratch && a->split && a->block && a->left;
}

void tc_cpu_attention_free(tc_dev_cpu *cpu)
{
    tc_free(cpu->attention.scratch);
    tc_free(cpu->attention.split);
    tc_free(cpu->attention.block);
    tc_free(cpu->attention.left);
}

// ---- the batch's blocks and items ----

static void list_blocks(tc_dev_cpu *cpu)
{
    tc_cpu_attention_state *a = &cpu->attention;
    uint32_t most = block_tokens(&cpu->dev.geometry);
    a->blocks = 0;
    for (uint32_t s = cpu->batch.segments; s-- > 0;) {
        const tc_segment *segment = &cpu->batch.segment_list[s];
        // the last tokens first: they have most to do, and the members end together
        for (uint32_t i = (segment->tokens + most - 1) / most; i-- > 0;) {
            uint32_t left = segment->tokens - i * most;
            a->block[a->blocks++] = (tc_cpu_block){.segment = segment,
                                                   .token = segment->first + i * most,
                                                   .tokens = left < most ? left : most,
                                                   .position = segment->position + i * most};
        }
    }
}

void tc_cpu_attention_begin(tc_dev_cpu *cpu)
{
    const tc_dev_geometry *g = &cpu->dev.geometry;
    tc_cpu_attention_state *a = &cpu->attention;
    size_t used = 0;
    if (!g->kv_layers) return;
    list_blocks(cpu);
    bool few = (uint64_t)a->blocks * g->kv_heads < (uint64_t)ITEMS_A_MEMBER * tc_team_size(cpu->team);
    a->items = 0;
    a->work = 0;
    for (uint32_t b = 0; b < a->blocks; b++) {
        tc_cpu_block *block = &a->block[b];
        uint32_t rows = block->tokens * group_of(g), end = block->position + block->tokens;
        block->chunks = (end + CHUNK - 1) / CHUNK;
        size_t need = block->chunks * g->kv_heads * partial_floats(rows, tc_dense_padded(g->head_dim));
        block->split = few && block->chunks > 1 && need <= a->split_floats - used;
        block->part = used;
        if (block->split) used += need;
        block->first_item = a->items;
        a->items += g->kv_heads * (block->split ? block->chunks : 1);
        a->work += 2ull * end * block->tokens * g->heads * g->head_dim;
    }
}

// ---- keys and values into their pages ----

static size_t page_row(const tc_dev_cpu *cpu, uint32_t page, uint32_t kv_layer, bool value, uint32_t head)
{
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t sides = g->value_dim ? 1 : 2; // latent keys are values, too
    return ((((size_t)page * g->kv_layers + kv_layer) * sides + (value && sides == 2)) * g->kv_heads + head) *
           TC_KV_PAGE_POSITIONS;
}

// x is padded; at: row number of the pool.
static void put_row(const tc_dev_cpu *cpu, const float *x, size_t at)
{
    uint32_t dim = tc_dense_padded(cpu->dev.geometry.head_dim);
    if (cpu->dev.geometry.kv_type == TC_KV_F16)
        cpu->dense->to_half(x, dim, (uint16_t *)cpu->kv + at * dim);
    else
        memcpy((float *)cpu->kv + at * dim, x, dim * sizeof *x);
}

// Rows [at, at + count) of the pool as float32: where they lie, or converted into `room`.
static const float *get_rows(const tc_dev_cpu *cpu, size_t at, uint32_t count, float *room)
{
    uint32_t dim = tc_dense_padded(cpu->dev.geometry.head_dim);
    if (cpu->dev.geometry.kv_type == TC_KV_F32) return (const float *)cpu->kv + at * dim;
    cpu->dense->from_half((const uint16_t *)cpu->kv + at * dim, count * dim, room);
    return room;
}

static void clip(float *x, uint32_t n, float most)
{
    for (uint32_t i = 0; most > 0 && i < n; i++) x[i] = x[i] > most ? most : x[i] < -most ? -most : x[i];
}

static void rotate_pairs(float *x, const float *cosine, const float *sine, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
}

// normed: the first dimensions that the norm is over.
static void norm_rotate(const attention_job *job, float *x, const float *multiplier, uint32_t normed,
                        float eps, const float *rotary)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    const tc_dense *d = job->cpu->dense;
    uint32_t half = g->rotary_dim / 2;
    if (multiplier) {
        float mean = d->squares(x, normed) / (float)normed;
        d->scale(x, 1.0f / sqrtf(mean + eps), multiplier, normed, x);
    }
    clip(x, g->head_dim, job->args->clip);
    (g->rope.interleaved ? rotate_pairs : d->rotate)(x + g->rotary_at, rotary, rotary + half, half);
}

static void prepare_item(void *arg, uint32_t t, uint32_t member)
{
    const attention_job *job = arg;
    tc_dev_cpu *cpu = job->cpu;
    const tc_attention_args *args = job->args;
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t dim = g->head_dim, padded = tc_dense_padded(dim);
    const float *rotary = cpu->rotary + (size_t)t * g->rotary_dim;
    for (uint32_t h = 0; h < g->heads; h++)
        norm_rotate(job, args->q + ((size_t)t * g->heads + h) * job->q_stride, args->q_norm, dim, g->rms_eps,
                    rotary);
    const tc_segment *segment = &cpu->batch.segment_list[cpu->batch.segment[t]];
    uint32_t position = cpu->batch.position[t];
    uint32_t page = segment->pages[position / TC_KV_PAGE_POSITIONS], row = position % TC_KV_PAGE_POSITIONS;
    float *room = scratch_of(cpu, member).q;
    memset(room + dim, 0, (padded - dim) * sizeof *room);
    for (uint32_t h = 0; h < g->kv_heads; h++) {
        float *k = args->k + ((size_t)t * g->kv_heads + h) * dim;
        norm_rotate(job, k, args->k_norm, g->value_dim ? g->value_dim : dim,
                    g->value_dim ? g->latent_eps : g->rms_eps, rotary);
        memcpy(room, k, dim * sizeof *room);
        put_row(cpu, room, page_row(cpu, page, args->kv_layer, false, h) + row);
        if (g->value_dim) continue;
        memcpy(room, args->v + ((size_t)t * g->kv_heads + h) * dim, dim * sizeof *room);
        clip(room, dim, args->clip);
        put_row(cpu, room, page_row(cpu, page, args->kv_layer, true, h) + row);
    }
}

// ---- one block, one KV head ----

// What a block's rows see of a chunk. Token i (of the block) sees its first position + i positions.
typedef struct view {
    const tc_cpu_block *block;
    uint32_t group, dim, base; // base: the chunk's first position
    uint32_t first_token;      // tokens before it see nothing of this chunk yet
    uint32_t end_token;        // tokens from it on see nothing of it any more
    uint32_t keys;             // positions of the chunk that the last token sees
    uint32_t window;           // 0: none
} view;

static uint32_t seen_by(const view *v, uint32_t token)
{
    uint32_t n = v->block->position + token + 1 - v->base;
    return n < CHUNK ? n : CHUNK;
}

// Positions of the chunk before those that the token sees.
static uint32_t hidden_from(const view *v, uint32_t token)
{
    uint32_t end = v->block->position + token + 1;
    return v->window && end > v->base + v->window ? end - v->window - v->base : 0;
}

// No token of the block sees anything of the chunk where end_token <= first_token.
static view view_of(const attention_job *job, const tc_cpu_block *block, uint32_t chunk)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    view v = {.block = block,
              .group = group_of(g),
              .dim = tc_dense_padded(g->head_dim),
              .base = chunk * CHUNK,
              .end_token = block->tokens,
              .window = job->args->window};
    v.first_token = v.base > block->position ? v.base - block->position : 0;
    while (v.end_token > v.first_token && hidden_from(&v, v.end_token - 1) >= CHUNK) v.end_token--;
    v.keys = v.end_token > v.first_token ? seen_by(&v, v.end_token - 1) : 0;
    return v;
}

// Calls one step of keys [j, j + count) for the rows that see all of it, then for the tokens that see some.
typedef void step_fn(const tc_dense *dense, const view *v, const scratch *s, uint32_t row, uint32_t rows,
                     const float *data, uint32_t j, uint32_t count, tc_dense_ahead ahead);

static void score_step(const tc_dense *dense, const view *v, const scratch *s, uint32_t row, uint32_t rows,
                       const float *data, uint32_t j, uint32_t count, tc_dense_ahead ahead)
{
    dense->scores(s->q + (size_t)row * v->dim, rows, data, count, v->dim, s->scores + (size_t)row * CHUNK + j,
                  CHUNK, ahead);
}

static void value_step(const tc_dense *dense, const view *v, const scratch *s, uint32_t row, uint32_t rows,
                       const float *data, uint32_t j, uint32_t count, tc_dense_ahead ahead)
{
    dense->values(s->scores + (size_t)row * CHUNK + j, rows, CHUNK, data, count, v->dim,
                  s->chunk.acc + (size_t)row * v->dim, ahead);
}

// Row of the pool where the keys or values of a position lie.
static size_t position_row(const attention_job *job, const view *v, uint32_t kv_head, bool value,
                           uint32_t position)
{
    uint32_t page = v->block->segment->pages[position / TC_KV_PAGE_POSITIONS];
    return page_row(job->cpu, page, job->args->kv_layer, value, kv_head) + position % TC_KV_PAGE_POSITIONS;
}

// What is read after the step of keys (or values) that starts at j: the next one; after the keys, the values;
// after the values, the next chunk's keys.
static tc_dense_ahead ahead_of(const attention_job *job, const view *v, uint32_t kv_head, bool value,
                               uint32_t j, uint32_t step)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t position = v->base + j + step;
    if (j + step >= v->keys) {
        if (!value) position = v->base;
        value = !value;
    }
    if (position >= v->block->position + v->block->tokens) return (tc_dense_ahead){0};
    uint32_t row_bytes = v->dim * (g->kv_type == TC_KV_F16 ? (uint32_t)HALF_BYTES : 4);
    const char *data =
        (const char *)job->cpu->kv + position_row(job, v, kv_head, value, position) * row_bytes;
    return (tc_dense_ahead){data, KEY_STEP * row_bytes};
}

static void each_step(const attention_job *job, const view *v, const scratch *s, uint32_t kv_head, bool value,
                      uint32_t step, step_fn *run)
{
    const tc_dev_cpu *cpu = job->cpu;
    uint32_t tokens = v->end_token, hidden = hidden_from(v, v->first_token);
    for (uint32_t j = hidden - hidden % step; j < v->keys; j += step) {
        uint32_t count = v->keys - j < step ? v->keys - j : step;
        const float *data = get_rows(cpu, position_row(job, v, kv_head, value, v->base + j), count, s->rows);
        tc_dense_ahead ahead = ahead_of(job, v, kv_head, value, j, step);
        uint32_t t = v->first_token;
        for (; t < tokens && seen_by(v, t) < j + count; t++)
            if (seen_by(v, t) > j)
                run(cpu->dense, v, s, t * v->group, v->group, data, j, seen_by(v, t) - j,
                    (tc_dense_ahead){0});
        if (t < tokens) run(cpu->dense, v, s, t * v->group, (tokens - t) * v->group, data, j, count, ahead);
    }
}

// The partial result of one chunk into s->chunk, for the rows from the view's first token on.
static void attend_chunk(const attention_job *job, const view *v, const scratch *s, uint32_t kv_head)
{
    const tc_dense *dense = job->cpu->dense;
    uint32_t first = v->first_token * v->group, rows = v->end_token * v->group;
    each_step(job, v, s, kv_head, false, KEY_STEP, score_step);
    for (uint32_t r = first; r < rows; r++) {
        float *scores = s->scores + (size_t)r * CHUNK;
        uint32_t hidden = hidden_from(v, r / v->group);
        for (uint32_t j = 0; j < hidden; j++) scores[j] = -INFINITY;
        s->chunk.sum[r] = dense->softmax(scores, seen_by(v, r / v->group), &s->chunk.max[r]);
        memset(scores, 0, hidden * sizeof *scores);
    }
    memset(s->chunk.acc + (size_t)first * v->dim, 0, (size_t)(rows - first) * v->dim * sizeof(float));
    each_step(job, v, s, kv_head, true, rows <= FEW_ROWS ? KEY_STEP : TC_KV_PAGE_POSITIONS, value_step);
}

static void clear_partial(const partial *p, uint32_t rows, uint32_t dim)
{
    for (uint32_t r = 0; r < rows; r++) p->max[r] = -INFINITY;
    memset(p->sum, 0, rows * sizeof(float));
    memset(p->acc, 0, (size_t)rows * dim * sizeof(float));
}

static void fold_chunk(const tc_dense *dense, const view *v, const partial *chunk, const partial *total)
{
    for (uint32_t r = v->first_token * v->group; r < v->end_token * v->group; r++) {
        float max = total->max[r] > chunk->max[r] ? total->max[r] : chunk->max[r];
        float old = expf(total->max[r] - max), new = expf(chunk->max[r] - max);
        total->max[r] = max;
        total->sum[r] = total->sum[r] * old + chunk->sum[r] * new;
        dense->blend(total->acc + (size_t)r * v->dim, old, chunk->acc + (size_t)r * v->dim, new, v->dim);
    }
}

static const float *query_of(const attention_job *job, const tc_cpu_block *block, uint32_t kv_head,
                             uint32_t row)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t group = group_of(g), token = block->token + row / group;
    return job->args->q + ((size_t)token * g->heads + kv_head * group + row % group) * job->q_stride;
}

static void take_queries(const attention_job *job, const tc_cpu_block *block, uint32_t kv_head, float *q)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t rows = block->tokens * group_of(g), dim = tc_dense_padded(g->head_dim);
    float factor = g->attn_scale != 0 ? g->attn_scale : 1.0f / sqrtf((float)g->head_dim);
    for (uint32_t r = 0; r < rows; r++) {
        job->cpu->dense->scale(query_of(job, block, kv_head, r), factor, NULL, g->head_dim,
                               q + (size_t)r * dim);
        memset(q + (size_t)r * dim + g->head_dim, 0, (dim - g->head_dim) * sizeof *q);
    }
}

// What the weighted values are multiplied by when a sink has its part of the softmax.
static float with_sink(float max, float sum, float sink)
{
    float most = fmaxf(max, sink), part = expf(max - most);
    return part / (sum * part + expf(sink - most));
}

static void give_results(const attention_job *job, const tc_cpu_block *block, uint32_t kv_head,
                         const partial *p)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t group = group_of(g), rows = block->tokens * group, dim = tc_dev_value_dim(g);
    for (uint32_t r = 0; r < rows; r++) {
        const float *gate = job->args->gated ? query_of(job, block, kv_head, r) + g->head_dim : NULL;
        uint32_t head = kv_head * group + r % group;
        size_t row = (size_t)(block->token + r / group) * g->heads + head;
        float factor = 1.0f / p->sum[r];
        if (job->args->sinks) factor = with_sink(p->max[r], p->sum[r], job->args->sinks[head]);
        job->cpu->dense->scale_gate(p->acc + (size_t)r * tc_dense_padded(g->head_dim), factor, gate, dim,
                                    job->args->out + row * dim);
    }
}

// Whoever ends a split block's last chunk folds them all.
static void fold_split(const attention_job *job, const tc_cpu_block *block, uint32_t kv_head,
                       const scratch *s)
{
    const tc_dev_geometry *g = &job->cpu->dev.geometry;
    uint32_t rows = block->tokens * group_of(g), dim = tc_dense_padded(g->head_dim);
    clear_partial(&s->total, rows, dim);
    for (uint32_t c = 0; c < block->chunks; c++) {
        view v = view_of(job, block, c);
        float *at = job->cpu->attention.split + block->part +
                    ((size_t)kv_head * block->chunks + c) * partial_floats(rows, dim);
        partial chunk = partial_at(at, rows, dim);
        fold_chunk(job->cpu->dense, &v, &chunk, &s->total);
    }
    give_results(job, block, kv_head, &s->total);
}

static void attend_split(const attention_job *job, uint32_t index, uint32_t rest, scratch *s)
{
    tc_dev_cpu *cpu = job->cpu;
    const tc_dev_geometry *g = &cpu->dev.geometry;
    const tc_cpu_block *block = &cpu->attention.block[index];
    uint32_t kv_head = rest % g->kv_heads, chunk = rest / g->kv_heads;
    uint32_t rows = block->tokens * group_of(g), dim = tc_dense_padded(g->head_dim);
    view v = view_of(job, block, chunk);
    float *at = cpu->attention.split + block->part +
                ((size_t)kv_head * block->chunks + chunk) * partial_floats(rows, dim);
    s->chunk = partial_at(at, rows, dim);
    take_queries(job, block, kv_head, s->q);
    if (v.keys) attend_chunk(job, &v, s, kv_head);
    if (atomic_fetch_sub(&cpu->attention.left[index * g->kv_heads + kv_head], 1) == 1)
        fold_split(job, block, kv_head, s);
}

static void attend_item(void *arg, uint32_t item, uint32_t member)
{
    const attention_job *job = arg;
    tc_dev_cpu *cpu = job->cpu;
    const tc_cpu_attention_state *a = &cpu->attention;
    const tc_dev_geometry *g = &cpu->dev.geometry;
    uint32_t low = 0, high = a->blocks; // the last block whose first item is not above
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        *(a->block[middle].first_item <= item ? &low : &high) = middle;
    }
    const tc_cpu_block *block = &a->block[low];
    scratch s = scratch_of(cpu, member);
    uint32_t rest = item - block->first_item;
    if (block->split) {
        attend_split(job, low, rest, &s);
        return;
    }
    take_queries(job, block, rest, s.q);
    clear_partial(&s.total, block->tokens * group_of(g), tc_dense_padded(g->head_dim));
    for (uint32_t c = 0; c < block->chunks; c++) {
        view v = view_of(job, block, c);
        if (!v.keys) continue;
        attend_chunk(job, &v, &s, rest);
        fold_chunk(cpu->dense, &v, &s.chunk, &s.total);
    }
    give_results(job, block, rest, &s.total);
}

void tc_cpu_attention(tc_dev *dev, const tc_attention_args *args)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    const tc_dev_geometry *g = &dev->geometry;
    tc_cpu_attention_state *a = &cpu->attention;
    attention_job job = {cpu, args, args->gated ? 2 * g->head_dim : g->head_dim};
    uint32_t n = cpu->batch.tokens;
    for (uint32_t b = 0; b < a->blocks; b++)
        for (uint32_t h = 0; a->block[b].split && h < g->kv_heads; h++)
            atomic_store_explicit(&a->left[b * g->kv_heads + h], a->block[b].chunks, memory_order_relaxed);
    tc_cpu_each(cpu, n, (uint64_t)n * (g->heads + g->kv_heads) * g->head_dim * 4, prepare_item, &job);
    tc_cpu_each(cpu, a->items, a->work, attend_item, &job);
}
