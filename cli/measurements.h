/* measurements.h - float measurements in files: tensor "y" [1][c][h][w] F32; metadata task, sigma,
 * seed, and level where one was given. */
#ifndef DAVID_CLI_MEASUREMENTS_H
#define DAVID_CLI_MEASUREMENTS_H

#include "engine/engine.h"

enum status measurement_read(struct measurement *out, const char *path, struct error *err);
enum status measurement_write(const char *path, const struct measurement *y, const char *task,
                              double sigma, double level, uint64_t seed, struct error *err);

/* The hole of published inpainting results: a centred rectangle of half the width and half the
 * height; white = missing. */
enum status centred_hole(struct image *out, uint32_t width, uint32_t height, struct error *err);

#endif
