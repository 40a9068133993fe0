/* david restore: restores one image (or float measurement) with the daemon's engine. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/measurements.h"
#include "cli/session.h"

static const char about[] =
    "Restores IN to OUT. IN: PNG, JPEG, - for stdin, or a .safetensors of `david degrade`.\n"
    "OUT: .png, .jpg or - (PNG to stdout); the size is the task's. The same image, model,\n"
    "task, h and seed give the same bytes, here and over HTTP.";

static enum status output_of(enum output_kind *out, const char *text, struct error *err)
{
    static const struct {
        const char *name;
        enum output_kind kind;
    } kinds[] = { { "image", OUTPUT_IMAGE }, { "mean", OUTPUT_MEAN }, { "std", OUTPUT_STD } };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(text, kinds[i].name) == 0) {
            *out = kinds[i].kind;
            return ST_OK;
        }
    return error_set(err, ST_BAD_PARAMETER, "--output %.32s is not image, mean or std", text);
}

static const char *task_name(const struct model *m, const struct restore_params *p)
{
    return p->task ? p->task : model_describe(m)->tasks[0].name;
}

static void print_text(const struct session *s, const struct restore_params *p,
                       const struct restoration_result *r)
{
    fprintf(stderr,
            "task %s, seed %" PRIu64 ", h %g, sigma %g%s, %ux%u px, residual %.5f (expected %.5f)",
            task_name(s->model, p), p->seed, r->h, r->sigma, level_text(r->level).words, r->width,
            r->height, r->residual_rms, r->sigma);
    if (p->output == OUTPUT_STD) fprintf(stderr, ", std scale %.6g", r->std_scale);
    fputc('\n', stderr);
}

static enum status print_json(const struct session *s, const struct restore_params *p,
                              const struct restoration_result *r, struct error *err)
{
    char seed[24];
    (void)snprintf(seed, sizeof seed, "%" PRIu64, p->seed);
    json_t *facts =
        json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:i, s:i, s:i, s:o, s:o}", "task",
                  json_of_text(task_name(s->model, p)), "model",
                  json_of_text(model_digest(s->model)), "seed", seed, "h", json_of_number(r->h),
                  "sigma", json_of_number(r->sigma), "level", json_of_level(r->level), "samples",
                  (int)p->samples, "width", (int)r->width, "height", (int)r->height, "residual_rms",
                  json_of_number(r->residual_rms), "residual_expected", json_of_number(r->sigma));
    if (facts && p->output == OUTPUT_STD &&
        json_object_set_new(facts, "std_scale", json_of_number(r->std_scale))) {
        json_decref(facts);
        facts = NULL;
    }
    return json_print(facts, err);
}

int cmd_restore(int argc, char **argv)
{
    struct engine_options engine = { 0 };
    struct restore_params p = { .h = -1 };
    const char *model = NULL, *mask_file = NULL, *output = "image";
    uint32_t threads = 0;
    bool has_seed = false, has_samples = false, has_sigma = false, has_level = false,
         is_json = false;
    char task_help[256];
    (void)snprintf(task_help, sizeof task_help, "%s (needed where the model has several)",
                   task_names);
    const struct level_help level_of =
        level_help("; within the model's range (that of a JPEG, else the model's)");
    const struct option_row rows[] = {
        { "task", OPTION_TEXT, &p.task, "T", task_help, 0, 0, NULL },
        { "model", OPTION_TEXT, &model, "FILE|NAME", "the model (default)", 0, 0, NULL },
        { "seed", OPTION_SEED, &p.seed, "N", "of the sample (drawn, and printed on stderr)", 0, 0,
          &has_seed },
        { "samples", OPTION_COUNT, &p.samples, "K", "samples of mean and std (8)", 1, 4096,
          &has_samples },
        { "h", OPTION_NUMBER, &p.h, "H", "perturbation (the model's)", 0, 10, NULL },
        { "sigma", OPTION_NUMBER, &p.sigma, "S",
          "of the noise in IN, within the model's range (the model's)", 0, 10, &has_sigma },
        { "level", OPTION_NUMBER, &p.level, "L", level_of.text, 0, 100, &has_level },
        { "mask", OPTION_TEXT, &mask_file, "M.png",
          "white = missing, for a task that takes a mask (or alpha 0 in IN = missing)", 0, 0,
          NULL },
        { "output", OPTION_TEXT, &output, "KIND", "image, mean or std (image)", 0, 0, NULL },
        ENGINE_ROWS(engine, threads),
        { "json", OPTION_FLAG, &is_json, NULL, "facts as one JSON object on stdout", 0, 0, NULL },
    };
    const struct command c = { "restore", "IN OUT", about, rows, sizeof rows / sizeof *rows, 2, 2 };
    int at = options_parse(&c, argc, argv);
    const char *in = argv[at], *out = argv[at + 1];
    if (is_json && strcmp(out, "-") == 0)
        usage_error(c.name, "--json and the image cannot both go to stdout");
    usage_above_zero(c.name, "sigma", has_sigma, p.sigma);
    usage_above_zero(c.name, "level", has_level, p.level);

    struct error err = { 0 };
    struct session session = { 0 };
    struct restoration *r = NULL;
    struct image img = { 0 }, mask = { 0 }, restored = { 0 };
    struct measurement y = { 0 };
    enum image_format format;
    enum status s = output_of(&p.output, output, &err);
    engine.threads = (int)threads;
    if (!has_samples) p.samples = p.output == OUTPUT_IMAGE ? 1 : 8;
    if (!s) s = output_format(&format, out, &err);
    if (!s && !has_seed) s = draw_seed(&p.seed, &err);
    if (s) goto done;
    const bool is_measurement = has_extension(in, ".safetensors");
    s = is_measurement ? measurement_read(&y, in, &err) : image_read(&img, in, &err);
    if (!s && mask_file) s = image_read(&mask, mask_file, &err);
    if (!s) s = session_open(&session, &engine, model, &err);
    if (s) goto done;
    const struct image *hole = mask_file ? &mask : NULL;
    s = is_measurement ? restoration_of_measurement(&r, session.model, &p, &y, hole, &err)
                       : restoration_new(&r, session.model, &p, &img, hole, &err);
    if (!s) s = session_run(&session, r, true, &err);
    if (!s) s = restoration_image(r, p.output, 0, &restored, &err);
    if (!s) s = image_write(out, &restored, &err);
    if (s) goto done;
    if (is_json)
        s = print_json(&session, &p, restoration_facts(r), &err);
    else
        print_text(&session, &p, restoration_facts(r));
done:
    restoration_free(r);
    session_close(&session);
    image_done(&img);
    image_done(&mask);
    image_done(&restored);
    measurement_done(&y);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
