#include <math.h>

#include "proto/models/model_info.h"
#include "tests/proto/sandbox.h"

#define NANO "\"image_size\":32,\"num_channels\":32,\"num_res_blocks\":1"

static const struct {
    const char *json, *says;
} bad_arch[] = {
    { "ffhq512", "neither" },
    { "[]", "neither" },
    { "{\"num_channels\":32,\"num_res_blocks\":1}", "image_size is missing" },
    { "{" NANO "}", "channel_mult is missing" },
    { "{" NANO ",\"channel_mult\":\"1\",\"image_size\":32}", "duplicate" },
    { "{" NANO ",\"channel_mult\":\"1\",\"dropuot\":0}", "dropuot" },
    { "{" NANO ",\"channel_mult\":[1]}", "channel_mult is not a text" },
    { "{" NANO ",\"channel_mult\":\"\"}", "levels" },
    { "{" NANO ",\"channel_mult\":\"1,\"}", "not a list" },
    { "{" NANO ",\"channel_mult\":\"1 2\"}", "not a list" },
    { "{" NANO ",\"channel_mult\":\"0\"}", "channel_mult = 0" },
    { "{" NANO ",\"channel_mult\":\"-1\"}", "not a list" },
    { "{" NANO ",\"channel_mult\":\"1,1,1,1,1,1,1,1,1\"}", "at most 8" },
    { "{" NANO ",\"channel_mult\":\"99999999999\"}", "not a list" },
    { "{" NANO ",\"channel_mult\":\"1,1,1,1,1,1,1\"}", "divisible by 64" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_heads\":0}", "num_heads = 0" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_heads\":3}", "num_heads = 3" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_head_channels\":64}", "num_head_channels = 64" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_head_channels\":0}", "num_head_channels = 0" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_head_channels\":-2}", "num_head_channels = -2" },
    { "{" NANO ",\"channel_mult\":\"1\",\"attention_resolutions\":\"5\"}", "resolution 5" },
    { "{" NANO ",\"channel_mult\":\"1\",\"attention_resolutions\":\"0\"}", "resolution 0" },
    { "{" NANO ",\"channel_mult\":\"1\",\"attention_resolutions\":\"8,8\"}", "twice" },
    { "{" NANO ",\"channel_mult\":\"1\",\"learn_sigma\":1}", "learn_sigma" },
    { "{\"image_size\":32,\"num_channels\":48,\"num_res_blocks\":1,\"channel_mult\":\"1\"}", "48" },
    { "{\"image_size\":32,\"num_channels\":4096,\"num_res_blocks\":1,\"channel_mult\":\"4\"}",
      "16384" },
    { "{\"image_size\":32.0,\"num_channels\":32,\"num_res_blocks\":1,\"channel_mult\":\"1\"}",
      "not an integer" },
    { "{\"image_size\":4294967328,\"num_channels\":32,\"num_res_blocks\":1,\"channel_mult\":\"1\"}",
      "image_size = 4294967328" },
    { "{\"image_size\":32,\"num_channels\":32,\"num_res_blocks\":1000,\"channel_mult\":\"1\"}",
      "num_res_blocks = 1000" },
    { "{" NANO ",\"channel_mult\":\"1\",\"patch\":3}", "patch = 3 is not 1, 2 or 4" },
    { "{" NANO ",\"channel_mult\":\"1\",\"patch\":0}", "patch = 0 is outside" },
    { "{" NANO ",\"channel_mult\":\"1\",\"patch\":8}", "patch = 8 is outside" },
    { "{" NANO ",\"channel_mult\":\"1\",\"patch\":\"2\"}", "patch is not an integer" },
    { "{" NANO ",\"channel_mult\":\"1,1,1,1,1\",\"patch\":4}", "divisible by 64" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_classes\":5}", "num_classes = 5 does not fit" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_classes\":5,\"class_cond\":false}",
      "num_classes = 5 does not fit" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_classes\":0,\"class_cond\":true}",
      "num_classes = 0 does not fit" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_classes\":1001,\"class_cond\":true}",
      "num_classes = 1001 is outside" },
    { "{" NANO ",\"channel_mult\":\"1\",\"num_classes\":true,\"class_cond\":true}",
      "num_classes is not an integer" },
    { "{" NANO ",\"channel_mult\":\"1\",\"noise\":\"beside\"}",
      "noise is neither \"added\" nor \"channels\"" },
    { "{" NANO ",\"channel_mult\":\"1\",\"noise\":true}", "noise is neither" },
    { "{" NANO ",\"channel_mult\":\"1\",\"output\":\"clamped\"}",
      "output is neither \"tanh\" nor \"linear\"" },
    { "{" NANO ",\"channel_mult\":\"1\",\"output\":null}", "output is neither" },
    { "{" NANO ",\"channel_mult\":\"1\",\"sigma_cond\":1}", "sigma_cond is not true or false" },
    { "{" NANO ",\"channel_mult\":\"1\",\"level_cond\":\"true\"}",
      "level_cond is not true or false" },
    { "{" NANO ",\"channel_mult\":\"1\",\"middle_attention\":0}",
      "middle_attention is not true or false" },
    { "{" NANO ",\"channel_mult\":\"1\",\"middle_attention\":true,\"num_heads\":3}",
      "num_heads = 3" },
    { "{" NANO ",\"channel_mult\":\"1\",\"patches\":2}", "unknown key \"patches\"" },
    /* A resolution of 32 px at which cells of 2 px give 16 cells. */
    { "{" NANO ",\"channel_mult\":\"1\",\"patch\":2,\"attention_resolutions\":\"16\","
      "\"middle_attention\":false,\"num_heads\":3}",
      "num_heads = 3" },
};

