#include "proto/images/exif.h"

#include <libexif/exif-data.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* libexif allocates as much as the block claims. Its allocator has no context argument, hence the
 * thread-local sum. A header before each allocation holds its size. */
static _Thread_local size_t exif_bytes_held;

enum { PIECE_HEADER = sizeof(max_align_t) };

static void exif_piece_free(void *p)
{
    if (!p) return;
    uint8_t *base = (uint8_t *)p - PIECE_HEADER;
    size_t size;
    memcpy(&size, base, sizeof size);
    exif_bytes_held -= size;
    free(base);
}

static void *exif_piece_alloc(ExifLong bytes)
{
    size_t size = (size_t)bytes + PIECE_HEADER;
    if (size > EXIF_MEMORY_BYTES - exif_bytes_held) return NULL;
    uint8_t *base = calloc(1, size); /* libexif expects zeroed memory */
    if (!base) return NULL;
    memcpy(base, &size, sizeof size);
    exif_bytes_held += size;
    return base + PIECE_HEADER;
}

static void *exif_piece_realloc(void *p, ExifLong bytes)
{
    void *grown = exif_piece_alloc(bytes);
    if (grown && p) {
        size_t old;
        memcpy(&old, (uint8_t *)p - PIECE_HEADER, sizeof old);
        old -= PIECE_HEADER;
        memcpy(grown, p, old < bytes ? old : bytes);
        exif_piece_free(p);
    }
    return grown;
}

static unsigned orientation_of(ExifData *data)
{
    const ExifEntry *e = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
    if (!e || !e->data || e->format != EXIF_FORMAT_SHORT || e->components != 1 || e->size < 2) {
        return 1;
    }
    unsigned value = exif_get_short(e->data, exif_data_get_byte_order(data));
    return value >= 1 && value <= 8 ? value : 1;
}

unsigned exif_orientation(const void *tiff, size_t len)
{
    static const uint8_t mark[6] = { 'E', 'x', 'i', 'f', 0, 0 };
    unsigned orientation = 1;
    uint8_t *block = NULL; /* libexif expects the mark that PNG leaves out */
    ExifMem *mem = NULL;
    ExifData *data = NULL;

    if (len < 8 || len > EXIF_MAX_BYTES) return 1;
    block = malloc(sizeof mark + len);
    if (!block) goto done;
    memcpy(block, mark, sizeof mark);
    memcpy(block + sizeof mark, tiff, len);
    mem = exif_mem_new(exif_piece_alloc, exif_piece_realloc, exif_piece_free);
    if (!mem) goto done;
    data = exif_data_new_mem(mem);
    if (!data) goto done;
    /* the option adds missing tags */
    exif_data_unset_option(data, EXIF_DATA_OPTION_FOLLOW_SPECIFICATION);
    exif_data_load_data(data, block, (unsigned)(sizeof mark + len));
    orientation = orientation_of(data);
done:
    if (data) exif_data_unref(data);
    if (mem) exif_mem_unref(mem);
    free(block);
    return orientation;
}
