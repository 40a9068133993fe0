/* Options: help, parsing and checks all follow from the command's table. */
#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 64 };

_Noreturn void usage_error(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "david%s%s: ", *command ? " " : "", command);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (see david%s%s --help)\n", *command ? " " : "", command);
    va_end(args);
    exit(EXIT_USAGE);
}

void usage_above_zero(const char *command, const char *option, bool is_given, double value)
{
    if (is_given && value == 0) usage_error(command, "--%s 0: more than 0 is needed", option);
}

int report_error(const char *command, const struct error *err)
{
    fprintf(stderr, "david %s: %s\n", command,
            *err->detail ? err->detail : status_title(err->status));
    switch (err->status) {
    case ST_BAD_PARAMETER:
    case ST_UNKNOWN_TASK:
    case ST_UNKNOWN_MODEL:
    case ST_TOO_MANY_SAMPLES:
    case ST_UNSUPPORTED: return EXIT_USAGE;
    default: return EXIT_FAILED;
    }
}

static void print_help(const struct command *c)
{
    printf("Usage: david %s [OPTIONS]%s%s\n%s\n\nOptions:\n", c->name, *c->operands ? " " : "",
           c->operands, c->about);
    for (size_t i = 0; i < c->n_rows; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", c->rows[i].name, c->rows[i].value ? " " : "",
                 c->rows[i].value ? c->rows[i].value : "");
        printf("  %-22s %s\n", left, c->rows[i].help);
    }
    printf("  %-22s %s\n", "--help", "this text");
}

/* Accepts digits only: strtoull alone would accept signs and spaces. */
static bool whole_number(uint64_t *out, const char *text, const char **end)
{
    if (!isdigit((unsigned char)*text)) return false;
    char *stop;
    errno = 0;
    unsigned long long v = strtoull(text, &stop, 10);
    if (errno) return false;
    *out = v;
    *end = stop;
    return true;
}

static void parse_sides(const struct command *c, const struct option_row *r, const char *text)
{
    uint64_t h, w;
    const char *end;
    bool is_right =
        whole_number(&h, text, &end) && *end == 'x' && whole_number(&w, end + 1, &end) && !*end;
    if (!is_right || (double)h < r->min || (double)h > r->max || (double)w < r->min ||
        (double)w > r->max)
        usage_error(c->name, "--%s %.64s: HxW is needed, each in %.0f..%.0f px", r->name, text,
                    r->min, r->max);
    ((uint32_t *)r->to)[0] = (uint32_t)h;
    ((uint32_t *)r->to)[1] = (uint32_t)w;
}

static void parse_value(const struct command *c, const struct option_row *r, const char *text)
{
    uint64_t n = 0;
    const char *end = "";
    char *stop = NULL;
    double v;
    switch (r->kind) {
    case OPTION_FLAG: *(bool *)r->to = true; break;
    case OPTION_TEXT:
        if (!*text) usage_error(c->name, "--%s is empty", r->name);
        *(const char **)r->to = text;
        break;
    case OPTION_COUNT:
        if (!whole_number(&n, text, &end) || *end || (double)n < r->min || (double)n > r->max)
            usage_error(c->name, "--%s %.64s: a whole number in %.0f..%.0f is needed", r->name,
                        text, r->min, r->max);
        *(uint32_t *)r->to = (uint32_t)n;
        break;
    case OPTION_SEED:
        if (!whole_number(&n, text, &end) || *end)
            usage_error(c->name, "--%s %.64s: a whole number in 0..18446744073709551615 is needed",
                        r->name, text);
        *(uint64_t *)r->to = n;
        break;
    case OPTION_NUMBER:
        v = strtod(text, &stop);
        if (stop == text || *stop || !isfinite(v) || v < r->min || v > r->max)
            usage_error(c->name, "--%s %.64s: a number in %g..%g is needed", r->name, text, r->min,
                        r->max);
        *(double *)r->to = v;
        break;
    case OPTION_SIDES: parse_sides(c, r, text); break;
    }
    if (r->is_given) *r->is_given = true;
}

int options_parse(const struct command *c, int argc, char **argv)
{
    struct option rows[MOST_ROWS + 2] = { { 0 } };
    const size_t n = c->n_rows < MOST_ROWS ? c->n_rows : MOST_ROWS;
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct option){ c->rows[i].name,
                                   c->rows[i].kind == OPTION_FLAG ? no_argument : required_argument,
                                   NULL, (int)(256 + i) };
    rows[n] = (struct option){ "help", no_argument, NULL, 'h' };
    opterr = 0;
    optind = 1;
    for (int got; (got = getopt_long(argc, argv, ":h", rows, NULL)) != -1;) {
        if (got == 'h') {
            print_help(c);
            exit(fflush(stdout) ? EXIT_FAILED : EXIT_SUCCESS);
        }
        if (got == ':') usage_error(c->name, "%.64s needs a value", argv[optind - 1]);
        if (got == '?') usage_error(c->name, "%.64s is not an option here", argv[optind - 1]);
        parse_value(c, &c->rows[got - 256], optarg ? optarg : "");
    }
    if (argc - optind < c->min_operands) usage_error(c->name, "%s is needed", c->operands);
    if (argc - optind > c->max_operands)
        usage_error(c->name, "%.64s is one argument too many", argv[optind + c->max_operands]);
    return optind;
}

size_t parse_counts(const char *command, const char *option, const char *text, uint32_t limit,
                    uint32_t *out, size_t max)
{
    size_t n = 0;
    for (const char *at = text;; at++) {
        uint64_t v;
        if (n == max || !whole_number(&v, at, &at) || v < 1 || v > limit || (*at && *at != ','))
            usage_error(command, "--%s %.64s: whole numbers in 1..%u with commas, at most %zu",
                        option, text, limit, max);
        out[n++] = (uint32_t)v;
        if (!*at) return n;
    }
}
