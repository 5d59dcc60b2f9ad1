"""The host's part in its own replacement: hooks, and the pump that takes events and runs them.

Nothing here runs on a thread of the library. `Pump.run` is called by the host's loop, or by the thread that waits in
`Flip.wait`, `Flip.accept`, `Flip.drain` or `Flip.watch`; hooks run there.
"""

from __future__ import annotations

import errno
from _thread import allocate_lock
from collections.abc import Callable

from . import log
from ._ffi import EVENT_FAILED, EVENT_LOG, EVENT_SHUTDOWN, EVENT_STARTING, EVENT_STATE
from .errors import FlipError, Refused
from .events import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine
    from typing import Any, BinaryIO, TypeGuard

    #: Takes a coroutine and runs it in the host's event loop; whether it is a question, which ends with its upgrade.
    Spawn = Callable[[Coroutine[Any, Any, None], bool], object]

#: The kernel's.
MAX_ERRNO = 4096

#: Called with who asks for the upgrade, before anything is started. Returns to allow it, raises to refuse.
OnUpgrade = Callable[[str], object]
#: Called with a file to write the state into. Raising refuses the upgrade.
OnState = Callable[["BinaryIO"], object]
#: Called with what went wrong, as the exception that `Flip.upgrade` would raise. This process serves on.
OnFailure = Callable[[FlipError], object]


class Pump:
    """Takes what waits and acts on it. One thread at a time; a hook that waits itself does not run a second one."""

    def __init__(
        self, handle: object, on_upgrade: OnUpgrade | None, on_state: OnState | None, on_failure: OnFailure | None
    ) -> None:
        self._handle = handle
        self._on_upgrade = on_upgrade
        self._on_state = on_state
        self._on_failure = on_failure
        self._lock = allocate_lock()
        #: What to call when an upgrade has failed: ends questions that are still being awaited.
        self.give_up: Callable[[], object] = lambda: None
        self.shutdown_announced = False

    @property
    def busy(self) -> bool:
        """Whether a thread is in here now, perhaps in a hook that takes its time."""
        return self._lock.locked()

    def renew(self) -> None:
        """In a forked child, where the lock may be held by a thread that does not exist."""
        self._lock = allocate_lock()

    def run(self, spawn: Spawn | None = None, *, closing: bool = False) -> None:
        """Handles all that waits. `spawn` is given by an event loop, for hooks that are coroutines. `closing`: only
        the log; no hook runs any more, and what was asked counts as refused."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            while (event := Event.next(self._handle)) is not None:
                if closing and event.kind != EVENT_LOG:
                    event.free()
                else:
                    self._handle_one(event, spawn)
        finally:
            self._lock.release()

    def _handle_one(self, event: Event, spawn: Spawn | None) -> None:
        if event.kind in (EVENT_STARTING, EVENT_STATE):
            self._ask(event, spawn)
            return
        failed = FlipError(event.text, event.failure) if event.kind == EVENT_FAILED else None
        event.free()
        if event.kind == EVENT_LOG:
            log.line(event.text)
        elif event.kind == EVENT_SHUTDOWN:
            self.shutdown_announced = True
        elif failed is not None:
            log.failed(event.text)
            self.give_up()
            if self._on_failure is not None:
                self._tell(self._on_failure, failed, spawn)

    def _tell(self, hook: OnFailure, failure: FlipError, spawn: Spawn | None) -> None:
        async def awaited(result: Awaitable[object]) -> None:
            try:
                await result
            except Exception:
                log.logger().exception("on_failure raised")

        try:
            result = hook(failure)
            if _is_awaitable(result):
                _spawned(spawn, result)(awaited(result), False)
        except Exception:
            log.logger().exception("on_failure raised")

    def _ask(self, event: Event, spawn: Spawn | None) -> None:
        file = None
        handed_on = False
        try:
            if event.kind == EVENT_STATE:
                assert self._on_state is not None
                file = event.state_file()
                result = self._on_state(file)
            else:
                assert self._on_upgrade is not None
                result = self._on_upgrade(event.text)
            if _is_awaitable(result):
                _spawned(spawn, result)(self._awaited(event, result, file), True)
                handed_on = True
            else:
                _close(file)
                event.allow()
        except Exception as error:
            _refuse(event, error)
        finally:
            # Also for KeyboardInterrupt and SystemExit, which go on to the host: unanswered is refused.
            if not handed_on:
                _close_quietly(file)
                event.free()

    async def _awaited(self, event: Event, result: Awaitable[object], file: BinaryIO | None) -> None:
        try:
            await result
            _close(file)
            event.allow()
        except Exception as error:
            _refuse(event, error)
        finally:
            _close_quietly(file)
            event.free()


def _is_awaitable(result: object) -> TypeGuard[Awaitable[object]]:
    if result is None:
        return False
    from inspect import isawaitable  # here: most hosts have no hooks

    return isawaitable(result)


def _spawned(spawn: Spawn | None, result: Awaitable[object]) -> Spawn:
    if spawn is not None:
        return spawn
    from inspect import iscoroutine

    if iscoroutine(result):
        result.close()
    raise TypeError("the hook is a coroutine function, and no event loop takes the events: await flip.aready() in it")


def _refuse(event: Event, error: Exception) -> None:
    if isinstance(error, Refused):
        event.refuse(str(error) or "the host refused")
        return
    hook = "on_state" if event.kind == EVENT_STATE else "on_upgrade"
    log.logger().error("%s raised, which refuses the upgrade", hook, exc_info=error)
    event.refuse(f"{hook} raised {type(error).__name__}: {error}", _errno_of(error))


def _errno_of(error: Exception) -> int:
    """The errno of an exception that has one. getaddrinfo's are negative, and a host may put there what it likes."""
    number = error.errno if isinstance(error, OSError) else None
    return number if isinstance(number, int) and 0 < number < MAX_ERRNO else errno.ECANCELED


def _close(file: BinaryIO | None) -> None:
    if file is not None:
        file.close()


def _close_quietly(file: BinaryIO | None) -> None:
    if file is not None and not file.closed:
        try:
            file.close()
        except OSError as error:
            log.debug("the state file of a refused upgrade: %s", error)
