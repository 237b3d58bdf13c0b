// SPDX-License-Identifier: Apache-2.0
// Owns: a store open for reading: the map, the views of units, making them resident, verifying the content.
// Writing one: store_pack.c.
#include "common/model/store_format.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 // Linux 5.14
#endif

enum { PREFAULT_BYTES = 16 << 20, VERIFY_BYTES = 1 << 20, HEADER_BYTES_MAX = 128 << 10, PAGE_BYTES = 4096 };

struct tc_store {
    int fd;
    char *path;
    const uint8_t *map;
    tc_store_header *header; // header_bytes bytes, the layer table behind it
    const tc_store_layer *layers;
    struct {
        uint64_t stride, at[TC_STORE_PARTS];
    } unit[TC_LAYERS_MAX];
    tc_store_info info;
};

static tc_status read_header(tc_store *s, uint64_t file_bytes, tc_error *e)
{
    size_t bytes = file_bytes < HEADER_BYTES_MAX ? (size_t)file_bytes : HEADER_BYTES_MAX, got = 0;
    s->header = calloc(1, HEADER_BYTES_MAX);
    if (!s->header) return tc_fail(e, TC_NOMEM, "%s: no memory for its header", s->path);
    while (got < bytes) {
        ssize_t n = pread(s->fd, (char *)s->header + got, bytes - got, (off_t)got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
        if (n == 0) return tc_fail(e, TC_IO, "%s: the file has become shorter", s->path);
        got += (size_t)n;
    }
    TC_TRY(tc_store_header_check(s->path, s->header, bytes, file_bytes, e));
    s->layers = (const tc_store_layer *)(s->header + 1);
    return TC_OK;
}

static void fill_info(tc_store *s)
{
    const tc_store_header *h = s->header;
    s->info = (tc_store_info){.layers = h->layers,
                              .experts = h->experts,
                              .top_k = h->top_k,
                              .hidden = h->hidden,
                              .width = h->width,
                              .unit = h->unit,
                              .units = h->width / h->unit,
                              .bytes = h->file_bytes};
    memcpy(s->info.model_hash, h->model_hash, sizeof s->info.model_hash);
    memcpy(s->info.family, h->family, sizeof s->info.family);
    for (uint32_t l = 0; l < h->layers; l++) {
        if (!s->layers[l].has_experts) continue;
        s->unit[l].stride = tc_store_unit_layout(h, &s->layers[l], s->unit[l].at);
        if (s->layers[l].expert_stride > s->info.expert_bytes)
            s->info.expert_bytes = s->layers[l].expert_stride;
    }
}

static tc_status open_file(tc_store *s, tc_error *e)
{
    struct stat st;
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0) return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", s->path);
    if (fstat(s->fd, &st) != 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
    if (!S_ISREG(st.st_mode)) return tc_fail(e, TC_FORMAT, "%s: not a regular file", s->path);
    TC_TRY(read_header(s, (uint64_t)st.st_size, e));
    void *map = mmap(NULL, s->header->file_bytes, PROT_READ, MAP_SHARED, s->fd, 0);
    if (map == MAP_FAILED) return tc_fail_errno(e, TC_NOMEM, "%s: cannot map", s->path);
    s->map = map;
    fill_info(s);
    return TC_OK;
}

tc_status tc_store_open(const char *path, tc_store **ret, tc_error *e)
{
    tc_store *s = calloc(1, sizeof *s);
    tc_status status = TC_OK;
    if (!s) return tc_fail(e, TC_NOMEM, "%s: no memory", path);
    s->fd = -1;
    s->path = strdup(path);
    if (!s->path) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory", path));
    TC_GOTO(open_file(s, e));
    *ret = s;
    s = NULL;
out:
    tc_store_free(s);
    return status;
}

void tc_store_free(tc_store *s)
{
    if (!s) return;
    if (s->map) munmap((void *)(uintptr_t)s->map, s->header->file_bytes);
    if (s->fd >= 0) close(s->fd);
    free(s->header);
    free(s->path);
    free(s);
}

const tc_store_info *tc_store_get_info(const tc_store *s)
{
    return &s->info;
}

bool tc_store_layer_has_experts(const tc_store *s, uint32_t layer)
{
    return layer < s->info.layers && s->layers[layer].has_experts;
}

void tc_store_get_unit(const tc_store *s, uint32_t layer, uint32_t expert, uint32_t unit, tc_store_unit *ret)
{
    assert(tc_store_layer_has_experts(s, layer) && expert < s->info.experts && unit < s->info.units);
    const tc_store_layer *l = &s->layers[layer];
    const uint8_t *data = s->map + l->offset + expert * l->expert_stride + unit * s->unit[layer].stride;
    tc_matrix *matrices[TC_STORE_PARTS] = {&ret->gate, &ret->up, &ret->down};
    for (uint32_t p = 0; p < TC_STORE_PARTS; p++) {
        const tc_store_part *part = &l->part[p];
        tc_matrix *m = matrices[p];
        m->type = (tc_matrix_type)part->type;
        tc_store_part_shape(s->header, p, &m->rows, &m->cols);
        m->group = part->group;
        m->round = (tc_dtype)part->round;
        memcpy(m->levels, part->levels, sizeof m->levels);
        m->data = data + s->unit[layer].at[p];
    }
}

// ---- residency ----

static tc_status check_size(const tc_store *s, tc_error *e)
{
    struct stat st;
    if (fstat(s->fd, &st) != 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
    if ((uint64_t)st.st_size != s->info.bytes)
        return tc_fail(e, TC_IO, "%s: has %" PRIu64 " bytes, had %" PRIu64 " when it was opened", s->path,
                       (uint64_t)st.st_size, s->info.bytes);
    return TC_OK;
}

static tc_status populate(const tc_store *s, uint64_t at, uint64_t bytes, tc_error *e)
{
    uint64_t from = at & ~(uint64_t)(PAGE_BYTES - 1);
    TC_TRY(check_size(s, e));
    if (madvise((void *)(uintptr_t)(s->map + from), at + bytes - from, MADV_POPULATE_READ) == 0) return TC_OK;
    if (errno == EFAULT || errno == EHWPOISON || errno == EIO)
        return tc_fail_errno(e, TC_IO, "%s: cannot read bytes %" PRIu64 " to %" PRIu64, s->path, at,
                             at + bytes);
    // An older kernel: read a byte of each page.
    for (uint64_t page = from; page < at + bytes; page += PAGE_BYTES)
        (void)*(volatile const uint8_t *)(s->map + page);
    return TC_OK;
}

typedef struct walk {
    uint64_t done, total;
    bool (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
} walk;

static tc_status populate_run(const tc_store *s, uint64_t at, uint64_t bytes, walk *w, tc_error *e)
{
    for (uint64_t end = at + bytes; at < end;) {
        uint64_t part = end - at < PREFAULT_BYTES ? end - at : PREFAULT_BYTES;
        TC_TRY(populate(s, at, part, e));
        at += part;
        w->done += part;
        if (w->progress && !w->progress(w->arg, w->done, w->total))
            return tc_fail(e, TC_CANCELLED, "%s: loading was stopped", s->path);
    }
    return TC_OK;
}

tc_status tc_store_prefault(const tc_store *s, uint32_t expert_begin, uint32_t expert_end,
                            uint32_t unit_begin, uint32_t unit_end,
                            bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                            tc_error *e)
{
    if (expert_begin > expert_end || expert_end > s->info.experts || unit_begin > unit_end ||
        unit_end > s->info.units)
        return tc_fail(e, TC_ARGUMENT, "%s: experts %u..%u, units %u..%u are not all in it", s->path,
                       expert_begin, expert_end, unit_begin, unit_end);
    walk w = {.progress = progress, .arg = arg};
    uint32_t experts = expert_end - expert_begin, units = unit_end - unit_begin;
    bool whole = units == s->info.units; // then the experts of a layer are one run
    for (uint32_t l = 0; l < s->info.layers; l++)
        if (s->layers[l].has_experts) w.total += (uint64_t)experts * units * s->unit[l].stride;
    for (uint32_t l = 0; l < s->info.layers; l++) {
        const tc_store_layer *layer = &s->layers[l];
        if (!layer->has_experts) continue;
        uint64_t run = units * s->unit[l].stride * (whole ? experts : 1);
        for (uint32_t x = expert_begin; x < expert_end; x += whole ? experts : 1)
            TC_TRY(populate_run(s, layer->offset + x * layer->expert_stride + unit_begin * s->unit[l].stride,
                                run, &w, e));
    }
    return TC_OK;
}

// ---- verification ----

static tc_status verify_layer(const tc_store *s, uint32_t l, XXH3_state_t *state, uint8_t *buffer,
                              tc_error *e)
{
    const tc_store_layer *layer = &s->layers[l];
    uint64_t at = layer->offset, end = at + layer->expert_stride * s->info.experts;
    XXH3_128bits_reset(state);
    while (at < end) {
        size_t part = end - at < VERIFY_BYTES ? (size_t)(end - at) : VERIFY_BYTES;
        ssize_t n = pread(s->fd, buffer, part, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
        if (n == 0) return tc_fail(e, TC_IO, "%s: the file has become shorter", s->path);
        XXH3_128bits_update(state, buffer, (size_t)n);
        at += (uint64_t)n;
    }
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    if (hash.low64 != layer->hash_low || hash.high64 != layer->hash_high)
        return tc_fail(e, TC_FORMAT, "%s: layer %u does not match its hash: the file is damaged", s->path, l);
    return TC_OK;
}

tc_status tc_store_verify(const tc_store *s, tc_error *e)
{
    XXH3_state_t *state = XXH3_createState();
    uint8_t *buffer = malloc(VERIFY_BYTES);
    tc_status status = TC_OK;
    if (!state || !buffer) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory to verify it", s->path));
    for (uint32_t l = 0; l < s->info.layers; l++)
        if (s->layers[l].has_experts) TC_GOTO(verify_layer(s, l, state, buffer, e));
out:
    free(buffer);
    XXH3_freeState(state);
    return status;
}
