/* The README's first server, which also tells the benchmark when it is live: one line in the file that LIVE names, with
 * CLOCK_MONOTONIC in nanoseconds and the pid. argv[1] is the address. SIGUSR1 replaces it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <shellflip.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int say_live(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const char *path = getenv("LIVE");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    int written = fd < 0 ? -1 : dprintf(fd, "%lld %d\n", now.tv_sec * 1000000000LL + now.tv_nsec, (int)getpid());
    if (fd >= 0)
        close(fd);
    return written;
}

int main(int argc, char **argv)
{
    flip_t *flip;
    int listener, client;

    if (argc < 2 || flip_init(NULL, &flip) < 0 || (listener = flip_listen(flip, argv[1])) < 0 ||
        flip_ready(flip, -1) < 0) {
        fprintf(stderr, "cannot start: %s\n", flip_last_error());
        return 1;
    }
    if (say_live() < 0) {
        perror("cannot say that it is live");
        return 1;
    }
    while ((client = flip_accept(flip, listener, -1)) >= 0) {
        char line[64];
        int length = snprintf(line, sizeof line, "hello from pid %d\n", (int)getpid());
        send(client, line, (size_t)length, MSG_NOSIGNAL);
        close(client);
        flip_conn_end(flip);
    }
    close(listener);
    if (client == -ECANCELED)
        flip_drain(flip, -1);
    flip_free(flip);
    return 0;
}
