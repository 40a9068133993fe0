/* batches.h - the option --batch of the programs here: batch sizes with commas. */
#ifndef DAVID_TESTS_GPU_BATCHES_H
#define DAVID_TESTS_GPU_BATCHES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* out: [most]; n: the number of sizes. False where one is not in 1..largest or there are too
 * many. */
static inline bool parse_batches(const char *text, uint32_t *out, uint32_t most, uint32_t largest,
                                 uint32_t *n)
{
    for (*n = 0; *text; text += *text == ',') {
        char *end;
        unsigned long v = strtoul(text, &end, 10);
        if (end == text || v < 1 || v > largest || *n == most || (*end && *end != ','))
            return false;
        out[(*n)++] = (uint32_t)v;
        text = end;
    }
    return *n > 0;
}

#endif
