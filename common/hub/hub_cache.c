// SPDX-License-Identifier: Apache-2.0
// Owns: the cache's layout on disk (hub.h): places, links, refs, what it holds, removing.
#include "common/base/json.h"
#include "common/hub/hub_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 12, CHECK_BYTES = 1 << 20 };

tc_status tc_hub_make_folders(const char *path, tc_error *e)
{
    char part[TC_HUB_PATH_BYTES];
    size_t n = strlen(path);
    if (n >= sizeof part) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i < n; i++) { // all but the last part, which is a file's
        if (part[i] != '/') continue;
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return tc_fail_errno(e, TC_IO, "%s: cannot make the folder", part);
        part[i] = '/';
    }
    return TC_OK;
}

tc_status tc_hub_place(const tc_hub_name *name, const char *cache, const char *kind, const char *rest,
                       char ret[TC_HUB_PATH_BYTES], tc_error *e)
{
    int n = snprintf(ret, TC_HUB_PATH_BYTES, "%s/models--%s--%s%s%s%s%s", cache, name->owner, name->name,
                     *kind ? "/" : "", kind, *rest ? "/" : "", rest);
    if (n >= TC_HUB_PATH_BYTES) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", cache);
    return TC_OK;
}

// Written beside its place and renamed: a reader sees the old or the new.
static tc_status put_text(const char *path, const char *text, tc_error *e)
{
    char temporary[TC_HUB_PATH_BYTES + 32];
    snprintf(temporary, sizeof temporary, "%s.tmp.%ld", path, (long)getpid());
    FILE *file = fopen(temporary, "we");
    if (!file) return tc_fail_errno(e, TC_IO, "%s", temporary);
    bool fine = fputs(text, file) >= 0;
    fine = fclose(file) == 0 && fine;
    if (fine && rename(temporary, path) == 0) return TC_OK;
    tc_fail_errno(e, TC_IO, "%s: cannot write", path);
    unlink(temporary);
    return TC_IO;
}

tc_status tc_hub_write_ref(const tc_hub_name *name, const char *cache, const char *commit, tc_error *e)
{
    char path[TC_HUB_PATH_BYTES];
    if (strcmp(name->revision, commit) == 0) return TC_OK; // a commit is its own name
    TC_TRY(tc_hub_place(name, cache, "refs", name->revision, path, e));
    TC_TRY(tc_hub_make_folders(path, e));
    return put_text(path, commit, e);
}

tc_status tc_hub_link(const tc_hub_name *name, const char *cache, const char *commit, const tc_hub_file *file,
                      tc_error *e)
{
    char below[TC_HUB_FILE_BYTES_MAX + 80], path[TC_HUB_PATH_BYTES], temporary[TC_HUB_PATH_BYTES + 32],
        target[1024] = "../../";
    size_t used = strlen(target);
    snprintf(below, sizeof below, "%s/%s", commit, file->path);
    TC_TRY(tc_hub_place(name, cache, "snapshots", below, path, e));
    TC_TRY(tc_hub_make_folders(path, e));
    for (const char *p = file->path; (p = strchr(p, '/')) && used + 3 < sizeof target / 2; p++)
        used += (size_t)snprintf(target + used, sizeof target - used, "../");
    snprintf(target + used, sizeof target - used, "blobs/%s", file->checksum);
    snprintf(temporary, sizeof temporary, "%s.tmp.%ld", path, (long)getpid());
    unlink(temporary);
    if (symlink(target, temporary) == 0 && rename(temporary, path) == 0) return TC_OK;
    tc_fail_errno(e, TC_IO, "%s: cannot link", path);
    unlink(temporary);
    return TC_IO;
}

static bool is_commit(const char *text)
{
    return strlen(text) == 40 && strspn(text, "0123456789abcdef") == 40;
}

tc_status tc_hub_find(const tc_hub_name *name, const char *cache, char ret[TC_HUB_PATH_BYTES], tc_error *e)
{
    char path[TC_HUB_PATH_BYTES], commit[64], *text = NULL;
    size_t bytes;
    struct stat st;
    snprintf(commit, sizeof commit, "%.40s", name->revision);
    if (!is_commit(name->revision)) {
        TC_TRY(tc_hub_place(name, cache, "refs", name->revision, path, e));
        if (tc_read_file(path, 128, &text, &bytes, NULL) == TC_OK) {
            snprintf(commit, sizeof commit, "%.40s", text);
            free(text);
        }
    }
    if (is_commit(commit)) {
        TC_TRY(tc_hub_place(name, cache, "snapshots", commit, path, e));
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            memcpy(ret, path, sizeof path);
            return TC_OK;
        }
    }
    return tc_fail(e, TC_NOT_FOUND, "%s/%s: revision %s is not in the cache %s", name->owner, name->name,
                   name->revision, cache);
}

// ---- checksums ----

