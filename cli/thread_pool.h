/* thread_pool.h - how long the engine's waiting threads poll before they sleep. */
#ifndef DAVID_CLI_THREAD_POOL_H
#define DAVID_CLI_THREAD_POOL_H

/* Starts the program again with GOMP_SPINCOUNT set, where the environment does not say how its
 * threads wait. Returns in the restarted program, and where the start fails. Must be called before
 * anything is read or opened. argv: that of main. */
void restart_with_thread_pool_settings(char **argv);

#endif
