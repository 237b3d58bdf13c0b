// SPDX-License-Identifier: Apache-2.0
// Owns: talking to the hub: its description of a revision, and the files, several at a time. A file arrives
// in blobs/CHECKSUM.incomplete under a lock, goes on where it stopped, is never longer than announced, and
// gets its name when its checksum is right.
//
//   attempt --bytes came--> attempt again, as if for the first time
//           --none-------> wait (Retry-After, else twice as long as before) --> attempt, TC_HUB_ATTEMPTS
//           times
//           --refused----> the end (401, 403, 404, ...)
#include "common/base/clock.h"
#include "common/hub/hub_impl.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CONNECT_S = 15,
    STALL_S = 30,
    REDIRECTS_MAX = 5,
    JOBS_DEFAULT = 4,
    WAIT_MS_DEFAULT = 500,
    LOOK_MS = 100,
    NOTE_BYTES = 256,
    ETAG_BYTES = 96,
    HEADER_BYTES = 256 // of a header's value that is looked at
};

typedef struct fetcher {
    const tc_hub_name *name;
    const tc_hub_options *o;
    const tc_hub_files *files;
    _Atomic uint32_t next, finished, running;
    _Atomic uint64_t done; // bytes that are here
    _Atomic bool stop;
    pthread_mutex_t mutex; // of what follows
    char note[NOTE_BYTES];
    bool has_note;
    tc_status status;
    tc_error error; // of the first failure
} fetcher;

// ---- one request ----

typedef struct request {
    CURL *curl;
    struct curl_slist *headers;
    char *text; // a description: what has arrived
    size_t text_bytes;
    int fd;              // a file: where it goes; -1
    uint64_t at, whole;  // where the next byte belongs, and the file's announced size
    uint64_t range_from; // of Content-Range
    bool began, overflow, io_failed;
    char error_code[32];                       // X-Error-Code: why a hub refuses
    char linked[ETAG_BYTES], etag[ETAG_BYTES]; // X-Linked-ETag and ETag, without quotes; "": none
    uint64_t linked_bytes;                     // X-Linked-Size; UINT64_MAX: none
    long reset_s;                              // RateLimit: seconds until more is answered; 0: not told
    fetcher *f;                                // NULL for a description
    char problem[CURL_ERROR_SIZE];
} request;

static size_t take_text(char *data, size_t one, size_t bytes, void *arg)
{
    (void)one;
    request *r = arg;
    if (r->text_bytes + bytes > TC_HUB_LIST_BYTES_MAX) {
        r->overflow = true;
        return 0;
    }
    char *text = realloc(r->text, r->text_bytes + bytes + 1);
    if (!text) return 0;
    memcpy(text + r->text_bytes, data, bytes);
    r->text = text;
    r->text_bytes += bytes;
    r->text[r->text_bytes] = 0;
    return bytes;
}

// The first bytes of an answer: where do they belong?
static bool begin_body(request *r)
{
    long code = 0;
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &code);
    if (code == 200 && r->at) { // a hub that does not do ranges sends all of it again
        atomic_fetch_sub(&r->f->done, r->at);
        r->at = 0;
        if (ftruncate(r->fd, 0) != 0) return false;
    }
    if (code == 206 && r->range_from != r->at) {
        r->overflow = true;
        return false;
    }
    r->began = true;
    return code == 200 || code == 206;
}

static size_t take_bytes(char *data, size_t one, size_t bytes, void *arg)
{
    (void)one;
    request *r = arg;
    if (!r->began && !begin_body(r)) return 0;
    if (bytes > r->whole - r->at) {
        r->overflow = true;
        return 0;
    }
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(r->fd, data + done, bytes - done, (off_t)r->at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            r->io_failed = true;
            return 0;
        }
        done += (size_t)n;
        r->at += (uint64_t)n;
        atomic_fetch_add(&r->f->done, (uint64_t)n);
    }
    return bytes;
}

