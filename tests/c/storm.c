/* Every call that may race another one does so: threads that accept, count, drain, wait, ask for upgrades, read events and
 * answer, keep or drop them at random, while the handle is freed under them and made anew, round after round.
 *
 *   storm ROUNDS SEED
 *
 * It aborts on a result that the header does not give, on a descriptor or thread that a round leaves behind, and by
 * SIGALRM when it hangs. Its successors serve nobody: they exit, give up, or get ready and end. At the end one line says
 * what happened how often, so that a run in which nothing raced can be told. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <shellflip.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 12, KEPT = 4 };

static flip_t *flip;
static int listener, port;
static atomic_int freed;
static atomic_long upgrades, failed, accepted, events, answered, late, drained, canceled, kept_over;

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* The result of one call: success, or one of the failures that the header names for calls that race others. */
static int check(const char *call, int rc)
{
    static const int known[] = { EBADF,  ECANCELED, ETIMEDOUT, ETIME,        EINVAL,       EAGAIN,  EALREADY, ESHUTDOWN,
                                 EBUSY,  ECONNABORTED, ECONNREFUSED, ESTALE, ENOENT, EINTR, EDEADLK, EIO };
    if (rc == -ECANCELED)
        canceled++;
    if (rc >= 0)
        return rc;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (rc == -known[i] && *flip_last_error())
            return rc;
    fprintf(stderr, "%s: %d: %s\n", call, rc, flip_last_error());
    abort();
}

#define CHECK(call) check(#call, call)

static void answer(flip_event_t *event, unsigned *seed)
{
    int kind = flip_event_kind(event), rc;
    if (!*flip_event_text(event) && kind != FLIP_EVENT_SHUTDOWN)
        abort();
    if (kind == FLIP_EVENT_STATE) {
        int fd = flip_event_state_fd(event);
        for (unsigned n = next(seed) % 3; n > 0; n--)
            if (write(fd, "state", 5) != 5)
                break;
    }
    rc = CHECK(flip_event_answer(event, next(seed) % 8 == 0 ? -EPERM : 0, "at random"));
    if (rc == 0)
        answered++;
    if (rc == -ESTALE)
        late++;
}

static void *client(void *argument)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    (void)argument;
    while (!freed) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
            usleep(500);
        close(fd);
    }
    return NULL;
}

static void *storm(void *argument)
{
    /* Events of one round may be answered and given back in the next ones. */
    static _Thread_local unsigned seed;
    flip_event_t *kept[KEPT] = { NULL };
    seed = *(unsigned *)argument;
    int rc = 0;
    while (rc != -EBADF) {
        unsigned what = next(&seed) % 16, slot = next(&seed) % KEPT;
        if (what < 4) {
            rc = CHECK(flip_accept(flip, listener, (int)(next(&seed) % 3)));
            if (rc >= 0) {
                accepted++;
                close(rc);
                rc = CHECK(flip_conn_end(flip));
            }
        } else if (what == 4) {
            rc = CHECK(flip_conn_begin(flip));
            if (rc == 0)
                rc = CHECK(flip_conn_end(flip));
        } else if (what == 5) {
            rc = CHECK(flip_drain(flip, (int)(next(&seed) % 5)));
            if (rc == 0)
                drained++;
        } else if (what == 6) {
            rc = CHECK(flip_wait_shutdown(flip, (int)(next(&seed) % 3)));
        } else if (what == 7) {
            rc = CHECK(flip_upgrade(flip, next(&seed) % 4 == 0 ? 0 : -1));
            if (rc > 0)
                upgrades++;
            else if (rc == -ECONNABORTED || rc == -ECONNREFUSED)
                failed++;
        } else if (what == 8) {
            rc = CHECK(flip_set_env(flip, "STORM_NOISE", next(&seed) % 2 ? "1" : NULL));
        } else if (what == 9) {
            rc = CHECK(flip_add(flip, "noise", 0));
            if (rc == 0)
                rc = CHECK(flip_forget(flip, "noise"));
        } else if (what == 10) {
            rc = CHECK(flip_extend(flip, next(&seed) % 20 + 1));
        } else if (what == 11) {
            rc = CHECK(flip_conn_count(flip));
            rc = CHECK(flip_status(flip, NULL, 0));
            rc = CHECK(flip_successor_pid(flip));
        } else {
            flip_event_t *event = NULL;
            rc = CHECK(flip_next_event(flip, (int)(next(&seed) % 5), &event));
            if (rc == 0) {
                events++;
                if (next(&seed) % 4 != 0) {
                    answer(event, &seed);
                    flip_event_free(event);
                } else {
                    if (kept[slot])
                        flip_event_free(kept[slot]);
                    kept[slot] = event;
                }
            }
        }
    }
    /* The handle is gone; what is kept may be answered and given back all the same. */
    for (int slot = 0; slot < KEPT; slot++)
        if (kept[slot]) {
            kept_over++;
            if (slot % 2)
                answer(kept[slot], &seed);
            flip_event_free(kept[slot]);
        }
    return NULL;
}

