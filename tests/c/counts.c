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
    return wrong;
}
