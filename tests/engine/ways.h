/* ways.h - one back end (back_end.h says which) in all its ways to compute, beside the reference: tensors, and how near two are.
 *
 * For one test program each, after cmocka.h. The CPU: F32 with 1, 2 and 3 threads, and BF16; a plugin: every dtype that it has. */
#ifndef DAVID_TESTS_WAYS_H
#define DAVID_TESTS_WAYS_H

#include <math.h>
#include <stdio.h>

#include "tests/engine/back_end.h"

#define WAYS_FN static inline __attribute__((unused))

#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != ST_OK) fail_msg("%s: %s", #call, err.detail);                                \
    } while (0)

static struct error err;
static struct backend *reference;

/* The back end's ways to compute: teams of threads, dtypes. */
static struct way {
    const char *name;
    struct backend *b;
    enum dtype dtype;
} ways[4];
static size_t n_ways;

/* Half dtypes: what a result that is rounded twice may be off; F32: what the op's sums are. */
WAYS_FN double tolerance_of(const struct way *w, double f32)
{
    return w->dtype == DT_F32 ? f32 : w->dtype == DT_BF16 ? 5e-3 : 1e-3;
}

/* Numbers in [-1, 1) that depend on nothing but their place. */
WAYS_FN float noise(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

WAYS_FN struct tensor tensor_make(enum dtype t, uint32_t n, uint32_t h, uint32_t w, uint32_t c,
                                  size_t ld, uint64_t seed)
{
    struct tensor x = { .dtype = t, .n = n, .h = h, .w = w, .c = c, .ld = ld };
    size_t count = (size_t)n * h * w * ld;
    x.data = malloc(count * dtype_size(t));
    assert_non_null(x.data);
    for (size_t i = 0; i < count; i++) {
        /* Exact in BF16, so that both dtypes see the same numbers. */
        float v = f32_of_bf16(bf16_of_f32(noise(seed * 1000003 + i)));
        dtype_from_f32((char *)x.data + i * dtype_size(t), t, &v, 1);
    }
    return x;
}

WAYS_FN float value(const struct tensor *x, size_t i)
{
    float v;
    dtype_to_f32(&v, (const char *)x->data + i * dtype_size(x->dtype), x->dtype, 1);
    return v;
}

/* Largest difference, relative to the largest number; what lies between the pixels (ld > c) must be equal. */
WAYS_FN double difference(const struct tensor *a, const struct tensor *b)
{
    double worst = 0, most = 1e-30;
    for (size_t i = 0; i < (size_t)a->n * a->h * a->w; i++)
        for (size_t c = 0; c < a->ld; c++) {
            double x = (double)value(a, i * a->ld + c), y = (double)value(b, i * b->ld + c);
            if (c >= a->c) {
                assert_true(x == y);
                continue;
            }
            assert_true(isfinite(x));
            worst = fmax(worst, fabs(x - y));
            most = fmax(most, fabs(y));
        }
    return worst / most;
}

WAYS_FN void expect_near(const char *what, const struct way *w, const struct tensor *got,
                         const struct tensor *want, double f32)
{
    double d = difference(got, want), tolerance = tolerance_of(w, f32);
    if (!(d <= tolerance))
        fail_msg("%s, %s: relative difference %.3g, tolerance %.3g", what, w->name, d, tolerance);
}

WAYS_FN void expect_same_bytes(const char *what, const void *a, const void *b, size_t bytes)
{
    if (memcmp(a, b, bytes) != 0) fail_msg("%s: not the same bytes", what);
}

WAYS_FN enum status open_cpu(void)
{
    static const char *const names[] = { "1 thread", "2 threads", "3 threads", "BF16" };
    enum { BF16 = 3 };
    unsetenv("DAVID_CPU_EMULATE_BF16");
    for (int k = 0; k <= BF16; k++) {
        if (k == BF16) setenv("DAVID_CPU_EMULATE_BF16", "1", 1);
        ways[k] = (struct way){ names[k], NULL, k == BF16 ? DT_BF16 : DT_F32 };
        if (cpu_backend_open(&ways[k].b, k == BF16 ? 2 : k + 1, &err)) return err.status;
        n_ways++;
    }
    return ST_OK;
}

/* One back end, which has all dtypes; passes of up to four rows, as the images here have. */
WAYS_FN enum status open_plugin(void)
{
    static const enum dtype dtypes[] = { DT_F32, DT_BF16, DT_F16 };
    struct backend *b = NULL;
    if (test_backend_open(&b, 1, &(struct plugin_options){ .max_rows = 4 }, &err))
        return err.status;
    for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++)
        if (b->ops->device.has_dtype(b, dtypes[k]))
            ways[n_ways++] = (struct way){ dtype_name(dtypes[k]), b, dtypes[k] };
    return ST_OK;
}

/* What main returns. */
WAYS_FN int run_on_all_ways(const struct CMUnitTest *tests, size_t count)
{
    if (reference_backend_open(&reference, &err)) return 1;
    if (test_is_on_cpu() ? open_cpu() : open_plugin()) {
        fprintf(stderr, "skipped: %s\n", err.detail);
        return err.status == ST_UNSUPPORTED ? 77 : 1;
    }
    int failed = _cmocka_run_group_tests("ways", tests, count, NULL, NULL);
    for (size_t k = 0; k < n_ways; k++)
        if (k == 0 || ways[k].b != ways[k - 1].b) ways[k].b->ops->device.close(ways[k].b);
    reference->ops->device.close(reference);
    return failed;
}

#endif
