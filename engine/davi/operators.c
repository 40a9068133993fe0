/* The five measurement operators. Everything is plain float arithmetic on rows; no memory is taken and nothing is remembered. */
#include "engine/davi/operators.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

const struct task_desc task_table[TASK_COUNT] = {
#define TASK(id, name, op, sigma, sigma_low, sigma_high, h, level, level_low, level_high,          \
             level_gain, t_ikl, weight_con, reg_coeff)                                             \
    { name,                                                                                        \
      op,                                                                                          \
      sigma,                                                                                       \
      { sigma_low, sigma_high },                                                                   \
      h,                                                                                           \
      level,                                                                                       \
      { level_low, level_high },                                                                   \
      level_gain,                                                                                  \
      t_ikl,                                                                                       \
      weight_con,                                                                                  \
      reg_coeff },
#include "engine/davi/tasks.def"
#undef TASK
};

const struct task_desc *task_find(const char *name)
{
    for (int i = 0; i < TASK_COUNT; i++)
        if (strcmp(task_table[i].name, name) == 0) return &task_table[i];
    return NULL;
}

static const float gray_of[3] = { 0.3333f, 0.3334f, 0.3333f };

static float kernel_table[BLUR_TAPS];
static pthread_once_t kernel_once = PTHREAD_ONCE_INIT;

static void kernel_fill(void)
{
    double sum = 0;
    for (int i = -BLUR_REACH; i <= BLUR_REACH; i++)
        sum += exp(-0.5 * i * i / (BLUR_STD * BLUR_STD));
    for (int i = -BLUR_REACH; i <= BLUR_REACH; i++)
        kernel_table[i + BLUR_REACH] = (float)(exp(-0.5 * i * i / (BLUR_STD * BLUR_STD)) / sum);
}

const float *blur_kernel(void)
{
    pthread_once(&kernel_once, kernel_fill);
    return kernel_table;
}

struct extent operator_extent(enum operator_kind op, struct extent x)
{
    if (op == OPERATOR_POOL4) return (struct extent){ x.w / 4, x.h / 4, x.c };
    if (op == OPERATOR_GRAY) return (struct extent){ x.w, x.h, 1 };
    return x;
}

/* BLUR: a ring of rows already blurred along x, one row with its zero margins, one row out. Others: one row in, one out. */
size_t operator_scratch_floats(enum operator_kind op, struct extent x)
{
    size_t row = (size_t)x.w * x.c;
    if (op == OPERATOR_BLUR) return (BLUR_TAPS + 2) * row + (size_t)2 * BLUR_REACH * x.c;
    return 2 * row;
}

static void blur_along_row(float *restrict out, const float *restrict in, size_t n, size_t c,
                           const float *k)
{
    const float *mid = in + BLUR_REACH * c; /* in has BLUR_REACH zero pixels at either end */
    for (size_t i = 0; i < n; i++)
        out[i] = k[BLUR_REACH] * mid[i];
    for (size_t j = 1; j <= BLUR_REACH; j++) {
        const float *a = mid - j * c, *b = mid + j * c;
        float w = k[BLUR_REACH + j];
        for (size_t i = 0; i < n; i++)
            out[i] += w * (a[i] + b[i]);
    }
}

static void add_scaled(float *restrict out, const float *restrict in, float w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] += w * in[i];
}

static void blur_rows(struct extent x, struct row_source from, struct row_sink to, float *scratch)
{
    const float *k = blur_kernel();
    const size_t n = (size_t)x.w * x.c, margin = (size_t)BLUR_REACH * x.c;
    float *ring = scratch, *padded = ring + BLUR_TAPS * n, *out = padded + n + 2 * margin;
    memset(padded, 0, (n + 2 * margin) * sizeof *padded);
    uint32_t read = 0;
    for (uint32_t y = 0; y < x.h; y++) {
        for (; read < x.h && read <= y + BLUR_REACH; read++) {
            from.get(from.ctx, read, padded + margin);
            blur_along_row(ring + (read % BLUR_TAPS) * n, padded, n, x.c, k);
        }
        uint32_t first = y < BLUR_REACH ? 0 : y - BLUR_REACH;
        memset(out, 0, n * sizeof *out);
        for (uint32_t s = first; s < read; s++)
            add_scaled(out, ring + (s % BLUR_TAPS) * n, k[BLUR_REACH + s - y], n);
        to.put(to.ctx, y, out);
    }
}

static void pool_rows(struct extent x, struct row_source from, struct row_sink to, float *scratch)
{
    const struct extent y = operator_extent(OPERATOR_POOL4, x);
    float *in = scratch, *out = scratch + (size_t)x.w * x.c;
    for (uint32_t row = 0; row < y.h; row++) {
        memset(out, 0, (size_t)y.w * y.c * sizeof *out);
        for (uint32_t i = 0; i < 4; i++) {
            from.get(from.ctx, 4 * row + i, in);
            for (size_t p = 0; p < (size_t)4 * y.w; p++)
                for (size_t c = 0; c < x.c; c++)
                    out[p / 4 * x.c + c] += in[p * x.c + c];
        }
        for (size_t p = 0; p < (size_t)y.w * y.c; p++)
            out[p] *= 0.0625f;
        to.put(to.ctx, row, out);
    }
}

