// SPDX-License-Identifier: Apache-2.0
// Owns: the cpu device's memory (KV pool, state slots, scratch) and its element-wise and matrix operators.
// Attention, DeltaNet and routing have files of their own beside this one.
#include "gpu-core/dev/cpu/cpu.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

uint32_t tc_cpu_conv_channels(const tc_dev_geometry *g)
{
    return 2 * g->dn_key_heads * g->dn_key_dim + g->dn_value_heads * g->dn_value_dim;
}

size_t tc_cpu_state_floats(const tc_dev_geometry *g)
{
    if (g->dn_layers == 0) return 0;
    size_t recurrent = (size_t)g->dn_value_heads * g->dn_key_dim * g->dn_value_dim;
    size_t history = (size_t)(g->dn_conv - 1) * tc_cpu_conv_channels(g);
    return recurrent + ((history + 15) & ~(size_t)15);
}

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    return (uint64_t)g->kv_layers * 2 * g->kv_heads * TC_KV_PAGE_POSITIONS * g->head_dim * sizeof(float);
}

uint64_t tc_dev_slot_bytes(const tc_dev_geometry *g)
{
    return (uint64_t)g->dn_layers * tc_cpu_state_floats(g) * sizeof(float);
}

// Anonymous zero pages: reserved here, resident only where they are written.
static float *map_floats(size_t bytes)
{
    if (bytes == 0) bytes = 4096;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void unmap_floats(float *p, size_t bytes)
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
    unmap_floats(cpu->kv, cpu->kv_bytes);
    unmap_floats(cpu->states, cpu->states_bytes);
    tc_free(cpu->scores);
    tc_free(cpu->delta_scratch);
    tc_free(cpu->inverse_frequency);
    tc_free(cpu->rotary);
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

static tc_status cpu_matrix(tc_dev *dev, const tc_weight *weight, tc_matrix *ret, tc_error *e)
{
    (void)dev;
    uint32_t group = 0;
    tc_matrix_type type = tc_matrix_type_for(weight, 0, weight->cols, &group);
    size_t bytes = tc_matrix_bytes(type, weight->rows, weight->cols, group);
    void *data = tc_alloc(TC_MEM_WEIGHTS, bytes, 1);
    if (!data) return tc_fail(e, TC_NOMEM, "out of memory for a matrix of %zu bytes", bytes);
    tc_matrix_pack(weight, 0, weight->rows, 0, weight->cols, type, group, data, ret);
    return TC_OK;
}

static void cpu_slot_reset(tc_dev *dev, uint32_t slot)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    size_t floats = dev->geometry.dn_layers * tc_cpu_state_floats(&dev->geometry);
    memset(cpu->states + slot * floats, 0, floats * sizeof(float));
}

static void cpu_batch_begin(tc_dev *dev, const tc_batch *batch)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    uint32_t half = dev->geometry.rotary_dim / 2;
    cpu->batch = *batch;
    for (uint32_t t = 0; t < batch->tokens && half; t++) {
        float *cosine = cpu->rotary + (size_t)t * 2 * half;
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)batch->position[t] * cpu->inverse_frequency[i];
            cosine[i] = cosf(angle);
            cosine[half + i] = sinf(angle);
        }
    }
}

static void cpu_embed(tc_dev *dev, const tc_matrix *table, float *x, uint32_t ldx)
{
    const tc_batch *batch = &tc_cpu(dev)->batch;
    for (uint32_t t = 0; t < batch->tokens; t++)
        for (uint32_t c = 0; c < table->cols; c++)
            x[(size_t)t * ldx + c] = tc_matrix_element(table, batch->ids[t], c);
}

typedef struct norm_job {
    const float *x, *multiplier;
    uint32_t dim;
    float eps, *y;
} norm_job;

// Mean of squares in double: the order of additions cannot matter then.
static void norm_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const norm_job *job = arg;
    const float *x = job->x + (size_t)t * job->dim;
    float *y = job->y + (size_t)t * job->dim;
    double sum = 0;
    for (uint32_t i = 0; i < job->dim; i++) sum += (double)x[i] * x[i];
    float scale = 1.0f / sqrtf((float)(sum / job->dim) + job->eps);
    for (uint32_t i = 0; i < job->dim; i++) y[i] = x[i] * scale * job->multiplier[i];
}

