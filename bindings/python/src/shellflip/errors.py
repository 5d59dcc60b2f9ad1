"""What goes wrong: OSError (its subclass by errno) where the system said so, FlipError where an upgrade, a drain or
the two generations did. Every result of a C call goes through `check`.
"""

import errno
import os

from ._ffi import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kinds import Failure


class FlipError(Exception):
    """An upgrade, a drain or the two generations failed; `kind` says how, `errno` is what the C interface
    returned."""

    def __init__(self, message: str, kind: "Failure | None" = None, number: int = 0) -> None:
        if kind is None:
            from .kinds import Failure

            kind = Failure.NONE
        super().__init__(message, kind, number)
        self.message = message
        self.kind = kind
        self.errno = number

    def __str__(self) -> str:
        return self.message


class Refused(Exception):
    """Raised by a hook to refuse an upgrade: its text is the reason, and no traceback is logged."""


#: The kind of what no system call says; everywhere else these errno values do not come from the kernel.
_OURS = {
    errno.ECANCELED: "STOPPING",
    errno.ESHUTDOWN: "STOPPING",
    errno.ETIME: "DEADLINE",
    errno.EPROTO: "PROTOCOL",
    errno.EALREADY: "IN_PROGRESS",
    errno.ECONNRESET: "STATE",
    errno.EBUSY: "NONE",
}

#: What flip_upgrade returns for reasons that are no failed upgrade.
_NOT_THE_UPGRADE = {errno.ETIMEDOUT, errno.EINTR, errno.EDEADLK, errno.EINVAL, errno.EBADF, errno.ECHILD}


def last_error(number: int) -> str:
    """The library's line about this thread's last call that failed."""
    text: bytes = lib.flip_last_error()
    return text.decode(errors="replace") or os.strerror(number)


def check(result: int) -> int:
    """`result`, or what it stands for as an exception."""
    if result >= 0:
        return result
    number = -result
    text = last_error(number)
    if number in _OURS:
        raise _failed(text, _OURS[number], number)
    raise OSError(number, text)


def check_ready(result: int) -> None:
    """As `check`; a reuseport group that is not claimed whole is no missing file."""
    if result == -errno.ENOENT:
        raise _failed(last_error(errno.ENOENT), "NOT_READY", errno.ENOENT)
    check(result)


def check_upgrade(result: int) -> int:
    """As `check`, with the kind of failure that the library kept for this thread."""
    if result >= 0 or -result in _NOT_THE_UPGRADE:
        return check(result)
    raise _failed(last_error(-result), lib.flip_last_failure(), -result)


def _failed(text: str, kind: str | int, number: int) -> "FlipError":
    from .kinds import Failure  # here: a successor starts sooner without it

    return FlipError(text, Failure[kind] if isinstance(kind, str) else Failure(kind), number)
