/* libshellflip: a running server replaces itself with a new program without refusing or breaking one connection.
 *
 * Conventions
 *
 * Functions that return int: 0 or more is success, -errno failure. `flip_last_error()` has one line of detail for the
 * calling thread. Outputs are written on success only. NULL where nothing else is said is -EINVAL. A descriptor that is
 * returned is the caller's to close, CLOEXEC and 3 or more, unless the function's name ends in _fd: that one is borrowed.
 * `timeout_ms`: -1 for no limit of the caller's own, 0 to not wait; -ETIMEDOUT always and only means that it passed, and
 * what was waited for goes on. -ETIME is a configured deadline. -EINTR: a signal handler ran, call again.
 *
 * Threads: every function may be called from any thread at any time, against `flip_free` too; flip_config_* from
 * one thread at a time. Only `flip_request` is async-signal-safe. No function is a cancellation point: pthread_cancel
 * waits until it has returned. Cancel no thread that has asynchronous cancellation on.
 *
 * Forked children: `flip_accept`, `flip_shutdown_fd`, `flip_wait_shutdown`, `flip_conn_*`, `flip_drain`,
 * `flip_generation` and `flip_free` work, on the child's own count; all else that takes the handle is -ECHILD, and
 * `flip_init` too. Fork after `flip_ready`. The child has its signals as they were before `flip_init`: what stops the
 * whole process group or unit ends it at once, unless it ignores that signal; it hears of shutdown by the library. It
 * holds copies of all listeners until `flip_accept`, `flip_wait_shutdown` or `flip_drain` has told it of shutdown: a child
 * that serves nobody calls `flip_free` first, or executes its program, else clients may wait in a listener that nobody
 * accepts from.
 *
 * Signals: the library's threads block all of them; it raises no SIGPIPE, never touches SIGCHLD, and waits for no child
 * but the successor it started, until it has handed over to it.
 *
 * Log: nothing is written, unless SHELLFLIP_LOG is `error`, `info` or `debug` when `flip_init` is called: then lines on
 * descriptor 2, where somebody reads them: the library does not wait for a full pipe, and says later how many were lost.
 * FLIP_EVENT_LOG gives the host the first two of them, whatever the variable says.
 */


#ifndef SHELLFLIP_H
#define SHELLFLIP_H

/* Generated from src/ffi by cbindgen: `make header`. Do not edit. */

#include <stddef.h>
#include <stdint.h>

/*
 `flip_request`, `flip_config_set_signal`: nothing; a signal that is left alone.
 */
#define FLIP_REQUEST_NONE 0

/*
 Replace this process by a new one.
 */
#define FLIP_REQUEST_UPGRADE 1

/*
 Finish and exit.
 */
#define FLIP_REQUEST_STOP 2

/*
 Leave the service but go on: no more upgrades, no listener's path is unlinked, nobody is told.
 */
#define FLIP_REQUEST_DETACH 3

/*
 `flip_wait_shutdown`: the successor serves; finish the open connections and exit.
 */
#define FLIP_SHUTDOWN_UPGRADE 1

/*
 The service ends; finish the open connections and exit.
 */
#define FLIP_SHUTDOWN_STOP 2

/*
 This process is on its own from now on and goes on serving; returned once.
 */
#define FLIP_SHUTDOWN_DETACH 3

/*
 An upgrade is about to start, and waits for `flip_event_answer`: the host may refuse.
 */
#define FLIP_EVENT_STARTING 1

/*
 The state for the new process is to be written to `flip_event_state_fd`; the upgrade waits for
 `flip_event_answer`.
 */
#define FLIP_EVENT_STATE 2

/*
 An upgrade has failed: `flip_event_failure`, `flip_event_text`. This process serves on.
 */
#define FLIP_EVENT_FAILED 4

/*
 Shutdown has fired.
 */
#define FLIP_EVENT_SHUTDOWN 8

/*
 A line for the log. The newest are kept; a line says how many events were dropped before it.
 */
#define FLIP_EVENT_LOG 16

/*
 `flip_last_failure`: no upgrade asked for by this thread has failed.
 */
#define FLIP_FAILURE_NONE 0

/*
 The new program could not be started (the errno of what failed, or -ENOEXEC).
 */
#define FLIP_FAILURE_SPAWN 1

/*
 It exited too early (-ECONNABORTED).
 */
