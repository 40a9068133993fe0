/* The emulated kernels on the fake device: their launches are stored like any other work. */
#include "tests/cuda/emu/emu.h"
#include "tests/cuda/fake/fake.h"

static void run(void *job)
{
    emu_run(job);
    fake_spend(1000);
}

static void drop(void *job)
{
    emu_drop(job);
}

static int keep(void *stream, struct emu_job *job)
{
    return fake_enqueue(stream, run, drop, job);
}

__attribute__((constructor)) static void take_launches(void)
{
    emu_set_launch_hook(keep);
}
