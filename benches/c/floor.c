/* What starting a process costs at least: posix_spawn, and one byte back over a pipe, descriptor 3. argv[1] is how
 * often; what follows is the program to start, without it this one. Prints microseconds, one line each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
    char *itself[] = { argv[0], "child", NULL }, **arguments = argc > 2 ? argv + 2 : itself;
    const char *program = argc > 2 ? argv[2] : "/proc/self/exe";
    if (argc > 1 && strcmp(argv[1], "child") == 0)
        return write(3, "", 1) != 1;
    for (int left = argc > 1 ? atoi(argv[1]) : 20; left > 0; left--) {
        int ends[2];
        char byte;
        pid_t pid;
        posix_spawn_file_actions_t actions;
        if (pipe2(ends, O_CLOEXEC) != 0)
            return 1;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, ends[1], 3);
        double began = now_us();
        if (posix_spawn(&pid, program, &actions, NULL, arguments, environ) != 0)
            return 1;
        close(ends[1]);
        if (read(ends[0], &byte, 1) != 1)
            return 1;
        printf("%.0f\n", now_us() - began);
        waitpid(pid, NULL, 0);
        posix_spawn_file_actions_destroy(&actions);
        close(ends[0]);
    }
    return 0;
}
