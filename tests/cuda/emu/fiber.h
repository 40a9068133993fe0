/* fiber.h - stacks with explicit switches: one for each thread of a CUDA block.
 *
 * fiber_to leaves the running stack and continues another; each keeps its callee-saved registers
 * (x86-64: twelve instructions; elsewhere ucontext). AddressSanitizer is informed of every switch.
 * A stack has a guard page below it, so that an overflow is a fault. A fiber belongs to the thread
 * that made it, and its function never returns. */
#ifndef DAVID_EMU_FIBER_H
#define DAVID_EMU_FIBER_H

#include <stddef.h>

namespace emu
{

struct fiber {
    void *sp;           /* where it continues; x86-64 */
    void *context;      /* ucontext_t; elsewhere */
    void *memory;       /* NULL: the stack of the operating system's thread */
    size_t bytes;       /* of memory, guard page included */
    void *fake_stack;   /* AddressSanitizer's */
    const void *bottom; /* of the stack, for AddressSanitizer */
    size_t stack_bytes;
    void (*run)(void *);
    void *argument;
};

enum { FIBER_STACK = 256 * 1024 };

/* `run` must not return. Aborts where there is no memory. */
void fiber_make(fiber *f, void (*run)(void *), void *argument);
void fiber_free(fiber *f);
/* Makes a fiber of the caller's own stack, so that a switch can return to it. */
void fiber_here(fiber *f);
void fiber_to(fiber *from, fiber *to);

} // namespace emu

#endif
