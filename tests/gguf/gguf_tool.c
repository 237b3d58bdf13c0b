// SPDX-License-Identifier: Apache-2.0
// Owns: all tensors of a GGUF file as float32, in the file's order, on stdout: what run.py holds against the
// `gguf` package.
#include "common/model/checkpoint_internal.h"
#include "common/model/gguf.h"
#include "common/model/gguf_blocks.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static tc_status write_tensor(int fd, const tc_gguf *g, const tc_tensor_entry *t, tc_error *e)
{
    const tc_block_info *info = tc_block_info_of(t->dtype);
    uint64_t count = t->bytes / info->bytes * info->elements;
    uint8_t *data = malloc(t->bytes);
    float *values = malloc(count * sizeof *values);
    tc_status status;
    if (!data || !values) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    TC_GOTO(tc_pread_all(fd, "the file", data, t->bytes, g->data_at + t->begin, e));
    if (tc_blocks_first_bad(t->dtype, data, t->bytes / info->bytes) != t->bytes / info->bytes)
        TC_GOTO(tc_fail(e, TC_FORMAT, "a block that is finite is called bad"));
    // In pieces that begin and end anywhere: the same must come out.
    for (uint64_t at = 0, step = 1; at < count; at += step, step = step * 7 % 1009 + 1)
        tc_blocks_dequantise(t->dtype, data, at, count - at < step ? count - at : step, values + at);
    if (fwrite(values, sizeof *values, count, stdout) != count) TC_GOTO(tc_fail_errno(e, TC_IO, "stdout"));
out:
    free(values);
    free(data);
    return status;
}

int main(int argc, char **argv)
{
    tc_error e = {0};
    tc_gguf g = {0};
    tc_tensor_table table = {0};
    struct stat st;
    int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
    tc_status status;
    if (fd < 0 || fstat(fd, &st) != 0) TC_GOTO(tc_fail(&e, TC_ARGUMENT, "usage: gguf-tool FILE"));
    TC_GOTO(tc_gguf_read(argv[1], fd, (uint64_t)st.st_size, 0, &g, &table, &e));
    for (uint32_t id = 0; id < table.names.count; id++) TC_GOTO(write_tensor(fd, &g, &table.entries[id], &e));
out:
    if (status != TC_OK) fprintf(stderr, "%s\n", e.text);
    tc_gguf_free(&g);
    tc_tensor_table_free(&table);
    return status != TC_OK;
}
