/* Asks about itself and others, for tests/control/c_interface.rs.
 *
 *   asks own ADDRESS                          a server that prints its status, as `status JSON`, in each state
 *   asks control ADDRESS REQUEST TIMEOUT      flip_control: `control RC FAILURE ERROR`
 *   asks status ADDRESS TIMEOUT SIZE          flip_control_status: `status RC TEXT` */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <shellflip.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static flip_t *flip;

static void expect(int holds, const char *what)
{
    if (!holds) {
        printf("WRONG %s (%s)\n", what, flip_last_error());
        fflush(stdout);
        _exit(1);
    }
}

static void *print_status(void *unused)
{
    char *text;
    (void)unused;
    int length = flip_status(flip, NULL, 0);
    expect(length > 100, "the size that is needed");
    /* It may have grown by digits meanwhile. */
    size_t size = (size_t)length + 100;
    text = malloc(size);
    int again = flip_status(flip, text, size);
    expect(again > 0 && (size_t)again < size && strlen(text) == (size_t)again, "a whole status");
    printf("status %s\n", text);
    free(text);
    return NULL;
}

static void own(const char *address)
{
    flip_config_t *config = flip_config_new();
    pthread_t threads[4];
    char cut[8] = "ABCDEFG";
    expect(flip_config_set_control_socket(config, address) == 0, "an address");
    expect(flip_init(config, &flip) == 0, "flip_init");
    flip_config_free(config);
    print_status(NULL);
    expect(flip_control(address, FLIP_REQUEST_UPGRADE, 10000) == -EAGAIN, "not ready");
    expect(flip_last_failure() == FLIP_FAILURE_NOT_READY, "the kind");
    expect(flip_control("unix:///not/there", FLIP_REQUEST_UPGRADE, 10000) == -ENOENT, "nobody there");
    expect(flip_last_failure() == FLIP_FAILURE_NONE, "no failure of an upgrade, and none that is left from before");
    expect(flip_ready(flip, -1) == 0, "flip_ready");
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, print_status, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    expect(flip_status(flip, cut, 4) > 100 && !strncmp(cut, "{\"", 2), "a cut status");
    expect(cut[3] == 0 && cut[4] == 'E', "no more than that");
    pid_t child = fork();
    if (child == 0)
        _exit(flip_status(flip, cut, sizeof cut) == -ECHILD ? 0 : 1);
    int status;
    expect(waitpid(child, &status, 0) == child && status == 0, "-ECHILD in a child");
    expect(flip_control(address, FLIP_REQUEST_DETACH, 10000) == 0, "a detach");
    expect(flip_wait_shutdown(flip, 10000) == FLIP_SHUTDOWN_DETACH, "told so");
    print_status(NULL);
    expect(flip_request(flip, FLIP_REQUEST_STOP) == 0, "a request");
    expect(flip_wait_shutdown(flip, 10000) == FLIP_SHUTDOWN_STOP, "a stop");
    print_status(NULL);
    flip_free(flip);
    expect(flip_status(flip, cut, sizeof cut) == -EBADF, "freed");
}

int main(int count, char **arguments)
{
    if (count == 3 && !strcmp(arguments[1], "own")) {
        own(arguments[2]);
    } else if (count == 5 && !strcmp(arguments[1], "control")) {
        int rc = flip_control(arguments[2], atoi(arguments[3]), atoi(arguments[4]));
        printf("control %d %d %s\n", rc, flip_last_failure(), flip_last_error());
    } else if (count == 5 && !strcmp(arguments[1], "status")) {
        size_t size = (size_t)atol(arguments[4]);
        char *text = calloc(size + 1, 1);
        int rc = flip_control_status(arguments[2], atoi(arguments[3]), text, size);
        printf("status %d %s\n", rc, text);
        free(text);
    } else {
        return 2;
    }
    return 0;
}
