#include "proto/models/state_dict.h"
#include "proto/models/unpickle.h"
#include "tests/proto/sandbox.h"
#include "tests/proto/stored_zip.h"

/* Pieces of a pickle; a text is four bytes of length and its bytes. */
#define PROTO2        "\x80\x02"
#define KEY_W         "X\1\0\0\0w"
#define STORAGE(type) "(X\7\0\0\0storagectorch\n" type "\nX\1\0\0\0000X\3\0\0\0cpuK\x06tQ"
#define TENSOR        "ctorch._utils\n_rebuild_tensor_v2\n"
#define HOOKS                                                                                      \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)R"
/* {"w": a tensor of FloatStorage "0", 6 elements, with the given offset, size and stride} */
#define VIEW(offset, size, stride)                                                                 \
    PROTO2 "}" KEY_W TENSOR "(" STORAGE("FloatStorage") offset size stride HOOKS "tRs."
#define PICKLE(text) text, sizeof(text) - 1

static const struct {
    const char *name, *bytes;
    size_t len;
    const char *says;
} hostile[] = {
    { "empty", PICKLE(""), "protocol 2" },
    { "protocol 4", PICKLE("\x80\x04}."), "protocol 2" },
    { "no STOP", PICKLE(PROTO2 "}"), "cut short" },
    { "bytes after STOP", PICKLE(PROTO2 "}.}"), "one value" },
    { "two values left", PICKLE(PROTO2 "}}."), "one value" },
    { "an open mark left", PICKLE(PROTO2 "}(."), "one value" },
    { "os.system", PICKLE(PROTO2 "cos\nsystem\n(X\2\0\0\0idtR."), "os.system" },
    { "builtins.eval", PICKLE(PROTO2 "c__builtin__\neval\n."), "__builtin__.eval" },
    { "a name with control bytes", PICKLE(PROTO2 "co\x1bs\nsys\ttem\n."), "o?s.sys?tem" },
    { "a prefix of an allowed name", PICKLE(PROTO2 "ctorch\nFloat\n."), "torch.Float" },
    { "GLOBAL without its end", PICKLE(PROTO2 "ctorch\nFloatStorage"), "cut short" },
    { "unknown opcode INST", PICKLE(PROTO2 "(ios\nsystem\n."), "0x69" },
    { "unknown opcode STACK_GLOBAL", PICKLE(PROTO2 "\x93."), "0x93" },
    { "unknown opcode FRAME", PICKLE(PROTO2 "\x95\0\0\0\0\0\0\0\0."), "0x95" },
    { "memo never set", PICKLE(PROTO2 "h\5."), "memo 5" },
    { "memo out of range", PICKLE(PROTO2 "j\xff\xff\xff\xff."), "memo 4294967295" },
    { "memo set out of range", PICKLE(PROTO2 "}r\xff\xff\xff\x7f."), "memo grows" },
    { "memo between set ones", PICKLE(PROTO2 "}q\5h\3."), "memo 3" },
    { "TUPLE2 of one", PICKLE(PROTO2 "N\x86."), "empty stack" },
    { "REDUCE of nothing", PICKLE(PROTO2 "R."), "empty stack" },
    { "BINPUT of nothing", PICKLE(PROTO2 "q\0."), "empty stack" },
    { "TUPLE without a mark", PICKLE(PROTO2 "Nt."), "mark" },
    { "SETITEMS without a dict", PICKLE(PROTO2 "(NNu."), "empty stack" },
    { "below a mark", PICKLE(PROTO2 "}(q\0."), "empty stack" },
    { "a key without a value", PICKLE(PROTO2 "}(" KEY_W "u."), "without a value" },
    { "a key that is a dict", PICKLE(PROTO2 "}}Ns."), "neither text" },
    { "SETITEM on a list", PICKLE(PROTO2 "]" KEY_W "Ns."), "not a dict" },
    { "APPEND to a dict", PICKLE(PROTO2 "}Na."), "not a list" },
    { "BUILD of None", PICKLE(PROTO2 "N}b."), "BUILD" },
    { "REDUCE of text", PICKLE(PROTO2 KEY_W ")R."), "not callable" },
    { "a storage class called", PICKLE(PROTO2 "ctorch\nFloatStorage\n)R."), "is called" },
    { "OrderedDict with arguments", PICKLE(PROTO2 "ccollections\nOrderedDict\n]\x85R."),
      "arguments" },
    { "text longer than the pickle", PICKLE(PROTO2 "X\xff\xff\xff\xff."), "cut short" },
    { "LONG1 longer than the pickle", PICKLE(PROTO2 "\x8a\xff\1."), "cut short" },
    { "persistent id of three", PICKLE(PROTO2 "NNN\x87Q."), "storage of five" },
    { "persistent id that is no tuple", PICKLE(PROTO2 "NQ."), "storage of five" },
    { "storage key that climbs",
      PICKLE(PROTO2 "(X\7\0\0\0storagectorch\nFloatStorage\nX\4\0\0\0../1X\3\0\0\0cpuK\6tQ."),
      "plain word" },
    { "negative storage",
      PICKLE(PROTO2
             "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuJ\xff\xff\xff\xfftQ."),
      "-1 elements" },
    { "offset past the end", PICKLE(VIEW("K\6", "K\1\x85", "K\1\x85")), "element 6" },
    { "negative offset", PICKLE(VIEW("J\xff\xff\xff\xff", "K\1\x85", "K\1\x85")), "negative" },
    { "offset beyond 64 bits", PICKLE(VIEW("\x8a\x9\0\0\0\0\0\0\0\0\1", "K\1\x85", "K\1\x85")),
      "other types" },
    { "shape larger than the storage", PICKLE(VIEW("K\0", "K\7\x85", "K\1\x85")), "element 6" },
    { "stride larger than the storage", PICKLE(VIEW("K\0", "K\2\x85", "K\6\x85")), "element 6" },
    { "negative size", PICKLE(VIEW("K\0", "J\xff\xff\xff\xff\x85", "K\1\x85")), "negative" },
    { "negative stride", PICKLE(VIEW("K\5", "K\2\x85", "J\xff\xff\xff\xff\x85")), "negative" },
    { "fewer strides than sizes", PICKLE(VIEW("K\0", "K\1K\1\x86", "K\1\x85")), "strides" },
    { "count that overflows",
      PICKLE(VIEW("K\0", "\x8a\x8\0\0\0\0\0\0\0\x40\x8a\x8\0\0\0\0\0\0\0\x40\x86", "K\0K\0\x86")),
      "overflows" },
    { "stride that overflows",
      PICKLE(VIEW("K\0", "\x8a\x8\0\0\0\0\0\0\0\x40\x85", "\x8a\x8\0\0\0\0\0\0\0\x40\x85")),
      "overflows" },
    { "expansion to all memory", PICKLE(VIEW("K\0", "J\0\0\0\x40\x85", "K\0\x85")), "1073741824" },
    { "nine dimensions",
      PICKLE(VIEW("K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t")),
      "8 dimensions" },
    { "a tensor of no storage", PICKLE(PROTO2 TENSOR "(NK\0K\1\x85K\1\x85" HOOKS "tR."),
      "other types" },
    { "a tensor of five arguments", PICKLE(PROTO2 TENSOR "(NNNNNtR."), "six" },
    { "a tensor without a name",
      PICKLE(PROTO2 TENSOR "(" STORAGE("FloatStorage") "K\0K\1\x85K\1\x85" HOOKS "tR."),
      "without a name" },
    { "a parameter of no tensor", PICKLE(PROTO2 "ctorch._utils\n_rebuild_parameter\nN\x88}\x87R."),
      "parameter" },
    { "a list that holds itself", PICKLE(PROTO2 "]q\0h\0a."), "holds itself" },
    { "a key that is not UTF-8",
      PICKLE(PROTO2 "}X\2\0\0\0\xc0\x80" TENSOR
                    "(" STORAGE("FloatStorage") "K\0K\1\x85K\1\x85" HOOKS "tRs."),
      "UTF-8" },
    { "a key with a zero byte",
      PICKLE(PROTO2 "}X\2\0\0\0a\0" TENSOR "(" STORAGE("FloatStorage") "K\0K\1\x85K\1\x85" HOOKS
                                                                       "tRs."),
      "UTF-8" },
    { "two tensors at one path",
      PICKLE(PROTO2 "}(" KEY_W TENSOR "(" STORAGE("FloatStorage") "K\0K\1\x85K\1\x85" HOOKS
                                                                  "tRq\1" KEY_W "h\1u."),
      "two tensors" },
};

