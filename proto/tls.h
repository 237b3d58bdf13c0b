// SPDX-License-Identifier: Apache-2.0
// Owns: what a link needs to know for mutual TLS: whose certificates are believed, and who we are.
// Refuses: system-wide authorities (only `ca` is believed), peers without a certificate, keys that others may
// read, and any way back to an unencrypted connection.
#pragma once

#include "common/base/status.h"

enum { TC_TLS_FILE_BYTES_MAX = 256 << 10 };

typedef struct tc_tls {
    const char *ca;   // PEM file: authorities whose certificates are believed, and revocation lists
    const char *cert; // PEM file: our certificate, and those between it and the authority
    const char *key;  // PEM file: its key. Ours alone, or root's and readable by our group
    const char *name; // dialling: the name that the peer's certificate must have; NULL: the address's host
} tc_tls;

// Is it all there where the address asks for it (tls+tcp://), and nothing where it would mislead (tcp://)?
// Files are not looked at. tls may be NULL.
tc_status tc_tls_check_url(const char *url, const tc_tls *tls, tc_error *e);
