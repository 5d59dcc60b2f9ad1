"""Flip in an asyncio loop (uvloop too): the loop watches the library's descriptors, and events and hooks are handled
there. No thread, no callback from one. Called by Flip alone, and only from the loop's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from ._ffi import lib
from .descriptors import readable
from .errors import check, check_ready
from .hooks import Pump
from .kinds import Shutdown

if TYPE_CHECKING:
    from .descriptors import Descriptors

#: From accept(2) to the first line of a handler an event loop takes up to four turns.
TURNS_OF_AN_ACCEPT = 8
#: What is not told once more.
ENDS = (Shutdown.UPGRADE, Shutdown.STOP)
#: How often to look for the end of a connection that began after all others had ended, in seconds.
LATE_CONNECTION = 0.02


class Loop:
    """The one loop that Flip is attached to at a time."""

    def __init__(
        self,
        handle: object,
        pump: Pump,
        descriptors: Descriptors,
        look: Callable[[], Shutdown | None],
        listeners: Mapping[int, int],
    ) -> None:
        self._handle = handle
        self._pump = pump
        self._descriptors = descriptors
        self._look = look
        self._listeners = listeners
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._waiting: set[asyncio.Future[Shutdown]] = set()
        self._draining: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions: set[asyncio.Task[None]] = set()
        pump.give_up = self._cancel_questions

    def attach(self) -> asyncio.AbstractEventLoop:
        """Makes the running loop the one that handles events, if it is not yet."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and self._loop.is_running():
                raise RuntimeError("the event loop of another thread handles this Flip's events")
            self.detach()
            self._loop = loop
            if self._descriptors.event >= 0:
                loop.add_reader(self._descriptors.event, self._readable)
            loop.add_reader(self._descriptors.shutdown, self._readable)
            if self._descriptors.wakeup.hold():
                loop.add_reader(self._descriptors.wakeup.fileno(), self._descriptors.wakeup.clear)
        return loop

    def detach(self) -> None:
        """Leaves the loop, which may be closed by now."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            if self._descriptors.event >= 0:
                loop.remove_reader(self._descriptors.event)
                loop.remove_reader(self._descriptors.drained)
            loop.remove_reader(self._descriptors.shutdown)
            loop.remove_reader(self._descriptors.wakeup.fileno())
            self._descriptors.wakeup.release()

    def close(self) -> None:
        """Leaves the loop for good, on any thread: whoever waits is told."""
        loop = self._loop
        self._closed = True
        self.detach()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(self._tell_closed)

    def _tell_closed(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_exception(_closed())
        self._drained()

    def _spawn(self, coroutine: Coroutine[Any, Any, None], question: bool) -> None:
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        tasks = self._questions if question else self._tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _cancel_questions(self) -> None:
        for task in list(self._questions):
            task.cancel("the upgrade that this hook was asked about has failed")

    def _readable(self) -> None:
        self._pump.run(self._spawn)
        waiting = {future for future in self._waiting if not future.done()}
        kind = self._look() if waiting else None
        if kind is not None:
            for future in waiting:
                future.set_result(kind)
        if self._loop is not None and (kind in ENDS or self._descriptors.has_shut_down()):
            self._stop_watching(self._loop)

    def _stop_watching(self, loop: asyncio.AbstractEventLoop) -> None:
        # It stays readable for ever, and so do listeners, for connections that are another process's to take.
        loop.remove_reader(self._descriptors.shutdown)
        for descriptor, inode in self._listeners.items():
            if _inode(descriptor) == inode:
                loop.remove_reader(descriptor)

    async def ready(self, timeout: float | None) -> None:
        """As Flip.aready."""
        self.attach()
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        # There is no descriptor for this answer; the predecessor gives it within a millisecond or two.
        while (result := lib.flip_ready(self._handle, 0)) == -errno.ETIMEDOUT:
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "this process has not been let serve yet")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.02)
        check_ready(result)
        # Also so that this thread is known for the one that handles questions: Flip.upgrade in it would wait for
        # itself.
        self._pump.run(self._spawn)

    async def wait_shutdown(self) -> Shutdown:
        """As Flip.wait_shutdown."""
        loop = self.attach()
        self._pump.run(self._spawn)
        kind = self._look()
        if kind in ENDS:
            self._stop_watching(loop)
        if kind is not None:
            return kind
        future: asyncio.Future[Shutdown] = loop.create_future()
        self._waiting.add(future)
        try:
            return await future
        finally:
            self._waiting.discard(future)

    async def drain(self, until: float | None) -> None:
        """As Flip.adrain."""
        loop = self.attach()
        # What uvloop has accepted and not yet given to its handler is not counted yet.
        for _ in range(TURNS_OF_AN_ACCEPT):
            await asyncio.sleep(0)
        while (result := lib.flip_drain(self._handle, 0)) == -errno.ETIMEDOUT:
            left = math.inf if until is None else until - time.monotonic()
            if left <= 0:
                break
            if self._descriptors.drained < 0 or readable(self._descriptors.drained):
                # A forked child has no such descriptor. Elsewhere it tells for ever that none was open at some moment
                # after shutdown, and one has begun since.
                await asyncio.sleep(min(left, LATE_CONNECTION))
            else:
                await self._until_drained(loop, self._descriptors.drained, left)
            if self._closed:
                raise _closed()
        check(result)

    async def _until_drained(self, loop: asyncio.AbstractEventLoop, descriptor: int, seconds: float) -> None:
        over = asyncio.Event()
        if not self._draining:
            # A loop has one reader for a descriptor, and several tasks may wait here.
            loop.add_reader(descriptor, self._drained)
        self._draining.add(over)
        try:
            await asyncio.wait_for(over.wait(), None if math.isinf(seconds) else seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            self._draining.discard(over)
            if not self._draining and not self._closed:
                loop.remove_reader(descriptor)

    def _drained(self) -> None:
        for over in self._draining:
            over.set()


def _closed() -> ValueError:
    return ValueError("this Flip is closed")


def _inode(descriptor: int) -> int:
    """Which file it is; -1: none, it was closed."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return -1
