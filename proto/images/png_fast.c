/* The PNG writer of png_level -1, for engines that restore an image in milliseconds.
 *
 * zlib takes more than two milliseconds on a 256 x 256 photograph at every level and strategy, most
 * of them in one call per byte. Photographs hold few repeats, so this coder looks for runs only:
 * one filter (average), tokens that are bytes or runs, and for each block its own Huffman code (RFC
 * 1951, section 3.2.7). Any PNG reader reads the result. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "proto/images/formats.h"

enum {
    BLOCK_BYTES = 64 << 10, /* of filtered rows: one deflate block and one IDAT chunk */
    RUN_MIN = 4,
    RUN_MAX = 258,
    TOKENS =
        256 + RUN_MAX + 1, /* 0..255: a byte; 256 + n: n times the previous byte; 256: the end */
    SYMBOLS = 286,         /* of deflate: bytes, end, 29 lengths */
    CODE_MAX_BITS = 15,
    AVERAGE_FILTER = 3
};

struct code {
    uint32_t bits; /* least significant bit first, as in deflate */
    uint32_t count;
};

struct fast_png {
    struct byte_sink *out;
    uint64_t held; /* bits not yet written */
    unsigned held_bits;
    uLong adler;
    size_t filled;
    uint8_t before; /* the byte before `block`: a run may begin with the block's first byte */
    bool has_before;
    uint8_t block[BLOCK_BYTES];
    uint16_t tokens[BLOCK_BYTES + 1];
    uint8_t
        *rows; /* this row and the one above, most significant byte first; then the filtered row */
};

static void put_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static bool put_chunk(struct byte_sink *out, const char *type, const void *body, size_t len)
{
    uint8_t frame[8];
    put_be32(frame, (uint32_t)len);
    memcpy(frame + 4, type, 4);
    if (!byte_sink_put(out, frame, 8) || !byte_sink_put(out, body, len)) return false;
    put_be32(frame, (uint32_t)crc32(0, out->data + out->len - len - 4, (uInt)len + 4));
    return byte_sink_put(out, frame, 4);
}

/* The caller has reserved the bytes. */
static inline void put_bits(struct fast_png *f, uint64_t bits, unsigned count)
{
    f->held |= bits << f->held_bits;
    f->held_bits += count;
    while (f->held_bits >= 8) {
        f->out->data[f->out->len++] = (uint8_t)f->held;
        f->held >>= 8;
        f->held_bits -= 8;
    }
}

/* Length symbol and extra bits of a run (RFC 1951, section 3.2.5). */
static unsigned run_symbol(unsigned run, unsigned *extra, unsigned *extra_bits)
{
    *extra = *extra_bits = 0;
    if (run == RUN_MAX) return 285;
    unsigned n = run - 3;
    if (n < 8) return 257 + n;
    *extra_bits = 29 - (unsigned)__builtin_clz(n);
    *extra = n & ((1u << *extra_bits) - 1);
    return 257 + 4 * *extra_bits + (n >> *extra_bits);
}

static unsigned symbol_of(unsigned token, unsigned *extra, unsigned *extra_bits)
{
    *extra = *extra_bits = 0;
    return token <= 256 ? token : run_symbol(token - 256, extra, extra_bits);
}

struct leaf {
    uint32_t weight;
    uint32_t symbol;
};

static int by_weight(const void *a, const void *b)
{
    const struct leaf *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? -1 : 1;
    return x->symbol < y->symbol ? -1 : 1;
}

/* Huffman's code lengths; false where one is longer than deflate allows. Two queues: leaves sorted
 * by weight, and inner nodes, which are created in order of weight. At least two leaves. */
static bool code_lengths(uint8_t lengths[SYMBOLS], const uint32_t weights[SYMBOLS])
{
    struct leaf leaves[SYMBOLS];
    uint32_t weight[2 * SYMBOLS], parent[2 * SYMBOLS] = { 0 }, depth[2 * SYMBOLS];
    uint32_t n = 0;
    for (uint32_t s = 0; s < SYMBOLS; s++) {
        lengths[s] = 0;
        if (weights[s]) leaves[n++] = (struct leaf){ weights[s], s };
    }
    qsort(leaves, n, sizeof *leaves, by_weight);
    for (uint32_t i = 0; i < n; i++)
        weight[i] = leaves[i].weight;
    uint32_t leaf = 0, joint = n;
    for (uint32_t made = n; made < 2 * n - 1; made++) {
        weight[made] = 0;
        for (int child = 0; child < 2; child++) {
            bool is_leaf = leaf < n && (joint == made || weight[leaf] <= weight[joint]);
            uint32_t taken = is_leaf ? leaf++ : joint++;
            weight[made] += weight[taken];
            parent[taken] = made;
        }
    }
    depth[2 * n - 2] = 0;
    for (uint32_t i = 2 * n - 2; i-- > 0;) {
        depth[i] = depth[parent[i]] + 1;
        if (i < n) {
            if (depth[i] > CODE_MAX_BITS) return false;
            lengths[leaves[i].symbol] = (uint8_t)depth[i];
        }
    }
    return true;
}

