"""os.environ is a copy that Python makes at its start. What flip_init took out of the C environment, because it was
meant for this process alone, has to leave the copy too, or a child started with it would take itself for a successor.
"""

from __future__ import annotations

import ctypes
import os

_PREFIXES = (b"LISTEN_", b"SHELLFLIP_", b"NOTIFY_SOCKET", b"WATCHDOG_", b"SYSTEMD_EXEC_PID", b"MAINPID")

_getenv = ctypes.CDLL(None).getenv
_getenv.restype, _getenv.argtypes = ctypes.c_char_p, [ctypes.c_char_p]


def follow() -> None:
    """Removes from os.environ what the library has removed. Of other variables nothing is known and nothing
    changed."""
    for name in list(os.environb):
        if name.startswith(_PREFIXES) and _getenv(name) is None:
            os.environb.pop(name, None)
