// SPDX-License-Identifier: Apache-2.0
// Owns: filling an arena with random experts.
#include "benchmarks/memory_store.h"

#include "common/base/team.h"
#include "common/model/arena_file.h"
#include "common/model/dtype.h"
#include "common/model/store_pack.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { POOL_BYTES = 32 << 20, THREADS_MAX = 64, PIECE_BYTES = 64 << 20 };

typedef struct maker {
    tc_store *store; // places, no memory
    const tc_store_info *info;
    uint8_t *memory, *codes, *bytes; // the arena; pools of NF4 codes and of bytes
    uint64_t seed;
    float down;
    tc_arena_directory directory;
    uint64_t file_bytes; // of the arena
    int fd;
    _Atomic bool short_of_memory;
} maker;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Codes whose levels have a mean of about zero: a matrix with a mean makes all hidden states alike.
static void fill_pools(maker *m)
{
    uint8_t code[256];
    for (int i = 0; i < 256; i++) code[i] = (uint8_t)(i % 16);
    for (int i = 0, left = 6; i < 256 && left; i++)
        if (code[i] == 15) code[i] = 7, left--;
    for (uint64_t i = 0; i < POOL_BYTES; i += 4) {
        uint64_t r = mix(m->seed + i * 0x9e3779b97f4a7c15u);
        for (int k = 0; k < 4; k++) {
            m->codes[i + k] = (uint8_t)(code[r >> (16 * k) & 255] | code[r >> (16 * k + 8) & 255] << 4);
            m->bytes[i + k] = (uint8_t)(r >> (8 * k + 7));
        }
    }
}

static void fill_matrix(const maker *m, const tc_matrix *w, float factor, uint64_t at)
{
    uint8_t *data = (uint8_t *)w->data;
    size_t bytes = tc_matrix_bytes(&w->form, w->rows, w->cols),
           codes = tc_matrix_codes_at(&w->form, w->rows, w->cols),
           tiles = tc_matrix_tiles_at(&w->form, w->rows, w->cols);
    // deviations of about 1 / sqrt(columns of the whole weight), as a trained one's
    float middle = factor * 1.7f / sqrtf((float)(w->form.nested_stride * TC_SPAN_COLS));
    tc_nested_table *table = (tc_nested_table *)data;
    table->offset = middle;
    table->phase = 0;
    for (size_t i = 0; i < (codes - sizeof *table) / sizeof(float); i++) table->nested[i] = 0.4f * middle;
    uint64_t from = mix(m->seed ^ at) % (POOL_BYTES - bytes) & ~63ull;
    memcpy(data + codes, m->bytes + from, tiles - codes);
    memcpy(data + tiles, m->codes + from, bytes - tiles);
}

static void fill_expert(void *arg, uint32_t item, uint32_t member)
{
    (void)member;
    const maker *m = arg;
    uint32_t layer = item / m->info->experts, expert = item % m->info->experts;
    if (!tc_store_layer_has_experts(m->store, layer)) return;
    for (uint32_t u = 0; u < m->info->units; u++) {
        tc_store_unit unit;
        tc_store_get_unit(m->store, layer, expert, u, &unit);
        const tc_matrix *parts[TC_STORE_PARTS] = {&unit.gate, &unit.up, &unit.down};
        for (int p = 0; p < TC_STORE_PARTS; p++)
            fill_matrix(m, parts[p], p == 2 ? m->down : 1.0f,
                        (((uint64_t)item * m->info->units) + u) * TC_STORE_PARTS + (uint64_t)p);
    }
}

static tc_store_header *make_header(const tc_checkpoint *checkpoint, uint64_t seed)
{
    const tc_model_desc *d = tc_checkpoint_desc(checkpoint);
    tc_store_header *h = calloc(1, TC_STORE_HEADER_BYTES_MAX);
    if (!h) return NULL;
    tc_store_layer *layers = (tc_store_layer *)(h + 1);
    memcpy(h->magic, tc_store_magic, sizeof h->magic);
    h->layout_version = TC_STORE_LAYOUT_VERSION;
    h->header_bytes = tc_store_header_bytes(d->layers);
    snprintf(h->model_hash, sizeof h->model_hash, "%s", tc_checkpoint_hash(checkpoint));
    snprintf(h->family, sizeof h->family, "%s", d->family);
    h->layers = d->layers;
    h->experts = d->experts;
    h->top_k = d->top_k;
    h->hidden = d->hidden;
    h->width = d->expert_width;
    h->unit = tc_store_unit_width(h->width);
    h->activation = d->expert_activation;
    h->act_alpha = d->act_alpha;
    h->act_limit = d->act_limit;
    for (uint32_t l = 0; l < d->layers; l++) {
        layers[l].has_experts = d->layer[l].moe;
        layers[l].hash_low = mix(seed + l); // of nothing: nobody can compare it with a file that is a hole
        for (uint32_t p = 0; p < TC_STORE_PARTS && layers[l].has_experts; p++) {
            tc_store_part *part = &layers[l].part[p];
            *part = (tc_store_part){.type = TC_M_Q4, .group = 64, .round = TC_BF16};
            part->nested_stride = (p == 2 ? h->width : h->hidden) / TC_SPAN_COLS;
            memcpy(part->levels, tc_nf4_levels, sizeof part->levels);
        }
    }
    h->file_bytes = tc_store_layout(h, layers);
    tc_store_header_hash(h, &h->hash_low, &h->hash_high);
    return h;
}

