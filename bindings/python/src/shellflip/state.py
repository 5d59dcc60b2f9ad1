"""The state that one generation hands to the next: bytes in a sealed memfd, read here as a file or whole."""

from __future__ import annotations

import errno
import os

from ._ffi import lib
from .config import SLICE_MS
from .errors import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


def opened(handle: object) -> BinaryIO | None:
    """The predecessor's state from its start, read-only; None where none was promised (generation 0, or a predecessor
    without on_state). Waits until it is there. FlipError with kind STATE: it was promised, and lost with the
    predecessor; from then on `ready` lets this process serve without it."""
    while True:
        result: int = lib.flip_take_state(handle, SLICE_MS)
        if result == -errno.ENOENT:
            return None
        if result not in (-errno.ETIMEDOUT, -errno.EINTR):
            return os.fdopen(check(result), "rb")
