/* The server that the tests upgrade: an HTTP server, a thread per connection, that makes library calls when it is asked to.
 *
 *   GET /               {"version":"V","pid":P,"generation":G}
 *   GET /slow/MS        the same, after MS milliseconds
 *   GET /upgrade/MS     flip_upgrade(flip, MS): {"rc":…,"failure":…,"error":"…"}
 *   GET /request/N      flip_request(flip, N)
 *   GET /env/NAME/VALUE flip_set_env; without VALUE removes
 *   GET /command/A/B/…  flip_set_command(A, {A, B, …}); %2F is a slash
 *   GET /directory/D    flip_set_directory
 *   GET /listen/A       flip_listen, and serve on it
 *   GET /chdir/D        chdir
 *   GET /extend/MS      flip_extend
 *   GET /forget/NAME    flip_forget
 *   GET /count          flip_conn_count
 *   GET /successor      flip_successor_pid
 *   GET /free           flip_free
 *   GET /system/C       system(C)
 *
 * The environment says how it starts: HOST_ADDRESS (default tcp://127.0.0.1:0), HOST_VERSION, UPGRADE_TIMEOUT_MS,
 * DRAIN_TIMEOUT_MS, HOST_NO_SIGNALS, HOST_WATCHDOG, HOST_FD_STORE, HOST_CONTROL_SOCKET (the library's), HOST_PID_FILE,
 * HOST_CONTROL (a folder: the same calls are answered on the unix socket PID in it from flip_init on, in every state), and
 * HOST_BEFORE_READY, a list of steps between flip_init and flip_ready, separated by commas: exit:N, kill, hang, sleep:MS,
 * extend:MS (flip_extend), fork (a child that lives on and holds every descriptor that fork handlers leave it), worker
 * (the same by the bare system call: it holds the library's own, too), free, ready:MS (a flip_ready with that time-out,
 * reported), ready-loop:MS (again and again until it does not time out), ready-free (flip_ready in a thread, flip_free in
 * another), wait:FILE (until it exists), child (this program again, without steps, in a child), leak (descriptors without
 * CLOEXEC), many:N (listeners), signals (blocks, ignores, handles some), and after flip_ready, when the threads that serve
 * exist: setuid:N, seccomp (no clone, no fork, no execve on the main thread), both reported.
 * It reports to stdout, one line each: `init`, `listening ADDRESS`, `ready RC`, `shutdown KIND`, `drain RC`, `end`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shellflip.h"

static flip_t *flip;
#ifndef VERSION
#define VERSION "1"
#endif
static const char *version = VERSION;

static void sleep_ms(long ms)
{
    struct timespec left = { ms / 1000, ms % 1000 * 1000000 };
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void say(const char *what, const char *detail, long value)
{
    char line[512];
    int n = snprintf(line, sizeof line, "%s %s%ld pid=%d generation=%d\n", what, detail, value, (int)getpid(),
                     flip ? flip_generation(flip) : -1);
    if (write(1, line, (size_t)n) < 0)
        return;
}

static long option(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value ? atol(value) : otherwise;
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

static void *serve(void *argument);

static void serve_on(int listener)
{
    pthread_t thread;
    int *boxed = malloc(sizeof *boxed);
    *boxed = listener;
    pthread_create(&thread, NULL, serve, boxed);
    pthread_detach(thread);
}

static void answer_call(char *path, char *out, size_t size)
{
    char *parts[16] = { 0 };
    int n = 0, rc = -ENOSYS;
    for (char *part = strtok_r(path, "/", &path); part && n < 15; part = strtok_r(NULL, "/", &path)) {
        decode(part);
        parts[n++] = part;
    }
    if (n == 0 || !strcmp(parts[0], "slow")) {
        if (n > 1)
            sleep_ms(atol(parts[1]));
        snprintf(out, size, "{\"version\":\"%s\",\"pid\":%d,\"generation\":%d}\n", version, (int)getpid(),
                 flip_generation(flip));
        return;
    }
    const char *call = parts[0];
    if (!strcmp(call, "upgrade"))
        do
            rc = flip_upgrade(flip, n > 1 ? atoi(parts[1]) : -1);
        while (rc == -EINTR);
    else if (!strcmp(call, "request") && n > 1)
        rc = flip_request(flip, atoi(parts[1]));
    else if (!strcmp(call, "env") && n > 1)
        rc = flip_set_env(flip, parts[1], parts[2]);
    else if (!strcmp(call, "command") && n > 1)
        rc = flip_set_command(flip, parts[1], (const char *const *)&parts[1]);
    else if (!strcmp(call, "directory") && n > 1)
        rc = flip_set_directory(flip, parts[1]);
    else if (!strcmp(call, "chdir") && n > 1)
        rc = chdir(parts[1]) == 0 ? 0 : -errno;
    else if (!strcmp(call, "system") && n > 1)
        rc = system(parts[1]);
    else if (!strcmp(call, "extend") && n > 1)
        rc = flip_extend(flip, (uint64_t)atol(parts[1]));
    else if (!strcmp(call, "forget") && n > 1)
        rc = flip_forget(flip, parts[1]);
    else if (!strcmp(call, "count"))
        rc = flip_conn_count(flip);
    else if (!strcmp(call, "successor"))
        rc = flip_successor_pid(flip);
    else if (!strcmp(call, "free")) {
        flip_free(flip);
        rc = 0;
    } else if (!strcmp(call, "listen") && n > 1) {
        rc = flip_listen(flip, parts[1]);
        if (rc >= 0)
            serve_on(rc);
    }
    char error[400];
    snprintf(error, sizeof error, "%s", rc < 0 ? flip_last_error() : "");
    for (char *c = error; *c; c++)
        if (*c == '"' || *c == '\\')
            *c = '\'';
    snprintf(out, size, "{\"rc\":%d,\"failure\":%d,\"error\":\"%s\"}\n", rc, flip_last_failure(), error);
}

static void *connection(void *argument)
{
    int fd = *(int *)argument;
    char request[4096], body[1024], head[256], path[2048];
    size_t have = 0;
    free(argument);
    for (;;) {
        char *end;
        while (!(end = memmem(request, have, "\r\n\r\n", 4))) {
            ssize_t n = have < sizeof request ? recv(fd, request + have, sizeof request - have, 0) : 0;
            if (n <= 0)
                goto out;
            have += (size_t)n;
        }
        size_t used = (size_t)(end + 4 - request);
        if (sscanf(request, "GET %2047s", path) != 1)
            goto out;
        int asked_to_close = memmem(request, used, "Connection: close", 17) != NULL;
        answer_call(path, body, sizeof body);
        memmove(request, request + used, have - used);
        have -= used;
        int closing = asked_to_close || flip_wait_shutdown(flip, 0) > 0;
        int n = snprintf(head, sizeof head,
                         "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s\r\n",
                         strlen(body), closing ? "Connection: close\r\n" : "");
        if (send(fd, head, (size_t)n, MSG_NOSIGNAL | MSG_MORE) < 0 ||
            send(fd, body, strlen(body), MSG_NOSIGNAL) < 0 || closing)
            goto out;
    }
out:
    close(fd);
    flip_conn_end(flip);
    return NULL;
}

static void *serve(void *argument)
{
    int listener = *(int *)argument, fd;
    free(argument);
    while ((fd = flip_accept(flip, listener, -1)) >= 0) {
        pthread_t thread;
        int *boxed = malloc(sizeof *boxed);
        *boxed = fd;
        if (pthread_create(&thread, NULL, connection, boxed) != 0) {
            close(fd);
            flip_conn_end(flip);
            free(boxed);
            continue;
        }
        pthread_detach(thread);
    }
    close(listener);
    return NULL;
}

/* Answers that are on their way: the library does not count them, and the process must not end before them. */
static atomic_int answering;

