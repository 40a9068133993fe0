/* jpeg_run.h - one use of libjpeg: errors as statuses, output to a sink, settings; private to
 * proto/images/.
 *
 * libjpeg's errors end in longjmp(run->env). A caller of libjpeg has called setjmp(run->env) in the
 * same function or in one that is still running, and returns run->status. Warnings of damaged data
 * are errors too. A compressor and a decompressor may share a run. One thread at a time. */
#ifndef DAVID_PROTO_IMAGES_JPEG_RUN_H
#define DAVID_PROTO_IMAGES_JPEG_RUN_H

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>

/* These need FILE and size_t. */
#include <jerror.h>
#include <jpeglib.h>

#include "proto/images/formats.h"

enum { JPEG_LIBRARY_BYTES = 256 << 10 /* memory of libjpeg's pools, tables and structs */ };

struct jpeg_run {
    struct jpeg_error_mgr errors; /* the first member: libjpeg's pointers to it are cast back */
    jmp_buf env;
    enum status status;
    struct error *err;
    struct jpeg_progress_mgr progress;
    struct jpeg_destination_mgr destination;
    struct byte_sink *out; /* writing */
    uint8_t *strip;        /* rows that differ from the image's */
};

struct jpeg_error_mgr *jpeg_run_init(struct jpeg_run *r, struct error *err);

/* Directs the output to r->out and sets everything that david chooses about a file it writes. The
 * caller has set the size, the components and the colour space. */
void jpeg_run_encode(struct jpeg_run *r, j_compress_ptr info, int quality);

/* The quality whose luminance table of libjpeg is nearest to that of the file; 0: the file has
 * none. The header has been read. */
uint32_t jpeg_quality_of(const struct jpeg_decompress_struct *info);

#endif
