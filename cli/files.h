/* files.h - images and models from where the user says they are, and JSON texts on stdout.
 *
 * "-" is stdin or stdout. An output's format follows its extension (.png, .jpg, .jpeg; "-" is PNG). Files are written whole
 * or not at all. Models: a path, or a NAME in the models folder: $DAVID_MODELS, ../share/david/models and models/ beside the
 * binary, models/ of the source tree of a build; NAME.safetensors, or the newest NAME/VERSION.safetensors in natural order. */
#ifndef DAVID_CLI_FILES_H
#define DAVID_CLI_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "proto/images/codec.h"
#include "proto/messages/json.h"

enum { LARGEST_INPUT_BYTES = 1 << 30, LARGEST_INPUT_PX = 1 << 28 };

bool has_extension(const char *path, const char *extension); /* ".png", any case */
/* To be asked before any work is done: whether `path` names a format (ST_BAD_PARAMETER; also "-" on a terminal) in a folder
 * that can be written to (ST_IO). output_check asks the second alone, of files that are no images. */
enum status output_format(enum image_format *out, const char *path, struct error *err);
enum status output_check(const char *path, struct error *err);

enum status image_read(struct image *out, const char *path, struct error *err);
enum status image_write(const char *path, const struct image *img, struct error *err);

/* The folder NAMEs are looked up in; ST_NOT_FOUND (naming what was tried) where there is none. */
enum status models_folder(char out[PATH_MAX], struct error *err);
enum status model_path(char out[PATH_MAX], const char *name, struct error *err);

/* One line on stdout. Releases `object`; NULL is taken as a lack of memory (ST_NO_MEMORY_NOW). */
enum status json_print(json_t *object, struct error *err);

/* Whether everything written to stdout has arrived: 0, or 1 after a line on stderr. */
int finish_stdout(const char *command);

#endif
