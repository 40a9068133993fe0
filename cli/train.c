/* david train: a prior from photographs, a restorer from a prior; david sample: samples of a
 * prior. */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/files.h"
#include "cli/session.h"
#include "engine/train/train.h"

static const char about_train[] =
    "Trains a network on the PNG and JPEG files of a folder.\n"
    "prior: learns to denoise; begins from --init, or anew from --arch.\n"
    "davi:  a restorer of --task from --prior; begins as the prior, or as --init.\n"
    "A step takes --batch crops, --micro-batch of them at a time. Checkpoints go to "
    "--checkpoint-dir;\n"
    "--resume goes on from the newest one there is, to the same bytes as without the "
    "interruption.\n"
    "SIGTERM and SIGINT end a run at a checkpoint. --json writes a line a step: every term of the\n"
    "loss, the norms of the gradients, images per second.\n"
    "Under Open MPI's mpirun the processes share each batch; a micro-batch is one process's.";

static const char about_sample[] =
    "Draws samples of a prior by DDIM, as one sheet: what it has learnt of the world.";

static volatile sig_atomic_t is_asked_to_stop;

static void on_signal(int number)
{
    (void)number;
    is_asked_to_stop = 1;
}

struct telling {
    bool is_json, is_terminal;
    uint64_t last_ns;
};

/* The values of the progress line on a terminal. */
static bool is_for_people(const char *name)
{
    static const char *const names[] = { "mse",         "vb",    "score_mse", "discriminator",
                                         "consistency", "truth", "total" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static void progress(void *ctx, const struct train_progress *p)
{
    struct telling *t = ctx;
    if (t->is_json) {
        json_t *line = json_pack("{s:I, s:I, s:o, s:o}", "step", (json_int_t)p->step, "steps",
                                 (json_int_t)p->steps, "images_per_second",
                                 json_of_number(p->images_per_second), "processor_seconds",
                                 json_of_number((double)clock() / CLOCKS_PER_SEC));
        for (uint32_t i = 0; line && i < p->n_values; i++)
            (void)json_object_set_new(line, p->values[i].name, json_of_number(p->values[i].value));
        (void)json_print(line, NULL);
        (void)fflush(stdout);
    }
    const uint64_t now = clock_ns();
    if (!t->is_terminal || (now - t->last_ns < 200000000 && p->step < p->steps)) return;
    t->last_ns = now;
    fprintf(stderr, "\r\033[K%" PRIu64 " of %" PRIu64 ", %.1f images/s", p->step, p->steps,
            p->images_per_second);
    for (uint32_t i = 0; i < p->n_values; i++)
        if (is_for_people(p->values[i].name))
            fprintf(stderr, ", %s %.3g", p->values[i].name, p->values[i].value);
}

static void validation(void *ctx, const struct train_validation *v)
{
    const struct telling *t = ctx;
    if (t->is_json) {
        json_t *scores = json_object();
        for (uint32_t i = 0; scores && i < v->n_tasks; i++) {
            const struct train_task_score *k = &v->tasks[i];
            (void)json_object_set_new(scores, k->name,
                                      json_pack("{s:o, s:o, s:o}", "psnr", json_of_number(k->psnr),
                                                "mean_psnr", json_of_number(k->mean_psnr),
                                                "coverage", json_of_number(k->coverage)));
        }
        (void)json_print(json_pack("{s:I, s:o, s:b, s:o}", "step", (json_int_t)v->step, "score",
                                   json_of_number(v->score), "best", (int)v->is_best, "validation",
                                   scores),
                         NULL);
        (void)fflush(stdout);
        return;
    }
    fprintf(stderr, "%sdavid train: step %" PRIu64 ": validation %.2f dB%s",
            t->is_terminal ? "\r\033[K" : "", v->step, v->score,
            v->is_best ? ", the best so far" : "");
    for (uint32_t i = 0; i < v->n_tasks; i++)
        fprintf(stderr, ", %s %.2f", v->tasks[i].name, v->tasks[i].mean_psnr);
    fputc('\n', stderr);
}

static void note(void *ctx, const char *text)
{
    struct telling *t = ctx;
    fprintf(stderr, "%sdavid train: %s\n", t->is_terminal ? "\r\033[K" : "", text);
}

static bool should_stop(void *ctx)
{
    (void)ctx;
    return is_asked_to_stop;
}

static int run(const struct command *c, const struct train_options *o, struct telling *t)
{
    const struct train_events events = { progress, validation, note, should_stop, clock_ns, t };
    struct train_result r;
    struct error err = { 0 };
    struct sigaction stop = { .sa_handler = on_signal };
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    enum status s = train_run(o, &events, &r, &err);
    if (t->is_terminal) fputs("\r\033[K", stderr);
    if (r.is_told_elsewhere)
        return EXIT_SUCCESS; /* a failure here would make mpirun end the process that reports */
    if (r.left_out)
        fprintf(stderr, "david train: %u of %u images were left out\n", r.left_out, r.images);
    if (s) {
        int code = report_error(c->name, &err);
        if (r.steps)
            fprintf(stderr, "david train: after step %" PRIu64 "; the last good checkpoint: %s\n",
                    r.steps, *r.checkpoint ? r.checkpoint : "none");
        return code;
    }
    if (r.is_stopped)
        fprintf(stderr, "david train: stopped after step %" PRIu64 "; go on with --resume: %s\n",
                r.steps, r.checkpoint);
    else
        fprintf(stderr, "david train: %s: %" PRIu64 " steps in %zu MiB of memory\n", o->out,
                r.steps, r.bytes >> 20);
    return finish_stdout(c->name);
}

static enum train_kind kind_of(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "davi") == 0) return TRAIN_DAVI;
    if (argc > 1 && strcmp(argv[1], "prior") == 0) return TRAIN_PRIOR;
    if (argc > 1 && strcmp(argv[1], "--help") != 0)
        usage_error("train", "%.64s: prior or davi is needed", argv[1]);
    if (argc < 2) usage_error("train", "prior or davi is needed");
    return TRAIN_DAVI;
}

