// SPDX-License-Identifier: Apache-2.0
// Owns: one loop an instruction that multiplies matrices, with enough independent sums to hide its latency.
// Each is compiled for its own instruction set and runs only where CPU and kernel have it.
#include "common/kernels/matrix_peak.h"
#include "common/base/clock.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { PASSES = 4, PASS_NS = 15000000, FIRST_ROUNDS = 2000 };

typedef struct unit {
    const char *name;
    tc_peak_kind kind;
    bool (*available)(void);
    uint32_t (*run)(uint64_t rounds); // what it returns only keeps the sums alive
    uint32_t round_ops;
} unit;

// The compiler may not know that the value stays the same, so nothing is hoisted out of the loop.
#define OPAQUE(v) __asm__ volatile("" : "+x"(v))

static bool always(void)
{
    return true;
}

enum { PLAIN_SUMS = 64 };

static uint32_t run_plain(uint64_t rounds)
{
    float sum[PLAIN_SUMS] = {0}, factor = 0.999f, total = 0;
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < PLAIN_SUMS; i++) sum[i] = sum[i] * factor + 0.5f;
    for (int i = 0; i < PLAIN_SUMS; i++) total += sum[i];
    return (uint32_t)total;
}

#if defined(__x86_64__)

enum { SUMS = 12 }; // of a round

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

static bool has_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

__attribute__((target("avx2,fma"))) static uint32_t run_avx2_float(uint64_t rounds)
{
    __m256 sum[SUMS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.5f);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_ps((float)i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) sum[i] = _mm256_fmadd_ps(sum[i], a, b);
    for (int i = 1; i < SUMS; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    return (uint32_t)_mm256_cvtss_f32(sum[0]);
}

// Unsigned by signed bytes, pairs into 16 bits, pairs of these into 32, then added: general 8-bit operands
// leave no room for sums of 16 bits.
__attribute__((target("avx2"))) static uint32_t run_avx2_int8(uint64_t rounds)
{
    __m256i sum[SUMS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2), one = _mm256_set1_epi16(1);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) {
            OPAQUE(a);
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
        }
    for (int i = 1; i < SUMS; i++) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return (uint32_t)_mm256_extract_epi32(sum[0], 0);
}

// Pairs of 16-bit products into 32 bits, then added.
__attribute__((target("avx2"))) static uint32_t run_avx2_int16(uint64_t rounds)
{
    __m256i sum[SUMS], a = _mm256_set1_epi16(3), b = _mm256_set1_epi16(-2);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) {
            OPAQUE(a);
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(a, b));
        }
    for (int i = 1; i < SUMS; i++) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    return (uint32_t)_mm256_extract_epi32(sum[0], 0);
}

__attribute__((target("avx512f"))) static uint32_t run_avx512_float(uint64_t rounds)
{
    __m512 sum[SUMS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.5f);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_ps((float)i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_fmadd_ps(sum[i], a, b);
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return (uint32_t)_mm512_reduce_add_ps(sum[0]);
}

__attribute__((target("avx512f,avx512bw"))) static uint32_t run_avx512_int8(uint64_t rounds)
{
    __m512i sum[SUMS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2), one = _mm512_set1_epi16(1);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) {
            OPAQUE(a);
            sum[i] = _mm512_add_epi32(sum[i], _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), one));
        }
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return (uint32_t)_mm512_reduce_add_epi32(sum[0]);
}

__attribute__((target("avx512f,avx512vnni"))) static uint32_t run_vnni(uint64_t rounds)
{
    __m512i sum[SUMS], a = _mm512_set1_epi32(0x03030303), b = _mm512_set1_epi32(0x02020202);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return (uint32_t)_mm512_reduce_add_epi32(sum[0]);
}

// Eight columns: four by two products of bytes, four by a product of 16 bits and two additions.
__attribute__((target("avx512f,avx512bw,avx512vnni"))) static uint32_t run_avx512_pairs(uint64_t rounds)
{
    __m512i sum[SUMS], a = _mm512_set1_epi32(0x03030303), b = _mm512_set1_epi32(0x02020202);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_epi32(i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) {
            OPAQUE(a);
            OPAQUE(b);
            sum[i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum[i], a, b), a, b);
            sum[i] = _mm512_dpwssd_epi32(sum[i], _mm512_add_epi32(a, b), _mm512_sub_epi32(a, b));
        }
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return (uint32_t)_mm512_reduce_add_epi32(sum[0]);
}

static bool has_avx512_bf16(void)
{
    enum { EAX_BF16 = 1 << 5 };
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & EAX_BF16);
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) static uint32_t run_avx512_bf16(uint64_t rounds)
{
    __m512 sum[SUMS];
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f7f3f7f), b = (__m512bh)_mm512_set1_epi32(0x3f003f00);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_ps((float)i);
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return (uint32_t)_mm512_cvtss_f32(sum[0]);
}

// ---- AMX: tiles of 16 rows of 64 bytes ----

enum {
    LEAF_FEATURES = 7,
    EDX_AMX_BF16 = 1 << 22,
    EDX_AMX_TILE = 1 << 24,
    EDX_AMX_INT8 = 1 << 25,
    ARCH_REQUEST_PERMISSION = 0x1023, // ARCH_REQ_XCOMP_PERM
    TILE_DATA = 18,                   // XFEATURE_XTILEDATA
    TILES = 8,
    TILE_ROWS = 16,
    TILE_ROW_BYTES = 64,
};

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

static bool has_amx(unsigned bit)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(LEAF_FEATURES, 0, &a, &b, &c, &d) || !(d & EDX_AMX_TILE) || !(d & bit))
        return false;
    return syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, TILE_DATA) == 0; // of the whole process
}

