#include "cli/score.h"

#include <math.h>
#include <stdlib.h>

enum { MOMENTS = 5 }; /* of a, b, aa, bb, ab */

double score_psnr(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        sum += d * d;
    }
    return 20 * log10(2 / sqrt(sum / (double)n));
}

static void window(double w[SSIM_WINDOW])
{
    double sum = 0;
    for (int i = 0; i < SSIM_WINDOW; i++) {
        int d = i - SSIM_WINDOW / 2;
        w[i] = exp(-d * d / (2 * 1.5 * 1.5));
        sum += w[i];
    }
    for (int i = 0; i < SSIM_WINDOW; i++)
        w[i] /= sum;
}

/* Moments along one row: rows[MOMENTS][out_w]. */
static void filter_row(double *rows, const float *a, const float *b, uint32_t out_w, uint32_t step,
                       const double *w)
{
    for (uint32_t x = 0; x < out_w; x++) {
        double m[MOMENTS] = { 0 };
        for (uint32_t k = 0; k < SSIM_WINDOW; k++) {
            double u = a[(size_t)(x + k) * step], v = b[(size_t)(x + k) * step];
            m[0] += w[k] * u;
            m[1] += w[k] * v;
            m[2] += w[k] * u * u;
            m[3] += w[k] * v * v;
            m[4] += w[k] * u * v;
        }
        for (int i = 0; i < MOMENTS; i++)
            rows[(size_t)i * out_w + x] = m[i];
    }
}

static double similarity(const double m[MOMENTS])
{
    const double c1 = (0.01 * 2) * (0.01 * 2), c2 = (0.03 * 2) * (0.03 * 2);
    double va = m[2] - m[0] * m[0], vb = m[3] - m[1] * m[1], cov = m[4] - m[0] * m[1];
    return (2 * m[0] * m[1] + c1) * (2 * cov + c2) /
           ((m[0] * m[0] + m[1] * m[1] + c1) * (va + vb + c2));
}

double score_ssim(const float *a, const float *b, uint32_t width, uint32_t height,
                  uint32_t channels)
{
    if (width < SSIM_WINDOW || height < SSIM_WINDOW) return NAN;
    const uint32_t out_w = width - SSIM_WINDOW + 1, out_h = height - SSIM_WINDOW + 1;
    const size_t row_len = (size_t)MOMENTS * out_w;
    double w[SSIM_WINDOW], total = 0;
    double *ring = malloc(SSIM_WINDOW * row_len * sizeof *ring); /* the last 11 filtered rows */
    if (!ring) return NAN;
    window(w);
    for (uint32_t c = 0; c < channels; c++)
        for (uint32_t y = 0; y < height; y++) {
            const size_t at = (size_t)y * width * channels + c;
            filter_row(ring + y % SSIM_WINDOW * row_len, a + at, b + at, out_w, channels, w);
            if (y + 1 < SSIM_WINDOW) continue;
            const uint32_t y0 = y + 1 - SSIM_WINDOW;
            for (uint32_t x = 0; x < out_w; x++) {
                double m[MOMENTS] = { 0 };
                for (uint32_t k = 0; k < SSIM_WINDOW; k++)
                    for (int i = 0; i < MOMENTS; i++)
                        m[i] +=
                            w[k] * ring[(y0 + k) % SSIM_WINDOW * row_len + (size_t)i * out_w + x];
                total += similarity(m);
            }
        }
    free(ring);
    return total / ((double)out_w * out_h * channels);
}
