"""Events of the library, one object each: what happened, and where one is asked for, the answer."""

from __future__ import annotations

import ctypes
import errno
import os

from ._ffi import lib
from .errors import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from .kinds import Failure


class Event:
    """Owned by whoever took it; `free` gives it back, and a question without an answer is then refused."""

    def __init__(self, pointer: ctypes.c_void_p) -> None:
        self._pointer = pointer
        self.kind: int = lib.flip_event_kind(pointer)
        text: bytes = lib.flip_event_text(pointer)
        self.text = text.decode(errors="replace")

    @property
    def failure(self) -> Failure:
        """FAILED: how. Before `free`."""
        from .kinds import Failure

        return Failure(lib.flip_event_failure(self._pointer))

    @staticmethod
    def next(handle: object) -> Event | None:
        """The next one, without waiting; None when there is none, or the handle is closed."""
        pointer = ctypes.c_void_p()
        result = lib.flip_next_event(handle, 0, ctypes.byref(pointer))
        if result in (-errno.ETIMEDOUT, -errno.EINTR, -errno.ECANCELED, -errno.EBADF, -errno.ECHILD):
            return None
        check(result)
        return Event(pointer)

    def state_file(self) -> BinaryIO:
        """STATE: where to write. Close it before the answer."""
        return os.fdopen(os.dup(check(lib.flip_event_state_fd(self._pointer))), "wb")

    def allow(self) -> bool:
        """Lets the upgrade go on; False: nobody waits for the answer any more."""
        return self._answer(0, None)

    def refuse(self, reason: str, number: int = errno.ECANCELED) -> bool:
        """Refuses it, with a reason that reaches whoever asked for the upgrade."""
        return self._answer(-number, reason.encode(errors="replace").replace(b"\0", b" "))

    def _answer(self, status: int, reason: bytes | None) -> bool:
        result: int = lib.flip_event_answer(self._pointer, status, reason)
        if result in (-errno.ESTALE, -errno.EALREADY, -errno.EBADF):  # given up, answered, closed
            return False
        check(result)
        return True

    def free(self) -> None:
        """Gives it back, once or more often."""
        pointer, self._pointer = self._pointer, ctypes.c_void_p()
        lib.flip_event_free(pointer)
