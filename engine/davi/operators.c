/* The tables of tasks and operators, and the code that all operators share. */
#include "engine/davi/operators.h"

#include <stdio.h>
#include <string.h>

#include "engine/davi/operators/rows.h"
#include "engine/engine.h"

/* ---- tasks ---- */

const struct task_desc task_table[TASK_COUNT] = {
#define OPERATOR(...)
#define TASK(id, name, op, sigma, sigma_low, sigma_high, h, level, level_low, level_high,          \
             level_gain, t_ikl, weight_con, reg_coeff, what)                                       \
    { name,                                                                                        \
      op,                                                                                          \
      sigma,                                                                                       \
      { sigma_low, sigma_high },                                                                   \
      h,                                                                                           \
      level,                                                                                       \
      { level_low, level_high },                                                                   \
      level_gain,                                                                                  \
      t_ikl,                                                                                       \
      weight_con,                                                                                  \
      reg_coeff },
#include "engine/davi/tasks.def"
#undef OPERATOR
#undef TASK
};

/* model_hash offers every task. */
_Static_assert((int)TASK_COUNT <= (int)MODEL_MAX_TASKS, "a model has no place for every task");

const struct task_desc *task_find(const char *name)
{
    for (int i = 0; i < TASK_COUNT; i++)
        if (strcmp(task_table[i].name, name) == 0) return &task_table[i];
    return NULL;
}

enum status task_check_mask(const char *name, struct error *err)
{
    char takers[128] = "";
    if (task_shape(name).takes_mask) return ST_OK;
    for (int i = 0; i < TASK_COUNT; i++) {
        const size_t len = strlen(takers);
        if (operator_of(task_table[i].op)->needs_mask)
            (void)snprintf(takers + len, sizeof takers - len, "%s%s", len ? ", " : "",
                           task_table[i].name);
    }
    return error_set(err, ST_BAD_MASK, "task %s takes no mask; tasks that do: %s", name, takers);
}

void task_levels(char *out, size_t size)
{
    size_t len = 0;
    out[0] = 0;
    for (int i = 0; i < TASK_COUNT && len < size; i++) {
        const char *level = operator_of(task_table[i].op)->level;
        if (level)
            len += (size_t)snprintf(out + len, size - len, "%s%s: %s", len ? "; " : "",
                                    task_table[i].name, level);
    }
}

struct task_shape task_shape(const char *name)
{
    const struct operator_traits *o = operator_of(task_find(name)->op);
    return (struct task_shape){ o->scale, o->is_gray, o->needs_mask };
}

enum status task_check_level(const struct task_desc *t, double level, struct error *err)
{
    const struct operator_traits *o = operator_of(t->op);
    if (!o->level)
        return level == 0 ? ST_OK
                          : error_set(err, ST_BAD_PARAMETER, "level = %g: task %s has no level",
                                      level, t->name);
    if (level >= o->level_least && level <= o->level_most) return ST_OK;
    return error_set(err, ST_BAD_PARAMETER, "level = %g is not in %g..%g, the %s of task %s", level,
                     o->level_least, o->level_most, o->level, t->name);
}

/* ---- operators ---- */

static const struct operator_traits *const operators[OPERATOR_COUNT] = {
#define OPERATOR(id, name) &name##_operator,
#define TASK(...)
#include "engine/davi/tasks.def"
#undef OPERATOR
#undef TASK
};

const struct operator_traits *operator_of(enum operator_kind op)
{
    return operators[op];
}

struct extent operator_extent(enum operator_kind op, struct extent x)
{
    const struct operator_traits *o = operator_of(op);
    return (struct extent){ x.w / o->scale, x.h / o->scale, o->is_gray ? 1 : x.c };
}

size_t two_rows(struct extent x)
{
    return (size_t)2 * x.w * x.c;
}

size_t operator_scratch_floats(enum operator_kind op, struct extent x)
{
    return operator_of(op)->scratch(x);
}

size_t operator_working_bytes(enum operator_kind op, struct extent x)
{
    const struct operator_traits *o = operator_of(op);
    return o->working_bytes ? o->working_bytes(x) : 0;
}

enum status operator_rows(const struct operation *a, struct row_source from, struct row_sink to,
                          float *scratch, struct error *err)
{
    return operator_of(a->op)->rows(a, from, to, scratch, err);
}

struct whole {
    const float *from;
    float *to;
    size_t from_row, to_row; /* floats in a row */
};

static void whole_get(void *ctx, uint32_t y, float *row)
{
    const struct whole *w = ctx;
    memcpy(row, w->from + y * w->from_row, w->from_row * sizeof *row);
}

static void whole_put(void *ctx, uint32_t y, const float *row)
{
    struct whole *w = ctx;
    memcpy(w->to + y * w->to_row, row, w->to_row * sizeof *row);
}

enum status operator_apply(const struct operation *a, const float *x, float *y, float *scratch,
                           struct error *err)
{
    const struct extent m = operator_extent(a->op, a->x);
    struct whole w = {
        .from = x, .to = y, .from_row = (size_t)a->x.w * a->x.c, .to_row = (size_t)m.w * m.c
    };
    return operator_rows(a, (struct row_source){ whole_get, &w },
                         (struct row_sink){ whole_put, &w }, scratch, err);
}
