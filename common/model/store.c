// SPDX-License-Identifier: Apache-2.0
// Owns: opening and reading a packed store. The header is checked field by field before anything is mapped;
// offsets inside are computed here, never read.
#include "common/base/mem.h"
#include "common/model/store_format.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

struct tc_store {
    int fd;
    char path[TC_STORE_PATH_BYTES];
    tc_store_header header;
    tc_store_layer *table;
    tc_store_geometry *geometry; // [layers]
    tc_store_info info;
    const char *map;
};

void tc_store_role_shape(const tc_store_header *h, uint32_t role, uint32_t *ret_rows, uint32_t *ret_cols)
{
    *ret_rows = role == 2 ? h->hidden : h->unit;
    *ret_cols = role == 2 ? h->unit : h->hidden;
}

void tc_store_geometry_of(const tc_store_header *h, const tc_store_layer *layer, tc_store_geometry *ret)
{
    tc_store_geometry g = {0};
    for (uint32_t r = 0; r < TC_STORE_ROLES; r++) {
        uint32_t rows, cols;
        tc_store_role_shape(h, r, &rows, &cols);
        g.matrix_offset[r] = g.unit_bytes;
        g.matrix_bytes[r] =
            tc_matrix_bytes((tc_matrix_type)layer->role[r].type, rows, cols, layer->role[r].group);
        g.unit_bytes += (g.matrix_bytes[r] + 63) & ~(uint64_t)63;
    }
    g.expert_bytes = g.unit_bytes * h->units;
    g.region_bytes = g.expert_bytes * h->experts;
    *ret = g;
}

uint64_t tc_store_header_hash(const tc_store_header *header, const tc_store_layer *table)
{
    tc_store_header copy = *header;
    copy.hash = 0;
    uint64_t first = XXH3_64bits(&copy, sizeof copy);
    return XXH3_64bits_withSeed(table, header->layers * sizeof *table, first);
}

static tc_status read_all(const tc_store *s, void *to, size_t bytes, off_t at, tc_error *e)
{
    while (bytes) {
        ssize_t n = pread(s->fd, to, bytes, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
        if (n == 0) return tc_fail(e, TC_FORMAT, "%s: the file ends inside its header", s->path);
        to = (char *)to + n;
        bytes -= (size_t)n;
        at += n;
    }
    return TC_OK;
}

static tc_status check_header(const tc_store *s, uint64_t file_bytes, tc_error *e)
{
    const tc_store_header *h = &s->header;
    const struct {
        const char *name;
        uint32_t value, least, most;
    } fields[] = {
        {"layers", h->layers, 1, TC_LAYERS_MAX}, {"experts", h->experts, 1, TC_EXPERTS_MAX},
        {"top_k", h->top_k, 1, TC_TOP_K_MAX},    {"hidden", h->hidden, 1, TC_HIDDEN_MAX},
        {"width", h->width, 1, TC_WIDTH_MAX},    {"unit", h->unit, 1, TC_WIDTH_MAX},
        {"units", h->units, 1, TC_WIDTH_MAX},
    };
    if (memcmp(h->magic, TC_STORE_MAGIC, sizeof h->magic) != 0)
        return tc_fail(e, TC_FORMAT, "%s: not a packed expert store", s->path);
    if (h->layout_version != TC_STORE_LAYOUT_VERSION || h->header_bytes != sizeof *h)
        return tc_fail(e, TC_FORMAT, "%s: layout version %u, this program reads %d; pack the model again",
                       s->path, h->layout_version, TC_STORE_LAYOUT_VERSION);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].value < fields[i].least || fields[i].value > fields[i].most)
            return tc_fail(e, TC_FORMAT, "%s: %s is %u", s->path, fields[i].name, fields[i].value);
    if ((uint64_t)h->unit * h->units != h->width)
        return tc_fail(e, TC_FORMAT, "%s: %u units of %u are not the width %u", s->path, h->units, h->unit,
                       h->width);
    if (h->file_bytes != file_bytes)
        return tc_fail(e, TC_FORMAT, "%s: the file has %llu bytes, its header says %llu", s->path,
                       (unsigned long long)file_bytes, (unsigned long long)h->file_bytes);
    if (!memchr(h->model_hash, 0, 33) || !memchr(h->family, 0, sizeof h->family))
        return tc_fail(e, TC_FORMAT, "%s: a name in the header has no end", s->path);
    return TC_OK;
}

