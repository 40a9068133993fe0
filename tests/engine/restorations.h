/* restorations.h - images of noise, and restorations of them by a network that returns its input.
 *
 * Shared by the tests of engine/davi; include after cmocka.h. */
#ifndef DAVID_TESTS_ENGINE_RESTORATIONS_H
#define DAVID_TESTS_ENGINE_RESTORATIONS_H

#include <stdlib.h>
#include <string.h>

#include "engine/davi/restoration.h"

static inline uint32_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

static inline void fill_random(float *v, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        v[i] = (float)(next_random(&seed) / 1073741824.0 - 1);
}

static inline struct image image(uint32_t w, uint32_t h, uint32_t channels, uint32_t depth,
                                 uint64_t seed)
{
    struct image img = { 0 };
    assert_int_equal(image_init(&img, w, h, channels, depth, NULL), ST_OK);
    for (size_t i = 0; i < (size_t)w * h * channels; i++) {
        uint32_t v = next_random(&seed);
        if (depth == 16)
            ((uint16_t *)img.pixels)[i] = (uint16_t)v;
        else
            ((uint8_t *)img.pixels)[i] = (uint8_t)v;
    }
    return img;
}

static inline struct restoration_setup setup(enum task_id task, uint32_t tile, uint32_t overlap)
{
    return (struct restoration_setup){ .task = &task_table[task],
                                       .sigma = task_table[task].sigma,
                                       .h = 0.1,
                                       .samples = 1,
                                       .tile = tile,
                                       .overlap = overlap,
                                       .jobs_in_flight = 32 };
}

/* A network that returns its input; `bend` (per sample) tells samples apart. */
static inline void run_identity(struct restoration *r, double bend)
{
    const size_t n = (size_t)3 * r->s.tile * r->s.tile;
    float *tile = malloc(n * sizeof *tile);
    for (uint64_t row = 0; row < restoration_tile_jobs(r); row++) {
        assert_int_equal(restoration_extract(r, row, tile, NULL), ST_OK);
        for (size_t i = 0; i < n; i++)
            tile[i] += (float)(bend * restoration_tile_position(r, row).sample);
        assert_int_equal(restoration_put(r, row, tile, NULL), ST_OK);
    }
    assert_true(restoration_is_done(r));
    free(tile);
}

static inline struct image restored(enum task_id task, const struct image *img,
                                    const struct image *mask)
{
    struct restoration_setup s = setup(task, 32, 8);
    struct restoration *r = NULL;
    struct image out = { 0 };
    s.img = img;
    s.mask = mask;
    assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
    run_identity(r, 0);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
    restoration_free(r);
    return out;
}

#endif
