// SPDX-License-Identifier: Apache-2.0
// Owns: the cpu device's memory (KV pool, state slots, scratch) and its element-wise and matrix operators.
// Attention, DeltaNet and routing have files of their own beside this one.
#include "gpu-core/dev/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t rotary_floats(const tc_dev_geometry *g)
{
    return (uint64_t)tc_cpu_tokens_max(g) * g->rotary_dim + 1 + g->rotary_dim / 2 + 1;
}

// The input of a round of matmul, rounded.
static size_t rounded_bytes(const tc_dev_geometry *g)
{
    return tc_rounded_bytes(g->matmul_cols_max) + 64;
}

uint64_t tc_dev_scratch_bytes(const tc_dev_geometry *g, uint32_t threads)
{
    uint64_t delta = g->dn_layers ? threads * tc_cpu_delta_floats(g) : 1;
    return tc_cpu_attention_bytes(g, threads) + tc_cpu_few_bytes(threads) +
           (delta + rotary_floats(g)) * sizeof(float) +
           tc_cpu_tokens_max(g) * (rounded_bytes(g) + sizeof(float *) + sizeof(tc_rounded_row)) +
           threads * rounded_bytes(g);
}

// Anonymous zero pages: reserved here, resident only where they are written, large where the kernel has them
// (a sequence's keys lie in runs of some 16 KiB, which small pages would cut up).
static void *map_pages(size_t bytes)
{
    if (bytes == 0) bytes = 4096;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE); // advice: nothing is lost where it is refused
    return p;
}

static void unmap_pages(void *p, size_t bytes)
{
    if (p) munmap(p, bytes ? bytes : 4096);
}

// About 10 us of work: what waking a parked member costs. Members that still spin are cheaper, but who spins
// is not known.
enum { TEAM_FROM_MULTIPLY_ADDS = 1 << 18 };

void tc_cpu_each(tc_dev_cpu *cpu, uint32_t items, uint64_t multiply_adds, tc_team_item *item, void *arg)
{
    if (items > 1 && multiply_adds >= TEAM_FROM_MULTIPLY_ADDS) {
        tc_team_each(cpu->team, items, item, arg);
        return;
    }
    for (uint32_t i = 0; i < items; i++) item(arg, i, 0);
}

static void cpu_free(tc_dev *dev)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    unmap_pages(cpu->kv, cpu->kv_bytes);
    unmap_pages(cpu->states, cpu->states_bytes);
    tc_cpu_attention_free(cpu);
    tc_cpu_few_free(cpu);
    tc_free(cpu->delta_scratch);
    tc_free(cpu->inverse_frequency);
    tc_free(cpu->rotary);
    tc_free(cpu->x_rows);
    tc_free(cpu->x_rounded);
    tc_free(cpu->rounded_memory);
    tc_free(cpu->own_rounded);
    tc_free(cpu);
}

static void *cpu_alloc(tc_dev *dev, tc_mem_tag tag, size_t bytes)
{
    (void)dev;
    return tc_alloc(tag, bytes, 1);
}

static void cpu_release(tc_dev *dev, void *block)
{
    (void)dev;
    tc_free(block);
}

static tc_status cpu_matrix(tc_dev *dev, const tc_weight *weight, const tc_matrix_form *wanted,
                            tc_matrix *ret, tc_error *e)
{
    (void)dev;
    tc_matrix_form form = wanted ? *wanted : tc_matrix_form_for(weight, 0, weight->cols);
    size_t bytes = tc_matrix_bytes(&form, weight->rows, weight->cols);
    void *data = tc_alloc(TC_MEM_WEIGHTS, bytes, 1);
    if (!data) return tc_fail(e, TC_NOMEM, "out of memory for a matrix of %zu bytes", bytes);
    tc_matrix_pack(weight, 0, weight->rows, 0, weight->cols, &form, data, ret);
    return TC_OK;
}

static void cpu_copy_in(tc_dev *dev, void *to, const void *host, size_t bytes)
{
    (void)dev;
    memcpy(to, host, bytes);
}

static void cpu_copy_out(tc_dev *dev, void *host, const void *from, size_t bytes)
{
    (void)dev;
    memcpy(host, from, bytes);
}