static void *control_connection(void *argument)
{
    int fd = *(int *)argument;
    char request[4096], body[1024], answer[1200], path[2048];
    size_t have = 0;
    free(argument);
    answering++;
    while (!memmem(request, have, "\r\n\r\n", 4)) {
        ssize_t n = have < sizeof request - 1 ? recv(fd, request + have, sizeof request - 1 - have, 0) : 0;
        if (n <= 0)
            goto out;
        have += (size_t)n;
    }
    request[have] = 0;
    if (sscanf(request, "GET %2047s", path) == 1) {
        answer_call(path, body, sizeof body);
        int n = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
        if (send(fd, answer, (size_t)n, MSG_NOSIGNAL) < 0)
            goto out;
    }
out:
    close(fd);
    answering--;
    return NULL;
}

static void *control(void *argument)
{
    int listener = *(int *)argument, fd;
    free(argument);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        pthread_t thread;
        int *boxed = malloc(sizeof *boxed);
        *boxed = fd;
        pthread_create(&thread, NULL, control_connection, boxed);
        pthread_detach(thread);
    }
    return NULL;
}

static void start_control(const char *folder)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char path[sizeof address.sun_path];
    pthread_t thread;
    int *listener = malloc(sizeof *listener);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%d.new", folder, (int)getpid());
    snprintf(path, sizeof path, "%s/%d", folder, (int)getpid());
    /* It gets its name once it listens, so that whoever sees it can connect. */
    if (bind(*listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(*listener, 16) != 0 ||
        rename(address.sun_path, path) != 0) {
        perror("HOST_CONTROL");
        exit(5);
    }
    pthread_create(&thread, NULL, control, listener);
    pthread_detach(thread);
}

