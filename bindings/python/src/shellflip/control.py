"""Asking another process over its control socket, without a Flip of one's own: what flipctl does, from Python.

Each call blocks until the answer, or `timeout` seconds: Python's signal handlers run after it. Errors: OSError where
nobody could be asked (FileNotFoundError, ConnectionRefusedError, PermissionError, TimeoutError), FlipError where the
other process says why not.
"""

from __future__ import annotations

import ctypes

from ._ffi import lib
from .config import encoded, milliseconds
from .errors import check, check_upgrade
from .kinds import Failure, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def upgrade(address: str | bytes, timeout: float | None = None) -> int:
    """Replaces it; the pid of the successor."""
    return _ask(address, Request.UPGRADE, timeout)


def stop(address: str | bytes, timeout: float | None = None) -> None:
    """Stops it, and waits until it is gone."""
    _ask(address, Request.STOP, timeout)


def detach(address: str | bytes, timeout: float | None = None) -> None:
    """Lets it leave the service and go on."""
    _ask(address, Request.DETACH, timeout)


def status(address: str | bytes, timeout: float | None = None) -> dict[str, Any]:
    """What it is and does; docs/control.md describes the keys."""
    target, wait_ms = encoded(address), milliseconds(timeout)
    return read_status(lambda buffer, size: lib.flip_control_status(target, wait_ms, buffer, size))


def read_status(fill: Callable[[Any, int], int]) -> dict[str, Any]:
    """A line of JSON from a function that works like snprintf."""
    import json  # here: a server that starts asks nobody

    size, needed = 0, 4096
    while needed >= size:
        size, buffer = needed + 1, ctypes.create_string_buffer(needed + 1)
        needed = check(fill(buffer, size))
    found: dict[str, Any] = json.loads(buffer.value)
    return found


def _ask(address: str | bytes, request: Request, timeout: float | None) -> int:
    result: int = lib.flip_control(encoded(address), request, milliseconds(timeout))
    if result < 0 and lib.flip_last_failure() == Failure.NONE:
        return check(result)
    return check_upgrade(result)
