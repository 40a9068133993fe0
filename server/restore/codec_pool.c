#include "server/restore/codec_pool.h"

#include <pthread.h>
#include <stdlib.h>

struct list {
    struct codec_task *first, *last;
};

struct codec_pool {
    pthread_mutex_t lock; /* guards the lists and is_closed */
    pthread_cond_t filled;
    struct list urgent, others;
    bool is_closed;
    size_t n;
    pthread_t threads[];
};

static struct codec_task *take(struct list *l)
{
    struct codec_task *t = l->first;
    if (t) l->first = t->next;
    return t;
}

static void *work(void *cls)
{
    struct codec_pool *p = cls;
    (void)pthread_mutex_lock(&p->lock);
    for (;;) {
        struct codec_task *t = take(&p->urgent);
        if (!t) t = take(&p->others);
        if (t) {
            (void)pthread_mutex_unlock(&p->lock);
            t->run(t);
            (void)pthread_mutex_lock(&p->lock);
        } else if (p->is_closed) {
            break;
        } else {
            (void)pthread_cond_wait(&p->filled, &p->lock);
        }
    }
    (void)pthread_mutex_unlock(&p->lock);
    return NULL;
}

enum status codec_pool_new(struct codec_pool **out, size_t workers, struct error *err)
{
    struct codec_pool *p = calloc(1, sizeof *p + workers * sizeof(pthread_t));
    if (!p) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the codec workers");
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->filled, NULL);
    for (; p->n < workers; p->n++)
        if (pthread_create(&p->threads[p->n], NULL, work, p)) break;
    if (p->n < workers) {
        codec_pool_free(p);
        return error_set(err, ST_INTERNAL, "cannot start codec_threads = %zu threads", workers);
    }
    *out = p;
    return ST_OK;
}

void codec_pool_free(struct codec_pool *p)
{
    if (!p) return;
    (void)pthread_mutex_lock(&p->lock);
    p->is_closed = true;
    (void)pthread_cond_broadcast(&p->filled);
    (void)pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->n; i++)
        (void)pthread_join(p->threads[i], NULL);
    (void)pthread_cond_destroy(&p->filled);
    (void)pthread_mutex_destroy(&p->lock);
    free(p);
}

void codec_pool_push(struct codec_pool *p, struct codec_task *t, bool is_urgent)
{
    (void)pthread_mutex_lock(&p->lock);
    struct list *l = is_urgent ? &p->urgent : &p->others;
    t->next = NULL;
    if (l->first)
        l->last->next = t;
    else
        l->first = t;
    l->last = t;
    (void)pthread_cond_signal(&p->filled);
    (void)pthread_mutex_unlock(&p->lock);
}
