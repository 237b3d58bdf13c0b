// SPDX-License-Identifier: Apache-2.0
// Owns: the cuda device's memory under its budget: blocks, copies, weights placed there, and the embedding
// table, which stays with the host. Keeps the first failure of the driver, with its expression and place.
#include "gpu-core/dev/cuda/device.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tc_cuda_check(tc_dev_cuda *c, int code, const char *expression, const char *file, int line)
{
    if (code == cudaSuccess) return true;
    const char *name = strrchr(file, '/');
    if (!*c->error)
        snprintf(c->error, sizeof c->error, "%s (%s) in %s at %s:%d", cudaGetErrorString((cudaError_t)code),
                 cudaGetErrorName((cudaError_t)code), expression, name ? name + 1 : file, line);
    return false;
}

// ---- memory ----

uint64_t tc_cuda_used_bytes(const tc_dev_cuda *c)
{
    uint64_t sum = c->context;
    for (int i = 0; i < TC_MEM_TAGS; i++) sum += c->used[i];
    return sum;
}

// Blocks remember their tag and size in a list on the host.
typedef struct tc_cuda_block {
    void *memory;
    tc_mem_tag tag;
    size_t bytes;
    bool host;
    struct tc_cuda_block *next;
} block;

size_t tc_cuda_round_up(size_t bytes)
{
    return (bytes + 511) & ~(size_t)511;
}

static void remember(tc_dev_cuda *c, block *b, void *memory, tc_mem_tag tag, size_t bytes, bool host)
{
    *b = (block){memory, tag, bytes, host, c->blocks};
    c->blocks = b;
    if (!host) c->used[tag] += bytes;
}

// What the calls without a stream began is done. They return earlier, and our streams do not wait for theirs:
// a block's zeros came after what an operator's stream had written to it (seen with two programs on one
// card).
bool tc_cuda_settled(tc_dev_cuda *c)
{
    return CHECK(c, cudaStreamSynchronize(NULL));
}

static void *take(tc_dev_cuda *c, tc_mem_tag tag, size_t bytes, bool spare)
{
    void *memory = NULL;
    block *b = malloc(sizeof *b);
    bytes = tc_cuda_round_up(bytes ? bytes : 1);
    pthread_mutex_lock(&c->lock);
    const uint64_t kept = RESERVE_BYTES + (spare ? 0 : tc_cuda_kv_owed_bytes(c));
    if (b && tc_cuda_used_bytes(c) + bytes + kept <= c->budget && cudaMalloc(&memory, bytes) == cudaSuccess &&
        CHECK(c, cudaMemset(memory, 0, bytes)) && tc_cuda_settled(c)) {
        remember(c, b, memory, tag, bytes, false);
    } else {
        free(b);
        cudaGetLastError(); // out of memory is an answer here, not a failure of the device
    }
    pthread_mutex_unlock(&c->lock);
    return memory;
}

void *tc_cuda_take(tc_dev_cuda *c, tc_mem_tag tag, size_t bytes)
{
    return take(c, tag, bytes, false);
}

void *tc_cuda_take_spare(tc_dev_cuda *c, tc_mem_tag tag, size_t bytes)
{
    return take(c, tag, bytes, true);
}

void tc_cuda_give(tc_dev_cuda *c, void *memory)
{
    if (!memory) return;
    pthread_mutex_lock(&c->lock);
    for (block **at = &c->blocks; *at; at = &(*at)->next) {
        block *b = *at;
        if (b->memory != memory) continue;
        *at = b->next;
        if (b->host) {
            tc_free(memory);
        } else {
            c->used[b->tag] -= b->bytes;
            cudaFree(memory);
        }
        free(b);
        break;
    }
    pthread_mutex_unlock(&c->lock);
}

void *tc_cuda_alloc(tc_dev *dev, tc_mem_tag tag, size_t bytes)
{
    return tc_cuda_take(cuda_of(dev), tag, bytes);
}

