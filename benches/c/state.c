/* argv[1] MiB of state from one process to the next, argv[2] times in each of three ways, in turns. Prints the way and
 * microseconds, one line each:
 *
 *   memfd   writing it into a memfd, which is what the host does itself
 *   stream  writing it into one end of a socket pair, until a forked process has read it from the other into memory
 *   whole   an upgrade, from the host's first write until the successor has mapped the state and seen both ends of it
 *   beyond  of that, from the host's answer on */
#define _GNU_SOURCE
#include "replace.h"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define CHUNK (1 << 20)
#define FIRST 'a'
#define LAST 'z'

static char chunk[CHUNK];
static size_t size;
static double began, answered_at;

/* All of the state, in one way for all; 0 or -1. */
static int write_state(int fd)
{
    for (size_t written = 0; written < size;) {
        chunk[0] = written == 0 ? FIRST : 'm';
        chunk[CHUNK - 1] = written + CHUNK == size ? LAST : 'm';
        for (size_t at = 0; at < CHUNK;) {
            ssize_t more = write(fd, chunk + at, CHUNK - at);
            if (more <= 0)
                return -1;
            at += (size_t)more;
        }
        written += CHUNK;
    }
    return 0;
}

static double into_memfd(void)
{
    int fd = memfd_create("bench", MFD_CLOEXEC);
    double start = now_us();
    if (fd < 0 || write_state(fd) != 0)
        fail("memfd");
    double took = now_us() - start;
    close(fd);
    return took;
}

static double over_a_stream(void)
{
    int ends[2], status;
    double start, end;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        fail("socketpair");
    pid_t pid = fork();
    if (pid == 0) {
        size_t got = 0;
        ssize_t more = 1;
        char *memory = malloc(size);
        close(ends[0]);
        while (memory != NULL && got < size && more > 0) {
            more = read(ends[1], memory + got, size - got < CHUNK ? size - got : CHUNK);
            got += more > 0 ? (size_t)more : 0;
        }
        if (got < size || memory[0] != FIRST || memory[size - 1] != LAST)
            _exit(1);
        end = now_us();
        _exit(write(ends[1], &end, sizeof end) != sizeof end);
    }
    close(ends[1]);
    start = now_us();
    if (pid < 0 || write_state(ends[0]) != 0 || read(ends[0], &end, sizeof end) != sizeof end)
        fail("stream");
    close(ends[0]);
    waitpid(pid, &status, 0);
    return end - start;
}

static void *answer_questions(void *of)
{
    flip_event_t *event;
    while (flip_next_event(of, -1, &event) == 0) {
        if (flip_event_kind(event) == FLIP_EVENT_STATE) {
            began = now_us();
            int status = write_state(flip_event_state_fd(event));
            answered_at = now_us();
            flip_event_answer(event, status, NULL);
        }
        flip_event_free(event);
    }
    return NULL;
}

/* The successor says on its standard output, a pipe, when it could use the state. */
static void successor(flip_t *flip)
{
    int fd = flip_take_state(flip, -1);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0)
        fail("flip_take_state");
    const char *state = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (state == MAP_FAILED || state[0] != FIRST || state[status.st_size - 1] != LAST)
        fail("the state is not what was written");
    double usable = now_us();
    if (flip_ready(flip, -1) < 0)
        fail("flip_ready");
    flip_wait_shutdown(flip, 60000);
    flip_free(flip);
    exit(write(STDOUT_FILENO, &usable, sizeof usable) != sizeof usable);
}

static flip_t *initialised(void)
{
    flip_t *flip;
    flip_config_t *config = flip_config_new();
    if (flip_config_set_events(config, FLIP_EVENT_STATE) < 0 || flip_init(config, &flip) < 0)
        fail("flip_init");
    flip_config_free(config);
    return flip;
}

/* The library's standard output is what this process has at flip_init; it is put back right after. */
static void by_upgrade_with_state(void)
{
    int ends[2], standard;
    double usable;
    pthread_t answerer;
    if (pipe2(ends, O_CLOEXEC) != 0 || (standard = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 10)) < 0 ||
        dup2(ends[1], STDOUT_FILENO) < 0)
        fail("pipe");
    flip_t *flip = initialised();
    dup2(standard, STDOUT_FILENO);
    close(standard);
    close(ends[1]);
    if (flip_ready(flip, -1) < 0 || pthread_create(&answerer, NULL, answer_questions, flip) != 0)
        fail("server");
    if (flip_upgrade(flip, -1) < 0)
        fail("upgrade");
    handed_over(flip);
    pthread_join(answerer, NULL);
    if (read(ends[0], &usable, sizeof usable) != sizeof usable)
        fail("the successor says nothing");
    close(ends[0]);
    printf("whole %.1f\nbeyond %.1f\n", usable - began, usable - answered_at);
}

int main(int argc, char **argv)
{
    size = (size_t)(argc > 1 ? atoll(argv[1]) : 256) << 20;
    char *channel = getenv("SHELLFLIP_CHANNEL");
    if (channel != NULL && atoi(channel) == (int)getpid())
        successor(initialised());
    memset(chunk, 'm', sizeof chunk);
    for (int left = argc > 2 ? atoi(argv[2]) : 1; left > 0; left--) {
        printf("memfd %.1f\n", into_memfd());
        printf("stream %.1f\n", over_a_stream());
        fflush(stdout);
        by_upgrade_with_state();
        fflush(stdout);
    }
    return 0;
}
