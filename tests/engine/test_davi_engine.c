/* engine.h end to end on a back end (back_end.h says which): one result, tiling of a real network, bad parameters, bad model files, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/davi/restoration.h"
#include "tests/engine/back_end.h"
#include "tests/engine/metadata.h"
#include "tests/engine/nano.h"

static const char default_model[] = DAVID_SOURCE_DIR "/models/default.safetensors";

static const struct unet_arch nano = NANO_ARCH(32);

static struct engine *engine_of(int threads, const char *dtype)
{
    struct error err = { 0 };
    const struct engine_options o = { .dtype = dtype, .threads = threads };
    struct engine *e = test_engine_open(&o, &err);
    if (!e) fail_msg("%s", err.detail);
    return e;
}

static struct model *hash_model(struct engine *e)
{
    struct model *m = NULL;
    struct error err = { 0 };
    if (model_hash(&m, e, &nano, 20240716, &err)) fail_msg("%s", err.detail);
    return m;
}

static struct model *shipped_model(struct engine *e)
{
    struct model *m = NULL;
    struct error err = { 0 };
    if (model_load(&m, e, default_model, &err)) fail_msg("%s", err.detail);
    return m;
}

/* Smooth waves and an edge: something a network of photographs has seen. */
static struct image scene(uint32_t w, uint32_t h, uint32_t channels, double phase)
{
    struct image img = { 0 };
    assert_int_equal(image_init(&img, w, h, channels, 8, NULL), ST_OK);
    for (uint32_t y = 0; y < h; y++)
        for (uint32_t x = 0; x < w; x++)
            for (uint32_t c = 0; c < channels; c++) {
                double v = 128 + 50 * sin(x * 0.11 + phase + c) + 40 * cos(y * 0.07 - c);
                if (x + y > (w + h) / 2) v = 255 - v;
                ((uint8_t *)img.pixels)[((size_t)y * w + x) * channels + c] = (uint8_t)v;
            }
    return img;
}

static void run_all(struct engine *e, struct model *m, struct restoration *r)
{
    struct error err = { 0 };
    struct tile_job rows[8];
    const uint64_t n = restoration_tile_jobs(r);
    for (uint64_t i = 0; i < n;) {
        size_t k = 0;
        for (; k < 8 && i < n; k++)
            rows[k] = (struct tile_job){ .restoration = r, .index = i++ };
        if (engine_run(e, m, rows, k, &err)) fail_msg("%s", err.detail);
        for (size_t j = 0; j < k; j++)
            assert_int_equal(rows[j].status, ST_OK);
    }
    assert_true(restoration_is_done(r));
}

static struct image restored(struct engine *e, struct model *m, const char *task,
                             const struct image *img, uint64_t seed)
{
    const struct restore_params p = { .task = task, .seed = seed, .h = -1, .samples = 1 };
    struct restoration *r = NULL;
    struct image out = { 0 };
    struct error err = { 0 };
    if (restoration_new(&r, m, &p, img, NULL, &err)) fail_msg("%s", err.detail);
    run_all(e, m, r);
    if (restoration_image(r, OUTPUT_IMAGE, 0, &out, &err)) fail_msg("%s", err.detail);
    restoration_free(r);
    return out;
}

/* ---- one result ---- */

static void the_same_bytes_come_back_alone_and_in_a_crowd(void **state)
{
    (void)state;
    enum { CROWD = 32, TILES_MOST = 64 };
    struct engine *e = engine_of(2, "auto");
    struct model *m = hash_model(e);
    static const char *const tasks[] = { "denoise", "deblur", "colorize", "sr4" };
    struct image img[CROWD], alone[CROWD];
    struct restoration *r[CROWD] = { 0 };
    struct tile_job rows[CROWD * TILES_MOST];
    size_t n = 0;
    for (uint32_t i = 0; i < CROWD; i++) {
        const char *task = tasks[i % 4];
        img[i] = scene(i % 4 == 3 ? 9 : 20 + 2 * i, i % 4 == 3 ? 8 : 40, i % 2 ? 3 : 1, i);
        alone[i] = restored(e, m, task, &img[i], i);
        const struct restore_params p = { .task = task, .seed = i, .h = -1, .samples = 1 };
        assert_int_equal(restoration_new(&r[i], m, &p, &img[i], NULL, NULL), ST_OK);
        for (uint64_t k = 0; k < restoration_tile_jobs(r[i]); k++) {
            assert_true(n < sizeof rows / sizeof *rows);
            rows[n++] = (struct tile_job){ .restoration = r[i], .index = k };
        }
    }
    uint64_t seed = 7;
    for (size_t i = n; i-- > 1;) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t j = (seed >> 33) % (i + 1);
        struct tile_job swap = rows[i];
        rows[i] = rows[j];
        rows[j] = swap;
    }
    struct error err = { 0 };
    for (size_t at = 0; at < n;) { /* batches of every size */
        size_t k = at % 32 + 1 < n - at ? at % 32 + 1 : n - at;
        if (engine_run(e, m, rows + at, k, &err)) fail_msg("%s", err.detail);
        at += k;
    }
    for (uint32_t i = 0; i < CROWD; i++) {
        struct image out = { 0 };
        assert_int_equal(restoration_image(r[i], OUTPUT_IMAGE, 0, &out, NULL), ST_OK);
        assert_memory_equal(out.pixels, alone[i].pixels, image_bytes(&out));
        restoration_free(r[i]);
        image_done(&out);
        image_done(&alone[i]);
        image_done(&img[i]);
    }
    model_free(m);
    engine_close(e);
}

