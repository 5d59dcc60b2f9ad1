/* Starts the program argv[1] argv[2] times, one after the other. Prints microseconds from the start until it has ended,
 * one line each. */
#define _GNU_SOURCE
#include "clock.h"
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    for (int left = atoi(argv[2]); left > 0; left--) {
        char *arguments[] = { argv[1], NULL };
        int status;
        pid_t pid;
        double began = now_us();
        if (posix_spawn(&pid, argv[1], NULL, NULL, arguments, environ) != 0 || waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
        printf("%.1f\n", now_us() - began);
    }
    return 0;
}
