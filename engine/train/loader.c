#include "engine/train/loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/davi/conditions.h"
#include "engine/train/davi.h"

enum { AHEAD = 3, MOST_LOADER_THREADS = 16 };

struct slot {
    struct batch batch;
    uint64_t step;
    bool is_made, is_failed;
    struct error failure;
};

struct loader {
    struct loader_options o;
    size_t row_floats;
    pthread_t threads[MOST_LOADER_THREADS];
    uint32_t n_threads;
    pthread_mutex_t lock;  /* guards the members below, and the slots' steps and states */
    pthread_cond_t change; /* a slot is filled or free again, or the loader closes */
    struct slot slots[AHEAD];
    uint64_t next_to_make; /* a step */
    uint64_t given;        /* batches; the caller still holds the last */
    bool is_over;
};

static void batch_done(struct batch *b)
{
    free(b->x);
    free(b->y);
    free(b->y_in);
    free(b->observed_mask);
    free(b->task);
    free(b->label);
    free(b->sigma);
    free(b->level);
    free(b->levels);
    *b = (struct batch){ 0 };
}

static bool batch_init(struct batch *b, const struct loader *l)
{
    const uint32_t rows = l->o.rows;
    const size_t floats = rows * l->row_floats;
    b->x = calloc(floats, sizeof *b->x);
    if (!l->o.n_tasks) return b->x != NULL;
    b->y = calloc(floats, sizeof *b->y);
    b->y_in = calloc(floats, sizeof *b->y_in);
    b->observed_mask = calloc(floats / 3, 1);
    b->task = calloc(rows, sizeof *b->task);
    b->label = calloc(rows, sizeof *b->label);
    b->sigma = calloc(rows, sizeof *b->sigma);
    b->level = calloc(rows, sizeof *b->level);
    b->levels = calloc(rows, sizeof *b->levels);
    return b->x && b->y && b->y_in && b->observed_mask && b->task && b->label && b->sigma &&
           b->level && b->levels;
}

uint32_t loader_row(const struct loader_options *o, uint32_t i)
{
    return (i / o->micro_rows * o->processes + o->process) * o->micro_rows + i % o->micro_rows;
}

static uint32_t draw_task(const struct loader_options *o, uint64_t step, uint32_t micro)
{
    struct rng rng = rng_of(o->crops.seed, step, DRAW_TASK, micro);
    double sum = 0;
    for (uint32_t i = 0; i < o->n_tasks; i++)
        sum += o->tasks[i].weight;
    double at = rng_uniform(&rng) * sum;
    uint32_t task = 0;
    while (task + 1 < o->n_tasks && at >= o->tasks[task].weight)
        at -= o->tasks[task++].weight;
    return task;
}

static enum status make_row(const struct loader *l, struct batch *b, uint64_t step, uint32_t i,
                            struct row_scratch *scratch, struct error *err)
{
    const struct loader_options *o = &l->o;
    const struct crop_options *c = &o->crops;
    const uint32_t micro = i / o->micro_rows, side = c->side;
    uint32_t row = loader_row(o, i);
    if (o->in_pairs) row -= row % 2;
    float *x = b->x + i * l->row_floats;
    if (!o->n_tasks) return crop_draw(o->dataset, c, step, row, x, err);
    /* Where tasks are not mixed, the micro-batch of all processes has one task. */
    const uint32_t task = draw_task(o, step, o->mixed ? row : micro);
    const struct drawn_task *drawn = &o->tasks[task];
    const struct extent m = operator_extent(drawn->task->op, (struct extent){ side, side, 3 });
    struct rng rng = rng_of(c->seed, step, DRAW_CONDITIONS, row);
    const double sigma = drawn->sigma[0] + rng_uniform(&rng) * (drawn->sigma[1] - drawn->sigma[0]);
    const double level = drawn->level[0] + rng_uniform(&rng) * (drawn->level[1] - drawn->level[0]);
    const size_t y = o->mixed ? i * l->row_floats
                              : (size_t)micro * o->micro_rows * l->row_floats +
                                    (size_t)(i % o->micro_rows) * m.w * m.h * m.c;
    const struct row_out out = { x, b->y + y, b->y_in + i * l->row_floats,
                                 b->observed_mask + i * l->row_floats / 3 };
    b->task[i] = task;
    b->label[i] = drawn->label < 0 ? 0 : (uint32_t)drawn->label;
    b->sigma[i] = told_sigma(sigma);
    b->level[i] = told_level(drawn->task->name, level);
    b->levels[i] = level;
    return row_draw(o->dataset, c, drawn, sigma, level, o->surroundings, step, row, scratch, &out,
                    err);
}

