/* david forward: the raw network on tensors, unfolded. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/session.h"
#include "proto/models/safetensors.h"

static const char about[] =
    "Runs the network of a model file on a file of tensors: x [N,3,H,W], t [N] (0..999); writes y\n"
    "[N,C,H,W] in float32. Networks with options (noise: channels, class_cond, sigma_cond, "
    "level_cond)\n"
    "take more: x of 6 channels, h z being the last three; label [N]; sigma [N], 1000 times the\n"
    "deviation of the noise; level [N], the task's level times its gain (deblur: 100).";

enum { LARGEST_ROWS = 1 << 16, LARGEST_SIDE = 8192 };

struct inputs {
    float *x, *t, *sigma, *level; /* sigma, level: NULL where the file has none */
    uint32_t *label;              /* likewise */
    uint32_t n, channels, h, w;
};

static void inputs_done(struct inputs *in)
{
    free(in->x);
    free(in->t);
    free(in->sigma);
    free(in->level);
    free(in->label);
}

static float *floats_of(const struct st_tensor *t)
{
    float *v = malloc(t->count * sizeof *v);
    if (v) dtype_to_f32(v, t->data, t->dtype, t->count);
    return v;
}

static enum status read_labels(struct inputs *in, const struct st_tensor *label, struct error *err)
{
    float *v = floats_of(label);
    in->label = malloc(label->count * sizeof *in->label);
    enum status s = v && in->label ? ST_OK : error_set(err, ST_NO_MEMORY_NOW, "no memory");
    for (uint32_t i = 0; !s && i < in->n; i++) {
        if (!(v[i] >= 0 && v[i] < 16777216.0f && v[i] == floorf(v[i])))
            s = error_set(err, ST_BAD_FILE, "label[%u] = %g is not a class", i, (double)v[i]);
        else
            in->label[i] = (uint32_t)v[i];
    }
    free(v);
    return s;
}

/* *out stays NULL where the file lacks the tensor. */
static enum status read_numbers(float **out, const struct safetensors *st, const char *name,
                                uint32_t n, struct error *err)
{
    const struct st_tensor *t = safetensors_find(st, name);
    if (!t) return ST_OK;
    if (t->dims != 1 || t->shape[0] != n)
        return error_set(err, ST_BAD_FILE, "the tensor %s is not [N]", name);
    *out = floats_of(t);
    if (!*out) return error_set(err, ST_NO_MEMORY_NOW, "no memory for %s", name);
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite((*out)[i]))
            return error_set(err, ST_BAD_FILE, "%s[%u] is not finite", name, i);
    return ST_OK;
}

static enum status inputs_read(struct inputs *in, const struct safetensors *st, struct error *err)
{
    const struct st_tensor *x = safetensors_find(st, "x"), *label = safetensors_find(st, "label");
    if (!x || x->dims != 4 || (x->shape[1] != 3 && x->shape[1] != 6) || x->shape[0] < 1 ||
        x->shape[0] > LARGEST_ROWS || x->shape[2] < 1 || x->shape[3] < 1 ||
        x->shape[2] > LARGEST_SIDE || x->shape[3] > LARGEST_SIDE)
        return error_set(err, ST_BAD_FILE,
                         "a tensor x of [N][3][H][W], or of 6 channels, is needed, N in 1..%d",
                         LARGEST_ROWS);
    if (label && (label->dims != 1 || label->shape[0] != x->shape[0]))
        return error_set(err, ST_BAD_FILE, "the tensor label is not [N]");
    in->n = (uint32_t)x->shape[0];
    in->channels = (uint32_t)x->shape[1];
    in->h = (uint32_t)x->shape[2];
    in->w = (uint32_t)x->shape[3];
    in->x = floats_of(x);
    if (!in->x) return error_set(err, ST_NO_MEMORY_NOW, "no memory for x");
    enum status s = read_numbers(&in->t, st, "t", in->n, err);
    if (!s) s = read_numbers(&in->sigma, st, "sigma", in->n, err);
    if (!s) s = read_numbers(&in->level, st, "level", in->n, err);
    if (!s && !in->t)
        s = error_set(err, ST_BAD_FILE, "a tensor t of [N] is needed, one step for each x");
    return s || !label ? s : read_labels(in, label, err);
}

