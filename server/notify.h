/* notify.h - tells the service manager over $NOTIFY_SOCKET: "READY=1", "STOPPING=1". Without one, nothing happens. */
#ifndef DAVID_SERVER_NOTIFY_H
#define DAVID_SERVER_NOTIFY_H

void notify_manager(const char *state);

#endif