static void architectures_out_of_bounds_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_arch / sizeof bad_arch[0]; i++) {
        struct unet_arch a;
        struct error err = { 0 };
        enum status s = unet_arch_parse(&a, bad_arch[i].json, &err);
        if (s != ST_BAD_FILE || !strstr(err.detail, bad_arch[i].says))
            fail_msg("%s: %s \"%s\"", bad_arch[i].json, status_name(s), err.detail);
    }
}

static void published_names_are_the_published_numbers(void **state)
{
    (void)state;
    struct unet_arch a = { 0 };
    assert_int_equal(unet_arch_parse(&a, "imagenet256", NULL), ST_OK);
    assert_int_equal(a.num_channels, 256);
    assert_int_equal(a.num_res_blocks, 2);
    assert_int_equal(a.levels, 6);
    assert_int_equal(a.channel_mult[5], 4);
    assert_int_equal(a.attention_count, 3);
    assert_int_equal(a.attention_ds[0], 8);
    assert_int_equal(a.attention_ds[2], 32);
    assert_int_equal(unet_arch_parse(&a, "ffhq256", NULL), ST_OK);
    assert_int_equal(a.num_channels, 128);
    assert_int_equal(a.attention_count, 1);
    assert_int_equal(a.attention_ds[0], 16);
    assert_int_equal(a.num_head_channels, 64);
    assert_true(a.learn_sigma && a.use_scale_shift_norm && a.resblock_updown);
    assert_false(a.class_cond || a.use_new_attention_order);
}

static void absent_keys_take_their_defaults(void **state)
{
    (void)state;
    struct unet_arch a = { 0 };
    const char *text =
        "{\"image_size\":64,\"num_channels\":32,\"num_res_blocks\":1,\"class_cond\":true}";
    assert_int_equal(unet_arch_parse(&a, text, NULL), ST_OK);
    assert_int_equal(a.levels, 4);
    assert_int_equal(a.channel_mult[3], 4);
    assert_int_equal(a.attention_ds[0], 4);
    assert_int_equal(a.attention_ds[1], 8);
    assert_int_equal(a.num_heads, 4);
    assert_int_equal(a.num_head_channels, -1);
    assert_int_equal(a.num_classes, 1000);
    assert_true(a.use_scale_shift_norm);
    assert_false(a.learn_sigma || a.resblock_updown || a.use_new_attention_order);
    assert_int_equal(a.patch, 1);
    assert_false(a.noise_channels || a.linear_output || a.sigma_cond || a.level_cond ||
                 a.no_middle_attention);
    assert_int_equal(arch_input_channels(&a), 3);
    assert_int_equal(arch_side_unit(&a), 8);
}