static void *let_go(void *argument)
{
    (void)argument;
    flip_free(flip);
    return NULL;
}

static int entries(const char *folder)
{
    int n = 0;
    DIR *dir = opendir(folder);
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* The threads that are not on their way out: one that was joined may be listed a moment longer, but has PF_EXITING
 * (include/linux/sched.h) in the flags of its stat. */
static int threads(void)
{
    enum { EXITING = 4 };
    int n = 0;
    struct dirent *task;
    DIR *dir = opendir("/proc/self/task");
    while (dir && (task = readdir(dir))) {
        char path[300], stat[512] = "", *end;
        unsigned flags = EXITING;
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", task->d_name);
        FILE *file = *task->d_name == '.' ? NULL : fopen(path, "r");
        if (!file)
            continue;
        if (fgets(stat, sizeof stat, file) && (end = strrchr(stat, ')')))
            sscanf(end, ") %*c %*d %*d %*d %*d %*d %u", &flags);
        fclose(file);
        n += !(flags & EXITING);
    }
    if (dir)
        closedir(dir);
    return n;
}

static int start(unsigned *seed, int child)
{
    flip_config_t *config = flip_config_new();
    int rc;
    flip_config_set_signal(config, 0, FLIP_REQUEST_NONE);
    flip_config_set_events(config, child ? 0 : next(seed) % 4 == 0 ? next(seed) % 32 : 31);
    flip_config_set_probation(config, next(seed) % 3 == 0 ? next(seed) % 5 : 0);
    flip_config_set_drain_timeout(config, next(seed) % 40 + 1);
    flip_config_set_upgrade_timeout(config, next(seed) % 10 == 0 ? 5 : 20000);
    rc = flip_init(config, &flip);
    flip_config_free(config);
    if (rc < 0 || (listener = flip_listen(flip, "tcp://127.0.0.1:0?name=storm")) < 0)
        return -1;
    return 0;
}

static int successor(unsigned seed)
{
    unsigned fate = next(&seed) % 6;
    if (fate == 0)
        return 3;
    if (start(&seed, 1) < 0)
        return 4;
    if (fate > 1)
        flip_ready(flip, -1);
    flip_free(flip);
    return 0;
}

static void one_round(unsigned *seed)
{
    pthread_t threads[THREADS], others[3];
    unsigned seeds[THREADS];
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    freed = 0;
    if (start(seed, 0) < 0 || flip_set_env(flip, "STORM_CHILD", "1") < 0 || flip_ready(flip, -1) < 0) {
        fprintf(stderr, "start: %s\n", flip_last_error());
        abort();
    }
    getsockname(listener, (struct sockaddr *)&at, &size);
    port = ntohs(at.sin_port);
    for (int i = 0; i < THREADS; i++) {
        seeds[i] = next(seed);
        pthread_create(&threads[i], NULL, storm, &seeds[i]);
    }
    pthread_create(&others[0], NULL, client, NULL);
    usleep(next(seed) % 40000);
    if (next(seed) % 2) {
        CHECK(flip_request(flip, FLIP_REQUEST_STOP));
        usleep(next(seed) % 5000);
    }
    /* Freed by two at once: the second one finds nothing to free. */
    for (int i = 1; i < 3; i++)
        pthread_create(&others[i], NULL, let_go, NULL);
    for (int i = 1; i < 3; i++)
        pthread_join(others[i], NULL);
    freed = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(others[0], NULL);
    close(listener);
}

int main(int argc, char **argv)
{
    unsigned seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 1;
    int rounds = argc > 1 ? atoi(argv[1]) : 10, before = 0;
    if (getenv("STORM_CHILD"))
        return successor((unsigned)getpid() * 2654435761u);
    alarm(getenv("STORM_LIMIT_S") ? (unsigned)atoi(getenv("STORM_LIMIT_S")) : 120);
    for (int i = 0; i < rounds; i++) {
        one_round(&seed);
        int holds = entries("/proc/self/fd");
        if (i > 0 && holds != before) {
            fprintf(stderr, "round %d: %d descriptors, %d before\n", i, holds, before);
            abort();
        }
        before = holds;
        if (threads() != 1) {
            fprintf(stderr, "round %d left a thread\n", i);
            abort();
        }
    }
    printf("rounds %d upgrades %ld failed %ld accepted %ld events %ld answered %ld late %ld drained %ld canceled %ld "
           "kept %ld\n",
           rounds, upgrades, failed, accepted, events, answered, late, drained, canceled, kept_over);
    return 0;
}
