/* atomic_file.h - files that are written completely or not at all.
 *
 * Bytes go to a hidden temporary name beside the target. atomic_file_commit() fsyncs the file,
 * renames it over the target and fsyncs the directory: a reader sees the old file or the new one,
 * and a crash leaves at most a `.NAME.*.tmp`. A symbolic link as target is followed; anything else
 * that is not a regular file is refused. commit and abort both free the handle; abort removes the
 * temporary file. Errors: ST_IO with the path and the system's reason. A handle belongs to one
 * thread. */
#ifndef DAVID_PROTO_ATOMIC_FILE_H
#define DAVID_PROTO_ATOMIC_FILE_H

#include <stddef.h>

#include "proto/error.h"

struct atomic_file;

enum status atomic_file_open(struct atomic_file **out, const char *path, struct error *err);
enum status atomic_file_write(struct atomic_file *f, const void *bytes, size_t len,
                              struct error *err);
enum status atomic_file_commit(struct atomic_file *f, struct error *err);
void atomic_file_abort(struct atomic_file *f); /* takes NULL */

/* open, write, commit. */
enum status atomic_file_save(const char *path, const void *bytes, size_t len, struct error *err);

#endif
