/* Programs on the reference back end: the folded and the unfolded form agree, rows do not know of each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph/backward.h"
#include "engine/graph/op_run.h"
#include "tests/engine/small_net.h"

static double relative_error(const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    assert_true(norm > 0);
    return sqrt(difference / norm);
}

static void folded_and_unfolded_forms_agree(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct net n = net_of(&archs[i]);
        float *folded = malloc(ROWS * n.y_row * sizeof *folded);
        assert_non_null(folded);
        struct program *p = program_of(&n, (struct program_options){ 0 });
        struct program_io io = {
            .x = n.x, .y = n.y, .t = t, .sigma = sigma, .level = level, .label = label
        };
        assert_int_equal(program_run(p, &io, ROWS, NULL), ST_OK);
        program_free(p);
        p = program_of(&n, (struct program_options){ .conditions = conditions, .n_conditions = 3 });
        io = (struct program_io){ .x = n.x, .y = folded, .condition = condition };
        assert_int_equal(program_run(p, &io, ROWS, NULL), ST_OK);
        program_free(p);
        assert_true(relative_error(folded, n.y, ROWS * n.y_row) < 1e-6);
        free(folded);
        net_done(&n);
    }
}

static void a_row_is_the_same_alone_and_among_others(void **state)
{
    (void)state;
    struct net n = net_of(&archs[0]);
    struct program *p =
        program_of(&n, (struct program_options){ .conditions = conditions, .n_conditions = 3 });
    struct program_io io = { .x = n.x, .y = n.y, .condition = condition };
    float *alone = malloc(n.y_row * sizeof *alone);
    assert_non_null(alone);
    assert_int_equal(program_run(p, &io, ROWS, NULL), ST_OK);
    for (uint32_t i = 0; i < ROWS; i++) {
        io = (struct program_io){ .x = n.x + i * n.x_row, .y = alone, .condition = &condition[i] };
        assert_int_equal(program_run(p, &io, 1, NULL), ST_OK);
        assert_memory_equal(alone, n.y + i * n.y_row, n.y_row * sizeof *alone);
    }
    free(alone);
    program_free(p);
    net_done(&n);
}

/* Of a network of cells: those of each pixel of a cell. */
static void the_first_output_channels_are_those_of_the_whole(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCHS; i++) {
        struct net n = net_of(&archs[i]);
        const size_t all = n.y_row / n.px;
        float *some = malloc(ROWS * n.y_row * sizeof *some);
        assert_non_null(some);
        struct program_options o = { .conditions = conditions, .n_conditions = 3 };
        struct program *whole = program_of(&n, o);
        struct program_io io = { .x = n.x, .y = n.y, .condition = condition };
        assert_int_equal(program_run(whole, &io, ROWS, NULL), ST_OK);
        for (uint32_t c = 1; c <= all; c += 2) {
            o.output_channels = c;
            struct program *part = program_of(&n, o);
            io.y = some;
            assert_int_equal(program_run(part, &io, ROWS, NULL), ST_OK);
            for (size_t k = 0; k < ROWS * n.px; k++)
                assert_memory_equal(some + c * k, n.y + all * k, c * sizeof *some);
            assert_true(c == all || program_bytes(part) < program_bytes(whole));
            program_free(part);
        }
        free(some);
        program_free(whole);
        net_done(&n);
    }
}

static void taps_are_kept_only_when_asked_for(void **state)
{
    (void)state;
    struct net n = net_of(&archs[2]);
    size_t count = 0;
    struct program *p = program_of(&n, (struct program_options){ 0 });
    assert_int_equal(program_tap(p, "middle_block", NULL, &count, NULL), ST_NOT_FOUND);
    program_free(p);
    p = program_of(&n, (struct program_options){ .keep_taps = true });
    assert_int_equal(program_tap(p, "no such block", NULL, &count, NULL), ST_NOT_FOUND);
    struct program_io io = { .x = n.x, .y = n.y, .t = t };
    assert_int_equal(program_run(p, &io, 2, NULL), ST_OK);
    assert_int_equal(program_tap(p, "out", NULL, &count, NULL), ST_OK);
    assert_int_equal(count, 2 * n.y_row);
    float *out = malloc(count * sizeof *out);
    assert_non_null(out);
    assert_int_equal(program_tap(p, "out", out, &count, NULL), ST_OK);
    assert_memory_equal(out, n.y, count * sizeof *out);
    free(out);
    program_free(p);
    net_done(&n);
}

