"""asyncio streams: an HTTP/1.1 server on asyncio.start_server.

The listener counts what it accepts, so that `adrain` needs nothing more. Works on unix paths too: start_server with
`sock=` leaves the path alone, where start_unix_server (from Python 3.13 on) would unlink it at the end.
"""

import asyncio
import json
import os
import sys

from shellflip import Flip
from shellflip.asgi import last_chance, stopped


async def serve(address: str) -> None:
    async with Flip() as flip:
        listener = flip.listen(address)
        idle: set[asyncio.StreamWriter] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            last = False
            try:
                while not last:
                    idle.add(writer)
                    head = await reader.readuntil(b"\r\n\r\n")
                    idle.remove(writer)
                    if b" /slow " in head:
                        await asyncio.sleep(1.5)
                    last = flip.stopping or b"\r\nConnection: close" in head
                    body = json.dumps({"pid": os.getpid()}).encode()
                    close = b"Connection: close\r\n" if last else b""
                    writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (close, len(body), body))
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                idle.discard(writer)
                writer.close()

        server = await asyncio.start_server(handle, sock=listener, start_serving=False)
        await flip.aready()
        await server.start_serving()
        await stopped(flip)
        server.close()
        await last_chance(flip)
        for writer in idle:
            writer.close()
        await flip.adrain()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
