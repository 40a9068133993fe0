/* session.h - an engine with one model, and complete runs of restorations; shared by restore and
 * eval.
 *
 * The calls are those of the daemon (engine.h), so that an image has the same bytes in both. One
 * thread. */
#ifndef DAVID_CLI_SESSION_H
#define DAVID_CLI_SESSION_H

#include "cli/options.h"
#include "engine/engine.h"

struct session {
    struct engine *engine;
    struct model *model;
};

/* The rows of an option table that select an engine; `o` is a struct engine_options, `threads_` a
 * uint32_t. */
#define ENGINE_ROWS(o, threads_)                                                                      \
    { "backend", OPTION_TEXT, &(o).backend, "B", "auto, cpu or cuda (auto)", 0, 0, NULL },            \
        { "dtype", OPTION_TEXT, &(o).dtype, "D", "auto, f32, tf32, bf16 or f16 (auto)", 0, 0, NULL }, \
        { "deterministic",                                                                            \
          OPTION_FLAG,                                                                                \
          &(o).deterministic,                                                                         \
          NULL,                                                                                       \
          "the same bytes every time",                                                                \
          0,                                                                                          \
          0,                                                                                          \
          NULL },                                                                                     \
    {                                                                                                 \
        "threads", OPTION_COUNT, &(threads_), "N", "size of the team (what this process may use)",    \
            1, 1024, NULL                                                                             \
    }

/* name: a file, or the name of a model; NULL: "default". */
enum status session_open(struct session *out, const struct engine_options *o, const char *name,
                         struct error *err);
void session_close(struct session *s); /* takes a zeroed struct */

/* Runs all tile jobs of `r`; shows progress on a terminal where `is_shown`. */
enum status session_run(struct session *s, struct restoration *r, bool is_shown, struct error *err);

/* Help of --level: what the level of each task is, then `more`. */
struct level_help {
    char text[256];
};
struct level_help level_help(const char *more);

/* A level in a line of text; 0: the task has none. */
struct level_text {
    char words[32]; /* ", level 3" or "" */
};
struct level_text level_text(double level);

enum status draw_seed(uint64_t *out, struct error *err); /* getrandom */
uint64_t clock_ns(void);                                 /* monotonic */

#endif