static tc_status write_hole(const char *path, const tc_store_header *h, tc_error *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%s", path);
    bool fine = pwrite(fd, h, h->header_bytes, 0) == (ssize_t)h->header_bytes &&
                ftruncate(fd, (off_t)h->file_bytes) == 0;
    tc_status status = fine ? TC_OK : tc_fail_errno(e, TC_IO, "%s", path);
    close(fd);
    return status;
}

// The arena's file under its final name, with headers and memory; the data is the caller's.
static tc_status make_arena(maker *m, const char *arena_dir, const char *store, tc_error *e)
{
    tc_arena_directory d[TC_ARENA_DIRECTORIES_MAX];
    uint32_t count;
    tc_arena_key key = {.shard = TC_SHARD_PARTITION, .of = 1}; // one share is whole
    char path[TC_ARENA_PATH_BYTES];
    TC_TRY(tc_arena_directories(arena_dir, true, d, &count, e));
    if (!count) return tc_fail(e, TC_NOT_FOUND, "no folder for the arena");
    memcpy(key.content_hash, m->info->content_hash, sizeof key.content_hash);
    TC_TRY(tc_store_make_places(m->store, key.shard, 1, TC_ARENA_DATA_AT, e));
    const tc_arena_directory *last = &d[count - 1]; // the tmpfs
    uint64_t bytes = tc_arena_file_bytes(last, m->store, &m->store->place[0]);
    tc_arena_share_path(last, &key, 0, "", path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) return tc_fail_errno(e, TC_IO, "%s", path);
    m->memory = tc_arena_map(fd, bytes, PROT_READ | PROT_WRITE);
    if (!m->memory) return tc_fail_errno(e, TC_NOMEM, "%s", path);
    m->directory = *last;
    m->fd = fd;
    m->file_bytes = bytes;
    (void)madvise(m->memory, bytes, MADV_HUGEPAGE);
    tc_arena_header *h = (tc_arena_header *)(void *)m->memory;
    const tc_store_header *header = m->store->header;
    *h = (tc_arena_header){.shard = (uint32_t)key.shard,
                           .of = 1,
                           .store_header_bytes = header->header_bytes,
                           .file_bytes = bytes,
                           .pages = TC_PAGES_SMALL};
    memcpy(h->content_hash, key.content_hash, sizeof key.content_hash);
    char *real = realpath(store, NULL);
    snprintf(h->store, sizeof h->store, "%s", real ? real : store);
    free(real);
    memcpy(m->memory + TC_ARENA_STORE_AT, header, header->header_bytes);
    XXH128_hash_t hash = XXH3_128bits(header, header->header_bytes);
    h->store_low = hash.low64;
    h->store_high = hash.high64;
    tc_arena_hash_header(h);
    m->store->place[0].base = m->memory;
    return TC_OK;
}

static void take_piece(void *arg, uint32_t item, uint32_t member)
{
    maker *m = arg;
    uint64_t at = TC_ARENA_DATA_AT + (uint64_t)item * PIECE_BYTES, left = m->file_bytes - at;
    (void)member;
    if (!tc_arena_reserve(&m->directory, m->fd, m->memory, at, left < PIECE_BYTES ? left : PIECE_BYTES))
        atomic_store(&m->short_of_memory, true);
}

static void tell_pages(tc_arena_header *h)
{
    h->huge_bytes = tc_arena_huge_bytes(h);
    h->pages = h->huge_bytes ? TC_PAGES_TRANSPARENT : TC_PAGES_SMALL;
    tc_arena_hash_header(h);
}

tc_status tc_memory_store_make(const char *directory, const char *cache_dir, const char *arena_dir,
                               uint64_t seed, float down, tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    tc_team *team = NULL;
    tc_store_header *header;
    char path[TC_STORE_PATH_BYTES];
    maker m = {.seed = seed, .down = down, .fd = -1};
    tc_status status;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    const tc_pack_options pack = {.cache_dir = cache_dir};
    TC_GOTO(tc_checkpoint_open(directory, &checkpoint, e));
    TC_GOTO(tc_store_path_for(checkpoint, &pack, path, e));
    header = make_header(checkpoint, seed);
    m.codes = malloc(POOL_BYTES);
    m.bytes = malloc(POOL_BYTES);
    if (!header || !m.codes || !m.bytes) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    if (mkdir(cache_dir, 0700) != 0 && errno != EEXIST) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", cache_dir));
    TC_GOTO(write_hole(path, header, e));
    TC_GOTO(tc_store_from_header(path, header, &m.store, e)); // takes the header over
    m.info = tc_store_get_info(m.store);
    TC_GOTO(make_arena(&m, arena_dir, path, e));
    TC_GOTO(tc_team_create(&(tc_team_options){.threads = cpus > THREADS_MAX ? THREADS_MAX : (uint32_t)cpus},
                           &team, e));
    fill_pools(&m);
    tc_team_each(team, (uint32_t)((m.file_bytes - TC_ARENA_DATA_AT + PIECE_BYTES - 1) / PIECE_BYTES),
                 take_piece, &m);
    if (atomic_load(&m.short_of_memory)) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no more shared memory", path));
    tell_pages((tc_arena_header *)(void *)m.memory);
    tc_team_each(team, m.info->layers * m.info->experts, fill_expert, &m);
out:
    if (m.fd >= 0) close(m.fd);
    tc_team_free(team);
    tc_store_free(m.store);
    tc_checkpoint_free(checkpoint);
    free(m.codes);
    free(m.bytes);
    return status;
}
