// SPDX-License-Identifier: Apache-2.0
// Owns: the one dispatch: which table a CPU and a request get.
#include "common/kernels/impl.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef struct isa {
    const char *name;
    const tc_kernels *table;
    bool (*available)(void);
} isa;

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
// Not every compiler's builtin knows this one by name.
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// __builtin_cpu_supports also asks the operating system (XCR0) whether it saves the registers.
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static const isa isas[] = {
    {"scalar", &tc_kernels_scalar, always},
#if defined(__x86_64__)
    {"avx2", &tc_kernels_avx2, has_avx2},
    {"avx512", &tc_kernels_avx512, has_avx512},
#endif
};

tc_status tc_kernels_get(tc_precision precision, const char *name, const tc_kernels **ret, tc_error *e)
{
    enum { COUNT = sizeof isas / sizeof *isas };
    if (precision == TC_EXACT) {
        *ret = &tc_kernels_exact;
        return TC_OK;
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        if (name && strcmp(name, isas[i].name) != 0) continue;
        if (isas[i].available()) {
            *ret = isas[i].table;
            return TC_OK;
        }
        if (name) return tc_fail(e, TC_UNSUPPORTED, "isa %s: this CPU lacks it", name);
    }
    return tc_fail(e, TC_ARGUMENT, "isa %s: not one of scalar avx2 avx512", name);
}
