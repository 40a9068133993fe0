#include <jansson.h>

#include "proto/models/safetensors.h"
#include "tests/proto/sandbox.h"

/* A file of `header` with its true length, and `data` bytes of zeros. */
static enum status open_text(struct safetensors **st, const char *header, size_t data,
                             struct error *err)
{
    static unsigned char file[1 << 16];
    uint64_t len = strlen(header);
    assert_true(len + data + 8 <= sizeof file);
    memset(file, 0, sizeof file);
    memcpy(file, &len, 8);
    memcpy(file + 8, header, (size_t)len);
    return safetensors_open_memory(st, file, (size_t)len + 8 + data, "test", err);
}

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

static const struct {
    const char *name, *header;
    size_t data;
    const char *says;
} hostile[] = {
    { "not JSON", "{", 0, "not a JSON object" },
    { "an array", "[]", 0, "another value" },
    { "an entry that is no object", "{\"a\":1}", 0, "not an object of dtype" },
    { "an entry with a key too many",
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":1}}", 1,
      "not an object of dtype" },
    { "duplicate names", "{" T("a", "U8", "[]", 0, 1) "," T("a", "U8", "[]", 1, 2) "}", 2,
      "duplicate" },
    { "an empty name", "{" T("", "U8", "[]", 0, 1) "}", 1, "name has 0 bytes" },
    { "unknown dtype", "{" T("a", "F8", "[1]", 0, 1) "}", 1, "F8" },
    { "dtype that is a number", "{\"a\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,1]}}", 1,
      "not a string" },
    { "wrong dtype for the bytes", "{" T("a", "F32", "[2]", 0, 4) "}", 4, "needs 8" },
    { "shape that is no array", "{" T("a", "U8", "{}", 0, 1) "}", 1, "not an array" },
    { "negative size", "{" T("a", "U8", "[-1]", 0, 1) "}", 1, "not a size" },
    { "fractional size", "{" T("a", "U8", "[1.5]", 0, 1) "}", 1, "not a size" },
    { "nine dimensions", "{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "9 dimensions" },
    { "overflowing shape", "{" T("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, "overflows" },
    { "overflow behind a zero", "{" T("a", "F32", "[0,4611686018427387904,16]", 0, 0) "}", 0,
      "overflows" },
    { "integer beyond 64 bits", "{" T("a", "U8", "[18446744073709551617]", 0, 1) "}", 1,
      "not a JSON object" },
    { "offsets backwards", "{" T("a", "U8", "[1]", 1, 0) "}", 1, "[begin, end]" },
    { "negative offset", "{" T("a", "U8", "[1]", -1, 0) "}", 1, "[begin, end]" },
    { "offset past the end", "{" T("a", "U8", "[8]", 0, 8) "}", 7, "of 7 bytes" },
    { "huge offset", "{" T("a", "U8", "[1]", 9223372036854775806, 9223372036854775807) "}", 1,
      "of 1 bytes" },
    { "overlap", "{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 1, 3) "}", 3,
      "overlapping" },
    { "shared bytes", "{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 0, 2) "}", 2,
      "overlapping" },
    { "hole", "{" T("a", "U8", "[1]", 0, 1) "," T("b", "U8", "[1]", 2, 3) "}", 3, "hole" },
    { "hole at the start", "{" T("a", "U8", "[1]", 1, 2) "}", 2, "hole" },
    { "bytes after the last tensor", "{" T("a", "U8", "[1]", 0, 1) "}", 2, "tensors end at 1" },
    { "metadata that is no text", "{\"__metadata__\":{\"a\":1}}", 0, "not a string" },
    { "metadata that is no object", "{\"__metadata__\":[]}", 0, "__metadata__" },
};

static void hostile_headers_are_refused_with_their_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        struct safetensors *st = NULL;
        struct error err = { 0 };
        enum status s = open_text(&st, hostile[i].header, hostile[i].data, &err);
        if (s != ST_BAD_FILE || st || !strstr(err.detail, hostile[i].says))
            fail_msg("%s: %s \"%s\"", hostile[i].name, status_name(s), err.detail);
    }
}

