/* Golden checkpoints against the values that they were made from (engine/README.md sections 6 and
 * 7). */
#include <math.h>

#include "proto/models/model_info.h"
#include "proto/models/state_dict.h"
#include "tests/proto/sandbox.h"

static const char *golden(const char *name)
{
    static char path[2][1024];
    static int turn;
    const char *folder = getenv("DAVID_GOLDEN");
    turn = !turn;
    (void)snprintf(path[turn], sizeof path[0], "%s/%s", folder ? folder : DAVID_GOLDEN_DEFAULT,
                   name);
    return path[turn];
}

/* A deliberate copy of the formula: another test compares the engine's own with
 * hash.safetensors. */
static float hash_value(const char *name, uint64_t seed, uint64_t i)
{
    uint64_t z = 0xcbf29ce484222325u;
    for (const char *p = name; *p; p++)
        z = (z ^ (unsigned char)*p) * 0x100000001b3u;
    z += seed * 0x9e3779b97f4a7c15u + i + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(((double)(z >> 40) / 16777216.0 - 0.5) * sqrt(12.0));
}

static float parameter(const struct st_tensor *t, const char *name, uint64_t seed, uint64_t i)
{
    float v = hash_value(name, seed, i);
    size_t len = strlen(name);
    if (t->dims > 1) {
        double fan_in = 1;
        for (uint32_t d = 1; d < t->dims; d++)
            fan_in *= (double)t->shape[d];
        return v * (float)(1 / sqrt(fan_in));
    }
    v *= 0.1f;
    return len > 7 && strcmp(name + len - 7, ".weight") == 0 ? 1.0f + v : v;
}

static struct safetensors *open_golden(const char *name)
{
    struct safetensors *st = NULL;
    struct error err = { 0 };
    if (safetensors_open(&st, golden(name), &err)) fail_msg("%s", err.detail);
    return st;
}

static struct torch_zip *open_pt(const char *name)
{
    struct torch_zip *z = NULL;
    struct error err = { 0 };
    if (torch_zip_open(&z, golden(name), &err)) fail_msg("%s", err.detail);
    return z;
}

static void *read_pt(struct torch_zip *z, size_t i)
{
    const struct st_tensor *t = torch_zip_at(z, i);
    struct error err = { 0 };
    void *data = malloc(t->count * dtype_size(t->dtype) + 1);
    assert_non_null(data);
    if (torch_zip_read(z, i, data, &err)) fail_msg("%s: %s", t->name, err.detail);
    return data;
}

static uint64_t prior_seed(void)
{
    struct safetensors *st = open_golden("prior.f16.safetensors");
    assert_non_null(safetensors_metadata(st, "seed"));
    uint64_t seed = strtoull(safetensors_metadata(st, "seed"), NULL, 10);
    safetensors_close(st);
    return seed;
}

static void every_exotic_tensor_equals_its_contiguous_counterpart(void **state)
{
    (void)state;
    static const char prefix[] = "nested.state_dict.";
    struct safetensors *st = open_golden("exotic.safetensors");
    struct torch_zip *z = open_pt("exotic.pt");
    assert_int_equal(torch_zip_count(z), safetensors_count(st));
    assert_true(torch_zip_count(z) > 0);
    for (size_t i = 0; i < torch_zip_count(z); i++) {
        const struct st_tensor *t = torch_zip_at(z, i);
        assert_int_equal(strncmp(t->name, prefix, sizeof prefix - 1), 0);
        const struct st_tensor *counterpart = safetensors_find(st, t->name + sizeof prefix - 1);
        assert_non_null(counterpart);
        assert_int_equal(t->dims, counterpart->dims);
        assert_memory_equal(t->shape, counterpart->shape, sizeof t->shape);
        unsigned char *data = read_pt(z, i);
        if (t->dtype == DT_BOOL) {
            assert_int_equal(counterpart->dtype, DT_I32);
            for (size_t k = 0; k < t->count; k++) {
                int32_t v;
                memcpy(&v, (const char *)counterpart->data + 4 * k, 4);
                assert_int_equal(data[k], v);
            }
        } else {
            assert_int_equal(t->dtype, counterpart->dtype);
            if (t->count)
                assert_memory_equal(data, counterpart->data, t->count * dtype_size(t->dtype));
        }
        free(data);
    }
    torch_zip_close(z);
    safetensors_close(st);
}

