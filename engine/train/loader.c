#include "engine/train/loader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

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
    pthread_mutex_t lock;  /* guards what follows, and the slots' steps and states */
    pthread_cond_t change; /* a slot is made, or given back, or all is over */
    struct slot slots[AHEAD];
    uint64_t next_to_make,
        given; /* steps; how many have been given, of which the last is still held */
    bool is_over;
};

static void batch_done(struct batch *b)
{
    free(b->x);
    free(b->y);
    free(b->y_in);
    free(b->kept);
    free(b->task);
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
    b->kept = calloc(floats / 3, 1);
    b->task = calloc(rows, sizeof *b->task);
    return b->x && b->y && b->y_in && b->kept && b->task;
}

uint32_t loader_row(const struct loader_options *o, uint32_t i)
{
    return (i / o->micro_rows * o->processes + o->process) * o->micro_rows + i % o->micro_rows;
}

static enum status make_row(const struct loader *l, struct batch *b, uint64_t step, uint32_t i,
                            float *scratch, struct error *err)
{
    const struct loader_options *o = &l->o;
    const struct crop_options *c = &o->crops;
    const uint32_t micro = i / o->micro_rows, row = loader_row(o, i), side = c->side;
    float *x = b->x + i * l->row_floats;
    enum status s = crop_draw(o->dataset, c, step, row, x, err);
    if (s || !o->n_tasks) return s;
    /* The unit that has one task is the micro-batch of all processes. */
    struct dice dice = dice_of(c->seed, step, DRAW_TASK, micro);
    const uint32_t task = dice_below(&dice, o->n_tasks);
    const enum operator_kind op = o->tasks[task]->op;
    const bool has_hole = operator_of(op)->needs_mask;
    const struct extent m = operator_extent(op, (struct extent){ side, side, 3 });
    float *y = b->y + (size_t)micro * o->micro_rows * l->row_floats +
               (size_t)(i % o->micro_rows) * m.w * m.h * m.c;
    uint8_t *kept = b->kept + i * l->row_floats / 3;
    b->task[micro] = task;
    if (has_hole)
        mask_draw(c, step, row, kept);
    else
        memset(kept, 1, l->row_floats / 3);
    const struct operation a = { .op = op,
                                 .level = o->tasks[task]->level,
                                 .x = { side, side, 3 },
                                 .kept = has_hole ? kept : NULL };
    s = measure(c, &a, o->sigmas[task], step, row, x, y, scratch, err);
    bridge_input(op, side, side, y, b->y_in + i * l->row_floats);
    return s;
}

static size_t scratch_floats(const struct loader *l)
{
    const struct extent x = { l->o.crops.side, l->o.crops.side, 3 };
    size_t most = 1;
    for (uint32_t i = 0; i < l->o.n_tasks; i++) {
        size_t n = operator_scratch_floats(l->o.tasks[i]->op, x);
        if (n > most) most = n;
    }
    return most;
}

static void *work(void *ctx)
{
    struct loader *l = ctx;
    float *scratch = malloc(scratch_floats(l) * sizeof *scratch);
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
        struct error e = { 0 };
        enum status s = scratch ? ST_OK : error_set(&e, ST_NO_MEMORY_NOW, "no memory for a batch");
        for (uint32_t i = 0; !s && i < l->o.rows; i++)
            s = make_row(l, &slot->batch, step, i, scratch, &e);
        pthread_mutex_lock(&l->lock);
        slot->failure = e;
        slot->is_failed = s != ST_OK;
        slot->is_made = true;
        pthread_cond_broadcast(&l->change);
    }
    pthread_mutex_unlock(&l->lock);
    free(scratch);
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
    pthread_cond_broadcast(&l->change); /* the one that was held may be made anew */
    while (slot->step != step || !slot->is_made)
        pthread_cond_wait(&l->change, &l->lock);
    if (slot->is_failed)
        s = error_set(err, slot->failure.status, "%s", slot->failure.detail);
    else
        *out = &slot->batch;
    pthread_mutex_unlock(&l->lock);
    return s;
}
