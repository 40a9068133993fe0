/* state_dict.h - selection of one state dict of a .pt file (engine/README.md section 6).
 *
 * Keys: "ema" (implicit_func_ema.ema_model.*), "implicit" (implicit_func.*), "flat" (the whole file
 * is the state dict); NULL selects ema where the file has it, else flat. Names lose the prefix.
 * Entries point into the torch_zip, which must outlive them; state_dict_done() takes a zeroed
 * struct. ST_BAD_PARAMETER: unknown key; ST_BAD_FILE: the file lacks that state dict. */
#ifndef DAVID_PROTO_MODELS_STATE_DICT_H
#define DAVID_PROTO_MODELS_STATE_DICT_H

#include "proto/models/torch_zip.h"

struct state_dict_entry {
    const char *name; /* prefix stripped */
    size_t index;     /* for torch_zip_at() and torch_zip_read() */
};

struct state_dict {
    const char *key; /* the key selected: "ema", "implicit" or "flat" */
    struct state_dict_entry *entries;
    size_t n;
};

enum status state_dict_select(struct state_dict *out, const struct torch_zip *z, const char *key,
                              struct error *err);
void state_dict_done(struct state_dict *c);

#endif