static void hostile_pickles_are_refused_with_their_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        struct unpickled u = { 0 };
        struct error err = { 0 };
        enum status s = unpickle(&u, hostile[i].bytes, hostile[i].len, &err);
        if (s != ST_BAD_FILE || u.tensors || !strstr(err.detail, hostile[i].says))
            fail_msg("%s: %s \"%s\"", hostile[i].name, status_name(s), err.detail);
    }
}

/* 30 lists, each of which holds the previous one twice: 2^30 paths in 300 bytes. */
static void a_pickle_that_doubles_at_every_level_is_refused(void **state)
{
    (void)state;
    unsigned char bytes[512] = { 0x80, 2, ']', 'q', 0 };
    size_t n = 5;
    for (unsigned char level = 1; level <= 30; level++) {
        const unsigned char more[] = {
            ']', '(', 'h',  (unsigned char)(level - 1), 'h', (unsigned char)(level - 1),
            'e', 'q', level
        };
        memcpy(bytes + n, more, sizeof more);
        n += sizeof more;
    }
    /* The rest of the stack goes into a tuple, so that one value remains. */
    memmove(bytes + 3, bytes + 2, n - 2);
    bytes[2] = '(';
    n++;
    bytes[n++] = 't';
    bytes[n++] = '.';
    struct unpickled u = { 0 };
    struct error err = { 0 };
    assert_int_equal(unpickle(&u, bytes, n, &err), ST_BAD_FILE);
    assert_non_null(strstr(err.detail, "1048576"));
}

