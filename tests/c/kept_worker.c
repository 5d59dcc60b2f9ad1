/* A forked worker goes on accepting from a listener with keep=stop after its master has stopped and called flip_free;
 * of one without, which it has closed, nothing is left once flip_wait_shutdown has told it. Exits with 0 if that is so. For tests/descriptors.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shellflip.h"

static int worker(flip_t *flip, int listener, int closed, int freed)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), connection;
    char byte;
    getsockname(closed, (struct sockaddr *)&address, &size);
    close(closed);
    flip_conn_begin(flip);
    flip_wait_shutdown(flip, -1);
    if (read(freed, &byte, 1) != 1) {
        perror("worker");
        return 2;
    }
    if (connect(client, (struct sockaddr *)&address, size) == 0 || errno != ECONNREFUSED) {
        fprintf(stderr, "somebody listens where nobody accepts\n");
        return 2;
    }
    /* Nobody has connected yet: what is waited for besides must not end it. */
    connection = flip_accept(flip, listener, 100);
    if (connection == -ETIMEDOUT) {
        if (getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
            connect(client, (struct sockaddr *)&address, size) < 0) {
            perror("worker");
            return 2;
        }
        connection = flip_accept(flip, listener, 10000);
    }
    if (connection < 0)
        fprintf(stderr, "flip_accept: %d: %s\n", connection, flip_last_error());
    return connection < 0;
}

int main(void)
{
    flip_t *flip;
    int listener, closed, freed[2], status = -1;
    if (pipe(freed) < 0 || flip_init(NULL, &flip) < 0 ||
        (listener = flip_listen(flip, "tcp://127.0.0.1:0?keep=stop")) < 0 ||
        (closed = flip_listen(flip, "tcp://127.0.0.1:0?name=closed")) < 0 || flip_ready(flip, -1) < 0) {
        fprintf(stderr, "%s\n", flip_last_error());
        return 2;
    }
    pid_t child = fork();
    if (child == 0)
        _exit(worker(flip, listener, closed, freed[0]));
    close(closed);
    flip_request(flip, FLIP_REQUEST_STOP);
    flip_wait_shutdown(flip, -1);
    flip_free(flip);
    if (write(freed[1], "", 1) != 1 || waitpid(child, &status, 0) != child)
        perror("master");
    return status == 0 ? 0 : 1;
}
