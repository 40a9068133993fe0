/* Both steps of DAVI against train_*.safetensors of the golden folder (engine/README.md section 7):
 * every loss, every gradient, and the optimiser's steps from them. Back end as in
 * test_gradients_golden.c; F32. One line a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glob.h>

#include "engine/nets/unet.h"
#include "engine/train/davi.h"
#include "tests/engine/golden.h"

#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != ST_OK) fail_msg("%s: %s", #call, err.detail);                                \
    } while (0)

static const double tolerance = 1e-4, update_tolerance = 1e-2; /* the second: of lr */

static struct error err;
static struct backend *b;

/* One file's training: four networks from hashes, the images, and the draws. */
struct training {
    struct golden g;
    struct trainable nets[4]; /* teacher, score, generator, discriminator */
    struct davi davi;
    struct davi_options o;
    struct schedule *schedule;
    struct davi_rows rows;
    double lr, worst_update;
    unsigned noise; /* weights whose gradient is smaller than the rounding of the others */
    float *x, *y, *y_in;
    uint8_t *observed_mask;
    size_t px, count; /* of a row; values of the images */
};

enum { TEACHER, SCORE, GENERATOR, DISCRIMINATOR };

static double number(const struct golden *g, const char *key)
{
    return strtod(golden_text(g, key), NULL);
}

/* Hash weights under a prefix, the last convolution's scaled. */
struct hashed {
    uint64_t seed;
    const char *prefix;
    float last;
};

static enum status hashed_load(void *ctx, const struct param_desc *d, float *dst, struct error *e)
{
    struct hashed *h = ctx;
    struct param_desc named = *d;
    (void)snprintf(named.name, sizeof named.name, "%s%.60s", h->prefix, d->name);
    enum status s = hash_param_load(&h->seed, &named, dst, e);
    for (size_t i = 0; i < d->count && strcmp(d->name, "out.2.weight") == 0; i++)
        dst[i] *= h->last;
    return s;
}

static void open_nets(struct training *t, const struct unet_arch *arch, uint32_t rows)
{
    const uint64_t seed = golden_seed(&t->g);
    const uint32_t side = arch->image_size;
    for (int i = 0; i < 4; i++) {
        struct graph *g = NULL;
        struct trainable_options o = { .tape = { .rows = rows, .dtype = DT_F32 } };
        struct hashed h = { seed + 30 + (uint64_t)i, i == DISCRIMINATOR ? "disc." : "", 0.2f };
        if (i == DISCRIMINATOR)
            EXPECT_OK(patchgan_build(&g, (uint32_t)number(&t->g, "disc_ndf"), side, side, &err));
        else
            EXPECT_OK(unet_build(&g, arch, side, side, &err));
        o.tape.forward_only = i == TEACHER;
        o.tape.keep_taps = o.tape.input_gradient = i == DISCRIMINATOR;
        if (i == GENERATOR) o.tape.probe = generator_probe(g);
        EXPECT_OK(trainable_init(&t->nets[i], b, g, &o, &err));
        EXPECT_OK(trainable_load(&t->nets[i], &(struct param_source){ hashed_load, &h }, &err));
    }
}

static float *nhwc_values(const struct golden *g, const char *name, size_t px, size_t c)
{
    size_t count = 0;
    float *flat = golden_values(g, name, &count);
    if (!flat) fail_msg("the file has no %s", name);
    float *v = malloc(count * sizeof *v);
    assert_non_null(v);
    golden_to_nhwc(v, flat, count, px, c);
    free(flat);
    return v;
}

