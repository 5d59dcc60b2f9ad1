/* Counting connections in the library as it is released, where it takes a shorter way than in the one that tests can make
 * fail. Status 0 and nothing on stderr if all is as it should be. */
#include <errno.h>
#include <shellflip.h>
#include <stdio.h>
#include <string.h>

static int wrong;

static void expect(const char *what, int is, int should_be)
{
    if (is != should_be) {
        fprintf(stderr, "%s: %d and not %d (%s)\n", what, is, should_be, flip_last_error());
        wrong = 1;
    }
}

/* A freed handle stays freed, also where there is another one. */
static flip_t *next_handle(flip_t *freed)
{
    flip_t *flip = NULL;

    expect("the next init", flip_init(NULL, &flip), 0);
    expect("another handle", flip != freed, 1);
    expect("begin", flip_conn_begin(flip), 0);
    expect("begin on the freed one", flip_conn_begin(freed), -EBADF);
    expect("end on the freed one", flip_conn_end(freed), -EBADF);
    expect("accept on the freed one", flip_accept(freed, -1, 0), -EBADF);
    expect("generation of the freed one", flip_generation(freed), -EBADF);
    expect("a wait on the freed one", flip_wait_shutdown(freed, 0), -EBADF);
    expect("a request to the freed one", flip_request(freed, FLIP_REQUEST_STOP), -EBADF);
    flip_free(freed);
    expect("count", flip_conn_count(flip), 1);
    expect("end", flip_conn_end(flip), 0);
    expect("no shutdown", flip_wait_shutdown(flip, 0), -ETIMEDOUT);
    flip_free(flip);
    expect("count of the freed one", flip_conn_count(flip), -EBADF);
    return flip;
}

int main(void)
{
    flip_t *flip = NULL;
    int other;

    expect("begin on NULL", flip_conn_begin(NULL), -EINVAL);
    expect("end on NULL", flip_conn_end(NULL), -EINVAL);
    expect("begin on something else", flip_conn_begin((flip_t *)(void *)&other), -EINVAL);
    expect("init", flip_init(NULL, &flip), 0);
    for (int times = 0; times < 3; times++)
        expect("begin", flip_conn_begin(flip), 0);
    expect("count", flip_conn_count(flip), 3);
    for (int times = 0; times < 2; times++)
        expect("end", flip_conn_end(flip), 0);
    expect("count", flip_conn_count(flip), 1);
    expect("accept from nothing", flip_accept(flip, -1, 0), -EBADF);
    expect("end", flip_conn_end(flip), 0);
    expect("count", flip_conn_count(flip), 0);
    flip_free(flip);
    expect("begin after the end", flip_conn_begin(flip), -EBADF);
    expect("it is said why", strlen(flip_last_error()) > 0, 1);
    expect("end after the end", flip_conn_end(flip), -EBADF);
    /* More than there are numbers for them. */
    for (int times = 0; times < 300; times++)
        flip = next_handle(flip);
    return wrong;
}
