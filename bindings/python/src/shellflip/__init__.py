"""A running server replaces itself with a new program without refusing or breaking one connection.

    with Flip() as flip:
        listener = flip.listen("tcp://127.0.0.1:8080")
        flip.ready()
        while client := flip.accept(listener):
            ...
        listener.close()
        flip.drain()

SIGUSR1 replaces the process, SIGTERM and SIGINT stop it.
"""

from . import control
from ._ffi import lib
from .config import Request, Shutdown
from .connections import Connection, Guard
from .errors import Failure, FlipError, Refused
from .flip import Flip
from .listener import Listener

#: The version of the library that is loaded.
__version__: str = lib.flip_version().decode()

__all__ = [
    "Connection",
    "Failure",
    "Flip",
    "FlipError",
    "Guard",
    "Listener",
    "Refused",
    "Request",
    "Shutdown",
    "__version__",
    "control",
]
