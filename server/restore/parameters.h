/* parameters.h - what a client asks of /restore: query parameters and form fields, checked one by one and together.
 *
 * A plain value. Unknown and repeated names and bad values are ST_BAD_PARAMETER (or ST_TOO_MANY_SAMPLES), each naming what
 * is allowed. */
#ifndef DAVID_SERVER_RESTORE_PARAMETERS_H
#define DAVID_SERVER_RESTORE_PARAMETERS_H

#include <stdbool.h>

#include "engine/engine.h"

struct parameters {
    unsigned given; /* bits, by place in the table of names */
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
/* What only all of them together tell; draws the seed where none was given. `wants_json`: Accept asks for it. */
enum status parameters_complete(struct parameters *p, bool wants_json, uint64_t max_samples,
                                struct error *err);

/* What Accept prefers of what there is. */
enum accepted { ACCEPTED_PNG, ACCEPTED_JPEG, ACCEPTED_JSON };
enum accepted accept_choose(const char *accept);

#endif
