/* model_folder.h - how models lie in their folder: NAME.safetensors, or NAME/VERSION.safetensors of which the newest is meant.
 *
 * The one place for names and their order, so that the daemon and the commands mean the same file by the same name. Names and
 * versions: letters, digits, and behind the first of them '.', '_', '-'. Any thread. */
#ifndef DAVID_PROTO_MODELS_MODEL_FOLDER_H
#define DAVID_PROTO_MODELS_MODEL_FOLDER_H

#include <stdbool.h>

enum { MODEL_NAME_MAX = 65 }; /* with its end */

/* "v2" before "v10" and "v1" before "v1.1"; a number before the same with zeros in front. 0: the same text. */
int natural_order(const char *a, const char *b);
/* What stands before `suffix` (may be ""), where that is a name; false and untouched otherwise. */
bool model_stem(char out[MODEL_NAME_MAX], const char *file, const char *suffix);
/* The newest VERSION of NAME/, by natural order; false where there is none, or no such folder. */
bool model_newest_version(char out[MODEL_NAME_MAX], const char *folder);

#endif
