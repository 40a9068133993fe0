#include "tests/cuda/conformance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const uint64_t orders[ORDERS] = { EMU_ASCENDING, EMU_DESCENDING, 3, 5, 8, 13, 21 };
const enum dtype dtypes[3] = { DT_F32, DT_BF16, DT_F16 };
struct backend *oracle;
struct error err;

float noise(uint64_t seed, uint64_t i)
{
    uint64_t z = (seed * 1000003 + i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

void *memory(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes ? bytes : 1), 0);
    return p;
}

float *floats(size_t count, uint64_t seed, float scale, float offset)
{
    float *p = memory(count * sizeof *p);
    for (size_t i = 0; i < count; i++)
        p[i] = offset + scale * noise(seed, i);
    return p;
}

uint32_t *words(const uint32_t *from, size_t count)
{
    uint32_t *p = memory(count * sizeof *p);
    memcpy(p, from, count * sizeof *p);
    return p;
}

size_t tensor_bytes(const struct tensor *x)
{
    return (size_t)x->n * x->h * x->w * x->ld * dtype_size(x->dtype);
}

struct tensor tensor_make(enum dtype t, uint32_t n, uint32_t h, uint32_t w, uint32_t c, size_t ld,
                          uint64_t seed)
{
    struct tensor x = { .dtype = t, .n = n, .h = h, .w = w, .c = c, .ld = ld };
    x.data = memory(tensor_bytes(&x));
    for (size_t i = 0; i < (size_t)n * h * w * ld; i++) {
        float v = noise(seed, i);
        dtype_from_f32((char *)x.data + i * dtype_size(t), t, &v, 1);
    }
    return x;
}

struct tensor tensor_copy(const struct tensor *x)
{
    struct tensor y = *x;
    y.data = memory(tensor_bytes(x));
    memcpy(y.data, x->data, tensor_bytes(x));
    return y;
}

float tensor_value(const struct tensor *x, size_t i)
{
    float v;
    dtype_to_f32(&v, (const char *)x->data + i * dtype_size(x->dtype), x->dtype, 1);
    return v;
}

struct tensor tensor_wide(const struct tensor *x)
{
    struct tensor y = *x;
    y.dtype = DT_F32;
    y.data = memory(tensor_bytes(&y));
    dtype_to_f32(y.data, x->data, x->dtype, (size_t)x->n * x->h * x->w * x->ld);
    return y;
}

struct tensor tensor_row(const struct tensor *x, uint32_t n)
{
    struct tensor row = *x;
    row.n = 1;
    row.data = (char *)x->data + n * (tensor_bytes(x) / x->n);
    return row;
}

void tensor_free(struct tensor *x)
{
    free(x->data);
    x->data = NULL;
}

void expect_near(const char *what, const struct tensor *got, const struct tensor *want,
                 double tolerance)
{
    double worst = 0, most = 1e-30;
    for (size_t i = 0; i < (size_t)got->n * got->h * got->w; i++)
        for (size_t c = 0; c < got->ld; c++) {
            double x = (double)tensor_value(got, i * got->ld + c);
            double y = (double)tensor_value(want, i * want->ld + c);
            if (c >= got->c) {
                if (!(x == y))
                    fail_msg("%s: beyond the channels of pixel %zu something was written", what, i);
                continue;
            }
            if (!isfinite(x)) fail_msg("%s: pixel %zu, channel %zu is %g", what, i, c, x);
            worst = fmax(worst, fabs(x - y));
            most = fmax(most, fabs(y));
        }
    if (!(worst / most <= tolerance))
        fail_msg("%s in %s: relative difference %.3g, tolerance %.3g", what, dtype_name(got->dtype),
                 worst / most, tolerance);
    if (getenv("DAVID_TEST_VERBOSE"))
        print_message("%-40s %-5s difference %.2e of %.2e\n", what, dtype_name(got->dtype),
                      worst / most, tolerance);
}

void expect_same(const char *what, const void *got, const void *want, size_t bytes)
{
    if (memcmp(got, want, bytes) != 0) fail_msg("%s: not the same bytes", what);
}

/* Half a unit in the last place of a significand of 8 or 11 bits. */
double tolerance_of(enum dtype t, double f32)
{
    return f32 + (t == DT_BF16 ? 0x1p-8 : t == DT_F16 ? 0x1p-11 : 0);
}

void in_every_order(const char *what, struct tensor *y,
                    void (*run)(void *ctx, const struct tensor *y), void *ctx)
{
    struct tensor before = tensor_copy(y);
    for (int i = 0; i < ORDERS; i++) {
        struct tensor now = tensor_copy(&before);
        emu_set_order(orders[i]);
        run(ctx, i == 0 ? y : &now);
        if (i > 0 && memcmp(now.data, y->data, tensor_bytes(y)) != 0)
            fail_msg("%s in %s: order %llu gives other bytes", what, dtype_name(y->dtype),
                     (unsigned long long)orders[i]);
        tensor_free(&now);
    }
    tensor_free(&before);
}

int run_conformance(const char *name, const struct CMUnitTest *tests, size_t count)
{
    if (cpu_backend_open(&oracle, 1, &err)) {
        (void)fprintf(stderr, "%s\n", err.detail);
        return 1;
    }
    int failed = _cmocka_run_group_tests(name, tests, count, NULL, NULL);
    oracle->ops->device.close(oracle);
    return failed;
}