tc_status tc_hub_check(int fd, const tc_hub_file *file, bool *ret_same, tc_error *e)
{
    bool git = strlen(file->checksum) == 40; // of git's blob: its header counts
    unsigned char *buffer = malloc(CHECK_BYTES), sum[EVP_MAX_MD_SIZE];
    char head[64], hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned bytes = 0;
    tc_status status = TC_OK;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int head_bytes = snprintf(head, sizeof head, "blob %llu", (unsigned long long)file->bytes) + 1;
    if (!buffer || !context || EVP_DigestInit_ex(context, git ? EVP_sha1() : EVP_sha256(), NULL) != 1)
        TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no checksums", file->path));
    if (git) EVP_DigestUpdate(context, head, (size_t)head_bytes);
    for (off_t at = 0;;) {
        ssize_t n = pread(fd, buffer, CHECK_BYTES, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s: reading it back", file->path));
        if (n == 0) break;
        EVP_DigestUpdate(context, buffer, (size_t)n);
        at += n;
    }
    EVP_DigestFinal_ex(context, sum, &bytes);
    for (unsigned i = 0; i < bytes; i++) snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    *ret_same = strcmp(hex, file->checksum) == 0;
out:
    EVP_MD_CTX_free(context);
    free(buffer);
    return status;
}

// ---- ls, rm ----

static uint64_t count_blobs(const char *folder, tc_hub_entry *ret)
{
    char path[TC_HUB_PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/blobs", folder);
    DIR *dir = opendir(path);
    struct stat st;
    for (struct dirent *d; dir && (d = readdir(dir));) {
        size_t n = strlen(d->d_name);
        if (d->d_name[0] == '.' || fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        bool partial = n > 11 && strcmp(d->d_name + n - 11, ".incomplete") == 0;
        ret->incomplete += partial;
        ret->blobs += !partial;
        ret->bytes += (uint64_t)st.st_blocks * 512;
    }
    if (dir) closedir(dir);
    snprintf(path, sizeof path, "%s/snapshots", folder);
    dir = opendir(path);
    for (struct dirent *d; dir && (d = readdir(dir));) ret->revisions += d->d_name[0] != '.';
    if (dir) closedir(dir);
    return ret->bytes;
}

tc_status tc_hub_list(const char *cache, bool (*visit)(void *arg, const tc_hub_entry *entry), void *arg,
                      tc_error *e)
{
    static const char prefix[] = "models--";
    struct dirent **names;
    int count = scandir(cache, &names, NULL, alphasort);
    bool going = true;
    if (count < 0 && errno == ENOENT) return TC_OK;
    if (count < 0) return tc_fail_errno(e, TC_IO, "%s", cache);
    for (int i = 0; i < count; i++) {
        char folder[TC_HUB_PATH_BYTES], *owner = names[i]->d_name + strlen(prefix), *name;
        tc_hub_entry entry = {0};
        if (going && strncmp(names[i]->d_name, prefix, strlen(prefix)) == 0 && (name = strstr(owner, "--")) &&
            snprintf(folder, sizeof folder, "%s/%s", cache, names[i]->d_name) < (int)sizeof folder) {
            *name = 0;
            entry.owner = owner;
            entry.name = name + 2;
            count_blobs(folder, &entry);
            going = visit(arg, &entry);
        }
        free(names[i]);
    }
    free(names);
    return TC_OK;
}

// Never through a link.
static tc_status remove_tree(int parent, const char *name, int depth, tc_error *e)
{
    struct stat st;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return tc_fail_errno(e, TC_IO, "%s", name);
    if (!S_ISDIR(st.st_mode))
        return unlinkat(parent, name, 0) == 0 ? TC_OK : tc_fail_errno(e, TC_IO, "%s: cannot remove", name);
    if (depth == DEPTH_MAX) return tc_fail(e, TC_LIMIT, "%s: folders nested too deep", name);
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    tc_status status = TC_OK;
    if (!dir) return tc_fail_errno(e, TC_IO, "%s", name);
    for (struct dirent *d; status == TC_OK && (d = readdir(dir));)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            status = remove_tree(fd, d->d_name, depth + 1, e);
    closedir(dir);
    if (status == TC_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0)
        status = tc_fail_errno(e, TC_IO, "%s: cannot remove", name);
    return status;
}

tc_status tc_hub_remove(const tc_hub_name *name, const char *cache, uint64_t *ret_bytes, tc_error *e)
{
    char path[TC_HUB_PATH_BYTES];
    tc_hub_entry entry = {0};
    struct stat st;
    TC_TRY(tc_hub_place(name, cache, "", "", path, e));
    if (lstat(path, &st) != 0)
        return tc_fail(e, TC_NOT_FOUND, "%s/%s is not in the cache %s", name->owner, name->name, cache);
    *ret_bytes = count_blobs(path, &entry);
    return remove_tree(AT_FDCWD, path, 0, e);
}
