/* Every distinct cuDNN plan of a network can be made, for a device that is only described.
 *
 *   cuda_plans NETWORK DEVICE.json [--rows 1,32] [--dtype BF16]
 *
 * NETWORK: a published name, or a model file. The list of plans comes from the network itself, made
 * on a back end that only records. One choice must support all the given rows, each plan within its
 * workspace. Exits with 1 where a plan cannot be made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/cuda/plans.h"
#include "engine/graph/program.h"
#include "engine/nets/unet.h"
#include "proto/models/safetensors.h"
#include "tests/cuda/recorder.h"

enum { MAX_OPS = 2 * RECORDER_MAX, JSON_MAX = 8192 };

struct options {
    const char *network, *device;
    struct dnn_sizes sizes;
    enum dtype dtype;
};

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum status no_weights(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    (void)ctx;
    (void)err;
    memset(dst, 0, d->count * sizeof *dst);
    return ST_OK;
}

/* ---- the network's ops ---- */

struct ops {
    struct dnn_op op[MAX_OPS];
    uint32_t uses[MAX_OPS], count, own; /* own: computed by david's kernels */
};

static bool same(const struct dnn_op *a, const struct dnn_op *b)
{
    return a->kind == b->kind && a->h == b->h && a->w == b->w && a->ic == b->ic && a->oc == b->oc &&
           a->kernel == b->kernel && a->stride == b->stride && a->heads == b->heads &&
           a->head_channels == b->head_channels && a->new_order == b->new_order &&
           a->x_ld == b->x_ld && a->y_ld == b->y_ld && a->r_ld == b->r_ld;
}

static void add_op(struct ops *ops, bool is_cudnn, const struct dnn_op *op)
{
    if (!is_cudnn) {
        ops->own++;
        return;
    }
    uint32_t i = 0;
    while (i < ops->count && !same(&ops->op[i], op))
        i++;
    if (i == ops->count) ops->op[ops->count++] = *op;
    ops->uses[i]++;
}

static enum status ops_of(struct ops *ops, struct recorder *r, const struct unet_arch *arch,
                          uint32_t side, enum dtype dtype, bool folded, struct error *err)
{
    const struct condition condition = { .t = 999, .label = arch->class_cond ? 0 : -1 };
    const struct param_source src = { no_weights, NULL };
    struct program_options o = { .dtype = dtype };
    struct graph *g = NULL;
    struct program *p = NULL;
    if (folded) {
        o.conditions = &condition;
        o.n_conditions = 1;
        o.output_channels = 3;
    }
    enum status s = unet_build(&g, arch, side, side, err);
    if (!s) s = program_new(&p, &r->base, g, &src, &o, err);
    for (uint32_t i = 0; !s && i < r->n_convs; i++) {
        struct dnn_op op;
        bool is_cudnn = dnn_op_of_conv(&op, &r->convs[i], false);
        add_op(ops, is_cudnn, &op);
    }
    for (uint32_t i = 0; !s && i < r->n_attentions; i++) {
        struct dnn_op op;
        bool is_cudnn = dnn_op_of_attention(&op, &r->attentions[i], false);
        add_op(ops, is_cudnn, &op);
    }
    program_free(p);
    graph_free(g);
    return s;
}

static enum status read_network(struct unet_arch *arch, uint32_t *side, const char *name,
                                struct error *err)
{
    if (!strchr(name, '/')) {
        enum status s = unet_arch_parse(arch, name, err);
        *side = arch->image_size;
        return s;
    }
    struct safetensors *st = NULL;
    struct model_info info = { 0 };
    enum status s = safetensors_open(&st, name, err);
    if (!s) s = model_info_read(&info, st, err);
    *arch = info.arch;
    *side = info.tile_size;
    model_info_done(&info);
    safetensors_close(st);
    return s;
}

/* ---- their plans ---- */

static void print_op(const struct dnn_op *o, char *out, size_t size)
{
    if (o->kind == DNN_CONV)
        snprintf(out, size, "conv %ux%u %ux%u/%u %u -> %u, ld %zu %zu %zu", o->kernel, o->kernel,
                 o->h, o->w, o->stride, o->ic, o->oc, o->x_ld, o->y_ld, o->r_ld);
    else
        snprintf(out, size, "attention %ux%u, %u heads of %u, ld %zu %zu", o->h, o->w, o->heads,
                 o->head_channels, o->x_ld, o->y_ld);
}