static int largest_difference(const struct image *a, const struct image *b)
{
    int worst = 0;
    assert_int_equal(image_bytes(a), image_bytes(b));
    for (size_t i = 0; i < image_bytes(a); i++) {
        int d = abs(((const uint8_t *)a->pixels)[i] - ((const uint8_t *)b->pixels)[i]);
        worst = d > worst ? d : worst;
    }
    return worst;
}

static void thread_counts_differ_by_one_level_at_most(void **state)
{
    (void)state;
    if (!test_is_on_cpu()) skip(); /* threads are the CPU's */
    struct image img = scene(80, 64, 3, 0), out[3];
    for (int threads = 1; threads <= 3; threads++) {
        struct engine *e = engine_of(threads, "f32");
        struct model *m = shipped_model(e);
        assert_int_equal(engine_describe(e)->threads, threads);
        out[threads - 1] = restored(e, m, "denoise", &img, 11);
        model_free(m);
        engine_close(e);
    }
    for (int i = 1; i < 3; i++) {
        int d = largest_difference(&out[0], &out[i]);
        print_message("%d threads against 1: at most %d of 255\n", i + 1, d);
        assert_true(d <= 1);
    }
    for (int i = 0; i < 3; i++)
        image_done(&out[i]);
    image_done(&img);
}

static void seeds_and_samples_differ_and_repeat(void **state)
{
    (void)state;
    struct engine *e = engine_of(2, "f32");
    struct model *m = hash_model(e);
    struct image img = scene(40, 40, 3, 1);
    struct image a = restored(e, m, "denoise", &img, 1), b = restored(e, m, "denoise", &img, 1);
    struct image c = restored(e, m, "denoise", &img, 2);
    const struct restore_params p = { .task = "denoise",
                                      .seed = 1,
                                      .h = -1,
                                      .samples = 9,
                                      .output = OUTPUT_ALL,
                                      .keep_samples = true };
    struct restoration *r = NULL;
    struct image first = { 0 }, last = { 0 };
    assert_int_equal(restoration_new(&r, m, &p, &img, NULL, NULL), ST_OK);
    run_all(e, m, r);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &first, NULL), ST_OK);
    assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 8, &last, NULL), ST_OK);
    assert_int_equal(largest_difference(&a, &b), 0);
    assert_true(largest_difference(&a, &c) > 0);
    assert_int_equal(largest_difference(&a, &first),
                     0); /* sample 0 is sample 0, however many follow */
    assert_true(largest_difference(&first, &last) > 0);
    assert_true(restoration_facts(r)->std_scale > 0);
    restoration_free(r);
    image_done(&a);
    image_done(&b);
    image_done(&c);
    image_done(&first);
    image_done(&last);
    image_done(&img);
    model_free(m);
    engine_close(e);
}

/* ---- tiling ---- */

