/* The networks of a run: their architectures and initial weights. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/nets/unet.h"
#include "engine/train/trainer.h"

/* ---- random initial weights ---- */

static const char first_conv[] = "input_blocks.0.0.weight";

/* Uniform within 1 / sqrt(fan in), as in the networks' first publication. The last layer of each
 * block is zero, so that a block is the identity at first. The embeddings of conditions other than
 * t and the channels of the noise are zero too: a prior has neither. The discriminator's weights
 * are normal with deviation 0.02. */
struct weight_init {
    uint64_t seed;
    const struct graph *g;
    const struct unet_arch *arch; /* NULL: the discriminator */
};

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static bool begins_with(const char *text, const char *begin)
{
    return strncmp(text, begin, strlen(begin)) == 0;
}

/* The fan-in of a layer; a bias has that of the weight, the parameter before it. */
static double fan_in(const struct graph *g, const struct param_desc *d)
{
    double n = 1;
    for (uint32_t i = 0; d->dims == 1 && i + 1 < g->n_params; i++)
        if (strcmp(g->params[i + 1].name, d->name) == 0) d = &g->params[i];
    for (uint32_t i = 1; i < d->dims; i++)
        n *= d->shape[i];
    return n;
}

static bool begins_as_zero(const char *name)
{
    return strstr(name, ".out_layers.3.") || strstr(name, ".proj_out.") ||
           begins_with(name, "out.2.") || begins_with(name, "label_emb.") ||
           begins_with(name, "sigma_embed.2.") || begins_with(name, "level_embed.2.");
}

/* Input channel c of the first convolution is one of the noise. */
static bool is_noise(const struct unet_arch *a, uint32_t c)
{
    return a->noise_channels && c % 6 >= 3;
}

static void zero_noise(const struct unet_arch *a, const struct param_desc *d, float *w)
{
    const size_t taps = (size_t)d->shape[2] * d->shape[3];
    for (uint32_t o = 0; o < d->shape[0]; o++)
        for (uint32_t c = 0; c < d->shape[1]; c++)
            if (is_noise(a, c))
                memset(w + ((size_t)o * d->shape[1] + c) * taps, 0, taps * sizeof *w);
}

static enum status begin_param(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    (void)err;
    const struct weight_init *b = ctx;
    uint32_t index = 0;
    while (index + 1 < b->g->n_params && strcmp(b->g->params[index].name, d->name) != 0)
        index++;
    const bool is_weight = ends_with(d->name, ".weight");
    /* Only in a norm do a weight of one dimension and a bias of one dimension belong together. */
    const bool is_norm = d->dims == 1 && (is_weight || b->g->params[index - 1].dims == 1);
    struct rng rng = rng_of(b->seed, 0, DRAW_WEIGHTS, index);
    memset(dst, 0, d->count * sizeof *dst);
    if (is_norm || (!b->arch && is_weight)) {
        for (size_t i = 0; is_norm && is_weight && i < d->count; i++)
            dst[i] = 1;
        if (!b->arch && is_weight)
            draw_add_normals(b->seed, 0, DRAW_WEIGHTS, index, dst, d->count, 0.02);
        return ST_OK;
    }
    if (b->arch && begins_as_zero(d->name)) return ST_OK;
    const double reach = 1 / sqrt(fan_in(b->g, d));
    for (size_t i = 0; i < d->count; i++)
        dst[i] = (float)(reach * (2 * rng_uniform(&rng) - 1));
    if (b->arch && strcmp(d->name, first_conv) == 0) zero_noise(b->arch, d, dst);
    return ST_OK;
}

static enum status begin(struct trainer *t, enum net net, struct error *err)
{
    struct weight_init b = { t->o.seed + net, t->nets[net].g,
                             net == NET_DISCRIMINATOR ? NULL : &t->info.arch };
    return trainable_load(&t->nets[net], &(struct param_source){ begin_param, &b }, err);
}

/* ---- initial weights from a file ---- */

/* From a file whose network lacks parameters of this one: classes, conditions, channels for the
 * noise. Parameters that the file lacks get random initial weights, or zero where they would change
 * the output of the file's network. */
struct growing {
    struct file_source file;
    struct weight_init anew;
    const struct unet_arch *from;
};

