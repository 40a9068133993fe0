#include "proto/models/state_dict.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *key, *prefix;
} state_dicts[] = {
    { "ema", "implicit_func_ema.ema_model." },
    { "implicit", "implicit_func." },
    { "flat", "" },
};
enum { EMA, IMPLICIT, FLAT, STATE_DICTS };

static size_t count_with(const struct torch_zip *z, size_t which)
{
    size_t n = 0, len = strlen(state_dicts[which].prefix);
    for (size_t i = 0; i < torch_zip_count(z); i++)
        if (strncmp(torch_zip_at(z, i)->name, state_dicts[which].prefix, len) == 0) n++;
    return n;
}

enum status state_dict_select(struct state_dict *out, const struct torch_zip *z, const char *key,
                              struct error *err)
{
    size_t which = 0;
    struct state_dict c = { 0 };
    if (!key) {
        which = count_with(z, EMA) ? EMA : FLAT;
    } else {
        while (which < STATE_DICTS && strcmp(key, state_dicts[which].key) != 0)
            which++;
        if (which == STATE_DICTS)
            return error_set(err, ST_BAD_PARAMETER, "key \"%.40s\" is not ema, implicit or flat",
                             key);
    }
    size_t n = count_with(z, which), len = strlen(state_dicts[which].prefix);
    if (n == 0)
        return error_set(err, ST_BAD_FILE, "the file holds no tensor %s%s", len ? "at " : "at all",
                         state_dicts[which].prefix);
    if (which == FLAT && count_with(z, IMPLICIT))
        return error_set(err, ST_BAD_FILE,
                         "the file holds several networks: the key must be ema or implicit");
    c.entries = malloc(n * sizeof *c.entries);
    if (!c.entries) return error_set(err, ST_NO_MEMORY_NOW, "no memory to list a checkpoint");
    c.key = state_dicts[which].key;
    for (size_t i = 0; i < torch_zip_count(z); i++) {
        const char *name = torch_zip_at(z, i)->name;
        if (strncmp(name, state_dicts[which].prefix, len) != 0) continue;
        c.entries[c.n++] = (struct state_dict_entry){ name + len, i };
    }
    *out = c;
    return ST_OK;
}

void state_dict_done(struct state_dict *c)
{
    free(c->entries);
    *c = (struct state_dict){ 0 };
}