static void open_training(struct training *t, const char *path)
{
    *t = (struct training){ 0 };
    golden_open(&t->g, path);
    const struct unet_arch arch = golden_arch(&t->g);
    const struct task_desc *task = task_find(golden_text(&t->g, "task"));
    assert_non_null(task);
    const struct st_tensor *clean = safetensors_find(t->g.file, "clean");
    const struct st_tensor *y = safetensors_find(t->g.file, "y");
    assert_true(clean && y && clean->dims == 4 && y->dims == 4);
    const uint32_t rows = (uint32_t)clean->shape[0], side = arch.image_size;
    t->px = (size_t)side * side;
    t->count = rows * t->px * 3;
    t->x = nhwc_values(&t->g, "clean", t->px, 3);
    const size_t each = y->count / rows;
    t->y = nhwc_values(&t->g, "y", (size_t)(y->shape[2] * y->shape[3]), (size_t)y->shape[1]);
    t->y_in = malloc(t->count * sizeof *t->y_in);
    t->schedule = malloc(sizeof *t->schedule);
    assert_true(t->y_in && t->schedule);
    schedule_init(t->schedule, SCHEDULE_DAVI);
    for (uint32_t n = 0; n < rows; n++)
        bridge_input(task->op, side, t->y + n * each, t->y_in + n * t->px * 3);
    size_t n_mask = 0;
    float *mask = golden_values(&t->g, "mask", &n_mask);
    if (mask) {
        assert_int_equal(n_mask, t->px);
        t->observed_mask = malloc(rows * t->px);
        assert_non_null(t->observed_mask);
        for (size_t i = 0; i < rows * t->px; i++)
            t->observed_mask[i] = mask[i % t->px] > 0;
        free(mask);
    }
    t->lr = number(&t->g, "lr");
    t->o = (struct davi_options){ .op = task->op,
                                  .h = number(&t->g, "h"),
                                  .weight_con = number(&t->g, "weight_con"),
                                  .reg_coeff = number(&t->g, "reg_coeff"),
                                  .schedule = t->schedule };
    t->rows = (struct davi_rows){
        .x = t->x, .y = t->y, .y_in = t->y_in, .observed_mask = t->observed_mask
    };
    open_nets(t, &arch, rows);
    EXPECT_OK(davi_init(&t->davi, &t->o, &t->nets[0], &t->nets[1], &t->nets[2], &t->nets[3], &err));
}

static void close_training(struct training *t)
{
    davi_done(&t->davi);
    for (int i = 0; i < 4; i++)
        trainable_done(&t->nets[i]);
    safetensors_close(t->g.file);
    free(t->schedule);
    free(t->x);
    free(t->y);
    free(t->y_in);
    free(t->observed_mask);
}

/* ---- draws ---- */

struct drawn {
    struct davi_draws draws;
    uint32_t t[MOST_ROWS], t_bridge[MOST_ROWS];
    float *z, *noise;
};

static void draw_times(const struct training *t, const char *name, uint32_t *to)
{
    size_t n = 0;
    float *v = golden_values(&t->g, name, &n);
    if (!v) fail_msg("the file has no %s", name);
    for (size_t i = 0; i < n; i++)
        to[i] = (uint32_t)v[i];
    free(v);
}

static float *draw_noise(const struct training *t, const char *step, int which)
{
    char name[96];
    float *flat = malloc(t->count * sizeof *flat), *v = malloc(t->count * sizeof *v);
    assert_true(flat && v);
    (void)snprintf(name, sizeof name, "train.%s.%s.noise%d", golden_text(&t->g, "task"), step,
                   which);
    hash_values(name, golden_seed(&t->g), flat, t->count);
    golden_to_nhwc(v, flat, t->count, t->px, 3);
    free(flat);
    return v;
}

static void draw(const struct training *t, const char *step, struct drawn *d)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%s.t", step);
    draw_times(t, name, d->t);
    (void)snprintf(name, sizeof name, "%s.t_bridge", step);
    draw_times(t, name, d->t_bridge);
    d->z = draw_noise(t, step, 1);
    d->noise = draw_noise(t, step, 2);
    d->draws =
        (struct davi_draws){ .t_bridge = d->t_bridge, .t = d->t, .z = d->z, .noise = d->noise };
}

/* ---- comparing ---- */

static void compare_value(struct training *t, const char *name, double v)
{
    float f = (float)v;
    golden_whole(&t->g, name, &f, 1, 1);
}

static void compare_gradients(struct training *t, int net, const char *prefix)
{
    const struct trainable *l = &t->nets[net];
    for (uint32_t i = 0; i < l->g->n_params; i++) {
        char name[PARAM_NAME_MAX + 32];
        (void)snprintf(name, sizeof name, "%s%s", prefix, l->g->params[i].name);
        golden_sampled(&t->g, name, l->gradients + l->layout.offset[i], l->g->params[i].count);
    }
}

/* The rows of the last convolution that give v, apart from those of eps: their gradient is
 * small. */