static bool same_shape(const struct st_tensor *t, const struct param_desc *d)
{
    bool same = t->dims == d->dims;
    for (uint32_t i = 0; same && i < d->dims; i++)
        same = t->shape[i] == d->shape[i];
    return same;
}

/* The first convolution: the file's input channels move to their places among the channels of the
 * noise. */
static enum status spread_channels(const struct growing *g, const struct param_desc *d, float *dst,
                                   struct error *err)
{
    const uint32_t cells = d->shape[1] / 6;
    const size_t taps = (size_t)d->shape[2] * d->shape[3];
    struct param_desc less = *d;
    less.shape[1] = 3 * cells;
    less.count = d->count / 2;
    /* The second half of dst holds the file's weights: each is read before its place is written. */
    float *from = dst + less.count;
    enum status s = file_param_load((void *)&g->file, &less, from, err);
    for (uint32_t o = 0; !s && o < d->shape[0]; o++)
        for (uint32_t c = 0; c < d->shape[1]; c++) {
            float *to = dst + ((size_t)o * d->shape[1] + c) * taps;
            const uint32_t at = c / 6 * 3 + c % 6;
            if (c % 6 < 3)
                memmove(to, from + ((size_t)o * less.shape[1] + at) * taps, taps * sizeof *to);
        }
    if (!s) zero_noise(g->anew.arch, d, dst);
    return s;
}

static enum status grown_param(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    struct growing *g = ctx;
    const struct st_tensor *t = safetensors_find(g->file.st, d->name);
    if (!t) return begin_param(&g->anew, d, dst, err);
    if (same_shape(t, d)) return file_param_load(&g->file, d, dst, err);
    if (strcmp(d->name, first_conv) == 0 && g->anew.arch->noise_channels &&
        !g->from->noise_channels && t->count * 2 == d->count)
        return spread_channels(g, d, dst, err);
    return error_set(err, ST_BAD_FILE, "tensor %s is of another architecture", d->name);
}

/* The file has been checked against its own architecture. */
static enum status load_grown(struct trainer *t, enum net net, const struct model_file *f,
                              const char *path, struct error *err)
{
    struct growing g = { .file = { t->engine, f->st },
                         .anew = { t->o.seed + net, t->nets[net].g, &t->info.arch },
                         .from = &f->info.arch };
    struct graph *own = NULL;
    struct error why = { 0 };
    enum status s = unet_build(&own, &f->info.arch, t->side, t->side, &why);
    if (!s) s = file_check(f->st, own, &why);
    pthread_mutex_lock(&t->engine->device);
    if (!s) s = trainable_load(&t->nets[net], &(struct param_source){ grown_param, &g }, &why);
    pthread_mutex_unlock(&t->engine->device);
    graph_free(own);
    return s ? error_set(err, s, "%s: %s", path, why.detail) : ST_OK;
}

static enum status load(struct trainer *t, enum net net, const struct safetensors *st,
                        const char *path, struct error *err)
{
    struct file_source src = { t->engine, st };
    struct error why = { 0 };
    enum status s = file_check(st, t->nets[net].g, &why);
    if (s) return error_set(err, s, "%s: %s", path, why.detail);
    pthread_mutex_lock(&t->engine->device);
    s = trainable_load(&t->nets[net], &(struct param_source){ file_param_load, &src }, err);
    pthread_mutex_unlock(&t->engine->device);
    return s;
}

/* ---- networks ---- */

static enum status make_unet(struct trainer *t, enum net net, const struct unet_arch *arch,
                             struct error *err)
{
    struct graph *g = NULL;
    struct trainable_options o = { .has_average = net == NET_GENERATOR };
    o.tape = (struct backward_options){ .rows = t->o.micro_batch,
                                        .dtype = t->engine->dtype,
                                        .forward_only = net == NET_TEACHER,
                                        .recompute = t->o.recompute };
    enum status s = unet_build(&g, arch, t->side, t->side, err);
    if (s) return s;
    if (net == NET_GENERATOR && t->o.kind == TRAIN_DAVI && t->davi_weight > 0)
        o.tape.probe = generator_probe(g);
    s = trainable_init(&t->nets[net], t->b, g, &o, err);
    t->nets[net].average_decay = t->o.average_decay;
    t->nets[net].weight_decay = t->o.weight_decay;
    return s;
}

