/* A server with one listener that is ready, and then does nothing until its standard input ends; a second program is
 * made from this with -DWITHOUT, which has the listener but not the library. Prints "ready". */
#define _GNU_SOURCE
#include <unistd.h>

#ifdef WITHOUT
#include <netinet/in.h>
#include <sys/socket.h>

static int serve(void)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return bind(listener, (struct sockaddr *)&any, sizeof any) | listen(listener, SOMAXCONN);
}

#else
#include <shellflip.h>

static int serve(void)
{
    flip_t *flip;
    return flip_init(NULL, &flip) < 0 || flip_listen(flip, "tcp://127.0.0.1:0?name=bench") < 0 || flip_ready(flip, -1) < 0;
}
#endif

int main(void)
{
    char byte;
    if (serve() != 0 || write(STDOUT_FILENO, "ready\n", 6) != 6)
        return 1;
    return read(STDIN_FILENO, &byte, 1) != 0;
}
