/* conformance.h - what the kernel tests share: tensors with values, the oracle, the seven orders.
 *
 * The oracle is the CPU back end in F32 on the same numbers that the kernel reads (those of a
 * 16-bit tensor, widened). A kernel must be within the tolerance of its dtype in ascending order,
 * and give the same bytes in every other order. Tensors are allocated to the byte, so that
 * AddressSanitizer reports an access beyond the end; the memory between pixels (ld > c) must not
 * change. A failure ends the test (cmocka). */
#ifndef DAVID_TESTS_CUDA_CONFORMANCE_H
#define DAVID_TESTS_CUDA_CONFORMANCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/cuda/kernels.h"
#include "engine/graph/backend.h"
#include "tests/cuda/emu/emu.h"

enum { ORDERS = 7 };
extern const uint64_t orders[ORDERS];
extern const enum dtype dtypes[3]; /* F32, BF16, F16 */
extern struct backend *oracle;
extern struct error err;

#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != ST_OK) fail_msg("%s: %s", #call, err.detail);                                \
    } while (0)
#define EXPECT_LAUNCH(call)                                                                        \
    do {                                                                                           \
        int launched_ = (call);                                                                    \
        if (launched_) fail_msg("%s: CUDA error %d", #call, launched_);                            \
    } while (0)

/* In [-1, 1), a function of its arguments alone. */
float noise(uint64_t seed, uint64_t i);
void *memory(size_t bytes); /* aligned to 64 bytes, of exactly this size; release with free() */
float *floats(size_t count, uint64_t seed, float scale, float offset);
uint32_t *words(const uint32_t *from, size_t count); /* a copy, of exactly this size */

struct tensor tensor_make(enum dtype t, uint32_t n, uint32_t h, uint32_t w, uint32_t c, size_t ld,
                          uint64_t seed);
struct tensor tensor_copy(const struct tensor *x);
struct tensor tensor_wide(const struct tensor *x); /* the same numbers in F32, same ld */
struct tensor tensor_row(const struct tensor *x, uint32_t n);
size_t tensor_bytes(const struct tensor *x);
float tensor_value(const struct tensor *x, size_t i);
void tensor_free(struct tensor *x);

/* Relative to the largest number of `want`; the memory between the pixels must be equal. */
void expect_near(const char *what, const struct tensor *got, const struct tensor *want,
                 double tolerance);
void expect_same(const char *what, const void *got, const void *want, size_t bytes);
/* The tolerance with one rounding to the dtype in addition to `f32`, which is that of F32
 * itself. */
double tolerance_of(enum dtype t, double f32);

/* Runs `run(ctx, y)` in every order, each time on a copy of `y`, and stores the first result in
 * `y`. */
void in_every_order(const char *what, struct tensor *y,
                    void (*run)(void *ctx, const struct tensor *y), void *ctx);

int run_conformance(const char *name, const struct CMUnitTest *tests,
                    size_t count); /* opens and closes the oracle */
#define RUN_TESTS(name, tests) run_conformance(name, tests, sizeof(tests) / sizeof(tests)[0])

#endif
