/* A server whose answers to the library's questions a test chooses: events, state, probation, drains.
 *
 * HTTP, a thread per connection, on tcp://127.0.0.1:0 (counted), and on the unix socket PID in the folder CONTROL (not
 * counted, from flip_init on, in every state):
 *
 *   GET /                 {"version":"1","pid":P,"generation":G}
 *   GET /upgrade/MS       flip_upgrade                      GET /request/N    flip_request
 *   GET /env/NAME/VALUE   flip_set_env                      GET /extend/MS    flip_extend
 *   GET /starting/POLICY  what STARTING is answered from now on: yes, refuse:REASON, free, hold
 *   GET /state/POLICY     the same for STATE: size:N, mapped:N (a writable mapping stays), enospc, free, hold
 *   GET /answer/STATUS    answers the event that is held    GET /give-back    frees it
 *   GET /event/MS         flip_next_event on this thread: its kind, its text as "error"
 *   GET /event-upgrade    the same, then flip_upgrade on this thread
 *   GET /take/MS          flip_take_state: "error" says what is there
 *   GET /drain/MS, /drained/MS (poll), /wait-predecessor/MS, /predecessor/MS (poll), /begin, /end, /count,
 *   /free, /free-answer (and then answers the event that is held)
 *
 * All but / answer {"rc":…,"failure":…,"error":"…"}. The environment: EVENTS (a mask), READER=0 (nobody reads events but
 * /event), STARTING, STATE (policies), BEFORE (steps before flip_ready, with commas: take, sleep:MS, extend:MS,
 * wait:FILE, kill, chroot:DIR), STAY (does not end after the drain), CONTROL_SOCKET (the library's), and PROBATION_MS, MAX_DRAINING, HARD_STOP_MS,
 * UPGRADE_TIMEOUT_MS, DRAIN_TIMEOUT_MS. It reports to stdout, one line each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <shellflip.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static flip_t *flip;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char starting[128] = "yes", state[128] = "size:0";
static flip_event_t *held;
static atomic_int answering;

static void say(const char *format, ...)
{
    char line[700];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line - 64, format, arguments);
    va_end(arguments);
    n = n < (int)sizeof line - 64 ? n : (int)sizeof line - 65;
    n += snprintf(line + n, 64, " pid=%d\n", (int)getpid());
    if (write(1, line, (size_t)n) < 0)
        return;
}

static unsigned long long word(size_t i)
{
    unsigned long long x = (i + 1) * 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

static unsigned long long sum_of(const unsigned long long *words, size_t n)
{
    unsigned long long sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + words[i];
    return sum;
}

/* What the state holds: its size, the sum of what is mapped, and what the descriptor is. */
static int look_at(int fd, char *text, size_t size)
{
    struct stat there;
    unsigned long long sum = 0, first = 0;
    if (fstat(fd, &there) != 0)
        return -errno;
    long long offset = lseek(fd, 0, SEEK_CUR);
    if (there.st_size > 0) {
        void *map = mmap(NULL, (size_t)there.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
            return -errno;
        sum = sum_of(map, (size_t)there.st_size / 8);
        munmap(map, (size_t)there.st_size);
        if (read(fd, &first, 8) != 8 || first != word(0))
            return -EIO;
    }
    int written = write(fd, "x", 1) < 0 ? errno : 0;
    snprintf(text, size, "size=%lld sum=%llx offset=%lld access=%d seals=%d write=%d cloexec=%d", (long long)there.st_size, sum,
             offset, fcntl(fd, F_GETFL) & O_ACCMODE, fcntl(fd, F_GET_SEALS), written, fcntl(fd, F_GETFD));
    return 0;
}

static int take(int timeout, char *text, size_t size)
{
    int fd;
    do
        fd = flip_take_state(flip, timeout);
    while (fd == -EINTR);
    if (fd < 0) {
        snprintf(text, size, "%s", flip_last_error());
        return fd;
    }
    int rc = look_at(fd, text, size);
    close(fd);
    return rc;
}

/* Block by block, so that memory is the state's alone. */
static int write_words(int fd, size_t size)
{
    enum { BLOCK = 1 << 17 };
    static unsigned long long block[BLOCK];
    unsigned long long sum = 0;
    for (size_t at = 0; at < size / 8; at += BLOCK) {
        size_t n = size / 8 - at < BLOCK ? size / 8 - at : BLOCK;
        for (size_t i = 0; i < n; i++) {
            block[i] = word(at + i);
            sum = sum * 31 + block[i];
        }
        for (size_t done = 0; done < n * 8;) {
            ssize_t some = write(fd, (char *)block + done, n * 8 - done);
            if (some < 0)
                return -errno;
            done += (size_t)some;
        }
    }
    say("wrote size=%zu sum=%llx", size, sum);
    return 0;
}

static void answer(flip_event_t *event, int status, const char *reason)
{
    int rc = flip_event_answer(event, status, reason);
    say("answered %d", rc);
    flip_event_free(event);
}

static void handle(flip_event_t *event)
{
    char policy[128];
    int kind = flip_event_kind(event);
    pthread_mutex_lock(&lock);
    snprintf(policy, sizeof policy, "%s", kind == FLIP_EVENT_STARTING ? starting : state);
    pthread_mutex_unlock(&lock);
    say("event %d failure %d: %s", kind, flip_event_failure(event), flip_event_text(event));
    if (kind != FLIP_EVENT_STARTING && kind != FLIP_EVENT_STATE) {
        flip_event_free(event);
    } else if (!strcmp(policy, "hold")) {
        pthread_mutex_lock(&lock);
        held = event;
        pthread_mutex_unlock(&lock);
        say("held %d", kind);
    } else if (!strcmp(policy, "free")) {
        flip_event_free(event);
    } else if (!strncmp(policy, "refuse:", 7)) {
        answer(event, -EPERM, policy + 7);
    } else if (!strcmp(policy, "enospc")) {
        answer(event, -ENOSPC, NULL);
    } else if (!strncmp(policy, "size:", 5)) {
        answer(event, write_words(flip_event_state_fd(event), strtoul(policy + 5, NULL, 10)), NULL);
    } else if (!strncmp(policy, "mapped:", 7)) {
        size_t size = strtoul(policy + 7, NULL, 10);
        if (ftruncate(flip_event_state_fd(event), (off_t)size) != 0 ||
            mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, flip_event_state_fd(event), 0) == MAP_FAILED)
            say("cannot map: %d", errno);
        answer(event, 0, NULL);
    } else {
        answer(event, 0, NULL);
    }
}

