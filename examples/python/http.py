"""An HTTP/1.1 keep-alive server on asyncio that is replaced without a failed request.

Once shutdown has fired, nothing more is accepted: what is queued on the listener belongs to the successor. Every
request that still comes is answered, with `Connection: close`, so that the client's next one goes to the successor.
A connection without a request stays open for IDLE_GRACE_MS, so that a client that pauses for less never meets a
closing connection.

Usage: http.py [ADDRESS]. Environment: ADDRESS, IDLE_GRACE_MS, UPGRADE_TIMEOUT_MS, DRAIN_TIMEOUT_MS.
"""

import asyncio
import logging
import os
import sys

from shellflip import Flip, FlipError
from shellflip.asgi import last_chance, stopped

VERSION = "1"


class Http(asyncio.Protocol):
    """One connection. Answers as soon as a head is complete; requests have no body here."""

    def __init__(self, flip: Flip, body: bytes) -> None:
        self.flip, self.body, self.input = flip, body, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        idle.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        idle.discard(self)

    def data_received(self, data: bytes) -> None:
        self.input += data
        idle.discard(self)
        while b"\r\n\r\n" in self.input and not self.transport.is_closing():
            head, _, self.input = self.input.partition(b"\r\n\r\n")
            # A pipelined request that is here already is answered too: it was sent before the close was announced.
            last = b"connection: close" in head.lower() or (self.flip.stopping and not self.input)
            close = b"Connection: close\r\n" if last else b""
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s"
            self.transport.write(answer % (len(self.body), close, self.body))
            if last:
                self.transport.close()
        if not self.input:
            idle.add(self)


idle: set[Http] = set()  # connections without a request


async def serve(address: str) -> None:
    async with Flip(
        upgrade_timeout=int(os.environ.get("UPGRADE_TIMEOUT_MS", 60000)) / 1000,
        drain_timeout=int(os.environ.get("DRAIN_TIMEOUT_MS", 30000)) / 1000,
    ) as flip:
        if VERSION == "crash":  # two new programs that are no good: the old one goes on serving
            sys.exit(1)
        if VERSION == "hang":
            await asyncio.Event().wait()
        body = b'{"version":"%s","pid":%d,"generation":%d}\n' % (VERSION.encode(), os.getpid(), flip.generation)
        listener = flip.listen(address)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Http(flip, body), sock=listener, start_serving=False)
        await flip.aready()
        await server.start_serving()
        logging.info("version %s, pid %d, generation %d: serving", VERSION, os.getpid(), flip.generation)
        await stopped(flip)
        server.close()
        await last_chance(flip, grace=int(os.environ.get("IDLE_GRACE_MS", 5000)) / 1000)
        for connection in list(idle):
            connection.transport.close()
        await flip.adrain()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="http: %(message)s")
    try:
        asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ADDRESS", "tcp://127.0.0.1:8080")))
    except FlipError as error:
        sys.exit(f"http: pid {os.getpid()}: {error}")
