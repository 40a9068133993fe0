#include <math.h>

#include "proto/model_info.h"
#include "tests/proto/room.h"

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
}

static void an_architecture_survives_its_own_text(void **state)
{
    (void)state;
    const char *const texts[] = { "ffhq256", "imagenet256",
                                  "{" NANO ",\"channel_mult\":\"1\",\"class_cond\":true,"
                                  "\"attention_resolutions\":\"\"}" };
    for (size_t i = 0; i < 3; i++) {
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

/* Metadata through a real file; NULL values are left out. */
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
    assert_int_equal(safetensors_write(room_path("m"), NULL, 0, meta, n, NULL, NULL, NULL), ST_OK);
    assert_int_equal(safetensors_open(&st, room_path("m"), NULL), ST_OK);
    enum status s = model_info_read(info, st, err);
    safetensors_close(st);
    return s;
}

#define ONE_TASK "{\"denoise\":{\"sigma\":0.2,\"h\":0.1,\"label\":null}}"

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
    room_files(1);
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
        safetensors_write(room_path("m"), NULL, 0, meta.meta, meta.n, NULL, NULL, NULL), ST_OK);
    model_metadata_done(&meta);
    assert_int_equal(safetensors_open(&st, room_path("m"), NULL), ST_OK);
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
    room_files(1);
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
        cmocka_unit_test(an_architecture_survives_its_own_text),
        cmocka_unit_test(metadata_out_of_bounds_is_refused),
        cmocka_unit_test(a_model_file_says_what_was_written),
        cmocka_unit_test(the_shipped_model_is_a_restorer_of_three_tasks),
    };
    return cmocka_run_group_tests(tests, room_enter, room_leave);
}
