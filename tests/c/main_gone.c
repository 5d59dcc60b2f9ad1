/* The main thread ends by pthread_exit, and the kernel has nothing to tell of it in /proc/self any more; another thread serves. argv[1] is
 * a unix path. Prints its mode under umask 022, why an upgrade fails whose state is still mapped, and what the successor reads
 * of the state of another one. For tests/surroundings.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shellflip.h"

/* Large enough not to be sealed page by page. */
#define SIZE (20u << 20)

static flip_t *flip;
static const char *path;

static void fail(const char *what)
{
    printf("%s: %s\n", what, flip_last_error());
    fflush(stdout);
    _exit(1);
}

static void wait_until_main_is_gone(void)
{
    char name[64], line[256] = "", state = 0;
    snprintf(name, sizeof name, "/proc/%d/stat", (int)getpid());
    while (state != 'Z') {
        FILE *file = fopen(name, "re");
        if (file && fgets(line, sizeof line, file))
            sscanf(line, "%*d (%*[^)]) %c", &state);
        if (file)
            fclose(file);
        usleep(1000);
    }
}

static void successor(void)
{
    char byte = 0;
    int state;
    do
        state = flip_take_state(flip, -1);
    while (state == -EINTR);
    if (state == -ECANCELED)
        _exit(1); /* the one whose state cannot be handed over, if it comes as far as that before it is ended */
    if (state < 0 || pread(state, &byte, 1, 0) != 1)
        fail("state");
    printf("the state begins with %c\n", byte);
    fflush(stdout);
    if (flip_ready(flip, -1) < 0)
        fail("ready");
    flip_wait_predecessor(flip, -1);
    flip_free(flip);
    _exit(0);
}

static void *serve(void *unused)
{
    char address[256], *map = NULL;
    struct stat status = { 0 };
    flip_event_t *event;
    (void)unused;
    wait_until_main_is_gone();
    if (flip_generation(flip) > 0)
        successor();
    snprintf(address, sizeof address, "unix://%s?owner=%d", path, (int)getuid());
    if (flip_listen(flip, address) < 0)
        fail("listen");
    stat(path, &status);
    printf("mode %o\n", (unsigned)status.st_mode & 0777);
    fflush(stdout);
    if (flip_ready(flip, -1) < 0 || flip_request(flip, FLIP_REQUEST_UPGRADE) < 0)
        fail("ready");
    while (flip_next_event(flip, -1, &event) == 0) {
        int kind = flip_event_kind(event), failed = map != NULL;
        if (kind == FLIP_EVENT_STATE) {
            int state = flip_event_state_fd(event);
            if (ftruncate(state, SIZE) < 0)
                fail("ftruncate");
            map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, state, 0);
            map[0] = failed ? 'B' : 'A';
            if (failed)
                munmap(map, SIZE);
            flip_event_answer(event, 0, NULL);
        } else if (kind == FLIP_EVENT_FAILED) {
            printf("%s\n", flip_event_text(event));
            fflush(stdout);
            flip_request(flip, FLIP_REQUEST_UPGRADE);
        }
        flip_event_free(event);
        if (kind == FLIP_EVENT_SHUTDOWN)
            break;
    }
    flip_free(flip);
    _exit(0);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    flip_config_t *config = flip_config_new();
    umask(022);
    path = argc > 1 ? argv[1] : "";
    flip_config_set_events(config, FLIP_EVENT_STATE | FLIP_EVENT_FAILED | FLIP_EVENT_SHUTDOWN);
    if (flip_init(config, &flip) < 0)
        fail("init");
    flip_config_free(config);
    pthread_create(&thread, NULL, serve, NULL);
    pthread_exit(NULL);
}
