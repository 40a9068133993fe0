/* dataset.h - a folder of training images, decoded into a cache of bounded size.
 *
 * The folder is listed once (sorted, PNG and JPEG by name; no subfolders), and each file remembered by size and time of
 * change. A file that cannot be read or decoded, or is smaller than the crop, is left out from then on, counted, and named once to
 * `complain`. A file that is not the same any more when it is decoded again ends training (ST_BAD_FILE): a run must be
 * repeatable. Any thread may call dataset_take and dataset_return; owned by the caller. */
#ifndef DAVID_TRAIN_DATASET_H
#define DAVID_TRAIN_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/models/digest.h"

struct dataset;

struct dataset_options {
    const char *folder;
    uint32_t least_side; /* px */
    size_t cache_bytes;  /* of decoded images; what is in use may exceed it */
    /* count: files left out so far. Any thread, one at a time. */
    void (*complain)(void *ctx, const char *file, const char *why, uint32_t count);
    void *ctx;
};

/* ST_BAD_FILE where nothing in the folder can be used, saying why. */
enum status dataset_open(struct dataset **out, const struct dataset_options *o, struct error *err);
void dataset_close(struct dataset *d); /* takes NULL; nothing is taken */

uint32_t dataset_count(const struct dataset *d);     /* files listed, the unusable too */
uint32_t dataset_unusable(struct dataset *d);        /* left out so far */
const char *dataset_digest(const struct dataset *d); /* of names and sizes */

/* A decoded image: RGB, and how much texture it has where. */
struct photo {
    uint32_t width, height;
    const uint8_t *rgb; /* [height][width][3] */
    /* Sums of |differences of neighbours| over all blocks above and left of (x, y): [rows + 1][columns + 1]. */
    uint32_t columns, rows;
    const uint32_t *texture;
};
enum { TEXTURE_BLOCK = 8 }; /* px a side */

/* Photo i, which stays until it is returned. *out NULL: it is one of those left out. */
enum status dataset_take(struct dataset *d, uint32_t i, const struct photo **out,
                         struct error *err);
void dataset_return(struct dataset *d, const struct photo *p);
/* Mean |difference| of neighbours in levels, over the blocks that a square of `side` px at (x, y) covers. */
double photo_texture(const struct photo *p, uint32_t x, uint32_t y, uint32_t side);

#endif
