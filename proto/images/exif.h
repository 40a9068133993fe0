/* exif.h - the orientation out of an EXIF block; private to proto/.
 *
 * A block that cannot be read, lacks the tag or holds another value than 1..8 means 1 (as stored): a broken note must
 * not cost the image. Only the image's own directory counts, not its thumbnail's; thumbnails are never decoded.
 * Memory that libexif may take is capped by EXIF_MEMORY_BYTES, all of it given back before the return. Reentrant. */
#ifndef DAVID_PROTO_IMAGES_EXIF_H
#define DAVID_PROTO_IMAGES_EXIF_H

#include <stddef.h>

enum {
    EXIF_MAX_BYTES =
        65535, /* of a block; a longer one is not read (a JPEG segment cannot hold one) */
    EXIF_MEMORY_BYTES = 512 << 10 /* at most, while it is read */
};

/* `tiff`: the block from its byte-order mark on, without "Exif\0\0". */
unsigned exif_orientation(const void *tiff, size_t len);

#endif
