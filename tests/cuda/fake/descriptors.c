/* The fake cuDNN's descriptors: which attributes may be set and when, the engines that are offered,
 * the plans that can be made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/fake/dnn.h"
#include "tests/cuda/fake/internal.h"

static struct descriptor *all;
static char why[128];

static cudnnStatus_t refuse(cudnnStatus_t s, const char *text)
{
    (void)snprintf(why, sizeof why, "%s", text);
    return s;
}

const char *cudnnGetErrorString(cudnnStatus_t s)
{
    switch (s) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    default: return "CUDNN_STATUS";
    }
}

void cudnnGetLastErrorString(char *message, size_t max_size)
{
    (void)snprintf(message, max_size, "%s", why);
    why[0] = 0;
}

static size_t version = 91300;

void fake_set_dnn_version(size_t v)
{
    version = v;
}

size_t cudnnGetVersion(void)
{
    return version;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *out)
{
    *out = calloc(1, sizeof **out);
    return *out ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_ALLOC_FAILED;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    dnn_forget_weights();
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

/* ---- attributes ---- */

static struct descriptor *live(const void *p)
{
    for (struct descriptor *d = all; d; d = d->next)
        if (d == p) return d;
    fake_die("%p is no descriptor of cuDNN that is there", p);
}

static size_t size_of(cudnnBackendAttributeType_t t)
{
    switch (t) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case CUDNN_TYPE_CHAR: return 1;
    default: return 4;
    }
}

const struct attribute *dnn_attribute(const struct descriptor *d, cudnnBackendAttributeName_t name)
{
    const struct attribute *a = d->first;
    while (a && a->name != name)
        a = a->next;
    return a;
}

const int64_t *dnn_numbers(const struct descriptor *d, cudnnBackendAttributeName_t name)
{
    const struct attribute *a = dnn_attribute(d, name);
    if (!a || a->type != CUDNN_TYPE_INT64) fake_die("cuDNN: attribute %d is not there", (int)name);
    return a->values;
}

int64_t dnn_number(const struct descriptor *d, cudnnBackendAttributeName_t name)
{
    const struct attribute *a = dnn_attribute(d, name);
    int32_t four;
    int64_t eight;
    if (!a || a->count != 1) fake_die("cuDNN: attribute %d is not one value", (int)name);
    if (size_of(a->type) == 1) return *(const bool *)a->values;
    if (size_of(a->type) == 4) {
        memcpy(&four, a->values, sizeof four);
        return four;
    }
    memcpy(&eight, a->values, sizeof eight);
    return eight;
}

struct descriptor *dnn_child(const struct descriptor *d, cudnnBackendAttributeName_t name,
                             int64_t i)
{
    const struct attribute *a = dnn_attribute(d, name);
    if (!a || a->type != CUDNN_TYPE_BACKEND_DESCRIPTOR || i >= a->count) return NULL;
    return live(((void *const *)a->values)[i]);
}

static void put(struct descriptor *d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    struct attribute *a = (struct attribute *)dnn_attribute(d, name);
    const size_t bytes = size_of(type) * (size_t)count;
    if (!a) {
        a = calloc(1, sizeof *a);
        if (!a) fake_die("no memory");
        a->next = d->first;
        d->first = a;
    }
    free(a->values);
    *a = (struct attribute){ name, type, count, malloc(bytes ? bytes : 1), a->next };
    if (!a->values) fake_die("no memory");
    memcpy(a->values, values, bytes);
}

static cudnnStatus_t create_descriptor(cudnnBackendDescriptorType_t type,
                                       cudnnBackendDescriptor_t *out)
{
    struct descriptor *d = calloc(1, sizeof *d);
    if (!d) return CUDNN_STATUS_ALLOC_FAILED;
    d->type = type;
    d->next = all;
    all = d;
    fake_now.descriptors++;
    *out = d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out)
{
    fake_enter();
    cudnnStatus_t s = create_descriptor(type, out);
    (void)fake_leave(cudaSuccess);
    return s;
}

