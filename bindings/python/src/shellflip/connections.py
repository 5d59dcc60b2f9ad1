"""Counted connections: what a drain waits for."""

from __future__ import annotations

import os
import socket

from ._ffi import lib
from .errors import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Connection(socket.socket):
    """An accepted connection, counted until it is closed (or collected). Blocking, as `socket.accept` gives it.

    `detach`, which ssl.SSLContext.wrap_socket uses too, ends the count: put a `Flip.connection()` around that, as the
    README has it for TLS.
    """

    def __init__(self, handle: object, listener: socket.socket, descriptor: int) -> None:
        super().__init__(listener.family, listener.type, listener.proto, descriptor)
        # None: of a listener that outlives shutdown, whose connections no drain waits for.
        self._end = _End(handle)

    def dup(self) -> Connection:
        """A copy of the descriptor, which is not counted itself: close it before the connection."""
        copy = Connection(None, self, socket.dup(self.fileno()))
        copy.settimeout(self.gettimeout())
        return copy

    def _real_close(self) -> None:
        # The hook that ssl.SSLSocket uses as well: close() with files from makefile() still open does not get here.
        super()._real_close()  # type: ignore[misc]
        self._end()

    def detach(self) -> int:
        """The descriptor, no longer counted."""
        descriptor = super().detach()
        self._end()
        return descriptor


#: A forked child counts from 0: what its parent has begun is not the child's to end. One entry for each fork above.
_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))


class _End:
    """The end of one count, which comes once: when it is called, or when its connection is collected."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        self._depth = len(_forks)

    # Bound here, since the module may have lost its names when the interpreter exits.
    def __call__(self, conn_end: Callable[[object], object] = lib.flip_conn_end, forks: list[None] = _forks) -> None:
        # pop: of two threads one gets it.
        handle = self.__dict__.pop("handle", None)
        if handle is not None and len(forks) == self._depth:
            conn_end(handle)

    __del__ = __call__


class Guard:
    """Counts one connection, or anything else that a drain shall wait for, while a block runs: `with` and
    `async with`. Can be used again, and by several tasks or threads at once."""

    def __init__(self, handle: object) -> None:
        self._handle = handle
        #: How deep in forks each block was that is running: one that a forked child leaves may be its parent's.
        self._running: list[int] = []

    def __enter__(self) -> None:
        check(lib.flip_conn_begin(self._handle))
        self._running.append(len(_forks))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running.pop() == len(_forks):
            lib.flip_conn_end(self._handle)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)
