#include "engine/train/trainable.h"

#include <math.h>
#include <string.h>

enum { AVERAGE_EVERY = 5, AVERAGE_AFTER = 100 };

static enum status array(struct trainable *l, float **out, struct error *err)
{
    void *memory = NULL;
    enum status s = l->b->ops->device.alloc(l->b, l->layout.count * sizeof(float), &memory, err);
    if (s) return s;
    *out = memory;
    return l->b->ops->gradients->fill(l->b, *out, l->layout.count, 0, err);
}

enum status trainable_init(struct trainable *out, struct backend *b, struct graph *g,
                           const struct trainable_options *o, struct error *err)
{
    struct trainable l = { .b = b, .g = g, .average_decay = 0.9999, .weight_decay = 0.01 };
    enum status s =
        b->ops->gradients
            ? param_layout_init(&l.layout, g, err)
            : error_set(err, ST_UNSUPPORTED, "the back end %s cannot train", b->ops->device.name);
    if (!s) s = array(&l, &l.params, err);
    if (!s && !o->tape.forward_only) {
        float **const all[] = { &l.gradients, &l.m, &l.v };
        for (size_t i = 0; !s && i < sizeof all / sizeof *all; i++)
            s = array(&l, all[i], err);
    }
    if (!s && o->has_average) s = array(&l, &l.average, err);
    if (!s) s = tape_new(&l.tape, b, g, l.params, &o->tape, err);
    if (s)
        trainable_done(&l);
    else
        *out = l;
    return s;
}

void trainable_done(struct trainable *l)
{
    tape_free(l->tape);
    float *const all[] = { l->params, l->gradients, l->m, l->v, l->average };
    for (size_t i = 0; l->b && i < sizeof all / sizeof *all; i++)
        l->b->ops->device.free(l->b, all[i]);
    param_layout_done(&l->layout);
    graph_free(l->g);
    *l = (struct trainable){ 0 };
}

size_t trainable_bytes(const struct trainable *l)
{
    size_t arrays = 1 + (l->gradients ? 3 : 0) + (l->average ? 1 : 0);
    return arrays * l->layout.count * sizeof(float) + tape_bytes(l->tape);
}

enum status trainable_load(struct trainable *l, const struct param_source *src, struct error *err)
{
    const struct gradient_ops *ops = l->b->ops->gradients;
    enum status s = params_load(l->b, l->g, &l->layout, src, l->params, err);
    if (!s && l->average) s = ops->average(l->b, l->average, l->params, l->layout.count, 0, err);
    if (!s && l->m) s = ops->fill(l->b, l->m, l->layout.count, 0, err);
    if (!s && l->v) s = ops->fill(l->b, l->v, l->layout.count, 0, err);
    l->updates = 0;
    return s ? s : tape_pack(l->tape, err);
}

enum status trainable_zero(struct trainable *l, struct error *err)
{
    return l->b->ops->gradients->fill(l->b, l->gradients, l->layout.count, 0, err);
}

enum status trainable_gradient_norm(struct trainable *l, double *out, struct error *err)
{
    double squares = 0;
    enum status s =
        l->b->ops->gradients->sum_squares(l->b, l->gradients, l->layout.count, &squares, err);
    if (!s) *out = sqrt(squares);
    return s;
}

enum status trainable_update(struct trainable *l, double lr, struct error *err)
{
    const struct adamw_args a = { .param = l->params,
                                  .m = l->m,
                                  .v = l->v,
                                  .gradient = l->gradients,
                                  .count = l->layout.count,
                                  .lr = lr,
                                  .beta1 = 0.9,
                                  .beta2 = 0.999,
                                  .eps = 1e-8,
                                  .weight_decay = l->weight_decay,
                                  .step = l->updates + 1 };
    enum status s = l->b->ops->gradients->adamw(l->b, &a, err);
    if (s) return s;
    l->updates++;
    return tape_pack(l->tape, err);
}

double average_decay(uint64_t updates, double most)
{
    if (updates <= AVERAGE_AFTER) return 0;
    double decay = 1 - pow(1 + (double)(updates - AVERAGE_AFTER - 1), -2.0 / 3.0);
    return decay > most ? most : decay;
}

enum status trainable_follow(struct trainable *l, struct error *err)
{
    if (!l->average || l->updates % AVERAGE_EVERY) return ST_OK;
    return l->b->ops->gradients->average(l->b, l->average, l->params, l->layout.count,
                                         (float)average_decay(l->updates, l->average_decay), err);
}
