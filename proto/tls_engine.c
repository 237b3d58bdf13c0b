// SPDX-License-Identifier: Apache-2.0
// Owns: OpenSSL under nng's TLS streams, registered as nng's engine in place of Mbed TLS: for its ciphers
// (AES-GCM by the CPU's instructions), TLS 1.3, addresses in certificates, and any kind of key. nng
// serialises the calls of a connection, and gives and takes the encrypted bytes. Refuses: TLS below 1.2,
// renegotiation, resumption, compression, keys with a password.
#include "proto/link_impl.h"

#include <nng/supplemental/tls/engine.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <string.h>

// nng's buffers hold 16 KiB: a record with its frame fits into one.
enum { RECORD_BYTES = (16 << 10) - 64, HOST_BYTES_MAX = 256 };

struct nng_tls_engine_config {
    SSL_CTX *ctx;
    bool listens;
    char host[HOST_BYTES_MAX]; // that the peer's certificate must be of; empty: any
};

struct nng_tls_engine_conn {
    SSL *ssl;
    void *stream; // nng's, of the encrypted bytes
};

static BIO_METHOD *stream_method;

// ---- encrypted bytes ----

static int stream_write(BIO *bio, const char *data, int bytes)
{
    size_t n = (size_t)bytes;
    BIO_clear_retry_flags(bio);
    int rv = nng_tls_engine_send(BIO_get_data(bio), (const uint8_t *)data, &n);
    if (rv == NNG_EAGAIN) BIO_set_retry_write(bio);
    return rv == 0 ? (int)n : -1;
}

static int stream_read(BIO *bio, char *data, int bytes)
{
    size_t n = (size_t)bytes;
    BIO_clear_retry_flags(bio);
    int rv = nng_tls_engine_recv(BIO_get_data(bio), (uint8_t *)data, &n);
    if (rv == NNG_EAGAIN) BIO_set_retry_read(bio);
    return rv == 0 ? (int)n : rv == NNG_ECLOSED ? 0 : -1;
}

static long stream_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; // nothing is kept here
}

// ---- connections ----

static int connection_init(nng_tls_engine_conn *c, void *stream, nng_tls_engine_config *config)
{
    BIO *bio = BIO_new(stream_method);
    c->stream = stream;
    c->ssl = bio ? SSL_new(config->ctx) : NULL;
    if (!c->ssl) {
        BIO_free(bio);
        return NNG_ENOMEM;
    }
    BIO_set_data(bio, stream);
    BIO_set_init(bio, 1);
    SSL_set_bio(c->ssl, bio, bio);
    if (config->listens) {
        SSL_set_accept_state(c->ssl);
        return 0;
    }
    SSL_set_connect_state(c->ssl);
    X509_VERIFY_PARAM *wanted = SSL_get0_param(c->ssl);
    if (!*config->host || X509_VERIFY_PARAM_set1_ip_asc(wanted, config->host)) return 0;
    ERR_clear_error(); // no address: a name
    bool named = X509_VERIFY_PARAM_set1_host(wanted, config->host, 0) &&
                 SSL_set_tlsext_host_name(c->ssl, config->host);
    if (named) return 0;
    SSL_free(c->ssl);
    c->ssl = NULL;
    return NNG_ENOMEM;
}

static void connection_fini(nng_tls_engine_conn *c)
{
    SSL_free(c->ssl);
}

static void connection_close(nng_tls_engine_conn *c)
{
    if (SSL_is_init_finished(c->ssl)) SSL_shutdown(c->ssl); // said if it can be; nobody waits for an answer
    ERR_clear_error();
}