static void assert_hash_weights(const char *file, const char *key, const char *taken, float factor)
{
    struct torch_zip *z = open_pt(file);
    struct state_dict c = { 0 };
    struct error err = { 0 };
    uint64_t seed = prior_seed();
    if (state_dict_select(&c, z, key, &err)) fail_msg("%s", err.detail);
    assert_string_equal(c.key, taken);
    assert_int_equal(c.n, 88);
    for (size_t i = 0; i < c.n; i++) {
        const struct st_tensor *t = torch_zip_at(z, c.entries[i].index);
        float *v = read_pt(z, c.entries[i].index);
        assert_int_equal(t->dtype, DT_F32);
        for (size_t k = 0; k < t->count; k++)
            if (v[k] != factor * parameter(t, c.entries[i].name, seed, k))
                fail_msg("%s [%zu] = %.9g", c.entries[i].name, k, (double)v[k]);
        free(v);
    }
    state_dict_done(&c);
    torch_zip_close(z);
}

static void a_flat_prior_equals_the_hash_weights_exactly(void **state)
{
    (void)state;
    assert_hash_weights("prior.pt", NULL, "flat", 1);
    assert_hash_weights("prior.pt", "flat", "flat", 1);
}

static void the_ema_weights_are_served_and_no_others(void **state)
{
    (void)state;
    assert_hash_weights("davi_ema.pt", NULL, "ema", 1);
    assert_hash_weights("davi_ema.pt", "ema", "ema", 1);
    assert_hash_weights("davi_ema.pt", "implicit", "implicit", 0.5f);
    struct torch_zip *z = open_pt("davi_ema.pt");
    struct state_dict c = { 0 };
    assert_int_equal(state_dict_select(&c, z, "flat", NULL), ST_BAD_FILE);
    torch_zip_close(z);
}

static void the_half_prior_is_the_hash_weights_rounded(void **state)
{
    (void)state;
    struct safetensors *st = open_golden("prior.f16.safetensors");
    uint64_t seed = prior_seed();
    assert_int_equal(safetensors_count(st), 88);
    for (size_t i = 0; i < safetensors_count(st); i++) {
        const struct st_tensor *t = safetensors_at(st, i);
        assert_int_equal(t->dtype, DT_F16);
        for (size_t k = 0; k < t->count; k++) {
            uint16_t v;
            memcpy(&v, (const char *)t->data + 2 * k, 2);
            if (v != f16_of_f32(parameter(t, t->name, seed, k))) fail_msg("%s [%zu]", t->name, k);
        }
    }
    safetensors_close(st);
}

static void golden_configurations_are_read_as_priors(void **state)
{
    (void)state;
    struct safetensors *st = open_golden("prior.f16.safetensors");
    struct model_info info = { 0 };
    struct error err = { 0 };
    if (model_info_read(&info, st, &err)) fail_msg("%s", err.detail);
    assert_int_equal(info.role, ROLE_PRIOR);
    assert_int_equal(info.n_tasks, 0);
    assert_int_equal(info.tile_size, info.arch.image_size);
    model_info_done(&info);
    safetensors_close(st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_exotic_tensor_equals_its_contiguous_counterpart),
        cmocka_unit_test(a_flat_prior_equals_the_hash_weights_exactly),
        cmocka_unit_test(the_ema_weights_are_served_and_no_others),
        cmocka_unit_test(the_half_prior_is_the_hash_weights_rounded),
        cmocka_unit_test(golden_configurations_are_read_as_priors),
    };
    return cmocka_run_group_tests(tests, sandbox_enter, sandbox_leave);
}
