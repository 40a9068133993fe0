/* restoration.h - the inside of a restoration (engine.h): a image, its tiles, and the accumulators they come back to.
 *
 * Knows no network: engine_run cuts a row's input (restoration_extract), has it generated, and puts it back (restoration_put).
 * All memory is one block, laid out before it is taken, so that restoration_block_bytes() is what is held. Accumulators are int64
 * fixed point; a sample has one only while its rows are in flight, then it is folded into sum and sum of squares.
 * Threads: restoration_extract reads only; restoration_put takes the lock; the rest once every row is back. */
#ifndef DAVID_DAVI_RESTORATION_H
#define DAVID_DAVI_RESTORATION_H

#include <pthread.h>

#include "engine/davi/image_pool.h"
#include "engine/davi/operators.h"
#include "engine/davi/tiles.h"
#include "engine/engine.h"

enum {
    RESTORE_MIN_SIDE = 8,
    RESTORE_MAX_SIDE = 1 << 18, /* px of the restored image */
    RESTORE_MAX_SAMPLES = 1 << 16
};
#define RESTORE_MAX_H 10.0

struct restoration_setup {
    const struct task_desc *task;
    double sigma; /* of the hole's noise and of the result */
    double level; /* of the operator; 0: the task's own */
    double h;
    uint32_t condition; /* of the model's folded constants */
    uint64_t seed;
    uint32_t samples;
    enum output_kind output;
    bool keep_samples;
    uint32_t tile, overlap;    /* px of the restored image */
    uint32_t margin;           /* px mirrored around it: tiles are cut from the two together */
    uint32_t shift_x, shift_y; /* px by which the tile grid is moved; 0 but in tests */
    uint32_t jobs_in_flight;   /* most neighbouring rows that are in an engine at once */
    uint32_t
        runs_in_flight; /* of such rows, far from each other: several engines do not keep step; 0 = 1 */
    /* the measurement: one of the two; the mask where the task has one */
    const struct image *img;
    const struct measurement *y;
    const struct image *mask;
};

/* Sizes that follow from a setup; `float_y`: the measurement is one of floats. */
struct restoration_shape {
    struct extent in;  /* the image given; c counts alpha */
    struct extent out; /* the image restored; c is 1 or 3 */
    uint32_t depth;    /* bits of a channel of what is returned: 8 or 16 */
    bool float_y, has_alpha;
};

struct slot {
    bool is_used;
    uint32_t sample;
    uint64_t tiles_left;
    int64_t *acc; /* [out.h][out.w][out.c] */
};

/* Where the images of a restoration are worked on; decided when its first row is begun, for good. */
enum location { LOCATION_UNDECIDED, LOCATION_HOST, LOCATION_DEVICE };

struct restoration {
    struct restoration_setup s;
    const struct operator_traits *op; /* the task's */
    struct restoration_shape shape;
    uint32_t y_channels; /* of the measurement: 1 or 3 */
    struct tiles tiles;
    uint64_t n_tiles;
    const uint8_t
        *observed_mask; /* [in.h][in.w] nonzero where measured; NULL where there is no hole */
    const float *taps;  /* [BLUR_TAPS] of the operator; NULL where it has none */
    const char
        *tables; /* the tiles' weights, `observed_mask` and `taps`, one stretch of the block */
    size_t tables_bytes;
    float level[256]; /* of an 8-bit sample, in [-1,1] */
    /* Of whoever begins rows; the members below are unused where it does not live on the host. */
    struct placement placement;

    pthread_mutex_t lock; /* guards everything below */
    struct slot *slots;
    uint32_t n_slots;
    int64_t *sum, *sum2; /* over finished samples; NULL where not needed */
    uint8_t *images;     /* kept samples, [samples][out.h][out.w][out.c] of `depth` bits; NULL */
    float *scratch;      /* of the residual */
    enum location location;
    uint64_t jobs_back;
    enum status failure; /* of the first row that failed */
    bool has_result;
    struct restoration_result result;
};

/* Sizes and limits: ST_TOO_FEW_PX, ST_TOO_MANY_PX. depth 8 or 16, or 32 for a measurement of floats. */
enum status restoration_shape_of(struct restoration_shape *out, const struct task_desc *task,
                                 uint32_t width, uint32_t height, uint32_t channels, uint32_t depth,
                                 struct error *err);
/* Bytes that restoration_make takes. SIZE_MAX: more than can be counted. */
size_t restoration_block_bytes(const struct restoration_setup *s,
                               const struct restoration_shape *shape);
/* Everything of `s` but the images has been checked. ST_BAD_MASK, ST_TOO_FEW_PX, ST_TOO_MANY_PX, ST_NO_MEMORY_NOW. */
enum status restoration_make(struct restoration **out, const struct restoration_setup *s,
                             struct error *err);

/* Marks what was measured: a mask is white where the image is missing; without one, alpha 0 is. observed_mask: [h][w].
 * An image without pixels stands for its size alone. ST_BAD_MASK */
enum status hole_read(uint8_t *observed_mask, const struct image *img, const struct image *mask,
                      const char *task, struct error *err);

struct tile_position {
    uint32_t sample, x0, y0; /* of a row; px of the restored image with its margin */
};
struct tile_position restoration_tile_position(const struct restoration *r, uint64_t row);
/* The network's input for a row. y_in: [tile][tile][3] */
void restoration_extract(const struct restoration *r, uint64_t row, float *y_in);
/* Blends a restored tile, x0: [tile][tile][3]. ST_INTERNAL where a value is not finite: nothing is blended, and the
 * restoration has failed; the row counts as back all the same. */
enum status restoration_put(struct restoration *r, uint64_t row, const float *x0,
                            struct error *err);
/* A row that comes back without a tile: it has failed, or (ST_OK) was blended where the restoration lives. */
void restoration_count_back(struct restoration *r, enum status why);

void restoration_fail(struct restoration *r, enum status why); /* whatever comes back of it */

/* Before any row of a batch is begun: where `r` lives from now on. Whole: none of its rows will be begun elsewhere than in `h`, which may be NULL. */
void restoration_place(struct restoration *r, struct image_pool *h, bool is_whole);
bool restoration_is_placed(struct restoration *r);
static inline bool restoration_is_on_device(const struct restoration *r)
{
    return r->placement.pool != NULL;
}

/* Samples of the measurement, y_channels a pixel, as given (nothing in a hole). row: [n][y_channels] */
void restoration_observed(const struct restoration *r, uint32_t y, uint32_t x0, uint32_t n,
                          float *row);
/* The colours of a finished accumulator, rounded to the depth of the output. */
void restoration_round(const struct restoration *r, const int64_t *acc, void *pixels);

#endif
