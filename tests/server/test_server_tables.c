/* Settings, parameters, metrics and the API description against their tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "proto/messages/openapi.h"
#include "proto/models/model_folder.h"
#include "server/config.h"
#include "server/http/listener.h"
#include "server/http/report.h"
#include "server/metrics.h"
#include "server/restore/parameters.h"
#include "server/routes.h"

static const char *max_queue_from_environment(const char *name)
{
    return strcmp(name, "DAVID_MAX_QUEUE") == 0 ? "30" : NULL;
}

/* flag > environment > file > default, and each value says where it comes from. */
static void stronger_sources_win(void **state)
{
    (void)state;
    static struct config c;
    static const char file[] = "max_queue = 20 # c\nmax_body = 2MiB\nmax_delay=5ms\n";
    config_init(&c);
    assert_int_equal(c.max_queue, 256);
    assert_int_equal(config_read_text(&c, file, sizeof file - 1, NULL), ST_OK);
    assert_int_equal(c.max_queue, 20);
    assert_int_equal(c.max_body, 2 << 20);
    assert_int_equal(c.max_delay, 5000000);
    assert_int_equal(config_read_environment(&c, max_queue_from_environment, NULL), ST_OK);
    assert_int_equal(c.max_queue, 30);
    assert_int_equal(config_set(&c, "max-queue", "40", FROM_FLAG, NULL), ST_OK);
    assert_int_equal(c.max_queue, 40);
    assert_int_equal(c.source[CONFIG_max_queue], FROM_FLAG);
    assert_int_equal(c.source[CONFIG_max_body], FROM_FILE);
    assert_int_equal(c.source[CONFIG_models], FROM_DEFAULT);
}

/* Printed settings read back as the same settings; the JSON holds the same values. */
static void printed_settings_read_back(void **state)
{
    (void)state;
    static struct config c, again;
    char *text = NULL, *json = NULL;
    size_t len = 0, json_len = 0;
    config_init(&c);
    assert_int_equal(config_set(&c, "max_body", "3MiB", FROM_FLAG, NULL), ST_OK);
    assert_int_equal(config_set(&c, "drain_delay", "1500ms", FROM_ENVIRONMENT, NULL), ST_OK);
    assert_int_equal(config_set(&c, "models", "some where/\"models\"", FROM_FILE, NULL), ST_OK);
    FILE *f = open_memstream(&text, &len), *g = open_memstream(&json, &json_len);
    assert_true(f && g);
    config_print(&c, f);
    config_print_json(&c, g);
    (void)fclose(f);
    (void)fclose(g);
    assert_non_null(strstr(text, "max_body = 3MiB  # flag\n"));
    assert_non_null(strstr(text, "drain_delay = 1500ms  # environment\n"));
    config_init(&again);
    assert_int_equal(config_read_text(&again, text, len, NULL), ST_OK);
    json_t *all = json_loadb(json, json_len, 0, NULL);
    assert_int_equal(json_object_size(all), CONFIG_COUNT);
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        char want[CONFIG_VALUE_MAX], got[CONFIG_VALUE_MAX];
        config_value_text(&c, i, want, sizeof want);
        config_value_text(&again, i, got, sizeof got);
        assert_string_equal(want, got);
        json_t *one = json_object_get(all, config_name(i));
        assert_string_equal(json_string_value(json_object_get(one, "value")), want);
        assert_non_null(json_string_value(json_object_get(one, "source")));
    }
    json_decref(all);
    free(text);
    free(json);
}

static const struct {
    const char *text;
} bad_files[] = { { "nope = 1" },
                  { "max_queue" },
                  { "max_queue = 0" },
                  { "max_queue = -1" },
                  { "max_queue = 1 2" },
                  { "max_body = 64XB" },
                  { "max_delay = 5" },
                  { "max_delay = 11s" },
                  { "= 3" },
                  { "MAX_QUEUE = 3" },
                  { "listen =" },
                  { "max_queue = 99999999999999999999" },
                  { "max_queue=3\nmax_queue=4" },
                  { "max_body = 99999999TiB" } };

