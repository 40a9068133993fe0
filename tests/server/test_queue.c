/* The queue's order, bounds and ownership, and the memory budget, with time as a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "server/clock.h"
#include "server/memory.h"
#include "server/queue.h"
#include "server/throughput.h"

static const int model_a, model_b;

static struct queue *queue_of(size_t max)
{
    struct queue *q = NULL;
    assert_int_equal(queue_new(&q, max, NULL), ST_OK);
    return q;
}

static void push(struct queue *q, struct queue_item *item, const void *model, uint64_t jobs,
                 uint64_t deadline_ns)
{
    *item = (struct queue_item){ .model = model, .jobs = jobs, .deadline_ns = deadline_ns };
    assert_int_equal(queue_reserve(q, NULL), ST_OK);
    assert_int_equal(queue_push(q, item, NULL), ST_OK);
}

/* The earliest deadline goes first, in whatever order the items came. */
static void earliest_deadline_leaves_first(void **state)
{
    (void)state;
    struct queue *q = queue_of(4);
    struct queue_item late, soon, none;
    struct queue_job jobs[3];
    push(q, &none, &model_a, 1, NO_DEADLINE);
    push(q, &late, &model_a, 1, 200);
    push(q, &soon, &model_a, 1, 100);
    assert_int_equal(queue_fill(q, jobs, 3, 5), 3);
    assert_ptr_equal(jobs[0].item, &soon);
    assert_ptr_equal(jobs[1].item, &late);
    assert_ptr_equal(jobs[2].item, &none);
    assert_int_equal(soon.first_ns, 5);
    queue_free(q);
}

/* Rows of equal deadlines take turns, and each image's jobs leave in ascending order. */
static void requests_take_turns(void **state)
{
    (void)state;
    struct queue *q = queue_of(4);
    struct queue_item large, small;
    struct queue_job jobs[4];
    push(q, &large, &model_a, 100, NO_DEADLINE);
    assert_int_equal(queue_fill(q, jobs, 4, 1), 4);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(jobs[i].index, i);
    push(q, &small, &model_a, 2, NO_DEADLINE);
    assert_int_equal(queue_fill(q, jobs, 4, 1), 4);
    unsigned of_small = 0;
    for (unsigned i = 0; i < 4; i++)
        of_small += jobs[i].item == &small;
    assert_int_equal(of_small, 2);
    assert_int_equal(queue_tile_jobs(q), 94);
    assert_false(queue_drop(q, &large)); /* jobs are in the engine */
    for (unsigned i = 0; i < 5; i++)
        assert_false(queue_complete(q, &large));
    assert_true(queue_complete(q, &large));
    assert_int_equal(queue_depth(q), 0);
    queue_free(q);
}

/* A stream of new small requests does not starve a large one. */
static void large_requests_go_on_beside_a_stream(void **state)
{
    (void)state;
    struct queue *q = queue_of(4);
    struct queue_item large, small[8];
    struct queue_job job;
    unsigned of_large = 0;
    push(q, &large, &model_a, 100, NO_DEADLINE);
    assert_int_equal(queue_fill(q, &job, 1, 1), 1);
    for (unsigned i = 0; i < 8; i++) {
        push(q, &small[i], &model_a, 1, NO_DEADLINE);
        assert_int_equal(queue_fill(q, &job, 1, 1), 1);
        of_large += job.item == &large;
        if (job.item == &large) assert_int_equal(queue_fill(q, &job, 1, 1), 1);
    }
    assert_true(of_large >= 3);
    (void)queue_drop(q, &large);
    queue_free(q);
}

/* A batch holds the jobs of one model; those of the other model are first in the next batch. */
static void batches_hold_one_model(void **state)
{
    (void)state;
    struct queue *q = queue_of(4);
    struct queue_item a, b, c;
    struct queue_job jobs[4];
    push(q, &a, &model_a, 1, NO_DEADLINE);
    push(q, &b, &model_b, 1, NO_DEADLINE);
    push(q, &c, &model_a, 1, NO_DEADLINE);
    assert_int_equal(queue_fill(q, jobs, 4, 1), 2);
    assert_ptr_equal(jobs[1].item, &c);
    assert_int_equal(queue_fill(q, jobs, 4, 1), 1);
    assert_ptr_equal(jobs[0].item, &b);
    queue_free(q);
}

static void a_full_queue_names_its_limit(void **state)
{
    (void)state;
    struct queue *q = queue_of(1);
    struct error err = { 0 };
    assert_int_equal(queue_reserve(q, &err), ST_OK);
    assert_true(queue_is_full(q));
    assert_int_equal(queue_reserve(q, &err), ST_QUEUE_FULL);
    assert_non_null(strstr(err.detail, "max_queue = 1"));
    queue_unreserve(q);
    assert_int_equal(queue_reserve(q, NULL), ST_OK);
    queue_free(q);
}

/* Expired items come out once; one with jobs in the engine belongs to the batcher. */
static void deadlines_expire_by_the_given_clock(void **state)
{
    (void)state;
    struct queue *q = queue_of(4);
    struct queue_item out, waiting;
    struct queue_job job;
    push(q, &out, &model_a, 2, 50);
    assert_int_equal(queue_fill(q, &job, 1, 10), 1);
    push(q, &waiting, &model_a, 2, 60);
    assert_null(queue_expired(q, 49));
    assert_ptr_equal(queue_expired(q, 60), &waiting);
    assert_null(queue_expired(q, 60));
    assert_true(out.is_expired);
    assert_true(queue_complete(q, &out));
    assert_int_equal(queue_tile_jobs(q), 0);
    queue_free(q);
}

