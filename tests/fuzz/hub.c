// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing what a hub says of a repository, and the names that users give of one. Byte 0 says which.
// Whatever is accepted stays inside the model's folder.
#include "common/hub/hub.h"
#include "common/hub/hub_impl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

static void name_of(const char *text)
{
    tc_hub_name name = {0};
    tc_error e;
    if (tc_hub_parse(text, &name, &e) != TC_OK) return;
    CHECK(*name.owner && *name.name && *name.revision);
    CHECK(!strchr(name.owner, '/') && !strchr(name.name, '/') && name.owner[0] != '.' && name.name[0] != '.');
}

static bool stays_inside(const char *path)
{
    return path[0] != '/' && strcmp(path, "..") != 0 && strncmp(path, "../", 3) != 0 && !strstr(path, "/../");
}

static void files_of(const char *json, size_t bytes)
{
    tc_hub_files files = {0};
    tc_error e;
    if (tc_hub_files_parse("hub", json, bytes, "*", &files, &e) != TC_OK) return;
    for (uint32_t i = 0; i < files.count; i++)
        CHECK(stays_inside(files.items[i].path) &&
              (strlen(files.items[i].checksum) >= 40 || files.items[i].bytes == 0));
    CHECK(files.count <= TC_HUB_FILES_MAX && !strchr(files.commit, '/'));
    free(files.items);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1 || bytes > 1 << 16) return 0;
    char *text = malloc(bytes);
    CHECK(text);
    memcpy(text, data + 1, bytes - 1);
    text[bytes - 1] = 0;
    if (data[0] & 1)
        name_of(text);
    else
        files_of(text, bytes - 1);
    free(text);
    return 0;
}