static tc_status check_role(const tc_store *s, uint32_t layer, uint32_t role, tc_error *e)
{
    const tc_store_role *r = &s->table[layer].role[role];
    uint32_t rows, cols;
    tc_store_role_shape(&s->header, role, &rows, &cols);
    bool fine = r->type < TC_M_TYPES;
    if (fine && r->type == TC_M_Q4)
        fine = (r->group == 32 || r->group == 64) && cols % TC_Q4_SPAN_COLS == 0 && r->round <= TC_BF16;
    if (!fine)
        return tc_fail(e, TC_FORMAT, "%s: layer %u, matrix %u: type %u, group %u, rounding %u", s->path,
                       layer, role, r->type, r->group, r->round);
    return TC_OK;
}

static tc_status read_table(tc_store *s, tc_error *e)
{
    const tc_store_header *h = &s->header;
    size_t bytes = h->layers * sizeof *s->table;
    uint64_t end = sizeof *h + bytes;
    s->table = tc_alloc(TC_MEM_OTHER, h->layers, sizeof *s->table);
    s->geometry = tc_alloc(TC_MEM_OTHER, h->layers, sizeof *s->geometry);
    if (!s->table || !s->geometry) return tc_fail(e, TC_NOMEM, "%s: out of memory for its table", s->path);
    TC_TRY(read_all(s, s->table, bytes, sizeof *h, e));
    if (tc_store_header_hash(h, s->table) != h->hash)
        return tc_fail(e, TC_FORMAT, "%s: the header's hash does not fit", s->path);
    for (uint32_t n = 0; n < h->layers; n++) {
        const tc_store_layer *layer = &s->table[n];
        if (!layer->offset) continue;
        for (uint32_t r = 0; r < TC_STORE_ROLES; r++) TC_TRY(check_role(s, n, r, e));
        tc_store_geometry_of(h, layer, &s->geometry[n]);
        if (layer->offset % TC_STORE_PAGE_BYTES || layer->offset < end || layer->offset > h->file_bytes ||
            s->geometry[n].region_bytes > h->file_bytes - layer->offset)
            return tc_fail(e, TC_FORMAT, "%s: layer %u lies outside the file or over another layer", s->path,
                           n);
        end = layer->offset + s->geometry[n].region_bytes;
        if (s->geometry[n].expert_bytes > s->info.expert_bytes)
            s->info.expert_bytes = s->geometry[n].expert_bytes;
    }
    return TC_OK;
}

tc_status tc_store_open(const char *path, tc_store **ret, tc_error *e)
{
    tc_status status;
    struct stat st;
    tc_store *s = tc_alloc(TC_MEM_OTHER, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the store");
    snprintf(s->path, sizeof s->path, "%s", path);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) < 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", path));
    if (!S_ISREG(st.st_mode)) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: not a regular file", path));
    TC_GOTO(read_all(s, &s->header, sizeof s->header, 0, e));
    TC_GOTO(check_header(s, (uint64_t)st.st_size, e));
    TC_GOTO(read_table(s, e));
    const tc_store_header *h = &s->header;
    memcpy(s->info.model_hash, h->model_hash, sizeof s->info.model_hash);
    memcpy(s->info.family, h->family, sizeof s->info.family);
    s->info.layers = h->layers;
    s->info.experts = h->experts;
    s->info.top_k = h->top_k;
    s->info.hidden = h->hidden;
    s->info.width = h->width;
    s->info.unit = h->unit;
    s->info.units = h->units;
    s->info.bytes = h->file_bytes;
    void *map = mmap(NULL, (size_t)h->file_bytes, PROT_READ, MAP_SHARED, s->fd, 0);
    if (map == MAP_FAILED) TC_GOTO(tc_fail_errno(e, TC_IO, "%s: mapping it", path));
    s->map = map;
    *ret = s;
    return TC_OK;
out:
    tc_store_free(s);
    return status;
}

void tc_store_free(tc_store *s)
{
    if (!s) return;
    if (s->map) munmap((void *)s->map, (size_t)s->header.file_bytes);
    if (s->fd >= 0) close(s->fd);
    tc_free(s->table);
    tc_free(s->geometry);
    tc_free(s);
}

const tc_store_info *tc_store_get_info(const tc_store *s)
{
    return &s->info;
}

bool tc_store_layer_has_experts(const tc_store *s, uint32_t layer)
{
    return layer < s->header.layers && s->table[layer].offset != 0;
}