// What an operation that did not succeed means to nng.
static int why(nng_tls_engine_conn *c, int result)
{
    int kind = SSL_get_error(c->ssl, result);
    unsigned long first = ERR_peek_error();
    ERR_clear_error();
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) return NNG_EAGAIN;
    if (kind == SSL_ERROR_ZERO_RETURN) return NNG_ECLOSED;
    if (!first) return NNG_ECONNSHUT; // the stream ended without a word
    if (ERR_GET_LIB(first) == ERR_LIB_SSL && ERR_GET_REASON(first) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        return NNG_EPEERAUTH;
    if (ERR_GET_LIB(first) == ERR_LIB_SSL && ERR_GET_REASON(first) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return NNG_ECONNSHUT;
    return NNG_ECRYPTO;
}

static int connection_handshake(nng_tls_engine_conn *c)
{
    ERR_clear_error();
    int result = SSL_do_handshake(c->ssl);
    return result == 1 ? 0 : why(c, result);
}

static int connection_recv(nng_tls_engine_conn *c, uint8_t *data, size_t *bytes)
{
    ERR_clear_error();
    int result = SSL_read_ex(c->ssl, data, *bytes, bytes);
    return result == 1 ? 0 : why(c, result);
}

static int connection_send(nng_tls_engine_conn *c, const uint8_t *data, size_t *bytes)
{
    ERR_clear_error();
    int result = SSL_write_ex(c->ssl, data, *bytes, bytes);
    return result == 1 ? 0 : why(c, result);
}

static bool connection_verified(nng_tls_engine_conn *c)
{
    return SSL_get0_peer_certificate(c->ssl) && SSL_get_verify_result(c->ssl) == X509_V_OK;
}

// ---- configurations ----

static int config_init(nng_tls_engine_config *config, nng_tls_mode mode)
{
    config->listens = mode == NNG_TLS_MODE_SERVER;
    config->ctx = SSL_CTX_new(config->listens ? TLS_server_method() : TLS_client_method());
    if (!config->ctx) return NNG_ENOMEM;
    SSL_CTX_set_min_proto_version(config->ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(config->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                         SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(config->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(config->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(config->ctx, 0);
    SSL_CTX_set_max_send_fragment(config->ctx, RECORD_BYTES);
    SSL_CTX_set_verify(config->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

static void config_fini(nng_tls_engine_config *config)
{
    SSL_CTX_free(config->ctx);
}

static int config_server(nng_tls_engine_config *config, const char *name)
{
    size_t n = strnlen(name, sizeof config->host);
    if (n == sizeof config->host) return NNG_EINVAL;
    memcpy(config->host, name, n + 1);
    return 0;
}

// An authority without a revocation list has revoked nobody.
static int on_verify(int fine, X509_STORE_CTX *store)
{
    return fine || X509_STORE_CTX_get_error(store) == X509_V_ERR_UNABLE_TO_GET_CRL;
}

static int config_auth(nng_tls_engine_config *config, nng_tls_auth_mode mode)
{
    if (mode != NNG_TLS_AUTH_MODE_REQUIRED) return NNG_ENOTSUP;
    SSL_CTX_set_verify(config->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, on_verify);
    return 0;
}

// Everything of one kind that is in the text, by `take`. False: none, or one that cannot be read.
static bool read_all(const char *pem, bool lists, bool (*take)(void *to, X509 *certificate, X509_CRL *list),
                     void *to)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    STACK_OF(X509_INFO) *all = bio ? PEM_X509_INFO_read_bio(bio, NULL, NULL, NULL) : NULL;
    int taken = 0;
    bool fine = all != NULL;
    for (int i = 0; fine && i < sk_X509_INFO_num(all); i++) {
        X509_INFO *one = sk_X509_INFO_value(all, i);
        if (lists ? !one->crl : !one->x509) continue;
        fine = take(to, lists ? NULL : one->x509, lists ? one->crl : NULL); // both may be in one
        taken++;
    }
    sk_X509_INFO_pop_free(all, X509_INFO_free);
    BIO_free(bio);
    ERR_clear_error();
    return fine && taken > 0;
}

static bool take_authority(void *store, X509 *certificate, X509_CRL *list)
{
    return certificate ? X509_STORE_add_cert(store, certificate) : X509_STORE_add_crl(store, list);
}

static int config_ca_chain(nng_tls_engine_config *config, const char *certificates, const char *lists)
{
    X509_STORE *store = SSL_CTX_get_cert_store(config->ctx);
    // Whoever is in the file is believed, whether or not it signed itself.
    unsigned long flags = X509_V_FLAG_PARTIAL_CHAIN | (lists ? X509_V_FLAG_CRL_CHECK : 0);
    X509_STORE_set_flags(store, flags);
    if (!read_all(certificates, false, take_authority, store)) return NNG_ECRYPTO;
    return !lists || read_all(lists, true, take_authority, store) ? 0 : NNG_ECRYPTO;
}

// The first is ours, the others lie between it and the authority.
static bool take_own(void *ctx, X509 *certificate, X509_CRL *list)
{
    (void)list;
    return SSL_CTX_get0_certificate(ctx) ? SSL_CTX_add1_chain_cert(ctx, certificate) == 1
                                         : SSL_CTX_use_certificate(ctx, certificate) == 1;
}

static int no_password(char *text, int bytes, int writes, void *arg)
{
    (void)text, (void)bytes, (void)writes, (void)arg;
    return -1;
}

static int config_own_cert(nng_tls_engine_config *config, const char *certificates, const char *key,
                           const char *password)
{
    if (password || SSL_CTX_get0_certificate(config->ctx)) return NNG_ENOTSUP;
    BIO *bio = BIO_new_mem_buf(key, -1);
    EVP_PKEY *own = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    bool fine = own && read_all(certificates, false, take_own, config->ctx) &&
                SSL_CTX_use_PrivateKey(config->ctx, own) == 1 && SSL_CTX_check_private_key(config->ctx) == 1;
    EVP_PKEY_free(own);
    BIO_free(bio);
    ERR_clear_error();
    return fine ? 0 : NNG_ECRYPTO;
}

static int config_version(nng_tls_engine_config *config, nng_tls_version least, nng_tls_version most)
{
    if (least < NNG_TLS_1_2 || most < least) return NNG_ENOTSUP;
    SSL_CTX_set_min_proto_version(config->ctx, least == NNG_TLS_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(config->ctx, most == NNG_TLS_1_2 ? TLS1_2_VERSION : TLS1_3_VERSION);
    return 0;
}

// ---- the engine ----

static int registered;

static void register_engine(void)
{
    static nng_tls_engine_config_ops configs = {.size = sizeof(nng_tls_engine_config),
                                                .init = config_init,
                                                .fini = config_fini,
                                                .server = config_server,
                                                .auth = config_auth,
                                                .ca_chain = config_ca_chain,
                                                .own_cert = config_own_cert,
                                                .version = config_version};
    static nng_tls_engine_conn_ops connections = {.size = sizeof(nng_tls_engine_conn),
                                                  .init = connection_init,
                                                  .fini = connection_fini,
                                                  .close = connection_close,
                                                  .handshake = connection_handshake,
                                                  .recv = connection_recv,
                                                  .send = connection_send,
                                                  .verified = connection_verified};
    static const nng_tls_engine engine = {.version = NNG_TLS_ENGINE_VERSION,
                                          .config_ops = &configs,
                                          .conn_ops = &connections,
                                          .name = "openssl",
                                          .description = "OpenSSL 3"};
    stream_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nng stream");
    if (!stream_method || !BIO_meth_set_write(stream_method, stream_write) ||
        !BIO_meth_set_read(stream_method, stream_read) || !BIO_meth_set_ctrl(stream_method, stream_control))
        registered = NNG_ENOMEM;
    else
        registered = nng_tls_engine_register(&engine);
}

int tc_tls_engine(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_engine);
    return registered;
}
