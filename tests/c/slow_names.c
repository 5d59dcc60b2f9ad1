/* Preloaded: a name service that takes its time. It answers once the file SLOW_NAMES exists, and then every name is that of
 * whoever runs this; SLOW_NAMES.asked exists from the first question on. For tests/surroundings.rs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t size, struct passwd **result)
{
    const char *answer = getenv("SLOW_NAMES");
    char asked[512];
    (void)buffer;
    (void)size;
    if (answer) {
        snprintf(asked, sizeof asked, "%s.asked", answer);
        close(open(asked, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        while (access(answer, F_OK) != 0)
            nanosleep(&(struct timespec) { 0, 1000000 }, NULL);
    }
    memset(entry, 0, sizeof *entry);
    entry->pw_name = (char *)name;
    entry->pw_uid = getuid();
    entry->pw_gid = getgid();
    *result = entry;
    return 0;
}
