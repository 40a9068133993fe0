/* progress.h - progress of a long command: one line on stderr where it is a terminal, else
 * nothing. */
#ifndef DAVID_CLI_PROGRESS_H
#define DAVID_CLI_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *what; /* "rows"; NULL: stderr is not a terminal */
    uint64_t total;
};

void progress_begin(struct progress *p, const char *what, uint64_t total);
void progress_show(const struct progress *p, uint64_t done);
void progress_end(const struct progress *p); /* erases the line */

#endif
