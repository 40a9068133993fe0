/* Times of the training steps, with networks of hash weights and images of noise: times do not
 * depend on values. */
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backend/device.h"
#include "engine/nets/unet.h"
#include "engine/train/trainer.h"

struct rehearsal {
    const struct train_bench_options *o;
    struct engine *engine;
    struct schedule *schedule;
    uint32_t side;
    size_t count; /* values of a batch's images */
    struct trainable nets[NETS];
    struct davi davi;
    float *memory, *x, *y, *z, *noise, *x_t, *out, *dout;
    uint32_t t_bridge[MOST_ROWS], t[MOST_ROWS];
    uint64_t update_ns;
};

static enum status make_net(struct rehearsal *r, enum net net, struct error *err)
{
    const bool judges = net == NET_DISCRIMINATOR;
    const uint64_t seed = net;
    struct graph *g = NULL;
    struct trainable_options l = { .has_average = net == NET_GENERATOR };
    enum status s = judges ? patchgan_build(&g, r->o->discriminator_width, r->side, r->side, err)
                           : unet_build(&g, r->o->arch, r->side, r->side, err);
    if (s) return s;
    l.tape = (struct backward_options){ .rows = r->o->batch,
                                        .dtype = r->engine->dtype,
                                        .forward_only = net == NET_TEACHER,
                                        .recompute = judges ? RECOMPUTE_NOTHING : r->o->recompute,
                                        .keep_taps = judges,
                                        .input_gradient = judges };
    if (net == NET_GENERATOR && r->o->kind == TRAIN_DAVI) l.tape.probe = generator_probe(g);
    s = trainable_init(&r->nets[net], r->engine->backend, g, &l, err);
    if (s) return s;
    const struct param_source weights = { hash_param_load, (void *)&seed };
    return trainable_load(&r->nets[net], &weights, err);
}

/* Normals in host memory, copied to `to`. */
static enum status draw_noise(struct rehearsal *r, uint32_t row, float *to, struct error *err)
{
    float *host = calloc(r->count, sizeof *host);
    if (!host) return error_set(err, ST_NO_MEMORY_NOW, "no memory for images");
    draw_add_normals(0, 0, DRAW_SCORE_NOISE, row, host, r->count, 0.5);
    enum status s = device_copy_in(r->engine->backend, to, host, r->count * sizeof *host, err);
    free(host);
    return s;
}

static enum status make_images(struct rehearsal *r, struct error *err)
{
    float **const parts[] = { &r->x, &r->y, &r->z, &r->noise, &r->x_t, &r->out, &r->dout };
    enum { PARTS = sizeof parts / sizeof *parts };
    struct backend *b = r->engine->backend;
    void *memory = NULL;
    r->count = (size_t)r->o->batch * r->side * r->side * LOSS_CHANNELS;
    enum status s = b->ops->device.alloc(b, (PARTS + 2) * r->count * sizeof(float), &memory, err);
    if (s) return s;
    float *at = r->memory = memory;
    for (int i = 0; i < PARTS; i++, at += r->count)
        *parts[i] = at;
    r->dout = r->out + 2 * r->count; /* these two have twice the channels */
    s = b->ops->gradients->fill(b, r->memory, (PARTS + 2) * r->count, 0, err);
    float *const drawn[] = { r->x, r->y, r->z, r->noise };
    for (uint32_t i = 0; !s && i < sizeof drawn / sizeof *drawn; i++)
        s = draw_noise(r, i, drawn[i], err);
    for (uint32_t i = 0; i < r->o->batch; i++)
        r->t[i] = r->t_bridge[i] = SCHEDULE_STEPS * (i + 1) / (r->o->batch + 1);
    return s;
}

static enum status make(struct rehearsal *r, struct error *err)
{
    const struct train_bench_options *o = r->o;
    if (o->batch == 0 || o->batch > MOST_ROWS || o->steps == 0)
        return error_set(err, ST_BAD_PARAMETER, "batch = %u is not in 1..%d", o->batch, MOST_ROWS);
    if (!o->arch->learn_sigma || o->arch->class_cond)
        return error_set(err, ST_UNSUPPORTED,
                         "networks that are trained have a learned variance and no classes");
    const unsigned needs = o->kind == TRAIN_PRIOR ? NEED_DENOISING
                                                  : NEED_ANSWERS | NEED_GRADIENTS | NEED_DAVI |
                                                        NEED_ADJOINT; /* of denoise */
    enum status s = engine_open(&r->engine, &o->engine, err);
    if (!s) s = losses_check(r->engine->backend, needs, err);
    if (s) return s;
    r->side = o->size ? o->size : o->arch->image_size;
    r->schedule = malloc(sizeof *r->schedule);
    if (!r->schedule) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a schedule");
    schedule_init(r->schedule, SCHEDULE_DAVI);
    s = make_images(r, err);
    for (int net = 0; !s && net < NETS; net++)
        if (o->kind == TRAIN_DAVI || net == NET_GENERATOR) s = make_net(r, (enum net)net, err);
    if (s || o->kind == TRAIN_PRIOR) return s;
    const struct davi_options d = { .schedule = r->schedule };
    s = davi_init(&r->davi, &d, &r->nets[NET_TEACHER], &r->nets[NET_SCORE], &r->nets[NET_GENERATOR],
                  &r->nets[NET_DISCRIMINATOR], err);
    if (!s) davi_choose(&r->davi, task_find("denoise"));
    return s;
}

