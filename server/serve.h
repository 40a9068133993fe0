/* serve.h - the daemon from start to end. */
#ifndef DAVID_SERVER_SERVE_H
#define DAVID_SERVER_SERVE_H

#include "server/config.h"

/* Serves until SIGTERM or SIGINT, then drains. Returns the exit code: 0; 1 (failed, or work was
 * left at drain_timeout); 2 (a setting that this machine cannot honour). Called once, from the
 * main thread, before any other thread exists. */
int serve_run(const struct config *config);

#endif
