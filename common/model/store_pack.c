// SPDX-License-Identifier: Apache-2.0
// Owns: writing a store: expert by expert in bounded memory, a team packing a batch and one thread writing it
// in order. The file appears under its name only when it is whole and on disk (store_file.c). A layer keeps
// one type and one code book for each of gate, up and down. It takes expert 0's; should another expert
// differ, that matrix becomes float32 for the layer, which loses nothing, and the layer is packed again.
#include "common/model/store_pack.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/team.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { PROGRESS_US = 100000, PACK_THREADS_MAX = 64, PACK_THREADS_DEFAULT = 2 };

static const tc_role part_role[TC_STORE_PARTS] = {TC_EXPERT_GATE, TC_EXPERT_UP, TC_EXPERT_DOWN};

// What one member of the team packs.
typedef struct slot {
    uint8_t *expert; // expert_stride bytes
    tc_status status;
    tc_error error;
    bool differs[TC_STORE_PARTS]; // from the layer's type
} slot;

typedef struct packer {
    const tc_checkpoint *checkpoint;
    const tc_model_desc *desc;
    const tc_pack_options *options;
    const tc_store_files *files;
    tc_store_header *header;
    tc_store_layer *layers;
    tc_team *team;
    uint32_t threads;
    slot *slots;
    XXH3_state_t *hash;
    uint32_t layer, first_expert; // of the batch
    int fd;
    uint64_t file_bytes, done_us;
} packer;

// ---- one weight ----

static tc_status load_part(const packer *p, uint32_t layer, uint32_t expert, uint32_t part, tc_weight *ret,
                           tc_error *e)
{
    TC_TRY(tc_checkpoint_expert(p->checkpoint, part_role[part], layer, expert, ret, e));
    ret->eight = p->options->quantise == TC_QUANTISE_INT8 && !ret->quantised;
    if (p->options->quantise != TC_QUANTISE_NF4 || ret->quantised) return TC_OK;
    tc_status status = tc_weight_quantise_nf4(ret, e);
    if (status != TC_OK) {
        tc_weight_free(ret);
        tc_error_prefix(e, "layer %u, expert %u, matrix %u", layer, expert, part);
    }
    return status;
}

// The type that all units of a weight can have. All slices of `down` start at multiples of the unit, so the
// first stands for them.
static tc_store_part part_for(const packer *p, const tc_weight *w, uint32_t part)
{
    uint32_t rows, cols;
    tc_store_part_shape(p->header, part, &rows, &cols);
    tc_matrix_form form = tc_matrix_form_for(w, 0, cols);
    tc_store_part ret = {form.type, form.group, form.nested_stride, w->dtype, {0}};
    if (ret.type == TC_M_Q8) ret.round = TC_F32; // whatever the source was: experts need not agree
    if (ret.type == TC_M_Q4) memcpy(ret.levels, w->levels, sizeof ret.levels);
    return ret;
}

static void pack_part(const packer *p, const tc_weight *w, uint32_t part, uint8_t *expert)
{
    const tc_store_layer *layer = &p->layers[p->layer];
    uint64_t at[TC_STORE_PARTS + 1], stride = tc_store_unit_layout(p->header, layer, at);
    uint32_t rows, cols, unit = p->header->unit;
    tc_matrix_form form = tc_store_part_form(&layer->part[part]);
    tc_store_part_shape(p->header, part, &rows, &cols);
    for (uint32_t u = 0; u < p->header->width / unit; u++) {
        tc_matrix unused;
        uint32_t row0 = part == 2 ? 0 : u * unit, col0 = part == 2 ? u * unit : 0;
        tc_matrix_pack(w, row0, rows, col0, cols, &form, expert + u * stride + at[part], &unused);
    }
}

static tc_status pack_biases(const packer *p, uint32_t expert, slot *s)
{
    const tc_store_layer *layer = &p->layers[p->layer];
    uint64_t at[TC_STORE_PARTS + 1], stride = tc_store_unit_layout(p->header, layer, at);
    uint32_t unit = p->header->unit;
    float *bias = tc_alloc(TC_MEM_OTHER, p->header->width, sizeof *bias);
    tc_status status = bias ? TC_OK : tc_fail(&s->error, TC_NOMEM, "no memory for an expert's biases");
    for (uint32_t part = 0; status == TC_OK && part < 2; part++) {
        status = tc_checkpoint_expert_bias(p->checkpoint, part_role[part], p->layer, expert, bias, &s->error);
        for (uint32_t u = 0; status == TC_OK && u < p->header->width / unit; u++)
            memcpy(s->expert + u * stride + at[TC_STORE_PARTS] + (size_t)part * unit * sizeof *bias,
                   bias + u * unit, unit * sizeof *bias);
    }
    tc_free(bias);
    return status;
}

