/* Calls flip_init, flip_listen and flip_ready, of which one may meet a system call that fails (SHELLFLIP_FAULT), and looks
 * at what a failed call leaves behind: nothing. Then everything works. Lines: `failed CALL ERRNO TEXT`, `passed`;
 * `WRONG …` and status 1 for what must not be. argv[1] is the address. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shellflip.h"

extern char **environ;

/* What there is, as text: descriptors, threads, signal handlers, the environment. */
struct picture {
    char text[16384];
};

static size_t list(const char *folder, char *out)
{
    size_t used = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir))
            used += (size_t)sprintf(out + used, "%s ", entry->d_name);
    if (dir)
        closedir(dir);
    return used;
}

static void look(struct picture *picture)
{
    char *text = picture->text;
    size_t used = (size_t)sprintf(text, "descriptors ");
    used += list("/proc/self/fd", text + used);
    used += (size_t)sprintf(text + used, "\nsignals ");
    for (int signal = 1; signal < 65; signal++) {
        struct sigaction action;
        if (sigaction(signal, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
            used += (size_t)sprintf(text + used, "%d ", signal);
    }
    used += (size_t)sprintf(text + used, "\nenvironment ");
    for (char **entry = environ; *entry; entry++)
        used += (size_t)snprintf(text + used, 200, "%.190s\n", *entry);
    used += (size_t)sprintf(text + used, "threads ");
    list("/proc/self/task", text + used);
}

/* How many there are, at the end of a picture. */
static int threads(const struct picture *picture)
{
    int count = 0;
    const char *at = strstr(picture->text, "\nthreads ");
    while (at && (at = strchr(at + 1, ' ')))
        count++;
    return count;
}

/* A thread that was joined may be listed a moment longer. `more`: threads that may have come. */
static void expect_same(const struct picture *before, const char *call, int more)
{
    static struct picture after;
    size_t same = more ? (size_t)(strstr(before->text, "\nthreads ") - before->text) : sizeof before->text;
    for (int i = 0; i < 2000; i++, usleep(1000)) {
        look(&after);
        if (!strncmp(before->text, after.text, same) && threads(&after) <= threads(before) + more)
            return;
    }
    printf("WRONG after %s, before:\n%s\nafter:\n%s\n", call, before->text, after.text);
    exit(1);
}

static int failures;

static void failed(const char *call, int rc, const struct picture *before)
{
    printf("failed %s %d %s\n", call, -rc, flip_last_error());
    if (++failures > 1) {
        printf("WRONG: %s failed too\n", call);
        exit(1);
    }
    /* Where its wait alone fails the process is ready all the same, and the library starts its second thread. */
    expect_same(before, call, !strcmp(call, "flip_ready"));
}

int main(int argc, char **argv)
{
    static struct picture start, before;
    const char *address = argc > 1 ? argv[1] : "tcp://127.0.0.1:0";
    flip_t *flip = NULL;
    int rc, listener;
    look(&start);
    while ((rc = flip_init(NULL, &flip)) != 0) {
        if (flip) {
            printf("WRONG: an output on failure\n");
            return 1;
        }
        failed("flip_init", rc, &start);
    }
    look(&before);
    while ((listener = flip_listen(flip, address)) < 0)
        failed("flip_listen", listener, &before);
    look(&before);
    while ((rc = flip_ready(flip, 5000)) != 0)
        failed("flip_ready", rc, &before);
    close(listener);
    flip_free(flip);
    if (strncmp(address, "unix://", 7) == 0 && access(address + 7, F_OK) == 0) {
        printf("WRONG: the path is left\n");
        return 1;
    }
    if (getenv("SHELLFLIP_CHANNEL")) {
        printf("WRONG: a variable is left\n");
        return 1;
    }
    /* But for the variable, as at the start. */
    char *middle = strstr(start.text, "\nenvironment");
    if (middle)
        *middle = 0;
    for (int i = 0; i < 2000; i++, usleep(1000)) {
        look(&before);
        if ((middle = strstr(before.text, "\nenvironment")))
            *middle = 0;
        if (!strcmp(start.text, before.text)) {
            printf("passed\n");
            return 0;
        }
    }
    printf("WRONG at the end, before:\n%s\nafter:\n%s\n", start.text, before.text);
    return 1;
}
