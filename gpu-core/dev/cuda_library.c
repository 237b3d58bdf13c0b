// SPDX-License-Identifier: Apache-2.0
// Owns: loading thermocline-cuda.so.
#include "gpu-core/dev/cuda_library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

static bool program_folder(char ret[PATH_BYTES])
{
    ssize_t n = readlink("/proc/self/exe", ret, PATH_BYTES - 1);
    if (n <= 0) return false;
    ret[n] = 0;
    char *slash = strrchr(ret, '/');
    if (!slash) return false;
    *slash = 0;
    return true;
}

static void *open_library(tc_error *e)
{
    char folder[PATH_BYTES], path[PATH_BYTES + 64];
    static const char *const places[] = {"%s/thermocline-cuda.so", "%s/../gpu-core/thermocline-cuda.so",
                                         "%s/../../gpu-core/thermocline-cuda.so",
                                         "%s/../../lib/thermocline/thermocline-cuda.so",
                                         "%s/../lib/thermocline/thermocline-cuda.so"};
    if (!program_folder(folder)) folder[0] = 0;
    for (size_t i = 0; i <= sizeof places / sizeof *places; i++) {
        if (i < sizeof places / sizeof *places)
            snprintf(path, sizeof path, places[i], folder); // NOLINT: the formats are those above
        else
            snprintf(path, sizeof path, "/usr/lib/thermocline/thermocline-cuda.so");
        if (access(path, R_OK) != 0) continue;
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library) return library;
        tc_fail(e, TC_NOT_FOUND, "%s", dlerror());
        return NULL;
    }
    tc_fail(e, TC_NOT_FOUND, "thermocline-cuda.so is not installed");
    return NULL;
}

tc_status tc_cuda_library_load(uint32_t ordinal, const tc_cuda_library **ret, char card[128], tc_error *e)
{
    void *library = open_library(e);
    if (!library) return TC_NOT_FOUND;
    const tc_cuda_library *(*get)(void) = NULL;
    void *symbol = dlsym(library, TC_CUDA_SYMBOL);
    memcpy(&get, &symbol, sizeof get);
    if (!get) return tc_fail(e, TC_NOT_FOUND, "thermocline-cuda.so has no %s", TC_CUDA_SYMBOL);
    const tc_cuda_library *table = get();
    if (table->abi != TC_CUDA_ABI || table->struct_bytes != sizeof(tc_cuda_options))
        return tc_fail(e, TC_NOT_FOUND, "thermocline-cuda.so is of another version");
    TC_TRY(table->probe(ordinal, card, e));
    *ret = table;
    return TC_OK;
}