static void bad_settings_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        static struct config c;
        struct error err = { 0 };
        config_init(&c);
        if (config_read_text(&c, bad_files[i].text, strlen(bad_files[i].text), &err) !=
            ST_BAD_PARAMETER)
            fail_msg("accepted: %s", bad_files[i].text);
        assert_true(err.detail[0] != '\0');
    }
}

static const struct {
    const char *query;
    enum status want;
} queries[] = {
    { "task=denoise", ST_OK },
    { "", ST_OK },
    { "seed=18446744073709551615&output=mean", ST_OK },
    { "task=%64enoise&h=0.5", ST_OK },
    { "seed=18446744073709551616", ST_BAD_PARAMETER },
    { "seed=-1", ST_BAD_PARAMETER },
    { "seed=", ST_BAD_PARAMETER },
    { "h=nan", ST_BAD_PARAMETER },
    { "h=inf", ST_BAD_PARAMETER },
    { "h=0x1", ST_BAD_PARAMETER },
    { "h=1e9", ST_BAD_PARAMETER },
    { "sigma=0.05&level=3", ST_OK },
    { "sigma=1e-3&level=100", ST_OK },
    { "sigma=0", ST_BAD_PARAMETER },
    { "sigma=-0.1", ST_BAD_PARAMETER },
    { "sigma=10.5", ST_BAD_PARAMETER },
    { "sigma=nan", ST_BAD_PARAMETER },
    { "sigma=", ST_BAD_PARAMETER },
    { "sigma=0.1&sigma=0.1", ST_BAD_PARAMETER },
    { "level=0", ST_BAD_PARAMETER },
    { "level=101", ST_BAD_PARAMETER },
    { "level=1e999", ST_BAD_PARAMETER },
    { "level=3px", ST_BAD_PARAMETER },
    { "samples=0", ST_BAD_PARAMETER },
    { "samples=2", ST_BAD_PARAMETER },
    { "samples=1&output=std", ST_BAD_PARAMETER },
    { "samples=1000000000&output=mean", ST_TOO_MANY_SAMPLES },
    { "task=a&task=a", ST_BAD_PARAMETER },
    { "tusk=denoise", ST_BAD_PARAMETER },
    { "task=%00", ST_BAD_REQUEST },
    { "task=%zz", ST_BAD_REQUEST },
    { "task=%c3%28", ST_BAD_REQUEST },
    { "deadline_ms=0", ST_BAD_PARAMETER },
    { "output=png", ST_BAD_PARAMETER },
};

static void parameters_are_judged_by_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++) {
        struct parameters p;
        struct error err = { 0 };
        parameters_init(&p);
        enum status s = parameters_read_query(&p, queries[i].query, &err);
        if (!s) s = parameters_complete(&p, false, 64, &err);
        if (s != queries[i].want) fail_msg("%s: %s", queries[i].query, status_name(s));
    }
}

