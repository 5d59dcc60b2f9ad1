/* The host of the tests about descriptors: it does nothing by itself. Each generation G listens on a socket of its own,
 * $PASSES_DIR/G, which the library knows nothing of; a line that comes in there is one command, the answer is one
 * line: the result, and behind a failure flip_last_error. So a test drives both sides of an upgrade step by step.
 *
 *   listen A, inherit A, take N, forget N, inherited, add N FD, ready MS, upgrade MS, request R, env N [V], count
 *   free            flip_free, exit
 *   again           flip_free, flip_init in the same process
 *   exit N          at once
 *   finish          goes on to drain and end; needed with PASSES_STAY only
 *   open KIND [ARG] a descriptor without CLOEXEC: file PATH, null, memfd, timerfd, pipe (a second one: its writing end is
 *                   the number in the text), tcp (a blocking listener), bound (not listening), connected PORT, alg, opath
 *   close FD, write FD TEXT, read FD, flags FD (O_NONBLOCK CLOEXEC), inode FD, port FD, backlog FD, expires FD
 *   serve FD [kept] answers on every connection, or to every datagram, "PID\n" for each message, until shutdown
 *   accept FD MS    one connection, answered as by serve and closed when the client closes
 *   limit SOFT      RLIMIT_NOFILE;  fill / empty  every number that is left, or none any more
 *   full COMMAND …  that command while no number is left. In one command, since accept(2) reserves its number before it
 *                   waits: whoever takes the numbers from outside cannot know how many are left
 *   last COMMAND …  the same while one is left
 *   names N, check N   adds, or takes and compares, N memfds with names of 255 bytes of every kind
 *   getenv N, pid
 *
 * PASSES_STAY: stay when shutdown fires, until told to finish. DRAIN_TIMEOUT_MS, UPGRADE_TIMEOUT_MS as their names say. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "shellflip.h"

static flip_t *flip;
static sem_t finish;
static atomic_int answering;
static int filled[4096], fills;

struct service {
    int fd, kept;
};

static void say(const char *what, long value)
{
    char line[100];
    int n = snprintf(line, sizeof line, "%s %ld pid=%d\n", what, value, (int)getpid());
    if (write(1, line, (size_t)n) < 0)
        return;
}

static void start(void *(*run)(void *), struct service service)
{
    pthread_t thread;
    struct service *boxed = malloc(sizeof *boxed);
    *boxed = service;
    if (pthread_create(&thread, NULL, run, boxed) == 0)
        pthread_detach(thread);
}

static void *connection(void *argument)
{
    struct service service = *(struct service *)argument;
    char in[512], out[64];
    free(argument);
    while (recv(service.fd, in, sizeof in, 0) > 0) {
        int n = snprintf(out, sizeof out, "%d\n", (int)getpid());
        if (send(service.fd, out, (size_t)n, MSG_NOSIGNAL) < 0)
            break;
    }
    close(service.fd);
    if (!service.kept)
        flip_conn_end(flip);
    return NULL;
}

static void *accept_all(void *argument)
{
    struct service service = *(struct service *)argument;
    int fd;
    free(argument);
    while ((fd = flip_accept(flip, service.fd, -1)) >= 0)
        start(connection, (struct service){ fd, service.kept });
    say("served", fd);
    close(service.fd);
    return NULL;
}

static void *receive_all(void *argument)
{
    struct service service = *(struct service *)argument;
    free(argument);
    for (;;) {
        struct pollfd fds[2] = { { service.fd, POLLIN, 0 }, { flip_shutdown_fd(flip), POLLIN, 0 } };
        struct sockaddr_storage from;
        socklen_t size = sizeof from;
        char in[512], out[64];
        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[1].revents)
            break;
        if (recvfrom(service.fd, in, sizeof in, MSG_DONTWAIT, (struct sockaddr *)&from, &size) < 0)
            continue;
        int n = snprintf(out, sizeof out, "%d\n", (int)getpid());
        sendto(service.fd, out, (size_t)n, MSG_NOSIGNAL, (struct sockaddr *)&from, size);
    }
    close(service.fd);
    return NULL;
}

static int int_option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    getsockopt(fd, SOL_SOCKET, name, &value, &size);
    return value;
}

static int port_of(int fd)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    if (getsockname(fd, (struct sockaddr *)&name, &size) != 0)
        return -errno;
    if (name.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&name)->sin_port);
    return name.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&name)->sin6_port) : -EAFNOSUPPORT;
}

static int open_one(const char *kind, const char *argument, char *text)
{
    struct sockaddr_in local = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = -ENOSYS, ends[2];
    if (!strcmp(kind, "null"))
        fd = open("/dev/null", O_RDONLY);
    else if (!strcmp(kind, "file"))
        fd = open(argument, O_RDWR | O_CREAT, 0600);
    else if (!strcmp(kind, "opath"))
        fd = open("/", O_PATH);
    else if (!strcmp(kind, "memfd"))
        fd = memfd_create("test", 0);
    else if (!strcmp(kind, "timerfd")) {
        struct itimerspec in_an_hour = { .it_value.tv_sec = 3600 };
        fd = timerfd_create(CLOCK_MONOTONIC, 0);
        timerfd_settime(fd, 0, &in_an_hour, NULL);
    } else if (!strcmp(kind, "pipe")) {
        if (pipe(ends) != 0)
            return -errno;
        sprintf(text, "%d", ends[1]);
        fd = ends[0];
    } else if (!strcmp(kind, "alg"))
        fd = socket(AF_ALG, SOCK_SEQPACKET, 0);
    else if (!strcmp(kind, "tcp") || !strcmp(kind, "bound") || !strcmp(kind, "connected")) {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        local.sin_port = htons((uint16_t)atoi(argument));
        if (!strcmp(kind, "connected")) {
            if (connect(fd, (struct sockaddr *)&local, sizeof local) != 0)
                return -errno;
        } else if (bind(fd, (struct sockaddr *)&local, sizeof local) != 0 ||
                   (!strcmp(kind, "tcp") && listen(fd, 64) != 0))
            return -errno;
    }
    return fd < 0 && fd != -ENOSYS ? -errno : fd;
}

/* 255 bytes: the number, then every byte but NUL in turn. */
static void name_of(int number, char *name)
{
    int n = sprintf(name, "%d ", number);
    for (; n < 255; n++)
        name[n] = (char)(1 + (number + n) % 255);
    name[255] = 0;
}

