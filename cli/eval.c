/* david eval: degrade, restore and score every image of a folder. */
#include <dirent.h>
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/measurements.h"
#include "cli/progress.h"
#include "cli/score.h"
#include "cli/session.h"
#include "proto/models/model_folder.h"

static const char about[] =
    "Degrades (nothing clipped), restores and scores the PNG and JPEG files of a folder, in "
    "natural\n"
    "order. The restoration gets sigma and level where the model was trained for a range of "
    "them;\n"
    "image i (from 0) has seed N + i for its noise and its sample. inpaint: the hole is\n"
    "--mask, else a centred rectangle of half the width and height. Scores are of the 8-bit "
    "image\n"
    "returned, on [-1,1]: PSNR = 20 log10(2/RMSE); SSIM with a Gaussian window of 11x11, sigma "
    "1.5,\n"
    "K1 0.01, K2 0.03, range 2, whole windows only, mean over R, G, B. \"input\" scores are those "
    "of\n"
    "the measurement itself where it has the image's size. --out keeps truth/, measured/ and\n"
    "restored/ FILE.png.";

struct run {
    const char *task, *data, *out;
    double sigma, level;             /* of the measurement */
    double given_sigma, given_level; /* given to the restoration; 0: the model's own */
    uint64_t seed;
    struct image mask; /* pixels NULL: none given */
    struct session session;
};

struct scores {
    double psnr, ssim, input_psnr, input_ssim, residual, ms;
};
enum { SCORES = sizeof(struct scores) / sizeof(double) };

static int by_name(const void *a, const void *b)
{
    return natural_order(*(char *const *)a, *(char *const *)b);
}

