/* options.h - the command line of every subcommand, from one table of its options.
 *
 * Long options only (getopt_long); `--help` is generated from the table. Numbers are checked
 * completely: range, trailing text, overflow. An error ends the process: exit 2 with one line on
 * stderr; --help exits 0. Only cli/ may exit. Values point into argv. */
#ifndef DAVID_CLI_OPTIONS_H
#define DAVID_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/error.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char * */
    OPTION_COUNT,  /* uint32_t in min..max */
    OPTION_SEED,   /* uint64_t, its whole range */
    OPTION_NUMBER, /* double in min..max, finite */
    OPTION_SIDES   /* uint32_t[2]: HxW, each in min..max */
};

struct option_row {
    const char *name;
    enum option_kind kind;
    void *to;
    const char *value; /* "N" in the help; NULL for a flag */
    const char *help;
    double min, max;
    bool *is_given; /* may be NULL */
};

struct command {
    const char *name;     /* "restore" */
    const char *operands; /* "IN OUT" */
    const char *about;    /* lines below the usage */
    const struct option_row *rows;
    size_t n_rows;
    int min_operands, max_operands;
};

/* Returns the index of the first operand in argv, which getopt has permuted. */
int options_parse(const struct command *c, int argc, char **argv);

/* Prints one line on stderr and exits with 2. */
_Noreturn void usage_error(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A usage error where the option is given as 0, which its range includes but which has no
 * meaning. */
void usage_above_zero(const char *command, const char *option, bool is_given, double value);

/* Prints one line on stderr and returns the exit code: 2 for a wrong request, 1 for a failure. */
int report_error(const char *command, const struct error *err);

/* Parses "1,8,32": returns how many numbers it wrote, at most max; a malformed text is a usage
 * error. */
size_t parse_counts(const char *command, const char *option, const char *text, uint32_t limit,
                    uint32_t *out, size_t max);

#endif
