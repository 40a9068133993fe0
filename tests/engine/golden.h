/* golden.h - numbers of an independent implementation, read and compared (engine/README.md section 7).
 *
 * `name#l2` is compared relatively, `name#val` relative to max(max |val|, l2 / sqrt(count)). The worst of a file is kept, with
 * its name. Static functions for one test program each; a file that is not as it should be fails the test. */
#ifndef DAVID_TESTS_GOLDEN_H
#define DAVID_TESTS_GOLDEN_H

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/graph.h"
#include "proto/models/model_info.h"
#include "proto/models/safetensors.h"

#define GOLDEN_FN static inline __attribute__((unused))

struct golden {
    struct safetensors *file;
    double worst;
    char worst_name[160];
    unsigned compared;
};

GOLDEN_FN const char *golden_setting(const char *name, const char *otherwise)
{
    const char *v = getenv(name);
    return v && v[0] ? v : otherwise;
}

GOLDEN_FN void golden_open(struct golden *g, const char *path)
{
    struct error err = { 0 };
    *g = (struct golden){ 0 };
    if (safetensors_open(&g->file, path, &err)) fail_msg("%s", err.detail);
}

GOLDEN_FN const char *golden_text(const struct golden *g, const char *key)
{
    const char *text = safetensors_metadata(g->file, key);
    if (!text) fail_msg("no metadata %s", key);
    return text;
}

GOLDEN_FN uint64_t golden_seed(const struct golden *g)
{
    return strtoull(golden_text(g, "seed"), NULL, 10);
}

GOLDEN_FN struct unet_arch golden_arch(const struct golden *g)
{
    struct unet_arch arch;
    struct error err = { 0 };
    if (unet_arch_parse(&arch, golden_text(g, "david.config"), &err)) fail_msg("%s", err.detail);
    return arch;
}

/* malloc'd values; NULL where the file has no such tensor. */
GOLDEN_FN float *golden_values(const struct golden *g, const char *name, size_t *count)
{
    const struct st_tensor *t = safetensors_find(g->file, name);
    if (!t) return NULL;
    float *v = malloc((t->count + 1) * sizeof *v);
    assert_non_null(v);
    dtype_to_f32(v, t->data, t->dtype, t->count);
    *count = t->count;
    return v;
}

GOLDEN_FN void golden_note(struct golden *g, const char *name, double relative)
{
    g->compared++;
    if (relative > g->worst || !isfinite(relative)) {
        g->worst = isfinite(relative) ? relative : 1e9;
        (void)snprintf(g->worst_name, sizeof g->worst_name, "%s", name);
    }
}

/* What the rows are told: [rows] each, malloc'd; NULL where the file has none. */
struct golden_told {
    uint32_t rows;
    float *t, *sigma, *level;
    uint32_t *label;
};

GOLDEN_FN float *golden_told_one(const struct golden *g, const char *name, size_t rows)
{
    size_t count = 0;
    float *v = golden_values(g, name, &count);
    if (v && count != rows) fail_msg("%s has %zu values for %zu rows", name, count, rows);
    return v;
}

GOLDEN_FN struct golden_told golden_told(const struct golden *g)
{
    size_t rows = 0;
    struct golden_told told = { .t = golden_values(g, "t", &rows) };
    assert_non_null(told.t);
    told.rows = (uint32_t)rows;
    told.sigma = golden_told_one(g, "sigma", rows);
    told.level = golden_told_one(g, "level", rows);
    float *label = golden_told_one(g, "label", rows);
    if (!label) return told;
    told.label = malloc(rows * sizeof *told.label);
    assert_non_null(told.label);
    for (size_t i = 0; i < rows; i++)
        told.label[i] = (uint32_t)label[i];
    free(label);
    return told;
}

GOLDEN_FN void golden_told_done(struct golden_told *told)
{
    free(told->t);
    free(told->sigma);
    free(told->level);
    free(told->label);
    *told = (struct golden_told){ 0 };
}

/* The files of networks in the golden folder: unet_*, and levers_* where there are such. For globfree. */
GOLDEN_FN void golden_networks(glob_t *found)
{
    const char *folder = golden_setting("DAVID_GOLDEN", DAVID_GOLDEN_DEFAULT);
    char pattern[512];
    (void)snprintf(pattern, sizeof pattern, "%s/unet_*.safetensors", folder);
    assert_int_equal(glob(pattern, 0, NULL, found), 0);
    (void)snprintf(pattern, sizeof pattern, "%s/levers_*.safetensors", folder);
    const int code = glob(pattern, GLOB_APPEND, NULL, found);
    assert_true(code == 0 || code == GLOB_NOMATCH);
}

/* Flat NCHW index to the place in NHWC. */
GOLDEN_FN size_t golden_nhwc(size_t at, size_t px, size_t c)
{
    size_t row = at / (c * px), channel = at / px % c;
    return (row * px + at % px) * c + channel;
}

/* [n][c][px] to [n][px][c] */
GOLDEN_FN void golden_to_nhwc(float *to, const float *from, size_t count, size_t px, size_t c)
{
    for (size_t i = 0; i < count; i++)
        to[golden_nhwc(i, px, c)] = from[i];
}

/* The whole tensor `name`, NCHW in the file, against v in NHWC (px, c; 1, 1: in the file's order). */
GOLDEN_FN void golden_whole(struct golden *g, const char *name, const float *v, size_t px, size_t c)
{
    size_t count = 0;
    float *want = golden_values(g, name, &count);
    if (!want) fail_msg("the file has no %s", name);
    double most = 0, squares = 0, difference = 0;
    for (size_t i = 0; i < count; i++) {
        double w = (double)want[i], have = (double)v[golden_nhwc(i, px, c)];
        most = fmax(most, fabs(w));
        squares += w * w;
        difference = fmax(difference, fabs(w - have));
    }
    most = fmax(most, sqrt(squares / (double)count));
    golden_note(g, name, difference / (most > 0 ? most : 1));
    free(want);
}

/* Sampled values from `from` (of `count`, in the file's order) and their norm. A gradient whose norm is below 1e-6 is zero in
 * truth: ours must be as small. */
GOLDEN_FN void golden_sampled(struct golden *g, const char *name, const float *v, size_t count)
{
    char key[160];
    size_t n = 0, n_at = 0;
    (void)snprintf(key, sizeof key, "%s#l2", name);
    float *l2 = golden_values(g, key, &n);
    (void)snprintf(key, sizeof key, "%s#at", name);
    const struct st_tensor *at = safetensors_find(g->file, key);
    (void)snprintf(key, sizeof key, "%s#val", name);
    float *want = golden_values(g, key, &n_at);
    if (!l2 || !at || !want) fail_msg("the file has no %s", name);
    assert_int_equal(at->dtype, DT_I64);
    assert_int_equal(at->count, n_at);
    double sum = 0, whole = (double)*l2, most = whole / sqrt((double)count), difference = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)v[i] * (double)v[i];
    if (whole < 1e-6) {
        if (!(sqrt(sum) < 1e-6))
            fail_msg("%s: %.3g where the true gradient is zero", name, sqrt(sum));
    } else {
        golden_note(g, name, fabs(sqrt(sum) - whole) / whole);
        for (size_t i = 0; i < n_at; i++) {
            uint64_t flat;
            memcpy(&flat, (const char *)at->data + i * sizeof flat, sizeof flat);
            assert_true(flat < count);
            most = fmax(most, fabs((double)want[i]));
            difference = fmax(difference, fabs((double)want[i] - (double)v[flat]));
        }
        golden_note(g, key, difference / most);
    }
    free(l2);
    free(want);
}

#endif