static void done(struct rehearsal *r)
{
    davi_done(&r->davi);
    for (int i = 0; i < NETS; i++)
        trainable_done(&r->nets[i]);
    if (r->engine) r->engine->backend->ops->device.free(r->engine->backend, r->memory);
    engine_close(r->engine);
    free(r->schedule);
}

/* ---- steps ---- */

static enum status update(struct rehearsal *r, enum net net, struct error *err)
{
    struct trainable *l = &r->nets[net];
    const uint64_t start = r->o->now_ns();
    double norm;
    enum status s = trainable_gradient_norm(l, &norm, err);
    if (!s) s = trainable_update(l, 1e-4, err);
    if (!s) s = trainable_follow(l, err);
    if (!s) s = trainable_zero(l, err);
    r->update_ns += r->o->now_ns() - start;
    return s;
}

static enum status prior_step(struct rehearsal *r, struct error *err)
{
    struct denoising_report report;
    const struct denoising a = { r->schedule, r->x, r->noise, r->t, 1, r->x_t, r->out, r->dout };
    enum status s = learn_to_denoise(&r->nets[NET_GENERATOR], &a, &report, err);
    return s ? s : update(r, NET_GENERATOR, err);
}

static enum status davi_step(struct rehearsal *r, struct error *err)
{
    const struct davi_rows rows = { .x = r->x, .y = r->y, .y_in = r->y };
    const struct davi_draws draws = {
        .t_bridge = r->t_bridge, .t = r->t, .z = r->z, .noise = r->noise
    };
    struct score_report score;
    struct generator_report generator;
    enum status s = davi_score_step(&r->davi, &rows, &draws, 1, &score, err);
    if (!s) s = update(r, NET_SCORE, err);
    if (!s) s = update(r, NET_DISCRIMINATOR, err);
    if (!s) s = davi_generator_step(&r->davi, &rows, &draws, 1, &generator, err);
    return s ? s : update(r, NET_GENERATOR, err);
}

/* ---- times ---- */

static void add_part(struct train_timing *out, const char *name, bool is_backward, double ns)
{
    if (ns > 0 && out->n_parts < TRAIN_MOST_PARTS)
        out->parts[out->n_parts++] = (struct train_part){ name, is_backward, ns / 1e6 };
}

/* Times since the last call: of the ops of all tapes, of the updates, and the rest of `ns` as
 * "losses". */
static void read_parts(struct rehearsal *r, struct train_timing *out, double steps, double ns)
{
    uint64_t sums[2][OP_COUNT] = { { 0 } }, one[2][OP_COUNT];
    for (int net = 0; net < NETS; net++) {
        if (!r->nets[net].tape) continue;
        tape_times(r->nets[net].tape, one[0], one[1]);
        for (int i = 0; i < 2 * OP_COUNT; i++)
            sums[i / OP_COUNT][i % OP_COUNT] += one[i / OP_COUNT][i % OP_COUNT];
    }
    out->n_parts = 0;
    for (int back = 0; back < 2; back++)
        for (int op = 0; op < OP_COUNT; op++) {
            add_part(out, op_name((enum op)op), back, (double)sums[back][op] / steps);
            ns -= (double)sums[back][op];
        }
    add_part(out, "update", false, (double)r->update_ns / steps);
    add_part(out, "losses", false, (ns - (double)r->update_ns) / steps);
    r->update_ns = 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum status run(struct rehearsal *r, struct train_timing *out, double *ms, struct error *err)
{
    enum status (*const step)(struct rehearsal *, struct error *) =
        r->o->kind == TRAIN_DAVI ? davi_step : prior_step;
    struct train_timing t = { 0 };
    double ns = 0;
    enum status s = step(r, err); /* warms up */
    read_parts(r, &t, 1, 0);
    for (uint32_t i = 0; !s && i < r->o->steps; i++) {
        const uint64_t start = r->o->now_ns();
        s = step(r, err);
        const double took = (double)(r->o->now_ns() - start);
        ms[i] = took / 1e6;
        ns += took;
    }
    if (s) return s;
    read_parts(r, &t, r->o->steps, ns);
    qsort(ms, r->o->steps, sizeof *ms, by_value);
    t.ms = (ms[(r->o->steps - 1) / 2] + ms[r->o->steps / 2]) / 2;
    t.min_ms = ms[0];
    for (int net = 0; net < NETS; net++)
        if (r->nets[net].tape) t.bytes += trainable_bytes(&r->nets[net]);
    t.facts = *engine_describe(r->engine);
    *out = t;
    return ST_OK;
}

enum status train_bench(struct train_timing *out, const struct train_bench_options *o,
                        struct error *err)
{
    struct rehearsal r = { .o = o };
    double *ms = calloc(o->steps ? o->steps : 1, sizeof *ms);
    enum status s = ms ? make(&r, err) : error_set(err, ST_NO_MEMORY_NOW, "no memory for times");
    if (!s) s = run(&r, out, ms, err);
    done(&r);
    free(ms);
    return s;
}
