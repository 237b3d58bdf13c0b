// SPDX-License-Identifier: Apache-2.0
// Owns: the one dispatch: which table a CPU and a request get.
#include "common/kernels/impl.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct isa {
    const char *name;
    const tc_kernels *table;
    const tc_fast_part *fast;
    bool (*available)(void);
    const tc_bf16_part *(*bf16)(void); // NULL, or what it returns is: as in FLOAT
    bool (*pays)(void);                // NULL: wherever it is available; else by name only where it does not
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

static bool has_avx512vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512vbmi(void)
{
    return has_avx512vnni() && __builtin_cpu_supports("avx512vbmi");
}

// Tiles are large: Linux keeps them from a process that has not asked for them.
static bool has_amx(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, TILE_BIT = 1 << 24, INT8_BIT = 1 << 25 };
    unsigned a, b, c, d;
    if (!has_avx512vbmi() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return (d & TILE_BIT) && (d & INT8_BIT) && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static bool has_avx512bf16(void)
{
    enum { BF16_BIT = 1 << 5 };
    unsigned a, b, c, d;
    return has_avx512vbmi() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BF16_BIT);
}

// AMD's cores add on units that do not multiply. Where both go to the same ones, as in Intel's, two products
// are sooner done than a product and two additions.
static bool adds_aside(void)
{
    return __builtin_cpu_is("amd");
}

static const tc_bf16_part *bf16_of_avx512(void)
{
    return has_avx512bf16() ? &tc_bf16_avx512 : NULL;
}

// A CPU may have tiles of integers only.
static const tc_bf16_part *bf16_of_amx(void)
{
    enum { BF16_BIT = 1 << 22 };
    unsigned a, b, c, d;
    if (!has_avx512bf16() || !has_amx()) return bf16_of_avx512();
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & BF16_BIT) ? &tc_bf16_amx : &tc_bf16_avx512;
}
#endif

static const isa isas[] = {
    {"scalar", &tc_kernels_scalar, &tc_fast_scalar, always},
#if defined(__x86_64__)
    {"avx2", &tc_kernels_avx2, &tc_fast_avx2, has_avx2},
    {"avx512", &tc_kernels_avx512, &tc_fast_avx512, has_avx512},
    {"avx512vnni", &tc_kernels_avx512, &tc_fast_avx512vnni, has_avx512vnni},
    {"avx512vbmi", &tc_kernels_avx512, &tc_fast_avx512vbmi, has_avx512vbmi},
    {"avx512bf16", &tc_kernels_avx512, &tc_fast_avx512vbmi, has_avx512bf16, bf16_of_avx512},
    {"avx512pairs", &tc_kernels_avx512, &tc_fast_avx512pairs, has_avx512vbmi, bf16_of_avx512, adds_aside},
    {"amx", &tc_kernels_avx512, &tc_fast_amx, has_amx, bf16_of_amx},
#endif
};

enum { COUNT = sizeof isas / sizeof *isas };

// [0] FLOAT, [1] FAST. An ISA's FAST is its FLOAT with the quantised types overwritten.
static tc_kernels tables[COUNT][2];
static pthread_once_t once = PTHREAD_ONCE_INIT;
_Alignas(64) uint8_t tc_nested_planes[4][256];

static void fill_tables(void)
{
    for (int code = 0; code < 256; code++) {
        uint8_t bytes[4];
        memcpy(bytes, &tc_nested_levels()[code], sizeof bytes);
        for (int i = 0; i < 4; i++) tc_nested_planes[i][code] = bytes[i];
    }
    for (int i = 0; i < COUNT; i++) {
        tc_kernels *fast = &tables[i][1];
        tables[i][0] = *fast = *isas[i].table;
        tables[i][0].name = fast->name = isas[i].name;
        for (int type = TC_M_Q4; type <= TC_M_Q8; type++) {
            fast->matmul[type] = isas[i].fast->matmul[type];
            fast->matmul_fixed[type] = isas[i].fast->matmul_fixed[type];
            fast->matmul_fixed_sum[type] = isas[i].fast->matmul_fixed_sum[type];
        }
        fast->round = isas[i].fast->round;
        fast->tiles = isas[i].fast->tiles;
        const tc_bf16_part *bf16 = isas[i].bf16 ? isas[i].bf16() : NULL;
        if (bf16) {
            fast->matmul[TC_M_BF16] = bf16->matmul;
            fast->matmul_fixed[TC_M_BF16] = bf16->matmul_fixed;
            fast->round_bf16 = bf16->round;
        }
        if (i == 0) fast->silu_mul = tc_silu_mul_plain;
    }
}

const char *tc_precision_name(tc_precision precision)
{
    static const char *const names[] = {"exact", "float", "fast"};
    return (uint32_t)precision <= TC_FAST ? names[precision] : "unknown";
}

tc_status tc_kernels_get(tc_precision precision, const char *name, const tc_kernels **ret, tc_error *e)
{
    pthread_once(&once, fill_tables);
    if (precision == TC_EXACT) {
        *ret = &tc_kernels_exact;
        return TC_OK;
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        if (name && strcmp(name, isas[i].name) != 0) continue;
        if (isas[i].available() && (name || !isas[i].pays || isas[i].pays())) {
            *ret = &tables[i][precision == TC_FAST];
            return TC_OK;
        }
        if (name) return tc_fail(e, TC_UNSUPPORTED, "isa %s: this CPU lacks it", name);
    }
    return tc_fail(e, TC_ARGUMENT,
                   "isa %s: not one of scalar avx2 avx512 avx512vnni avx512vbmi"
                   " avx512bf16 avx512pairs amx",
                   name);
}