static void cpu_slot_reset(tc_dev *dev, uint32_t slot)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    size_t floats = dev->geometry.dn_layers * tc_dev_state_floats(&dev->geometry);
    memset(cpu->states + slot * floats, 0, floats * sizeof(float));
}

static void rotary_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    tc_dev_cpu *cpu = arg;
    uint32_t half = cpu->dev.geometry.rotary_dim / 2;
    float *cosine = cpu->rotary + (size_t)t * 2 * half,
          amplitude = tc_rope_amplitude(&cpu->dev.geometry.rope);
    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)cpu->batch.position[t] * cpu->inverse_frequency[i];
        cosine[i] = cosf(angle) * amplitude;
        cosine[half + i] = sinf(angle) * amplitude;
    }
}

static void cpu_batch_begin(tc_dev *dev, const tc_batch *batch)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    cpu->batch = *batch;
    tc_cpu_attention_begin(cpu);
    tc_cpu_each(cpu, batch->tokens, (uint64_t)batch->tokens * dev->geometry.rotary_dim * 64, rotary_item,
                cpu);
}

typedef struct embed_job {
    const tc_dev_cpu *cpu;
    const tc_matrix *table;
    float *x;
    uint32_t ldx;
} embed_job;

static void embed_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const embed_job *job = arg;
    tc_matrix_row(job->table, job->cpu->batch.ids[t], job->x + (size_t)t * job->ldx);
}

static void cpu_embed(tc_dev *dev, const tc_matrix *table, float *x, uint32_t ldx)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    embed_job job = {cpu, table, x, ldx};
    // a row lies in as many cache lines as half its columns: each costs about what 64 multiply-adds do
    tc_cpu_each(cpu, cpu->batch.tokens, (uint64_t)cpu->batch.tokens * table->cols * 32, embed_item, &job);
}

// What the element-wise operators do to a row: add something to x, then norm it.
typedef struct row_job {
    const tc_dense *dense;
    const tc_kernels *kernels;
    float *x;
    const float *y, *gate;
    const int64_t *sum;
    uint32_t dim, ld;
    const float *norm;
    float eps, *normed;
} row_job;

static void norm_row(const row_job *job, uint32_t t)
{
    size_t at = (size_t)t * job->dim;
    if (!job->norm) return;
    float mean = job->dense->squares(job->x + at, job->dim) / (float)job->dim;
    job->dense->scale(job->x + at, 1.0f / sqrtf(mean + job->eps), job->norm, job->dim, job->normed + at);
}

static void norm_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    norm_row(arg, t);
}

static void cpu_rmsnorm(tc_dev *dev, const float *x, const float *multiplier, uint32_t n, uint32_t dim,
                        float eps, float *y)
{
    row_job job = {.dense = tc_cpu(dev)->dense,
                   .x = (float *)x, // read only
                   .dim = dim,
                   .norm = multiplier,
                   .eps = eps,
                   .normed = y};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 4, norm_item, &job);
}

// A round of matmul: jobs on the same input, whose panels are dealt out as if they were one matrix's.
typedef struct matmul_round {
    const tc_dev_cpu *cpu;
    const tc_matmul_job *jobs;
    tc_rows x;
    uint32_t n;
    bool integers, bf16; // how its input is to be rounded
    // One row: each member rounds it for itself, which is sooner done than fetching it from whoever did.
    bool own, have_own[TC_TEAM_THREADS_MAX];
} matmul_round;

enum { PANELS_LEAST = 2 }; // dealt out at once

// Panels [p0, p1) of a job.
static void matmul_panels(const matmul_round *round, const tc_matmul_job *job, const tc_rows *x, uint32_t p0,
                          uint32_t p1)
{
    float *y[TC_BATCH_TOKENS_MAX];
    for (uint32_t t = 0; t < round->n; t++) y[t] = job->y + (size_t)t * job->ldy;
    tc_matmul(round->cpu->kernels, job->w, p0, p1, x, round->n, y);
    if (!job->bias) return;
    uint32_t r1 = p1 * TC_PANEL_ROWS < job->w->rows ? p1 * TC_PANEL_ROWS : job->w->rows;
    for (uint32_t t = 0; t < round->n; t++)
        for (uint32_t r = p0 * TC_PANEL_ROWS; r < r1; r++) y[t][r] += job->bias[r];
}

