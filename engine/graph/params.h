/* params.h - the parameters of a graph: where their values come from, and their layout in one
 * array.
 *
 * The caller owns sources, layouts and arrays. Functions fail with ST_NO_MEMORY_NOW or with the
 * status of the source. They keep nothing: threads may call them side by side on different data. */
#ifndef DAVID_GRAPH_PARAMS_H
#define DAVID_GRAPH_PARAMS_H

#include <stddef.h>

#include "engine/graph/backend.h"
#include "engine/graph/graph.h"

/* A source of weights: a file, or hashes. `load` is called once per parameter, in any order; dst:
 * d->count F32 on the host. */
struct param_source {
    enum status (*load)(void *ctx, const struct param_desc *d, float *dst, struct error *err);
    void *ctx;
};
/* One parameter as a malloc'd array. */
enum status param_load(const struct param_source *src, const struct param_desc *d, float **out,
                       struct error *err);
/* engine/README.md section 7. ctx: const uint64_t *seed. */
enum status hash_param_load(void *ctx, const struct param_desc *d, float *dst, struct error *err);
/* v_i of section 7 for any name: n values. */
void hash_values(const char *name, uint64_t seed, float *dst, size_t n);

/* Where the parameters of a graph are in one array. Each begins at a multiple of 64 bytes; the gaps
 * between them are zero. */
struct param_layout {
    size_t *offset; /* [params], floats */
    size_t count;   /* floats in all */
};
enum status param_layout_init(struct param_layout *out, const struct graph *g, struct error *err);
void param_layout_done(struct param_layout *l); /* takes a zeroed struct */
/* Fills the caller's array (memory of the back end). */
enum status params_load(struct backend *b, const struct graph *g, const struct param_layout *l,
                        const struct param_source *src, float *params, struct error *err);

#endif
