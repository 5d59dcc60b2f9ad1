/* A successor that crashes in its probation, and whose core takes longer to be written than that lasts: it goes to the
 * working directory. The predecessor prints what the upgrade came to, and whether it was shut down. For
 * tests/successor_fails.rs. */
#include <shellflip.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define SIZE ((size_t)1 << 29)

int main(void)
{
    flip_t *flip;
    flip_config_t *config = flip_config_new();
    struct rlimit limit;
    volatile char *memory = NULL;
    flip_config_set_probation(config, 50);
    if (flip_init(config, &flip) < 0)
        return 1;
    flip_config_free(config);
    if (flip_generation(flip) > 0) {
        getrlimit(RLIMIT_CORE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_CORE, &limit);
        memory = malloc(SIZE);
        for (size_t at = 0; memory && at < SIZE; at += 1024)
            memory[at] = 1;
    }
    if (flip_ready(flip, -1) < 0)
        return 1;
    if (memory)
        abort();
    int rc = flip_upgrade(flip, -1);
    printf("%d %d\n", rc, flip_last_failure());
    printf("%d\n", flip_wait_shutdown(flip, 0));
    flip_free(flip);
    return 0;
}
