#include "server/http/listener.h"

#include <errno.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/messages/config_text.h"

enum { BACKLOG = 1024 };

/* -1 and errno where this address cannot be bound. */
static int bind_to(const struct addrinfo *a)
{
    int one = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int why = errno;
    (void)close(fd);
    errno = why;
    return -1;
}

static void describe(char *address, size_t cap, int fd)
{
    struct sockaddr_storage at = { .ss_family = AF_UNSPEC };
    socklen_t len = sizeof at;
    char number[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    if (getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        (void)getnameinfo((struct sockaddr *)&at, len, number, sizeof number, port, sizeof port,
                          NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(address, cap, at.ss_family == AF_INET6 ? "[%.200s]:%.20s" : "%.200s:%.20s",
                   number, port);
}

enum status listener_open(int *out, char *address, size_t cap, const char *listen_at,
                          struct error *err)
{
    char host[256];
    struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    (void)snprintf(host, sizeof host, "%s", listen_at);
    char *colon = strrchr(host, ':'), *name = host;
    uint64_t port;
    /* getaddrinfo would take 65536 for 0 and a missing port for any. */
    if (!colon || config_count(&port, colon + 1, NULL) || port > UINT16_MAX)
        return error_set(err, ST_BAD_PARAMETER,
                         "listen = %.80s is not ADDRESS:PORT, the port a number up to 65535",
                         listen_at);
    *colon = '\0';
    if (name[0] == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        name++;
    }
    int failed = getaddrinfo(name[0] ? name : NULL, colon + 1, &hints, &list);
    if (failed)
        return error_set(err, ST_BAD_PARAMETER, "listen = %.80s: %s", listen_at,
                         gai_strerror(failed));
    int fd = -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = bind_to(a); /* a name can resolve to addresses that this machine lacks */
    int why = errno;
    freeaddrinfo(list);
    if (fd < 0) return error_set(err, ST_IO, "listen = %.80s: %s", listen_at, strerror(why));
    describe(address, cap, fd);
    *out = fd;
    return ST_OK;
}
