/* The raw network for forward and bench: unfolded, or folded on request; NCHW on the host. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/nets/unet.h"

enum { LARGEST_SIDE = 8192 };

struct network {
    struct engine *engine;
    struct program *program;
    uint32_t h, w, in_channels, channels, rows; /* rows of one pass */
    uint32_t num_classes;                       /* of an unfolded class_cond network */
    bool wants_sigma, wants_level;              /* inputs of an unfolded network */
    bool folded;
    uint64_t flop;
    float *x, *y; /* [rows][h][w][in_channels or channels], memory of the back end */
    float *host;  /* [rows][h][w][the larger of the two] */
};

static enum status make(struct network **out, struct engine *e, const struct unet_arch *arch,
                        const struct graph *g, uint32_t h, uint32_t w,
                        const struct param_source *src, bool folded, bool time_ops,
                        struct error *err)
{
    struct backend *b = e->backend;
    const struct condition condition = { .t = SCHEDULE_LAST, .label = arch->class_cond ? 0 : -1 };
    struct program_options o = { .dtype = e->dtype, .time_ops = time_ops };
    if (folded) {
        o.conditions = &condition;
        o.n_conditions = 1;
        o.output_channels = 3;
    }
    struct network *n = calloc(1, sizeof *n);
    if (!n) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a network");
    n->engine = e;
    n->h = h;
    n->w = w;
    n->folded = folded;
    n->num_classes = arch->class_cond && !folded ? arch->num_classes : 0;
    n->wants_sigma = arch->sigma_cond && !folded;
    n->wants_level = arch->level_cond && !folded;
    n->in_channels = g->nodes[g->input].c;
    n->channels = folded ? 3 : g->nodes[g->output].c;
    n->flop = graph_flop(g);
    const size_t px = (size_t)h * w, in = n->in_channels;
    const size_t widest = n->channels > in ? n->channels : in;

    pthread_mutex_lock(&e->device);
    void *x = NULL, *y = NULL;
    enum status s = program_new(&n->program, b, g, src, &o, err);
    if (!s) n->rows = program_rows(n->program);
    if (!s) s = b->ops->device.alloc(b, n->rows * px * in * sizeof(float), &x, err);
    if (!s) s = b->ops->device.alloc(b, n->rows * px * n->channels * sizeof(float), &y, err);
    pthread_mutex_unlock(&e->device);
    n->x = x;
    n->y = y;
    if (!s && !(n->host = malloc(n->rows * px * widest * sizeof(float))))
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a batch execution of %u rows", n->rows);
    if (s) {
        network_free(n);
        return s;
    }
    *out = n;
    return ST_OK;
}

static enum status check_size(uint32_t h, uint32_t w, struct error *err)
{
    if (h < 1 || w < 1 || h > LARGEST_SIDE || w > LARGEST_SIDE)
        return error_set(err, ST_BAD_PARAMETER, "size = %ux%u is not in 1x1..%dx%d", h, w,
                         LARGEST_SIDE, LARGEST_SIDE);
    return ST_OK;
}

enum status network_load(struct network **out, struct engine *e, const char *path, uint32_t h,
                         uint32_t w, struct error *err)
{
    struct graph *g = NULL;
    struct model_file f = { 0 };
    enum status s = check_size(h, w, err);
    if (s) goto done;
    s = model_file_open(&f, path, err);
    if (s) goto done;
    s = unet_build(&g, &f.info.arch, h, w, err);
    if (s) goto done;
    s = file_check(f.st, g, err);
    if (s) goto done;
    struct file_source src = { e, f.st };
    s = make(out, e, &f.info.arch, g, h, w, &(struct param_source){ file_param_load, &src }, false,
             false, err);
done:
    graph_free(g);
    model_file_close(&f);
    return s;
}

enum status network_hash(struct network **out, struct engine *e, const struct unet_arch *arch,
                         uint64_t seed, uint32_t h, uint32_t w, bool folded, bool time_ops,
                         struct error *err)
{
    struct graph *g = NULL;
    enum status s = check_size(h, w, err);
    if (!s) s = unet_build(&g, arch, h, w, err);
    if (!s)
        s = make(out, e, arch, g, h, w, &(struct param_source){ hash_param_load, &seed }, folded,
                 time_ops, err);
    graph_free(g);
    return s;
}