static void compare_variance(struct training *t, const char *param)
{
    const struct trainable *l = &t->nets[SCORE];
    for (uint32_t i = 0; i < l->g->n_params; i++) {
        if (strcmp(l->g->params[i].name, param) != 0) continue;
        char key[96];
        size_t n = 0, each = l->g->params[i].count / l->g->params[i].shape[0];
        (void)snprintf(key, sizeof key, "score.grad.%s#val", param);
        float *want = golden_values(&t->g, key, &n);
        (void)snprintf(key, sizeof key, "score.grad.%s#at", param);
        const struct st_tensor *at = safetensors_find(t->g.file, key);
        assert_true(want && at && at->count == n);
        double off = 0, most = 0;
        for (size_t k = 0; k < n; k++) {
            uint64_t flat;
            memcpy(&flat, (const char *)at->data + k * sizeof flat, sizeof flat);
            if (flat / each < 3) continue;
            double have = (double)l->gradients[l->layout.offset[i] + flat];
            off = fmax(off, fabs(have - (double)want[k]));
            most = fmax(most, fabs((double)want[k]));
        }
        assert_true(most > 0);
        (void)snprintf(key, sizeof key, "score.grad.%s, variance", param);
        golden_note(&t->g, key, off / most);
        free(want);
    }
}

/* The file's parameters after a step, as differences from `before`. A parameter whose gradient is
 * zero in exact arithmetic is left out, as rounding decides the direction of its update. */
static void compare_update(struct training *t, int net, const char *step, const char *grad,
                           const float *before)
{
    const struct trainable *l = &t->nets[net];
    unsigned compared = 0;
    for (uint32_t i = 0; i < l->g->n_params; i++) {
        char key[PARAM_NAME_MAX + 48];
        size_t n = 0, n_l2 = 0;
        (void)snprintf(key, sizeof key, "%s%s#l2", grad, l->g->params[i].name);
        float *l2 = golden_values(&t->g, key, &n_l2);
        (void)snprintf(key, sizeof key, "%s%s#val", step, l->g->params[i].name);
        float *want = golden_values(&t->g, key, &n);
        (void)snprintf(key, sizeof key, "%s%s#at", step, l->g->params[i].name);
        const struct st_tensor *at = safetensors_find(t->g.file, key);
        for (size_t k = 0; want && at && l2 && *l2 >= 1e-6f && k < n; k++) {
            uint64_t flat;
            memcpy(&flat, (const char *)at->data + k * sizeof flat, sizeof flat);
            size_t place = l->layout.offset[i] + flat;
            double have = (double)l->params[place] - (double)before[place];
            double off = fabs(have - ((double)want[k] - (double)before[place])) / t->lr;
            /* An update is lr g / (|g| + 1e-8). A gradient near 1e-8 has the rounding error of its
             * large neighbours, 3e-6 of their size, and the update turns the error into a large
             * part of lr: where that exceeds the tolerance, the update is not compared. */
            double rms = (double)*l2 / sqrt((double)l->g->params[i].count);
            double near_zero = fabs((double)l->gradients[place]) + 1e-8;
            if (off > update_tolerance &&
                1e-8 / (near_zero * near_zero) * 3e-6 * rms > update_tolerance) {
                assert_true(fabs(have) <= 1.02 * t->lr);
                t->noise++;
                continue;
            }
            t->worst_update = fmax(t->worst_update, off);
            compared++;
        }
        free(want);
        free(l2);
    }
    if (compared < 32) fail_msg("the file has no %s", step);
}

static float *copy_of(const struct trainable *l)
{
    float *v = malloc(l->layout.count * sizeof *v);
    assert_non_null(v);
    memcpy(v, l->params, l->layout.count * sizeof *v);
    return v;
}

static void compare_score_step(struct training *t)
{
    struct drawn d;
    struct score_report r;
    struct trainable *score = &t->nets[SCORE];
    draw(t, "score", &d);
    EXPECT_OK(davi_score_step(&t->davi, &t->rows, &d.draws, 1, &r, &err));
    float mse[MOST_ROWS], vb[MOST_ROWS];
    for (uint32_t i = 0; i < t->davi.rows; i++) {
        mse[i] = (float)r.denoising.row_mse[i];
        vb[i] = (float)r.denoising.row_vb[i];
    }
    golden_whole(&t->g, "score.mse", mse, 1, 1);
    golden_whole(&t->g, "score.vb", vb, 1, 1);
    compare_value(t, "score.loss", r.denoising.mse + r.denoising.vb);
    compare_value(t, "score.disc_loss", r.discriminator);
    compare_gradients(t, SCORE, "score.grad.");
    compare_gradients(t, DISCRIMINATOR, "disc.grad.");
    compare_variance(t, "out.2.weight");
    compare_variance(t, "out.2.bias");

    float *before = copy_of(score);
    EXPECT_OK(trainable_update(score, t->lr, &err));
    compare_update(t, SCORE, "score.after_adamw.", "score.grad.", before);
    free(before);
    before = copy_of(score);
    EXPECT_OK(b->ops->gradients->scale(b, score->gradients, score->layout.count, 0.5f, &err));
    EXPECT_OK(trainable_update(score, t->lr, &err));
    compare_update(t, SCORE, "score.after_adamw2.", "score.grad.", before);
    free(before);
    free(d.z);
    free(d.noise);
}