static void moving_the_tile_grid_changes_a_real_image_little(void **state)
{
    (void)state;
    struct engine *e = engine_of(2, "f32");
    struct model *m = shipped_model(e);
    struct image img = scene(150, 100, 3, 2), out[2] = { { 0 }, { 0 } };
    for (uint32_t i = 0; i < 2; i++) {
        const struct restoration_setup s = { .task = &task_table[TASK_DENOISE],
                                             .sigma = 0.2,
                                             .h = 0.1,
                                             .seed = 5,
                                             .samples = 1,
                                             .tile = m->info.tile_size,
                                             .overlap = m->info.tile_overlap,
                                             .shift_x = 13 * i,
                                             .shift_y = 7 * i,
                                             .jobs_in_flight = 32,
                                             .img = &img };
        struct restoration *r = NULL;
        assert_int_equal(restoration_make(&r, &s, NULL), ST_OK);
        run_all(e, m, r);
        assert_int_equal(restoration_image(r, OUTPUT_IMAGE, 0, &out[i], NULL), ST_OK);
        restoration_free(r);
    }
    double sum2 = 0;
    const size_t n = image_bytes(&img);
    for (size_t i = 0; i < n; i++)
        sum2 += pow(((uint8_t *)out[0].pixels)[i] - ((uint8_t *)out[1].pixels)[i], 2);
    double rms = sqrt(sum2 / (double)n);
    print_message("grid moved by 13, 7 px: RMS %.2f of 255 (limit 3)\n", rms);
    assert_true(rms > 0 && rms < 3);
    image_done(&out[0]);
    image_done(&out[1]);
    image_done(&img);
    model_free(m);
    engine_close(e);
}

/* ---- parameters ---- */

static void bad_parameters_are_refused_with_their_names(void **state)
{
    (void)state;
    if (!test_is_on_cpu()) skip(); /* no device has to do with it */
    struct engine *e = engine_of(1, "f32");
    struct model *m = shipped_model(e);
    struct image img = scene(16, 16, 3, 0);
    const struct {
        struct restore_params p;
        enum status want;
        const char *says;
    } all[] = {
        { { .task = "denoise", .h = NAN, .samples = 1 }, ST_BAD_PARAMETER, "h = " },
        { { .task = "denoise", .h = 1e9, .samples = 1 }, ST_BAD_PARAMETER, "h = 1e+09" },
        { { .task = "denoise", .h = INFINITY, .samples = 1 }, ST_BAD_PARAMETER, "h = " },
        { { .task = "denoise", .h = -1, .samples = 0 }, ST_BAD_PARAMETER, "samples = 0" },
        { { .task = "denoise", .h = -1, .samples = 1000000000, .output = OUTPUT_MEAN },
          ST_TOO_MANY_SAMPLES,
          "samples" },
        { { .task = "denoise", .h = -1, .samples = 2 }, ST_BAD_PARAMETER, "samples = 2" },
        { { .task = "denoise", .h = -1, .samples = 1, .output = OUTPUT_STD },
          ST_BAD_PARAMETER,
          "samples = 1" },
        { { .task = "inpaint", .h = -1, .samples = 1 }, ST_UNKNOWN_TASK, "denoise, sr4, deblur" },
        { { .task = "sharpen", .h = -1, .samples = 1 }, ST_UNKNOWN_TASK, "sharpen" },
        { { .task = NULL, .h = -1, .samples = 1 }, ST_UNKNOWN_TASK, "denoise, sr4, deblur" },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct restoration *r = NULL;
        struct error err = { 0 };
        assert_int_equal(restoration_new(&r, m, &all[i].p, &img, NULL, &err), all[i].want);
        if (!strstr(err.detail, all[i].says))
            fail_msg("\"%s\" lacks \"%s\"", err.detail, all[i].says);
        assert_null(r);
        assert_true(restoration_peak_bytes(m, &all[i].p, 16, 16, 3, 8, false) == SIZE_MAX);
    }
    image_done(&img);
    model_free(m);
    engine_close(e);
}

static void back_ends_and_dtypes_that_are_not_there_are_refused(void **state)
{
    (void)state;
    static const struct engine_options all[] = { { .backend = "abacus" },
                                                 { .backend = "cpu", .dtype = "tf32" },
                                                 { .backend = "cpu", .dtype = "u8" } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct engine *e = NULL;
        struct error err = { 0 };
        assert_int_equal(engine_open(&e, &all[i], &err), ST_UNSUPPORTED);
        assert_true(err.detail[0] != 0);
        assert_null(e);
    }
}

/* ---- memory ---- */

size_t __sanitizer_get_current_allocated_bytes(
    void); /* of a sanitizer's allocator, of which mallinfo2 knows nothing */

static size_t in_use(void)
{
#if defined __SANITIZE_ADDRESS__ ||                                                                \
    defined __SANITIZE_THREAD__ /* their allocators: mallinfo2 knows nothing */
    return __sanitizer_get_current_allocated_bytes();
#else
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
#endif
}