static bool has_amx_int8(void)
{
    return has_amx(EDX_AMX_INT8);
}

static bool has_amx_bf16(void)
{
    return has_amx(EDX_AMX_BF16);
}

static tile_config whole_tiles(void)
{
    tile_config c = {.palette = 1};
    for (int i = 0; i < TILES; i++) {
        c.row_bytes[i] = TILE_ROW_BYTES;
        c.rows[i] = TILE_ROWS;
    }
    return c;
}

// A block of 2 x 2 sums: as kernels use the eight tiles.
#define AMX_LOOP(product)                                                                                    \
    tile_config config = whole_tiles();                                                                      \
    uint32_t out[TILE_ROWS * TILE_ROW_BYTES / 4] = {0};                                                      \
    _tile_loadconfig(&config);                                                                               \
    _tile_zero(0);                                                                                           \
    _tile_zero(1);                                                                                           \
    _tile_zero(2);                                                                                           \
    _tile_zero(3);                                                                                           \
    _tile_loadd(4, out, TILE_ROW_BYTES);                                                                     \
    _tile_loadd(5, out, TILE_ROW_BYTES);                                                                     \
    _tile_loadd(6, out, TILE_ROW_BYTES);                                                                     \
    _tile_loadd(7, out, TILE_ROW_BYTES);                                                                     \
    for (uint64_t r = 0; r < rounds; r++) {                                                                  \
        product(0, 4, 6);                                                                                    \
        product(1, 4, 7);                                                                                    \
        product(2, 5, 6);                                                                                    \
        product(3, 5, 7);                                                                                    \
    }                                                                                                        \
    _tile_stored(0, out, TILE_ROW_BYTES);                                                                    \
    _tile_release();                                                                                         \
    return out[0];

__attribute__((target("amx-tile,amx-int8"))) static uint32_t run_amx_int8(uint64_t rounds)
{
    AMX_LOOP(_tile_dpbssd)
}

__attribute__((target("amx-tile,amx-bf16"))) static uint32_t run_amx_bf16(uint64_t rounds)
{
    AMX_LOOP(_tile_dpbf16ps)
}

enum { AMX_INT8_OPS = 4 * 16 * 16 * 64 * 2, AMX_BF16_OPS = 4 * 16 * 16 * 32 * 2 };
#endif

static const unit units[] = {
    {"plain float", TC_PEAK_FLOAT, always, run_plain, PLAIN_SUMS * 2},
#if defined(__x86_64__)
    {"avx2 fma", TC_PEAK_FLOAT, has_avx2, run_avx2_float, SUMS * 8 * 2},
    {"avx2 maddubs", TC_PEAK_INT8, has_avx2, run_avx2_int8, SUMS * 32 * 2},
    {"avx2 madd", TC_PEAK_INT16, has_avx2, run_avx2_int16, SUMS * 16 * 2},
    {"avx512 fma", TC_PEAK_FLOAT, has_avx512, run_avx512_float, SUMS * 16 * 2},
    {"avx512 maddubs", TC_PEAK_INT8, has_avx512, run_avx512_int8, SUMS * 64 * 2},
    {"avx512 vnni", TC_PEAK_INT8, has_vnni, run_vnni, SUMS * 64 * 2},
    {"avx512 pairs", TC_PEAK_INT16, has_vnni, run_avx512_pairs, SUMS * 128 * 2},
    {"avx512 bf16", TC_PEAK_FLOAT, has_avx512_bf16, run_avx512_bf16, SUMS * 32 * 2},
    {"amx bf16", TC_PEAK_FLOAT, has_amx_bf16, run_amx_bf16, AMX_BF16_OPS},
    {"amx int8", TC_PEAK_INT8, has_amx_int8, run_amx_int8, AMX_INT8_OPS},
#endif
};
enum { UNITS = sizeof units / sizeof *units };
_Static_assert(sizeof units / sizeof *units <= TC_PEAK_UNITS_MAX, "units");

typedef struct pass {
    const unit *unit;
    uint64_t rounds;
    uint32_t sink[TC_TEAM_THREADS_MAX];
} pass;

static void pass_job(void *arg, uint32_t member)
{
    pass *p = arg;
    p->sink[member] ^= p->unit->run(p->rounds);
}

static double measure(tc_team *team, const unit *u)
{
    pass p = {.unit = u, .rounds = FIRST_ROUNDS};
    double best = 0, members = tc_team_size(team);
    for (int i = 0; i < PASSES;) {
        uint64_t start = tc_now_ns();
        tc_team_run(team, pass_job, &p);
        uint64_t spent = tc_now_ns() - start;
        if (spent < PASS_NS) { // too short to count
            p.rounds *= 2;
            continue;
        }
        double rate = members * (double)p.rounds * u->round_ops / (double)spent;
        if (rate > best) best = rate;
        i++;
    }
    return best;
}

tc_status tc_measure_matrix_peak(tc_team *team, tc_matrix_peak *ret, tc_error *e)
{
    (void)e;
    tc_matrix_peak peak = {0};
    for (int i = 0; i < UNITS; i++) {
        const unit *u = &units[i];
        if (!u->available()) continue;
        double rate = measure(team, u);
        peak.unit[peak.count++] = (tc_peak_unit){u->name, u->kind, rate};
        if (u->kind == TC_PEAK_FLOAT && rate > peak.float_gop_per_s) peak.float_gop_per_s = rate;
        if (u->kind == TC_PEAK_INT8 && rate > peak.int8_gop_per_s) peak.int8_gop_per_s = rate;
    }
    *ret = peak;
    return TC_OK;
}
