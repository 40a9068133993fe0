/* exif.h - the orientation of an EXIF block; private to proto/images/.
 *
 * A block that cannot be read, lacks the tag or holds a value other than 1..8 means 1 (as stored):
 * a damaged block must not make the image unreadable. Only the image's own directory counts, not
 * that of its thumbnail; thumbnails are never decoded. EXIF_MEMORY_BYTES limits the memory that
 * libexif takes; all of it is freed before the return. Reentrant. */
#ifndef DAVID_PROTO_IMAGES_EXIF_H
#define DAVID_PROTO_IMAGES_EXIF_H

#include <stddef.h>

enum {
    EXIF_MAX_BYTES = 65535, /* of a block; longer ones are ignored (no JPEG segment holds one) */
    EXIF_MEMORY_BYTES = 512 << 10 /* limit of libexif's memory */
};

/* `tiff`: the block from its byte-order mark on, without "Exif\0\0". */
unsigned exif_orientation(const void *tiff, size_t len);

#endif
