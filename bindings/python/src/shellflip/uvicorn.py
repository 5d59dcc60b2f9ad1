"""uvicorn under Flip: `serve` runs a server whose listeners come from `Flip.listen`. Needs the extra `uvicorn`.

uvicorn on its own would accept as soon as it is started, take SIGTERM away from Flip, close idle connections in the
instant of the stop, and wait for the others without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator, Sequence

import uvicorn

from . import log
from .asgi import IDLE_GRACE, Adapter, last_chance, stopped
from .errors import FlipError
from .flip import Flip
from .kinds import Request
from .listener import Listener

#: A connection that was accepted in the instant of the stop is in uvicorn's set by then.
SETTLED = 0.1


class Server(uvicorn.Server):
    """uvicorn.Server for one Flip."""

    def __init__(self, config: uvicorn.Config, flip: Flip, idle_grace: float = IDLE_GRACE) -> None:
        super().__init__(config)
        self._flip = flip
        self._idle_grace = idle_grace
        self._cut: FlipError | None = None
        self._flip_counts = contextlib.ExitStack()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are Flip's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Between the app's start-up and the first accept: ready."""
        app_started = self.lifespan.startup

        async def then_ready() -> None:
            await app_started()
            if not self.lifespan.should_exit:
                await self._flip.aready()

        self.lifespan.startup = then_ready
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Until shutdown, and until idle connections have had their chance."""
        # Counted as long as the server has not ended, so that the drain ends with it, or at the drain time-out.
        self._flip_counts.enter_context(self._flip.connection())
        finishing = asyncio.create_task(self._finish())
        try:
            await super().main_loop()  # ticks: it sets the Date of answers
        finally:
            finishing.cancel()

    async def _finish(self) -> None:
        try:
            await stopped(self._flip)
            for server in self.servers:
                server.close()
            await asyncio.sleep(SETTLED)
            await last_chance(self._flip, lambda: len(self.server_state.connections), self._idle_grace)
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, with an end: what is still open at the drain time-out is cut."""
        watch = asyncio.create_task(self._end_at_deadline())
        try:
            await super().shutdown(sockets)
        finally:
            self._flip_counts.close()
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _end_at_deadline(self) -> None:
        if not self._flip.stopping:
            # An end of uvicorn's own, after so many requests: there is no drain without a stop.
            self._flip.request(Request.STOP)
            await stopped(self._flip)
        try:
            await self._flip.adrain()
        except FlipError as error:
            self._cut = error
            open_connections = list(self.server_state.connections)
            log.logger().error("%d connections are cut: %s", len(open_connections), error)
            for task in list(self.server_state.tasks):
                task.cancel()
            for connection in open_connections:
                connection.transport.abort()

    def check_drained(self) -> None:
        """FlipError where connections were cut."""
        if self._cut is not None:
            raise self._cut


def serve(
    config: uvicorn.Config, flip: Flip, listeners: Sequence[Listener], *, idle_grace: float = IDLE_GRACE
) -> None:
    """Runs the app of `config` on `listeners` until shutdown, in an event loop of its own, and drains it. FlipError
    where connections had to be cut at the drain time-out."""
    if not config.loaded:
        config.load()
    config.loaded_app = Adapter(config.loaded_app, flip)
    server = Server(config, flip, idle_grace)
    server.run(sockets=list(listeners))
    server.check_drained()