static void gray_row(float *out, const float *in, struct extent x)
{
    for (size_t p = 0; p < x.w; p++) {
        const float *v = in + p * x.c;
        out[p] = x.c < 3 ? v[0] : gray_of[0] * v[0] + gray_of[1] * v[1] + gray_of[2] * v[2];
    }
}

static void mask_row(float *row, const uint8_t *kept, struct extent x)
{
    for (size_t p = 0; p < x.w; p++)
        for (size_t c = 0; c < x.c; c++)
            if (!kept[p]) row[p * x.c + c] = 0;
}

void operator_rows(enum operator_kind op, struct extent x, const uint8_t *kept,
                   struct row_source from, struct row_sink to, float *scratch)
{
    if (op == OPERATOR_BLUR) {
        blur_rows(x, from, to, scratch);
        return;
    }
    if (op == OPERATOR_POOL4) {
        pool_rows(x, from, to, scratch);
        return;
    }
    float *gray = scratch + (size_t)x.w * x.c;
    for (uint32_t y = 0; y < x.h; y++) {
        from.get(from.ctx, y, scratch);
        if (op == OPERATOR_MASK) mask_row(scratch, kept + (size_t)y * x.w, x);
        if (op == OPERATOR_GRAY) gray_row(gray, scratch, x);
        to.put(to.ctx, y, op == OPERATOR_GRAY ? gray : scratch);
    }
}

struct whole {
    const float *from;
    float *to;
    size_t from_row, to_row; /* floats in a row */
};

static void whole_get(void *ctx, uint32_t y, float *row)
{
    const struct whole *w = ctx;
    memcpy(row, w->from + y * w->from_row, w->from_row * sizeof *row);
}

static void whole_put(void *ctx, uint32_t y, const float *row)
{
    struct whole *w = ctx;
    memcpy(w->to + y * w->to_row, row, w->to_row * sizeof *row);
}

void operator_apply(enum operator_kind op, struct extent x_size, const uint8_t *kept,
                    const float *x, float *y, float *scratch)
{
    struct extent y_size = operator_extent(op, x_size);
    struct whole w = { .from = x,
                       .to = y,
                       .from_row = (size_t)x_size.w * x_size.c,
                       .to_row = (size_t)y_size.w * y_size.c };
    operator_rows(op, x_size, kept, (struct row_source){ whole_get, &w },
                  (struct row_sink){ whole_put, &w }, scratch);
}

/* Every pixel of a 4 x 4 block gets scale * y; pixels beyond the last whole block get 0. */
static void spread4(struct extent x, const float *y, float *out, float scale)
{
    const struct extent m = operator_extent(OPERATOR_POOL4, x);
    for (uint32_t row = 0; row < x.h; row++)
        for (uint32_t p = 0; p < x.w; p++)
            for (uint32_t c = 0; c < x.c; c++) {
                bool measured = row / 4 < m.h && p / 4 < m.w;
                size_t from = ((size_t)(row / 4) * m.w + p / 4) * x.c + c;
                out[((size_t)row * x.w + p) * x.c + c] = measured ? scale * y[from] : 0;
            }
}

static void ungray(struct extent x, const float *y, float *out, float scale)
{
    for (size_t p = 0; p < (size_t)x.w * x.h; p++)
        for (size_t c = 0; c < x.c; c++)
            out[p * x.c + c] = x.c < 3 ? y[p] : y[p] * scale * gray_of[c % 3];
}

void operator_transpose(enum operator_kind op, struct extent x_size, const uint8_t *kept,
                        const float *y, float *x, float *scratch)
{
    switch (op) {
    case OPERATOR_POOL4: spread4(x_size, y, x, 0.0625f); break;
    case OPERATOR_GRAY: ungray(x_size, y, x, 1); break;
    case OPERATOR_BLUR: /* a symmetric kernel with a zero boundary is a symmetric matrix */
    case OPERATOR_MASK:
    case OPERATOR_IDENTITY: operator_apply(op, x_size, kept, y, x, scratch); break;
    }
}

bool operator_pinv(enum operator_kind op, struct extent x_size, const uint8_t *kept, const float *y,
                   float *x)
{
    const size_t n = (size_t)x_size.w * x_size.h * x_size.c;
    switch (op) {
    case OPERATOR_BLUR: return false;
    case OPERATOR_POOL4: spread4(x_size, y, x, 1); break;
    case OPERATOR_GRAY: {
        float norm2 = gray_of[0] * gray_of[0] + gray_of[1] * gray_of[1] + gray_of[2] * gray_of[2];
        ungray(x_size, y, x, 1 / norm2);
        break;
    }
    case OPERATOR_MASK:
        for (size_t i = 0; i < n; i++)
            x[i] = kept[i / x_size.c] ? y[i] : 0;
        break;
    case OPERATOR_IDENTITY: memcpy(x, y, n * sizeof *x); break;
    }
    return true;
}

void resize4_at(uint32_t at, uint32_t n, uint32_t *i0, uint32_t *i1, float *w1)
{
    /* (at + 0.5) / 4 - 0.5 in eighths: exact in integers */
    int64_t eighths = 2 * (int64_t)at - 3;
    if (eighths < 0) eighths = 0;
    uint32_t low = (uint32_t)(eighths / 8);
    *i0 = low < n ? low : n - 1;
    *i1 = low + 1 < n ? low + 1 : n - 1;
    *w1 = (float)(eighths % 8) / 8;
}
