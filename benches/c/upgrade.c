/* One generation after the other: each serves nothing, and times how long flip_upgrade takes to replace it. argv[1] is
 * how many; prints microseconds, one line each. */
#define _GNU_SOURCE
#include <shellflip.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    flip_t *flip;
    int count = argc > 1 ? atoi(argv[1]) : 20;
    if (flip_init(NULL, &flip) < 0 || flip_listen(flip, "tcp://127.0.0.1:0?name=bench") < 0 ||
        flip_ready(flip, -1) < 0 || flip_wait_predecessor(flip, -1) < 0) {
        fprintf(stderr, "%s\n", flip_last_error());
        return 1;
    }
    if (flip_generation(flip) < count) {
        double began = now_us();
        if (flip_upgrade(flip, -1) < 0) {
            fprintf(stderr, "%s\n", flip_last_error());
            return 1;
        }
        printf("%.0f\n", now_us() - began);
        fflush(stdout);
    }
    flip_free(flip);
    return 0;
}
