"""waitress under Flip: `serve` runs a WSGI app on listeners from `Flip.listen`. Needs the extra `waitress`.

waitress on its own has no graceful end: its loop ends where SystemExit meets it, with requests under way. From
shutdown on each answer announces the end of its connection, so that the client's next request goes to the successor.
No WSGI app or middleware could do that: PEP 3333 gives hop-by-hop headers to the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import WSGITask

from . import log
from .asgi import IDLE_GRACE
from .errors import FlipError
from .flip import Flip
from .kinds import Shutdown
from .listener import Listener

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

#: How soon the loop sees that a thread has finished an answer, or that the drain is over, in seconds.
TURN = 0.05


def _channel_class(flip: Flip) -> type[HTTPChannel]:
    class Task(WSGITask):  # type: ignore[misc]
        def build_response_header(self) -> bytes:
            if flip.stopping:
                # As if the client had asked for it: waitress then says and does the rest.
                self.request.headers["CONNECTION"] = "close"
            header: bytes = super().build_response_header()
            return header

    class Channel(HTTPChannel):  # type: ignore[misc]
        task_class = Task

    return Channel


class _Events(wasyncore.file_dispatcher):  # type: ignore[misc]
    """Flip's descriptor in waitress's loop, until shutdown, when it would be readable for ever."""

    def __init__(self, flip: Flip, sockets: dict[int, Any]) -> None:
        super().__init__(flip.fileno(), map=sockets)
        self._flip = flip
        self.stopped = False

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        if self._flip.handle_events() not in (None, Shutdown.DETACH):
            self.stopped = True


def serve(
    app: App, flip: Flip, listeners: Sequence[Listener], *, idle_grace: float = IDLE_GRACE, **adjustments: Any
) -> None:
    """Runs the app until shutdown, in this thread and waitress's, and drains it. `adjustments` are waitress's own
    but for its addresses. Calls `Flip.ready`. FlipError where connections had to be cut at the drain time-out."""
    sockets: dict[int, Any] = {}
    adjustments.setdefault("asyncore_use_poll", True)  # select(2) ends at descriptor 1024
    server = waitress.create_server(app, map=sockets, sockets=list(listeners), **adjustments)
    for acceptor in _acceptors(sockets):
        acceptor.channel_class = _channel_class(flip)
    events = _Events(flip, sockets)
    try:
        flip.ready()
        while not events.stopped:
            _turn(server, sockets, server.adj.asyncore_loop_timeout)
        # Their copies are closed at the end; close() here would take what wakes the loop with it.
        for acceptor in _acceptors(sockets):
            acceptor.accepting = False
            acceptor.socket.close()
            acceptor.del_channel()
        events.close()
        _drain(server, sockets, flip, idle_grace)
    finally:
        server.task_dispatcher.shutdown()
        wasyncore.close_all(sockets)


def _turn(server: Any, sockets: dict[int, Any], timeout: float) -> None:
    wasyncore.loop(timeout=timeout, use_poll=server.adj.asyncore_use_poll, map=sockets, count=1)


def _acceptors(sockets: dict[int, Any]) -> list[Any]:
    return [entry for entry in sockets.values() if entry.accepting]


def _channels(sockets: dict[int, Any]) -> list[Any]:
    return [entry for entry in sockets.values() if isinstance(entry, HTTPChannel)]


def _drain(server: Any, sockets: dict[int, Any], flip: Flip, idle_grace: float) -> None:
    """Until the last connection has ended. An idle one has `idle_grace` seconds for its next request."""
    idle_until = time.monotonic() + idle_grace
    while channels := _channels(sockets):
        try:
            flip.drain(0)
        except TimeoutError:
            pass
        except FlipError as error:
            log.logger().error("%d connections are cut: %s", len(channels), error)
            raise
        if time.monotonic() >= idle_until:
            for channel in channels:
                if not channel.requests and not channel.total_outbufs_len and channel.request is None:
                    channel.will_close = True
        _turn(server, sockets, TURN)
