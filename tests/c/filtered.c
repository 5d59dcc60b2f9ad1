/* A successor that gives up rights of its main thread between flip_init and flip_ready: argv[1] is `filter` (sendmsg kills the
 * process) or `capabilities` (it drops all). What the library does for flip_ready is its own threads' business. Generation 0
 * upgrades itself and prints `upgraded`, or why not. */
#define _GNU_SOURCE
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <shellflip.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int forbid_sendmsg(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendmsg, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) | prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
    return (int)syscall(SYS_capset, &header, none);
}

int main(int argc, char **argv)
{
    flip_t *flip;
    int filter = argc > 1 && strcmp(argv[1], "filter") == 0;

    if (argc < 3 || flip_init(NULL, &flip) < 0 || flip_listen(flip, argv[2]) < 0) {
        printf("%s\n", flip_last_error());
        return 1;
    }
    if (flip_generation(flip) > 0 && (filter ? forbid_sendmsg() : drop_capabilities()) != 0) {
        perror("giving up rights");
        return 1;
    }
    if (flip_ready(flip, -1) < 0)
        return 1;
    if (flip_generation(flip) == 0)
        printf("%s\n", flip_upgrade(flip, -1) > 0 ? "upgraded" : flip_last_error());
    flip_wait_predecessor(flip, -1);
    flip_free(flip);
    return 0;
}
