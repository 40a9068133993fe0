/* The process_group of a training run under Open MPI's mpirun. Process 0 computes a sum and
 * broadcasts it, so that all processes have the same bits and their weights stay equal. */
#include <mpi.h>
#include <stdlib.h>

#include "engine/graph/build_id.h"
#include "engine/graph/process_group.h"

enum { AT_ONCE = 1 << 24 }; /* values of one MPI call, whose counts are ints */

/* MPI ends all processes when a call fails, with its own message. */
static void sum_all(char *values, size_t count, size_t size, MPI_Datatype type)
{
    int me = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    for (size_t i = 0; i < count; i += AT_ONCE) {
        int n = (int)(count - i < AT_ONCE ? count - i : AT_ONCE);
        void *at = values + i * size;
        MPI_Reduce(me == 0 ? MPI_IN_PLACE : at, at, n, type, MPI_SUM, 0, MPI_COMM_WORLD);
        MPI_Bcast(at, n, type, 0, MPI_COMM_WORLD);
    }
}

static void sum(void *ctx, double *values, size_t count)
{
    (void)ctx;
    sum_all((char *)values, count, sizeof *values, MPI_DOUBLE);
}

static void sum_floats(void *ctx, float *values, size_t count)
{
    (void)ctx;
    sum_all((char *)values, count, sizeof *values, MPI_FLOAT);
}

static enum status join(struct process_group *out, uint32_t *process, struct error *err)
{
    int given = 0, size = 0, me = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given) || given < MPI_THREAD_FUNNELED)
        return error_set(err, ST_UNSUPPORTED,
                         "this MPI takes no calls from a process with threads");
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    *out =
        (struct process_group){ .sum = sum, .sum_floats = sum_floats, .processes = (uint32_t)size };
    *process = (uint32_t)me;
    return ST_OK;
}

static void leave(void)
{
    MPI_Finalize();
}

static void abandon(void)
{
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
}

extern const struct process_group_plugin david_process_group;
const __attribute__((visibility("default"))) struct process_group_plugin david_process_group = {
    .build_id = DAVID_BUILD_ID,
    .join = join,
    .leave = leave,
    .abandon = abandon,
};