#define GOOD_PICKLE VIEW("K\1", "K\2K\2\x86", "K\1K\3\x86")
static const float storage_values[6] = { 0, 1, 2, 3, 4, 5 };

struct zip_case {
    const char *name;
    const char *pickle_name, *storage_name;
    unsigned pickle_method, storage_method;
    size_t storage_bytes;
    uint32_t claimed;
    const char *says;
};

static enum status open_bytes(struct torch_zip **out, const void *bytes, size_t len,
                              struct error *err)
{
    FILE *f = fopen(sandbox_path("z.pt"), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    return torch_zip_open(out, sandbox_path("z.pt"), err);
}

static enum status open_case(struct torch_zip **out, const struct zip_case *c, struct error *err)
{
    static struct stored_zip z;
    z = (struct stored_zip){ 0 };
    zip_add(&z, c->pickle_name, PICKLE(GOOD_PICKLE), c->pickle_method, sizeof(GOOD_PICKLE) - 1);
    zip_add(&z, c->storage_name, storage_values, c->storage_bytes, c->storage_method, c->claimed);
    zip_end(&z);
    return open_bytes(out, z.file, z.file_len, err);
}

static void a_transposed_view_is_read_in_its_own_order(void **state)
{
    (void)state;
    const struct zip_case good = { "good", "m/data.pkl", "m/data/0", 0, 0, 24, 24, "" };
    struct torch_zip *z = NULL;
    struct state_dict c = { 0 };
    struct error err = { 0 };
    float v[4];
    if (open_case(&z, &good, &err)) fail_msg("%s", err.detail);
    assert_int_equal(torch_zip_count(z), 1);
    assert_string_equal(torch_zip_at(z, 0)->name, "w");
    assert_int_equal(torch_zip_at(z, 0)->count, 4);
    assert_null(torch_zip_at(z, 1));
    assert_int_equal(torch_zip_read(z, 0, v, NULL), ST_OK);
    assert_true(v[0] == 1 && v[1] == 4 && v[2] == 2 && v[3] == 5);
    assert_int_equal(torch_zip_read(z, 1, v, NULL), ST_INTERNAL);
    assert_int_equal(state_dict_select(&c, z, NULL, NULL), ST_OK);
    assert_string_equal(c.key, "flat");
    state_dict_done(&c);
    assert_int_equal(state_dict_select(&c, z, "ema", NULL), ST_BAD_FILE);
    assert_int_equal(state_dict_select(&c, z, "student", NULL), ST_BAD_PARAMETER);
    torch_zip_close(z);
}

static const struct zip_case bad_zips[] = {
    { "no pickle", "m/other.pkl", "m/data/0", 0, 0, 24, 24, "no */data.pkl" },
    { "pickle at the top", "data.pkl", "data/0", 0, 0, 24, 24, "no */data.pkl" },
    { "compressed pickle", "m/data.pkl", "m/data/0", 8, 0, 24, 24, "compressed" },
    { "compressed storage", "m/data.pkl", "m/data/0", 0, 8, 24, 24, "compressed" },
    { "missing storage", "m/data.pkl", "m/data/1", 0, 0, 24, 24, "lacks m/data/0" },
    { "storage in another folder", "m/data.pkl", "n/data/0", 0, 0, 24, 24, "lacks m/data/0" },
    { "storage too short", "m/data.pkl", "m/data/0", 0, 0, 20, 20, "has 20 bytes" },
    { "storage that claims more", "m/data.pkl", "m/data/0", 0, 0, 24, 1u << 31, "claims" },
    { "two pickles", "m/data.pkl", "n/data.pkl", 0, 0, 24, 24, "two data.pkl" },
};

static void hostile_zips_are_refused_with_their_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_zips / sizeof bad_zips[0]; i++) {
        struct torch_zip *z = NULL;
        struct error err = { 0 };
        enum status s = open_case(&z, &bad_zips[i], &err);
        if (s != ST_BAD_FILE || z || !strstr(err.detail, bad_zips[i].says))
            fail_msg("%s: %s \"%s\"", bad_zips[i].name, status_name(s), err.detail);
    }
}

