/* sampler.h - the one-step sampler on a back end: y_in and z to x0 (engine/README.md section 3).
 *
 * x_t = y_in + (1 - abar_999) h z; x0 = tanh(x_t - std_fwd_999 eps(x_t)). Where the architecture says so, the noise stands in
 * channels of its own beside y_in, and x0 is clamped instead (section 9). z is given: where it comes from is the caller's
 * matter. Staging for a batch execution of rows is taken once for each stream_slot, so that one batch can be copied while another is computed; its host side is
 * pinned where the back end has such memory. One thread at a time, but that sampler_end may be called beside everything else;
 * borrowed program and back end must outlive it. */
#ifndef DAVID_DAVI_SAMPLER_H
#define DAVID_DAVI_SAMPLER_H

#include "engine/davi/schedule.h"
#include "engine/graph/program.h"

enum { SAMPLER_STREAM_SLOTS = 2 };

struct sampler {
    struct backend *backend;
    struct program *program; /* folded, three output channels */
    struct sampler_constants constants;
    uint32_t channels;                  /* of x_t: 3, or 6 with the noise beside */
    bool linear;                        /* clamped, not tanh */
    uint32_t tile, rows;                /* px; rows of one pass */
    uint32_t stream_slots, stream_slot; /* batches in flight, at most; whose the next rows are */
    float *y_in[SAMPLER_STREAM_SLOTS], *z, *x_t,
        *eps;  /* [rows][tile][tile][3], x_t [channels], memory of the back end; x0 replaces y_in */
    double *h; /* [rows] host */
    uint32_t *condition; /* [rows] host: the program's */
    bool *stays;         /* [rows] host: it comes from the back end's memory, and stays there */
    float *host[SAMPLER_STREAM_SLOTS]; /* y_in on the host; NULL where the back end's memory is */
};

enum status sampler_init(struct sampler *s, struct backend *b, struct program *p,
                         const struct model_info *info, struct error *err);
void sampler_done(struct sampler *s); /* takes a zeroed struct */
size_t sampler_bytes(const struct sampler *s);

/* Rows are written to this stream_slot, below `stream_slots`, from now on: nothing of it is in flight. */
void sampler_turn(struct sampler *s, uint32_t stream_slot);
/* Where the host writes row i of y_in, and reads row i of x0 after sampler_run. [tile][tile][3] */
float *sampler_row(struct sampler *s, uint32_t i);
float *sampler_row_of(struct sampler *s, uint32_t stream_slot, uint32_t i);
/* z of row i from Philox, at absolute pixels. */
enum status sampler_draw(struct sampler *s, uint32_t i, uint64_t seed, uint32_t sample, uint32_t x0,
                         uint32_t y0, struct error *err);
/* z of row i as given: z: [tile][tile][3] on the host. */
enum status sampler_give(struct sampler *s, uint32_t i, const float *z, struct error *err);
void sampler_choose(struct sampler *s, uint32_t i, double h, uint32_t condition);
/* Whether row i's y_in is written, and its x0 read, in the back end's memory: at sampler_output, by its ops. Else on the host. */
void sampler_stay(struct sampler *s, uint32_t i, bool stays);
float *sampler_output(const struct sampler *s, uint32_t stream_slot, uint32_t i);
/* n <= rows; each has its y_in, z, h, set and place. Returns while they may still be computed. */
enum status sampler_begin(struct sampler *s, uint32_t n, struct error *err);
enum status sampler_end(struct sampler *s, uint32_t stream_slot, struct error *err);
/* Both. */
enum status sampler_run(struct sampler *s, uint32_t n, struct error *err);

#endif