static enum status make_discriminator(struct trainer *t, struct error *err)
{
    struct graph *g = NULL;
    struct trainable_options o = { .has_average = false };
    o.tape = (struct backward_options){ .rows = t->o.micro_batch,
                                        .dtype = t->engine->dtype,
                                        .keep_taps = true,
                                        .input_gradient = true,
                                        .process_group = t->process_group };
    enum status s = patchgan_build(&g, t->o.discriminator_width, t->side, t->side, err);
    if (!s) s = trainable_init(&t->nets[NET_DISCRIMINATOR], t->b, g, &o, err);
    return s ? s : begin(t, NET_DISCRIMINATOR, err);
}

/* Checks the architecture of a network that is trained by the hybrid loss, or is the frozen
 * prior. */
static enum status check_prior_arch(const struct unet_arch *a, const char *path, struct error *err)
{
    if (a->class_cond)
        return error_set(err, ST_UNSUPPORTED, "%s: class-conditional networks are not trained here",
                         path);
    if (a->noise_channels || a->sigma_cond || a->level_cond)
        return error_set(err, ST_BAD_FILE,
                         "%s: a prior takes no noise beside the feature map and is told t alone",
                         path);
    if (!a->learn_sigma)
        return error_set(
            err, ST_BAD_FILE,
            "%s: its network has no learned variance (learn_sigma), which training needs", path);
    return ST_OK;
}

static enum status digest_of(char out[DIGEST_HEX], const struct model_file *f, struct error *err)
{
    return digest_bytes(out, f->bytes, f->len, err);
}

/* The generator's architecture: the option's, or that of the file with its initial weights. */
static enum status choose_arch(struct trainer *t, const struct model_file *prior,
                               const struct model_file *init, struct error *err)
{
    struct error why = { 0 };
    const struct model_file *like = init->bytes ? init : prior;
    t->info.schedule = like->info.schedule;
    if (t->o.arch) {
        if (unet_arch_parse(&t->info.arch, t->o.arch, &why))
            return error_set(err, ST_BAD_PARAMETER, "arch: %s", why.detail);
    } else if (like->bytes) {
        t->info.arch = like->info.arch;
    } else {
        return error_set(err, ST_BAD_PARAMETER,
                         "an architecture or weights to begin from are needed");
    }
    if (!t->side) t->side = t->info.arch.image_size;
    if (prior->bytes &&
        (prior->info.arch.patch != t->info.arch.patch || prior->info.schedule != t->info.schedule))
        return error_set(err, ST_BAD_FILE,
                         "%s: a prior and its restorer have one patch and schedule", t->o.prior);
    return ST_OK;
}

/* The labels of the tasks: those in the file with the initial weights, and for other tasks the
 * lowest free ones. */
static enum status label_tasks(struct trainer *t, const struct model_info *from, struct error *err)
{
    const bool has_labels = t->info.arch.class_cond;
    bool is_taken[MODEL_MAX_TASKS] = { false };
    for (uint32_t i = 0; i < t->info.n_tasks; i++)
        t->info.tasks[i].label = -1;
    for (uint32_t k = 0; has_labels && k < from->n_tasks; k++) {
        const int32_t label = from->tasks[k].label;
        if (label >= 0 && label < MODEL_MAX_TASKS) is_taken[label] = true;
        for (uint32_t i = 0; i < t->info.n_tasks; i++)
            if (strcmp(t->info.tasks[i].name, from->tasks[k].name) == 0)
                t->info.tasks[i].label = label;
    }
    for (uint32_t i = 0; has_labels && i < t->info.n_tasks; i++) {
        int32_t label = 0;
        if (t->info.tasks[i].label >= 0) continue;
        while (label < MODEL_MAX_TASKS && is_taken[label])
            label++;
        if (label >= MODEL_MAX_TASKS || (uint32_t)label >= t->info.arch.num_classes)
            return error_set(err, ST_BAD_PARAMETER, "task %s finds no free label below %u",
                             t->info.tasks[i].name, t->info.arch.num_classes);
        is_taken[label] = true;
        t->info.tasks[i].label = label;
    }
    return ST_OK;
}