static int add_names(int count)
{
    char name[256];
    for (int i = 0; i < count; i++) {
        int fd = memfd_create("name", MFD_CLOEXEC);
        name_of(i, name);
        if (fd < 0 || write(fd, name, 255) != 255)
            return -errno;
        int rc = flip_add(flip, name, fd);
        close(fd);
        if (rc != 0)
            return rc;
    }
    return count;
}

static int check_names(int count)
{
    char name[256], is[256] = "";
    for (int i = 0; i < count; i++) {
        name_of(i, name);
        int fd = flip_take(flip, name);
        if (fd < 0)
            return fd;
        if (pread(fd, is, 255, 0) != 255 || memcmp(is, name, 255) != 0)
            return -EBADMSG;
        close(fd);
    }
    return count;
}

static int fill(void)
{
    while (fills < 4096 && (filled[fills] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        fills++;
    return fills;
}

static int empty(void)
{
    while (fills > 0)
        close(filled[--fills]);
    return 0;
}

static int call(int argc, char **argv, char *text, size_t size)
{
    const char *what = argv[0], *one = argc > 1 ? argv[1] : "", *two = argc > 2 ? argv[2] : "";
    int fd = atoi(one), rc;
    if (!strcmp(what, "listen"))
        return flip_listen(flip, one);
    if (!strcmp(what, "inherit"))
        return flip_inherit(flip, one);
    if (!strcmp(what, "take"))
        return flip_take(flip, one);
    if (!strcmp(what, "forget"))
        return flip_forget(flip, one);
    if (!strcmp(what, "add"))
        return flip_add(flip, one, atoi(two));
    if (!strcmp(what, "ready"))
        return flip_ready(flip, atoi(one));
    if (!strcmp(what, "upgrade"))
        return flip_upgrade(flip, atoi(one));
    if (!strcmp(what, "request"))
        return flip_request(flip, atoi(one));
    if (!strcmp(what, "env"))
        return flip_set_env(flip, one, argc > 2 ? two : NULL);
    if (!strcmp(what, "count"))
        return flip_conn_count(flip);
    if (!strcmp(what, "inherited")) {
        rc = flip_inherited(flip, text, size);
        for (int i = 0; i + 1 < rc; i++)
            if (!text[i])
                text[i] = ' ';
        return rc;
    }
    if (!strcmp(what, "free")) {
        flip_free(flip);
        _exit(0);
    }
    if (!strcmp(what, "again")) {
        flip_free(flip);
        return flip_init(NULL, &flip);
    }
    if (!strcmp(what, "exit"))
        _exit(fd);
    if (!strcmp(what, "finish"))
        return sem_post(&finish);
    if (!strcmp(what, "open"))
        return open_one(one, two, text);
    if (!strcmp(what, "close"))
        return close(fd) == 0 ? 0 : -errno;
    if (!strcmp(what, "write")) {
        ssize_t n = write(fd, two, strlen(two));
        return n < 0 ? -errno : (int)n;
    }
    if (!strcmp(what, "read")) {
        lseek(fd, 0, SEEK_SET);
        ssize_t n = read(fd, text, size - 1);
        return n < 0 ? -errno : (int)n;
    }
    if (!strcmp(what, "flags")) {
        int status = fcntl(fd, F_GETFL), flags = fcntl(fd, F_GETFD);
        snprintf(text, size, "%d %d", (status & O_NONBLOCK) != 0, (flags & FD_CLOEXEC) != 0);
        return status < 0 ? -errno : 0;
    }
    if (!strcmp(what, "inode")) {
        struct stat st;
        if (fstat(fd, &st) != 0)
            return -errno;
        snprintf(text, size, "%lu:%lu", (unsigned long)st.st_dev, (unsigned long)st.st_ino);
        return 0;
    }
    if (!strcmp(what, "port"))
        return port_of(fd);
    if (!strcmp(what, "backlog")) {
        struct tcp_info info;
        socklen_t length = sizeof info;
        return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 ? (int)info.tcpi_sacked : -errno;
    }
    if (!strcmp(what, "expires")) {
        struct itimerspec left;
        return timerfd_gettime(fd, &left) == 0 ? (int)left.it_value.tv_sec : -errno;
    }
    if (!strcmp(what, "serve")) {
        int datagrams = int_option(fd, SO_TYPE) == SOCK_DGRAM;
        start(datagrams ? receive_all : accept_all, (struct service){ fd, argc > 2 });
        return 0;
    }
    if (!strcmp(what, "accept")) {
        rc = flip_accept(flip, fd, atoi(two));
        if (rc >= 0)
            start(connection, (struct service){ rc, 0 });
        return rc;
    }
    if (!strcmp(what, "limit")) {
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = (rlim_t)fd;
        return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? 0 : -errno;
    }
    if (!strcmp(what, "fill"))
        return fill();
    if (!strcmp(what, "empty"))
        return empty();
    if (!strcmp(what, "full") || !strcmp(what, "last")) {
        if (fill() > 0 && !strcmp(what, "last"))
            close(filled[--fills]);
        rc = call(argc - 1, argv + 1, text, size);
        empty();
        return rc;
    }
    if (!strcmp(what, "names"))
        return add_names(fd);
    if (!strcmp(what, "check"))
        return check_names(fd);
    if (!strcmp(what, "getenv")) {
        snprintf(text, size, "%s", getenv(one) ? getenv(one) : "");
        return getenv(one) ? 0 : -ENOENT;
    }
    return !strcmp(what, "pid") ? (int)getpid() : -ENOSYS;
}

static void *answer(void *argument)
{
    struct service service = *(struct service *)argument;
    char line[1024] = "", text[4096] = "", out[6000], *argv[8], *rest = NULL;
    int argc = 0;
    size_t have = 0;
    free(argument);
    while (have < sizeof line - 1 && !memchr(line, '\n', have)) {
        ssize_t n = read(service.fd, line + have, sizeof line - 1 - have);
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    for (char *word = strtok_r(line, " \n", &rest); word && argc < 8; word = strtok_r(NULL, " \n", &rest))
        argv[argc++] = word;
    if (argc > 0) {
        int rc = call(argc, argv, text, sizeof text);
        int n = snprintf(out, sizeof out, "%d %s\n", rc, rc < 0 && !*text ? flip_last_error() : text);
        send(service.fd, out, (size_t)n, MSG_NOSIGNAL);
    }
    close(service.fd);
    answering--;
    return NULL;
}

static void *control(void *argument)
{
    struct service service = *(struct service *)argument;
    free(argument);
    for (;;) {
        int fd = accept4(service.fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            answering++;
            start(answer, (struct service){ fd, 0 });
        }
        if (fd < 0 && errno == EMFILE)
            poll(NULL, 0, 10);
    }
    return NULL;
}

int main(void)
{
    struct sockaddr_un here = { .sun_family = AF_UNIX };
    flip_config_t *config = flip_config_new();
    if (getenv("UPGRADE_TIMEOUT_MS"))
        flip_config_set_upgrade_timeout(config, (uint64_t)atol(getenv("UPGRADE_TIMEOUT_MS")));
    if (getenv("DRAIN_TIMEOUT_MS"))
        flip_config_set_drain_timeout(config, (uint64_t)atol(getenv("DRAIN_TIMEOUT_MS")));
    int rc = flip_init(config, &flip);
    flip_config_free(config);
    if (rc != 0) {
        fprintf(stderr, "flip_init: %d: %s\n", rc, flip_last_error());
        return 2;
    }
    sem_init(&finish, 0, 0);
    snprintf(here.sun_path, sizeof here.sun_path, "%s/%d", getenv("PASSES_DIR"), flip_generation(flip));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(here.sun_path);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) != 0 || listen(fd, 64) != 0) {
        perror(here.sun_path);
        return 3;
    }
    start(control, (struct service){ fd, 0 });
    do
        rc = flip_wait_shutdown(flip, -1);
    while (rc == -EINTR || rc == FLIP_SHUTDOWN_DETACH);
    say("shutdown", rc);
    if (rc == -ECANCELED)
        for (;;)
            pause();
    if (getenv("PASSES_STAY"))
        sem_wait(&finish);
    rc = flip_drain(flip, -1);
    say("drain", rc);
    flip_free(flip);
    /* Whoever asked for the upgrade is told, too. */
    while (answering > 0)
        poll(NULL, 0, 1);
    say("end", 0);
    return 0;
}
