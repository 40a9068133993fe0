/* Switches stacks. On x86-64 in assembly, since ucontext makes a system call for the signal mask at
 * every switch, which would be most of the emulation's time. EMU_UCONTEXT selects ucontext there
 * too (tests run both). */
#include "tests/cuda/emu/fiber.h"

#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined __x86_64__ || defined EMU_UCONTEXT
#define USE_UCONTEXT 1
#include <ucontext.h>
#else
#define USE_UCONTEXT 0
#endif

#if defined __SANITIZE_ADDRESS__
#define HAS_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifndef HAS_ASAN
#define HAS_ASAN 0
#endif
#if HAS_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu
{

static fiber *just_left; /* set by each switch, read by the fiber that it starts */

static void arrive(fiber *here)
{
#if HAS_ASAN
    const void *bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(here->fake_stack, &bottom, &bytes);
    /* the stack of the thread itself: its bounds are known from now on */
    if (just_left && !just_left->bottom) {
        just_left->bottom = bottom;
        just_left->stack_bytes = bytes;
    }
#endif
    (void)here;
}

static void depart(fiber *from, fiber *to)
{
    just_left = from;
#if HAS_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->stack_bytes);
#endif
    (void)to;
}

#if USE_UCONTEXT

static void begin(unsigned high, unsigned low)
{
    fiber *f = (fiber *)((size_t)high << 32 | low);
    arrive(f);
    f->run(f->argument);
    abort();
}

static void prepare(fiber *f)
{
    ucontext_t *c = (ucontext_t *)calloc(1, sizeof *c);
    if (!c || getcontext(c)) abort();
    c->uc_stack.ss_sp = (void *)f->bottom;
    c->uc_stack.ss_size = f->stack_bytes;
    makecontext(c, (void (*)())begin, 2, (unsigned)((size_t)f >> 32), (unsigned)(size_t)f);
    f->context = c;
}

static void jump(fiber *from, fiber *to)
{
    if (!from->context && !(from->context = calloc(1, sizeof(ucontext_t)))) abort();
    if (swapcontext((ucontext_t *)from->context, (ucontext_t *)to->context)) abort();
}

#else

extern "C" void emu_fiber_switch(void **save, void *load);
__asm__(".text\n"
        ".globl emu_fiber_switch\n"
        ".hidden emu_fiber_switch\n"
        ".type emu_fiber_switch, @function\n"
        "emu_fiber_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq "
        "%r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size emu_fiber_switch, .-emu_fiber_switch\n");

static fiber *beginning; /* the fiber that is started for the first time */

static void begin()
{
    fiber *f = beginning;
    arrive(f);
    f->run(f->argument);
    abort();
}

/* A stack as emu_fiber_switch leaves it: six registers, then the return address; there the stack
 * pointer is 8 bytes off a multiple of 16, as after a call. */
static void prepare(fiber *f)
{
    void **top = (void **)((char *)f->bottom + f->stack_bytes);
    *--top = nullptr;
    *--top = (void *)begin;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    f->sp = top;
}

static void jump(fiber *from, fiber *to)
{
    beginning = to;
    emu_fiber_switch(&from->sp, to->sp);
}

#endif

void fiber_make(fiber *f, void (*run)(void *), void *argument)
{
    const size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    *f = fiber{};
    f->bytes = FIBER_STACK + guard;
    f->memory = mmap(nullptr, f->bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->memory == MAP_FAILED || mprotect(f->memory, guard, PROT_NONE)) {
        perror("emulated thread's stack");
        abort();
    }
    f->bottom = (char *)f->memory + guard;
    f->stack_bytes = FIBER_STACK;
    f->run = run;
    f->argument = argument;
    prepare(f);
}

void fiber_free(fiber *f)
{
#if HAS_ASAN
    if (f->memory) __asan_unpoison_memory_region(f->bottom, f->stack_bytes);
#endif
    if (f->memory) munmap(f->memory, f->bytes);
    free(f->context);
    *f = fiber{};
}

void fiber_here(fiber *f)
{
    *f = fiber{};
}

void fiber_to(fiber *from, fiber *to)
{
    depart(from, to);
    jump(from, to);
    arrive(from);
}

} // namespace emu
