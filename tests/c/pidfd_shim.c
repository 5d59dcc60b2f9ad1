/* Preloaded into a program under valgrind, which refuses pidfd_open(2) up to 3.19: whoever listens on the unix socket
 * PIDFD_SERVER opens the descriptor and sends it. For tests/alone_sanitizers.rs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static int ask(pid_t pid)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec data = { &pid, sizeof pid };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), got = -1;
    const char *path = getenv("PIDFD_SERVER");
    if (path)
        strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && send(fd, &pid, sizeof pid, MSG_NOSIGNAL) > 0 &&
        recvmsg(fd, &message, MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&message))
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof got);
    close(fd);
    if (got < 0)
        errno = ENOSYS;
    return got;
}

long syscall(long number, ...)
{
    static long (*next)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_pidfd_open)
        return ask((pid_t)a[0]);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