#define BEYOND                                                                                     \
    "\"channel_mult\":\"1,2\",\"class_cond\":true,\"num_classes\":5,\"patch\":4,"                  \
    "\"noise\":\"channels\",\"output\":\"linear\",\"sigma_cond\":true,\"level_cond\":true,"        \
    "\"middle_attention\":false,\"attention_resolutions\":\"\",\"num_heads\":3"

static void options_beyond_the_published_networks_are_read(void **state)
{
    (void)state;
    struct unet_arch a = { 0 };
    assert_int_equal(unet_arch_parse(&a, "{" NANO "," BEYOND "}", NULL), ST_OK);
    assert_int_equal(a.num_classes, 5);
    assert_int_equal(a.patch, 4);
    assert_true(a.noise_channels && a.linear_output && a.sigma_cond && a.level_cond &&
                a.no_middle_attention);
    assert_int_equal(arch_input_channels(&a), 6);
    assert_int_equal(arch_side_unit(&a), 8);
    const char *const off = "{" NANO ",\"channel_mult\":\"1\",\"num_classes\":0,\"patch\":1,"
                            "\"noise\":\"added\",\"output\":\"tanh\",\"sigma_cond\":false,"
                            "\"level_cond\":false,\"middle_attention\":true}";
    assert_int_equal(unet_arch_parse(&a, off, NULL), ST_OK);
    assert_int_equal(a.patch, 1);
    assert_false(a.noise_channels || a.linear_output || a.sigma_cond || a.level_cond ||
                 a.no_middle_attention || a.num_classes);
}

/* The digests of published networks' texts must not change. */
static void the_text_of_a_published_network_names_no_option_beyond_it(void **state)
{
    (void)state;
    static const char *const keys[] = { "num_classes", "patch",      "noise",           "output",
                                        "sigma_cond",  "level_cond", "middle_attention" };
    struct unet_arch a = { 0 };
    assert_int_equal(unet_arch_parse(&a, "ffhq256", NULL), ST_OK);
    char *text = unet_arch_json(&a);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_null(strstr(text, keys[i]));
    free(text);
}

