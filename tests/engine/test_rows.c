/* Rows of training: the measurement of a crop, and the place of JPEG's cells in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/train/rows.h"
#include "proto/images/codec.h"
#include "tests/engine/restorations.h"

enum { SIDE = 64, ROWS = 48, CELL = 8 };

/* A folder with one photograph of smooth noise. */
static struct dataset *photos(char *folder)
{
    const struct encode_options o = { .format = IMAGE_PNG, .png_level = -1 };
    struct image img = image(160, 140, 3, 8, 5);
    struct dataset *d = NULL;
    char path[64];
    void *bytes = NULL;
    size_t len = 0;
    uint8_t *p = img.pixels;
    for (int times = 0; times < 3; times++)
        for (size_t i = 160 * 3 + 3; i < image_bytes(&img); i++)
            p[i] = (uint8_t)((p[i] + p[i - 3] + 2 * p[i - 160 * 3]) / 4);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.png", folder);
    assert_int_equal(codec_encode(&bytes, &len, &img, &o, NULL), ST_OK);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    const struct dataset_options options = { .folder = folder,
                                             .least_side = SIDE,
                                             .cache_bytes = 1 << 22 };
    assert_int_equal(dataset_open(&d, &options, NULL), ST_OK);
    free(bytes);
    image_done(&img);
    return d;
}

static void forget(struct dataset *d, const char *folder)
{
    char path[64];
    dataset_close(d);
    snprintf(path, sizeof path, "%s/a.png", folder);
    unlink(path);
    rmdir(folder);
}

struct drawn {
    float x[SIDE * SIDE * 3], y[SIDE * SIDE * 3], y_in[SIDE * SIDE * 3];
    uint8_t observed_mask[SIDE * SIDE];
};

static void draw(struct drawn *r, struct dataset *d, enum task_id task, double level,
                 bool surroundings, uint32_t row)
{
    const struct crop_options c = { .side = SIDE, .jitter = 1, .seed = 3 };
    const struct drawn_task t = { .task = &task_table[task], .label = -1 };
    const struct row_out out = { r->x, r->y, r->y_in, r->observed_mask };
    struct row_scratch s = { 0 };
    assert_int_equal(row_scratch_init(&s, SIDE, &t, 1, NULL), ST_OK);
    assert_int_equal(row_draw(d, &c, &t, 0, level, surroundings, 7, row, &s, &out, NULL), ST_OK);
    row_scratch_done(&s);
}

/* The column, modulo CELL, after which the difference to the next column is largest. */
static uint32_t edge_of(const float *y)
{
    double jumps[CELL] = { 0 };
    uint32_t most = 0;
    for (uint32_t row = 0; row < SIDE; row++)
        for (uint32_t x = 0; x + 1 < SIDE - SIDE % CELL; x++) {
            const float *at = y + ((size_t)row * SIDE + x) * 3;
            for (uint32_t c = 0; c < 3; c++)
                jumps[x % CELL] += fabs((double)at[c + 3] - (double)at[c]);
        }
    for (uint32_t k = 1; k < CELL; k++)
        if (jumps[k] > jumps[most]) most = k;
    return most;
}

/* Without surroundings, cells begin at the crop's corner; with them, anywhere. */
static void cells_of_a_jpeg_begin_anywhere_in_a_crop(void **state)
{
    (void)state;
    char folder[] = "/tmp/david-test-XXXXXX";
    struct dataset *d = photos(folder);
    struct drawn *r = malloc(sizeof *r);
    unsigned with[CELL] = { 0 }, alone[CELL] = { 0 }, places = 0;
    for (uint32_t row = 0; row < ROWS; row++) {
        draw(r, d, TASK_DEJPEG, 10, false, row);
        alone[edge_of(r->y)]++;
        draw(r, d, TASK_DEJPEG, 10, true, row);
        with[edge_of(r->y)]++;
        assert_memory_equal(r->y, r->y_in, sizeof r->y);
    }
    for (uint32_t k = 0; k < CELL; k++)
        places += with[k] > 0;
    assert_true(alone[CELL - 1] == ROWS);
    assert_true(places == CELL && with[CELL - 1] < ROWS / 2);
    free(r);
    forget(d, folder);
}

/* The measurement is of the crop itself, not shifted; a higher quality is nearer to it. */
static void a_jpeg_of_a_crop_is_near_it(void **state)
{
    (void)state;
    char folder[] = "/tmp/david-test-XXXXXX";
    struct dataset *d = photos(folder);
    struct drawn *r = malloc(sizeof *r);
    for (uint32_t row = 0; row < 8; row++) {
        double rms[2] = { 0 };
        for (int k = 0; k < 2; k++) {
            draw(r, d, TASK_DEJPEG, k ? 95 : 20, true, row);
            for (size_t i = 0; i < SIDE * SIDE * 3; i++)
                rms[k] += pow((double)r->y[i] - (double)r->x[i], 2);
            rms[k] = sqrt(rms[k] / (SIDE * SIDE * 3));
        }
        assert_true(rms[1] < 0.02 && rms[1] < rms[0] && rms[0] > 0);
    }
    free(r);
    forget(d, folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_of_a_jpeg_begin_anywhere_in_a_crop),
        cmocka_unit_test(a_jpeg_of_a_crop_is_near_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
