"""Flip: one generation of a server, as its own process sees it. Everything else in the package serves this class."""

import atexit
import ctypes
import errno
import os
import sys
import time
from _thread import allocate_lock

from . import config
from . import signals as signals_
from ._ffi import EVENT_STARTING, EVENT_STATE, lib
from .config import SLICE_MS, Settings, encoded, milliseconds
from .errors import FlipError, check, check_ready, check_upgrade
from .listener import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, BinaryIO, Protocol

    from typing_extensions import Self, Unpack

    from .aio import Loop
    from .connections import Connection, Guard
    from .descriptors import Descriptors
    from .hooks import OnFailure, OnState, OnUpgrade, Pump
    from .kinds import Request, Shutdown

    class HasFileno(Protocol):
        """A socket, a file: whatever has a descriptor."""

        def fileno(self) -> int:
            """The descriptor."""


#: How long accept(2) may wait inside the library after poll(2) has said that there is a connection: when another
#: generation was quicker, or descriptors are exhausted.
ACCEPT_MS = 20


class Flip:
    """Finds out what this process was started with; there is one at a time. The interface is described in README.md,
    its rules for threads, forks and signals too.

    `signals`: True for SIGUSR1 (upgrade), SIGTERM and SIGINT (stop), False for none, or a mapping of your own.
    `command`: what the next generation runs; without it, what this one was started as (sys.orig_argv).
    `on_upgrade`, `on_state`, `on_failure`: hooks; see hooks.py for their arguments.
    `control_socket`, `pid_file`, and times and numbers: see config.Settings.
    """

    def __init__(
        self,
        *,
        signals: "bool | Mapping[int, Request]" = True,
        command: "Sequence[str | bytes] | None" = None,
        on_upgrade: "OnUpgrade | None" = None,
        on_state: "OnState | None" = None,
        on_failure: "OnFailure | None" = None,
        **settings: "Unpack[Settings]",
    ) -> None:
        self._closed = False
        self._shutdown: Shutdown | None = None
        self._made_loop: Loop | None = None
        #: Made when they are needed. Of those that two threads make at once the first one is used.
        self._pumps: list[Pump] = []
        self._sets: list[Descriptors] = []
        self._forked = False
        self._hooks = (on_upgrade, on_state, on_failure)
        self._watchers: list[threading.Thread] = []
        self._lock = allocate_lock()
        #: Descriptor and inode of those that shutdown stops. The descriptor alone may be another file's later.
        self._listeners: dict[int, int] = {}
        #: How many more waits may begin before what is needed later is loaded.
        self._unsettled = 2
        events = config.TOLD
        if on_upgrade is not None:
            events |= EVENT_STARTING
        if on_state is not None:
            events |= EVENT_STATE
        self._handle = config.started(events, settings)
        try:
            config.leave_environment()
            if command is not None:
                self.set_command(command)
            elif sys.executable and sys.orig_argv:
                # Not sys.argv, which has lost the options and -m; not /proc/self/exe, which loses the venv.
                self.set_command([sys.executable, *sys.orig_argv[1:]])
            self._signals = signals_.Signals(signals, self._ask_quietly)
        except BaseException:
            lib.flip_free(self._handle)
            raise
        atexit.register(self.close)
        _forked_with(self)

    # Life

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Self":
        self._loop.attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, once or more often; at interpreter exit at the latest. Before `ready` this gives up: the
        predecessor serves on. In a process that serves it is a stop whose drain is over. Waits up to 10 s for a
        successor that has been told to serve."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._made_loop is not None:
            self._made_loop.close()
        for made in self._sets:
            made.close()
        if self._watchers:
            import threading

            for watcher in self._watchers:
                if watcher is not threading.current_thread():
                    watcher.join()
        if not self._forked:
            self._pump.run(closing=True)
        lib.flip_free(self._handle)
        self._signals.restore()
        atexit.unregister(self.close)
        _forget_at_forks(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _open(self) -> ctypes.c_void_p:
        if self._closed:
            raise ValueError("this Flip is closed")
        return self._handle

    @property
    def _descriptors(self) -> "Descriptors":
        # Made when something is waited for first, which a successor does not do before it serves.
        if not self._sets:
            from .descriptors import Descriptors

            self._sets.append(Descriptors(self._open(), forked=self._forked))
            if self._closed:
                self._sets[0].close()  # `close` may have looked before
        return self._sets[0]

    @property
    def _pump(self) -> "Pump":
        # Likewise.
        if not self._pumps:
            from .hooks import Pump

            self._pumps.append(Pump(self._handle, *self._hooks))
        return self._pumps[0]

    @property
    def _loop(self) -> "Loop":
        # Made when it is needed: asyncio takes longer to import than an interpreter to start.
        if self._made_loop is None:
            from .aio import Loop

            _settle()
            self._made_loop = Loop(self._handle, self._pump, self._descriptors, self._look, self._listeners)
        return self._made_loop

    def _before_fork(self) -> None:
        # Another thread that is in the middle of an import would leave the child the module's lock, for ever.
        _settle()
        self._signals.before_fork()

    def _after_fork_in_child(self) -> None:
        self._forked = True
        # Never detached here: what a loop watches is in a set of the kernel that this process shares with its parent.
        self._made_loop = None
        if self._sets and not self._closed:
            self._sets[0].after_fork_in_child()
        for pump in self._pumps:
            pump.renew()
        self._lock = allocate_lock()
        self._watchers.clear()
        self._signals.restore()
        self._signals.after_fork()

    # What is run next

    @property
    def generation(self) -> int:
        """Which generation this is; 0: it was not started by an upgrade."""
        return check(lib.flip_generation(self._open()))

    def set_command(self, command: "Sequence[str | bytes]", executable: str | bytes | None = None) -> None:
        """What the next upgrade runs: a program and its arguments. Without a slash it is looked for in PATH."""
        if isinstance(command, (str, bytes)):
            raise TypeError("a command is a list of words, as subprocess takes them without a shell")
        if not command:
            raise ValueError("a command has at least the name of a program")
        words = [encoded(word) for word in command]
        array = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        path = words[0] if executable is None else encoded(executable)
        check(lib.flip_set_command(self._open(), path, array))

    def set_env(self, name: str, value: str | None) -> None:
        """A variable of the next generation's environment, which is this one's at Flip(); None removes it."""
        check(lib.flip_set_env(self._open(), encoded(name), None if value is None else encoded(value)))

    def set_directory(self, path: str | bytes | os.PathLike[str]) -> None:
        """Where the next generation starts; links are resolved then."""
        check(lib.flip_set_directory(self._open(), encoded(path)))

    # Descriptors

    def listen(self, address: str | bytes) -> Listener:
        """A listening (or bound datagram) socket: the inherited one where it matches, else one bound now.
        Non-blocking, yours to close when shutdown starts; accept nothing before `ready`, never call shutdown or
        setblocking(True) on it: other generations share it."""
        return self._listener(address, check(lib.flip_listen(self._open(), encoded(address))))

    def inherit(self, address: str | bytes) -> Listener | None:
        """The inheriting half of `listen`: None where nothing that was inherited matches."""
        result: int = lib.flip_inherit(self._open(), encoded(address))
        return None if result == -errno.ENOENT else self._listener(address, check(result))

    def _listener(self, address: str | bytes, descriptor: int) -> Listener:
        kept = b"keep=" in os.fsencode(address).partition(b"?")[2]
        listener = Listener.of(self._handle, descriptor, kept=kept)
        # A datagram socket is its transport's, which alone takes it out of an event loop.
        if not kept and not listener.is_datagram:
            self._listeners[descriptor] = os.fstat(descriptor).st_ino
        return listener

    def add(self, name: str | bytes, descriptor: "int | HasFileno") -> None:
        """Passes any descriptor on under a name. It is duplicated and stays yours; what had the name before is no
        longer passed on."""
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        check(lib.flip_add(self._open(), encoded(name), number))

    def take(self, name: str | bytes) -> int | None:
        """The descriptor that was inherited under this name, once; yours to close. None: nothing of that name."""
        result: int = lib.flip_take(self._open(), encoded(name))
        return None if result == -errno.ENOENT else check(result)

    def forget(self, name: str | bytes) -> bool:
        """Stops passing it on; yours stays open. False: nothing of that name."""
        result: int = lib.flip_forget(self._open(), encoded(name))
        return result != -errno.ENOENT and check(result) == 0

    def inherited(self) -> list[str]:
        """What was inherited and not claimed; closed once the predecessor has handed over."""
        size, needed = 0, 1
        while needed > size:
            size, buffer = needed, ctypes.create_string_buffer(needed)
            needed = check(lib.flip_inherited(self._open(), buffer, size))
        return [os.fsdecode(name) for name in buffer.raw[:needed].split(b"\0")[:-1]]

    # The new process

    @property
    def state(self) -> bytes | None:
        """What the predecessor's on_state wrote, whole; None where it has none. Read anew each time."""
        file = self.state_file()
        if file is None:
            return None
        with file:
            return file.read()

    def state_file(self) -> "BinaryIO | None":
        """The same as a file, at its start, for states that are large. FlipError with kind STATE where it was lost
        with the predecessor; `ready` then lets this process serve without."""
        from . import state

        return state.opened(self._open())

    def ready(self, timeout: float | None = None) -> None:
        """Says that this process could serve and waits until it may: then it must. FlipError is final (exit), but for
        the kinds NOT_READY (a reuseport group is not claimed whole) and STATE (read `state` first). TimeoutError:
        call again."""
        until = _until(timeout)
        while (result := lib.flip_ready(self._open(), _slice_ms(until))) == -errno.ETIMEDOUT:
            self._pump.run()
            if _passed(until):
                break
        check_ready(result)

    async def aready(self, timeout: float | None = None) -> None:
        """`ready` in an event loop, which handles events and hooks from then on."""
        self._open()
        await self._loop.ready(timeout)

    def wait_predecessor(self, timeout: float | None = None) -> None:
        """Waits until the predecessor has exited; at once in generation 0."""
        until = _until(timeout)
        while (result := lib.flip_wait_predecessor(self._open(), _slice_ms(until))) in _AGAIN:
            self._pump.run()
            if _passed(until):
                break
        check(result)

    # The old process

    def request(self, request: "Request") -> None:
        """Asks for an upgrade, a stop or a detach, and returns. Any thread, and signal handlers."""
        result: int = lib.flip_request(self._open(), request)
        if result < 0:
            # flip_last_error says nothing about a call for signal handlers.
            raise OSError(-result, os.strerror(-result))

    def _ask_quietly(self, request: int) -> None:
        # From a signal handler, which has nobody to raise to.
        result: int = lib.flip_request(self._handle, request)
        if result < 0:
            from . import log

            log.debug("a signal made request %d: %s", request, os.strerror(-result))

    def upgrade(self, timeout: float | None = None) -> int:
        """Replaces this process; the pid of the successor once everything has been handed over. FlipError says why
        not, and this process serves on. TimeoutError: it goes on; the same thread may call again. Not on a thread
        that handles questions (on_upgrade, on_state): OSError with EDEADLK."""
        until = _until(timeout)
        while (result := lib.flip_upgrade(self._open(), _slice_ms(until))) in _AGAIN:
            if _passed(until):
                break
        return check_upgrade(result)

    @property
    def successor_pid(self) -> int | None:
        """The last successor that was started, also one that failed."""
        result: int = lib.flip_successor_pid(self._open())
        return None if result == -errno.ENOENT else check(result)

    def extend(self, seconds: float) -> None:
        """Moves the deadline that is running to so many seconds from now: before `ready` the predecessor's upgrade
        deadline, after shutdown the drain deadline."""
        check(lib.flip_extend(self._open(), milliseconds(seconds)))

    # Shutdown

    def fileno(self) -> int:
        """For a loop of your own (select, epoll): readable while an event waits, and from shutdown on for ever. Call
        `handle_events` then. Borrowed: until `close`."""
        self._open()
        _settle()
        return self._descriptors.both()

    def handle_events(self) -> "Shutdown | None":
        """Handles what waits, hooks included, without waiting itself; why to finish, None: nothing to do. A detach is
        returned once."""
        self._open()
        self._pump.run()
        return self._look()

    @property
    def stopping(self) -> bool:
        """Whether shutdown has fired: answers should announce that the connection ends."""
        return self._closed or self._shutdown is not None or self._descriptors.has_shut_down()

    def _look(self) -> "Shutdown | None":
        if self._shutdown is not None:
            return self._shutdown
        # An announced shutdown fires within microseconds; a detach has no descriptor that would say so later.
        patience = 1000 if self._pump.shutdown_announced else 0
        result: int = lib.flip_wait_shutdown(self._handle, patience)
        if result in _AGAIN:
            return None
        self._open()  # a hook may have closed it
        from .kinds import Shutdown

        kind = Shutdown(check(result))
        self._pump.shutdown_announced = False
        if kind is not Shutdown.DETACH:
            self._shutdown = kind
        return kind

    def wait(self, timeout: float | None = None) -> "Shutdown | None":
        """Waits for shutdown and handles events meanwhile: hooks run in this thread. Python's signal handlers run as
        ever. DETACH is told once and is no end: the process serves on, and waits again. None: `timeout` seconds have
        passed."""
        until = _until(timeout)
        while True:
            if (kind := self.handle_events()) is not None:
                return kind
            if not self._wait(until) and _passed(until):
                return None

    def _wait(self, until: float | None, *, listener: int = -1, shutdown: bool = True) -> set[int]:
        # The first time that there is nothing to do, or else the second time, what was left for later is loaded.
        if self._unsettled:
            self._unsettled -= 1
            now = time.monotonic()
            if self._unsettled and (found := self._descriptors.wait(now, self._pump.busy, listener, shutdown)):
                return found
            self._unsettled = 0
            _settle()
        return self._descriptors.wait(until, self._pump.busy, listener, shutdown)

    async def wait_shutdown(self) -> "Shutdown":
        """`wait` in an event loop, which handles events and hooks from then on; `asgi.stopped` goes on
        after DETACH."""
        self._open()
        return await self._loop.wait_shutdown()

    def watch(self, then: "Callable[[Shutdown], object]") -> "threading.Thread":
        """For hosts whose main thread is inside another library's loop: a thread that calls `wait`, so that events
        and hooks are handled there, and then `then`: for DETACH, if it comes, and for the end. Not before `ready`;
        `close` waits for it."""
        self._open()
        import threading

        from .kinds import Shutdown

        def run() -> None:
            kind: Shutdown | None = Shutdown.DETACH
            while kind is Shutdown.DETACH:
                kind = self._wait_whatever_comes()
                if kind is not None:
                    then(kind)

        thread = threading.Thread(target=run, name="shellflip", daemon=True)
        self._watchers.append(thread)
        thread.start()
        return thread

    def _wait_whatever_comes(self) -> "Shutdown | None":
        # There is no host above a thread of its own, to which a hook's SystemExit could go on; it has refused its
        # upgrade, and somebody has to hear of the next one, and of the stop.
        while not self._closed:
            try:
                return self.wait()
            except BaseException:
                if not self._closed:
                    from . import log

                    log.logger().exception("handling events")
                    time.sleep(SLICE_MS / 1000)
        return None

    def status(self) -> "dict[str, Any]":
        """What this process is and does; docs/control.md describes the keys."""
        handle = self._open()
        from . import control

        return control.read_status(lambda buffer, size: lib.flip_status(handle, buffer, size))

    # Connections

    def accept(self, listener: Listener, timeout: float | None = None) -> "Connection | None":
        """The next connection, counted until it is closed; None from shutdown on. Any number of threads. Handles
        events meanwhile, as `wait` does. TimeoutError: `timeout` seconds have passed."""
        until = _until(timeout)
        watch_shutdown = True
        while True:
            self._open()
            self._pump.run()
            readable = self._wait(until, listener=listener.fileno(), shutdown=watch_shutdown)
            if self._descriptors.shutdown in readable:
                if not listener.kept:
                    return None
                watch_shutdown = False  # it stays readable, and this listener may outlive it
            elif listener.fileno() not in readable:
                if not readable and _passed(until):
                    raise TimeoutError(errno.ETIMEDOUT, "no connection came")
                continue
            try:
                connection = listener.take(ACCEPT_MS)
            except FlipError as error:
                if error.errno == errno.ECANCELED:
                    return None
                raise
            if connection is not None:
                return connection
            if _passed(until):
                raise TimeoutError(errno.ETIMEDOUT, "no connection was this process's to take")

    def connection(self) -> "Guard":
        """Counts one connection that was accepted in another way, while a `with` or `async with` block runs."""
        from .connections import Guard

        return Guard(self._open())

    @property
    def connections(self) -> int:
        """How many are open."""
        return check(lib.flip_conn_count(self._open()))

    def drain(self, timeout: float | None = None) -> None:
        """Waits until no connection is open. FlipError: kind DEADLINE at the drain time-out, STOPPING when a second
        stop cut it short. TimeoutError: `timeout` seconds have passed. Not before shutdown: OSError with EINVAL."""
        until = _until(timeout)
        while (result := lib.flip_drain(self._open(), _slice_ms(until))) == -errno.ETIMEDOUT:
            self._pump.run()
            if _passed(until):
                break
        check(result)

    async def adrain(self, timeout: float | None = None) -> None:
        """`drain` in an event loop. Stop accepting first."""
        self._open()
        await self._loop.drain(_until(timeout))


#: What is no result yet.
_AGAIN = (-errno.ETIMEDOUT, -errno.EINTR)


def _until(timeout: float | None) -> float | None:
    milliseconds(timeout)  # refuses what is no time
    return None if timeout is None else time.monotonic() + timeout


def _passed(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _slice_ms(until: float | None) -> int:
    """How long one call into the library may wait: Python's signal handlers run after it."""
    left = SLICE_MS if until is None else milliseconds(max(0.0, until - time.monotonic()))
    return min(left, SLICE_MS)


def _settle() -> None:
    """Loads what a successor does without until it serves. Not later: an upgrade is the time when the files of this
    package are replaced by another release's."""
    from . import connections, control, descriptors, events, hooks, kinds, log, state, wakeup  # noqa: F401


_current: "Flip | None" = None
_registered = False


def _forked_with(flip: "Flip") -> None:
    """From now on forked children know that this Flip's threads, events and signals are their parent's."""
    global _current, _registered
    if not _registered:
        _registered = True
        os.register_at_fork(
            before=lambda: _when_forking(Flip._before_fork),
            after_in_parent=lambda: _when_forking(lambda flip: flip._signals.after_fork()),
            after_in_child=lambda: _when_forking(Flip._after_fork_in_child),
        )
    _current = flip


def _forget_at_forks(flip: "Flip") -> None:
    """It is closed, and of interest only while its handlers could not be put back."""
    global _current
    if _current is flip and not flip._signals.installed:
        _current = None


def _when_forking(act: "Callable[[Flip], object]") -> None:
    flip = _current
    if flip is not None:
        act(flip)
