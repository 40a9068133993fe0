/* service.h - what the endpoints work with: the state, the engines and the parts that a
 * restoration passes through.
 *
 * There is one, in serve.c, which fills it before it starts HTTP; it is the context of every
 * route. Each part has its own rules for threads. */
#ifndef DAVID_SERVER_SERVICE_H
#define DAVID_SERVER_SERVICE_H

#include "server/models.h"
#include "server/server.h"

struct codec_pool;
struct queue;

struct service {
    struct server server;
    struct engine *
        engines[ENGINES_MAX]; /* [n_engines], one a device; engines[0] stands for all in /version */
    size_t n_engines;
    struct models *models;
    struct queue *queue;
    struct codec_pool *codecs;
};

#endif
