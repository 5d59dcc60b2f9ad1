"""A listening socket that other generations share, as a socket.socket that frameworks cannot harm it through.

asyncio, hypercorn, aiohttp, waitress and socketserver take a socket and call its methods; what they call for a
socket of their own would reach every process that holds this one, or let a server accept at the wrong time.
"""

import errno
import socket
import sys

from ._ffi import lib
from .errors import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .connections import Connection


class Listener(socket.socket):
    """From `Flip.listen`. Closing it closes this process's copy only. uvloop, which accepts in C, knows its
    descriptor alone: nothing of this class holds there."""

    #: None: a copy from dup(), an ordinary socket.
    _handle: object = None
    #: keep= in its address: it goes on after shutdown, and its connections are not counted.
    kept = False

    @classmethod
    def of(cls, handle: object, descriptor: int, *, kept: bool) -> "Listener":
        """Takes the descriptor. Non-blocking as Python sees it, without touching flags that others share."""
        with socket.socket(fileno=descriptor) as probe:
            family, kind, protocol = probe.family, probe.type, probe.proto
            probe.detach()
        listener = cls(family, kind | socket.SOCK_NONBLOCK, protocol, descriptor)
        listener._handle, listener.kept = handle, kept
        return listener

    @property
    def is_datagram(self) -> bool:
        """Of udp: or unixgram:, where nothing is accepted."""
        return self.type == socket.SOCK_DGRAM

    def take(self, timeout_ms: int) -> "Connection | None":
        """A connection, counted; None when none came in time. FlipError with ECANCELED from shutdown on."""
        kind = self._class()
        result: int = lib.flip_accept(self._handle, self.fileno(), timeout_ms)
        if result == -errno.ETIMEDOUT:
            return None
        return kind(None if self.kept else self._handle, self, check(result))

    @staticmethod
    def _class() -> "type[Connection]":
        """Before a connection is taken, which may get the last descriptor: the first time this reads a file."""
        from .connections import Connection

        return Connection

    def accept(self) -> "tuple[socket.socket, Any]":
        """As socket.accept, and nothing before `ready` has returned and nothing from shutdown on: BlockingIOError.
        OSError with EMFILE, ENFILE, ENOBUFS or ENOMEM: one waits, and nothing is left to take it with. The connection
        is counted until it is closed."""
        if self._handle is None:
            return super().accept()
        kind = self._class()
        result: int = lib.flip_accept(self._handle, self.fileno(), 0)
        if result in (-errno.ETIMEDOUT, -errno.ECANCELED):
            raise BlockingIOError(errno.EAGAIN, "no connection waits, or it is not this process's to take")
        connection = kind(None if self.kept else self._handle, self, check(result))
        try:
            return connection, connection.getpeername()
        except OSError as error:
            connection.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "the client has left") from error

    def listen(self, backlog: int = 0) -> None:
        """Nothing: it listens, and the backlog belongs to every process that shares it. `backlog=` in the address
        sets it."""

    def detach(self) -> int:
        """The descriptor. Refused to ssl.SSLContext.wrap_socket: what that made of it would accept too early and too
        late, and what no drain waits for. It closes the descriptor then."""
        descriptor = super().detach()
        if sys._getframe(1).f_globals.get("__name__") == "ssl":  # uvloop detaches what it closes
            raise ValueError("with TLS wrap each connection and not the listener, which other generations share")
        return descriptor

    def shutdown(self, how: int) -> None:
        """Refused: it would end the socket in every process. Close it."""
        raise OSError(errno.EOPNOTSUPP, "shutdown(2) would end this listener in every generation: close it")

    def setblocking(self, flag: bool) -> None:
        """False is what it is already; True is refused: O_NONBLOCK is shared. Wait with `Flip.accept`."""
        if flag:
            raise ValueError("this listener is shared with other generations and stays non-blocking: use Flip.accept")

    def settimeout(self, value: float | None) -> None:
        """As setblocking: only 0."""
        self.setblocking(value != 0)
