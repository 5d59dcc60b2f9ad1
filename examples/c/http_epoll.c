/* An HTTP/1.1 keep-alive server on one thread and one epoll set that is replaced without a failed request.
 *
 * Once shutdown has fired, the listener leaves epoll and is closed, and nothing more is accepted: what is queued on it
 * belongs to the successor. Every request that still comes is answered, with `Connection: close`, so that the client's
 * next one goes to the successor. A connection without a request stays open for IDLE_GRACE_MS, so that a client that
 * pauses for less than that never meets a closing connection.
 *
 * Usage: http_epoll [ADDRESS]. Environment: ADDRESS, IDLE_GRACE_MS, UPGRADE_TIMEOUT_MS, DRAIN_TIMEOUT_MS,
 * CONTROL_SOCKET (where flipctl asks), and for units of systemd (docs/systemd.md) WATCHDOG=1, FD_STORE=1, RELOAD_SIGNAL
 * (the number of a further signal that upgrades). */
#define _GNU_SOURCE
#include "http_request.h"
#include <errno.h>
#include <shellflip.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 1
#endif
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

enum { IDLE_MS = 60000, GRACE_MS = 5000, LINGER_MS = 2000, RETRY_MS = 100, TURNS = 32 };
enum state { READING, WAITING, WRITING, LINGERING };

struct conn {
    struct conn *prev, *next;
    int fd;
    enum state state;
    uint32_t watched;
    int64_t due; /* when the state ends by itself */
    struct request request;
    bool eof; /* the client sends no more */
    size_t in_len, out_len, out_sent;
    char in[8192], out[512];
};

static flip_t *flip;
static int epoll, listener;
static struct conn all = {.prev = &all, .next = &all};
static struct conn drained; /* stands for flip_drained_fd in epoll */
static int64_t now, next_due = INT64_MAX; /* next_due is never later than any connection's due */
static int64_t grace_ms, accept_again;    /* accept_again: accepting pauses until then; 0: it does not */
static bool stopping;

static void set_due(struct conn *c, int64_t ms)
{
    c->due = now + ms;
    if (c->due < next_due)
        next_due = c->due;
}

static void watch(struct conn *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (c->watched != events && epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event) == 0)
        c->watched = events;
}

static void drop(struct conn *c)
{
    /* close alone is not enough: between clone and exec the new program holds a copy of every descriptor, and epoll
     * goes on reporting a closed one, with a pointer to freed memory here, for as long as any copy is open. */
    epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
    c->prev->next = c->next;
    c->next->prev = c->prev;
    close(c->fd);
    free(c);
    flip_conn_end(flip);
}

static bool idle(const struct conn *c)
{
    return c->state == READING && c->in_len == 0 && c->request.status == INCOMPLETE;
}

static bool input_waits(const struct conn *c)
{
    char peek;

    return c->in_len > 0 || recv(c->fd, &peek, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static void answer(struct conn *c, int status)
{
    char body[128] = "";

    if (status == 200)
        snprintf(body, sizeof body, "{\"version\":\"" TEXT(VERSION) "\",\"pid\":%d,\"generation\":%d}\n", (int)getpid(),
                 flip_generation(flip));
    /* A pipelined request that is here already is answered too: it was sent before we could announce the close. */
    bool last = c->request.last || status != 200 || (stopping && !input_waits(c));
    int length = snprintf(c->out, sizeof c->out,
                          "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s\r\n%s", status,
                          reason(status), strlen(body), last ? "Connection: close\r\n" : "",
                          c->request.head ? "" : body);
    c->out_len = (size_t)length;
    c->out_sent = 0;
    c->request = (struct request){.last = last};
    c->state = WRITING;
    set_due(c, IDLE_MS);
}

/* Stops sending and gives the client a moment to close: a plain close with unread input makes the kernel send a reset,
 * which can destroy an answer that the client has not read yet. A request that crosses our FIN cannot be answered any
 * more. It is thrown away unexecuted, and the client sees a clean end after which it may send it again (RFC 9112,
 * 9.3.1). Nothing better is possible for a client that pauses for just as long as the grace period. */
static void linger(struct conn *c)
{
    c->state = LINGERING;
    shutdown(c->fd, SHUT_WR);
    set_due(c, LINGER_MS);
}

/* Runs one connection as far as it goes without blocking. */
static void run(struct conn *c)
{
    char discarded[4096];

    for (int turn = 0; turn < TURNS; turn++) {
        ssize_t n = 0;
        if (c->state == READING) {
            int status = take_request(&c->request, c->in, &c->in_len, sizeof c->in);
            if (status == 200 && c->request.slow_ms > 0) {
                c->state = WAITING;
                set_due(c, c->request.slow_ms);
            } else if (status != INCOMPLETE) {
                answer(c, status);
            } else if (c->eof) {
                drop(c);
                return;
            } else if ((n = recv(c->fd, c->in + c->in_len, sizeof c->in - c->in_len, 0)) > 0) {
                if (c->in_len == 0)
                    set_due(c, IDLE_MS); /* a request begins, or its body goes on; a head that trickles gets no more */
                c->in_len += (size_t)n;
            } else {
                c->eof = n == 0;
            }
        } else if (c->state == WAITING) {
            watch(c, 0);
            return;
        } else if (c->state == WRITING) {
            n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
            if (n >= 0)
                c->out_sent += (size_t)n;
            if (c->out_sent == c->out_len && c->request.last) {
                linger(c);
            } else if (c->out_sent == c->out_len) {
                c->state = READING;
                set_due(c, stopping ? grace_ms : IDLE_MS);
            }
        } else if (c->eof || (n = recv(c->fd, discarded, sizeof discarded, 0)) == 0) {
            drop(c);
            return;
        }
        if (n < 0 && errno == EAGAIN) {
            watch(c, c->state == WRITING ? EPOLLOUT : EPOLLIN | EPOLLRDHUP);
            return;
        } else if (n < 0 && errno != EINTR) {
            drop(c);
            return;
        }
    }
    watch(c, EPOLLIN | EPOLLOUT); /* a long pipeline: the other clients first, then on at once */
}

static void end_of_state(struct conn *c)
{
    if (c->state == WRITING || c->state == LINGERING) {
        drop(c);
        return;
    }
    if (c->state == WAITING)
        answer(c, 200);
    else if (!idle(c))
        answer(c, 408);
    else if (!input_waits(c)) /* else its request came at the last moment */
        linger(c);
    run(c);
}

static void end_due_states(void)
{
    struct conn *next;

    if (now < next_due)
        return;
    next_due = INT64_MAX;
    for (struct conn *c = all.next; c != &all; c = next) {
        next = c->next;
        if (c->due <= now)
            end_of_state(c);
        else if (c->due < next_due)
            next_due = c->due;
    }
}

static void watch_listener(int op)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    if (epoll_ctl(epoll, op, listener, &event) < 0)
        perror("epoll_ctl on the listener");
}

static void accept_all(void)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno == EAGAIN)
            return;
        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0) {
            /* EMFILE and its like: the listener stays readable, so watching it would spin until one is free. */
            watch_listener(EPOLL_CTL_DEL);
            accept_again = now + RETRY_MS;
            return;
        }
        struct conn *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        if (!c || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
            close(fd);
            free(c);
            continue;
        }
        flip_conn_begin(flip);
        c->fd = fd;
        c->watched = event.events;
        c->prev = &all;
        c->next = all.next;
        c->next->prev = all.next = c;
        set_due(c, IDLE_MS);
    }
}