static void compare_generator_step(struct training *t)
{
    struct drawn d;
    struct generator_report r;
    draw(t, "gen", &d);
    EXPECT_OK(davi_generator_step(&t->davi, &t->rows, &d.draws, 1, &r, &err));
    golden_whole(&t->g, "gen.pred", t->davi.answer.pred, t->px, 3);
    golden_whole(&t->g, "gen.dpred.ikl", t->davi.d_ikl, t->px, 3);
    golden_whole(&t->g, "gen.dpred.consistency", t->davi.d_con, t->px, 3);
    golden_whole(&t->g, "gen.dpred.gt", t->davi.d_truth, t->px, 3);
    golden_whole(&t->g, "gen.dpred.gan", t->davi.d_gan, t->px, 3);
    compare_value(t, "gen.ikl", r.ikl);
    compare_value(t, "gen.consistency", r.consistency);
    compare_value(t, "gen.gt", r.truth);
    compare_value(t, "gen.gan", r.adversarial + r.features);
    compare_value(t, "gen.gan.adversarial", r.adversarial);
    compare_value(t, "gen.gan.feature_matching", r.features);
    compare_value(t, "gen.adaptive_weight", r.lambda);
    compare_value(t, "gen.total", r.total);
    compare_gradients(t, GENERATOR, "gen.grad.");
    float *before = copy_of(&t->nets[GENERATOR]);
    EXPECT_OK(trainable_update(&t->nets[GENERATOR], t->lr, &err));
    compare_update(t, GENERATOR, "gen.after_adamw.", "gen.grad.", before);
    free(before);
    free(d.z);
    free(d.noise);
}

static void both_steps_are_the_published_ones(void **state)
{
    (void)state;
    char pattern[512];
    glob_t found;
    (void)snprintf(pattern, sizeof pattern, "%s/train_*.safetensors",
                   golden_setting("DAVID_GOLDEN", DAVID_GOLDEN_DEFAULT));
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    unsigned failed = 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct training t;
        /* The generator's step is checked from the first weights too: anew. */
        open_training(&t, found.gl_pathv[i]);
        compare_score_step(&t);
        struct golden g = t.g;
        double worst_update = t.worst_update;
        unsigned noise = t.noise;
        t.g.file = NULL;
        close_training(&t);
        struct safetensors *first = g.file;
        open_training(&t, found.gl_pathv[i]);
        safetensors_close(t.g.file);
        g.file = first;
        t.g = g;
        t.worst_update = worst_update;
        t.noise = noise;
        compare_generator_step(&t);
        bool good = t.g.worst <= tolerance && t.worst_update <= update_tolerance;
        (void)printf("%-28s %s: worst relative error %.2e (%s, of %u), tolerance %.0e; updates off "
                     "by %.1e lr, tolerance %.0e (%u left out as noise)%s\n",
                     strrchr(found.gl_pathv[i], '/') + 1, b->ops->device.name, t.g.worst,
                     t.g.worst_name, t.g.compared, tolerance, t.worst_update, update_tolerance,
                     t.noise, good ? "" : "  FAILED");
        failed += !good;
        close_training(&t);
    }
    globfree(&found);
    assert_int_equal(failed, 0);
}

static void the_average_follows_as_published(void **state)
{
    (void)state;
    assert_true(average_decay(5, 0.9999) == 0);
    assert_true(average_decay(100, 0.9999) == 0);
    assert_true(average_decay(101, 0.9999) == 0);
    assert_true(fabs(average_decay(105, 0.9999) - (1 - pow(5, -2.0 / 3.0))) < 1e-12);
    assert_true(average_decay(10000000, 0.9999) == 0.9999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_average_follows_as_published),
        cmocka_unit_test(both_steps_are_the_published_ones),
    };
#ifdef DAVID_TEST_CPU
    if (cpu_backend_open(&b, 2, &err)) return 1;
#else
    if (reference_backend_open(&b, &err)) return 1;
#endif
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    b->ops->device.close(b);
    return failed;
}
