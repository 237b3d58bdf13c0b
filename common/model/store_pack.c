// SPDX-License-Identifier: Apache-2.0
// Owns: writing a packed store: plan the layout, pack experts in parallel, write them in order, hash, fsync,
// rename. A crash or a full disk leaves nothing under the final name. Two packers of one store: the second
// waits for the first.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/team.h"
#include "common/model/store_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PACK_THREADS_MAX = 8, PROGRESS_EVERY_US = 100000 };

static const tc_role expert_roles[TC_STORE_ROLES] = {TC_EXPERT_GATE, TC_EXPERT_UP, TC_EXPERT_DOWN};

typedef struct packer {
    const tc_checkpoint *checkpoint;
    const tc_model_desc *desc;
    const tc_pack_options *options;
    char final[TC_STORE_PATH_BYTES], temporary[TC_STORE_PATH_BYTES];
    int fd;
    tc_store_header header;
    tc_store_layer table[TC_LAYERS_MAX];
    bool promote[TC_LAYERS_MAX][TC_STORE_ROLES]; // experts differ: this role is kept as float32
    tc_team *team;
    uint32_t threads;
    char *buffers[PACK_THREADS_MAX]; // one expert each
    uint64_t done_bytes, total_bytes, last_progress_us;
    // the batch of experts being packed
    uint32_t layer, first_expert;
    tc_status status[PACK_THREADS_MAX];
    tc_error error[PACK_THREADS_MAX];
    uint32_t differs[PACK_THREADS_MAX]; // bit r: role r of this expert is not what the layer's table says
} packer;

// ---- names ----

tc_status tc_store_cache_dir(const char *xdg_cache_home, const char *home, char ret[TC_STORE_PATH_BYTES],
                             tc_error *e)
{
    int n;
    if (xdg_cache_home && xdg_cache_home[0] == '/')
        n = snprintf(ret, TC_STORE_PATH_BYTES, "%s/thermocline", xdg_cache_home);
    else if (home && home[0] == '/')
        n = snprintf(ret, TC_STORE_PATH_BYTES, "%s/.cache/thermocline", home);
    else
        return tc_fail(e, TC_ARGUMENT,
                       "no cache directory: neither XDG_CACHE_HOME nor HOME is an absolute path");
    if (n >= TC_STORE_PATH_BYTES) return tc_fail(e, TC_LIMIT, "the cache directory's name is too long");
    return TC_OK;
}

tc_status tc_store_path_for(const tc_checkpoint *checkpoint, const tc_pack_options *options,
                            char ret[TC_STORE_PATH_BYTES], tc_error *e)
{
    if (!options->cache_dir) return tc_fail(e, TC_ARGUMENT, "no cache directory given");
    int n = snprintf(ret, TC_STORE_PATH_BYTES, "%s/%s-%s-%s-v%d.tcx", options->cache_dir,
                     tc_checkpoint_desc(checkpoint)->family, tc_checkpoint_hash(checkpoint),
                     options->quantise_nf4 ? "nf4" : "asis", TC_STORE_LAYOUT_VERSION);
    if (n >= TC_STORE_PATH_BYTES - 16)
        return tc_fail(e, TC_LIMIT, "%s: the path is too long", options->cache_dir);
    return TC_OK;
}

// mkdir -p
static tc_status make_directories(const char *path, tc_error *e)
{
    char part[TC_STORE_PATH_BYTES];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + 1;; slash++) {
        if (*slash != '/' && *slash != 0) continue;
        char was = *slash;
        *slash = 0;
        if (mkdir(part, 0700) < 0 && errno != EEXIST) return tc_fail_errno(e, TC_IO, "%s", part);
        *slash = was;
        if (!was) return TC_OK;
    }
}

// ---- one expert ----

static tc_status load(const packer *p, uint32_t layer, uint32_t expert, uint32_t role, tc_weight *ret,
                      tc_error *e)
{
    char name[TC_TENSOR_NAME_BYTES];
    uint32_t rows, cols;
    tc_model_tensor_name(p->desc, expert_roles[role], layer, expert, name);
    tc_model_tensor_shape(p->desc, expert_roles[role], layer, &rows, &cols);
    TC_TRY(tc_checkpoint_weight(p->checkpoint, name, rows, cols, ret, e));
    if (!p->options->quantise_nf4 || ret->quantised) return TC_OK;
    tc_status status = tc_weight_quantise_nf4(ret, e);
    if (status != TC_OK) {
        tc_error_prefix(e, "%s", name);
        tc_weight_free(ret);
    }
    return status;
}

