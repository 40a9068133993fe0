/* Valid and hostile bodies of multipart/form-data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/messages/multipart.h"

#define PART(name) "Content-Disposition: form-data; name=\"" name "\"\r\n\r\n"

static const struct {
    const char *title, *body;
    enum status want;
    size_t parts;
} bodies[] = {
    { "two parts", "--X\r\n" PART("a") "1\r\n--X\r\n" PART("b") "22\r\n--X--\r\n", ST_OK, 2 },
    { "an empty part", "--X\r\n" PART("a") "\r\n--X--", ST_OK, 1 },
    { "a preamble", "hello\r\n--X\r\n" PART("a") "1\r\n--X--", ST_OK, 1 },
    { "no parts", "--X--", ST_OK, 0 },
    { "nothing", "", ST_BAD_REQUEST, 0 },
    { "no boundary", "hello", ST_BAD_REQUEST, 0 },
    { "no end", "--X\r\n" PART("a") "1", ST_BAD_REQUEST, 0 },
    { "headers without end", "--X\r\nContent-Disposition: form-data", ST_BAD_REQUEST, 0 },
    { "no name", "--X\r\nContent-Type: image/png\r\n\r\n1\r\n--X--", ST_BAD_REQUEST, 0 },
    { "no colon", "--X\r\nhello\r\n\r\n1\r\n--X--", ST_BAD_REQUEST, 0 },
    { "an open quote", "--X\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--X--",
      ST_BAD_REQUEST, 0 },
    { "base64", "--X\r\nContent-Transfer-Encoding: base64\r\n" PART("a") "1\r\n--X--",
      ST_BAD_REQUEST, 0 },
    { "a longer boundary", "--XY\r\n" PART("a") "1\r\n--XY--", ST_BAD_REQUEST, 0 },
};

static void bodies_are_judged_by_the_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct multipart m = { 0 };
        enum status s = multipart_parse(&m, "X", bodies[i].body, strlen(bodies[i].body), NULL);
        if (s != bodies[i].want || (!s && m.n != bodies[i].parts))
            fail_msg("%s: %s, %zu parts", bodies[i].title, status_name(s), m.n);
    }
}

/* Parts are the bytes of the body, line breaks and NULs included. */
static void parts_point_into_the_body(void **state)
{
    (void)state;
    static const char body[] = "--X\r\n" PART("image") "a\0\r\n-b\r\n--X--";
    struct multipart m;
    assert_int_equal(multipart_parse(&m, "X", body, sizeof body - 1, NULL), ST_OK);
    assert_int_equal(m.parts[0].len, 6);
    assert_memory_equal(m.parts[0].bytes, "a\0\r\n-b", 6);
    assert_memory_equal(m.parts[0].name, "image", 5);
}

static void boundaries_are_checked(void **state)
{
    (void)state;
    char b[MULTIPART_MAX_BOUNDARY + 1];
    assert_int_equal(multipart_boundary(b, "multipart/form-data; boundary=\"a b\"", NULL), ST_OK);
    assert_string_equal(b, "a b");
    assert_int_equal(multipart_boundary(b, "multipart/form-data", NULL), ST_BAD_REQUEST);
    assert_int_equal(multipart_boundary(b, "multipart/form-data; boundary=", NULL), ST_BAD_REQUEST);
    assert_int_equal(multipart_boundary(b, "multipart/form-data; boundary=a\x01", NULL),
                     ST_BAD_REQUEST);
    assert_true(multipart_is("Multipart/Form-Data; boundary=x"));
    assert_false(multipart_is("multipart/form-database"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_are_judged_by_the_table),
        cmocka_unit_test(parts_point_into_the_body),
        cmocka_unit_test(boundaries_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