static void names_free(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

static enum status names_read(char ***out, size_t *count, const char *folder, struct error *err)
{
    enum status s = ST_OK;
    char **names = NULL;
    size_t n = 0;
    DIR *d = opendir(folder);
    if (!d) return error_set(err, ST_IO, "%s: %s", folder, strerror(errno));
    for (struct dirent *e; !s && (e = readdir(d));) {
        enum image_format format;
        if (e->d_name[0] == '.' || !image_format_of_name(&format, e->d_name)) continue;
        char **more = realloc(names, (n + 1) * sizeof *names);
        if (more) names = more;
        if (!more || !(names[n] = strdup(e->d_name)))
            s = error_set(err, ST_NO_MEMORY_NOW, "no memory to list %s", folder);
        else
            n++;
    }
    closedir(d);
    if (!s && n == 0)
        s = error_set(err, ST_IO, "%s: no %s file in it", folder, image_format_names().text);
    if (s) {
        names_free(names, n);
        return s;
    }
    qsort(names, n, sizeof *names, by_name);
    *out = names;
    *count = n;
    return ST_OK;
}

/* [h][w][3] in [-1,1]; gray is repeated three times, alpha dropped. */
static float *rgb_of(const struct image *img)
{
    const size_t px = (size_t)img->width * img->height;
    float *rgb = malloc(px * 3 * sizeof *rgb);
    for (size_t p = 0; rgb && p < px; p++)
        for (size_t c = 0; c < 3; c++) {
            size_t i = p * img->channels + (img->channels < 3 ? 0 : c);
            rgb[p * 3 + c] = img->depth == 16
                                 ? (float)(((const uint16_t *)img->pixels)[i] / 32767.5 - 1)
                                 : (float)(((const uint8_t *)img->pixels)[i] / 127.5 - 1);
        }
    return rgb;
}

static float *rgb_of_measurement(const struct measurement *y)
{
    const size_t px = (size_t)y->width * y->height;
    float *rgb = malloc(px * 3 * sizeof *rgb);
    for (size_t p = 0; rgb && p < px; p++)
        for (size_t c = 0; c < 3; c++)
            rgb[p * 3 + c] = y->y[p * y->channels + (y->channels == 1 ? 0 : c)];
    return rgb;
}

/* scale: of the task */
static enum status score(struct scores *out, uint32_t scale, const struct image *truth,
                         const struct image *x, const struct measurement *y, struct error *err)
{
    enum status s = ST_OK;
    float *a = NULL, *b = NULL, *m = NULL;
    const uint32_t w = x->width, h = x->height;
    if (w != truth->width || h != truth->height)
        return error_set(err, ST_BAD_PARAMETER,
                         "restored to %ux%u px, not %ux%u: sides divisible by %u are needed", w, h,
                         truth->width, truth->height, scale);
    a = rgb_of(truth);
    b = rgb_of(x);
    m = rgb_of_measurement(y);
    if (!a || !b || !m) {
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory to score %ux%u px", w, h);
        goto done;
    }
    const size_t n = (size_t)w * h * 3;
    out->psnr = score_psnr(a, b, n);
    out->ssim = score_ssim(a, b, w, h, 3);
    out->input_psnr = out->input_ssim = NAN;
    if (y->width == w && y->height == h) {
        out->input_psnr = score_psnr(a, m, n);
        out->input_ssim = score_ssim(a, m, w, h, 3);
    }
done:
    free(a);
    free(b);
    free(m);
    return s;
}

static enum status keep(const struct run *run, const char *kind, const char *name,
                        const struct image *img, struct error *err)
{
    char path[PATH_MAX];
    if (mkdir(run->out, 0777) && errno != EEXIST)
        return error_set(err, ST_IO, "%s: %s", run->out, strerror(errno));
    int n = snprintf(path, sizeof path, "%s/%s", run->out, kind);
    if (n < (int)sizeof path && mkdir(path, 0777) && errno != EEXIST)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    n = snprintf(path, sizeof path, "%s/%s/%s.png", run->out, kind, name);
    if (n >= (int)sizeof path) return error_set(err, ST_IO, "%s: the path is too long", run->out);
    return image_write(path, img, err);
}

static enum status keep_pair(const struct run *run, const char *name, const struct image *truth,
                             const struct image *x, const struct measurement *y, struct error *err)
{
    struct image clipped = { 0 };
    enum status s = measurement_image(y, &clipped, err);
    if (!s) s = keep(run, "truth", name, truth, err);
    if (!s) s = keep(run, "measured", name, &clipped, err);
    if (!s) s = keep(run, "restored", name, x, err);
    image_done(&clipped);
    return s;
}

static enum status evaluate(struct run *run, struct scores *out, const char *name, uint64_t seed,
                            struct error *err)
{
    char path[PATH_MAX];
    struct image truth = { 0 }, hole = { 0 }, x = { 0 };
    struct measurement y = { 0 };
    struct restoration *r = NULL;
    const struct restore_params p = { .task = run->task,
                                      .seed = seed,
                                      .h = -1,
                                      .sigma = run->given_sigma,
                                      .level = run->given_level,
                                      .samples = 1 };
    if (snprintf(path, sizeof path, "%s/%s", run->data, name) >= (int)sizeof path)
        return error_set(err, ST_IO, "%s: the path is too long", run->data);
    enum status s = image_read(&truth, path, err);
    const struct image *mask = run->mask.pixels ? &run->mask : NULL;
    if (!s && !mask && task_shape(run->task).takes_mask) {
        s = centred_hole(&hole, truth.width, truth.height, err);
        mask = &hole;
    }
    if (!s) s = measurement_make(&y, run->task, run->sigma, run->level, seed, &truth, mask, err);
    if (s) goto done;
    const uint64_t start = clock_ns();
    s = restoration_of_measurement(&r, run->session.model, &p, &y, mask, err);
    if (!s) s = session_run(&run->session, r, false, err);
    if (!s) s = restoration_image(r, OUTPUT_IMAGE, 0, &x, err);
    if (s) goto done;
    out->ms = (double)(clock_ns() - start) / 1e6;
    out->residual = restoration_facts(r)->residual_rms;
    s = score(out, task_shape(run->task).scale, &truth, &x, &y, err);
    if (!s && run->out) s = keep_pair(run, name, &truth, &x, &y, err);
done:
    restoration_free(r);
    measurement_done(&y);
    image_done(&x);
    image_done(&hole);
    image_done(&truth);
    return s;
}

static void print_scores(const struct scores *v)
{
    const double values[SCORES] = { v->psnr,       v->ssim,     v->input_psnr,
                                    v->input_ssim, v->residual, v->ms };
    for (int i = 0; i < SCORES; i++)
        printf(i == 1 || i == 3 || i == 4 ? " %10.4f" : " %10.2f", values[i]);
    putchar('\n');
}

static json_t *scores_value(const struct scores *v)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "psnr", json_of_number(v->psnr), "ssim",
                     json_of_number(v->ssim), "input_psnr", json_of_number(v->input_psnr),
                     "input_ssim", json_of_number(v->input_ssim), "residual_rms",
                     json_of_number(v->residual), "ms_per_image", json_of_number(v->ms));
}

