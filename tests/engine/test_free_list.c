/* Pieces of a stretch of memory: none overlaps, all lie inside, what is given back can be had again whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "engine/davi/free_list.h"

enum { PIECES = 64, STRETCH = 100 * FREE_LIST_ALIGN + 17 };

static uint32_t next(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

static void pieces_never_overlap_whatever_comes_and_goes(void **state)
{
    (void)state;
    static struct free_list s;
    static unsigned char owner[STRETCH];
    struct {
        size_t at, bytes;
    } piece[PIECES] = { { 0, 0 } };
    uint64_t seed = 1;
    unsigned refused = 0;
    memset(&s, 0, sizeof s);
    memset(owner, 0, sizeof owner);
    s.bytes = STRETCH;
    for (int round = 0; round < 20000; round++) {
        const unsigned i = next(&seed) % PIECES;
        if (piece[i].bytes) {
            for (size_t k = 0; k < piece[i].bytes; k++)
                assert_int_equal(owner[piece[i].at + k], i + 1);
            memset(owner + piece[i].at, 0, piece[i].bytes);
            free_list_return(&s, piece[i].at);
            piece[i].bytes = 0;
            continue;
        }
        const size_t bytes =
            1 + next(&seed) % (round % 2 ? 3 * FREE_LIST_ALIGN : 20 * FREE_LIST_ALIGN);
        size_t at = SIZE_MAX;
        if (!free_list_take(&s, bytes, &at)) {
            refused++;
            continue;
        }
        assert_int_equal(at % FREE_LIST_ALIGN, 0);
        assert_true(at <= STRETCH && bytes <= STRETCH - at);
        for (size_t k = 0; k < bytes; k++)
            assert_int_equal(owner[at + k], 0);
        memset(owner + at, (int)i + 1, bytes);
        piece[i].at = at;
        piece[i].bytes = bytes;
    }
    assert_true(refused > 100 && refused < 10000);
    for (unsigned i = 0; i < PIECES; i++)
        if (piece[i].bytes) free_list_return(&s, piece[i].at);
    assert_int_equal(s.n, 0);
    size_t at = 1;
    assert_true(free_list_take(&s, STRETCH, &at)); /* to the last byte */
    assert_int_equal(at, 0);
    assert_false(free_list_take(&s, 1, &at));
}

static void a_gap_is_taken_where_a_piece_fits_exactly(void **state)
{
    (void)state;
    static struct free_list s;
    size_t at[3], again = 0;
    memset(&s, 0, sizeof s);
    s.bytes = (size_t)3 * FREE_LIST_ALIGN;
    for (int i = 0; i < 3; i++)
        assert_true(free_list_take(&s, FREE_LIST_ALIGN, &at[i]));
    assert_false(free_list_take(&s, 1, &again));
    free_list_return(&s, at[1]);
    assert_false(free_list_take(&s, FREE_LIST_ALIGN + 1, &again));
    assert_true(free_list_take(&s, FREE_LIST_ALIGN, &again));
    assert_int_equal(again, at[1]);
    free_list_return(&s, 12345); /* nobody's */
    assert_int_equal(s.n, 3);
}

static void there_is_an_end_to_pieces_too(void **state)
{
    (void)state;
    static struct free_list s;
    size_t at = 0;
    memset(&s, 0, sizeof s);
    s.bytes = SIZE_MAX / 2;
    for (int i = 0; i < FREE_LIST_MOST; i++)
        assert_true(free_list_take(&s, 1, &at));
    assert_false(free_list_take(&s, 1, &at));
    free_list_return(&s, at);
    assert_true(free_list_take(&s, 1, &at));
    assert_false(free_list_take(&s, SIZE_MAX, &at));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_never_overlap_whatever_comes_and_goes),
        cmocka_unit_test(a_gap_is_taken_where_a_piece_fits_exactly),
        cmocka_unit_test(there_is_an_end_to_pieces_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