static void a_flipped_bit_in_a_storage_fails_its_reading(void **state)
{
    (void)state;
    static struct stored_zip z;
    struct torch_zip *t = NULL;
    float v[4] = { 0 };
    z = (struct stored_zip){ 0 };
    zip_add(&z, "m/data.pkl", PICKLE(GOOD_PICKLE), 0, sizeof(GOOD_PICKLE) - 1);
    size_t start = z.file_len;
    zip_add(&z, "m/data/0", storage_values, sizeof storage_values, 0, sizeof storage_values);
    zip_end(&z);
    z.file[start + 30 + 8 + 5] ^= 1;
    assert_int_equal(open_bytes(&t, z.file, z.file_len, NULL), ST_OK);
    assert_int_equal(torch_zip_read(t, 0, v, NULL), ST_BAD_FILE);
    assert_true(v[0] == 0);
    torch_zip_close(t);
}

static void a_zip_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static struct stored_zip z;
    struct torch_zip *t = NULL;
    z = (struct stored_zip){ 0 };
    zip_add(&z, "m/data.pkl", PICKLE(GOOD_PICKLE), 0, sizeof(GOOD_PICKLE) - 1);
    zip_add(&z, "m/data/0", storage_values, sizeof storage_values, 0, sizeof storage_values);
    zip_end(&z);
    for (size_t n = 0; n < z.file_len; n++)
        assert_int_equal(open_bytes(&t, z.file, n, NULL), ST_BAD_FILE);
    assert_int_equal(torch_zip_open(&t, sandbox_path("missing.pt"), NULL), ST_IO);
    assert_int_equal(torch_zip_open(&t, sandbox_folder, NULL), ST_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_pickles_are_refused_with_their_reason),
        cmocka_unit_test(a_pickle_that_doubles_at_every_level_is_refused),
        cmocka_unit_test(a_transposed_view_is_read_in_its_own_order),
        cmocka_unit_test(hostile_zips_are_refused_with_their_reason),
        cmocka_unit_test(a_flipped_bit_in_a_storage_fails_its_reading),
        cmocka_unit_test(a_zip_cut_anywhere_is_refused),
    };
    return cmocka_run_group_tests(tests, sandbox_enter, sandbox_leave);
}
