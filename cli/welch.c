// SPDX-License-Identifier: Apache-2.0
// Owns: the test of welch.h. Student's distribution comes from the incomplete beta function, by its continued
// fraction (Lentz' method).
#include "cli/welch.h"

#include <math.h>

static double fraction(double a, double b, double x)
{
    enum { STEPS_MAX = 500 };
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double f = d;
    for (int i = 1; i <= STEPS_MAX; i++) {
        double even = i * (b - i) * x / ((a + 2 * i - 1) * (a + 2 * i));
        double odd = -(a + i) * (a + b + i) * x / ((a + 2 * i) * (a + 2 * i + 1));
        d = 1 + even * d, c = 1 + even / c;
        d = 1 / (fabs(d) < tiny ? tiny : d), c = fabs(c) < tiny ? tiny : c;
        f *= d * c;
        d = 1 + odd * d, c = 1 + odd / c;
        d = 1 / (fabs(d) < tiny ? tiny : d), c = fabs(c) < tiny ? tiny : c;
        f *= d * c;
        if (fabs(d * c - 1) < 1e-14) break;
    }
    return f;
}

// The regularised incomplete beta function.
static double beta(double a, double b, double x)
{
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    return x < (a + 1) / (a + b + 2) ? front * fraction(a, b, x) / a : 1 - front * fraction(b, a, 1 - x) / b;
}

static double mean_of(const double *v, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += v[i] / count;
    return sum;
}

// The square of the mean's own error.
static double error_of(const double *v, uint32_t count, double mean)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += (v[i] - mean) * (v[i] - mean);
    return sum / (count - 1) / count;
}

double tc_welch_p(const double *a, uint32_t a_count, const double *b, uint32_t b_count)
{
    if (a_count < 2 || b_count < 2) return NAN;
    double a_mean = mean_of(a, a_count), b_mean = mean_of(b, b_count);
    double a_error = error_of(a, a_count, a_mean), b_error = error_of(b, b_count, b_mean),
           error = a_error + b_error;
    double size = fmax(fabs(a_mean), fabs(b_mean));
    if (fabs(a_mean - b_mean) <= 1e-12 * size) return 1;
    if (!(error > 1e-24 * size * size)) return 0; // no more than rounding
    double t2 = (a_mean - b_mean) * (a_mean - b_mean) / error;
    double freedom = error * error / (a_error * a_error / (a_count - 1) + b_error * b_error / (b_count - 1));
    return beta(freedom / 2, 0.5, freedom / (freedom + t2));
}
