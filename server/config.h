/* config.h - the settings of the daemon, made from config.def: flag > environment > file >
 * default.
 *
 * A plain value: it can be copied, and there is nothing to free. config_init() sets the
 * defaults; the sources are then applied from the weakest to the strongest, and each value
 * remembers its source. Unknown names, bad texts and values out of bounds are refused
 * (ST_BAD_PARAMETER, naming setting, value and bounds). Reads the environment only through
 * `get`. */
#ifndef DAVID_SERVER_CONFIG_H
#define DAVID_SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/messages/config_text.h"

/* Open files beside the connections: log, epoll sets, models, lingering sockets. */
enum { CONFIG_SPARE_FILES = 128 };

enum config_source { FROM_DEFAULT, FROM_FILE, FROM_ENVIRONMENT, FROM_FLAG, FROM_MACHINE };

enum config_index {
#define OPTION(name, type, standard, min, max, help) CONFIG_##name,
#include "server/config.def"
#undef OPTION
    CONFIG_COUNT
};

#define CONFIG_FIELD_TEXT(name)  char name[CONFIG_VALUE_MAX];
#define CONFIG_FIELD_COUNT(name) uint64_t name;
#define CONFIG_FIELD_SIZE(name)  uint64_t name; /* bytes */
#define CONFIG_FIELD_TIME(name)  uint64_t name; /* ns */

struct config {
#define OPTION(name, type, standard, min, max, help) CONFIG_FIELD_##type(name)
#include "server/config.def"
#undef OPTION
    enum config_source source[CONFIG_COUNT];
};

void config_init(struct config *c);
/* CONFIG_COUNT: there is no such setting. `name`, here and below, has '_' or '-'. */
enum config_index config_find(const char *name);
enum status config_set(struct config *c, const char *name, const char *value,
                       enum config_source source, struct error *err);
enum status config_read_text(struct config *c, const char *text, size_t len, struct error *err);
enum status config_read_file(struct config *c, const char *path, struct error *err);
enum status config_read_environment(struct config *c, const char *(*get)(const char *name),
                                    struct error *err);
/* Replaces 0 = automatic by what the machine has, and lowers the default of max_connections to
 * the open files that are allowed. The caller sets `models`, which is "" where it is automatic. */
void config_resolve(struct config *c);

const char *config_name(enum config_index i);
const char *config_help(enum config_index i);
const char *config_default(enum config_index i);
void config_value_text(const struct config *c, enum config_index i, char *out, size_t cap);
/* Prints lines that a configuration file can hold, with the source of each value as a comment. */
void config_print(const struct config *c, FILE *f);
/* One object: {"listen": {"value": "127.0.0.1:8080", "source": "default"}, ...}; values as a
 * file would hold them. */
void config_print_json(const struct config *c, FILE *f);

#endif
