/* How long a thread that writes to memory is held up while its process, with argv[1] MiB of it, starts a small program:
 * in three ways and not at all, argv[2] times each, fork last, since it leaves faults to whoever comes next. Prints the
 * way and microseconds, one line each: the longest time between two writes in a window that begins with the request. */
#define _GNU_SOURCE
#include "replace.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* All ways are watched for as long, since a longer look sees longer gaps; a slower one is watched until it is over. */
#define WINDOW_US 50000

static char *memory;
static size_t size;
static atomic_int longest_ns;
static atomic_bool over;

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *write_on(void *unused)
{
    (void)unused;
    long long before = now_ns();
    for (size_t at = 0; !atomic_load_explicit(&over, memory_order_relaxed); at = (at + PAGE) % size) {
        ((volatile char *)memory)[at]++;
        long long now = now_ns();
        if (now - before > atomic_load_explicit(&longest_ns, memory_order_relaxed))
            atomic_store(&longest_ns, (int)(now - before));
        before = now;
    }
    return NULL;
}

static double window_began(void)
{
    atomic_store(&longest_ns, 0);
    return now_us();
}

static double longest_us(double began)
{
    double left = began + WINDOW_US - now_us();
    if (left > 0)
        usleep((useconds_t)left);
    return atomic_load(&longest_ns) / 1e3;
}

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[2]) : 5;
    pthread_t writer;
    answer_if_child(argc, argv);
    serve_if_successor();
    size = (size_t)(argc > 1 ? atoll(argv[1]) : 16) << 20;
    memory = resident(size);
    if (pthread_create(&writer, NULL, write_on, NULL) != 0)
        fail("pthread_create");
    for (int left = count; left > 0; left--) {
        printf("nothing %.1f\n", longest_us(window_began()));

        double began = window_began();
        by_spawn();
        printf("spawn %.1f\n", longest_us(began));

        /* Outside the window: starting the library is no part of an upgrade. */
        flip_t *flip = serving();
        began = window_began();
        by_upgrade(flip);
        printf("upgrade %.1f\n", longest_us(began));
        handed_over(flip);
    }
    for (int left = count; left > 0; left--) {
        double began = window_began();
        by_fork();
        printf("fork %.1f\n", longest_us(began));
    }
    atomic_store(&over, true);
    pthread_join(writer, NULL);
    return 0;
}
