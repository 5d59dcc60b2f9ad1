/* What it costs to count a connection: begun and ended, over and over, in argv[2] threads for argv[3] ms. argv[1] is who
 * counts: `shellflip`, or `atomic`, one counter that all threads share. Prints the nanoseconds of processor time that
 * one pair takes the thread that makes it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <shellflip.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 64, BATCH = 1000 };

static flip_t *flip;
static atomic_int waiting;
static atomic_bool stop;
static struct { _Alignas(128) atomic_long open; } counter;
static struct result { _Alignas(128) double ns; double pairs; } results[THREADS];
static cpu_set_t allowed;

static double cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void with_shellflip(void)
{
    for (int left = BATCH; left > 0; left--) {
        flip_conn_begin(flip);
        flip_conn_end(flip);
    }
}

static void with_atomic(void)
{
    for (int left = BATCH; left > 0; left--) {
        atomic_fetch_add(&counter.open, 1);
        atomic_fetch_sub(&counter.open, 1);
    }
}

/* Two threads that take turns on one processor would not be in each other's way. */
static void stay_on_a_processor(long number)
{
    cpu_set_t one;
    number %= CPU_COUNT(&allowed);
    for (int at = 0; at < CPU_SETSIZE; at++)
        if (CPU_ISSET(at, &allowed) && number-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(at, &one);
            sched_setaffinity(0, sizeof one, &one);
        }
}

static void *count(void *argument)
{
    stay_on_a_processor((struct result *)argument - results);
    struct result *result = argument;
    void (*batch)(void) = flip ? with_shellflip : with_atomic;
    batch();
    /* No thread runs alone: it would have the counter to itself. */
    atomic_fetch_sub(&waiting, 1);
    while (atomic_load(&waiting) > 0)
        ;
    double began = cpu_ns();
    for (; !atomic_load_explicit(&stop, memory_order_relaxed); result->pairs += BATCH)
        batch();
    result->ns = cpu_ns() - began;
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 3 ? atoi(argv[2]) : 0;
    if (threads < 1 || threads > THREADS || sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return 2;
    if (strcmp(argv[1], "shellflip") == 0 && (flip_init(NULL, &flip) < 0 || flip_ready(flip, -1) < 0)) {
        fprintf(stderr, "%s\n", flip_last_error());
        return 1;
    }
    pthread_t ids[THREADS];
    atomic_store(&waiting, threads);
    for (int at = 0; at < threads; at++)
        if (pthread_create(&ids[at], NULL, count, &results[at]) != 0)
            return 1;
    usleep((useconds_t)atoi(argv[3]) * 1000);
    atomic_store(&stop, true);
    double ns = 0, pairs = 0;
    for (int at = 0; at < threads; at++) {
        pthread_join(ids[at], NULL);
        ns += results[at].ns;
        pairs += results[at].pairs;
    }
    if (flip && flip_conn_count(flip) != 0)
        return 1;
    printf("%.3f\n", ns / pairs);
    flip_free(flip);
    return 0;
}