static void truncated_and_lying_files_are_refused(void **state)
{
    (void)state;
    struct safetensors *st = NULL;
    static unsigned char bytes[16];
    const uint64_t lengths[] = { 9, 1000, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 40 };
    for (size_t n = 0; n < 8; n++)
        assert_int_equal(safetensors_open_memory(&st, bytes, n, "test", NULL), ST_BAD_FILE);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memcpy(bytes, &lengths[i], 8);
        assert_int_equal(safetensors_open_memory(&st, bytes, sizeof bytes, "test", NULL),
                         ST_BAD_FILE);
    }
    assert_null(st);
}

static void deep_and_huge_headers_are_refused(void **state)
{
    (void)state;
    struct safetensors *st = NULL;
    struct error err = { 0 };
    size_t len = (5u << 20) + 8;
    unsigned char *file = malloc(len);
    assert_non_null(file);
    memset(file, ' ', len);
    uint64_t header = len - 8;
    memcpy(file, &header, 8);
    memcpy(file + 8, "{}", 2);
    assert_int_equal(safetensors_open_memory(&st, file, len, "test", &err), ST_BAD_FILE);
    assert_non_null(strstr(err.detail, "more than"));
    header = 1 << 20;
    memset(file + 8, '[', (size_t)header);
    memcpy(file, &header, 8);
    memcpy(file + 8, "{\"a\":", 5);
    err = (struct error){ 0 };
    assert_int_equal(safetensors_open_memory(&st, file, (size_t)header + 8, "test", &err),
                     ST_BAD_FILE);
    free(file);
}

/* Every prefix of a valid file is refused, and so is the file with one more byte. */
static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static unsigned char file[4096];
    struct safetensors *st = NULL;
    const float v[3] = { 1, 2, 3 };
    const struct st_tensor t = { "w", DT_F32, 1, { 3 }, 3, v };
    assert_int_equal(safetensors_write(sandbox_path("a"), &t, 1, NULL, 0, NULL, NULL, NULL), ST_OK);
    FILE *f = fopen(sandbox_path("a"), "rb");
    assert_non_null(f);
    size_t len = fread(file, 1, sizeof file, f);
    (void)fclose(f);
    for (size_t n = 0; n <= len + 1; n++) {
        enum status s = safetensors_open_memory(&st, file, n, "test", NULL);
        assert_int_equal(s, n == len ? ST_OK : ST_BAD_FILE);
        if (!s) safetensors_close(st);
    }
    sandbox_files(1);
}

static enum status fill_ones(void *ctx, size_t i, void *dst, struct error *err)
{
    size_t *fail_at = ctx;
    if (i == *fail_at) return error_set(err, ST_DEVICE_FAULT, "no more weights");
    const float v[2] = { 1, (float)i };
    memcpy(dst, v, sizeof v);
    return ST_OK;
}

/* The header of the file has this many metadata entries and tensors, and no other entry. */
static void header_holds(const char *path, size_t metadata, size_t tensors)
{
    uint64_t len = 0;
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(&len, sizeof len, 1, f), 1);
    json_t *header = json_loadf(f, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, NULL);
    (void)fclose(f);
    assert_int_equal(json_object_size(json_object_get(header, "__metadata__")), metadata);
    assert_int_equal(json_object_size(header), tensors + 1);
    json_decref(header);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    const struct st_tensor t[] = {
        { .name = "z.w\xc3\xa9", .dtype = DT_F32, .dims = 2, .shape = { 1, 2 }, .count = 2 },
        { .name = "empty", .dtype = DT_F16, .dims = 2, .shape = { 0, 3 }, .count = 0 },
        { .name = "a", .dtype = DT_F32, .dims = 1, .shape = { 2 }, .count = 2 },
    };
    const struct st_meta meta[] = { { "k", "v \"quoted\"\n" }, { "david.role", "\"prior\"" } };
    size_t never = 99;
    struct safetensors *st = NULL;
    assert_int_equal(safetensors_write(sandbox_path("a"), t, 3, meta, 2, fill_ones, &never, NULL),
                     ST_OK);
    assert_int_equal(safetensors_open(&st, sandbox_path("a"), NULL), ST_OK);
    assert_int_equal(safetensors_count(st), 3);
    assert_string_equal(safetensors_metadata(st, "k"), "v \"quoted\"\n");
    assert_string_equal(safetensors_metadata(st, "david.role"), "\"prior\"");
    assert_null(safetensors_metadata(st, "absent"));
    assert_null(safetensors_find(st, "absent"));
    const struct st_tensor *a = safetensors_find(st, "a"), *e = safetensors_find(st, "empty");
    assert_non_null(a);
    assert_non_null(e);
    assert_int_equal(e->count, 0);
    assert_ptr_equal(safetensors_find(st, t[0].name), safetensors_at(st, 0));
    float v[2];
    memcpy(v, a->data, sizeof v);
    assert_true(v[0] == 1 && v[1] == 2);
    assert_int_equal((uintptr_t)safetensors_at(st, 0)->data % 8, 0);
    safetensors_close(st);
    header_holds(sandbox_path("a"), 2, 3);
    sandbox_files(1);
}