static void impossible_inputs_are_refused(void **state)
{
    (void)state;
    struct net n = net_of(&archs[LABELS_ARCH]);
    struct program *p = NULL;
    struct program_options o = { .dtype = DT_BF16 };
    assert_int_equal(program_new(&p, n.b, n.g, &hashes, &o, NULL), ST_UNSUPPORTED);
    o = (struct program_options){ .dtype = DT_F32, .output_channels = 7 };
    assert_int_equal(program_new(&p, n.b, n.g, &hashes, &o, NULL), ST_BAD_PARAMETER);
    struct condition unknown = { 999, 5, 0, 0 };
    o = (struct program_options){ .dtype = DT_F32, .conditions = &unknown, .n_conditions = 1 };
    assert_int_equal(program_new(&p, n.b, n.g, &hashes, &o, NULL), ST_BAD_PARAMETER);
    assert_null(p);

    p = program_of(&n, (struct program_options){ 0 });
    struct program_io io = { .x = n.x, .y = n.y, .t = t };
    assert_int_equal(program_run(p, &io, 1, NULL), ST_BAD_PARAMETER);
    const float no_time = NAN;
    io = (struct program_io){ .x = n.x, .y = n.y, .t = &no_time, .label = label };
    assert_int_equal(program_run(p, &io, 1, NULL), ST_BAD_PARAMETER);
    program_free(p);
    p = program_of(&n, (struct program_options){ .conditions = conditions, .n_conditions = 1 });
    io = (struct program_io){ .x = n.x, .y = n.y, .condition = &label[0] };
    assert_int_equal(program_run(p, &io, 1, NULL), ST_BAD_PARAMETER);
    program_free(p);
    net_done(&n);
}

static void what_a_network_is_told_must_be_said(void **state)
{
    (void)state;
    struct net n = net_of(&archs[CELLS_ARCH]);
    struct program *p = NULL;
    struct program_options o = { .dtype = DT_F32, .output_channels = 7 };
    assert_int_equal(program_new(&p, n.b, n.g, &hashes, &o, NULL), ST_BAD_PARAMETER);
    assert_null(p);
    p = program_of(&n, (struct program_options){ 0 });
    const struct program_io whole = {
        .x = n.x, .y = n.y, .t = t, .sigma = sigma, .level = level, .label = label
    };
    const float none = NAN, *const without[] = { NULL, &none };
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        struct program_io io = whole;
        struct error err = { 0 };
        io.sigma = without[i];
        assert_int_equal(program_run(p, &io, 1, &err), ST_BAD_PARAMETER);
        assert_non_null(strstr(err.detail, "finite sigma"));
        io = whole;
        io.level = without[i];
        err = (struct error){ 0 };
        assert_int_equal(program_run(p, &io, 1, &err), ST_BAD_PARAMETER);
        assert_non_null(strstr(err.detail, "finite level"));
    }
    /* Each of them counts. */
    float *other = malloc(n.y_row * sizeof *other);
    assert_non_null(other);
    assert_int_equal(program_run(p, &whole, 1, NULL), ST_OK);
    for (int i = 0; i < 4; i++) {
        struct program_io io = whole;
        io.y = other;
        if (i == 0) io.t = t + 1;
        if (i == 1) io.sigma = sigma + 1;
        if (i == 2) io.level = level + 1;
        if (i == 3) io.label = label + 1;
        assert_int_equal(program_run(p, &io, 1, NULL), ST_OK);
        assert_true(relative_error(other, n.y, n.y_row) > 1e-3);
    }
    free(other);
    program_free(p);
    net_done(&n);
}

/* The source fails at each parameter in turn; what was made before is given back (a sanitizer build sees to that). */
static enum status load_some(void *ctx, const struct param_desc *d, float *dst, struct error *err)
{
    unsigned *left = ctx;
    if (*left == 0) return error_set(err, ST_BAD_FILE, "%s is missing", d->name);
    (*left)--;
    return hash_param_load(&seed, d, dst, err);
}

static void a_missing_parameter_fails_the_whole(void **state)
{
    (void)state;
    for (int form = 0; form < 4; form++) {
        struct net n = net_of(&archs[form / 2 ? CELLS_ARCH : LABELS_ARCH]);
        struct program_options o = { .dtype = DT_F32,
                                     .conditions = form % 2 ? conditions : NULL,
                                     .n_conditions = 3 };
        unsigned good = 0;
        for (;; good++) {
            unsigned left = good;
            struct param_source some = { load_some, &left };
            struct program *p = NULL;
            struct error err = { 0 };
            enum status s = program_new(&p, n.b, n.g, &some, &o, &err);
            program_free(p);
            if (s == ST_OK) break;
            assert_int_equal(s, ST_BAD_FILE);
            assert_null(p);
        }
        assert_in_range(good, n.g->n_params, n.g->n_params + 1);
        net_done(&n);
    }
}

