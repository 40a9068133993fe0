/* model_folder.h - names of models in the models folder: NAME.safetensors, or
 * NAME/VERSION.safetensors, of which the newest version is taken.
 *
 * The daemon and the commands use these functions, so that a name means the same file in both.
 * Names and versions consist of letters and digits and, after the first character, '.', '_' and
 * '-'. Any thread. */
#ifndef DAVID_PROTO_MODELS_MODEL_FOLDER_H
#define DAVID_PROTO_MODELS_MODEL_FOLDER_H

#include <stdbool.h>

enum { MODEL_NAME_MAX = 65 }; /* with the terminator */

/* Natural order: "v2" before "v10", "v1" before "v1.1"; a number comes before the same number with
 * leading zeros. 0: equal texts. */
int natural_order(const char *a, const char *b);
/* The part of `file` before `suffix` (which may be ""), where it is a valid name; otherwise false,
 * and `out` is untouched. */
bool model_stem(char out[MODEL_NAME_MAX], const char *file, const char *suffix);
/* The newest version in `folder` (NAME/) by natural order; false where there is none, or no such
 * folder. */
bool model_newest_version(char out[MODEL_NAME_MAX], const char *folder);

#endif
