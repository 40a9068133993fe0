/* restoration.h - the inside of a restoration (engine.h): an image, its tiles, its accumulators.
 *
 * It holds geometry and state, and calls the image ops of the back end whose memory holds the
 * images: cpu_images on the host, or a device's (restoration_device.h). It knows no network:
 * engine_run extracts the input of a row (restoration_extract), runs the network on it, and blends
 * the output (restoration_put).
 * All host memory is one block, laid out before it is taken, so restoration_block_bytes() is what
 * is held. Accumulators are int64 fixed point; a sample has one while its rows are in flight and is
 * then accumulated into a sum and a sum of squares.
 * Threads: restoration_extract reads only; restoration_put takes the lock; the rest is for after
 * the last row. */
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
    uint32_t margin;           /* px mirrored around it; tiles cover the image with its margin */
    uint32_t shift_x, shift_y; /* px by which the tile grid is moved; 0 except in tests */
    uint32_t jobs_in_flight;   /* neighbouring rows that are in an engine at once, at most */
    uint32_t runs_in_flight;   /* such runs of rows at once, one an engine, far apart; 0 = 1 */
    /* The measurement is one of the two; the mask is set where the task has one. */
    const struct image *img;
    const struct measurement *y;
    const struct image *mask;
};

/* Sizes that follow from a setup; `float_y`: the measurement is one of floats. */
struct restoration_shape {
    struct extent in;  /* of the image given; c counts alpha */
    struct extent out; /* of the image restored; c is 1 or 3 */
    uint32_t depth;    /* bits of a channel of what is returned: 8 or 16 */
    bool float_y, has_alpha;
};

struct slot {
    bool is_used;
    uint32_t sample;
    uint64_t tiles_left;
    int64_t *acc; /* [out.h][out.w][out.c]; all 0 while the slot is not used */
};

/* Which memory holds the images of a restoration; decided before its first row, for good. */
enum location { LOCATION_UNDECIDED, LOCATION_HOST, LOCATION_DEVICE };

/* What comes back from a device: byte offsets, the same in both memories. */
struct returned {
    size_t numbers, mean, std, samples, total; /* numbers: enum returned_number, F64 */
};

/* Memory that only a device needs; pieces.pool is NULL on the host. */
struct device_images {
    struct image_pool_pieces pieces;
    char *pixels, *tables;   /* destinations of what is sent */
    float *mean, *ax, *blur; /* of the residual: float images */
    double *partial;         /* of the residual: scratch */
    char *out;               /* struct returned; pieces.host is its destination */
    struct returned returned;
    bool has_arrived; /* the measurement and the tables have been sent */
};

struct restoration {
    struct restoration_setup s;
    const struct operator_traits *op; /* the task's */
    struct restoration_shape shape;
    uint32_t y_channels; /* of the measurement: 1 or 3 */
    struct tiles tiles;
    uint64_t n_tiles;
    const uint8_t *observed_mask; /* [in.h][in.w] nonzero where measured; NULL: there is no hole */
    const float *taps;            /* [BLUR_TAPS] of the operator; NULL where it has none */
    const char *tables; /* the tiles' weights, `observed_mask` and `taps`: one part of the block */
    size_t tables_bytes;

    /* The memory that holds the images, and its ops; set before the first row. */
    const struct image_ops *ops;
    struct backend *backend;   /* NULL on the host: its ops read none */
    const void *pixels;        /* the measurement as given: [in.h][in.w][in.c] */
    const char *placed_tables; /* a copy of `tables`; on the host `tables` */
    struct device_images device;

    pthread_mutex_t lock; /* guards everything below */
    enum location location;
    struct slot *slots;
    uint32_t n_slots; /* 1 on a device, where samples come one after the other */
    uint32_t samples_done;
    int64_t *sum, *sum2; /* over finished samples; NULL where not needed */
    char *kept;          /* kept samples, [samples][out.h][out.w][out.c] of `depth` bits; NULL */
    float *scratch;      /* host, of the residual */
    uint64_t jobs_back;
    enum status failure; /* of the first row that failed */
    bool has_result;
    struct restoration_result result;
};

/* Sizes and limits: ST_TOO_FEW_PX, ST_TOO_MANY_PX. depth: 8, 16, or 32 for a measurement of
 * floats. */
enum status restoration_shape_of(struct restoration_shape *out, const struct task_desc *task,
                                 uint32_t width, uint32_t height, uint32_t channels, uint32_t depth,
                                 struct error *err);
/* Bytes that restoration_make takes. SIZE_MAX: more than can be counted. */
size_t restoration_block_bytes(const struct restoration_setup *s,
                               const struct restoration_shape *shape);
/* Everything in `s` except the images has been checked. ST_BAD_MASK, ST_TOO_FEW_PX,
 * ST_TOO_MANY_PX, ST_NO_MEMORY_NOW. */
enum status restoration_make(struct restoration **out, const struct restoration_setup *s,
                             struct error *err);

/* Marks what was measured: white in a mask means missing; without a mask alpha 0 does.
 * observed_mask: [h][w]. Of an image without pixels only the size is read. ST_BAD_MASK */
enum status hole_read(uint8_t *observed_mask, const struct image *img, const struct image *mask,
                      const char *task, struct error *err);

/* Before any row of a batch is extracted: decides which memory holds the images of `r`. Whole: the
 * back end of `pool` gets every row of it. pool: NULL: the host. */
void restoration_place(struct restoration *r, struct image_pool *pool, bool is_whole);
bool restoration_is_placed(struct restoration *r);
static inline bool restoration_is_on_device(const struct restoration *r)
{
    return r->device.pieces.pool != NULL;
}

struct tile_position {
    uint32_t sample, x0, y0; /* px of the restored image with its margin */
};
struct tile_position restoration_tile_position(const struct restoration *r, uint64_t row);
/* The network's input for a row. y_in: [tile][tile][3], in the memory of the images. On the host it
 * cannot fail; on a device the measurement has been sent (restoration_send). */
enum status restoration_extract(const struct restoration *r, uint64_t row, float *y_in,
                                struct error *err);
/* On the host: blends a restored tile, x0: [tile][tile][3]. ST_INTERNAL where a value is not
 * finite: nothing is blended, and the restoration has failed; the row counts as back. */
enum status restoration_put(struct restoration *r, uint64_t row, const float *x0,
                            struct error *err);
/* A row comes back without a tile: it has failed, or (ST_OK) was blended on the device. */
void restoration_count_back(struct restoration *r, enum status why);

/* ---- for the files restoration*.c ---- */

/* Under the lock: blends a tile into its sample's accumulator, and accumulates the sample with its
 * last one. x0 and bad (NULL: the tile is finite): in the memory of the images. */
enum status restoration_blend(struct restoration *r, uint64_t row, const float *x0,
                              const uint32_t *bad, struct error *err);
size_t restoration_values(const struct restoration *r); /* of the image restored */
/* `at`, a pointer into r->tables, in the memory of the images. */
const void *restoration_table(const struct restoration *r, const void *at);
struct observed restoration_observed(const struct restoration *r);
/* Of all samples, once the last row is blended. */
struct finished restoration_finished(const struct restoration *r);

#endif