static void accept_is_weighed(void **state)
{
    (void)state;
    static const struct {
        const char *accept;
        enum image_format format;
        bool wants_json;
    } cases[] = {
        { "", IMAGE_PNG, false },
        { "*/*", IMAGE_PNG, false },
        { "image/jpeg", IMAGE_JPEG, false },
        { "image/jpeg;q=0.5, image/png", IMAGE_PNG, false },
        { "application/json", IMAGE_PNG, true },
        { "application/json, image/jpeg", IMAGE_JPEG, false },
        { "text/html, image/gif", IMAGE_PNG, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool wants_json = !cases[i].wants_json;
        assert_int_equal(accept_choose(&wants_json, cases[i].accept), cases[i].format);
        assert_int_equal(wants_json, cases[i].wants_json);
    }
}

static void one(void *context, const char *name, FILE *f)
{
    (void)context;
    (void)fprintf(f, "%s 1\n", name);
}

/* The text of m, malloc'd. */
static char *text_of(const struct metrics *m)
{
    metric_writer *writers[METRIC_COUNT];
    char *text = NULL;
    size_t len = 0;
    for (size_t i = 0; i < METRIC_COUNT; i++)
        writers[i] = one;
    FILE *f = open_memstream(&text, &len);
    assert_non_null(f);
    metrics_text(m, f, writers, NULL);
    (void)fclose(f);
    return text;
}

/* Every metric of the table has HELP, TYPE and a sample; histograms are cumulative and end with
 * +Inf. */
static void metrics_text_holds_the_table(void **state)
{
    (void)state;
    static struct metrics m;
    metrics_init(&m);
    metric_time(&m.compute_duration, 2000000);
    metric_time(&m.compute_duration, UINT64_C(100000000000));
    metric_size(&m.batch_size, 8);
    metric_request(&m, "/restore", "POST", 200);
    metric_request(&m, "other", "BREW", 418);
    char *text = text_of(&m);
#define METRIC(field, name, type, help)                                                            \
    assert_non_null(strstr(text, "# HELP " name " "));                                             \
    assert_non_null(strstr(text, "# TYPE " name " "));                                             \
    assert_true(strstr(text, "\n" name " ") || strstr(text, "\n" name "{") ||                      \
                strstr(text, "\n" name "_bucket{"));
#include "server/metrics.def"
#undef METRIC
    assert_non_null(strstr(text, "david_compute_duration_seconds_bucket{le=\"0.0025\"} 1\n"));
    assert_non_null(strstr(text, "david_compute_duration_seconds_bucket{le=\"60\"} 1\n"));
    assert_non_null(strstr(text, "david_compute_duration_seconds_bucket{le=\"+Inf\"} 2\n"));
    assert_non_null(strstr(text, "david_batch_size_bucket{le=\"4\"} 0\n"));
    assert_non_null(strstr(text, "david_batch_size_bucket{le=\"8\"} 1\n"));
    assert_non_null(strstr(text, "{route=\"/restore\",method=\"POST\",code=\"200\"} 1\n"));
    assert_non_null(strstr(text, "{route=\"other\",method=\"other\",code=\"0\"} 1\n"));
    free(text);
}

/* Each set of label values has one sample that counts all of it; the reasons of refusals are
 * there before any is counted. */
static void labelled_counters_have_one_sample_a_set_of_values(void **state)
{
    (void)state;
    static struct metrics m;
    static const char *const reasons[] = { "queue_full", "memory", "draining", "deadline" };
    char line[128];
    metrics_init(&m);
    for (int i = 0; i < 3; i++)
        metric_count(&m.rejected, 2, "memory");
    metric_count(&m.http_requests, 1, "/a", "GET", "200");
    metric_count(&m.http_requests, 1, "/a", "GET", "404");
    char *text = text_of(&m);
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        (void)snprintf(line, sizeof line, "\ndavid_requests_rejected_total{reason=\"%s\"} %d\n",
                       reasons[i], strcmp(reasons[i], "memory") == 0 ? 6 : 0);
        assert_non_null(strstr(text, line));
    }
    size_t samples = 0;
    for (const char *p = text; (p = strstr(p, "\ndavid_requests_rejected_total{")) != NULL; p++)
        samples++;
    assert_int_equal(samples, sizeof reasons / sizeof *reasons);
    assert_non_null(strstr(text, "{route=\"/a\",method=\"GET\",code=\"200\"} 1\n"));
    assert_non_null(strstr(text, "{route=\"/a\",method=\"GET\",code=\"404\"} 1\n"));
    free(text);
}

