/* parameters.h - the parameters of /restore: of the query and of a form, checked one
 * by one and together.
 *
 * A plain value. Unknown names, repeated names and bad values are ST_BAD_PARAMETER (or
 * ST_UNKNOWN_TASK, ST_UNKNOWN_MODEL, ST_TOO_MANY_SAMPLES); the detail names what is allowed. A
 * value of the client is in single quotes, or as "name = value". */
#ifndef DAVID_SERVER_RESTORE_PARAMETERS_H
#define DAVID_SERVER_RESTORE_PARAMETERS_H

#include <stdbool.h>

#include "engine/engine.h"
#include "proto/images/codec.h"

struct parameters {
    unsigned given; /* a bit for each row of the table of names */
    char task[TASK_NAME_MAX], model[65];
    uint64_t seed, deadline_ms; /* deadline_ms 0: none given */
    double h;                   /* < 0: the task's own */
    double sigma, level;        /* 0: none given */
    uint32_t samples;           /* 0: none given */
    enum output_kind output;
    bool has_task, has_model, has_seed, has_output;
};

void parameters_init(struct parameters *p);
enum status parameters_set(struct parameters *p, const char *name, size_t name_len,
                           const char *value, size_t value_len, struct error *err);
enum status parameters_read_query(struct parameters *p, const char *query, struct error *err);
/* Checks them together and fills in what was not given; draws the seed. wants_json: Accept asks
 * for JSON. */
enum status parameters_complete(struct parameters *p, bool wants_json, uint64_t max_samples,
                                struct error *err);

/* The image format that Accept prefers, the first of formats.def where it prefers none. *wants_json:
 * it prefers JSON to every format. */
enum image_format accept_choose(bool *wants_json, const char *accept);

#endif