static bool parse_recompute(enum recompute *out, const char *text)
{
    static const char *const names[] = {
        [RECOMPUTE_NOTHING] = "nothing", [RECOMPUTE_NORMS] = "norms", [RECOMPUTE_BLOCKS] = "blocks"
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], text) != 0) continue;
        *out = (enum recompute)i;
        return true;
    }
    return false;
}

int cmd_train(int argc, char **argv)
{
    struct train_options o;
    struct telling t = { .is_terminal = isatty(STDERR_FILENO) };
    const char *prior = NULL, *init = NULL, *recompute = "nothing";
    uint32_t threads = 0, cache_mib = 1024, warmup = 0, decay = 0;
    train_defaults(&o, kind_of(argc, argv));
    uint32_t steps = (uint32_t)o.steps;
    char task_help[256];
    (void)snprintf(task_help, sizeof task_help, "davi: %s, drawn by weight", task_names);
    const struct option_row rows[] = {
        { "data", OPTION_TEXT, &o.data, "DIR", "the folder of images", 0, 0, NULL },
        { "out", OPTION_TEXT, &o.out, "FILE", "the model file", 0, 0, NULL },
        { "task", OPTION_TEXT, &o.tasks, "T[:W],..", task_help, 0, 0, NULL },
        { "objective", OPTION_TEXT, &o.objective, "O[:W],..",
          "davi: davi, regression, energy, or a weighted sum (davi)", 0, 0, NULL },
        { "prior", OPTION_TEXT, &prior, "FILE|NAME", "davi: the prior", 0, 0, NULL },
        { "init", OPTION_TEXT, &init, "FILE|NAME", "weights to begin from", 0, 0, NULL },
        { "arch", OPTION_TEXT, &o.arch, "JSON|NAME",
          "the architecture, to begin anew or with more than --init has", 0, 0, NULL },
        { "size", OPTION_COUNT, &o.size, "PX", "side of a crop (the architecture's)", 8, 4096,
          NULL },
        { "steps", OPTION_COUNT, &steps, "N", "of all (10000)", 1, UINT32_MAX, NULL },
        { "batch", OPTION_COUNT, &o.batch, "N", "crops a step (8)", 1, 1 << 20, NULL },
        { "micro-batch", OPTION_COUNT, &o.micro_batch, "N", "crops at a time (up to 16)", 1, 256,
          NULL },
        { "lr", OPTION_NUMBER, &o.lr, "X", "learning rate (1e-4)", 0, 1, NULL },
        { "lr-end", OPTION_NUMBER, &o.lr_end, "X", "where it falls to in the end (0)", 0, 1, NULL },
        { "warmup", OPTION_COUNT, &warmup, "N", "steps over which it rises (0)", 0, UINT32_MAX,
          NULL },
        { "decay", OPTION_COUNT, &decay, "N", "last steps, over which it falls along a cosine (0)",
          0, UINT32_MAX, NULL },
        { "clip", OPTION_NUMBER, &o.clip, "X", "longest gradient (0: any)", 0, 1e6, NULL },
        { "average-decay", OPTION_NUMBER, &o.average_decay, "X",
          "of the weights' running average, at most (0.9999)", 0, 0.999999, NULL },
        { "weight-decay", OPTION_NUMBER, &o.weight_decay, "X", "AdamW's (0.01)", 0, 1, NULL },
        { "l2", OPTION_FLAG, &o.regression_l2, NULL,
          "regression of squares, not of absolute differences", 0, 0, NULL },
        { "energy-norm", OPTION_FLAG, &o.energy_norm, NULL,
          "energy score of colours together, not of each channel", 0, 0, NULL },
        { "validate", OPTION_TEXT, &o.validate, "DIR",
          "davi: a folder to score, and keep the best by", 0, 0, NULL },
        { "validate-every", OPTION_COUNT, &o.validate_every, "N", "steps (1000)", 1, UINT32_MAX,
          NULL },
        { "validate-crops", OPTION_COUNT, &o.validate_crops, "N", "of each task (16)", 1, 1024,
          NULL },
        { "discriminator-lr", OPTION_NUMBER, &o.discriminator_lr, "X",
          "davi: the discriminator's (1e-4)", 0, 1, NULL },
        { "discriminator-width", OPTION_COUNT, &o.discriminator_width, "N",
          "davi: channels of its first block (64)", 1, 1024, NULL },
        { "sigma", OPTION_NUMBER, &o.sigma, "S", "davi: of the noise (the task's)", 0, 10, NULL },
        { "sigma-low", OPTION_NUMBER, &o.sigma_low, "S",
          "davi: drawn from here, where the network is told (the task's)", 0, 10, NULL },
        { "sigma-high", OPTION_NUMBER, &o.sigma_high, "S", "davi: up to here", 0, 10, NULL },
        { "weight-con", OPTION_NUMBER, &o.weight_con, "X",
          "of the consistency in the objective davi (the task's)", 0, 1e6, NULL },
        { "reg-coeff", OPTION_NUMBER, &o.reg_coeff, "X", "of its truth term (the task's)", 0, 1e6,
          NULL },
        { "t-ikl", OPTION_NUMBER, &o.t_ikl, "T", "below which its scores are compared (the task's)",
          1, 1000, NULL },
        { "h", OPTION_NUMBER, &o.h, "H", "davi: of the sampler's noise (the task's)", 0, 10, NULL },
        { "seed", OPTION_SEED, &o.seed, "N", "of every draw (0)", 0, 0, NULL },
        { "jitter", OPTION_NUMBER, &o.jitter, "X", "crops are shrunk by up to this factor (2)", 1,
          16, NULL },
        { "texture", OPTION_NUMBER, &o.texture, "X",
          "levels between neighbours from which on a crop is taken at once (8)", 0, 255, NULL },
        { "loader-threads", OPTION_COUNT, &o.loader_threads, "N",
          "that read, crop and degrade ahead of the steps (1)", 1, 16, NULL },
        { "cache-mib", OPTION_COUNT, &cache_mib, "N", "of decoded images (1024)", 1, 1 << 20,
          NULL },
        { "checkpoint-dir", OPTION_TEXT, &o.checkpoints, "DIR", "(OUT.checkpoints)", 0, 0, NULL },
        { "checkpoint-every", OPTION_COUNT, &o.checkpoint_every, "N", "steps (500)", 1, UINT32_MAX,
          NULL },
        { "keep", OPTION_COUNT, &o.keep, "N", "checkpoints (3)", 1, 1 << 20, NULL },
        { "sheet-every", OPTION_COUNT, &o.sheet_every, "N",
          "steps between sheets of images, beside the checkpoints (none)", 1, UINT32_MAX, NULL },
        { "resume", OPTION_FLAG, &o.resume, NULL, "go on from the newest checkpoint", 0, 0, NULL },
        { "recompute", OPTION_TEXT, &recompute, "WHAT",
          "norms or blocks: less memory, or least, for more time (nothing)", 0, 0, NULL },
        ENGINE_ROWS(o.engine, threads),
        { "json", OPTION_FLAG, &t.is_json, NULL, "a line of JSON a step", 0, 0, NULL },
    };
    const struct command c = {
        "train", "prior|davi", about_train, rows, sizeof rows / sizeof *rows, 1, 1
    };
    options_parse(&c, argc, argv);
    if (!o.data) usage_error(c.name, "--data is needed");
    if (!o.out) usage_error(c.name, "--out is needed");
    if (o.kind == TRAIN_DAVI && !o.tasks) usage_error(c.name, "--task is needed");
    if (o.kind == TRAIN_DAVI && !prior && !init && !o.arch)
        usage_error(c.name, "--prior, --init or --arch is needed");
    if (o.kind == TRAIN_DAVI && !prior && !o.objective)
        usage_error(c.name, "--prior is needed for the objective davi");
    if (o.kind == TRAIN_PRIOR && !init && !o.arch)
        usage_error(c.name, "--arch or --init is needed");
    if (o.kind == TRAIN_PRIOR && init && o.arch)
        usage_error(c.name, "--init has an architecture: no --arch beside it");

    if (!parse_recompute(&o.recompute, recompute))
        usage_error(c.name, "--recompute %.64s: nothing, norms or blocks is needed", recompute);

    char prior_path[PATH_MAX], init_path[PATH_MAX];
    struct error err = { 0 };
    enum status s = prior ? model_path(prior_path, prior, &err) : ST_OK;
    if (!s && init) s = model_path(init_path, init, &err);
    if (s) return report_error(c.name, &err);
    if (prior) o.prior = prior_path;
    if (init) o.init = init_path;
    o.steps = steps;
    o.warmup = warmup;
    o.decay = decay;
    o.cache_bytes = (size_t)cache_mib << 20;
    o.engine.threads = (int)threads;
    return run(&c, &o, &t);
}