static void a_closed_queue_takes_nothing(void **state)
{
    (void)state;
    struct queue *q = queue_of(1);
    struct queue_item item = { .model = &model_a, .jobs = 1, .deadline_ns = NO_DEADLINE };
    assert_int_equal(queue_reserve(q, NULL), ST_OK);
    queue_close(q);
    assert_int_equal(queue_push(q, &item, NULL), ST_DRAINING);
    assert_false(queue_wait(q, 1, 0));
    queue_free(q);
}

/* A client closes while its image is decoded: the item never enters the queue, and the caller
 * gives its place back. */
static void what_was_dropped_before_cannot_be_pushed(void **state)
{
    (void)state;
    struct error err = { 0 };
    struct queue *q = queue_of(1);
    struct queue_item item = { .model = &model_a, .jobs = 3, .deadline_ns = NO_DEADLINE };
    assert_int_equal(queue_reserve(q, NULL), ST_OK);
    assert_false(queue_drop(q, &item));
    assert_int_equal(queue_push(q, &item, &err), ST_CANCELLED);
    assert_int_equal(queue_tile_jobs(q), 0);
    queue_unreserve(q);
    assert_int_equal(queue_depth(q), 0);
    queue_free(q);
}

/* What can never fit and what does not fit now have different statuses; memory that is given back
 * can be reserved again. */
static void budget_tells_never_from_now(void **state)
{
    (void)state;
    struct memory m;
    memory_init(&m, 1000);
    assert_int_equal(memory_hold(&m, 300, NULL), ST_OK);
    assert_int_equal(memory_reserve(&m, 701, NULL), ST_NEVER_FITS);
    assert_int_equal(memory_reserve(&m, 700, NULL), ST_OK);
    assert_int_equal(memory_reserve(&m, 1, NULL), ST_NO_MEMORY_NOW);
    memory_release(&m, 700);
    assert_int_equal(memory_reserve(&m, UINT64_MAX, NULL), ST_NEVER_FITS);
    memory_unhold(&m, 300);
    assert_int_equal(memory_reserved(&m), 0);
}

struct waiter {
    struct queue *q;
    struct queue_job job;
    size_t n;
};

static void *take_one(void *cls)
{
    struct waiter *w = cls;
    if (queue_wait(w->q, 1, 0)) w->n = queue_fill(w->q, &w->job, 1, 1);
    return NULL;
}

/* One push can be work for several batchers: a batcher that leaves jobs wakes the next. */
static void every_batcher_is_woken_for_its_rows(void **state)
{
    enum { BATCHERS = 3 };
    struct queue *q = queue_of(4);
    struct queue_item item;
    struct waiter w[BATCHERS];
    pthread_t threads[BATCHERS];
    (void)state;
    assert_false(queue_is_waited_for(q));
    for (int i = 0; i < BATCHERS; i++) {
        w[i] = (struct waiter){ .q = q };
        assert_int_equal(pthread_create(&threads[i], NULL, take_one, &w[i]), 0);
    }
    while (!queue_is_waited_for(q))
        (void)sched_yield();
    push(q, &item, &model_a, BATCHERS, NO_DEADLINE);
    for (int i = 0; i < BATCHERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(w[i].n, 1);
        assert_int_equal(queue_complete(q, &item), i + 1 == BATCHERS);
    }
    assert_false(queue_is_waited_for(q));
    queue_free(q);
}

static void retry_after_follows_the_measured_rate(void **state)
{
    (void)state;
    struct throughput t = { 0 };
    assert_int_equal(throughput_retry_after(&t, 1000), 1);
    throughput_record(&t, 2, 1000000000);
    assert_int_equal(throughput_retry_after(&t, 20), 11);
    assert_int_equal(throughput_retry_after(&t, 1000000), 120);
}

/* The batcher reads its clock before it has the lock of the queue: a request that came in between
 * has waited for 0 ns, not for 585 years. */
static void a_request_newer_than_the_batchers_clock_has_not_waited(void **state)
{
    (void)state;
    struct queue *q = queue_of(1);
    struct queue_item item;
    struct queue_job job;
    const uint64_t before_the_lock = 7, queued = 9;
    push(q, &item, &model_a, 1, NO_DEADLINE);
    assert_int_equal(queue_fill(q, &job, 1, before_the_lock), 1);
    assert_int_equal(clock_since_ns(queued, item.first_ns), 0);
    assert_int_equal(clock_since_ns(5, item.first_ns), 2);
    queue_free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(earliest_deadline_leaves_first),
        cmocka_unit_test(requests_take_turns),
        cmocka_unit_test(large_requests_go_on_beside_a_stream),
        cmocka_unit_test(batches_hold_one_model),
        cmocka_unit_test(a_full_queue_names_its_limit),
        cmocka_unit_test(deadlines_expire_by_the_given_clock),
        cmocka_unit_test(a_closed_queue_takes_nothing),
        cmocka_unit_test(what_was_dropped_before_cannot_be_pushed),
        cmocka_unit_test(budget_tells_never_from_now),
        cmocka_unit_test(every_batcher_is_woken_for_its_rows),
        cmocka_unit_test(a_request_newer_than_the_batchers_clock_has_not_waited),
        cmocka_unit_test(retry_after_follows_the_measured_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