#define FLIP_FAILURE_EXITED 2

/*
 It was ended by a signal too early (-ECONNABORTED).
 */
#define FLIP_FAILURE_SIGNALLED 3

/*
 It was not ready by the upgrade deadline (-ETIME).
 */
#define FLIP_FAILURE_DEADLINE 4

/*
 A host refused, or the new one gave up (-ECONNREFUSED).
 */
#define FLIP_FAILURE_REFUSED 5

/*
 The state could not be handed over (-EIO).
 */
#define FLIP_FAILURE_STATE 6

/*
 The other side broke the protocol (-EPROTO).
 */
#define FLIP_FAILURE_PROTOCOL 7

/*
 This process is not ready itself yet (-EAGAIN).
 */
#define FLIP_FAILURE_NOT_READY 8

/*
 Another upgrade is under way (-EALREADY).
 */
#define FLIP_FAILURE_IN_PROGRESS 9

/*
 Too many older generations still drain (-EBUSY).
 */
#define FLIP_FAILURE_DRAINING 10

/*
 This process is stopping, or detached (-ESHUTDOWN).
 */
#define FLIP_FAILURE_STOPPING 11

/*
 The new process was told to serve and has not confirmed it; both are left alone (-ETIME).
 */
#define FLIP_FAILURE_UNCONFIRMED 12

/*
 Upgrades cannot work here, as in process 1 (-EOPNOTSUPP).
 */
#define FLIP_FAILURE_UNSUPPORTED 13

/*
 The version of this header.
 */
#define FLIP_VERSION_MAJOR 0

/*
 The version of this header.
 */
#define FLIP_VERSION_MINOR 1

/*
 The version of this header.
 */
#define FLIP_VERSION_PATCH 0

/*
 What can be chosen before `flip_init`. Made by `flip_config_new`, owned by the caller. Not thread-safe: one thread
 at a time.
 */
typedef struct flip_config_t flip_config_t;

/*
 Something that happened, and perhaps a question. From `flip_next_event`, owned by the caller, to be given back
 with `flip_event_free`; may outlive `flip_free`.
 */
typedef struct flip_event_t flip_event_t;

/*
 One generation of a server, as its own process sees it. There is one per process at a time.
 */
typedef struct flip_t flip_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 A configuration with all defaults; NULL when memory is exhausted. To be given back with `flip_config_free`.
 */
flip_config_t *flip_config_new(void);

/*
 Gives it back; NULL is allowed. `flip_init` has copied it: it may be freed right after.

 # Safety

 - `config` is NULL or from `flip_config_new`, and not used again.
 */
void flip_config_free(flip_config_t *config);

/*
 What a signal asks for: a FLIP_REQUEST_*; FLIP_REQUEST_NONE leaves the signal alone. By default SIGUSR1 upgrades,
 SIGTERM and SIGINT stop (a default is not applied to a signal that was ignored when the process started, as under
 nohup). Signal 0 with FLIP_REQUEST_NONE clears all, for hosts whose runtime owns signals: they call `flip_request`
 from handlers of their own.

 `flip_init` installs the handlers (SA_RESTART, SA_ONSTACK), which call a handler that was there before;
 `flip_free` puts back what was there.

 0, or -EINVAL: NULL, a signal that cannot be handled, an unknown request.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_signal(flip_config_t *config, int signum, int request);

/*
 How long an upgrade may take, in milliseconds, from the request until the new process is told to serve; default 60
 000. A new process that is not ready by then is ended (SIGTERM, 2 s later SIGKILL) and the old one serves on.

 0, or -EINVAL: NULL, 0, more than a year.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_upgrade_timeout(flip_config_t *config, uint64_t ms);

/*
 How long open connections may take to finish, in milliseconds, from shutdown on; default 30 000. After that
 `flip_drain` returns -ETIME.

 0, or -EINVAL: NULL, 0, more than a year.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_drain_timeout(flip_config_t *config, uint64_t ms);

/*
 How long after the drain deadline a process that is still there is ended (SIGKILL, after its unix paths were
 unlinked where they are its own), in milliseconds; default 0: never.

 0, or -EINVAL: NULL, more than a year.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_hard_stop(flip_config_t *config, uint64_t ms);

/*
 How many older generations may still drain while a further upgrade starts; default 1, 0: none. Beyond that an
 upgrade is refused with -EBUSY, or remembered if a signal asked for it.

 0, or -EINVAL: NULL, 200 or more.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_max_draining(flip_config_t *config, unsigned int n);

/*
 How long both generations serve after the new one is live, in milliseconds; default 0. If the new one dies
 meanwhile, the upgrade has failed and the old one never stopped.

 0, or -EINVAL: NULL, more than a year.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_probation(flip_config_t *config, uint64_t ms);

/*
 The events that the host will read with `flip_next_event`: FLIP_EVENT_* ored together; default 0. Who subscribes
 to FLIP_EVENT_STARTING or FLIP_EVENT_STATE has to answer each within the upgrade deadline, or the upgrade fails.
 Who subscribes to FLIP_EVENT_STATE promises a state to every successor.

 0, or -EINVAL: NULL, a bit that is no event.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_events(flip_config_t *config, unsigned int mask);

/*
 A file that holds the pid of the generation that serves, one line; NULL (the default): none. A relative path is
 relative to the working directory at this call. `flip_ready` of generation 0 writes it; a later generation does
 when its predecessor has handed over, and removes nothing when it fails to (it says so in the log and the status).
 It is replaced as a whole by a rename in its directory, which this process must be able to write to; a symbolic
 link in its place is replaced, not followed. `flip_free` removes it after a stop, if it holds this process's pid.

 0, or -EINVAL: NULL as `config`, an empty path, one that ends in "/", "." or ".."; -ENOENT: a relative path, and
 the working directory was removed.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 - `path` is NULL or a NUL-terminated string.
 */
