/* A server that is ill in the ways that flipctl doctor looks for: SICK in the environment is a list, separated by commas, of
 *
 *   tcp:PORT, udp:PORT, unix:PATH   a socket of its own that the library knows nothing of
 *   memory:MB                       so much memory, touched
 *   unhandled                       no handler for SIGUSR1 any more; ignored: SIGUSR1 is; blocked: by every thread
 *   descriptors:N                   so many more are open
 *   hangup                          no illness: a handler of its own for SIGHUP
 *
 * CONTROL_SOCKET is where it is asked; without it, it cannot be. It
 * serves tcp://127.0.0.1:0 and says `ready` when all is as wished. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <shellflip.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int bound(int type, const char *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, type, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || (type == SOCK_STREAM && listen(fd, 1) != 0))
        perror(port);
    return fd;
}

static void bound_path(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0)
        perror(path);
}

static void look_at_settings(int signal)
{
    (void)signal;
}

static void fall_ill(char *list)
{
    char *rest = NULL;
    for (char *one = strtok_r(list, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        const char *value = strchr(one, ':') ? strchr(one, ':') + 1 : "0";
        if (!strncmp(one, "tcp", 3))
            bound(SOCK_STREAM, value);
        else if (!strncmp(one, "udp", 3))
            bound(SOCK_DGRAM, value);
        else if (!strncmp(one, "unix", 4))
            bound_path(value);
        else if (!strncmp(one, "memory", 6)) {
            size_t size = (size_t)atol(value) << 20;
            char *memory = malloc(size);
            memset(memory, 1, size);
            /* Else the compiler may leave it all out. */
            __asm__ volatile("" : : "r"(memory) : "memory");
        } else if (!strcmp(one, "unhandled"))
            signal(SIGUSR1, SIG_DFL);
        else if (!strcmp(one, "ignored"))
            signal(SIGUSR1, SIG_IGN);
        else if (!strcmp(one, "blocked")) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            sigprocmask(SIG_BLOCK, &set, NULL);
        } else if (!strcmp(one, "hangup"))
            signal(SIGHUP, look_at_settings);
        else if (!strncmp(one, "descriptors", 11))
            for (long n = atol(value); n > 0; n--)
                if (dup(0) < 0)
                    perror("dup");
    }
}

int main(void)
{
    flip_t *flip;
    flip_config_t *config = flip_config_new();
    int listener, client;
    if ((getenv("CONTROL_SOCKET") && flip_config_set_control_socket(config, getenv("CONTROL_SOCKET")) != 0) ||
        flip_init(config, &flip) != 0 || (listener = flip_listen(flip, "tcp://127.0.0.1:0")) < 0 ||
        flip_ready(flip, -1) != 0) {
        fprintf(stderr, "sick: %s\n", flip_last_error());
        return 1;
    }
    flip_config_free(config);
    if (getenv("SICK"))
        fall_ill(strdup(getenv("SICK")));
    if (write(1, "ready\n", 6) < 0)
        return 1;
    while ((client = flip_accept(flip, listener, -1)) >= 0) {
        close(client);
        flip_conn_end(flip);
    }
    close(listener);
    flip_drain(flip, -1);
    flip_free(flip);
    return 0;
}
