"""uvicorn: a Starlette (or FastAPI) app. `shellflip.uvicorn.serve` is ready between the app's start-up and the first
accept, announces the end of connections, gives idle ones a last chance, and ends at the drain time-out.

`python -m shellflip uvicorn_starlette:app` does the same without this file's last lines.
"""

import asyncio
import os
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from shellflip import Flip
from shellflip.uvicorn import serve


async def answer(request: Request) -> JSONResponse:
    if request.url.path == "/slow":
        await asyncio.sleep(1.5)
    return JSONResponse({"pid": os.getpid()})


app = Starlette(routes=[Route("/", answer), Route("/slow", answer)])

if __name__ == "__main__":
    with Flip() as flip:
        serve(uvicorn.Config(app, log_level="warning"), flip, [flip.listen(sys.argv[1])])