static void an_architecture_survives_its_own_text(void **state)
{
    (void)state;
    const char *const texts[] = {
        "ffhq256", "imagenet256",
        "{" NANO ",\"channel_mult\":\"1\",\"class_cond\":true,\"attention_resolutions\":\"\"}",
        "{" NANO "," BEYOND "}",
        /* each one separately */
        "{" NANO ",\"channel_mult\":\"1\",\"class_cond\":true,\"num_classes\":1}",
        "{" NANO ",\"channel_mult\":\"1\",\"patch\":2}",
        "{" NANO ",\"channel_mult\":\"1\",\"noise\":\"channels\"}",
        "{" NANO ",\"channel_mult\":\"1\",\"output\":\"linear\"}",
        "{" NANO ",\"channel_mult\":\"1\",\"sigma_cond\":true}",
        "{" NANO ",\"channel_mult\":\"1\",\"level_cond\":true}",
        "{" NANO ",\"channel_mult\":\"1\",\"middle_attention\":false}"
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct unet_arch a, b;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        assert_int_equal(unet_arch_parse(&a, texts[i], NULL), ST_OK);
        char *text = unet_arch_json(&a);
        assert_non_null(text);
        assert_int_equal(unet_arch_parse(&b, text, NULL), ST_OK);
        free(text);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

/* Metadata through a file; NULL values are left out. */
static enum status read_metadata(struct model_info *info, const char *role, const char *tasks,
                                 const char *tile, const char *schedule, struct error *err)
{
    const struct st_meta all[] = { { "david.arch", "{" NANO ",\"channel_mult\":\"1,2\"}" },
                                   { "david.role", role },
                                   { "david.tasks", tasks },
                                   { "david.tile", tile },
                                   { "david.schedule", schedule } };
    struct st_meta meta[5];
    size_t n = 0;
    struct safetensors *st = NULL;
    for (size_t i = 0; i < 5; i++)
        if (all[i].value) meta[n++] = all[i];
    assert_int_equal(safetensors_write(sandbox_path("m"), NULL, 0, meta, n, NULL, NULL, NULL),
                     ST_OK);
    assert_int_equal(safetensors_open(&st, sandbox_path("m"), NULL), ST_OK);
    enum status s = model_info_read(info, st, err);
    safetensors_close(st);
    return s;
}

#define TASK_WITH(more) "{\"a\":{\"sigma\":0.2,\"h\":0.1," more "}}"
#define ONE_TASK        "{\"denoise\":{\"sigma\":0.2,\"h\":0.1,\"label\":null}}"

static const struct {
    const char *role, *tasks, *tile, *schedule, *says;
} bad_info[] = {
    { NULL, ONE_TASK, NULL, NULL, "david.role" },
    { "restorer", ONE_TASK, NULL, NULL, "not JSON" },
    { "\"teacher\"", ONE_TASK, NULL, NULL, "neither" },
    { "\"restorer\"", NULL, NULL, NULL, "at least one task" },
    { "\"restorer\"", "{}", NULL, NULL, "at least one task" },
    { "\"restorer\"", "[]", NULL, NULL, "not an object" },
    { "\"restorer\"", "{\"a\":{\"sigma\":0.2}}", NULL, NULL, "h of \"a\" is missing" },
    { "\"restorer\"", "{\"a\":{\"sigma\":0.2,\"hh\":1}}", NULL, NULL, "not an object of sigma" },
    { "\"restorer\"", "{\"a\":{\"sigma\":\"1\",\"h\":1}}", NULL, NULL, "not a number" },
    { "\"restorer\"", "{\"a\":{\"sigma\":-0.1,\"h\":1}}", NULL, NULL, "sigma = -0.1" },
    { "\"restorer\"", "{\"a\":{\"sigma\":0.1,\"h\":1e9}}", NULL, NULL, "h = 1e+09" },
    { "\"restorer\"", "{\"a\":{\"sigma\":NaN,\"h\":1}}", NULL, NULL, "not JSON" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1e999,\"h\":1}}", NULL, NULL, "not JSON" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1,\"h\":1,\"label\":0}}", NULL, NULL, "label = 0" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1,\"h\":1,\"sigma_range\":[0.1,0.5]}}", NULL, NULL,
      "does not hold sigma = 1" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1,\"h\":1,\"sigma_range\":[0.1]}}", NULL, NULL,
      "not two numbers" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1,\"h\":1,\"level\":3,\"level_range\":[4,5]}}", NULL, NULL,
      "does not hold level = 3" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1,\"h\":1,\"label\":-1}}", NULL, NULL, "not a class" },
    { "\"restorer\"", "{\"a b\":{\"sigma\":1,\"h\":1}}", NULL, NULL, "not a name" },
    { "\"restorer\"", "{\"a\":{\"sigma\":1,\"h\":1},\"a\":{\"sigma\":1,\"h\":1}}", NULL, NULL,
      "duplicate" },
    { "\"restorer\"", "{\"abcdefghijabcdefghijabcdefghijab\":{\"sigma\":1,\"h\":1}}", NULL, NULL,
      "longer than 31" },
    { "\"restorer\"", ONE_TASK, "{\"size\":33,\"overlap\":2}", NULL, "size = 33" },
    { "\"restorer\"", ONE_TASK, "{\"size\":0,\"overlap\":0}", NULL, "outside" },
    { "\"restorer\"", ONE_TASK, "{\"size\":32,\"overlap\":32}", NULL, "overlap = 32" },
    { "\"restorer\"", ONE_TASK, "{\"size\":32,\"overlap\":3}", NULL, "overlap = 3" },
    { "\"restorer\"", ONE_TASK, "{\"size\":32}", NULL, "david.tile" },
    { "\"restorer\"", ONE_TASK, NULL, "\"cosine\"", "neither" },
    { "\"restorer\"", "{\"a\":0.2}", NULL, NULL, "\"a\" is not an object" },
    { "\"restorer\"", "{\"a\":[0.2,0.1]}", NULL, NULL, "\"a\" is not an object" },
    { "\"restorer\"", "{\"a\":null}", NULL, NULL, "\"a\" is not an object" },
    { "\"restorer\"", "{\"a\":{}}", NULL, NULL, "sigma of \"a\" is missing" },
    { "\"restorer\"", TASK_WITH("\"sigmarange\":[0,1]"), NULL, NULL, "not an object of sigma" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":0.2"), NULL, NULL, "not two numbers" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":null"), NULL, NULL, "not two numbers" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":[0.1,0.3,0.4]"), NULL, NULL, "not two numbers" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":[0.1,\"0.3\"]"), NULL, NULL,
      "sigma_range of \"a\" is not a number" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":[0.3,0.1]"), NULL, NULL,
      "sigma_range = [0.3, 0.1] of a does not hold sigma = 0.2" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":[0.21,0.3]"), NULL, NULL, "hold sigma = 0.2" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":[-0.1,0.3]"), NULL, NULL,
      "sigma_range = [-0.1, 0.3] of a is outside [0, 10]" },
    { "\"restorer\"", TASK_WITH("\"sigma_range\":[0.1,11]"), NULL, NULL,
      "sigma_range = [0.1, 11] of a is outside [0, 10]" },
    { "\"restorer\"", TASK_WITH("\"level\":\"3\""), NULL, NULL, "level of \"a\" is not a number" },
    { "\"restorer\"", TASK_WITH("\"level\":null"), NULL, NULL, "level of \"a\" is not a number" },
    { "\"restorer\"", TASK_WITH("\"level\":-1"), NULL, NULL, "level = -1 of a is outside" },
    { "\"restorer\"", TASK_WITH("\"level\":101"), NULL, NULL, "level = 101 of a is outside" },
    { "\"restorer\"", TASK_WITH("\"level_range\":[1,4]"), NULL, NULL, "hold level = 0" },
    { "\"restorer\"", TASK_WITH("\"level\":3,\"level_range\":[3.5,4]"), NULL, NULL,
      "level_range = [3.5, 4] of a does not hold level = 3" },
    { "\"restorer\"", TASK_WITH("\"level\":3,\"level_range\":[1,1000]"), NULL, NULL,
      "level_range = [1, 1000] of a is outside [0, 100]" },
    { "\"restorer\"", TASK_WITH("\"level\":3,\"level_range\":{}"), NULL, NULL, "not two numbers" },
};

