// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing config.json: whatever is accepted must lie within the limits of model.h, and its names and
// shapes must be usable. A 0x00 byte splits the input: what follows is generation_config.json.
#include "common/model/model.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char directory[64];

static void remove_directory(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/generation_config.json", directory);
    unlink(path);
    rmdir(directory);
}

static void put(const char *name, const uint8_t *data, size_t bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) abort();
    close(fd);
}

static void check_desc(const tc_model_desc *d)
{
    char name[TC_TENSOR_NAME_BYTES];
    if (!d->layers || d->layers > TC_LAYERS_MAX || !d->hidden || d->hidden > TC_HIDDEN_MAX || !d->experts ||
        d->experts > TC_EXPERTS_MAX || !d->top_k || d->top_k > d->experts || d->top_k > TC_TOP_K_MAX ||
        d->heads % d->kv_heads || d->rotary_dim > d->head_dim || d->rotary_dim % 2 ||
        d->generation.eos_count > TC_EOS_MAX)
        abort();
    for (int role = 0; role < TC_ROLES; role++) {
        uint32_t rows, cols;
        tc_model_tensor_name(d, (tc_role)role, d->layers - 1, d->experts - 1, name);
        tc_model_tensor_shape(d, (tc_role)role, d->layers - 1, &rows, &cols);
        if (strlen(name) >= sizeof name) abort();
    }
    (void)tc_model_kv_bytes(d, d->max_positions, 4);
    (void)tc_model_state_bytes(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (!directory[0]) {
        // In memory where there is such a place: each input is two files.
        strcpy(directory, "/dev/shm/tc-fuzz-config-XXXXXX");
        if (!mkdtemp(directory)) {
            strcpy(directory, "/tmp/tc-fuzz-config-XXXXXX");
            if (!mkdtemp(directory)) abort();
        }
        atexit(remove_directory);
    }
    const uint8_t *split = memchr(data, 0, bytes);
    size_t first = split ? (size_t)(split - data) : bytes;
    put("config.json", data, first);
    put("generation_config.json", split ? split + 1 : (const uint8_t *)"{}", split ? bytes - first - 1 : 2);
    tc_model_desc desc;
    tc_error e = {0};
    tc_status status = tc_model_desc_load(directory, &desc, &e);
    if (status == TC_OK)
        check_desc(&desc);
    else if (!strstr(e.text, "config.json"))
        abort();
    return 0;
}
