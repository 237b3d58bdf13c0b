// SPDX-License-Identifier: Apache-2.0
// Owns: counting, and the file of a profile.
#include "common/placement/profile.h"
#include "common/base/json.h"
#include "common/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct file_header {
    char magic[8];
    uint32_t version, layers, experts, followers;
    char model_hash[32];
    double tokens;
    uint64_t check;
} file_header;
_Static_assert(sizeof(file_header) == 72, "header of a profile");

static const char MAGIC[8] = {'t', 'c', 'p', 'r', 'o', 'f', 'i', 'l'};
static const double SCALE_MAX = 1e12;
enum { EXPERTS_MAX = 4096 };

tc_status tc_profile_create(uint32_t layers, uint32_t experts, const char *model_hash, tc_profile **ret,
                            tc_error *e)
{
    if (layers < 1 || layers > TC_CACHE_LAYERS_MAX || experts < 1 || experts > EXPERTS_MAX)
        return tc_fail(e, TC_ARGUMENT, "profile of %u layers of %u experts", layers, experts);
    tc_profile *p = tc_alloc(TC_MEM_OTHER, 1, sizeof *p);
    if (!p) return tc_fail(e, TC_NOMEM, "out of memory for a profile");
    p->layers = layers;
    p->experts = experts;
    p->scale = 1;
    snprintf(p->model_hash, sizeof p->model_hash, "%s", model_hash);
    p->uses = tc_alloc(TC_MEM_OTHER, (size_t)layers * experts, sizeof *p->uses);
    p->followers = tc_alloc(TC_MEM_OTHER, (size_t)layers * experts * TC_FOLLOWERS, sizeof *p->followers);
    if (!p->uses || !p->followers) {
        tc_profile_free(p);
        return tc_fail(e, TC_NOMEM, "out of memory for a profile");
    }
    *ret = p;
    return TC_OK;
}

void tc_profile_free(tc_profile *p)
{
    if (!p) return;
    tc_free(p->uses);
    tc_free(p->followers);
    tc_free(p);
}

// The expert's counter goes up; one that is not there takes the place of the least (its count stays: it may
// have been there before).
static void note_follower(tc_follower *list, uint32_t expert)
{
    uint32_t least = 0;
    for (uint32_t i = 0; i < TC_FOLLOWERS; i++) {
        if (list[i].count && list[i].expert == expert) {
            if (++list[i].count == UINT16_MAX)
                for (uint32_t k = 0; k < TC_FOLLOWERS; k++) list[k].count /= 2;
            return;
        }
        if (list[i].count < list[least].count) least = i;
    }
    list[least].expert = (uint16_t)expert;
    list[least].count++;
}

static void note_followers(tc_profile *p, uint32_t top_k, const int32_t *chosen)
{
    for (uint32_t layer = 0; layer + 1 < p->layers; layer++) {
        const int32_t *here = chosen + layer * top_k, *next = here + top_k;
        for (uint32_t i = 0; i < top_k && here[0] >= 0 && next[0] >= 0; i++)
            for (uint32_t k = 0; k < top_k; k++)
                note_follower(p->followers + ((size_t)layer * p->experts + (uint32_t)here[i]) * TC_FOLLOWERS,
                              (uint32_t)next[k]);
    }
}

void tc_profile_note(tc_profile *p, uint32_t tokens, uint32_t top_k, const int32_t *chosen)
{
    float scale = (float)p->scale;
    for (uint32_t t = 0; t < tokens; t++, chosen += (size_t)p->layers * top_k) {
        float *uses = p->uses;
        for (uint32_t layer = 0, i = 0; layer < p->layers; layer++, uses += p->experts)
            for (uint32_t k = 0; k < top_k; k++, i++)
                if (chosen[i] >= 0) uses[chosen[i]] += scale;
        if (p->seen++ % TC_PROFILE_SAMPLE == 0) note_followers(p, top_k, chosen);
    }
    p->tokens += tokens * p->scale;
    // One token is the usual case, and a constant to the compiler.
    p->scale *=
        tokens == 1 ? exp2(1.0 / TC_PROFILE_HALF_TOKENS) : exp2((double)tokens / TC_PROFILE_HALF_TOKENS);
    if (p->scale < SCALE_MAX) return;
    for (uint32_t i = 0; i < p->layers * p->experts; i++) p->uses[i] = (float)(p->uses[i] / p->scale);
    p->tokens /= p->scale;
    p->scale = 1;
}