static void metadata_out_of_bounds_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_info / sizeof bad_info[0]; i++) {
        struct model_info info = { 0 };
        struct error err = { 0 };
        enum status s = read_metadata(&info, bad_info[i].role, bad_info[i].tasks, bad_info[i].tile,
                                      bad_info[i].schedule, &err);
        if (s != ST_BAD_FILE || !strstr(err.detail, bad_info[i].says))
            fail_msg("row %zu (%s): %s \"%s\"", i, bad_info[i].says, status_name(s), err.detail);
    }
    sandbox_files(1);
}

static void a_model_file_says_what_was_written(void **state)
{
    (void)state;
    struct model_info in = {
        .role = ROLE_RESTORER,
        .n_tasks = 2,
        .tasks = { { "denoise", 0.2, 0.1, 7, { 0.02, 0.4 }, 3, { 1, 4 } },
                   { "sr4", 1.0 / 3, 0, 999, { 1.0 / 3, 1.0 / 3 }, 0, { 0 } } },
        .tile_size = 64,
        .tile_overlap = 16,
        .schedule = SCHEDULE_LINEAR
    };
    struct model_info out = { 0 };
    struct model_metadata meta = { 0 };
    struct safetensors *st = NULL;
    char provenance[] = "{\"data\": \"photos\"}";
    in.provenance = provenance;
    assert_int_equal(
        unet_arch_parse(&in.arch, "{" NANO ",\"channel_mult\":\"1,2\",\"class_cond\":true}", NULL),
        ST_OK);
    assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_OK);
    assert_int_equal(
        safetensors_write(sandbox_path("m"), NULL, 0, meta.meta, meta.n, NULL, NULL, NULL), ST_OK);
    model_metadata_done(&meta);
    assert_int_equal(safetensors_open(&st, sandbox_path("m"), NULL), ST_OK);
    assert_int_equal(model_info_read(&out, st, NULL), ST_OK);
    safetensors_close(st);
    assert_int_equal(out.role, ROLE_RESTORER);
    assert_int_equal(out.schedule, SCHEDULE_LINEAR);
    assert_int_equal(out.n_tasks, 2);
    assert_int_equal(out.tile_size, 64);
    assert_int_equal(out.tile_overlap, 16);
    assert_string_equal(out.tasks[1].name, "sr4");
    assert_true(out.tasks[1].sigma == 1.0 / 3 && out.tasks[0].h == 0.1);
    assert_int_equal(out.tasks[1].label, 999);
    assert_true(out.tasks[0].sigma_range[0] == 0.02 && out.tasks[0].sigma_range[1] == 0.4);
    assert_true(out.tasks[0].level == 3 && out.tasks[0].level_range[1] == 4);
    assert_true(out.tasks[1].sigma_range[0] == 1.0 / 3 && out.tasks[1].level == 0);
    assert_string_equal(out.provenance, provenance);
    assert_null(out.metrics);
    assert_memory_equal(&in.arch, &out.arch, sizeof in.arch);
    model_info_done(&out);
    in.tasks[0].sigma = NAN;
    assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_BAD_FILE);
    in.tasks[0].sigma = 0.2;
    in.tasks[0].label = 1000;
    assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_BAD_FILE);
    sandbox_files(1);
}