static void the_announced_peak_holds_and_memory_comes_back(void **state)
{
    (void)state;
    if (!test_is_on_cpu()) skip(); /* what a device's libraries keep would be counted too */
    struct engine *e = engine_of(1, "f32");
    struct model *m = hash_model(e);
    assert_int_equal(model_warm(m, NULL),
                     ST_OK); /* what libraries keep from their first run is theirs */
    for (int kind = OUTPUT_IMAGE; kind <= OUTPUT_ALL; kind++) {
        const struct restore_params p = { .task = kind == OUTPUT_MEAN ? "sr4" : "denoise",
                                          .h = -1,
                                          .samples = kind == OUTPUT_IMAGE ? 1 : 3,
                                          .output = (enum output_kind)kind,
                                          .keep_samples = true };
        const size_t before = in_use();
        const size_t room = restoration_peak_bytes(m, &p, 90, 50, 4, 8, false);
        struct image img = scene(90, 50, 4, 0), out[3] = { { 0 }, { 0 }, { 0 } };
        struct restoration *r = NULL;
        assert_int_equal(restoration_new(&r, m, &p, &img, NULL, NULL), ST_OK);
        run_all(e, m, r);
        restoration_facts(r);
        if (kind == OUTPUT_ALL) {
            for (int k = 0; k < 3; k++)
                assert_int_equal(restoration_image(r, (enum output_kind)k, 2, &out[k], NULL),
                                 ST_OK);
        } else {
            assert_int_equal(restoration_image(r, p.output, 0, &out[0], NULL), ST_OK);
        }
        size_t held = in_use() - before;
        assert_true(held <= room);
        assert_true(room < 2 * held + 128 * 1024); /* a bound, not a wish */
        for (int k = 0; k < 3; k++)
            image_done(&out[k]);
        restoration_free(r);
        image_done(&img);
        assert_true(in_use() <= before + 4096); /* stdio's and the library's own small change */
    }
    model_free(m);
    engine_close(e);
}

/* ---- model files ---- */

enum harm {
    NO_HARM,
    A_NAN,
    A_MISSING_TENSOR,
    AN_EXTRA_TENSOR,
    A_WRONG_SHAPE,
    INTEGERS,
    AN_UNKNOWN_TASK,
    NO_TASK
};

/* The shipped model, harmed, written to `path`. */
static void write_harmed(const char *path, enum harm harm)
{
    struct safetensors *st = NULL;
    struct error err = { 0 };
    if (safetensors_open(&st, default_model, &err)) fail_msg("%s", err.detail);
    struct st_meta meta[MODEL_METADATA_MAX];
    size_t n = safetensors_count(st), n_meta = metadata_of(meta, st);
    struct st_tensor *t = calloc(n + 1, sizeof *t);
    float *wrong = NULL;
    for (size_t i = 0; i < n; i++)
        t[i] = *safetensors_at(st, i);
    for (size_t i = 0; i < n_meta; i++) {
        if (strcmp(meta[i].key, "david.tasks") != 0) continue;
        if (harm == AN_UNKNOWN_TASK)
            meta[i].value = "{\"mend\":{\"sigma\":0.1,\"h\":0.1,\"label\":null}}";
        if (harm == NO_TASK) meta[i].value = "{}";
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(t[i].name, "middle_block.0.in_layers.2.weight") != 0) continue;
        if (harm == A_NAN) {
            wrong = malloc(t[i].count * sizeof *wrong);
            dtype_to_f32(wrong, t[i].data, t[i].dtype, t[i].count);
            wrong[t[i].count / 2] = NAN;
            t[i].dtype = DT_F32;
            t[i].data = wrong;
        } else if (harm == INTEGERS) {
            t[i].dtype = DT_I16;
        } else if (harm == A_WRONG_SHAPE) {
            t[i].shape[0] *= t[i].shape[2];
            t[i].shape[2] = 1;
        } else if (harm == A_MISSING_TENSOR) {
            t[i] = t[--n];
        } else if (harm == AN_EXTRA_TENSOR) {
            t[n] = t[i];
            t[n++].name = "middle_block.7.weight";
        }
        break;
    }
    if (safetensors_write(path, t, n, meta, n_meta, NULL, NULL, &err)) fail_msg("%s", err.detail);
    free(wrong);
    free(t);
    safetensors_close(st);
}

