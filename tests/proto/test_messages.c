/* The JSON replies: base64 of images, and texts that are always UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "proto/messages/messages.h"

/* Builds the reply of /restore with one image of these bytes; returns its base64 text, which the
 * caller frees. */
static char *base64_of(const void *bytes, size_t n)
{
    const struct message_image image = { bytes, n };
    const struct message_restored m = { .images = &image, .n_images = 1 };
    size_t len = 0;
    char *text = message_restored(&len, &m);
    assert_non_null(text);
    assert_int_equal(strlen(text), len);
    json_t *answer = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *images = json_object_get(answer, "images");
    assert_int_equal(json_array_size(images), 1);
    char *base64 = strdup(json_string_value(json_array_get(images, 0)));
    assert_non_null(base64);
    assert_true(json_is_null(json_object_get(answer, "mean")));
    json_decref(answer);
    free(text);
    return base64;
}

static void base64_has_the_known_answers(void **state)
{
    (void)state;
    static const char *const answers[][2] = {
        { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foobar", "Zm9vYmFy" }
    };
    for (size_t i = 0; i < 4; i++) {
        char *base64 = base64_of(answers[i][0], strlen(answers[i][0]));
        assert_string_equal(base64, answers[i][1]);
        free(base64);
    }
}

/* Images longer than one call of libcrypto encodes. */
static void base64_of_a_large_image_is_padded_at_its_end_alone(void **state)
{
    (void)state;
    enum { PIECE = 3 << 20, TAIL = 4 };
    static char bytes[PIECE + 1];
    memset(bytes, 'f', sizeof bytes);
    for (size_t n = sizeof bytes - 2; n <= sizeof bytes; n++) {
        static const char *const tails[] = { "Zg==", "ZmY=", "ZmZm" };
        char *base64 = base64_of(bytes, n);
        const size_t len = strlen(base64);
        assert_int_equal(len, (n + 2) / 3 * TAIL);
        assert_string_equal(base64 + len - TAIL, tails[(n + 2) % 3]);
        for (size_t i = 0; i < len - TAIL; i++)
            if (base64[i] != "ZmZm"[i % TAIL]) fail_msg("character %zu is %c", i, base64[i]);
        free(base64);
    }
}

static void bytes_that_are_not_utf8_are_replaced(void **state)
{
    (void)state;
    static const char *const details[][2] = {
        { "a\xff\xc3\xa9\xe9", "a\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd" }, /* \xe9: cut short */
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },   /* a surrogate */
        { "\xc0\xaf\n", "\xef\xbf\xbd\xef\xbf\xbd\n" },               /* overlong */
    };
    for (size_t i = 0; i < sizeof details / sizeof *details; i++) {
        size_t len = 0;
        char *text = message_problem(&len, ST_BAD_REQUEST, details[i][0], NULL);
        json_t *problem = json_loads(text, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(problem, "detail")), details[i][1]);
        assert_true(json_is_null(json_object_get(problem, "request_id")));
        json_decref(problem);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base64_has_the_known_answers),
        cmocka_unit_test(base64_of_a_large_image_is_padded_at_its_end_alone),
        cmocka_unit_test(bytes_that_are_not_utf8_are_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
