/* two_back_ends.h - the CPU back end beside the reference: images of noise, and how far two results lie apart.
 *
 * For one test program each, after cmocka.h. `cpu` has F32 with 1, 2 and 3 threads, and BF16. */
#ifndef DAVID_TESTS_TWO_BACK_ENDS_H
#define DAVID_TESTS_TWO_BACK_ENDS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend.h"
#include "engine/graph/backend/gradients.h"

#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != ST_OK) fail_msg("%s: %s", #call, err.detail);                                \
    } while (0)

#define BESIDE_FN static inline __attribute__((unused))

enum { TEAMS = 3, WAYS = TEAMS + 1 }; /* F32 with 1..3 threads, BF16 */

static struct error err;
static struct backend *reference, *cpu[WAYS];

BESIDE_FN enum dtype dtype_of(int way)
{
    return way < TEAMS ? DT_F32 : DT_BF16;
}

/* Numbers in [-1, 1) that depend on nothing but their place; exact in BF16. */
BESIDE_FN float noise(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return f32_of_bf16(bf16_of_f32((float)((double)(z >> 40) / 8388608.0 - 1.0)));
}

BESIDE_FN float *floats(size_t count, uint64_t seed)
{
    float *v = malloc(count * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < count; i++)
        v[i] = noise(seed * 1000003 + i);
    return v;
}

/* Some 70 % of the pixels are observed: nonzero, of several values. */
BESIDE_FN uint8_t *mask_of(size_t count)
{
    uint8_t *m = malloc(count);
    assert_non_null(m);
    for (size_t i = 0; i < count; i++)
        m[i] = noise(7000 + i) > -0.4f ? 1 + i % 3 : 0;
    return m;
}

/* An image with `more` elements between its channels and the next pixel's. */
BESIDE_FN struct tensor image(enum dtype t, const uint32_t shape[4], uint32_t more, uint64_t seed)
{
    struct tensor x = { NULL, t, shape[0], shape[1], shape[2], shape[3], shape[3] + more };
    size_t count = (size_t)x.n * x.h * x.w * x.ld;
    float *v = floats(count, seed);
    x.data = malloc(count * sizeof *v);
    assert_non_null(x.data);
    dtype_from_f32(x.data, t, v, count);
    free(v);
    return x;
}

BESIDE_FN float value(const struct tensor *x, size_t i)
{
    float v;
    dtype_to_f32(&v, (const char *)x->data + i * dtype_size(x->dtype), x->dtype, 1);
    return v;
}

struct near {
    const char *name;
    int way;
    double f32, bf16; /* tolerances, relative to the largest number */
};

BESIDE_FN void expect_near(const struct near *k, const char *what, double off, double most)
{
    double tolerance = k->way < TEAMS ? k->f32 : k->bf16;
    if (!(off <= tolerance * most))
        fail_msg("%s, %s, %s: off by %.3g of %.3g, tolerance %.0e", k->name, what,
                 k->way < TEAMS ? (const char *[]){ "1 thread", "2 threads", "3 threads" }[k->way]
                                : "BF16",
                 off, most, tolerance);
}

BESIDE_FN void images_near(const struct near *k, const char *what, const struct tensor *got,
                           const struct tensor *want)
{
    double off = 0, most = 1e-30;
    for (size_t i = 0; i < (size_t)got->n * got->h * got->w; i++)
        for (size_t c = 0; c < got->ld; c++) {
            double x = (double)value(got, i * got->ld + c),
                   y = (double)value(want, i * got->ld + c);
            assert_true(isfinite(x));
            if (c >= got->c) assert_true(x == y); /* between the pixels nothing is touched */
            off = fmax(off, fabs(x - y));
            most = fmax(most, fabs(y));
        }
    expect_near(k, what, off, most);
}

BESIDE_FN void floats_near(const struct near *k, const char *what, const float *got,
                           const float *want, size_t count)
{
    double off = 0, most = 1e-30;
    for (size_t i = 0; i < count; i++) {
        off = fmax(off, fabs((double)got[i] - (double)want[i]));
        most = fmax(most, fabs((double)want[i]));
        assert_true(isfinite(got[i]));
    }
    expect_near(k, what, off, most);
}

/* Opens all of them: 0, or what main must return at once. */
BESIDE_FN int open_all(void)
{
    if (reference_backend_open(&reference, &err)) return 1;
    setenv("DAVID_CPU_EMULATE_BF16", "1", 1);
    for (int way = 0; way < WAYS; way++)
        if (cpu_backend_open(&cpu[way], way < TEAMS ? way + 1 : 2, &err)) {
            fprintf(stderr, "skipped: %s\n", err.detail);
            return err.status == ST_UNSUPPORTED ? 77 : 1;
        }
    return 0;
}

BESIDE_FN void close_all(void)
{
    for (int way = 0; way < WAYS; way++)
        cpu[way]->ops->device.close(cpu[way]);
    reference->ops->device.close(reference);
}

#endif
