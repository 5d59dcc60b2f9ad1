/* A process with argv[1] MiB of its own memory starts a small program in three ways, argv[2] times each, fork last: it
 * leaves cold caches to whoever comes next. Prints the way and microseconds, one line each. */
#define _GNU_SOURCE
#include "replace.h"

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[2]) : 5;
    answer_if_child(argc, argv);
    serve_if_successor();
    resident((size_t)(argc > 1 ? atoll(argv[1]) : 16) << 20);
    for (int left = count; left > 0; left--) {
        printf("spawn %.1f\n", by_spawn());
        flip_t *flip = serving();
        printf("upgrade %.1f\n", by_upgrade(flip));
        handed_over(flip);
    }
    for (int left = count; left > 0; left--)
        printf("fork %.1f\n", by_fork());
    return 0;
}
