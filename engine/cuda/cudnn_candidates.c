/* The heuristics' candidates, and which of them are excluded. */
#include <stdio.h>
#include <string.h>

#include "engine/cuda/cudnn_internal.h"

/* False for engines whose sums differ from run to run, have less precision than F32, or are taken
 * over transformed feature maps. */
static bool is_exact(const struct dnn_op *o, dnn_part_t engine)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = dnn_get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                        CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes);
    for (int64_t i = 0; i < n; i++)
        switch (notes[i]) {
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
        case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
        case CUDNN_NUMERICAL_NOTE_FFT:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13: return false;
        case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
        case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
            if (o->dtype == DT_F32 && !o->tf32) return false;
            break;
        default: break;
        }
    return true;
}

/* A split sum depends on how it is split, which may change with the batch size, and so would the
 * bits. */
static bool splits_sums(const struct dnn_knob *k)
{
    switch (k->type) {
    case 0:  /* SPLIT_K */
    case 12: /* SPLIT_K_BUF */
    case 17: /* SPLIT_K_SLC */
    case 20: /* SPLIT_RS */
    case 39: /* SPLIT_P_SLC */ return k->value > 1;
    case 38: /* STREAM_K */ return k->value > 0;
    default: return false;
    }
}

static bool read_knobs(struct dnn_parts *p, dnn_part_t config, struct dnn_choice *c)
{
    dnn_part_t knobs[DNN_MAX_KNOBS];
    for (uint32_t i = 0; i < DNN_MAX_KNOBS; i++)
        knobs[i] = dnn_part(p, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    if (p->status) return false;
    const int64_t n = dnn_get(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                              CUDNN_TYPE_BACKEND_DESCRIPTOR, DNN_MAX_KNOBS, knobs);
    for (int64_t i = 0; i < n; i++) {
        cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
        struct dnn_knob *k = &c->knobs[c->n_knobs++];
        if (dnn_get(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type) !=
                1 ||
            dnn_get(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &k->value) !=
                1)
            return false;
        k->type = (int32_t)type;
        if (splits_sums(k)) return false;
    }
    return true;
}

static void read_behavior(dnn_part_t engine, struct dnn_choice *c)
{
    cudnnBackendBehaviorNote_t notes[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
    const int64_t n = dnn_get(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                              CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, notes);
    for (int64_t i = 0; i < n; i++)
        if (notes[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) c->is_compiled_at_run_time = true;
}

/* Returns false for an engine that must not be used, or that does not describe itself
 * completely. */
static bool read_choice(const struct dnn_op *o, dnn_part_t config, struct dnn_choice *c)
{
    struct dnn_parts p = { .err = NULL };
    dnn_part_t engine = dnn_part(&p, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    memset(c, 0, sizeof *c);
    bool ok =
        !p.status &&
        dnn_get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine) ==
            1 &&
        dnn_get(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &c->engine) == 1 &&
        is_exact(o, engine) && read_knobs(&p, config, c);
    if (ok) read_behavior(engine, c);
    dnn_parts_done(&p);
    return ok;
}

/* Adds the offers for one form of the op, up to `max` in all. */
static enum status candidates_of(struct dnn_target *t, const struct dnn_op *op, uint32_t n,
                                 bool wide_bias, uint32_t max, struct dnn_choice *out,
                                 uint32_t *count, uint32_t *refused, struct error *err)
{
    static const cudnnBackendHeurMode_t modes[] = { CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK };
    const uint32_t before = *count;
    enum status s = ST_OK;
    for (size_t m = 0; !s && *count == before && m < sizeof modes / sizeof *modes; m++) {
        struct error why = { 0 }; /* the caller's error stays clean where nothing is offered */
        struct dnn_parts p = { .err = &why };
        dnn_part_t configs[DNN_MAX_OFFERS];
        dnn_part_t graph = dnn_graph_of(&p, op, n, wide_bias);
        dnn_part_t heuristics = dnn_part(&p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
        dnn_set_part(&p, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
        dnn_set(&p, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &modes[m]);
        dnn_set_part(&p, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, t->deviceprop);
        dnn_finish(&p, heuristics, "heuristics");
        for (uint32_t i = 0; i < DNN_MAX_OFFERS; i++)
            configs[i] = dnn_part(&p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
        int64_t offered = p.status
                              ? 0
                              : dnn_get(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                        CUDNN_TYPE_BACKEND_DESCRIPTOR, DNN_MAX_OFFERS, configs);
        for (int64_t i = 0; i < offered && *count < max; i++) {
            bool ok = read_choice(op, configs[i], &out[*count]);
            out[*count].wide_bias = wide_bias;
            *(ok ? count : refused) += 1;
        }
        if (p.status && p.status != ST_UNSUPPORTED) s = error_set(err, p.status, "%s", why.detail);
        dnn_parts_done(&p);
    }
    return s;
}

static bool is_tight(const struct dnn_op *o)
{
    return o->kind == DNN_ATTENTION ||
           (o->x_ld == o->ic && o->y_ld == o->oc && (o->r_ld == 0 || o->r_ld == o->oc));
}

/* Where feature maps are contiguous the precompiled engines are faster; where they are not, both
 * forms must be timed. */
enum status dnn_candidates(struct dnn_target *t, const struct dnn_op *op, uint32_t n,
                           struct dnn_choice out[DNN_MAX_OFFERS], uint32_t *count,
                           uint32_t *refused, struct error *err)
{
    enum { WIDE_OFFERS = 3 };
    uint32_t kept = 0, left_out = 0;
    const bool tight = is_tight(op), narrow_exists = op->dtype != DT_F32;
    enum status s = dnn_check_op(op, n, err);
    if (!s && !tight && narrow_exists)
        s = candidates_of(t, op, n, true, WIDE_OFFERS, out, &kept, &left_out, err);
    if (!s) s = candidates_of(t, op, n, !narrow_exists, DNN_MAX_OFFERS, out, &kept, &left_out, err);
    if (!s && kept == 0 && tight && narrow_exists)
        s = candidates_of(t, op, n, true, DNN_MAX_OFFERS, out, &kept, &left_out, err);
    if (s) return s;
    *count = kept;
    if (refused) *refused = left_out;
    return ST_OK;
}

void dnn_choice_print(const struct dnn_choice *c, char *out, size_t size)
{
    int at = snprintf(out, size, "engine %lld%s:", (long long)c->engine,
                      c->is_compiled_at_run_time ? " (compiled at run time)" : "");
    for (uint32_t i = 0; i < c->n_knobs && at > 0 && (size_t)at < size; i++)
        at += snprintf(out + at, size - (size_t)at, " %d=%lld", (int)c->knobs[i].type,
                       (long long)c->knobs[i].value);
}
