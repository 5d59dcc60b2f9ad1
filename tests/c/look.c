/* The first look of a new program: what it has before anybody could have changed anything. Writes to the file LOOK_OUT:
 * `pid N`, a line `fd N TARGET FLAGS` for each descriptor, `status LINE` for the signals, `limit N`, `cwd PATH`,
 * `env NAME=VALUE`, `end`. Ends at once. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

int main(void)
{
    static char text[1 << 20], path[64], target[4096], line[512];
    size_t used = (size_t)sprintf(text, "pid %d\n", (int)getpid());
    for (int fd = 0; fd < 70000; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        used += (size_t)sprintf(text + used, "fd %d %s %d\n", fd, target, flags);
    }
    FILE *status = fopen("/proc/self/status", "re");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Sig", 3) || !strncmp(line, "Shd", 3))
            used += (size_t)sprintf(text + used, "status %s", line);
    if (status)
        fclose(status);
    used += (size_t)sprintf(text + used, "cwd %s\n", getcwd(target, sizeof target) ? target : "");
    for (char **entry = environ; *entry; entry++)
        used += (size_t)sprintf(text + used, "env %s\n", *entry);
    used += (size_t)sprintf(text + used, "end\n");
    const char *out = getenv("LOOK_OUT");
    int fd = out ? open(out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644) : -1;
    return fd < 0 || write(fd, text, used) != (ssize_t)used;
}