static void a_write_that_fails_leaves_the_old_file_and_no_trace(void **state)
{
    (void)state;
    const struct st_tensor t[] = {
        { .name = "a", .dtype = DT_F32, .dims = 1, .shape = { 2 }, .count = 2 },
        { .name = "b", .dtype = DT_F32, .dims = 1, .shape = { 2 }, .count = 2 },
    };
    size_t never = 99, second = 1;
    struct error err = { 0 };
    struct safetensors *st = NULL;
    assert_int_equal(safetensors_write(sandbox_path("a"), t, 1, NULL, 0, fill_ones, &never, NULL),
                     ST_OK);
    assert_int_equal(safetensors_write(sandbox_path("a"), t, 2, NULL, 0, fill_ones, &second, &err),
                     ST_DEVICE_FAULT);
    assert_int_equal(sandbox_files(0), 1);
    assert_int_equal(safetensors_open(&st, sandbox_path("a"), NULL), ST_OK);
    assert_int_equal(safetensors_count(st), 1);
    safetensors_close(st);
    sandbox_files(1);
}

static void descriptions_that_lie_are_not_written(void **state)
{
    (void)state;
    struct st_tensor t[2] = {
        { .name = "a", .dtype = DT_F32, .dims = 1, .shape = { 2 }, .count = 3 },
        { .name = "a", .dtype = DT_F32, .dims = 1, .shape = { 2 }, .count = 2 }
    };
    size_t never = 99;
    assert_int_equal(safetensors_write(sandbox_path("a"), t, 1, NULL, 0, fill_ones, &never, NULL),
                     ST_INTERNAL);
    t[0].count = 2;
    assert_int_equal(safetensors_write(sandbox_path("a"), t, 2, NULL, 0, fill_ones, &never, NULL),
                     ST_INTERNAL);
    assert_int_equal(sandbox_files(1), 0);
}

static void what_is_not_a_file_is_an_io_error(void **state)
{
    (void)state;
    struct safetensors *st = NULL;
    assert_int_equal(safetensors_open(&st, sandbox_path("missing"), NULL), ST_IO);
    assert_int_equal(safetensors_open(&st, sandbox_folder, NULL), ST_IO);
    assert_int_equal(safetensors_open(&st, "/dev/zero", NULL), ST_IO);
    FILE *f = fopen(sandbox_path("empty"), "wb");
    assert_non_null(f);
    (void)fclose(f);
    assert_int_equal(safetensors_open(&st, sandbox_path("empty"), NULL), ST_BAD_FILE);
    sandbox_files(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_headers_are_refused_with_their_reason),
        cmocka_unit_test(truncated_and_lying_files_are_refused),
        cmocka_unit_test(deep_and_huge_headers_are_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(a_write_that_fails_leaves_the_old_file_and_no_trace),
        cmocka_unit_test(descriptions_that_lie_are_not_written),
        cmocka_unit_test(what_is_not_a_file_is_an_io_error),
    };
    return cmocka_run_group_tests(tests, sandbox_enter, sandbox_leave);
}
