/* A prefork server: the master is upgraded, its workers finish what they have and go with it.
 *
 * Each worker is a fork of the master, made after flip_ready, and accepts from the same listener. In a worker the library
 * works on the worker's own connections: flip_accept, flip_conn_end and flip_drain as in any server. Workers see shutdown when the
 * master does, and also when the master dies. */
#define _GNU_SOURCE
#include <errno.h>
#include <shellflip.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 4

static void work(flip_t *flip, int listener)
{
    int connection;

    /* A stop of the whole group or unit reaches each worker, too, and would end it amid a connection. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    while ((connection = flip_accept(flip, listener, -1)) >= 0) {
        char line[96];
        int length = snprintf(line, sizeof line, "hello from pid %d generation %d of master %d\n", (int)getpid(),
                              flip_generation(flip), (int)getppid());
        send(connection, line, (size_t)length, MSG_NOSIGNAL);
        close(connection);
        flip_conn_end(flip);
    }
    close(listener);
    flip_drain(flip, -1);
    flip_free(flip);
    _exit(0);
}

/* Starts a worker; its pid, or -1. */
static pid_t start(flip_t *flip, int listener)
{
    pid_t pid = fork();
    if (pid == 0)
        work(flip, listener);
    return pid;
}

int main(int argc, char **argv)
{
    flip_t *flip;
    pid_t workers[WORKERS];
    int listener;

    if (flip_init(NULL, &flip) < 0 ||
        (listener = flip_listen(flip, argc > 1 ? argv[1] : "tcp://127.0.0.1:8080")) < 0 || flip_ready(flip, -1) < 0) {
        fprintf(stderr, "prefork: %s\n", flip_last_error());
        return 1;
    }
    for (int i = 0; i < WORKERS; i++)
        workers[i] = start(flip, listener);
    fprintf(stderr, "prefork: pid %d, generation %d: serving\n", (int)getpid(), flip_generation(flip));

    /* Look after the workers until shutdown: one that died is replaced. By pid, so that the successor that the library
     * starts is left to the library. */
    while (flip_wait_shutdown(flip, 200) < 0)
        for (int i = 0; i < WORKERS; i++)
            if (workers[i] < 0 || waitpid(workers[i], NULL, WNOHANG) == workers[i])
                workers[i] = start(flip, listener);

    close(listener);
    for (int i = 0; i < WORKERS; i++) /* each one ends by its drain deadline */
        while (workers[i] > 0 && waitpid(workers[i], NULL, 0) < 0 && errno == EINTR) {
        }
    flip_free(flip);
    return 0;
}