/* No reply of the daemon is counted under "0". */
static void every_status_has_a_metric_of_its_code(void **state)
{
    (void)state;
    static struct metrics m;
    for (int s = 0; s < ST_COUNT; s++)
        metric_request(&m, "/restore", "POST", status_http((enum status)s));
    char *text = text_of(&m);
    assert_non_null(strstr(text, "code=\"504\"} 1\n"));
    assert_null(strstr(text, "code=\"0\""));
    free(text);
}

static const char *const answer_headers[] = { "X-Request-Id",       "David-Model",
                                              "David-Seed",         "David-H",
                                              "David-Sigma",        "David-Level",
                                              "David-Residual-Rms", "David-Residual-Expected",
                                              "David-Std-Scale",    "Server-Timing" };

/* The task's enum is the engine's table, in its order. */
static void expect_all_tasks(json_t *parameters)
{
    char listed[256] = "";
    json_t *parameter, *task;
    size_t i, k;
    json_array_foreach (parameters, i, parameter) {
        if (strcmp(json_string_value(json_object_get(parameter, "name")), "task") != 0) continue;
        json_array_foreach (json_object_get(json_object_get(parameter, "schema"), "enum"), k,
                            task) {
            const size_t len = strlen(listed);
            (void)snprintf(listed + len, sizeof listed - len, "%s, ", json_string_value(task));
        }
    }
    char want[256];
    (void)snprintf(want, sizeof want, "%s, ", task_names);
    assert_string_equal(listed, want);
}

/* The description names every route with its method, every status code, parameter and metric. */
static void openapi_agrees_with_the_tables(void **state)
{
    (void)state;
    json_t *api = json_loadb(openapi_json, openapi_json_len, 0, NULL);
    assert_non_null(api);
    json_t *paths = json_object_get(api, "paths");
    assert_int_equal(json_object_size(paths), n_routes);
    for (unsigned i = 0; i < n_routes; i++) {
        const char *method = strcmp(routes[i].method, "GET") == 0 ? "get" : "post";
        assert_non_null(json_object_get(json_object_get(paths, routes[i].path), method));
    }
    json_t *post = json_object_get(json_object_get(paths, "/restore"), "post");
    json_t *responses = json_object_get(post, "responses");
    for (int s = 0; s < ST_COUNT; s++) {
        char code[8];
        (void)snprintf(code, sizeof code, "%d", status_http((enum status)s));
        if (!json_object_get(responses, code)) fail_msg("no response %s", code);
    }
    json_t *parameter;
    size_t i, known = 0;
    json_array_foreach (json_object_get(post, "parameters"), i, parameter) {
        struct parameters p;
        struct error err = { 0 };
        const char *name = json_string_value(json_object_get(parameter, "name"));
        parameters_init(&p);
        (void)parameters_set(&p, name, strlen(name), "1", 1, &err);
        if (strncmp(err.detail, "there is no parameter", 21) == 0) fail_msg("%s", err.detail);
        known++;
    }
    assert_int_equal(known, 9);
    expect_all_tasks(json_object_get(post, "parameters"));
    json_t *answer = json_object_get(responses, "200"),
           *headers = json_object_get(answer, "headers");
    for (size_t k = 0; k < sizeof answer_headers / sizeof *answer_headers; k++)
        if (!json_object_get(headers, answer_headers[k])) fail_msg("no %s", answer_headers[k]);
    assert_int_equal(json_object_size(headers), sizeof answer_headers / sizeof *answer_headers);
    json_t *metrics = json_object_get(api, "x-metrics");
    size_t n = 0;
#define METRIC(field, name, type, help)                                                            \
    assert_string_equal(json_string_value(json_array_get(metrics, n)), name);                      \
    n++;
#include "server/metrics.def"
#undef METRIC
    assert_int_equal(json_array_size(metrics), n);
    json_decref(api);
}