static void *reader(void *unused)
{
    flip_event_t *event;
    int rc;
    while ((rc = flip_next_event(flip, -1, &event)) == 0 || rc == -EINTR)
        if (rc == 0)
            handle(event);
    return unused;
}

static int readable(int fd, int timeout)
{
    struct pollfd poll_fd = { fd, POLLIN, 0 };
    return fd < 0 ? fd : poll(&poll_fd, 1, timeout) < 0 ? -errno : (poll_fd.revents & POLLIN) != 0;
}

static void decode(char *text)
{
    char *out = text;
    for (; *text; text++) {
        unsigned byte;
        if (*text == '%' && sscanf(text + 1, "%2x", &byte) == 1) {
            *out++ = (char)byte;
            text += 2;
        } else {
            *out++ = *text;
        }
    }
    *out = 0;
}

static void answer_call(char *path, char *out, size_t size)
{
    char *parts[4] = { 0 }, text[500] = "", *rest = NULL;
    int n = 0, rc = -ENOSYS;
    for (char *part = strtok_r(path, "/", &rest); part && n < 4; part = strtok_r(NULL, "/", &rest)) {
        decode(part);
        parts[n++] = part;
    }
    if (n == 0) {
        snprintf(out, size, "{\"version\":\"1\",\"pid\":%d,\"generation\":%d}\n", (int)getpid(), flip_generation(flip));
        return;
    }
    const char *call = parts[0];
    int ms = n > 1 ? atoi(parts[1]) : -1;
    flip_event_t *event = NULL;
    if (!strcmp(call, "upgrade")) {
        while ((rc = flip_upgrade(flip, ms)) == -EINTR) {
        }
    } else if (!strcmp(call, "request")) {
        rc = flip_request(flip, ms);
    } else if (!strcmp(call, "env") && n > 1) {
        rc = flip_set_env(flip, parts[1], parts[2]);
    } else if (!strcmp(call, "extend")) {
        rc = flip_extend(flip, (uint64_t)ms);
    } else if ((!strcmp(call, "starting") || !strcmp(call, "state")) && n > 1) {
        pthread_mutex_lock(&lock);
        snprintf(strcmp(call, "state") ? starting : state, sizeof state, "%s", parts[1]);
        pthread_mutex_unlock(&lock);
        rc = 0;
    } else if (!strcmp(call, "answer")) {
        rc = flip_event_answer(held, ms, parts[2]);
    } else if (!strcmp(call, "give-back")) {
        flip_event_free(held);
        held = NULL;
        rc = 0;
    } else if (!strcmp(call, "event") || !strcmp(call, "event-upgrade")) {
        rc = flip_next_event(flip, ms < 0 ? 0 : ms, &event);
        if (rc == 0) {
            rc = flip_event_kind(event);
            snprintf(text, sizeof text, "%s", flip_event_text(event));
            flip_event_free(event);
        }
        if (call[5])
            rc = flip_upgrade(flip, -1);
    } else if (!strcmp(call, "take")) {
        rc = take(ms, text, sizeof text);
    } else if (!strcmp(call, "drain")) {
        rc = flip_drain(flip, ms);
    } else if (!strcmp(call, "drained")) {
        int fd = flip_drained_fd(flip);
        say("waits until drained, %d ms", ms);
        rc = readable(fd, ms);
    } else if (!strcmp(call, "predecessor")) {
        rc = readable(flip_predecessor_fd(flip), ms);
    } else if (!strcmp(call, "wait-predecessor")) {
        rc = flip_wait_predecessor(flip, ms);
    } else if (!strcmp(call, "begin")) {
        rc = flip_conn_begin(flip);
    } else if (!strcmp(call, "end")) {
        rc = flip_conn_end(flip);
    } else if (!strcmp(call, "count")) {
        rc = flip_conn_count(flip);
    } else if (!strncmp(call, "free", 4)) {
        flip_free(flip);
        rc = call[4] ? flip_event_answer(held, 0, NULL) : 0;
    }
    if (rc < 0)
        snprintf(text, sizeof text, "%s", flip_last_error());
    for (char *c = text; *c; c++)
        if (*c == '"' || *c == '\\')
            *c = '\'';
    snprintf(out, size, "{\"rc\":%d,\"failure\":%d,\"error\":\"%s\"}\n", rc, flip_last_failure(), text);
}

