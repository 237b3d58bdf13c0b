// SPDX-License-Identifier: Apache-2.0
// Owns: plain C for every routine of the dense table (the oracle), and which table goes with which kernels.
#include "gpu-core/dev/cpu/dense.h"
#include "common/kernels/kernels.h"
#include "common/model/dtype.h"

#include <math.h>
#include <string.h>

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static float dot(const float *x, const float *y, uint32_t n)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static void scores(const float *q, uint32_t rows, const float *k, uint32_t count, uint32_t dim, float *score,
                   uint32_t ld, tc_dense_ahead ahead)
{
    (void)ahead;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < count; j++)
            score[(size_t)r * ld + j] = dot(q + (size_t)r * dim, k + (size_t)j * dim, dim);
}

static float sum_exp(const float *x, float max, float factor, uint32_t n)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += expf((x[i] - max) * factor);
    return sum;
}

static float softmax(float *s, uint32_t n, float *ret_max)
{
    float max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (s[i] > max) max = s[i];
    for (uint32_t i = 0; i < n; i++) {
        s[i] = expf(s[i] - max);
        sum += s[i];
    }
    *ret_max = max;
    return sum;
}

static void values(const float *p, uint32_t rows, uint32_t ld, const float *v, uint32_t count, uint32_t dim,
                   float *acc, tc_dense_ahead ahead)
{
    (void)ahead;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < count; j++)
            for (uint32_t i = 0; i < dim; i++)
                acc[(size_t)r * dim + i] += p[(size_t)r * ld + j] * v[(size_t)j * dim + i];
}

static void blend(float *a, float x, const float *b, float y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) a[i] = a[i] * x + b[i] * y;
}

static void to_half(const float *x, uint32_t n, uint16_t *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = tc_float_to_f16(x[i] > 65504.0f ? 65504.0f : x[i] < -65504.0f ? -65504.0f : x[i]);
}

static void from_half(const uint16_t *x, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) y[i] = tc_f16_to_float(x[i]);
}

static void scale_gate(const float *x, float factor, const float *gate, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] * factor * (gate ? sigmoid(gate[i]) : 1.0f);
}

// In double: the order of additions cannot matter then.
static float squares(const float *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return (float)sum;
}

static void scale(const float *x, float factor, const float *w, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] * factor * (w ? w[i] : 1.0f);
}

static void rotate(float *x, const float *cosine, const float *sine, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) x[i] += y[i];
}

static void combine(float *x, const int64_t *sum, const float *shared, float gate, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float y = sum ? tc_fixed_to_float(sum[i]) : 0.0f;
        if (shared) y += gate * shared[i];
        x[i] += y;
    }
}

static uint32_t first_above(const float *x, uint32_t from, uint32_t n, float than)
{
    while (from < n && !(x[from] > than)) from++;
    return from;
}

static void convolve(const float *const *in, const float *const *tap, uint32_t taps, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) {
        float sum = 0;
        for (uint32_t j = 0; j < taps; j++) sum += tap[j][i] * in[j][i];
        y[i] = sum * sigmoid(sum);
    }
}

static void gates(const float *a, const float *b, float neg_exp_a, float dt_bias, uint32_t n, float *decay,
                  float *beta)
{
    for (uint32_t i = 0; i < n; i++) {
        float x = a[i] + dt_bias;
        float softplus = x > 20.0f ? x : log1pf(expf(x)); // the reference's threshold
        decay[i] = expf(neg_exp_a * softplus);
        beta[i] = sigmoid(b[i]);
    }
}

static void strip(const tc_dense_strip *s)
{
    for (uint32_t t = 0; t < s->tokens; t++) {
        const float *k = s->k + (size_t)t * s->dk, *q = s->q + (size_t)t * s->dk,
                    *v = s->v + (size_t)t * s->ld;
        float *o = s->o + (size_t)t * s->ld, d[TC_DENSE_STRIP] = {0};
        memset(o, 0, sizeof d);
        for (uint32_t i = 0; i < s->dk; i++)
            for (uint32_t j = 0; j < TC_DENSE_STRIP; j++) {
                s->state[i * TC_DENSE_STRIP + j] *= s->decay[t];
                d[j] += k[i] * s->state[i * TC_DENSE_STRIP + j];
            }
        for (uint32_t j = 0; j < TC_DENSE_STRIP; j++) d[j] = s->beta[t] * (v[j] - d[j]);
        for (uint32_t i = 0; i < s->dk; i++)
            for (uint32_t j = 0; j < TC_DENSE_STRIP; j++) {
                s->state[i * TC_DENSE_STRIP + j] += k[i] * d[j];
                o[j] += q[i] * s->state[i * TC_DENSE_STRIP + j];
            }
    }
}

static void gated_norm(const float *x, float factor, const float *w, const float *z, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++) y[i] = w[i] * (x[i] * factor) * (z[i] * sigmoid(z[i]));
}

const tc_dense tc_dense_plain = {
    .name = "plain",
    .scores = scores,
    .softmax = softmax,
    .values = values,
    .blend = blend,
    .to_half = to_half,
    .from_half = from_half,
    .scale_gate = scale_gate,
    .squares = squares,
    .scale = scale,
    .rotate = rotate,
    .add = add,
    .combine = combine,
    .first_above = first_above,
    .sum_exp = sum_exp,
    .convolve = convolve,
    .gates = gates,
    .dot = dot,
    .strip = strip,
    .gated_norm = gated_norm,
};

const tc_dense *tc_dense_for(const char *kernels)
{
#if defined(__x86_64__)
    if (strncmp(kernels, "avx2", 4) == 0) return &tc_dense_avx2;
    if (strncmp(kernels, "avx512", 6) == 0 || strncmp(kernels, "amx", 3) == 0) return &tc_dense_avx512;
#endif
    return &tc_dense_plain;
}
