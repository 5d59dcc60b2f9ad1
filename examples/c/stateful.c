/* A server whose state survives its own replacement: it counts per client, one request a connection.
 *
 *   echo alice | nc 127.0.0.1 8080        alice 1 pid 4711 generation 0
 *
 * The state is written when the library asks for it (FLIP_EVENT_STATE). From then on this process accepts nothing: what it
 * counted after that would be lost. Clients wait in the kernel's queue, for the successor, or for this process if the upgrade fails
 * (FLIP_EVENT_FAILED). While the file named by REFUSE exists, upgrades are refused. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <shellflip.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct client {
    char name[32];
    unsigned long count;
};
static struct client clients[1024];
static size_t known;

static struct client *find(const char *name)
{
    for (size_t i = 0; i < known; i++)
        if (strcmp(clients[i].name, name) == 0)
            return &clients[i];
    if (known == sizeof clients / sizeof *clients)
        return NULL;
    snprintf(clients[known].name, sizeof clients[known].name, "%s", name);
    return &clients[known++];
}

/* 0, or what went wrong: a full disk fails the upgrade, not the server. */
static int write_state(int fd)
{
    FILE *out = fdopen(dup(fd), "w");
    if (!out)
        return -errno;
    for (size_t i = 0; i < known; i++)
        fprintf(out, "%s %lu\n", clients[i].name, clients[i].count);
    int failed = fflush(out) == 0 ? 0 : -errno;
    return fclose(out) == 0 ? failed : failed ? failed : -errno;
}

static void read_state(flip_t *flip)
{
    char name[32];
    unsigned long count;
    int fd = flip_take_state(flip, -1);
    if (fd == -ECONNRESET) /* we may serve all the same: flip_ready lets us once we have been told */
        fprintf(stderr, "stateful: %s; starting with none\n", flip_last_error());
    FILE *in = fd >= 0 ? fdopen(fd, "r") : NULL;
    while (in && fscanf(in, "%31s %lu", name, &count) == 2) {
        struct client *client = find(name);
        if (client)
            client->count = count;
    }
    if (in)
        fclose(in);
}

static void serve(flip_t *flip, int connection)
{
    struct timeval patience = { 1, 0 };
    char request[32] = "", answer[128];
    size_t have = 0;
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (have < sizeof request - 1 && !memchr(request, '\n', have)) {
        ssize_t n = recv(connection, request + have, sizeof request - 1 - have, 0);
        if (n < 0 && errno == EINTR) /* with SO_RCVTIMEO, SA_RESTART does not help: signal(7) */
            continue;
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    request[strcspn(request, " \r\n")] = 0;
    struct client *client = *request ? find(request) : NULL;
    if (client) {
        int length = snprintf(answer, sizeof answer, "%s %lu pid %d generation %d\n", client->name, ++client->count,
                              (int)getpid(), flip_generation(flip));
        send(connection, answer, (size_t)length, MSG_NOSIGNAL);
    }
    close(connection);
    flip_conn_end(flip);
}

/* Whether to go on accepting. */
static int take_part(flip_t *flip, int accepting)
{
    flip_event_t *event;
    const char *refuse = getenv("REFUSE");
    if (flip_next_event(flip, 0, &event) < 0)
        return accepting;
    switch (flip_event_kind(event)) {
    case FLIP_EVENT_STARTING:
        if (refuse && access(refuse, F_OK) == 0)
            flip_event_answer(event, -EPERM, "the operator asked for no upgrades (REFUSE)");
        else
            flip_event_answer(event, 0, NULL);
        break;
    case FLIP_EVENT_STATE:
        accepting = 0;
        flip_event_answer(event, write_state(flip_event_state_fd(event)), NULL);
        break;
    case FLIP_EVENT_FAILED:
        fprintf(stderr, "stateful: upgrade failed: %s\n", flip_event_text(event));
        accepting = 1;
        break;
    }
    flip_event_free(event);
    return accepting;
}

int main(int argc, char **argv)
{
    flip_t *flip;
    flip_config_t *config = flip_config_new();
    flip_config_set_events(config, FLIP_EVENT_STARTING | FLIP_EVENT_STATE | FLIP_EVENT_FAILED);
    if (getenv("UPGRADE_TIMEOUT_MS"))
        flip_config_set_upgrade_timeout(config, strtoull(getenv("UPGRADE_TIMEOUT_MS"), NULL, 10));
    int listener, rc = flip_init(config, &flip);
    flip_config_free(config);
    if (rc < 0 || (listener = flip_listen(flip, argc > 1 ? argv[1] : "tcp://127.0.0.1:8080")) < 0) {
        fprintf(stderr, "stateful: %s\n", flip_last_error());
        return 1;
    }
    read_state(flip);
    if (getenv("FAIL") && flip_generation(flip) > 0)
        return 1;
    if (flip_ready(flip, -1) < 0) {
        fprintf(stderr, "stateful: %s\n", flip_last_error());
        return 1;
    }
    fprintf(stderr, "stateful: pid %d, generation %d: serving\n", (int)getpid(), flip_generation(flip));

    for (int accepting = 1;;) {
        struct pollfd fds[3] = { { flip_shutdown_fd(flip), POLLIN, 0 },
                                 { flip_event_fd(flip), POLLIN, 0 },
                                 { accepting ? listener : -1, POLLIN, 0 } };
        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            break;
        if (fds[0].revents)
            break;
        if (fds[1].revents)
            accepting = take_part(flip, accepting);
        else if (fds[2].revents) {
            /* the other generation may have been quicker: do not wait */
            int connection = flip_accept(flip, listener, 0);
            if (connection >= 0)
                serve(flip, connection);
        }
    }
    close(listener);
    flip_drain(flip, -1);
    flip_free(flip);
    return 0;
}
