/* dataset.h - a folder of training images, decoded into a cache of bounded size.
 *
 * The folder is listed once (sorted; PNG and JPEG by name; no subfolders) with the size and the
 * time of change of each file. A file that cannot be read or decoded, or is smaller than a crop, is
 * excluded, counted, and reported once to `complain`. A file that has changed when it is decoded
 * again ends training (ST_BAD_FILE), as a run must be repeatable. Any thread may call dataset_take
 * and dataset_return; owned by the caller. */
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
    size_t cache_bytes;  /* of decoded images; images in use may exceed it */
    /* count: files excluded so far. Any thread calls it, one at a time. */
    void (*complain)(void *ctx, const char *file, const char *why, uint32_t count);
    void *ctx;
};

/* ST_BAD_FILE, with the reason, where no file of the folder can be used. */
enum status dataset_open(struct dataset **out, const struct dataset_options *o, struct error *err);
void dataset_close(struct dataset *d); /* takes NULL; all photos have been returned */

uint32_t dataset_count(const struct dataset *d);     /* files listed, with the excluded */
uint32_t dataset_unusable(struct dataset *d);        /* excluded so far */
const char *dataset_digest(const struct dataset *d); /* of names and sizes */

/* A decoded image: RGB, and a table of its texture. */
struct photo {
    uint32_t width, height;
    const uint8_t *rgb; /* [height][width][3] */
    /* Sums of |differences of neighbours| over all blocks above and left of (x, y):
     * [rows + 1][columns + 1]. */
    uint32_t columns, rows;
    const uint32_t *texture;
};
enum { TEXTURE_BLOCK = 8 }; /* px a side */

/* Photo i, valid until it is returned. *out NULL: it is excluded. */
enum status dataset_take(struct dataset *d, uint32_t i, const struct photo **out,
                         struct error *err);
void dataset_return(struct dataset *d, const struct photo *p);
/* Mean |difference| of neighbours in levels, over the blocks that a square of `side` px at (x, y)
 * covers. */
double photo_texture(const struct photo *p, uint32_t x, uint32_t y, uint32_t side);

#endif