// How a weight would be stored, and whether that is what the layer's table says.
static void role_of(const packer *p, const tc_weight *w, uint32_t role, tc_store_role *ret)
{
    uint32_t unit_rows, unit_cols, group = 0;
    tc_store_role_shape(&p->header, role, &unit_rows, &unit_cols);
    *ret = (tc_store_role){.type = (uint32_t)tc_matrix_type_for(w, 0, unit_cols, &group)};
    if (ret->type != TC_M_Q4) return;
    ret->group = group;
    ret->round = (uint32_t)w->dtype;
    memcpy(ret->levels, w->levels, sizeof ret->levels);
}

static tc_status pack_expert(packer *p, uint32_t slot, tc_error *e)
{
    const tc_store_header *h = &p->header;
    const tc_store_layer *layer = &p->table[p->layer];
    tc_store_geometry g;
    tc_store_geometry_of(h, layer, &g);
    memset(p->buffers[slot], 0, g.expert_bytes);
    for (uint32_t r = 0; r < TC_STORE_ROLES; r++) {
        tc_weight weight = {0};
        tc_store_role role;
        uint32_t rows, cols;
        TC_TRY(load(p, p->layer, p->first_expert + slot, r, &weight, e));
        role_of(p, &weight, r, &role);
        if (!p->promote[p->layer][r] && memcmp(&role, &layer->role[r], sizeof role) != 0) {
            p->differs[slot] |= 1u << r;
            tc_weight_free(&weight);
            continue;
        }
        tc_store_role_shape(h, r, &rows, &cols);
        for (uint32_t u = 0; u < h->units; u++) {
            tc_matrix unused;
            uint32_t row0 = r == 2 ? 0 : u * h->unit, col0 = r == 2 ? u * h->unit : 0;
            tc_matrix_pack(&weight, row0, rows, col0, cols, (tc_matrix_type)layer->role[r].type,
                           layer->role[r].group, p->buffers[slot] + u * g.unit_bytes + g.matrix_offset[r],
                           &unused);
        }
        tc_weight_free(&weight);
    }
    return TC_OK;
}

static void pack_item(void *arg, uint32_t slot, uint32_t member)
{
    (void)member;
    packer *p = arg;
    p->status[slot] = pack_expert(p, slot, &p->error[slot]);
}

// ---- the file ----

