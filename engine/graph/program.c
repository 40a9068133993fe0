/* Runs a program: rows are copied in, the ops of each batch execution run, rows are copied out. */
#include "engine/graph/program.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "engine/graph/backend/device.h"
#include "engine/graph/program_internal.h"

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static enum status run_ops(struct program *p, struct error *err)
{
    const struct backend_ops *ops = p->b->ops;
    enum status s = ST_OK;
    for (uint32_t i = 0; !s && i < p->g->n_nodes; i++) {
        if (p->is_skipped[i]) continue;
        uint64_t start = p->time_ops ? now_ns() : 0;
        s = op_run(p->b, &p->steps[i], err);
        if (!p->time_ops) continue;
        if (!s && ops->device.finish) s = ops->device.finish(p->b, err);
        p->op_ns[p->steps[i].op] += now_ns() - start;
    }
    return s;
}

/* With time_ops nothing is recorded: a replay has no ops to time. */
static enum status run_execution(struct program *p, struct error *err)
{
    const struct backend_ops *ops = p->b->ops;
    const struct execution execution = { .key = p,
                                         .rows = p->batch_rows,
                                         .scalar = { p->values.scalar[SCALAR_TIME],
                                                     p->values.scalar[SCALAR_SIGMA],
                                                     p->values.scalar[SCALAR_LEVEL] },
                                         .label = p->classes ? p->values.label : NULL,
                                         .condition = p->conditions ? p->values.condition : NULL };
    bool is_replayed = false;
    if (!ops->device.execution_begin || p->time_ops) return run_ops(p, err);
    enum status s = ops->device.execution_begin(p->b, &execution, &is_replayed, err);
    if (s || is_replayed) return s;
    s = run_ops(p, err);
    enum status end = ops->device.execution_end(p->b, s == ST_OK, err);
    return s ? s : end;
}

/* Sets the views of all steps to the first `rows` rows. */
static void choose_batch_rows(struct program *p, uint32_t rows)
{
    if (rows == p->batch_rows) return;
    for (struct op_step *st = p->steps; st < p->steps + p->g->n_nodes; st++)
        st->in[0].n = st->in[1].n = st->residual.n = st->y.n = rows;
    p->batch_rows = rows;
}

static struct tensor rows_of(struct tensor t, uint32_t first, uint32_t n)
{
    t.data = (char *)t.data + (size_t)first * t.h * t.w * t.ld * dtype_size(t.dtype);
    t.n = n;
    return t;
}

/* A tight F32 feature map of the caller's, shaped as `like`. */
static struct tensor outside(const float *data, const struct tensor *like, uint32_t first,
                             uint32_t n)
{
    struct tensor t = *like;
    t.data = (void *)data;
    t.dtype = DT_F32;
    t.ld = t.c;
    return rows_of(t, first, n);
}

static const char *const scalar_names[SCALARS] = { "t", "sigma", "level" };

static const float *scalar_of(const struct program_io *io, enum scalar scalar)
{
    return scalar == SCALAR_SIGMA ? io->sigma : scalar == SCALAR_LEVEL ? io->level : io->t;
}

static enum status check_io(const struct program *p, const struct program_io *io, uint32_t rows,
                            struct error *err)
{
    for (uint32_t i = 0; i < rows; i++) {
        if (p->conditions && io->condition && io->condition[i] >= p->conditions)
            return error_set(err, ST_BAD_PARAMETER, "row %u asks for set %u of %u", i,
                             io->condition[i], p->conditions);
        for (int k = 0; k < SCALARS; k++) {
            const float *from = scalar_of(io, (enum scalar)k);
            if (p->values.scalar[k] && (!from || !isfinite(from[i])))
                return error_set(err, ST_BAD_PARAMETER, "row %u has no finite %s", i,
                                 scalar_names[k]);
        }
        if (p->classes && (!io->label || io->label[i] >= p->classes))
            return error_set(err, ST_BAD_PARAMETER, "row %u has no label below %u", i, p->classes);
    }
    return ST_OK;
}

/* A batch execution has one of a few sizes; where fewer rows are left, the first is repeated and
 * the results of its copies are not used. */
static enum status load_execution(struct program *p, const struct program_io *io, uint32_t first,
                                  uint32_t n, struct error *err)
{
    const struct tensor *in = &p->steps[p->g->input].y;
    struct tensor x = outside(io->x, in, first, n), y = rows_of(*in, 0, n);
    enum status s = p->b->ops->net.cast(p->b, &x, &y, err);
    for (uint32_t i = 0; !s && i < p->batch_rows; i++) {
        uint32_t row = first + (i < n ? i : 0);
        if (p->conditions) p->values.condition[i] = io->condition ? io->condition[row] : 0;
        for (int k = 0; k < SCALARS; k++)
            if (p->values.scalar[k]) p->values.scalar[k][i] = scalar_of(io, (enum scalar)k)[row];
        if (p->classes) p->values.label[i] = io->label[row];
        if (i < n) continue;
        x = outside(io->x, in, first, 1);
        y = rows_of(*in, i, 1);
        s = p->b->ops->net.cast(p->b, &x, &y, err);
    }
    return s;
}

enum status program_run(struct program *p, const struct program_io *io, uint32_t rows,
                        struct error *err)
{
    enum status s = check_io(p, io, rows, err);
    for (uint32_t first = 0; !s && first < rows; first += p->rows) {
        uint32_t n = rows - first < p->rows ? rows - first : p->rows;
        uint32_t size =
            p->b->ops->device.batch_rows ? p->b->ops->device.batch_rows(p->b, n) : p->rows;
        choose_batch_rows(p, size < p->rows ? size : p->rows);
        s = load_execution(p, io, first, n, err);
        if (s) break;
        s = run_execution(p, err);
        if (s) break;
        struct tensor x = rows_of(p->steps[p->g->output].y, 0, n);
        struct tensor y = outside(io->y, &x, first, n);
        s = p->b->ops->net.cast(p->b, &x, &y, err);
    }
    return s;
}

enum status program_tap(struct program *p, const char *tap, float *dst, size_t *count,
                        struct error *err)
{
    int32_t node = graph_tap(p->g, tap);
    if (node == NODE_NONE || !p->keep_taps)
        return error_set(err, ST_NOT_FOUND, "the program keeps no tap %s", tap);
    struct tensor x = p->steps[node].y;
    size_t n = (size_t)x.n * x.h * x.w * x.c;
    if (!dst) {
        *count = n;
        return ST_OK;
    }
    void *tight = NULL;
    enum status s = p->b->ops->device.alloc(p->b, n * sizeof *dst, &tight, err);
    if (s) return s;
    struct tensor y = outside(tight, &x, 0, x.n);
    s = p->b->ops->net.cast(p->b, &x, &y, err);
    if (!s) s = device_copy_out(p->b, dst, tight, n * sizeof *dst, err);
    if (!s) *count = n;
    p->b->ops->device.free(p->b, tight);
    return s;
}

void program_op_times(struct program *p, uint64_t *out_ns)
{
    memcpy(out_ns, p->op_ns, sizeof p->op_ns);
    memset(p->op_ns, 0, sizeof p->op_ns);
}
