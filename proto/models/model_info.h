/* model_info.h - the metadata of a model file: architecture, role, tasks, tile, schedule.
 *
 * Reads and writes JSON texts (engine/README.md section 2 lists the keys of the architecture).
 * Every number is bounded and every combination is checked here, so that nets/ builds without
 * further checks. The structs are plain values that may be copied, except `provenance` and
 * `metrics`, which are malloc'd JSON texts owned by struct model_info. */
#ifndef DAVID_PROTO_MODELS_MODEL_INFO_H
#define DAVID_PROTO_MODELS_MODEL_INFO_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/models/safetensors.h"

enum { ARCH_MAX_LEVELS = 8, MODEL_MAX_TASKS = 16, TASK_NAME_MAX = 32 };

struct unet_arch {
    uint32_t image_size, num_channels, num_res_blocks;
    uint32_t levels, channel_mult[ARCH_MAX_LEVELS];
    uint32_t attention_count,
        attention_ds[ARCH_MAX_LEVELS]; /* image_size / attention_resolutions */
    /* num_head_channels -1: num_heads gives the number of heads */
    int32_t num_heads, num_head_channels;
    uint32_t num_classes; /* of label_emb; 0 unless class_cond */
    bool learn_sigma, class_cond, use_scale_shift_norm, resblock_updown, use_new_attention_order;
    /* Options that the published networks lack (engine/README.md section 9): off, or 1, for
     * those. */
    uint32_t patch;           /* side in px of the cells that are the network's pixels: 1, 2 or 4 */
    bool noise_channels;      /* the generator takes h z as three channels beside x */
    bool linear_output;       /* x_in - std eps without tanh */
    bool sigma_cond;          /* the network is conditioned on sigma */
    bool level_cond;          /* the network is conditioned on the task's level */
    bool no_middle_attention; /* the middle block has no attention */
};

/* The sides of the network's input are multiples of this, in px. */
static inline uint32_t arch_side_unit(const struct unet_arch *a)
{
    return a->patch << (a->levels - 1);
}

/* Channels of the network's input pixels. */
static inline uint32_t arch_input_channels(const struct unet_arch *a)
{
    return a->noise_channels ? 6 : 3;
}

enum model_role { ROLE_RESTORER, ROLE_PRIOR };
enum schedule_kind { SCHEDULE_DAVI, SCHEDULE_LINEAR };

struct model_task {
    char name[TASK_NAME_MAX];
    double sigma, h;       /* sigma in units of [-1,1]; h: perturb_h */
    int32_t label;         /* -1: none */
    double sigma_range[2]; /* range of training; both are `sigma` where the file has no range */
    double level,
        /* of the operator: standard deviation of the blur in px, JPEG quality; 0: no level */
        level_range[2];
};

struct model_info {
    struct unet_arch arch;
    enum model_role role;
    uint32_t n_tasks;
    struct model_task tasks[MODEL_MAX_TASKS];
    uint32_t tile_size, tile_overlap; /* px of the restored image */
    /* px of mirrored border that are added before it is cut into tiles */
    uint32_t tile_margin;
    enum schedule_kind schedule;
    char *provenance, *metrics; /* JSON texts or NULL */
};

/* `text`: the JSON of david.arch, or the name of a published network ("ffhq256", "imagenet256"). */
enum status unet_arch_parse(struct unet_arch *out, const char *text, struct error *err);
/* Malloc'd JSON text with the keys of david.config; NULL where memory is out. */
char *unet_arch_json(const struct unet_arch *arch);

/* Reads a file's metadata. Files that have david.config alone (golden) get the role prior, no
 * tasks, and image_size as their tile. */
enum status model_info_read(struct model_info *out, const struct safetensors *st,
                            struct error *err);
void model_info_done(struct model_info *info); /* takes a zeroed struct */

/* A quarter of a tile, rounded down to an even number. */
static inline uint32_t tile_overlap_default(uint32_t tile_size)
{
    return tile_size / 4 / 2 * 2;
}

/* The metadata of a model file to be written, with the same checks as for a file that is read. The
 * struct owns the texts. */
enum { MODEL_METADATA_MAX = 8 };
struct model_metadata {
    struct st_meta meta[MODEL_METADATA_MAX]; /* for safetensors_write() */
    size_t n;
    char *texts[MODEL_METADATA_MAX];
};
enum status model_info_metadata(struct model_metadata *out, const struct model_info *info,
                                struct error *err);
void model_metadata_done(struct model_metadata *m); /* takes a zeroed struct */

#endif
