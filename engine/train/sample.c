/* Samples of a prior by DDIM (arXiv 2010.02502, eta 0). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/train/trainer.h"

struct sampling {
    struct network *net;
    uint32_t side, channels;
    size_t each;      /* values of an image */
    float *x, *y, *t; /* [count][3][side][side], [count][channels][side][side], [count] */
};

/* Images of x_t to x at `next` (-1: clean), by the network's eps. */
static void step(const struct sampling *p, const struct schedule *s, uint32_t count, int t,
                 int next)
{
    const size_t px = p->each / 3;
    const double now = s->alpha_bar[t], then = next < 0 ? 1 : s->alpha_bar[next];
    for (size_t i = 0; i < count * p->each; i++) {
        const size_t image = i / p->each, in = i % p->each;
        double eps = (double)p->y[image * px * p->channels + in], x = (double)p->x[i];
        double x0 = (x - sqrt(1 - now) * eps) / sqrt(now);
        x0 = fmin(fmax(x0, -1), 1);
        eps = (x - sqrt(now) * x0) / sqrt(1 - now);
        p->x[i] = (float)(sqrt(then) * x0 + sqrt(1 - then) * eps);
    }
}

static enum status run(struct sampling *p, const struct sample_options *o,
                       const struct schedule *schedule, struct error *err)
{
    enum status s = ST_OK;
    for (uint32_t i = 0; i < o->count; i++)
        draw_add_normals(o->seed, 0, DRAW_SCORE_Z, i, p->x + i * p->each, p->each, 1);
    for (uint32_t k = o->steps; !s && k-- > 0;) {
        const int t =
            o->steps == 1 ? SCHEDULE_LAST : (int)((uint64_t)k * SCHEDULE_LAST / (o->steps - 1));
        const int next = k ? (int)((uint64_t)(k - 1) * SCHEDULE_LAST / (o->steps - 1)) : -1;
        for (uint32_t i = 0; i < o->count; i++)
            p->t[i] = (float)t;
        s = network_forward(p->net, &(struct network_input){ .x = p->x, .t = p->t }, o->count, p->y,
                            err);
        if (!s) step(p, schedule, o->count, t, next);
    }
    return s;
}

/* NCHW to the grid's NHWC. */
static enum status to_grid(const struct sampling *p, uint32_t count, struct image *out,
                           struct error *err)
{
    const size_t px = p->each / 3;
    const float **images = calloc(count, sizeof *images);
    float *v = calloc(count, p->each * sizeof *v);
    uint32_t columns = (uint32_t)ceil(sqrt((double)count));
    enum status s = ST_OK;
    if (!images || !v) s = error_set(err, ST_NO_MEMORY_NOW, "no memory for %u samples", count);
    for (uint32_t n = 0; !s && n < count; n++) {
        images[n] = v + n * p->each;
        for (size_t i = 0; i < p->each; i++)
            v[n * p->each + i % px * 3 + i / px] = p->x[n * p->each + i];
    }
    if (!s) s = image_grid(out, images, count, columns, p->side, err);
    free(images);
    free(v);
    return s;
}

enum status prior_sample(struct image *out, const struct sample_options *o, struct error *err)
{
    struct sampling p = { 0 };
    struct engine *e = NULL;
    struct safetensors *st = NULL;
    struct model_info info = { 0 };
    struct schedule *schedule = malloc(sizeof *schedule);
    enum status s = ST_OK;
    if (o->steps < 1 || o->steps > SCHEDULE_STEPS || o->count < 1 || o->count > 4096)
        s = error_set(err, ST_BAD_PARAMETER, "steps = %u of 1..%d, count = %u of 1..4096", o->steps,
                      SCHEDULE_STEPS, o->count);
    if (!s && !schedule) s = error_set(err, ST_NO_MEMORY_NOW, "no memory for a schedule");
    if (!s) s = safetensors_open(&st, o->prior, err);
    if (!s) s = model_info_read(&info, st, err);
    if (s) goto done;
    if (info.role != ROLE_PRIOR) {
        s = error_set(err, ST_BAD_FILE, "%s: its role is restorer, not prior", o->prior);
        goto done;
    }
    if (info.arch.class_cond) {
        s = error_set(err, ST_UNSUPPORTED, "%s: it is class-conditional", o->prior);
        goto done;
    }
    schedule_init(schedule, info.schedule);
    p.side = info.tile_size;
    p.each = (size_t)p.side * p.side * 3;
    s = engine_open(&e, &o->engine, err);
    if (!s) s = network_load(&p.net, e, o->prior, p.side, p.side, err);
    if (s) goto done;
    p.channels = network_channels(p.net);
    p.x = calloc(o->count, p.each * sizeof *p.x);
    p.y = calloc(o->count, p.each / 3 * p.channels * sizeof *p.y);
    p.t = calloc(o->count, sizeof *p.t);
    s = p.x && p.y && p.t ? run(&p, o, schedule, err)
                          : error_set(err, ST_NO_MEMORY_NOW, "no memory for %u samples", o->count);
    if (!s) s = to_grid(&p, o->count, out, err);
done:
    network_free(p.net);
    engine_close(e);
    model_info_done(&info);
    safetensors_close(st);
    free(schedule);
    free(p.x);
    free(p.y);
    free(p.t);
    return s;
}