static void begin_shutdown(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &drained};

    stopping = true;
    epoll_ctl(epoll, EPOLL_CTL_DEL, flip_shutdown_fd(flip), NULL); /* it stays readable for ever */
    epoll_ctl(epoll, EPOLL_CTL_ADD, flip_drained_fd(flip), &event);
    /* Before the close: the successor holds the same socket, and epoll would go on reporting a closed descriptor. */
    if (!accept_again)
        watch_listener(EPOLL_CTL_DEL);
    accept_again = 0;
    close(listener);
    for (struct conn *c = all.next; c != &all; c = c->next)
        if (idle(c))
            set_due(c, grace_ms);
}

static int64_t milliseconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Serves until the last connection has ended after shutdown, or the drain deadline has passed: what flip_drain says. */
static int serve(void)
{
    struct epoll_event events[64];

    for (;;) {
        int64_t until = accept_again && accept_again < next_due ? accept_again : next_due;
        now = milliseconds();
        int count = epoll_wait(epoll, events, 64, until == INT64_MAX ? -1 : until > now ? (int)(until - now) : 0);
        now = milliseconds();
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (c == &all)
                begin_shutdown();
            else if (c == &drained)
                return flip_drain(flip, 0);
            else if (!c && !stopping)
                accept_all();
            else if (c && events[i].events & (EPOLLERR | EPOLLHUP))
                drop(c);
            else if (c)
                run(c);
        }
        end_due_states();
        if (accept_again && now >= accept_again) {
            accept_again = 0;
            watch_listener(EPOLL_CTL_ADD);
        }
    }
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    uint64_t value;

    return text && number(text, "", INT32_MAX, &value) ? value : otherwise;
}

static int fail(const char *what)
{
    fprintf(stderr, "http_epoll: %s: %s\n", what, flip_last_error());
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    const char *address = argc > 1 ? argv[1] : getenv("ADDRESS");
    struct epoll_event shutdown_event = {.events = EPOLLIN, .data.ptr = &all};
    flip_config_t *config = flip_config_new();
    int reload = (int)setting("RELOAD_SIGNAL", 0);

    grace_ms = (int64_t)setting("IDLE_GRACE_MS", GRACE_MS);
    if (flip_config_set_upgrade_timeout(config, setting("UPGRADE_TIMEOUT_MS", 60000)) < 0 ||
        flip_config_set_drain_timeout(config, setting("DRAIN_TIMEOUT_MS", 30000)) < 0 ||
        (reload > 0 && flip_config_set_signal(config, reload, FLIP_REQUEST_UPGRADE) < 0) ||
        flip_config_set_control_socket(config, getenv("CONTROL_SOCKET")) < 0 ||
        flip_config_set_watchdog(config, (int)setting("WATCHDOG", 0)) < 0 ||
        flip_config_set_fd_store(config, (int)setting("FD_STORE", 0)) < 0 || flip_init(config, &flip) < 0)
        return fail("cannot start");
    flip_config_free(config);

#if defined(CRASH_IN_INIT) /* two new programs that are no good: the old one goes on serving */
    return EXIT_FAILURE;
#elif defined(HANG_IN_INIT)
    for (;;)
        pause();
#endif

    if ((listener = flip_listen(flip, address ? address : "tcp://127.0.0.1:8080")) < 0)
        return fail("cannot listen");
    if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, flip_shutdown_fd(flip), &shutdown_event) < 0) {
        perror("http_epoll: epoll");
        return EXIT_FAILURE;
    }
    if (flip_ready(flip, -1) < 0)
        return fail("not ready");
    watch_listener(EPOLL_CTL_ADD);
    fprintf(stderr, "http_epoll: version " TEXT(VERSION) ", pid %d, generation %d: serving\n", (int)getpid(),
            flip_generation(flip));

    int rc = serve();
    if (rc < 0)
        fprintf(stderr, "http_epoll: pid %d leaves connections behind: %s\n", (int)getpid(), flip_last_error());
    flip_free(flip);
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
