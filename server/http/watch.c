#include "server/http/watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"

enum { LINGERERS = 64, EVENTS = 64, TICK_MS = 20 };
#define LINGER_NS (2 * NS_PER_S)

struct watched {
    int fd;
    uint32_t turn; /* of the ticket that holds the place; a stale event has an older one */
    void *who;     /* NULL: free */
};

struct watch {
    struct watch_hooks hooks;
    pthread_mutex_t lock; /* guards places, free list and lingering sockets */
    int epoll;
    size_t max, n_free;
    struct watched *watched; /* [max] */
    uint32_t *free;          /* [max] */
    struct {
        int fd;
        uint64_t until_ns;
    } linger[LINGERERS];
    pthread_t thread;
    bool has_thread;
    atomic_bool is_closed;
};

static uint64_t ticket_of(uint32_t turn, uint32_t place)
{
    return (uint64_t)turn << 32 | (place + 1);
}

/* Frees the place of a ticket; NULL where the ticket is an old one. The lock is held. */
static void *leave(struct watch *w, uint64_t ticket)
{
    uint32_t i = (uint32_t)ticket - 1;
    if (i >= w->max || w->watched[i].turn != ticket >> 32 || !w->watched[i].who) return NULL;
    void *who = w->watched[i].who;
    w->watched[i].who = NULL;
    w->watched[i].turn++;
    w->free[w->n_free++] = i;
    (void)epoll_ctl(w->epoll, EPOLL_CTL_DEL, w->watched[i].fd, NULL);
    return who;
}

uint64_t watch_add(struct watch *w, int fd, void *who)
{
    uint64_t ticket = 0;
    (void)pthread_mutex_lock(&w->lock);
    if (w->n_free > 0) {
        uint32_t i = w->free[w->n_free - 1];
        struct epoll_event e = { .events = EPOLLRDHUP | EPOLLET };
        e.data.u64 = ticket_of(w->watched[i].turn, i);
        if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) == 0) {
            w->n_free--;
            w->watched[i].fd = fd;
            w->watched[i].who = who;
            ticket = e.data.u64;
        }
    }
    (void)pthread_mutex_unlock(&w->lock);
    return ticket;
}

void watch_remove(struct watch *w, uint64_t ticket)
{
    if (ticket == 0) return;
    (void)pthread_mutex_lock(&w->lock);
    (void)leave(w, ticket);
    (void)pthread_mutex_unlock(&w->lock);
}

void watch_linger(struct watch *w, int fd, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&w->lock);
    for (size_t i = 0; fd >= 0 && i < LINGERERS; i++)
        if (w->linger[i].fd < 0) {
            w->linger[i].fd = fd;
            w->linger[i].until_ns = now_ns + LINGER_NS;
            fd = -1;
        }
    (void)pthread_mutex_unlock(&w->lock);
    if (fd >= 0) (void)close(fd);
}

/* Reads and discards what lingering clients still send; closes the sockets that are at their end
 * or late. */
static void discard_input(struct watch *w, uint64_t now_ns)
{
    static char sink[65536]; /* this thread's only */
    (void)pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < LINGERERS; i++) {
        int fd = w->linger[i].fd;
        if (fd < 0) continue;
        ssize_t n = 1;
        for (int k = 0; k < 64 && n > 0; k++)
            n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
        if (n != 0 && now_ns < w->linger[i].until_ns) continue;
        (void)close(fd);
        w->linger[i].fd = -1;
    }
    (void)pthread_mutex_unlock(&w->lock);
}

static void *work(void *cls)
{
    struct watch *w = cls;
    struct epoll_event events[EVENTS];
    while (!atomic_load(&w->is_closed)) {
        int n = epoll_wait(w->epoll, events, EVENTS, TICK_MS);
        for (int i = 0; i < n; i++) {
            (void)pthread_mutex_lock(&w->lock);
            void *who = leave(w, events[i].data.u64);
            if (who) w->hooks.disconnected(who);
            (void)pthread_mutex_unlock(&w->lock);
            if (who) w->hooks.cancel(who);
        }
        uint64_t now = clock_now_ns();
        discard_input(w, now);
        w->hooks.tick(w->hooks.cls, now);
    }
    return NULL;
}

enum status watch_new(struct watch **out, size_t max, const struct watch_hooks *h,
                      struct error *err)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the watch");
    w->hooks = *h;
    w->max = max;
    w->watched = calloc(max, sizeof *w->watched);
    w->free = calloc(max, sizeof *w->free);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    (void)pthread_mutex_init(&w->lock, NULL);
    for (size_t i = 0; i < LINGERERS; i++)
        w->linger[i].fd = -1;
    for (size_t i = 0; w->watched && w->free && i < max; i++)
        w->free[w->n_free++] = (uint32_t)i;
    w->has_thread =
        w->n_free == max && w->epoll >= 0 && pthread_create(&w->thread, NULL, work, w) == 0;
    if (!w->has_thread) {
        watch_free(w);
        return error_set(err, ST_INTERNAL, "cannot start the watch");
    }
    *out = w;
    return ST_OK;
}

void watch_free(struct watch *w)
{
    if (!w) return;
    atomic_store(&w->is_closed, true);
    if (w->has_thread) (void)pthread_join(w->thread, NULL);
    for (size_t i = 0; i < LINGERERS; i++)
        if (w->linger[i].fd >= 0) (void)close(w->linger[i].fd);
    if (w->epoll >= 0) (void)close(w->epoll);
    (void)pthread_mutex_destroy(&w->lock);
    free(w->watched);
    free(w->free);
    free(w);
}
