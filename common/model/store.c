// SPDX-License-Identifier: Apache-2.0
// Owns: a store open for reading: its header, the places of its units, their views, verifying the content.
// Places in memory that outlives the process: arena.c. Writing a store: store_pack.c.
#include "common/model/store_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { VERIFY_BYTES = 1 << 20 };

static tc_status read_header(int fd, const char *path, uint64_t file_bytes, tc_store_header *ret, tc_error *e)
{
    size_t bytes = file_bytes < TC_STORE_HEADER_BYTES_MAX ? (size_t)file_bytes : TC_STORE_HEADER_BYTES_MAX,
           got = 0;
    while (got < bytes) {
        ssize_t n = pread(fd, (char *)ret + got, bytes - got, (off_t)got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", path);
        if (n == 0) return tc_fail(e, TC_IO, "%s: the file has become shorter", path);
        got += (size_t)n;
    }
    return tc_store_header_check(path, ret, bytes, file_bytes, e);
}

static void fill_matrices(tc_store *s, uint32_t l)
{
    for (uint32_t p = 0; p < TC_STORE_PARTS; p++) {
        const tc_store_part *part = &s->layers[l].part[p];
        tc_matrix *m = &s->unit[l].matrix[p];
        m->form = tc_store_part_form(part);
        tc_store_part_shape(s->header, p, &m->rows, &m->cols);
        m->round = (tc_dtype)part->round;
        memcpy(m->levels, part->levels, sizeof m->levels);
        tc_matrix_set_fast(m);
    }
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
                              .activation = (tc_activation)h->activation,
                              .act_alpha = h->act_alpha,
                              .act_limit = h->act_limit,
                              .bytes = h->file_bytes};
    memcpy(s->info.model_hash, h->model_hash, sizeof s->info.model_hash);
    memcpy(s->info.family, h->family, sizeof s->info.family);
    snprintf(s->info.content_hash, sizeof s->info.content_hash, "%016" PRIx64 "%016" PRIx64, h->hash_high,
             h->hash_low);
    for (uint32_t l = 0; l < h->layers; l++) {
        if (!s->layers[l].has_experts) continue;
        s->unit[l].stride = tc_store_unit_layout(h, &s->layers[l], s->unit[l].at);
        fill_matrices(s, l);
        if (s->layers[l].expert_stride > s->info.expert_bytes)
            s->info.expert_bytes = s->layers[l].expert_stride;
    }
}

tc_status tc_store_from_header(const char *path, tc_store_header *header, tc_store **ret, tc_error *e)
{
    tc_store *s = calloc(1, sizeof *s);
    char *copy = strdup(path);
    if (!s || !copy) {
        free(s);
        free(copy);
        free(header);
        return tc_fail(e, TC_NOMEM, "%s: no memory", path);
    }
    s->fd = -1;
    s->path = copy;
    s->header = header;
    s->layers = (const tc_store_layer *)(header + 1);
    fill_info(s);
    *ret = s;
    return TC_OK;
}

// ---- places ----

static void lay_out_place(const tc_store *s, tc_store_place *place, uint64_t data_at)
{
    uint64_t at = data_at;
    for (uint32_t l = 0; l < s->info.layers; l++) {
        place->at[l] = at;
        if (!s->layers[l].has_experts) continue;
        at += tc_store_run_bytes(s, place, l) * (place->share.expert_end - place->share.expert_begin);
        at = tc_store_align(at, TC_STORE_ALIGN);
    }
}

uint64_t tc_store_place_bytes(const tc_store *s, const tc_store_place *place, uint64_t data_at)
{
    uint64_t bytes = data_at;
    for (uint32_t l = 0; l < s->info.layers; l++)
        if (s->layers[l].has_experts)
            bytes = place->at[l] + tc_store_align(tc_store_run_bytes(s, place, l) *
                                                      (place->share.expert_end - place->share.expert_begin),
                                                  TC_STORE_ALIGN);
    return bytes;
}

tc_status tc_store_make_places(tc_store *s, tc_shard shard, uint32_t of, uint64_t data_at, tc_error *e)
{
    if (of < 1 || of > TC_SHARES_MAX)
        return tc_fail(e, TC_ARGUMENT, "%s: %u shares are not 1..%d", s->path, of, TC_SHARES_MAX);
    s->place = calloc(of, sizeof *s->place);
    if (!s->place) return tc_fail(e, TC_NOMEM, "%s: no memory for %u shares", s->path, of);
    s->shard = shard;
    s->of = of;
    for (uint32_t i = 0; i < of; i++) {
        tc_store_place *place = &s->place[i];
        place->share = tc_share_of(s->info.experts, s->info.units, shard, i, of);
        uint32_t begin = shard == TC_SHARD_SLICE ? place->share.unit_begin : place->share.expert_begin;
        uint32_t end = shard == TC_SHARD_SLICE ? place->share.unit_end : place->share.expert_end;
        for (uint32_t n = begin; n < end; n++) s->owner[n] = (uint8_t)i;
        lay_out_place(s, place, data_at);
    }
    return TC_OK;
}

