/* Sheets of images of a run: PNG files beside the checkpoints. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/train/trainer.h"
#include "proto/atomic_file.h"
#include "proto/images/codec.h"

enum { GAP = 2 }; /* px between images */

enum status image_grid(struct image *out, const float *const *images, uint32_t count,
                       uint32_t columns, uint32_t side, struct error *err)
{
    const uint32_t lines = (count + columns - 1) / columns;
    struct image img = { 0 };
    enum status s =
        image_init(&img, columns * (side + GAP) - GAP, lines * (side + GAP) - GAP, 3, 8, err);
    if (s) return s;
    for (uint32_t i = 0; i < count; i++)
        for (size_t y = 0; y < side; y++)
            for (size_t x = 0; x < (size_t)side * 3; x++) {
                double v = ((double)images[i][y * side * 3 + x] + 1) * 127.5;
                size_t row = (size_t)(i / columns) * (side + GAP) + y;
                size_t at = (row * img.width + (size_t)(i % columns) * (side + GAP)) * 3 + x;
                ((uint8_t *)img.pixels)[at] = (uint8_t)lrint(v < 0 ? 0 : v > 255 ? 255 : v);
            }
    *out = img;
    return ST_OK;
}

enum status save_sheet(const struct trainer *t, const char *name, const struct image *img,
                       struct error *err)
{
    char path[PATH_MAX];
    void *bytes = NULL;
    size_t len = 0;
    enum status s =
        codec_encode(&bytes, &len, img, &(struct encode_options){ IMAGE_PNG, -1, 0 }, err);
    (void)snprintf(path, sizeof path, "%.*s/%s-%09" PRIu64 ".png", PATH_MAX - 64, t->folder, name,
                   t->checkpoint.step);
    if (!s) s = atomic_file_save(path, bytes, len, err);
    free(bytes);
    return s;
}

/* The three columns of a sheet for the rows of the last micro-batch, in host memory. DAVI: truth,
 * input, answer. A prior: truth, noised truth, and the clean image that its eps predicts. */
struct columns {
    const float *truth, *input, *answer; /* [rows][side][side][3] */
    float *memory;
};

static enum status predict_clean(const struct trainer *t, float *x0, struct error *err)
{
    double alpha_bar[MOST_ROWS];
    for (uint32_t n = 0; n < t->o.micro_batch; n++)
        alpha_bar[n] = t->schedule->alpha_bar[t->last_t[n]];
    const struct clean_args a = { .rows = t->o.micro_batch,
                                  .px = (size_t)t->side * t->side,
                                  .alpha_bar = alpha_bar,
                                  .x_t = t->x_t,
                                  .out = t->y,
                                  .x0 = x0 };
    return t->b->ops->losses->clean(t->b, &a, err);
}

static enum status take_columns(const struct trainer *t, const struct batch *batch, uint32_t micro,
                                struct columns *to, struct error *err)
{
    const bool is_davi = t->o.kind == TRAIN_DAVI;
    const size_t count = (size_t)t->o.micro_batch * t->side * t->side * 3;
    const float *answer = !is_davi               ? t->dy /* no longer read after the step */
                          : trainer_is_direct(t) ? t->direct.answer.pred
                                                 : t->davi.answer.pred;
    float *memory = malloc(2 * count * sizeof *memory);
    if (!memory) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a sheet");
    *to = (struct columns){ .truth = batch->x + micro * count,
                            .input = is_davi ? batch->y_in + micro * count : memory,
                            .answer = memory + count,
                            .memory = memory };
    enum status s = is_davi ? ST_OK : predict_clean(t, t->dy, err);
    if (!s && !is_davi) s = device_copy_out(t->b, memory, t->x_t, count * sizeof *memory, err);
    return s ? s : device_copy_out(t->b, memory + count, answer, count * sizeof *memory, err);
}

enum status write_sheet(struct trainer *t, const struct batch *batch, uint32_t micro,
                        struct error *err)
{
    const uint32_t rows = t->o.micro_batch;
    const size_t each = (size_t)t->side * t->side * 3;
    const float *images[MOST_ROWS * 3];
    struct columns columns = { 0 };
    struct image img = { 0 };
    enum status s = take_columns(t, batch, micro, &columns, err);
    for (size_t i = 0; !s && i < rows; i++) {
        images[3 * i] = columns.truth + i * each;
        images[3 * i + 1] = columns.input + i * each;
        images[3 * i + 2] = columns.answer + i * each;
    }
    if (!s) s = image_grid(&img, images, 3 * rows, 3, t->side, err);
    if (!s) s = save_sheet(t, "sheet", &img, err);
    image_done(&img);
    free(columns.memory);
    return s;
}
