"""hypercorn: any ASGI app. The adapter is ready between the app's start-up and the first accept; hypercorn's
shutdown_trigger ends the listening at once, and idle connections after their last chance.
"""

import asyncio
import json
import os
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config, Sockets

from shellflip import Flip
from shellflip.asgi import Adapter, Message, Receive, Scope, Send, last_chance, stopped


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    body = json.dumps({"pid": os.getpid()}).encode()
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", b"%d" % len(body))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def main(address: str) -> None:
    async with Flip() as flip:
        listener = flip.listen(address)

        async def shutdown_trigger() -> None:
            await stopped(flip)
            await last_chance(flip)

        class OnListener(Config):
            # hypercorn would remove a unix path, and a plain copy of the descriptor would not be counted.
            def create_sockets(self) -> Sockets:
                return Sockets([], [listener], [])

        config = OnListener()
        config.graceful_timeout = 30
        config.loglevel = "WARNING"
        wrapped: Any = Adapter(app, flip)
        await serve(wrapped, config, shutdown_trigger=shutdown_trigger, mode="asgi")
        await flip.adrain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