static void live_on(long pid)
{
    if (pid == 0)
        for (;;)
            pause();
    say("worker", "", pid);
}

static int forbid_clone_and_execve(void)
{
    static const unsigned forbidden[] = { SYS_execve, SYS_clone, SYS_clone3, SYS_fork, SYS_vfork };
    enum { N = sizeof forbidden / sizeof *forbidden };
    struct sock_filter filter[N + 3] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
    for (int i = 0; i < N; i++)
        filter[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbidden[i], (unsigned char)(N - i), 0);
    filter[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog program = { N + 3, filter };
    int failed = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) | prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    return failed || fork() != -1 || errno != EPERM;
}

static void leak(void)
{
    int fds[2];
    if (open("/dev/zero", O_RDONLY) < 0 || pipe(fds) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0 ||
        dup2(fds[0], 500) < 0 || dup2(fds[0], 1000) < 0)
        perror("leak");
}

/* Listeners whose names alone are more than one message holds. */
static void listen_on_many(long n)
{
    char address[400];
    for (long i = 0; i < n; i++) {
        snprintf(address, sizeof address, "tcp://127.0.0.1:0?name=%0250ld", i);
        if (flip_listen(flip, address) < 0)
            fprintf(stderr, "many: %s\n", flip_last_error());
    }
}

static void handled(int signal)
{
    (void)signal;
}

static void change_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMIN + 1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGTSTP, SIG_IGN);
    signal(SIGALRM, handled);
    signal(SIGHUP, SIG_DFL);
}

static void *ready_thread(void *unused)
{
    (void)unused;
    return (void *)(long)flip_ready(flip, -1);
}

static void free_while_ready_waits(void)
{
    pthread_t thread;
    void *rc;
    pthread_create(&thread, NULL, ready_thread, NULL);
    sleep_ms(200);
    flip_free(flip);
    pthread_join(thread, &rc);
    say("ready-free", "", (long)rc);
    exit(0);
}

static void before_ready(char *steps)
{
    char *rest = NULL;
    for (char *step = strtok_r(steps, ",", &rest); step; step = strtok_r(NULL, ",", &rest)) {
        char *colon = strchr(step, ':');
        long value = colon ? atol(colon + 1) : 0;
        if (!strncmp(step, "exit", 4))
            _exit((int)value);
        else if (!strcmp(step, "kill"))
            kill(getpid(), SIGKILL);
        else if (!strcmp(step, "hang"))
            for (;;)
                pause();
        else if (!strncmp(step, "sleep", 5))
            sleep_ms(value);
        else if (!strncmp(step, "extend", 6))
            say("extend", "", flip_extend(flip, (uint64_t)value));
        else if (!strcmp(step, "fork"))
            live_on(fork());
        else if (!strcmp(step, "worker"))
            live_on(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
        else if (!strcmp(step, "child")) {
            if (fork() == 0) {
                unsetenv("HOST_BEFORE_READY");
                execl("/proc/self/exe", "child", (char *)NULL);
                _exit(127);
            }
        } else if (!strncmp(step, "wait:", 5)) {
            struct stat there;
            while (stat(step + 5, &there) != 0)
                sleep_ms(2);
        } else if (!strncmp(step, "ready-loop", 10)) {
            int rc;
            do {
                rc = flip_ready(flip, (int)value);
                say("ready", "", rc);
            } while (rc == -ETIMEDOUT);
        } else if (!strcmp(step, "free")) {
            flip_free(flip);
            say("freed", "", 0);
            exit(0);
        } else if (!strcmp(step, "leak"))
            leak();
        else if (!strncmp(step, "many", 4))
            listen_on_many(value);
        else if (!strcmp(step, "signals"))
            change_signals();
        else if (!strcmp(step, "ready-free"))
            free_while_ready_waits();
        else if (!strncmp(step, "ready", 5))
            say("ready", "", flip_ready(flip, (int)value));
    }
}

/* With all threads there: what each of them does about it is the test. */
static void after_ready(char *steps)
{
    char *rest = NULL;
    for (char *step = strtok_r(steps, ",", &rest); step; step = strtok_r(NULL, ",", &rest)) {
        long value = strchr(step, ':') ? atol(strchr(step, ':') + 1) : 0;
        if (!strncmp(step, "setuid", 6) && geteuid() == 0)
            say("setuid", "", setgroups(0, NULL) | setgid((gid_t)value) | setuid((uid_t)value));
        else if (!strcmp(step, "seccomp"))
            say("seccomp", "", forbid_clone_and_execve());
    }
}

static void report_address(int listener)
{
    struct sockaddr_storage storage;
    socklen_t size = sizeof storage;
    char text[160] = "";
    if (getsockname(listener, (struct sockaddr *)&storage, &size) == 0 && storage.ss_family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)&storage;
        snprintf(text, sizeof text, "tcp://127.0.0.1:%d ", ntohs(in->sin_port));
    } else if (storage.ss_family == AF_UNIX) {
        snprintf(text, sizeof text, "unix://%s ", ((struct sockaddr_un *)&storage)->sun_path);
    }
    say("listening", text, listener);
}