int flip_config_set_pid_file(flip_config_t *config, const char *path);

/*
 Where operators ask for upgrades, stops, detaches and the status: "unix:///run/a.ctl?mode=0660&owner=:ops" or
 "unix:@name"; NULL (the default): nowhere. The path's mode and owner are the authority, mode 0600 without `mode=`,
 from the first instant on; an abstract name answers root and this process's own user. `flip_init` binds it, in
 place of one that nobody listens on any more; a successor inherits it where the address is the same, so that it is
 never missing. It is read by one generation at a time: the old one until it has handed over. On a stop or detach
 it is closed and unlinked. The lines that it takes, as from nc -U, are in docs/control.md.

 0, or -EINVAL: NULL, an address that makes no sense here.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 - `address` is NULL or a NUL-terminated string.
 */
int flip_config_set_control_socket(flip_config_t *config, const char *address);

/*
 Whether the library pings the watchdog of the service manager (`WatchdogSec=` of the unit, WATCHDOG_USEC), at
 half of its interval, from a thread of the library and for as long as this process is the one that serves; 0, the
 default: the host pings it itself, or there is none. Any other value: yes. An upgrade leaves no gap, if both
 generations ask for it. A ping says that the process runs and the library works, not that the host does: a host
 whose event loop may hang does better to ping from there.

 0, or -EINVAL: NULL.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_watchdog(flip_config_t *config, int on);

/*
 Whether listeners are kept in the service manager's descriptor store as well (`FileDescriptorStoreMax=` of the
 unit, at least as many as there are listeners), so that they outlive a crash: `flip_listen` in the next start
 finds them, with all connections that were queued. 0, the default: no. Any other value: yes.

 A listener is stored when `flip_ready` returns or when it is added later, and removed when it is forgotten, is
 not claimed by a later start, or when its unix path is unlinked by a stop. A program with file capabilities or
 set-user-id stores none: it does not know who has set NOTIFY_SOCKET.

 0, or -EINVAL: NULL.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 */
int flip_config_set_fd_store(flip_config_t *config, int on);

/*
 Waits for a connection on a listener and returns it: the caller's, blocking, CLOEXEC, 3 or more, and counted: call
 `flip_conn_end` when you have closed it. Retries what accept(2) may be retried on, waits while descriptors are
 exhausted, goes on after a signal handler. Called before `flip_ready` has returned 0 it waits for that first. Any
 number of threads may call it at once.

 The connection, or -ECANCELED from shutdown on, also in a thread that waits already, and there in `flip_free` too;
 -ETIMEDOUT: `timeout_ms` passed; -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM, with `timeout_ms` 0 only: a connection waits, and
 nothing is left to take it with: look again in a while, not at once; -EINVAL: the listener blocks (O_NONBLOCK is not
 set; looked at every few calls), or does not listen; -EBADF.

 # Safety

 - `flip` is from `flip_init`.
 - `listener` is not closed during the call.
 */
