/* The JSON of a training run in a model file: the exact texts, and the score that is read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/messages/training_log.h"

static struct training_provenance prior_run(void)
{
    return (struct training_provenance){ .data = "photos",
                                         .data_digest = "ab12",
                                         .kind = "prior",
                                         .dtype = "BF16",
                                         .steps = 10000,
                                         .seed = 7,
                                         .batch = 8,
                                         .micro_batch = 4,
                                         .size = 64,
                                         .lr = 3e-4 };
}

static void expect_text(char *text, const char *want)
{
    assert_non_null(text);
    assert_string_equal(text, want);
    free(text);
}

static void the_provenance_of_a_prior(void **state)
{
    (void)state;
    struct training_provenance p = prior_run();
    expect_text(
        training_provenance_text(&p),
        "{\"data\": \"photos\", \"data_digest\": \"ab12\", \"kind\": \"prior\", \"steps\": 10000, "
        "\"batch\": 8, \"micro_batch\": 4, \"size\": 64, \"lr\": 0.0003, \"seed\": 7, "
        "\"dtype\": \"BF16\", \"parent\": null}");
}

static void the_provenance_of_a_restorer(void **state)
{
    (void)state;
    struct training_provenance p = prior_run();
    p.kind = "davi";
    p.parent = "cd34";
    p.has_recipe = true;
    p.objective = "energy:1";
    p.tasks = "sr4,denoise:2";
    p.regression = "l1";
    p.energy_distance = "norm";
    p.warmup = 100;
    p.lr_end = 1.0 / 3;
    p.average_decay = 0.9999;
    p.weight_decay = 0.01;
    p.jitter = 2;
    p.texture = 8.5;
    p.weight_con = p.reg_coeff = p.t_ikl = -1;
    expect_text(
        training_provenance_text(&p),
        "{\"data\": \"photos\", \"data_digest\": \"ab12\", \"kind\": \"davi\", \"steps\": 10000, "
        "\"batch\": 8, \"micro_batch\": 4, \"size\": 64, \"lr\": 0.0003, \"seed\": 7, "
        "\"dtype\": \"BF16\", \"parent\": \"cd34\", \"objective\": \"energy:1\", "
        "\"tasks\": \"sr4,denoise:2\", \"regression\": \"l1\", \"energy_distance\": \"norm\", "
        "\"warmup\": 100, \"decay\": 0, \"lr_end\": 0.333333, \"clip\": 0, "
        "\"average_decay\": 0.9999, \"weight_decay\": 0.01, \"jitter\": 2, \"texture\": 8.5, "
        "\"weight_con\": -1, \"reg_coeff\": -1, \"t_ikl\": -1}");
}

static void texts_and_seeds_of_every_kind(void **state)
{
    (void)state;
    struct training_provenance p = prior_run();
    p.data = "a \"b\" \\c";
    p.seed = UINT64_MAX; /* JSON readers have no such integer */
    char *text = training_provenance_text(&p);
    assert_non_null(strstr(text, "\"data\": \"a \\\"b\\\" \\\\c\""));
    assert_non_null(strstr(text, "\"seed\": \"18446744073709551615\""));
    free(text);
    p.data = "\xff";
    assert_null(training_provenance_text(&p));
}

static void the_metrics_and_their_score(void **state)
{
    (void)state;
    const struct training_score scores[] = { { "denoise", 27.12345, 28.5, 0.65432 },
                                             { "sr4", 24, 25.25, (double)NAN } };
    char *text = training_metrics_text(26.87499, 4000, scores, 2);
    assert_non_null(text);
    assert_true(training_metrics_score(text) == 26.875);
    expect_text(
        text,
        "{\"score\": 26.875, \"step\": 4000, \"validation\": {\"denoise\": {\"psnr\": 27.123, "
        "\"mean_psnr\": 28.5, \"coverage\": 0.6543}, \"sr4\": {\"psnr\": 24, "
        "\"mean_psnr\": 25.25, \"coverage\": null}}}");
    assert_true(training_metrics_score(NULL) == 0);
    assert_true(training_metrics_score("{\"step\": 3}") == 0);
    assert_true(training_metrics_score("no JSON") == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_provenance_of_a_prior),
        cmocka_unit_test(the_provenance_of_a_restorer),
        cmocka_unit_test(texts_and_seeds_of_every_kind),
        cmocka_unit_test(the_metrics_and_their_score),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
