/* score.h - PSNR and SSIM of a restored image against the true one, on [-1,1].
 *
 * PSNR = 20 log10(2 / RMSE) over all values. SSIM: Gaussian window 11 x 11 of sigma 1.5 with
 * weights that sum to 1, biased local moments, K1 = 0.01, K2 = 0.03, data range 2, windows that lie
 * completely inside the image, mean over positions, then over channels (R, G and B separately).
 * Double arithmetic. Images are [h][w][c]. Pure functions. */
#ifndef DAVID_CLI_SCORE_H
#define DAVID_CLI_SCORE_H

#include <stddef.h>
#include <stdint.h>

enum { SSIM_WINDOW = 11 };

double score_psnr(const float *a, const float *b, size_t n); /* dB; infinite where a = b */
/* NAN where a side is shorter than SSIM_WINDOW px or memory is out. */
double score_ssim(const float *a, const float *b, uint32_t width, uint32_t height,
                  uint32_t channels);

#endif
