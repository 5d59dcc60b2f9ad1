/* One generation after the other, each with argv[1] listeners, times how long flip_upgrade takes to replace it, argv[2]
 * times. Prints microseconds, one line each; with 0 listeners it prints how many there can be. */
#define _GNU_SOURCE
#include "clock.h"
#include <shellflip.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* Each has two descriptors: this program's and the library's. */
#define OTHERS 200

static void fail(void)
{
    fprintf(stderr, "%s\n", flip_last_error());
    exit(1);
}

int main(int argc, char **argv)
{
    flip_t *flip;
    struct rlimit limit;
    int listeners = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 5;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1;
    if (listeners == 0)
        return printf("%d\n", ((int)limit.rlim_max - OTHERS) / 2) < 0;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || flip_init(NULL, &flip) < 0)
        fail();
    for (int number = 0; number < listeners; number++) {
        char address[64];
        snprintf(address, sizeof address, "tcp://127.0.0.1:0?name=b%d", number);
        if (flip_listen(flip, address) < 0)
            fail();
    }
    if (flip_ready(flip, -1) < 0 || flip_wait_predecessor(flip, -1) < 0)
        fail();
    if (flip_generation(flip) < count) {
        double began = now_us();
        if (flip_upgrade(flip, -1) < 0)
            fail();
        printf("%.1f\n", now_us() - began);
        fflush(stdout);
    }
    flip_free(flip);
    return 0;
}
