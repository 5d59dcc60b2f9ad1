"""What can be chosen before Flip() starts: keyword arguments into a flip_config_t. Times are seconds here,
milliseconds there; and what flip_init has to find in the environment, and nobody after it. `started` and
`leave_environment` are called by Flip() alone.
"""

import ctypes
import os

from ._ffi import EVENT_FAILED, EVENT_LOG, EVENT_SHUTDOWN, REQUEST_NONE, lib
from .errors import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict
else:

    class TypedDict:
        """Stands in for typing's at run time, where only the annotations of Settings are used."""

        def __init_subclass__(cls, *, total: bool) -> None:
            """Takes what a typed dictionary is told."""


class Settings(TypedDict, total=False):
    """What Flip() takes besides; times are in seconds, and what is left out, or None, has the library's default."""

    #: Where operators ask for upgrades, stops and the status, as "unix:///run/a.ctl?mode=0660"; nowhere.
    control_socket: str | bytes | None
    #: A file with the pid of the generation that serves; none.
    pid_file: str | bytes | os.PathLike[str] | None

    #: From the request until the new process is told to serve; 60.
    upgrade_timeout: float | None
    #: How long open connections may take to finish, from shutdown on; 30.
    drain_timeout: float | None
    #: How long after that a process that is still there is killed; 0: never.
    hard_stop: float | None
    #: How long both generations serve after the new one is live; 0.
    probation: float | None
    #: How many older generations may still drain while a further upgrade starts; 1.
    max_draining: int | None
    #: Ping systemd's watchdog from the library; False. Says that the process runs, not that your loop does.
    watchdog: bool | None
    #: Keep listeners in systemd's descriptor store, so that they outlive a crash; False.
    fd_store: bool | None


#: How long one call into the library may keep a Python signal handler waiting, in milliseconds.
SLICE_MS = 50


def milliseconds(seconds: float | None) -> int:
    """For a `timeout_ms`: None is no limit; rounded up, so that a short time-out does not become a busy loop."""
    if seconds is None:
        return -1
    if not seconds >= 0:
        raise ValueError(f"a time-out is a number of seconds, 0 or more, not {seconds}")
    # Not math.ceil, whose module may be one more file to load before a successor is ready.
    return -int(-min(seconds * 1000, 2**31 - 1) // 1)


def encoded(value: "str | bytes | os.PathLike[str]") -> bytes:
    """For a `const char *`, which ends at the first zero byte: one within is refused, as open() does."""
    data = os.fsencode(value)
    if 0 in data:
        raise ValueError("embedded null byte")
    return data


#: The events that every Flip subscribes to. The others are questions; each has to be answered in time, and who
#: subscribes to EVENT_STATE promises a state to every successor.
TOLD = EVENT_LOG | EVENT_FAILED | EVENT_SHUTDOWN


def started(events: int, settings: "Settings") -> ctypes.c_void_p:
    """The handle of flip_init. The library's own signal handling is off: CPython and the library would silently
    unplug each other's handlers."""
    handle, config = ctypes.c_void_p(), ctypes.c_void_p(lib.flip_config_new())
    if not config:
        raise MemoryError("flip_config_new")
    try:
        check(lib.flip_config_set_signal(config, 0, REQUEST_NONE))
        check(lib.flip_config_set_events(config, events))
        for name, value in settings.items():
            if name not in Settings.__annotations__:
                raise TypeError(f"Flip() got an unexpected keyword argument {name!r}")
            if value is not None:
                setter = getattr(lib, f"flip_config_set_{name}")
                check(setter(config, _encoded(name, value)))
        check(lib.flip_init(config, ctypes.byref(handle)))
    finally:
        lib.flip_config_free(config)
    return handle


def _encoded(name: str, value: "Any") -> "Any":
    if name in ("control_socket", "pid_file"):
        return encoded(value)
    return int(value) if name in ("max_draining", "watchdog", "fd_store") else milliseconds(value)


#: What may have been meant for this process alone.
_PREFIXES = (b"LISTEN_", b"SHELLFLIP_", b"NOTIFY_SOCKET", b"WATCHDOG_", b"SYSTEMD_EXEC_PID", b"MAINPID")

_getenv = ctypes.CDLL(None).getenv
_getenv.restype, _getenv.argtypes = ctypes.c_char_p, [ctypes.c_char_p]


def leave_environment() -> None:
    """After flip_init: removes from os.environ, a copy that Python makes at its start, what the library has removed
    from the C environment, and the variables of socket activation, which it leaves to C hosts of generation 0. Else a
    child started with the copy would take itself for a successor, and gunicorn the descriptors that are Flip's. Of
    other variables nothing is known and nothing changed."""
    activated = os.environb.get(b"LISTEN_PID") == b"%d" % os.getpid()
    for name in list(os.environb):
        consumed = activated and name.startswith(b"LISTEN_")
        if consumed or (name.startswith(_PREFIXES) and _getenv(name) is None):
            os.environb.pop(name, None)