static uint32_t reversed(uint32_t bits, unsigned count)
{
    uint32_t r = 0;
    for (unsigned i = 0; i < count; i++)
        r |= (bits >> i & 1) << (count - 1 - i);
    return r;
}

static void code_words(uint32_t words[SYMBOLS], const uint8_t lengths[SYMBOLS])
{
    uint32_t next = 0;
    for (unsigned bits = 1; bits <= CODE_MAX_BITS; bits++) {
        for (uint32_t s = 0; s < SYMBOLS; s++) {
            if (lengths[s] == bits) words[s] = reversed(next++, bits);
        }
        next <<= 1;
    }
}

/* All lengths in four bits each, and one distance of one bit: a header of 156 bytes for a block of
 * 64 KiB. */
static void put_block_header(struct fast_png *f, const uint8_t lengths[SYMBOLS], bool is_last)
{
    put_bits(f, is_last ? 1 : 0, 1);
    put_bits(f, 2, 2); /* the block has its own code */
    put_bits(f, SYMBOLS - 257, 5);
    put_bits(f, 0, 5);
    put_bits(f, 19 - 4, 4);
    for (int i = 0; i < 19; i++)
        put_bits(f, i < 3 ? 0 : 4, 3); /* the first three encode repeats */
    for (int s = 0; s < SYMBOLS; s++)
        put_bits(f, reversed(lengths[s], 4), 4);
    put_bits(f, reversed(1, 4), 4);
}

static size_t read_tokens(struct fast_png *f, uint32_t weights[SYMBOLS])
{
    uint32_t seen[TOKENS] = { 0 };
    size_t n = 0;
    const uint8_t *p = f->block, *end = f->block + f->filled;
    uint32_t last = f->before;
    bool has_last = f->has_before;
    while (p < end) {
        uint32_t four;
        if (has_last && end - p >= RUN_MIN && (memcpy(&four, p, 4), four == last * 0x01010101u)) {
            size_t run = RUN_MIN;
            while (run < RUN_MAX && p + run < end && p[run] == last)
                run++;
            seen[256 + run]++;
            f->tokens[n++] = (uint16_t)(256 + run);
            p += run;
            continue;
        }
        last = *p++;
        has_last = true;
        seen[last]++;
        f->tokens[n++] = (uint16_t)last;
    }
    seen[256] = 1;
    f->tokens[n++] = 256;
    memset(weights, 0, SYMBOLS * sizeof *weights);
    for (unsigned t = 0; t < TOKENS; t++) {
        unsigned extra, extra_bits;
        if (seen[t]) weights[symbol_of(t, &extra, &extra_bits)] += seen[t];
    }
    return n;
}

static void put_tokens(struct fast_png *f, size_t n, const uint8_t lengths[SYMBOLS])
{
    struct code codes[TOKENS];
    uint32_t words[SYMBOLS] = { 0 };
    code_words(words, lengths);
    for (unsigned t = 0; t < TOKENS; t++) {
        if (t > 256 && t < 256 + RUN_MIN) continue;
        unsigned extra, extra_bits, s = symbol_of(t, &extra, &extra_bits);
        codes[t].bits = words[s] | extra << lengths[s]; /* the distance's bit is 0 */
        codes[t].count = lengths[s] + (t > 256 ? extra_bits + 1 : 0);
    }
    uint8_t *to = f->out->data + f->out->len;
    uint64_t held = f->held;
    unsigned held_bits = f->held_bits;
    for (size_t i = 0; i < n; i++) {
        const struct code *c = &codes[f->tokens[i]];
        held |= (uint64_t)c->bits << held_bits;
        held_bits += c->count; /* at most 31 + 15 + 5 + 1 */
        if (held_bits >= 32) {
            for (int b = 0; b < 4; b++)
                *to++ = (uint8_t)(held >> 8 * b);
            held >>= 32;
            held_bits -= 32;
        }
    }
    f->held = held;
    f->held_bits = held_bits;
    f->out->len = (size_t)(to - f->out->data);
    put_bits(f, 0, 0); /* writes the whole bytes */
}