/* Appends {"name": ..., and the scores} to `images`. */
static enum status add_image(json_t *images, const char *name, const struct scores *v,
                             struct error *err)
{
    json_t *image = json_pack("{s:o}", "name", json_of_text(name)), *scores = scores_value(v);
    enum status s = ST_OK;
    if (!image || !scores || json_object_update(image, scores) || json_array_append(images, image))
        s = error_set(err, ST_NO_MEMORY_NOW, "no memory for the scores");
    json_decref(image);
    json_decref(scores);
    return s;
}

/* Appends the scores of every image to `images` (--json), or prints them as a table where it is
 * NULL; `mean` receives their means. */
static enum status evaluate_all(struct run *run, struct scores *mean, json_t *images, char **names,
                                size_t n, struct error *err)
{
    struct progress progress = { 0 };
    progress_begin(&progress, "images", n);
    if (!images)
        printf("%-24s %10s %10s %10s %10s %10s %10s\n", "image", "PSNR", "SSIM", "input PSNR",
               "input SSIM", "residual", "ms");
    for (size_t i = 0; i < n; i++) {
        struct scores v = { 0 };
        struct error why = { 0 };
        enum status s = evaluate(run, &v, names[i], run->seed + i, &why);
        progress_end(&progress);
        if (s) return error_set(err, s, "%s: %s", names[i], why.detail);
        if (images) {
            s = add_image(images, names[i], &v, err);
            if (s) return s;
        } else {
            printf("%-24s", names[i]);
            print_scores(&v);
        }
        mean->psnr += v.psnr / (double)n;
        mean->ssim += v.ssim / (double)n;
        mean->input_psnr += v.input_psnr / (double)n;
        mean->input_ssim += v.input_ssim / (double)n;
        mean->residual += v.residual / (double)n;
        mean->ms += v.ms / (double)n;
        progress_show(&progress, i + 1);
    }
    progress_end(&progress);
    return ST_OK;
}

static enum status evaluate_to_table(struct run *run, char **names, size_t n, struct error *err)
{
    struct scores mean = { 0 };
    enum status s = evaluate_all(run, &mean, NULL, names, n, err);
    if (s) return s;
    printf("%-24s", "mean");
    print_scores(&mean);
    return ST_OK;
}

/* Prints the object completely or not at all: after an error stdout is empty. */
static enum status evaluate_to_json(struct run *run, char **names, size_t n, struct error *err)
{
    struct scores mean = { 0 };
    char seed[24];
    json_t *images = json_array();
    if (!images) return error_set(err, ST_NO_MEMORY_NOW, "no memory for the scores");
    enum status s = evaluate_all(run, &mean, images, names, n, err);
    if (s) {
        json_decref(images);
        return s;
    }
    const struct engine_facts *e = engine_describe(run->session.engine);
    (void)snprintf(seed, sizeof seed, "%" PRIu64, run->seed);
    return json_print(json_pack("{s:o, s:o, s:I, s:s, s:o, s:o, s:s, s:s, s:s, s:s, s:i}", "images",
                                images, "mean", scores_value(&mean), "count", (json_int_t)n, "task",
                                run->task, "sigma", json_of_number(run->sigma), "level",
                                json_of_level(run->level), "seed", seed, "model",
                                model_digest(run->session.model), "backend", e->backend, "dtype",
                                e->dtype, "threads", e->threads),
                      err);
}