static void a_range_that_is_not_named_is_the_value_alone(void **state)
{
    (void)state;
    static const struct {
        const char *tasks;
        double sigma[2], level, levels[2];
    } all[] = {
        { TASK_WITH("\"label\":null"), { 0.2, 0.2 }, 0, { 0, 0 } },
        { TASK_WITH("\"sigma_range\":[0.2,0.2]"), { 0.2, 0.2 }, 0, { 0, 0 } },
        { TASK_WITH("\"sigma_range\":[0,10]"), { 0, 10 }, 0, { 0, 0 } },
        { TASK_WITH("\"level\":3"), { 0.2, 0.2 }, 3, { 3, 3 } },
        { TASK_WITH("\"level\":3,\"level_range\":[1,100]"), { 0.2, 0.2 }, 3, { 1, 100 } },
        { TASK_WITH("\"level_range\":[0,4]"), { 0.2, 0.2 }, 0, { 0, 4 } },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct model_info info = { 0 };
        assert_int_equal(read_metadata(&info, "\"restorer\"", all[i].tasks, NULL, NULL, NULL),
                         ST_OK);
        const struct model_task *t = &info.tasks[0];
        assert_true(t->sigma == 0.2 && t->level == all[i].level);
        assert_memory_equal(t->sigma_range, all[i].sigma, sizeof t->sigma_range);
        assert_memory_equal(t->level_range, all[i].levels, sizeof t->level_range);
        model_info_done(&info);
    }
    sandbox_files(1);
}

static void written_to_a_file(const struct model_info *in, char **tasks)
{
    struct model_metadata meta = { 0 };
    struct error err = { 0 };
    if (model_info_metadata(&meta, in, &err)) fail_msg("%s", err.detail);
    for (size_t i = 0; i < meta.n; i++)
        if (strcmp(meta.meta[i].key, "david.tasks") == 0) *tasks = strdup(meta.meta[i].value);
    assert_non_null(*tasks);
    assert_int_equal(
        safetensors_write(sandbox_path("m"), NULL, 0, meta.meta, meta.n, NULL, NULL, NULL), ST_OK);
    model_metadata_done(&meta);
}