static const struct {
    const char *listen_at;
    enum status want;
} listeners[] = {
    { "127.0.0.1:0", ST_OK },
    { ":0", ST_OK },
    { "127.0.0.1:65536", ST_BAD_PARAMETER },
    { "127.0.0.1:99999", ST_BAD_PARAMETER },
    { "127.0.0.1:18446744073709551696", ST_BAD_PARAMETER },
    { "127.0.0.1:", ST_BAD_PARAMETER },
    { "127.0.0.1: 80", ST_BAD_PARAMETER },
    { "127.0.0.1:-1", ST_BAD_PARAMETER },
    { "127.0.0.1:http", ST_BAD_PARAMETER },
    { "127.0.0.1", ST_BAD_PARAMETER },
    { "256.0.0.1.invalid:0", ST_BAD_PARAMETER },
};

/* A port beyond 65535 is refused, not taken modulo 65536. */
static void only_addresses_with_ports_are_listened_on(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof listeners / sizeof listeners[0]; i++) {
        int fd = -1;
        char address[300];
        struct error err = { 0 };
        enum status s = listener_open(&fd, address, sizeof address, listeners[i].listen_at, &err);
        if (s != listeners[i].want) fail_msg("%s: %s", listeners[i].listen_at, status_name(s));
        assert_int_equal(fd >= 0, s == ST_OK);
        if (fd >= 0) (void)close(fd);
    }
}

static const struct {
    const char *detail, *logged;
} details[] = {
    { "", "" },
    { "256 requests wait, as many as max_queue = 256 allows",
      "256 requests wait, as many as max_queue = 256 allows" },
    { "the body did not arrive within body_timeout = 2s",
      "the body did not arrive within body_timeout = 2s" },
    { "samples = 17 is more than max_samples = 16", "samples = ... is more than max_samples = 16" },
    { "sigma = 0.3: the model knows 0.2 alone", "sigma = ...: the model knows 0.2 alone" },
    { "seed = '12 34' is not a whole number", "seed = ... is not a whole number" },
    { "task = 'a' or 'b' is not offered", "task = ... is not offered" },
    { "there is no parameter 'secret'; there are task",
      "there is no parameter ...; there are task" },
    { "there is no model 'never closed", "there is no model ..." },
    { "a header's name is empty", "a header's name is empty" },
    { "the PNG's header says 0 x 64 px", "the PNG's header says 0 x 64 px" },
};

/* What a client sent is not in the log; limits and settings are. */
static void details_are_logged_without_what_a_client_sent(void **state)
{
    (void)state;
    char text[sizeof((struct error *)NULL)->detail], small[12];
    for (size_t i = 0; i < sizeof details / sizeof *details; i++) {
        report_redact(text, sizeof text, details[i].detail);
        assert_string_equal(text, details[i].logged);
    }
    report_redact(small, sizeof small, "a text that is too long for the buffer");
    assert_true(strlen(small) < sizeof small);
}

static void versions_are_in_natural_order(void **state)
{
    (void)state;
    assert_true(natural_order("v2", "v10") < 0);
    assert_true(natural_order("2024.9", "2024.10") < 0);
    assert_int_equal(natural_order("a", "a"), 0);
    assert_true(natural_order("v1", "v1.1") < 0);
    assert_true(natural_order("v1", "v01") < 0);
    assert_true(natural_order("b", "a1") > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stronger_sources_win),
        cmocka_unit_test(printed_settings_read_back),
        cmocka_unit_test(bad_settings_are_refused),
        cmocka_unit_test(parameters_are_judged_by_the_table),
        cmocka_unit_test(accept_is_weighed),
        cmocka_unit_test(metrics_text_holds_the_table),
        cmocka_unit_test(labelled_counters_have_one_sample_a_set_of_values),
        cmocka_unit_test(every_status_has_a_metric_of_its_code),
        cmocka_unit_test(openapi_agrees_with_the_tables),
        cmocka_unit_test(only_addresses_with_ports_are_listened_on),
        cmocka_unit_test(details_are_logged_without_what_a_client_sent),
        cmocka_unit_test(versions_are_in_natural_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