static void a_model_file_is_accepted_whole_or_refused_by_name(void **state)
{
    (void)state;
    if (!test_is_on_cpu()) skip(); /* no device has to do with it */
    static const struct {
        enum harm harm;
        const char *says;
    } all[] = { { NO_HARM, "" },
                { A_NAN, "middle_block.0.in_layers.2.weight" },
                { A_MISSING_TENSOR, "middle_block.0.in_layers.2.weight" },
                { AN_EXTRA_TENSOR, "middle_block.7.weight" },
                { A_WRONG_SHAPE, "middle_block.0.in_layers.2.weight" },
                { INTEGERS, "middle_block.0.in_layers.2.weight" },
                { AN_UNKNOWN_TASK, "mend" },
                { NO_TASK, "task" } };
    char folder[] = "/tmp/david-test-XXXXXX", path[64];
    struct engine *e = engine_of(1, "f32");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct model *m = NULL;
        struct error err = { 0 };
        write_harmed(path, all[i].harm);
        enum status s = model_load(&m, e, path, &err);
        assert_int_equal(s, all[i].harm == NO_HARM ? ST_OK : ST_BAD_FILE);
        if (!strstr(err.detail, all[i].says))
            fail_msg("\"%s\" lacks \"%s\"", err.detail, all[i].says);
        if (s) assert_null(m);
        model_free(m);
    }
    unlink(path);
    rmdir(folder);
    struct model *m = NULL;
    assert_int_not_equal(model_load(&m, e, path, NULL), ST_OK); /* no such file */
    engine_close(e);
}

static void the_shipped_model_says_what_it_is(void **state)
{
    (void)state;
    if (!test_is_on_cpu()) skip(); /* no device has to do with it */
    struct engine *e = engine_of(1, "f32");
    struct model *m = shipped_model(e);
    char digest[DIGEST_HEX];
    assert_int_equal(digest_file(digest, default_model, NULL), ST_OK);
    assert_string_equal(model_digest(m), digest);
    assert_non_null(model_find_task(m, "sr4"));
    assert_null(model_find_task(m, "colorize"));
    assert_true(model_bytes(m) > 4 * 4400000u);
    assert_int_equal(model_warm(m, NULL), ST_OK);
    model_free(m);
    engine_close(e);
}

/* ---- the raw network ---- */

static void folded_and_unfolded_networks_agree(void **state)
{
    (void)state;
    struct engine *e = engine_of(2, "f32");
    struct network *whole = NULL, *folded = NULL;
    struct error err = { 0 };
    if (network_hash(&whole, e, &nano, 3, 16, 24, false, false, &err) ||
        network_hash(&folded, e, &nano, 3, 16, 24, true, true, &err))
        fail_msg("%s", err.detail);
    assert_int_equal(network_channels(whole), 6);
    assert_int_equal(network_channels(folded), 3);
    enum { PX = 16 * 24, ROWS = 3 };
    float x[ROWS * 3 * PX], y6[ROWS * 6 * PX], y3[ROWS * 3 * PX], t[ROWS] = { 999, 999, 999 };
    const struct network_input in = { .x = x, .t = t };
    hash_values("x", 1, x, ROWS * 3 * PX);
    assert_int_equal(network_forward(whole, &in, ROWS, y6, &err), ST_OK);
    assert_int_equal(network_forward(folded, &in, ROWS, y3, &err), ST_OK);
    double scale = 0, worst = 0;
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < 3 * PX; i++) {
            scale = fmax(scale, fabs((double)y3[row * 3 * PX + i]));
            worst = fmax(worst, fabs((double)y3[row * 3 * PX + i] - y6[row * 6 * PX + i]));
        }
    assert_true(worst <= 1e-5 * scale);
    const char *names[OP_COUNT];
    uint64_t ns[OP_COUNT];
    assert_true(network_op_times(folded, names, ns, OP_COUNT) > 0);
    assert_true(network_flop(whole) > 0 && network_bytes(whole) > 0);
    network_free(whole);
    network_free(folded);
    struct unet_arch beside = nano;
    beside.noise_channels = true;
    whole = NULL;
    assert_int_equal(network_hash(&whole, e, &beside, 3, 16, 24, true, false, &err), ST_OK);
    assert_int_equal(network_input_channels(whole), 6);
    assert_int_equal(network_channels(whole), 3);
    network_free(whole);
    engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bytes_come_back_alone_and_in_a_crowd),
        cmocka_unit_test(thread_counts_differ_by_one_level_at_most),
        cmocka_unit_test(seeds_and_samples_differ_and_repeat),
        cmocka_unit_test(moving_the_tile_grid_changes_a_real_image_little),
        cmocka_unit_test(bad_parameters_are_refused_with_their_names),
        cmocka_unit_test(back_ends_and_dtypes_that_are_not_there_are_refused),
        cmocka_unit_test(the_announced_peak_holds_and_memory_comes_back),
        cmocka_unit_test(a_model_file_is_accepted_whole_or_refused_by_name),
        cmocka_unit_test(the_shipped_model_says_what_it_is),
        cmocka_unit_test(folded_and_unfolded_networks_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