/* Ranges and levels survive, and keys without a value are not written. */
static void ranges_survive_a_model_file(void **state)
{
    (void)state;
    struct model_info in = {
        .role = ROLE_RESTORER,
        .n_tasks = 5,
        .tasks = { { "deblur", 0.05, 0.1, 0, { 0.02, 0.2 }, 3, { 1, 4 } },
                   { "jpeg", 0.01, 0.1, 1, { 0.01, 0.01 }, 1.0 / 3, { 1.0 / 3, 100 } },
                   { "plain", 0.2, 0.1, 2, { 0.2, 0.2 }, 0, { 0, 0 } },
                   { "from_none", 0, 0, 3, { 0, 10 }, 0, { 0, 2 } },
                   { "level_alone", 1.0 / 3, 0, 4, { 1.0 / 3, 2.0 / 3 }, 7, { 7, 7 } } },
        .tile_size = 64,
        .tile_overlap = 16,
    };
    struct model_info out = { 0 };
    struct safetensors *st = NULL;
    char *tasks = NULL;
    assert_int_equal(unet_arch_parse(&in.arch, "{" NANO "," BEYOND "}", NULL), ST_OK);
    written_to_a_file(&in, &tasks);
    assert_non_null(strstr(tasks, "\"plain\": {\"sigma\": 0.2, \"h\": 0.1, \"label\": 2}"));
    free(tasks);
    assert_int_equal(safetensors_open(&st, sandbox_path("m"), NULL), ST_OK);
    assert_int_equal(model_info_read(&out, st, NULL), ST_OK);
    safetensors_close(st);
    assert_memory_equal(&in.arch, &out.arch, sizeof in.arch);
    assert_int_equal(out.n_tasks, in.n_tasks);
    for (uint32_t i = 0; i < in.n_tasks; i++) {
        const struct model_task *a = &in.tasks[i], *b = &out.tasks[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->label, b->label);
        assert_true(a->sigma == b->sigma && a->h == b->h && a->level == b->level);
        assert_memory_equal(a->sigma_range, b->sigma_range, sizeof a->sigma_range);
        assert_memory_equal(a->level_range, b->level_range, sizeof a->level_range);
    }
    model_info_done(&out);
    /* Metadata that a reader would refuse is not written. */
    const struct model_task good = in.tasks[0];
    const struct {
        double *number, bad;
    } bad[] = { { &in.tasks[0].sigma_range[0], 0.06 }, { &in.tasks[0].sigma_range[1], NAN },
                { &in.tasks[0].sigma_range[0], NAN },  { &in.tasks[0].level_range[1], 2 },
                { &in.tasks[0].level, NAN },           { &in.tasks[0].level_range[0], -1 } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct model_metadata meta = { 0 };
        *bad[i].number = bad[i].bad;
        assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_BAD_FILE);
        in.tasks[0] = good;
    }
    in.tasks[0].label = 5; /* class 4 of five */
    struct model_metadata meta = { 0 };
    assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_BAD_FILE);
    in.tasks[0] = good;
    in.tile_size = 60; /* not a multiple of the lowest level's cells */
    assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_BAD_FILE);
    in.tile_size = 64;
    in.arch.patch = 3;
    assert_int_equal(model_info_metadata(&meta, &in, NULL), ST_BAD_FILE);
    sandbox_files(1);
}

static void the_shipped_model_is_a_restorer_of_three_tasks(void **state)
{
    (void)state;
    struct model_info info = { 0 };
    struct safetensors *st = NULL;
    assert_int_equal(safetensors_open(&st, DAVID_SOURCE_DIR "/models/default.safetensors", NULL),
                     ST_OK);
    assert_int_equal(model_info_read(&info, st, NULL), ST_OK);
    assert_int_equal(info.role, ROLE_RESTORER);
    assert_true(info.n_tasks >= 3);
    model_info_done(&info);
    safetensors_close(st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(architectures_out_of_bounds_are_refused),
        cmocka_unit_test(published_names_are_the_published_numbers),
        cmocka_unit_test(absent_keys_take_their_defaults),
        cmocka_unit_test(options_beyond_the_published_networks_are_read),
        cmocka_unit_test(the_text_of_a_published_network_names_no_option_beyond_it),
        cmocka_unit_test(an_architecture_survives_its_own_text),
        cmocka_unit_test(metadata_out_of_bounds_is_refused),
        cmocka_unit_test(a_model_file_says_what_was_written),
        cmocka_unit_test(a_range_that_is_not_named_is_the_value_alone),
        cmocka_unit_test(ranges_survive_a_model_file),
        cmocka_unit_test(the_shipped_model_is_a_restorer_of_three_tasks),
    };
    return cmocka_run_group_tests(tests, sandbox_enter, sandbox_leave);
}
