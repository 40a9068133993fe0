#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

void progress_begin(struct progress *p, const char *what, uint64_t total)
{
    *p = (struct progress){ isatty(STDERR_FILENO) ? what : NULL, total };
}

void progress_show(const struct progress *p, uint64_t done)
{
    if (p->what) fprintf(stderr, "\r\033[K%" PRIu64 " of %" PRIu64 " %s", done, p->total, p->what);
}

void progress_end(const struct progress *p)
{
    if (p->what) fputs("\r\033[K", stderr);
}