int flip_accept(flip_t *flip,
                int listener,
                int timeout_ms);

/*
 Counts a connection that was accepted in another way. A few nanoseconds. 0, -EINVAL or -EBADF.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_conn_begin(flip_t *flip);

/*
 The end of a connection from `flip_accept` or `flip_conn_begin`, on any thread, once for each, and with the handle that
 it began with. 0, -EINVAL or -EBADF: the handle was freed, and its connections are not counted any more.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_conn_end(flip_t *flip);

/*
 How many connections are open, or -EINVAL, -EBADF.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_conn_count(const flip_t *flip);

/*
 Waits until no connection is open: 0. Never -EINTR.

 Or -ETIME: the drain deadline passed; -ECANCELED: a second stop cut the drain short, which leaves it 1.5 s, or
 `flip_free`; -ETIMEDOUT: `timeout_ms` passed; -EINVAL: shutdown has not begun.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_drain(flip_t *flip, int timeout_ms);

/*
 A descriptor for poll, epoll or an event loop: readable from when `flip_drain` would return, for ever: a connection
 that is counted only after that does not take it back. Borrowed: never close it, never read from it; it lives until
 `flip_free`. -EINVAL, -EBADF; -ECHILD in a forked child, which uses `flip_drain`; the first call makes it: -EMFILE,
 -ENFILE, -ENOMEM.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_drained_fd(flip_t *flip);

/*
 What this process is and does, as one line of JSON: generation, pid, state, uptime, connections, listeners, older
 generations that drain, the upgrade under way, how the last one went. docs/control.md describes the keys; further
 ones may be added. Any thread may ask in every state; it does not wait for an upgrade.

 Like snprintf: at most `size` bytes are written, the NUL at the end among them, and the length of the whole line
 without it is returned; a result of `size` or more means that it was cut. `buffer` may be NULL where `size` is 0.

 The length, or -EINVAL: NULL; -ECANCELED: `flip_free`; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `buffer` is NULL or has room for `size` bytes.
 */
int flip_status(flip_t *flip, char *buffer, size_t size);

/*
 Asks another process over its control socket ("unix:///run/a.ctl", "unix:@name"), without a handle, and waits for
 the result: FLIP_REQUEST_UPGRADE gives the pid of the successor, FLIP_REQUEST_STOP 0 once the process is gone,
 FLIP_REQUEST_DETACH 0 once it is detached. Never -EINTR. A process that has just been replaced is no obstacle: its
 successor serves the same socket and is asked.

 An upgrade or a request for one that failed: the errno as for `flip_upgrade`, `flip_last_failure` has the kind,
 and `flip_last_error` the sentence, all from there. Else -EINVAL: NULL, an address or a request that makes no
 sense; -ENOENT, -ECONNREFUSED: nobody listens there; -EACCES: this user may not; -ECONNRESET: the process ended
 without an answer; -EPROTO: what answers is no control socket; -ETIMEDOUT: `timeout_ms` passed (-1: no limit),
 what was asked for goes on; -ESRCH: it stops, and its end cannot be seen from here, since it is in another pid
 namespace.

 # Safety

 - `address` is NULL or a NUL-terminated string.
 */
int flip_control(const char *address, int request, int timeout_ms);

/*
 What another process tells about itself over its control socket, without a handle: the line of `flip_status`,
 written and counted as there. While two generations live, it is the old one's until it has handed over.

 The length, or an error as from `flip_control`.

 # Safety

 - `address` is NULL or a NUL-terminated string.
 - `buffer` is NULL or has room for `size` bytes.
 */
int flip_control_status(const char *address, int timeout_ms, char *buffer, size_t size);

