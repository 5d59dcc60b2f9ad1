"""aiohttp: the listener becomes a SockSite once the app has started up and Flip is ready."""

import asyncio
import os
import sys

from aiohttp import web

from shellflip import Flip
from shellflip.asgi import last_chance, stopped


async def answer(request: web.Request) -> web.Response:
    if request.path == "/slow":
        await asyncio.sleep(1.5)
    return web.json_response({"pid": os.getpid()})


async def main(address: str) -> None:
    async with Flip() as flip:

        async def announce_the_end(request: web.Request, response: web.StreamResponse) -> None:
            if flip.stopping:
                response.headers["Connection"] = "close"
                response.force_close()

        app = web.Application()
        app.add_routes([web.get("/", answer), web.get("/slow", answer)])
        app.on_response_prepare.append(announce_the_end)
        runner = web.AppRunner(app, access_log=None)
        listener = flip.listen(address)
        await runner.setup()
        await flip.aready()
        site = web.SockSite(runner, listener)
        await site.start()
        await stopped(flip)
        await site.stop()
        await last_chance(flip)
        await runner.cleanup()
        await flip.adrain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
