/* Connections are counted where the kernel refuses membarrier(2): argv[1] is `never` (before the library is loaded: no
 * thread has numbers to itself) or `later` (from the first connection on: an end could be missed by the start of a drain). A drain that begins
 * with one open connection is over when another thread ends it. Prints `drained`. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <shellflip.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static flip_t *flip;

static void must(const char *what, int result)
{
    if (result >= 0)
        return;
    printf("%s: %d (%s)\n", what, result, flip_last_error());
    fflush(stdout);
    _exit(1);
}

/* In every thread. */
static void forbid_membarrier(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    must("no_new_privs", -prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    must("seccomp", -(int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
    must("forbidden", syscall(SYS_membarrier, 0, 0, 0) < 0 ? 0 : -1);
}

static void *serve(void *unused)
{
    for (int times = 0; times < 1000; times++) {
        must("begin", flip_conn_begin(flip));
        must("end", flip_conn_end(flip));
    }
    must("shutdown", flip_wait_shutdown(flip, -1));
    must("end of the last one", flip_conn_end(flip));
    return unused;
}

int main(int argc, char **argv)
{
    int later = argc > 1 && strcmp(argv[1], "later") == 0;
    pthread_t thread;

    if (!later && argc < 3) {
        forbid_membarrier();
        must("once more", execl("/proc/self/exe", argv[0], "never", "forbidden", (char *)NULL));
    }
    must("init", flip_init(NULL, &flip));
    must("ready", flip_ready(flip, -1));
    must("begin of the last one", flip_conn_begin(flip));
    if (later)
        forbid_membarrier();
    must("thread", -pthread_create(&thread, NULL, serve, NULL));
    must("request", flip_request(flip, FLIP_REQUEST_STOP));
    must("shutdown", flip_wait_shutdown(flip, -1));
    must("drain", flip_drain(flip, 10000));
    must("join", -pthread_join(thread, NULL));
    must("none", -flip_conn_count(flip));
    flip_free(flip);
    puts("drained");
    return 0;
}