/* One function of a back end at a time is taken away; the program, or the tape, is refused by the op's name. */
static void a_network_with_an_op_that_the_back_end_lacks_is_refused(void **state)
{
    (void)state;
    struct net n = net_of(&archs[2]);
    const struct backend_ops *all = n.b->ops;
    const struct gradient_ops *all_gradients = all->gradients;
    struct gradient_ops gradients = *all_gradients;
    struct backend_ops ops = *all;
    const struct program_options o = { .dtype = DT_F32 }, folded = { .dtype = DT_F32,
                                                                     .conditions = conditions,
                                                                     .n_conditions = 1 };
    const struct backward_options training = { .rows = 1, .dtype = DT_F32 };
    struct program *p = NULL;
    struct tape *tape = NULL;
    float *params = NULL; /* of a tape that is never made */
    struct error err = { 0 };

    ops.gradients = &gradients;
    n.b->ops = &ops;
    ops.net.upsample = NULL;
    assert_int_equal(program_new(&p, n.b, n.g, &hashes, &o, &err), ST_UNSUPPORTED);
    assert_string_equal(err.detail, "the back end reference has no op UPSAMPLE");
    err = (struct error){ 0 };
    assert_int_equal(program_new(&p, n.b, n.g, &hashes, &folded, &err), ST_UNSUPPORTED);
    assert_string_equal(err.detail, "the back end reference has no op UPSAMPLE");
    err = (struct error){ 0 };
    assert_int_equal(tape_new(&tape, n.b, n.g, params, &training, &err), ST_UNSUPPORTED);
    assert_string_equal(err.detail, "the back end reference has no op UPSAMPLE for training");

    ops.net.upsample = all->net.upsample;
    gradients.conv_weights = NULL;
    err = (struct error){ 0 };
    assert_int_equal(tape_new(&tape, n.b, n.g, params, &training, &err), ST_UNSUPPORTED);
    assert_string_equal(err.detail, "the back end reference has no gradient of the op CONV");
    assert_null(p);
    assert_null(tape);

    /* Inference needs no gradient. */
    p = program_of(&n, o);
    program_free(p);
    n.b->ops = all;
    net_done(&n);
}

/* ops.def against the back end that has every op and every gradient: what an op's gradient reads is a trait of it. */
static void every_op_of_the_table_has_what_its_traits_say(void **state)
{
    (void)state;
    const uint32_t reads = OP_READS_DY | OP_READS_X | OP_READS_OTHER | OP_READS_Y;
    struct backend *b = NULL;
    assert_int_equal(reference_backend_open(&b, NULL), ST_OK);
    for (int op = 0; op < OP_COUNT; op++) {
        assert_int_equal(supports_op(b, (enum op)op, OP_FOR_TRAINING, NULL), ST_OK);
        assert_int_equal(supports_op(b, (enum op)op, OP_FOR_GRADIENT, NULL) == ST_OK,
                         (op_traits((enum op)op) & reads) != 0);
        if (op_traits((enum op)op) & OP_DX_IN_PLACE)
            assert_true(op_traits((enum op)op) & OP_IN_PLACE);
    }
    assert_int_equal(supports_op(b, OP_BATCH_NORM, OP_FOR_INFERENCE, NULL), ST_UNSUPPORTED);
    b->ops->device.close(b);
}

static void time_is_accounted_per_op(void **state)
{
    (void)state;
    struct net n = net_of(&archs[0]);
    struct program *p = program_of(
        &n,
        (struct program_options){ .conditions = conditions, .n_conditions = 3, .time_ops = true });
    struct program_io io = { .x = n.x, .y = n.y };
    uint64_t ns[OP_COUNT];
    assert_int_equal(program_run(p, &io, 1, NULL), ST_OK);
    program_op_times(p, ns);
    assert_true(ns[OP_CONV] > 0 && ns[OP_GROUP_NORM] > 0);
    assert_int_equal(ns[OP_LINEAR], 0);
    program_op_times(p, ns);
    assert_int_equal(ns[OP_CONV], 0);
    program_free(p);
    net_done(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folded_and_unfolded_forms_agree),
        cmocka_unit_test(a_row_is_the_same_alone_and_among_others),
        cmocka_unit_test(the_first_output_channels_are_those_of_the_whole),
        cmocka_unit_test(taps_are_kept_only_when_asked_for),
        cmocka_unit_test(impossible_inputs_are_refused),
        cmocka_unit_test(what_a_network_is_told_must_be_said),
        cmocka_unit_test(a_missing_parameter_fails_the_whole),
        cmocka_unit_test(a_network_with_an_op_that_the_back_end_lacks_is_refused),
        cmocka_unit_test(every_op_of_the_table_has_what_its_traits_say),
        cmocka_unit_test(time_is_accounted_per_op),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
