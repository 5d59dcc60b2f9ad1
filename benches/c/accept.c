/* What taking a connection from a full queue costs. argv[1] is how: `blocking`, accept4 on a listener that blocks;
 * `poll`, poll and accept4, as whoever can be woken has to; `shellflip`, flip_accept and flip_conn_end. argv[2] is how
 * often the queue is filled and emptied. Prints microseconds of the accepting thread's processor time for one
 * connection, one line for each time. The queue is filled beforehand, so that no client slows the server down. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <shellflip.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Both ends stay below the usual limit of 1024 descriptors. */
enum { MOST = 400, DEADLINE_MS = 10000 };

static flip_t *flip;
static int listener, never[2], queued;
static int clients[MOST], accepted[MOST];
static const char *how;
static bool failed;

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return -1;
}

static double cpu_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int blocking(void)
{
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static int polling(void)
{
    struct pollfd fds[] = { { listener, POLLIN, 0 }, { never[0], POLLIN, 0 } };
    if (poll(fds, 2, DEADLINE_MS) < 1)
        return -1;
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static int with_shellflip(void)
{
    int fd = flip_accept(flip, listener, -1);
    if (fd >= 0)
        flip_conn_end(flip);
    return fd;
}

/* In a thread of its own, as servers have it: the kernel treats the descriptors of a process with one thread better. */
static void *empty_the_queue(void *unused)
{
    int (*take)(void) = flip ? with_shellflip : strcmp(how, "poll") == 0 ? polling : blocking;
    double began = cpu_us();
    for (int at = 0; at < queued; at++)
        if ((accepted[at] = take()) < 0)
            failed = true;
    printf("%.4f\n", (cpu_us() - began) / queued);
    return unused;
}

/* An end that is reset leaves no port behind in TIME_WAIT. */
static void reset(int fd)
{
    struct linger at_once = { .l_onoff = 1, .l_linger = 0 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

static int connect_all(const struct sockaddr_in *to)
{
    for (int at = 0; at < queued; at++) {
        clients[at] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (clients[at] < 0)
            return fail("socket");
        if (connect(clients[at], (const struct sockaddr *)to, sizeof *to) != 0 && errno != EINPROGRESS)
            return fail("connect");
    }
    for (int at = 0; at < queued; at++) {
        struct pollfd connected = { clients[at], POLLOUT, 0 };
        if (poll(&connected, 1, DEADLINE_MS) != 1 || connected.revents != POLLOUT) {
            fprintf(stderr, "connection %d does not come about\n", at);
            return -1;
        }
    }
    return 0;
}

static int backlog(void)
{
    int longest = 0;
    FILE *file = fopen("/proc/sys/net/core/somaxconn", "r");
    if (file) {
        if (fscanf(file, "%d", &longest) != 1)
            longest = 0;
        fclose(file);
    }
    return longest > 0 && longest < MOST ? longest : MOST;
}

static int listen_plainly(void)
{
    struct sockaddr_in any_port = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int nonblock = strcmp(how, "poll") == 0 ? SOCK_NONBLOCK : 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | nonblock, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any_port, sizeof any_port) != 0 || listen(fd, queued) != 0)
        return fail("listen");
    return fd;
}

static int listen_with_shellflip(void)
{
    int fd = -1;
    if (flip_init(NULL, &flip) < 0 || (fd = flip_listen(flip, "tcp://127.0.0.1:0?name=bench")) < 0 ||
        flip_ready(flip, -1) < 0)
        fprintf(stderr, "%s\n", flip_last_error());
    return fd;
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (argc < 3)
        return 2;
    how = argv[1];
    queued = backlog();
    listener = strcmp(how, "shellflip") == 0 ? listen_with_shellflip() : listen_plainly();
    if (listener < 0 || pipe2(never, O_CLOEXEC) != 0 || getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        return 1;
    for (int left = atoi(argv[2]); left > 0; left--) {
        pthread_t thread;
        if (connect_all(&address) != 0 || pthread_create(&thread, NULL, empty_the_queue, NULL) != 0)
            return 1;
        pthread_join(thread, NULL);
        if (failed)
            return 1;
        for (int at = 0; at < queued; at++) {
            reset(clients[at]);
            close(accepted[at]);
        }
    }
    flip_free(flip);
    return 0;
}