static bool put_block(struct fast_png *f, bool is_first, bool is_last)
{
    struct byte_sink *out = f->out;
    uint32_t weights[SYMBOLS];
    uint8_t lengths[SYMBOLS], frame[4];
    /* no code takes more than 2 bytes */
    if (!byte_sink_reserve(out, 2 * BLOCK_BYTES + 1024)) return false;
    f->adler = adler32(f->adler, f->block, (uInt)f->filled);
    size_t n = read_tokens(f, weights);
    while (!code_lengths(lengths, weights)) { /* flatter weights make shorter codes */
        for (int s = 0; s < SYMBOLS; s++)
            weights[s] = (weights[s] + 1) / 2;
    }
    size_t start = out->len;
    memcpy(out->data + start + 4, "IDAT", 4);
    out->len += 8;
    if (is_first) {
        out->data[out->len++] = 0x78; /* zlib: deflate, a window of 32 KiB, fastest */
        out->data[out->len++] = 0x01;
    }
    put_block_header(f, lengths, is_last);
    put_tokens(f, n, lengths);
    if (is_last) {
        put_bits(f, 0, (8 - f->held_bits) & 7);
        put_be32(out->data + out->len, (uint32_t)f->adler);
        out->len += 4;
    }
    put_be32(out->data + start, (uint32_t)(out->len - start - 8));
    put_be32(frame, (uint32_t)crc32(0, out->data + start + 4, (uInt)(out->len - start - 4)));
    f->before = f->block[f->filled - 1];
    f->has_before = true;
    f->filled = 0;
    return byte_sink_put(out, frame, 4);
}

static void load_row(uint8_t *to, const struct image *img, uint32_t y, size_t row_bytes)
{
    const uint8_t *from = (const uint8_t *)img->pixels + y * row_bytes;
    if (img->depth == 8) {
        memcpy(to, from, row_bytes);
        return;
    }
    for (size_t i = 0; i < row_bytes; i += 2) {
        uint16_t v;
        memcpy(&v, from + i, 2);
        to[i] = (uint8_t)(v >> 8);
        to[i + 1] = (uint8_t)v;
    }
}

static void average_filter(uint8_t *restrict to, const uint8_t *restrict row,
                           const uint8_t *restrict above, size_t n, size_t px)
{
    for (size_t i = 0; i < px; i++)
        to[i] = (uint8_t)(row[i] - above[i] / 2);
    for (size_t i = px; i < n; i++)
        to[i] = (uint8_t)(row[i] - (row[i - px] + above[i]) / 2);
}

static bool put_rows(struct fast_png *f, const struct image *img)
{
    size_t px = (size_t)img->channels * (img->depth / 8), row_bytes = img->width * px;
    uint8_t *above = f->rows, *row = above + row_bytes, *filtered = row + row_bytes;
    bool is_first = true;
    filtered[0] = AVERAGE_FILTER;
    for (uint32_t y = 0; y < img->height; y++) {
        load_row(row, img, y, row_bytes);
        average_filter(filtered + 1, row, above, row_bytes, px);
        uint8_t *spent = above;
        above = row;
        row = spent;
        for (size_t at = 0; at < row_bytes + 1;) {
            size_t capacity = BLOCK_BYTES - f->filled, left = row_bytes + 1 - at;
            size_t n = left < capacity ? left : capacity;
            memcpy(f->block + f->filled, filtered + at, n);
            f->filled += n;
            at += n;
            bool is_last = y == img->height - 1 && at == row_bytes + 1;
            if (!is_last && f->filled < BLOCK_BYTES) continue;
            if (!put_block(f, is_first, is_last)) return false;
            is_first = false;
        }
    }
    return true;
}

enum status encode_png_fast(struct byte_sink *out, const struct image *img, struct error *err)
{
    static const uint8_t colours[] = { 0, 4, 2, 6 };
    size_t row_bytes = (size_t)img->width * img->channels * (img->depth / 8);
    uint8_t header[13] = { 0 };
    struct fast_png *f = calloc(1, sizeof *f);
    bool done = false;
    if (!f) goto done;
    f->out = out;
    f->adler = 1;
    f->rows = calloc(3, row_bytes + 1);
    if (!f->rows) goto done;
    put_be32(header, img->width);
    put_be32(header + 4, img->height);
    header[8] = (uint8_t)img->depth;
    header[9] = colours[img->channels - 1];
    done = byte_sink_put(out, "\x89PNG\r\n\x1a\n", 8) && put_chunk(out, "IHDR", header, 13) &&
           put_rows(f, img) && put_chunk(out, "IEND", "", 0);
done:
    if (f) free(f->rows);
    free(f);
    if (done) return ST_OK;
    return error_set(err, ST_NO_MEMORY_NOW, "no memory for a PNG of %u x %u px", img->width,
                     img->height);
}
