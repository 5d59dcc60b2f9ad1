"""os.environ is a copy that Python makes at its start. What was meant for this process alone has to leave it, or a
child started with the copy would take itself for a successor, and gunicorn the descriptors that are Flip's.
"""

import ctypes
import os

_PREFIXES = (b"LISTEN_", b"SHELLFLIP_", b"NOTIFY_SOCKET", b"WATCHDOG_", b"SYSTEMD_EXEC_PID", b"MAINPID")

_getenv = ctypes.CDLL(None).getenv
_getenv.restype, _getenv.argtypes = ctypes.c_char_p, [ctypes.c_char_p]


def follow() -> None:
    """After flip_init: removes from os.environ what the library has removed from the C environment, and the
    variables of socket activation, which it leaves to C hosts of generation 0. Of others nothing is known and
    nothing changed."""
    activated = os.environb.get(b"LISTEN_PID") == b"%d" % os.getpid()
    for name in list(os.environb):
        consumed = activated and name.startswith(b"LISTEN_")
        if consumed or (name.startswith(_PREFIXES) and _getenv(name) is None):
            os.environb.pop(name, None)