// Everything in one place, the file's map, where the file says.
static tc_status map_file(tc_store *s, tc_error *e)
{
    TC_TRY(tc_store_make_places(s, TC_SHARD_PARTITION, 1, 0, e));
    void *map = mmap(NULL, s->header->file_bytes, PROT_READ, MAP_SHARED, s->fd, 0);
    if (map == MAP_FAILED) return tc_fail_errno(e, TC_NOMEM, "%s: cannot map", s->path);
    s->map = s->place[0].base = map;
    for (uint32_t l = 0; l < s->info.layers; l++) s->place[0].at[l] = s->layers[l].offset;
    return TC_OK;
}

static tc_status open_header(const char *path, int *ret_fd, tc_store_header *ret, tc_error *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    tc_status status;
    if (fd < 0) return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", path);
    if (fstat(fd, &st) != 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", path));
    if (!S_ISREG(st.st_mode)) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: not a regular file", path));
    TC_GOTO(read_header(fd, path, (uint64_t)st.st_size, ret, e));
    *ret_fd = fd;
    return TC_OK;
out:
    close(fd);
    return status;
}

tc_status tc_store_open(const char *path, tc_store **ret, tc_error *e)
{
    tc_store *s = NULL;
    int fd = -1;
    tc_store_header *header = calloc(1, TC_STORE_HEADER_BYTES_MAX);
    if (!header) return tc_fail(e, TC_NOMEM, "%s: no memory for its header", path);
    tc_status status = open_header(path, &fd, header, e);
    if (status != TC_OK) {
        free(header);
        return status;
    }
    TC_GOTO(tc_store_from_header(path, header, &s, e));
    s->fd = fd;
    fd = -1;
    TC_GOTO(map_file(s, e));
    *ret = s;
    s = NULL;
out:
    if (fd >= 0) close(fd);
    tc_store_free(s);
    return status;
}

void tc_store_free(tc_store *s)
{
    if (!s) return;
    if (s->release) s->release(s->held);
    if (s->map) munmap((void *)(uintptr_t)s->map, s->header->file_bytes);
    if (s->fd >= 0) close(s->fd);
    free(s->place);
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
    const tc_store_place *place = &s->place[s->owner[s->shard == TC_SHARD_SLICE ? unit : expert]];
    const uint8_t *data = place->base + place->at[layer] +
                          (expert - place->share.expert_begin) * tc_store_run_bytes(s, place, layer) +
                          (unit - place->share.unit_begin) * s->unit[layer].stride;
    tc_matrix *matrices[TC_STORE_PARTS] = {&ret->gate, &ret->up, &ret->down};
    for (uint32_t p = 0; p < TC_STORE_PARTS; p++) {
        *matrices[p] = s->unit[layer].matrix[p];
        matrices[p]->data = data + s->unit[layer].at[p];
    }
    ret->bias = s->header->biased ? (const float *)(data + s->unit[layer].at[TC_STORE_PARTS]) : NULL;
}

// ---- verification ----

static tc_status hash_file(const tc_store *s, uint32_t l, XXH3_state_t *state, uint8_t *buffer, tc_error *e)
{
    const tc_store_layer *layer = &s->layers[l];
    uint64_t at = layer->offset, end = at + layer->expert_stride * s->info.experts;
    while (at < end) {
        size_t part = end - at < VERIFY_BYTES ? (size_t)(end - at) : VERIFY_BYTES;
        ssize_t n = pread(s->fd, buffer, part, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
        if (n == 0) return tc_fail(e, TC_IO, "%s: the file has become shorter", s->path);
        XXH3_128bits_update(state, buffer, (size_t)n);
        at += (uint64_t)n;
    }
    return TC_OK;
}

static void hash_memory(const tc_store *s, uint32_t l, XXH3_state_t *state)
{
    for (uint32_t x = 0; x < s->info.experts; x++)
        for (uint32_t u = 0; u < s->info.units; u++) {
            tc_store_unit unit;
            tc_store_get_unit(s, l, x, u, &unit);
            XXH3_128bits_update(state, (const uint8_t *)unit.gate.data - s->unit[l].at[0], s->unit[l].stride);
        }
}

tc_status tc_store_verify(const tc_store *s, tc_error *e)
{
    XXH3_state_t *state = XXH3_createState();
    uint8_t *buffer = malloc(VERIFY_BYTES);
    tc_status status = TC_OK;
    if (!state || !buffer) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory to verify it", s->path));
    for (uint32_t l = 0; l < s->info.layers; l++) {
        if (!s->layers[l].has_experts) continue;
        XXH3_128bits_reset(state);
        if (s->fd >= 0)
            TC_GOTO(hash_file(s, l, state, buffer, e));
        else
            hash_memory(s, l, state);
        XXH128_hash_t hash = XXH3_128bits_digest(state);
        if (hash.low64 != s->layers[l].hash_low || hash.high64 != s->layers[l].hash_high)
            TC_GOTO(tc_fail(e, TC_FORMAT, "%s: layer %u does not match its hash: the file is damaged",
                            s->path, l));
    }
out:
    free(buffer);
    XXH3_freeState(state);
    return status;
}
