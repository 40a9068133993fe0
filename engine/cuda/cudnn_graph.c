/* Targets and plans. */
#include "engine/cuda/cudnn_graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/cudnn_internal.h"

/* ---- targets ---- */

enum status dnn_target_new(struct dnn_target **out, cudnnHandle_t handle, const char *deviceprop,
                           struct error *err)
{
    struct dnn_target *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a target of plans");
    struct dnn_parts *p = &t->parts;
    p->err = err;
    t->deviceprop = dnn_part(p, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    if (handle)
        dnn_set(p, t->deviceprop, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    else
        dnn_set(p, t->deviceprop, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                (int64_t)strlen(deviceprop), deviceprop);
    dnn_finish(p, t->deviceprop, "the description of the device");
    p->err = NULL;
    if (p->status) {
        enum status s = p->status;
        dnn_target_free(t);
        return s;
    }
    *out = t;
    return ST_OK;
}

void dnn_target_free(struct dnn_target *t)
{
    if (!t) return;
    dnn_parts_done(&t->parts);
    free(t);
}

/* ---- plans ---- */

struct dnn_plan {
    struct dnn_op op;
    bool wide_bias;
    struct dnn_parts parts;
    dnn_part_t plan;
    size_t workspace;
    float scale;
};

static dnn_part_t config_of(struct dnn_parts *p, struct dnn_target *t, dnn_part_t graph,
                            const struct dnn_choice *c)
{
    dnn_part_t engine = dnn_part(p, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    dnn_set_part(p, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
    dnn_set(p, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &c->engine);
    dnn_set_part(p, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, t->deviceprop);
    dnn_finish(p, engine, "an engine");
    dnn_part_t knobs[DNN_MAX_KNOBS];
    for (uint32_t i = 0; i < c->n_knobs; i++) {
        const cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)c->knobs[i].type;
        knobs[i] = dnn_part(p, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        dnn_set(p, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        dnn_set(p, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
                &c->knobs[i].value);
        dnn_finish(p, knobs[i], "a knob");
    }
    dnn_part_t config = dnn_part(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    dnn_set_part(p, config, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (c->n_knobs)
        dnn_set(p, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                c->n_knobs, knobs);
    dnn_finish(p, config, "an engine's configuration");
    return config;
}

enum status dnn_plan_new(struct dnn_plan **out, struct dnn_target *t, const struct dnn_op *op,
                         uint32_t n, const struct dnn_choice *choice, struct error *err)
{
    struct dnn_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return error_set(err, ST_NO_MEMORY_NOW, "no memory for a plan");
    struct dnn_parts *p = &plan->parts;
    int64_t workspace = 0;
    p->err = err;
    plan->op = *op;
    plan->wide_bias = choice->wide_bias;
    plan->scale = op->head_channels ? 1 / sqrtf((float)op->head_channels) : 0;
    dnn_part_t config = config_of(p, t, dnn_graph_of(p, op, n, choice->wide_bias), choice);
    plan->plan = dnn_part(p, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    dnn_set_part(p, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    dnn_set_part(p, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, t->deviceprop);
    dnn_finish(p, plan->plan, "a plan");
    if (!p->status && dnn_get(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                              CUDNN_TYPE_INT64, 1, &workspace) != 1)
        p->status = error_set(err, ST_UNSUPPORTED, "cuDNN: a plan without a workspace size");
    p->err = NULL;
    enum status s = p->status;
    if (s) {
        dnn_plan_free(plan);
        return s;
    }
    plan->workspace = (size_t)workspace;
    *out = plan;
    return ST_OK;
}

void dnn_plan_free(struct dnn_plan *p)
{
    if (!p) return;
    dnn_parts_done(&p->parts);
    free(p);
}

size_t dnn_plan_workspace_bytes(const struct dnn_plan *p)
{
    return p->workspace;
}

enum { MAX_POINTERS = 5 };

static int64_t pointers_of(struct dnn_plan *p, const struct dnn_io *io, int64_t uids[MAX_POINTERS],
                           const void *pointers[MAX_POINTERS])
{
    const struct dnn_op *o = &p->op;
    int64_t n = 0;
#define POINT(uid, pointer) (uids[n] = (uid), pointers[n++] = (pointer))
    if (o->kind == DNN_CONV) {
        POINT(DNN_X, io->x);
        POINT(DNN_WEIGHT, io->weight);
        POINT(DNN_BIAS, p->wide_bias ? (const void *)io->wide_bias : io->bias);
        if (o->r_ld) POINT(DNN_RESIDUAL, io->residual);
    } else {
        const size_t third =
            (o->new_order ? o->heads : 1) * (size_t)o->head_channels * dtype_size(o->dtype);
        POINT(DNN_QUERY, io->x);
        POINT(DNN_KEY, (const char *)io->x + third);
        POINT(DNN_VALUE, (const char *)io->x + 2 * third);
        POINT(DNN_SCALE, &p->scale);
    }
    POINT(DNN_Y, io->y);
#undef POINT
    return n;
}

enum status dnn_plan_run(struct dnn_plan *p, cudnnHandle_t handle, const struct dnn_io *io,
                         struct error *err)
{
    struct dnn_parts own = { .err = err };
    int64_t uids[MAX_POINTERS];
    const void *pointers[MAX_POINTERS];
    const int64_t n = pointers_of(p, io, uids, pointers);
    dnn_part_t pack = dnn_part(&own, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    dnn_set(&own, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uids);
    dnn_set(&own, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
    dnn_set(&own, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &io->workspace);
    dnn_finish(&own, pack, "the pointers of a plan");
    if (!own.status) dnn_note(&own, cudnnBackendExecute(handle, p->plan, pack), "running a plan");
    dnn_parts_done(&own);
    return own.status;
}