static cudnnStatus_t destroy_descriptor(cudnnBackendDescriptor_t p)
{
    struct descriptor *d = live(p);
    if (d->users) fake_die("a plan of cuDNN is destroyed while %u runs of it are kept", d->users);
    for (struct descriptor **at = &all; *at; at = &(*at)->next)
        if (*at == d) {
            *at = d->next;
            break;
        }
    while (d->first) {
        struct attribute *a = d->first;
        d->first = a->next;
        free(a->values);
        free(a);
    }
    free(d);
    fake_now.descriptors--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t p)
{
    fake_enter();
    cudnnStatus_t s = destroy_descriptor(p);
    (void)fake_leave(cudaSuccess);
    return s;
}

static cudnnStatus_t set_attribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name,
                                   cudnnBackendAttributeType_t type, int64_t count,
                                   const void *values)
{
    struct descriptor *d = live(p);
    if (d->is_finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "set after it was finalized");
    for (int64_t i = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < count; i++)
        if (!live(((void *const *)values)[i])->is_finalized)
            return refuse(CUDNN_STATUS_BAD_PARAM, "refers to what is not finalized");
    put(d, name, type, count, values);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void *values)
{
    fake_enter();
    cudnnStatus_t s = set_attribute(p, name, type, count, values);
    (void)fake_leave(cudaSuccess);
    return s;
}

/* ---- what can be finalized ---- */

static bool has(const struct descriptor *d, cudnnBackendAttributeName_t name, int64_t count)
{
    const struct attribute *a = dnn_attribute(d, name);
    return a && a->count == count;
}

