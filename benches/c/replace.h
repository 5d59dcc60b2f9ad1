/* Three ways for a process to start a small program, each timed from the request until the program has answered, and
 * the memory that the process has meanwhile. The program is this one again. */
#ifndef BENCH_REPLACE_H
#define BENCH_REPLACE_H

#include "clock.h"
#include <fcntl.h>
#include <shellflip.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_FD 3
#define PAGE 4096

extern char **environ;

static inline void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, *flip_last_error() != '\0' ? flip_last_error() : "failed");
    exit(1);
}

/* Touched, and in small pages: huge ones would make the page tables 512 times smaller. */
static inline char *resident(size_t bytes)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    if (madvise(memory, bytes, MADV_NOHUGEPAGE) != 0)
        fail("madvise");
    for (size_t at = 0; at < bytes; at += PAGE)
        memory[at] = 1;
    return memory;
}

/* For the program that `by_fork` and `by_spawn` start; returns in any other. */
static inline void answer_if_child(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0)
        exit(write(ANSWER_FD, "", 1) != 1);
}

/* For the program that `by_upgrade` starts; returns in any other. */
static inline void serve_if_successor(void)
{
    flip_t *flip;
    char *channel = getenv("SHELLFLIP_CHANNEL");
    if (channel == NULL || atoi(channel) != (int)getpid())
        return;
    if (flip_init(NULL, &flip) < 0 || flip_listen(flip, "tcp://127.0.0.1:0?name=bench") < 0 || flip_ready(flip, -1) < 0)
        fail("successor");
    /* The predecessor says when: an end before it has released us would fail the upgrade. */
    flip_wait_shutdown(flip, 60000);
    flip_free(flip);
    exit(0);
}

static inline double answered(int from, double began)
{
    char byte;
    if (read(from, &byte, 1) != 1)
        fail("no answer");
    return now_us() - began;
}

static inline double by_fork(void)
{
    int ends[2], status;
    char *arguments[] = { "bench", "child", NULL };
    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("pipe2");
    double began = now_us();
    pid_t pid = fork();
    if (pid == 0) {
        if (ends[1] == ANSWER_FD)
            fcntl(ANSWER_FD, F_SETFD, 0);
        else
            dup2(ends[1], ANSWER_FD);
        execve("/proc/self/exe", arguments, environ);
        _exit(1);
    }
    close(ends[1]);
    double took = answered(ends[0], began);
    close(ends[0]);
    waitpid(pid, &status, 0);
    return took;
}

static inline double by_spawn(void)
{
    int ends[2], status;
    char *arguments[] = { "bench", "child", NULL };
    pid_t pid;
    posix_spawn_file_actions_t actions;
    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("pipe2");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], ANSWER_FD);
    double began = now_us();
    if (posix_spawn(&pid, "/proc/self/exe", &actions, NULL, arguments, environ) != 0)
        fail("posix_spawn");
    close(ends[1]);
    double took = answered(ends[0], began);
    close(ends[0]);
    posix_spawn_file_actions_destroy(&actions);
    waitpid(pid, &status, 0);
    return took;
}

static inline flip_t *serving(void)
{
    flip_t *flip;
    if (flip_init(NULL, &flip) < 0 || flip_listen(flip, "tcp://127.0.0.1:0?name=bench") < 0 || flip_ready(flip, -1) < 0)
        fail("server");
    return flip;
}

static inline double by_upgrade(flip_t *flip)
{
    double began = now_us();
    if (flip_upgrade(flip, -1) < 0)
        fail("upgrade");
    return now_us() - began;
}

/* The process stays, and with it the memory: it is filled once, not once for every upgrade. The next `serving` begins
 * afresh, as generation 0. */
static inline void handed_over(flip_t *flip)
{
    int status, successor = flip_successor_pid(flip);
    flip_free(flip);
    if (successor < 0 || kill(successor, SIGTERM) != 0 || waitpid(successor, &status, 0) < 0 || status != 0)
        fail("the successor did not end as it should");
}

#endif
