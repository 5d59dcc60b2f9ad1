/* A thread per connection. Replace it while it runs: build a new one over the file, then kill -USR1 the pid. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <shellflip.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static flip_t *flip;

static void *serve(void *arg)
{
    int client = (int)(intptr_t)arg;
    struct timeval patience = {.tv_sec = 2};
    char text[256];

    int length = snprintf(text, sizeof text, "hello from pid %d generation %d\n", (int)getpid(), flip_generation(flip));
    send(client, text, (size_t)length, MSG_NOSIGNAL);
    /* Closing with unread input resets the connection, and a reset can destroy the answer: read the input away. */
    shutdown(client, SHUT_WR);
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ssize_t got = 1;
    for (int reads = 0; reads < 64 && (got > 0 || (got < 0 && errno == EINTR)); reads++)
        got = recv(client, text, sizeof text, 0);
    close(client);
    flip_conn_end(flip);
    return NULL;
}

int main(int argc, char **argv)
{
    int listener, client, drained;
    pthread_t thread;

    if (flip_init(NULL, &flip) < 0 ||
        (listener = flip_listen(flip, argc > 1 ? argv[1] : "tcp://127.0.0.1:8080")) < 0 || flip_ready(flip, -1) < 0) {
        fprintf(stderr, "cannot start: %s\n", flip_last_error());
        return 1;
    }
    while ((client = flip_accept(flip, listener, -1)) >= 0) {
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client) == 0)
            pthread_detach(thread);
        else
            serve((void *)(intptr_t)client);
    }
    if (client != -ECANCELED)
        fprintf(stderr, "cannot accept: %s\n", flip_last_error());
    close(listener);
    if ((drained = client == -ECANCELED ? flip_drain(flip, -1) : client) < 0)
        fprintf(stderr, "connections were left behind: %s\n", flip_last_error());
    flip_free(flip);
    return drained < 0;
}