struct connection {
    int fd, counted;
};

static void *serve(void *argument)
{
    struct connection *it = argument;
    char request[2048], path[512], body[900], answer_text[1100];
    size_t have = 0;
    for (;;) {
        char *end;
        while (!(end = memmem(request, have, "\r\n\r\n", 4))) {
            ssize_t n = have < sizeof request - 1 ? recv(it->fd, request + have, sizeof request - 1 - have, 0) : 0;
            if (n <= 0)
                goto out;
            have += (size_t)n;
        }
        size_t used = (size_t)(end + 4 - request);
        request[have] = 0;
        if (sscanf(request, "GET %511s", path) != 1)
            break;
        int last = memmem(request, used, "Connection: close", 17) != NULL;
        atomic_fetch_add(&answering, 1);
        answer_call(path, body, sizeof body);
        memmove(request, request + used, have - used);
        have -= used;
        last |= !it->counted || flip_wait_shutdown(flip, 0) > 0;
        int n = snprintf(answer_text, sizeof answer_text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n%s", strlen(body),
                         last ? "Connection: close\r\n" : "", body);
        last |= send(it->fd, answer_text, (size_t)n, MSG_NOSIGNAL) < 0;
        atomic_fetch_sub(&answering, 1);
        if (last)
            break;
    }
out:
    close(it->fd);
    if (it->counted)
        flip_conn_end(flip);
    free(it);
    return NULL;
}

static void start(void *(*run)(void *), int fd, int counted)
{
    pthread_t thread;
    struct connection *it = malloc(sizeof *it);
    *it = (struct connection){ fd, counted };
    if (pthread_create(&thread, NULL, run, it) == 0)
        pthread_detach(thread);
}

static void *accept_all(void *argument)
{
    struct connection *listener = argument;
    int fd;
    while ((fd = listener->counted ? flip_accept(flip, listener->fd, -1)
                                   : accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        start(serve, fd, listener->counted);
    if (listener->counted)
        say("accepts no more");
    close(listener->fd);
    free(listener);
    return NULL;
}

static void start_control(const char *folder)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char path[sizeof address.sun_path];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%d.new", folder, (int)getpid());
    snprintf(path, sizeof path, "%s/%d", folder, (int)getpid());
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 16) != 0 ||
        rename(address.sun_path, path) != 0)
        exit(5);
    start(accept_all, fd, 0);
}