// The value of a header line, where it has that name: without blanks around it, cut at `bytes`.
static bool value_of(const char *line, size_t line_bytes, const char *name, char *ret, size_t bytes)
{
    size_t n = strlen(name);
    if (line_bytes <= n || strncasecmp(line, name, n) != 0 || line[n] != ':') return false;
    const char *from = line + n + 1, *end = line + line_bytes;
    while (from < end && (*from == ' ' || *from == '\t')) from++;
    while (end > from && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ')) end--;
    snprintf(ret, bytes, "%.*s", (int)(end - from < HEADER_BYTES ? end - from : HEADER_BYTES), from);
    return true;
}

// An ETag is a text in quotes, perhaps behind W/.
static void take_etag(const char *value, char ret[ETAG_BYTES])
{
    if (strncmp(value, "W/", 2) == 0) value += 2;
    if (*value == '"') value++;
    snprintf(ret, ETAG_BYTES, "%.*s", (int)strcspn(value, "\""), value);
}

static size_t take_header(char *data, size_t one, size_t bytes, void *arg)
{
    request *r = arg;
    char value[HEADER_BYTES + 1], *seconds;
    unsigned long long number;
    if (value_of(data, bytes, "content-range", value, sizeof value))
        r->range_from = sscanf(value, "bytes %llu-", &number) == 1 ? number : UINT64_MAX;
    else if (value_of(data, bytes, "x-linked-etag", value, sizeof value))
        take_etag(value, r->linked);
    else if (value_of(data, bytes, "etag", value, sizeof value))
        take_etag(value, r->etag);
    else if (value_of(data, bytes, "x-linked-size", value, sizeof value))
        r->linked_bytes = sscanf(value, "%19llu", &number) == 1 ? number : UINT64_MAX;
    else if (value_of(data, bytes, "x-error-code", value, sizeof value))
        snprintf(r->error_code, sizeof r->error_code, "%.31s", value);
    else if (value_of(data, bytes, "ratelimit", value, sizeof value) && (seconds = strstr(value, "t=")))
        r->reset_s = strtol(seconds + 2, NULL, 10);
    return one * bytes;
}

static int look_up(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    request *r = arg;
    return r->f && atomic_load(&r->f->stop);
}

static tc_status open_request(request *r, const tc_hub_options *o, const char *url, tc_error *e)
{
    char line[1024];
    r->curl = curl_easy_init();
    if (!r->curl) return tc_fail(e, TC_NOMEM, "%s: out of memory", url);
    if (o->token && *o->token) {
        if (snprintf(line, sizeof line, "Authorization: Bearer %s", o->token) >= (int)sizeof line ||
            strpbrk(line, "\r\n"))
            return tc_fail(e, TC_ARGUMENT, "the hub's token is too long, or has a line end in it");
        r->headers = curl_slist_append(r->headers, line); // curl keeps it from other hosts
    }
    curl_easy_setopt(r->curl, CURLOPT_URL, url);
    curl_easy_setopt(r->curl, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(r->curl, CURLOPT_USERAGENT, "thermocline/" TC_VERSION);
    curl_easy_setopt(r->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(r->curl, CURLOPT_REDIR_PROTOCOLS_STR,
                     strncmp(url, "https:", 6) == 0 ? "https" : "http,https");
    curl_easy_setopt(r->curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(r->curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    curl_easy_setopt(r->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(r->curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(r->curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    curl_easy_setopt(r->curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(r->curl, CURLOPT_ERRORBUFFER, r->problem);
    curl_easy_setopt(r->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(r->curl, CURLOPT_XFERINFOFUNCTION, look_up);
    curl_easy_setopt(r->curl, CURLOPT_XFERINFODATA, r);
    curl_easy_setopt(r->curl, CURLOPT_WRITEFUNCTION, r->fd < 0 ? take_text : take_bytes);
    curl_easy_setopt(r->curl, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(r->curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(r->curl, CURLOPT_HEADERDATA, r);
    return TC_OK;
}

static void close_request(request *r)
{
    curl_slist_free_all(r->headers);
    if (r->curl) curl_easy_cleanup(r->curl);
    free(r->text);
}

// Hubs answer 401 for models that are not there, too, so that nobody learns which are.
static tc_status refused(const request *r, long http, const char *what, tc_error *e)
{
    const char *why = "it wants a token that may read this, in HF_TOKEN";
    if (strcmp(r->error_code, "GatedRepo") == 0)
        why =
            "the model is gated: accept its terms on its page, and give a token that may read it in HF_TOKEN";
    else if (strcmp(r->error_code, "RepoNotFound") == 0)
        why = "there is no such model, or it is private and wants a token that may read it, in HF_TOKEN";
    else if (r->headers)
        why = "the token that was sent (HF_TOKEN, or the file of HF_TOKEN_PATH) may not read this";
    return tc_fail(e, TC_UNSUPPORTED, "%s: the hub answers %ld: %s", what, http, why);
}

static tc_status missing(const request *r, const char *what, tc_error *e)
{
    const char *why = "there is no such model, revision or file";
    if (strcmp(r->error_code, "RepoNotFound") == 0) why = "there is no such model";
    if (strcmp(r->error_code, "RevisionNotFound") == 0) why = "the model has no such revision";
    if (strcmp(r->error_code, "EntryNotFound") == 0) why = "the revision has no such file";
    return tc_fail(e, TC_NOT_FOUND, "%s: the hub answers 404: %s", what, why);
}

// What an attempt means. BUSY: may be tried again after *ret_wait_s (0: as we like).
static tc_status judge(request *r, CURLcode code, const char *what, long *ret_wait_s, tc_error *e)
{
    long http = 0;
    curl_off_t wait = 0;
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &http);
    curl_easy_getinfo(r->curl, CURLINFO_RETRY_AFTER, &wait); // seconds, or a date
    if (wait == 0 && http == 429) wait = r->reset_s;
    *ret_wait_s = wait < 0 ? 0 : wait > TC_HUB_WAIT_S_MAX ? TC_HUB_WAIT_S_MAX : (long)wait;
    if (r->io_failed) return tc_fail_errno(e, TC_IO, "%s: cannot write", what);
    if (r->overflow)
        return tc_fail(e, TC_BUSY,
                       "%s: the hub sends more than it announced, or other bytes than were asked for", what);
    if (code == CURLE_OK) return TC_OK;
    if (http == 401 || http == 403) return refused(r, http, what, e);
    if (http == 404) return missing(r, what, e);
    bool again =
        http == 0 || http == 200 || http == 206 || http == 408 || http == 416 || http == 429 || http >= 500;
    const char *why = *r->problem ? r->problem : curl_easy_strerror(code);
    if (http >= 400) return tc_fail(e, again ? TC_BUSY : TC_FORMAT, "%s: the hub answers %ld", what, http);
    bool hopeless = code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL ||
                    code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_TOO_MANY_REDIRECTS;
    return tc_fail(e, again && !hopeless ? TC_BUSY : TC_IO, "%s: %s", what, why);
}

// ---- waiting ----

static void tell(fetcher *f, const tc_error *e)
{
    pthread_mutex_lock(&f->mutex);
    snprintf(f->note, sizeof f->note, "%.250s", e->text);
    f->has_note = true;
    pthread_mutex_unlock(&f->mutex);
}

static bool wait_ms(fetcher *f, uint64_t ms)
{
    for (uint64_t end = tc_now_us() + ms * 1000; tc_now_us() < end && !atomic_load(&f->stop);) usleep(10000);
    return !atomic_load(&f->stop);
}

static uint64_t pause_of(const tc_hub_options *o, uint32_t attempt, long wait_s)
{
    uint64_t first = o->wait_ms ? o->wait_ms : WAIT_MS_DEFAULT, own = first << (attempt < 6 ? attempt : 6);
    return wait_s > 0 ? (uint64_t)wait_s * 1000 : own;
}

// ---- the description ----

static tc_status ask_once(const tc_hub_options *o, const char *url, request *r, long *wait_s, tc_error *e)
{
    *r = (request){.fd = -1};
    TC_TRY(open_request(r, o, url, e));
    return judge(r, curl_easy_perform(r->curl), url, wait_s, e);
}

static tc_status ask_description(const tc_hub_name *name, const tc_hub_options *o, tc_hub_files *ret,
                                 tc_error *e)
{
    char url[TC_HUB_PATH_BYTES], *revision = curl_easy_escape(NULL, name->revision, 0);
    tc_status status = TC_BUSY;
    if (!revision) return tc_fail(e, TC_NOMEM, "out of memory");
    int n = snprintf(url, sizeof url, "%s/api/models/%s/%s/revision/%s?blobs=true", o->endpoint, name->owner,
                     name->name, revision);
    curl_free(revision);
    if (n >= (int)sizeof url)
        return tc_fail(e, TC_LIMIT, "%.64s...: the hub's address is too long", o->endpoint);
    for (uint32_t attempt = 0; attempt < TC_HUB_ATTEMPTS / 2; attempt++) {
        request r;
        long wait_s = 0;
        status = ask_once(o, url, &r, &wait_s, e);
        if (status == TC_OK)
            status = tc_hub_files_parse(url, r.text ? r.text : "", r.text_bytes, o->include, ret, e);
        close_request(&r);
        if (status != TC_BUSY || attempt + 1 == TC_HUB_ATTEMPTS / 2) break;
        if (o->progress && !o->progress(o->arg, 0, 0, 0, 0, e->text))
            return tc_fail(e, TC_CANCELLED, "stopped");
        usleep((useconds_t)pause_of(o, attempt, wait_s) * 1000);
    }
    return status;
}

// ---- a file that the description only names ----

static tc_status address_of(const tc_hub_name *name, const tc_hub_options *o, const char *commit,
                            const char *file, char ret[TC_HUB_PATH_BYTES], tc_error *e)
{
    char *path = curl_easy_escape(NULL, file, 0);
    if (!path) return tc_fail(e, TC_NOMEM, "out of memory");
    int n = snprintf(ret, TC_HUB_PATH_BYTES, "%s/%s/%s/resolve/%s/%s", o->endpoint, name->owner, name->name,
                     commit, path);
    curl_free(path);
    return n < TC_HUB_PATH_BYTES ? TC_OK : tc_fail(e, TC_LIMIT, "%s: its address is too long", file);
}

// What the answer says of the file: the hub's own word for what lies elsewhere, else that of the bytes.
static tc_status take_word(const request *r, tc_hub_file *file, tc_error *e)
{
    curl_off_t length = -1;
    long http = 0;
    const char *sum = *r->linked ? r->linked : r->etag;
    size_t digits = strlen(sum);
    curl_easy_getinfo(r->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &http);
    bool own = http == 200 && length >= 0; // of a redirect it would be the redirect's
    uint64_t bytes = *r->linked && r->linked_bytes != UINT64_MAX ? r->linked_bytes
                     : own                                       ? (uint64_t)length
                                                                 : UINT64_MAX;
    if ((digits != 40 && digits != 64) || strspn(sum, "0123456789abcdef") != digits)
        return tc_fail(e, TC_FORMAT,
                       "%s: the hub tells no checksum (neither X-Linked-ETag nor ETag is one: \"%.40s\")",
                       file->path, sum);
    if (bytes > INT64_MAX)
        return tc_fail(e, TC_FORMAT, "%s: the hub tells no size (X-Linked-Size, Content-Length)", file->path);
    snprintf(file->checksum, sizeof file->checksum, "%.64s", sum);
    file->bytes = bytes;
    return TC_OK;
}

// One answer. *ret_next: the address on the same host that it sends to before anything is told; "": none.
static tc_status ask_head(const tc_hub_options *o, const char *url, tc_hub_file *file,
                          char ret_next[TC_HUB_PATH_BYTES], long *wait_s, tc_error *e)
{
    request r = {.fd = -1, .linked_bytes = UINT64_MAX};
    const char *next = NULL;
    tc_status status;
    *ret_next = 0;
    TC_GOTO(open_request(&r, o, url, e));
    curl_easy_setopt(r.curl, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(r.curl, CURLOPT_FOLLOWLOCATION, 0L);
    TC_GOTO(judge(&r, curl_easy_perform(r.curl), file->path, wait_s, e));
    curl_easy_getinfo(r.curl, CURLINFO_REDIRECT_URL, &next);
    size_t origin = strlen(o->endpoint);
    bool told = *r.linked && r.linked_bytes != UINT64_MAX;
    if (!told && next && strncmp(next, o->endpoint, origin) == 0 && (next[origin] == '/' || !next[origin]) &&
        snprintf(ret_next, TC_HUB_PATH_BYTES, "%s", next) < TC_HUB_PATH_BYTES)
        goto out;
    *ret_next = 0;
    status = take_word(&r, file, e);
out:
    close_request(&r);
    return status;
}

// Size and checksum of a file out of the headers of its address: hubs that are no more than a mirror
// describe no blobs.
static tc_status ask_file(const tc_hub_name *name, const tc_hub_options *o, const char *commit,
                          tc_hub_file *file, tc_error *e)
{
    char url[TC_HUB_PATH_BYTES], next[TC_HUB_PATH_BYTES];
    uint32_t hops = 0, attempt = 0;
    TC_TRY(address_of(name, o, commit, file->path, url, e));
    for (;;) {
        long wait_s = 0;
        tc_status status = ask_head(o, url, file, next, &wait_s, e);
        if (status == TC_OK && !*next) return TC_OK;
        if (status == TC_OK && hops++ < REDIRECTS_MAX) {
            memcpy(url, next, sizeof url);
            continue;
        }
        if (status == TC_OK)
            return tc_fail(e, TC_IO, "%s: more than %d redirects", file->path, REDIRECTS_MAX);
        if (status != TC_BUSY || ++attempt == TC_HUB_ATTEMPTS / 2) return status;
        if (o->progress && !o->progress(o->arg, 0, 0, 0, 0, e->text))
            return tc_fail(e, TC_CANCELLED, "stopped");
        usleep((useconds_t)pause_of(o, attempt - 1, wait_s) * 1000);
    }
}

tc_status tc_hub_ask(const tc_hub_name *name, const tc_hub_options *o, tc_hub_files *ret, tc_error *e)
{
    tc_status status;
    TC_TRY(ask_description(name, o, ret, e));
    for (uint32_t i = 0; i < ret->count; i++)
        if (!*ret->items[i].checksum) TC_GOTO(ask_file(name, o, ret->commit, &ret->items[i], e));
    return TC_OK;
out:
    free(ret->items);
    *ret = (tc_hub_files){0};
    return status;
}

// ---- one file ----

static tc_status attempt_file(fetcher *f, const tc_hub_file *file, int fd, uint64_t *at, long *wait_s,
                              tc_error *e)
{
    char url[TC_HUB_PATH_BYTES];
    request r = {.fd = fd, .at = *at, .whole = file->bytes, .f = f};
    tc_status status = TC_OK;
    TC_TRY(address_of(f->name, f->o, f->files->commit, file->path, url, e));
    TC_GOTO(open_request(&r, f->o, url, e));
    if (*at) curl_easy_setopt(r.curl, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)*at);
    status = judge(&r, curl_easy_perform(r.curl), file->path, wait_s, e);
    if (status == TC_OK && r.at < file->bytes)
        status = tc_fail(e, TC_BUSY, "%s: the hub ends after %llu of %llu bytes", file->path,
                         (unsigned long long)r.at, (unsigned long long)file->bytes);
    if (r.overflow) { // nothing of it can be trusted
        atomic_fetch_sub(&f->done, r.at);
        r.at = 0;
        if (ftruncate(fd, 0) != 0) status = tc_fail_errno(e, TC_IO, "%s", file->path);
    }
    *at = r.at;
out:
    close_request(&r);
    return status;
}

// Until all bytes are here.
static tc_status bring(fetcher *f, const tc_hub_file *file, int fd, uint64_t *at, tc_error *e)
{
    uint32_t attempt = 0;
    while (*at < file->bytes) {
        uint64_t before = *at;
        long wait_s = 0;
        tc_status status = attempt_file(f, file, fd, at, &wait_s, e);
        if (atomic_load(&f->stop)) return tc_fail(e, TC_CANCELLED, "stopped");
        if (status == TC_OK) continue;
        if (status != TC_BUSY) return status;
        tell(f, e);
        if (*at > before) attempt = 0;
        if (attempt++ == TC_HUB_ATTEMPTS)
            return tc_error_prefix(e, "given up after %d attempts", TC_HUB_ATTEMPTS);
        if (!wait_ms(f, pause_of(f->o, attempt - 1, wait_s))) return tc_fail(e, TC_CANCELLED, "stopped");
    }
    return TC_OK;
}

static tc_status lock_blob(fetcher *f, const tc_hub_file *file, int *ret, tc_error *e)
{
    char path[TC_HUB_PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/.locks/models--%s--%s/%s.lock", f->o->cache, f->name->owner,
                 f->name->name, file->checksum) >= (int)sizeof path)
        return tc_fail(e, TC_LIMIT, "%.64s...: path too long", f->o->cache);
    TC_TRY(tc_hub_make_folders(path, e));
    *ret = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*ret < 0) return tc_fail_errno(e, TC_IO, "%s", path);
    while (flock(*ret, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) return tc_fail_errno(e, TC_IO, "%s", path);
        if (!wait_ms(f, LOOK_MS)) return tc_fail(e, TC_CANCELLED, "stopped");
    }
    return TC_OK;
}

// Twice at most: what was here from an earlier attempt may have been wrong, what comes anew may not.
static tc_status bring_right(fetcher *f, const tc_hub_file *file, const char *blob, tc_error *e)
{
    char partial[TC_HUB_PATH_BYTES + 16];
    struct stat st;
    bool same = false;
    tc_status status = TC_OK;
    snprintf(partial, sizeof partial, "%s.incomplete", blob);
    int fd = open(partial, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || fstat(fd, &st) != 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", partial));
    uint64_t at = (uint64_t)st.st_size;
    if (at > file->bytes) {
        if (ftruncate(fd, 0) != 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", partial));
        at = 0;
    }
    atomic_fetch_add(&f->done, at);
    for (int round = 0; round < 2 && !same; round++) {
        TC_GOTO(bring(f, file, fd, &at, e));
        TC_GOTO(tc_hub_check(fd, file, &same, e));
        if (same) break;
        tc_fail(e, TC_FORMAT, "%s: its bytes do not have the checksum that the hub tells (%.12s...)",
                file->path, file->checksum);
        tell(f, e);
        atomic_fetch_sub(&f->done, at);
        at = 0;
        if (ftruncate(fd, 0) != 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", partial));
    }
    if (!same) TC_GOTO(TC_FORMAT);
    if (fsync(fd) != 0 || rename(partial, blob) != 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", blob));
out:
    if (fd >= 0) close(fd);
    return status;
}

static tc_status one_file(fetcher *f, const tc_hub_file *file, tc_error *e)
{
    char blob[TC_HUB_PATH_BYTES];
    struct stat st;
    int lock = -1;
    tc_status status;
    TC_TRY(tc_hub_place(f->name, f->o->cache, "blobs", file->checksum, blob, e));
    TC_TRY(tc_hub_make_folders(blob, e));
    TC_GOTO(lock_blob(f, file, &lock, e));
    if (stat(blob, &st) == 0 && (uint64_t)st.st_size == file->bytes)
        atomic_fetch_add(&f->done, file->bytes);
    else
        TC_GOTO(bring_right(f, file, blob, e));
    TC_GOTO(tc_hub_link(f->name, f->o->cache, f->files->commit, file, e));
out:
    if (lock >= 0) close(lock);
    return status;
}

// ---- all ----

static void *work(void *arg)
{
    fetcher *f = arg;
    for (uint32_t i; !atomic_load(&f->stop) && (i = atomic_fetch_add(&f->next, 1)) < f->files->count;) {
        tc_error e = {0};
        tc_status status = one_file(f, &f->files->items[i], &e);
        if (status == TC_OK) {
            atomic_fetch_add(&f->finished, 1);
            continue;
        }
        pthread_mutex_lock(&f->mutex);
        if (f->status == TC_OK) {
            f->status = status;
            f->error = e;
        }
        pthread_mutex_unlock(&f->mutex);
        atomic_store(&f->stop, true); // the others keep what they have
    }
    atomic_fetch_sub(&f->running, 1);
    return NULL;
}

// Tells how far it is, and what went wrong meanwhile. False: the caller wants it to stop.
static bool report(fetcher *f, uint64_t done, uint64_t total, uint32_t finished)
{
    char note[NOTE_BYTES];
    pthread_mutex_lock(&f->mutex);
    bool has = f->has_note;
    memcpy(note, f->note, sizeof note);
    f->has_note = false;
    pthread_mutex_unlock(&f->mutex);
    return !f->o->progress ||
           f->o->progress(f->o->arg, done, total, finished, f->files->count, has ? note : NULL);
}

static void watch(fetcher *f, uint64_t total)
{
    while (atomic_load(&f->running)) {
        if (!report(f, atomic_load(&f->done), total, (uint32_t)atomic_load(&f->finished))) {
            pthread_mutex_lock(&f->mutex);
            if (f->status == TC_OK)
                f->status = tc_fail(&f->error, TC_CANCELLED, "stopped; what has arrived is kept");
            pthread_mutex_unlock(&f->mutex);
            atomic_store(&f->stop, true);
        }
        usleep(LOOK_MS * 1000 / 4);
    }
    if (f->status == TC_OK) (void)report(f, total, total, f->files->count);
}

tc_status tc_hub_fetch(const tc_hub_name *name, const tc_hub_options *o, const tc_hub_files *files,
                       tc_error *e)
{
    fetcher f = {.name = name, .o = o, .files = files, .mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[TC_HUB_JOBS_MAX];
    uint32_t jobs = o->jobs ? o->jobs : JOBS_DEFAULT, started = 0;
    uint64_t total = 0;
    for (uint32_t i = 0; i < files->count; i++)
        if (__builtin_add_overflow(total, files->items[i].bytes, &total))
            return tc_fail(e, TC_FORMAT, "%s/%s: the sizes of its files overflow", name->owner, name->name);
    if (jobs > TC_HUB_JOBS_MAX) jobs = TC_HUB_JOBS_MAX;
    if (jobs > files->count) jobs = files->count;
    for (; started < jobs; started++) {
        atomic_fetch_add(&f.running, 1);
        if (pthread_create(&threads[started], NULL, work, &f) == 0) continue;
        atomic_fetch_sub(&f.running, 1);
        break;
    }
    if (!started) return tc_fail(e, TC_NOMEM, "no thread to download with");
    watch(&f, total);
    for (uint32_t i = 0; i < started; i++) pthread_join(threads[i], NULL);
    if (f.status != TC_OK && e) *e = f.error;
    return f.status;
}

static bool unreachable(tc_status status)
{
    return status == TC_BUSY || status == TC_IO || status == TC_TIMEOUT || status == TC_CLOSED;
}

tc_status tc_hub_pull(const tc_hub_name *name, const tc_hub_options *o, char ret[TC_HUB_PATH_BYTES],
                      bool *ret_cached, tc_error *e)
{
    tc_hub_files files = {0};
    *ret_cached = true;
    if (o->offline) {
        tc_status found = tc_hub_find(name, o->cache, ret, e);
        return found == TC_OK ? found : tc_error_prefix(e, "offline");
    }
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) return tc_fail(e, TC_INTERNAL, "libcurl cannot be used");
    tc_status status = tc_hub_ask(name, o, &files, e);
    if (unreachable(status) && tc_hub_find(name, o->cache, ret, NULL) == TC_OK) return TC_OK;
    if (status != TC_OK) return status;
    *ret_cached = false;
    TC_GOTO(tc_hub_fetch(name, o, &files, e));
    TC_GOTO(tc_hub_write_ref(name, o->cache, files.commit, e));
    TC_GOTO(tc_hub_place(name, o->cache, "snapshots", files.commit, ret, e));
out:
    free(files.items);
    return status;
}