void network_free(struct network *n)
{
    if (!n) return;
    struct backend *b = n->engine->backend;
    pthread_mutex_lock(&n->engine->device);
    program_free(n->program);
    b->ops->device.free(b, n->x);
    b->ops->device.free(b, n->y);
    pthread_mutex_unlock(&n->engine->device);
    free(n->host);
    free(n);
}

uint32_t network_channels(const struct network *n)
{
    return n->channels;
}

uint32_t network_input_channels(const struct network *n)
{
    return n->in_channels;
}

static void to_nhwc(float *dst, const float *src, size_t px, size_t c)
{
    for (size_t k = 0; k < c; k++)
        for (size_t p = 0; p < px; p++)
            dst[p * c + k] = src[k * px + p];
}

static void to_nchw(float *dst, const float *src, size_t px, size_t c)
{
    for (size_t k = 0; k < c; k++)
        for (size_t p = 0; p < px; p++)
            dst[k * px + p] = src[p * c + k];
}

/* Rows [first, first + n) as one pass. */
static enum status run_execution(struct network *net, const struct network_input *of,
                                 uint32_t first, uint32_t n, float *y, struct error *err)
{
    struct backend *b = net->engine->backend;
    const size_t px = (size_t)net->h * net->w, ic = net->in_channels, c = net->channels;
    const bool shared = b->ops->device.host_memory;
    float *in = shared ? net->x : net->host;
    for (uint32_t i = 0; i < n; i++)
        to_nhwc(in + i * px * ic, of->x + (first + i) * px * ic, px, ic);
    enum status s =
        shared ? ST_OK : b->ops->device.copy_in(b, net->x, in, n * px * ic * sizeof *in, err);
    struct program_io io = { .x = net->x, .y = net->y };
    if (!net->folded) io.t = of->t + first;
    if (net->wants_sigma) io.sigma = of->sigma + first;
    if (net->wants_level) io.level = of->level + first;
    if (net->num_classes) io.label = of->label + first;
    if (!s) s = program_run(net->program, &io, n, err);
    if (!s && !shared)
        s = b->ops->device.copy_out(b, net->host, net->y, n * px * c * sizeof *y, err);
    for (uint32_t i = 0; !s && i < n; i++)
        to_nchw(y + i * px * c, (shared ? net->y : net->host) + i * px * c, px, c);
    return s;
}

static enum status check_told(const struct network *n, const struct network_input *in,
                              uint32_t rows, struct error *err)
{
    if (n->num_classes && !in->label)
        return error_set(err, ST_BAD_PARAMETER, "label is missing; the network has %u classes",
                         n->num_classes);
    for (uint32_t i = 0; n->num_classes && i < rows; i++)
        if (in->label[i] >= n->num_classes)
            return error_set(err, ST_BAD_PARAMETER, "label = %u; the network has %u classes",
                             in->label[i], n->num_classes);
    if ((n->wants_sigma && !in->sigma) || (n->wants_level && !in->level))
        return error_set(err, ST_BAD_PARAMETER, "%s is missing; the network is told it",
                         n->wants_sigma && !in->sigma ? "sigma" : "level");
    return ST_OK;
}

enum status network_forward(struct network *n, const struct network_input *in, uint32_t rows,
                            float *y, struct error *err)
{
    const size_t px = (size_t)n->h * n->w;
    enum status s = check_told(n, in, rows, err);
    if (s) return s;
    pthread_mutex_lock(&n->engine->device);
    for (uint32_t at = 0; !s && at < rows; at += n->rows) {
        uint32_t now = rows - at < n->rows ? rows - at : n->rows;
        s = run_execution(n, in, at, now, y + at * px * n->channels, err);
    }
    pthread_mutex_unlock(&n->engine->device);
    return s;
}

size_t network_bytes(const struct network *n)
{
    return program_bytes(n->program) +
           n->rows * (size_t)n->h * n->w * (n->in_channels + n->channels) * sizeof(float);
}

uint64_t network_flop(const struct network *n)
{
    return n->flop;
}

size_t network_op_times(struct network *n, const char **names, uint64_t *ns, size_t max)
{
    uint64_t all[OP_COUNT];
    program_op_times(n->program, all);
    size_t count = 0;
    for (int op = 0; op < OP_COUNT && count < max; op++) {
        if (!all[op]) continue;
        names[count] = op_name((enum op)op);
        ns[count++] = all[op];
    }
    return count;
}
