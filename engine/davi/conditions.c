#include "engine/davi/conditions.h"

#include <math.h>
#include <stdlib.h>

#include "engine/davi/operators.h"
#include "engine/davi/schedule.h"

static const double sigma_ratio = 1.1, sigma_least = 1e-3; /* smaller ones share a condition */

float told_sigma(double sigma)
{
    return (float)(1000 * sigma);
}

float told_level(const char *task, double level)
{
    const struct task_desc *t = task_find(task);
    return t ? (float)(t->level_gain * level) : 0;
}

static double least_sigma(const struct model_task *t)
{
    return fmax(t->sigma_range[0], sigma_least);
}

static uint32_t sigma_count(const struct unet_arch *a, const struct model_task *t)
{
    const double low = least_sigma(t), high = t->sigma_range[1];
    if (!a->sigma_cond || high <= low) return 1;
    const double n = 1 + ceil(log(high / low) / log(sigma_ratio));
    return n < SIGMA_STEPS_MAX ? (uint32_t)n : SIGMA_STEPS_MAX;
}

static uint32_t level_count(const struct unet_arch *a, const struct model_task *t)
{
    return a->level_cond && t->level_range[1] > t->level_range[0] ? LEVEL_STEPS + 1 : 1;
}

/* The ends of the range are on the grid; the ratio of neighbours is the same everywhere. */
static double sigma_at(const struct model_task *t, uint32_t i, uint32_t n)
{
    if (n == 1) return t->sigma;
    const double low = least_sigma(t);
    return low * pow(t->sigma_range[1] / low, (double)i / (n - 1));
}

static double level_at(const struct model_task *t, uint32_t i, uint32_t n)
{
    if (n == 1) return t->level;
    return t->level_range[0] + (t->level_range[1] - t->level_range[0]) * i / (n - 1);
}

/* An earlier task with the same inputs to the network; the task itself where there is none. */
static uint32_t like(const struct model_info *info, uint32_t task)
{
    const struct unet_arch *a = &info->arch;
    const struct model_task *t = &info->tasks[task];
    for (uint32_t i = 0; !a->sigma_cond && !a->level_cond && i < task; i++)
        if (info->tasks[i].label == t->label) return i;
    return task;
}

enum status conditions_init(struct conditions *out, const struct model_info *info,
                            struct error *err)
{
    struct conditions c = { 0 };
    for (uint32_t i = 0; i < info->n_tasks; i++) {
        const uint32_t same = like(info, i);
        if (same < i) {
            c.grid[i] = c.grid[same];
            continue;
        }
        c.grid[i] = (struct condition_grid){ c.n, sigma_count(&info->arch, &info->tasks[i]),
                                             level_count(&info->arch, &info->tasks[i]) };
        c.n += c.grid[i].n_sigma * c.grid[i].n_level;
    }
    c.all = calloc(c.n ? c.n : 1, sizeof *c.all);
    if (!c.all) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %u conditions", c.n);
    for (uint32_t i = 0; i < info->n_tasks; i++) {
        const struct condition_grid *g = &c.grid[i];
        const struct model_task *t = &info->tasks[i];
        for (uint32_t k = 0; k < g->n_sigma * g->n_level; k++)
            c.all[g->first + k] = (struct condition){
                .t = SCHEDULE_LAST,
                .label = t->label,
                .sigma = told_sigma(sigma_at(t, k / g->n_level, g->n_sigma)),
                .level = told_level(t->name, level_at(t, k % g->n_level, g->n_level)),
            };
    }
    *out = c;
    return ST_OK;
}

void conditions_done(struct conditions *c)
{
    free(c->all);
    *c = (struct conditions){ 0 };
}

static uint32_t nearest(double at, uint32_t n)
{
    return at <= 0 ? 0 : at >= n - 1 ? n - 1 : (uint32_t)lround(at);
}

uint32_t conditions_find(const struct conditions *c, const struct model_info *info, uint32_t task,
                         double sigma, double level)
{
    const struct condition_grid *g = &c->grid[task];
    const struct model_task *t = &info->tasks[task];
    uint32_t i = 0, k = 0;
    if (g->n_sigma > 1) {
        const double low = least_sigma(t);
        i = nearest(log(fmax(sigma, low) / low) / log(t->sigma_range[1] / low) * (g->n_sigma - 1),
                    g->n_sigma);
    }
    if (g->n_level > 1)
        k = nearest((level - t->level_range[0]) / (t->level_range[1] - t->level_range[0]) *
                        (g->n_level - 1),
                    g->n_level);
    return g->first + i * g->n_level + k;
}
