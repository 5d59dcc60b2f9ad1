/* Threads that are cancelled while they wait in the library, for tests/interface.rs: each call returns as if nothing
 * had happened, and the thread ends at its next cancellation point. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <shellflip.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static flip_t *flip;
static int listener;
static pthread_barrier_t all_there;

static void expect(int holds, const char *what)
{
    if (!holds) {
        printf("WRONG %s (%s)\n", what, flip_last_error());
        fflush(stdout);
        _exit(1);
    }
}

static void *accepts(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&all_there);
    expect(flip_accept(flip, listener, -1) == -ECANCELED, "flip_accept ends with shutdown");
    pthread_testcancel();
    return NULL;
}

static void *waits(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&all_there);
    expect(flip_wait_shutdown(flip, -1) == FLIP_SHUTDOWN_STOP, "flip_wait_shutdown ends with shutdown");
    pthread_testcancel();
    return NULL;
}

static void *reads_events(void *unused)
{
    flip_event_t *event;
    (void)unused;
    pthread_barrier_wait(&all_there);
    expect(flip_next_event(flip, -1, &event) >= 0, "flip_next_event ends with an event");
    flip_event_free(event);
    pthread_testcancel();
    return NULL;
}

/* Cancelled while it is in and out of the library all the time. */
static void *is_busy(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&all_there);
    while (flip_generation(flip) == 0) {
        expect(flip_status(flip, NULL, 0) > 0, "flip_status");
        pthread_testcancel();
    }
    return NULL;
}

static atomic_bool started, cancelled;

static void until_cancelled(void)
{
    started = 1;
    while (!cancelled)
        ;
}

/* A thread that was cancelled, and comes to no cancellation point, runs the library's signal handler... */
static void *is_signalled(void *unused)
{
    until_cancelled();
    pthread_kill(pthread_self(), SIGTERM);
    pthread_testcancel();
    return unused;
}

/* ... asks for something... */
static void *requests(void *unused)
{
    until_cancelled();
    expect(flip_request(flip, FLIP_REQUEST_STOP) == 0, "a stop");
    pthread_testcancel();
    return unused;
}

/* ... or forks. */
static void *forks(void *unused)
{
    int status, old;
    until_cancelled();
    pid_t child = fork();
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    if (child == 0)
        _exit(flip_generation(flip) == 0 ? 7 : 8);
    expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child");
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
    pthread_testcancel();
    return unused;
}

static void cancel_beforehand(void *(*body)(void *))
{
    pthread_t thread;
    void *result;
    started = cancelled = 0;
    pthread_create(&thread, NULL, body, NULL);
    while (!started)
        ;
    pthread_cancel(thread);
    cancelled = 1;
    pthread_join(thread, &result);
    expect(result == PTHREAD_CANCELED, "the thread was cancelled");
}

int main(void)
{
    void *(*bodies[])(void *) = { accepts, waits, reads_events, is_busy };
    enum { COUNT = sizeof bodies / sizeof *bodies };
    pthread_t threads[COUNT];
    flip_config_t *config = flip_config_new();
    expect(flip_config_set_events(config, FLIP_EVENT_SHUTDOWN) == 0, "the configuration");
    expect(flip_init(config, &flip) == 0, "flip_init");
    flip_config_free(config);
    listener = flip_listen(flip, "tcp://127.0.0.1:0");
    expect(listener >= 0 && flip_ready(flip, -1) == 0, "a server");
    pthread_barrier_init(&all_there, NULL, COUNT + 1);
    for (int i = 0; i < COUNT; i++)
        pthread_create(&threads[i], NULL, bodies[i], NULL);
    pthread_barrier_wait(&all_there);
    for (int i = 0; i < COUNT; i++)
        pthread_cancel(threads[i]);
    expect(flip_status(flip, NULL, 0) > 0, "the others go on");
    cancel_beforehand(forks);
    cancel_beforehand(is_signalled);
    expect(flip_wait_shutdown(flip, 10000) == FLIP_SHUTDOWN_STOP, "the signal is noticed");
    cancel_beforehand(requests);
    for (int i = 0; i < COUNT; i++) {
        void *result;
        pthread_join(threads[i], &result);
        expect(result == PTHREAD_CANCELED, "the thread was cancelled");
    }
    expect(flip_drain(flip, -1) == 0, "flip_drain");
    flip_free(flip);
    puts("cancelled");
    return 0;
}