int main(void)
{
    flip_config_t *config = flip_config_new();
    flip_config_set_watchdog(config, (int)option("HOST_WATCHDOG", 0));
    flip_config_set_fd_store(config, (int)option("HOST_FD_STORE", 0));
    if (getenv("UPGRADE_TIMEOUT_MS"))
        flip_config_set_upgrade_timeout(config, (uint64_t)option("UPGRADE_TIMEOUT_MS", 0));
    if (getenv("DRAIN_TIMEOUT_MS"))
        flip_config_set_drain_timeout(config, (uint64_t)option("DRAIN_TIMEOUT_MS", 0));
    if (getenv("HOST_NO_SIGNALS"))
        flip_config_set_signal(config, 0, FLIP_REQUEST_NONE);
    if (getenv("HOST_CONTROL_SOCKET") && flip_config_set_control_socket(config, getenv("HOST_CONTROL_SOCKET")) != 0)
        fprintf(stderr, "control socket: %s\n", flip_last_error());
    if (getenv("HOST_PID_FILE") && flip_config_set_pid_file(config, getenv("HOST_PID_FILE")) != 0)
        fprintf(stderr, "pid file: %s\n", flip_last_error());
    int rc = flip_init(config, &flip);
    flip_config_free(config);
    if (rc != 0) {
        fprintf(stderr, "flip_init: %d: %s\n", rc, flip_last_error());
        return 2;
    }
    say("init", "", 0);
    if (getenv("HOST_CONTROL"))
        start_control(getenv("HOST_CONTROL"));
    if (getenv("HOST_VERSION"))
        version = strdup(getenv("HOST_VERSION"));
    const char *address = getenv("HOST_ADDRESS");
    int listener = flip_listen(flip, address ? address : "tcp://127.0.0.1:0");
    if (listener < 0) {
        fprintf(stderr, "flip_listen: %d: %s\n", listener, flip_last_error());
        return 3;
    }
    report_address(listener);
    char *steps = getenv("HOST_BEFORE_READY");
    if (steps)
        before_ready(strdup(steps));
    rc = flip_ready(flip, -1);
    if (rc != 0)
        fprintf(stderr, "flip_ready: %d: %s\n", rc, flip_last_error());
    say("ready", "", rc);
    if (rc != 0)
        return 4;
    serve_on(listener);
    if (steps)
        after_ready(strdup(steps));
    do {
        rc = flip_wait_shutdown(flip, -1);
        say("shutdown", "", rc);
    } while (rc == -EINTR || rc == FLIP_SHUTDOWN_DETACH);
    rc = flip_drain(flip, -1);
    say("drain", "", rc);
    flip_free(flip);
    for (int ms = 0; ms < 2000 && answering > 0; ms++)
        sleep_ms(1);
    say("end", "", 0);
    return 0;
}
