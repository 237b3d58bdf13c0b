// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing what operators write: thermocline.conf, the file of keys, --listen and lists of CPUs. Byte 0
// says which. A mistake is an error with its place; what is accepted is within every limit.
#include "common/base/config.h"
#include "common/base/cpus.h"
#include "gateway/address.h"
#include "gateway/auth.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static void configuration(const char *text, size_t bytes)
{
    tc_config *config = calloc(1, sizeof *config);
    tc_error e = {0};
    CHECK(config);
    if (tc_config_parse(config, text, bytes, "FILE", &e) == TC_OK) {
        CHECK(config->count <= TC_CONFIG_ENTRIES_MAX);
        for (uint32_t i = 0; i < config->count; i++) {
            const tc_config_entry *entry = &config->entry[i];
            tc_setting_value value;
            CHECK(!strncmp(entry->origin, "FILE:", 5) && atoi(entry->origin + 5) > 0);
            CHECK(tc_setting_read(entry->setting, entry->text, &value, &e) == TC_OK); // as the programs will
        }
    } else {
        CHECK(!strncmp(e.text, "FILE:", 5) || strstr(e.text, "FILE"));
    }
    tc_config_free(config);
    free(config);
}

static void keys(const char *text, size_t bytes)
{
    tc_api_keys *found = NULL;
    tc_error e = {0};
    if (tc_api_keys_parse(text, bytes, "FILE", &found, &e) == TC_OK) {
        CHECK(!tc_api_keys_match(found, "", 0));
        CHECK(!tc_api_keys_match(found, text, bytes + 1 > 600 ? bytes : 600)); // longer than a key may be
        tc_api_keys_free(found);
    } else {
        CHECK(strstr(e.text, "FILE"));
    }
}

static void one_line(const char *text)
{
    uint32_t cpus[64], count = 0;
    tc_address address;
    tc_error e = {0};
    if (tc_cpu_list_parse(text, cpus, 64, &count, &e) == TC_OK) CHECK(count >= 1 && count <= 64);
    if (tc_address_parse(text, &address, &e) == TC_OK) {
        if (address.is_unix)
            CHECK(memchr(address.path, 0, sizeof address.path));
        else
            CHECK(address.ip.ss_family == AF_INET || address.ip.ss_family == AF_INET6);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1 || bytes > TC_CONFIG_FILE_BYTES_MAX + 1) return 0;
    size_t n = bytes - 1;
    char *text = calloc(1, n + 600); // the key that is compared may be longer than the file
    CHECK(text);
    memcpy(text, data + 1, n);
    switch (data[0] % 3) {
    case 0:
        configuration(text, n);
        break;
    case 1:
        keys(text, n);
        break;
    default:
        one_line(text);
    }
    free(text);
    return 0;
}
