// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing a whole model folder: the index of shards, and the shards it names. The input is cut at zero
// bytes into model.safetensors.index.json and what two shards hold; config.json is a good one. Whatever opens
// has every tensor inside its shard.
#include "common/model/checkpoint.h"
#include "common/base/mem.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char config[] =
    "{\"model_type\":\"qwen3_moe\",\"hidden_size\":64,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"head_dim\":32,\"num_experts\":2,\"num_experts_per_tok\":1,"
    "\"moe_intermediate_size\":64,\"intermediate_size\":64,\"vocab_size\":32,\"max_position_embeddings\":64,"
    "\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"norm_topk_prob\":true}";
static const char *const names[] = {"config.json", "model.safetensors.index.json", "a.safetensors",
                                    "b.safetensors", "model.safetensors"};
static char directory[64];

static void path_of(int which, char ret[128])
{
    snprintf(ret, 128, "%s/%s", directory, names[which]);
}

static void remove_directory(void)
{
    char path[128];
    for (int i = 0; i < 5; i++) {
        path_of(i, path);
        unlink(path);
    }
    rmdir(directory);
}

static void put(int which, const void *data, size_t bytes)
{
    char path[128];
    path_of(which, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) abort();
    close(fd);
}

static void begin(void)
{
    if (directory[0]) return;
    strcpy(directory, "/dev/shm/tc-fuzz-checkpoint-XXXXXX");
    if (!mkdtemp(directory)) {
        strcpy(directory, "/tmp/tc-fuzz-checkpoint-XXXXXX");
        if (!mkdtemp(directory)) abort();
    }
    atexit(remove_directory);
    put(0, config, sizeof config - 1);
}

// "header length" as safetensors has it stands in the input as text would not: eight bytes are put before it.
static void put_shard(int which, const uint8_t *header, size_t bytes)
{
    enum { DATA_BYTES = 4096 };
    uint8_t *shard = calloc(1, 8 + bytes + DATA_BYTES);
    if (!shard) abort();
    uint64_t n = bytes;
    memcpy(shard, &n, sizeof n);
    memcpy(shard + 8, header, bytes);
    put(which, shard, 8 + bytes + DATA_BYTES);
    free(shard);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[128];
    begin();
    bool single = bytes > 0 && data[0] == 'S'; // one file, no index
    const uint8_t *end = data + bytes, *at = data + (bytes > 0);
    for (int i = 1; i < 4; i++) {
        const uint8_t *zero = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        size_t n = zero ? (size_t)(zero - at) : (size_t)(end - at);
        if (i == 1 && !single)
            put(1, at, n);
        else
            put_shard(i == 1 ? 4 : i, at, n);
        at = zero ? zero + 1 : end;
    }
    path_of(single ? 1 : 4, path);
    unlink(path);
    tc_checkpoint *checkpoint;
    tc_error e = {0};
    if (tc_checkpoint_open(directory, &checkpoint, &e) == TC_OK) {
        float *vector = NULL;
        tc_weight weight = {0};
        if (strlen(tc_checkpoint_hash(checkpoint)) != 32) abort();
        if (tc_checkpoint_vector(checkpoint, "model.norm.weight", 64, &vector, &e) == TC_OK) tc_free(vector);
        if (tc_checkpoint_weight(checkpoint, "lm_head", 32, 64, &weight, &e) == TC_OK)
            tc_weight_free(&weight);
        tc_checkpoint_free(checkpoint);
    } else if (!e.text[0]) {
        abort();
    }
    return 0;
}