/*
 A listening socket: the one inherited from the predecessor or from systemd where it matches, else one bound now.
 "tcp://127.0.0.1:8080", "tcp://[::1]:443", "tcp://:8080" (all addresses), "unix:///run/a.sock", "unix:@name"; also
 udp:, unixgram: and unixpacket:. Options follow as a query, "?name=http&backlog=512": name, backlog, reuseport,
 v6only, mode, owner (user:group), nodelay, defer (seconds), fastopen, device, freebind, transparent, and keep=stop
 or keep=always (the listener goes on after a stop, or after an upgrade too; its connections are not counted, and
 `flip_conn_end` is not called for them). It is passed on to every further generation.

 What is inherited is found by name (without name= the address), then by what the socket is. What can be changed on
 a live socket is changed when `flip_ready` returns; what cannot and differs is no match, and a new socket is
 bound. With reuseport=1 each call gives a further member of the group.

 The descriptor is the caller's (its own copy): non-blocking (one that the predecessor had blocking: from
 `flip_ready` on), CLOEXEC, 3 or more. Accept nothing from it before `flip_ready` has returned 0, and close it
 when shutdown starts (after EPOLL_CTL_DEL: a copy lives on in the successor). Never call shutdown(2) on it and
 never clear O_NONBLOCK: both would reach every process that shares it. With EPOLLEXCLUSIVE a process that shuts
 down may have been the only one to be woken: watch the listener once more (EPOLL_CTL_DEL, EPOLL_CTL_ADD) when
 `flip_predecessor_fd` is readable, or do without it.

 The descriptor, or -EINVAL: NULL, or an address that makes no sense; -EADDRINUSE; -EEXIST: this process listens
 there already; -EALREADY: an upgrade is under way and the socket would have to be bound, or taken from systemd;
 -ESHUTDOWN after it; -ECHILD in a forked child; else the errno of what failed. Names in owner= are looked up by
 this call, which takes as long as the name service does; only `flip_free` waits for it.

 # Safety

 - `flip` is from `flip_init`.
 - `address` is NULL or a NUL-terminated string.
 */
int flip_listen(flip_t *flip, const char *address);

/*
 The inheriting half of `flip_listen`: the descriptor, or -ENOENT where nothing that was inherited matches; never
 binds. -EINVAL, -EEXIST, -EALREADY, -ESHUTDOWN and -ECHILD as there.

 # Safety

 - `flip` is from `flip_init`.
 - `address` is NULL or a NUL-terminated string.
 */
int flip_inherit(flip_t *flip, const char *address);

/*
 Passes any descriptor on under a name of 1 to 255 bytes: a socket, a file, a pipe, a memfd, a listener that the
 host made itself. It is duplicated and stays the caller's; flags are left alone. What had the name before is no
 longer passed on. Do not add an epoll descriptor: it would edit this process's registrations from another one.

 0, or -EINVAL: NULL or the length of the name; -EBADF; -EMFILE; -EALREADY: an upgrade is under way; -ESHUTDOWN
 after it; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `name` is NULL or a NUL-terminated string; `fd` is not closed during the call.
 */
int flip_add(flip_t *flip, const char *name, int fd);

/*
 The descriptor that was inherited under this name, once: the caller's, CLOEXEC, 3 or more, its flags as they are.
 It goes on being passed on; `flip_forget` ends that. In generation 0 this takes what systemd passed.

 The descriptor, or -ENOENT: nothing of that name was inherited, or it was claimed already; -EINVAL; -EMFILE; of
 what systemd passed -EALREADY: an upgrade is under way, without it; -ESHUTDOWN after it; -ECHILD in a forked
 child.

 # Safety

 - `flip` is from `flip_init`.
 - `name` is NULL or a NUL-terminated string.
 */
int flip_take(flip_t *flip, const char *name);

/*
 Stops passing a descriptor on, claimed or not, and closes the library's copy; the caller's stays open, and a unix
 path stays. For a member of a reuseport group that was not claimed this accepts the loss of what is queued on it.

 0, or -ENOENT; -EINVAL; -EALREADY: an upgrade is under way; -ESHUTDOWN after it; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `name` is NULL or a NUL-terminated string.
 */
int flip_forget(flip_t *flip, const char *name);

/*
 The names that were inherited and nobody has claimed, each NUL-terminated, one after the other. They are closed
 once the predecessor has handed over. Returns the size that all of them need; where `size` is smaller, as many
 whole names as fit are written. `buffer` may be NULL where `size` is 0.

 The size, or -EINVAL: NULL; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `buffer` is NULL or has room for `size` bytes.
 */
int flip_inherited(flip_t *flip, char *buffer, size_t size);

/*
 How this thread's last call of `flip_upgrade` or `flip_control` failed: FLIP_FAILURE_*; FLIP_FAILURE_NONE if it did
 not, or not because of an upgrade.
 */
int flip_last_failure(void);