static tc_status write_all(const packer *p, const void *from, size_t bytes, uint64_t at, tc_error *e)
{
    while (bytes) {
        ssize_t n = pwrite(p->fd, from, bytes, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s: writing", p->temporary);
        from = (const char *)from + n;
        bytes -= (size_t)n;
        at += (uint64_t)n;
    }
    return TC_OK;
}

static tc_status report(packer *p, uint64_t bytes, tc_error *e)
{
    uint64_t now = tc_now_us();
    p->done_bytes += bytes;
    if (!p->options->progress ||
        (now - p->last_progress_us < PROGRESS_EVERY_US && p->done_bytes < p->total_bytes))
        return TC_OK;
    p->last_progress_us = now;
    if (!p->options->progress(p->options->arg, p->done_bytes, p->total_bytes))
        return tc_fail(e, TC_CANCELLED, "packing was stopped");
    return TC_OK;
}

// Roles from each layer's first expert, then offsets.
static tc_status plan_layout(packer *p, tc_error *e)
{
    uint64_t at = sizeof p->header + p->header.layers * sizeof *p->table;
    p->total_bytes = p->done_bytes = 0;
    for (uint32_t n = 0; n < p->desc->layers; n++) {
        tc_store_layer *layer = &p->table[n];
        tc_store_geometry g;
        if (!p->desc->layer[n].moe) continue;
        for (uint32_t r = 0; r < TC_STORE_ROLES; r++) {
            tc_weight weight = {0};
            layer->role[r] = (tc_store_role){.type = TC_M_F32};
            if (p->promote[n][r]) continue;
            TC_TRY(load(p, n, 0, r, &weight, e));
            role_of(p, &weight, r, &layer->role[r]);
            tc_weight_free(&weight);
        }
        tc_store_geometry_of(&p->header, layer, &g);
        layer->offset = (at + TC_STORE_PAGE_BYTES - 1) / TC_STORE_PAGE_BYTES * TC_STORE_PAGE_BYTES;
        at = layer->offset + g.region_bytes;
        p->total_bytes += g.region_bytes;
    }
    p->header.file_bytes = at;
    return TC_OK;
}

// ret_restart: an expert did not fit its layer's roles; they were promoted and the layout has to be planned
// anew.
static tc_status write_layer(packer *p, uint32_t n, bool *ret_restart, tc_error *e)
{
    tc_store_layer *layer = &p->table[n];
    tc_store_geometry g;
    XXH3_state_t *hash = XXH3_createState();
    tc_status status = TC_OK;
    if (!hash) return tc_fail(e, TC_NOMEM, "out of memory for a hash");
    XXH3_128bits_reset(hash);
    tc_store_geometry_of(&p->header, layer, &g);
    p->layer = n;
    for (p->first_expert = 0; p->first_expert < p->header.experts; p->first_expert += p->threads) {
        uint32_t some = p->header.experts - p->first_expert < p->threads ? p->header.experts - p->first_expert
                                                                         : p->threads;
        memset(p->differs, 0, sizeof p->differs);
        tc_team_each(p->team, some, pack_item, p);
        for (uint32_t i = 0; i < some; i++) {
            if (p->status[i] != TC_OK && e) *e = p->error[i];
            TC_GOTO(p->status[i]);
            for (uint32_t r = 0; r < TC_STORE_ROLES; r++) p->promote[n][r] |= p->differs[i] >> r & 1;
            *ret_restart |= p->differs[i] != 0;
        }
        if (*ret_restart) goto out;
        for (uint32_t i = 0; i < some; i++) {
            uint64_t at = layer->offset + (p->first_expert + i) * g.expert_bytes;
            XXH3_128bits_update(hash, p->buffers[i], g.expert_bytes);
            TC_GOTO(write_all(p, p->buffers[i], g.expert_bytes, at, e));
            TC_GOTO(report(p, g.expert_bytes, e));
        }
    }
    XXH128_hash_t digest = XXH3_128bits_digest(hash);
    layer->hash[0] = digest.low64;
    layer->hash[1] = digest.high64;
out:
    XXH3_freeState(hash);
    return status;
}

static tc_status reserve(packer *p, tc_error *e)
{
    uint64_t largest = 0;
    for (uint32_t n = 0; n < p->desc->layers; n++) {
        tc_store_geometry g;
        if (!p->table[n].offset) continue;
        tc_store_geometry_of(&p->header, &p->table[n], &g);
        if (g.expert_bytes > largest) largest = g.expert_bytes;
    }
    for (uint32_t i = 0; i < p->threads; i++) {
        tc_free(p->buffers[i]);
        p->buffers[i] = tc_alloc(TC_MEM_SCRATCH, largest, 1);
        if (!p->buffers[i])
            return tc_fail(e, TC_NOMEM, "out of memory for an expert of %llu bytes",
                           (unsigned long long)largest);
    }
    if (ftruncate(p->fd, 0) < 0) return tc_fail_errno(e, TC_IO, "%s", p->temporary);
    int failed =
        posix_fallocate(p->fd, 0, (off_t)p->header.file_bytes); // a full disk is found here, not at the end
    if (failed) {
        errno = failed;
        return tc_fail_errno(e, TC_IO, "%s: %llu bytes", p->temporary,
                             (unsigned long long)p->header.file_bytes);
    }
    return TC_OK;
}

static tc_status write_store(packer *p, tc_error *e)
{
    bool restart;
    do {
        restart = false;
        TC_TRY(plan_layout(p, e));
        TC_TRY(reserve(p, e));
        for (uint32_t n = 0; n < p->desc->layers && !restart; n++)
            if (p->table[n].offset) TC_TRY(write_layer(p, n, &restart, e));
    } while (restart);
    p->header.hash = tc_store_header_hash(&p->header, p->table);
    TC_TRY(write_all(p, &p->header, sizeof p->header, 0, e));
    TC_TRY(write_all(p, p->table, p->header.layers * sizeof *p->table, sizeof p->header, e));
    if (fsync(p->fd) < 0) return tc_fail_errno(e, TC_IO, "%s: fsync", p->temporary);
    if (rename(p->temporary, p->final) < 0) return tc_fail_errno(e, TC_IO, "%s: rename", p->final);
    int dir = open(p->options->cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        (void)fsync(dir);
        close(dir);
    }
    return TC_OK;
}

static void fill_header(packer *p)
{
    const tc_model_desc *d = p->desc;
    tc_store_header *h = &p->header;
    *h = (tc_store_header){
        .magic = TC_STORE_MAGIC,
        .layout_version = TC_STORE_LAYOUT_VERSION,
        .header_bytes = sizeof *h,
        .layers = d->layers,
        .experts = d->experts,
        .top_k = d->top_k,
        .hidden = d->hidden,
        .width = d->expert_width,
        .unit = d->expert_width % 64 == 0 ? 64 : d->expert_width,
    };
    h->units = h->width / h->unit;
    snprintf(h->model_hash, sizeof h->model_hash, "%s", tc_checkpoint_hash(p->checkpoint));
    snprintf(h->family, sizeof h->family, "%s", d->family);
}

// The temporary file is also the lock. Whoever gets it looks again whether the store is there by now.
static tc_status lock(packer *p, bool *ret_done, tc_error *e)
{
    for (;;) {
        struct stat mine, there;
        p->fd = open(p->temporary, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (p->fd < 0) return tc_fail_errno(e, TC_IO, "%s", p->temporary);
        if (flock(p->fd, LOCK_EX) < 0) return tc_fail_errno(e, TC_IO, "%s: locking it", p->temporary);
        if (fstat(p->fd, &mine) < 0) return tc_fail_errno(e, TC_IO, "%s", p->temporary);
        bool same =
            stat(p->temporary, &there) == 0 && there.st_ino == mine.st_ino && there.st_dev == mine.st_dev;
        *ret_done = !p->options->force && access(p->final, R_OK) == 0;
        if (same) return TC_OK;
        close(p->fd); // the one before us renamed or removed it
        p->fd = -1;
        if (*ret_done) return TC_OK;
    }
}

tc_status tc_store_pack(const tc_checkpoint *checkpoint, const tc_pack_options *options,
                        char ret[TC_STORE_PATH_BYTES], tc_error *e)
{
    tc_status status;
    bool done = false;
    packer *p = tc_alloc(TC_MEM_SCRATCH, 1, sizeof *p);
    if (!p) return tc_fail(e, TC_NOMEM, "out of memory for packing");
    p->checkpoint = checkpoint;
    p->desc = tc_checkpoint_desc(checkpoint);
    p->options = options;
    p->fd = -1;
    TC_GOTO(tc_store_path_for(checkpoint, options, p->final, e));
    if (!options->force && access(p->final, R_OK) == 0) done = true;
    if (!done) {
        const char *base = strrchr(p->final, '/') + 1;
        snprintf(p->temporary, sizeof p->temporary, "%.*s.%s.tmp", (int)(base - p->final), p->final, base);
        TC_GOTO(make_directories(options->cache_dir, e));
        TC_GOTO(lock(p, &done, e));
    }
    if (!done) {
        if (p->desc->experts == 0) TC_GOTO(tc_fail(e, TC_UNSUPPORTED, "the model has no experts to pack"));
        fill_header(p);
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        p->threads = cpus < 1 ? 1 : cpus > PACK_THREADS_MAX ? PACK_THREADS_MAX : (uint32_t)cpus;
        const tc_team_options team = {.threads = p->threads};
        TC_GOTO(tc_team_create(&team, &p->team, e));
        TC_GOTO(write_store(p, e));
    } else if (p->fd >= 0) {
        (void)unlink(p->temporary); // our own empty lock file
    }
    memcpy(ret, p->final, TC_STORE_PATH_BYTES);
out:
    if (status != TC_OK && p->fd >= 0) (void)unlink(p->temporary);
    if (p->fd >= 0) close(p->fd);
    tc_team_free(p->team);
    for (uint32_t i = 0; i < PACK_THREADS_MAX; i++) tc_free(p->buffers[i]);
    tc_free(p);
    return status;
}
