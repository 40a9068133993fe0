#include "proto/images/jpeg_run.h"

#include <stdlib.h>

enum {
    FULL_CHROMA_QUALITY = 90, /* from this quality on, chroma is not subsampled */
    SINK_STEP_BYTES = 16 << 10,
    BEST_QUALITY = 100,
    HALF_QUALITY = 50 /* its table is that of the standard */
};

static void run_error(j_common_ptr info)
{
    struct jpeg_run *r = (struct jpeg_run *)(void *)info->err;
    char text[JMSG_LENGTH_MAX];
    if (info->err->msg_code == JERR_OUT_OF_MEMORY) {
        r->status = error_set(r->err, ST_NO_MEMORY_NOW, "no memory for a JPEG");
    } else {
        info->err->format_message(info, text);
        r->status = error_set(r->err, ST_CORRUPT_IMAGE, "the JPEG cannot be %s: %s",
                              r->out ? "written" : "decoded", text);
    }
    longjmp(r->env, 1);
}

/* Level -1 reports damage. The warnings listed here cost no pixel: some cameras write stray bytes
 * between segments, odd versions or odd transform codes. */
static void run_message(j_common_ptr info, int level)
{
    if (level >= 0) return;
    switch (info->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_ADOBE_XFORM:
    case JWRN_NOT_SEQUENTIAL: return;
    default: run_error(info);
    }
}

static void run_silent(j_common_ptr info)
{
    (void)info;
}

struct jpeg_error_mgr *jpeg_run_init(struct jpeg_run *r, struct error *err)
{
    *r = (struct jpeg_run){ .err = err };
    jpeg_std_error(&r->errors);
    r->errors.error_exit = run_error;
    r->errors.emit_message = run_message;
    r->errors.output_message = run_silent;
    return &r->errors;
}

/* ---- writing ---- */

/* libjpeg's own memory destination loses its buffer on errors; this one writes to the caller's
 * sink. */
static void sink_grow(j_compress_ptr info)
{
    struct jpeg_run *r = (struct jpeg_run *)(void *)info->err;
    if (!byte_sink_reserve(r->out, SINK_STEP_BYTES)) ERREXIT1(info, JERR_OUT_OF_MEMORY, 0);
    info->dest->next_output_byte = r->out->data + r->out->len;
    info->dest->free_in_buffer = r->out->cap - r->out->len;
}

static boolean sink_full(j_compress_ptr info)
{
    struct jpeg_run *r = (struct jpeg_run *)(void *)info->err;
    /* libjpeg's contract: the whole buffer counts, whatever free_in_buffer holds */
    r->out->len = r->out->cap;
    sink_grow(info);
    return TRUE;
}

static void sink_end(j_compress_ptr info)
{
    struct jpeg_run *r = (struct jpeg_run *)(void *)info->err;
    r->out->len = r->out->cap - info->dest->free_in_buffer;
}

void jpeg_run_encode(struct jpeg_run *r, j_compress_ptr info, int quality)
{
    r->destination = (struct jpeg_destination_mgr){ .init_destination = sink_grow,
                                                    .empty_output_buffer = sink_full,
                                                    .term_destination = sink_end };
    info->dest = &r->destination;
    jpeg_set_defaults(info);
    jpeg_set_quality(info, quality, TRUE);
    if (quality >= FULL_CHROMA_QUALITY) {
        info->comp_info[0].h_samp_factor = info->comp_info[0].v_samp_factor = 1;
    }
}

/* ---- the quality of a file ---- */

/* Table K.1 of the standard (ITU-T T.81), row by row. */
static const uint16_t luminance[DCTSIZE2] = {
    16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
    14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
    18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
};

static long distance(const UINT16 *table, int quality)
{
    const int percent =
        quality < HALF_QUALITY ? 100 * HALF_QUALITY / quality : 2 * (BEST_QUALITY - quality);
    long sum = 0;
    for (int i = 0; i < DCTSIZE2; i++) {
        const int scaled = (luminance[i] * percent + 50) / 100;
        sum += labs((long)table[i] - (scaled < 1 ? 1 : scaled > 255 ? 255 : scaled));
    }
    return sum;
}

uint32_t jpeg_quality_of(const struct jpeg_decompress_struct *info)
{
    const int which = info->comp_info[0].quant_tbl_no;
    const JQUANT_TBL *table =
        which >= 0 && which < NUM_QUANT_TBLS ? info->quant_tbl_ptrs[which] : NULL;
    uint32_t best = 0;
    long least = 0;
    for (int quality = 1; table && quality <= BEST_QUALITY; quality++) {
        const long d = distance(table->quantval, quality);
        if (best && d >= least) continue;
        best = (uint32_t)quality;
        least = d;
    }
    return best;
}
