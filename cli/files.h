/* files.h - images and models of the command line, and JSON on stdout.
 *
 * "-" is stdin or stdout. The extension of an output selects its format (formats.def; "-" is PNG).
 * Files are written completely or not at all. Models: a path, or a NAME in the models folder, which
 * is $DAVID_MODELS, ../share/david/models or models/ beside the binary, or models/ of the source
 * tree of a build; NAME.safetensors, or the newest NAME/VERSION.safetensors in natural order. */
#ifndef DAVID_CLI_FILES_H
#define DAVID_CLI_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "proto/images/codec.h"
#include "proto/messages/json.h"

enum { LARGEST_INPUT_BYTES = 1 << 30, LARGEST_INPUT_PX = 1 << 28 };

bool has_extension(const char *path, const char *extension); /* ".png", in upper or lower case */
/* Checks before any work: whether `path` names a format (ST_BAD_PARAMETER; also for "-" on a
 * terminal) in a writable folder (ST_IO). output_check() checks only the folder, for files that are
 * not images. */
enum status output_format(enum image_format *out, const char *path, struct error *err);
enum status output_check(const char *path, struct error *err);

enum status image_read(struct image *out, const char *path, struct error *err);
enum status image_write(const char *path, const struct image *img, struct error *err);

/* The folder of NAMEs; ST_NOT_FOUND with the folders that were tried. */
enum status models_folder(char out[PATH_MAX], struct error *err);
enum status model_path(char out[PATH_MAX], const char *name, struct error *err);

/* Prints one line on stdout and releases `object`; NULL means that memory is out
 * (ST_NO_MEMORY_NOW). */
enum status json_print(json_t *object, struct error *err);

/* Flushes stdout: 0, or 1 and a line on stderr where not everything could be written. */
int finish_stdout(const char *command);

#endif