/*
 One line about the last call of this thread that failed, in English, without a line end; empty if none has. Never
 NULL; valid until the thread's next call that fails. Not async-signal-safe.
 */
const char *flip_last_error(void);

/*
 The version of the library that is loaded, as "0.1.0". Static.
 */
const char *flip_version(void);

/*
 The predecessor's state: read-only, mappable, sealed, with an offset of its own at 0; the caller's. Every call
 opens it anew.

 The descriptor, or -ENOENT: none was promised (generation 0, or the predecessor writes none); -ECONNRESET:
 promised, and lost with the predecessor; -ETIMEDOUT; -EINTR: a signal handler ran, call again; -ECANCELED: this
 process will not serve, as `flip_ready` says, or `flip_free`; -EMFILE, -ENFILE, -ENOMEM; -EIO: it is there, and cannot
 be opened (`flip_init` found no /proc); -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_take_state(flip_t *flip,
                    int timeout_ms);

/*
 A descriptor for poll, epoll or an event loop: readable while an event waits. Borrowed: never close it, never read
 from it; it lives until `flip_free`. -EINVAL, -EBADF; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_event_fd(flip_t *flip);

/*
 Waits for the next event of the kinds given to `flip_config_set_events`: 0, and `*out_event` is the caller's.

 Or -ETIMEDOUT; -EINTR: a signal handler ran, call again; -ECANCELED: `flip_free`; -EINVAL; -ECHILD in a forked
 child.

 # Safety

 - `flip` is from `flip_init`.
 - `out_event` is NULL or may be written.
 */
int flip_next_event(flip_t *flip, int timeout_ms, flip_event_t **out_event);

/*
 Which one: a FLIP_EVENT_*. -EINVAL for NULL.

 # Safety

 - `event` is NULL or from `flip_next_event` and not freed.
 */
int flip_event_kind(const flip_event_t *event);

/*
 FLIP_EVENT_STATE: where to write the state. Borrowed: it lives until `flip_event_free`, writes go to an empty
 memfd from its start, and must be over, mappings included, before the answer. -EINVAL for other events.

 # Safety

 - `event` is NULL or from `flip_next_event` and not freed.
 */
int flip_event_state_fd(const flip_event_t *event);

/*
 FLIP_EVENT_FAILED: how the upgrade failed, a FLIP_FAILURE_*; FLIP_FAILURE_NONE for other events, -EINVAL for NULL.

 # Safety

 - `event` is NULL or from `flip_next_event` and not freed.
 */
int flip_event_failure(const flip_event_t *event);

/*
 Who asked, what failed, the line for the log: one line, valid until the event is freed. NULL for NULL.

 # Safety

 - `event` is NULL or from `flip_next_event` and not freed.
 */
const char *flip_event_text(const flip_event_t *event);

/*
 Answers FLIP_EVENT_STARTING and FLIP_EVENT_STATE: `status` 0 lets the upgrade go on, -errno refuses it, with a
 `reason` that reaches whoever asked for the upgrade (NULL: the errno's text).

 0, or -EINVAL: NULL, a positive status, an event that asks nothing; -EALREADY: answered before; -ESTALE: nobody
 waits for it any more (the upgrade has ended, or `flip_free`).

 # Safety

 - `event` is NULL or from `flip_next_event` and not freed.
 - `reason` is NULL or a NUL-terminated string.
 */
int flip_event_answer(flip_event_t *event, int status, const char *reason);

/*
 Gives the event back; NULL is allowed. A question that was not answered counts as refused.

 # Safety

 - `event` is NULL or from `flip_next_event`, and not used again.
 */
void flip_event_free(flip_event_t *event);

