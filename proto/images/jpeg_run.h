/* jpeg_run.h - one use of libjpeg: errors as statuses, output in a sink, settings; for proto/ alone.
 *
 * libjpeg's errors end in longjmp(run->env): whoever calls libjpeg has called setjmp(run->env) in
 * the same function or in one that is still running, and answers run->status. Warnings of damaged
 * data are errors too. A compressor and a decompressor may share a run. One thread at a time. */
#ifndef DAVID_PROTO_IMAGES_JPEG_RUN_H
#define DAVID_PROTO_IMAGES_JPEG_RUN_H

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>

/* These need FILE and size_t. */
#include <jerror.h>
#include <jpeglib.h>

#include "proto/images/formats.h"

enum { JPEG_LIBRARY_BYTES = 256 << 10 /* libjpeg's pools, tables and structs */ };

struct jpeg_run {
    struct jpeg_error_mgr errors; /* first: libjpeg's pointers to it are cast back */
    jmp_buf env;
    enum status status;
    struct error *err;
    struct jpeg_progress_mgr progress;
    struct jpeg_destination_mgr destination;
    struct byte_sink *out; /* writing */
    uint8_t *strip;        /* rows that are not the image's as they are */
};

struct jpeg_error_mgr *jpeg_run_init(struct jpeg_run *r, struct error *err);

/* Output into r->out, and all that david chooses of a file it writes. Size, components and colour
 * space have been set. */
void jpeg_run_encode(struct jpeg_run *r, j_compress_ptr info, int quality);

/* The quality at which libjpeg's table of luminance is nearest to that of the file whose header has
 * been read; 0: it has none. */
uint32_t jpeg_quality_of(const struct jpeg_decompress_struct *info);

#endif