static void round_row(const matmul_round *round, uint32_t t, const tc_rounded_row *to)
{
    const tc_kernels *k = round->cpu->kernels;
    const uint32_t cols = round->jobs->w->cols;
    if (round->integers) k->round(round->cpu->x_rows[t], cols, to);
    if (round->bf16) k->round_bf16(round->cpu->x_rows[t], cols, to);
}

static void round_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const matmul_round *round = arg;
    round_row(round, t, &round->cpu->x_rounded[t]);
}

// Panels [begin, end) of the round.
static void matmul_range(void *arg, uint32_t begin, uint32_t end, uint32_t member)
{
    matmul_round *round = arg;
    tc_rows x = round->x;
    tc_rounded_row own;
    if (round->own) {
        own = tc_rounded_at(round->cpu->own_rounded + member * rounded_bytes(&round->cpu->dev.geometry),
                            round->jobs->w->cols);
        if (!round->have_own[member]) round_row(round, 0, &own);
        round->have_own[member] = true;
        x.rounded = &own;
    }
    for (const tc_matmul_job *job = round->jobs; end > 0; job++) {
        const uint32_t panels = tc_panels(job->w->rows);
        if (begin < panels) matmul_panels(round, job, &x, begin, end < panels ? end : panels);
        begin = begin > panels ? begin - panels : 0;
        end = end > panels ? end - panels : 0;
    }
}

// Rows of the round's input, rounded where one of its matrices wants them so.
static void matmul_input(tc_dev_cpu *cpu, matmul_round *round, uint32_t count)
{
    const tc_matmul_job *jobs = round->jobs;
    const uint32_t cols = jobs->w->cols, n = round->n;
    for (uint32_t j = 0; j < count; j++) {
        round->integers |= tc_wants_rounded(cpu->kernels, jobs[j].w->form.type);
        round->bf16 |= tc_wants_bf16(cpu->kernels, jobs[j].w);
    }
    round->x = (tc_rows){cpu->x_rows, cpu->x_rounded, round->bf16};
    for (uint32_t t = 0; t < n; t++) cpu->x_rows[t] = jobs->x + (size_t)t * jobs->ldx;
    if (!round->integers && !round->bf16) return;
    assert(cols <= cpu->dev.geometry.matmul_cols_max);
    round->own = n == 1;
    if (round->own) return;
    for (uint32_t t = 0; t < n; t++)
        cpu->x_rounded[t] = tc_rounded_at(cpu->rounded_memory + t * tc_rounded_bytes(cols), cols);
    tc_cpu_each(cpu, n, (uint64_t)n * cols * 4, round_item, round);
}

static void matmul_same_input(tc_dev_cpu *cpu, const tc_matmul_job *jobs, uint32_t count, uint32_t n)
{
    matmul_round round = {.cpu = cpu, .jobs = jobs, .n = n};
    uint32_t panels = 0;
    uint64_t work = 0;
    matmul_input(cpu, &round, count);
    for (uint32_t j = 0; j < count; j++) {
        panels += tc_panels(jobs[j].w->rows);
        work += (uint64_t)jobs[j].w->rows * jobs[j].w->cols * n;
    }
    if (work >= TEAM_FROM_MULTIPLY_ADDS)
        tc_team_ranges(cpu->team, panels, PANELS_LEAST, matmul_range, &round);
    else
        matmul_range(&round, 0, panels, 0);
}

static void cpu_matmul(tc_dev *dev, const tc_matmul_job *jobs, uint32_t count, uint32_t n)
{
    for (uint32_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && jobs[end].x == jobs[begin].x &&
                              jobs[end].ldx == jobs[begin].ldx && jobs[end].w->cols == jobs[begin].w->cols;)
            end++;
        matmul_same_input(tc_cpu(dev), jobs + begin, end - begin, n);
    }
}

static void silu_mul_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const row_job *job = arg;
    size_t at = (size_t)t * job->dim;
    job->kernels->silu_mul(job->gate + at, job->y + at, job->x + at, job->dim);
}