static void *work(void *ctx)
{
    struct loader *l = ctx;
    struct row_scratch scratch = { 0 };
    struct error no_scratch = { 0 };
    (void)row_scratch_init(&scratch, l->o.crops.side, l->o.tasks, l->o.n_tasks, &no_scratch);
    pthread_mutex_lock(&l->lock);
    while (!l->is_over) {
        if (l->next_to_make + 1 >= l->o.first_step + l->given + AHEAD) {
            pthread_cond_wait(&l->change, &l->lock);
            continue;
        }
        const uint64_t step = l->next_to_make++;
        struct slot *slot = &l->slots[step % AHEAD];
        slot->step = step;
        slot->is_made = false;
        pthread_mutex_unlock(&l->lock);
        struct error e = no_scratch;
        enum status s = e.status;
        for (uint32_t i = 0; !s && i < l->o.rows; i++)
            s = make_row(l, &slot->batch, step, i, &scratch, &e);
        pthread_mutex_lock(&l->lock);
        slot->failure = e;
        slot->is_failed = s != ST_OK;
        slot->is_made = true;
        pthread_cond_broadcast(&l->change);
    }
    pthread_mutex_unlock(&l->lock);
    row_scratch_done(&scratch);
    return NULL;
}

enum status loader_open(struct loader **out, const struct loader_options *o, struct error *err)
{
    struct loader *l = calloc(1, sizeof *l);
    if (!l) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a loader");
    enum status s = ST_OK;
    l->o = *o;
    l->row_floats = (size_t)o->crops.side * o->crops.side * 3;
    l->next_to_make = o->first_step;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->change, NULL);
    for (int i = 0; i < AHEAD; i++)
        if (!batch_init(&l->slots[i].batch, l))
            s = error_set(err, ST_NO_MEMORY_NOW, "no memory for batches of %u rows", o->rows);
    for (uint32_t i = 0; !s && i < o->threads && i < MOST_LOADER_THREADS; i++) {
        if (pthread_create(&l->threads[i], NULL, work, l))
            s = error_set(err, ST_INTERNAL, "a loader's thread could not be started");
        else
            l->n_threads++;
    }
    if (s)
        loader_close(l);
    else
        *out = l;
    return s;
}

void loader_close(struct loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->is_over = true;
    pthread_cond_broadcast(&l->change);
    pthread_mutex_unlock(&l->lock);
    for (uint32_t i = 0; i < l->n_threads; i++)
        pthread_join(l->threads[i], NULL);
    for (int i = 0; i < AHEAD; i++)
        batch_done(&l->slots[i].batch);
    pthread_cond_destroy(&l->change);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

enum status loader_next(struct loader *l, const struct batch **out, struct error *err)
{
    enum status s = ST_OK;
    pthread_mutex_lock(&l->lock);
    const uint64_t step = l->o.first_step + l->given++;
    const struct slot *slot = &l->slots[step % AHEAD];
    pthread_cond_broadcast(&l->change); /* the previous slot is free */
    while (slot->step != step || !slot->is_made)
        pthread_cond_wait(&l->change, &l->lock);
    if (slot->is_failed)
        s = error_set(err, slot->failure.status, "%s", slot->failure.detail);
    else
        *out = &slot->batch;
    pthread_mutex_unlock(&l->lock);
    return s;
}
