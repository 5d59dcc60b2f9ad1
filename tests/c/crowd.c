/* 64 threads in flip_accept on one listener, each serving HTTP on one connection at a time, and one thread that reads
 * events if the mask in EVENTS subscribes to any. What flip_accept returned at the end of each thread is counted; the
 * last line is "threads N canceled N answered N drained RC pid=P". */
#define _GNU_SOURCE
#include "../../examples/c/http_request.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <shellflip.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 64, GRACE_MS = 1000 };

static flip_t *flip;
static int listener;
static atomic_int canceled, answered;

static int stopping(void)
{
    struct pollfd shutdown = { flip_shutdown_fd(flip), POLLIN, 0 };
    return poll(&shutdown, 1, 0) > 0;
}

/* Whether the client sends more; from shutdown on it has GRACE_MS to do so, then an idle connection ends. */
static int more(int client)
{
    struct pollfd fds[2] = { { client, POLLIN, 0 }, { flip_shutdown_fd(flip), POLLIN, 0 } };
    poll(fds, 2, -1);
    return fds[0].revents || poll(fds, 1, GRACE_MS) > 0;
}

static void serve(int client)
{
    char in[4096], out[512], body[128];
    size_t length = 0;
    int last = 0;
    while (!last) {
        struct request request = { 0 };
        int status;
        while ((status = take_request(&request, in, &length, sizeof in)) == INCOMPLETE) {
            ssize_t n = more(client) ? recv(client, in + length, sizeof in - length, 0) : 0;
            if (n <= 0)
                return;
            length += (size_t)n;
        }
        last = request.last || stopping();
        int size = snprintf(body, sizeof body, "{\"version\":\"1\",\"pid\":%d,\"generation\":%d}\n", (int)getpid(),
                            flip_generation(flip));
        size = snprintf(out, sizeof out, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n%s\r\n%s", status, reason(status),
                        size, last ? "Connection: close\r\n" : "", body);
        if (send(client, out, (size_t)size, MSG_NOSIGNAL) != size)
            return;
    }
    /* The client closes first, so that nothing it has not read yet is reset. */
    shutdown(client, SHUT_WR);
    struct pollfd end = { client, POLLIN, 0 };
    while (poll(&end, 1, GRACE_MS) > 0 && recv(client, in, sizeof in, 0) > 0)
        ;
}

static void *accept_and_serve(void *argument)
{
    int client;
    (void)argument;
    while ((client = flip_accept(flip, listener, -1)) >= 0) {
        serve(client);
        close(client);
        flip_conn_end(flip);
    }
    if (client == -ECANCELED)
        canceled++;
    return NULL;
}

static void *read_events(void *argument)
{
    flip_event_t *event;
    int rc;
    (void)argument;
    /* A signal comes to this thread while main starts others, and so blocks it. */
    while ((rc = flip_next_event(flip, -1, &event)) == 0 || rc == -EINTR) {
        if (rc != 0)
            continue;
        int kind = flip_event_kind(event);
        if (kind == FLIP_EVENT_STARTING || (kind == FLIP_EVENT_STATE && write(flip_event_state_fd(event), "s", 1) == 1)) {
            flip_event_answer(event, 0, NULL);
            answered++;
        }
        flip_event_free(event);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS], reader;
    unsigned mask = getenv("EVENTS") ? (unsigned)atoi(getenv("EVENTS")) : 0;
    flip_config_t *config = flip_config_new();
    flip_config_set_events(config, mask);
    int rc = flip_init(config, &flip);
    flip_config_free(config);
    if (rc < 0 || (listener = flip_listen(flip, argc > 1 ? argv[1] : "tcp://127.0.0.1:0")) < 0 ||
        (flip_generation(flip) > 0 && mask && (rc = flip_take_state(flip, -1)) < 0) || flip_ready(flip, -1) < 0) {
        fprintf(stderr, "cannot start: %s\n", flip_last_error());
        return 1;
    }
    if (rc > 0)
        close(rc);
    if (mask)
        pthread_create(&reader, NULL, read_events, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, accept_and_serve, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    close(listener);
    rc = flip_drain(flip, -1);
    printf("threads %d canceled %d answered %d drained %d pid=%d\n", THREADS, canceled, answered, rc, (int)getpid());
    fflush(stdout);
    flip_free(flip);
    if (mask)
        pthread_join(reader, NULL);
    return 0;
}