static void cpu_silu_mul(tc_dev *dev, const float *gate, const float *up, uint32_t n, uint32_t dim,
                         float *out)
{
    row_job job = {.kernels = tc_cpu(dev)->kernels, .x = out, .gate = gate, .y = up, .dim = dim};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 8, silu_mul_item, &job);
}

static void add_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const row_job *job = arg;
    size_t at = (size_t)t * job->dim;
    job->dense->add(job->x + at, job->y + at, job->dim);
    norm_row(job, t);
}

static void cpu_add(tc_dev *dev, float *x, const float *y, uint32_t n, uint32_t dim, const float *norm,
                    float *normed)
{
    row_job job = {.dense = tc_cpu(dev)->dense,
                   .x = x,
                   .y = y,
                   .dim = dim,
                   .norm = norm,
                   .eps = dev->geometry.rms_eps,
                   .normed = normed};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 4, add_item, &job);
}

static void combine_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const row_job *job = arg;
    size_t at = (size_t)t * job->dim;
    float gate = job->y && job->gate ? 1.0f / (1.0f + expf(-job->gate[(size_t)t * job->ld])) : 1.0f;
    job->dense->combine(job->x + at, job->sum ? job->sum + at : NULL, job->y ? job->y + at : NULL, gate,
                        job->dim);
    norm_row(job, t);
}

static void cpu_combine(tc_dev *dev, float *x, const int64_t *sum, const float *shared,
                        const float *shared_gate, uint32_t ld_gate, uint32_t n, uint32_t dim,
                        const float *norm, float *normed)
{
    row_job job = {.dense = tc_cpu(dev)->dense,
                   .x = x,
                   .y = shared,
                   .gate = shared_gate,
                   .sum = sum,
                   .dim = dim,
                   .ld = ld_gate,
                   .norm = norm,
                   .eps = dev->geometry.rms_eps,
                   .normed = normed};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 8, combine_item, &job);
}

// An item is a head; its panels meet all tokens.
typedef struct heads_job {
    const tc_dev_cpu *cpu;
    const tc_heads_args *args;
    uint32_t n;
} heads_job;

static void heads_item(void *arg, uint32_t h, uint32_t member)
{
    (void)member;
    const heads_job *job = arg;
    const tc_heads_args *a = job->args;
    const float *x[TC_BATCH_TOKENS_MAX];
    float *y[TC_BATCH_TOKENS_MAX];
    uint32_t panel = h * (a->rows / TC_PANEL_ROWS);
    tc_matrix w = *a->w;
    w.unrounded = true; // what attention compares is kept to float32
    for (uint32_t t = 0; t < job->n; t++) {
        x[t] = a->x + (size_t)t * a->ldx + (size_t)h * a->head_x;
        // rows of the matrix go to y[row]: the head's first row to the head's place
        y[t] = a->y + (size_t)t * a->ldy + (size_t)h * a->head_y;
        memcpy(y[t] + a->rows, x[t] + a->w->cols, a->copied * sizeof(float));
        y[t] -= (size_t)h * a->rows;
    }
    const tc_rows rows = {x, NULL};
    tc_matmul(job->cpu->kernels, &w, panel, panel + a->rows / TC_PANEL_ROWS, &rows, job->n, y);
}

static void cpu_heads(tc_dev *dev, const tc_heads_args *args, uint32_t n)
{
    heads_job job = {tc_cpu(dev), args, n};
    tc_cpu_each(tc_cpu(dev), args->heads, (uint64_t)args->heads * args->rows * args->w->cols * n, heads_item,
                &job);
}

typedef struct bias_job {
    const float *bias, *weight;
    const uint32_t *expert;
    uint32_t top_k, dim;
    float *out;
} bias_job;

static void bias_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const bias_job *job = arg;
    float *out = job->out + (size_t)t * job->dim;
    memset(out, 0, job->dim * sizeof *out);
    for (uint32_t k = 0; k < job->top_k; k++) {
        size_t pair = (size_t)t * job->top_k + k;
        const float *bias = job->bias + (size_t)job->expert[pair] * job->dim;
        for (uint32_t i = 0; i < job->dim; i++) out[i] += job->weight[pair] * bias[i];
    }
}