static void before_ready(char *steps)
{
    char *rest = NULL, text[500];
    struct stat there;
    for (char *step = strtok_r(steps, ",", &rest); step; step = strtok_r(NULL, ",", &rest)) {
        char *colon = strchr(step, ':');
        if (!strcmp(step, "take")) {
            int rc = take(-1, text, sizeof text);
            say("took %d %s", rc, text);
        } else if (!strncmp(step, "sleep:", 6))
            usleep((unsigned)atoi(colon + 1) * 1000);
        else if (!strncmp(step, "extend:", 7))
            say("extended %d", flip_extend(flip, (uint64_t)atoi(colon + 1)));
        else if (!strncmp(step, "wait:", 5))
            while (stat(colon + 1, &there) != 0)
                usleep(2000);
        else if (!strncmp(step, "chroot:", 7))
            say("chroot %d", chroot(colon + 1));
        else if (!strcmp(step, "kill"))
            kill(getpid(), SIGKILL);
    }
}

static uint64_t number(const char *name)
{
    return getenv(name) ? strtoull(getenv(name), NULL, 10) : 0;
}

int main(void)
{
    struct sockaddr_in here;
    socklen_t size = sizeof here;
    char text[500];
    flip_config_t *config = flip_config_new();
    flip_config_set_events(config, (unsigned)number("EVENTS"));
    if (getenv("HOST_CONTROL_SOCKET"))
        flip_config_set_control_socket(config, getenv("HOST_CONTROL_SOCKET"));
    if (getenv("UPGRADE_TIMEOUT_MS"))
        flip_config_set_upgrade_timeout(config, number("UPGRADE_TIMEOUT_MS"));
    if (getenv("DRAIN_TIMEOUT_MS"))
        flip_config_set_drain_timeout(config, number("DRAIN_TIMEOUT_MS"));
    if (getenv("MAX_DRAINING"))
        flip_config_set_max_draining(config, (unsigned)number("MAX_DRAINING"));
    if (getenv("HARD_STOP_MS"))
        flip_config_set_hard_stop(config, number("HARD_STOP_MS"));
    if (getenv("PROBATION_MS"))
        flip_config_set_probation(config, number("PROBATION_MS"));
    if (getenv("CONTROL_SOCKET"))
        flip_config_set_control_socket(config, getenv("CONTROL_SOCKET"));
    if (getenv("STARTING"))
        snprintf(starting, sizeof starting, "%s", getenv("STARTING"));
    if (getenv("STATE"))
        snprintf(state, sizeof state, "%s", getenv("STATE"));
    int listener, rc = flip_init(config, &flip);
    flip_config_free(config);
    if (rc < 0 || (listener = flip_listen(flip, "tcp://127.0.0.1:0")) < 0 ||
        getsockname(listener, (struct sockaddr *)&here, &size) != 0) {
        fprintf(stderr, "takes_part: %s\n", flip_last_error());
        return 1;
    }
    say("init generation=%d", flip_generation(flip));
    if (getenv("CONTROL"))
        start_control(getenv("CONTROL"));
    if (number("EVENTS") && (!getenv("READER") || number("READER")))
        start(reader, -1, 0);
    say("listening tcp://127.0.0.1:%d", ntohs(here.sin_port));
    if (getenv("BEFORE") && flip_generation(flip) > 0)
        before_ready(strdup(getenv("BEFORE")));
    while ((rc = flip_ready(flip, -1)) == -ECONNRESET) {
        say("ready %d %s", rc, flip_last_error());
        rc = take(-1, text, sizeof text);
        say("took %d %s", rc, text);
    }
    say("ready %d generation=%d", rc, flip_generation(flip));
    if (rc < 0)
        return 1;
    start(accept_all, listener, 1);
    while ((rc = flip_wait_shutdown(flip, -1)) == -EINTR) {
    }
    say("shutdown %d", rc);
    rc = flip_drain(flip, -1);
    say("drained %d %s", rc, rc < 0 ? flip_last_error() : "");
    while (getenv("STAY"))
        pause();
    flip_free(flip);
    for (int left = 2000; left > 0 && atomic_load(&answering) > 0; left--) /* what was asked is still answered */
        usleep(1000);
    return 0;
}