static enum status report(bool is_json, const struct engine_facts *f, const struct st_tensor *y,
                          struct error *err)
{
    if (is_json)
        return json_print(json_pack("{s:[I, I, I, I], s:s, s:s, s:s, s:i}", "shape",
                                    (json_int_t)y->shape[0], (json_int_t)y->shape[1],
                                    (json_int_t)y->shape[2], (json_int_t)y->shape[3], "backend",
                                    f->backend, "dtype", f->dtype, "isa", f->isa, "threads",
                                    f->threads),
                          err);
    fprintf(stderr, "y [%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "], %s, %s, %s, %d threads\n",
            y->shape[0], y->shape[1], y->shape[2], y->shape[3], f->backend, f->dtype, f->isa,
            f->threads);
    return ST_OK;
}

int cmd_forward(int argc, char **argv)
{
    struct engine_options o = { 0 };
    const char *model = NULL, *in_file = NULL, *out_file = NULL;
    uint32_t threads = 0;
    bool is_json = false;
    const struct option_row rows[] = {
        { "model", OPTION_TEXT, &model, "FILE|NAME", "the model", 0, 0, NULL },
        { "in", OPTION_TEXT, &in_file, "FILE", "safetensors of x and t (label, sigma, level)", 0, 0,
          NULL },
        { "out", OPTION_TEXT, &out_file, "FILE", "safetensors of y", 0, 0, NULL },
        ENGINE_ROWS(o, threads),
        { "json", OPTION_FLAG, &is_json, NULL, "facts as one JSON object on stdout", 0, 0, NULL },
    };
    const struct command c = { "forward", "", about, rows, sizeof rows / sizeof *rows, 0, 0 };
    options_parse(&c, argc, argv);
    if (!model) usage_error(c.name, "--model is needed");
    if (!in_file) usage_error(c.name, "--in is needed");
    if (!out_file) usage_error(c.name, "--out is needed");

    char path[PATH_MAX];
    struct error err = { 0 };
    struct safetensors *st = NULL;
    struct engine *engine = NULL;
    struct network *net = NULL;
    struct inputs in = { 0 };
    float *y = NULL;
    o.threads = (int)threads;
    enum status s = model_path(path, model, &err);
    if (!s) s = output_check(out_file, &err);
    if (!s) s = safetensors_open(&st, in_file, &err);
    if (!s) s = inputs_read(&in, st, &err);
    if (!s) s = engine_open(&engine, &o, &err);
    if (!s) s = network_load(&net, engine, path, in.h, in.w, &err);
    if (!s && in.channels != network_input_channels(net))
        s = error_set(&err, ST_BAD_PARAMETER, "x has %u channels; the network takes %u",
                      in.channels, network_input_channels(net));
    if (s) goto done;
    const uint32_t channels = network_channels(net);
    const size_t count = (size_t)in.n * channels * in.h * in.w;
    y = malloc(count * sizeof *y + 1);
    const struct network_input of = { in.x, in.t, in.sigma, in.level, in.label };
    s = y ? network_forward(net, &of, in.n, y, &err)
          : error_set(&err, ST_NO_MEMORY_NOW, "no memory for y");
    const struct st_tensor t = { .name = "y",
                                 .dtype = DT_F32,
                                 .dims = 4,
                                 .shape = { in.n, channels, in.h, in.w },
                                 .count = count,
                                 .data = y };
    if (!s) s = safetensors_write(out_file, &t, 1, NULL, 0, NULL, NULL, &err);
    if (!s) s = report(is_json, engine_describe(engine), &t, &err);
done:
    free(y);
    network_free(net);
    engine_close(engine);
    inputs_done(&in);
    safetensors_close(st);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
