/* messages.h - the JSON bodies of the service's replies.
 *
 * Every function returns malloc'd text that the caller frees, or NULL where memory is out. Texts
 * from outside may hold any bytes: a byte that is not UTF-8 becomes U+FFFD, so that a reply is
 * always valid JSON. Numbers that are not finite become null. Reentrant. */
#ifndef DAVID_PROTO_MESSAGES_MESSAGES_H
#define DAVID_PROTO_MESSAGES_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/models/model_info.h"

/* application/problem+json: {type, title, status, detail, request_id}. */
char *message_problem(size_t *len, enum status s, const char *detail, const char *request_id);

struct message_image {
    const void *bytes; /* an encoded file; NULL becomes null */
    size_t len;
};

/* The reply of /restore with output=all; images are base64. */
struct message_restored {
    const char *request_id, *model, *task;
    uint64_t seed;
    double h, sigma, level; /* level 0 (the task has none) becomes null */
    double std_scale, residual_rms, residual_expected;
    uint32_t width, height;
    const struct message_image *images; /* [n_images] */
    size_t n_images;
    struct message_image mean, std;
};
char *message_restored(size_t *len, const struct message_restored *m);

struct message_version {
    const char *version, *backend, *dtype, *isa, *reason;
    int threads;
};
char *message_version(size_t *len, const struct message_version *v);

struct message_model {
    const char *name, *version, *digest;
    const struct model_info *info;
    bool is_default;
};
char *message_models(size_t *len, const struct message_model *models, size_t n);

/* {"status": "ok" | reason}. */
char *message_health(size_t *len, const char *status);

#endif
