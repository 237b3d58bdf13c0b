// SPDX-License-Identifier: Apache-2.0
// Owns: reading the files of a tc_tls into nng's TLS configuration (OpenSSL underneath: tls_engine.c). What
// nng would do by itself is replaced, not added to: a listener asks for certificates, always.
#include "proto/link_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <nng/supplemental/tls/tls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool begins(const char *url, const char *scheme)
{
    return strncmp(url, scheme, strlen(scheme)) == 0;
}

tc_status tc_tls_check_url(const char *url, const tc_tls *tls, tc_error *e)
{
    bool any = tls && (tls->ca || tls->cert || tls->key);
    if (begins(url, "tls+tcp://") && !(tls && tls->ca && tls->cert && tls->key))
        return tc_fail(e, TC_ARGUMENT, "%s: needs --tls-ca, --tls-cert and --tls-key", url);
    if (begins(url, "tcp://") && any)
        return tc_fail(e, TC_ARGUMENT,
                       "%s: is not encrypted, whatever --tls-... say; the address must begin with tls+tcp://",
                       url);
    return TC_OK;
}

// Who may read a key: we, or root and our group.
static tc_status check_key(const char *path, const struct stat *st, tc_error *e)
{
    mode_t mode = st->st_mode & 07777;
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return tc_fail(e, TC_ARGUMENT, "%s: the key belongs to another user (%u)", path,
                       (unsigned)st->st_uid);
    if ((mode & 077) != 0 && !(st->st_uid == 0 && (mode & 037) == 0))
        return tc_fail(e, TC_ARGUMENT,
                       "%s: others may use the key (mode %04o): chmod 600, or 640 where it is root's", path,
                       (unsigned)mode);
    return TC_OK;
}

// The whole file as text, at most TC_TLS_FILE_BYTES_MAX bytes; the caller's, to be wiped.
static tc_status read_pem(const char *path, const char *what, bool key, char **ret, tc_error *e)
{
    struct stat st;
    char *text = NULL;
    size_t used = 0;
    tc_status status = TC_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%s", path);
    if (fstat(fd, &st) != 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", path));
    if (!S_ISREG(st.st_mode)) TC_GOTO(tc_fail(e, TC_ARGUMENT, "%s: is not a file", path));
    if (key) TC_GOTO(check_key(path, &st, e));
    if (st.st_size > TC_TLS_FILE_BYTES_MAX)
        TC_GOTO(tc_fail(e, TC_LIMIT, "%s: is longer than %d bytes", path, TC_TLS_FILE_BYTES_MAX));
    text = calloc(1, (size_t)st.st_size + 1);
    if (!text) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: out of memory", path));
    while (used < (size_t)st.st_size) {
        ssize_t n = read(fd, text + used, (size_t)st.st_size - used);
        if (n < 0) TC_GOTO(tc_fail_errno(e, TC_IO, "%s", path));
        if (n == 0) break;
        used += (size_t)n;
    }
    if (!strstr(text, what)) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: no \"%s\" in it", path, what));
    *ret = text;
    text = NULL;
out:
    if (text) {
        explicit_bzero(text, used);
        free(text);
    }
    close(fd);
    return status;
}

static void wipe(char *text)
{
    if (!text) return;
    explicit_bzero(text, strlen(text));
    free(text);
}

tc_status tc_tls_configure(nng_tls_config *config, const tc_tls *tls, bool listens, tc_error *e)
{
    char *ca = NULL, *cert = NULL, *key = NULL;
    tc_status status = TC_OK;
    int rv;
    TC_GOTO(read_pem(tls->ca, "-----BEGIN CERTIFICATE-----", false, &ca, e));
    TC_GOTO(read_pem(tls->cert, "-----BEGIN CERTIFICATE-----", false, &cert, e));
    TC_GOTO(read_pem(tls->key, "PRIVATE KEY-----", true, &key, e));
    rv = nng_tls_config_ca_chain(config, ca, strstr(ca, "-----BEGIN X509 CRL-----") ? ca : NULL);
    if (rv != 0) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: holds certificates that cannot be read", tls->ca));
    rv = nng_tls_config_own_cert(config, cert, key, NULL);
    if (rv != 0)
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s, %s: not a certificate and a key that can be read (%s)", tls->cert,
                        tls->key, nng_strerror(rv)));
    rv = nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED);
    if (rv == 0) rv = nng_tls_config_version(config, NNG_TLS_1_2, NNG_TLS_1_3);
    if (rv == 0 && !listens && tls->name) rv = nng_tls_config_server_name(config, tls->name);
    if (rv != 0) TC_GOTO(tc_fail(e, TC_INTERNAL, "TLS: %s", nng_strerror(rv)));
out:
    wipe(ca);
    wipe(cert);
    wipe(key);
    return status;
}