static void cpu_rmsnorm(tc_dev *dev, const float *x, const float *multiplier, uint32_t n, uint32_t dim,
                        float *y)
{
    norm_job job = {x, multiplier, dim, dev->geometry.rms_eps, y};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 4, norm_item, &job);
}

// A matmul call is cut into items of a few panels each, over all its jobs.
typedef struct matmul_call {
    const tc_kernels *kernels;
    const tc_matmul_job *jobs;
    uint32_t n, panels_per_item;
    uint32_t first_item[TC_MATMUL_JOBS_MAX + 1];
} matmul_call;

static void matmul_item(void *arg, uint32_t item, uint32_t member)
{
    (void)member;
    const matmul_call *call = arg;
    uint32_t j = 0;
    while (item >= call->first_item[j + 1]) j++;
    const tc_matmul_job *job = &call->jobs[j];
    uint32_t p0 = (item - call->first_item[j]) * call->panels_per_item;
    uint32_t p1 = p0 + call->panels_per_item, panels = tc_panels(job->w->rows);
    if (p1 > panels) p1 = panels;
    const float *x[TC_BATCH_TOKENS_MAX];
    float *y[TC_BATCH_TOKENS_MAX];
    for (uint32_t t = 0; t < call->n; t++) {
        x[t] = job->x + (size_t)t * job->ldx;
        y[t] = job->y + (size_t)t * job->ldy;
    }
    tc_matmul(call->kernels, job->w, p0, p1, x, call->n, y);
    if (!job->bias) return;
    uint32_t r1 = p1 * TC_PANEL_ROWS < job->w->rows ? p1 * TC_PANEL_ROWS : job->w->rows;
    for (uint32_t t = 0; t < call->n; t++)
        for (uint32_t r = p0 * TC_PANEL_ROWS; r < r1; r++) y[t][r] += job->bias[r];
}

static void cpu_matmul(tc_dev *dev, const tc_matmul_job *jobs, uint32_t count, uint32_t n)
{
    tc_dev_cpu *cpu = tc_cpu(dev);
    matmul_call call = {.kernels = cpu->kernels, .jobs = jobs, .n = n};
    uint32_t panels = 0, size = tc_team_size(cpu->team);
    uint64_t work = 0;
    for (uint32_t j = 0; j < count; j++) {
        panels += tc_panels(jobs[j].w->rows);
        work += (uint64_t)jobs[j].w->rows * jobs[j].w->cols * n;
    }
    call.panels_per_item =
        panels / (size * 8); // about eight items a member: a slow core does not stall the rest
    if (call.panels_per_item < 1) call.panels_per_item = 1;
    for (uint32_t j = 0; j < count; j++)
        call.first_item[j + 1] =
            call.first_item[j] +
            (tc_panels(jobs[j].w->rows) + call.panels_per_item - 1) / call.panels_per_item;
    tc_cpu_each(cpu, call.first_item[count], work, matmul_item, &call);
}

typedef struct elements_job {
    float *x;
    const float *a, *b;
    const int64_t *sum;
    uint32_t dim, ld;
    const tc_kernels *kernels;
} elements_job;

static void silu_mul_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const elements_job *job = arg;
    size_t at = (size_t)t * job->dim;
    job->kernels->silu_mul(job->a + at, job->b + at, job->x + at, job->dim);
}

static void cpu_silu_mul(tc_dev *dev, const float *gate, const float *up, uint32_t n, uint32_t dim,
                         float *out)
{
    elements_job job = {.x = out, .a = gate, .b = up, .dim = dim, .kernels = tc_cpu(dev)->kernels};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 8, silu_mul_item, &job);
}

static void add_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const elements_job *job = arg;
    size_t at = (size_t)t * job->dim;
    for (uint32_t i = 0; i < job->dim; i++) job->x[at + i] += job->a[at + i];
}

