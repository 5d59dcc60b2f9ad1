"""The descriptors of the library that a host watches, and waiting on them in Python, where signal handlers run."""

import os
import select
import time
from _thread import allocate_lock

from ._ffi import lib
from .errors import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .wakeup import Wakeup

#: While another thread is in a hook its events stay readable; waiting for them would spin.
BUSY_PAUSE = 0.05


class _Closing:
    """An eventfd that lives as long as somebody knows it: a thread may be about to poll it when Flip is closed."""

    def __init__(self) -> None:
        self._number = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    # Bound here, since the module may have lost its names when the interpreter exits.
    def __del__(self, close: "Callable[[int], None]" = os.close) -> None:
        close(self._number)

    def fileno(self) -> int:
        return self._number


def readable(descriptor: int) -> bool:
    """Whether it is, now."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


class Descriptors:
    """Borrowed from the library, but for `closing`, which is readable once Flip.close has begun."""

    def __init__(self, handle: object, *, forked: bool) -> None:
        self._handle = handle
        self.event = -1 if forked else check(lib.flip_event_fd(handle))
        self.shutdown = check(lib.flip_shutdown_fd(handle))
        self.closing = _Closing()
        self._lock = allocate_lock()
        self._wakeup: Wakeup | None = None
        self._is_closed = False
        self._both: select.epoll | None = None

    @property
    def drained(self) -> int:
        """Readable once a drain is over; -1 in a forked child."""
        return check(lib.flip_drained_fd(self._handle)) if self.event >= 0 else -1

    @property
    def wakeup(self) -> "Wakeup":
        """Made for the first wait of a thread or a loop, and not any more once it is closed."""
        from .wakeup import Wakeup

        with self._lock:
            if self._wakeup is None:
                if self._is_closed:
                    raise ValueError("this Flip is closed")
                self._wakeup = Wakeup()
            return self._wakeup

    def after_fork_in_child(self) -> None:
        """The library has closed its copies, whose numbers may be anybody's now; ours are shared with the parent, who
        must hear nothing of what happens here."""
        self.event = -1
        self.closing = _Closing()
        self._both = None
        self._lock = allocate_lock()
        if self._wakeup is not None:
            self._wakeup.close()
            self._wakeup = None

    def both(self) -> int:
        """One descriptor for hosts with a loop of their own: readable while an event waits, and from shutdown on."""
        if self._both is None:
            self._both = select.epoll()
            self._both.register(self.shutdown, select.EPOLLIN)
            if self.event >= 0:
                self._both.register(self.event, select.EPOLLIN)
        return self._both.fileno()

    def close(self) -> None:
        """Wakes whoever waits."""
        os.eventfd_write(self.closing.fileno(), 1)
        with self._lock:
            self._is_closed = True
            if self._wakeup is not None:
                self._wakeup.close()
        if self._both is not None:
            self._both.close()

    def has_shut_down(self) -> bool:
        """Whether shutdown has fired."""
        return readable(self.shutdown)

    def wait(self, until: float | None, busy: bool, listener: int, shutdown: bool) -> set[int]:
        """Waits for any of them; which are readable, none at `until` (time.monotonic). Signal handlers run meanwhile,
        and what they raise is raised here."""
        poller = select.poll()
        poller.register(self.closing, select.POLLIN)
        if shutdown:
            poller.register(self.shutdown, select.POLLIN)
        if listener >= 0:
            poller.register(listener, select.POLLIN)
        if self.event >= 0 and not busy:
            poller.register(self.event, select.POLLIN)
        left = None if until is None else max(0.0, until - time.monotonic())
        if busy:
            left = BUSY_PAUSE if left is None else min(left, BUSY_PAUSE)
        wakeup = self.wakeup
        before = wakeup.begin()
        try:
            if before is not None:
                poller.register(wakeup, select.POLLIN)
            # The longest that poll(2) takes; who called asks again.
            limit = None if left is None else min(left * 1000, 2**31 - 1)
            return {descriptor for descriptor, _ in poller.poll(limit)}
        finally:
            wakeup.end(before)
