/* progress.h - how far a long command is: one line on a terminal's stderr, nothing anywhere else. */
#ifndef DAVID_CLI_PROGRESS_H
#define DAVID_CLI_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *what; /* "rows"; NULL: stderr is no terminal */
    uint64_t total;
};

void progress_begin(struct progress *p, const char *what, uint64_t total);
void progress_show(const struct progress *p, uint64_t done);
void progress_end(const struct progress *p); /* wipes the line */

#endif