/*
 Finds out what this process was started with, and starts the library's two threads, which block all signals and
 run nothing of the host; the second one once `flip_ready` has returned. `config` is copied; NULL means all
 defaults. On success `*out_flip` is the handle.

 Call it early, before other threads exist: it removes the variables that were meant for this process from the
 environment (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, SHELLFLIP_CHANNEL after an upgrade).

 The next generation starts with the environment and descriptors 0 to 2 as they are now, of which the library
 keeps copies (a server that opens its log anew on descriptor 2 later does so again in each generation, and the
 copy keeps the space of a log that was removed meanwhile until the process ends), and with the signal mask, the
 ignored signals, the directory and the soft limit of descriptors (RLIMIT_NOFILE) as they were when the library
 was loaded.

 What the host changes later reaches the library's threads, and so the next generation, where the kernel or the C
 library makes it the whole process's: setuid(2), setgid(2), setgroups(2) (the C library does so in every thread;
 the program must be readable for the new user). What belongs to one thread does not: seccomp filters (without
 SECCOMP_FILTER_FLAG_TSYNC), no_new_privs, capabilities, namespaces, CPU affinity and scheduling. Set these before
 `flip_init` where the next generation shall start with them; it starts without them otherwise. A filter that
 kills has to allow membarrier(2), which is called as the library is loaded, and capget(2) and
 prctl(PR_GET_SECCOMP), with which `flip_ready` finds out what this thread has given up.

 A program is started by its predecessor as it was by whoever started the first one, so what it does before this
 call happens in every generation. A successor (there SHELLFLIP_CHANNEL is set) must not daemonize, since its
 child is not the process that the upgrade has started; close all descriptors that it does not know only after
 this call; and ask for no signal at its parent's end (PR_SET_PDEATHSIG), since that is the predecessor's.

 A call that fails changes nothing and may be repeated, but not in a successor: it exits then.

 0, or -EINVAL: `out_flip` is NULL; -EBUSY: there is a handle already; -EPROTO: the environment says that this
 process is a successor and something about that is wrong; -ECHILD: in a forked child of a process that has a
 handle; else the errno of what failed.

 # Safety

 - `config` is NULL or from `flip_config_new`.
 - `out_flip` is NULL or may be written.
 - No other thread reads or writes the environment during the call.
 */
int flip_init(const flip_config_t *config, flip_t **out_flip);

/*
 Ends the handle: NULL is allowed, and a second time does nothing. Every call that waits returns -ECANCELED, later
 ones -EBADF. `flip_init` may follow, and gives out another handle: the freed one stays freed, until 256 have come
 after it.

 Before `flip_ready` returned 0 it gives up: an upgrade fails and the predecessor serves on. In a process that
 serves it is a stop whose drain is over. While a successor is on its way it ends that first; once the successor
 was told to serve, it waits until it does (at most 10 s) and hands everything over. A stop without a successor
 unlinks unix paths and removes the pid file. It closes the library's descriptors, not the caller's copies from
 `flip_listen`.

 In a forked child it closes the child's copies and touches nothing else.

 # Safety

 - `flip` is NULL or from `flip_init`.
 */
void flip_free(flip_t *flip);

/*
 Which generation this process is; 0: it was not started by an upgrade. Works in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_generation(const flip_t *flip);

/*
 What the next upgrade runs. Without it: the program as it was started, found by the same path (a file replaced or
 a link moved gives the new program) with the same arguments.

 `executable` with a slash is a path, relative to the directory the new process starts in; without one it is looked
 for in PATH when the upgrade runs. `argv` ends with NULL and begins with the program's name for itself, which is
 `executable` where there is nothing in it. Both are copied.

 0, or -EINVAL: NULL, an empty `executable`; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `executable` is NULL or a NUL-terminated string, `argv` NULL or an array of such that ends with NULL.
 */
int flip_set_command(flip_t *flip, const char *executable, const char *const *argv);

/*
 Sets a variable in the environment of the next generation, which is the one of this process at `flip_init`; a NULL
 `value` removes it. This process's own environment is not changed.

 0, or -EINVAL: NULL, an empty name, one with '=', one that the upgrade itself sets (LISTEN_*, SHELLFLIP_CHANNEL);
 -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `name` and `value` are NULL or NUL-terminated strings.
 */
int flip_set_env(flip_t *flip, const char *name, const char *value);

/*
 The directory in which the next generation starts, resolved at the upgrade, links included. Without it: the one in
 which this process was started, by the path of $PWD where that is the same directory.

 0, or -EINVAL: NULL or empty; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 - `path` is NULL or a NUL-terminated string.
 */
int flip_set_directory(flip_t *flip, const char *path);