void tc_profile_rates(const tc_profile *p, float *ret)
{
    float factor = p->tokens > 0 ? (float)(1 / p->tokens) : 0;
    for (uint32_t i = 0; i < p->layers * p->experts; i++) ret[i] = p->uses[i] * factor;
}

// ---- the file ----

static uint64_t uses_bytes(const tc_profile *p)
{
    return (uint64_t)p->layers * p->experts * sizeof *p->uses;
}

static uint64_t follower_bytes(const tc_profile *p)
{
    return (uint64_t)p->layers * p->experts * TC_FOLLOWERS * sizeof *p->followers;
}

uint64_t tc_profile_bytes(const tc_profile *p)
{
    return sizeof(file_header) + uses_bytes(p) + follower_bytes(p);
}

static uint64_t fnv1a(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return hash;
}

// Of the header, with its check 0, and of what follows it.
static uint64_t check_of(file_header h, const void *body, size_t bytes)
{
    h.check = 0;
    return fnv1a(fnv1a(0xcbf29ce484222325u, &h, sizeof h), body, bytes);
}

void tc_profile_pack(const tc_profile *p, void *ret)
{
    uint8_t *body = (uint8_t *)ret + sizeof(file_header);
    float *uses = (float *)(void *)body, factor = (float)(1 / p->scale);
    file_header h = {.version = TC_PROFILE_VERSION,
                     .layers = p->layers,
                     .experts = p->experts,
                     .followers = TC_FOLLOWERS,
                     .tokens = p->tokens / p->scale};
    for (uint32_t i = 0; i < p->layers * p->experts; i++) uses[i] = p->uses[i] * factor;
    memcpy(body + uses_bytes(p), p->followers, follower_bytes(p));
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    memcpy(h.model_hash, p->model_hash, sizeof h.model_hash);
    memcpy(ret, &h, sizeof h);
}

