/* model_info.h - what the metadata of a model file says: architecture, role, tasks, tile, schedule.
 *
 * JSON texts in and out (engine/README.md section 2 names the architecture's keys). Every number is
 * bounded and every combination checked here, so that nets/ may build without looking again. Plain values: copyable, except
 * `provenance` and `metrics`, which are malloc'd JSON texts owned by struct model_info. */
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
        attention_ds[ARCH_MAX_LEVELS];    /* image_size / attention_resolutions */
    int32_t num_heads, num_head_channels; /* num_head_channels -1: num_heads counts */
    uint32_t num_classes;                 /* of label_emb; 0 unless class_cond */
    bool learn_sigma, class_cond, use_scale_shift_norm, resblock_updown, use_new_attention_order;
    /* Options beyond the published networks (engine/README.md section 9); all off or 1 for those. */
    uint32_t patch;           /* px a side of the cells that the network sees: 1, 2 or 4 */
    bool noise_channels;      /* the generator takes h z as three channels of its own */
    bool linear_output;       /* x_in - std eps without tanh */
    bool sigma_cond;          /* the network is told sigma */
    bool level_cond;          /* the network is told the task's level */
    bool no_middle_attention; /* the middle block has none */
};

/* Sides of what the network takes are multiples of this, px. */
static inline uint32_t arch_side_unit(const struct unet_arch *a)
{
    return a->patch << (a->levels - 1);
}

/* Channels of the network's input, per pixel. */
static inline uint32_t arch_input_channels(const struct unet_arch *a)
{
    return a->noise_channels ? 6 : 3;
}

enum model_role { ROLE_RESTORER, ROLE_PRIOR };
enum schedule_kind { SCHEDULE_DAVI, SCHEDULE_LINEAR };

struct model_task {
    char name[TASK_NAME_MAX];
    double sigma, h; /* sigma in units of [-1,1]; h: perturb_h */
    int32_t label;   /* -1: none */
    double
        sigma_range[2]; /* that the model was trained for; both `sigma` where the file names none */
    double level,
        level_range[2]; /* of the operator: blur's deviation in px, JPEG quality; 0: it has none */
};

struct model_info {
    struct unet_arch arch;
    enum model_role role;
    uint32_t n_tasks;
    struct model_task tasks[MODEL_MAX_TASKS];
    uint32_t tile_size, tile_overlap; /* px of the restored image */
    uint32_t tile_margin;             /* px mirrored around it before it is cut into tiles */
    enum schedule_kind schedule;
    char *provenance, *metrics; /* JSON texts or NULL */
};

/* `text`: the JSON of david.arch, or a published name ("ffhq256", "imagenet256"). */
enum status unet_arch_parse(struct unet_arch *out, const char *text, struct error *err);
/* malloc'd JSON text with the keys of david.config; NULL when memory is out. */
char *unet_arch_json(const struct unet_arch *arch);

/* From a file's metadata; files with david.config alone (golden) get role prior, no tasks, tile = image_size. */
enum status model_info_read(struct model_info *out, const struct safetensors *st,
                            struct error *err);
void model_info_done(struct model_info *info); /* takes a zeroed struct */

/* A quarter of a tile, and even, as overlaps are. */
static inline uint32_t tile_overlap_default(uint32_t tile_size)
{
    return tile_size / 4 / 2 * 2;
}

/* The metadata of a model file to be written: checked like a file that is read; texts are owned by the struct. */
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
