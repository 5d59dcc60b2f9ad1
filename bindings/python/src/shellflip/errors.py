"""What goes wrong: OSError (its subclass by errno) where the system said so, FlipError where an upgrade, a drain or
the two generations did. Every result of a C call goes through `check`.
"""

from __future__ import annotations

import enum
import errno
import os

from ._ffi import lib


class Failure(enum.IntEnum):
    """Why an upgrade failed, or a generation cannot go on."""

    NONE = 0
    #: The new program could not be started.
    SPAWN = 1
    #: It exited too early.
    EXITED = 2
    #: It was ended by a signal too early.
    SIGNALLED = 3
    #: It was not ready by the upgrade deadline; of a drain: connections were open at the drain deadline.
    DEADLINE = 4
    #: A hook refused, or the new one gave up.
    REFUSED = 5
    #: The state could not be handed over, or was lost.
    STATE = 6
    #: The other generation broke the protocol.
    PROTOCOL = 7
    #: This process is not ready itself yet.
    NOT_READY = 8
    #: Another upgrade is under way.
    IN_PROGRESS = 9
    #: Too many older generations still drain.
    DRAINING = 10
    #: This process is stopping, was asked to stop, or was given up by its predecessor.
    STOPPING = 11
    #: The new process was told to serve and has not confirmed it; both are left alone.
    UNCONFIRMED = 12
    #: Upgrades cannot work here, as in process 1.
    UNSUPPORTED = 13


class FlipError(Exception):
    """An upgrade, a drain or the two generations failed; `kind` says how, `errno` is what the C interface
    returned."""

    def __init__(self, message: str, kind: Failure = Failure.NONE, number: int = 0) -> None:
        super().__init__(message, kind, number)
        self.message = message
        self.kind = kind
        self.errno = number

    def __str__(self) -> str:
        return self.message


class Refused(Exception):
    """Raised by a hook to refuse an upgrade: its text is the reason, and no traceback is logged."""


#: What no system call says; everywhere else these errno values do not come from the kernel.
_OURS = {
    errno.ECANCELED: Failure.STOPPING,
    errno.ESHUTDOWN: Failure.STOPPING,
    errno.ETIME: Failure.DEADLINE,
    errno.EPROTO: Failure.PROTOCOL,
    errno.EALREADY: Failure.IN_PROGRESS,
    errno.ECONNRESET: Failure.STATE,
    errno.EBUSY: Failure.NONE,
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
        raise FlipError(text, _OURS[number], number)
    raise OSError(number, text)


def check_ready(result: int) -> None:
    """As `check`; a reuseport group that is not claimed whole is no missing file."""
    if result == -errno.ENOENT:
        raise FlipError(last_error(errno.ENOENT), Failure.NOT_READY, errno.ENOENT)
    check(result)


def check_upgrade(result: int) -> int:
    """As `check`, with the kind of failure that the library kept for this thread."""
    if result >= 0 or -result in _NOT_THE_UPGRADE:
        return check(result)
    kind = Failure(lib.flip_last_failure())
    raise FlipError(last_error(-result), kind, -result)
