/* thread_pool.h - how long the engine's waiting threads look before they sleep. */
#ifndef DAVID_CLI_THREAD_POOL_H
#define DAVID_CLI_THREAD_POOL_H

/* Starts the program once more, with GOMP_SPINCOUNT set, where nobody has said how its threads wait; returns in that second life,
 * and where the start fails. To be called before anything is read or opened. argv: as main got it. */
void restart_with_thread_pool_settings(char **argv);

#endif