int cmd_sample(int argc, char **argv)
{
    struct sample_options o = { .steps = 50, .count = 16 };
    const char *prior = NULL;
    uint32_t threads = 0;
    bool is_json = false;
    const struct option_row rows[] = {
        { "prior", OPTION_TEXT, &prior, "FILE|NAME", "the prior", 0, 0, NULL },
        { "steps", OPTION_COUNT, &o.steps, "N", "evaluations of the network (50)", 1, 1000, NULL },
        { "count", OPTION_COUNT, &o.count, "N", "samples on the sheet (16)", 1, 4096, NULL },
        { "seed", OPTION_SEED, &o.seed, "N", "of the noise (0)", 0, 0, NULL },
        ENGINE_ROWS(o.engine, threads),
        { "json", OPTION_FLAG, &is_json, NULL, "facts as one JSON object on stdout", 0, 0, NULL },
    };
    const struct command c = { "sample", "OUT.png", about_sample, rows, sizeof rows / sizeof *rows,
                               1,        1 };
    const char *out = argv[options_parse(&c, argc, argv)];
    if (!prior) usage_error(c.name, "--prior is needed");
    if (is_json && strcmp(out, "-") == 0)
        usage_error(c.name, "--json and the image cannot both go to stdout");

    char path[PATH_MAX];
    struct error err = { 0 };
    struct image img = { 0 };
    enum image_format format;
    o.engine.threads = (int)threads;
    enum status s = output_format(&format, out, &err);
    if (!s) s = model_path(path, prior, &err);
    o.prior = path;
    if (!s) s = prior_sample(&img, &o, &err);
    if (!s) s = image_write(out, &img, &err);
    if (!s && is_json) {
        char seed[24];
        (void)snprintf(seed, sizeof seed, "%" PRIu64, o.seed);
        s = json_print(json_pack("{s:i, s:i, s:s, s:i, s:i}", "count", (int)o.count, "steps",
                                 (int)o.steps, "seed", seed, "width", (int)img.width, "height",
                                 (int)img.height),
                       &err);
    }
    image_done(&img);
    return s ? report_error(c.name, &err) : finish_stdout(c.name);
}