static tc_status write_all(int fd, const char *path, const void *bytes, uint64_t count, tc_error *e)
{
    for (uint64_t done = 0; done < count;) {
        ssize_t n = write(fd, (const char *)bytes + done, count - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tc_fail_errno(e, TC_IO, "%s", path);
        done += (uint64_t)n;
    }
    return fsync(fd) == 0 ? TC_OK : tc_fail_errno(e, TC_IO, "%s", path);
}

tc_status tc_profile_write(const char *path, const void *packed, uint64_t bytes, tc_error *e)
{
    char part[1100];
    tc_status status;
    file_header h;
    if (snprintf(part, sizeof part, "%s.%ld.part", path, (long)getpid()) >= (int)sizeof part)
        return tc_fail(e, TC_LIMIT, "%s: the path is too long", path);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%s", part);
    memcpy(&h, packed, sizeof h);
    h.check = check_of(h, (const uint8_t *)packed + sizeof h, bytes - sizeof h);
    status = write(fd, &h, sizeof h) == (ssize_t)sizeof h ? TC_OK : tc_fail_errno(e, TC_IO, "%s", part);
    if (status == TC_OK) status = write_all(fd, part, (const char *)packed + sizeof h, bytes - sizeof h, e);
    close(fd);
    if (status == TC_OK && rename(part, path) != 0) status = tc_fail_errno(e, TC_IO, "%s", path);
    if (status != TC_OK) unlink(part);
    return status;
}

tc_status tc_profile_save(const tc_profile *p, const char *path, tc_error *e)
{
    uint64_t bytes = tc_profile_bytes(p);
    void *packed = malloc(bytes);
    if (!packed) return tc_fail(e, TC_NOMEM, "out of memory for a profile");
    tc_profile_pack(p, packed);
    tc_status status = tc_profile_write(path, packed, bytes, e);
    free(packed);
    return status;
}

static tc_status check_header(const char *path, const char *text, size_t bytes, const char *model_hash,
                              file_header *ret, tc_error *e)
{
    char hash[33] = {0};
    if (bytes < sizeof *ret) return tc_fail(e, TC_FORMAT, "%s: too short for a profile", path);
    memcpy(ret, text, sizeof *ret);
    memcpy(hash, ret->model_hash, sizeof ret->model_hash);
    if (memcmp(ret->magic, MAGIC, sizeof MAGIC) != 0) return tc_fail(e, TC_FORMAT, "%s: no profile", path);
    if (ret->version != TC_PROFILE_VERSION || ret->followers != TC_FOLLOWERS)
        return tc_fail(e, TC_FORMAT, "%s: profile of version %u, this program reads %d", path, ret->version,
                       TC_PROFILE_VERSION);
    if (ret->layers < 1 || ret->layers > TC_CACHE_LAYERS_MAX || ret->experts < 1 ||
        ret->experts > EXPERTS_MAX)
        return tc_fail(e, TC_FORMAT, "%s: profile of %u layers of %u experts", path, ret->layers,
                       ret->experts);
    if (model_hash && strcmp(hash, model_hash) != 0)
        return tc_fail(e, TC_FORMAT, "%s: profile of another model (hash %s, this one's is %s)", path, hash,
                       model_hash);
    if (!(ret->tokens >= 0 && ret->tokens < 1e18))
        return tc_fail(e, TC_FORMAT, "%s: profile of %g tokens", path, ret->tokens);
    return TC_OK;
}

static tc_status fill(tc_profile *p, const char *path, const char *body, const file_header *h, tc_error *e)
{
    memcpy(p->uses, body, uses_bytes(p));
    memcpy(p->followers, body + uses_bytes(p), follower_bytes(p));
    p->tokens = h->tokens;
    for (uint32_t i = 0; i < p->layers * p->experts; i++)
        if (!(p->uses[i] >= 0 && p->uses[i] < 1e18f))
            return tc_fail(e, TC_FORMAT, "%s: uses of layer %u, expert %u", path, i / p->experts,
                           i % p->experts);
    for (uint64_t i = 0; i < (uint64_t)p->layers * p->experts * TC_FOLLOWERS; i++)
        if (p->followers[i].expert >= p->experts)
            return tc_fail(e, TC_FORMAT, "%s: a follower out of range", path);
    return TC_OK;
}

tc_status tc_profile_load(const char *path, const char *model_hash, tc_profile **ret, tc_error *e)
{
    char *text;
    size_t bytes;
    file_header h;
    tc_profile *p = NULL;
    TC_TRY(tc_read_file(path, 256 << 20, &text, &bytes, e));
    tc_status status = check_header(path, text, bytes, model_hash, &h, e);
    if (status != TC_OK) goto out;
    char hash[33] = {0};
    memcpy(hash, h.model_hash, sizeof h.model_hash);
    TC_GOTO(tc_profile_create(h.layers, h.experts, hash, &p, e));
    if (bytes != tc_profile_bytes(p))
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: %zu bytes, not %llu", path, bytes,
                        (unsigned long long)tc_profile_bytes(p)));
    if (check_of(h, text + sizeof h, bytes - sizeof h) != h.check)
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: damaged", path));
    TC_GOTO(fill(p, path, text + sizeof h, &h, e));
    *ret = p;
    p = NULL;
out:
    free(text);
    tc_profile_free(p);
    return status;
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

double tc_profile_coverage(const tc_profile *p, uint32_t experts)
{
    double sum = 0, top = 0;
    float row[EXPERTS_MAX];
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        memcpy(row, p->uses + (size_t)layer * p->experts, p->experts * sizeof *row);
        qsort(row, p->experts, sizeof *row, falling);
        for (uint32_t i = 0; i < p->experts; i++) {
            sum += (double)row[i];
            if (i < experts) top += (double)row[i];
        }
    }
    return sum > 0 ? top / sum : 0;
}
