/* notify.h - sends a state to the service manager over $NOTIFY_SOCKET: "READY=1", "STOPPING=1".
 * Without the variable it does nothing. */
#ifndef DAVID_SERVER_NOTIFY_H
#define DAVID_SERVER_NOTIFY_H

void notify_manager(const char *state);

#endif