static tc_status pack_expert(const packer *p, uint32_t expert, slot *s)
{
    const tc_store_layer *layer = &p->layers[p->layer];
    memset(s->expert, 0, layer->expert_stride);
    memset(s->differs, 0, sizeof s->differs);
    for (uint32_t part = 0; part < TC_STORE_PARTS; part++) {
        tc_weight w = {0};
        TC_TRY(load_part(p, p->layer, expert, part, &w, &s->error));
        tc_store_part own = part_for(p, &w, part);
        s->differs[part] =
            layer->part[part].type != TC_M_F32 && memcmp(&own, &layer->part[part], sizeof own) != 0;
        if (!s->differs[part]) pack_part(p, &w, part, s->expert);
        tc_weight_free(&w);
    }
    return p->header->biased ? pack_biases(p, expert, s) : TC_OK;
}

static void pack_item(void *arg, uint32_t i, uint32_t member)
{
    packer *p = arg;
    p->slots[i].status = pack_expert(p, p->first_expert + i, &p->slots[i]);
}

// ---- a layer ----

static tc_status tell(packer *p, uint64_t done, tc_error *e)
{
    uint64_t now = tc_now_us();
    bool last = done == p->file_bytes;
    if (!p->options->progress || (!last && now - p->done_us < PROGRESS_US)) return TC_OK;
    p->done_us = now;
    if (p->options->progress(p->options->arg, done, p->file_bytes)) return TC_OK;
    return tc_fail(e, TC_CANCELLED, "packing was stopped");
}

// Packs `count` experts and writes them. *ret_again: a matrix was promoted, start the layer anew.
static tc_status pack_batch(packer *p, uint32_t count, bool *ret_again, tc_error *e)
{
    tc_store_layer *layer = &p->layers[p->layer];
    tc_team_each(p->team, count, pack_item, p);
    for (uint32_t i = 0; i < count; i++) {
        slot *s = &p->slots[i];
        if (s->status != TC_OK) {
            if (e) *e = s->error;
            return s->status;
        }
        for (uint32_t part = 0; part < TC_STORE_PARTS; part++) {
            if (!s->differs[part]) continue;
            layer->part[part] = (tc_store_part){.type = TC_M_F32, .round = TC_F32};
            *ret_again = true;
        }
    }
    for (uint32_t i = 0; i < count && !*ret_again; i++) {
        uint64_t at = layer->offset + (p->first_expert + i) * layer->expert_stride;
        TC_TRY(tc_store_write(p->files, p->fd, p->slots[i].expert, layer->expert_stride, at, e));
        XXH3_128bits_update(p->hash, p->slots[i].expert, layer->expert_stride);
        TC_TRY(tell(p, at + layer->expert_stride, e));
    }
    return TC_OK;
}

static tc_status make_room(packer *p, tc_error *e)
{
    for (uint32_t i = 0; i < p->threads; i++) {
        tc_free(p->slots[i].expert);
        p->slots[i].expert = tc_alloc(TC_MEM_OTHER, p->layers[p->layer].expert_stride, 1);
        if (!p->slots[i].expert)
            return tc_fail(e, TC_NOMEM, "no memory to pack experts of %" PRIu64 " bytes",
                           p->layers[p->layer].expert_stride);
    }
    return TC_OK;
}

static tc_status pack_layer(packer *p, tc_error *e)
{
    tc_store_layer *layer = &p->layers[p->layer];
    bool again = true;
    while (again) { // at most once more for each of the three matrices
        again = false;
        p->file_bytes = tc_store_layout(p->header, p->layers);
        TC_TRY(make_room(p, e));
        XXH3_128bits_reset(p->hash);
        uint32_t count;
        for (uint32_t x = 0; x < p->header->experts && !again; x += count) {
            count = p->header->experts - x < p->threads ? p->header->experts - x : p->threads;
            p->first_expert = x;
            TC_TRY(pack_batch(p, count, &again, e));
        }
    }
    XXH128_hash_t hash = XXH3_128bits_digest(p->hash);
    layer->hash_low = hash.low64;
    layer->hash_high = hash.high64;
    tc_store_writeback(p->fd, layer->offset, layer->expert_stride * p->header->experts);
    return TC_OK;
}

// ---- the whole ----

