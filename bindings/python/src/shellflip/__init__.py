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

from .errors import FlipError, Refused
from .flip import Flip
from .listener import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import control
    from .connections import Connection, Guard
    from .kinds import Failure, Request, Shutdown

    #: The version of the library that is loaded.
    __version__: str

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

if not TYPE_CHECKING:
    # What a successor does without until it serves is imported when it is first asked for, or by Flip soon after.
    _LATER = {
        "Connection": "connections",
        "Failure": "kinds",
        "Guard": "connections",
        "Request": "kinds",
        "Shutdown": "kinds",
        "control": "control",
    }

    def __getattr__(name):  # noqa: ANN001, ANN202
        if name == "__version__":
            from ._ffi import lib

            found = lib.flip_version().decode()
        elif name in _LATER:
            from importlib import import_module

            module = import_module(f".{_LATER[name]}", __name__)
            found = module if name == _LATER[name] else getattr(module, name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__all__})