static void cpu_expert_bias(tc_dev *dev, const float *bias, const uint32_t *expert, const float *weight,
                            uint32_t n, uint32_t top_k, uint32_t dim, float *out)
{
    bias_job job = {bias, weight, expert, top_k, dim, out};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * top_k * dim, bias_item, &job);
}

static const tc_dev_ops cpu_ops = {
    .name = "cpu",
    .free = cpu_free,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .matrix = cpu_matrix,
    .upload = cpu_copy_in,
    .download = cpu_copy_out,
    .slot_reset = cpu_slot_reset,
    .page_copy = tc_cpu_page_copy,
    .page_save = tc_cpu_page_save,
    .page_load = tc_cpu_page_load,
    .slot_copy = tc_cpu_slot_copy,
    .slot_save = tc_cpu_slot_save,
    .slot_load = tc_cpu_slot_load,
    .batch_begin = cpu_batch_begin,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .matmul = cpu_matmul,
    .attention = tc_cpu_attention,
    .delta = tc_cpu_delta,
    .heads = cpu_heads,
    .route = tc_cpu_route,
    .expert_bias = cpu_expert_bias,
    .silu_mul = cpu_silu_mul,
    .add = cpu_add,
    .combine = cpu_combine,
    .few = tc_cpu_few,
};

tc_status tc_dev_cpu_create(const tc_dev_geometry *geometry, tc_team *team, const tc_kernels *kernels,
                            tc_dev **ret, tc_error *e)
{
    tc_dev_cpu *cpu = tc_alloc(TC_MEM_OTHER, 1, sizeof *cpu);
    if (!cpu) return tc_fail(e, TC_NOMEM, "out of memory for the cpu device");
    const tc_dev_geometry *g = geometry;
    uint32_t members = tc_team_size(team), half = g->rotary_dim / 2;
    cpu->dev.ops = &cpu_ops;
    cpu->dev.geometry = *geometry;
    const uint32_t tokens_max = cpu->dev.tokens_max = tc_cpu_tokens_max(g);
    cpu->team = team;
    cpu->kernels = kernels;
    cpu->dense = tc_dense_for(kernels->name);
    cpu->kv_bytes = (size_t)tc_dev_page_bytes(g) * g->pages;
    cpu->states_bytes = (size_t)tc_dev_slot_bytes(g) * g->slots;
    cpu->kv = map_pages(cpu->kv_bytes);
    cpu->states = map_pages(cpu->states_bytes);
    cpu->delta_scratch =
        tc_alloc(TC_MEM_SCRATCH, g->dn_layers ? members * tc_cpu_delta_floats(g) : 1, sizeof(float));
    cpu->inverse_frequency = tc_alloc(TC_MEM_SCRATCH, half + 1, sizeof(float));
    cpu->rotary = tc_alloc(TC_MEM_SCRATCH, (size_t)tokens_max * 2 * half + 1, sizeof(float));
    cpu->x_rows = tc_alloc(TC_MEM_SCRATCH, tokens_max, sizeof *cpu->x_rows);
    cpu->x_rounded = tc_alloc(TC_MEM_SCRATCH, tokens_max, sizeof *cpu->x_rounded);
    cpu->rounded_memory = tc_alloc(TC_MEM_SCRATCH, tokens_max, rounded_bytes(g));
    cpu->own_rounded = tc_alloc(TC_MEM_SCRATCH, members, rounded_bytes(g));
    if (!tc_cpu_attention_create(cpu) || !tc_cpu_few_create(cpu) || !cpu->kv || !cpu->states ||
        !cpu->delta_scratch || !cpu->inverse_frequency || !cpu->rotary || !cpu->x_rows || !cpu->x_rounded ||
        !cpu->rounded_memory || !cpu->own_rounded) {
        cpu_free(&cpu->dev);
        return tc_fail(e, TC_NOMEM, "out of memory: KV pool %zu bytes, states %zu bytes", cpu->kv_bytes,
                       cpu->states_bytes);
    }
    tc_rope_frequencies(&g->rope, g->rotary_dim, cpu->inverse_frequency);
    *ret = &cpu->dev;
    return TC_OK;
}

void tc_dev_free(tc_dev *dev)
{
    if (dev) dev->ops->free(dev);
}