/* The teacher and the learned score. */
static enum status make_scores(struct trainer *t, const struct model_file *prior, struct error *err)
{
    enum status s = check_prior_arch(&prior->info.arch, t->o.prior, err);
    for (int net = NET_SCORE; !s && net < NETS; net++) {
        if (net == NET_DISCRIMINATOR) continue;
        s = make_unet(t, (enum net)net, &prior->info.arch, err);
        if (!s) s = load(t, (enum net)net, prior->st, t->o.prior, err);
    }
    return s ? s : make_discriminator(t, err);
}

static enum status make_restorer_nets(struct trainer *t, struct error *err)
{
    struct model_file prior = { 0 }, init = { 0 };
    enum status s = ST_OK;
    if (t->o.prior) s = model_file_open(&prior, t->o.prior, err);
    if (!s && prior.bytes && prior.info.role != ROLE_PRIOR)
        s = error_set(err, ST_BAD_FILE, "%s: its role is restorer, not prior", t->o.prior);
    if (!s && t->o.init) s = model_file_open(&init, t->o.init, err);
    if (!s) s = choose_arch(t, &prior, &init, err);
    if (!s) s = label_tasks(t, &init.info, err);
    if (!s && t->davi_weight > 0) s = make_scores(t, &prior, err);
    if (!s) s = make_unet(t, NET_GENERATOR, &t->info.arch, err);
    const struct model_file *from = init.bytes ? &init : prior.bytes ? &prior : NULL;
    if (!s)
        s = from ? load_grown(t, NET_GENERATOR, from, t->o.init ? t->o.init : t->o.prior, err)
                 : begin(t, NET_GENERATOR, err);
    if (!s && from) s = digest_of(t->parent, from, err);
    model_file_close(&prior);
    model_file_close(&init);
    return s;
}

static enum status make_prior_net(struct trainer *t, struct error *err)
{
    struct model_file init = { 0 };
    struct error why = { 0 };
    enum status s = ST_OK;
    if (t->o.init) {
        s = model_file_open(&init, t->o.init, err);
        if (s) return s;
        t->info.arch = init.info.arch;
        t->info.schedule = init.info.schedule;
    } else if (unet_arch_parse(&t->info.arch, t->o.arch, &why)) {
        return error_set(err, ST_BAD_PARAMETER, "arch: %s", why.detail);
    }
    if (!t->side) t->side = t->info.arch.image_size;
    s = check_prior_arch(&t->info.arch, t->o.init ? t->o.init : "arch", err);
    if (!s) s = make_unet(t, NET_GENERATOR, &t->info.arch, err);
    if (!s)
        s = t->o.init ? load(t, NET_GENERATOR, init.st, t->o.init, err)
                      : begin(t, NET_GENERATOR, err);
    if (!s && t->o.init) s = digest_of(t->parent, &init, err);
    model_file_close(&init);
    return s;
}

static enum status make_steps(struct trainer *t, struct error *err)
{
    const struct generator_form form = { t->info.arch.noise_channels, t->info.arch.linear_output };
    const struct davi_options o = { .schedule = t->schedule,
                                    .process_group = t->process_group,
                                    .form = form };
    enum status s = ST_OK;
    t->direct_options.schedule = t->schedule;
    t->direct_options.form = form;
    if (t->davi_weight > 0)
        s = davi_init(&t->davi, &o, &t->nets[NET_TEACHER], &t->nets[NET_SCORE],
                      &t->nets[NET_GENERATOR], &t->nets[NET_DISCRIMINATOR], err);
    if (!s && trainer_is_direct(t))
        s = direct_init(&t->direct, &t->direct_options, &t->nets[NET_GENERATOR], err);
    return s;
}

enum status make_nets(struct trainer *t, struct error *err)
{
    const bool davi = t->o.kind == TRAIN_DAVI;
    if (davi && t->davi_weight > 0 && !t->o.prior)
        return error_set(err, ST_BAD_PARAMETER, "the objective davi needs a prior");
    if (!davi && !t->o.init && !t->o.arch)
        return error_set(err, ST_BAD_PARAMETER,
                         "an architecture or weights to begin from are needed");
    enum status s = davi ? make_restorer_nets(t, err) : make_prior_net(t, err);
    if (s) return s;
    schedule_init(t->schedule, t->info.schedule);
    t->info.role = davi ? ROLE_RESTORER : ROLE_PRIOR;
    t->info.tile_size = t->side;
    t->info.tile_overlap = t->side / 8 * 2; /* even: blending halves it */
    return davi ? make_steps(t, err) : ST_OK;
}