static int check_plans(const struct ops *ops, const struct options *o, struct dnn_target *target)
{
    const struct dnn_selector selector = { .target = target };
    struct dnn_cache *cache = NULL;
    struct error err = { 0 };
    uint32_t failed = 0, compiled = 0;
    size_t most = 0;
    if (dnn_cache_new(&cache, &selector, &err)) {
        fprintf(stderr, "%s\n", err.detail);
        return 1;
    }
    for (uint32_t i = 0; i < ops->count; i++) {
        struct dnn_plans *p = NULL;
        char what[160], how[400] = "";
        double from = now_s();
        err = (struct error){ 0 };
        enum status s = dnn_plans_take(&p, cache, &ops->op[i], &o->sizes, &err);
        print_op(&ops->op[i], what, sizeof what);
        if (s) {
            failed++;
            printf("FAILED %s: %s\n", what, err.detail);
            continue;
        }
        dnn_choice_print(dnn_plans_choice(p), how, sizeof how);
        compiled += dnn_plans_choice(p)->is_compiled_at_run_time;
        size_t bytes = dnn_plans_workspace_bytes(p);
        if (bytes > most) most = bytes;
        printf("%-60s x%-2u %10zu B  %4.0f ms  %s\n", what, ops->uses[i], bytes,
               1e3 * (now_s() - from), how);
        dnn_plans_put(cache, p);
    }
    printf("%s, %s: %u ops, %u sizes, %u plans, %u ops compiled at run time, %u failed; largest "
           "workspace %zu B; %u ops on own kernels\n",
           o->network, dtype_name(o->dtype), ops->count, o->sizes.count,
           (ops->count - failed) * o->sizes.count, compiled, failed, most, ops->own);
    dnn_cache_free(cache);
    return failed > 0 || ops->count == 0;
}

static bool parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){ .dtype = DT_BF16, .sizes = { .n = { 1, 32 }, .count = 2 } };
    if (argc < 3) return false;
    o->network = argv[1];
    o->device = argv[2];
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--dtype") == 0) {
            if (dtype_parse(&o->dtype, argv[i + 1], NULL)) return false;
        } else if (strcmp(argv[i], "--rows") == 0) {
            char *end = argv[i + 1];
            for (o->sizes.count = 0; *end && o->sizes.count < DNN_MAX_SIZES; end += *end == ',')
                o->sizes.n[o->sizes.count++] = (uint32_t)strtoul(end, &end, 10);
        } else {
            return false;
        }
    }
    return argc % 2 == 1;
}

static char *read_text(const char *path)
{
    char *text = calloc(1, JSON_MAX);
    FILE *f = fopen(path, "r");
    size_t n = f && text ? fread(text, 1, JSON_MAX - 1, f) : 0;
    if (f) fclose(f);
    if (n == 0) {
        free(text);
        return NULL;
    }
    return text;
}

int main(int argc, char **argv)
{
    static struct recorder recorder;
    static struct ops ops;
    struct options o;
    struct error err = { 0 };
    struct unet_arch arch;
    struct dnn_target *target = NULL;
    uint32_t side;
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "cuda_plans NETWORK DEVICE.json [--rows 1,32] [--dtype BF16]\n");
        return 2;
    }
    char *device = read_text(o.device);
    if (!device) {
        fprintf(stderr, "%s: cannot be read\n", o.device);
        return 1;
    }
    enum status s = read_network(&arch, &side, o.network, &err);
    /* The program that serves (folded), and the one of `forward` and training (unfolded: all output
     * channels). */
    for (int folded = 1; !s && folded >= 0; folded--) {
        recorder_init(&recorder, o.sizes.n[o.sizes.count - 1]);
        s = ops_of(&ops, &recorder, &arch, side, o.dtype, folded, &err);
    }
    if (!s) s = dnn_target_new(&target, NULL, device, &err);
    int failed = 1;
    if (s)
        fprintf(stderr, "%s\n", err.detail);
    else
        failed = check_plans(&ops, &o, target);
    dnn_target_free(target);
    free(device);
    return failed;
}