static int64_t element(const struct descriptor *tensor)
{
    return dnn_number(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_FLOAT ? 4 : 2;
}

static bool is_tensor(const struct descriptor *d)
{
    if (!has(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1) || !has(d, CUDNN_ATTR_TENSOR_DATA_TYPE, 1) ||
        !has(d, CUDNN_ATTR_TENSOR_DIMENSIONS, 4) || !has(d, CUDNN_ATTR_TENSOR_STRIDES, 4) ||
        !has(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1))
        return false;
    const int64_t align = dnn_number(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    return align > 0 && align % element(d) == 0;
}

/* cuDNN accepts other numbers of channels for a grouped convolution; david never uses one. */
static bool is_convolution(const struct descriptor *d)
{
    const struct descriptor *x = dnn_child(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0),
                            *w = dnn_child(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, 0),
                            *y = dnn_child(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, 0),
                            *c =
                                dnn_child(d, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, 0);
    if (!x || !w || !y || !c) return false;
    const int64_t *xd = dnn_numbers(x, CUDNN_ATTR_TENSOR_DIMENSIONS),
                  *wd = dnn_numbers(w, CUDNN_ATTR_TENSOR_DIMENSIONS),
                  *yd = dnn_numbers(y, CUDNN_ATTR_TENSOR_DIMENSIONS),
                  *pad = dnn_numbers(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
                  *stride = dnn_numbers(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    if (xd[1] != wd[1] || wd[0] != yd[1] || xd[0] != yd[0])
        fake_die("a convolution whose channels or rows do not fit");
    for (int i = 0; i < 2; i++)
        if ((xd[2 + i] + 2 * pad[i] - wd[2 + i]) / stride[i] + 1 != yd[2 + i])
            fake_die("a convolution whose sizes do not fit");
    return true;
}

static const struct descriptor *first_operation(const struct descriptor *graph)
{
    return dnn_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, 0);
}

static int64_t rows_of(const struct descriptor *graph)
{
    const struct descriptor *op = first_operation(graph);
    const struct descriptor *x = op->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR
                                     ? dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, 0)
                                     : dnn_child(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0);
    return dnn_numbers(x, CUDNN_ATTR_TENSOR_DIMENSIONS)[0];
}

static cudnnStatus_t finalize_plan(const struct descriptor *d)
{
    const struct descriptor *config = dnn_child(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0);
    if (!config || !dnn_child(d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, 0))
        return refuse(CUDNN_STATUS_BAD_PARAM, "a plan of nothing");
    const struct descriptor *engine = dnn_child(config, CUDNN_ATTR_ENGINECFG_ENGINE, 0);
    const int64_t index = dnn_number(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
    if (index == ENGINE_NOT_ALONE &&
        rows_of(dnn_child(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, 0)) == 1)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "this engine takes no batch of one");
    fake_now.dnn_plans++;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize(cudnnBackendDescriptor_t p)
{
    struct descriptor *d = live(p);
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;
    if (d->is_finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "finalized twice");
    if (d->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR && !is_tensor(d))
        s = refuse(CUDNN_STATUS_BAD_PARAM, "no tensor");
    if (d->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR && !is_convolution(d))
        s = refuse(CUDNN_STATUS_BAD_PARAM, "no convolution");
    if (d->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR && !first_operation(d))
        s = refuse(CUDNN_STATUS_BAD_PARAM, "a graph of nothing");
    if (d->type == CUDNN_BACKEND_ENGINE_DESCRIPTOR &&
        dnn_number(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX) >= ENGINE_COUNT)
        s = refuse(CUDNN_STATUS_NOT_SUPPORTED, "no such engine");
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) s = finalize_plan(d);
    d->is_finalized = s == CUDNN_STATUS_SUCCESS;
    return s;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t p)
{
    fake_enter();
    cudnnStatus_t s = finalize(p);
    (void)fake_leave(cudaSuccess);
    return s;
}

/* ---- engines ---- */

uint64_t dnn_cost_ns(int64_t engine)
{
    static const uint64_t cost[ENGINE_COUNT] = {
        [ENGINE_PLAIN] = 100000, [ENGINE_NONDETERMINISTIC] = 10000,
        [ENGINE_SPLIT] = 20000,  [ENGINE_NOT_ALONE] = 60000,
        [ENGINE_FAST] = 80000,   [ENGINE_GREEDY] = 30000,
        [ENGINE_TF32] = 40000,   [ENGINE_COMPILED] = 120000
    };
    return cost[engine];
}

static bool is_loose(const struct descriptor *tensor)
{
    const int64_t *dims = dnn_numbers(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS),
                  *strides = dnn_numbers(tensor, CUDNN_ATTR_TENSOR_STRIDES);
    return dims[1] > 1 && strides[3] != dims[1];
}

/* The engines offered for a graph, in the heuristics' order. As in cuDNN, only engines that are
 * compiled at run time support a bias of another type than the image's, or a residual with gaps. */
static int candidates_of(const struct descriptor *graph, int64_t out[ENGINE_COUNT])
{
    const struct descriptor *op = first_operation(graph);
    const struct attribute *ops = dnn_attribute(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
    int n = 0;
    if (op->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) {
        const struct descriptor *q = dnn_child(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, 0);
        out[n++] = element(q) == 4 ? ENGINE_TF32 : ENGINE_COMPILED;
        return n;
    }
    const struct descriptor *x = dnn_child(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0);
    const struct descriptor *last = dnn_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, ops->count - 1);
    const struct descriptor *bias = dnn_child(last, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, 0);
    bool gaps = false;
    if (ops->count == 3) {
        const struct descriptor *add = dnn_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, 1);
        gaps = is_loose(dnn_child(add, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, 0));
    }
    if (element(bias) != element(x)) {
        out[n++] = ENGINE_COMPILED;
        return n;
    }
    if (gaps && element(x) == 2) return 0;
    out[n++] = ENGINE_NONDETERMINISTIC;
    out[n++] = ENGINE_SPLIT;
    out[n++] = ENGINE_GREEDY;
    out[n++] = ENGINE_PLAIN;
    if (element(x) == 4) out[n++] = ENGINE_TF32;
    out[n++] = ENGINE_NOT_ALONE;
    out[n++] = ENGINE_FAST;
    return n;
}

static cudnnStatus_t get_results(const struct descriptor *heuristics, int64_t max, int64_t *count,
                                 void *const *configs)
{
    const struct descriptor *graph =
        dnn_child(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, 0);
    int64_t engines[ENGINE_COUNT];
    int64_t n = dnn_number(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_A
                    ? candidates_of(graph, engines)
                    : 0;
    *count = n;
    for (int64_t i = 0; i < n && i < max; i++)
        put(live(configs[i]), CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &engines[i]);
    return CUDNN_STATUS_SUCCESS;
}

static int64_t knobs_of(int64_t engine, void *const *knobs)
{
    const cudnnBackendKnobType_t type =
        engine == ENGINE_SPLIT ? CUDNN_KNOB_TYPE_SPLIT_K : CUDNN_KNOB_TYPE_TILE_SIZE;
    const int64_t value = engine == ENGINE_SPLIT ? 4 : engine;
    put(live(knobs[0]), CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    put(live(knobs[0]), CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
    return 1;
}

static int64_t workspace_of(const struct descriptor *plan)
{
    const struct descriptor *config = dnn_child(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0);
    const struct descriptor *engine = dnn_child(config, CUDNN_ATTR_ENGINECFG_ENGINE, 0);
    return dnn_number(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX) == ENGINE_GREEDY ? (int64_t)1 << 50
                                                                               : 4096;
}

static cudnnStatus_t get_attribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name,
                                   cudnnBackendAttributeType_t type, int64_t max, int64_t *count,
                                   void *out)
{
    struct descriptor *d = live(p);
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) return get_results(d, max, count, out);
    if (name == CUDNN_ATTR_ENGINECFG_ENGINE || name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) {
        const int64_t engine = dnn_number(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
        *count = 1;
        if (name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES)
            *count = knobs_of(engine, out);
        else
            put(live(*(void **)out), CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &engine);
        return CUDNN_STATUS_SUCCESS;
    }
    if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE || name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE) {
        const int64_t engine = dnn_number(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
        *count = 0;
        if (name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE && engine == ENGINE_COMPILED) {
            *(cudnnBackendBehaviorNote_t *)out = CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
            *count = 1;
        }
        if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE &&
            (engine == ENGINE_NONDETERMINISTIC || engine == ENGINE_TF32)) {
            *(cudnnBackendNumericalNote_t *)out = engine == ENGINE_TF32
                                                      ? CUDNN_NUMERICAL_NOTE_TENSOR_CORE
                                                      : CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
            *count = 1;
        }
        return CUDNN_STATUS_SUCCESS;
    }
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        *(int64_t *)out = workspace_of(d);
        *count = 1;
        return CUDNN_STATUS_SUCCESS;
    }
    const struct attribute *a = dnn_attribute(d, name);
    if (!a || a->type != type) return refuse(CUDNN_STATUS_BAD_PARAM, "no such attribute");
    *count = a->count;
    memcpy(out, a->values, size_of(type) * (size_t)(a->count < max ? a->count : max));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t max,
                                       int64_t *count, void *out)
{
    fake_enter();
    cudnnStatus_t s = get_attribute(p, name, type, max, count, out);
    (void)fake_leave(cudaSuccess);
    return s;
}

static cudnnStatus_t execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                             cudnnBackendDescriptor_t pack)
{
    struct descriptor *d = live(plan);
    if (!d->is_finalized || !live(pack)->is_finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "run before it was finalized");
    if (fake.fail_dnn && --fake.fail_dnn == 0)
        return refuse(CUDNN_STATUS_EXECUTION_FAILED, "as was asked");
    return dnn_execute(handle, d, live(pack));
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack)
{
    fake_enter();
    cudnnStatus_t s = execute(handle, plan, pack);
    (void)fake_leave(cudaSuccess);
    return s;
}
