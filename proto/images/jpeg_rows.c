/* A compressor and a decompressor share a buffer: after each row that goes in, every row that can
 * be decoded comes out. The decompressor suspends where it lacks bytes; unused bytes move to the
 * front of the buffer. */
#include "proto/images/jpeg_rows.h"

#include <stdlib.h>
#include <string.h>

#include "proto/images/jpeg_run.h"

enum { MCU_SIDE = 16 };

enum stage { STAGE_HEADER, STAGE_START, STAGE_ROWS };

struct trip {
    struct jpeg_run run;
    const struct jpeg_rows *j;
    struct jpeg_compress_struct in;
    struct jpeg_decompress_struct out;
    struct jpeg_source_mgr source;
    struct byte_sink coded;
    enum stage stage;
    uint8_t *row;
};

static void source_nothing(j_decompress_ptr info)
{
    (void)info;
}

/* More bytes may follow: the library returns to a point from which it can resume. */
static boolean source_suspend(j_decompress_ptr info)
{
    (void)info;
    return FALSE;
}

/* Headers are written in one piece, so that each segment is complete here. */
static void source_skip(j_decompress_ptr info, long n)
{
    if (n <= 0) return;
    if ((size_t)n > info->src->bytes_in_buffer) ERREXIT(info, JERR_CANT_SUSPEND);
    info->src->next_input_byte += n;
    info->src->bytes_in_buffer -= (size_t)n;
}

static void start(struct trip *t)
{
    const struct jpeg_rows *j = t->j;
    jpeg_create_compress(&t->in);
    t->in.image_width = j->width;
    t->in.image_height = j->height;
    t->in.input_components = (int)j->channels;
    t->in.in_color_space = j->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_run_encode(&t->run, &t->in, j->quality);
    jpeg_start_compress(&t->in, TRUE);
    jpeg_create_decompress(&t->out);
    t->source = (struct jpeg_source_mgr){ .init_source = source_nothing,
                                          .fill_input_buffer = source_suspend,
                                          .skip_input_data = source_skip,
                                          .resync_to_restart = jpeg_resync_to_restart,
                                          .term_source = source_nothing };
    t->out.src = &t->source;
}

/* One step of the decompressor; false: it needs more bytes. */
static bool step(struct trip *t)
{
    j_decompress_ptr info = &t->out;
    JSAMPROW row = t->row;
    switch (t->stage) {
    case STAGE_HEADER:
        if (jpeg_read_header(info, TRUE) != JPEG_HEADER_OK) return false;
        info->out_color_space = t->j->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
        info->do_block_smoothing = FALSE; /* as in codec_decode */
        t->stage = STAGE_START;
        return true;
    case STAGE_START:
        if (!jpeg_start_decompress(info)) return false;
        t->stage = STAGE_ROWS;
        return true;
    default:
        if (info->output_scanline == info->output_height) return false;
        if (jpeg_read_scanlines(info, &row, 1) != 1) return false;
        t->j->put(t->j->ctx, info->output_scanline - 1, t->row);
        return true;
    }
}

/* Decodes what is complete and moves the rest to the front. */
static void drain(struct trip *t)
{
    struct jpeg_destination_mgr *to = &t->run.destination;
    struct byte_sink *coded = &t->coded;
    coded->len = coded->cap - to->free_in_buffer;
    t->source.next_input_byte = coded->data;
    t->source.bytes_in_buffer = coded->len;
    while (step(t)) {
    }
    coded->len = t->source.bytes_in_buffer;
    memmove(coded->data, t->source.next_input_byte, coded->len);
    to->next_output_byte = coded->data + coded->len;
    to->free_in_buffer = coded->cap - coded->len;
}

static enum status run_guarded(struct trip *t)
{
    if (setjmp(t->run.env)) return t->run.status;
    start(t);
    while (t->in.next_scanline < t->in.image_height) {
        JSAMPROW row = t->row;
        t->j->get(t->j->ctx, t->in.next_scanline, t->row);
        (void)jpeg_write_scanlines(&t->in, &row, 1);
        if (t->in.next_scanline == t->in.image_height) jpeg_finish_compress(&t->in);
        drain(t);
    }
    if (t->stage != STAGE_ROWS || t->out.output_scanline != t->out.output_height)
        return error_set(t->run.err, ST_INTERNAL, "a JPEG of ours ends too early");
    return ST_OK;
}

enum status jpeg_rows_run(const struct jpeg_rows *j, struct error *err)
{
    struct trip *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a JPEG");
    enum status s = ST_OK;
    t->j = j;
    t->in.err = t->out.err = jpeg_run_init(&t->run, err);
    t->run.out = &t->coded;
    t->row = malloc((size_t)j->width * j->channels);
    s = t->row ? run_guarded(t) : error_set(err, ST_NO_MEMORY_NOW, "no memory for a JPEG's row");
    jpeg_destroy_compress(&t->in);
    jpeg_destroy_decompress(&t->out);
    free(t->coded.data);
    free(t->row);
    free(t);
    return s;
}

/* Bound: rows of an MCU's height on both sides, as samples, converted, subsampled and with context;
 * and the code of one such row of MCUs, in a buffer that grows by doubling and exists twice while
 * it grows. Noise at the finest quantisation takes half of it. */
size_t jpeg_rows_bytes(uint32_t width, uint32_t channels)
{
    const size_t row = ((size_t)width + MCU_SIDE) * channels;
    return sizeof(struct trip) + JPEG_LIBRARY_BYTES + (size_t)5 * MCU_SIDE * row;
}
