#include <errno.h>
#include <shellflip.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
    flip_t *flip;
    int listener, client, rc = -1;

    if (flip_init(NULL, &flip) < 0 || (listener = flip_listen(flip, "tcp://127.0.0.1:8080")) < 0 ||
        flip_ready(flip, -1) < 0) {
        fprintf(stderr, "cannot start: %s\n", flip_last_error());
        return 1;
    }
    while ((client = flip_accept(flip, listener, -1)) >= 0) {
        char line[64];
        int length = snprintf(line, sizeof line, "hello from pid %d\n", (int)getpid());
        send(client, line, (size_t)length, MSG_NOSIGNAL);
        close(client);
        flip_conn_end(flip);
    }
    close(listener); /* what is still queued on it belongs to the successor */
    if (client != -ECANCELED || (rc = flip_drain(flip, -1)) < 0)
        fprintf(stderr, "%s\n", flip_last_error());
    flip_free(flip);
    return rc < 0;
}
