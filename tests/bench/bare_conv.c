/* bare_conv: the sum of a network's convolutions alone, each run by oneDNN as fast as it can
 * (its own choice of layout, all threads, warm): the time of a network on this machine if only
 * its convolutions took time.
 *
 *   bare_conv ffhq256|imagenet256|JSON f32|bf16 [RUNS]
 *
 * Every distinct shape is timed RUNS times (9); its median counts as often as the shape occurs.
 * Inputs are pseudorandom: an image of zeros runs faster than a real one. Prints one JSON
 * object. */
#include <oneapi/dnnl/dnnl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/nets/unet.h"
#include "proto/models/unet_arch.h"

enum { MAX_RUNS = 99 };

#define NEED(call)                                                                                 \
    do {                                                                                           \
        dnnl_status_t status_ = (call);                                                            \
        if (status_ != dnnl_success) {                                                             \
            fprintf(stderr, "bare_conv: %s: %d\n", #call, (int)status_);                           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Small numbers of both signs, for any type. */
static void fill(void *p, size_t bytes, bool half)
{
    uint32_t z = 1;
    size_t count = bytes / (half ? 2 : 4);
    for (size_t i = 0; i < count; i++) {
        z = z * 1664525u + 1013904223u;
        if (half)
            ((uint16_t *)p)[i] = (uint16_t)(0x3d00u | (z >> 8 & 0x80ffu));
        else
            ((float *)p)[i] = (float)(int32_t)z / 2147483648.0f * 0.05f;
    }
}

struct shape {
    uint32_t h, w, ic, oc, kernel, stride;
};

static double median_s(dnnl_engine_t engine, dnnl_stream_t stream, const struct shape *s, bool half,
                       int runs)
{
    dnnl_data_type_t type = half ? dnnl_bf16 : dnnl_f32;
    uint32_t oh = (s->h + s->stride - 1) / s->stride, ow = (s->w + s->stride - 1) / s->stride;
    dnnl_dims_t x = { 1, s->ic, s->h, s->w }, y = { 1, s->oc, oh, ow };
    dnnl_dims_t w = { s->oc, s->ic, s->kernel, s->kernel }, b = { s->oc };
    dnnl_dims_t stride = { s->stride, s->stride }, pad = { s->kernel / 2, s->kernel / 2 };
    dnnl_memory_desc_t xd, yd, wd, bd;
    dnnl_convolution_desc_t cd;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t primitive;
    NEED(dnnl_memory_desc_init_by_tag(&xd, 4, x, type, dnnl_format_tag_any));
    NEED(dnnl_memory_desc_init_by_tag(&yd, 4, y, type, dnnl_format_tag_any));
    NEED(dnnl_memory_desc_init_by_tag(&wd, 4, w, type, dnnl_format_tag_any));
    NEED(dnnl_memory_desc_init_by_tag(&bd, 1, b, dnnl_f32, dnnl_x));
    NEED(dnnl_convolution_forward_desc_init(&cd, dnnl_forward_inference, dnnl_convolution_auto, &xd,
                                            &wd, &bd, &yd, stride, pad, pad));
    NEED(dnnl_primitive_desc_create(&pd, &cd, NULL, engine, NULL));
    NEED(dnnl_primitive_create(&primitive, pd));
    static const struct {
        dnnl_query_t query;
        int index, argument;
    } parts[4] = { { dnnl_query_src_md, 0, DNNL_ARG_SRC },
                   { dnnl_query_weights_md, 0, DNNL_ARG_WEIGHTS },
                   { dnnl_query_weights_md, 1, DNNL_ARG_BIAS },
                   { dnnl_query_dst_md, 0, DNNL_ARG_DST } };
    dnnl_exec_arg_t args[4];
    void *memory[4];
    for (int i = 0; i < 4; i++) {
        const dnnl_memory_desc_t *d =
            dnnl_primitive_desc_query_md(pd, parts[i].query, parts[i].index);
        size_t bytes = (dnnl_memory_desc_get_size(d) + 63) / 64 * 64;
        memory[i] = aligned_alloc(64, bytes);
        if (!memory[i]) exit(1);
        fill(memory[i], bytes, half && parts[i].index == 0);
        args[i].arg = parts[i].argument;
        NEED(dnnl_memory_create(&args[i].memory, d, engine, memory[i]));
    }
    double times[MAX_RUNS];
    for (int r = -1; r < runs; r++) {
        double start = now_s();
        NEED(dnnl_primitive_execute(primitive, stream, 4, args));
        NEED(dnnl_stream_wait(stream));
        if (r >= 0) times[r] = now_s() - start;
    }
    for (int i = 0; i < 4; i++) {
        dnnl_memory_destroy(args[i].memory);
        free(memory[i]);
    }
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(pd);
    qsort(times, (size_t)runs, sizeof *times, by_value);
    return times[runs / 2];
}

/* The folded network computes three output channels. */
static struct shape shape_of(const struct graph *g, uint32_t i)
{
    const struct node *n = &g->nodes[i], *in = &g->nodes[n->in[0]];
    return (struct shape){ in->h,     in->w,    in->c, (int32_t)i == g->output ? 3 : n->c,
                           n->kernel, n->stride };
}

int main(int argc, char **argv)
{
    if (argc < 3 || (strcmp(argv[2], "f32") != 0 && strcmp(argv[2], "bf16") != 0)) {
        fprintf(stderr, "usage: bare_conv ARCH f32|bf16 [RUNS]\n");
        return 2;
    }
    bool half = strcmp(argv[2], "bf16") == 0;
    int runs = argc > 3 ? atoi(argv[3]) : 9;
    if (runs < 1 || runs > MAX_RUNS) return 2;
    struct error err = { 0 };
    struct unet_arch arch;
    struct graph *g = NULL;
    if (unet_arch_parse(&arch, argv[1], &err) ||
        unet_build(&g, &arch, arch.image_size, arch.image_size, &err)) {
        fprintf(stderr, "bare_conv: %s\n", err.detail);
        return 1;
    }
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    NEED(dnnl_engine_create(&engine, dnnl_cpu, 0));
    NEED(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    double total = 0, flop = 0;
    uint32_t convolutions = 0, shapes = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op != OP_CONV) continue;
        struct shape s = shape_of(g, i);
        uint32_t times = 0;
        bool seen = false;
        for (uint32_t k = 0; k < g->n_nodes; k++) {
            if (g->nodes[k].op != OP_CONV) continue;
            struct shape other = shape_of(g, k);
            if (memcmp(&s, &other, sizeof s) != 0) continue;
            seen = seen || k < i;
            times++;
        }
        if (seen) continue;
        total += times * median_s(engine, stream, &s, half, runs);
        flop += 2.0 * times * s.ic * s.oc * s.kernel * s.kernel *
                ((s.h + s.stride - 1) / s.stride) * ((s.w + s.stride - 1) / s.stride);
        convolutions += times;
        shapes++;
    }
    printf("{\"arch\":\"%s\",\"dtype\":\"%s\",\"convolutions\":%u,\"shapes\":%u,\"sum_ms\":%.3f,"
           "\"gflop_per_second\":%.1f}\n",
           argv[1], argv[2], convolutions, shapes, total * 1e3, flop / total / 1e9);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    graph_free(g);
    return 0;
}