/* Chooses sigma and level of the measurement, and those that the restoration is given. */
static enum status choose_degradation(struct run *run, struct error *err)
{
    const struct model_task *t = model_find_task(run->session.model, run->task);
    if (!t) return ST_OK; /* the first restoration reports the tasks that the model has */
    if (run->sigma < 0) run->sigma = t->sigma;
    if (run->level == 0) run->level = t->level;
    if (t->level_range[0] < t->level_range[1]) run->given_level = run->level;
    if (t->sigma_range[0] == t->sigma_range[1]) return ST_OK;
    if (run->sigma == 0 && t->sigma_range[0] > 0)
        return error_set(err, ST_BAD_PARAMETER,
                         "sigma = 0 is not in %g..%g, what the model's task %s was trained for",
                         t->sigma_range[0], t->sigma_range[1], t->name);
    run->given_sigma = fmax(run->sigma, DBL_MIN); /* 0 would select the model's own */
    return ST_OK;
}

int cmd_eval(int argc, char **argv)
{
    struct engine_options engine = { 0 };
    struct run run = { .sigma = -1 };
    const char *model = NULL, *mask_file = NULL;
    uint32_t threads = 0, limit = 0;
    bool has_level = false, is_json = false;
    const struct level_help level_of = level_help(" (the model's)");
    const struct option_row rows[] = {
        { "task", OPTION_TEXT, &run.task, "T", task_names, 0, 0, NULL },
        { "data", OPTION_TEXT, &run.data, "DIR", "the folder of images", 0, 0, NULL },
        { "model", OPTION_TEXT, &model, "FILE|NAME", "the model (default)", 0, 0, NULL },
        { "seed", OPTION_SEED, &run.seed, "N", "of the first image (0)", 0, 0, NULL },
        { "sigma", OPTION_NUMBER, &run.sigma, "S", "of the noise, units of [-1,1] (the model's)", 0,
          10, NULL },
        { "level", OPTION_NUMBER, &run.level, "L", level_of.text, 0, 100, &has_level },
        { "mask", OPTION_TEXT, &mask_file, "M.png", "white = missing, for a task that takes a mask",
          0, 0, NULL },
        { "limit", OPTION_COUNT, &limit, "N", "only the first N images", 1, 1000000, NULL },
        { "out", OPTION_TEXT, &run.out, "DIR", "keep the images as PNG", 0, 0, NULL },
        ENGINE_ROWS(engine, threads),
        { "json", OPTION_FLAG, &is_json, NULL, "one JSON object", 0, 0, NULL },
    };
    const struct command c = { "eval", "", about, rows, sizeof rows / sizeof *rows, 0, 0 };
    options_parse(&c, argc, argv);
    if (!run.task) usage_error(c.name, "--task is needed");
    if (!run.data) usage_error(c.name, "--data is needed");
    usage_above_zero(c.name, "level", has_level, run.level);

    struct error err = { 0 };
    struct model_task known;
    char **names = NULL;
    size_t n = 0;
    engine.threads = (int)threads;
    enum status s = task_defaults(&known, run.task, &err);
    if (!s) s = names_read(&names, &n, run.data, &err);
    if (!s && mask_file) s = image_read(&run.mask, mask_file, &err);
    if (!s) s = session_open(&run.session, &engine, model, &err);
    if (!s) s = choose_degradation(&run, &err);
    if (!s) {
        const size_t used = limit && limit < n ? limit : n;
        s = (is_json ? evaluate_to_json : evaluate_to_table)(&run, names, used, &err);
    }
    session_close(&run.session);
    image_done(&run.mask);
    names_free(names, n);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
