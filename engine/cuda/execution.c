/* Batch executions: their sizes, their values, and their recordings as CUDA graphs. */
#include <stdlib.h>

#include "engine/cuda/internal.h"

uint32_t cuda_batch_rows(struct backend *b, uint32_t rows)
{
    const struct cuda_backend *c = cuda_of(b);
    const struct dnn_sizes sizes = dnn_sizes_of(c->max_rows, c->one_size);
    for (uint32_t i = 0; i < sizes.count; i++)
        if (sizes.n[i] >= rows) return sizes.n[i];
    return c->max_rows;
}

static char *values_at(const struct cuda_backend *c, int which)
{
    return (char *)c->values + (size_t)which * MAX_BATCH_ROWS * 4;
}

/* The host addresses of the arrays; NULL: the batch execution does not have the array. */
static void arrays_of(const struct execution *p, const void *all[VALUE_ARRAYS])
{
    all[VALUE_CONDITIONS] = p->condition;
    all[VALUE_LABELS] = p->label;
    for (int i = 0; i < SCALARS; i++)
        all[VALUE_SCALARS + i] = p->scalar[i];
}

enum status cuda_values(struct cuda_backend *c, const void *host, uint32_t n, const void **device,
                        struct error *err)
{
    *device = NULL;
    if (!host) return ST_OK;
    if (c->recording != PASS_NONE) {
        const void *all[VALUE_ARRAYS];
        arrays_of(&c->execution, all);
        for (int i = 0; i < VALUE_ARRAYS; i++)
            if (host == all[i]) *device = values_at(c, i);
        if (*device) return ST_OK;
        if (c->recording == PASS_RECORDED)
            return error_set(err, ST_INTERNAL, "values that are not the batch execution's own");
    }
    return gpu_send_values(&c->gpu, host, (size_t)n * 4, NULL, device, err);
}

static enum status send_values(struct cuda_backend *c, const struct execution *p, struct error *err)
{
    const void *all[VALUE_ARRAYS];
    arrays_of(p, all);
    enum status s = ST_OK;
    for (int i = 0; !s && i < VALUE_ARRAYS; i++)
        if (all[i])
            s = gpu_send_values(&c->gpu, all[i], (size_t)p->rows * 4, values_at(c, i), NULL, err);
    return s;
}

static enum status record_of(struct cuda_backend *c, const struct execution *p, struct error *err)
{
    struct record *r = c->records;
    while (r && !(r->key == p->key && r->rows == p->rows))
        r = r->next;
    c->record = r;
    if (r) return ST_OK;
    r = calloc(1, sizeof *r);
    if (!r) return error_set(err, ST_NO_MEMORY_NOW, "no memory to record a batch execution");
    r->key = p->key;
    r->rows = p->rows;
    r->next = c->records;
    c->record = c->records = r;
    return ST_OK;
}

enum status cuda_execution_begin(struct backend *b, const struct execution *p, bool *is_replayed,
                                 struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    enum status s = gpu_enter(&c->gpu, err);
    if (!s) s = cuda_expect(p->rows <= MAX_BATCH_ROWS, "a batch execution of too many rows", err);
    timer_rest(c->timer); /* everything lazy is loaded by now */
    if (!s) s = send_values(c, p, err);
    if (!s) s = record_of(c, p, err);
    if (s) return s;
    *is_replayed = c->record->exec != NULL;
    if (*is_replayed)
        return gpu_check(&c->gpu, (int)cudaGraphLaunch(c->record->exec, c->gpu.stream),
                         "replaying a batch execution", err);
    c->execution = *p;
    c->recording = PASS_RUNNING;
    if (!c->record->has_run) return ST_OK;
    s = gpu_check(&c->gpu,
                  (int)cudaStreamBeginCapture(c->gpu.stream, cudaStreamCaptureModeThreadLocal),
                  "recording a batch execution", err);
    c->recording = s ? PASS_NONE : PASS_RECORDED;
    return s;
}

/* Ends a recording. What was recorded has not been run yet. */
static enum status finish_recording(struct cuda_backend *c, bool is_whole, struct error *err)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    const cudaError_t e = cudaStreamEndCapture(c->gpu.stream, &graph);
    enum status s = ST_OK;
    if (is_whole) {
        s = gpu_check(&c->gpu, (int)e, "recording a batch execution", err);
        if (!s)
            s = gpu_check(&c->gpu, (int)cudaGraphInstantiate(&exec, graph, 0),
                          "preparing a batch execution", err);
        if (!s)
            s = gpu_check(&c->gpu, (int)cudaGraphLaunch(exec, c->gpu.stream),
                          "replaying a batch execution", err);
        if (!s) c->record->exec = exec;
        if (s && exec) (void)cudaGraphExecDestroy(exec);
    } else {
        (void)cudaGetLastError(); /* an abandoned recording reports its error once */
    }
    if (graph) (void)cudaGraphDestroy(graph);
    return s;
}

enum status cuda_execution_end(struct backend *b, bool is_whole, struct error *err)
{
    struct cuda_backend *c = cuda_of(b);
    const enum recording was = c->recording;
    c->recording = PASS_NONE;
    if (was == PASS_RECORDED) return finish_recording(c, is_whole, err);
    if (is_whole) c->record->has_run = true;
    return ST_OK;
}

void cuda_execution_forget(struct backend *b, const void *key)
{
    struct cuda_backend *c = cuda_of(b);
    for (struct record **at = &c->records; *at;) {
        struct record *r = *at;
        if (r->key != key) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        if (r->exec) {
            (void)cudaStreamSynchronize(c->gpu.stream); /* it may still be running */
            (void)cudaGraphExecDestroy(r->exec);
        }
        free(r);
    }
}