/*
 Says that this process could serve, and waits until it may: after 0 it must. In generation 0 that is at once; a
 successor waits until its predecessor lets it, or is dead. Idempotent, and never -EINTR.

 0, or -ETIMEDOUT: `timeout_ms` passed, call again (-1: no limit, 0: do not wait). Final, exit then: -ECANCELED
 (the predecessor gave up, or somebody asked this process to stop), -ETIME (it was not let by the upgrade
 deadline), -EPROTO. Not final: -ENOENT, members of an inherited reuseport group are unclaimed (`flip_last_error`
 names them): claim or forget them and call again; -ECONNRESET: promised state was lost and `flip_take_state` has
 not said so yet: call that first; in generation 0 the errno with which the pid file could not be written. -ECHILD
 in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_ready(flip_t *flip, int timeout_ms);

/*
 Waits until the predecessor has exited: 0; at once in generation 0. Or -ETIMEDOUT; -EINTR: a signal handler ran,
 call again; -ECANCELED: `flip_free`; -ECHILD in a forked child; -EMFILE, -ENFILE, -ENOMEM: no descriptor to wait
 with.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_wait_predecessor(flip_t *flip, int timeout_ms);

/*
 A descriptor for poll, epoll or an event loop: readable, for ever, once the predecessor has exited; at once in
 generation 0. Borrowed: never close it, never read from it; it lives until `flip_free`. -EINVAL, -EBADF; -ECHILD
 in a forked child; the first call makes it: -EMFILE, -ENFILE, -ENOMEM.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_predecessor_fd(flip_t *flip);

/*
 Moves the deadline that is running to `ms` milliseconds from now: before `flip_ready` the predecessor's upgrade
 deadline (which only grows; in generation 0 the start time-out of the service manager, where there is one), after
 shutdown the drain deadline.

 0, or -EINVAL: no deadline is running, `ms` is 0 or more than a year; -ECANCELED; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_extend(flip_t *flip, uint64_t ms);

/*
 Replaces this process by a new one and waits for the result: the pid of the successor once everything has been
 handed over (shutdown has fired, or is about to), or why not; then this process serves on as before and
 `flip_last_failure` has the kind.

 -ETIMEDOUT: `timeout_ms` passed; -EINTR: a signal handler ran. The upgrade goes on in both cases, and the next
 call of the same thread goes on waiting for it. -ECONNABORTED: the new process ended too early; -ETIME: a
 deadline; -ECONNREFUSED: this host refused, or the new process gave up; -EIO: the state could not be handed over;
 -EPROTO; -EALREADY: one is running; -EBUSY: too many older generations drain; -EAGAIN: not ready yet, or
 `flip_ready` has returned a moment ago and the predecessor has not let go (`flip_request` remembers it);
 -ESHUTDOWN: stopping; -EOPNOTSUPP: cannot work here; the errno of what failed, as -ENOENT: it could not be
 started (-ENOEXEC instead of one that has another meaning in this list); -EDEADLK on a thread that reads events
 with questions; -ECANCELED: `flip_free`; -EBADF after it; -ECHILD in a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_upgrade(flip_t *flip, int timeout_ms);

/*
 Asks for an upgrade, a stop or a detach (FLIP_REQUEST_*) and returns. Async-signal-safe: a handler of the host's
 own may call it. What the signals do, `flip_config_set_signal`, is this. An upgrade that cannot start yet is
 remembered and leads to one later.

 0, or -EINVAL: NULL, an unknown request; -EBADF: freed; -ECHILD in a forked child. Since a handler may be what
 calls it, `flip_last_error` says nothing about it.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_request(flip_t *flip, int request);

/*
 Waits for shutdown: FLIP_SHUTDOWN_UPGRADE (a successor serves), FLIP_SHUTDOWN_STOP, or once FLIP_SHUTDOWN_DETACH.
 Then close the listeners, finish the open connections (`flip_drain`) and exit.

 Or -ETIMEDOUT: `timeout_ms` passed; -EINTR: a signal handler ran, call again; -ECANCELED: `flip_free`. In a forked
 child it also returns, as a stop, when the process that called `flip_init` has died.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_wait_shutdown(flip_t *flip, int timeout_ms);

/*
 A descriptor for poll, epoll or an event loop: readable (POLLIN) from shutdown on, for ever, for every reader.
 Borrowed: never close it, never read from it; it lives until `flip_free`. A detach does not make it readable.

 The descriptor, or -EINVAL, -EBADF.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_shutdown_fd(flip_t *flip);

/*
 The pid of the last successor that was started, also of one that failed; -ENOENT before there was one. -ECHILD in
 a forked child.

 # Safety

 - `flip` is from `flip_init`.
 */
int flip_successor_pid(const flip_t *flip);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SHELLFLIP_H */