void tc_cuda_release(tc_dev *dev, void *memory)
{
    tc_cuda_give(cuda_of(dev), memory);
}

void tc_cuda_upload(tc_dev *dev, void *to, const void *host, size_t bytes)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (CHECK(c, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, c->stream)))
        CHECK(c, cudaStreamSynchronize(c->stream));
}

void tc_cuda_download(tc_dev *dev, void *host, const void *from, size_t bytes)
{
    tc_dev_cuda *c = cuda_of(dev);
    if (CHECK(c, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, c->stream)))
        CHECK(c, cudaStreamSynchronize(c->stream));
}

static tc_status pack_host(const tc_weight *weight, const tc_matrix_form *wanted, tc_matrix *ret,
                           void **ret_data, size_t *ret_bytes, tc_error *e)
{
    tc_matrix_form form = wanted ? *wanted : tc_matrix_form_for(weight, 0, weight->cols);
    if (form.type == TC_M_Q4 && form.group != TC_SPAN_COLS) form = (tc_matrix_form){TC_M_F32, 0, 0};
    *ret_bytes = tc_matrix_bytes(&form, weight->rows, weight->cols);
    *ret_data = tc_alloc(TC_MEM_WEIGHTS, *ret_bytes, 1);
    if (!*ret_data) return tc_fail(e, TC_NOMEM, "out of memory for a matrix of %zu bytes", *ret_bytes);
    tc_matrix_pack(weight, 0, weight->rows, 0, weight->cols, &form, *ret_data, ret);
    return TC_OK;
}

tc_status tc_cuda_matrix(tc_dev *dev, const tc_weight *weight, const tc_matrix_form *wanted, tc_matrix *ret,
                         tc_error *e)
{
    tc_dev_cuda *c = cuda_of(dev);
    void *data;
    size_t bytes;
    TC_TRY(pack_host(weight, wanted, ret, &data, &bytes, e));
    void *memory = tc_cuda_take(c, TC_MEM_WEIGHTS, bytes);
    tc_status status = TC_OK;
    if (!memory) {
        status = tc_fail(
            e, TC_BUDGET, "no device memory for a matrix of %zu bytes: %llu of %llu MiB are in use", bytes,
            (unsigned long long)(tc_cuda_used_bytes(c) >> 20), (unsigned long long)(c->budget >> 20));
    } else {
        cudaError_t code = cudaMemcpy(memory, data, bytes, cudaMemcpyHostToDevice);
        if (code == cudaSuccess) code = cudaStreamSynchronize(NULL); // as tc_cuda_settled
        if (code != cudaSuccess) status = tc_fail(e, TC_INTERNAL, "cudaMemcpy: %s", cudaGetErrorString(code));
    }
    // kernels read the head of a nested table from the host's copy: its two numbers travel in the launch
    if (status == TC_OK && ret->form.type == TC_M_Q4 && ret->form.nested_stride) {
        const tc_nested_table *table = data;
        ret->nested_offset = table->offset;
        ret->nested_phase = table->phase % (1u << TC_NESTED_SHIFT);
    }
    tc_free(data);
    ret->data = memory;
    return status;
}

tc_status tc_cuda_table(tc_dev *dev, const tc_weight *weight, tc_matrix *ret, tc_error *e)
{
    void *data;
    size_t bytes;
    tc_dev_cuda *c = cuda_of(dev);
    block *b = malloc(sizeof *b);
    if (!b) return tc_fail(e, TC_NOMEM, "out of memory");
    tc_status status = pack_host(weight, NULL, ret, &data, &bytes, e);
    if (status != TC_OK) {
        free(b);
        return status;
    }
    pthread_mutex_lock(&c->lock);
    remember(c, b, data, TC_MEM_WEIGHTS, bytes, true);
    pthread_mutex_unlock(&c->lock);
    return TC_OK;
}

void tc_cuda_give_all(tc_dev_cuda *c)
{
    tc_cuda_kv_close(c);
    while (c->blocks) tc_cuda_give(c, c->blocks->memory);
}