static tc_status plan(packer *p, tc_error *e)
{
    const tc_model_desc *d = p->desc;
    tc_store_header *h = p->header;
    memcpy(h->magic, tc_store_magic, sizeof h->magic);
    h->layout_version = TC_STORE_LAYOUT_VERSION;
    h->header_bytes = tc_store_header_bytes(d->layers);
    memcpy(h->model_hash, tc_checkpoint_hash(p->checkpoint), 32);
    memcpy(h->family, d->family, sizeof d->family);
    h->layers = d->layers;
    h->experts = d->experts;
    h->top_k = d->top_k;
    h->hidden = d->hidden;
    h->width = d->expert_width;
    h->unit = tc_store_unit_width(d->expert_width);
    h->activation = d->expert_activation;
    h->biased = d->expert_bias;
    h->act_alpha = d->act_alpha;
    h->act_limit = d->act_limit;
    for (uint32_t l = 0; l < d->layers; l++) {
        p->layers[l].has_experts = d->layer[l].moe;
        for (uint32_t part = 0; d->layer[l].moe && part < TC_STORE_PARTS; part++) {
            tc_weight w = {0};
            TC_TRY(load_part(p, l, 0, part, &w, e));
            p->layers[l].part[part] = part_for(p, &w, part);
            tc_weight_free(&w);
        }
    }
    p->file_bytes = tc_store_layout(h, p->layers);
    return TC_OK;
}

static tc_status create(packer *p, tc_error *e)
{
    p->threads = p->options->threads ? p->options->threads : PACK_THREADS_DEFAULT;
    if (p->threads > PACK_THREADS_MAX) p->threads = PACK_THREADS_MAX;
    p->header = calloc(1, tc_store_header_bytes(p->desc->layers));
    p->slots = calloc(p->threads, sizeof *p->slots);
    p->hash = XXH3_createState();
    if (!p->header || !p->slots || !p->hash) return tc_fail(e, TC_NOMEM, "no memory to pack experts");
    p->layers = (tc_store_layer *)(p->header + 1);
    TC_TRY(tc_team_create(&(tc_team_options){.threads = p->threads}, &p->team, e));
    return plan(p, e);
}

static void destroy(packer *p)
{
    for (uint32_t i = 0; p->slots && i < p->threads; i++) tc_free(p->slots[i].expert);
    tc_team_free(p->team);
    XXH3_freeState(p->hash);
    free(p->slots);
    free(p->header);
}

static tc_status write_all(packer *p, tc_error *e)
{
    for (p->layer = 0; p->layer < p->header->layers; p->layer++)
        if (p->layers[p->layer].has_experts) TC_TRY(pack_layer(p, e));
    p->file_bytes = p->header->file_bytes = tc_store_layout(p->header, p->layers);
    if (ftruncate(p->fd, (off_t)p->file_bytes) != 0)
        return tc_fail_errno(e, TC_IO, "%s: cannot set its size", p->files->temporary);
    tc_store_header_hash(p->header, &p->header->hash_low, &p->header->hash_high);
    return tc_store_write(p->files, p->fd, p->header, p->header->header_bytes, 0, e);
}

// Under the lock: packs into a temporary file and gives it its name.
static tc_status pack_locked(packer *p, const tc_store_files *files, tc_error *e)
{
    p->files = files;
    tc_store_remove_stale(files);
    TC_TRY(tc_store_check_space(files, p->file_bytes, e));
    TC_TRY(tc_store_create_temporary(files, &p->fd, e));
    tc_status status;
    TC_GOTO(write_all(p, e));
    TC_GOTO(tc_store_publish(files, p->fd, e));
    (void)tell(p, p->file_bytes, NULL); // whole: too late to stop
out:
    close(p->fd);
    if (status != TC_OK) unlink(files->temporary);
    return status;
}

// There, readable, and of this checkpoint.
static bool present(const tc_checkpoint *checkpoint, const tc_store_files *files)
{
    tc_store *store;
    if (tc_store_open(files->path, &store, NULL) != TC_OK) return false;
    bool same = strcmp(tc_store_get_info(store)->model_hash, tc_checkpoint_hash(checkpoint)) == 0;
    tc_store_free(store);
    return same;
}

tc_status tc_store_pack(const tc_checkpoint *checkpoint, const tc_pack_options *options,
                        char ret[TC_STORE_PATH_BYTES], tc_error *e)
{
    packer p = {
        .checkpoint = checkpoint, .desc = tc_checkpoint_desc(checkpoint), .options = options, .fd = -1};
    tc_store_files files;
    int lock = -1;
    tc_status status;
    TC_TRY(tc_store_files_for(checkpoint, options, &files, e));
    if (!options->force && present(checkpoint, &files)) {
        memcpy(ret, files.path, sizeof files.path);
        return TC_OK;
    }
    TC_GOTO(create(&p, e));
    TC_GOTO(tc_store_lock(&files, options, p.file_bytes, &lock, e));
    if (options->force || !present(checkpoint, &files)) // another packer may have finished meanwhile
        TC_GOTO(pack_locked(&p, &files, e));
    memcpy(ret, files.path, sizeof files.path);
out:
    tc_store_unlock(&files, lock);
    destroy(&p);
    return status;
}
