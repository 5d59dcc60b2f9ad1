/* A new program that does not keep to the protocol: sends garbage over the channel and waits to be ended. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
    const char *channel = getenv("SHELLFLIP_CHANNEL");
    int pid, fd;
    if (!channel || sscanf(channel, "%d:%d:", &pid, &fd) != 2)
        return 2;
    if (send(fd, "garbage", 7, MSG_NOSIGNAL) != 7)
        return 3;
    for (;;)
        pause();
}
