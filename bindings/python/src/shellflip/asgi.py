"""ASGI servers: the part that is the same for all of them.

`Adapter` wraps an app. The server accepts nothing before `Flip.aready` has returned, since the app's start-up is over
only then; from shutdown on each HTTP/1 answer announces the end of its connection, so that the client's next request
goes to the successor. `last_chance` waits for that to happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from . import log
from .errors import FlipError
from .kinds import Shutdown

if TYPE_CHECKING:
    from .flip import Flip

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

#: How long, in seconds, a keep-alive connection without a request stays open after shutdown: a client that pauses for
#: less never meets a closing connection.
IDLE_GRACE = 5.0


class Adapter:
    """An ASGI app around an app."""

    def __init__(self, app: App, flip: Flip) -> None:
        self._app = app
        self._flip = flip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, one websocket, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope.get("http_version", "1.1") in ("1.0", "1.1"):
            await self._app(scope, receive, self._announcing(send))
        else:
            await self._app(scope, receive, send)

    def _announcing(self, send: Send) -> Send:
        async def announcing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._flip.stopping:
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        return announcing

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = answered = False

        async def asking() -> Message:
            nonlocal asked
            message = await receive()
            asked = True
            return message

        async def answering(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"] == "lifespan.startup.complete":
                await self._ready(send, message)
            else:
                await send(message)

        try:
            await self._app(scope, asking, answering)
        except Exception as error:
            if answered:
                raise
            log.debug("the app takes no part in the lifespan: %r", error)
        if not answered:
            if not asked:
                await receive()
            await self._ready(send, {"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async def _ready(self, send: Send, complete: Message) -> None:
        try:
            await self._flip.aready()
        except FlipError as error:
            await send({"type": "lifespan.startup.failed", "message": f"not ready: {error}"})
        else:
            await send(complete)


async def stopped(flip: Flip) -> None:
    """Waits for an upgrade or a stop."""
    while await flip.wait_shutdown() is Shutdown.DETACH:
        pass


async def last_chance(
    flip: Flip, open_connections: Callable[[], int] | None = None, grace: float = IDLE_GRACE
) -> None:
    """After shutdown: until no connection is open, or until `grace` seconds or the drain time-out have passed. What
    is idle then has had its chance. `open_connections` counts for servers whose connections Flip does not."""
    with contextlib.suppress(TimeoutError, FlipError):
        if open_connections is None:
            await flip.adrain(grace)
        else:
            # There is no descriptor for a set that empties.
            until = time.monotonic() + grace
            while open_connections() and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