static void cpu_add(tc_dev *dev, float *x, const float *y, uint32_t n, uint32_t dim)
{
    elements_job job = {.x = x, .a = y, .dim = dim};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim, add_item, &job);
}

static void combine_item(void *arg, uint32_t t, uint32_t member)
{
    (void)member;
    const elements_job *job = arg;
    size_t at = (size_t)t * job->dim;
    float gate = job->a ? 1.0f / (1.0f + expf(-job->b[(size_t)t * job->ld])) : 0.0f;
    for (uint32_t i = 0; i < job->dim; i++) {
        float y = job->sum ? tc_fixed_to_float(job->sum[at + i]) : 0.0f;
        if (job->a) y += gate * job->a[at + i];
        job->x[at + i] += y;
    }
}

static void cpu_combine(tc_dev *dev, float *x, const int64_t *sum, const float *shared,
                        const float *shared_gate, uint32_t ld_gate, uint32_t n, uint32_t dim)
{
    elements_job job = {.x = x, .a = shared, .b = shared_gate, .sum = sum, .dim = dim, .ld = ld_gate};
    tc_cpu_each(tc_cpu(dev), n, (uint64_t)n * dim * 4, combine_item, &job);
}

static const tc_dev_ops cpu_ops = {
    .name = "cpu",
    .free = cpu_free,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .matrix = cpu_matrix,
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
    .route = tc_cpu_route,
    .silu_mul = cpu_silu_mul,
    .add = cpu_add,
    .combine = cpu_combine,
};

tc_status tc_dev_cpu_create(const tc_dev_geometry *geometry, tc_team *team, const tc_kernels *kernels,
                            tc_dev **ret, tc_error *e)
{
    tc_dev_cpu *cpu = tc_alloc(TC_MEM_OTHER, 1, sizeof *cpu);
    if (!cpu) return tc_fail(e, TC_NOMEM, "out of memory for the cpu device");
    const tc_dev_geometry *g = geometry;
    uint32_t members = tc_team_size(team), half = g->rotary_dim / 2;
    uint32_t ratio = g->dn_key_heads ? g->dn_value_heads / g->dn_key_heads : 0;
    cpu->dev.ops = &cpu_ops;
    cpu->dev.geometry = *geometry;
    cpu->team = team;
    cpu->kernels = kernels;
    cpu->kv_bytes = (size_t)tc_dev_page_bytes(g) * g->pages;
    cpu->states_bytes = (size_t)tc_dev_slot_bytes(g) * g->slots;
    cpu->kv = map_floats(cpu->kv_bytes);
    cpu->states = map_floats(cpu->states_bytes);
    cpu->scores = tc_alloc(TC_MEM_SCRATCH, (size_t)members * g->positions_max, sizeof(float));
    cpu->delta_scratch_floats = 2 * g->dn_key_dim + (ratio + 2) * g->dn_value_dim;
    cpu->delta_scratch =
        tc_alloc(TC_MEM_SCRATCH, (size_t)members * cpu->delta_scratch_floats + 1, sizeof(float));
    cpu->inverse_frequency = tc_alloc(TC_MEM_SCRATCH, half + 1, sizeof(float));
    cpu->rotary = tc_alloc(TC_MEM_SCRATCH, (size_t)TC_BATCH_TOKENS_MAX * 2 * half + 1, sizeof(float));
    if (!cpu->kv || !cpu->states || !cpu->scores || !cpu->delta_scratch || !cpu->inverse_frequency ||
        !cpu->rotary) {
        cpu_free(&cpu->dev);
        return tc_fail(e, TC_NOMEM, "out of memory: KV pool %zu bytes, states %zu bytes", cpu->kv_bytes,
                       cpu->states_bytes);
    }
    for (uint32_t i = 0; i < half; i++)
        cpu->inverse_frequency[i] = 1.0f / powf((float)g->rope_theta, (float)(2 * i) / (float)g->rotary_dim);
    *ret = &cpu->dev;
    return TC_OK;
}

void tc_dev_free(tc_dev *dev)
{
    if (dev) dev->ops->free(dev);
}
