/* The host's own handlers of SIGTERM and the library's. argv[1] says which. For tests/requests.rs.
 *
 *   below    the host's came first and blocks SIGUSR2 while it runs: `blocked 1` if that holds below the library's too
 *   late     the host's is on top when the library goes, and puts the library's back: SIGTERM is the default again
 *   again    the same as late, and then once more all of it
 *   chained  the same as late, but it stays and calls the library's: `alive`
 *   between  one of the host's below, one on top that stays, and the library over both from then on, three times: who was
 *            asked and called
 *   cloned   a child of clone(2), in which no fork handler has run: the signal that has ended it */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shellflip.h"

static volatile sig_atomic_t blocked = -1;
static struct sigaction before;

static void below(int number)
{
    sigset_t now;
    (void)number;
    sigprocmask(SIG_BLOCK, NULL, &now);
    blocked = sigismember(&now, SIGUSR2);
}

static volatile sig_atomic_t below_calls, on_top_calls;

static void counts(int number)
{
    (void)number;
    below_calls++;
}

static void on_top(int number, siginfo_t *info, void *context)
{
    on_top_calls++;
    before.sa_sigaction(number, info, context);
}

/* After the first time the library's handler is over the one on top, and below it. */
static int between(void)
{
    struct sigaction action = { 0 };
    flip_t *flip;
    sigemptyset(&action.sa_mask);
    action.sa_handler = counts;
    sigaction(SIGTERM, &action, NULL);
    for (int times = 0; times < 3; times++) {
        if (flip_init(NULL, &flip) != 0 || flip_ready(flip, -1) != 0)
            return 1;
        if (times == 0) {
            action.sa_sigaction = on_top;
            action.sa_flags = SA_SIGINFO;
            sigaction(SIGTERM, &action, &before);
        }
        raise(SIGTERM);
        printf("%d %d %d\n", flip_wait_shutdown(flip, 20000) == FLIP_SHUTDOWN_STOP, (int)on_top_calls, (int)below_calls);
        flip_free(flip);
        raise(SIGTERM);
        printf("- %d %d\n", (int)on_top_calls, (int)below_calls);
    }
    return 0;
}

static int cloned(void)
{
    flip_t *flip;
    int status;
    if (flip_init(NULL, &flip) != 0 || flip_ready(flip, -1) != 0)
        return 1;
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        for (;;)
            pause();
    kill(pid, SIGTERM);
    waitpid(pid, &status, 0);
    printf("%d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    return 0;
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "";
    struct sigaction action = { 0 };
    flip_t *flip;
    if (!strcmp(which, "between"))
        return between();
    if (!strcmp(which, "cloned"))
        return cloned();
    sigemptyset(&action.sa_mask);
    if (!strcmp(which, "below")) {
        action.sa_handler = below;
        sigaddset(&action.sa_mask, SIGUSR2);
        sigaction(SIGTERM, &action, NULL);
    }
    if (flip_init(NULL, &flip) != 0 || flip_ready(flip, -1) != 0) {
        fprintf(stderr, "%s\n", flip_last_error());
        return 1;
    }
    if (strcmp(which, "below")) {
        action.sa_sigaction = on_top;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGTERM, &action, &before);
        flip_free(flip);
        if (strcmp(which, "chained"))
            sigaction(SIGTERM, &before, NULL);
    }
    if (!strcmp(which, "again")) {
        if (flip_init(NULL, &flip) != 0 || flip_ready(flip, -1) != 0)
            return 1;
        flip_free(flip);
    }
    raise(SIGTERM);
    if (blocked >= 0)
        printf("blocked %d\n", (int)blocked);
    printf("alive\n");
    return 0;
}
