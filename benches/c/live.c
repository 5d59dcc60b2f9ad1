/* The README's first server, which also tells the benchmark when it is live. argv[1] is the address. SIGUSR1 replaces
 * it. */
#include "live.h"
#include <errno.h>
#include <shellflip.h>
#include <sys/socket.h>

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