void tc_store_get_unit(const tc_store *s, uint32_t layer, uint32_t expert, uint32_t unit, tc_store_unit *ret)
{
    const tc_store_header *h = &s->header;
    assert(tc_store_layer_has_experts(s, layer) && expert < h->experts && unit < h->units);
    const tc_store_geometry *g = &s->geometry[layer];
    const char *data = s->map + s->table[layer].offset + expert * g->expert_bytes + unit * g->unit_bytes;
    tc_matrix *matrices[TC_STORE_ROLES] = {&ret->gate, &ret->up, &ret->down};
    for (uint32_t r = 0; r < TC_STORE_ROLES; r++) {
        const tc_store_role *role = &s->table[layer].role[r];
        tc_matrix *m = matrices[r];
        m->type = (tc_matrix_type)role->type;
        m->group = role->group;
        m->round = (tc_dtype)role->round;
        memcpy(m->levels, role->levels, sizeof m->levels);
        tc_store_role_shape(h, r, &m->rows, &m->cols);
        m->data = data + g->matrix_offset[r];
    }
}

// Makes [begin, end) of the mapping resident. The size is looked at again first: a file cut since it was
// opened is an error here and not a SIGBUS later.
static tc_status populate(const tc_store *s, uint64_t begin, uint64_t end, tc_error *e)
{
    struct stat st;
    if (fstat(s->fd, &st) < 0) return tc_fail_errno(e, TC_IO, "%s", s->path);
    if ((uint64_t)st.st_size != s->header.file_bytes)
        return tc_fail(e, TC_FORMAT, "%s: the file has changed its size", s->path);
    begin &= ~(uint64_t)(TC_STORE_PAGE_BYTES - 1);
#ifdef MADV_POPULATE_READ
    if (madvise((void *)(s->map + begin), (size_t)(end - begin), MADV_POPULATE_READ) == 0) return TC_OK;
    if (errno != EINVAL) return tc_fail_errno(e, TC_IO, "%s: reading it into memory", s->path);
#endif
    volatile char sink;
    for (uint64_t at = begin; at < end; at += TC_STORE_PAGE_BYTES) sink = s->map[at];
    (void)sink;
    return TC_OK;
}

tc_status tc_store_prefault(const tc_store *s, uint32_t expert_begin, uint32_t expert_end,
                            uint32_t unit_begin, uint32_t unit_end,
                            bool (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                            tc_error *e)
{
    const tc_store_header *h = &s->header;
    uint64_t total = 0, done = 0;
    if (expert_begin > expert_end || expert_end > h->experts || unit_begin > unit_end || unit_end > h->units)
        return tc_fail(e, TC_ARGUMENT, "experts %u..%u of %u, units %u..%u of %u", expert_begin, expert_end,
                       h->experts, unit_begin, unit_end, h->units);
    bool whole = unit_begin == 0 && unit_end == h->units;
    for (uint32_t n = 0; n < h->layers; n++)
        total += s->geometry[n].unit_bytes * (expert_end - expert_begin) * (unit_end - unit_begin);
    for (uint32_t n = 0; n < h->layers; n++) {
        const tc_store_geometry *g = &s->geometry[n];
        if (!s->table[n].offset) continue;
        for (uint32_t x = expert_begin; x < expert_end;) {
            // whole experts lie side by side: several at once
            uint32_t some = whole ? 16 : 1;
            if (some > expert_end - x) some = expert_end - x;
            uint64_t begin = s->table[n].offset + x * g->expert_bytes + unit_begin * g->unit_bytes;
            uint64_t bytes = whole ? some * g->expert_bytes : (unit_end - unit_begin) * g->unit_bytes;
            TC_TRY(populate(s, begin, begin + bytes, e));
            done += bytes;
            x += some;
            if (progress && !progress(arg, done, total))
                return tc_fail(e, TC_CANCELLED, "%s: stopped", s->path);
        }
    }
    return TC_OK;
}

tc_status tc_store_verify(const tc_store *s, tc_error *e)
{
    for (uint32_t n = 0; n < s->header.layers; n++) {
        const tc_store_layer *layer = &s->table[n];
        if (!layer->offset) continue;
        TC_TRY(populate(s, layer->offset, layer->offset + s->geometry[n].region_bytes, e));
        XXH128_hash_t hash = XXH3_128bits(s->map + layer->offset, (size_t)s->geometry[n].region_bytes);
        if (hash.low64 != layer->hash[0] || hash.high64 != layer->hash[1])
            return tc_fail(e, TC_FORMAT,
                           "%s: layer %u is damaged (its hash does not fit); pack the model again", s->path,
                           n);
    }
    return TC_OK;
}
