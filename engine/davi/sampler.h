/* sampler.h - the one-step sampler on a back end: y_in and z to x0 (engine/README.md section 3).
 *
 * x_t = y_in + (1 - abar_999) h z; x0 = tanh(x_t - std_fwd_999 eps(x_t)). An architecture may have
 * the noise in channels of its own beside y_in, and clamp x0 instead (section 9). The caller draws
 * or gives z. Memory for a batch execution is allocated once for each stream slot, so that one
 * batch is copied while another is computed; its host side is pinned where the back end has such
 * memory.
 * One thread at a time, except sampler_end, which may run beside everything else. The program and
 * the back end are borrowed and must outlive the sampler. */
#ifndef DAVID_DAVI_SAMPLER_H
#define DAVID_DAVI_SAMPLER_H

#include "engine/davi/schedule.h"
#include "engine/graph/program.h"

enum { SAMPLER_STREAM_SLOTS = 2 };

struct sampler {
    struct backend *backend;
    struct program *program; /* folded, three output channels */
    struct sampler_constants constants;
    uint32_t channels;     /* of x_t: 3, or 6 with the noise beside y_in */
    bool linear;           /* x0 is clamped, without tanh */
    uint32_t tile, rows;   /* px; rows of one pass */
    uint32_t stream_slots; /* batches in flight, at most */
    uint32_t stream_slot;  /* of the next rows */
    /* [rows][tile][tile][3], x_t with `channels`; memory of the back end. x0 replaces y_in. */
    float *y_in[SAMPLER_STREAM_SLOTS], *z, *x_t, *eps;
    double *h;           /* [rows] host */
    uint32_t *condition; /* [rows] host: of the program */
    bool *stays;         /* [rows] host: y_in and x0 are not copied, they stay on the device */
    float
        *host[SAMPLER_STREAM_SLOTS]; /* y_in on the host; NULL where the back end uses its memory */
};

enum status sampler_init(struct sampler *s, struct backend *b, struct program *p,
                         const struct model_info *info, struct error *err);
void sampler_done(struct sampler *s); /* takes a zeroed struct */
size_t sampler_bytes(const struct sampler *s);

/* The next rows belong to this stream slot (< stream_slots), which has no batch in flight. */
void sampler_turn(struct sampler *s, uint32_t stream_slot);
/* Row i on the host: y_in before sampler_run, x0 after it. [tile][tile][3] */
float *sampler_row(struct sampler *s, uint32_t i);
float *sampler_row_of(struct sampler *s, uint32_t stream_slot, uint32_t i);
/* Draws z of row i by Philox, at pixels of the restored image. */
enum status sampler_draw(struct sampler *s, uint32_t i, uint64_t seed, uint32_t sample, uint32_t x0,
                         uint32_t y0, struct error *err);
/* Copies z of row i. z: [tile][tile][3], on the host. */
enum status sampler_give(struct sampler *s, uint32_t i, const float *z, struct error *err);
void sampler_choose(struct sampler *s, uint32_t i, double h, uint32_t condition);
/* stays: the back end's ops write y_in of row i and read its x0 at sampler_output, and nothing is
 * copied. Else both are on the host. */
void sampler_stay(struct sampler *s, uint32_t i, bool stays);
float *sampler_output(const struct sampler *s, uint32_t stream_slot, uint32_t i);
/* n <= rows; y_in, z, h, condition and stays of each are set. Returns before they are computed. */
enum status sampler_begin(struct sampler *s, uint32_t n, struct error *err);
enum status sampler_end(struct sampler *s, uint32_t stream_slot, struct error *err);
/* sampler_begin and sampler_end. */
enum status sampler_run(struct sampler *s, uint32_t n, struct error *err);

#endif
